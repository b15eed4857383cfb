//! Every family, every edge value: record → frame → record is exact, a decoded record encodes to the same bytes, and the generated files
//! (avro/*.avsc, testdata/*.frames, docs/data-dictionary.md) are what the declarations give. `TAPE_BLESS=1` writes the generated files anew.

use arrow::array::{Array, RecordBatch};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use schemas::{Family, Kind, Rows, dictionary, frame};
use std::path::{Path, PathBuf};

/// One cell: NULL or the bits from which a value of the column's kind is made.
type Cell = Option<(u64, u64, Vec<u8>, String)>;

fn cell() -> impl Strategy<Value = Cell> {
    let edge = prop_oneof![Just(0u64), Just(1), Just(u64::MAX), Just(i64::MAX as u64), Just(i64::MIN as u64), any::<u64>()];
    let text = prop_oneof![Just(String::new()), "[a-zA-Z0-9 ._!-]{1,24}", "\\PC{0,12}", Just("词元\u{0}\"\n".to_string())];
    prop::option::weighted(0.8, (edge.clone(), edge, prop::collection::vec(any::<u8>(), 0..24), text))
}

fn set(rows: &mut Rows, column: usize, cell: &Cell) {
    let field = &rows.topic().fields[column];
    let Some((a, b, bytes, text)) = cell else {
        if field.required {
            set(rows, column, &Some((0, 0, vec![], String::new())));
        }
        return;
    };
    match field.kind {
        Kind::Text => rows.text(column, text),
        Kind::I32 => rows.i32(column, *a as i32),
        Kind::I64 | Kind::Time => rows.i64(column, *a as i64),
        Kind::Date => rows.date(column, *a as i32),
        Kind::Bool => rows.bool(column, a & 1 == 1),
        Kind::Bytes => rows.bytes(column, bytes),
        Kind::U64 | Kind::Price | Kind::Tokens | Kind::Amount | Kind::Factor => {
            let (precision, _) = field.kind.decimal().expect("matched the decimals");
            let bound = 10i128.pow(u32::from(precision));
            let value = ((i128::from(*a as i64)) << 64) | i128::from(*b);
            let value = if *a == u64::MAX {
                bound - 1
            } else if *b == u64::MAX {
                1 - bound
            } else {
                value % bound
            };
            rows.decimal(column, value);
        }
    }
}

fn batch(family: Family, table: &[Vec<Cell>]) -> RecordBatch {
    let mut rows = Rows::new(family);
    for row in table {
        for (column, cell) in row.iter().enumerate() {
            set(&mut rows, column, cell);
        }
        rows.end_row();
    }
    rows.finish().expect("every required column was set")
}

fn any_batch(family: Family) -> impl Strategy<Value = RecordBatch> {
    let columns = family.topic().fields.len();
    prop::collection::vec(prop::collection::vec(cell(), columns), 1..6).prop_map(move |table| batch(family, &table))
}

fn slices(frames: &[bytes::Bytes]) -> Vec<&[u8]> {
    frames.iter().map(|frame| frame.as_ref()).collect()
}

#[test]
fn records_survive_the_frame_and_come_back_as_the_same_bytes() {
    for family in Family::ALL {
        let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
        runner
            .run(&any_batch(family), |batch| {
                let frames = frame::encode(family, &batch).expect("a batch of the family encodes");
                let decoded = frame::decode(family, &slices(&frames)).expect("its frames decode");
                prop_assert_eq!(&decoded.bad, &vec![]);
                prop_assert_eq!(&decoded.batch, &batch);
                prop_assert_eq!(frame::encode(family, &decoded.batch).expect("it encodes again"), frames);
                prop_assert_eq!(frame::keys(family, &decoded.batch), frame::keys(family, &batch));
                Ok(())
            })
            .unwrap_or_else(|e| panic!("{}: {e}", family.topic().name));
    }
}

/// Given many rows of which some columns have one value throughout, then their frames are those of the same rows given a few at a time.
#[test]
fn many_rows_have_the_frames_that_they_have_alone() {
    for family in Family::ALL {
        let columns = family.topic().fields.len();
        let mut runner = TestRunner::new(Config { cases: 12, failure_persistence: None, ..Config::default() });
        // Two kinds of rows, and for each column which of both a row has: always the first, or either, by its bits.
        let row = || prop::collection::vec(cell(), columns);
        let choice = prop_oneof![3 => Just(0u128), 2 => any::<u128>(), 1 => Just(1 << 99)];
        runner
            .run(&(row(), row(), prop::collection::vec(choice, columns)), |(one, other, choices)| {
                let row = |at: usize| {
                    let cells = one.iter().zip(&other).zip(&choices);
                    cells.map(|((one, other), choice)| if choice >> at & 1 == 0 { one.clone() } else { other.clone() }).collect()
                };
                let table: Vec<Vec<Cell>> = (0..100).map(row).collect();
                let frames = frame::encode(family, &batch(family, &table)).expect("a batch of the family encodes");
                let few: Vec<_> =
                    table.chunks(7).flat_map(|few| frame::encode(family, &batch(family, few)).expect("few rows do")).collect();
                prop_assert_eq!(frames, few);
                Ok(())
            })
            .unwrap_or_else(|e| panic!("{}: {e}", family.topic().name));
    }
}

