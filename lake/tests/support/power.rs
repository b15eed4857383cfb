//! A disk that remembers everything that was done to it and what of that was synced, and directories as a power loss would leave them.
//!
//! What is synced stays. Of the rest any part may be there: a name that was given, taken away or changed since its directory was last synced, or
//! not; of a file that was being written any beginning. Which part, a seed decides.

use super::dice::Dice;
use lake::{Disk, LocalDisk};
use object_store::PutPayload;
use std::collections::{BTreeMap, HashMap};
use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What a name stands for: a file by its number, or a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    File(usize),
    Directory,
}

/// What was done, in order.
#[derive(Debug, Clone)]
pub enum Step {
    /// A file was written and synced; its name was not.
    Write(PathBuf, usize),
    /// Names that changed together: all of them or none.
    Names(Vec<(PathBuf, Option<Node>)>),
    SyncDirectory(PathBuf),
    /// Something was promised to whoever asked.
    Promised(usize),
}

/// Everything that was done.
#[derive(Debug, Default, Clone)]
pub struct Tape {
    pub steps: Vec<Step>,
    contents: Vec<Vec<u8>>,
    now: HashMap<PathBuf, Node>,
}

/// The disk, and the process that uses it: killed when it has done so many steps.
#[derive(Debug)]
pub struct Recorded {
    pub tape: Arc<Mutex<Tape>>,
    pub killed_after: usize,
    /// A disk whose directories are never synced: to see that the test would notice.
    pub forgets_names: bool,
}

impl Recorded {
    pub fn new(tape: &Arc<Mutex<Tape>>) -> Recorded {
        Recorded { tape: tape.clone(), killed_after: usize::MAX, forgets_names: false }
    }

    fn step(&self, act: impl FnOnce() -> Result<()>, note: impl FnOnce(&mut Tape)) -> Result<()> {
        let mut tape = self.tape.lock().unwrap();
        if tape.steps.len() >= self.killed_after {
            return Err(Error::other("the process was killed"));
        }
        act()?;
        note(&mut tape);
        Ok(())
    }
}

impl Disk for Recorded {
    fn write(&self, path: &Path, payload: &PutPayload) -> Result<()> {
        self.step(
            || LocalDisk.write(path, payload),
            |tape| {
                tape.contents.push(payload.iter().flat_map(|part| part.to_vec()).collect());
                let number = tape.contents.len() - 1;
                tape.now.insert(path.to_path_buf(), Node::File(number));
                tape.steps.push(Step::Write(path.to_path_buf(), number));
            },
        )
    }

    fn append(&self, path: &Path, payload: &PutPayload) -> Result<()> {
        self.step(
            || LocalDisk.append(path, payload),
            |tape| {
                let Some(Node::File(before)) = tape.now.get(path).copied() else { panic!("{path:?} was made before") };
                let added = payload.iter().flat_map(|part| part.to_vec());
                let longer = tape.contents[before].iter().copied().chain(added).collect();
                tape.contents.push(longer);
                let number = tape.contents.len() - 1;
                tape.now.insert(path.to_path_buf(), Node::File(number));
                tape.steps.push(Step::Write(path.to_path_buf(), number));
            },
        )
    }

    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.step(
            || LocalDisk.link(from, to),
            |tape| {
                let node = tape.now[from];
                tape.now.insert(to.to_path_buf(), node);
                tape.steps.push(Step::Names(vec![(to.to_path_buf(), Some(node))]));
            },
        )
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.step(
            || LocalDisk.rename(from, to),
            |tape| {
                let node = tape.now.remove(from).unwrap();
                tape.now.insert(to.to_path_buf(), node);
                tape.steps.push(Step::Names(vec![(to.to_path_buf(), Some(node)), (from.to_path_buf(), None)]));
            },
        )
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.step(
            || LocalDisk.remove(path),
            |tape| {
                tape.now.remove(path);
                tape.steps.push(Step::Names(vec![(path.to_path_buf(), None)]));
            },
        )
    }

    fn create_directory(&self, path: &Path) -> Result<()> {
        self.step(
            || LocalDisk.create_directory(path),
            |tape| {
                tape.now.insert(path.to_path_buf(), Node::Directory);
                tape.steps.push(Step::Names(vec![(path.to_path_buf(), Some(Node::Directory))]));
            },
        )
    }

    fn sync_directory(&self, path: &Path) -> Result<()> {
        match self.forgets_names {
            true => Ok(()),
            false => self.step(|| LocalDisk.sync_directory(path), |tape| tape.steps.push(Step::SyncDirectory(path.to_path_buf()))),
        }
    }
}

