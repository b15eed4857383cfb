//! What may be wrong with records and tables: a transaction that was dropped, schemas that nobody knows, poison, and data that comes late.

use crate::feed;
use crate::ledger::{Ledger, number, one, report, stored, trades};
use crate::run::{self, Home, text};
use bytes::Bytes;
use eventlog::kafka::{Kafka, KafkaOptions};
use eventlog::{Batch, EventLog, Records};
use schemas::Family;
use std::path::Path;
use std::time::{Duration, Instant};

/// Every entry of a table's log, rewritten.
fn rewrite_entries(table: &Path, change: impl Fn(&str) -> String) {
    for entry in std::fs::read_dir(table.join("_delta_log")).expect("a table") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|kind| kind == "json") {
            let text = std::fs::read_to_string(&path).expect("text");
            std::fs::write(&path, change(&text)).expect("written");
        }
    }
}

/// F17: a table whose transactions were dropped (`delta.setTransactionRetentionDuration` does that) is refused, not stored again from 0.
#[test]
fn rows_whose_transaction_is_gone_are_not_stored_again() {
    let home = Home::embedded();
    let mut ledger = Ledger::default();
    ledger.publish(&home, 5_000);
    home.store();
    let table = home.path("tables/trades");
    let copy = home.path("copy");
    copy_folder(&table.join("_delta_log"), &copy);
    rewrite_entries(&table, |text| text.lines().filter(|line| !line.starts_with("{\"txn\"")).map(|line| format!("{line}\n")).collect());
    ledger.publish(&home, 1_000);
    for _ in 0..2 {
        let output = home.run(&["store", "--once"], "");
        let said = text(&output);
        assert_eq!(output.status.code(), Some(3), "{said}");
        for part in [
            "table trades has rows of tape.trades[",
            "no transaction says up to which offset",
            "bring the table back from a copy",
            "--tables",
        ] {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
        println!("{said}");
        assert_eq!(stored(&home), 5_000, "nothing was stored");
    }
    // What the refusal says to do.
    copy_folder(&copy, &table.join("_delta_log"));
    home.store();
    ledger.check(&home);
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
}

fn log(broker: &str, home: &Home) -> Kafka {
    Kafka::connect(KafkaOptions { prefix: home.topic(""), ..KafkaOptions::new(broker) }).expect("the broker answers")
}

/// Keys and values of what one file publishes, to publish them again as somebody else would.
fn frames(broker: &str, home: &Home) -> (Kafka, Vec<(Bytes, Bytes)>) {
    let log = log(broker, home);
    let starts: Vec<_> = (0..8).map(|partition| eventlog::Start { family: Family::Trades, partition, offset: 0 }).collect();
    let mut reader = log.reader(&starts).expect("a reader");
    let (mut frames, mut ended) = (Vec::new(), 0);
    let deadline = Instant::now() + crate::running::DEADLINE;
    while ended < starts.len() {
        assert!(Instant::now() < deadline, "the end of {ended} of 8 partitions was seen");
        let polled = reader.poll(Duration::from_millis(100), 10_000).expect("records");
        frames.extend(polled.events.into_iter().map(|event| (event.key.expect("a key"), event.value.expect("a value"))));
        ended += polled.at_end.len();
    }
    (log, frames)
}

fn publish(log: &Kafka, name: &str, records: &[(Bytes, Bytes)]) {
    let (keys, values) = records.iter().cloned().unzip();
    let batch = Batch { records: vec![Records { family: Family::Trades, keys, values }], ..Batch::default() };
    log.writer(name).expect("a writer").publish(&batch).expect("published");
}

/// A frame whose schema id is another: an older or newer program wrote it, or nobody of ours.
fn with_schema(frame: &Bytes, id: u32) -> Bytes {
    Bytes::from([&[0], &id.to_be_bytes()[..], &frame[5..]].concat())
}

/// F28: frames of a schema that this version does not know, older and newer, go whole to `quarantine`; the others flow.
#[test]
fn frames_of_unknown_schemas_are_kept_and_hold_nothing_up() {
    let Some(broker) = run::broker() else { return };
    let home = Home::kafka(&broker);
    let mut ledger = Ledger::default();
    ledger.publish(&home, 1_000);
    let (log, good) = frames(&broker, &home);
    let known = Family::Trades.topic().schema_id;
    let strange: Vec<(Bytes, Bytes)> = good[..40]
        .iter()
        .zip(0u32..)
        .map(|((key, value), n)| (key.clone(), with_schema(value, if n % 2 == 0 { 0 } else { known + 100_000 })))
        .collect();
    publish(&log, "somebody", &strange);
    ledger.publish(&home, 1_000);
    let output = home.run(&["store", "--once", "--json"], "");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    println!("{}", text(&output));
    assert_eq!(trades(&home), 2_000, "the others flow");
    let row = one(&home, "SELECT count(*) AS n, count(DISTINCT raw) AS frames, min(reason) AS reason FROM quarantine");
    assert_eq!((number(&row["n"]), number(&row["frames"])), (40, 40), "each whole");
    assert!(row["reason"].as_str().is_some_and(|reason| reason.contains("is not known on this topic")), "{row}");
    let verified = home.run(&["verify"], "");
    assert!(verified.status.success(), "{}", text(&verified));
}

/// F28: a column of a table has another type than this version writes. It is refused, named, and left as it is.
#[test]
fn a_table_with_a_column_of_another_type_is_refused() {
    let home = Home::embedded();
    let mut ledger = Ledger::default();
    ledger.publish(&home, 100);
    home.store();
    let table = home.path("tables/trades");
    let narrow = r#"\"name\":\"_partition\",\"type\":\"integer\""#;
    let wide = r#"\"name\":\"_partition\",\"type\":\"long\""#;
    let first = table.join("_delta_log/00000000000000000000.json");
    assert!(std::fs::read_to_string(&first).expect("the first entry").contains(narrow));
    rewrite_entries(&table, |text| text.replace(narrow, wide));
    ledger.publish(&home, 100);
    let output = home.run(&["store", "--once"], "");
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("column _partition"), "{}", text(&output));
    println!("{}", text(&output));
    rewrite_entries(&table, |text| text.replace(wide, narrow));
    home.store();
    ledger.check(&home);
}

