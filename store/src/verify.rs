//! Is the archive complete and unaltered? Answered from the tables alone: every interval that a commit claims is recomputed from its rows.
//!
//! ```text
//! claims.rs  commitInfo of every version ──► claims: partition, (from, to], absent and why, root, schemas ─┐
//! leaves.rs  every row of every file ──► record as it stood in the log ──► leaf hash (all cores) ──────────┤
//! rows.rs      and what of the row the record does not hold: it must follow from it ────────────────────────┤
//! log.rs     the records that the log still has ──► leaf hash, where it is asked for ──────────────────────┤
//! complete.rs  the numbers of sources that declare their sequence complete ──► holes ───────────────────────┤
//! losses.rs  what gaps says was lost ──► as its commits noted it, and nothing that is stored ──────────────┤
//! judge.rs                             per partition, in the order of offsets: a finding, or nothing ◄─────┘
//! ```
//!
//! Memory is bounded: the leaves wait in a file; of each partition that is judged a million offsets at a time are put in order.

mod claims;
mod complete;
mod judge;
mod leaves;
mod log;
mod losses;
mod rows;
mod sequences;

use crate::ledger::app_id;
use crate::{Error, opened};
use claims::Claims;
use eventlog::{EventLog, TopicInfo, Watermarks};
use judge::{Judged, Partition};
use lake::{Lake, Table};
use leaves::{Doubles, Read, Spools};
use schemas::Family;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub use sequences::SourceLooked;

/// Findings of one kind and partition that are told one by one.
const TOLD_MAX: usize = 20;

/// Something that is not as the commits say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Table.
    pub table: &'static str,
    /// Partition of its topic; absent where it is not about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    /// First and last offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offsets: Option<(i64, i64)>,
    /// What kind of thing it is, one word (docs/auditing.md): `missing`, `repeated`, `doubled`, `unclaimed`, `altered`, `gap`, `overlap`,
    /// `transaction`, `unreadable`, `unproven`, `misstated`, `lost`, `unexplained`, `schema`, `backwards`, `incomplete`; and beside the log `differs`, `unlogged`, `unstored`.
    pub kind: &'static str,
    /// In words.
    pub what: String,
}

impl Finding {
    /// About a table as a whole.
    fn of_table(family: Family, kind: &'static str, what: String) -> Finding {
        Finding { table: family.topic().name, partition: None, offsets: None, kind, what }
    }
}

/// What was looked at in one table.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Looked {
    /// Version of the table.
    pub version: u64,
    /// Data files read.
    pub files: u64,
    /// Rows in them.
    pub rows: u64,
    /// Commits that claim intervals.
    pub commits: u64,
    /// Intervals whose root was recomputed.
    pub intervals: u64,
    /// Offsets in those intervals that hold no record, by the reason that the commit gives.
    pub absent: BTreeMap<String, u64>,
    /// Records that were compared with those of the log; absent where no log was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared: Option<u64>,
}

/// What a verification found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verified {
    /// By table.
    pub tables: BTreeMap<&'static str, Looked>,
    /// Everything that is not as it should be.
    pub findings: Vec<Finding>,
    /// Sources whose venue says of itself that something is amiss. That is in what was published, and no fault of the archive.
    pub sources: Vec<SourceLooked>,
}

/// Reads every table whole, and nothing of the log. `progress` is told of the rows read.
pub async fn verify(lake: &Lake, progress: &mut (dyn FnMut(u64) + Send)) -> Result<Verified, Error> {
    verify_beside(lake, None, progress).await
}

/// Like [`verify`], and compares every record that `log` still has with what the tables make of it.
pub async fn verify_against(lake: &Lake, log: &Arc<dyn EventLog>, progress: &mut (dyn FnMut(u64) + Send)) -> Result<Verified, Error> {
    opened::refuse_other_log(log, lake).await?;
    let (_, topics) = opened::look(log).await?;
    // Before the tables: what the log has lost by now a store that goes on meanwhile does not bring any more.
    let beside = Beside { log: log.clone(), topics, watermarks: opened::watermarks(log).await? };
    let mut verified = verify_beside(lake, Some(beside), progress).await?;
    for family in Family::ALL {
        let commits = verified.tables.get(family.topic().name).map_or(0, |looked| looked.commits);
        if commits == 0 {
            verified.findings.extend(unstored(log, family).await?);
        }
    }
    Ok(verified)
}

