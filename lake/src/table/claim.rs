//! Whom the tables belong to: one object beside them, put once and never changed.

use super::Lake;
use super::place::is_full;
use crate::Error;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

/// At the root of the tables, outside of every table's folder. The underscore hides it from readers of files.
const NAME: &str = "_tokentape_log.json";
/// What errors name: it is not one table's.
const TABLE: &str = "(all)";

impl Lake {
    /// Whom the tables belong to; `None` where nobody has claimed them.
    pub async fn owner(&self) -> Result<Option<Bytes>, Error> {
        let found = match self.store.get(&self.claim_location()).await {
            Ok(found) => found.bytes().await,
            Err(e) => Err(e),
        };
        match found {
            Ok(owner) => Ok(Some(owner)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.claim_failed("reading", &e)),
        }
    }

    /// Claims the tables for `owner`, unless somebody was first; gives whom they belong to. Of all who try at once, one is first.
    pub async fn claim(&self, owner: Bytes) -> Result<Bytes, Error> {
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&self.claim_location(), owner.clone().into(), create).await {
            Ok(_) => Ok(owner),
            Err(e @ object_store::Error::AlreadyExists { .. }) => self.owner().await?.ok_or_else(|| self.claim_failed("reading", &e)),
            Err(e) if is_full(&e) => Err(Error::Full { table: TABLE, url: self.root.to_string(), path: NAME.to_string() }),
            Err(e) => Err(self.claim_failed("writing", &e)),
        }
    }

    fn claim_location(&self) -> Path {
        Path::from_url_path(self.root.path()).expect("the root was checked when the lake was opened").join(NAME)
    }

    fn claim_failed(&self, doing: &str, e: &object_store::Error) -> Error {
        Error::Storage { table: TABLE, url: self.root.to_string(), doing: format!("{doing} {NAME}"), why: e.to_string() }
    }
}
