//! CTP snapshots: the real files against facts that other libraries computed, and every way in which a file can be wrong.

use super::*;
use crate::source::End;
use crate::sources::trial::{self, Trial, data, expected, given, nano, read_by, unpacked};
use proptest::prelude::*;
use schemas::Family::Snapshots as S;
use serde_json::Value;

fn header() -> String {
    column_names().map(|name| format!("\"{name}\"")).join(",")
}

/// One record; `set` replaces columns by name.
fn record(symbol: &str, set: &[(&str, &str)]) -> String {
    let value = |name: &str, kind: Kind| {
        set.iter().find(|(n, _)| *n == name).map_or(
            match kind {
                Kind::TradingDay => "20181010",
                Kind::ActionDay => "20181009",
                Kind::UpdateTime => "21:00:00",
                Kind::UpdateMillisec => "500",
                Kind::Symbol => symbol,
                Kind::Text => "",
                Kind::Quote => "12345.00",
                Kind::Number => "100.00",
                Kind::Size => "7",
            },
            |(_, v)| v,
        )
    };
    COLUMNS.iter().map(|(name, _, kind)| format!("\"{}\"", value(name, *kind))).collect::<Vec<_>>().join(",")
}

fn file(lines: &[String]) -> Vec<u8> {
    format!("{}\n{}\n", header(), lines.join("\n")).into_bytes()
}

fn read(bytes: &[u8]) -> Trial {
    trial::read(bytes, "x.csv")
}

#[test]
fn the_night_session_keeps_both_days_and_shanghai_time() {
    let t = read(&file(&[record("ru1901", &[])]));
    assert_eq!(t.parser, "ctp/1");
    assert_eq!(t.dataset, "XSGE.CTP");
    assert_eq!(t.integers(S, "ts_event"), [Some(1_539_090_000_500_000_000)]);
    assert_eq!(t.dates(S, "trade_date"), [Some("20181010".into())]);
    assert_eq!(t.dates(S, "action_day"), [Some("20181009".into())]);
    assert_eq!(t.dates(S, "date"), [Some("20181009".into())]);
    assert_eq!(t.text(S, "schema"), Some("ctp".into()));
    assert_eq!(t.text(S, "exchange_id"), Some(String::new()));
    assert_eq!(t.integers(S, "source_byte"), [Some(header().len() as i64 + 1)]);
}

#[test]
fn absent_is_spelt_by_the_exchange() {
    let dbl_max = "1.7976931348623157e+308";
    let shfe = record("ru1901", &[("ClosePrice", "N/A"), ("BidPrice2", dbl_max), ("AskPrice2", "0.00"), ("BidVolume2", "0")]);
    let czce = record(
        "AP010",
        &[("ClosePrice", "0.00"), ("SettlementPrice", "N/A"), ("BidPrice1", "0.00"), ("BidVolume1", "9"), ("Turnover", "0.00")],
    );
    let t = read(&file(&[shfe, czce]));
    assert!(t.bad.is_empty(), "{:?}", t.bad);
    assert_eq!(t.texts(S, "dataset"), [Some("XSGE.CTP".into()), Some("XZCE.CTP".into())]);
    assert_eq!(t.decimals(S, "close"), [None, None]);
    assert_eq!(t.decimals(S, "bid_px_01")[0], None);
    assert_eq!(t.decimals(S, "ask_px_01")[0], Some(0));
    assert_eq!(t.decimals(S, "settlement_price")[1], None);
    assert_eq!(t.decimals(S, "bid_px_00")[1], None);
    assert_eq!(t.integers(S, "bid_sz_00")[1], Some(9));
    assert_eq!(t.decimals(S, "turnover")[1], Some(0));
}

#[test]
fn largest_double_without_exponent_is_absent_too() {
    let printed = format!("{:.6}", f64::MAX);
    assert!(is_none(&printed) && is_none("1.79769313486232E+308") && !is_none("1797693.00"));
}

#[test]
fn columns_may_stand_in_another_order() {
    let reversed = |line: String| line.split(',').rev().map(String::from).collect::<Vec<_>>().join(",");
    let t = read(format!("{}\n{}\n", reversed(header()), reversed(record("ru1901", &[]))).as_bytes());
    assert_eq!(t.decimals(S, "last_price"), [Some(nano("12345"))]);
}

