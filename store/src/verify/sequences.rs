//! The order of a source's records, and what its venue says of itself: sequence numbers that go back or come again, and DBN's flags.
//!
//! Numbers of records are ours: within one partition they never go back. Sequence numbers and flags are the venue's: they are counted and told.
//! Holes are judged of those sources alone that declare their sequence complete (complete.rs): a DBN file may be filtered by symbol.

use serde::Serialize;
use std::collections::HashMap;
use std::sync::Mutex;

/// DBN's flag: the time of capture is off.
const BAD_TS_RECV: i32 = 1 << 3;
/// DBN's flag: the venue's channel had a gap that could not be filled.
const MAYBE_BAD_BOOK: i32 = 1 << 2;

/// What is remarkable about a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SourceLooked {
    /// First 16 bytes of the hash that names it, in hex (column `source_id`).
    pub source_id: String,
    /// File or address that it was last read from; absent where `sources` has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Records whose sequence number is less than that of the record of the same symbol before them.
    pub sequence_back: u64,
    /// Records with the same sequence number as the one of the same symbol before them, as records of one message have.
    pub sequence_again: u64,
    /// Records that the venue's feed flags: after a gap that could not be filled.
    pub flagged_bad_book: u64,
    /// Records that the venue's feed flags: their `ts_recv` is off.
    pub flagged_bad_ts_recv: u64,
}

/// The number of a source in this verification.
pub(super) type Source = u32;
/// A record whose source is not to be followed: it was published later than its neighbours, or is none of a family.
pub(super) const UNFOLLOWED: Source = Source::MAX;

/// Within what a source's numbers count up by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Within {
    Source,
    Symbol,
}

/// Steps of sequence numbers of one source: back, and on the same place.
pub(super) type Venue = HashMap<Source, (u64, u64)>;

/// All sources that rows name.
#[derive(Default)]
pub(super) struct Sources(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    numbers: HashMap<[u8; 16], Source>,
    looked: Vec<SourceLooked>,
    /// Those that declare their sequence complete, and within what.
    declared: HashMap<Source, Within>,
    /// What the numbers of those count within: the symbol, or nothing.
    series: HashMap<(Source, String), u32>,
}

impl Sources {
    /// The number of a source; a new one where it was not named before.
    pub(super) fn number(&self, id: &[u8]) -> Source {
        let Ok(id) = <[u8; 16]>::try_from(id) else { return UNFOLLOWED };
        let mut inner = self.0.lock().expect("nothing that holds the sources can panic");
        let next = Source::try_from(inner.looked.len()).unwrap_or(UNFOLLOWED);
        if let Some(known) = inner.numbers.get(&id) {
            return *known;
        }
        if next != UNFOLLOWED {
            inner.numbers.insert(id, next);
            inner.looked.push(SourceLooked { source_id: hex::encode(id), ..SourceLooked::default() });
        }
        next
    }

    pub(super) fn name(&self, id: &[u8], name: &str) {
        let number = self.number(id);
        self.change(number, |looked| looked.name = Some(name.to_string()));
    }

    /// The source declares its sequence complete within that.
    pub(super) fn declare(&self, id: &[u8], within: Within) {
        let number = self.number(id);
        self.0.lock().expect("nothing that holds the sources can panic").declared.insert(number, within);
    }

    pub(super) fn within(&self, source: Source) -> Option<Within> {
        self.0.lock().expect("nothing that holds the sources can panic").declared.get(&source).copied()
    }

    /// The number of a series of a source; a new one where it was not named before.
    pub(super) fn series_of(&self, source: Source, symbol: &str) -> u32 {
        let mut inner = self.0.lock().expect("nothing that holds the sources can panic");
        let next = inner.series.len() as u32;
        *inner.series.entry((source, symbol.to_string())).or_insert(next)
    }

    /// All series of sources that declare their sequence complete, in the order of their numbers.
    pub(super) fn series(&self) -> Vec<(Source, u32)> {
        let inner = self.0.lock().expect("nothing that holds the sources can panic");
        let mut series: Vec<_> = inner.series.iter().map(|((source, _), number)| (*source, *number)).collect();
        series.sort_unstable();
        series
    }

    /// In words: the source, and the symbol where it counts by symbol.
    pub(super) fn told_series(&self, source: Source, series: u32) -> String {
        let symbol = {
            let inner = self.0.lock().expect("nothing that holds the sources can panic");
            inner.series.iter().find(|(_, number)| **number == series).map(|((_, symbol), _)| symbol.clone()).unwrap_or_default()
        };
        match symbol.as_str() {
            "" => self.told(source),
            symbol => format!("{}, symbol {symbol}", self.told(source)),
        }
    }

