//! Deaths of ingest, of store and of upkeep, at random moments by `kill -9` and at every named point: after a restart every record is there
//! once, and proven.

use crate::counted;
use crate::feed::{self, Random};
use crate::run::{self, Home, text};
use crate::running;
use crate::trial::{Count, Trial};
use crate::upkeep;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const KILLS: usize = 5;
/// Five transactions of ingest, nine commits of the store and more: a kill lands between any two.
const RECORDS: u64 = 270_000;
const STORE_ROWS_MAX: u64 = 30_000;
/// By so many records the file grows when a command was done before the kill came.
const MORE: u64 = 140_000;
/// So often may that happen.
const TRIES: usize = 40;

#[test]
fn every_record_is_stored_once_after_kills_on_the_embedded_log() {
    let header = |to| [feed::HEADER.as_bytes(), &feed::csv(0, to)].concat();
    let file = File { path: PathBuf::new(), records: RECORDS, header, records_of: feed::csv };
    let home = Home::embedded();
    kill_and_count(&home, &Home::embedded(), file, "trades.csv");
    // The embedded log has no offsets without a record.
    let holes =
        "SELECT count(*) FROM (SELECT _partition FROM trades GROUP BY _partition HAVING min(_offset) <> 0 OR max(_offset) + 1 <> count(*))";
    assert_eq!(counted(&home, holes)["count(*)"], 0, "offsets are contiguous");
}

#[test]
fn every_record_is_stored_once_after_kills_on_kafka() {
    let Some(broker) = run::broker() else { return };
    let file = File { path: PathBuf::new(), records: RECORDS, header: |to| feed::dbn("T.DATA", to), records_of: feed::dbn_records };
    kill_and_count(&Home::kafka(&broker), &Home::kafka(&broker), file, "trades.dbn");
}

/// A file that can grow.
struct File {
    path: PathBuf,
    records: u64,
    header: fn(u64) -> Vec<u8>,
    records_of: fn(u64, u64) -> Vec<u8>,
}

impl File {
    fn grow(&mut self) {
        let mut bytes = std::fs::read(&self.path).expect("it was written");
        bytes.extend((self.records_of)(self.records, self.records + MORE));
        self.records += MORE;
        feed::write(&self.path, &bytes);
    }
}

fn kill_and_count(home: &Home, other: &Home, mut file: File, name: &str) {
    let mut random = Random::new(name);
    file.path = home.path(name);
    feed::write(&file.path, &(file.header)(file.records));
    let path = file.path.to_str().expect("paths here are UTF-8").to_string();
    for home in [home, other] {
        std::fs::write(home.path("tape.toml"), format!("[store]\nrows_max = {STORE_ROWS_MAX}\n")).expect("written");
    }
    let (ingest, store) = (["ingest", path.as_str()], ["store", "--once"]);
    // How long each takes when nobody disturbs it, so that a kill can come at any moment of it.
    let undisturbed = [timed(other, &ingest), timed(other, &store), timed(other, &["upkeep"])];

    kill_often(home, &ingest, undisturbed[0], &mut random, || file.grow());
    finish(home, &ingest);
    kill_often(home, &store, undisturbed[1], &mut random, || {
        file.grow();
        finish(home, &ingest);
    });
    finish(home, &store);
    count(home, file.records);
    finish(home, &ingest);
    finish(home, &store);
    count(home, file.records);

    kill_often(home, &["upkeep"], undisturbed[2], &mut random, || {
        file.grow();
        finish(home, &ingest);
        finish(home, &store);
    });
    finish(home, &["upkeep"]);
    count(home, file.records);
}

fn timed(home: &Home, args: &[&str]) -> Duration {
    let began = Instant::now();
    finish(home, args);
    began.elapsed()
}

fn finish(home: &Home, args: &[&str]) {
    let output = home.run(args, "");
    assert!(output.status.success(), "tape {args:?} after a kill: {}", text(&output));
}

/// Starts a command and kills it, five times. A command that was done before makes a round that does not count, and more work for the next.
fn kill_often(home: &Home, args: &[&str], undisturbed: Duration, random: &mut Random, mut more: impl FnMut()) {
    let mut kills = 0;
    let mut latest = undisturbed;
    for _ in 0..TRIES {
        let delay = Duration::from_millis(random.below(latest.as_millis() as u64).max(20));
        let mut running = running::start(home, args);
        let began = Instant::now();
        while began.elapsed() < delay && !running.ended() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let killed = running.kill();
        println!("tape {args:?}: {} after {:?}", if killed { "killed" } else { "was done" }, began.elapsed());
        if !killed {
            assert!(!running.said().contains("tape:"), "{}", running.said());
            // What is left takes less time than the whole: the next kill comes earlier.
            latest = began.elapsed();
            more();
            continue;
        }
        kills += 1;
        if kills == KILLS {
            return;
        }
    }
    panic!("only {kills} kills in {TRIES} tries");
}

