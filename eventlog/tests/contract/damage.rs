//! A damaged embedded log: whatever was acknowledged is there, or the log is refused. It is never there in part.

use crate::homes::{DEADLINE, from_start, read_all};
use crate::{numbered, publish, state};
use eventlog::embedded::{Embedded, Options};
use eventlog::{Error, EventLog, Records, StateTopic};
use schemas::Family;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

const PUBLISHES: usize = 5;
/// Records of each publish, of each of two families.
const RECORDS: usize = 40;
/// Bits that are flipped, one at a time, spread over the journal.
const FLIPS: usize = 60;

/// A log that was closed in order, and the journal's bytes without the zeros that fjall makes room with.
struct Whole {
    dir: tempfile::TempDir,
    journal: Vec<u8>,
}

impl Whole {
    fn new() -> Whole {
        let dir = tempfile::tempdir().unwrap();
        let log = Embedded::open(dir.path(), &Options::default()).unwrap();
        for n in 0..PUBLISHES {
            let numbers = n * RECORDS..(n + 1) * RECORDS;
            let records = vec![numbered(Family::Trades, numbers.clone()), numbered(Family::Status, numbers)];
            let states = vec![state(StateTopic::Positions, "source", Some(&n.to_string()))];
            publish(&log, "a", records, states);
        }
        drop(log);
        let mut journal = std::fs::read(journal(dir.path())).unwrap();
        journal.truncate(journal.iter().rposition(|byte| *byte != 0).unwrap() + 1);
        Whole { dir, journal }
    }

    /// The log as it is when its journal has these bytes. A panic is an answer too: fjall asserts in a debug build what it checks by sum.
    fn with(&self, journal_bytes: &[u8]) -> (tempfile::TempDir, Result<Embedded, String>) {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(self.dir.path(), copy.path());
        std::fs::write(journal(copy.path()), journal_bytes).unwrap();
        let opened = open(copy.path());
        (copy, opened)
    }
}

fn open(dir: &Path) -> Result<Embedded, String> {
    let began = Instant::now();
    loop {
        match catch_unwind(AssertUnwindSafe(|| Embedded::open(dir, &Options::default()))) {
            Ok(Err(Error::Owned { .. })) if began.elapsed() < DEADLINE => std::thread::sleep(std::time::Duration::from_millis(5)),
            Ok(opened) => return opened.map_err(|e| e.to_string()),
            Err(_) => return Err("panic".to_string()),
        }
    }
}

fn journal(dir: &Path) -> PathBuf {
    dir.join("log/0.jnl")
}