/// The log has records of a table of which no commit claims any: they wait to be stored, or the table lost all of them.
async fn unstored(log: &Arc<dyn EventLog>, family: Family) -> Result<Option<Finding>, Error> {
    let log = log.clone();
    let asked = tokio::task::spawn_blocking(move || log::has_records(log.as_ref(), family)).await;
    let has_records = asked.map_err(|e| Error::Ended { part: "verification", why: e.to_string() })??;
    let what = "the log has records of it, and no commit claims any: they were never stored, or the table lost them";
    Ok(has_records.then(|| Finding::of_table(family, "unstored", what.into())))
}

/// The log that the tables are compared with, as it was before they were opened.
struct Beside {
    log: Arc<dyn EventLog>,
    topics: HashMap<Family, TopicInfo>,
    watermarks: HashMap<(Family, i32), Watermarks>,
}

impl Beside {
    /// What the log lost and neither the tables nor `gaps` have.
    fn unnoted(&self, read: &Read, claims: &HashMap<Family, Claims>) -> Vec<Finding> {
        let mut begun: Vec<_> = self.watermarks.iter().filter(|(_, watermarks)| watermarks.low > 0).collect();
        begun.sort_by_key(|(place, _)| **place);
        let unnoted = |((family, partition), watermarks): (&(Family, i32), &Watermarks)| {
            losses::unnoted(*family, &self.topics[family].name, *partition, watermarks.low, read, claims)
        };
        begun.into_iter().flat_map(unnoted).collect()
    }
}

async fn verify_beside(lake: &Lake, beside: Option<Beside>, progress: &mut (dyn FnMut(u64) + Send)) -> Result<Verified, Error> {
    let mut verified = Verified::default();
    let mut tables = tables(lake, &mut verified).await?;
    let there = lake.tables().await?;
    for family in lake.remembered().await?.into_iter().filter(|family| !there.contains(family)) {
        verified.tables.entry(family.topic().name).or_default();
        verified.findings.push(Finding::of_table(family, "missing", "the table is gone, with all that it held: it was there once".into()));
    }
    let mut claims: HashMap<Family, Claims> = HashMap::new();
    for table in &tables {
        let looked = verified.tables.entry(table.family().topic().name).or_default();
        looked.version = table.version();
        match claims::read(table, looked, &mut verified.findings).await {
            Some(found) => drop(claims.insert(table.family(), found)),
            None if table.snapshot().files().is_empty() => {}
            // The tables that the store alone writes to hold no interval of their own.
            None if matches!(table.family(), Family::Quarantine | Family::Gaps) => {}
            None => verified.findings.push(Finding::of_table(
                table.family(),
                "unproven",
                "no commit says which records it holds: it was written by a version without proofs".into(),
            )),
        }
    }
    let claims = Arc::new(claims);
    let mut spools = Spools::new()?;
    let read = leaves::read(lake, &mut tables, &claims, &mut spools, &mut verified, progress).await?;
    claims::check_schemas(&claims, &read.schema_ids, &mut verified.findings);
    let poison_txns = poison_txns(&mut tables, &claims).await?;
    let mut partitions = Vec::new();
    for table in &mut tables {
        let Some(claimed) = claims.get(&table.family()) else { continue };
        for (partition, intervals) in &claimed.partitions {
            let txn = table.txn_version(&app_id(table.family().topic().name, &claimed.topic.id, *partition)).await?;
            let poison = poison_txns.get(&(table.family(), *partition)).copied();
            partitions.push(Partition::new(table.family(), *partition, intervals, &read, claimed, [txn, poison]));
        }
    }
    verified.findings.extend(lost_elsewhere(&read, &claims));
    verified.findings.extend(side_transactions(&poison_txns, &claims, &read));
    let sources = read.sources.clone();
    if let Some(noted) = losses::noted(&tables).await {
        verified.findings.extend(losses::findings(&noted, &read, &claims));
    }
    verified.findings.extend(beside.as_ref().map_or_else(Vec::new, |beside| beside.unnoted(&read, &claims)));
    let log = beside.map(|beside| beside.log);
    let blocking = move || {
        let Spools { leaves, mut doubles, mut numbers } = spools;
        let judged = judge::judge(partitions, leaves, log.as_ref(), &claims)?;
        Ok::<_, Error>((judged, doubled(&mut doubles)?, complete::holes(&mut numbers, &sources)?))
    };
    let done = tokio::task::spawn_blocking(blocking).await;
    let (judged, doubled, holes) = done.map_err(|e| Error::Ended { part: "verification", why: e.to_string() })??;
    for Judged { family, findings, intervals, compared, venue } in judged {
        let looked = verified.tables.entry(family.topic().name).or_default();
        looked.intervals += intervals;
        looked.compared = looked.compared.map_or(compared, |before| Some(before + compared.unwrap_or(0)));
        verified.findings.extend(findings);
        read.sources.add_venue(&venue);
    }
    verified.findings.extend(doubled);
    verified.findings.extend(holes);
    verified.sources = read.sources.remarkable();
    Ok(verified)
}

