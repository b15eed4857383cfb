//! Many small files of a partition to few large ones: which files go together (pure), and the commit that puts one in the place of many.
//!
//! A rewrite is one Delta version: the files it read are removed, the file it wrote is added, nothing that a row says is changed
//! (`dataChange` false), and the transaction `maintenance` moves. Two that rewrite the same table at the same time meet there, and the second
//! one gives way; appends go on beside it. The removed files stay on disk until they are vacuumed.

use crate::read::{BATCH_ROWS, OpenFile};
use crate::stop::Stop;
use crate::table::{FileInfo, Snapshot, Table};
use crate::{Error, file, layout, merge};
use schemas::Topic;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use tokio::sync::oneshot;

/// Files of a partition that one rewrite reads.
const INPUTS_MAX: usize = 128;
/// Rows of all of them that lie in the pages that are open at a time: of each file one page of each column.
const OPEN_ROWS_MAX: u64 = 1 << 20;

/// Times that the files are looked at anew: three take 300,000 small files to one. There is an end to it, as commits that keep coming make new
/// files all the time.
const PASSES: usize = 3;
/// Rows that a rewrite has in memory, decoded, those of all files together, and as much again in their new order.
const ROWS_IN_MEMORY: usize = 1 << 18;
/// Bytes of them as they are encoded in pages: of rows that hold whole pages of text there are fewer.
const BYTES_IN_MEMORY: usize = 64 << 20;
/// Smaller batches cost more than they save.
const BATCH_ROWS_MIN: usize = 1 << 4;
/// Rows that are put together before they are written.
const GATHERED_ROWS_MAX: usize = 1 << 15;

/// What the partition columns of a file are.
type Values = [(&'static str, Option<String>)];

/// When to rewrite.
#[derive(Debug, Clone, Copy)]
pub struct Compaction {
    /// Bytes of a file that is large enough, and that a rewrite should reach.
    pub target_bytes: u64,
    /// Small files of a partition that are left alone.
    pub small_files_max: usize,
}

impl Default for Compaction {
    /// Files of 128 MiB and more are large; up to three small ones wait for more beside them.
    fn default() -> Compaction {
        Compaction { target_bytes: 128 << 20, small_files_max: 3 }
    }
}

/// What was rewritten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Compacted {
    /// Rewrites that were committed.
    pub commits: u64,
    /// Files that were taken away.
    pub files_before: u64,
    /// Files in their place.
    pub files_after: u64,
    /// Their rows.
    pub rows: u64,
    /// Bytes before.
    pub bytes_before: u64,
    /// Bytes after.
    pub bytes_after: u64,
}

/// The files that go together, each group into one file. A partition's files keep their order. Pure.
///
/// Of a partition's small files the oldest stay where those behind them are smaller together: what was merged before is merged again only
/// when as much came after it, or when it must be so that few are left.
pub fn plan(files: &[Arc<FileInfo>], options: &Compaction) -> Vec<Vec<Arc<FileInfo>>> {
    let mut partitions: BTreeMap<&Values, Vec<&Arc<FileInfo>>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.size < options.target_bytes) {
        partitions.entry(&file.partition_values).or_default().push(file);
    }
    let mut groups = Vec::new();
    for small in partitions.into_values().filter(|small| small.len() > options.small_files_max) {
        // Sorted together, rows mostly take less room than apart: half as much again makes a file that is large enough.
        let bytes_max = options.target_bytes + options.target_bytes / 2;
        let (mut group, mut bytes, mut open_rows): (Vec<Arc<FileInfo>>, u64, u64) = (Vec::new(), 0, 0);
        for file in &small[left_alone(&small, options.small_files_max)..] {
            let rows = file.stats.rows.unwrap_or(u64::MAX).min(file::PAGE_ROWS_MAX as u64);
            if bytes >= bytes_max || group.len() == INPUTS_MAX || (group.len() > 1 && open_rows + rows > OPEN_ROWS_MAX) {
                groups.push(std::mem::take(&mut group));
                (bytes, open_rows) = (0, 0);
            }
            bytes += file.size;
            open_rows += rows;
            group.push((*file).clone());
        }
        groups.push(group);
    }
    groups.retain(|group| group.len() > 1);
    groups
}

/// How many of the oldest small files stay.
fn left_alone(small: &[&Arc<FileInfo>], small_files_max: usize) -> usize {
    let behind = |first: usize| small[first..].iter().map(|file| file.size).sum::<u64>();
    (1..small_files_max).rev().find(|first| small[first - 1].size >= behind(*first)).unwrap_or(0)
}

