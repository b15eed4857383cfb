//! What the entries of a table's log said, kept for ever: files of compressed lines beside the log, written once and never changed.
//!
//! ```text
//! <table>/_tokentape_history/00000000000000000000.jsonl.zst   versions 0 … n, one line each
//!                            <n + 1>.jsonl.zst                  and so on, without a gap
//! ```
//!
//! A file is named by its first version and put only where there is none, so that of two that keep the same versions one is first and the other
//! goes on behind it. The underscore hides the folder from readers of the table.

use crate::Error;
use crate::history::Entry;
use crate::table::Table;
use object_store::{PutMode, PutOptions};
use std::io::{BufRead, Write};

/// Below the table's folder.
pub(crate) const FOLDER: &str = "_tokentape_history";
const SUFFIX: &str = ".jsonl.zst";
/// Versions in one file, so that reading and writing one takes little memory.
const VERSIONS_MAX: u64 = 10_000;
/// What is written once and read seldom is compressed well.
const ZSTD_LEVEL: i32 = 9;

impl Table {
    /// The first versions of the files of the archive, in order.
    pub(crate) async fn archive_files(&self) -> Result<Vec<u64>, Error> {
        let listed = self.place().list(FOLDER).await?;
        let mut firsts: Vec<u64> = listed.iter().filter_map(|file| file.location.filename()?.strip_suffix(SUFFIX)?.parse().ok()).collect();
        firsts.sort_unstable();
        Ok(firsts)
    }

    /// The versions of one file of the archive.
    pub(crate) async fn archived(&self, first: u64) -> Result<Vec<Entry>, Error> {
        let path = path(first);
        let bytes = self.place().get(&path).await?;
        let fault = |why: String| self.unreadable(format!("{path}: {why}"));
        let lines = zstd::Decoder::new(bytes.as_ref()).map(std::io::BufReader::new).map_err(|e| fault(e.to_string()))?.lines();
        let mut entries: Vec<Entry> = Vec::new();
        for line in lines {
            let line = line.map_err(|e| fault(e.to_string()))?;
            let entry: Entry = serde_json::from_str(&line).map_err(|e| fault(e.to_string()))?;
            let expected = first + entries.len() as u64;
            if entry.version != expected {
                return Err(fault(format!("has version {} where {expected} belongs", entry.version)));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The first version that the archive does not have.
    pub(crate) async fn archive_end(&self) -> Result<u64, Error> {
        match self.archive_files().await?.last() {
            None => Ok(0),
            Some(first) => Ok(first + self.archived(*first).await?.len() as u64),
        }
    }

    /// Keeps what the log says of every version before `end` that the archive does not have yet. What was kept is on disk, and was read back, when
    /// this returns. Gives how many versions were added.
    pub(crate) async fn archive_until(&self, end: u64) -> Result<u64, Error> {
        let begin = self.archive_end().await?;
        let mut next = begin;
        while next < end {
            let entries = self.logged(next, end.min(next + VERSIONS_MAX)).await?;
            if entries.is_empty() {
                return Err(self.unreadable(format!("version {next} is gone from the log, and the archive does not have it")));
            }
            let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let written = pack(&entries).map_err(|e| self.unreadable(format!("packing versions from {next} on: {e}")))?;
            self.place().put(&path(next), written, create).await?;
            // Read back, whoever wrote it: what is removed from the log now must be here.
            next += self.archived(next).await?.len() as u64;
        }
        if let Some(last) = self.archive_files().await?.last() {
            self.place().settle(&path(*last)).await?;
        }
        Ok(next - begin)
    }
}

fn path(first: u64) -> String {
    format!("{FOLDER}/{first:020}{SUFFIX}")
}

fn pack(entries: &[Entry]) -> std::io::Result<Vec<u8>> {
    let mut packer = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
    packer.include_checksum(true)?;
    for entry in entries {
        serde_json::to_writer(&mut packer, entry)?;
        packer.write_all(b"\n")?;
    }
    packer.finish()
}
