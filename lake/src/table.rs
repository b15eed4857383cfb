//! One family's Delta table: its files at a version, and commits that move its transactions exactly from where the caller said they were.
//!
//! A commit writes its log entry itself (one conditional put at the next version) and reads what another writer put there first. That is
//! all an append-only table with transactions needs, costs the same however many files the table has, and keeps the list of files here.

mod claim;

use crate::durable::DurableLocal;
use crate::layout::{self, CHECKPOINT_INTERVAL};
use crate::stats::Stats;
use crate::{Error, file, sort};
use arrow::array::RecordBatch;
use bytes::Bytes;
use deltalake_core::kernel::transaction::{CommitData, CommitProperties, TransactionError};
use deltalake_core::kernel::{Action, Add, Remove, Transaction};
use deltalake_core::logstore::{CommitOrBytes, LogStoreRef, StorageConfig, default_logstore, get_actions};
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use deltalake_core::{DeltaTable, DeltaTableError, checkpoints};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt};
use schemas::{Family, Topic};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::Arc;
use url::Url;
use uuid::Uuid;

/// Files of one commit that are encoded and written at the same time.
const FILES_AT_ONCE: usize = 2;
/// Other writers' commits that one commit steps over before it gives up.
const STEPS_MAX: usize = 100;
/// Threads that encode the columns of one file.
const ENCODE_THREADS_MAX: usize = 4;

