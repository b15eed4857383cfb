//! The last record that is stored of each log partition, by its hash: a log that was brought back from an older copy, or replaced, and has
//! gone on since has another one there.

use eventlog::{Event, EventLog, Polled, Start, TimestampType};
use schemas::Family;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// How long the log may take to give a record that it says it has.
const PATIENCE: Duration = Duration::from_secs(60);
/// Events of one poll: those that are wanted come first.
const POLL_EVENTS_MAX: usize = 256;
const POLL_WAIT: Duration = Duration::from_millis(100);

/// Where the last stored record of a partition stood, and the SHA-256 of all that the log says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// Its offset.
    pub offset: i64,
    /// The hash.
    pub sha256: [u8; 32],
}

impl Tail {
    /// The hash is over offset, time, kind of time, key, value and headers, each text with its length before it.
    pub fn of(event: &Event) -> Tail {
        let mut sha = Sha256::new();
        sha.update(event.offset.to_be_bytes());
        sha.update(event.ts_ms.to_be_bytes());
        sha.update([match event.ts_type {
            TimestampType::LogAppend => 1,
            TimestampType::Create => 0,
            TimestampType::None => 2,
        }]);
        let mut text = |bytes: Option<&[u8]>| {
            sha.update(bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_be_bytes());
            sha.update(bytes.unwrap_or_default());
        };
        text(event.key.as_deref());
        text(event.value.as_deref());
        for (name, value) in &event.headers {
            text(Some(name.as_bytes()));
            text(value.as_deref());
        }
        Tail { offset: event.offset, sha256: sha.finalize().into() }
    }
}

/// As a commitInfo holds them.
pub(crate) fn to_json(tails: &BTreeMap<i32, Tail>) -> Value {
    let tail =
        |(partition, tail): (&i32, &Tail)| json!({ "partition": partition, "offset": tail.offset, "sha256": hex::encode(tail.sha256) });
    tails.iter().map(tail).collect()
}

/// Read back; what a commitInfo does not say, or says in another way, is not compared.
pub(crate) fn from_json(tails: &Value) -> BTreeMap<i32, Tail> {
    let tail = |tail: &Value| {
        let partition = i32::try_from(tail["partition"].as_i64()?).ok()?;
        let sha256 = hex::decode(tail["sha256"].as_str()?).ok()?.try_into().ok()?;
        Some((partition, Tail { offset: tail["offset"].as_i64()?, sha256 }))
    };
    tails.as_array().into_iter().flatten().filter_map(tail).collect()
}

/// The records that a log must have still, and which of them were not seen yet.
#[derive(Debug)]
pub struct Compare {
    wanted: HashMap<(Family, i32), Tail>,
}

impl Compare {
    /// Nothing was seen yet.
    pub fn new(tails: HashMap<(Family, i32), Tail>) -> Compare {
        Compare { wanted: tails }
    }

    /// Where to read.
    pub fn starts(&self) -> Vec<Start> {
        self.wanted
            .iter()
            .map(|((family, partition), tail)| Start { family: *family, partition: *partition, offset: tail.offset })
            .collect()
    }

    /// How many were not seen yet.
    pub fn missing(&self) -> usize {
        self.wanted.len()
    }

    /// Takes what the log gave next; gives the partition and the offset where it has another record, or none.
    pub fn take(&mut self, polled: &Polled) -> Option<(Family, i32, i64)> {
        for event in &polled.events {
            let place = (event.family, event.partition);
            if let Some(tail) = self.wanted.get(&place).copied().filter(|tail| event.offset >= tail.offset) {
                if Tail::of(event) != tail {
                    return Some((place.0, place.1, tail.offset));
                }
                self.wanted.remove(&place);
            }
        }
        polled.at_end.iter().find_map(|place| Some((place.0, place.1, self.wanted.get(place)?.offset)))
    }
}

/// Reads the record at each tail; gives the first partition that has another one there, or none.
pub(crate) fn find_other(log: &dyn EventLog, tails: HashMap<(Family, i32), Tail>) -> Result<Option<(Family, i32, i64)>, eventlog::Error> {
    let mut compare = Compare::new(tails);
    if compare.missing() == 0 {
        return Ok(None);
    }
    let mut reader = log.reader(&compare.starts())?;
    let deadline = Instant::now() + PATIENCE;
    while compare.missing() > 0 {
        if Instant::now() > deadline {
            let why = format!("the log has not given the last stored records of {} partitions within {PATIENCE:?}", compare.missing());
            return Err(eventlog::Error::Failed { doing: "comparing the log with the tables".into(), why });
        }
        let polled = reader.poll(POLL_WAIT, POLL_EVENTS_MAX)?;
        if let Some(other) = compare.take(&polled) {
            return Ok(Some(other));
        }
    }
    Ok(None)
}
