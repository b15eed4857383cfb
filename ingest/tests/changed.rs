//! Files that change while they are read: what is published is of one version of the file, or it is said that it is not.

use eventlog::EventLog;
use eventlog::embedded::{Embedded, Options};
use ingest::pipeline::{Ingestor, Progress};
use ingest::report::{FileReport, Outcome};
use ingest::source::Given;
use ingest::unpack;
use schemas::Family;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Does something once, when the first chunk is published.
struct Then<'a>(Mutex<Option<Box<dyn FnOnce() + Send + 'a>>>);

impl<'a> Then<'a> {
    fn new(act: impl FnOnce() + Send + 'a) -> Then<'a> {
        Then(Mutex::new(Some(Box::new(act))))
    }
}

impl Progress for Then<'_> {
    fn begin(&self, _: &str, _: u64) {}
    fn published(&self, _: u64, _: u64) {
        if let Some(act) = self.0.lock().expect("nobody panics here").take() {
            act();
        }
    }
    fn end(&self) {}
}

struct Home {
    dir: tempfile::TempDir,
    log: Embedded,
}

impl Home {
    fn new() -> Home {
        let dir = tempfile::tempdir().expect("temp dir");
        let log = Embedded::open(&dir.path().join("log"), &Options::default()).expect("a log");
        log.create_topics().expect("topics");
        Home { dir, log }
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).expect("written");
        path
    }

    /// Ingests a file; `act` comes when its first chunk is published, and may say stop.
    fn ingest(&self, path: &Path, act: impl FnOnce(&AtomicBool) + Send) -> FileReport {
        let given = Given { name: path.display().to_string(), ..Given::default() };
        let input = unpack::inputs(path, &given).expect("opens").remove(0).expect("it can be read");
        let stop = AtomicBool::new(false);
        let then = Then::new(|| act(&stop));
        Ingestor::new(&self.log, &then, &stop).expect("positions").ingest(&input).expect("the log has no fault")
    }

    fn count(&self, family: Family) -> i64 {
        self.log.watermarks(family).expect("watermarks").iter().map(|partition| partition.high).sum()
    }
}

fn nothing(_: &AtomicBool) {}

/// More rows than a chunk has.
const ROWS: u64 = 140_000;

fn rows(symbol: &str, rows: u64) -> Vec<u8> {
    let mut text = "dataset,symbol,ts_event,price,size\n".to_string();
    (0..rows).for_each(|row| text.push_str(&format!("T.DATA,{symbol},2026-10-05T14:30:00.{row:09}Z,2.81,{}\n", row % 50)));
    text.into_bytes()
}

#[test]
fn a_file_that_is_rotated_away_is_read_to_its_end() {
    let home = Home::new();
    let path = home.file("capture.csv", &rows("TOK1", ROWS));
    let rotated = home.dir.path().join("capture.1.csv");
    let report = home.ingest(&path, |_| {
        std::fs::rename(&path, &rotated).expect("renamed");
        std::fs::write(&path, rows("TOK2", 50)).expect("written");
    });
    assert_eq!((report.outcome, report.records[&Family::Trades]), (Outcome::Done, ROWS));
    assert_eq!(home.ingest(&rotated, nothing).outcome, Outcome::Known);
    assert_eq!(home.ingest(&path, nothing).records[&Family::Trades], 50);
    assert_eq!(home.count(Family::Trades), ROWS as i64 + 50);
}

#[test]
fn a_file_that_grows_while_it_is_read_is_fine() {
    let home = Home::new();
    let path = home.file("capture.csv", &rows("TOK1", ROWS));
    let grown = rows("TOK1", ROWS + 10);
    let report = home.ingest(&path, |_| {
        let mut file = std::fs::File::options().append(true).open(&path).expect("opened");
        std::io::Write::write_all(&mut file, &grown[rows("TOK1", ROWS).len()..]).expect("written");
    });
    assert_eq!(report.outcome, Outcome::Done);
    home.ingest(&path, nothing);
    assert_eq!(home.count(Family::Trades), ROWS as i64 + 10);
}

#[test]
fn a_file_that_is_overwritten_while_it_is_read_is_said_to_be() {
    let home = Home::new();
    let path = home.file("live.csv", &rows("TOK1", ROWS));
    let report = home.ingest(&path, |_| std::fs::write(&path, rows("TOK2", ROWS)).expect("written"));
    let Outcome::Failed(why) = &report.outcome else { panic!("{report:?}") };
    assert!(why.contains("was overwritten while it was read") && why.contains("records were published already"), "{why}");
    assert!(report.records[&Family::Trades] < ROWS, "{report:?}");
}

/// A document of two parts of which one was published, and another one that begins with the same part.
#[test]
fn documents_that_begin_alike_are_not_mixed() {
    let home = Home::new();
    let part = vec![b'x'; ingest::sources::document::PART_BYTES_MAX];
    let (first, other) = ([&part[..], b"one"].concat(), [&part[..], b"another"].concat());
    let path = home.file("page.bin", &first);
    assert_eq!(home.ingest(&path, |stop| stop.store(true, Ordering::Relaxed)).outcome, Outcome::Interrupted);
    assert_eq!(home.count(Family::Documents), 1);
    let second = home.ingest(&home.file("other.bin", &other), nothing);
    assert_eq!((&second.outcome, second.records[&Family::Documents]), (&Outcome::Done, 2));
    let rest = home.ingest(&path, nothing);
    assert_eq!((&rest.outcome, rest.records[&Family::Documents]), (&Outcome::Done, 1));
    assert_ne!(rest.source_id, second.source_id);
    for path in ["page.bin", "other.bin"] {
        assert_eq!(home.ingest(&home.dir.path().join(path), nothing).outcome, Outcome::Known);
    }
}
