//! The query service is a process of its own: whatever ends it, ingest and store go on, and it is back; and it never outlives who began it.

use crate::feed;
use crate::run::{Home, text};
use crate::running::{is_gone, until};
use crate::served::{Served, WHOLE, request, with_trades};
use crate::{counted, number};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const UP: [&str; 4] = ["up", "--no-samples", "--listen", "127.0.0.1:0"];
/// Batches of trades, and rows of each.
const BATCHES: u64 = 12;
const ROWS: u64 = 2_000;

fn publish(home: &Home, batch: u64) {
    let path = home.path(&format!("trades-{batch}.csv"));
    feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(batch * ROWS, (batch + 1) * ROWS)].concat());
    let published = home.ingest(&path, &[]);
    assert_eq!((published.code, published.published()), (0, ROWS), "{:?}", published.report);
}

/// Waits for an answer, and gives how long that took.
fn answers_again(served: &Served) -> Duration {
    let began = Instant::now();
    until("an answer", || served.try_send(&request("text/csv", "SELECT 42 AS n")).is_ok_and(|answer| answer.contains("n\n42\n")));
    began.elapsed()
}

/// Given queries and ingest without a pause, when the process that answers is killed again and again, then every record is stored once, and the
/// next one answers.
#[test]
fn a_killed_query_service_is_back_and_ingest_and_store_go_on() {
    let home = Home::embedded();
    let mut served = Served::start(&home, &UP);
    let parent = served.running.pid();
    let (done, answered, broken) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let mut waits = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let sql =
                        "SELECT symbol, count(*), sum(price * size), max(t.value) FROM trades, generate_series(1, 200) t GROUP BY symbol";
                    match served.try_send(&request("text/csv", sql)) {
                        Ok(answer) if answer.ends_with(WHOLE) => answered.fetch_add(1, Ordering::Relaxed),
                        _ => broken.fetch_add(1, Ordering::Relaxed),
                    };
                }
            });
        }
        for batch in 0..BATCHES {
            if batch % 3 == 1 {
                let child = served.running.child();
                let killed = std::process::Command::new("kill").args(["-KILL", &child.to_string()]).status().expect("kill is everywhere");
                assert!(killed.success());
                publish(&home, batch);
                until("the end of the killed process", || is_gone(child));
                waits.push(answers_again(&served));
            } else {
                publish(&home, batch);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(!served.running.ended(), "{}", served.running.said());
    println!(
        "{} answers, {} broken off; answers came again (with an ingest between) within {waits:?}",
        answered.into_inner(),
        broken.into_inner()
    );
    let said = served.running.said();
    let back: Vec<&str> = said.lines().filter_map(|line| Some(line.split_once("answers again ")?.1.split_once(" s after")?.0)).collect();
    println!("the service said that it answered again after {back:?} s");
    assert_eq!(said.matches("signal: 9 (SIGKILL)").count(), 4, "{said}");
    assert_eq!(back.len(), 4, "{said}");
    until("all that was published to be visible", || {
        served.ask("text/csv", "SELECT count(*) AS n FROM trades").contains(&format!("n\n{}\n", BATCHES * ROWS))
    });
    assert_eq!(served.running.pid(), parent);
    let (status, said) = served.running.signal("TERM");
    assert_eq!(status.code(), Some(0), "{said}");
    let row = counted(&home, "SELECT count(*) AS n, count(DISTINCT ts_event) AS d, (SELECT count(*) FROM gaps) AS gaps FROM trades");
    assert_eq!([number(&row["n"]), number(&row["d"]), number(&row["gaps"])], [Some(24_000), Some(24_000), Some(0)]);
    let verified = home.run(&["verify", "--against-log"], "");
    assert_eq!(verified.status.code(), Some(0), "{}", text(&verified));
}

/// Given a process that may take little memory, when a statement takes more at once, then that process ends, and the one that began it goes on.
#[test]
fn a_statement_beyond_the_memory_of_its_process_ends_that_process_alone() {
    let home = with_trades(3);
    std::fs::write(home.path("tape.toml"), "[query]\nmemory_mib = 8192\nprocess_mib = 400\n").expect("written");
    for command in [&["query", "--listen", "127.0.0.1:0"][..], &UP] {
        let mut served = Served::start(&home, command);
        let (parent, child) = (served.running.pid(), served.running.child());
        let greedy = "SELECT array_agg(repeat(CAST(value AS VARCHAR), 100)) FROM generate_series(1, 3000000)";
        let answer = served.try_send(&request("text/csv", greedy));
        assert!(!answer.as_ref().is_ok_and(|answer| answer.ends_with(WHOLE)), "{answer:?}");
        until("the end of the process", || is_gone(child));
        println!("{}: answered again within {:?}", command[0], answers_again(&served));
        assert!(!served.running.ended() && served.running.pid() == parent);
        assert_ne!(served.running.child(), child);
        let said = served.running.said();
        assert!(said.contains("signal: 6 (SIGABRT)") && said.contains("answers again"), "{said}");
        if command[0] == "up" {
            publish(&home, 7);
            until("what was published to be visible", || served.ask("text/csv", "SELECT count(*) AS n FROM trades").contains("2003"));
        }
        let (status, said) = served.running.signal("TERM");
        assert_eq!(status.code(), Some(0), "{said}");
    }
}

/// Given a service with statements under way, when who began it is killed, then it is gone too, with its folder of temporary files, and its port
/// is free.
#[test]
fn no_query_service_outlives_who_began_it() {
    let home = with_trades(3);
    for command in [&["query", "--listen", "127.0.0.1:0"][..], &UP] {
        let mut served = Served::start(&home, command);
        answers_again(&served);
        let child = served.running.child();
        let spill = std::fs::read_to_string(format!("/proc/{child}/environ")).expect("it runs");
        let spill = spill.split('\0').find_map(|variable| variable.strip_prefix("TMPDIR=")).expect("it was given one").to_string();
        let mut deaf = served.connect();
        let endless = "SELECT a.value + b.value AS n FROM generate_series(1, 1000000) a, generate_series(1, 1000) b ORDER BY n";
        std::io::Write::write_all(&mut deaf, request("text/csv", endless).as_bytes()).expect("sent");
        let killed = Instant::now();
        assert!(served.running.kill());
        until("the end of the service", || is_gone(child));
        println!("{}: gone {:?} after its parent", command[0], killed.elapsed());
        until("the port", || TcpListener::bind(&served.address).is_ok());
        until("the end of its temporary files", || !std::path::Path::new(&spill).exists());
    }
}

/// A service that cannot begin says why once, and is not tried for ever.
#[test]
fn a_query_service_that_cannot_begin_says_why() {
    let home = with_trades(3);
    let nowhere = home.command(&["query", "--listen", "127.0.0.1:0"]).env("TMPDIR", "/nonexistent").output().expect("it ends");
    assert_eq!(nowhere.status.code(), Some(3), "{}", text(&nowhere));
    assert!(text(&nowhere).contains("making a folder for what does not fit into memory"), "{}", text(&nowhere));
    let no_folder = home.path("trades.csv").display().to_string();
    let not_tables = home.run(&["query", "--listen", "127.0.0.1:0", "--tables", &no_folder], "");
    assert_eq!(not_tables.status.code(), Some(3), "{}", text(&not_tables));
    assert_eq!(text(&not_tables).matches("tape: ").count(), 1, "{}", text(&not_tables));
    let by_hand = home.run(&["query-process", "--timeout", "1"], "");
    assert_eq!(by_hand.status.code(), Some(2), "{}", text(&by_hand));
    assert!(text(&by_hand).contains("begun by `tape query` and `tape up`"), "{}", text(&by_hand));
}
