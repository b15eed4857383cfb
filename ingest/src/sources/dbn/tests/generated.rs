//! Files that the `dbn` crate's encoder writes: every schema in every version, and what only live files and old files have.

use super::super::layout::{HEADER_LEN, Wire, layout};
use super::*;
use dbn::encode::EncodeRecord;
use dbn::encode::dbn::Encoder;
use dbn::encode::{DbnEncodable, dbn::MetadataEncoder};
use dbn::{MappingInterval, Metadata, RecordHeader, SType, Schema, SymbolMapping, rtype, v1, v2, v3};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

/// 2024-02-29T12:00:00.123456789Z, day 19782.
pub(super) const NOON: u64 = 1_709_208_000_123_456_789;
const NOON_DAY: i32 = 19_782;
const DAY_NS: u64 = 86_400_000_000_000;

pub(super) fn metadata(version: u8, schema: Option<Schema>) -> Metadata {
    let date = |day: i64| dbn::record::ts_to_dt(NOON.wrapping_add_signed(day * DAY_NS as i64)).unwrap().date();
    let interval = |from: i64, to: i64, symbol: &str| MappingInterval { start_date: date(from), end_date: date(to), symbol: symbol.into() };
    Metadata::builder()
        .version(version)
        .dataset("GLBX.MDP3")
        .schema(schema)
        .start(NOON)
        .stype_in(Some(SType::RawSymbol))
        .stype_out(SType::InstrumentId)
        .symbols(vec!["GPU1H4".into(), "GPU1J4".into()])
        .mappings(vec![
            SymbolMapping { raw_symbol: "GPU1H4".into(), intervals: vec![interval(-5, 1, "42"), interval(1, 9, "43")] },
            SymbolMapping { raw_symbol: "GPU1J4".into(), intervals: vec![interval(1, 9, "42")] },
        ])
        .build()
}

pub(super) fn header_bytes(metadata: &Metadata) -> Vec<u8> {
    let mut bytes = Vec::new();
    MetadataEncoder::new(&mut bytes).encode(metadata).unwrap();
    bytes
}

pub(super) fn file<R: DbnEncodable>(metadata: &Metadata, records: &[R]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Encoder::new(&mut bytes, metadata).unwrap().encode_records(records).unwrap();
    bytes
}

pub(super) fn record_header<R: dbn::HasRType>(rtype: u8) -> RecordHeader {
    RecordHeader::new::<R>(rtype, 1, 42, NOON)
}

pub(super) fn trade(price: i64) -> dbn::TradeMsg {
    dbn::TradeMsg {
        hd: record_header::<dbn::TradeMsg>(rtype::MBP_0),
        price,
        size: 7,
        action: b'T' as _,
        side: b'A' as _,
        depth: 0,
        ts_recv: NOON + 1000,
        ts_in_delta: -17,
        sequence: 99,
        ..Default::default()
    }
}

fn letters<const N: usize>(text: &str) -> [std::ffi::c_char; N] {
    let mut chars = [0; N];
    text.bytes().zip(&mut chars).for_each(|(byte, letter)| *letter = byte as _);
    chars
}

/// The one record of a file of this schema: its row, and that it is written back as the same bytes.
fn only_row<R: DbnEncodable>(version: u8, schema: Schema, record: &R, family: Family) -> RecordBatch {
    let metadata = metadata(version, Some(schema));
    let bytes = file(&metadata, std::slice::from_ref(record));
    let tape = read(&bytes, &given()).unwrap();
    assert_eq!((tape.records, tape.bytes, &tape.end), (1, bytes.len() as u64, &End::Finished), "{schema} version {version}");
    assert_eq!((tape.bad.len(), &tape.notes[..]), (0, &[][..]), "{schema} version {version}");
    let batch = tape.one(family);
    assert_eq!(texts(&batch, "schema"), [Some(schema.as_str().to_string())]);
    assert_eq!(texts(&batch, "dataset"), [Some("GLBX.MDP3".to_string())]);
    let start = header_bytes(&metadata).len();
    assert_eq!(i64s(&batch, "source_byte"), [Some(start as i64)]);
    assert_eq!(write_back::record_bytes(family, &batch, 0).unwrap(), &bytes[start..], "{schema} version {version}");
    batch
}

