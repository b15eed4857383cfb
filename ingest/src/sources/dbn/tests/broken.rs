//! Broken DBN: cut, mutated, of unknown version or type. Good records stay, bad ones are kept whole, nothing panics.

use super::generated::{file, header_bytes, metadata, trade};
use super::*;
use dbn::Schema;
use proptest::prelude::*;

/// Header of 412 bytes or so, and three trades of 48.
fn three_trades() -> (Vec<u8>, usize) {
    let metadata = metadata(3, Some(Schema::Trades));
    (file(&metadata, &[trade(1), trade(2), trade(3)]), header_bytes(&metadata).len())
}

fn prices(tape: &Tape) -> Vec<i128> {
    tape.of(Family::Trades).iter().flat_map(|batch| decimals(batch, "price")).flatten().collect()
}

#[test]
fn a_file_cut_anywhere_keeps_what_was_whole() {
    let (bytes, start) = three_trades();
    for cut in 0..bytes.len() {
        let read = read(&bytes[..cut], &given());
        if cut < start {
            let message = message(read);
            let found =
                if cut < 3 { "some.dbn: ".into() } else { format!("ends at byte {cut}, it should be {}", if cut < 8 { 8 } else { start }) };
            assert!(message.contains(&found), "cut at {cut}: {message}");
            continue;
        }
        let tape = read.unwrap();
        let whole = (cut - start) / 48;
        assert_eq!((tape.records, tape.bytes, tape.bad.len()), (whole as i64, (start + whole * 48) as u64, 0));
        match (cut - start) % 48 {
            0 => assert_eq!(tape.end, End::Finished),
            there => {
                let End::CutShort(why) = tape.end else { panic!("cut at {cut} is not told") };
                let expected =
                    format!("record {whole} at byte {} should be 48 bytes long, {there} are there, up to byte {cut}", start + whole * 48);
                assert!(why.contains(&expected), "{why}");
            }
        }
    }
}

#[test]
fn a_cut_zstd_frame_keeps_what_could_be_unpacked() {
    let metadata = metadata(3, Some(Schema::Trades));
    let trades: Vec<_> = (0..20_000).map(|i| trade(i * 7919 % 100_003)).collect();
    let packed = zstd::encode_all(&file(&metadata, &trades)[..], 3).unwrap();
    let cut = packed[..packed.len() / 2].to_vec();
    let tape = read_from(Box::new(zstd::Decoder::new(Cursor::new(cut)).unwrap()), &given(), 1000).unwrap();
    assert!(tape.records > 1000, "{} records", tape.records);
    assert_eq!(prices(&tape), (0..tape.records).map(|i| i128::from(i * 7919 % 100_003)).collect::<Vec<_>>());
    assert!(matches!(&tape.end, End::CutShort(why) if why.contains("cannot be read on")), "{:?}", tape.end);
    let nothing = zstd::Decoder::new(Cursor::new(packed[..20].to_vec())).unwrap();
    assert!(message(read_from(Box::new(nothing), &given(), 1000)).contains("cut short"));
}

/// Reads well up to a point, then the disk fails.
struct Failing(Cursor<Vec<u8>>);

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(std::io::Error::other("the disk is gone")),
            n => Ok(n),
        }
    }
}

#[test]
fn a_source_that_stops_being_readable_is_told_apart_from_one_that_ends() {
    let (bytes, start) = three_trades();
    for (there, records) in [(start + 96, 2), (start + 100, 2)] {
        let tape = read_from(Box::new(Failing(Cursor::new(bytes[..there].to_vec()))), &given(), 1000).unwrap();
        assert_eq!(tape.records, records);
        assert!(matches!(&tape.end, End::CutShort(why) if why.contains("the disk is gone")), "{:?}", tape.end);
    }
    let in_header = read_from(Box::new(Failing(Cursor::new(bytes[..40].to_vec()))), &given(), 1000);
    assert!(matches!(in_header, Err(Error::Read { byte: 40, .. })));
}

#[test]
fn unknown_versions_and_legacy_files_are_named() {
    let (mut bytes, _) = three_trades();
    for version in [0, 4, 5, 9, 65, 255] {
        bytes[3] = version;
        assert!((FORMAT.recognise)(&bytes, &given()), "version {version}");
        let message = message(read(&bytes, &given()));
        assert!(message.contains(&format!("DBN version {version} ")) && message.contains("1, 2 and 3"), "{message}");
    }
    let dbz = [&0x184D_2A51u32.to_le_bytes()[..], &200u32.to_le_bytes(), b"DBZ\x01", &[0; 200]].concat();
    assert!((FORMAT.recognise)(&dbz, &given()) && super::super::is_dbz(&dbz));
    assert!(message(read(&dbz, &given())).contains("legacy DBZ"));
    assert!(message(read(b"DBX\x03\0\0\0\0", &given())).contains("does not begin with DBN"));
    for other in [&b"DBX\x03"[..], b"", b"DB", b"DBN,price\n", b"DBN\n1\n", &0x184D_2A51u32.to_le_bytes()] {
        assert!(!(FORMAT.recognise)(other, &given()), "{other:?}");
    }
}

#[test]
fn a_header_of_impossible_length_is_refused_before_memory_is_taken() {
    let (mut bytes, _) = three_trades();
    for length in [0u32, 99, u32::MAX] {
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        let message = message(read(&bytes, &given()));
        assert!(message.contains(&format!("says at byte 4 that it is {length} bytes long")), "{message}");
    }
}