/// The tables that can be opened; the others are findings.
async fn tables(lake: &Lake, verified: &mut Verified) -> Result<Vec<Table>, Error> {
    let mut tables = Vec::new();
    for family in lake.tables().await? {
        match lake.find(family).await {
            Ok(table) => tables.extend(table),
            Err(why) => {
                verified.tables.entry(family.topic().name).or_default();
                verified.findings.push(Finding::of_table(family, "unreadable", why.to_string()));
            }
        }
    }
    Ok(tables)
}

/// How far the poison of each partition is in `quarantine`.
async fn poison_txns(tables: &mut [Table], claims: &HashMap<Family, Claims>) -> Result<HashMap<(Family, i32), i64>, Error> {
    let mut txns = HashMap::new();
    let Some(table) = tables.iter_mut().find(|table| table.family() == Family::Quarantine) else { return Ok(txns) };
    let name = Family::Quarantine.topic().name;
    for (family, claimed) in claims.iter().filter(|(family, _)| **family != Family::Quarantine) {
        for partition in claimed.partitions.keys() {
            if let Some(txn) = table.txn_version(&app_id(name, &claimed.topic.id, *partition)).await? {
                txns.insert((*family, *partition), txn);
            }
        }
    }
    Ok(txns)
}

/// What was lost of partitions of which nothing was ever stored.
fn lost_elsewhere(read: &Read, claims: &HashMap<Family, Claims>) -> Vec<Finding> {
    let is_claimed =
        |topic: &str, partition: i32| claims.values().any(|of| of.topic.name == topic && of.partitions.contains_key(&partition));
    let lost = read.lost.iter().filter(|(topic, partition, ..)| !is_claimed(topic, *partition));
    let told = |(topic, partition, from, to): &(String, i32, i64, i64)| {
        let what = format!("the log had lost offsets {from} to {to} of {topic}[{partition}], of which nothing was stored");
        Finding::of_table(Family::Gaps, "lost", what)
    };
    lost.map(told).collect()
}

/// The transaction under which the store put a topic's poison into `quarantine` is behind all of it.
fn side_transactions(txns: &HashMap<(Family, i32), i64>, claims: &HashMap<Family, Claims>, read: &Read) -> Vec<Finding> {
    let mut findings = Vec::new();
    for ((family, partition), highest) in read.quarantined.iter().filter(|((family, _), _)| *family != Family::Quarantine) {
        let Some(claimed) = claims.get(family) else { continue };
        let txn = txns.get(&(*family, *partition));
        if txn.is_none_or(|txn| txn <= highest) {
            let txn = txn.map_or("none".to_string(), |txn| txn.to_string());
            let what =
                format!("it holds offset {highest} of {}[{partition}], but its transaction of that partition is {txn}", claimed.topic.name);
            findings.push(Finding::of_table(Family::Quarantine, "transaction", what));
        }
    }
    findings
}

/// Records whose own bytes are there twice, at two offsets: those bytes name source, record and revision, so one of them was published twice.
fn doubled(spool: &mut Doubles) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    let mut told: HashMap<&'static str, usize> = HashMap::new();
    let mut entries = spool.take(0..=u8::MAX);
    let mut before: Option<[u8; 29]> = None;
    while let Some(entry) = entries.next()? {
        let family = Family::ALL[usize::from(entry[16])];
        let place = |entry: &[u8; 29]| {
            let partition = i32::from_be_bytes(entry[17..21].try_into().expect("four bytes"));
            (partition, i64::from_be_bytes(entry[21..].try_into().expect("eight bytes")))
        };
        if let Some(first) = before.filter(|first| first[..17] == entry[..17] && place(first) != place(&entry)) {
            let told = told.entry(family.topic().name).or_default();
            *told += 1;
            if *told <= TOLD_MAX {
                let ((first_partition, first_offset), (partition, offset)) = (place(&first), place(&entry));
                findings.push(Finding {
                    table: family.topic().name,
                    partition: Some(partition),
                    offsets: Some((offset, offset)),
                    kind: "doubled",
                    what: format!("the same record of the same source as partition {first_partition}, offset {first_offset}"),
                });
            }
        }
        before = Some(entry);
    }
    for (table, more) in told.into_iter().filter(|(_, told)| *told > TOLD_MAX) {
        let what = format!("and {} more of this table", more - TOLD_MAX);
        findings.push(Finding { table, partition: None, offsets: None, kind: "doubled", what });
    }
    Ok(findings)
}