#[test]
fn a_trade_field_by_field() {
    for version in 1..=3 {
        let row = only_row(version, Schema::Trades, &trade(2_810_000_000), Family::Trades);
        assert_eq!(i64s(&row, "ts_event"), [Some(NOON as i64)]);
        assert_eq!(i64s(&row, "ts_recv"), [Some(NOON as i64 + 1000)]);
        assert_eq!(dates(&row), [Some(NOON_DAY)]);
        assert_eq!(texts(&row, "symbol"), [Some("GPU1H4".to_string())]);
        assert_eq!((i32s(&row, "publisher_id"), i64s(&row, "instrument_id")), (vec![Some(1)], vec![Some(42)]));
        assert_eq!((decimals(&row, "price"), i64s(&row, "size")), (vec![Some(2_810_000_000)], vec![Some(7)]));
        assert_eq!((texts(&row, "action"), texts(&row, "side")), (vec![Some("T".into())], vec![Some("A".into())]));
        assert_eq!((i32s(&row, "flags"), i32s(&row, "depth")), (vec![Some(0)], vec![Some(0)]));
        assert_eq!((i32s(&row, "ts_in_delta"), i64s(&row, "sequence")), (vec![Some(-17)], vec![Some(99)]));
        assert_eq!((i32s(&row, "rtype"), i64s(&row, "ts_out")), (vec![Some(0)], vec![None]));
    }
}

/// Defaults of the `dbn` crate are the sentinels: every one of them must be NULL, and come back.
#[test]
fn records_of_every_schema_and_version_with_nothing_defined() {
    for version in 1..=3 {
        only_row(version, Schema::Trades, &dbn::TradeMsg::default(), Family::Trades);
        only_row(version, Schema::Mbo, &dbn::MboMsg::default(), Family::Orders);
        only_row(version, Schema::Mbp1, &dbn::Mbp1Msg::default(), Family::Quotes);
        only_row(version, Schema::Tbbo, &dbn::Mbp1Msg::default(), Family::Quotes);
        only_row(version, Schema::Mbp10, &dbn::Mbp10Msg::default(), Family::Depth);
        for schema in [Schema::Bbo1S, Schema::Bbo1M] {
            let row = only_row(version, schema, &dbn::BboMsg::default_for_schema(schema), Family::Quotes);
            assert_eq!((decimals(&row, "price"), decimals(&row, "bid_px_00"), texts(&row, "action")), (vec![None], vec![None], vec![None]));
        }
        for schema in [Schema::Cmbp1, Schema::Tcbbo] {
            only_row(version, schema, &dbn::Cmbp1Msg::default_for_schema(schema), Family::Quotes);
        }
        for schema in [Schema::Cbbo1S, Schema::Cbbo1M] {
            let row = only_row(version, schema, &dbn::CbboMsg::default_for_schema(schema), Family::Quotes);
            assert_eq!((i32s(&row, "bid_pb_00"), i64s(&row, "bid_ct_00"), i64s(&row, "sequence")), (vec![Some(0)], vec![None], vec![None]));
        }
        for schema in [Schema::Ohlcv1S, Schema::Ohlcv1M, Schema::Ohlcv1H, Schema::Ohlcv1D, Schema::OhlcvEod] {
            let row = only_row(version, schema, &dbn::OhlcvMsg::default_for_schema(schema), Family::Bars);
            assert_eq!((i64s(&row, "ts_event"), i64s(&row, "ts_end"), dates(&row)), (vec![None], vec![None], vec![None]));
        }
        only_row(version, Schema::Status, &dbn::StatusMsg::default(), Family::Status);
        let row = only_row(version, Schema::Imbalance, &dbn::ImbalanceMsg::default(), Family::Imbalances);
        assert_eq!((i64s(&row, "auction_time"), i64s(&row, "paired_qty")), (vec![None], vec![None]));
    }
    let undefined = |row: RecordBatch| {
        assert_eq!((decimals(&row, "quantity"), i64s(&row, "ts_ref"), i32s(&row, "channel_id")), (vec![None], vec![None], vec![None]))
    };
    undefined(only_row(1, Schema::Statistics, &v1::StatMsg::default(), Family::Statistics));
    undefined(only_row(2, Schema::Statistics, &v2::StatMsg::default(), Family::Statistics));
    undefined(only_row(3, Schema::Statistics, &v3::StatMsg::default(), Family::Statistics));
    let nothing = |row: RecordBatch| {
        for column in ["contract_multiplier", "maturity_year", "maturity_month", "tick_rule", "flow_schedule_type", "appl_id"] {
            assert_eq!(i32s(&row, column), [None], "{column}");
        }
        for column in ["kind", "mic", "root", "unit", "currency", "underlying", "expiry_month", "symbol"] {
            assert_eq!(texts(&row, column), [None], "{column}");
        }
        assert_eq!((texts(&row, "raw_symbol"), decimals(&row, "tick_size")), (vec![Some(String::new())], vec![None]));
        assert_eq!((i64s(&row, "expiry"), i64s(&row, "valid_from")), (vec![None], vec![None]));
    };
    nothing(only_row(1, Schema::Definition, &v1::InstrumentDefMsg::default(), Family::Instruments));
    nothing(only_row(2, Schema::Definition, &v2::InstrumentDefMsg::default(), Family::Instruments));
    nothing(only_row(3, Schema::Definition, &v3::InstrumentDefMsg::default(), Family::Instruments));
}