#[test]
fn a_renamed_column_is_an_error_that_names_it() {
    let text = String::from_utf8(file(&[record("ru1901", &[])])).unwrap().replace("\"Turnover\"", "\"TurnOver\"");
    let Some(Err(error)) = read_by(text.as_bytes(), &given("x.csv"), 9) else { panic!("expected an error") };
    let error = error.to_string();
    assert!(error.contains("missing Turnover; extra TurnOver"), "{error}");
}

#[test]
fn an_unknown_product_asks_for_the_dataset() {
    let bytes = file(&[record("tk2612", &[])]);
    let Some(Err(error)) = read_by(&bytes, &given("x.csv"), 9) else { panic!("expected an error") };
    assert!(error.to_string().contains("--dataset"), "{error}");
    let with = Given { dataset: Some("SYN.XSGE".into()), ..given("x.csv") };
    let t = read_by(&bytes, &with, 9).unwrap().unwrap();
    assert_eq!((t.dataset.as_str(), t.rows(S)), ("SYN.XSGE", 1));
}

#[test]
fn bad_records_never_cost_good_ones() {
    let good = record("ru1901", &[]);
    let cases = [
        ("LastPrice", record("ru1901", &[("LastPrice", "inf")])),
        ("LastPrice", record("ru1901", &[("LastPrice", "1000000000.00")])),
        ("Volume", record("ru1901", &[("Volume", "999999999999999999999999999999")])),
        ("BidVolume1", record("ru1901", &[("BidVolume1", "99999999999999999999")])),
        ("ActionDay", record("ru1901", &[("ActionDay", "20180230")])),
        ("TradingDay", record("ru1901", &[("TradingDay", "")])),
        ("UpdateTime", record("ru1901", &[("UpdateTime", "25:00:00")])),
        ("UpdateMillisec", record("ru1901", &[("UpdateMillisec", "1000")])),
        ("InstrumentID", record("zz1901", &[])),
        ("", "1,2,3".into()),
        ("", format!("{good},5")),
        ("", good.replacen('"', "", 1)),
    ];
    for (field, bad) in cases {
        let bytes = file(&[good.clone(), bad.clone(), good.clone()]);
        let t = read(&bytes);
        assert_eq!(t.rows(S), 2, "{bad}");
        assert_eq!(t.integers(S, "source_record"), [Some(0), Some(2)]);
        assert_eq!(t.bad.len(), 1);
        let b = &t.bad[0];
        assert_eq!((b.record, b.line, b.field.as_deref().unwrap_or("")), (1, Some(3), field), "{}", b.reason);
        assert_eq!(b.raw, bad.as_bytes());
        assert_eq!(&bytes[b.byte as usize..][..b.raw.len()], b.raw);
        assert_eq!((t.records, t.bytes), (3, bytes.len() as u64));
    }
}

#[test]
fn one_foreign_record_first_does_not_condemn_the_file() {
    let bytes = file(&[record("tk2612", &[]), record("ru1901", &[])]);
    let t = read_by(&bytes, &given("x.csv"), 1).unwrap().unwrap();
    assert_eq!((t.rows(S), t.bad.len()), (1, 1));
}

#[test]
fn line_ends_last_lines_and_packing_do_not_matter() {
    let bytes = file(&[record("ru1901", &[]), record("ru1901", &[])]);
    let crlf = String::from_utf8(bytes.clone()).unwrap().replace('\n', "\r\n").into_bytes();
    let bom = [b"\xEF\xBB\xBF".to_vec(), bytes.clone()].concat();
    for other in [crlf, bom, bytes[..bytes.len() - 1].to_vec()] {
        let t = read(&other);
        assert_eq!((t.rows(S), t.bad.len(), t.end), (2, 0, End::Finished));
    }
    let growing = Given { growing: true, ..given("x.csv") };
    let t = read_by(&bytes[..bytes.len() - 1], &growing, 9).unwrap().unwrap();
    assert_eq!((t.rows(S), t.records, t.notes.len()), (1, 1, 1));
    assert_eq!(t.bytes, (header().len() + record("ru1901", &[]).len() + 2) as u64);
}

