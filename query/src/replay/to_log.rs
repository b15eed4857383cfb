//! Replays to a log: each record to the partition that it had, with headers that say where it stood first, once however often the replay is
//! interrupted.
//!
//! How far it came is published in the same transaction as the records, with what was to be replayed when it was begun: what was stored since
//! is no part of it, so the records that come before a count are always the same ones.

use super::records::records;
use super::{Known, Order, Range, Stored};
use crate::Engine;
use crate::error::Error;
use bytes::Bytes;
use eventlog::origin::Origin;
use eventlog::{Batch, EventLog, State, StateTopic, Whole};
use schemas::Family;
use schemas::record::Record;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Records of one transaction, and bytes of them: few enough that it takes a second.
const RECORDS_MAX: usize = 50_000;
const BYTES_MAX: usize = 16 << 20;

/// What became of a replay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// By which name the log knows the replay.
    pub id: String,
    /// Records that this run published.
    pub records: u64,
    /// Records that earlier runs had published.
    pub before: u64,
}

/// How far a replay came, as the target keeps it.
#[derive(Debug, Serialize, Deserialize)]
struct Position {
    published: u64,
    done: bool,
    /// Family, partition, and the offset before which its records are replayed.
    ends: Vec<(String, i32, i64)>,
}

/// Where a replay goes.
pub struct Target<'a> {
    /// The log.
    pub log: &'a dyn EventLog,
    /// Its topics may have records already.
    pub beside: bool,
}

/// Publishes the range to a log, or what is left of it.
pub async fn publish(
    engine: &Engine,
    range: &Range,
    order: Order,
    known: &Known,
    stored: &Stored,
    target: &Target<'_>,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Published, Error> {
    publish_once(engine, range, order, known, stored, target, progress).await.map_err(|e| match e {
        Error::Log(eventlog::Error::Fenced { .. }) => Error::TakenOver,
        e => e,
    })
}

async fn publish_once(
    engine: &Engine,
    range: &Range,
    order: Order,
    known: &Known,
    stored: &Stored,
    target: &Target<'_>,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Published, Error> {
    let log = target.log;
    refuse_itself(range, known, log)?;
    let id = hex::encode(&Sha256::digest(format!("{} {order:?} {}", known.cluster_id, range.text()))[..8]);
    // Another run of the same replay is fenced, and what it left open is settled, before it is asked how far it came.
    let mut writer = log.writer(&format!("replay.{id}"))?;
    let key = format!("replay/{id}");
    let mut position = match log.states(StateTopic::State)?.get(&key) {
        None => {
            if !target.beside {
                refuse_used(range, log)?;
            }
            let ends = stored.iter().map(|((f, p), end)| (f.topic().name.into(), *p, *end)).collect();
            let position = Position { published: 0, done: false, ends };
            // Before its first record: what is found there later is its own.
            writer.publish(&Pending::default().take(&key, &position)?)?;
            position
        }
        Some(said) => serde_json::from_slice(said).map_err(|e| Error::Execution {
            doing: "reading how far the replay came",
            what: format!("{key} in {}: {e}", log.describe()),
        })?,
    };
    let mut published = Published { id, records: 0, before: position.published };
    if position.done {
        return Ok(published);
    }
    let ends = position.ends.iter().filter_map(|(name, partition, end)| Some(((Family::named(name)?, *partition), *end)));
    let range = Range { placed: true, before: Some(ends.collect()), ..range.clone() };
    let mut replay = engine.replay(&range, order, known);
    let mut to_skip = position.published;
    let mut batch = Pending::default();
    loop {
        let run = replay.next().await?;
        position.done = run.is_none();
        if let Some(run) = run {
            for (partition, offset, record) in records(&run)? {
                if to_skip > 0 {
                    to_skip -= 1;
                    continue;
                }
                batch.push(run.family, whole(known, run.family, partition, offset, record));
                if batch.is_full() {
                    position.published += batch.records as u64;
                    progress(batch.records as u64);
                    writer.publish(&batch.take(&key, &position)?)?;
                }
            }
        }
        if position.done {
            position.published += batch.records as u64;
            progress(batch.records as u64);
            writer.publish(&batch.take(&key, &position)?)?;
            published.records = position.published - published.before;
            return Ok(published);
        }
    }
}

/// Records on their way into one transaction.
#[derive(Default)]
struct Pending {
    batch: Batch,
    records: usize,
    bytes: usize,
}

impl Pending {
    fn push(&mut self, family: Family, whole: Whole) {
        self.records += 1;
        self.bytes += whole.key.as_ref().map_or(0, Bytes::len) + whole.value.as_ref().map_or(0, Bytes::len);
        match self.batch.wholes.last_mut().filter(|(last, _)| *last == family) {
            Some((_, wholes)) => wholes.push(whole),
            None => self.batch.wholes.push((family, vec![whole])),
        }
    }

    fn is_full(&self) -> bool {
        self.records >= RECORDS_MAX || self.bytes >= BYTES_MAX
    }

    fn take(&mut self, key: &str, position: &Position) -> Result<Batch, Error> {
        let said =
            serde_json::to_vec(position).map_err(|e| Error::Execution { doing: "writing how far the replay came", what: e.to_string() })?;
        let mut batch = std::mem::take(self).batch;
        batch.states.push(State { topic: StateTopic::State, key: key.to_string(), value: Some(said.into()) });
        Ok(batch)
    }
}

/// The record as it is published again. One that was replayed before keeps saying where it stood first.
fn whole(known: &Known, family: Family, partition: i32, offset: i64, record: Record) -> Whole {
    let Record { key, value, mut headers, ts_ms, ts_type } = record;
    if Origin::of(&headers).is_none() {
        headers.retain(|(name, _)| !name.starts_with("tape-origin-"));
        let topic_id = known.topic(family).map(|topic| topic.id.clone()).unwrap_or_default();
        headers.extend(Origin { topic: known.topic_name(family), topic_id, partition, offset, ts_ms, ts_type }.headers());
    }
    Whole { partition, key, value, headers }
}

/// Refuses topics that have records, of another replay or of anybody else: what overlaps would be there twice.
fn refuse_used(range: &Range, log: &dyn EventLog) -> Result<(), Error> {
    for family in &range.families {
        if log.watermarks(*family)?.iter().any(|watermarks| watermarks.high > 0) {
            return Err(Error::Replay(format!(
                "topic {} at {} has records already, and not of this replay (another range or order is another one): what overlaps would be there \
                 twice; name another prefix with --to-prefix, or say --beside",
                log.topic(*family)?.name,
                log.describe()
            )));
        }
    }
    Ok(())
}

/// Refuses the log that the tables were stored from: everything would be in it twice.
fn refuse_itself(range: &Range, known: &Known, log: &dyn EventLog) -> Result<(), Error> {
    for family in &range.families {
        let target = log.topic(*family)?;
        if known.topic(*family).is_some_and(|topic| topic.id == target.id) {
            return Err(Error::Replay(format!(
                "topic {} at {} is the one that these tables were stored from: everything replayed to it would be there, and stored, twice; \
                 name another prefix with --to-prefix",
                target.name,
                log.describe()
            )));
        }
    }
    Ok(())
}