#[test]
fn definitions_fill_the_settled_columns_in_every_version() {
    macro_rules! definition {
        ($version:ident) => {
            $version::InstrumentDefMsg {
                hd: RecordHeader::new::<$version::InstrumentDefMsg>(rtype::INSTRUMENT_DEF, 1, 42, 0),
                ts_recv: NOON,
                min_price_increment: 10_000_000,
                expiration: NOON + DAY_NS,
                unit_of_measure_qty: 720_000_000_000,
                raw_instrument_id: 4242,
                contract_multiplier: 720,
                maturity_year: 2024,
                maturity_month: 3,
                currency: letters("USD"),
                raw_symbol: letters("GPU1 FMH24!"),
                exchange: letters("XNYM"),
                asset: letters("GPU1"),
                unit_of_measure: letters("GPUH"),
                underlying: letters("SDH100"),
                instrument_class: b'F' as _,
                ..Default::default()
            }
        };
    }
    let settled = |row: RecordBatch, version: i32| {
        let text = |column: &str| texts(&row, column)[0].clone().unwrap_or_default();
        assert_eq!((text("kind"), text("mic"), text("root")), ("future".into(), "XNYM".into(), "GPU1".into()));
        assert_eq!((text("unit"), text("currency"), text("underlying")), ("GPUH".into(), "USD".into(), "SDH100".into()));
        assert_eq!((text("symbol"), text("raw_symbol")), ("GPU1 FMH24!".into(), "GPU1 FMH24!".into()));
        assert_eq!((text("dbn_currency"), text("dbn_underlying"), text("expiry_month")), ("USD".into(), "SDH100".into(), "2024-03".into()));
        assert_eq!((decimals(&row, "unit_qty"), decimals(&row, "tick_size")), (vec![Some(720_000_000_000)], vec![Some(10_000_000)]));
        assert_eq!((i64s(&row, "expiry"), i64s(&row, "valid_from")), (vec![Some((NOON + DAY_NS) as i64)], vec![Some(NOON as i64)]));
        assert_eq!((i64s(&row, "ts_event"), dates(&row)), (vec![Some(0)], vec![Some(NOON_DAY)]));
        assert_eq!((decimals(&row, "raw_instrument_id"), i32s(&row, "dbn_version")), (vec![Some(4242)], vec![Some(version)]));
        assert_eq!((decimals(&row, "multiplier"), texts(&row, "price_unit")), (vec![None], vec![None]));
        assert_eq!(i32s(&row, "contract_multiplier"), [Some(720)]);
    };
    settled(only_row(1, Schema::Definition, &definition!(v1), Family::Instruments), 1);
    settled(only_row(2, Schema::Definition, &definition!(v2), Family::Instruments), 2);
    settled(only_row(3, Schema::Definition, &definition!(v3), Family::Instruments), 3);
}

#[test]
fn statistics_have_32_bit_quantities_before_version_3() {
    let old = v1::StatMsg { quantity: -3, stat_type: 9, ts_ref: NOON, ..Default::default() };
    assert_eq!(decimals(&only_row(2, Schema::Statistics, &old, Family::Statistics), "quantity"), [Some(-3_000_000_000)]);
    let new = v3::StatMsg { quantity: i64::from(i32::MAX), stat_type: 9, ts_ref: NOON, ..Default::default() };
    let row = only_row(3, Schema::Statistics, &new, Family::Statistics);
    assert_eq!(
        (decimals(&row, "quantity"), i64s(&row, "ts_ref")),
        (vec![Some(i128::from(i32::MAX) * 1_000_000_000)], vec![Some(NOON as i64)])
    );
}