impl Table {
    /// Rewrites what [`plan`] names, one commit for each group, and what it names then, until few files are left of those that were there. Stops at
    /// once, without a commit, when `stop` says so.
    pub async fn compact(&mut self, options: &Compaction, stop: &Stop) -> Result<Compacted, Error> {
        let mut compacted = Compacted::default();
        self.compact_into(&mut compacted, options, stop).await.map(|()| compacted)
    }

    /// The same; what was committed is counted also where it ends with an error.
    pub(crate) async fn compact_into(&mut self, compacted: &mut Compacted, options: &Compaction, stop: &Stop) -> Result<(), Error> {
        self.refresh().await?;
        let merging = Merging::start().map_err(|e| self.unmerged(e.to_string()))?;
        for _ in 0..PASSES {
            for group in plan(self.snapshot().files(), options) {
                if stop.is_set() || !self.rewrite(&merging, &group, compacted, stop).await? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn unmerged(&self, why: String) -> Error {
        self.place().storage("merging files", why)
    }

    /// Gives whether it came to its end.
    async fn rewrite(&mut self, merging: &Merging, group: &[Arc<FileInfo>], compacted: &mut Compacted, stop: &Stop) -> Result<bool, Error> {
        let family = self.family();
        let topic: &'static Topic = family.topic();
        let lake = self.lake();
        let layout = lake.layout;
        self.refuse_unless_writable()?;
        let mut files = Vec::with_capacity(group.len());
        for file in group {
            files.push(lake.open_file(family, file).await?);
        }
        let bytes_per_row = files.iter().map(OpenFile::bytes_per_row).max().unwrap_or(0);
        let rows_in_memory = (BYTES_IN_MEMORY / bytes_per_row.max(1)).min(ROWS_IN_MEMORY);
        let batch_rows = (rows_in_memory / files.len()).clamp(BATCH_ROWS_MIN, BATCH_ROWS);
        let gathered_rows = rows_in_memory.clamp(BATCH_ROWS_MIN, GATHERED_ROWS_MAX);
        let into = self.upload(&group[0].partition_values).await?;
        let flag = stop.clone();
        let merge = move || {
            let inputs = files.into_iter().map(|file| file.rows(batch_rows)).collect::<Result<_, _>>()?;
            merge::merge(topic, layout, inputs, gathered_rows, into, &flag)
        };
        let merged = merging.run(merge).await.ok_or_else(|| self.unmerged("ended unexpectedly".into()))?;
        let Some((file, stats)) = merged? else { return Ok(false) };
        killpoint::here!("lake.rewrite.file_written");
        let expected: Option<u64> = group.iter().map(|file| file.stats.rows).sum();
        if expected.is_some_and(|rows| Some(rows) != stats.rows) {
            let why = format!("a rewrite has {:?} rows, the files it was made of {expected:?}: nothing was changed", stats.rows);
            return Err(Error::Batch { table: topic.name, why });
        }
        let (rows, bytes) = (stats.rows.unwrap_or(0), file.size);
        self.replace(group, file, stats.json(&layout::stats_fields(topic))).await?;
        compacted.commits += 1;
        compacted.files_before += group.len() as u64;
        compacted.files_after += 1;
        compacted.rows += rows;
        compacted.bytes_before += group.iter().map(|file| file.size).sum::<u64>();
        compacted.bytes_after += bytes;
        Ok(true)
    }
}

/// The thread on which files are merged, one merge after the other: memory that a merge gave back is kept for its thread, and serves the next one.
struct Merging(mpsc::Sender<Box<dyn FnOnce() + Send>>);

impl Merging {
    /// Ends when it is dropped.
    fn start() -> std::io::Result<Merging> {
        let (sender, works) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        std::thread::Builder::new().name("merge".into()).spawn(move || works.into_iter().for_each(|work| work()))?;
        Ok(Merging(sender))
    }

    /// `None` where the thread ended, which only a mistake in the program can bring about.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, result) = oneshot::channel();
        self.0.send(Box::new(move || drop(done.send(work())))).ok()?;
        result.await.ok()
    }
}

/// Files of the table's partitions: how many each has, the most of any.
pub fn most_files(snapshot: &Snapshot) -> usize {
    let mut counts: BTreeMap<&Values, usize> = BTreeMap::new();
    snapshot.files().iter().for_each(|file| *counts.entry(&file.partition_values).or_default() += 1);
    counts.into_values().max().unwrap_or(0)
}
