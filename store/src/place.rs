//! Where the tables stand in one log partition, and from which offset it is read on. Pure.

use crate::Error;
use crate::tail::Tail;
use eventlog::{TopicInfo, Watermarks};
use schemas::Family;

/// Where one log partition stands in the tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// The family's transaction: the next offset to store.
    pub txn: Option<i64>,
    /// The transaction of table `quarantine` for this partition.
    pub quarantine: Option<i64>,
    /// The last record that the family's table has, where a commit says it.
    pub tail: Option<Tail>,
}

impl Place {
    /// True when `quarantine` is ahead of the family's table: a crash came between the two commits, or another store is between them. Then
    /// the commit to `quarantine` says what the log must have still.
    pub fn is_between(&self) -> bool {
        self.quarantine > self.txn
    }

    /// The same, with what the commit to `quarantine` says of the last record.
    pub fn with(self, side: Option<Tail>) -> Place {
        Place { tail: self.tail.into_iter().chain(side).max_by_key(|tail| tail.offset), ..self }
    }
}

/// Offsets that the log no longer has and the tables never had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// The first of them.
    pub first: i64,
    /// The offset after the last one.
    pub next: i64,
}

impl Lost {
    /// What of it table `gaps` has to be told yet, where it names the partition's losses before `noted`.
    pub fn beyond(self, noted: Option<i64>) -> Option<Lost> {
        let first = noted.unwrap_or(0).max(self.first);
        (first < self.next).then_some(Lost { first, ..self })
    }

    /// How many.
    pub fn offsets(self) -> u64 {
        (self.next - self.first).unsigned_abs()
    }
}

/// How a partition begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// First offset to read.
    pub next: i64,
    /// What could not be decoded before this offset is in `quarantine` already.
    pub quarantined: i64,
    /// What is lost, to be noted before anything behind it is stored.
    pub lost: Option<Lost>,
    /// The record that the log must have there still.
    pub compare: Option<Tail>,
}

/// Refuses a table that has records of the partition, as a commit of its own says, but no longer says how many.
pub fn refuse_unsaid(family: Family, topic: &TopicInfo, partition: i32, place: &Place) -> Result<(), Error> {
    match place.txn.is_none() && place.tail.is_some() {
        true => Err(Error::TxnLost { table: family.topic().name, name: topic.name.clone(), partition }),
        false => Ok(()),
    }
}

/// Decides where a partition begins. A log that ends before what was stored from it is refused.
pub fn begin(family: Family, topic: &TopicInfo, partition: i32, place: &Place, log: &Watermarks) -> Result<Begin, Error> {
    let stored = place.txn.unwrap_or(0);
    if stored > log.high {
        return Err(Error::Ahead { name: topic.name.clone(), partition, stored, high: log.high });
    }
    let next = stored.max(log.low);
    Ok(Begin {
        next,
        // The family `quarantine` has one transaction for its own rows and for those that the store adds.
        quarantined: if family == Family::Quarantine { 0 } else { place.quarantine.unwrap_or(0) },
        lost: (next > stored).then_some(Lost { first: stored, next }),
        compare: place.tail.filter(|tail| tail.offset >= log.low),
    })
}

/// Where the partition stands when its losses before `next` were noted: in the family `gaps` the note moved its own transaction.
pub fn noted(family: Family, place: Place, next: i64) -> Place {
    match family {
        Family::Gaps => Place { txn: Some(next), ..place },
        _ => place,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(family: Family, place: Place, low: i64, high: i64) -> Result<Begin, Error> {
        let topic = TopicInfo { name: "tape.trades".into(), id: "id".into(), partitions: 1 };
        begin(family, &topic, 0, &place, &Watermarks { low, high })
    }

    #[test]
    fn a_partition_begins_where_its_table_ends_and_never_behind_the_log() {
        let at = |txn, low| begun(Family::Trades, Place { txn, ..Place::default() }, low, 100).expect("within the log");
        assert_eq!((at(None, 0).next, at(None, 0).lost), (0, None));
        assert_eq!((at(Some(7), 7).next, at(Some(7), 7).lost), (7, None));
        assert_eq!((at(Some(7), 9).next, at(Some(7), 9).lost), (9, Some(Lost { first: 7, next: 9 })));
        assert_eq!(at(Some(100), 0).next, 100, "all of it is stored");
        let ahead = begun(Family::Trades, Place { txn: Some(101), ..Place::default() }, 0, 100);
        assert!(matches!(ahead, Err(Error::Ahead { stored: 101, high: 100, .. })), "{ahead:?}");
    }

    #[test]
    fn rows_without_a_transaction_are_refused() {
        let topic = TopicInfo { name: "tape.trades".into(), id: "id".into(), partitions: 1 };
        let refused = |txn, tail| refuse_unsaid(Family::Trades, &topic, 0, &Place { txn, tail, ..Place::default() });
        let tail = Some(Tail { offset: 6, sha256: [1; 32] });
        assert!(matches!(refused(None, tail), Err(Error::TxnLost { table: "trades", partition: 0, .. })));
        assert!(refused(Some(7), tail).is_ok() && refused(None, None).is_ok());
    }

    #[test]
    fn what_was_noted_is_not_noted_again() {
        let lost = Lost { first: 7, next: 9 };
        assert_eq!(lost.beyond(None), Some(lost));
        assert_eq!(lost.beyond(Some(8)), Some(Lost { first: 8, next: 9 }));
        assert_eq!(lost.beyond(Some(9)), None);
    }

    #[test]
    fn a_record_that_retention_took_is_not_compared() {
        let tail = Tail { offset: 6, sha256: [1; 32] };
        let place = Place { txn: Some(7), quarantine: Some(9), tail: Some(tail) };
        let side = Tail { offset: 8, sha256: [2; 32] };
        assert!(place.is_between() && !Place { quarantine: Some(7), ..place }.is_between() && !Place::default().is_between());
        assert_eq!((place.with(Some(side)).tail, place.with(None).tail), (Some(side), Some(tail)));
        let compared = |low| begun(Family::Trades, place, low, 100).expect("within the log").compare;
        assert_eq!((compared(6), compared(7)), (Some(tail), None));
        assert_eq!(begun(Family::Trades, place, 0, 100).expect("within the log").quarantined, 9);
        assert_eq!(begun(Family::Quarantine, place, 0, 100).expect("within the log").quarantined, 0, "one transaction for both");
    }
}