fn bar(rtype: u8) -> dbn::OhlcvMsg {
    dbn::OhlcvMsg { hd: record_header::<dbn::OhlcvMsg>(rtype), open: 1, high: 3, low: -1, close: 2, volume: u64::MAX }
}

#[test]
fn a_bar_ends_where_its_interval_does() {
    let ends = [
        (Schema::Ohlcv1S, rtype::OHLCV_1S, Some(1_000_000_000)),
        (Schema::Ohlcv1M, rtype::OHLCV_1M, Some(60_000_000_000)),
        (Schema::Ohlcv1H, rtype::OHLCV_1H, Some(3_600_000_000_000)),
        (Schema::Ohlcv1D, rtype::OHLCV_1D, Some(DAY_NS as i64)),
        (Schema::OhlcvEod, rtype::OHLCV_EOD, None),
        (Schema::Ohlcv1H, 0x11, Some(3_600_000_000_000)),
    ];
    for (schema, rtype, length) in ends {
        let row = only_row(3, schema, &bar(rtype), Family::Bars);
        assert_eq!(i64s(&row, "ts_end"), [length.map(|length| NOON as i64 + length)], "{schema}");
        assert_eq!(decimals(&row, "volume"), [Some(i128::from(u64::MAX) * 1_000_000_000)]);
        assert_eq!((decimals(&row, "low"), i64s(&row, "ts_recv"), dates(&row)), (vec![Some(-1)], vec![None], vec![Some(NOON_DAY)]));
    }
}

#[test]
fn the_header_goes_to_documents_and_its_mappings_to_instruments() {
    let metadata = metadata(3, Some(Schema::Trades));
    let tape = read(&header_bytes(&metadata), &given()).unwrap();
    assert_eq!((tape.records, &tape.end, tape.batches.len()), (0, &End::Finished, 2));
    assert_eq!(tape.bytes, header_bytes(&metadata).len() as u64);
    let (family, document) = &tape.batches[0];
    assert_eq!(*family, Family::Documents);
    assert_eq!(document.column_by_name("body").unwrap().as_binary::<i32>().value(0), header_bytes(&metadata));
    let sha256 = Sha256::digest(header_bytes(&metadata));
    assert_eq!(document.column_by_name("sha256").unwrap().as_binary::<i32>().value(0), &sha256[..]);
    assert_eq!((i32s(document, "part"), i32s(document, "parts")), (vec![Some(0)], vec![Some(1)]));
    let (family, mappings) = &tape.batches[1];
    assert_eq!(*family, Family::Instruments);
    let some = |texts: &[&str]| texts.iter().map(|text| Some(text.to_string())).collect::<Vec<_>>();
    assert_eq!(texts(mappings, "symbol"), some(&["GPU1H4", "GPU1H4", "GPU1J4"]));
    assert_eq!(texts(mappings, "mapped_symbol"), some(&["42", "43", "42"]));
    assert_eq!(i64s(mappings, "instrument_id"), [Some(42), Some(43), Some(42)]);
    let midnight = |day: i64| Some((i64::from(NOON_DAY) + day) * DAY_NS as i64);
    assert_eq!(i64s(mappings, "valid_from"), [midnight(-5), midnight(1), midnight(1)]);
    assert_eq!(i64s(mappings, "valid_to"), [midnight(1), midnight(9), midnight(9)]);
    assert_eq!(i64s(mappings, "source_record"), [Some(-1); 3]);
    assert_eq!(i64s(mappings, "source_byte"), [Some(1), Some(2), Some(3)]);
    assert!(matches!(write_back::record_bytes(Family::Instruments, mappings, 0), Err(write_back::NotARecord::OtherOrigin(_))));
    assert!(matches!(write_back::record_bytes(Family::Documents, document, 0), Err(write_back::NotARecord::OtherOrigin(_))));
}

