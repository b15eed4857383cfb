//! An auditor's questions, asked of the binary: which commit holds what, how far the tables are behind, what stands in quarantine and why,
//! and whether all of it is as it was stored and as the log has it.

use crate::feed;
use crate::run::{Home, text};
use eventlog::embedded::{Embedded, Options};
use eventlog::kafka::{Kafka, KafkaOptions};
use eventlog::{Batch, EventLog, Records};
use schemas::{Family, Rows, frame};
use serde_json::Value;

fn said(home: &Home, args: &[&str], code: i32) -> String {
    let output = home.run(args, "");
    assert_eq!(output.status.code(), Some(code), "tape {args:?}: {}", text(&output));
    text(&output)
}

fn json(home: &Home, args: &[&str], code: i32) -> Value {
    let output = home.run(&[args, &["--json"]].concat(), "");
    assert_eq!(output.status.code(), Some(code), "tape {args:?}: {}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)))
}

fn csv(home: &Home, sql: &str) -> String {
    let output = home.run(&["sql", "--format", "csv", sql], "");
    assert!(output.status.success(), "{sql}: {}", text(&output));
    String::from_utf8(output.stdout).expect("CSV is UTF-8")
}

/// A bar, written by a client to the topic of trades, and a frame of a schema that nobody knows.
fn foreign(log: &dyn EventLog) {
    let topic = Family::Bars.topic();
    let mut rows = Rows::new(Family::Bars);
    for (column, value) in [("dataset", "T.DATA"), ("symbol", "TOK1"), ("change", "new"), ("schema", "ohlcv-1d")] {
        rows.text(topic.column(column), value);
    }
    rows.i32(topic.column("revision"), 0);
    rows.bytes(topic.column("source_id"), &[9; 16]);
    rows.i64(topic.column("source_record"), 0);
    rows.i64(topic.column("source_byte"), 0);
    rows.end_row();
    let bar = rows.finish().expect("complete");
    let mut values = frame::encode(Family::Bars, &bar).expect("it encodes");
    values.push(vec![0, 0, 0, 0x27, 0x0f, 2, 2].into());
    let records = Records { family: Family::Trades, keys: vec!["T.DATA/TOK1".into(); 2], values };
    log.writer("client").expect("a writer").publish(&Batch { records: vec![records], ..Batch::default() }).expect("published");
}

fn story(home: &Home, client: impl Fn() -> Box<dyn EventLog>) {
    let path = home.path("trades.csv");
    feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(0, 1_000)].concat());
    home.ingest(&path, &[]);
    foreign(client().as_ref());
    assert_eq!(csv(home, "SELECT sum(behind) > 0 AS behind, sum(lost) AS lost FROM tape.lag"), "behind,lost\ntrue,0\n");
    let waits = said(home, &["doctor"], 0);
    assert!(waits.contains("not stored yet: ") && waits.contains("trades"), "{waits}");
    said(home, &["store", "--once"], 1);
    let stands = said(home, &["doctor"], 1);
    assert!(stands.contains("BAD  quarantine     2 records are not settled") && stands.contains("requeue --dry-run"), "{stands}");
    assert!(stands.contains("ok   lag") && stands.contains("ok   losses"), "{stands}");

    // Each offset of the topic is in one interval of one commit; the rows are those of the records, but for what went to quarantine.
    let parts = "SELECT sum(records) AS records, sum(quarantined) AS bad, count(root) = count(*) AS proved FROM tape.intervals WHERE table_name = 'trades'";
    assert_eq!(csv(home, parts), "records,bad,proved\n1002,2,true\n");
    let commits = "SELECT sum(records) AS records, sum(rows) AS rows, min(operation) AS o, count(DISTINCT topic_id) AS ids, bool_and(committed_at > TIMESTAMP '2026-01-01T00:00:00Z') AS dated FROM tape.commits WHERE table_name = 'trades' AND version > 0";
    assert_eq!(csv(home, commits), "records,rows,o,ids,dated\n1002,1000,WRITE,1,true\n");
    let lag = "SELECT sum(behind) AS behind, sum(lost) AS lost, max(last_log_ts) > TIMESTAMP '2026-01-01T00:00:00Z' AS dated FROM tape.lag";
    assert_eq!(csv(home, lag), "behind,lost,dated\n0,0,true\n");

    // What stands in quarantine says where it stood; what can be decoded is published again, once.
    let standing = "SELECT count(*) AS n, count(requeued_at) AS requeued FROM tape.quarantine WHERE change = 'new' AND stood LIKE '%trades[%] offset %'";
    assert_eq!(csv(home, standing), "n,requeued\n2,0\n");
    let dry = json(home, &["requeue", "--dry-run"], 1);
    assert_eq!((&dry["published"]["bars"], &dry["dry_run"]), (&1.into(), &true.into()));
    let done = said(home, &["requeue"], 1);
    assert!(done.contains("1 record published again to bars") && done.contains("9999"), "{done}");
    let again = said(home, &["requeue"], 1);
    assert!(again.contains("nothing published again") && again.contains("1 record published again before"), "{again}");
    said(home, &["store", "--once"], 0);
    assert_eq!(csv(home, standing), "n,requeued\n2,1\n");
    assert!(said(home, &["doctor"], 1).contains("1 record is not settled"));
    assert_eq!(csv(home, "SELECT symbol, schema, _headers IS NOT NULL AS told FROM bars"), "symbol,schema,told\nTOK1,ohlcv-1d,true\n");

    // And all of it is whole, also beside the log.
    let verified = json(home, &["verify", "--against-log"], 0);
    assert_eq!((&verified["whole"], &verified["tables"]["trades"]["compared"]), (&true.into(), &1002.into()));
    let report = said(home, &["verify"], 0);
    assert!(report.contains("whole: every interval of every commit is there, once, as it was stored"), "{report}");
}

