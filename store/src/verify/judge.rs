//! Compares what the commits claim of each partition with what the tables hold of it, and with what the log still has; partitions side by side.

use super::claims::{Claim, Claims};
use super::leaves::{LEAF_BYTES, Leaf, Leaves, Read};
use super::log::LogPart;
use super::losses;
use super::sequences::{Follower, Sources, UNFOLLOWED, Venue};
use super::{Finding, TOLD_MAX};
use crate::Error;
use crate::proof::{Hash, Tree};
use crate::spool::Sorted;
use eventlog::EventLog;
use schemas::Family;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// A partition that is to be judged.
pub(super) struct Partition {
    family: Family,
    partition: i32,
    /// In the order of their versions.
    claims: Vec<Claim>,
    /// Offsets that `gaps` notes as lost.
    lost: Vec<(i64, i64)>,
    /// The partition's transaction.
    txn: Option<i64>,
    /// The same of its poison, which is in `quarantine` a moment earlier.
    poison_txn: Option<i64>,
    sources: Arc<Sources>,
}

/// What came of it.
pub(super) struct Judged {
    pub(super) family: Family,
    pub(super) findings: Vec<Finding>,
    /// Intervals whose root was recomputed.
    pub(super) intervals: u64,
    /// Records that were compared with the log's, where one was asked.
    pub(super) compared: Option<u64>,
    pub(super) venue: Venue,
}

impl Partition {
    pub(super) fn new(family: Family, partition: i32, claims: &[Claim], read: &Read, of: &Claims, txns: [Option<i64>; 2]) -> Partition {
        let [txn, poison_txn] = txns;
        let lost = losses::lost(read, &of.topic.name, partition);
        Partition { family, partition, claims: claims.to_vec(), lost, txn, poison_txn, sources: read.sources.clone() }
    }
}

/// Judges all partitions, as many at a time as there are cores. Blocks.
pub(super) fn judge(
    partitions: Vec<Partition>,
    mut leaves: Leaves,
    log: Option<&Arc<dyn EventLog>>,
    claims: &HashMap<Family, Claims>,
) -> Result<Vec<Judged>, Error> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(partitions.len());
    let at = |of: &Partition, bucket: i64| (of.family, of.partition, bucket);
    let mut work = Vec::with_capacity(partitions.len());
    for (number, of) in partitions.into_iter().enumerate() {
        work.push((number, leaves.take(at(&of, i64::MIN)..=at(&of, i64::MAX)), of));
    }
    let work = Mutex::new(work.into_iter());
    let run = || -> Result<Vec<(usize, Judged)>, Error> {
        let mut judged = Vec::new();
        loop {
            let next = work.lock().expect("nothing that holds the work can panic").next();
            let Some((number, leaves, of)) = next else { return Ok(judged) };
            let first = of.claims.iter().map(|claim| claim.from + 1).min().unwrap_or(0);
            let end = of.claims.iter().map(|claim| claim.to + 1).max().unwrap_or(0);
            let log = match log {
                Some(log) => {
                    let end = end.max(of.poison_txn.unwrap_or(0));
                    Some(LogPart::open(log.as_ref(), of.family, of.partition, &claims[&of.family], first, end)?)
                }
                None => None,
            };
            judged.push((number, Judge::of(of, end, leaves, log).judge()?));
        }
    };
    let judged: Vec<Vec<_>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let joined = threads.into_iter().map(|thread| {
            let ended = |_| Error::Ended { part: "verification", why: "a thread of it gave up".into() };
            thread.join().map_err(ended)?
        });
        joined.collect::<Result<_, Error>>()
    })?;
    let mut judged: Vec<_> = judged.into_iter().flatten().collect();
    judged.sort_by_key(|(number, _)| *number);
    Ok(judged.into_iter().map(|(_, judged)| judged).collect())
}

/// At work on one partition.
struct Judge {
    of: Partition,
    /// Offset behind all that is claimed.
    end: i64,
    leaves: Sorted<LEAF_BYTES>,
    log: Option<LogPart>,
    compared: u64,
    follower: Follower,
    findings: Vec<Finding>,
    told: HashMap<&'static str, usize>,
}

impl Judge {
    fn of(of: Partition, end: i64, leaves: Sorted<LEAF_BYTES>, log: Option<LogPart>) -> Judge {
        Judge { of, end, leaves, log, compared: 0, follower: Follower::default(), findings: Vec::new(), told: HashMap::new() }
    }

