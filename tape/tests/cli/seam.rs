//! The seam between log and tables: whatever ingest, store, upkeep and the query service itself do or suffer, every answer shows of each partition
//! all records from its first to some last one, each once; and what was published is shown though nobody stores it.

use crate::feed;
use crate::run::{self, Home, text};
use crate::running::{start, start_as, until};
use crate::served::Served;
use crate::trial::{Count, Trial};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

/// Lines published at a time.
const LINES: u64 = 150;
/// Of each partition, what is shown of it. Sums of offsets tell sets apart that have as many.
const SHOWN: &str = "SELECT _partition, count(*) AS n, count(DISTINCT _offset) AS places, max(_offset) AS last, \
    CAST(sum(_offset) AS BIGINT) AS total FROM trades GROUP BY 1";
const ALL: &str = "SELECT _partition, _offset FROM trades ORDER BY 1, 2";
const COUNT: &str = "SELECT count(*) FROM trades";

/// A partition in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Shown {
    partition: i64,
    rows: i64,
    places: i64,
    last: i64,
    total: i64,
}

#[test]
fn every_answer_during_ingest_commits_merges_and_deaths_has_each_record_once() {
    let seconds: u64 = std::env::var("TAPE_SEAM_SECONDS").map_or(12, |text| text.parse().expect("TAPE_SEAM_SECONDS is a number"));
    let broker = run::broker();
    let logs = [None, broker.as_deref()].into_iter().take(1 + usize::from(broker.is_some()));
    for log in logs {
        seam(Trial::new(log), Duration::from_secs(seconds));
    }
}

fn seam(mut trial: Trial, time: Duration) {
    if trial.name() == "kafka" {
        let made = trial.run("topics", None);
        assert!(made.status.success(), "{}", text(&made));
    }
    trial.grow(LINES);
    trial.finish("ingest");
    trial.finish("store");
    let service = RwLock::new(serve(&trial));
    let stop = AtomicBool::new(false);
    let (answers, broken) = (Mutex::new(BTreeMap::<Shown, u64>::new()), AtomicU64::new(0));
    let (mut deaths, mut services, mut merges) = (0, 1, 0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let Some(rows) = service.read().expect("nobody panics with it").rows(SHOWN) else {
                    broken.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                let mut answers = answers.lock().expect("nobody panics with it");
                for row in rows {
                    let [partition, rows, places, last, total] = row[..] else { panic!("five numbers: {row:?}") };
                    *answers.entry(Shown { partition, rows, places, last, total }).or_default() += 1;
                }
            }
        });
        // Whatever fails here must end the asking, too.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut store = start(&trial.home, &["store"]);
            while began.elapsed() < time {
                match trial.random.below(6) {
                    0 => {
                        store.kill();
                        deaths += 1;
                        // Nobody stores, and it is shown all the same.
                        trial.grow(LINES);
                        trial.finish("ingest");
                        see_all(&trial, &service.read().expect("nobody panics with it"));
                        store = start(&trial.home, &["store"]);
                    }
                    1 => {
                        let mut upkeep = start_as(&trial.home, "upkeep", &["upkeep"], &[]);
                        trial.grow(LINES);
                        trial.finish("ingest");
                        upkeep.end();
                        merges += 1;
                    }
                    2 => {
                        let mut service = service.write().expect("nobody panics with it");
                        service.running.kill();
                        *service = serve(&trial);
                        services += 1;
                    }
                    _ => {
                        trial.grow(LINES);
                        trial.finish("ingest");
                    }
                }
            }
            see_all(&trial, &service.read().expect("nobody panics with it"));
            let (status, said) = store.signal("TERM");
            assert!(status.success(), "{said}");
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
    let service = service.into_inner().expect("nobody panics with it");
    let all = service.rows(ALL).expect("an answer");
    assert_eq!(all.len() as u64, trial.lines());
    let mut offsets: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for row in &all {
        offsets.entry(row[0]).or_default().push(row[1]);
    }
    let answers = answers.into_inner().expect("nobody panics with it");
    assert!(!answers.is_empty(), "somebody asked");
    for shown in answers.keys() {
        let of = &offsets[&shown.partition];
        let until = of.partition_point(|offset| *offset <= shown.last);
        let truth = Shown { rows: until as i64, places: until as i64, last: of[until - 1], total: of[..until].iter().sum(), ..*shown };
        assert_eq!(*shown, truth, "an answer that is not the beginning of its partition");
    }
    println!(
        "{}: {} records in {:.0} s; {} answers of partitions, 0 gaps, 0 doubled; {} answers cut by the death of their service; \
         {deaths} deaths of the store, {services} services, {merges} looks of upkeep",
        trial.name(),
        all.len(),
        began.elapsed().as_secs_f64(),
        answers.values().sum::<u64>(),
        broken.into_inner(),
    );
    drop(service);
    trial.finish("store");
    assert_eq!(trial.count(), Count::default());
}

