//! What one version of a table consists of, as `lake` lists it, and how far it has each partition of the log.

use crate::tail::Followed;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use lake::{FileInfo, Lake, Snapshot, Table};
use object_store::path::{Path, PathPart};
use object_store::{ObjectMeta, ObjectStore};
use schemas::Family;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use tokio::sync::Mutex;
use url::Url;

/// The files that one version of a table consists of.
#[derive(Clone)]
pub struct TableFiles {
    /// The family stored in the table.
    pub family: Family,
    /// The table's root, for messages and to tell two installations apart.
    pub root: Url,
    /// The object store: it knows a file by [`FileInfo::location`].
    pub store: Arc<dyn ObjectStore>,
    /// Delta version.
    pub version: i64,
    /// The files of that version.
    pub files: Vec<Arc<FileInfo>>,
    /// The next offset that the files do not have, of each partition of the followed log of which they have any.
    pub cut: BTreeMap<i32, i64>,
    /// Why its version and files are not known: a query that names the table fails with this, the others do not.
    pub fault: Option<String>,
}

impl fmt::Debug for TableFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} version {} at {}: {} files", self.family.topic().name, self.version, self.root, self.files.len())
    }
}

/// Says how the tables stand now, and how far they have the log that is followed. A family without a table is left out.
pub type Listing = Arc<dyn Fn(Option<Arc<Followed>>) -> BoxFuture<'static, Result<Vec<TableFiles>, Fault>> + Send + Sync>;

type Fault = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A file of a version that is not there as the table's log states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Where it should be.
    pub path: String,
    /// Its length as the log states it, in bytes.
    pub stated: u64,
    /// Its length as it lies there; `None` where there is no such file.
    pub found: Option<u64>,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.found {
            None => write!(f, "{} is missing", self.path),
            Some(found) => write!(f, "{} has {found} bytes, the log states {}", self.path, self.stated),
        }
    }
}

/// Lists the newest version of every table of the lake whenever it is asked. Tables stay open: a table that has not changed costs two small
/// requests, however long its log is.
pub fn listing(lake: Lake) -> Listing {
    let (lake, open) = (Arc::new(lake), Arc::new(Mutex::new(BTreeMap::new())));
    Arc::new(move |followed| {
        let (lake, open) = (lake.clone(), open.clone());
        async move {
            let open = &mut *open.lock().await;
            let families = lake.tables().await?;
            open.retain(|family, _| families.contains(family));
            let mut tables = Vec::new();
            for family in families {
                let partitions = followed.as_ref().and_then(|followed| followed.get(&family)).map_or(&[][..], Vec::as_slice);
                // A table that cannot be read fails whoever asks for it, and nobody else.
                match files_of(&lake, family, partitions, open).await {
                    Ok(found) => tables.extend(found),
                    Err(why) => {
                        open.remove(&family);
                        tables.push(TableFiles::unreadable(&lake, family, why.to_string())?);
                    }
                }
            }
            Ok(tables)
        }
        .boxed()
    })
}

async fn files_of(
    lake: &Lake,
    family: Family,
    partitions: &[String],
    open: &mut BTreeMap<Family, Table>,
) -> Result<Option<TableFiles>, Fault> {
    if let Some(table) = open.get_mut(&family) {
        table.refresh().await?;
    } else if let Some(table) = lake.find(family).await? {
        open.insert(family, table);
    }
    let Some(table) = open.get_mut(&family) else { return Ok(None) };
    let mut cut = BTreeMap::new();
    for (partition, app_id) in (0..).zip(partitions) {
        cut.extend(table.txn_version(app_id).await?.map(|next| (partition, next)));
    }
    Ok(Some(TableFiles { cut, ..TableFiles::of(lake, &table.snapshot())? }))
}

impl TableFiles {
    /// The files of a snapshot.
    pub fn of(lake: &Lake, snapshot: &Snapshot) -> Result<TableFiles, url::ParseError> {
        let mut table = TableFiles::unreadable(lake, snapshot.family(), String::new())?;
        table.version = snapshot.version() as i64;
        table.files = snapshot.files().to_vec();
        table.fault = None;
        Ok(table)
    }

