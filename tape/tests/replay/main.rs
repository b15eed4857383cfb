//! `tape replay` through the binary: from a log with everything odd that a foreign producer may write, and back to one.
//!
//! The log is made with the door that a restored one comes through: it takes null keys, headers, other clocks and holes.

#[path = "../../../lake/tests/support/dice.rs"]
#[allow(dead_code, reason = "the other test binaries use the rest of it")]
mod dice;
#[path = "../cli/feed.rs"]
#[allow(dead_code, reason = "the other test binaries use the rest of it")]
mod feed;
mod kafka;
#[allow(dead_code, reason = "the other test binaries use the rest of it")]
#[path = "../real_files/run.rs"]
mod run;
#[path = "../cli/running.rs"]
#[allow(dead_code, reason = "the other test binaries use the rest of it")]
mod running;

use arrow::array::RecordBatch;
use dice::{Dice, column};
use eventlog::embedded::{Embedded, Identity, Options};
use eventlog::{Event, EventLog, Start, TopicInfo};
use feed::Random;
use run::{Home, text};
use schemas::record::{Record, TimestampType};
use schemas::{Family, frame};
use serde_json::Value;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

const FAMILIES: [Family; 5] = [Family::Trades, Family::Bars, Family::Documents, Family::Gaps, Family::Quarantine];
/// So many of each, in ten commits.
const RECORDS: usize = 200;
const STORE_ROWS_MAX: usize = 20;
/// One partition's first offsets were lost before they were stored.
const LOW: i64 = 5;

/// The binary under test.
fn tape() -> run::Tape {
    run::Tape::new(env!("CARGO_BIN_EXE_tape"))
}

/// What a foreign producer might do to a record.
fn make_odd(dice: &mut Dice, record: &mut Record) {
    match dice.below(12) {
        0 => record.key = None,
        1 => record.key = Some("".into()),
        2 => record.headers = vec![("a".into(), None), (String::new(), Some("\0".into())), ("a".into(), Some("".into()))],
        3 => record.ts_type = TimestampType::Create,
        4 => (record.ts_ms, record.ts_type) = (-1, TimestampType::None),
        5 => record.ts_ms = i64::MAX,
        6 => record.value = record.value.take().map(|value| value.slice(..value.len() - 1)),
        7 => record.value = None,
        8 => record.value = Some("no frame".into()),
        _ => {}
    }
}

/// A home with a log of odd records, as a Kafka had it, and small commits.
fn odd_home(random: &mut Random) -> Home {
    let mut dice = Dice(random.below(u64::MAX));
    let home = Home::embedded();
    let topic = |family: Family| {
        let topic = family.topic();
        (family, TopicInfo { name: format!("tape.{}", topic.name), id: format!("kafka-{}", topic.schema_id), partitions: topic.partitions })
    };
    let identity = Identity { cluster_id: "MkU3OEVBNTcwNTJENDM2Qg".into(), topics: Family::ALL.map(topic).to_vec() };
    let mut log = Embedded::restore(&home.path("log"), &Options::default(), &identity).expect("a new log");
    for family in FAMILIES {
        let topic = family.topic();
        let columns = topic.fields.iter().map(|field| column(&mut dice, field, RECORDS)).collect();
        let rows = RecordBatch::try_new(topic.wire_schema().clone(), columns).expect("columns of the schema");
        let (keys, values) = (frame::keys(family, &rows), frame::encode(family, &rows).expect("it encodes"));
        let mut records: Vec<Record> = keys
            .into_iter()
            .zip(values)
            .zip(1_791_210_600_000..)
            .map(|((key, value), ts_ms)| Record {
                key: Some(key),
                value: Some(value),
                headers: vec![],
                ts_ms,
                ts_type: TimestampType::LogAppend,
            })
            .collect();
        records.iter_mut().for_each(|record| make_odd(&mut dice, record));
        let partitions = topic.partitions as usize;
        for (partition, of_partition) in records.chunks(RECORDS.div_ceil(partitions)).enumerate() {
            let low = if (family, partition) == (Family::Trades, 3) { LOW } else { 0 };
            log.begin(family, partition as i32, low).expect("a partition");
            let mut offset = low;
            for record in of_partition {
                // Markers and aborted records: offsets that hold nothing.
                offset += if dice.below(5) == 0 { dice.below(4) as i64 } else { 0 };
                log.push(offset, record).expect("in order");
                offset += 1;
            }
        }
    }
    log.finish().expect("a whole log");
    std::fs::write(home.path("tape.toml"), format!("[store]\nrows_max = {STORE_ROWS_MAX}\n")).expect("written");
    home
}

