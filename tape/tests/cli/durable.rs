//! What the binary asks of the operating system, seen from outside: every name that it gives is synced before it ends well.

use crate::feed;
use crate::run::Home;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What may go with the power: it says who runs, or can be made again from the rest.
const MAY_GO: [&str; 4] = ["owner.pid", "published.mark", "journal.aside", "lock"];

/// Given commands that publish, store and merge into a new home, when each has ended, then a power loss takes none of the names that it gave.
#[test]
fn every_name_is_synced() {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("left out: strace is not installed");
        return;
    }
    let home = Home::embedded();
    let place = home.path("new/home");
    let file = home.path("trades.csv");
    for part in 1..=5 {
        feed::write(&file, &[feed::HEADER.as_bytes(), &feed::csv(0, part * 100)].concat());
        let left = [names_left(&home, &place, &["ingest", file.to_str().expect("UTF-8")]), names_left(&home, &place, &["store", "--once"])];
        assert_eq!(left, [BTreeSet::new(), BTreeSet::new()], "after part {part}");
    }
    assert_eq!(names_left(&home, &place, &["upkeep"]), BTreeSet::new());
}

/// Runs a command under strace; gives the names below the test's folder that it gave and nobody synced.
fn names_left(home: &Home, place: &Path, args: &[&str]) -> BTreeSet<PathBuf> {
    let trace = home.path("trace");
    let calls = "trace=openat,creat,mkdir,mkdirat,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat";
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-z", "-e", calls, "-o"]).arg(&trace).arg(env!("CARGO_BIN_EXE_tape"));
    let output = strace.args(args).arg("--home").arg(place).output().expect("strace runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let trace = std::fs::read_to_string(&trace).expect("the trace was written");
    assert!(trace.contains("fsync("), "strace saw nothing");
    let mut left: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
    for line in trace.lines() {
        let call = line.split_once(' ').map_or("", |(_, rest)| rest.trim_start());
        let words: Vec<&str> = call.split('"').skip(1).step_by(2).collect();
        let call_name = call.split('(').next().unwrap_or_default();
        if matches!(call_name, "rename" | "renameat" | "renameat2" | "unlink" | "unlinkat") {
            let (folder, gone) = named(words[0]);
            left.entry(folder).or_default().remove(&gone);
        }
        match call_name {
            "openat" if !call.contains("O_CREAT") => {}
            "openat" | "creat" | "mkdir" | "mkdirat" | "link" | "linkat" | "rename" | "renameat" | "renameat2" => {
                let (folder, name) = named(words[words.len() - 1]);
                left.entry(folder).or_default().insert(name);
            }
            "fsync" | "fdatasync" => {
                let synced = call.split_once('<').and_then(|(_, rest)| rest.split_once('>')).expect("strace names files").0;
                left.remove(Path::new(synced));
            }
            _ => {}
        }
    }
    let below = place.parent().expect("a folder above");
    let may_go = |path: &Path| MAY_GO.iter().any(|name| path.to_string_lossy().contains(&format!("/{name}")));
    left.into_values().flatten().filter(|path| path.starts_with(below) && !may_go(path)).collect()
}

/// A name, and the folder that it is in.
fn named(path: &str) -> (PathBuf, PathBuf) {
    let path = std::path::absolute(path).expect("a path");
    (path.parent().expect("a folder above").to_path_buf(), path)
}
