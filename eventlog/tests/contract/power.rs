//! The embedded log under power loss: whatever was acknowledged is there, wherever the power went, and whatever part of the rest the disk kept.
//!
//! The run is a real one, of a process of its own whose calls are recorded; then, for steps of it, the directory is made as a power loss at that step
//! would leave it, and opened. `TAPE_POWER_SEED` repeats a run that failed; `TAPE_SOAK=1` takes every step.

use crate::disk::{Dice, Rest, Step, Tape, record};
use crate::homes::{DEADLINE, from_start, read_all};
use crate::{records, state, text};
use eventlog::embedded::{Embedded, Options};
use eventlog::{Batch, Error, EventLog, StateTopic, murmur2};
use schemas::Family;
use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

/// Steps that a usual run takes.
const CUTS: usize = 120;
/// What the writer lives through: it opens the log, publishes so often, and closes it.
const LIVES: u64 = 3;
const PUBLISHES: u64 = 16;
/// Records of batch n: so many of each family, of so many bytes that a few publishes fill what is kept in memory.
const RECORDS: usize = 24;
const RECORD_BYTES: usize = 600;
const MEMTABLE_BYTES: u64 = 64 << 10;
const KEPT: Family = Family::Trades;
const EXPIRED: Family = Family::Status;

/// Not a test of its own: the process whose calls are recorded. What it says goes into a file on the same disk, which is in one order with the rest.
#[test]
fn power_child() {
    let Some(disk) = std::env::var_os("TAPE_POWER_DIR") else { return };
    let disk = Path::new(&disk);
    let mut told = std::fs::File::create(disk.join("told")).unwrap();
    // A line is one step.
    let mut say = |line: String| told.write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut next = 0;
    for life in 0..LIVES {
        let log = open(&disk.join("home/log")).unwrap();
        say(format!("is {}", log.cluster_id().unwrap()));
        for _ in 0..PUBLISHES {
            log.writer("power").unwrap().publish(&batch(next)).unwrap();
            say(format!("acknowledged {next}"));
            next += 1;
        }
        // Records of one family have grown old: what is stored of them goes.
        if life > 0 {
            let high = log.watermarks(EXPIRED).unwrap()[0].high;
            say(format!("stored {}", high / 2));
            log.stored(EXPIRED, 0, high / 2).unwrap();
        }
    }
}

/// Opens a log that an earlier owner in this process may be just closing.
fn open(dir: &Path) -> Result<Embedded, String> {
    let options = Options { retention: Some(Duration::ZERO), memtable_bytes: MEMTABLE_BYTES, ..Options::default() };
    let began = Instant::now();
    loop {
        match catch_unwind(AssertUnwindSafe(|| Embedded::open(dir, &options))) {
            Ok(Err(Error::Owned { .. })) if began.elapsed() < DEADLINE => std::thread::sleep(Duration::from_millis(5)),
            Ok(opened) => return opened.map_err(|e| e.to_string()),
            Err(_) => return Err("a panic".into()),
        }
    }
}

fn recorded() -> Option<Tape> {
    let (disk, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "power::power_child", "--nocapture"]).env("TAPE_POWER_DIR", disk.path());
    let (output, tape) = record(&mut child, disk.path(), beside.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    tape
}

fn value(n: u64, record: usize) -> String {
    let mut dice = Dice(n * 1000 + record as u64);
    // Bytes that no compression makes small.
    let noise: String = (0..RECORD_BYTES / 16).map(|_| format!("{:016x}", dice.roll())).collect();
    format!("{n} {record} {noise}")
}

fn keys_and_values(n: u64) -> Vec<(String, String)> {
    (0..RECORDS).map(|record| (format!("d/{}", record % 5), value(n, record))).collect()
}

fn batch(n: u64) -> Batch {
    let pairs = keys_and_values(n);
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    Batch {
        records: vec![records(KEPT, &pairs), records(EXPIRED, &pairs[..2])],
        states: vec![state(StateTopic::Positions, "power", Some(&n.to_string()))],
        ..Batch::default()
    }
}

/// What the writer was told before the power went.
#[derive(Debug, Default)]
struct Promised {
    cluster_id: Option<String>,
    publishes: u64,
    /// Records of the expired family before it may be gone.
    stored: i64,
}

fn promised(told: &str) -> Promised {
    let mut promised = Promised::default();
    for line in told.lines() {
        match line.split_once(' ') {
            Some(("is", id)) => promised.cluster_id = Some(id.to_string()),
            Some(("acknowledged", n)) => promised.publishes = n.parse::<u64>().unwrap() + 1,
            Some(("stored", offset)) => promised.stored = offset.parse().unwrap(),
            _ => panic!("{line}"),
        }
    }
    promised
}

