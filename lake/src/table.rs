//! One family's Delta table at a version: its files, its transactions, what its commits said, and how it catches up with other writers.
//!
//! A commit writes its log entry itself (one conditional put at the next version) and reads what another writer put there first. That is
//! all an append-only table with transactions needs, costs the same however many files the table has, and keeps the list of files here.

mod checkpoint;
mod claim;
mod commit;
mod lake;
mod memory;
mod place;
mod rewrite;
mod upload;

pub use commit::{Committed, Txn};
pub use lake::Lake;
pub(crate) use upload::{Upload, Uploaded};

use crate::Error;
use crate::stats::Stats;
use bytes::Bytes;
use deltalake_core::DeltaTable;
use deltalake_core::kernel::{Action, Metadata};
use deltalake_core::logstore::get_actions;
use object_store::path::Path;
use place::Place;
use schemas::Family;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Other writers' commits that one commit steps over before it gives up.
const STEPS_MAX: usize = 100;

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
    /// The version of its last checkpoint, as far as this process knows.
    checkpointed: u64,
    /// A checkpoint that is being written.
    checkpointing: Option<JoinHandle<Result<u64, Error>>>,
}

impl Table {
    fn new(place: Place, delta: DeltaTable, writable: bool) -> Result<Table, Error> {
        let snapshot = place.snapshot(&delta)?;
        Ok(Table {
            place,
            snapshot,
            writable,
            base: Some(delta),
            txns: HashMap::new(),
            doubtful: false,
            checkpointed: 0,
            checkpointing: None,
        })
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
        loop {
            let next = self.entry(self.version() + 1).await?;
            // Where the log was cleaned up beyond this version, what stands behind it (or nothing) says nothing.
            if !self.place.has_entry(self.version()).await? {
                return self.reload().await;
            }
            let Some(bytes) = next else { return Ok(()) };
            if !self.step_over(self.version() + 1, &bytes) {
                return self.reload().await;
            }
        }
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

    /// The columns that the table's log does not name, and every file may have; an error where it states others than the family's.
    pub async fn columns(&mut self) -> Result<Vec<String>, Error> {
        if self.doubtful || self.base.is_none() {
            self.reload().await?;
        }
        let missing = self.place.check_columns(self.base.as_ref().expect("a reload sets the base"))?;
        Ok(missing.into_iter().map(|field| field.name().clone()).collect())
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// The tables that this one is among.
    pub(crate) fn lake(&self) -> Lake {
        self.place.lake.clone()
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

    /// Applies the next version's log entry; false where the table must be read anew instead.
    fn step_over(&mut self, version: u64, bytes: &Bytes) -> bool {
        let Ok(actions) = get_actions(version, bytes) else { return false };
        let strange = |action: &Action| match action {
            // Properties may change: the columns are what a commit builds on.
            Action::Metadata(metadata) => !self.has_columns_of(metadata),
            Action::Protocol(_) | Action::Cdc(_) | Action::DomainMetadata(_) => true,
            Action::Add(_) | Action::Remove(_) | Action::Txn(_) | Action::CommitInfo(_) => false,
        };
        if actions.iter().any(strange) {
            return false;
        }
        let at = Arc::make_mut(&mut self.snapshot.0);
        let mut removed = HashSet::new();
        for action in actions {
            match action {
                Action::Add(add) => {
                    let stats = Stats::parse(self.place.topic, add.stats.as_deref().unwrap_or_default());
                    at.files.push(Arc::new(self.place.file(&add.path, add.size, add.modification_time, &add.partition_values, stats)));
                }
                Action::Remove(remove) => drop(removed.insert(remove.path)),
                Action::Txn(txn) => drop(self.txns.insert(txn.app_id, Some(txn.version))),
                Action::CommitInfo(_) | Action::Metadata(_) | Action::Protocol(_) | Action::Cdc(_) | Action::DomainMetadata(_) => {}
            }
        }
        if !removed.is_empty() {
            at.files.retain(|file| !removed.contains(&file.path));
        }
        at.version = version;
        true
    }

    /// Are the table's columns and partitions those of the metadata?
    fn has_columns_of(&self, metadata: &Metadata) -> bool {
        let columns = |metadata: &Metadata| {
            let said = serde_json::to_value(metadata).unwrap_or_default();
            let schema = said["schemaString"].as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
            schema.map(|schema| (schema, said["partitionColumns"].clone()))
        };
        let ours = self.base.as_ref().and_then(|base| columns(base.snapshot().ok()?.metadata()));
        ours.is_some() && ours == columns(metadata)
    }

    /// Paths of its files.
    fn paths(&self) -> impl Iterator<Item = &str> {
        self.snapshot.files().iter().map(|file| file.path.as_str())
    }

    /// An error of reading the table's log.
    pub(crate) fn unreadable(&self, why: String) -> Error {
        self.place.storage("reading the table's log", why)
    }

    pub(crate) async fn entry(&self, version: u64) -> Result<Option<Bytes>, Error> {
        self.place.log.read_commit_entry(version).await.map_err(|e| self.place.failed("reading the table's log", e))
    }
}