#[test]
fn every_chunk_ends_at_a_record_boundary() {
    let line = record("ru1901", &[]);
    let bytes = file(&[line.clone(), line.clone(), line.clone()]);
    let mut parser = open(Box::new(std::io::Cursor::new(bytes)), &given("x.csv")).unwrap();
    for n in 1..=3u64 {
        let chunk = parser.next(1).unwrap();
        assert_eq!(chunk.bytes, header().len() as u64 + 1 + n * (line.len() as u64 + 1));
        assert_eq!((chunk.records, chunk.end), (n as i64, End::More));
    }
    assert_eq!(parser.next(1).unwrap().end, End::Finished);
}

fn tick_sums(path: &str, t: &Trial, facts: &Value) {
    let text = |name: &str| facts[name].as_str().unwrap_or_else(|| panic!("{path}: {name}")).to_string();
    assert_eq!(t.rows(S) as u64, facts["rows"].as_u64().unwrap(), "{path}");
    assert!(t.bad.is_empty(), "{path}: {:?}", t.bad.first());
    assert_eq!(t.text(S, "symbol").as_deref(), facts["instrument"].as_str());
    let times: Vec<i64> = t.integers(S, "ts_event").into_iter().flatten().collect();
    assert_eq!(times.iter().min().unwrap() / 1_000_000, facts["min_time_utc_ms"].as_i64().unwrap(), "{path}");
    assert_eq!(times.iter().max().unwrap() / 1_000_000, facts["max_time_utc_ms"].as_i64().unwrap(), "{path}");
    assert_eq!(times.iter().collect::<std::collections::HashSet<_>>().len() as u64, facts["distinct_times"].as_u64().unwrap());
    assert_eq!(times.is_sorted(), facts["time_nondecreasing"].as_bool().unwrap());
    assert_eq!(t.sum(S, "last_price"), nano(&text("last_price_sum")), "{path}");
    assert_eq!(t.decimals(S, "last_price").into_iter().flatten().min(), Some(nano(&text("last_price_min"))));
    assert_eq!(t.decimals(S, "last_price").into_iter().flatten().max(), Some(nano(&text("last_price_max"))));
    assert_eq!(t.sum(S, "average_price"), nano(&text("average_price_sum")), "{path}");
    for (column, fact) in [("bid_sz_00", "bid_volume1_sum"), ("ask_sz_00", "ask_volume1_sum")] {
        assert_eq!(t.integers(S, column).into_iter().flatten().sum::<i64>(), facts[fact].as_i64().unwrap(), "{path} {column}");
    }
    assert_eq!(t.nulls(S, "bid_px_00") as u64, facts["rows_without_bid"].as_u64().unwrap(), "{path}");
    assert_eq!(t.nulls(S, "ask_px_00") as u64, facts["rows_without_ask"].as_u64().unwrap(), "{path}");
    for (column, count) in facts["na_counts"].as_object().unwrap() {
        let (_, target, _) = COLUMNS.iter().find(|(name, ..)| name == column).unwrap();
        assert_eq!(t.nulls(S, target) as u64, count.as_u64().unwrap(), "{path} {column}");
    }
    for (column, count) in facts["empty_counts"].as_object().unwrap() {
        let (_, target, _) = COLUMNS.iter().find(|(name, ..)| name == column).unwrap();
        let empty = t.texts(S, target).iter().filter(|text| text.as_deref() == Some("")).count();
        assert_eq!(empty as u64, count.as_u64().unwrap(), "{path} {column}");
    }
}