/// The place of all tables.
#[derive(Debug, Clone)]
pub struct Lake {
    root: Url,
    store: Arc<dyn ObjectStore>,
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
        Ok(Lake { root, store })
    }

    /// Where the tables are.
    pub fn root(&self) -> &Url {
        &self.root
    }

    /// The store that holds the files; [`FileInfo::location`] is a path in it.
    pub fn object_store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Opens the family's table to write, makes it where it is missing, and adds the columns that it lacks.
    pub async fn table(&self, family: Family) -> Result<Table, Error> {
        let place = Place::new(self, family);
        let delta = match place.load().await? {
            Some(delta) => delta,
            None => place.create().await?,
        };
        place.writable(delta).await
    }

    /// Like [`Lake::table`], but makes nothing where there is no table: `None`.
    pub async fn existing(&self, family: Family) -> Result<Option<Table>, Error> {
        let place = Place::new(self, family);
        match place.load().await? {
            Some(delta) => place.writable(delta).await.map(Some),
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

/// An application transaction: moves from one version to the next together with the rows, or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Txn {
    /// `table/topic-id/partition`.
    pub app_id: String,
    /// The version that the caller builds on; `None` when there was none.
    pub from: Option<i64>,
    /// The new version: the next offset to read.
    pub to: i64,
}

/// What a commit did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Version of the table that has the rows.
    pub version: u64,
    /// Files written.
    pub files: usize,
    /// Rows in them.
    pub rows: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// A data file of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Path below the table's root.
    pub path: String,
    /// Path in the lake's object store.
    pub location: Path,
    /// Bytes.
    pub size: u64,
    /// Partition columns and their values as text, `None` for NULL, in the table's order.
    pub partition_values: Vec<(&'static str, Option<String>)>,
    /// Milliseconds since 1970 UTC.
    pub modification_time: i64,
    /// Rows, bounds and NULLs, as the log states them.
    pub stats: Stats,
}

/// The table as it was at one version. Cheap to clone; nothing ever changes in it.
#[derive(Debug, Clone)]
pub struct Snapshot(Arc<At>);

#[derive(Debug, Clone)]
struct At {
    family: Family,
    version: u64,
    files: Vec<Arc<FileInfo>>,
}

impl Snapshot {
    /// The family.
    pub fn family(&self) -> Family {
        self.0.family
    }

    /// Version of the table.
    pub fn version(&self) -> u64 {
        self.0.version
    }

    /// The files that hold the rows.
    pub fn files(&self) -> &[Arc<FileInfo>] {
        &self.0.files
    }
}

/// A table that was opened. One process may hold several; each sees other writers' commits after [`Table::refresh`].
#[derive(Debug)]
pub struct Table {
    place: Place,
    snapshot: Snapshot,
    writable: bool,
    /// The state that was loaded, for transactions that were not looked up yet.
    base: Option<DeltaTable>,
    /// Transactions that were looked up, committed, or seen in other writers' commits.
    txns: HashMap<String, Option<i64>>,
    /// True after an error of a commit: what the table holds is not known until it is read again.
    doubtful: bool,
}

impl Table {
    fn new(place: Place, delta: DeltaTable, writable: bool) -> Result<Table, Error> {
        let snapshot = place.snapshot(&delta)?;
        Ok(Table { place, snapshot, writable, base: Some(delta), txns: HashMap::new(), doubtful: false })
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.place.family
    }

    /// The table as last read or written.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    /// Version of the table as last read or written.
    pub fn version(&self) -> u64 {
        self.snapshot.version()
    }

    /// Reads the commits that others made since. Costs one small request when there are none. May be dropped half-way.
    pub async fn refresh(&mut self) -> Result<(), Error> {
        if self.doubtful {
            return self.reload().await;
        }
        while let Some(bytes) = self.entry(self.version() + 1).await? {
            if !self.step_over(self.version() + 1, &bytes) {
                return self.reload().await;
            }
        }
        Ok(())
    }

    /// What the newest commit that says anything under `key` of its commitInfo says; `None` where none does, as far as the table's log reaches.
    pub async fn latest_info(&self, key: &str) -> Result<Option<Value>, Error> {
        self.latest_info_that(key, usize::MAX, |_| true).await
    }

    /// The same of the commits before a version, with the version of the one that says it.
    pub async fn info_before(&self, key: &str, version: u64) -> Result<Option<(u64, Value)>, Error> {
        // Version 0 made the table.
        for version in (1..version).rev() {
            let Some(bytes) = self.entry(version).await? else { return Ok(None) };
            if let Some(info) = commit_info(&bytes, key) {
                return Ok(Some((version, info)));
            }
        }
        Ok(None)
    }

    /// The same of a commit that says what is wanted, among so many of the newest versions.
    pub async fn latest_info_that(&self, key: &str, versions: usize, wanted: impl Fn(&Value) -> bool) -> Result<Option<Value>, Error> {
        // Version 0 made the table.
        for version in (1..=self.version()).rev().take(versions) {
            let Some(bytes) = self.entry(version).await? else { return Ok(None) };
            if let Some(info) = commit_info(&bytes, key).filter(&wanted) {
                return Ok(Some(info));
            }
        }
        Ok(None)
    }

    /// What every commit says under `key` of its commitInfo, the oldest first, each with its version.
    pub async fn infos(&self, key: &str) -> Result<Vec<(u64, Value)>, Error> {
        let mut infos = Vec::new();
        // Version 0 made the table.
        for version in 1..=self.version() {
            let gone = || self.place.storage("reading the table's log", format!("version {version} is gone"));
            let bytes = self.entry(version).await?.ok_or_else(gone)?;
            infos.extend(commit_info(&bytes, key).map(|info| (version, info)));
        }
        Ok(infos)
    }

    /// The version of an application transaction, as of the table's version; `None` when it never was.
    pub async fn txn_version(&mut self, app_id: &str) -> Result<Option<i64>, Error> {
        if self.doubtful || self.base.is_none() {
            self.reload().await?;
        }
        if let Some(known) = self.txns.get(app_id) {
            return Ok(*known);
        }
        let base = self.base.as_ref().expect("a reload sets the base");
        let failed = |e| self.place.failed("reading a transaction", e);
        let found = base.snapshot().map_err(failed)?.transaction_version(self.place.log.as_ref(), app_id).await.map_err(failed)?;
        self.txns.insert(app_id.to_string(), found);
        Ok(found)
    }

    /// Stores the rows of `batches` (in any order; a column that a batch lacks is NULL) and moves `txns`, all in one version or not at all:
    /// one sorted file per partition of the table. `info` goes into the version's commitInfo.
    ///
    /// After an error nothing is known but that a wrong transaction was not committed: ask [`Table::txn_version`] after
    /// [`Table::refresh`]. Dropping the future half-way is like an error.
    pub async fn commit(&mut self, batches: &[RecordBatch], txns: &[Txn], info: Map<String, Value>) -> Result<Committed, Error> {
        if self.doubtful {
            self.reload().await?;
        }
        if !self.writable {
            return Err(self.place.batch("the table was opened to read"));
        }
        self.check_txns(txns).await?;
        // Until the commit is known to be done, it is not.
        self.doubtful = true;
        let adds = self.place.write_files(batches).await?;
        killpoint::here!("lake.files_written");
        let committed = Committed {
            version: 0,
            files: adds.len(),
            rows: adds.iter().filter_map(|(_, stats)| stats.rows).sum(),
            bytes: adds.iter().map(|(add, _)| u64::try_from(add.size).unwrap_or(0)).sum(),
        };
        let version = self.commit_adds(adds, txns, info).await?;
        self.doubtful = false;
        Ok(Committed { version, ..committed })
    }

    /// The tables that this one is among.
    pub(crate) fn lake(&self) -> Lake {
        self.place.lake.clone()
    }

    pub(crate) async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
        self.place.blocking(work).await
    }

    /// Puts one file in the place of others of its partition, which hold the same rows: one version, in which the transaction `maintenance`
    /// moves. Another rewrite of the table that came first makes this one an error, and its file is removed again.
    pub(crate) async fn replace(&mut self, others: &[Arc<FileInfo>], bytes: Bytes, stats: String) -> Result<u64, Error> {
        if self.doubtful {
            self.reload().await?;
        }
        if !self.writable {
            return Err(self.place.batch("the table was opened to read"));
        }
        let app_id = format!("maintenance/{}", self.place.topic.name);
        let before = self.txn_version(&app_id).await?;
        self.doubtful = true;
        let size = bytes.len() as i64;
        let values = others[0].partition_values.clone();
        let path = format!("{}/part-{}.zstd.parquet", layout::partition_path(&values), Uuid::new_v4());
        let location = self.place.location(&path);
        self.place.store.put(&location, bytes.into()).await.map_err(|e| self.place.put_failed(&path, e))?;
        killpoint::here!("lake.rewrite.file_written");
        let added = Add { data_change: false, ..add(path, size, values, stats) };
        let entry = self.place.rewrite_bytes(others, added, Transaction::new(&app_id, before.unwrap_or(0) + 1))?;
        let version = self.commit_rewrite(&entry, others, &app_id).await;
        match &version {
            Ok(_) => self.doubtful = false,
            // Not ours: no version names the file. What cannot be removed is an orphan.
            Err(Error::Fenced { .. } | Error::Moved { .. }) => drop(self.place.store.delete(&location).await),
            Err(_) => {}
        }
        version
    }

    async fn commit_rewrite(&mut self, entry: &Bytes, others: &[Arc<FileInfo>], app_id: &str) -> Result<u64, Error> {
        for _ in 0..STEPS_MAX {
            // Whatever was read since: rows whose file is gone are in another one, and would be there twice.
            let there = |other: &Arc<FileInfo>| self.snapshot.files().iter().any(|file| file.path == other.path);
            if !others.iter().all(there) {
                return Err(self.place.moved("a file that was rewritten", "there", "removed by another rewrite"));
            }
            let version = self.version() + 1;
            match self.place.log.write_commit_entry(version, CommitOrBytes::LogBytes(entry.clone()), Uuid::new_v4()).await {
                Ok(()) => {}
                Err(TransactionError::VersionAlreadyExists(_)) => {
                    let gone = || self.place.storage("reading a commit", format!("version {version} is gone"));
                    let winner = self.entry(version).await?.ok_or_else(gone)?;
                    if winner != *entry {
                        let txn = Txn { app_id: app_id.to_string(), from: None, to: 0 };
                        self.yield_to(version, &winner, &[txn])?;
                        continue;
                    }
                }
                Err(e) => return Err(self.place.failed("committing", e.into())),
            }
            killpoint::here!("lake.rewrite.entry_written");
            if !self.step_over(version, entry) {
                self.reload().await?;
            }
            return Ok(version);
        }
        Err(self.place.storage("committing", format!("{STEPS_MAX} other commits came first: too many writers")))
    }

    /// True when enough versions came since the last checkpoint should have been made.
    pub fn checkpoint_due(&self) -> bool {
        (self.version() + 1).is_multiple_of(CHECKPOINT_INTERVAL)
    }

    /// Writes a checkpoint of the table's newest version, so that readers need not replay the log. Not on the way of a commit.
    pub async fn checkpoint(&mut self) -> Result<(), Error> {
        // The loaded state is replaced on the way: a long-lived process does not carry an ever older one.
        self.reload().await?;
        let base = self.base.as_ref().expect("a reload sets the base");
        killpoint::here!("lake.checkpoint.unwritten");
        checkpoints::create_checkpoint(base, None).await.map_err(|e| self.place.failed("writing a checkpoint", e))?;
        killpoint::here!("lake.checkpoint.written");
        Ok(())
    }

    async fn reload(&mut self) -> Result<(), Error> {
        let delta = self.place.load().await?.ok_or_else(|| self.place.storage("reading the table again", "it is gone".into()))?;
        if self.writable && !self.place.check_columns(&delta)?.is_empty() {
            return Err(self.place.moved("its schema", "with every column", "without some"));
        }
        self.snapshot = self.place.snapshot(&delta)?;
        self.base = Some(delta);
        self.txns.clear();
        self.doubtful = false;
        Ok(())
    }

    async fn check_txns(&mut self, txns: &[Txn]) -> Result<(), Error> {
        for txn in txns {
            let found = self.txn_version(&txn.app_id).await?;
            let show = |version: Option<i64>| version.map_or_else(|| "nothing".to_string(), |v| v.to_string());
            if found != txn.from {
                return Err(self.place.moved(&txn.app_id, &show(txn.from), &show(found)));
            }
            if found.is_some_and(|found| txn.to < found) {
                return Err(self.place.batch(&format!("{} would go back from {} to {}", txn.app_id, show(found), txn.to)));
            }
        }
        Ok(())
    }

    async fn commit_adds(&mut self, adds: Vec<(Add, Stats)>, txns: &[Txn], info: Map<String, Value>) -> Result<u64, Error> {
        let bytes = self.place.entry_bytes(&adds, txns, info)?;
        for _ in 0..STEPS_MAX {
            let version = self.version() + 1;
            match self.place.log.write_commit_entry(version, CommitOrBytes::LogBytes(bytes.clone()), Uuid::new_v4()).await {
                Ok(()) => {}
                Err(TransactionError::VersionAlreadyExists(_)) => {
                    let winner = self
                        .entry(version)
                        .await?
                        .ok_or_else(|| self.place.storage("reading a commit", format!("version {version} is gone")))?;
                    // The entry names its commit: equal bytes are our own, put by a try whose answer was lost.
                    if winner != bytes {
                        self.yield_to(version, &winner, txns)?;
                        continue;
                    }
                }
                Err(e) => return Err(self.place.failed("committing", e.into())),
            }
            killpoint::here!("lake.entry_written");
            let files = adds
                .into_iter()
                .map(|(add, stats)| Arc::new(self.place.file(&add.path, add.size, add.modification_time, &add.partition_values, stats)));
            let at = Arc::make_mut(&mut self.snapshot.0);
            at.files.extend(files);
            at.version = version;
            self.txns.extend(txns.iter().map(|txn| (txn.app_id.clone(), Some(txn.to))));
            return Ok(version);
        }
        Err(self.place.storage("committing", format!("{STEPS_MAX} other commits came first: too many writers")))
    }

    /// Another writer's commit came first: step over it, unless it touched what this commit builds on.
    fn yield_to(&mut self, version: u64, winner: &Bytes, txns: &[Txn]) -> Result<(), Error> {
        let actions = get_actions(version, winner).map_err(|e| self.place.failed("reading a commit", e))?;
        let same = |action: &Action| match action {
            Action::Txn(theirs) => txns.iter().find(|ours| ours.app_id == theirs.app_id),
            _ => None,
        };
        if let Some(txn) = actions.iter().find_map(same) {
            return Err(Error::Fenced { table: self.place.topic.name, app_id: txn.app_id.clone(), version });
        }
        if !self.step_over(version, winner) {
            return Err(self.place.moved("its schema", "unchanged", &format!("changed by version {version}")));
        }
        Ok(())
    }

    /// Applies the next version's log entry; false where the table must be read anew instead.
    fn step_over(&mut self, version: u64, bytes: &Bytes) -> bool {
        let Ok(actions) = get_actions(version, bytes) else { return false };
        if actions
            .iter()
            .any(|action| matches!(action, Action::Metadata(_) | Action::Protocol(_) | Action::Cdc(_) | Action::DomainMetadata(_)))
        {
            return false;
        }
        let at = Arc::make_mut(&mut self.snapshot.0);
        for action in actions {
            match action {
                Action::Add(add) => {
                    let stats = Stats::parse(self.place.topic, add.stats.as_deref().unwrap_or_default());
                    at.files.push(Arc::new(self.place.file(&add.path, add.size, add.modification_time, &add.partition_values, stats)));
                }
                Action::Remove(remove) => at.files.retain(|file| file.path != remove.path),
                Action::Txn(txn) => drop(self.txns.insert(txn.app_id, Some(txn.version))),
                Action::CommitInfo(_) | Action::Metadata(_) | Action::Protocol(_) | Action::Cdc(_) | Action::DomainMetadata(_) => {}
            }
        }
        at.version = version;
        true
    }

    async fn entry(&self, version: u64) -> Result<Option<Bytes>, Error> {
        self.place.log.read_commit_entry(version).await.map_err(|e| self.place.failed("reading the table's log", e))
    }
}

