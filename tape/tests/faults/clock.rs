//! The wall clock of the process that owns the log and stores it is set forward and back, by days and by milliseconds, while it works.

use crate::ledger::{Ledger, number, one, report, settings};
use crate::run::Home;
use crate::running;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A second, an hour and a day, in milliseconds.
const SECOND: i64 = 1000;
const HOUR: i64 = 3600 * SECOND;
const DAY: i64 = 24 * HOUR;

/// The preloaded clock, compiled; `None`, said aloud, where there is no C compiler.
fn compiled(home: &Home) -> Option<PathBuf> {
    let (source, library) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/clock.c"), home.path("clock.so"));
    let done = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl").output();
    match done {
        Ok(output) if output.status.success() => Some(library),
        other => {
            println!("skipped: the clock is a C file, and it could not be compiled: {other:?}");
            None
        }
    }
}

/// F26: an embedded log stamps what it takes with its owner's clock. Order, completeness and commits do not depend on it.
#[test]
fn a_clock_that_is_set_forward_and_back() {
    let home = Home::embedded();
    let Some(library) = compiled(&home) else { return };
    settings(&home, "age_max_seconds = 1");
    let clock = home.path("clock");
    std::fs::write(&clock, "0").expect("written");
    let mut ledger = Ledger::default();
    ledger.publish(&home, 1_000);
    let (library, at) = (library.display().to_string(), clock.display().to_string());
    let owner = running::start_as(&home, "owner", &["store", "--json"], &[("LD_PRELOAD", &library), ("TAPE_TEST_CLOCK", &at)]);
    running::until("the socket", || home.path("log/tape.sock").exists());
    let steps = [0, HOUR, -HOUR, DAY, -DAY, -DAY - 1, -DAY - 2, 2 * HOUR, -1, 0];
    for step in steps {
        // At once: a reader never finds half a number.
        let new = home.path("clock.new");
        std::fs::write(&new, step.to_string()).expect("written");
        std::fs::rename(&new, &clock).expect("renamed");
        ledger.publish(&home, 1_000);
        ledger.wait_stored(&home, &[&owner]);
    }
    let (status, said) = owner.signal("TERM");
    assert!(status.success(), "{said}");
    println!("{}", report(&said));
    ledger.check(&home);
    let strange = "SELECT (SELECT count(*) FROM trades) AS n, (SELECT count(DISTINCT CAST(_log_ts AS DATE)) FROM trades) AS days, \
         (SELECT count(*) FROM (SELECT _log_ts, lag(_log_ts) OVER (PARTITION BY _partition ORDER BY _offset) AS before FROM trades) WHERE _log_ts < before) AS back, \
         (SELECT count(*) FROM (SELECT source_record, lag(source_record) OVER (PARTITION BY source_id, _partition ORDER BY _offset) AS before FROM trades) WHERE source_record < before) AS disordered";
    let row = one(&home, strange);
    println!("{row}");
    assert_eq!(number(&row["disordered"]), 0, "offsets keep the order of each source");
    assert_eq!(number(&row["back"]), 0, "the log's own time never goes back");
    assert!(number(&row["days"]) >= 2, "the clock was seen to be another: {row}");
}
