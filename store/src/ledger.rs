//! Which offsets are stored, which come next, and which are absent. Pure.

use schemas::Family;
use std::collections::{BTreeMap, HashMap};

/// The application id of a table's transaction for one log partition.
pub fn app_id(table: &str, topic_id: &str, partition: i32) -> String {
    format!("{table}/{topic_id}/{partition}")
}

/// What becomes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is next; offsets of `absent` (first and last) came before it and hold no record: control records, or aborted ones.
    Accept {
        /// The hole before the event.
        absent: Option<(i64, i64)>,
    },
    /// It is stored, or on its way, or was not asked for.
    Skip,
}

/// Where every partition stands while it is read.
#[derive(Debug, Default)]
pub struct Ledger {
    partitions: HashMap<(Family, i32), Position>,
}

#[derive(Debug, Clone, Copy)]
struct Position {
    next: i64,
    quarantined: i64,
}

impl Ledger {
    /// Begins a partition: its table has all before `next`, and `quarantine` has what was undecodable before `quarantined`.
    pub fn begin(&mut self, family: Family, partition: i32, next: i64, quarantined: i64) {
        self.partitions.insert((family, partition), Position { next, quarantined });
    }

    /// Offers the next event of a partition.
    pub fn offer(&mut self, family: Family, partition: i32, offset: i64) -> Verdict {
        match self.partitions.get_mut(&(family, partition)) {
            Some(position) if offset >= position.next => {
                let absent = (offset > position.next).then_some((position.next, offset - 1));
                position.next = offset + 1;
                Verdict::Accept { absent }
            }
            _ => Verdict::Skip,
        }
    }

    /// True when the event, if it cannot be decoded, is in `quarantine` already: a crash came between that commit and the family's.
    pub fn is_quarantined(&self, family: Family, partition: i32, offset: i64) -> bool {
        self.partitions.get(&(family, partition)).is_some_and(|position| offset < position.quarantined)
    }
}

/// The part of a partition that one commit covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// First offset covered.
    pub from: i64,
    /// Offset after the last one covered.
    pub next: i64,
    /// Records in it.
    pub records: u64,
    /// Offsets in it that hold no record, as first and last.
    pub absent: Vec<(i64, i64)>,
}

impl Span {
    /// The span of one accepted event.
    pub fn of(offset: i64, absent: Option<(i64, i64)>) -> Span {
        let from = absent.map_or(offset, |(first, _)| first);
        Span { from, next: offset + 1, records: 1, absent: absent.into_iter().collect() }
    }

    /// Adds the span that follows.
    ///
    /// # Panics
    /// When it does not follow: a record would be lost or doubled, so nothing may be written.
    pub fn extend(&mut self, other: Span) {
        assert_eq!(self.next, other.from, "spans of one partition follow each other");
        self.next = other.next;
        self.records += other.records;
        for (first, last) in other.absent {
            match self.absent.last_mut() {
                Some(before) if before.1 + 1 == first => before.1 = last,
                _ => self.absent.push((first, last)),
            }
        }
    }
}

/// Adds a partition's next span to those of a batch.
pub fn follow(spans: &mut BTreeMap<i32, Span>, partition: i32, span: Span) {
    match spans.get_mut(&partition) {
        Some(before) => before.extend(span),
        None => drop(spans.insert(partition, span)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const F: Family = Family::Trades;

    #[test]
    fn stored_ones_are_skipped_and_holes_are_noted() {
        let mut ledger = Ledger::default();
        ledger.begin(F, 0, 5, 7);
        assert_eq!(ledger.offer(F, 0, 4), Verdict::Skip);
        assert_eq!(ledger.offer(F, 0, 5), Verdict::Accept { absent: None });
        assert_eq!(ledger.offer(F, 0, 5), Verdict::Skip);
        assert_eq!(ledger.offer(F, 0, 9), Verdict::Accept { absent: Some((6, 8)) });
        assert_eq!(ledger.offer(F, 1, 9), Verdict::Skip);
        assert!(ledger.is_quarantined(F, 0, 6) && !ledger.is_quarantined(F, 0, 7));
    }

    proptest! {
        /// Given offsets in any order, repeated at will, then each is accepted at most once, and accepted and absent ones tile the span.
        #[test]
        fn every_offset_is_accounted_for_once(start in 0i64..50, offered in proptest::collection::vec(0i64..200, 1..100)) {
            let mut ledger = Ledger::default();
            ledger.begin(F, 0, start, 0);
            let mut accepted = Vec::new();
            let mut span: Option<Span> = None;
            for offset in offered {
                if let Verdict::Accept { absent } = ledger.offer(F, 0, offset) {
                    accepted.push(offset);
                    match &mut span {
                        None => span = Some(Span::of(offset, absent)),
                        Some(span) => span.extend(Span::of(offset, absent)),
                    }
                }
            }
            prop_assert!(accepted.windows(2).all(|pair| pair[0] < pair[1]));
            let Some(span) = span else { return Ok(()) };
            prop_assert_eq!(span.from, start);
            prop_assert_eq!(span.records, accepted.len() as u64);
            let absent: Vec<i64> = span.absent.iter().flat_map(|(first, last)| *first..=*last).collect();
            let mut all = [accepted, absent].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (span.from..span.next).collect::<Vec<_>>());
        }
    }
}