/// Runs it; `code` is how it is to end.
fn done(home: &Home, args: &[&str], code: i32) -> Output {
    let output = home.run(args, "");
    assert_eq!(output.status.code(), Some(code), "tape {args:?}: {}", text(&output));
    output
}

/// The file that a replay writes.
fn replayed(home: &Home, args: &[&str]) -> Vec<u8> {
    let path = home.path("replayed");
    done(home, &[&["replay", "--to", path.to_str().expect("UTF-8")], args].concat(), 0);
    let bytes = std::fs::read(&path).expect("it was written");
    std::fs::remove_file(path).expect("it was written");
    bytes
}

fn lines(bytes: &[u8]) -> Vec<Value> {
    std::str::from_utf8(bytes).expect("UTF-8").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// All that a log holds, in order.
fn events(dir: &Path) -> Vec<Event> {
    let log = Embedded::open(dir, &Options::default()).expect("nobody has it");
    let mut events = Vec::new();
    for family in Family::ALL {
        for (partition, watermarks) in (0..).zip(log.watermarks(family).expect("they are known")) {
            let mut reader = log.reader(&[Start { family, partition, offset: watermarks.low }]).expect("a reader");
            loop {
                let polled = reader.poll(Duration::from_secs(10), 1 << 20).expect("it can be read");
                events.extend(polled.events);
                if !polled.at_end.is_empty() {
                    break;
                }
            }
        }
    }
    events
}

const ORDERS: [&[&str]; 3] = [&["--order", "log"], &["--order", "time"], &["--order", "source"]];

/// Given tables of an odd log, then a home that was restored from them has the same log, and its tables are the same in every column.
#[test]
fn a_home_restored_from_its_tables_is_the_same_home() {
    let home = odd_home(&mut Random::new("a_home_restored_from_its_tables_is_the_same_home"));
    // 1: records were lost, and some are no good.
    done(&home, &["store", "--once"], 1);
    let noted = &home
        .ask(&["SELECT count(*) > 0 AND count(noted_at) = count(*) AS dated FROM tape.gaps WHERE _partition IS NULL".to_string()])[0][0];
    assert_eq!(noted["dated"], true, "a loss has a time");
    let other = Home::embedded();
    let dir = other.path("home");
    done(&home, &["replay", "--to-home", dir.to_str().expect("UTF-8")], 0);

    let (ours, theirs) = (events(&home.path("log")), events(&dir.join("log")));
    assert!(ours.iter().any(|event| event.key.is_none()) && ours.iter().any(|event| !event.headers.is_empty()));
    assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));

    let restored = ["--home", dir.to_str().expect("UTF-8")];
    std::fs::write(dir.join("tape.toml"), "[store]\nrows_max = 37\n").expect("written");
    let other = Elsewhere(&restored);
    other.done(&["store", "--once"], 1);
    for order in ORDERS {
        let ours = replayed(&home, order);
        let path = home.path("theirs");
        other.done(&[&["replay", "--to", path.to_str().expect("UTF-8")], order].concat(), 0);
        assert!(ours == std::fs::read(&path).expect("written"), "{order:?}");
        std::fs::remove_file(path).expect("written");
        assert_eq!(lines(&ours).len(), FAMILIES.len() * RECORDS + 1, "every record, and what the store says of the lost ones");
    }
    // Whether it is all there is told by the restored tables alone.
    other.done(&["verify"], 1);
    let findings = lines(&other.done(&["verify", "--json"], 1).stdout).remove(0)["findings"].clone();
    assert!(findings.as_array().expect("findings").iter().all(|finding| finding["kind"] == "lost"), "{findings}");
    // How far the sources were published is not known there.
    let file = home.path("more.csv");
    feed::write(&file, [feed::HEADER.as_bytes(), &feed::csv(0, 3)].concat().as_slice());
    let refused = other.done(&["ingest", file.to_str().expect("UTF-8")], 3);
    assert!(text(&refused).contains("was restored from tables"), "{}", text(&refused));
    // Nor is it restored over what is there.
    let refused = done(&home, &["replay", "--to-home", restored[1]], 2);
    assert!(text(&refused).contains("is not empty"), "{}", text(&refused));
}