    /// Counts flags of DBN.
    pub(super) fn flags(&self, source: Source, bad_book: u64, bad_ts_recv: u64) {
        self.change(source, |looked| {
            looked.flagged_bad_book += bad_book;
            looked.flagged_bad_ts_recv += bad_ts_recv;
        });
    }

    pub(super) fn add_venue(&self, venue: &Venue) {
        for (source, (back, again)) in venue {
            self.change(*source, |looked| {
                looked.sequence_back += back;
                looked.sequence_again += again;
            });
        }
    }

    fn change(&self, source: Source, change: impl FnOnce(&mut SourceLooked)) {
        let mut inner = self.0.lock().expect("nothing that holds the sources can panic");
        if let Some(looked) = inner.looked.get_mut(source as usize) {
            change(looked);
        }
    }

    /// In words: the name of a source, or its id.
    pub(super) fn told(&self, source: Source) -> String {
        let inner = self.0.lock().expect("nothing that holds the sources can panic");
        let looked = inner.looked.get(source as usize);
        looked.map_or("unknown".into(), |looked| looked.name.clone().unwrap_or_else(|| looked.source_id.clone()))
    }

    /// The sources of which there is something to say. Records of one message share a number, so that alone is not remarkable.
    pub(super) fn remarkable(&self) -> Vec<SourceLooked> {
        let mut looked = self.0.lock().expect("nothing that holds the sources can panic").looked.clone();
        looked.retain(|looked| looked.sequence_back + looked.flagged_bad_book + looked.flagged_bad_ts_recv > 0);
        looked.sort_by(|a, b| (&a.name, &a.source_id).cmp(&(&b.name, &b.source_id)));
        looked
    }
}

/// Which of the two a record's flags say: a bad book, a bad time.
pub(super) fn flagged(flags: i32) -> (bool, bool) {
    (flags & MAYBE_BAD_BOOK != 0, flags & BAD_TS_RECV != 0)
}

/// Follows the records of one partition in the order of their offsets.
#[derive(Default)]
pub(super) struct Follower {
    records: HashMap<Source, i64>,
    sequences: HashMap<(Source, u32), i64>,
    pub(super) venue: Venue,
}

impl Follower {
    /// The number of the record before, where this one's is less.
    pub(super) fn record(&mut self, source: Source, record: i64) -> Option<i64> {
        let before = self.records.insert(source, record)?;
        (record < before).then_some(before)
    }

    /// Counts a step of the venue's sequence. `series` is what it counts within.
    pub(super) fn sequence(&mut self, source: Source, series: u32, sequence: i64) {
        match self.sequences.insert((source, series), sequence) {
            Some(before) if sequence < before => self.venue.entry(source).or_default().0 += 1,
            Some(before) if sequence == before => self.venue.entry(source).or_default().1 += 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_back_are_told_and_others_are_not() {
        let mut follower = Follower::default();
        let steps: Vec<_> = [(0, 3), (1, 9), (0, 3), (0, 4), (0, 2), (1, 9), (0, 3)].map(|(source, n)| follower.record(source, n)).into();
        assert_eq!(steps, [None, None, None, None, Some(4), None, None]);
        for (series, sequence) in [(1, 7), (2, 3), (1, 7), (1, 8), (2, 2), (1, 9)] {
            follower.sequence(5, series, sequence);
        }
        assert_eq!(follower.venue, Venue::from([(5, (1, 1))]));
    }

    #[test]
    fn only_remarkable_sources_are_told_with_their_names() {
        let sources = Sources::default();
        let (quiet, loud) = (sources.number(&[1; 16]), sources.number(&[2; 16]));
        assert_eq!((sources.number(&[1; 16]), sources.number(b"short")), (quiet, UNFOLLOWED));
        sources.name(&[2; 16], "a.dbn.zst");
        sources.add_venue(&Venue::from([(quiet, (0, 5)), (loud, (2, 0))]));
        sources.flags(loud, 1, 0);
        let told = sources.remarkable();
        assert_eq!((told.len(), told[0].name.as_deref(), told[0].sequence_back, told[0].flagged_bad_book), (1, Some("a.dbn.zst"), 2, 1));
    }
}
