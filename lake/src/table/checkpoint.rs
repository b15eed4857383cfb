//! Checkpoints: what readers begin at instead of the whole log. Written beside the commits, never on their way.

use super::Table;
use super::place::Place;
use crate::Error;
use crate::layout::{self, CHECKPOINT_INTERVAL};
use deltalake_core::checkpoints;
use deltalake_core::kernel::transaction::CommitData;
use deltalake_core::kernel::{Action, Metadata, Transaction};
use deltalake_core::protocol::DeltaOperation;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;
use tokio::runtime::Handle;
use uuid::Uuid;

impl Table {
    /// True when enough versions came since the last checkpoint.
    pub fn checkpoint_due(&self) -> bool {
        self.checkpointing.is_none() && self.version() >= self.checkpointed + CHECKPOINT_INTERVAL
    }

    /// Writes a checkpoint of the table's newest version, so that readers need not replay the log.
    pub async fn checkpoint(&mut self) -> Result<(), Error> {
        self.checkpoint_settled().await?;
        self.begin_checkpoint();
        self.checkpoint_settled().await
    }

    /// Begins [`Table::checkpoint`] on a thread of its own; commits go on. One at a time: ask [`Table::checkpoint_due`] before.
    pub fn begin_checkpoint(&mut self) {
        let place = self.place.clone();
        let runtime = Handle::current();
        self.checkpointed = self.version();
        self.checkpointing = Some(tokio::task::spawn_blocking(move || runtime.block_on(place.checkpoint())));
    }

    /// Takes note of a checkpoint that was begun and is done by now.
    pub async fn checkpoint_done(&mut self) -> Result<(), Error> {
        if self.checkpointing.as_ref().is_some_and(|task| task.is_finished()) { self.checkpoint_settled().await } else { Ok(()) }
    }

    /// Waits for a checkpoint that was begun.
    pub async fn checkpoint_settled(&mut self) -> Result<(), Error> {
        let Some(task) = self.checkpointing.take() else { return Ok(()) };
        let done = task.await.map_err(|e| self.place.storage("writing a checkpoint", e.to_string()))?;
        self.checkpointed = done?;
        Ok(())
    }

    /// Is the checkpoint at a version one that the table can be read from?
    pub(crate) async fn readable_at(&self, version: u64) -> Result<(), Error> {
        let mut delta = deltalake_core::DeltaTable::new(self.place.log.clone());
        let read = delta.load_version(version).await;
        read.map_err(|e| self.place.failed(&format!("reading version {version} before the log behind it is cleaned up"), e))
    }

    /// Lets checkpoints forget removed files after `keep`, as the audit horizon does; a commit of its own where the table says another time.
    /// Gives whether it made one.
    pub async fn forget_removed_after(&mut self, keep: Duration) -> Result<bool, Error> {
        self.refresh().await?;
        self.refuse_unless_writable()?;
        let app_id = self.maintenance();
        let before = self.txn_version(&app_id).await?;
        let base = self.base.as_ref().expect("a look at a transaction sets the base");
        let state = base.snapshot().map_err(|e| self.place.failed("reading the table's properties", e))?;
        let mut metadata = serde_json::to_value(state.metadata()).unwrap_or_default();
        let wanted = layout::interval(keep);
        let property = &mut metadata["configuration"][layout::REMOVED_FILES_KEPT];
        if property.as_str() == Some(&wanted) {
            return Ok(false);
        }
        *property = wanted.into();
        let entry = self.place.metadata_bytes(metadata, Transaction::new(&app_id, before.unwrap_or(0) + 1))?;
        self.doubtful = true;
        self.put_entry(&entry, &[&app_id], &[]).await?;
        self.reload().await?;
        Ok(true)
    }

    /// The transaction that everything moves that is done to a table beside storing: two that do it at once meet there.
    pub(super) fn maintenance(&self) -> String {
        format!("maintenance/{}", self.place.topic.name)
    }
}

impl Place {
    /// Writes a checkpoint of the newest version; gives that version.
    async fn checkpoint(&self) -> Result<u64, Error> {
        let delta = self.load().await?.ok_or_else(|| self.storage("writing a checkpoint", "the table is gone".into()))?;
        killpoint::here!("lake.checkpoint.unwritten");
        checkpoints::create_checkpoint(&delta, None).await.map_err(|e| self.failed("writing a checkpoint", e))?;
        killpoint::here!("lake.checkpoint.written");
        Ok(delta.version().unwrap_or(0))
    }

    fn metadata_bytes(&self, metadata: Value, txn: Transaction) -> Result<bytes::Bytes, Error> {
        let fault = |why: String| self.storage("writing a log entry", why);
        let metadata: Metadata = serde_json::from_value(metadata).map_err(|e| fault(e.to_string()))?;
        let info =
            HashMap::from([("isBlindAppend".to_string(), json!(false)), ("commitId".to_string(), json!(Uuid::new_v4().to_string()))]);
        let properties =
            HashMap::from([(layout::REMOVED_FILES_KEPT.to_string(), metadata.configuration()[layout::REMOVED_FILES_KEPT].clone())]);
        let operation = DeltaOperation::SetTableProperties { properties };
        CommitData::new(vec![Action::Metadata(metadata)], operation, info, vec![txn]).get_bytes().map_err(|e| fault(e.to_string()))
    }
}