    fn judge(mut self) -> Result<Judged, Error> {
        self.contiguous();
        let highest = self.intervals()?;
        self.transaction(highest);
        let mut told: Vec<_> = std::mem::take(&mut self.told).into_iter().filter(|(_, told)| *told > TOLD_MAX).collect();
        told.sort_unstable();
        for (kind, more) in told {
            self.found(kind, None, format!("and {} more of this partition", more - TOLD_MAX));
        }
        Ok(Judged {
            family: self.of.family,
            findings: self.findings,
            intervals: self.of.claims.len() as u64,
            compared: self.log.map(|_| self.compared),
            venue: self.follower.venue,
        })
    }

    fn found(&mut self, kind: &'static str, offsets: Option<(i64, i64)>, what: String) {
        let table = self.of.family.topic().name;
        self.findings.push(Finding { table, partition: Some(self.of.partition), offsets, kind, what });
    }

    fn tell(&mut self, kind: &'static str, offsets: (i64, i64), what: impl FnOnce() -> String) {
        let told = self.told.entry(kind).or_default();
        *told += 1;
        if *told <= TOLD_MAX {
            self.found(kind, Some(offsets), what());
        }
    }

    /// Each interval begins where the one before it ended; a hole between two must have been noted as lost.
    fn contiguous(&mut self) {
        let mut next = 0;
        const LOST: &str = "the log had lost these offsets before they were stored (table gaps)";
        for claim in self.of.claims.clone() {
            let first = claim.from + 1;
            if first < next {
                let what = format!("version {} claims offsets that an earlier one holds", claim.version);
                self.found("overlap", Some((first, next - 1)), what);
            }
            if first > next {
                let unexplained = holes(next, first - 1, &self.of.lost);
                for lost in holes(next, first - 1, &unexplained) {
                    self.found("lost", Some(lost), LOST.to_string());
                }
                for gap in unexplained {
                    let what = format!("no commit before version {} claims these offsets, and no row of gaps explains them", claim.version);
                    self.found("gap", Some(gap), what);
                }
            }
            next = next.max(claim.to + 1);
        }
        // What was lost behind the last interval: nothing was stored since.
        for (from, to) in self.of.lost.clone().into_iter().filter(|(_, to)| *to >= next) {
            self.found("lost", Some((from.max(next), to)), LOST.to_string());
        }
    }

    /// The partition's transaction is the next offset to read, and behind every row.
    fn transaction(&mut self, highest: Option<i64>) {
        let claimed = self.of.claims.iter().map(|claim| claim.to + 1);
        // A note of what the topic `gaps` itself lost moves the transaction of its records.
        let noted = self.of.lost.iter().map(|(_, to)| to.saturating_add(1)).filter(|_| self.of.family == Family::Gaps);
        let (txn, next) = (self.of.txn, claimed.chain(noted).max());
        let show = |version: Option<i64>| version.map_or("none".to_string(), |version| version.to_string());
        if txn != next {
            let what = format!("its transaction is {}, by its commits it should be {}", show(txn), show(next));
            self.found("transaction", None, what);
        }
        if let Some(highest) = highest.filter(|highest| txn.is_none_or(|txn| txn <= *highest)) {
            let what = format!("its transaction is {}, though offset {highest} is stored: it would be stored again", show(txn));
            self.found("transaction", Some((highest, highest)), what);
        }
    }

    fn next(&mut self) -> Result<Option<Leaf>, Error> {
        Ok(self.leaves.next()?.as_ref().map(Leaf::of))
    }

