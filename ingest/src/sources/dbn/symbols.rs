//! Which raw symbol an instrument number stood for on a day, by a file's own dated mappings, fast enough to be asked for every record.

use dbn::{Metadata, SType};
use std::collections::HashMap;

/// Answers remembered by the low bits of the instrument number: most records ask again what one of the last few asked.
const REMEMBERED: usize = 1024;
/// `date.to_julian_day()` of 1970-01-01.
const JULIAN_DAY_OF_1970: i32 = 2_440_588;

/// The raw symbols of a file.
#[derive(Debug)]
pub(super) struct Symbols {
    names: Vec<Box<str>>,
    dated: HashMap<u32, Vec<Interval>>,
    /// Mappings that a live gateway sent among the records: they hold from there on.
    live: HashMap<u32, Box<str>>,
    remembered: Vec<Remembered>,
}

/// Days since 1970-01-01 on which a name holds, the last one excluded.
#[derive(Debug, Clone, Copy)]
struct Interval {
    from: i32,
    to: i32,
    name: u32,
}

#[derive(Debug, Clone, Copy)]
struct Remembered {
    instrument_id: u32,
    day: i32,
    name: u32,
}

const NO_NAME: u32 = u32::MAX;
/// No day is this one, so an empty place answers nothing.
const NO_DAY: i32 = i32::MIN;

impl Symbols {
    /// No mappings.
    pub(super) fn none() -> Symbols {
        let nothing = Remembered { instrument_id: 0, day: NO_DAY, name: NO_NAME };
        Symbols { names: Vec::new(), dated: HashMap::new(), live: HashMap::new(), remembered: vec![nothing; REMEMBERED] }
    }

    /// The mappings of a metadata header, as far as they tell raw symbols: those of other symbologies (`ES.c.0`) name no raw symbol.
    pub(super) fn of(metadata: &Metadata) -> Symbols {
        let mut symbols = Symbols::none();
        let inverse = metadata.stype_in == Some(SType::InstrumentId) && metadata.stype_out == SType::RawSymbol;
        for mapping in &metadata.mappings {
            let raw_is_asked = names_raw_symbol(metadata, &mapping.raw_symbol);
            for interval in &mapping.intervals {
                let (id, name) = match (inverse, raw_is_asked) {
                    (true, _) => (&mapping.raw_symbol, &interval.symbol),
                    (false, true) => (&interval.symbol, &mapping.raw_symbol),
                    (false, false) => continue,
                };
                let Ok(id) = id.parse::<u32>() else { continue };
                symbols.insert(id, day_of(interval.start_date.to_julian_day()), day_of(interval.end_date.to_julian_day()), name);
            }
        }
        symbols.dated.values_mut().for_each(|intervals| intervals.sort_by_key(|interval| interval.from));
        symbols
    }

    fn insert(&mut self, instrument_id: u32, from: i32, to: i32, name: &str) {
        if name.is_empty() {
            return; // old files write a day without a symbol so
        }
        let name = self.intern(name);
        self.dated.entry(instrument_id).or_default().push(Interval { from, to, name });
    }

    /// The intervals of one mapping follow each other, so looking at the last name suffices to store it once.
    fn intern(&mut self, name: &str) -> u32 {
        if self.names.last().is_none_or(|last| **last != *name) {
            self.names.push(name.into());
        }
        self.names.len() as u32 - 1
    }

    /// A live gateway says what a number stands for from here on.
    pub(super) fn map_live(&mut self, instrument_id: u32, name: &str) {
        if self.live.get(&instrument_id).is_none_or(|known| **known != *name) {
            self.live.insert(instrument_id, name.into());
        }
    }

    /// The raw symbol of an instrument on a day (since 1970-01-01), where it is known.
    pub(super) fn find(&mut self, instrument_id: u32, day: i32) -> Option<&str> {
        if !self.live.is_empty()
            && let Some(name) = self.live.get(&instrument_id)
        {
            return Some(name);
        }
        let place = instrument_id as usize % REMEMBERED;
        let remembered = self.remembered[place];
        let name = if remembered.instrument_id == instrument_id && remembered.day == day {
            remembered.name
        } else {
            let name = self.look_up(instrument_id, day);
            self.remembered[place] = Remembered { instrument_id, day, name };
            name
        };
        if name == NO_NAME { None } else { Some(&self.names[name as usize]) }
    }