#[test]
fn header_facts_are_told_and_undefined_ones_are_not() {
    let mut metadata = metadata(2, Some(Schema::Mbo));
    (metadata.end, metadata.limit) = (NOON.checked_add(5).and_then(|end| end.try_into().ok()), Some(9.try_into().unwrap()));
    let header = read(&header_bytes(&metadata), &given()).unwrap().header;
    assert_eq!((header.version, header.start, header.end, header.limit), (Some(2), Some(NOON as i64), Some(NOON as i64 + 5), Some(9)));
    assert_eq!((header.stype_in.as_deref(), header.stype_out.as_deref()), (Some("raw_symbol"), Some("instrument_id")));
    assert_eq!((header.ts_out, header.n_mappings, header.schema.as_deref()), (Some(false), Some(2), Some("mbo")));
    (metadata.start, metadata.end, metadata.limit, metadata.schema, metadata.stype_in) = (u64::MAX, None, None, None, None);
    let header = read(&header_bytes(&metadata), &given()).unwrap().header;
    assert_eq!((header.start, header.end, header.limit, header.schema, header.stype_in), (None, None, None, None, None));
}

/// What a live gateway writes: no schema, no symbols in the header, mappings and messages among the records, a send time on each.
#[test]
fn a_live_file_keeps_its_messages_and_learns_its_symbols() {
    for version in 1..=3 {
        let mut metadata = metadata(version, None);
        (metadata.ts_out, metadata.stype_in) = (true, None);
        metadata.mappings.clear();
        let mut bytes = header_bytes(&metadata);
        let start = bytes.len();
        let mut add = |bytes_of: Vec<u8>| bytes.extend(bytes_of);
        add(live(&trade(5)));
        add(match version {
            1 => live(&v1::SymbolMappingMsg {
                hd: record_header::<v1::SymbolMappingMsg>(rtype::SYMBOL_MAPPING),
                stype_in_symbol: letters("GPU1.FUT"),
                stype_out_symbol: letters("GPU1H4"),
                start_ts: NOON,
                ..Default::default()
            }),
            _ => live(&v3::SymbolMappingMsg {
                hd: record_header::<v3::SymbolMappingMsg>(rtype::SYMBOL_MAPPING),
                stype_in: SType::Parent as u8,
                stype_in_symbol: letters("GPU1.FUT"),
                stype_out: SType::RawSymbol as u8,
                stype_out_symbol: letters("GPU1H4"),
                start_ts: NOON,
                ..Default::default()
            }),
        });
        add(live(&trade(6)));
        add(match version {
            1 => live(&v1::SystemMsg { msg: letters("Heartbeat"), ..Default::default() }),
            _ => live(&v3::SystemMsg { msg: letters("Heartbeat"), ..Default::default() }),
        });
        add(match version {
            1 => live(&v1::ErrorMsg { err: letters("slow"), ..Default::default() }),
            _ => live(&v3::ErrorMsg { err: letters("slow"), ..Default::default() }),
        });
        let mut quote = dbn::Mbp1Msg { hd: record_header::<dbn::Mbp1Msg>(rtype::MBP_1), ..Default::default() };
        quote.levels[0].bid_px = 4;
        add(live(&quote));
        let tape = read(&bytes, &given()).unwrap();
        assert_eq!((tape.records, &tape.end, tape.bad.len(), tape.notes.len()), (6, &End::Finished, 0, 0), "version {version}");
        let trades = tape.one(Family::Trades);
        assert_eq!(texts(&trades, "symbol"), [None, Some("GPU1H4".to_string())]);
        assert_eq!((texts(&trades, "schema"), i64s(&trades, "ts_out")), (vec![Some("trades".into()); 2], vec![Some(NOON as i64 + 9); 2]));
        assert_eq!(texts(&tape.one(Family::Quotes), "schema"), [Some("mbp-1".to_string())]);
        let mapping = tape.one(Family::Instruments);
        assert_eq!((texts(&mapping, "kind"), texts(&mapping, "symbol")), (vec![Some("mapping".into())], vec![Some("GPU1.FUT".into())]));
        assert_eq!((texts(&mapping, "mapped_symbol"), i64s(&mapping, "instrument_id")), (vec![Some("GPU1H4".into())], vec![Some(42)]));
        assert_eq!(texts(&mapping, "stype_in"), [(version > 1).then(|| "parent".to_string())]);
        assert_eq!((i64s(&mapping, "valid_from"), i64s(&mapping, "valid_to")), (vec![Some(NOON as i64)], vec![None]));
        let messages = tape.one(Family::Documents);
        assert_eq!(texts(&messages, "schema"), [Some("system".to_string()), Some("error".to_string())]);
        let again: Vec<u8> =
            tape.rows().iter().flat_map(|(family, batch, row)| write_back::record_bytes(*family, batch, *row).unwrap()).collect();
        assert_eq!(again, &bytes[start..], "version {version}");
    }
}

