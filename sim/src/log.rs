//! The log of the simulation: transactions that interleave, commit, abort and hang; the markers that end them; fencing; retention.

use crate::dice::Dice;
use crate::page;
use crate::plant::Plant;
use bytes::Bytes;
use eventlog::{Event, TimestampType, TopicInfo, Watermarks};
use ingest::position::{Position, SourceId};
use schemas::Family;
use std::collections::HashMap;

/// The partitions that there are.
pub const PARTITIONS: [(Family, i32); 4] = [(Family::Trades, 0), (Family::Trades, 1), (Family::Quarantine, 0), (Family::Gaps, 0)];

/// What a source published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    pub source: u32,
    pub number: u32,
    /// It cannot be decoded.
    pub bad: bool,
}

impl Record {
    /// Record `number` of a source: its kind follows from its number.
    pub fn of(source: u32, number: u32) -> Record {
        Record { source, number, bad: (number * 5 + source * 3).is_multiple_of(7) }
    }

    /// The partition that it belongs to.
    pub fn partition(self) -> usize {
        if let Some(at) = page::partition(self) {
            return at;
        }
        match (self.number * 7 + self.source) % 10 {
            0 | 1 => 2,
            2 => 3,
            n => (n % 2) as usize,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    Committed,
    Aborted,
}

#[derive(Debug, Clone)]
struct Transaction {
    fate: Fate,
    /// When it was sent, by a clock that ticks with every transaction, also of a log that is brought back.
    ts_ms: i64,
    records: Vec<Record>,
    position: Option<(SourceId, Position)>,
    /// What becomes known of prices with it.
    states: Vec<(String, Bytes)>,
}

/// What a transaction is to hold.
pub struct Batch {
    pub records: Vec<Record>,
    pub position: (SourceId, Position),
    pub states: Vec<(String, Bytes)>,
}

/// An offset: a record, or the marker that ends a transaction.
#[derive(Debug, Clone, Copy)]
struct Entry {
    transaction: usize,
    record: Option<Record>,
}

#[derive(Debug, Clone, Default)]
struct Partition {
    /// First offset that is left.
    low: i64,
    entries: Vec<Entry>,
    /// Everything before it is stored, as the log was told.
    told: i64,
}

/// Another one took over the transactional id, or the broker ended the transaction.
#[derive(Debug)]
pub struct Fenced;

/// What a reader is given.
pub struct Read {
    pub records: Vec<(i64, Record)>,
    /// Where to go on.
    pub next: i64,
    /// There is nothing more now.
    pub is_end: bool,
}

#[derive(Clone)]
pub struct Log {
    /// Transactions take offsets as Kafka's do; in the embedded log a publish is one atomic batch.
    pub is_kafka: bool,
    plant: Plant,
    now_ms: i64,
    /// It was brought back from an older copy.
    pub is_restored: bool,
    /// Changes when the topics are made again.
    pub generation: u32,
    partitions: [Partition; 4],
    transactions: Vec<Transaction>,
    /// Epoch and open transaction by transactional id.
    writers: HashMap<String, (u64, Option<usize>)>,
    pub positions: HashMap<SourceId, Position>,
    pub states: HashMap<String, Bytes>,
}

impl Log {
    pub fn new(is_kafka: bool, plant: Plant) -> Log {
        Log {
            is_kafka,
            plant,
            now_ms: 0,
            is_restored: false,
            generation: 0,
            partitions: Default::default(),
            transactions: vec![],
            writers: HashMap::new(),
            positions: HashMap::new(),
            states: HashMap::new(),
        }
    }

    /// This one, brought back from an older copy.
    pub fn restored(&self, copy: Log) -> Log {
        Log { is_restored: true, now_ms: self.now_ms, ..copy }
    }

    /// One whose topics have the same names, made later.
    pub fn made_again(&self) -> Log {
        Log { generation: self.generation + 1, ..Log::new(self.is_kafka, self.plant) }
    }

    pub fn cluster(&self) -> String {
        "cluster".into()
    }

    /// The topics of all families.
    pub fn topics(&self) -> HashMap<Family, TopicInfo> {
        Family::ALL.iter().map(|family| (*family, self.topic(*family))).collect()
    }

    pub fn topic(&self, family: Family) -> TopicInfo {
        let name = family.topic().name;
        TopicInfo { name: name.into(), id: format!("{name}-id-{}", self.generation), partitions: 2 }
    }

    // ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The one writer under this id, by its epoch: an earlier one is fenced, and what it left open is aborted.
    pub fn take_writer(&mut self, id: &str) -> u64 {
        let writer = self.writers.entry(id.to_string()).or_default();
        if self.plant == Plant::NoFence {
            return writer.0;
        }
        writer.0 += 1;
        let (epoch, open) = (writer.0, writer.1.take());
        open.into_iter().for_each(|transaction| self.end(transaction, Fate::Aborted));
        epoch
    }

    /// Sends a transaction's records; nobody may see them yet.
    pub fn send(&mut self, id: &str, epoch: u64, batch: Batch) -> Result<usize, Fenced> {
        let Batch { records, position, states } = batch;
        let transaction = self.transactions.len();
        let writer = self.writers.get_mut(id).ok_or(Fenced)?;
        if writer.0 != epoch {
            return Err(Fenced);
        }
        writer.1 = Some(transaction);
        if self.is_kafka {
            records
                .iter()
                .for_each(|record| self.partitions[record.partition()].entries.push(Entry { transaction, record: Some(*record) }));
        }
        self.now_ms += 1;
        self.transactions.push(Transaction { fate: Fate::Open, ts_ms: self.now_ms, records, position: Some(position), states });
        Ok(transaction)
    }

    /// Ends a transaction: records and position become visible together.
    pub fn commit(&mut self, id: &str, epoch: u64, transaction: usize) -> Result<(), Fenced> {
        let current = self.writers.get(id).is_some_and(|(now, open)| *now == epoch && *open == Some(transaction));
        if self.transactions[transaction].fate != Fate::Open || (!current && self.plant != Plant::NoFence) {
            return Err(Fenced);
        }
        if let Some(writer) = self.writers.get_mut(id) {
            writer.1 = None;
        }
        self.end(transaction, Fate::Committed);
        Ok(())
    }

    /// The broker ends a transaction that has been open for too long.
    pub fn time_out(&mut self, dice: &mut Dice) {
        let open: Vec<usize> = (0..self.transactions.len()).filter(|at| self.transactions[*at].fate == Fate::Open).collect();
        if !open.is_empty() {
            let transaction = open[dice.index(open.len())];
            self.end(transaction, Fate::Aborted);
        }
    }

    /// Nothing is open.
    pub fn is_quiet(&self) -> bool {
        self.transactions.iter().all(|transaction| transaction.fate != Fate::Open)
    }

    /// Every open one, as when all their writers are dead for long.
    pub fn time_out_all(&mut self) {
        for transaction in 0..self.transactions.len() {
            if self.transactions[transaction].fate == Fate::Open {
                self.end(transaction, Fate::Aborted);
            }
        }
    }

    fn end(&mut self, transaction: usize, fate: Fate) {
        if self.transactions[transaction].fate != Fate::Open {
            return;
        }
        self.transactions[transaction].fate = fate;
        let records = self.transactions[transaction].records.clone();
        for (at, partition) in self.partitions.iter_mut().enumerate() {
            let here = records.iter().filter(|record| record.partition() == at);
            if self.is_kafka {
                if here.count() > 0 {
                    partition.entries.push(Entry { transaction, record: None });
                }
            } else if fate == Fate::Committed {
                partition.entries.extend(here.map(|record| Entry { transaction, record: Some(*record) }));
            }
        }
        if fate == Fate::Committed && self.plant != Plant::PositionApart {
            self.take_position(transaction);
        }
        if fate == Fate::Committed && self.plant != Plant::StatesApart {
            self.take_states(transaction);
        }
    }

    /// The position of a transaction becomes visible.
    pub fn take_position(&mut self, transaction: usize) {
        if let Some((id, position)) = self.transactions[transaction].position.take() {
            self.positions.insert(id, position);
        }
    }

    /// What is known by a transaction becomes visible.
    pub fn take_states(&mut self, transaction: usize) {
        self.states.extend(std::mem::take(&mut self.transactions[transaction].states));
    }

    // ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The first offset of an open transaction, else the end.
    fn stable(&self, at: usize) -> i64 {
        let entries = &self.partitions[at].entries;
        let open = entries.iter().position(|entry| entry.record.is_some() && self.transactions[entry.transaction].fate == Fate::Open);
        open.filter(|_| self.plant != Plant::ReadUncommitted).unwrap_or(entries.len()) as i64
    }

    pub fn watermarks(&self, at: usize) -> Watermarks {
        Watermarks { low: self.partitions[at].low, high: self.stable(at).max(self.partitions[at].low) }
    }

    /// Committed records from an offset on, at most so many. `Err`: retention took the offset, the log begins there.
    pub fn read(&self, at: usize, from: i64, most: usize) -> Result<Read, i64> {
        if from < self.partitions[at].low {
            return Err(self.partitions[at].low);
        }
        let stable = self.stable(at);
        let (mut records, mut next) = (vec![], from);
        while next < stable && records.len() < most {
            if let Some(record) = self.given(at, next) {
                records.push((next, record));
            }
            next += 1;
        }
        Ok(Read { records, next, is_end: next >= stable })
    }

    /// What a reader is given at an offset.
    fn given(&self, at: usize, offset: i64) -> Option<Record> {
        let entry = self.partitions[at].entries.get(offset as usize)?;
        let visible = self.transactions[entry.transaction].fate == Fate::Committed || self.plant == Plant::ReadUncommitted;
        entry.record.filter(|_| visible)
    }

    /// What was ever committed at an offset, retention or not.
    pub fn committed(&self, at: usize, offset: i64) -> Option<Record> {
        let entry = self.partitions[at].entries.get(offset as usize)?;
        entry.record.filter(|_| self.transactions[entry.transaction].fate == Fate::Committed)
    }

    pub fn end_of(&self, at: usize) -> i64 {
        self.partitions[at].entries.len() as i64
    }

    /// An event as the real log gives it.
    pub fn event(&self, at: usize, offset: i64, record: Record) -> Event {
        let (family, partition) = PARTITIONS[at];
        let value = (u64::from(record.source) << 32 | u64::from(record.number)).to_be_bytes();
        Event {
            family,
            partition,
            offset,
            ts_ms: self.transactions[self.partitions[at].entries[offset as usize].transaction].ts_ms,
            ts_type: TimestampType::LogAppend,
            key: None,
            value: Some(Bytes::copy_from_slice(&value)),
            headers: vec![],
        }
    }

    // ── retention ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    pub fn told(&mut self, at: usize, offset: i64) {
        let told = &mut self.partitions[at].told;
        *told = offset.max(*told);
    }

    /// Kafka's retention asks nobody; the embedded log keeps what is not stored.
    pub fn expire(&mut self, at: usize, dice: &mut Dice) {
        let most = if self.is_kafka { self.stable(at) } else { self.partitions[at].told };
        let partition = &mut self.partitions[at];
        if most > partition.low {
            partition.low += 1 + dice.below((most - partition.low) as u64) as i64;
        }
    }
}