/// Where one table is, and how to speak of it.
#[derive(Debug, Clone)]
struct Place {
    lake: Lake,
    family: Family,
    topic: &'static Topic,
    url: Url,
    prefix: Path,
    store: Arc<dyn ObjectStore>,
    log: LogStoreRef,
}

impl Place {
    fn new(lake: &Lake, family: Family) -> Place {
        let topic = family.topic();
        let url = lake.root.join(&format!("{}/", topic.name)).expect("a table name is a plain path segment");
        let prefix = Path::from_url_path(url.path()).expect("the root was checked when the lake was opened");
        let store = lake.store.clone();
        let table_store = Arc::new(PrefixStore::new(store.clone(), prefix.clone()));
        let log = default_logstore(table_store, store.clone(), &url, &StorageConfig::default());
        Place { lake: lake.clone(), family, topic, url, prefix, store, log }
    }

    async fn load(&self) -> Result<Option<DeltaTable>, Error> {
        if !self.log.is_delta_table_location().await.map_err(|e| self.failed("looking for the table", e))? {
            return Ok(None);
        }
        let mut delta = DeltaTable::new(self.log.clone());
        delta.load().await.map_err(|e| self.load_failed(e))?;
        self.check_protocol(&delta)?;
        Ok(Some(delta))
    }

