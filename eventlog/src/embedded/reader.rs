//! Reads partitions in turn, each record once and in order; a hole in what should be there is an error.

use super::{End, Log, POLL_BYTES_MAX, chunk, chunk::Layout, chunk::Place};
use crate::{Error, Event, Polled, Reader, Start};
use bytes::Bytes;
use schemas::Family;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) struct EmbeddedReader {
    log: Arc<Log>,
    cursors: Vec<Cursor>,
    /// Which partition comes first in the next poll, so that none starves.
    turn: usize,
}

struct Cursor {
    family: Family,
    partition: i32,
    next: i64,
    chunk: Option<Open>,
    /// The end that was last reported.
    ended_at: Option<i64>,
}

/// A chunk that is being read.
struct Open {
    records: chunk::Opened,
    last: i64,
    ts_ms: i64,
}

impl Reader for EmbeddedReader {
    fn poll(&mut self, timeout: Duration, events_max: usize) -> Result<Polled, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            let (generation, ends) = self.seen()?;
            let polled = self.read(&ends, events_max.max(1))?;
            if !polled.events.is_empty() || !polled.at_end.is_empty() {
                return Ok(polled);
            }
            let ends = self.log.ends();
            let left = deadline.saturating_duration_since(Instant::now());
            let grown = self.log.grown.wait_timeout_while(ends, left, |ends| ends.generation == generation);
            if grown.expect("nothing that holds the ends can panic").1.timed_out() {
                return Ok(Polled::default());
            }
        }
    }
}

impl EmbeddedReader {
    /// Reads on from `starts`, which must be offsets that the log has.
    pub(super) fn new(log: Arc<Log>, starts: &[Start]) -> Result<EmbeddedReader, Error> {
        let ends = log.ends();
        let mut cursors = Vec::with_capacity(starts.len());
        for start in starts {
            let end = log.end(&ends, start.family, start.partition)?;
            log.check_start(start, end)?;
            cursors.push(Cursor { family: start.family, partition: start.partition, next: start.offset, chunk: None, ended_at: None });
        }
        drop(ends);
        Ok(EmbeddedReader { log, cursors, turn: 0 })
    }

    fn seen(&self) -> Result<(u64, Vec<End>), Error> {
        let ends = self.log.ends();
        let seen = self.cursors.iter().map(|cursor| self.log.end(&ends, cursor.family, cursor.partition)).collect::<Result<_, _>>()?;
        Ok((ends.generation, seen))
    }

    fn read(&mut self, ends: &[End], events_max: usize) -> Result<Polled, Error> {
        let mut polled = Polled::default();
        let mut bytes = 0;
        let count = self.cursors.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            self.cursors[at].read(&self.log, ends[at].next, &mut polled.events, events_max, &mut bytes)?;
        }
        self.turn = (self.turn + 1) % count.max(1);
        for (cursor, end) in self.cursors.iter_mut().zip(ends) {
            if cursor.next >= end.next && cursor.ended_at != Some(cursor.next) {
                cursor.ended_at = Some(cursor.next);
                polled.at_end.push((cursor.family, cursor.partition));
            }
        }
        Ok(polled)
    }
}

impl Cursor {
    fn read(&mut self, log: &Log, end: i64, events: &mut Vec<Event>, events_max: usize, bytes: &mut usize) -> Result<(), Error> {
        if self.chunk.is_some() {
            self.drain(log, events, events_max, bytes)?;
        }
        if self.next >= end || full(events, events_max, *bytes) {
            return Ok(());
        }
        let topic = log.topic(self.family).id;
        for entry in log.chunks.range(chunk::seek(topic, self.partition, self.next)..chunk::seek(topic, self.partition, i64::MAX)) {
            let (key, value) = entry.into_inner().map_err(|e| log.failed("reading", e))?;
            self.open(log, &key, Bytes::from_owner(value))?;
            self.drain(log, events, events_max, bytes)?;
            if self.next >= end || full(events, events_max, *bytes) {
                return Ok(());
            }
        }
        Err(self.missing(log, end))
    }

    /// Opens the chunk that holds `next` and goes to it.
    fn open(&mut self, log: &Log, key: &[u8], value: Bytes) -> Result<(), Error> {
        let broken = |broken| log.corrupt(&format!("{}[{}] offset {}", log.name(self.family), self.partition, self.next), broken);
        let place = Place::of_key(key).map_err(broken)?;
        if place.first > self.next {
            return Err(self.missing(log, place.first));
        }
        let mut records = chunk::open(&place, value).map_err(broken)?;
        for _ in place.first..self.next {
            if records.layout != Layout::Hole {
                records.take().map_err(broken)?;
            }
        }
        self.chunk = Some(Open { records, last: place.last, ts_ms: place.ts_ms });
        Ok(())
    }

    fn drain(&mut self, log: &Log, events: &mut Vec<Event>, events_max: usize, bytes: &mut usize) -> Result<(), Error> {
        let Some(open) = &mut self.chunk else { return Ok(()) };
        if open.records.layout == Layout::Hole {
            self.next = open.last + 1;
            self.chunk = None;
            return Ok(());
        }
        while self.next <= open.last && !full(events, events_max, *bytes) {
            let (key, value, headers) = open
                .records
                .take()
                .map_err(|broken| log.corrupt(&format!("{}[{}] offset {}", log.name(self.family), self.partition, self.next), broken))?;
            *bytes += key.as_ref().map_or(0, Bytes::len) + value.as_ref().map_or(0, Bytes::len);
            events.push(Event {
                family: self.family,
                partition: self.partition,
                offset: self.next,
                ts_ms: open.ts_ms,
                ts_type: open.records.ts_type,
                key,
                value,
                headers,
            });
            self.next += 1;
        }
        if self.next > open.last {
            self.chunk = None;
        }
        Ok(())
    }

    /// Offsets up to `until` were to be there and are not: dropped by retention since the reader was made, or lost.
    fn missing(&self, log: &Log, until: i64) -> Error {
        let low = log.ends().partitions[self.family as usize][self.partition as usize].low;
        if self.next < low {
            return Error::OffsetGone { name: log.name(self.family), partition: self.partition, offset: self.next, low };
        }
        let place = format!("{}[{}] offsets {}..{until}", log.name(self.family), self.partition, self.next);
        log.corrupt(&place, crate::codec::Broken("records are missing"))
    }
}

fn full(events: &[Event], events_max: usize, bytes: usize) -> bool {
    events.len() >= events_max || bytes >= POLL_BYTES_MAX
}
