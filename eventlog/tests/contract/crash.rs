//! The embedded log under kill -9: whatever was acknowledged is there, and nothing is there by half.

use crate::homes::{DEADLINE, from_start, open_embedded, read_all};
use crate::{records, state};
use eventlog::{Batch, EventLog, StateTopic};
use schemas::Family;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: u64 = 6;
/// Records of batch n: so many of each family.
const TRADES: usize = 20;
const STATUS: usize = 3;

/// Not a test of its own: the process that is killed. It publishes until then, and says what was acknowledged.
#[test]
fn crash_child() {
    let Some(dir) = std::env::var_os("TAPE_CRASH_DIR") else { return };
    let log = open_embedded(Path::new(&dir));
    let mut writer = log.writer("crash").unwrap();
    let began = Instant::now();
    let mut n = last(&log).map_or(0, |last| last + 1);
    while began.elapsed() < DEADLINE {
        writer.publish(&batch(n)).unwrap();
        println!("\nacknowledged {n}");
        n += 1;
    }
}

#[test]
fn what_was_acknowledged_before_a_kill_is_there_whole() {
    let dir = tempfile::tempdir().unwrap();
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos() as u64;
    for round in 0..ROUNDS {
        let wait = Duration::from_millis(20 + (seed + round * 7919) % 400);
        let acknowledged = run_and_kill(dir.path(), wait);
        let log = open_embedded(dir.path());
        let last = last(&log);
        // The last publish may have reached the disk without its answer reaching us.
        assert!(last >= acknowledged, "seed {seed}: {acknowledged:?} was acknowledged, {last:?} is there");
        assert!(
            last.unwrap_or(0) <= acknowledged.map_or(0, |n| n + 1),
            "seed {seed}: {last:?} is there, only {acknowledged:?} was published"
        );
        for (family, count) in [(Family::Trades, TRADES), (Family::Status, STATUS)] {
            let mut batches: BTreeMap<u64, usize> = BTreeMap::new();
            for event in read_all(&log, &from_start(&log, family)) {
                *batches.entry(crate::text(&event.value).parse().unwrap()).or_default() += 1;
            }
            let whole = (0..last.map_or(0, |last| last + 1)).map(|n| (n, count)).collect();
            assert_eq!(batches, whole, "seed {seed}, {family:?}");
        }
    }
}

fn run_and_kill(dir: &Path, wait: Duration) -> Option<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::crash_child", "--nocapture"])
        .env("TAPE_CRASH_DIR", dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let number = |line: String| line.strip_prefix("acknowledged ").and_then(|n| n.parse().ok());
    let mut acknowledged: Option<u64> = lines.by_ref().find_map(number);
    assert!(acknowledged.is_some(), "the child published nothing");
    std::thread::scope(|scope| {
        let killing = scope.spawn(|| {
            std::thread::sleep(wait);
            child.kill().unwrap();
            child.wait().unwrap();
        });
        acknowledged = lines.filter_map(number).last().or(acknowledged);
        killing.join().unwrap();
    });
    acknowledged
}

fn last(log: &dyn EventLog) -> Option<u64> {
    let states = log.states(StateTopic::Positions).unwrap();
    states.get("crash").map(|last| std::str::from_utf8(last).unwrap().parse().unwrap())
}

fn batch(n: u64) -> Batch {
    let n = n.to_string();
    let keys: Vec<String> = (0..TRADES).map(|key| key.to_string()).collect();
    let trades: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), n.as_str())).collect();
    Batch {
        records: vec![records(Family::Trades, &trades), records(Family::Status, &trades[..STATUS])],
        states: vec![state(StateTopic::Positions, "crash", Some(&n))],
        ..Batch::default()
    }
}
