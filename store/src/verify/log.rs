//! The records that the log still has of one partition, as hashes, in the order of their offsets.

use super::claims::Claims;
use crate::Error;
use crate::proof::{Hash, Hasher, Leaves};
use eventlog::{EventLog, Reader, Start};
use schemas::Family;
use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

/// How long the log may take to give a record that it says it has.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL_WAIT: Duration = Duration::from_millis(200);
const POLL_EVENTS_MAX: usize = 16_384;

/// Does the log have any record of a family? Offsets alone may be those of markers and of what was aborted.
pub(super) fn has_records(log: &dyn EventLog, family: Family) -> Result<bool, Error> {
    let filled = (0..).zip(log.watermarks(family)?).filter(|(_, watermarks)| watermarks.low < watermarks.high);
    let starts: Vec<Start> = filled.map(|(partition, watermarks)| Start { family, partition, offset: watermarks.low }).collect();
    if starts.is_empty() {
        return Ok(false);
    }
    let mut reader = log.reader(&starts)?;
    let mut ended = HashSet::new();
    let deadline = Instant::now() + PATIENCE;
    while ended.len() < starts.len() {
        let polled = reader.poll(POLL_WAIT, 1)?;
        if !polled.events.is_empty() {
            return Ok(true);
        }
        ended.extend(polled.at_end);
        if Instant::now() > deadline {
            let why = format!("the log has given neither a record nor the ends of its partitions within {PATIENCE:?}");
            return Err(eventlog::Error::Failed { doing: format!("looking for records of {}", family.topic().name), why }.into());
        }
    }
    Ok(false)
}

/// A partition of the log from its beginning up to what is stored, in `quarantine` too.
pub(super) struct LogPart {
    reader: Option<Box<dyn Reader>>,
    place: (Family, i32),
    hasher: Hasher,
    /// First offset that the log still has, or that is stored.
    low: i64,
    /// Offset after the last one wanted.
    end: i64,
    waiting: VecDeque<(i64, Hash)>,
}

impl LogPart {
    /// From `first` stored offset, or from where the log begins, to before `end`.
    pub(super) fn open(
        log: &dyn EventLog,
        family: Family,
        partition: i32,
        claims: &Claims,
        first: i64,
        end: i64,
    ) -> Result<LogPart, Error> {
        let watermarks = log.watermarks(family)?;
        let index = usize::try_from(partition).unwrap_or(usize::MAX);
        let low = watermarks.get(index).map_or(end, |watermarks| watermarks.low.max(first));
        let start = Start { family, partition, offset: low };
        let reader = if low < end { Some(log.reader(&[start])?) } else { None };
        let hasher = Hasher::new(&claims.cluster, &claims.topic, partition);
        Ok(LogPart { reader, place: (family, partition), hasher, low, end, waiting: VecDeque::new() })
    }

    /// First offset that can be compared.
    pub(super) fn low(&self) -> i64 {
        self.low
    }

    /// The next record, which stays; `None` behind the last one wanted.
    pub(super) fn peek(&mut self) -> Result<Option<(i64, Hash)>, Error> {
        let deadline = Instant::now() + PATIENCE;
        while let (true, Some(reader)) = (self.waiting.is_empty(), self.reader.as_mut()) {
            let mut polled = reader.poll(POLL_WAIT, POLL_EVENTS_MAX)?;
            let ended = polled.at_end.contains(&self.place) || polled.events.last().is_some_and(|event| event.offset >= self.end - 1);
            polled.events.retain(|event| event.offset < self.end);
            let mut leaves = Leaves::default();
            polled.events.iter().for_each(|event| leaves.event(&self.hasher, event));
            self.waiting.extend(polled.events.iter().map(|event| event.offset).zip(leaves.hashes()));
            if ended {
                self.reader = None;
            } else if Instant::now() > deadline {
                let doing = format!("reading partition {} of {} to compare it with the tables", self.place.1, self.place.0.topic().name);
                return Err(eventlog::Error::Failed { doing, why: format!("the log gave nothing within {PATIENCE:?}") }.into());
            }
        }
        Ok(self.waiting.front().copied())
    }

    pub(super) fn pass(&mut self) {
        self.waiting.pop_front();
    }
}
