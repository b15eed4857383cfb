//! Peak memory of the real binary, watched from outside: `VmHWM` of its process, which the kernel counts.

use crate::report::Row;
use crate::{input, raw, speed};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Most memory that a command may take at any size of input.
const PEAK_MAX: u64 = 600_000_000;
/// Growth from the small input to the tenfold one that still counts as flat.
const GROWTH_MAX: f64 = 1.25;
/// The kernel keeps the peak: only what comes after the last look is missed.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Peaks of `tape ingest` and `tape store --once` on both logs: few records, then many.
pub fn measure(tape: &Path, brokers: Option<&str>, place: &Path, sizes: [u64; 2]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for brokers in [None, brokers].into_iter().take(if brokers.is_some() { 2 } else { 1 }) {
        let mut peaks = Vec::new();
        for records in sizes {
            peaks.push(peaks_of(tape, brokers, place, records)?);
        }
        let log = if brokers.is_some() { "Kafka" } else { "embedded log" };
        rows.push(row(&format!("memory of tape ingest, {log}"), sizes, peaks[0].0, peaks[1].0));
        rows.push(row(&format!("memory of tape store, {log}"), sizes, peaks[0].1, peaks[1].1));
    }
    Ok(rows)
}

pub fn row(what: &str, sizes: [u64; 2], few: u64, many: u64) -> Row {
    let ratio = many as f64 / few as f64;
    let show = |bytes: u64, records: u64| format!("{} MB at {} records", bytes / 1_000_000, records);
    Row {
        what: what.into(),
        figure: show(many, sizes[1]),
        yardstick: show(few, sizes[0]),
        ratio: Some(ratio),
        reach: "≤ 600 MB, flat".into(),
        met: few.max(many) <= PEAK_MAX && ratio <= GROWTH_MAX,
        runs: vec![],
        cpu: None,
    }
}

/// Peak bytes of ingest and of store.
fn peaks_of(tape: &Path, brokers: Option<&str>, place: &Path, records: u64) -> Result<(u64, u64)> {
    let file = place.join(format!("memory-{records}.dbn.zst"));
    if !file.exists() {
        input::write(&file, records, input::SEED)?;
    }
    let home = tempfile::tempdir_in(place)?;
    let prefix = speed::prefix(&format!("memory{records}"));
    let kafka = brokers.map(|brokers| Ok::<_, anyhow::Error>((brokers, speed::kafka(brokers, &prefix)?))).transpose()?;
    let command = |args: &[&str]| {
        let mut command = Command::new(tape);
        for name in ["TAPE_HOME", "TAPE_BROKERS", "TAPE_TABLES", "TAPE_PREFIX", "TAPE_REPLAYED", "TAPE_CONFIG"] {
            command.env_remove(name);
        }
        command.args(args).arg("--json").arg("--home").arg(home.path());
        if let Some(brokers) = brokers {
            command.args(["--brokers", brokers, "--prefix", &prefix]);
        }
        command
    };
    let path = file.to_str().context("the temporary folder has a plain name")?;
    let ingested = peak(command(&["ingest", path]))?;
    let stored = peak(command(&["store", "--once"]))?;
    ensure!(stored.1["rows"]["trades"] == records, "{} of {records} trades were stored", stored.1["rows"]["trades"]);
    if let Some((brokers, log)) = kafka {
        raw::remove_topics(brokers, &speed::topics(&log)?)?;
    }
    Ok((ingested.0, stored.0))
}

/// Runs a command to its end; its peak in bytes, and what it printed.
pub fn peak(mut command: Command) -> Result<(u64, serde_json::Value)> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
    let mut child = child.with_context(|| format!("starting {:?}: build it first, or name it with --tape", command.get_program()))?;
    let mut peak = 0;
    while child.try_wait()?.is_none() {
        peak = high_water_mark(&child).unwrap_or(0).max(peak);
        std::thread::sleep(LOOK_EVERY);
    }
    // The summary is a few lines: it fits the pipe.
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{command:?} ended with {}", output.status);
    Ok((peak, serde_json::from_slice(&output.stdout).with_context(|| format!("reading what {command:?} printed"))?))
}

fn high_water_mark(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