    fn look_up(&self, instrument_id: u32, day: i32) -> u32 {
        let Some(intervals) = self.dated.get(&instrument_id) else { return NO_NAME };
        let after = intervals.partition_point(|interval| interval.from <= day);
        intervals[..after].iter().rev().find(|interval| day < interval.to).map_or(NO_NAME, |interval| interval.name)
    }
}

/// Asked by raw symbol, a mapping is named by it; asked by parent (`ES.FUT`), by those of its children, beside which the parent itself may
/// stand.
fn names_raw_symbol(metadata: &Metadata, name: &String) -> bool {
    if metadata.stype_out != SType::InstrumentId {
        return false;
    }
    match metadata.stype_in {
        Some(SType::RawSymbol) => true,
        Some(SType::Parent) => !metadata.symbols.contains(name),
        _ => false,
    }
}

/// A day in the Julian calendar's count as days since 1970-01-01.
pub(super) fn day_of(julian_day: i32) -> i32 {
    julian_day - JULIAN_DAY_OF_1970
}

#[cfg(test)]
mod tests {
    use super::*;
    use dbn::{MappingInterval, Schema, SymbolMapping};

    const DAY_NS: u64 = 86_400_000_000_000;

    fn interval(from: u64, to: u64, symbol: &str) -> MappingInterval {
        let date = |day: u64| dbn::record::ts_to_dt(day * DAY_NS).unwrap().date();
        MappingInterval { start_date: date(from), end_date: date(to), symbol: symbol.into() }
    }

    fn metadata(stype_in: SType, stype_out: SType, symbols: &[&str], mappings: Vec<SymbolMapping>) -> Metadata {
        Metadata::builder()
            .dataset("GLBX.MDP3")
            .schema(Some(Schema::Trades))
            .start(0)
            .stype_in(Some(stype_in))
            .stype_out(stype_out)
            .symbols(symbols.iter().map(|symbol| symbol.to_string()).collect())
            .mappings(mappings)
            .build()
    }

    fn mapping(raw_symbol: &str, intervals: Vec<MappingInterval>) -> SymbolMapping {
        SymbolMapping { raw_symbol: raw_symbol.into(), intervals }
    }

    #[test]
    fn a_number_means_another_contract_on_another_day() {
        let mappings = vec![
            mapping("ESH4", vec![interval(10, 20, "1"), interval(20, 30, "2")]),
            mapping("ESM4", vec![interval(20, 30, "1"), interval(30, 31, "")]),
        ];
        let mut symbols = Symbols::of(&metadata(SType::RawSymbol, SType::InstrumentId, &["ESH4", "ESM4"], mappings));
        assert_eq!(symbols.find(1, 9), None);
        assert_eq!(symbols.find(1, 10), Some("ESH4"));
        assert_eq!(symbols.find(1, 19), Some("ESH4"));
        assert_eq!(symbols.find(1, 20), Some("ESM4"));
        assert_eq!(symbols.find(2, 20), Some("ESH4"));
        assert_eq!(symbols.find(2, 30), None);
        assert_eq!(symbols.find(1 + REMEMBERED as u32, 20), None);
        assert_eq!(symbols.find(1, 20), Some("ESM4"));
    }

    #[test]
    fn only_raw_symbols_are_symbols() {
        let child = vec![mapping("ES.FUT", vec![interval(0, 9, "7")]), mapping("ESH4", vec![interval(0, 9, "8")])];
        let mut by_parent = Symbols::of(&metadata(SType::Parent, SType::InstrumentId, &["ES.FUT"], child));
        assert_eq!((by_parent.find(7, 1).is_none(), by_parent.find(8, 1)), (true, Some("ESH4")));
        let continuous = vec![mapping("ES.c.0", vec![interval(0, 9, "8")])];
        assert_eq!(Symbols::of(&metadata(SType::Continuous, SType::InstrumentId, &["ES.c.0"], continuous)).find(8, 1), None);
        let inverse = vec![mapping("8", vec![interval(0, 9, "ESH4")])];
        assert_eq!(Symbols::of(&metadata(SType::InstrumentId, SType::RawSymbol, &["8"], inverse)).find(8, 1), Some("ESH4"));
    }

    #[test]
    fn a_live_mapping_holds_from_where_it_stands() {
        let mut symbols = Symbols::none();
        assert_eq!(symbols.find(5, 100), None);
        symbols.map_live(5, "ESH4");
        assert_eq!(symbols.find(5, 100), Some("ESH4"));
        symbols.map_live(5, "ESM4");
        assert_eq!(symbols.find(5, 100), Some("ESM4"));
    }
}