    async fn create(&self) -> Result<DeltaTable, Error> {
        let commit = CommitProperties::default().with_create_checkpoint(false).with_cleanup_expired_logs(Some(false));
        let created = CreateBuilder::new()
            .with_log_store(self.log.clone())
            .with_table_name(self.topic.name)
            .with_comment(self.topic.doc)
            .with_columns(layout::delta_fields(self.topic))
            .with_partition_columns(self.topic.partition_by.iter().copied())
            .with_configuration(layout::properties(self.topic))
            .with_save_mode(SaveMode::ErrorIfExists)
            .with_commit_properties(commit)
            .await;
        match created {
            Ok(delta) => Ok(delta),
            // Two processes may make the same table at once: the one that was second opens what the first made.
            Err(e) => match self.load().await? {
                Some(delta) => Ok(delta),
                None => Err(self.failed("making the table", e)),
            },
        }
    }

    /// The table to write, with the columns that it lacked.
    async fn writable(self, mut delta: DeltaTable) -> Result<Table, Error> {
        let missing = self.check_columns(&delta)?;
        if !missing.is_empty() {
            let commit = CommitProperties::default().with_create_checkpoint(false).with_cleanup_expired_logs(Some(false));
            delta = delta
                .add_columns()
                .with_fields(missing)
                .with_commit_properties(commit)
                .await
                .map_err(|e| self.failed("adding columns", e))?;
        }
        Table::new(self, delta, true)
    }