/// A record as a live file has it: with the time at which it was sent.
fn live<R: DbnEncodable + dbn::HasRType + AsRef<[u8]>>(record: &R) -> Vec<u8> {
    let mut bytes = record.as_ref().to_vec();
    bytes.extend((NOON + 9).to_le_bytes());
    bytes[0] = (bytes.len() / 4) as u8;
    bytes
}

#[test]
fn a_header_that_contradicts_the_records_is_told_once() {
    let mut bytes = file(&metadata(3, Some(Schema::Mbo)), &[trade(1), trade(2)]);
    bytes.extend(bar(rtype::OHLCV_1M).as_ref());
    let tape = read(&bytes, &given()).unwrap();
    assert_eq!((tape.records, tape.notes.len()), (3, 2), "one note for trades, one for bars: {:?}", tape.notes);
    assert!(tape.notes[0].contains("schema mbo") && tape.notes[0].contains("trades"), "{}", tape.notes[0]);
    assert_eq!(texts(&tape.one(Family::Trades), "schema"), vec![Some("trades".to_string()); 2]);
}

#[test]
fn a_fragment_is_read_only_as_what_the_user_says_it_is() {
    let fragment = [trade(1).as_ref(), trade(2).as_ref()].concat();
    assert!(!(FORMAT.recognise)(&fragment, &given()), "nobody said what it is");
    let told = Given { dbn_version: Some(3), schema: Some("trades".into()), dataset: Some("GLBX.MDP3".into()), ..given() };
    assert!((FORMAT.recognise)(&fragment, &told));
    assert!(!(FORMAT.recognise)(b"time,price\n1,2\n", &told), "another file in the same folder");
    let tape = read(&fragment, &told).unwrap();
    assert_eq!((tape.records, &tape.end, tape.dataset.as_str()), (2, &End::Finished, "GLBX.MDP3"));
    assert_eq!((tape.header.version, tape.header.schema.as_deref(), tape.header.ts_out), (Some(3), Some("trades"), Some(false)));
    assert_eq!(i64s(&tape.one(Family::Trades), "source_byte"), [Some(0), Some(48)]);
    let live = live(&trade(3));
    assert_eq!(i64s(&read(&live, &told).unwrap().one(Family::Trades), "ts_out"), [Some(NOON as i64 + 9)]);
    let wrong = |given: Given| message(read(&fragment, &given));
    assert!(wrong(Given { dataset: None, ..told.clone() }).contains("--dataset"));
    assert!(wrong(Given { schema: Some("ticks".into()), ..told.clone() }).contains("\"ticks\" is no DBN schema"));
    assert!(wrong(Given { dbn_version: Some(7), ..told }).contains("version 7"));
}

#[test]
fn the_dataset_is_the_headers_own() {
    let mut metadata = metadata(3, Some(Schema::Trades));
    let asked = Given { dataset: Some("SYN.XNYM".into()), ..given() };
    let tape = read(&header_bytes(&metadata), &asked).unwrap();
    assert_eq!(tape.dataset, "GLBX.MDP3");
    assert!(tape.notes[0].contains("--dataset SYN.XNYM is not used"), "{:?}", tape.notes);
    metadata.dataset = String::new();
    assert_eq!(read(&header_bytes(&metadata), &asked).unwrap().dataset, "SYN.XNYM");
    assert!(message(read(&header_bytes(&metadata), &given())).contains("--dataset"));
    let long = Given { dataset: Some("SIXTEEN.LETTERS.".into()), ..given() };
    assert!(message(read(&header_bytes(&metadata), &long)).contains("at most 15"));
}

/// Letters beyond ASCII: UTF-8 stays, other bytes are read as Latin-1, and neither costs the record.
#[test]
fn letters_beyond_ascii_are_kept() {
    let mut definition = v3::InstrumentDefMsg { hd: record_header::<v3::InstrumentDefMsg>(rtype::INSTRUMENT_DEF), ..Default::default() };
    definition.raw_symbol = letters("Ü1");
    definition.group[0] = 0xdcu8 as _;
    definition.instrument_class = 0xdcu8 as _;
    let bytes = file(&metadata(3, Some(Schema::Definition)), &[definition]);
    let row = read(&bytes, &given()).unwrap().one(Family::Instruments);
    for (column, expected) in [("symbol", "Ü1"), ("group", "Ü"), ("instrument_class", "Ü")] {
        assert_eq!(texts(&row, column), [Some(expected.to_string())], "{column}");
    }
}

