//! Real DBN files: what is read equals the facts that other libraries computed, and is written back as the same records.

use super::super::layout::{Wire, layout};
use super::*;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The real files with their facts; `None` (and a word about it) when they are not there.
fn files() -> Option<Vec<(String, PathBuf, Value)>> {
    let asked = std::env::var_os("TAPE_DATA").map(PathBuf::from);
    let folder = asked.clone().unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"));
    let Ok(text) = std::fs::read_to_string(folder.join("expected.json")) else {
        assert!(asked.is_none(), "TAPE_DATA is set, but {} cannot be read", folder.join("expected.json").display());
        println!("skipped: no real files at {} (set TAPE_DATA to their folder)", folder.display());
        return None;
    };
    let expected: Value = serde_json::from_str(&text).unwrap();
    let files = expected["files"].as_object().unwrap().iter();
    Some(files.filter(|(_, facts)| facts["kind"] == "dbn").map(|(name, facts)| (name.clone(), folder.join(name), facts.clone())).collect())
}

fn unpacked(path: &Path) -> Vec<u8> {
    let packed = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if path.extension().is_some_and(|extension| extension == "zst") { zstd::decode_all(&packed[..]).unwrap() } else { packed }
}

/// The two fragments have no header, so the user must say what they are.
fn given_for(name: &str) -> Given {
    match name.contains(".frag") {
        true => Given {
            name: name.into(),
            dataset: Some("XNAS.ITCH".into()),
            dbn_version: Some(3),
            schema: Some("definition".into()),
            ..Given::default()
        },
        false => Given { name: name.into(), ..Given::default() },
    }
}

#[test]
fn real_files_tell_the_facts_that_other_libraries_computed() {
    let Some(files) = files() else { return };
    let mut facts_seen = 0;
    for (name, path, expected) in &files {
        let (bytes, given) = (unpacked(path), given_for(name));
        assert!((FORMAT.recognise)(&bytes[..bytes.len().min(crate::source::HEAD_BYTES)], &given), "{name} is recognised");
        let tape = read(&bytes, &given).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((&tape.end, tape.bad.len(), &tape.notes[..]), (&End::Finished, 0, &[][..]), "{name}");
        assert_eq!((tape.records, tape.bytes), (expected["walk"]["records"].as_i64().unwrap(), bytes.len() as u64), "{name}");
        let facts = facts(&tape);
        for (fact, value) in expected.as_object().unwrap().iter().filter(|(fact, _)| !ABOUT_THE_FILE.contains(&fact.as_str())) {
            assert_eq!(facts.get(fact), Some(value), "{name}: {fact}");
            facts_seen += 1;
        }
    }
    println!("{} files, {facts_seen} facts", files.len());
    assert!(files.len() >= 101 && facts_seen > 2000);
}

/// Facts of the packed file, or of the library that computed them, which no record holds.
const ABOUT_THE_FILE: [&str; 7] = ["bytes", "sha256", "kind", "walk", "python_types", "walk_agrees", "databento_client"];

