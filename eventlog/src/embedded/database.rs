//! The storage engine's database with its three keyspaces: made whole or not at all, and of a layout whose every name is synced.
//!
//! fjall does not sync the names of keyspaces' folders while it makes them, and after a power loss between may give one's number to another: so a
//! database is made under another name, synced, and renamed. It never syncs the names of blob files: so values lie in its tables.

use super::lock::advice;
use super::{failed, settled};
use crate::Error;
use fjall::compaction::Leveled;
use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

const NAME: &str = "log";
/// A database that is being made: nobody was told of anything in it.
const PART: &str = "log.part";
/// fjall's block cache: the log is read in order, so little is read twice.
const CACHE_BYTES: u64 = 16 << 20;
/// What fjall's journals may hold before files are written.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
/// So many files of records are merged into larger ones at a time: more make reading dearer, fewer write each record more often.
const UNMERGED_FILES: u8 = 16;

/// An open database.
pub(super) struct Opened {
    pub(super) db: Database,
    pub(super) meta: Keyspace,
    pub(super) chunks: Keyspace,
    pub(super) states: Keyspace,
}

/// Opens the database in `dir`, making it where there is none.
pub(super) fn open(dir: &Path, memtable_bytes: u64, opening: &dyn Fn() -> String) -> Result<Opened, Error> {
    let storage = |e| failed(opening(), e);
    let place = dir.join(NAME);
    if !place.exists() {
        let making = |e: std::io::Error| Error::Failed { doing: opening(), why: advice(&e) };
        let part = dir.join(PART);
        match std::fs::remove_dir_all(&part) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(making(e)),
            _ => {}
        }
        // Closed before it is renamed: it knows its files by their names.
        drop(keyspaces(&part, memtable_bytes).map_err(storage)?);
        settled::below(&part).and_then(|()| std::fs::rename(&part, &place)).map_err(making)?;
    }
    let opened = keyspaces(&place, memtable_bytes).map_err(storage)?;
    if opened.chunks.is_kv_separated() {
        tracing::warn!(
            dir = %dir.display(),
            "this log was made by an older tokentape: the names of some of its files are not synced before they are needed, so a power loss can \
             make it unreadable; replay it into a new home (tape replay --to-home), or ingest into one"
        );
    }
    Ok(opened)
}

fn keyspaces(place: &Path, memtable_bytes: u64) -> Result<Opened, fjall::Error> {
    let db = Database::builder(place).cache_size(CACHE_BYTES).max_journaling_size(JOURNAL_BYTES_MAX).worker_threads(2).open()?;
    let plain = || KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes);
    let records = || {
        let seldom_merged = Leveled::default().with_l0_threshold(UNMERGED_FILES);
        plain().compaction_strategy(Arc::new(seldom_merged)).data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
    };
    let meta = db.keyspace("meta", plain)?;
    let chunks = db.keyspace("log", records)?;
    let states = db.keyspace("states", plain)?;
    Ok(Opened { db, meta, chunks, states })
}