/// A reader that gives one byte at a time.
struct Drip(Cursor<Vec<u8>>);

impl Read for Drip {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = buffer.len().min(1);
        self.0.read(&mut buffer[..len])
    }
}

#[test]
fn neither_the_size_of_chunks_nor_of_reads_changes_a_row() {
    let trades: Vec<_> = (0..50).map(trade).collect();
    let bytes = file(&metadata(3, Some(Schema::Trades)), &trades);
    let prices = |tape: &Tape| tape.of(Family::Trades).iter().flat_map(|batch| decimals(batch, "price")).collect::<Vec<_>>();
    let whole = prices(&read(&bytes, &given()).unwrap());
    assert_eq!(whole, (0..50).map(Some).collect::<Vec<_>>());
    for records_max in [1, 7, 50, 51] {
        let tape = read_from(Box::new(Drip(Cursor::new(bytes.clone()))), &given(), records_max).unwrap();
        assert_eq!((prices(&tape), &tape.end, tape.records, tape.bytes), (whole.clone(), &End::Finished, 50, bytes.len() as u64));
    }
}

/// A field of a record with a value that has its place in the column.
fn field(wire: Wire) -> BoxedStrategy<Vec<u8>> {
    let price_end = 1_000_000_000_000_000_000i64;
    let bytes = |value: u64| value.to_le_bytes().to_vec();
    match wire {
        Wire::Price => prop_oneof![Just(i64::MAX), -price_end + 1..price_end].prop_map(move |price| bytes(price as u64)).boxed(),
        Wire::Time => prop_oneof![Just(u64::MAX), 0..=i64::MAX as u64].prop_map(bytes).boxed(),
        Wire::Text(len) => proptest::collection::vec(b' '..=b'~', 0..=len)
            .prop_map(move |mut text| {
                text.resize(len, 0);
                text
            })
            .boxed(),
        Wire::Reserved(len) => Just(vec![0; len]).boxed(),
        other => prop_oneof![Just(vec![0xff; other.width()]), proptest::collection::vec(any::<u8>(), other.width())].boxed(),
    }
}

/// A record of any type of any version, with anything in it, sent live or not.
fn any_record() -> impl Strategy<Value = (u8, bool, Vec<u8>)> {
    let types: Vec<(u8, u8)> = (1..=3)
        .flat_map(|version| (0..=255).map(move |rtype| (version, rtype)))
        .filter(|(version, rtype)| layout(*version, *rtype).is_some())
        .collect();
    (proptest::sample::select(types), any::<bool>()).prop_flat_map(|((version, rtype), ts_out)| {
        let layout = layout(version, rtype).unwrap();
        let message = layout.family == Family::Documents;
        let mut fields = vec![proptest::collection::vec(any::<u8>(), 6).boxed(), field(Wire::Time)];
        fields.extend(layout.fields.iter().copied().flatten().map(|(_, wire)| match wire {
            Wire::Reserved(len) if message => proptest::collection::vec(any::<u8>(), *len).boxed(),
            wire => field(*wire),
        }));
        if ts_out {
            fields.push((0..=i64::MAX as u64).prop_map(|ts_out| ts_out.to_le_bytes().to_vec()).boxed());
        }
        let size = layout.size() + if ts_out { 8 } else { 0 };
        fields.prop_map(move |fields| (version, ts_out, [vec![(size / 4) as u8, rtype], fields.concat()].concat()))
    })
}

proptest! {
    // More cases than usual, because there are some hundred record types to choose from.
    #![proptest_config(ProptestConfig::with_cases(4 * ProptestConfig::default().cases))]

    #[test]
    fn any_record_becomes_a_row_and_the_same_record_again((version, ts_out, record) in any_record()) {
        let mut metadata = metadata(version, None);
        metadata.ts_out = ts_out;
        let tape = read(&[header_bytes(&metadata), record.clone()].concat(), &given()).unwrap();
        prop_assert_eq!((tape.records, &tape.end, &tape.bad.len()), (1, &End::Finished, &0), "{:?}", tape.bad);
        let (family, batch, row) = tape.rows().remove(0);
        prop_assert!(record.len() >= HEADER_LEN);
        prop_assert_eq!(write_back::record_bytes(family, &batch, row).unwrap(), record);
    }
}