    fn check_protocol(&self, delta: &DeltaTable) -> Result<(), Error> {
        let state = delta.snapshot().map_err(|e| self.failed("opening the table", e))?;
        let protocol = serde_json::to_value(state.protocol()).unwrap_or_default();
        let number = |key: &str| protocol[key].as_i64().unwrap_or(i64::MAX);
        let strange: Vec<&str> = ["readerFeatures", "writerFeatures"]
            .iter()
            .filter_map(|key| protocol[*key].as_array())
            .flatten()
            .filter_map(Value::as_str)
            .filter(|feature| !["appendOnly", "invariants", "v2Checkpoint"].contains(feature))
            .collect();
        if number("minReaderVersion") <= 3 && number("minWriterVersion") <= 7 && strange.is_empty() && number("minReaderVersion") != 2 {
            return Ok(());
        }
        let needs = format!(
            "Delta reader version {}, writer version {}{}",
            protocol["minReaderVersion"],
            protocol["minWriterVersion"],
            if strange.is_empty() { String::new() } else { format!(", features {}", strange.join(", ")) }
        );
        Err(Error::Protocol { table: self.topic.name, url: self.url.to_string(), needs })
    }

    fn check_columns(&self, delta: &DeltaTable) -> Result<Vec<deltalake_core::kernel::StructField>, Error> {
        let state = delta.snapshot().map_err(|e| self.failed("opening the table", e))?;
        let partition_by: Vec<String> = state.metadata().partition_columns().to_vec();
        layout::missing_columns(self.topic, self.url.as_str(), &state.schema(), &partition_by)
    }

