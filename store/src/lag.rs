//! How far the tables are behind the log, partition by partition. Changes nothing.

use crate::ledger::app_id;
use crate::opened::{self, blocking};
use crate::{Error, info};
use eventlog::{EventLog, Held, Start, Watermarks};
use lake::Lake;
use schemas::Family;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the log may take to give the records around the end of what is stored.
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
    /// Table `gaps` names what was lost before this offset.
    pub noted: i64,
    /// When the log knew the first record that can be read and is not stored, in milliseconds since 1970 UTC; `None` where there is none. Offsets
    /// alone do not tell: Kafka counts the markers that end transactions, too.
    pub waiting_ts_ms: Option<i64>,
    /// What was written behind `end` and cannot be read yet, as a transaction is open.
    pub held: Option<Held>,
    /// When the log knew the last stored record, in milliseconds since 1970 UTC; `None` where none is stored, or the log no longer has it.
    pub last_ts_ms: Option<i64>,
}

impl Lag {
    /// Offsets that can be read and are not stored; 0 where they are markers of transactions alone.
    pub fn behind(&self) -> i64 {
        if self.waiting_ts_ms.is_some() { (self.end - self.stored.max(self.begin)).max(0) } else { 0 }
    }

    /// Offsets that the log no longer has, that were not stored, and that table `gaps` does not name yet.
    pub fn lost(&self) -> i64 {
        (self.begin - self.stored.max(self.noted)).max(0)
    }
}

/// Every partition of every topic. Tables of another log are refused.
pub async fn lag(log: &Arc<dyn EventLog>, lake: &Lake) -> Result<Vec<Lag>, Error> {
    opened::refuse_other_log(log, lake).await?;
    let (cluster_id, topics) = opened::look(log).await?;
    let mut stored: HashMap<(Family, i32), i64> = HashMap::new();
    let mut tails: HashMap<(Family, i32), i64> = HashMap::new();
    let mut noted: HashMap<(Family, i32), i64> = HashMap::new();
    if let Some(mut gaps) = lake.find(Family::Gaps).await? {
        for (family, topic) in &topics {
            for partition in 0..topic.partitions {
                let next = gaps.txn_version(&app_id(Family::Gaps.topic().name, &topic.id, partition)).await?;
                noted.extend(next.map(|next| ((*family, partition), next)));
            }
        }
    }
    for family in Family::ALL {
        let Some(mut table) = lake.find(family).await? else { continue };
        let topic = &topics[&family];
        info::refuse_other_log(&table, &cluster_id, &topics).await?;
        let mut txns: BTreeMap<i32, i64> = BTreeMap::new();
        for partition in 0..topic.partitions {
            let next = table.txn_version(&app_id(family.topic().name, &topic.id, partition)).await?;
            txns.extend(next.map(|next| (partition, next)));
        }
        let last = info::tails(&table, &topic.id, &txns).await?;
        tails.extend(last.iter().map(|(partition, tail)| ((family, *partition), tail.offset)));
        stored.extend(txns.into_iter().map(|(partition, next)| ((family, partition), next)));
    }
    // After the tables: a store that goes on meanwhile must not seem to be ahead of the log.
    let watermarks = opened::watermarks(log).await?;
    let held = blocking(log, |log| log.held()).await?;
    let question = |(place, watermarks): (&(Family, i32), &Watermarks)| {
        let next = stored.get(place).copied().unwrap_or(0).max(watermarks.low);
        let tail = tails.get(place).copied().filter(|offset| *offset >= watermarks.low);
        (*place, Question { tail, next, open: next < watermarks.high })
    };
    let questions = watermarks.iter().map(question).filter(|(_, question)| question.open || question.tail.is_some()).collect();
    let answers = blocking(log, move |log| answers(log, questions)).await?;
    let mut lags = Vec::new();
    for family in Family::ALL {
        let topic = &topics[&family];
        for partition in 0..topic.partitions {
            let Some(watermarks) = watermarks.get(&(family, partition)) else { continue };
            let answer = answers.get(&(family, partition)).copied().unwrap_or_default();
            lags.push(Lag {
                table: family.topic().name,
                topic: topic.name.clone(),
                topic_id: topic.id.clone(),
                partition,
                stored: stored.get(&(family, partition)).copied().unwrap_or(0),
                begin: watermarks.low,
                end: watermarks.high,
                noted: noted.get(&(family, partition)).copied().unwrap_or(0),
                waiting_ts_ms: answer.waiting_ts_ms,
                held: held.iter().find(|held| (held.family, held.partition) == (family, partition)).copied(),
                last_ts_ms: answer.last_ts_ms,
            });
        }
    }
    Ok(lags)
}

/// What the log is asked about a partition.
#[derive(Debug, Clone, Copy)]
struct Question {
    /// Offset of the last stored record, where the log has it still.
    tail: Option<i64>,
    /// Offset behind what is stored.
    next: i64,
    /// Are there offsets behind what is stored?
    open: bool,
}

/// What the log says of it.
#[derive(Debug, Clone, Copy, Default)]
struct Answer {
    last_ts_ms: Option<i64>,
    waiting_ts_ms: Option<i64>,
}

fn answers(log: &dyn EventLog, mut questions: HashMap<(Family, i32), Question>) -> Result<HashMap<(Family, i32), Answer>, eventlog::Error> {
    let mut answers: HashMap<(Family, i32), Answer> = HashMap::new();
    let start = |((family, partition), question): (&(Family, i32), &Question)| Start {
        family: *family,
        partition: *partition,
        offset: question.tail.unwrap_or(question.next),
    };
    let starts: Vec<Start> = questions.iter().map(start).collect();
    if starts.is_empty() {
        return Ok(answers);
    }
    let mut reader = log.reader(&starts)?;
    let deadline = Instant::now() + PATIENCE;
    while !questions.is_empty() {
        if Instant::now() > deadline {
            let why = format!("the log has not given the records at the ends of {} partitions within {PATIENCE:?}", questions.len());
            return Err(eventlog::Error::Failed { doing: "looking how far the tables are behind".into(), why });
        }
        let polled = reader.poll(POLL_WAIT, POLL_EVENTS_MAX)?;
        for event in &polled.events {
            let place = (event.family, event.partition);
            let Some(question) = questions.get_mut(&place) else { continue };
            let answer = answers.entry(place).or_default();
            if question.tail.take_if(|tail| *tail <= event.offset) == Some(event.offset) {
                answer.last_ts_ms = Some(event.ts_ms);
            }
            if event.offset >= question.next {
                answer.waiting_ts_ms.get_or_insert(event.ts_ms);
                question.open = false;
            }
            if question.tail.is_none() && !question.open {
                questions.remove(&place);
            }
        }
        // What is not there although the log says so is a marker, or has no time.
        questions.retain(|place, _| !polled.at_end.contains(place));
    }
    Ok(answers)
}