fn serve(trial: &Trial) -> Served {
    Served::start(&trial.home, &["query", "--listen", "127.0.0.1:0"])
}

/// Waits until everything that was published is shown.
fn see_all(trial: &Trial, service: &Served) {
    let wanted = vec![vec![i64::try_from(trial.lines()).expect("few")]];
    until("all that was published", || service.rows(COUNT).as_ref() == Some(&wanted));
}

/// What was read of a log is let go when another log lies in its place.
#[test]
fn records_of_a_log_that_was_brought_back_from_a_copy_are_not_shown() {
    let home = Home::embedded();
    let publish = |name: &str, lines: std::ops::Range<u64>| {
        let path = home.path(name);
        feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(lines.start, lines.end)].concat());
        assert_eq!(home.ingest(&path, &[]).code, 0);
    };
    publish("a.csv", 0..100);
    home.store();
    let (log, copy) = (home.path("log"), home.path("copy"));
    let copied = |from: &Path, to: &Path| {
        let done = Command::new("cp").arg("-a").args([from, to]).status().expect("cp is everywhere");
        assert!(done.success());
    };
    copied(&log, &copy);
    publish("b.csv", 100..400);
    let service = Served::start(&home, &["query", "--listen", "127.0.0.1:0"]);
    let shows = |count: i64| until(&format!("{count} records"), || service.rows(COUNT) == Some(vec![vec![count]]));
    shows(400);
    std::fs::remove_dir_all(&log).expect("nobody serves it");
    copied(&copy, &log);
    publish("c.csv", 400..900);
    shows(600);
    let sizes = |range: std::ops::Range<u64>| range.map(|line| i64::from(feed::trade(line).1)).sum::<i64>();
    assert_eq!(service.rows("SELECT CAST(sum(size) AS BIGINT) FROM trades"), Some(vec![vec![sizes(0..100) + sizes(400..900)]]));
}

/// A log that says nothing any more has perhaps grown: answers say so, until it speaks again.
#[test]
fn answers_say_when_the_log_is_silent() {
    let home = Home::embedded();
    let path = home.path("a.csv");
    feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(0, 50)].concat());
    assert_eq!(home.ingest(&path, &[]).code, 0);
    let store = start(&home, &["store"]);
    let service = Served::start(&home, &["query", "--listen", "127.0.0.1:0"]);
    let is_behind = || service.ask("text/csv", COUNT).contains("tape-behind");
    until("all records", || service.rows(COUNT) == Some(vec![vec![50]]) && !is_behind());
    store.send("STOP");
    until("a word of the silence", is_behind);
    store.send("CONT");
    until("no such word", || !is_behind());
    let (status, said) = store.signal("TERM");
    assert!(status.success(), "{said}");
}

/// Who reads a log that nobody serves gives it back, also when no more of it fits: whoever stores it makes room.
#[test]
fn a_full_tail_keeps_nobody_from_storing() {
    let home = Home::embedded();
    std::fs::write(home.path("tape.toml"), "[query]\ntail_mib = 1\n").expect("written");
    let path = home.path("a.csv");
    const LINES: u64 = 20_000;
    feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(0, LINES)].concat());
    assert_eq!(home.ingest(&path, &[]).code, 0);
    let service = Served::start(&home, &["query", "--listen", "127.0.0.1:0"]);
    until("a word that no more fits", || service.ask("text/csv", COUNT).contains("tape-behind: 1 MiB of records wait to be stored"));
    home.store();
    until("all records", || service.rows(COUNT) == Some(vec![vec![LINES as i64]]));
    until("no such word", || !service.ask("text/csv", COUNT).contains("tape-behind"));
}
