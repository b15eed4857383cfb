//! An append: files written, then one log entry that names them and moves the transactions, from exactly where the caller said they were.

use super::place::Place;
use super::{FileInfo, STEPS_MAX, Table};
use crate::stats::Stats;
use crate::{Error, file, layout, sort};
use arrow::array::RecordBatch;
use bytes::Bytes;
use deltalake_core::kernel::transaction::{CommitData, TransactionError};
use deltalake_core::kernel::{Action, Add, Transaction};
use deltalake_core::logstore::{CommitOrBytes, get_actions};
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

/// Files of one commit that are encoded and written at the same time.
const FILES_AT_ONCE: usize = 2;
/// Threads that encode the columns of one file.
const ENCODE_THREADS_MAX: usize = 4;

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

impl Table {
    /// Stores the rows of `batches` (in any order; a column that a batch lacks is NULL) and moves `txns`, all in one version or not at all:
    /// one sorted file per partition of the table. `info` goes into the version's commitInfo.
    ///
    /// After an error nothing is known but that a wrong transaction was not committed: ask [`Table::txn_version`] after
    /// [`Table::refresh`]. Dropping the future half-way is like an error.
    pub async fn commit(&mut self, batches: &[RecordBatch], txns: &[Txn], info: Map<String, Value>) -> Result<Committed, Error> {
        if self.doubtful {
            self.reload().await?;
        }
        self.refuse_unless_writable()?;
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
        let entry = self.place.entry_bytes(&adds, txns, info)?;
        let watched: Vec<&str> = txns.iter().map(|txn| txn.app_id.as_str()).collect();
        let version = self.put_entry(&entry, &watched, &[]).await?;
        killpoint::here!("lake.entry_written");
        let files = adds
            .into_iter()
            .map(|(add, stats)| Arc::new(self.place.file(&add.path, add.size, add.modification_time, &add.partition_values, stats)));
        let at = Arc::make_mut(&mut self.snapshot.0);
        at.files.extend(files);
        at.version = version;
        self.txns.extend(txns.iter().map(|txn| (txn.app_id.clone(), Some(txn.to))));
        Ok(version)
    }

    /// Puts a log entry at the next version, and gives that version; the table itself stays where it was. Commits of others that came first
    /// are stepped over, unless they moved a transaction of `watched`, removed a file of `needed`, or changed the table itself.
    pub(super) async fn put_entry(&mut self, entry: &Bytes, watched: &[&str], needed: &[Arc<FileInfo>]) -> Result<u64, Error> {
        for _ in 0..STEPS_MAX {
            // Whatever was read since: rows whose file is gone are in another one, and would be there twice.
            let there: HashSet<&str> = if needed.is_empty() { HashSet::new() } else { self.paths().collect() };
            if !needed.iter().all(|file| there.contains(file.path.as_str())) {
                return Err(self.place.moved("a file that was rewritten", "there", "removed by another rewrite"));
            }
            let version = self.version() + 1;
            let winner = match self.place.log.write_commit_entry(version, CommitOrBytes::LogBytes(entry.clone()), Uuid::new_v4()).await {
                Ok(()) => None,
                Err(TransactionError::VersionAlreadyExists(_)) => {
                    let gone = || self.place.storage("reading a commit", format!("version {version} is gone"));
                    Some(self.entry(version).await?.ok_or_else(gone)?)
                }
                Err(e) => return Err(self.place.failed("committing", e.into())),
            };
            // A log is cleaned up from its oldest entry on. Where the version before is gone, an entry was put where one had been: no version.
            if !self.place.has_entry(version - 1).await? {
                if winner.is_none_or(|winner| winner == *entry) {
                    self.place.remove(&self.place.entry_location(version)).await?;
                }
                let found = "cleaned up beyond it: this process was stopped for longer than the audit horizon";
                return Err(self.place.moved("its log", &format!("at version {}", version - 1), found));
            }
            match winner {
                // The entry names its commit: equal bytes are our own, put by a try whose answer was lost.
                Some(winner) if winner != *entry => self.yield_to(version, &winner, watched)?,
                _ => return Ok(version),
            }
        }
        Err(self.place.storage("committing", format!("{STEPS_MAX} other commits came first: too many writers")))
    }

    /// Another writer's commit came first: step over it, unless it touched what this commit builds on.
    fn yield_to(&mut self, version: u64, winner: &Bytes, watched: &[&str]) -> Result<(), Error> {
        let actions = get_actions(version, winner).map_err(|e| self.place.failed("reading a commit", e))?;
        let same = |action: &Action| match action {
            Action::Txn(theirs) => watched.iter().find(|ours| **ours == theirs.app_id),
            _ => None,
        };
        if let Some(app_id) = actions.iter().find_map(same) {
            return Err(Error::Fenced { table: self.place.topic.name, app_id: (*app_id).to_string(), version });
        }
        if !self.step_over(version, winner) {
            return Err(self.place.moved("its schema", "unchanged", &format!("changed by version {version}")));
        }
        Ok(())
    }
}

impl Place {
    /// Writes one file per partition; on an error removes those that were written: no log entry names them.
    async fn write_files(&self, batches: &[RecordBatch]) -> Result<Vec<(Add, Stats)>, Error> {
        let (topic, layout) = (self.topic, self.lake.layout);
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
                        self.blocking(move || Ok((file::encode(topic, layout, &batches, &partition, threads)?, partition.values))).await?;
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
}

pub(super) fn add(path: String, size: i64, values: Vec<(&'static str, Option<String>)>, stats: String) -> Add {
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