fn facts(tape: &Tape) -> Map<String, Value> {
    let header = &tape.header;
    let mut facts = Map::new();
    let mut say = |fact: &str, value: Value| facts.insert(fact.into(), value);
    say("dataset", json!(tape.dataset));
    say("schema", json!(header.schema));
    say("version_in_file", json!(header.version));
    say("start_ns", json!(header.start));
    say("end_ns", json!(header.end));
    say("limit", json!(header.limit));
    say("stype_in", json!(header.stype_in));
    say("stype_out", json!(header.stype_out));
    say("ts_out", json!(header.ts_out));
    say("symbols", json!(header.symbols));
    say("n_symbols", json!(header.symbols.as_ref().map(Vec::len)));
    say("n_mappings", json!(header.n_mappings));
    say("records", json!(tape.records));
    let records: Vec<RecordBatch> = Family::ALL.into_iter().flat_map(|family| tape.of(family)).collect();
    let all = |column: &str| -> Vec<Option<i64>> {
        records.iter().filter(|batch| batch.column_by_name(column).is_some()).flat_map(|batch| i64s(batch, column)).collect()
    };
    let distinct = |mut values: Vec<i64>| {
        values.sort_unstable();
        values.dedup();
        values
    };
    let instruments = distinct(all("instrument_id").into_iter().flatten().collect());
    say("n_instrument_ids", json!(instruments.len()));
    say("instrument_ids", json!(instruments));
    say("publisher_ids", json!(distinct(records.iter().flat_map(|batch| i32s(batch, "publisher_id")).flatten().map(i64::from).collect())));
    for clock in ["ts_event", "ts_recv"] {
        let times: Vec<i64> = all(clock).into_iter().flatten().collect();
        say(&format!("min_{clock}_ns"), json!(times.iter().min()));
        say(&format!("max_{clock}_ns"), json!(times.iter().max()));
        say(&format!("{clock}_nondecreasing"), json!(times.is_sorted()));
    }
    for (fact, column) in [("actions", "action"), ("sides", "side")] {
        let of = |family| tape.of(family);
        let families = [Family::Trades, Family::Quotes, Family::Depth, Family::Orders, Family::Imbalances];
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        for batch in families.into_iter().flat_map(of).filter(|batch| batch.column_by_name(column).is_some()) {
            texts(&batch, column).into_iter().flatten().for_each(|letter| *counts.entry(letter).or_default() += 1);
        }
        for batch in tape.of(Family::Status).iter().filter(|_| column == "action") {
            i32s(batch, column).into_iter().flatten().for_each(|number| *counts.entry(number.to_string()).or_default() += 1);
        }
        say(fact, json!(counts));
    }
    let prices: Vec<Option<i128>> =
        records.iter().filter(|batch| batch.column_by_name("price").is_some()).flat_map(|batch| decimals(batch, "price")).collect();
    let raw = |value: Option<i128>| json!(value.map(|value| i64::try_from(value).unwrap()));
    say("price_raw_sum", raw(Some(prices.iter().flatten().sum())));
    say("price_raw_min", raw(prices.iter().flatten().min().copied()));
    say("price_raw_max", raw(prices.iter().flatten().max().copied()));
    say("price_defined", json!(prices.iter().flatten().count()));
    say("price_undefined_i64max", json!(prices.iter().filter(|price| price.is_none()).count()));
    say("size_sum", json!(all("size").into_iter().flatten().sum::<i64>()));
    say("undefined_level_prices", json!(undefined_level_prices(&records)));
    bar_facts(tape, &mut say);
    statistic_facts(tape, &mut say);
    say("first_definitions", json!(tape.of(Family::Instruments).iter().flat_map(definitions).take(5).collect::<Vec<_>>()));
    facts
}

fn undefined_level_prices(records: &[RecordBatch]) -> usize {
    let of_level = |name: &str| name.starts_with("bid_px_") || name.starts_with("ask_px_");
    let undefined = |batch: &RecordBatch| -> usize {
        let schema = batch.schema();
        let levels = if schema.column_with_name("bid_px_09").is_some() { 10 } else { 1 };
        let columns = schema.fields().iter().filter(|field| of_level(field.name()));
        columns.take(2 * levels).map(|field| batch.column_by_name(field.name()).unwrap().null_count()).sum()
    };
    records.iter().map(undefined).sum()
}

fn bar_facts(tape: &Tape, say: &mut impl FnMut(&str, Value) -> Option<Value>) {
    let bars = tape.of(Family::Bars);
    let of = |column: &str| -> Vec<i128> { bars.iter().flat_map(|batch| decimals(batch, column)).flatten().collect() };
    let raw = |value: Option<&i128>| json!(value.map(|value| i64::try_from(*value).unwrap()));
    let volume: i128 = of("volume").iter().sum();
    assert_eq!(volume % 1_000_000_000, 0);
    say("volume_sum", json!((volume / 1_000_000_000) as i64));
    say("open_first_raw", raw(of("open").first()));
    say("high_max_raw", raw(of("high").iter().max()));
    say("low_min_raw", raw(of("low").iter().min()));
    say("close_last_raw", raw(of("close").last()));
}

fn statistic_facts(tape: &Tape, say: &mut impl FnMut(&str, Value) -> Option<Value>) {
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    let mut stats = Vec::new();
    for batch in tape.of(Family::Statistics) {
        let quantities =
            decimals(&batch, "quantity").into_iter().map(|value| value.map_or(i64::MAX, |value| (value / 1_000_000_000) as i64));
        let quantities: Vec<i64> = quantities.collect();
        for (row, stat_type) in i32s(&batch, "stat_type").into_iter().flatten().enumerate() {
            *counts.entry(stat_type.to_string()).or_default() += 1;
            stats.push(json!({
                "stat_type": stat_type,
                "ts_event": i64s(&batch, "ts_event")[row],
                "ts_ref": i64s(&batch, "ts_ref")[row],
                "price_raw": decimals(&batch, "price")[row].map_or(i64::MAX, |price| price as i64),
                "quantity_raw": quantities[row],
            }));
        }
    }
    say("stat_types", json!(counts));
    say("stats", json!(stats));
}