#[test]
fn a_bad_frame_never_harms_its_neighbours() {
    let mut runner = TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
    let family = Family::Trades;
    let strategy = (any_batch(family), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..4));
    runner
        .run(&strategy, |(batch, hits)| {
            let good = frame::encode(family, &batch).expect("a batch of the family encodes");
            // Between every two good frames stands a mutilated copy of one of them.
            let mut frames = Vec::new();
            for (i, frame) in good.iter().enumerate() {
                frames.push(frame.to_vec());
                let (at, byte, how) = &hits[i % hits.len()];
                let mut bad = frame.to_vec();
                match how {
                    0 => bad.truncate(at.index(bad.len())),
                    1 => bad.push(*byte),
                    2 => bad[1] ^= 0x55,
                    _ => bad = vec![*byte; at.index(64)],
                }
                frames.push(bad);
            }
            let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            let decoded = frame::decode(family, &frames).expect("bad frames are reported, not fatal");
            prop_assert_eq!(decoded.rows.len() + decoded.bad.len(), frames.len());
            for (i, good) in good.iter().enumerate() {
                let row = decoded.rows.iter().position(|index| *index == 2 * i);
                prop_assert!(row.is_some(), "good frame {} was lost: {:?}", i, decoded.bad);
                let again = frame::encode(family, &decoded.batch.slice(row.expect("checked"), 1)).expect("it encodes");
                prop_assert_eq!(&again[0], good);
            }
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
}

/// Seven bits to a byte, as Avro writes numbers, in at least so many bytes.
fn number(mut value: u64, bytes_min: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 || bytes.len() + 1 < bytes_min {
        bytes.push(value as u8 & 0x7f | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A frame of this row, cell by cell, with other spellings where `twists` says so: a union's other branch, longer numbers, decimals with
/// needless or missing digits, another byte for true.
fn twisted(family: Family, row: &[Cell], twists: &[u8]) -> Vec<u8> {
    let topic = family.topic();
    let mut frame = [&[0][..], &topic.schema_id.to_be_bytes()].concat();
    let mut twist = twists.iter().copied().cycle();
    for (field, cell) in topic.fields.iter().zip(row) {
        let how = twist.next().expect("there are twists");
        let longer = if how == 1 { 10 } else { usize::from(how == 2) * 2 };
        let given = match cell {
            None if !field.required => {
                frame.extend(number(0, longer));
                continue;
            }
            None => (0, 0, vec![], String::new()),
            Some(cell) => cell.clone(),
        };
        if !field.required {
            frame.extend(number(if how == 3 { 4 } else { 2 }, if how == 4 { 2 } else { 0 }));
        }
        let bytes = |frame: &mut Vec<u8>, bytes: &[u8]| {
            frame.extend(number(bytes.len() as u64 * 2, longer));
            frame.extend(bytes);
        };
        match field.kind {
            Kind::Text if how == 5 => bytes(&mut frame, &given.2),
            Kind::Text => bytes(&mut frame, given.3.as_bytes()),
            Kind::Bytes => bytes(&mut frame, &given.2),
            Kind::I32 | Kind::Date => frame.extend(number(u64::from(given.0 as u32), if how == 1 { 5 } else { longer })),
            Kind::I64 | Kind::Time => frame.extend(number(given.0, longer)),
            Kind::Bool => frame.push(if how == 6 { given.1 as u8 } else { given.0 as u8 & 1 }),
            Kind::U64 | Kind::Price | Kind::Tokens | Kind::Amount | Kind::Factor => {
                let digits = ((given.0 as i64) >> (given.1 % 64)).to_be_bytes();
                let sign = if digits[0] >= 0x80 { 0xff } else { 0 };
                let needless = (0..7).take_while(|i| digits[*i] == sign && (digits[i + 1] ^ sign) < 0x80).count();
                match how {
                    7 => bytes(&mut frame, &digits),
                    8 => bytes(&mut frame, &[&[sign; 9][..], &digits].concat()),
                    9 => bytes(&mut frame, &[]),
                    _ => bytes(&mut frame, &digits[needless..]),
                }
            }
        }
    }
    if twists.len() == 7 {
        frame.push(0);
    }
    frame
}

/// What is said to be our spelling is what encoding the row gives, and only that; and frames that are all ours decode alike either way.
#[test]
fn a_frame_is_ours_exactly_when_encoding_its_row_gives_the_same_bytes() {
    let seen = std::cell::Cell::new((0, 0, 0));
    for family in Family::ALL {
        let columns = family.topic().fields.len();
        let plain_or_not = prop_oneof![Just(vec![0u8]), prop::collection::vec(prop_oneof![12 => Just(0u8), 1 => 0..10u8], 1..90)];
        let frame = (prop::collection::vec(cell(), columns), plain_or_not, prop::option::weighted(0.1, any::<(prop::sample::Index, u8)>()));
        let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
        let ran = runner.run(&prop::collection::vec(frame, 1..6), |given| {
            let frames: Vec<Vec<u8>> = given
                .iter()
                .map(|(row, twists, hit)| {
                    let mut frame = twisted(family, row, twists);
                    if let Some((at, byte)) = hit {
                        let at = at.index(frame.len());
                        frame[at] = *byte;
                    }
                    frame
                })
                .collect();
            let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            let decoded = frame::decode(family, &frames).expect("bad frames are reported, not fatal");
            let again = frame::encode(family, &decoded.batch).expect("what was decoded encodes");
            for ((index, ours), again) in decoded.rows.iter().zip(&decoded.ours).zip(&again) {
                prop_assert_eq!(*ours, frames[*index] == again.as_ref(), "{:02x?} against {:02x?}", frames[*index], again.as_ref());
            }
            let all_ours = decoded.bad.is_empty() && decoded.ours.iter().all(|ours| *ours);
            let alike = frame::decode_alike(family, &frames).expect("bad frames are reported, not fatal");
            if let Some(alike) = &alike {
                prop_assert!(all_ours);
                for (name, column) in family.topic().fields.iter().map(|field| &field.name).zip(decoded.batch.columns()) {
                    let (values, once) = alike.column(name).expect("every column is there");
                    for row in 0..frames.len() {
                        prop_assert_eq!(&values.slice(if once { 0 } else { row }, 1), &column.slice(row, 1), "{} of row {}", name, row);
                    }
                }
                let keys = frame::keys(family, &decoded.batch);
                prop_assert!(alike.has_keys(family, keys.iter().map(|key| Some(key.as_ref()))).iter().all(|own| *own));
                prop_assert!(!alike.has_keys(family, keys.iter().map(|_| None)).iter().any(|own| *own));
            } else {
                prop_assert!(!all_ours || frames.iter().all(|frame| frame == &frames[0]), "frames of ours were not decoded alike");
            }
            let count = decoded.ours.iter().filter(|ours| **ours).count();
            let (ours, others, unread) = seen.get();
            seen.set((ours + count, others + decoded.ours.len() - count, unread + decoded.bad.len()));
            Ok(())
        });
        ran.unwrap_or_else(|e| panic!("{}: {e}", family.topic().name));
    }
    let (ours, others, unread) = seen.get();
    assert!(ours > 50 && others > 50 && unread > 50, "{ours} ours, {others} others, {unread} not read");
}

/// arrow-avro finds out about such a text only when the whole batch is there.
#[test]
fn a_text_that_is_not_utf8_is_one_bad_frame() {
    let family = Family::Trades;
    let mut row: Vec<Cell> = vec![None; family.topic().fields.len()];
    let good = twisted(family, &row, &[0]);
    row[family.topic().column("symbol")] = Some((0, 0, vec![0xff], String::new()));
    let bad = twisted(family, &row, &[5]);
    let decoded = frame::decode(family, &[&good, &bad, &good]).expect("bad frames are reported, not fatal");
    assert_eq!((decoded.rows, decoded.bad.len()), (vec![0, 2], 1));
    assert_eq!((decoded.bad[0].index, decoded.bad[0].field.as_deref()), (1, Some("symbol")));
}

#[test]
fn a_frame_that_is_a_prefix_alone_is_bad() {
    let family = Family::Trades;
    let row: Vec<Cell> = family.topic().fields.iter().map(|_| None).collect();
    let good = frame::encode(family, &batch(family, &[row])).expect("encodes");
    let decoded = frame::decode(family, &[&good[0], &good[0][..frame::PREFIX_LEN], &good[0]]).expect("bad frames are reported, not fatal");
    assert_eq!(decoded.rows, [0, 2]);
    assert_eq!(decoded.bad.iter().map(|bad| bad.index).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_decimal_beyond_its_column_is_refused_with_its_name() {
    let family = Family::Trades;
    let topic = family.topic();
    let mut rows = Rows::new(family);
    for price in [1, 10i128.pow(18), 2] {
        for column in 0..topic.fields.len() {
            if topic.fields[column].required {
                set(&mut rows, column, &None);
            }
        }
        rows.decimal(topic.column("price"), price);
        rows.end_row();
    }
    let frames = frame::encode(family, &rows.finish().expect("arrow does not check the precision here")).expect("nor does Avro");
    let decoded = frame::decode(family, &slices(&frames)).expect("decodes");
    assert_eq!(decoded.rows, [0, 2]);
    assert_eq!(decoded.bad[0].index, 1);
    assert_eq!(decoded.bad[0].field.as_deref(), Some("price"));
}

#[test]
fn keys_say_dataset_and_what_the_family_declares() {
    let mut rows = Rows::new(Family::Trades);
    let topic = Family::Trades.topic();
    for symbol in [Some("ru1901"), None] {
        rows.text(topic.column("change"), "new");
        rows.text(topic.column("dataset"), "XSGE.CTP");
        rows.i32(topic.column("revision"), 0);
        rows.bytes(topic.column("source_id"), &[0xab; 16]);
        rows.i64(topic.column("source_record"), 0);
        rows.i64(topic.column("source_byte"), 0);
        rows.i64(topic.column("instrument_id"), 42);
        if let Some(symbol) = symbol {
            rows.text(topic.column("symbol"), symbol);
        }
        rows.end_row();
    }
    let keys = frame::keys(Family::Trades, &rows.finish().expect("complete"));
    assert_eq!(keys, ["XSGE.CTP/ru1901", "XSGE.CTP/42"]);
}

#[test]
fn declarations_are_consistent() {
    let mut ids: Vec<u32> = Family::ALL.iter().map(|family| family.topic().schema_id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), Family::ALL.len(), "schema ids are unique");
    for family in Family::ALL {
        let topic = family.topic();
        assert_eq!(topic.family, family);
        assert_eq!(Family::named(topic.name), Some(family));
        let mut names: Vec<_> = topic.stored_fields().into_iter().map(|field| field.name).collect();
        let columns = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), columns, "{} names a column twice", topic.name);
        for column in
            topic.key.iter().flat_map(|columns| columns.iter()).chain(topic.business_key).chain(topic.sort_key).chain(topic.partition_by)
        {
            assert!(topic.find_column(column).is_some(), "{} has no column {column}", topic.name);
        }
        assert_eq!(topic.wire_schema().fields().len() + 8, topic.stored_schema().fields().len());
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_path_buf()
}

fn generated(path: &str, content: &[u8]) {
    let path = repository().join(path);
    if std::env::var_os("TAPE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("folder can be made");
        std::fs::write(&path, content).expect("file can be written");
    }
    let found = std::fs::read(&path).unwrap_or_default();
    assert!(found == content, "{} is not what the declarations give: run TAPE_BLESS=1 cargo test -p schemas", path.display());
}

#[test]
fn avro_schemas_are_written_down() {
    for family in Family::ALL {
        let topic = family.topic();
        let value: serde_json::Value = serde_json::from_str(topic.avro()).expect("arrow-avro writes JSON");
        let text = serde_json::to_string_pretty(&value).expect("JSON prints") + "\n";
        generated(&format!("schemas/avro/{}.avsc", topic.name), text.as_bytes());
    }
}

#[test]
fn the_data_dictionary_is_written_down() {
    generated("docs/data-dictionary.md", dictionary::markdown().as_bytes());
}

/// The frames of fixed records, in hex: a change here is a change of what was published before.
#[test]
fn frames_of_fixed_records_never_change() {
    for family in Family::ALL {
        let columns = family.topic().fields.len();
        let row = |seed: u64| -> Vec<Cell> {
            (0..columns as u64)
                .map(|c| (!(c + seed).is_multiple_of(3)).then(|| (c * 7 + seed, seed, vec![c as u8; 3], format!("t{c}"))))
                .collect()
        };
        let batch = batch(family, &[row(0), row(1), row(2)]);
        let frames = frame::encode(family, &batch).expect("encodes");
        let text: String = frames.iter().map(|frame| hex::encode(frame) + "\n").collect();
        generated(&format!("schemas/testdata/{}.frames", family.topic().name), text.as_bytes());
        assert_eq!(batch.num_rows(), 3);
        assert!(batch.columns().iter().all(|column| column.len() == 3));
    }
}