/// Changes the second of three trades.
fn with_second(change: impl FnOnce(&mut [u8])) -> (Tape, Vec<u8>, usize) {
    let (mut bytes, start) = three_trades();
    change(&mut bytes[start + 48..start + 96]);
    let tape = read(&bytes, &given()).unwrap();
    (tape, bytes, start)
}

#[test]
fn a_value_that_no_column_holds_costs_its_record_and_no_other() {
    let price = |value: i64| move |record: &mut [u8]| record[16..24].copy_from_slice(&value.to_le_bytes());
    let time = |at: usize| move |record: &mut [u8]| record[at..at + 8].copy_from_slice(&(u64::MAX - 1).to_le_bytes());
    type Damage = Box<dyn FnOnce(&mut [u8])>;
    let cases: [(&str, Damage); 5] = [
        ("price", Box::new(price(1_000_000_000_000_000_000))),
        ("price", Box::new(price(i64::MIN))),
        ("price", Box::new(price(i64::MAX - 1))),
        ("ts_event", Box::new(time(8))),
        ("ts_recv", Box::new(time(32))),
    ];
    for (field, change) in cases {
        let (tape, bytes, start) = with_second(change);
        assert_eq!((prices(&tape), tape.records, &tape.end), (vec![1, 3], 3, &End::Finished));
        let bad = &tape.bad[0];
        assert_eq!((bad.record, bad.byte, bad.field.as_deref()), (1, start as i64 + 48, Some(field)));
        assert_eq!(bad.raw, &bytes[start + 48..start + 96]);
        assert!(bad.reason.contains(field), "{}", bad.reason);
    }
    let (tape, ..) = with_second(price(999_999_999_999_999_999));
    assert_eq!(prices(&tape), [1, 999_999_999_999_999_999, 3]);
}

#[test]
fn a_record_of_unknown_type_goes_whole_to_quarantine() {
    let (tape, bytes, start) = with_second(|record| record[1] = 0xee);
    assert_eq!((prices(&tape), tape.records, &tape.end), (vec![1, 3], 3, &End::Finished));
    assert_eq!((tape.bad[0].raw.as_slice(), tape.bad[0].field.as_deref()), (&bytes[start + 48..start + 96], None));
    assert!(tape.bad[0].reason.contains("0xee"), "{}", tape.bad[0].reason);
}

#[test]
fn a_broken_length_costs_one_record_or_is_told_with_all_that_follows() {
    let (tape, bytes, start) = with_second(|record| record[0] = 0);
    assert_eq!((prices(&tape), tape.records, &tape.end), (vec![1, 3], 3, &End::Finished));
    assert_eq!(tape.bad[0].raw, &bytes[start + 48..start + 96]);
    let (mut bytes, start) = three_trades();
    bytes[start + 48..].fill(0);
    let tape = read(&bytes, &given()).unwrap();
    assert_eq!((prices(&tape), tape.records, tape.bytes), (vec![1], 2, bytes.len() as u64));
    assert_eq!((tape.bad[0].byte, tape.bad[0].raw.len()), (start as i64 + 48, 96));
    assert!(matches!(&tape.end, End::CutShort(why) if why.contains("96 bytes from there are in quarantine")), "{:?}", tape.end);
}

/// Reads anything, in small chunks; what matters is that it ends and keeps count (which `read_from` checks).
fn read_anything(bytes: Vec<u8>, given: &Given) {
    let _ = (FORMAT.recognise)(&bytes, given);
    let _ = read_from(Box::new(Cursor::new(bytes)), given, 5);
}

fn sample(schema: usize, version: u8) -> Vec<u8> {
    match schema {
        0 => file(&metadata(version, Some(Schema::Trades)), &[trade(1), trade(2), trade(3)]),
        1 => file(&metadata(version, Some(Schema::Mbp10)), &[dbn::Mbp10Msg::default(), dbn::Mbp10Msg::default()]),
        2 => file(&metadata(1, Some(Schema::Definition)), &[dbn::v1::InstrumentDefMsg::default(), dbn::v1::InstrumentDefMsg::default()]),
        3 => file(&metadata(3, Some(Schema::Definition)), &[dbn::v3::InstrumentDefMsg::default(), dbn::v3::InstrumentDefMsg::default()]),
        4 => file(&metadata(3, None), &[dbn::v3::SymbolMappingMsg::default(), dbn::v3::SymbolMappingMsg::default()]),
        _ => file(&metadata(3, None), &[dbn::v3::SystemMsg::default(), dbn::v3::SystemMsg::default()]),
    }
}

proptest! {
    #[test]
    fn mutated_files_never_panic(
        schema in 0usize..6, version in 1u8..=3,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(), cuts in any::<bool>(),
    ) {
        let mut bytes = sample(schema, version);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_anything(bytes, &given());
    }

    #[test]
    fn random_records_after_a_good_header_never_panic(version in 1u8..=3, junk in proptest::collection::vec(any::<u8>(), 0..3000)) {
        read_anything([header_bytes(&metadata(version, None)), junk].concat(), &given());
    }

    #[test]
    fn random_headers_never_panic(version in 0u8..=4, length in 90u32..700, junk in proptest::collection::vec(any::<u8>(), 0..800)) {
        read_anything([b"DBN", &[version][..], &length.to_le_bytes(), &junk].concat(), &given());
    }

    #[test]
    fn random_fragments_never_panic(version in 0u8..=4, junk in proptest::collection::vec(any::<u8>(), 0..800)) {
        let told = Given { dbn_version: Some(version), schema: Some("mbo".into()), dataset: Some("X.Y".into()), ..given() };
        read_anything(junk, &told);
    }
}
