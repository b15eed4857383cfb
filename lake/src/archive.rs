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
use bytes::buf::Reader;
use bytes::{Buf, Bytes};
use object_store::{PutMode, PutOptions};
use std::io::{BufRead, BufReader, Lines, Write};

/// Below the table's folder.
pub(crate) const FOLDER: &str = "_tokentape_history";
pub(crate) const SUFFIX: &str = ".jsonl.zst";
/// Versions in one file, so that reading and writing one takes little memory.
const VERSIONS_MAX: u64 = 10_000;
/// What is written once and read seldom is compressed well.
const ZSTD_LEVEL: i32 = 9;

/// A file of the archive that is being read.
pub(crate) struct Archived {
    first: u64,
    /// The version of the next line.
    next: u64,
    lines: Lines<BufReader<zstd::Decoder<'static, BufReader<Reader<Bytes>>>>>,
}

impl Table {
    /// The first versions of the files of the archive, in order.
    pub(crate) async fn archive_files(&self) -> Result<Vec<u64>, Error> {
        let listed = self.place().list(FOLDER).await?;
        let mut firsts: Vec<u64> = listed.iter().filter_map(|file| file.location.filename()?.strip_suffix(SUFFIX)?.parse().ok()).collect();
        firsts.sort_unstable();
        Ok(firsts)
    }

    /// The versions of one file of the archive, one after the other: the file is in memory as it was packed.
    pub(crate) async fn archived(&self, first: u64) -> Result<Archived, Error> {
        let bytes = self.place().get(&path(first)).await?;
        let unpacked = zstd::Decoder::new(bytes.reader()).map_err(|e| self.unreadable(format!("{}: {e}", path(first))))?;
        Ok(Archived { first, next: first, lines: BufReader::new(unpacked).lines() })
    }

    /// The next version of a file of the archive.
    pub(crate) fn next_archived(&self, archived: &mut Archived) -> Result<Option<Entry>, Error> {
        let fault = |why: String| self.unreadable(format!("{}: {why}", path(archived.first)));
        let Some(line) = archived.lines.next() else { return Ok(None) };
        let line = line.map_err(|e| fault(e.to_string()))?;
        let entry: Entry = serde_json::from_str(&line).map_err(|e| fault(e.to_string()))?;
        if entry.version != archived.next {
            return Err(fault(format!("has version {} where {} belongs", entry.version, archived.next)));
        }
        archived.next += 1;
        Ok(Some(entry))
    }

    /// The version behind the last one of a file of the archive: all of it is read.
    async fn archived_end(&self, first: u64) -> Result<u64, Error> {
        let mut archived = self.archived(first).await?;
        while self.next_archived(&mut archived)?.is_some() {}
        Ok(archived.next)
    }

    /// The first version that the archive does not have.
    pub(crate) async fn archive_end(&self) -> Result<u64, Error> {
        match self.archive_files().await?.last() {
            None => Ok(0),
            Some(first) => self.archived_end(*first).await,
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
            killpoint::here!("lake.archive.written");
            // Read back, whoever wrote it: what is removed from the log now must be here.
            next = self.archived_end(next).await?;
        }
        killpoint::here!("lake.archive.unsettled");
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