    fn snapshot(&self, delta: &DeltaTable) -> Result<Snapshot, Error> {
        let state = delta.snapshot().map_err(|e| self.failed("opening the table", e))?;
        let file = |view: deltalake_core::kernel::LogicalFileView| {
            if view.deletion_vector_descriptor().is_some() || view.path().contains("://") {
                return Err(Error::Protocol {
                    table: self.topic.name,
                    url: self.url.to_string(),
                    needs: format!("deletion vectors or files elsewhere ({})", view.path()),
                });
            }
            let stats = Stats::parse(self.topic, view.stats().as_deref().unwrap_or_default());
            Ok(Arc::new(self.file(&view.path(), view.size(), view.modification_time(), &view.partition_values_map(), stats)))
        };
        let mut files = state.log_data().iter().map(file).collect::<Result<Vec<_>, _>>()?;
        // The log is replayed newest first; here the oldest comes first, as commits add to the end.
        files.sort_by(|a, b| (a.modification_time, &a.path).cmp(&(b.modification_time, &b.path)));
        Ok(Snapshot(Arc::new(At { family: self.family, version: state.version(), files })))
    }

    fn file(&self, path: &str, size: i64, modification_time: i64, values: &HashMap<String, Option<String>>, stats: Stats) -> FileInfo {
        FileInfo {
            location: self.location(path),
            path: path.to_string(),
            size: u64::try_from(size).unwrap_or(0),
            partition_values: self.topic.partition_by.iter().map(|column| (*column, values.get(*column).cloned().flatten())).collect(),
            modification_time,
            stats,
        }
    }

