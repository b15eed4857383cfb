//! What may happen to the log itself: a topic goes and comes again, it gets more partitions, retention passes the store, the group is wiped.

use crate::admin::{self, Body};
use crate::broker;
use crate::ledger::{Ledger, number, one, partitions, report, settings, start_store, stop_store};
use crate::run::{self, Home, text};
use crate::running::until;
use eventlog::EventLog;
use eventlog::kafka::{Kafka, KafkaOptions};
use schemas::Family;
use std::collections::BTreeMap;

const DELETE_TOPICS: i16 = 20;
const CREATE_PARTITIONS: i16 = 37;
const DELETE_GROUPS: i16 = 42;
/// The group is not empty: a member that has gone is remembered until its session ends.
const NON_EMPTY_GROUP: [u8; 2] = [0, 68];
const TIMEOUT_MS: i32 = 30_000;

/// The log of a home, for questions that no command answers.
fn log(broker: &str, home: &Home) -> Kafka {
    Kafka::connect(KafkaOptions { prefix: home.topic(""), ..KafkaOptions::new(broker) }).expect("the broker answers")
}

fn delete_topic(broker: &str, topic: &str) {
    let mut body = Body::default();
    body.i32(1).text(topic).i32(TIMEOUT_MS);
    let answer = admin::ask(broker, DELETE_TOPICS, 1, &body.0);
    assert_eq!(answer[answer.len() - 2..], [0, 0], "{topic} could not be deleted");
}

fn add_partitions(broker: &str, topic: &str, count: i32) {
    let mut body = Body::default();
    // No assignment by hand; not only checked.
    body.i32(1).text(topic).i32(count).i32(-1).i32(TIMEOUT_MS).i8(0);
    let answer = admin::ask(broker, CREATE_PARTITIONS, 0, &body.0);
    let error = 8 + 2 + topic.len();
    assert_eq!(answer[error..error + 2], [0, 0], "{topic} could not get {count} partitions");
}

/// F14: the topic of a running store is deleted and made again. What was stored stays as it is, and nothing of the new one is mixed into it.
#[test]
fn a_topic_that_is_deleted_and_made_again_under_a_running_store() {
    let Some(broker) = run::broker() else { return };
    let home = Home::kafka(&broker);
    settings(&home, "age_max_seconds = 1");
    let mut ledger = Ledger::default();
    ledger.publish(&home, 9_000);
    let mut store = start_store(&home, "store");
    ledger.wait_stored(&home, &[&store]);
    delete_topic(&broker, &home.topic("trades"));
    until("the topic to be gone", || log(&broker, &home).topic(Family::Trades).is_err());
    let made = home.run(&["topics"], "");
    assert!(made.status.success(), "{}", text(&made));
    // As many records as before and more: offsets that the store waits for exist again, and are others.
    let path = home.path("after.csv");
    crate::feed::write(&path, &[crate::feed::HEADER.as_bytes(), &crate::feed::csv(100_000, 120_000)].concat());
    assert_eq!(home.ingest(&path, &[]).code, 0);
    let status = store.end();
    println!("{status}: {}", store.said());
    assert_eq!(status.code(), Some(3), "{}", store.said());
    ledger.check(&home);
    let again = home.run(&["store", "--once"], "");
    assert_eq!(again.status.code(), Some(3), "{}", text(&again));
    assert!(text(&again).contains("was stored from another log") && text(&again).contains("--tables"), "{}", text(&again));
    ledger.check(&home);
    // What the refusal says to do.
    let elsewhere = home.path("elsewhere").display().to_string();
    for (args, code) in [(["store", "--once", "--tables", &elsewhere].as_slice(), 0), (&["verify", "--tables", &elsewhere], 0)] {
        let output = home.run(args, "");
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
    }
    let output = home.run(&["sql", "--format", "csv", "--tables", &elsewhere, "SELECT count(*) AS n FROM trades"], "");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "n\n20000\n", "{}", text(&output));
}

/// F14: a topic gets one more partition. Whoever is at work goes on and reads it too; whoever starts is told that partitions are for life.
#[test]
fn a_partition_that_is_added() {
    let Some(broker) = run::broker() else { return };
    let home = Home::kafka(&broker);
    settings(&home, "age_max_seconds = 1\n[kafka]\n\"topic.metadata.refresh.interval.ms\" = 1000");
    let mut ledger = Ledger::default();
    ledger.publish(&home, 5_000);
    let store = start_store(&home, "store");
    let before = partitions(&store).expect("it has said so");
    add_partitions(&broker, &home.topic("trades"), 9);
    until("the new partition", || partitions(&store) == Some(before + 1));
    ledger.wait_stored(&home, &[&store]);
    let report = stop_store(store);
    println!("{report}");
    ledger.check(&home);
    let path = home.path("more.csv");
    crate::feed::write(&path, &[crate::feed::HEADER.as_bytes(), &crate::feed::csv(50_000, 50_010)].concat());
    for args in [["store", "--once"].as_slice(), &["ingest", path.to_str().expect("UTF-8")]] {
        let output = home.run(args, "");
        assert_eq!(output.status.code(), Some(3), "{}", text(&output));
        assert!(text(&output).contains("9 partitions instead of 8: partitions are fixed for life"), "{}", text(&output));
    }
}

