//! What one commit of a family writes to which table, in which order, and which transactions it moves from where to where. Pure.

use crate::ledger::{Span, app_id};
use crate::place::Place;
use crate::tail::Tail;
use lake::Txn;
use schemas::Family;
use std::collections::BTreeMap;

/// Which of a batch's rows a version holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// What could not be decoded, whole.
    Bad,
    /// The family's rows.
    Good,
    /// Both: they are of one table.
    Both,
}

/// One Delta version: rows and transactions, all of it or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Whose table.
    pub table: Family,
    /// Which rows.
    pub rows: Rows,
    /// From where to where each partition moves.
    pub txns: Vec<Txn>,
}

/// The versions that store a batch, in this order: bad rows first, so that none is ever behind the family's transaction unseen.
///
/// `spans` are the offsets that it covers, `quarantined` the partitions with bad rows and how many, `places` where the tables stand.
pub fn steps(
    family: Family,
    topic_id: &str,
    spans: &BTreeMap<i32, Span>,
    quarantined: &BTreeMap<i32, u64>,
    places: &BTreeMap<i32, Place>,
) -> Vec<Step> {
    let move_of = |table: Family, partition: &i32, from| Txn {
        app_id: app_id(table.topic().name, topic_id, *partition),
        from,
        to: spans[partition].next,
    };
    let own: Vec<Txn> = spans.keys().map(|partition| move_of(family, partition, places[partition].txn)).collect();
    if family == Family::Quarantine {
        return vec![Step { table: family, rows: Rows::Both, txns: own }];
    }
    let good = Step { table: family, rows: Rows::Good, txns: own };
    if quarantined.is_empty() {
        return vec![good];
    }
    let side = quarantined.keys().map(|partition| move_of(Family::Quarantine, partition, places[partition].quarantine)).collect();
    vec![Step { table: Family::Quarantine, rows: Rows::Bad, txns: side }, good]
}

/// Where the tables stand when all steps are done.
pub fn moved(
    family: Family,
    spans: &BTreeMap<i32, Span>,
    quarantined: &BTreeMap<i32, u64>,
    tails: &BTreeMap<i32, Tail>,
    mut places: BTreeMap<i32, Place>,
) -> BTreeMap<i32, Place> {
    for (partition, place) in &mut places {
        let Some(span) = spans.get(partition) else { continue };
        if family != Family::Quarantine && quarantined.contains_key(partition) {
            place.quarantine = Some(span.next);
        }
        (place.txn, place.tail) = (Some(span.next), tails.get(partition).copied());
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans() -> BTreeMap<i32, Span> {
        BTreeMap::from([(0, Span::of(5, None)), (1, Span::of(9, Some((7, 8))))])
    }

    fn places() -> BTreeMap<i32, Place> {
        let place = |txn, quarantine| Place { txn, quarantine, tail: None };
        BTreeMap::from([(0, place(Some(5), None)), (1, place(None, Some(3)))])
    }

    fn txn(app_id: &str, from: Option<i64>, to: i64) -> Txn {
        Txn { app_id: app_id.into(), from, to }
    }

    #[test]
    fn bad_rows_go_first_and_only_their_partitions_move() {
        let family = vec![txn("trades/id/0", Some(5), 6), txn("trades/id/1", None, 10)];
        let good = Step { table: Family::Trades, rows: Rows::Good, txns: family.clone() };
        assert_eq!(steps(Family::Trades, "id", &spans(), &BTreeMap::new(), &places()), std::slice::from_ref(&good));
        let bad = BTreeMap::from([(1, 2)]);
        let quarantine = Step { table: Family::Quarantine, rows: Rows::Bad, txns: vec![txn("quarantine/id/1", Some(3), 10)] };
        assert_eq!(steps(Family::Trades, "id", &spans(), &bad, &places()), [quarantine, good]);
        let after = moved(Family::Trades, &spans(), &bad, &BTreeMap::new(), places());
        assert_eq!((after[&0].txn, after[&0].quarantine), (Some(6), None));
        assert_eq!((after[&1].txn, after[&1].quarantine), (Some(10), Some(10)));
    }

    #[test]
    fn the_family_quarantine_is_one_version() {
        let both = steps(Family::Quarantine, "id", &spans(), &BTreeMap::from([(1, 2)]), &places());
        assert_eq!(both.len(), 1);
        assert_eq!((both[0].rows, both[0].txns.len()), (Rows::Both, 2));
    }
}