impl Tape {
    pub fn promise(&mut self, number: usize) {
        self.steps.push(Step::Promised(number));
    }

    /// The last promise among the first steps.
    pub fn promised(&self, steps: usize) -> Option<usize> {
        self.steps[..steps].iter().rev().find_map(|step| if let Step::Promised(number) = step { Some(*number) } else { None })
    }

    /// Makes `to` what `from` would be, had the power gone after the first `steps` steps: everything that was synced, and what `lost` leaves of
    /// the rest (`lost(dice)`: is this one gone?).
    pub fn after_power_loss(&self, steps: usize, from: &Path, to: &Path, dice: &mut Dice, lost: impl Fn(&mut Dice) -> bool) {
        let mut durable: BTreeMap<PathBuf, Node> = BTreeMap::new();
        // Changes of names whose directory was not synced since, in their order.
        let mut pending: Vec<&[(PathBuf, Option<Node>)]> = Vec::new();
        let mut written: Vec<Vec<(PathBuf, Option<Node>)>> = Vec::new();
        for step in &self.steps[..steps] {
            if let Step::Write(path, number) = step {
                written.push(vec![(path.clone(), Some(Node::File(*number)))]);
            }
        }
        let mut written = written.iter();
        for step in &self.steps[..steps] {
            match step {
                Step::Write(..) => pending.push(written.next().unwrap()),
                Step::Names(names) => pending.push(names),
                Step::SyncDirectory(directory) => {
                    // All names of one change are in one directory.
                    let (synced, rest): (Vec<_>, Vec<_>) =
                        pending.iter().copied().partition(|names| names[0].0.parent() == Some(directory));
                    synced.into_iter().for_each(|names| apply(&mut durable, names));
                    pending = rest;
                }
                Step::Promised(_) => {}
            }
        }
        for names in pending {
            if !lost(dice) {
                apply(&mut durable, names);
            }
        }
        let torn = match self.steps.get(steps) {
            Some(Step::Write(path, number)) if !lost(dice) => Some((path, *number)),
            _ => None,
        };
        std::fs::create_dir_all(to).unwrap();
        for (path, node) in &durable {
            let Ok(below) = path.strip_prefix(from) else { continue };
            let place = to.join(below);
            // What lies in a directory that is gone is gone with it.
            if !place.parent().unwrap().is_dir() {
                continue;
            }
            match node {
                Node::Directory => std::fs::create_dir(place).unwrap(),
                Node::File(number) => std::fs::write(place, &self.contents[*number]).unwrap(),
            }
        }
        if let Some((path, number)) = torn
            && let Ok(below) = path.strip_prefix(from)
            && to.join(below).parent().unwrap().is_dir()
        {
            let content = &self.contents[number];
            let length = dice.below(content.len() as u64 + 1) as usize;
            std::fs::write(to.join(below), &content[..length]).unwrap();
        }
    }
}

fn apply(durable: &mut BTreeMap<PathBuf, Node>, names: &[(PathBuf, Option<Node>)]) {
    for (path, node) in names {
        match node {
            Some(node) => drop(durable.insert(path.clone(), *node)),
            None => drop(durable.remove(path)),
        }
    }
}
