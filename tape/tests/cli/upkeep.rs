//! Upkeep as a user sees it: beside a running store, by hand, and over a past that is older than the audit horizon.

use crate::counted;
use crate::feed;
use crate::owner;
use crate::run::{Home, text};
use crate::running::{start, until};
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const PART: u64 = 500;
const TEN_DAYS: Duration = Duration::from_secs(10 * 86_400);

fn grow(home: &Home, path: &Path, to: u64) {
    feed::write(path, &[feed::HEADER.as_bytes(), &feed::csv(0, to)].concat());
    let output = home.run(&["ingest", path.to_str().expect("paths here are UTF-8")], "");
    assert!(output.status.success(), "{}", text(&output));
}

fn fine(home: &Home, args: &[&str]) -> String {
    let output = home.run(args, "");
    assert!(output.status.success(), "tape {args:?}: {}", text(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn upkeep(home: &Home, args: &[&str]) -> Value {
    let said = fine(home, &[&["upkeep", "--json"], args].concat());
    serde_json::from_str(&said).unwrap_or_else(|e| panic!("{said}: {e}"))
}

/// Everything below the folder of the trades.
fn files(home: &Home) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.expect("listed").path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(&home.path("tables/trades"), &mut found);
    found.sort();
    found
}

fn with_extension(home: &Home, extension: &str) -> Vec<PathBuf> {
    files(home).into_iter().filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
}

fn said_in_log(home: &Home, what: &str) -> bool {
    with_extension(home, "json").iter().any(|path| std::fs::read_to_string(path).is_ok_and(|entry| entry.contains(what)))
}

/// Given a store that looks after its tables, when records keep coming, then files are merged beside it, it stops as ever, and all is proven.
#[test]
fn a_running_store_looks_after_its_tables() {
    let home = Home::embedded();
    std::fs::write(home.path("tape.toml"), "[store]\nage_max_seconds = 0\n[upkeep]\nevery_seconds = 1\n").expect("written");
    let path = home.path("trades.csv");
    grow(&home, &path, 10);
    let mut store = owner::store(&home);
    let mut records = 10;
    until("a merge beside the store", || {
        assert!(!store.ended(), "{}", store.said());
        records += PART;
        grow(&home, &path, records);
        said_in_log(&home, "\"OPTIMIZE\"")
    });
    let (status, said) = store.signal("TERM");
    assert!(status.success(), "{said}");
    assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
    fine(&home, &["verify"]);
    assert_eq!(counted(&home, "SELECT count(*) AS n, count(DISTINCT source_record) AS places FROM trades")["places"], records);
}

/// Given an interval of 0, then the store leaves its tables alone.
#[test]
fn upkeep_beside_the_store_can_be_switched_off() {
    let home = Home::embedded();
    std::fs::write(home.path("tape.toml"), "[store]\nage_max_seconds = 0\n[upkeep]\nevery_seconds = 0\n").expect("written");
    let path = home.path("trades.csv");
    grow(&home, &path, 10);
    let mut store = owner::store(&home);
    let mut records = 10;
    until("more files than upkeep would leave", || {
        assert!(!store.ended(), "{}", store.said());
        records += PART;
        grow(&home, &path, records);
        with_extension(&home, "parquet").len() >= 8
    });
    let (status, said) = store.signal("TERM");
    assert!(status.success(), "{said}");
    assert!(!said_in_log(&home, "\"OPTIMIZE\""));
}

/// Given tables whose past is ten days old, then upkeep says what would go, removes it, and `tape verify` proves every record without it.
#[test]
fn what_is_older_than_the_horizon_goes_and_stays_proven() {
    let home = Home::embedded();
    let path = home.path("trades.csv");
    for part in 1..=6 {
        grow(&home, &path, part * PART);
        fine(&home, &["store", "--once"]);
    }
    let first = upkeep(&home, &[]);
    assert_eq!(first["tables"]["trades"]["merged"]["files_after"], 1, "{first}");
    assert_eq!(first["tables"]["trades"]["removed"]["files"], 0, "nothing is older than a week: {first}");
    make_older(&home);
    grow(&home, &path, 7 * PART);
    fine(&home, &["store", "--once"]);

    let before = files(&home);
    let would = upkeep(&home, &["--dry-run"]);
    assert_eq!(files(&home), before);
    let removed = upkeep(&home, &[])["tables"]["trades"]["removed"].clone();
    assert_eq!(would["tables"]["trades"]["removed"], removed, "{would}");
    assert_eq!(removed["files"], 6, "those that were merged: {removed}");
    assert!(removed["entries"].as_u64() >= Some(7), "{removed}");
    assert!(with_extension(&home, "zst").len() == 1, "an archive: {:?}", files(&home));
    assert!(with_extension(&home, "json").len() < 5, "{:?}", files(&home));

    fine(&home, &["verify"]);
    assert_eq!(counted(&home, "SELECT count(*) AS n, count(DISTINCT source_record) AS places FROM trades")["places"], 7 * PART);
    grow(&home, &path, 8 * PART);
    fine(&home, &["store", "--once"]);
    fine(&home, &["verify"]);
    assert!(fine(&home, &["upkeep"]).contains("nothing to do"));
    assert_eq!(home.run(&["upkeep", "--horizon-days", "0"], "").status.code(), Some(2));
}

/// Given several upkeeps by hand at the same moment, then each ends well: whoever meets another one tries again.
#[test]
fn upkeeps_that_meet_all_end_well() {
    let home = Home::embedded();
    let path = home.path("trades.csv");
    for part in 1..=6 {
        grow(&home, &path, part * PART);
        fine(&home, &["store", "--once"]);
    }
    let mut running: Vec<_> = (0..4).map(|_| start(&home, &["upkeep"])).collect();
    for upkeep in &mut running {
        let status = upkeep.end();
        assert!(status.success(), "{}", upkeep.said());
    }
    assert!(said_in_log(&home, "\"OPTIMIZE\""));
    fine(&home, &["verify"]);
    assert_eq!(counted(&home, "SELECT count(*) AS n, count(DISTINCT source_record) AS places FROM trades")["places"], 6 * PART);
}

/// Ten days pass for the table of trades: what its log says, and when its files were written.
pub fn make_older(home: &Home) {
    for path in files(home) {
        if path.extension().is_some_and(|extension| extension == "json") {
            let entry = std::fs::read_to_string(&path).expect("read");
            let lines = entry.lines().map(|line| {
                let mut action: Value = serde_json::from_str(line).expect("an action");
                if let Some(timestamp) = action.pointer_mut("/commitInfo/timestamp") {
                    *timestamp = (timestamp.as_i64().expect("milliseconds") - TEN_DAYS.as_millis() as i64).into();
                }
                action.to_string() + "\n"
            });
            std::fs::write(&path, lines.collect::<String>()).expect("written");
        }
        let file = File::options().write(true).open(&path).expect("opened");
        file.set_modified(SystemTime::now() - TEN_DAYS).expect("a time is set");
    }
}
