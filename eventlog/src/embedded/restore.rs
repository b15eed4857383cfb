//! A log that was lost is made again from what is known of it: the same ids, partitions, offsets, times and holes, in a directory of its own.
//!
//! Until [`Restorer::finish`] the log is refused by whoever opens it. Afterwards it is read as any other; nobody publishes to it, because how far
//! its sources were published is not known.

use super::chunk::{Builder, Place, Summed};
use super::{Embedded, End, Log, Options, meta};
use crate::{Error, TopicInfo};
use schemas::Family;
use schemas::record::{Record, TimestampType};
use std::path::Path;

/// What is written at a time.
const BATCH_BYTES: usize = 32 << 20;

/// Whose log it was.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Id of its cluster.
    pub cluster_id: String,
    /// Its topics; one that is left out gets an id of its own.
    pub topics: Vec<(Family, TopicInfo)>,
}

/// A log that is being restored: one partition after the other, each in the order of its offsets.
pub struct Restorer {
    log: Embedded,
    open: Option<Partition>,
    ready: Vec<(Family, i32, Place, Summed)>,
    ready_bytes: usize,
}

/// The partition whose turn it is.
struct Partition {
    family: Family,
    partition: i32,
    end: End,
    first: i64,
    builder: Option<(Builder, i64, TimestampType)>,
}

impl Embedded {
    /// Begins to restore a log in `dir`, which has none yet.
    pub fn restore(dir: &Path, options: &Options, identity: &Identity) -> Result<Restorer, Error> {
        let log = Embedded::open_as(dir, options, Some(identity))?;
        Ok(Restorer { log, open: None, ready: Vec::new(), ready_bytes: 0 })
    }
}

impl Restorer {
    /// The partition that follows: its first `low` offsets were lost to retention.
    pub fn begin(&mut self, family: Family, partition: i32, low: i64) -> Result<(), Error> {
        self.close();
        let log = &self.log.log;
        let end = log.end(&log.ends(), family, partition)?;
        if end.next != 0 {
            return Err(refused(log, family, partition, "it was restored before".into()));
        }
        let end = End { low, next: low, ts_ms: 0 };
        self.open = Some(Partition { family, partition, end, first: low, builder: None });
        Ok(())
    }

    /// The record at `offset` of the partition; what lies between the last one and this one holds nothing.
    pub fn push(&mut self, offset: i64, record: &Record) -> Result<(), Error> {
        let log = self.log.log.clone();
        let open = self.open.as_mut().expect("a partition was begun");
        let next = open.end.next;
        if offset < next {
            return Err(refused(&log, open.family, open.partition, format!("offset {offset} comes where {next} is next")));
        }
        if offset > next {
            self.skip_to(offset);
        }
        let open = self.open.as_mut().expect("a partition was begun");
        let alike = |(_, ts_ms, ts_type): &(Builder, i64, TimestampType)| (*ts_ms, *ts_type) == (record.ts_ms, record.ts_type);
        if open.builder.as_ref().is_some_and(|builder| builder.0.is_full() || !alike(builder)) {
            self.close_chunk();
        }
        let open = self.open.as_mut().expect("a partition was begun");
        let (builder, ..) = open.builder.get_or_insert_with(|| {
            open.first = offset;
            (Builder::wholes(record.ts_type), record.ts_ms, record.ts_type)
        });
        builder.push_whole(record.key.as_deref(), record.value.as_deref(), &record.headers);
        (open.end.next, open.end.ts_ms) = (offset + 1, open.end.ts_ms.max(record.ts_ms));
        if self.ready_bytes >= BATCH_BYTES { self.write() } else { Ok(()) }
    }

    /// The partition goes on at `next`; what lies between holds nothing.
    pub fn skip_to(&mut self, next: i64) {
        self.close_chunk();
        let Some(open) = self.open.as_mut().filter(|open| next > open.end.next) else { return };
        let (family, partition) = (open.family, open.partition);
        let hole = (open.end.next, next - 1, open.end.ts_ms);
        open.end.next = next;
        self.ready(family, partition, hole, Builder::hole(hole.1 - hole.0 + 1));
    }

    /// The log is whole, on disk, and may be opened.
    pub fn finish(mut self) -> Result<(), Error> {
        self.close();
        self.write()?;
        meta::end_restore(&self.log.log.meta).map_err(|e| self.log.log.failed("restoring", e))?;
        self.log.log.db.persist(fjall::PersistMode::SyncAll).map_err(|e| self.log.log.failed("restoring", e))
    }

    fn close(&mut self) {
        self.close_chunk();
        if let Some(open) = self.open.take() {
            let log = &self.log.log;
            log.ends().partitions[open.family as usize][open.partition as usize] = open.end;
        }
    }

    fn close_chunk(&mut self) {
        let Some(open) = &mut self.open else { return };
        let Some((builder, ts_ms, _)) = open.builder.take() else { return };
        let (family, partition, chunk) = (open.family, open.partition, (open.first, open.end.next - 1, ts_ms));
        self.ready(family, partition, chunk, builder);
    }

    fn ready(&mut self, family: Family, partition: i32, (first, last, ts_ms): (i64, i64, i64), builder: Builder) {
        let place = Place { topic: self.log.log.topic(family).id, partition, first, last, ts_ms };
        self.ready_bytes += builder.bytes();
        self.ready.push((family, partition, place, builder.sum()));
    }

    /// Writes what is ready, with the ends of its partitions, as one publish.
    fn write(&mut self) -> Result<(), Error> {
        self.ready_bytes = 0;
        let mut ends: Vec<(Family, i32, End)> = Vec::new();
        for (family, partition, place, _) in &self.ready {
            let low = match &self.open {
                Some(open) if (open.family, open.partition) == (*family, *partition) => open.end.low,
                _ => self.log.log.ends().partitions[*family as usize][*partition as usize].low,
            };
            let next = place.last + 1;
            match ends.last_mut().filter(|(f, p, _)| (*f, *p) == (*family, *partition)) {
                Some((.., end)) => (end.next, end.ts_ms) = (next, end.ts_ms.max(place.ts_ms)),
                None => ends.push((*family, *partition, End { low, next, ts_ms: place.ts_ms })),
            }
        }
        self.log.log.write_restored(std::mem::take(&mut self.ready), &ends)
    }
}

fn refused(log: &Log, family: Family, partition: i32, why: String) -> Error {
    Error::Failed { doing: format!("restoring {}[{partition}]", log.name(family)), why }
}