/// Given tables of which a byte was changed, then no log is made of them: it would prove the damage.
#[test]
fn tables_that_are_not_whole_are_not_restored() {
    let home = Home::embedded();
    let path = home.path("trades.csv");
    feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(0, 2_000)].concat());
    home.ingest(&path, &[]);
    home.store();
    let other = home.path("restored").display().to_string();
    done(&home, &["replay", "--to-home", &other], 0);
    let mut folders = vec![home.path("tables/trades")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("listed") {
            let path = entry.expect("listed").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    let file = files.iter().find(|path| path.extension().is_some_and(|extension| extension == "parquet")).expect("a file of trades");
    let mut bytes = std::fs::read(file).expect("read");
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).expect("written");
    let damaged = home.path("damaged").display().to_string();
    let refused = text(&done(&home, &["replay", "--to-home", &damaged], 3));
    assert!(refused.contains("not whole"), "{refused}");
    assert!(!Path::new(&damaged).exists(), "nothing is begun");
}

/// The binary on another home than the test's.
struct Elsewhere<'a>(&'a [&'a str; 2]);

impl Elsewhere<'_> {
    fn done(&self, args: &[&str], code: i32) -> Output {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tape"));
        let output = command.args(args).args(self.0).env_remove("TAPE_HOME").output().expect("the binary starts");
        assert_eq!(output.status.code(), Some(code), "tape {args:?}: {}", text(&output));
        output
    }
}

/// Given many small files, then every form in every order has the same bytes after upkeep made few of them, and again.
#[test]
fn what_upkeep_does_changes_no_byte() {
    let odd = odd_home(&mut Random::new("what_upkeep_does_changes_no_byte"));
    done(&odd, &["store", "--once"], 1);
    upkeep_changes_no_byte(&odd, "quarantine", "bars");
    let grown = Home::embedded();
    let path = grown.path("trades.csv");
    for rows in 1..6 {
        feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(0, rows * 700)].concat());
        grown.ingest(&path, &[]);
        grown.store();
    }
    upkeep_changes_no_byte(&grown, "trades", "trades");
}

/// `rewritten` is a table of many small files, `table` one to write as Avro.
fn upkeep_changes_no_byte(home: &Home, rewritten: &str, table: &str) {
    let all = || -> Vec<Vec<u8>> {
        let mut written: Vec<Vec<u8>> = ORDERS.iter().map(|order| replayed(home, order)).collect();
        let folder = home.path("avro");
        let to = format!("{}/", folder.display());
        done(home, &["replay", "--format", "avro", "--to", &to, "--order", "source"], 0);
        written.push(std::fs::read(folder.join(format!("{table}.avro"))).expect("written"));
        std::fs::remove_dir_all(folder).expect("written");
        written
    };
    let before = all();
    assert!(before.iter().all(|bytes| !bytes.is_empty()));
    let said = text(&done(home, &["upkeep"], 0));
    assert!(said.contains(rewritten), "nothing was rewritten: {said}");
    assert!(before == all(), "after upkeep");
    assert!(before == all(), "once more");
}

