//! The embedded log under power loss: whatever was acknowledged is there, wherever the power went, and whatever part of the rest the disk kept.
//!
//! The run is a real one, of a process of its own whose calls are recorded; then, for steps of it, the directory is made as a power loss at that step
//! would leave it, and opened. `TAPE_POWER_SEED` cuts again as a run that failed did (its threads may take other turns); `TAPE_SOAK=1` takes every step.

use crate::disk::{Dice, Rest, Step, Tape, record};
use crate::homes::{DEADLINE, from_start, read_all};
use crate::{records, state, text};
use eventlog::embedded::{Embedded, Options};
use eventlog::{Batch, Error, EventLog, StateTopic, murmur2};
use schemas::Family;
use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

/// Steps that a usual run takes, spread over all; as many again of those of the first opening, which has most that is new.
const CUTS: usize = 60;
/// Records of batch n: so many of each family.
const RECORDS: usize = 24;
const EXPIRED_RECORDS: usize = 2;

/// What the writer lives through: it opens the log, publishes so often, and closes it.
#[derive(Debug, Clone, Copy)]
struct Work {
    lives: u64,
    publishes: u64,
    record_bytes: usize,
    memtable_bytes: u64,
}

/// A few publishes fill what is kept in memory, so files are written and merged.
const USUAL: Work = Work { lives: 3, publishes: 16, record_bytes: 600, memtable_bytes: 64 << 10 };
/// Enough for journals that are full, sealed, and removed.
const LARGE: Work = Work { lives: 2, publishes: 110, record_bytes: 50_000, memtable_bytes: 16 << 20 };

const KEPT: Family = Family::Trades;
const EXPIRED: Family = Family::Status;