/// What was promised is there, nothing else is, and the log goes on.
fn check(dir: &Path, promised: &Promised) -> Result<(), String> {
    let log = open(dir)?;
    if promised.cluster_id.as_ref().is_some_and(|id| *id != log.cluster_id().unwrap()) {
        return Err("it is another log".into());
    }
    let position =
        log.states(StateTopic::Positions).map_err(|e| e.to_string())?.get("power").map(|n| text(&Some(n.clone())).parse::<u64>().unwrap());
    let published = position.map_or(0, |n| n + 1);
    // A publish whose answer was on its way may be there or not.
    if published != promised.publishes && published != promised.publishes + 1 {
        return Err(format!("{} publishes were acknowledged, {published} are there", promised.publishes));
    }
    log.writer("power").and_then(|mut writer| writer.publish(&batch(published))).map_err(|e| format!("it does not go on: {e}"))?;
    whole(&log, published + 1, promised.stored)?;
    drop(log);
    whole(&open(dir).map_err(|e| format!("opened again: {e}"))?, published + 1, promised.stored)
}

/// Every record of so many publishes is where it belongs, once.
fn whole(log: &Embedded, publishes: u64, stored: i64) -> Result<(), String> {
    for (family, records) in [(KEPT, RECORDS), (EXPIRED, 2)] {
        let partitions = log.topic(family).unwrap().partitions;
        let mut wanted: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        for (key, value) in (0..publishes).flat_map(|n| keys_and_values(n).into_iter().take(records)) {
            wanted.entry(murmur2::partition(key.as_bytes(), partitions)).or_default().push(value);
        }
        let mut starts = from_start(log, family);
        for (start, marks) in starts.iter_mut().zip(log.watermarks(family).unwrap()) {
            start.offset = marks.low;
            if marks.low > if family == EXPIRED { stored } else { 0 } {
                return Err(format!("{family:?} begins at {}, stored was {stored}", marks.low));
            }
        }
        let mut there: BTreeMap<i32, Vec<(i64, String)>> = BTreeMap::new();
        for event in catch_unwind(AssertUnwindSafe(|| read_all(log, &starts))).map_err(|_| "it cannot be read")? {
            there.entry(event.partition).or_default().push((event.offset, text(&event.value).to_string()));
        }
        for (partition, wanted) in wanted {
            let low = starts[partition as usize].offset as usize;
            let wanted: Vec<(i64, String)> = (0..).zip(wanted).skip(low).collect();
            if there.get(&partition) != Some(&wanted) {
                return Err(format!(
                    "{family:?}[{partition}] has {:?} records, not the {} that were published",
                    there.get(&partition).map(Vec::len),
                    wanted.len()
                ));
            }
        }
    }
    Ok(())
}

/// Opens what the power left after the first steps.
fn lose_power(tape: &Tape, steps: usize, rest: Rest, dice: &mut Dice) -> Result<(), String> {
    let disk = tempfile::tempdir().unwrap();
    tape.after_power_loss(steps, disk.path(), rest, dice);
    check(&disk.path().join("home/log"), &promised(&tape.said(steps, "told")))
}

/// Given the lives of a writer, when the power goes at any step of them, then all that was acknowledged is there, once, and the log goes on.
#[test]
fn what_was_acknowledged_survives_power_loss_at_every_step() {
    let seed = match std::env::var("TAPE_POWER_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64 & 0xffff_ffff,
    };
    println!("TAPE_POWER_SEED={seed}");
    let Some(tape) = recorded() else { return };
    let mut dice = Dice(seed);
    let apart = if std::env::var_os("TAPE_SOAK").is_some() { 1 } else { tape.steps.len().div_ceil(CUTS) };
    let (mut lost, mut cuts) = (Vec::new(), 0);
    for steps in (dice.below(apart as u64) as usize..=tape.steps.len()).step_by(apart) {
        let rest = [Rest::Nothing, Rest::Some, Rest::Some, Rest::Everything][dice.below(4) as usize];
        cuts += 1;
        if let Err(why) = lose_power(&tape, steps, rest, &mut dice) {
            lost.push(format!("after step {steps} ({:?}), {rest:?} of the rest: {why}", tape.steps[steps.saturating_sub(1)]));
        }
    }
    println!("{cuts} of {} steps", tape.steps.len());
    assert!(lost.is_empty(), "seed {seed}, {} of {cuts}:\n{}", lost.len(), lost.join("\n"));
}

/// Given a disk that forgets to sync files, or directories, then this test notices.
#[test]
fn what_is_not_synced_is_noticed() {
    let Some(tape) = recorded() else { return };
    let steps = tape.steps.len();
    let tape = tape.without(|step| !matches!(step, Step::SyncDirectory(_)));
    assert!(lose_power(&tape, tape.steps.len(), Rest::Nothing, &mut Dice(1)).is_err(), "no name was synced, of {steps} steps");
    let tape = recorded().unwrap().without(|step| !matches!(step, Step::SyncFile(_)));
    assert!(lose_power(&tape, tape.steps.len(), Rest::Nothing, &mut Dice(1)).is_err(), "no content was synced, of {steps} steps");
}
