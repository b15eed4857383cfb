//! Every real file with facts in `expected.json`, through the real binary, on both logs: ingested twice, stored once, asked in SQL. The facts
//! were computed by independent libraries. Without the data the test says that it was skipped; with TAPE_DATA set that is a failure.

mod csv;
mod dbn;
mod facts;
mod json;
mod replay;
#[allow(dead_code, reason = "the other test binaries use the rest of it")]
mod run;

use facts::{Check, Outcome, Subject};
use run::{Home, Tape};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Facts of a file's form that no record holds: what its packed bytes, its lines and its digits look like, and what the reference libraries
/// called things.
const OF_FORM: &[&str] = &[
    "kind",
    "sha256",
    "walk",
    "walk_agrees",
    "python_types",
    "databento_client",
    "physical_lines",
    "duckdb_rows",
    "fraction_digits",
    "member",
    "first",
    "last",
];

/// Files that one `tape sql` is asked about, where they share their tables.
const FILES_PER_SHELL: usize = 20;

struct Expected {
    folder: PathBuf,
    files: Vec<(String, Value)>,
}

/// The facts, or `None` (said aloud) where there is no data.
fn expected() -> Option<Expected> {
    let given = std::env::var_os("TAPE_DATA").map(PathBuf::from);
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let folder = given.clone().unwrap_or(beside);
    let path = folder.join("expected.json");
    if !path.exists() {
        assert!(given.is_none(), "TAPE_DATA is set, but {} does not exist", path.display());
        println!("skipped: no real files here ({} does not exist)", path.display());
        return None;
    }
    let text = std::fs::read_to_string(&path).expect("expected.json can be read");
    let value: Value = serde_json::from_str(&text).expect("expected.json is JSON");
    let only = std::env::var("TAPE_ONLY").unwrap_or_default();
    let files = value["files"].as_object().expect("files by name");
    let files = files.iter().filter(|(name, _)| name.contains(&only)).map(|(name, facts)| (name.clone(), facts.clone())).collect();
    Some(Expected { folder, files })
}

/// What is to be checked of a file, by its kind.
fn checks(name: &str, facts: &Value) -> Vec<Check> {
    let mut checks = match facts["kind"].as_str().expect("every file has a kind") {
        "dbn" if facts.get("databento_client").is_some() => dbn::fragment(facts),
        "dbn" => dbn::checks(facts),
        "ctp-tick-csv" => csv::ctp(facts),
        "minute-bar-csv" => csv::minute_bars(facts),
        "day-bar-zip" => csv::day_bars(facts),
        "lean-zip" => csv::lean_zip(name, facts),
        "lean-csv" => csv::lean_csv(name, facts),
        "llm-trace-csv" => csv::azure(facts),
        "csv" => csv::epoch(name, facts),
        "llm-trace-jsonl" => json::mooncake(facts),
        "openai-usage-json" => json::openai(facts),
        "price-list-json" => json::prices(facts),
        other => panic!("{name} is of kind {other}, which this test does not know"),
    };
    if facts["kind"] != "lean-zip" && facts["kind"] != "day-bar-zip" {
        checks.push(Check::scalar("bytes", "sources", "max(bytes)"));
    } else {
        checks.push(Check::excluded("bytes", "the length of an archive, whose members are the sources"));
    }
    checks.extend(OF_FORM.iter().map(|name| Check::excluded(name, "form")));
    checks
}

/// How the command line of a file differs from `tape ingest FILE`.
fn flags(name: &str) -> Vec<&'static str> {
    if name.contains(".frag") { vec!["--dataset", "XNAS.ITCH", "--dbn-version", "3", "--schema", "definition"] } else { vec![] }
}

/// Files, or parts of them, that are worked on at the same time: two per core, since much of a file's time is waiting for the disk.
fn at_a_time() -> usize {
    2 * std::thread::available_parallelism().map_or(1, usize::from)
}

/// Does all of it, several at a time.
fn in_parallel<T: Sync>(all: &[T], check: impl Fn(&T) -> Outcome + Sync) -> Outcome {
    let next = std::sync::Mutex::new(all.iter());
    let outcome = std::sync::Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        for _ in 0..at_a_time() {
            scope.spawn(|| {
                while let Some(one) = { next.lock().expect("no thread panics here").next() } {
                    let done = check(one);
                    outcome.lock().expect("no thread panics here").add(done);
                }
            });
        }
    });
    outcome.into_inner().expect("all threads are done")
}

/// One file in a home of its own: ingested twice, stored, asked.
fn alone(home: &Home, folder: &Path, name: &str, facts: &Value) -> Outcome {
    let path = folder.join(name);
    let (first, second) = (home.ingest(&path, &flags(name)), home.ingest(&path, &flags(name)));
    home.store();
    facts::check(home, &[Subject { file: name, facts, checks: checks(name, facts), ids: vec![], first, second }])
}

#[test]
fn every_fact_of_every_real_file_on_the_embedded_log() {
    let Some(expected) = expected() else { return };
    let outcome = in_parallel(&expected.files, |(name, facts)| alone(&Home::embedded(), &expected.folder, name, facts));
    outcome.conclude(expected.files.len());
}

#[test]
fn every_fact_of_every_real_file_on_kafka() {
    let Some(expected) = expected() else { return };
    let Some(broker) = run::broker() else { return };
    let is_snapshot = |facts: &Value| facts["kind"] == "price-list-json" || facts["kind"] == "openai-usage-json";
    let (snapshots, others): (Vec<_>, Vec<_>) = expected.files.iter().partition(|(_, facts)| is_snapshot(facts));
    // One log and one set of tables for all: every file's facts must hold among the others' rows.
    let home = Home::kafka(&broker);
    let path = |name: &String| expected.folder.join(name).to_str().expect("paths here are UTF-8").to_string();
    let plain: Vec<String> = others.iter().filter(|(name, _)| flags(name).is_empty()).map(|(name, _)| path(name)).collect();
    let (all_first, all_second) = (home.ingest_all(&plain), home.ingest_all(&plain));
    let subjects: Vec<Subject> = others
        .iter()
        .map(|(name, facts)| {
            let (first, second) = match flags(name).as_slice() {
                [] => (all_first.of(&path(name)), all_second.of(&path(name))),
                flags => (home.ingest(&expected.folder.join(name), flags), home.ingest(&expected.folder.join(name), flags)),
            };
            let mut checks = checks(name, facts);
            if first.published() == 0 {
                // The same content came earlier in another packing: it is one source, with the length as received of the first packing.
                checks.retain(|check| check.name() != "bytes");
                checks.push(Check::excluded("bytes", "the same source in another packing"));
            }
            Subject { file: name, facts, checks, ids: first.source_ids(), first, second }
        })
        .collect();
    home.store();
    let parts: Vec<&[Subject]> = subjects.chunks(FILES_PER_SHELL).collect();
    let mut outcome = in_parallel(&parts, |part| facts::check(&home, part));
    // A snapshot yields only what changed since the one before, so each has a log of its own.
    outcome.add(in_parallel(&snapshots, |(name, facts)| alone(&Home::kafka(&broker), &expected.folder, name, facts)));
    outcome.conclude(expected.files.len());
}

/// The binary under test.
fn tape() -> Tape {
    Tape::new(env!("CARGO_BIN_EXE_tape"))
}