    /// Recomputes the root of every interval. Gives the highest offset that a row has.
    fn intervals(&mut self) -> Result<Option<i64>, Error> {
        let mut claims = self.of.claims.clone();
        claims.sort_by_key(|claim| claim.from);
        let mut highest = None;
        let mut pending = self.next()?;
        for claim in claims {
            let (mut tree, mut expected, mut missing, mut repeated) = (Tree::default(), claim.from + 1, Vec::new(), 0u64);
            let is_absent = |offset: i64| claim.absent.iter().any(|(first, last)| (*first..=*last).contains(&offset));
            while let Some(leaf) = pending {
                let offset = leaf.offset;
                if offset > claim.to {
                    break;
                }
                pending = self.next()?;
                highest = Some(offset);
                if offset <= claim.from {
                    self.tell("unclaimed", (offset, offset), || "a row that no commit claims".into());
                    continue;
                }
                if offset < expected {
                    repeated += 1;
                    self.tell("repeated", (offset, offset), || "more than one row".into());
                    continue;
                }
                if offset > expected {
                    missing.extend(holes(expected, offset - 1, &claim.absent));
                }
                if !claim.absent.is_empty() && is_absent(offset) {
                    let what = || "a row where the commit says that there is no record".into();
                    self.tell("unclaimed", (offset, offset), what);
                }
                self.follow(&leaf);
                self.compare(offset, &leaf.hash)?;
                tree.push(leaf.hash);
                expected = offset + 1;
            }
            missing.extend(holes(expected, claim.to, &claim.absent));
            self.conclude(&claim, &tree, &missing, repeated);
        }
        let mut poison = None;
        while let Some(leaf) = pending {
            let offset = leaf.offset;
            pending = self.next()?;
            // Quarantine comes first: of a commit that is under way, or was broken off, it has the poison already. That it is the log's only the log tells.
            if leaf.is_poison() && self.of.poison_txn.is_some_and(|txn| offset < txn) {
                match poison.replace(offset) == Some(offset) {
                    true => self.tell("repeated", (offset, offset), || "more than one row".into()),
                    false => self.compare(offset, &leaf.hash)?,
                }
                continue;
            }
            highest = Some(offset);
            self.tell("unclaimed", (offset, offset), || "a row that no commit claims".into());
        }
        self.compare_rest()?;
        Ok(highest)
    }

    fn conclude(&mut self, claim: &Claim, tree: &Tree, missing: &[(i64, i64)], repeated: u64) {
        for range in missing {
            self.tell("missing", *range, || format!("no row, though version {} claims them", claim.version));
        }
        let all = (claim.from + 1, claim.to);
        match &claim.root {
            None => self.tell("unproven", all, || "the commit states no root".into()),
            Some(root) if *root == hex::encode(tree.root()) || !missing.is_empty() || repeated > 0 => {}
            Some(_) if tree.len() == claim.records => {
                self.tell("altered", all, || format!("a row has other values than version {} stored", claim.version));
            }
            Some(_) => {
                let what = || format!("{} rows, though version {} claims {}", tree.len(), claim.version, claim.records);
                self.tell("altered", all, what);
            }
        }
    }

    /// The records of one source come in their order.
    fn follow(&mut self, leaf: &Leaf) {
        if leaf.source == UNFOLLOWED {
            return;
        }
        if let Some(before) = self.follower.record(leaf.source, leaf.record) {
            let sources = self.of.sources.clone();
            let what = || format!("record {} of {} stands behind its record {before}", leaf.record, sources.told(leaf.source));
            self.tell("backwards", (leaf.offset, leaf.offset), what);
        }
        if let Some(sequence) = leaf.sequence {
            self.follower.sequence(leaf.source, leaf.series, sequence);
        }
    }

    /// The log has the same record at this offset, as far as it reaches back.
    fn compare(&mut self, offset: i64, hash: &Hash) -> Result<(), Error> {
        let Some(mut log) = self.log.take_if(|log| offset >= log.low()) else { return Ok(()) };
        while let Some((unstored, _)) = log.peek()?.filter(|(at, _)| *at < offset) {
            self.unstored(unstored);
            log.pass();
        }
        match log.peek()? {
            Some((at, theirs)) if at == offset => {
                self.compared += 1;
                log.pass();
                if theirs != *hash {
                    self.tell("differs", (offset, offset), || "the log has another record here".into());
                }
            }
            _ => self.tell("unlogged", (offset, offset), || "a row of which the log has no record, though it reaches back further".into()),
        }
        self.log = Some(log);
        Ok(())
    }

    fn compare_rest(&mut self) -> Result<(), Error> {
        let Some(mut log) = self.log.take() else { return Ok(()) };
        while let Some((unstored, _)) = log.peek()?.filter(|(at, _)| *at < self.end) {
            self.unstored(unstored);
            log.pass();
        }
        self.log = Some(log);
        Ok(())
    }

    /// What stands behind all that is claimed waits to be stored.
    fn unstored(&mut self, offset: i64) {
        if offset >= self.end {
            return;
        }
        self.tell("unstored", (offset, offset), || "the log has a record here, and no row holds it".into());
    }
}

/// The offsets from `first` to `last` that are not said to be absent.
pub(super) fn holes(first: i64, last: i64, absent: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let mut holes = Vec::new();
    let mut next = first;
    for (from, to) in absent.iter().filter(|(from, to)| *to >= first && *from <= last) {
        if *from > next {
            holes.push((next, from - 1));
        }
        next = next.max(to.saturating_add(1));
    }
    if next <= last {
        holes.push((next, last));
    }
    holes
}
