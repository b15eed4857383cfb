//! Where one table is, how it is loaded and made, what it may be like, and how to speak of it.

use super::{At, FileInfo, Lake, Snapshot, Table};
use crate::stats::Stats;
use crate::{Error, layout};
use bytes::Bytes;
use deltalake_core::kernel::transaction::CommitProperties;
use deltalake_core::logstore::{LogStoreRef, StorageConfig, default_logstore};
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::protocol::SaveMode;
use deltalake_core::{DeltaTable, DeltaTableError};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use schemas::{Family, Topic};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use url::Url;

/// Where one table is, and how to speak of it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(super) lake: Lake,
    pub(super) family: Family,
    pub(super) topic: &'static Topic,
    pub(super) url: Url,
    pub(super) prefix: Path,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) log: LogStoreRef,
}

impl Place {
    pub(super) fn new(lake: &Lake, family: Family) -> Place {
        let topic = family.topic();
        let url = lake.root.join(&format!("{}/", topic.name)).expect("a table name is a plain path segment");
        let prefix = Path::from_url_path(url.path()).expect("the root was checked when the lake was opened");
        let store = lake.store.clone();
        let table_store = Arc::new(PrefixStore::new(store.clone(), prefix.clone()));
        let log = default_logstore(table_store, store.clone(), &url, &StorageConfig::default());
        Place { lake: lake.clone(), family, topic, url, prefix, store, log }
    }

    pub(super) async fn load(&self) -> Result<Option<DeltaTable>, Error> {
        if !self.log.is_delta_table_location().await.map_err(|e| self.failed("looking for the table", e))? {
            return Ok(None);
        }
        let mut delta = DeltaTable::new(self.log.clone());
        if let Err(e) = delta.load().await {
            return Err(match self.gap().await? {
                Some(version) => Error::Gap { table: self.topic.name, url: self.url.to_string(), version },
                None => self.load_failed(e),
            });
        }
        self.check_protocol(&delta)?;
        Ok(Some(delta))
    }

    /// The first version behind the newest checkpoint, or behind the first entry, that the log has not, where it has a later one.
    async fn gap(&self) -> Result<Option<u64>, Error> {
        let listed = self.list("_delta_log").await?;
        let number = |name: &str, end: &str| name.strip_suffix(end)?.parse::<u64>().ok();
        let names: Vec<&str> = listed.iter().filter_map(|object| object.location.filename()).collect();
        let entries: BTreeSet<u64> = names.iter().filter_map(|name| number(name, ".json")).collect();
        let checkpoint = names.iter().filter_map(|name| number(name, ".checkpoint.parquet")).max();
        Ok(missing(checkpoint, &entries))
    }

    /// Path of a version's entry in the table's log.
    pub(super) fn entry_location(&self, version: u64) -> Path {
        self.location(&format!("_delta_log/{version:020}.json"))
    }

    /// Does the log still have the version's entry?
    pub(super) async fn has_entry(&self, version: u64) -> Result<bool, Error> {
        match self.store.head(&self.entry_location(version)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(self.storage("reading the table's log", e.to_string())),
        }
    }

    /// Everything below a folder of the table's folder.
    pub(crate) async fn list(&self, folder: &str) -> Result<Vec<ObjectMeta>, Error> {
        let listed = self.store.list(Some(&self.location(folder))).try_collect().await;
        listed.map_err(|e| self.storage(&format!("listing {folder}"), e.to_string()))
    }

    /// One object, whole.
    pub(crate) async fn get(&self, path: &str) -> Result<Bytes, Error> {
        let found = self.store.get(&self.location(path)).await;
        let failed = |e: object_store::Error| self.storage(&format!("reading {path}"), e.to_string());
        found.map_err(failed)?.bytes().await.map_err(failed)
    }

