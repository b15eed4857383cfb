//! The tables of the simulation: versions that are put one after the other, each whole or not at all, each moving transactions. Every version
//! is held against the rules before it lands.

use crate::log::{Log, PARTITIONS, Record};
use crate::plant::Plant;
use lake::Txn;
use schemas::Family;
use std::collections::{BTreeMap, HashMap};
use store::ledger::Span;
use store::tail::Tail;

/// A stored record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Index into [`PARTITIONS`].
    pub at: usize,
    pub offset: i64,
    pub record: Record,
}

/// One version.
#[derive(Debug, Clone, Default)]
pub struct Version {
    pub txns: Vec<Txn>,
    pub rows: Vec<Row>,
    /// The intervals of the family's own topic, which this version ends.
    pub spans: BTreeMap<i32, Span>,
    /// Whose topic it is about; `None` = a rewrite, about none.
    pub about: Option<Family>,
    pub tails: BTreeMap<i32, Tail>,
    /// Which topics.
    pub generation: u32,
    /// Lost offsets that it names: partition, first, the one after the last.
    pub gap: Option<(usize, i64, i64)>,
}

#[derive(Debug, Default)]
struct Table {
    versions: Vec<Version>,
    txns: HashMap<String, i64>,
}

/// A table as somebody has read it.
#[derive(Debug, Clone)]
pub struct Handle {
    version: usize,
    txns: HashMap<String, i64>,
}

impl Handle {
    pub fn txn(&self, app_id: &str) -> Option<i64> {
        self.txns.get(app_id).copied()
    }
}

/// What became of one try to put a version.
#[derive(Debug, PartialEq, Eq)]
pub enum Put {
    Landed,
    /// Another version came first that touches nothing of this one: try again behind it.
    SteppedOver,
    /// Another version came first that moves the same transaction.
    Fenced(String),
    /// The table stands elsewhere than the caller believed.
    Moved(String),
}

/// A version on its way that nobody waits for any more: it lands if its place is free.
#[derive(Debug)]
struct Late {
    family: Family,
    place: usize,
    version: Version,
}

#[derive(Debug)]
pub struct Tables {
    plant: Plant,
    tables: HashMap<Family, Table>,
    /// Where each offset of each partition is stored, by generation.
    stored: HashMap<(u32, usize, i64), Record>,
    /// Lost offsets by generation and partition, as `gaps` names them.
    named: Vec<(u32, usize, i64, i64)>,
    late: Vec<Late>,
    /// Whose they are.
    pub owner: Option<String>,
    pub landed: usize,
}

impl Tables {
    pub fn new(plant: Plant) -> Tables {
        let tables = [Family::Trades, Family::Quarantine, Family::Gaps].into_iter().map(|family| (family, Table::default())).collect();
        Tables { plant, tables, stored: HashMap::new(), named: vec![], late: vec![], owner: None, landed: 0 }
    }

    pub fn open(&self, family: Family) -> Handle {
        let table = &self.tables[&family];
        Handle { version: table.versions.len(), txns: table.txns.clone() }
    }

    /// The newest version that is about a family's topic, as far as a handle has read.
    pub fn newest_about(&self, table: Family, handle: &Handle, family: Family) -> Option<&Version> {
        self.tables[&table].versions[..handle.version].iter().rev().find(|version| version.about == Some(family))
    }

    /// One try to put a version as the next one after what the handle has seen.
    pub fn put(&mut self, log: &Log, family: Family, handle: &mut Handle, version: &Version) -> Result<Put, String> {
        let compares = self.plant != Plant::NoCompareAndSet;
        for txn in version.txns.iter().filter(|_| compares) {
            if handle.txn(&txn.app_id) != txn.from {
                return Ok(Put::Moved(txn.app_id.clone()));
            }
        }
        let table = &self.tables[&family];
        if let Some(winner) = table.versions.get(handle.version) {
            let both = winner.txns.iter().find(|theirs| version.txns.iter().any(|ours| ours.app_id == theirs.app_id));
            if let Some(txn) = both.filter(|_| compares) {
                return Ok(Put::Fenced(txn.app_id.clone()));
            }
            handle.version += 1;
            handle.txns.extend(winner.txns.iter().map(|txn| (txn.app_id.clone(), txn.to)));
            return Ok(Put::SteppedOver);
        }
        self.land(log, family, version.clone())?;
        handle.version += 1;
        handle.txns.extend(version.txns.iter().map(|txn| (txn.app_id.clone(), txn.to)));
        Ok(Put::Landed)
    }

