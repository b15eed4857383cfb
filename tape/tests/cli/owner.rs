//! Who owns a home: one process at a time; the others reach its log through the socket, and stopping it loses nothing.

use crate::counted;
use crate::feed;
use crate::run::{Home, text};
use crate::running::{self, Running};
use std::fs::File;
use std::path::PathBuf;

fn file(home: &Home, name: &str, rows: u64) -> PathBuf {
    let path = home.path(name);
    feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(0, rows)].concat());
    path
}

fn ingest(home: &Home, path: &std::path::Path) -> String {
    let output = home.run(&["ingest", path.to_str().expect("UTF-8")], "");
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

fn trades(home: &Home) -> u64 {
    counted(home, "SELECT count(*) AS n FROM trades WHERE dataset = 'T.DATA'")["n"].as_u64().expect("a count")
}

/// `tape store` as a service, once it owns the home.
pub fn store(home: &Home) -> Running {
    let mut store = running::start(home, &["store"]);
    running::until("the store to own its home", || {
        assert!(!store.ended(), "{}", store.said());
        store.said().contains("Ctrl-C stops it")
    });
    store
}

/// `tape up`, once it serves.
fn up(home: &Home, args: &[&str]) -> Running {
    let mut up = running::start(home, &[&["up", "--listen", "127.0.0.1:0"], args].concat());
    running::until("tape up to serve", || {
        assert!(!up.ended(), "{}", up.said());
        up.said().contains("/subjects)")
    });
    up
}

#[test]
fn ingest_and_sql_work_while_a_store_owns_the_home_and_ctrl_c_loses_nothing() {
    let home = Home::embedded();
    let owner = store(&home);
    for command in [&["store"][..], &["store", "--once"], &["up", "--listen", "127.0.0.1:0"]] {
        let second = home.run(command, "");
        let said = text(&second);
        assert_eq!(second.status.code(), Some(3), "{said}");
        assert!(said.contains(&owner.pid().to_string()), "the owner {} is named: {said}", owner.pid());
    }
    ingest(&home, &file(&home, "first.csv", 1_000));
    running::until("the rows to be visible", || trades(&home) == 1_000);
    // What is published just before the signal is stored before the end.
    ingest(&home, &file(&home, "second.csv", 2_000));
    let (status, said) = owner.signal("INT");
    assert_eq!(status.code(), Some(0), "{said}");
    assert_eq!(trades(&home), 2_000, "second.csv is first.csv grown: {said}");
}

// A store that was stopped before it had read what was published said nothing, and left it in the log.
#[test]
fn what_was_published_before_ctrl_c_is_stored_however_soon_it_comes() {
    let home = Home::embedded();
    for rows in [1, 40_000, 90_000] {
        let owner = store(&home);
        ingest(&home, &file(&home, "trades.csv", rows));
        let (status, said) = owner.signal("INT");
        assert_eq!(status.code(), Some(0), "{said}");
        assert_eq!(trades(&home), rows, "{said}");
    }
}

#[test]
fn up_serves_beside_ingest_and_ends_cleanly_with_sigterm() {
    let home = Home::embedded();
    let owner = up(&home, &["--no-samples"]);
    let here = format!("{} ingest --home {} FILE…", env!("CARGO_BIN_EXE_tape"), home.path("").display().to_string().trim_end_matches('/'));
    assert!(owner.said().contains(&here), "no {here:?} in {}", owner.said());
    let second = home.run(&["up", "--listen", "127.0.0.1:0"], "");
    assert_eq!(second.status.code(), Some(3), "{}", text(&second));
    assert!(text(&second).contains(&owner.pid().to_string()), "{}", text(&second));
    ingest(&home, &file(&home, "trades.csv", 500));
    running::until("the rows to be visible", || trades(&home) == 500);
    ingest(&home, &file(&home, "trades.csv", 800));
    let (status, said) = owner.signal("TERM");
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("Stopped. Everything published is stored."), "{said}");
    assert_eq!(trades(&home), 800);
}

/// Given a process that keeps the log to itself, as an ingest does, when a store starts, then it waits for it and says so, and owns the home as
/// soon as the other has ended.
#[test]
fn a_store_waits_for_an_ingest_that_has_the_home() {
    let home = Home::embedded();
    ingest(&home, &file(&home, "trades.csv", 300));
    let owner = File::options().read(true).write(true).open(home.path("log/owner.pid")).expect("the log has an owner's file");
    owner.lock().expect("nobody has it");
    let mut store = running::start(&home, &["store"]);
    running::until("the store to say that it waits", || {
        assert!(!store.ended(), "{}", store.said());
        store.said().contains("is in use by process")
    });
    drop(owner);
    running::until("the rows to be visible", || {
        assert!(!store.ended(), "{}", store.said());
        home.path("tables/trades").is_dir() && trades(&home) == 300
    });
    let (status, said) = store.signal("INT");
    assert_eq!(status.code(), Some(0), "{said}");
}

/// Given a log that drops what was stored, and tables in its home, then it is not stored into other ones: the home's own would lack it.
#[test]
fn a_log_with_retention_is_stored_into_one_place() {
    let home = Home::embedded();
    std::fs::write(home.path("tape.toml"), "[embedded]\nretention_hours = 0\n").expect("written");
    ingest(&home, &file(&home, "trades.csv", 100));
    let other = home.path("other").display().to_string();
    home.store();
    ingest(&home, &file(&home, "trades.csv", 200));
    let refused = home.run(&["store", "--once", "--tables", &other], "");
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    assert!(text(&refused).contains("retention_hours"), "{}", text(&refused));
    home.store();
    assert_eq!(trades(&home), 200);
}

#[test]
fn a_killed_owner_is_no_obstacle() {
    let home = Home::embedded();
    let mut owner = store(&home);
    let stored = ingest(&home, &file(&home, "trades.csv", 300));
    assert!(!stored.contains("to store it"), "{stored}");
    assert!(owner.kill());
    let not_stored = ingest(&home, &file(&home, "trades.csv", 400));
    assert!(not_stored.trim_end().lines().last().is_some_and(|last| last.contains("tape store --once --home ")), "{not_stored}");
    let owner = store(&home);
    ingest(&home, &file(&home, "trades.csv", 500));
    let (status, said) = owner.signal("INT");
    assert_eq!(status.code(), Some(0), "{said}");
    assert_eq!(trades(&home), 500);
}

#[test]
fn up_once_twice_publishes_once() {
    let home = Home::embedded();
    let first = home.run(&["up", "--once"], "");
    assert!(first.status.success(), "{}", text(&first));
    let rows = "SELECT (SELECT count(*) FROM trades) AS trades, (SELECT count(*) FROM token_usage) AS usage, (SELECT count(*) FROM sources) AS sources, \
         (SELECT count(*) FROM quarantine) AS quarantined";
    let before = counted(&home, rows);
    assert!(before["trades"].as_u64() > Some(0) && before["usage"].as_u64() > Some(0), "{before}");
    assert_eq!(before["quarantined"], 0);
    let second = home.run(&["up", "--once"], "");
    assert!(second.status.success(), "{}", text(&second));
    assert!(text(&second).contains(": 0 records published"), "{}", text(&second));
    assert_eq!(counted(&home, rows), before);
}
