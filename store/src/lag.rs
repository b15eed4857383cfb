//! How far the tables are behind the log, partition by partition. Changes nothing.

use crate::ledger::app_id;
use crate::opened::{self, blocking};
use crate::{Error, info};
use eventlog::origin::restore_time;
use eventlog::{EventLog, Start};
use lake::Lake;
use schemas::Family;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the log may take to give the last stored records.
const PATIENCE: Duration = Duration::from_secs(30);
/// Events of one poll: those that are wanted come first.
const POLL_EVENTS_MAX: usize = 256;
const POLL_WAIT: Duration = Duration::from_millis(100);

/// A partition of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lag {
    /// Table, and family.
    pub table: &'static str,
    /// Topic with its prefix.
    pub topic: String,
    /// Id of the topic.
    pub topic_id: String,
    /// Partition of the topic.
    pub partition: i32,
    /// Next offset to store.
    pub stored: i64,
    /// First offset that the log still has.
    pub begin: i64,
    /// Offset after the last one that a reader sees.
    pub end: i64,
    /// When the log knew the last stored record, in milliseconds since 1970 UTC; `None` where none is stored, or the log no longer has it.
    pub last_ts_ms: Option<i64>,
}

impl Lag {
    /// Offsets that can be read and are not stored.
    pub fn behind(&self) -> i64 {
        (self.end - self.stored.max(self.begin)).max(0)
    }

    /// Offsets that the log no longer has and that were not stored.
    pub fn lost(&self) -> i64 {
        (self.begin - self.stored).max(0)
    }
}

/// Every partition of every topic. Tables of another log are refused.
pub async fn lag(log: &Arc<dyn EventLog>, lake: &Lake) -> Result<Vec<Lag>, Error> {
    opened::refuse_other_log(log, lake).await?;
    let (cluster_id, topics) = opened::look(log).await?;
    let watermarks = opened::watermarks(log).await?;
    let mut lags = Vec::new();
    let mut tails: HashMap<(Family, i32), i64> = HashMap::new();
    for family in Family::ALL {
        let topic = &topics[&family];
        let mut txns: BTreeMap<i32, i64> = BTreeMap::new();
        if let Some(table) = &mut lake.find(family).await? {
            info::refuse_other_log(table, &cluster_id, &topics).await?;
            for partition in 0..topic.partitions {
                let stored = table.txn_version(&app_id(family.topic().name, &topic.id, partition)).await?;
                txns.extend(stored.map(|next| (partition, next)));
            }
            let stored = info::tails(table, &topic.id, &txns).await?;
            tails.extend(stored.iter().map(|(partition, tail)| ((family, *partition), tail.offset)));
        }
        for partition in 0..topic.partitions {
            let Some(watermarks) = watermarks.get(&(family, partition)) else { continue };
            if tails.get(&(family, partition)).is_some_and(|offset| *offset < watermarks.low) {
                tails.remove(&(family, partition));
            }
            lags.push(Lag {
                table: family.topic().name,
                topic: topic.name.clone(),
                topic_id: topic.id.clone(),
                partition,
                stored: txns.get(&partition).copied().unwrap_or(0),
                begin: watermarks.low,
                end: watermarks.high,
                last_ts_ms: None,
            });
        }
    }
    let times = blocking(log, move |log| times(log, tails)).await?;
    for lag in &mut lags {
        let family = Family::named(lag.table).expect("it is a family's");
        lag.last_ts_ms = times.get(&(family, lag.partition)).copied();
    }
    Ok(lags)
}

/// When the log knew the record at each of these offsets.
fn times(log: &dyn EventLog, mut wanted: HashMap<(Family, i32), i64>) -> Result<HashMap<(Family, i32), i64>, eventlog::Error> {
    let mut times = HashMap::new();
    let starts = wanted.iter().map(|((family, partition), offset)| Start { family: *family, partition: *partition, offset: *offset });
    let starts: Vec<Start> = starts.collect();
    if starts.is_empty() {
        return Ok(times);
    }
    let mut reader = log.reader(&starts)?;
    let deadline = Instant::now() + PATIENCE;
    while !wanted.is_empty() {
        if Instant::now() > deadline {
            let why = format!("the log has not given the last stored records of {} partitions within {PATIENCE:?}", wanted.len());
            return Err(eventlog::Error::Failed { doing: "looking how far the tables are behind".into(), why });
        }
        let mut polled = reader.poll(POLL_WAIT, POLL_EVENTS_MAX)?;
        polled.events.iter_mut().for_each(restore_time);
        for event in &polled.events {
            let place = (event.family, event.partition);
            if wanted.remove(&place).is_some_and(|offset| offset == event.offset) {
                times.insert(place, event.ts_ms);
            }
        }
        // What is not there although the log says so has no time.
        wanted.retain(|place, _| !polled.at_end.contains(place));
    }
    Ok(times)
}