/// Definitions with their sentinels put back, as the facts have them.
fn definitions(batch: &RecordBatch) -> Vec<Value> {
    let price = |column: &str, row: usize| json!(decimals(batch, column)[row].map_or(i64::MAX, |price| price as i64));
    let time = |column: &str, row: usize| json!(i64s(batch, column)[row].map_or(u64::MAX, |time| time as u64));
    let number = |column: &str, row: usize, none: i32| json!(i32s(batch, column)[row].unwrap_or(none));
    (0..batch.num_rows())
        .map(|row| {
            json!({
                "raw_symbol": texts(batch, "raw_symbol")[row],
                "instrument_id": i64s(batch, "instrument_id")[row],
                "min_price_increment": price("min_price_increment", row),
                "display_factor": price("display_factor", row),
                "expiration": time("expiration", row),
                "activation": time("activation", row),
                "high_limit_price": price("high_limit_price", row),
                "low_limit_price": price("low_limit_price", row),
                "unit_of_measure_qty": price("unit_of_measure_qty", row),
                "currency": texts(batch, "dbn_currency")[row],
                "exchange": texts(batch, "exchange")[row],
                "asset": texts(batch, "asset")[row],
                "cfi": texts(batch, "cfi")[row],
                "security_type": texts(batch, "security_type")[row],
                "unit_of_measure": texts(batch, "unit_of_measure")[row],
                "underlying": texts(batch, "dbn_underlying")[row],
                "strike_price": price("strike_price", row),
                "instrument_class": texts(batch, "instrument_class")[row],
                "maturity_year": number("maturity_year", row, i32::from(u16::MAX)),
                "maturity_month": number("maturity_month", row, i32::from(u8::MAX)),
                "contract_multiplier": number("contract_multiplier", row, i32::MAX),
            })
        })
        .collect()
}

#[test]
fn real_records_are_written_back_as_the_same_bytes() {
    let Some(files) = files() else { return };
    let mut same = 0;
    for (name, path, expected) in &files {
        let bytes = unpacked(path);
        let tape = read(&bytes, &given_for(name)).unwrap();
        let version = expected["version_in_file"].as_u64().unwrap_or(3) as u8;
        for (family, batch, row) in tape.rows() {
            let written = write_back::record_bytes(family, &batch, row).unwrap_or_else(|e| panic!("{name}: {e}"));
            let at = i64s(&batch, "source_byte")[row].unwrap() as usize;
            let mut original = bytes[at..at + written.len()].to_vec();
            blank_reserved(version, &mut original);
            assert_eq!(written, original, "{name}, record at byte {at}");
            same += 1;
        }
    }
    println!("{same} records came back as they were");
    assert!(same >= 11_519);
}

/// Sets the bytes that no column holds to 0.
fn blank_reserved(version: u8, record: &mut [u8]) {
    let mut offset = 16;
    for (_, wire) in layout(version, record[1]).unwrap().fields.iter().copied().flatten() {
        if matches!(wire, Wire::Reserved(_)) {
            record[offset..offset + wire.width()].fill(0);
        }
        offset += wire.width();
    }
}

/// Every tick of a real file that names its symbols carries one; a definition's symbol is its own.
#[test]
fn real_records_carry_their_raw_symbol() {
    let Some(files) = files() else { return };
    for (name, path, expected) in &files {
        let tape = read(&unpacked(path), &given_for(name)).unwrap();
        for (family, batch, row) in tape.rows() {
            let symbol = texts(&batch, "symbol")[row].clone();
            match (family, expected["stype_in"].as_str()) {
                (Family::Instruments, _) => assert_eq!(symbol, texts(&batch, "raw_symbol")[row], "{name}"),
                (_, Some("raw_symbol")) => {
                    assert!(symbol.is_some_and(|symbol| tape.header.symbols.as_ref().unwrap().contains(&symbol)), "{name}")
                }
                (_, _) => assert_eq!(symbol, None, "{name}"),
            }
        }
    }
}