    /// The request is on its way, and its sender will not hear of it.
    pub fn put_late(&mut self, family: Family, handle: &Handle, version: &Version) {
        let fits = version.txns.iter().all(|txn| handle.txn(&txn.app_id) == txn.from);
        if fits {
            self.late.push(Late { family, place: handle.version, version: version.clone() });
        }
    }

    /// A late request arrives: of two for one place the first one wins.
    pub fn arrive(&mut self, log: &Log, index: usize) -> Result<bool, String> {
        let late = self.late.swap_remove(index);
        if self.tables[&late.family].versions.len() != late.place {
            return Ok(false);
        }
        self.land(log, late.family, late.version)?;
        Ok(true)
    }

    pub fn late(&self) -> usize {
        self.late.len()
    }

    /// Another writer's version, which touches no row: a rewrite.
    pub fn rewrite(&mut self, family: Family) {
        self.tables.get_mut(&family).expect("a table").versions.push(Version::default());
    }

    fn land(&mut self, log: &Log, family: Family, version: Version) -> Result<(), String> {
        let table = &self.tables[&family];
        for txn in &version.txns {
            let before = table.txns.get(&txn.app_id).copied().unwrap_or(0);
            if txn.to < before {
                return Err(format!("{} goes back from {before} to {}", txn.app_id, txn.to));
            }
        }
        for row in &version.rows {
            if let Some(before) = self.stored.insert((version.generation, row.at, row.offset), row.record) {
                return Err(format!("{:?} offset {} is stored twice: {before:?}, {:?}", PARTITIONS[row.at], row.offset, row.record));
            }
        }
        for (partition, span) in &version.spans {
            self.check_span(log, family, *partition, span, &version)?;
        }
        if let Some((at, first, next)) = version.gap {
            self.named.push((version.generation, at, first, next));
        }
        let table = self.tables.get_mut(&family).expect("a table");
        table.txns.extend(version.txns.iter().map(|txn| (txn.app_id.clone(), txn.to)));
        table.versions.push(version);
        self.landed += 1;
        Ok(())
    }

    /// An interval begins where the last one ended, or behind what `gaps` names, and each of its offsets is stored or holds no record.
    fn check_span(&self, log: &Log, family: Family, partition: i32, span: &Span, version: &Version) -> Result<(), String> {
        let at = PARTITIONS.iter().position(|place| *place == (family, partition)).expect("one of ours");
        let app_id = store::ledger::app_id(family.topic().name, &format!("{}-id-{}", family.topic().name, version.generation), partition);
        let before = self.tables[&family].txns.get(&app_id).copied().unwrap_or(0);
        let here = format!("{family:?}[{partition}] ({}..{})", span.from, span.next);
        if span.from < before {
            return Err(format!("{here} begins before {before}, where the last one ended"));
        }
        if let Some(silent) = (before..span.from).find(|offset| !self.is_named(version.generation, at, *offset)) {
            return Err(format!("{here}: offset {silent} is neither stored nor named in gaps"));
        }
        let absent = |offset: i64| span.absent.iter().any(|(first, last)| (*first..=*last).contains(&offset));
        let mut records = 0;
        for offset in span.from..span.next {
            let stored = self.stored.contains_key(&(version.generation, at, offset));
            records += u64::from(stored);
            if stored == absent(offset) {
                return Err(format!(
                    "{here}: offset {offset} is {} and absent {}",
                    if stored { "stored" } else { "not stored" },
                    absent(offset)
                ));
            }
            if version.generation == log.generation && !log.is_restored && !stored && log.committed(at, offset).is_some() {
                return Err(format!("{here}: offset {offset} is said to hold no record, and holds one"));
            }
        }
        if records != span.records {
            return Err(format!("{here} has {records} records, and says {}", span.records));
        }
        Ok(())
    }

    pub fn is_named(&self, generation: u32, at: usize, offset: i64) -> bool {
        self.named.iter().any(|(of, named, first, next)| (*of, *named) == (generation, at) && (*first..*next).contains(&offset))
    }

    pub fn stored(&self, generation: u32, at: usize, offset: i64) -> Option<Record> {
        self.stored.get(&(generation, at, offset)).copied()
    }

    /// Every stored record with its partition and offset, of one generation.
    pub fn rows(&self, generation: u32) -> impl Iterator<Item = (usize, i64, Record)> {
        self.stored.iter().filter(move |((of, ..), _)| *of == generation).map(|((_, at, offset), record)| (*at, *offset, *record))
    }

    /// What `gaps` names of one generation.
    pub fn gaps(&self, generation: u32) -> impl Iterator<Item = (usize, i64, i64)> {
        self.named.iter().filter(move |(of, ..)| *of == generation).map(|(_, at, first, next)| (*at, *first, *next))
    }
}