/// Every record is there once, and every commit's proof holds.
fn count(home: &Home, records: u64) {
    finish(home, &["verify"]);
    let sums = "SELECT count(*) AS n, count(DISTINCT source_record) AS places, count(DISTINCT source_id) AS sources, \
         CAST(sum(price) AS VARCHAR) AS price, sum(size) AS size, max(source_record) AS last FROM trades";
    let strange = "SELECT (SELECT count(*) FROM gaps) + (SELECT count(*) FROM quarantine) AS n";
    let row = counted(home, sums);
    let (price, size) =
        (0..records).map(feed::trade).fold((0i128, 0u64), |(p, s), (price, size)| (p + i128::from(price), s + u64::from(size)));
    assert_eq!(row["n"], records);
    assert_eq!(row["places"], records, "no record twice");
    assert_eq!(row["sources"], 1);
    assert_eq!(row["last"], records - 1);
    assert_eq!(row["price"], format!("{}.{:09}", price / 1_000_000_000, price % 1_000_000_000));
    assert_eq!(row["size"], size);
    assert_eq!(counted(home, strange)["n"], 0, "nothing in gaps or quarantine");
}

/// Where a command may die: the point, which command reaches it, and on which log (`None` on both).
pub const POINTS: [(&str, &str, Option<&str>); 31] = [
    ("ingest.fenced", "ingest", None),
    ("ingest.staged", "ingest", None),
    ("ingest.published", "ingest", None),
    ("log.embedded.unwritten", "ingest", Some("embedded")),
    ("log.embedded.unmarked", "ingest", Some("embedded")),
    ("log.embedded.unacknowledged", "ingest", Some("embedded")),
    ("log.kafka.sent", "ingest", Some("kafka")),
    ("log.kafka.uncommitted", "ingest", Some("kafka")),
    ("log.kafka.unacknowledged", "ingest", Some("kafka")),
    ("store.opened", "store", None),
    ("store.polled", "store", None),
    ("store.decoded", "store", None),
    ("lake.put.unsynced", "store", None),
    ("lake.put.unlinked", "store", None),
    ("lake.files_written", "store", None),
    ("lake.entry_written", "store", None),
    ("store.quarantined", "store", None),
    ("store.committed", "store", None),
    ("store.told", "store", None),
    ("lake.rewrite.merged", "upkeep", None),
    ("lake.rewrite.file_written", "upkeep", None),
    ("lake.rewrite.entry_written", "upkeep", None),
    ("lake.checkpoint.unwritten", "upkeep", None),
    ("lake.checkpoint.unnamed", "upkeep", None),
    ("lake.checkpoint.written", "upkeep", None),
    ("lake.archive.written", CLEAN_UP, None),
    ("lake.archive.unsettled", CLEAN_UP, None),
    ("lake.clean_up.archived", CLEAN_UP, None),
    ("lake.clean_up.entry_removed", CLEAN_UP, None),
    ("lake.clean_up.checkpoint_removed", CLEAN_UP, None),
    ("lake.clean_up.file_removed", CLEAN_UP, None),
];

/// An upkeep that has something to remove: its points are reached in a story of their own.
const CLEAN_UP: &str = "clean-up";

/// Points that a command reaches several times: data file, then log entry, of one table, then of the next.
const AGAIN: [(&str, u64); 4] = [("lake.put.unsynced", 4), ("lake.put.unlinked", 4), ("lake.files_written", 2), ("lake.entry_written", 2)];

#[test]
fn every_record_is_stored_once_after_a_death_at_each_named_point_on_the_embedded_log() {
    die_everywhere(Trial::new(None));
}

#[test]
fn every_record_is_stored_once_after_a_death_at_each_named_point_on_kafka() {
    let Some(broker) = run::broker() else { return };
    die_everywhere(Trial::new(Some(&broker)));
}

fn die_everywhere(mut trial: Trial) {
    for (point, command, log) in POINTS {
        if log.is_some_and(|log| log != trial.name()) || command == CLEAN_UP {
            continue;
        }
        for time in 1..=times(point) {
            prepare(&mut trial, command);
            die(&trial, command, point, time);
            // Whatever died: what was under way is brought to its end.
            let after = if command == "upkeep" { &["ingest", "store", "upkeep"][..] } else { &["ingest", "store"] };
            after.iter().for_each(|command| trial.finish(command));
            assert_eq!(trial.count(), Count::default(), "after a death at {point}, time {time}");
        }
    }
}

fn times(point: &str) -> u64 {
    AGAIN.iter().find(|(name, _)| *name == point).map_or(1, |(_, times)| *times)
}

