//! What upkeep costs and what it leaves: commits beside a compaction, commits to tables of many files, the files of a day, the share of the proof.

use crate::memory;
use crate::report::{Row, median, thousands};
use crate::speed::{Bench, cpu};
use anyhow::{Context, Result, ensure};
use arrow::array::{ArrayRef, Date32Array, RecordBatch};
use eventlog::embedded::{Embedded, Options};
use eventlog::{EventLog, Start};
use lake::{Compaction, Lake, Stop, Table, Txn, most_files};
use schemas::Family;
use serde_json::Map;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::proof::{Hasher, Leaves, Tree};
use thread_priority::{ThreadPriority, set_current_thread_priority};

/// Live files of the tables that commits are compared on.
const FILES: [usize; 3] = [10, 1_000, 20_000];
/// The same in a run that only shows that it works.
const FILES_QUICK: [usize; 3] = [10, 100, 300];
/// Files that one commit makes while a table is filled.
const FILES_PER_COMMIT: usize = 1_000;
/// Rows of one measured commit.
const COMMIT_ROWS: usize = 2_000;
/// Time between the beginnings of two commits beside a compaction.
const EVERY: Duration = Duration::from_millis(50);
/// How often the rows are in a small day, and in a large one, that memory is measured on.
const COPIES: [u64; 2] = [2, 8];
/// Rows of a file that is to be merged.
const SMALL_FILE_ROWS: usize = 100_000;
/// Events of one poll.
const POLL_EVENTS: usize = 10_000;
/// Days since 1970 that the rows of one day get.
const DAY: i32 = 20_000;

/// Rows as a store made them, and where to put tables.
pub struct Upkeep<'a> {
    bench: &'a Bench,
    quick: bool,
    rows: Vec<RecordBatch>,
    runtime: tokio::runtime::Runtime,
}