    fn location(&self, path: &str) -> Path {
        let full = format!("{}/{path}", self.prefix);
        Path::parse(&full).unwrap_or_else(|_| Path::from(full))
    }

    /// Writes one file per partition; on an error removes those that were written: no log entry names them.
    async fn write_files(&self, batches: &[RecordBatch]) -> Result<Vec<(Add, Stats)>, Error> {
        let topic = self.topic;
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(ENCODE_THREADS_MAX);
        let batches: Arc<Vec<RecordBatch>> = Arc::new(batches.to_vec());
        let sorted = batches.clone();
        let partitions = self.blocking(move || sort::partitions(topic, &sorted)).await?;
        let written = std::sync::Mutex::new(Vec::new());
        let results = futures::stream::iter(partitions)
            .map(|partition| {
                let batches = batches.clone();
                let written = &written;
                async move {
                    let (encoded, values) =
                        self.blocking(move || Ok((file::encode(topic, &batches, &partition, threads)?, partition.values))).await?;
                    let path = format!("{}/part-{}.zstd.parquet", layout::partition_path(&values), Uuid::new_v4());
                    written.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(self.location(&path));
                    let size = encoded.bytes.len() as i64;
                    self.store.put(&self.location(&path), encoded.bytes.into()).await.map_err(|e| self.put_failed(&path, e))?;
                    let json = encoded.stats.json(&layout::stats_fields(topic));
                    // What this process knows of the file is what everybody reads in the log.
                    let stats = Stats::parse(topic, &json);
                    Ok((add(path, size, values, json), stats))
                }
            })
            .buffered(FILES_AT_ONCE)
            .try_collect::<Vec<_>>()
            .await;
        if results.is_err() {
            for location in written.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
                // What cannot be removed is an orphan that no log entry names; the error that matters is the first one.
                let _ = self.store.delete(&location).await;
            }
        }
        results
    }

    fn entry_bytes(&self, adds: &[(Add, Stats)], txns: &[Txn], info: Map<String, Value>) -> Result<Bytes, Error> {
        let mut metadata: HashMap<String, Value> = info.into_iter().collect();
        metadata.insert("isBlindAppend".into(), Value::Bool(true));
        metadata.insert("commitId".into(), Value::String(Uuid::new_v4().to_string()));
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(self.topic.partition_by.iter().map(|column| (*column).to_string()).collect()),
            predicate: None,
        };
        let actions = adds.iter().map(|(add, _)| Action::Add(add.clone())).collect();
        let txns = txns.iter().map(|txn| Transaction::new(&txn.app_id, txn.to)).collect();
        CommitData::new(actions, operation, metadata, txns).get_bytes().map_err(|e| self.storage("writing a log entry", e.to_string()))
    }

    /// The log entry of a rewrite.
    fn rewrite_bytes(&self, others: &[Arc<FileInfo>], added: Add, txn: Transaction) -> Result<Bytes, Error> {
        let mut metadata: HashMap<String, Value> = HashMap::new();
        metadata.insert("isBlindAppend".into(), Value::Bool(false));
        metadata.insert("commitId".into(), Value::String(Uuid::new_v4().to_string()));
        let operation = DeltaOperation::Optimize { predicate: None, target_size: added.size };
        let mut actions: Vec<Action> = others.iter().map(|file| Action::Remove(remove(file))).collect();
        actions.push(Action::Add(added));
        CommitData::new(actions, operation, metadata, vec![txn]).get_bytes().map_err(|e| self.storage("writing a log entry", e.to_string()))
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
        tokio::task::spawn_blocking(work).await.map_err(|e| self.storage("encoding rows", e.to_string()))?
    }

    fn put_failed(&self, path: &str, e: object_store::Error) -> Error {
        match is_full(&e) {
            true => Error::Full { table: self.topic.name, url: self.url.to_string(), path: path.to_string() },
            false => self.storage(&format!("writing {path}"), e.to_string()),
        }
    }

    fn failed(&self, doing: &str, e: DeltaTableError) -> Error {
        match is_full(&e) {
            true => Error::Full { table: self.topic.name, url: self.url.to_string(), path: "the table's log".into() },
            false => self.storage(doing, e.to_string()),
        }
    }

    /// A log that cannot be understood mostly means a newer writer; a log that cannot be read is a fault of storage.
    fn load_failed(&self, e: DeltaTableError) -> Error {
        let text = without_backtrace(&e.to_string());
        match text.to_lowercase().contains("unsupported") || text.contains("reader version") || text.contains("minReaderVersion") {
            true => {
                let why = text.rsplit("Unsupported: ").next().unwrap_or(&text);
                Error::Protocol { table: self.topic.name, url: self.url.to_string(), needs: format!("a newer Delta protocol ({why})") }
            }
            false => self.storage("opening the table", text),
        }
    }

    fn storage(&self, doing: &str, why: String) -> Error {
        let why = without_backtrace(&why);
        Error::Storage { table: self.topic.name, url: self.url.to_string(), doing: doing.to_string(), why }
    }

    fn moved(&self, what: &str, expected: &str, found: &str) -> Error {
        Error::Moved { table: self.topic.name, what: what.to_string(), expected: expected.to_string(), found: found.to_string() }
    }

    fn batch(&self, why: &str) -> Error {
        Error::Batch { table: self.topic.name, why: why.to_string() }
    }
}

