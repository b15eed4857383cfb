//! Which tables there were: an object for each, beside them, put once when the table is there. A table that is removed whole is missed by it.

use super::Lake;
use super::place::is_full;
use crate::Error;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use schemas::Family;

/// At the root of the tables. The underscore hides it from readers of files.
const FOLDER: &str = "_tokentape_tables";

impl Lake {
    /// The families that have had a table.
    pub async fn remembered(&self) -> Result<Vec<Family>, Error> {
        let mut found = Vec::new();
        for family in Family::ALL {
            if self.remembers(family).await? {
                found.push(family);
            }
        }
        Ok(found)
    }

    pub(super) async fn remembers(&self, family: Family) -> Result<bool, Error> {
        match self.store.head(&self.memory_of(family)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(self.memory_failed("reading", family, &e)),
        }
    }

    /// The error where the table is gone that there was.
    pub(super) fn gone(&self, family: Family) -> Error {
        let table = family.topic().name;
        Error::Gone { table, url: self.root.to_string(), memory: format!("{FOLDER}/{table}") }
    }

    /// The family has a table from now on.
    pub(super) async fn remember(&self, family: Family) -> Result<(), Error> {
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&self.memory_of(family), PutPayload::new(), create).await {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Err(e) if is_full(&e) => {
                let path = format!("{FOLDER}/{}", family.topic().name);
                Err(Error::Full { table: family.topic().name, url: self.root.to_string(), path })
            }
            Err(e) => Err(self.memory_failed("writing", family, &e)),
        }
    }

    fn memory_of(&self, family: Family) -> Path {
        Path::from_url_path(self.root.path()).expect("the root was checked when the lake was opened").join(FOLDER).join(family.topic().name)
    }

    fn memory_failed(&self, doing: &str, family: Family, e: &object_store::Error) -> Error {
        let table = family.topic().name;
        Error::Storage { table, url: self.root.to_string(), doing: format!("{doing} {FOLDER}/{table}"), why: e.to_string() }
    }
}