fn tick_days(path: &str, t: &Trial, facts: &Value) {
    let days = t.dates(S, "trade_date");
    for day in facts["by_trading_day"].as_array().unwrap() {
        let rows: Vec<usize> = (0..days.len()).filter(|row| days[*row].as_deref() == day["trading_day"].as_str()).collect();
        assert_eq!(rows.len() as u64, day["rows"].as_u64().unwrap(), "{path}");
        let (first, last) = (rows[0], rows[rows.len() - 1]);
        let mut action: Vec<String> = rows.iter().map(|row| t.dates(S, "action_day")[*row].clone().unwrap()).take(1).collect();
        action.push(t.dates(S, "action_day")[last].clone().unwrap());
        action.dedup();
        assert_eq!(serde_json::json!(action), day["action_days"], "{path}");
        let times = t.integers(S, "ts_event");
        assert_eq!(times[first].unwrap() / 1_000_000, day["first_utc_ms"].as_i64().unwrap());
        assert_eq!(times[last].unwrap() / 1_000_000, day["last_utc_ms"].as_i64().unwrap());
        let at = |column: &str, row: usize| t.decimals(S, column)[row];
        let fact = |name: &str| day[name].as_str().map(nano);
        assert_eq!(at("last_price", first), fact("open"), "{path}");
        assert_eq!(at("last_price", last), fact("close"), "{path}");
        assert_eq!(at("volume", first), Some(day["cum_volume_first"].as_i64().unwrap() as i128 * 1_000_000_000));
        assert_eq!(at("volume", last), Some(day["cum_volume_last"].as_i64().unwrap() as i128 * 1_000_000_000));
        assert_eq!(at("turnover", last), fact("turnover_last"), "{path}");
        assert_eq!(at("open_interest", last), fact("open_interest_last"), "{path}");
        assert_eq!(at("settlement_price", last), fact("settlement_last"), "{path}");
        assert_eq!(at("prev_settlement_price", last), fact("pre_settlement"), "{path}");
    }
}

/// Every value of the file is told again from the rows; numbers are compared as numbers.
fn told_again(path: &str, t: &Trial, bytes: &[u8]) {
    let mut records = Records::new(Box::new(std::io::Cursor::new(bytes.to_vec())), path.into(), SHAPE);
    let names = header_line(&mut records, path, "").unwrap();
    assert_eq!(names, column_names());
    for row in 0..t.rows(S) {
        let crate::sources::records::Step::Record(_) = records.step().unwrap() else { panic!("{path}: row {row}") };
        for (at, told) in columns_of(t.batch(S), row).iter().enumerate() {
            let was = records.fields().get(at);
            let number = matches!(COLUMNS[at].2, Kind::Quote | Kind::Number | Kind::Size);
            let same = was == told || (number && was != NOT_AVAILABLE && told != NOT_AVAILABLE && nano(was) == nano(told));
            assert!(same, "{path}: row {row}, {}: was {was}, told {told}", names[at]);
        }
    }
}

#[test]
fn real_ticks_agree_with_other_libraries_and_can_be_told_again() {
    let Some(data) = data() else { return };
    let files = expected(&data, "ctp-tick-csv");
    assert_eq!(files.len(), 15);
    std::thread::scope(|scope| {
        for half in files.chunks(files.len().div_ceil(2)) {
            let data = &data;
            scope.spawn(move || {
                for (path, facts) in half {
                    let bytes = unpacked(data, path);
                    let t = trial::read(&bytes, path);
                    assert_eq!(t.bytes, bytes.len() as u64);
                    tick_sums(path, &t, facts);
                    tick_days(path, &t, facts);
                    told_again(path, &t, &bytes);
                }
            });
        }
    });
}

proptest! {
    #[test]
    fn no_mutation_panics_or_loses_a_record(cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), end: prop::sample::Index, growing: bool) {
        let mut bytes = file(&[record("ru1901", &[]), record("AP010", &[]), record("ru1905", &[])]);
        let body = header().len() + 1;
        for (at, byte) in &cuts {
            let at = body + at.index(bytes.len() - body);
            bytes[at] = *byte;
        }
        bytes.truncate(body + end.index(bytes.len() - body + 1));
        let given = Given { growing, ..given("x.csv") };
        match read_by(&bytes, &given, 2) {
            Some(Ok(t)) => prop_assert_eq!(t.rows(S) + t.bad.len(), t.records as usize),
            Some(Err(error)) => prop_assert!(error.to_string().contains("--dataset"), "{}", error),
            None => prop_assert!(false, "the header is whole"),
        }
    }

    #[test]
    fn no_bytes_after_the_header_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let all = [header().into_bytes(), b"\n".to_vec(), bytes].concat();
        let _ = read_by(&all, &given("x.csv"), 3);
        let _ = read_by(&all[header().len() + 1..], &given("x.csv"), 3);
    }
}