/// What a log entry says under `key` of its commitInfo.
fn commit_info(entry: &Bytes, key: &str) -> Option<Value> {
    let actions = entry.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    actions.filter_map(|mut action| action.get_mut("commitInfo")?.get_mut(key).map(Value::take)).next()
}

fn add(path: String, size: i64, values: Vec<(&'static str, Option<String>)>, stats: String) -> Add {
    Add {
        path,
        size,
        partition_values: values.into_iter().map(|(column, value)| (column.to_string(), value)).collect(),
        modification_time: chrono::Utc::now().timestamp_millis(),
        data_change: true,
        stats: Some(stats),
        tags: None,
        deletion_vector: None,
        base_row_id: None,
        default_row_commit_version: None,
        clustering_provider: None,
    }
}

fn remove(file: &FileInfo) -> Remove {
    Remove {
        path: file.path.clone(),
        data_change: false,
        deletion_timestamp: Some(chrono::Utc::now().timestamp_millis()),
        extended_file_metadata: Some(true),
        partition_values: Some(file.partition_values.iter().map(|(column, value)| ((*column).to_string(), value.clone())).collect()),
        size: i64::try_from(file.size).ok(),
        tags: None,
        deletion_vector: None,
        base_row_id: None,
        default_row_commit_version: None,
    }
}

/// The text of an error without the stack that the Delta kernel writes into it where RUST_BACKTRACE is set: an error of ours is one line.
fn without_backtrace(text: &str) -> String {
    let is_frame = |line: &&str| {
        let line = line.trim_start();
        line.starts_with("at ") || line.split_once(": ").is_some_and(|(number, _)| number.parse::<u32>().is_ok())
    };
    let told: Vec<&str> = text.lines().filter(|line| !is_frame(line) && !line.trim().is_empty()).collect();
    told.join(" ")
}

/// True when somewhere below the error the file system says that no space (or quota) is left.
fn is_full(e: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let mut cause = Some(e);
    while let Some(e) = cause {
        if let Some(io) = e.downcast_ref::<std::io::Error>()
            && matches!(io.kind(), StorageFull | QuotaExceeded | FileTooLarge)
        {
            return true;
        }
        cause = e.source();
    }
    false
}
