//! A rewrite: one file in the place of others, in one version that moves the transaction `maintenance`.

use super::FileInfo;
use super::Table;
use super::commit::add;
use super::place::Place;
use super::upload::Uploaded;
use crate::Error;
use bytes::Bytes;
use deltalake_core::kernel::transaction::CommitData;
use deltalake_core::kernel::{Action, Add, Remove, Transaction};
use deltalake_core::protocol::DeltaOperation;
use object_store::ObjectStoreExt;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

impl Table {
    /// Puts one file in the place of others of its partition, which hold the same rows: one version, in which the transaction `maintenance`
    /// moves. Another rewrite of the table that came first makes this one an error, and its file is removed again.
    pub(crate) async fn replace(&mut self, others: &[Arc<FileInfo>], file: Uploaded, stats: String) -> Result<u64, Error> {
        let app_id = self.maintenance();
        // A merge takes its time, and commits go on: they are read before this one's turn comes, not stepped over one by one at it.
        self.refresh().await?;
        let before = self.txn_version(&app_id).await?;
        self.doubtful = true;
        let size = i64::try_from(file.size).map_err(|_| self.place.batch("a rewritten file is too large to be told of"))?;
        let added = Add { data_change: false, ..add(file.path, size, others[0].partition_values.clone(), stats) };
        let entry = self.place.rewrite_bytes(others, added, Transaction::new(&app_id, before.unwrap_or(0) + 1))?;
        let version = self.commit_rewrite(&entry, others, &app_id).await;
        match &version {
            Ok(_) => self.doubtful = false,
            // Not ours: no version names the file. What cannot be removed is an orphan.
            Err(Error::Fenced { .. } | Error::Moved { .. }) => drop(self.place.store.delete(&file.location).await),
            Err(_) => {}
        }
        version
    }

    /// Files may be made for it.
    pub(crate) fn refuse_unless_writable(&self) -> Result<(), Error> {
        if self.writable { Ok(()) } else { Err(self.place.batch("the table was opened to read")) }
    }

    async fn commit_rewrite(&mut self, entry: &Bytes, others: &[Arc<FileInfo>], app_id: &str) -> Result<u64, Error> {
        let version = self.put_entry(entry, &[app_id], others).await?;
        killpoint::here!("lake.rewrite.entry_written");
        if !self.step_over(version, entry) {
            self.reload().await?;
        }
        Ok(version)
    }
}

impl Place {
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