    fn unreadable(lake: &Lake, family: Family, fault: String) -> Result<TableFiles, url::ParseError> {
        let root = lake.root().join(&format!("{}/", family.topic().name))?;
        Ok(TableFiles {
            family,
            root,
            store: lake.object_store().clone(),
            version: -1,
            files: Vec::new(),
            cut: BTreeMap::new(),
            fault: Some(fault),
        })
    }

    /// Rows of all files, as far as the log states them.
    pub fn rows(&self) -> u64 {
        self.files.iter().filter_map(|file| file.stats.rows).sum()
    }

    /// The files that are missing or have another length, by one listing of their folder; their contents are not read.
    pub async fn lost(&self) -> Result<Vec<Lost>, object_store::Error> {
        if self.files.is_empty() {
            return Ok(Vec::new());
        }
        let paths: Vec<Path> = self.files.iter().map(|file| file.location.clone()).collect();
        let listing = self.store.list(common_folder(&paths).as_ref());
        let lengths: HashMap<Path, u64> = listing.map_ok(|ObjectMeta { location, size, .. }| (location, size)).try_collect().await?;
        let lost = |file: &Arc<FileInfo>| {
            let found = lengths.get(&file.location).copied();
            (found != Some(file.size)).then(|| Lost { path: file.location.to_string(), stated: file.size, found })
        };
        Ok(self.files.iter().filter_map(lost).collect())
    }
}

/// The deepest folder that holds all of them; `None` is the store's root.
fn common_folder(paths: &[Path]) -> Option<Path> {
    let folder = |path: &Path| {
        let mut parts: Vec<PathPart<'static>> = path.parts().map(|part| PathPart::from(part.as_ref().to_string())).collect();
        parts.pop();
        parts
    };
    let mut common = folder(paths.first()?);
    for path in &paths[1..] {
        let shared = common.iter().zip(folder(path)).take_while(|(ours, theirs)| *ours == theirs).count();
        common.truncate(shared);
    }
    (!common.is_empty()).then(|| Path::from_iter(common))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lake::Stats;
    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, PutPayload};

    #[tokio::test]
    async fn a_file_that_is_missing_or_was_cut_is_found() {
        let store = Arc::new(InMemory::new());
        for (path, bytes) in [("t/trades/a=1/x.parquet", 4), ("t/trades/a=2/y z.parquet", 3), ("t/trades/_delta_log/0.json", 9)] {
            store.put(&Path::parse(path).unwrap(), PutPayload::from(vec![0u8; bytes])).await.unwrap();
        }
        let file = |path: &str| FileInfo {
            path: path.into(),
            location: Path::parse(path).unwrap(),
            size: 4,
            partition_values: Vec::new(),
            modification_time: 0,
            stats: Stats { rows: Some(1), ..Stats::default() },
        };
        let table = |paths: &[&str]| TableFiles {
            fault: None,
            cut: BTreeMap::new(),
            family: Family::Trades,
            root: Url::parse("memory:///t/trades/").unwrap(),
            store: store.clone(),
            version: 0,
            files: paths.iter().map(|path| Arc::new(file(path))).collect(),
        };
        assert_eq!(table(&[]).lost().await.unwrap(), []);
        assert_eq!(table(&["t/trades/a=1/x.parquet"]).lost().await.unwrap(), []);
        let said: Vec<String> = table(&["t/trades/a=1/x.parquet", "t/trades/a=2/y z.parquet", "t/trades/a=3/gone.parquet"])
            .lost()
            .await
            .unwrap()
            .iter()
            .map(Lost::to_string)
            .collect();
        assert_eq!(said, ["t/trades/a=2/y z.parquet has 3 bytes, the log states 4", "t/trades/a=3/gone.parquet is missing"]);
    }
}