/// F15: retention passes a store that is stopped. The next run says so, names exactly what is lost, and goes on behind it.
#[test]
fn retention_that_passes_a_stopped_store() {
    let Some(own) = broker::own() else { return };
    let broker = own.brokers();
    let home = Home::kafka(&broker);
    let mut ledger = Ledger::default();
    ledger.publish(&home, 6_000);
    home.store();
    let next: BTreeMap<i64, i64> = home.ask(&["SELECT _partition AS p, max(_offset) + 1 AS next FROM trades GROUP BY 1".to_string()])[0]
        .iter()
        .map(|row| (number(&row["p"]), number(&row["next"])))
        .collect();
    ledger.publish(&home, 7_000);
    let (kafka, topic) = (log(&broker, &home), home.topic("trades"));
    admin::alter(&broker, &topic, "retention.ms", "1");
    let mut lows = Vec::new();
    until("retention to take all", || {
        let watermarks = kafka.watermarks(Family::Trades).expect("the broker answers");
        lows = watermarks.iter().map(|at| at.low).collect();
        watermarks.iter().all(|at| at.low == at.high)
    });
    admin::alter(&broker, &topic, "retention.ms", "-1");
    ledger.publish(&home, 8_000);
    let doctor = home.run(&["doctor"], "");
    assert_eq!(doctor.status.code(), Some(1), "{}", text(&doctor));
    assert!(text(&doctor).contains("BAD  retention") && text(&doctor).contains("no store has noted it"), "{}", text(&doctor));
    let behind = "SELECT sum(lost) AS lost FROM tape.lag";
    let missing = number(&one(&home, behind)["lost"]);
    let output = home.run(&["store", "--once", "--json"], "");
    let said = text(&output);
    println!("{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the log lost offsets that were never stored"), "{said}");
    let lost: Vec<(i64, i64, i64)> = (0i64..)
        .zip(&lows)
        .map(|(partition, low)| (partition, next.get(&partition).copied().unwrap_or(0), *low))
        .filter(|(_, next, low)| next < low)
        .map(|(partition, next, low)| (partition, next, low - 1))
        .collect();
    let sql = "SELECT origin_partition AS p, from_seq AS a, to_seq AS b FROM gaps ORDER BY 1".to_string();
    let told: Vec<(i64, i64, i64)> =
        home.ask(&[sql])[0].iter().map(|row| (number(&row["p"]), number(&row["a"]), number(&row["b"]))).collect();
    assert_eq!(told, lost, "the exact ranges");
    let offsets: i64 = lost.iter().map(|(_, first, last)| last - first + 1).sum();
    assert_eq!(number(&report(&String::from_utf8_lossy(&output.stdout))["lost"]), offsets);
    assert_eq!((missing, number(&one(&home, behind)["lost"])), (offsets, 0), "what is noted is no lag any more");
    let row = one(&home, "SELECT count(*) AS n, count(noted_at > TIMESTAMP '2026-01-01T00:00:00Z') AS dated FROM tape.gaps");
    assert_eq!((number(&row["n"]), number(&row["dated"])), (lost.len() as i64, lost.len() as i64), "each has a time");
    let doctor = text(&home.run(&["doctor"], ""));
    assert!(doctor.contains("BAD  losses") && doctor.contains("noted 2") && !doctor.contains("retention  "), "{doctor}");
    let row = one(&home, "SELECT count(*) AS n, count(DISTINCT source_id) AS sources FROM trades");
    assert_eq!((number(&row["n"]), number(&row["sources"])), (14_000, 2), "all but the file that retention took");
    let verified = home.run(&["verify"], "");
    let findings: Vec<String> = text(&verified).lines().filter(|line| line.starts_with("  ")).map(|line| line.trim().to_string()).collect();
    let expected: Vec<String> = lost
        .iter()
        .map(|(partition, first, last)| {
            format!("lost         trades[{partition}] offsets {first} to {last}: the log had lost these offsets before they were stored (table gaps)")
        })
        .collect();
    assert_eq!((verified.status.code(), findings), (Some(1), expected), "an auditor is told of the loss, and of nothing else");
    let once_more = home.run(&["store", "--once"], "");
    assert!(once_more.status.success(), "it is told once: {}", text(&once_more));
}