/// F29: one record in a hundred is poison. All of it is kept, the rest flows, and how fast is told beside clean records.
#[test]
fn one_record_in_a_hundred_is_poison() {
    let Some(broker) = run::broker() else { return };
    let rows: u64 = if crate::soak() { 1_000_000 } else { 60_000 };
    let source = Home::kafka(&broker);
    Ledger::default().publish(&source, rows);
    let (_, good) = frames(&broker, &source);
    let mut took = Vec::new();
    for every in [0, 100] {
        let home = Home::kafka(&broker);
        let log = log(&broker, &home);
        let poison = |n: usize| match n / 100 % 4 {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"not a frame"),
            2 => with_schema(&good[n].1, 999_999),
            _ => good[n].1.slice(..good[n].1.len() - 1),
        };
        let record = |n: usize| (good[n].0.clone(), if every > 0 && n % every == 7 { poison(n) } else { good[n].1.clone() });
        let records: Vec<_> = (0..good.len()).map(record).collect();
        records.chunks(20_000).for_each(|records| publish(&log, "somebody", records));
        let began = Instant::now();
        let output = home.run(&["store", "--once", "--json"], "");
        took.push(began.elapsed());
        let bad = if every > 0 { rows / every as u64 } else { 0 };
        assert_eq!(output.status.code(), Some(if bad > 0 { 1 } else { 0 }), "{}", text(&output));
        let said = report(&String::from_utf8_lossy(&output.stdout));
        assert_eq!(said["quarantined"].as_array().expect("a list").iter().map(|kind| number(&kind["records"])).sum::<i64>(), bad as i64);
        assert_eq!(trades(&home), rows - bad);
        assert_eq!(number(&one(&home, "SELECT count(*) AS n FROM quarantine")["n"]), bad as i64);
        let verified = home.run(&["verify"], "");
        assert!(verified.status.success(), "{}", text(&verified));
    }
    println!("{rows} records: clean in {:?}, with 1 % poison in {:?}", took[0], took[1]);
}

/// F27: trades of two hours, two days and a year ago come after today's. Each lands in the day it happened; nothing is rewritten.
#[test]
fn late_data_lands_in_its_own_day() {
    let home = Home::embedded();
    let row = |ts: &str, price: u32| format!("T.DATA,TOK1,{ts},{price},1\n");
    let mut days = Vec::new();
    for (n, ts) in ["2026-10-05T14:30:00Z", "2026-10-05T12:30:00Z", "2026-10-03T14:30:00Z", "2025-10-05T14:30:00Z"].iter().enumerate() {
        let path = home.path(&format!("late-{n}.csv"));
        feed::write(&path, [feed::HEADER, &row(ts, n as u32 + 1)].concat().as_bytes());
        assert_eq!(home.ingest(&path, &[]).code, 0);
        home.store();
        days.push(format!("{} {}", &ts[..10], n + 1));
    }
    let found = home
        .ask(&["SELECT CAST(date AS VARCHAR) AS d, CAST(CAST(price AS BIGINT) AS VARCHAR) AS p FROM trades ORDER BY price".to_string()]);
    let found: Vec<String> =
        found[0].iter().map(|row| format!("{} {}", row["d"].as_str().expect("a date"), row["p"].as_str().expect("a price"))).collect();
    assert_eq!(found, days);
    for day in ["2026-10-05", "2026-10-03", "2025-10-05"] {
        assert!(home.path(&format!("tables/trades/dataset=T.DATA/date={day}")).is_dir(), "{day}");
    }
    let log = std::fs::read_dir(home.path("tables/trades/_delta_log")).expect("a table");
    let removes =
        log.filter_map(|entry| std::fs::read_to_string(entry.expect("an entry").path()).ok()).any(|text| text.contains("{\"remove\""));
    assert!(!removes, "nothing is rewritten");
    let verified = home.run(&["verify"], "");
    assert!(verified.status.success(), "{}", text(&verified));
}