fn die(trial: &Trial, command: &str, point: &str, time: u64) {
    let output = trial.run(command, Some(&format!("{point}:{time}")));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code().is_none() && said.contains(&format!("dies at {point}")), "{point}:{time}: {}", text(&output));
}

/// Given a table whose past is behind the horizon, when upkeep dies at a point of its clean-up, then all that an undisturbed one keeps is there, the
/// next commands work, every record is proven, and the next upkeep removes what is left.
#[test]
fn a_clean_up_that_dies_is_finished_by_the_next() {
    let mut trial = Trial::new(None);
    // As many files as a merge, and with it a checkpoint, takes.
    let stored = |trial: &mut Trial| {
        for _ in 0..4 {
            trial.grow(50);
            ["ingest", "store"].iter().for_each(|command| trial.finish(command));
        }
    };
    stored(&mut trial);
    trial.finish("upkeep");
    for (point, ..) in POINTS.iter().filter(|(_, command, _)| *command == CLEAN_UP) {
        for time in 1..=times(point) {
            // A second checkpoint before the horizon, and one that comes with the death: the first one is to go.
            stored(&mut trial);
            trial.finish("upkeep");
            upkeep::make_older(&trial.home);
            stored(&mut trial);
            let before = names(&trial.home.path("tables"));
            let kept = kept_undisturbed(&trial.home, &before);
            assert!(kept.len() + 5 < before.len(), "there is much to remove: {} of {}", kept.len(), before.len());
            die(&trial, "upkeep", point, time);
            let there = names(&trial.home.path("tables"));
            let lost: Vec<_> = kept.difference(&there).collect();
            assert!(lost.is_empty(), "after a death at {point}, time {time}: {lost:?} is gone");
            stored(&mut trial);
            assert_eq!(trial.count(), Count::default(), "after a death at {point}, time {time}");
            trial.finish("upkeep");
            let there = names(&trial.home.path("tables"));
            assert_eq!(there.intersection(&before).collect::<Vec<_>>(), kept.iter().collect::<Vec<_>>(), "after {point}, time {time}");
            assert_eq!(trial.count(), Count::default(), "after the upkeep that followed a death at {point}, time {time}");
        }
    }
}

/// Of the files that there are, those that an upkeep keeps that nothing disturbs: of a copy.
fn kept_undisturbed(home: &Home, before: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let copy = tempfile::tempdir().expect("temp dir");
    for name in before {
        let (from, to) = (home.path("tables").join(name), copy.path().join(name));
        std::fs::create_dir_all(to.parent().expect("it has a folder")).expect("a folder is made");
        std::fs::copy(&from, &to).expect("copied");
        let modified = std::fs::metadata(&from).and_then(|metadata| metadata.modified()).expect("it has a time");
        std::fs::File::options().write(true).open(&to).and_then(|file| file.set_modified(modified)).expect("a time is set");
    }
    let output = home.run(&["upkeep", "--tables", copy.path().to_str().expect("paths here are UTF-8")], "");
    assert!(output.status.success(), "{}", text(&output));
    names(copy.path()).intersection(before).cloned().collect()
}

/// Paths of all files below a folder.
fn names(folder: &Path) -> BTreeSet<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(folder, &mut found);
    found.iter().map(|path| path.strip_prefix(folder).expect("it is below").to_path_buf()).collect()
}

/// Gives a command something to do: lines to ingest, lines and poison to store, many small files to rewrite.
fn prepare(trial: &mut Trial, command: &str) {
    let rounds = if command == "upkeep" { 4 } else { 1 };
    for _ in 0..rounds {
        trial.grow(250);
        if command != "ingest" {
            trial.finish("ingest");
            trial.poison(2);
        }
        if command == "upkeep" {
            trial.finish("store");
        }
    }
}

/// What can die is in the table above, and in the crash table of the documents.
#[test]
fn every_named_point_is_tried() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut there = BTreeSet::new();
    for house in ["eventlog", "ingest", "lake", "store"] {
        names_in(&root.join(house).join("src"), &mut there);
    }
    let tried: BTreeSet<String> = POINTS.iter().map(|(point, ..)| (*point).to_string()).collect();
    assert_eq!(there, tried);
    let told = std::fs::read_to_string(root.join("docs/exactly-once.md")).expect("the page is there");
    let untold: Vec<&String> = there.iter().filter(|point| !told.contains(&format!("`{point}`"))).collect();
    assert!(untold.is_empty(), "docs/exactly-once.md does not tell of {untold:?}");
}

fn names_in(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            names_in(&path, names);
        } else {
            let text = std::fs::read_to_string(&path).expect("a source file");
            names.extend(text.split("killpoint::here!(\"").skip(1).filter_map(|rest| rest.split('"').next()).map(String::from));
        }
    }
}
