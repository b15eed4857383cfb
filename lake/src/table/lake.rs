//! The place of all tables: opened, asked which there are, and each of them opened or made.

use super::{Place, Table};
use crate::Error;
use crate::durable::DurableLocal;
use crate::file::FileLayout;
use object_store::ObjectStore;
use object_store::path::Path;
use schemas::Family;
use std::sync::Arc;
use url::Url;

/// The place of all tables.
#[derive(Debug, Clone)]
pub struct Lake {
    pub(super) root: Url,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(crate) layout: FileLayout,
}

impl Lake {
    /// The tables in a local directory, given as a path or as a `file://` URL. Nothing is read or made yet.
    pub fn open(url: &str) -> Result<Lake, Error> {
        let wrong = |why: &str| Error::Location { url: url.to_string(), why: why.to_string() };
        let root = match Url::parse(url) {
            Ok(parsed) if parsed.scheme() == "file" => parsed,
            Ok(parsed) if url.contains("://") => {
                return Err(wrong(&format!("{}:// is not supported: give a local directory", parsed.scheme())));
            }
            _ => {
                let absolute = std::path::absolute(url).map_err(|e| wrong(&e.to_string()))?;
                Url::from_directory_path(absolute).map_err(|()| wrong("is not a path: give a local directory"))?
            }
        };
        // Without its trailing slash: a path with one never names a file.
        let place = root.to_file_path().map(|path| path.components().collect::<std::path::PathBuf>());
        if place.is_ok_and(|path| path.exists() && !path.is_dir()) {
            return Err(wrong("is not a directory: give a directory, it is made where it is missing"));
        }
        Lake::with_store(root, Arc::new(DurableLocal::default()))
    }

    /// The tables under `root` in any object store with conditional puts, whose paths begin at the root of `root`'s host.
    pub fn with_store(mut root: Url, store: Arc<dyn ObjectStore>) -> Result<Lake, Error> {
        if !root.path().ends_with('/') {
            root.set_path(&format!("{}/", root.path()));
        }
        Path::from_url_path(root.path()).map_err(|e| Error::Location { url: root.to_string(), why: e.to_string() })?;
        Ok(Lake { root, store, layout: FileLayout::default() })
    }

    /// The same tables; the files that are written from now on are laid out so.
    pub fn laid_out(self, layout: FileLayout) -> Lake {
        Lake { layout, ..self }
    }

    /// Where the tables are.
    pub fn root(&self) -> &Url {
        &self.root
    }

    /// The store that holds the files; [`crate::FileInfo::location`] is a path in it.
    pub fn object_store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Opens the family's table to write, makes it where it is missing, and adds the columns that it lacks. One that was there once is not made
    /// again: it would begin where the log now begins, and nothing would tell of what it held.
    pub async fn table(&self, family: Family) -> Result<Table, Error> {
        let place = Place::new(self, family);
        let delta = match place.load().await? {
            Some(delta) => delta,
            None if self.remembers(family).await? => return Err(self.gone(family)),
            None => place.create().await?,
        };
        let table = place.writable(delta).await?;
        self.remember(family).await?;
        Ok(table)
    }

    /// Like [`Lake::table`], but makes nothing where there is no table: `None`.
    pub async fn existing(&self, family: Family) -> Result<Option<Table>, Error> {
        let place = Place::new(self, family);
        match place.load().await? {
            Some(delta) => {
                let table = place.writable(delta).await?;
                self.remember(family).await?;
                Ok(Some(table))
            }
            None => Ok(None),
        }
    }

    /// Opens the family's table to read; `None` where it does not exist yet.
    pub async fn find(&self, family: Family) -> Result<Option<Table>, Error> {
        let place = Place::new(self, family);
        match place.load().await? {
            Some(delta) => Table::new(place, delta, false).map(Some),
            None => Ok(None),
        }
    }

    /// The families that have a table.
    pub async fn tables(&self) -> Result<Vec<Family>, Error> {
        let mut found = Vec::new();
        for family in Family::ALL {
            let place = Place::new(self, family);
            if place.log.is_delta_table_location().await.map_err(|e| place.failed("looking for the table", e))? {
                found.push(family);
            }
        }
        Ok(found)
    }
}