/// Not a test of its own: the process whose calls are recorded. What it says goes into a file on the same disk, which is in one order with the rest.
#[test]
fn power_child() {
    let Some(disk) = std::env::var_os("TAPE_POWER_DIR") else { return };
    let (disk, work) = (Path::new(&disk), if std::env::var_os("TAPE_POWER_LARGE").is_some() { LARGE } else { USUAL });
    let mut told = std::fs::File::create(disk.join("told")).unwrap();
    // A line is one step.
    let mut say = |line: String| told.write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut next = 0;
    for life in 0..work.lives {
        let log = open(&disk.join("home/log"), work).unwrap();
        say(format!("is {}", log.cluster_id().unwrap()));
        for _ in 0..work.publishes {
            log.writer("power").unwrap().publish(&batch(next, work)).unwrap();
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
fn open(dir: &Path, work: Work) -> Result<Embedded, String> {
    let options = Options { retention: Some(Duration::ZERO), memtable_bytes: work.memtable_bytes, ..Options::default() };
    let began = Instant::now();
    loop {
        match catch_unwind(AssertUnwindSafe(|| Embedded::open(dir, &options))) {
            Ok(Err(Error::Owned { .. })) if began.elapsed() < DEADLINE => std::thread::sleep(Duration::from_millis(5)),
            Ok(opened) => return opened.map_err(|e| e.to_string()),
            Err(_) => return Err("a panic".into()),
        }
    }
}

fn recorded(large: bool) -> Option<Tape> {
    let (disk, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "power::power_child", "--nocapture"]).env("TAPE_POWER_DIR", disk.path());
    if large {
        child.env("TAPE_POWER_LARGE", "1");
    }
    let (output, tape) = record(&mut child, disk.path(), beside.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    tape
}

/// Text that no compression makes small, a part of it for each record of a batch.
fn noise(bytes: usize) -> &'static str {
    static NOISE: OnceLock<String> = OnceLock::new();
    let all = NOISE.get_or_init(|| {
        let mut dice = Dice(7);
        (0..LARGE.record_bytes * RECORDS).map(|_| char::from(33 + dice.below(94) as u8)).collect()
    });
    &all[..bytes]
}

fn keys_and_values(n: u64, work: Work) -> impl Iterator<Item = (String, String)> {
    let parts = noise(work.record_bytes * RECORDS).as_bytes().chunks(work.record_bytes);
    let text = |part| std::str::from_utf8(part).unwrap();
    parts.enumerate().map(move |(record, part)| (format!("d/{}", record % 5), format!("{n} {record} {}", text(part))))
}

fn batch(n: u64, work: Work) -> Batch {
    let pairs: Vec<_> = keys_and_values(n, work).collect();
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    Batch {
        records: vec![records(KEPT, &pairs), records(EXPIRED, &pairs[..EXPIRED_RECORDS])],
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
fn check(dir: &Path, promised: &Promised, work: Work) -> Result<(), String> {
    let log = open(dir, work)?;
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
    log.writer("power").and_then(|mut writer| writer.publish(&batch(published, work))).map_err(|e| format!("it does not go on: {e}"))?;
    whole(&log, published + 1, promised.stored, work)?;
    drop(log);
    whole(&open(dir, work).map_err(|e| format!("opened again: {e}"))?, published + 1, promised.stored, work)
}

/// Every record of so many publishes is where it belongs, once.
fn whole(log: &Embedded, publishes: u64, stored: i64, work: Work) -> Result<(), String> {
    for (family, records) in [(KEPT, RECORDS), (EXPIRED, EXPIRED_RECORDS)] {
        let partitions = log.topic(family).unwrap().partitions;
        let mut wanted: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        for (key, value) in (0..publishes).flat_map(|n| keys_and_values(n, work).take(records)) {
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
fn lose_power(tape: &Tape, steps: usize, rest: Rest, dice: &mut Dice, work: Work) -> Result<(), String> {
    let disk = tempfile::tempdir().unwrap();
    tape.after_power_loss(steps, disk.path(), rest, dice);
    check(&disk.path().join("home/log"), &promised(&tape.said(steps, "told")), work)
}

/// Loses the power after each of these numbers of steps.
fn lose_power_at(tape: &Tape, cuts: Vec<usize>, seed: u64, dice: &mut Dice, work: Work) {
    let (mut lost, of) = (Vec::new(), cuts.len());
    for steps in cuts {
        let rest = [Rest::Nothing, Rest::Some, Rest::Some, Rest::Everything][dice.below(4) as usize];
        if let Err(why) = lose_power(tape, steps, rest, dice, work) {
            lost.push(format!("after step {steps} ({:?}), {rest:?} of the rest: {why}", tape.steps[steps.saturating_sub(1)]));
        }
    }
    println!("{of} power losses in {} steps", tape.steps.len());
    assert!(lost.is_empty(), "seed {seed}, {} of {of}:\n{}", lost.len(), lost.join("\n"));
}

fn seed() -> u64 {
    let seed = match std::env::var("TAPE_POWER_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64 & 0xffff_ffff,
    };
    println!("TAPE_POWER_SEED={seed}");
    seed
}

/// Given the lives of a writer, when the power goes at any step of them, then all that was acknowledged is there, once, and the log goes on.
#[test]
fn what_was_acknowledged_survives_power_loss_at_every_step() {
    let seed = seed();
    let Some(tape) = recorded(false) else { return };
    let mut dice = Dice(seed);
    let every = tape.steps.len();
    let first = (0..every).find(|steps| !tape.said(*steps, "told").is_empty()).expect("it said something");
    let long = std::env::var_os("TAPE_SOAK").is_some();
    let apart = if long { 1 } else { every.div_ceil(CUTS) };
    let mut cuts: Vec<usize> = (dice.below(apart as u64) as usize..=every).step_by(apart).collect();
    cuts.extend((0..if long { every } else { CUTS }).map(|_| dice.below(first as u64 + 1) as usize));
    lose_power_at(&tape, cuts, seed, &mut dice, USUAL);
}

/// Given a writer of so much that journals are sealed and removed, when the power goes around that, then the same. Takes minutes: `TAPE_SOAK=1`.
#[test]
fn what_was_acknowledged_survives_power_loss_while_journals_are_removed() {
    if std::env::var_os("TAPE_SOAK").is_none() {
        println!("left out: TAPE_SOAK=1 runs it");
        return;
    }
    let seed = seed();
    let Some(tape) = recorded(true) else { return };
    let mut dice = Dice(seed);
    let is_journal = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "jnl") && path.starts_with("home/log/log");
    let removed = |step: &Step| matches!(step, Step::Remove(path) if is_journal(path));
    let at_journals = |step: &Step| matches!(step, Step::Create(path, _) if is_journal(path)) || removed(step);
    assert!(tape.steps.iter().any(removed), "no journal was removed");
    let near: Vec<usize> =
        (1..tape.steps.len()).filter(|at| at_journals(&tape.steps[*at - 1])).flat_map(|at| [at, at + 1, at + 3]).collect();
    let anywhere = (0..12).map(|_| dice.below(tape.steps.len() as u64) as usize);
    let cuts = near.into_iter().chain(anywhere).map(|at| at.min(tape.steps.len())).collect();
    lose_power_at(&tape, cuts, seed, &mut dice, LARGE);
}

/// Given a disk that forgets to sync names, or content, then this test notices.
#[test]
fn what_is_not_synced_is_noticed() {
    for names in [true, false] {
        let Some(tape) = recorded(false) else { return };
        let tape = tape.without(|step| !matches!((step, names), (Step::SyncDirectory(_), true) | (Step::SyncFile(_), false)));
        let lost = lose_power(&tape, tape.steps.len(), Rest::Nothing, &mut Dice(1), USUAL);
        assert!(lost.is_err(), "nothing was synced of its {}", if names { "names" } else { "content" });
    }
}
