//! Every figure is measured beside a yardstick in the same run, in turns: what the machine does to one it does to the other.
//!
//! ```text
//! input.rs  seeded trades ──► speed.rs   our code and raw.rs, the yardstick, in turns ──► report.rs  medians, ratios, what is reached
//!                         ──► memory.rs  the release binary, watched from outside      ──►
//! ```
//!
//! `bench/run.sh` builds, starts a broker, and runs this. How to read what it prints: docs/benchmarks.md.

mod freshness;
mod history;
mod input;
mod layouts;
mod memory;
mod queries;
mod raw;
mod replay;
mod report;
mod speed;
mod upkeep;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use report::Report;
use std::path::PathBuf;

/// The allocator of `tape`: both sides of a measurement have it, as C code takes it too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures tokentape against yardsticks taken in the same run.
#[derive(Debug, Parser)]
pub struct Args {
    /// Kafka brokers; without them what needs a broker is left out
    #[arg(long, env = "TAPE_BENCH_BROKERS", value_name = "LIST")]
    brokers: Option<String>,
    /// A Python with duckdb and polars; without it the queries are left out
    #[arg(long, env = "TAPE_BENCH_PYTHON", value_name = "FILE")]
    python: Option<PathBuf>,
    /// The `tape` binary whose memory is watched [default: beside this binary]
    #[arg(long, value_name = "FILE")]
    tape: Option<PathBuf>,
    /// Small sizes and few runs: does it work, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Runs of each measurement
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Measure only these
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<What>,
    /// Keep the days that queries are asked of in this folder, and take those that lie there
    #[arg(long, value_name = "DIR")]
    days: Option<PathBuf>,
    /// Of the queries, ask only those whose name has this in it
    #[arg(long, value_name = "PART", default_value = "")]
    question: String,
    /// Where inputs, logs and tables go; removed at the end [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// DBN file to Arrow batches, one core.
    Parse,
    /// DBN file to Kafka.
    Publish,
    /// Kafka to Delta.
    Store,
    /// File to embedded log to Delta.
    Whole,
    /// Verification of stored tables.
    Verify,
    /// Delta to files: JSON lines, Avro, DBN.
    Replay,
    /// Bytes of a stored trade.
    Size,
    /// Memory of the binary.
    Memory,
    /// Commits beside upkeep, and what it leaves.
    Upkeep,
    /// CPU time of the proof in storing.
    Proof,
    /// Queries over twenty days, beside DuckDB and Polars.
    Queries,
    /// A look-up in a history ten times as long.
    History,
    /// From a publisher's commit to an answer that has its records.
    Freshness,
    /// The same queries and sizes with other layouts of our files; only where it is named.
    Layout,
}

/// Sizes of a run.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Trades of the speed measurements.
    pub speed: u64,
    /// Trades of the stored file whose size is taken.
    pub file: u64,
    /// Trades of the memory measurements: few, then many.
    pub memory: [u64; 2],
    /// Trades of the day that upkeep is measured on.
    pub day: u64,
    /// Runs of each speed measurement.
    pub runs: usize,
}

const FULL: Sizes = Sizes { speed: 5_000_000, file: 1 << 20, memory: [1_000_000, 10_000_000], day: 5_000_000, runs: 5 };
const QUICK: Sizes = Sizes { speed: 150_000, file: 50_000, memory: [50_000, 200_000], day: 450_000, runs: 2 };

fn main() -> Result<()> {
    let args = Args::parse();
    let mut sizes = if args.quick { QUICK } else { FULL };
    sizes.runs = args.runs.unwrap_or(sizes.runs).max(1);
    let place = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
    .context("making a temporary folder")?;
    let mut report = Report::begin(sizes);
    measure(&args, sizes, place.path(), &mut report)?;
    if args.json {
        println!("{:#}", report.json())
    } else {
        print!("{}", report.text())
    }
    Ok(())
}

fn measure(args: &Args, sizes: Sizes, place: &std::path::Path, report: &mut Report) -> Result<()> {
    let wanted = |what| if args.only.is_empty() { what != What::Layout } else { args.only.contains(&what) };
    let speed = [What::Parse, What::Publish, What::Store, What::Whole, What::Verify, What::Replay];
    if speed.into_iter().any(wanted) {
        let file = place.join("speed.dbn.zst");
        input::write(&file, sizes.speed, input::SEED)?;
        let bench = speed::Bench { file, records: sizes.speed, runs: sizes.runs, place: place.to_path_buf() };
        if wanted(What::Parse) {
            report.add(bench.parse()?);
        }
        match &args.brokers {
            Some(brokers) => {
                if wanted(What::Publish) {
                    report.add(bench.publish(brokers)?);
                }
                if wanted(What::Store) {
                    report.add(bench.store(brokers)?);
                }
            }
            None => report.note("no --brokers: DBN → Kafka and Kafka → Delta were not measured"),
        }
        if wanted(What::Whole) {
            report.add(bench.whole()?);
        }
        if wanted(What::Verify) {
            report.add(bench.verify()?);
        }
        if wanted(What::Replay) {
            replay::measure(&bench)?.into_iter().for_each(|row| report.add(row));
        }
    }
    if [What::Upkeep, What::Proof].into_iter().any(wanted) {
        let file = place.join("upkeep.dbn.zst");
        input::write(&file, sizes.day, input::SEED)?;
        let bench = speed::Bench { file, records: sizes.day, runs: sizes.runs, place: place.to_path_buf() };
        let upkeep = upkeep::Upkeep::new(&bench, args.quick)?;
        if wanted(What::Upkeep) {
            upkeep.by_files()?.into_iter().for_each(|row| report.add(row));
            upkeep.beside_a_merge()?.into_iter().for_each(|row| report.add(row));
            upkeep.memory(&tape(args)?)?.into_iter().for_each(|row| report.add(row));
        }
        if wanted(What::Proof) {
            report.add(upkeep.proof()?);
        }
    }
    if wanted(What::Queries) {
        match &args.python {
            Some(python) => {
                let asked = if args.quick { queries::QUICK } else { queries::FULL };
                let (rows, notes) = queries::measure(place, args.days.as_deref(), asked.with_runs(sizes.runs), &args.question, python)?;
                rows.into_iter().for_each(|row| report.add(row));
                notes.iter().for_each(|note| report.note(note));
            }
            None => report.note("no --python: the queries were not measured"),
        }
    }
    if wanted(What::History) {
        let asked = if args.quick { queries::QUICK } else { history::SIZES };
        report.add(history::measure(place, asked.with_runs(sizes.runs))?);
    }
    if wanted(What::Freshness) {
        match &args.brokers {
            Some(brokers) => freshness::measure(&tape(args)?, brokers, place, args.quick)?.into_iter().for_each(|row| report.add(row)),
            None => report.note("no --brokers: freshness was not measured"),
        }
    }
    if wanted(What::Layout) {
        let asked = if args.quick { queries::QUICK } else { layouts::SIZES };
        print!("{}", layouts::measure(place, asked.with_runs(sizes.runs))?);
    }
    if wanted(What::Size) {
        let (row, by_column) = speed::size(place, sizes.file)?;
        report.add(row);
        report.note(&by_column);
    }
    if wanted(What::Memory) {
        for row in memory::measure(&tape(args)?, args.brokers.as_deref(), place, sizes.memory)? {
            report.add(row);
        }
    }
    Ok(())
}

/// The binary whose memory is watched.
fn tape(args: &Args) -> Result<PathBuf> {
    match &args.tape {
        Some(tape) => Ok(tape.clone()),
        None => Ok(std::env::current_exe().context("finding this binary")?.with_file_name("tape")),
    }
}