    /// The version of the checkpoint that readers are sent to. What cannot be read there sends them nowhere: they look for themselves.
    pub(crate) async fn checkpoint_hint(&self) -> Result<Option<u64>, Error> {
        #[derive(Deserialize)]
        struct Hint {
            version: u64,
        }
        let failed = |e: object_store::Error| self.storage("reading _last_checkpoint", e.to_string());
        match self.store.get(&self.location("_delta_log/_last_checkpoint")).await {
            Ok(found) => Ok(serde_json::from_slice(&found.bytes().await.map_err(failed)?).ok().map(|hint: Hint| hint.version)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// Puts one object; where it is only to be made and is there already, that is as good.
    pub(crate) async fn put(&self, path: &str, bytes: Vec<u8>, how: PutOptions) -> Result<(), Error> {
        match self.store.put_opts(&self.location(path), bytes.into(), how).await {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Err(e) => Err(self.put_failed(path, e)),
        }
    }

    /// Makes sure that an object survives power loss, whoever put it: its writer may have been killed before its name was on disk.
    pub(crate) async fn settle(&self, path: &str) -> Result<(), Error> {
        let bytes = self.get(path).await?;
        self.put(path, bytes.to_vec(), PutOptions { mode: PutMode::Create, ..PutOptions::default() }).await
    }

    /// Removes one object; where it is gone already, that is as good.
    pub(crate) async fn remove(&self, location: &Path) -> Result<(), Error> {
        match self.store.delete(location).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.storage(&format!("removing {location}"), e.to_string())),
        }
    }

    pub(super) async fn create(&self) -> Result<DeltaTable, Error> {
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
    pub(super) async fn writable(self, mut delta: DeltaTable) -> Result<Table, Error> {
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
        let checkpointed = self.checkpoint_hint().await?.unwrap_or(0);
        let mut table = Table::new(self, delta, true)?;
        table.checkpointed = checkpointed;
        Ok(table)
    }

    pub(super) fn check_protocol(&self, delta: &DeltaTable) -> Result<(), Error> {
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

    pub(super) fn check_columns(&self, delta: &DeltaTable) -> Result<Vec<deltalake_core::kernel::StructField>, Error> {
        let state = delta.snapshot().map_err(|e| self.failed("opening the table", e))?;
        let partition_by: Vec<String> = state.metadata().partition_columns().to_vec();
        layout::missing_columns(self.topic, self.url.as_str(), &state.schema(), &partition_by)
    }

    pub(super) fn snapshot(&self, delta: &DeltaTable) -> Result<Snapshot, Error> {
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

    pub(super) fn file(
        &self,
        path: &str,
        size: i64,
        modification_time: i64,
        values: &HashMap<String, Option<String>>,
        stats: Stats,
    ) -> FileInfo {
        FileInfo {
            location: self.location(path),
            path: path.to_string(),
            size: u64::try_from(size).unwrap_or(0),
            partition_values: self.topic.partition_by.iter().map(|column| (*column, values.get(*column).cloned().flatten())).collect(),
            modification_time,
            stats,
        }
    }

    /// Path in the lake's object store of what lies at `path` below the table's folder.
    pub(crate) fn location(&self, path: &str) -> Path {
        let full = format!("{}/{path}", self.prefix);
        Path::parse(&full).unwrap_or_else(|_| Path::from(full))
    }

    pub(super) async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
        tokio::task::spawn_blocking(work).await.map_err(|e| self.storage("encoding rows", e.to_string()))?
    }

    pub(super) fn put_failed(&self, path: &str, e: object_store::Error) -> Error {
        match is_full(&e) {
            true => Error::Full { table: self.topic.name, url: self.url.to_string(), path: path.to_string() },
            false => self.storage(&format!("writing {path}"), e.to_string()),
        }
    }

    pub(super) fn failed(&self, doing: &str, e: DeltaTableError) -> Error {
        match is_full(&e) {
            true => Error::Full { table: self.topic.name, url: self.url.to_string(), path: "the table's log".into() },
            false => self.storage(doing, e.to_string()),
        }
    }

    /// A log that cannot be understood mostly means a newer writer; a log that cannot be read is a fault of storage.
    pub(super) fn load_failed(&self, e: DeltaTableError) -> Error {
        let text = without_backtrace(&e.to_string());
        match text.to_lowercase().contains("unsupported") || text.contains("reader version") || text.contains("minReaderVersion") {
            true => {
                let why = text.rsplit("Unsupported: ").next().unwrap_or(&text);
                Error::Protocol { table: self.topic.name, url: self.url.to_string(), needs: format!("a newer Delta protocol ({why})") }
            }
            false => self.storage("opening the table", text),
        }
    }

    /// Where the table is.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn storage(&self, doing: &str, why: String) -> Error {
        let why = without_backtrace(&why);
        Error::Storage { table: self.topic.name, url: self.url.to_string(), doing: doing.to_string(), why }
    }

    pub(super) fn moved(&self, what: &str, expected: &str, found: &str) -> Error {
        Error::Moved { table: self.topic.name, what: what.to_string(), expected: expected.to_string(), found: found.to_string() }
    }

    pub(super) fn batch(&self, why: &str) -> Error {
        Error::Batch { table: self.topic.name, why: why.to_string() }
    }
}

/// The first version that a reader of the log lacks, who begins behind the checkpoint, or with the first entry where there is none.
fn missing(checkpoint: Option<u64>, entries: &BTreeSet<u64>) -> Option<u64> {
    let begin = checkpoint.map_or_else(|| entries.first().copied().unwrap_or(0), |version| version + 1);
    let last = *entries.last()?;
    (begin..last).find(|version| !entries.contains(version))
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
pub(super) fn is_full(e: &(dyn std::error::Error + 'static)) -> bool {
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