/// An ingest dies within its transaction, and the broker does not end that: what nobody can read is told of with what to do, by whoever stores and by
/// the doctor. When the ingest comes again, all is stored once.
#[test]
fn a_transaction_that_stays_open_is_told_of() {
    let Some(own) = broker::with("transaction.abort.timed.out.transaction.cleanup.interval.ms=3600000") else { return };
    let broker = own.brokers();
    let home = Home::kafka(&broker);
    let mut ledger = Ledger::default();
    ledger.publish(&home, 1_000);
    home.store();
    let path = home.path("open.csv");
    crate::feed::write(&path, &[crate::feed::HEADER.as_bytes(), &crate::feed::csv(1_000, 3_000)].concat());
    let ingest = ["ingest", path.to_str().expect("UTF-8")];
    let died = home.command(&ingest).env("TAPE_KILL_AT", "log.kafka.uncommitted").output().expect("it starts");
    assert!(died.status.code().is_none(), "{}", text(&died));
    let row =
        one(&home, "SELECT sum(held) AS held, sum(behind) AS behind, count(held_since) AS dated FROM tape.lag WHERE table_name = 'trades'");
    assert_eq!((number(&row["held"]), number(&row["behind"])), (2_000, 0), "nobody can read it");
    let parts = number(&row["dated"]);
    assert!(parts > 0, "since when is known");
    // One that is just being published is no fault; one that is open for so long is none of ours.
    let mut said = String::new();
    until("the transaction to be old", || {
        let output = home.run(&["store", "--once"], "");
        said = text(&output);
        output.status.code() == Some(1)
    });
    println!("{said}");
    let topic = home.topic("trades");
    assert!(said.contains(&format!("waiting: {topic}[")) && said.contains("open since 2"), "{said}");
    assert!(said.contains("kafka-transactions.sh") && said.contains(&format!("abort --topic {topic} --partition")), "{said}");
    let told = report(&String::from_utf8_lossy(&home.run(&["store", "--once", "--json"], "").stdout));
    let held = told["held"].as_array().expect("a list").iter().filter(|held| held["topic"] == topic.as_str()).count();
    assert_eq!(held as i64, parts, "{told}");
    let doctor = home.run(&["doctor"], "");
    assert_eq!(doctor.status.code(), Some(1), "{}", text(&doctor));
    assert!(text(&doctor).contains("BAD  transactions") && text(&doctor).contains("--start-offset"), "{}", text(&doctor));
    let store = start_store(&home, "store");
    until("the service to tell of it", || store.said().contains("records wait"));
    // The broker gives it up at last.
    own.restart_with("transaction.abort.timed.out.transaction.cleanup.interval.ms=1000");
    until("nothing to be held", || log(&broker, &home).held().expect("the broker answers").is_empty());
    assert_eq!(home.ingest(&path, &[]).code, 0);
    until("all to be stored", || number(&one(&home, "SELECT count(*) AS n FROM trades")["n"]) == 3_000);
    stop_store(store);
    let doctor = home.run(&["doctor"], "");
    assert!(doctor.status.success(), "{}", text(&doctor));
}

/// F16: the group of the stores is deleted with all its offsets. The tables alone say where to go on.
#[test]
fn group_offsets_that_are_wiped() {
    let Some(broker) = run::broker() else { return };
    let home = Home::kafka(&broker);
    settings(&home, "age_max_seconds = 1");
    let mut ledger = Ledger::default();
    ledger.publish(&home, 7_000);
    let store = start_store(&home, "store");
    ledger.wait_stored(&home, &[&store]);
    stop_store(store);
    until("the group to be deleted", || {
        let mut body = Body::default();
        body.i32(1).text(&home.topic("store"));
        let answer = admin::ask(&broker, DELETE_GROUPS, 0, &body.0);
        let error = &answer[answer.len() - 2..];
        assert!(error == [0, 0] || error == NON_EMPTY_GROUP, "the group could not be deleted: {error:?}");
        error == [0, 0]
    });
    ledger.publish(&home, 5_000);
    let store = start_store(&home, "store");
    ledger.wait_stored(&home, &[&store]);
    let report = stop_store(store);
    println!("{report}");
    assert_eq!(number(&report["rows"]["trades"]), 5_000, "only what was new");
    ledger.check(&home);
}

/// A user who may not read the group cannot share the work: the service says so and ends. What shares nothing needs no right to it.
#[test]
fn a_group_that_may_not_be_read() {
    const CREATE_ACLS: i16 = 30;
    let (group, literal, deny) = (3, 3, 2);
    let Some(broker) = run::broker() else { return };
    let home = Home::kafka(&broker);
    let mut body = Body::default();
    body.i32(1).i8(group).text(&home.topic("store")).i8(literal).text("User:*").text("*").i8(admin::READ).i8(deny);
    let answer = admin::ask(&broker, CREATE_ACLS, 1, &body.0);
    assert_eq!(answer[8..10], [0, 0], "the group could not be forbidden");
    let mut ledger = Ledger::default();
    ledger.publish(&home, 1_000);
    let mut store = crate::running::start(&home, &["store"]);
    assert_eq!(store.end().code(), Some(3), "{}", store.said());
    println!("{}", store.said());
    assert!(store.said().contains("check the user's rights (ACLs)") && store.said().contains("joining the group"), "{}", store.said());
    home.store();
    ledger.check(&home);
}