/// Each order is what it says, and quarantined records come where they stood.
#[test]
fn orders_and_ranges_are_what_they_say() {
    let home = odd_home(&mut Random::new("orders_and_ranges_are_what_they_say"));
    done(&home, &["store", "--once"], 1);
    let family =
        |line: &Value| FAMILIES.iter().position(|family| line["topic"] == format!("tape.{}", family.topic().name)).expect("a family");
    let place = |line: &Value| (family(line), line["partition"].as_i64(), line["offset"].as_i64());
    let by_log = lines(&replayed(&home, ORDERS[0]));
    assert!(by_log.is_sorted_by(|a, b| place(a) < place(b)), "family, partition, offset");
    assert!(by_log.iter().any(|line| line["table"] == "quarantine" && line["topic"] == "tape.trades"), "quarantined trades are trades");
    let by_time = lines(&replayed(&home, ORDERS[1]));
    let time = |line: &Value| line["log_ts"].as_str().map(String::from);
    assert!(by_time.is_sorted_by(|a, b| (time(a), place(a)) < (time(b), place(b))));
    let by_source = lines(&replayed(&home, ORDERS[2]));
    let source = |line: &Value| {
        let number = |name: &str| line[name].as_i64().expect("a number");
        (line["source_id"].as_str().expect("an id").to_string(), number("source_record"), number("source_byte"))
    };
    assert!(by_source.is_sorted_by(|a, b| (source(a), place(a)) < (source(b), place(b))));

    let told = |args: &[&str]| lines(&replayed(&home, args));
    let count = |of: &dyn Fn(&Value) -> bool| by_log.iter().filter(|line| of(line)).count();
    let trades = told(&["--family", "trades"]);
    assert_eq!(trades.len(), RECORDS);
    let part = told(&["--family", "trades", "--partition", "2", "--from-offset", "3", "--to-offset", "11"]);
    let in_part = |line: &&Value| line["partition"] == 2 && (3..11).contains(&line["offset"].as_i64().expect("an offset"));
    assert_eq!(part, trades.iter().filter(in_part).cloned().collect::<Vec<_>>());
    assert!(!part.is_empty());
    let (since, until) = ("2026-10-05T14:30:00.010Z", "2026-10-05T14:30:00.020Z");
    let seen = told(&["--since", since, "--until", until]);
    let (first, end) = (since.trim_end_matches('Z'), until.trim_end_matches('Z'));
    let within = |line: &Value| time(line).is_some_and(|time| time.as_str() >= first && time.as_str() < end);
    assert_eq!(seen.len(), count(&within));
    assert!(!seen.is_empty() && seen.iter().all(within));
    let dataset = told(&["--dataset", "__HIVE"]);
    assert_eq!(dataset.len(), count(&|line| line["dataset"] == "__HIVE"));
    let events = told(&["--family", "trades,bars", "--clock", "ts_event", "--since", "1970-01-01", "--until", "1970-01-02"]);
    let in_day = |line: &Value| family(line) < 2 && line["ts_event"].as_str().is_some_and(|time| time.starts_with("1970-01-01"));
    assert_eq!(events.len(), count(&in_day));
    let symbol = trades
        .iter()
        .find_map(|line| line["symbol"].as_str().filter(|symbol| symbol.bytes().all(|b| b.is_ascii_digit()) && !symbol.is_empty()));
    let symbol = symbol.expect("some symbol is a number");
    assert_eq!(told(&["--symbol", symbol]).len(), count(&|line| line["symbol"] == symbol));
    assert_eq!(told(&["--family", "status"]).len(), 0);

    for (wrong, says) in [
        (vec!["--family", "trade"], "no such table"),
        (vec!["--since", "yesterday"], "2026-10-05T14:30:00"),
        (vec!["--source", "12"], "32 hex digits"),
        (vec!["--format", "avro"], "one schema"),
        (vec!["--format", "dbn", "--order", "log"], "order of its source"),
        (vec!["--to-home", "x", "--family", "trades"], "cannot be used with"),
    ] {
        let refused = done(&home, &[&["replay"], wrong.as_slice()].concat(), 2);
        assert!(text(&refused).contains(says), "{wrong:?}: {}", text(&refused));
    }
    let there = home.path("tape.toml");
    let refused = done(&home, &["replay", "--to", there.to_str().expect("UTF-8")], 2);
    assert!(text(&refused).contains("is there already"), "{}", text(&refused));
}

/// A DBN file with records that ingest refuses is told again byte for byte.
#[test]
fn a_dbn_file_comes_back_with_its_bad_records() {
    let home = Home::embedded();
    let mut bytes = feed::dbn("T.DATA", 5_000);
    let first = bytes.len() - 5_000 * feed::RECORD_BYTES;
    for n in [0, 17, 4_999] {
        // A price beyond what a column of prices holds.
        let price = first + n * feed::RECORD_BYTES + 16;
        bytes[price..price + 8].copy_from_slice(&(i64::MAX - 1).to_le_bytes());
    }
    let path = home.path("bad.dbn");
    feed::write(&path, &bytes);
    done(&home, &["ingest", path.to_str().expect("UTF-8")], 1);
    home.store();
    assert!(replayed(&home, &["--format", "dbn"]) == bytes, "the file comes back");
    let mut child = home.command(&["replay", "--format", "dbn"]);
    assert!(child.output().expect("the binary starts").stdout == bytes, "on standard output too");
    // A part of it has the file's header.
    let part = replayed(&home, &["--format", "dbn", "--symbol", "TOK3"]);
    assert_eq!(part[..first], bytes[..first]);
    let of_symbol = (0..5_000).filter(|n| n % 7 == 3 && ![0, 17, 4_999].contains(n));
    let expected: Vec<u8> = of_symbol.flat_map(|n| bytes[first + n * feed::RECORD_BYTES..][..feed::RECORD_BYTES].to_vec()).collect();
    assert!(part[first..] == expected);
    let refused = done(&home, &["replay", "--format", "dbn", "--source", &"00".repeat(16)], 2);
    assert!(text(&refused).contains("did not come from DBN"), "{}", text(&refused));
}
