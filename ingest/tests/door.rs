//! Copies of one source that come at the same moment: whichever is let in first, every record is published once. One that is overtaken by
//! another while it publishes stops with an error, and is complete when it is ingested again.

use eventlog::EventLog;
use eventlog::embedded::{Embedded, Options};
use ingest::pipeline::{Ingestor, Progress};
use ingest::report::Outcome;
use ingest::source::Given;
use ingest::unpack;
use schemas::Family;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;

struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn published(&self, _: u64, _: u64) {}
    fn end(&self) {}
}

/// A copy of the first `rows` rows of source number `round`.
fn copy(dir: &Path, round: u64, rows: u64) -> PathBuf {
    let mut text = "dataset,symbol,ts_event,price,size\n".to_string();
    for row in 0..rows {
        text.push_str(&format!("T.DATA,TOK{round},2026-10-05T14:30:00.{row:09}Z,2.81,{}\n", row % 50));
    }
    let path = dir.join(format!("{round}-{rows}.csv"));
    std::fs::write(&path, text).expect("written");
    path
}

fn trades(log: &dyn EventLog) -> i64 {
    log.watermarks(Family::Trades).expect("watermarks").iter().map(|partition| partition.high).sum()
}

#[test]
fn copies_of_different_length_that_come_together_are_one_source() {
    let dir = tempfile::tempdir().expect("temp dir");
    let log = Embedded::open(&dir.path().join("log"), &Options::default()).expect("a log");
    log.create_topics().expect("topics");
    for round in 0..8 {
        // Shorter and longer than a chunk, of which the first position is made.
        let lengths = [900, 2_000 + round, 1_500, 66_000];
        let before = trades(&log);
        let barrier = Barrier::new(lengths.len());
        let run = |rows: u64, ready: &dyn Fn()| -> Result<Outcome, eventlog::Error> {
            let path = copy(dir.path(), round, rows);
            let given = Given { name: path.display().to_string(), ..Given::default() };
            let input = unpack::inputs(&path, &given).expect("opens").remove(0).expect("it can be read");
            let stop = AtomicBool::new(false);
            let mut ingestor = Ingestor::new(&log, &Silent, &stop).expect("positions");
            ready();
            ingestor.ingest(&input).map(|report| report.outcome)
        };
        let together = |rows: u64| match run(rows, &|| {
            barrier.wait();
        }) {
            Err(eventlog::Error::Fenced { .. }) => (rows, None),
            outcome => (rows, Some(outcome.expect("the log has no fault"))),
        };
        let outcomes: Vec<(u64, Option<Outcome>)> = std::thread::scope(|scope| {
            let runs: Vec<_> = lengths.iter().map(|rows| scope.spawn(|| together(*rows))).collect();
            runs.into_iter().map(|run| run.join().expect("no panic")).collect()
        });
        let outcomes: Vec<Outcome> = outcomes
            .into_iter()
            .map(|(rows, outcome)| outcome.unwrap_or_else(|| run(rows, &|| ()).expect("alone it is not overtaken")))
            .collect();
        let longest = *lengths.iter().max().expect("some") as i64;
        assert_eq!(trades(&log) - before, longest, "round {round}: {outcomes:?}");
        for outcome in outcomes {
            let fits = match &outcome {
                Outcome::Done | Outcome::Known => true,
                Outcome::Failed(why) => why.contains("an older or a cut copy"),
                _ => false,
            };
            assert!(fits, "round {round}: {outcome:?}");
        }
    }
}