#[test]
fn an_auditors_questions_on_the_embedded_log() {
    let home = Home::embedded();
    story(&home, || Box::new(Embedded::open(&home.path("log"), &Options::default()).expect("nobody owns it")));
}

#[test]
fn an_auditors_questions_on_kafka() {
    let Some(broker) = crate::run::broker() else { return };
    let home = Home::kafka(&broker);
    let prefix = home.topic("");
    story(&home, || Box::new(Kafka::connect(KafkaOptions { prefix: prefix.clone(), ..KafkaOptions::new(&broker) }).expect("a broker")));
}

/// Given tables without a log, then lag, requeue and --against-log say that there is none; the rest answers.
#[test]
fn without_a_log_what_needs_one_says_so() {
    let home = Home::embedded();
    let path = home.path("trades.csv");
    feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(0, 10)].concat());
    home.ingest(&path, &[]);
    home.store();
    std::fs::remove_dir_all(home.path("log")).expect("the log goes");
    for (args, code) in [(&["sql", "SELECT * FROM tape.lag"][..], 3), (&["requeue"], 2), (&["verify", "--against-log"], 2)] {
        let told = said(&home, args, code);
        assert!(told.contains("there is no log in"), "{args:?}: {told}");
    }
    assert!(!home.path("log").exists(), "who asks makes none");
    assert_eq!(csv(&home, "SELECT sum(records) AS n FROM tape.commits WHERE table_name = 'trades'"), "n\n10\n");
    said(&home, &["verify"], 0);
    said(&home, &["verify", "--tables", "/nowhere/at/all"], 2);
}

/// What docs/auditing.md tells a witness to keep elsewhere.
const WITNESS: &str = "SELECT table_name, version, partition, from_offset, to_offset, absent_offsets, root FROM tape.intervals";

/// Given rows that were taken away with their claims, over which the commit before them was stretched as if there were no records, then no root is
/// another one and the tables are whole; what a witness kept of intervals and absent offsets is not what they say any more.
#[test]
fn a_witness_notices_a_stretched_interval() {
    let home = Home::embedded();
    for part in 0..3 {
        let path = home.path(&format!("trades-{part}.csv"));
        feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(part * 1_000, (part + 1) * 1_000)].concat());
        home.ingest(&path, &[]);
        home.store();
    }
    let told = |sql: &str| -> Vec<String> { csv(&home, &format!("{sql} WHERE table_name = 'trades'")).lines().map(String::from).collect() };
    let roots = "SELECT version, partition, root FROM tape.intervals";
    let (kept, kept_roots) = (told(WITNESS), told(roots));

    let log = home.path("tables").join("trades/_delta_log");
    let mut entries: Vec<(std::path::PathBuf, Vec<Value>)> = std::fs::read_dir(&log)
        .expect("the table's log")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("text");
            (path, text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
        })
        .collect();
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    let claims = "/commitInfo/tokentape/partitions";
    let stored: Vec<usize> = (0..entries.len())
        .filter(|at| entries[*at].1.iter().any(|action| action.pointer(claims).is_some_and(|all| all != &serde_json::json!([]))))
        .collect();
    assert_eq!(stored.len(), 3);
    let mut removed = Vec::new();
    for action in &mut entries[stored[1]].1 {
        removed.extend(action.pointer_mut(claims).and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default());
    }
    entries[stored[1]].1.retain(|action| action.get("add").is_none());
    let stretched = entries[stored[0]].1.iter_mut().find_map(|action| action.pointer_mut(claims)?.as_array_mut()).expect("claims");
    for gone in &removed {
        let before = stretched.iter_mut().find(|before| before["partition"] == gone["partition"]).expect("each file has all symbols");
        let first = gone["from"].as_i64().expect("an offset") + 1;
        before["absent"].as_array_mut().expect("absences").push(serde_json::json!([first, gone["to"], "control_or_aborted"]));
        before["to"] = gone["to"].clone();
    }
    for at in [stored[0], stored[1]] {
        let (path, actions) = &entries[at];
        std::fs::write(path, actions.iter().map(|action| format!("{action}\n")).collect::<String>()).expect("written");
    }

    said(&home, &["verify"], 0);
    let (now, roots_now) = (told(WITNESS), told(roots));
    assert!(!removed.is_empty() && roots_now.iter().all(|root| kept_roots.contains(root)), "no root that is there is another one");
    let changed = now.iter().filter(|line| !kept.contains(line)).count();
    assert_eq!(changed, removed.len(), "{now:#?}");
}