impl<'a> Upkeep<'a> {
    /// Stores the input once.
    pub fn new(bench: &'a Bench, quick: bool) -> Result<Upkeep<'a>> {
        let home = tempfile::tempdir_in(&bench.place)?;
        let log = Embedded::open(&home.path().join("log"), &Options::default())?;
        bench.ingest(&log)?;
        let tables = home.path().join("tables");
        bench.store_all(Arc::new(log), &tables)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
        let lake = open(&tables)?;
        let rows = runtime.block_on(async {
            let table = lake.find(Family::Trades).await?.context("the trades are stored")?;
            let mut rows = Vec::new();
            for file in table.snapshot().files() {
                let bytes = lake.fetch(Family::Trades, file).await?;
                for batch in lake.rows(Family::Trades, file, bytes)? {
                    rows.push(with_days(&batch?, |_| DAY)?);
                }
            }
            anyhow::Ok(rows)
        })?;
        Ok(Upkeep { bench, quick, rows, runtime })
    }

    /// Commits to tables of few and of many live files, in turns.
    pub fn by_files(&self) -> Result<Vec<Row>> {
        let commits = if self.quick { 20 } else { 200 };
        let files = if self.quick { FILES_QUICK } else { FILES };
        let place = tempfile::tempdir_in(&self.bench.place)?;
        self.runtime.block_on(async {
            let mut tables = Vec::new();
            for count in files {
                let lake = open(&place.path().join(count.to_string()))?;
                let mut table = lake.table(Family::Trades).await?;
                fill(&mut table, &self.rows[0], count).await?;
                table.checkpoint().await?;
                // A process that commits opened its table some time ago, and knows it by what it read then.
                let began = Instant::now();
                let table = lake.table(Family::Trades).await?;
                tables.push((table, began.elapsed(), Vec::new()));
            }
            let batch = self.rows[0].slice(0, COMMIT_ROWS.min(self.rows[0].num_rows()));
            for _ in 0..commits {
                for (table, _, times) in &mut tables {
                    times.push(commit(table, &batch).await?);
                }
            }
            let first = spread(&tables[0].2);
            let row = |(count, (_, opened, times)): (&usize, &(Table, Duration, Vec<Duration>))| {
                let (middle, late) = spread(times);
                let ratio = middle.as_secs_f64() / first.0.as_secs_f64();
                Row {
                    what: format!("commit to a table of {} files (opened in {})", thousands(*count as u64), ms(*opened)),
                    figure: format!("{}, p99 {}", ms(middle), ms(late)),
                    yardstick: format!("{}, p99 {} (10 files)", ms(first.0), ms(first.1)),
                    ratio: Some(ratio),
                    reach: "≤ 1.10".into(),
                    met: ratio <= 1.10,
                    runs: vec![],
                    cpu: None,
                }
            };
            let rows: Vec<Row> = files.iter().zip(&tables).skip(1).map(row).collect();
            for (table, ..) in &mut tables {
                table.checkpoint_settled().await?;
            }
            Ok(rows)
        })
    }

    /// Commits to a day's table alone, and while its files are merged, in turns; and what the merge leaves.
    pub fn beside_a_merge(&self) -> Result<Vec<Row>> {
        let (mut quiet, mut busy) = (Vec::new(), Vec::new());
        let mut left = String::new();
        let mut most = 0;
        for _ in 0..self.bench.runs {
            let place = tempfile::tempdir_in(&self.bench.place)?;
            let lake = open(place.path())?;
            self.runtime.block_on(self.small_files(&lake))?;
            // As long alone as beside the merge, and to the same table.
            let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
            let merging = {
                let (lake, stop) = (lake.clone(), Stop::from(stop.clone()));
                move || -> Result<lake::Compacted> {
                    // As `tape store` does it.
                    set_current_thread_priority(ThreadPriority::Min).map_err(|e| anyhow::anyhow!("a low priority: {e:?}"))?;
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    runtime.block_on(async {
                        let mut table = lake.table(Family::Trades).await?;
                        Ok(table.compact(&Compaction::default(), &stop).await?)
                    })
                }
            };
            let (alone, beside) = self.runtime.block_on(async {
                let mut table = lake.table(Family::Trades).await?;
                let batch = self.rows[0].slice(0, COMMIT_ROWS.min(self.rows[0].num_rows()));
                // As many commits alone as come beside a merge of this size.
                let alone = paced(&mut table, &batch, |done| done < if self.quick { 5 } else { 150 }).await?;
                let merging = std::thread::spawn(merging);
                let beside = paced(&mut table, &batch, |_| !merging.is_finished()).await?;
                let merged = merging.join().map_err(|_| anyhow::anyhow!("the merge ended unexpectedly"))??;
                ensure!(merged.commits > 0, "nothing was merged");
                anyhow::Ok((alone, beside))
            })?;
            quiet.extend(alone);
            busy.extend(beside);
            (most, left) = self.runtime.block_on(async {
                let mut table = lake.table(Family::Trades).await?;
                table.compact(&Compaction::default(), &Stop::default()).await?;
                anyhow::Ok((most_files(&table.snapshot()), sizes(&table)))
            })?;
        }
        let ((_, quiet_late), (middle, late)) = (spread(&quiet), spread(&busy));
        let ratio = late.as_secs_f64() / quiet_late.as_secs_f64();
        Ok(vec![
            Row {
                what: format!("p99 of a commit while files are merged ({} commits)", busy.len()),
                figure: format!("{} (median {})", ms(late), ms(middle)),
                yardstick: format!("{} (median {}; alone, {} commits)", ms(quiet_late), ms(spread(&quiet).0), quiet.len()),
                ratio: Some(ratio),
                reach: "≤ 1.10".into(),
                met: ratio <= 1.10,
                runs: vec![],
                cpu: None,
            },
            Row {
                what: format!("live files of a day of {} trades after upkeep", thousands(self.bench.records)),
                figure: format!("{most} ({left})"),
                yardstick: format!("{} before", self.rows.iter().map(RecordBatch::num_rows).sum::<usize>().div_ceil(SMALL_FILE_ROWS)),
                ratio: None,
                reach: "≤ 4".into(),
                met: most <= 4,
                runs: vec![],
                cpu: None,
            },
        ])
    }

    /// CPU time of hashing every record for the proof of its commit, beside that of storing it, proof included.
    pub fn proof(&self) -> Result<Row> {
        let home = tempfile::tempdir_in(&self.bench.place)?;
        let log: Arc<dyn EventLog> = Arc::new(Embedded::open(&home.path().join("log"), &Options::default())?);
        self.bench.ingest(log.as_ref())?;
        let (mut shares, mut hashing, mut storing) = (Vec::new(), Vec::new(), Vec::new());
        for run in 0..self.bench.runs {
            let hashed = self.hash(log.as_ref())?;
            let began = cpu()?;
            self.bench.store_all(log.clone(), &home.path().join(format!("tables{run}")))?;
            let stored = cpu()? - began;
            shares.push(hashed.as_secs_f64() / stored.as_secs_f64());
            let each = |took: Duration| took.as_secs_f64() * 1e6 / self.bench.records as f64;
            hashing.push(each(hashed));
            storing.push(each(stored));
        }
        let share = median(shares);
        Ok(Row {
            what: "share of the proof in storing, CPU time".into(),
            figure: format!("{:.2} µs per record", median(hashing)),
            yardstick: format!("{:.2} µs (embedded log → Delta, proof included)", median(storing)),
            ratio: Some(share),
            reach: "≤ 0.10".into(),
            met: share <= 0.10,
            runs: vec![],
            cpu: None,
        })
    }

    /// CPU time of hashing alone: the events are read before it is taken.
    fn hash(&self, log: &dyn EventLog) -> Result<Duration> {
        let topic = log.topic(Family::Trades)?;
        let cluster = log.cluster_id()?;
        let starts: Vec<Start> = (0..topic.partitions).map(|partition| Start { family: Family::Trades, partition, offset: 0 }).collect();
        let mut reader = log.reader(&starts)?;
        let mut hashers: Vec<(Hasher, Tree)> =
            (0..topic.partitions).map(|partition| (Hasher::new(&cluster, &topic, partition), Tree::default())).collect();
        let (mut took, mut seen) = (Duration::ZERO, 0u64);
        while seen < self.bench.records {
            let polled = reader.poll(Duration::from_secs(10), POLL_EVENTS)?;
            ensure!(!polled.events.is_empty(), "the log ended after {seen} records");
            let began = thread_cpu()?;
            let mut leaves = Leaves::default();
            polled.events.iter().for_each(|event| leaves.event(&hashers[event.partition as usize].0, event));
            for (event, leaf) in polled.events.iter().zip(leaves.hashes()) {
                hashers[event.partition as usize].1.push(leaf);
            }
            took += thread_cpu()? - began;
            seen += polled.events.len() as u64;
        }
        ensure!(hashers.iter().map(|(_, tree)| tree.len()).sum::<u64>() == seen, "every record is hashed once");
        Ok(took)
    }

    /// Peak memory of `tape upkeep` that merges a day, and one of four times as many rows; the files that it leaves of the large one.
    pub fn memory(&self, tape: &Path) -> Result<Vec<Row>> {
        let mut peaks = Vec::new();
        let mut left = None;
        for copies in COPIES {
            let home = tempfile::tempdir_in(&self.bench.place)?;
            let lake = open(&home.path().join("tables"))?;
            for _ in 0..copies {
                self.runtime.block_on(self.small_files(&lake))?;
            }
            let command = || {
                let mut command = std::process::Command::new(tape);
                command.args(["upkeep", "--json", "--home"]).arg(home.path());
                command
            };
            let (peak, done) = memory::peak(command())?;
            ensure!(done["tables"]["trades"]["merged"]["files_after"].as_u64() > Some(0), "nothing was merged: {done}");
            peaks.push(peak);
            let again = memory::peak(command())?.1;
            ensure!(again["tables"]["trades"]["merged"]["files_after"].as_u64().unwrap_or(0) == 0, "a second upkeep still merges: {again}");
            let table = self.runtime.block_on(lake.find(Family::Trades))?.context("the trades are stored")?;
            left = Some(table);
        }
        let left = left.context("two days were measured")?;
        let sized = |wanted: fn(u64) -> bool| left.snapshot().files().iter().filter(|file| wanted(file.size)).count();
        let records = COPIES.map(|copies| copies * self.bench.records);
        let files = Row {
            what: format!("files of a day of {} trades after tape upkeep", thousands(records[1])),
            figure: format!("{} ({})", most_files(&left.snapshot()), sizes(&left)),
            yardstick: "a second upkeep finds nothing to merge".into(),
            ratio: None,
            reach: "128 to 512 MiB, up to three smaller".into(),
            met: sized(|size| size > 512 << 20) == 0 && sized(|size| size < 128 << 20) <= Compaction::default().small_files_max,
            runs: vec![],
            cpu: None,
        };
        Ok(vec![memory::row("memory of tape upkeep", records, peaks[0], peaks[1]), files])
    }

    /// All rows as small files of one day.
    async fn small_files(&self, lake: &Lake) -> Result<()> {
        let mut table = lake.table(Family::Trades).await?;
        let all = arrow::compute::concat_batches(&self.rows[0].schema(), &self.rows)?;
        for first in (0..all.num_rows()).step_by(SMALL_FILE_ROWS) {
            table.commit(&[all.slice(first, SMALL_FILE_ROWS.min(all.num_rows() - first))], &[], Map::new()).await?;
        }
        Ok(())
    }
}

/// The sizes of a table's files.
fn sizes(table: &Table) -> String {
    let mib = |file: &Arc<lake::FileInfo>| format!("{:.0}", file.size as f64 / (1 << 20) as f64);
    format!("{} MiB", table.snapshot().files().iter().map(mib).collect::<Vec<_>>().join(", "))
}

fn open(place: &Path) -> Result<Lake> {
    std::fs::create_dir_all(place)?;
    Ok(Lake::open(place.to_str().context("the temporary folder has a plain name")?)?)
}

/// Rows with other days: as many days as there are rows give as many files.
fn with_days(rows: &RecordBatch, day: impl Fn(usize) -> i32) -> Result<RecordBatch> {
    let mut columns = rows.columns().to_vec();
    let days: ArrayRef = Arc::new(Date32Array::from_iter_values((0..rows.num_rows()).map(day)));
    columns[rows.schema().index_of("date")?] = days;
    Ok(RecordBatch::try_new(rows.schema(), columns)?)
}

async fn fill(table: &mut Table, rows: &RecordBatch, files: usize) -> Result<()> {
    for first in (0..files).step_by(FILES_PER_COMMIT) {
        let count = FILES_PER_COMMIT.min(files - first).min(rows.num_rows());
        table.commit(&[with_days(&rows.slice(0, count), |row| (first + row) as i32)?], &[], Map::new()).await?;
    }
    ensure!(table.snapshot().files().len() == files, "{} files instead of {files}", table.snapshot().files().len());
    Ok(())
}

/// One commit as the store makes it, its checkpoints included.
async fn commit(table: &mut Table, batch: &RecordBatch) -> Result<Duration> {
    let began = Instant::now();
    let app_id = "trades/bench/0";
    let from = table.txn_version(app_id).await?;
    let txn = Txn { app_id: app_id.into(), from, to: from.unwrap_or(0) + batch.num_rows() as i64 };
    table.commit(std::slice::from_ref(batch), &[txn], Map::new()).await?;
    table.checkpoint_done().await?;
    if table.checkpoint_due() {
        table.begin_checkpoint();
    }
    Ok(began.elapsed())
}

/// Commits at even distances as long as `go_on` says so of how many were done.
async fn paced(table: &mut Table, batch: &RecordBatch, go_on: impl Fn(usize) -> bool) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut clock = tokio::time::interval(EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while go_on(times.len()) {
        clock.tick().await;
        times.push(commit(table, batch).await?);
    }
    table.checkpoint_settled().await?;
    Ok(times)
}

/// The median and the 99th percentile.
fn spread(times: &[Duration]) -> (Duration, Duration) {
    let mut sorted = times.to_vec();
    sorted.sort();
    let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part).round() as usize];
    (at(0.5), at(0.99))
}

/// CPU time of this thread so far, by the kernel's account in nanoseconds.
fn thread_cpu() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").context("reading this thread's CPU time")?;
    let spent = text.split(' ').next().and_then(|number| number.parse().ok()).context("the kernel tells a thread's CPU time")?;
    Ok(Duration::from_nanos(spent))
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