fn mark(dir: &Path) -> PathBuf {
    dir.join("published.mark")
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            // The journal comes from the test.
            false if target.extension().is_some_and(|extension| extension == "jnl") => {}
            // Large files are never changed.
            false if entry.metadata().unwrap().len() > 1 << 20 => std::fs::hard_link(entry.path(), target).unwrap(),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// All records and the newest position are there.
fn assert_whole(log: &Embedded, what: &str) {
    for family in [Family::Trades, Family::Status] {
        assert_eq!(read_all(log, &from_start(log, family)).len(), PUBLISHES * RECORDS, "{what}: {family:?}");
    }
    assert_eq!(log.states(StateTopic::Positions).unwrap()["source"], (PUBLISHES - 1).to_string(), "{what}");
}

#[test]
fn a_flipped_bit_of_the_journal_loses_nothing_silently() {
    let whole = Whole::new();
    assert_whole(&whole.with(&whole.journal).1.unwrap(), "nothing flipped");
    let mut refused = 0;
    for flip in 0..FLIPS {
        let (at, bit) = (flip * whole.journal.len() / FLIPS + flip % 7, flip % 8);
        let mut journal = whole.journal.clone();
        let at = at.min(journal.len() - 1);
        journal[at] ^= 1 << bit;
        match whole.with(&journal).1 {
            Ok(log) => assert_whole(&log, &format!("bit {bit} of byte {at}")),
            Err(why) => {
                assert!(why == "panic" || why.contains("from a copy"), "{why}");
                refused += 1;
            }
        }
    }
    assert!(refused > FLIPS / 2, "only {refused} of {FLIPS} were refused");
}

#[test]
fn a_journal_that_was_cut_short_is_refused() {
    let whole = Whole::new();
    let mut named = 0;
    for part in 0..20 {
        let length = part * whole.journal.len() / 20;
        let (dir, opened) = whole.with(&whole.journal[..length]);
        let why = opened.err().unwrap_or_else(|| panic!("cut to {length} of {}", whole.journal.len()));
        if why.contains(&format!("of {PUBLISHES} publishes")) {
            let mark = mark(dir.path());
            assert!(why.contains(&dir.path().display().to_string()) && why.contains(&mark.display().to_string()), "{why}");
            named += 1;
            assert_eq!(std::fs::read(dir.path().join("journal.aside/0.jnl")).unwrap(), whole.journal[..length], "kept as it was");
            // It stays refused until somebody who knows says otherwise; then the log goes on from what it has.
            assert_eq!(open(dir.path()).err().unwrap(), why);
            std::fs::remove_file(mark).unwrap();
            let log = open(dir.path()).unwrap();
            let records = read_all(&log, &from_start(&log, Family::Status)).len();
            let positions = log.states(StateTopic::Positions).unwrap();
            let published = positions.get("source").map_or(0, |n| std::str::from_utf8(n).unwrap().parse::<usize>().unwrap() + 1);
            assert_eq!(records, published * RECORDS, "the position is that of the records");
            publish(&log, "a", vec![numbered(Family::Status, 0..1)], Vec::new());
            drop(log);
            open(dir.path()).unwrap();
        }
    }
    assert!(named > 15, "{named} of 20 name what is missing");
}

/// Given a log that has written files, so that its first journal is sealed and holds only what the files have not (ids, positions), then
/// damage to it is found, too, the second time as the first.
#[test]
fn damage_to_a_sealed_journal_loses_nothing_silently() {
    /// A mebibyte each: fjall seals a journal after 64 MB.
    const SOURCES: usize = 80;
    let dir = tempfile::tempdir().unwrap();
    let log = Embedded::open(dir.path(), &Options::default()).unwrap();
    let noise = (0..1u64 << 17).flat_map(|n| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(n | 1).to_le_bytes());
    let value: bytes::Bytes = noise.collect::<Vec<u8>>().into();
    for n in 0..SOURCES {
        let records = Records { family: Family::Status, keys: vec!["k".into()], values: vec![value.clone()] };
        publish(&log, "a", vec![records], vec![state(StateTopic::Positions, &n.to_string(), Some("done"))]);
    }
    drop(log);
    let first = std::fs::read(journal(dir.path())).unwrap();
    let last = journal(dir.path()).with_file_name("1.jnl");
    assert!(last.exists(), "the first journal is sealed");
    let end = first.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for (what, length, flipped) in [
        ("nothing", end, None),
        ("all is gone", 0, None),
        ("half is gone", end / 2, None),
        ("the last byte is gone", end - 1, None),
        ("the tag of the first batch", end, Some(0)),
        ("the tag of the first item", end, Some(13)),
        ("something within", end, Some(end / 2)),
    ] {
        let mut bytes = first[..length].to_vec();
        if let Some(at) = flipped {
            bytes[at] ^= 0x40;
        }
        let copy = tempfile::tempdir().unwrap();
        copy_folder(dir.path(), copy.path());
        std::fs::copy(&last, journal(copy.path()).with_file_name("1.jnl")).unwrap();
        std::fs::write(journal(copy.path()), bytes).unwrap();
        let mut refused = [false; 2];
        for refused in &mut refused {
            match open(copy.path()) {
                Ok(log) => {
                    assert_eq!(log.states(StateTopic::Positions).unwrap().len(), SOURCES, "{what}");
                    assert_eq!(read_all(&log, &from_start(&log, Family::Status)).len(), SOURCES, "{what}");
                }
                Err(why) => {
                    assert!(what != "nothing" && why.contains("from a copy"), "{what}: {why}");
                    *refused = true;
                }
            }
        }
        assert_eq!(refused[0], refused[1], "{what}");
    }
}

#[test]
fn a_mark_that_is_missing_torn_or_behind_is_no_damage() {
    let whole = Whole::new();
    let good = std::fs::read(mark(whole.dir.path())).unwrap();
    let behind = {
        let dir = tempfile::tempdir().unwrap();
        publish(&Embedded::open(dir.path(), &Options::default()).unwrap(), "a", vec![numbered(Family::Status, 0..1)], Vec::new());
        std::fs::read(mark(dir.path())).unwrap()
    };
    let mut torn = good.clone();
    torn[7] ^= 1;
    for bytes in [None, Some(Vec::new()), Some(torn), Some(good[..5].to_vec()), Some(behind)] {
        match &bytes {
            None => std::fs::remove_file(mark(whole.dir.path())).unwrap(),
            Some(bytes) => std::fs::write(mark(whole.dir.path()), bytes).unwrap(),
        }
        assert_whole(&whole.with(&whole.journal).1.unwrap(), &format!("{bytes:?}"));
        // Opening wrote it anew.
        let (dir, opened) = whole.with(&whole.journal);
        drop(opened.unwrap());
        assert_eq!(std::fs::read(mark(dir.path())).unwrap(), good);
        let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort_unstable();
        assert_eq!(names, ["log", "owner.pid", "published.mark"], "nothing is left aside");
    }
}
