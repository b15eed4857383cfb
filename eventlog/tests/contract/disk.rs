//! What a process did to a directory (`recorder.c`), and that directory as a power loss would leave it.
//!
//! What is synced stays. Of the rest any part may be there: a name that was given or taken away since its directory was last synced, or not; of what
//! was written to a file since it was last synced nothing, all, a beginning, or some pages. Which part, a seed decides.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Output};

/// What a disk writes whole.
const PAGE_BYTES: u64 = 4096;

/// A small random generator: a failing case is told by its seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }
}

/// The number of a file or a directory; the recorded directory itself is 0.
type Node = usize;
const TOP: Node = 0;

/// What was done, in order. Names are below the recorded directory.
#[derive(Debug, Clone)]
pub enum Step {
    Create(PathBuf, Node),
    MakeDirectory(PathBuf, Node),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Remove(PathBuf),
    Write { file: Node, at: u64, bytes: Range<usize> },
    Resize { file: Node, bytes: u64 },
    SyncFile(Node),
    SyncDirectory(PathBuf),
}

/// What of the steps that were not synced is there after the power came back.
#[derive(Debug, Clone, Copy)]
pub enum Rest {
    Nothing,
    Everything,
    Some,
}

/// Everything that a process did below one directory.
pub struct Tape {
    pub steps: Vec<Step>,
    record: Vec<u8>,
}

/// The preloaded recorder, compiled into `place`.
pub fn recorder(place: &Path) -> PathBuf {
    let (source, library) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract/recorder.c"), place.join("recorder.so"));
    let done = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-lpthread").output();
    let done = done.expect("a C compiler built the libraries, too");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    library
}

/// Runs a command to its end and records what it does below `disk`, which is empty. `None`, said aloud, where the kernel does not allow it.
pub fn record(command: &mut Command, disk: &Path, beside: &Path) -> (Output, Option<Tape>) {
    let (disk, record) = (disk.canonicalize().unwrap(), beside.join("record"));
    command.env("LD_PRELOAD", recorder(beside)).env("TAPE_TEST_DISK", &disk).env("TAPE_TEST_RECORD", &record);
    let output = command.output().unwrap();
    let record = std::fs::read(record).expect("the recorder was preloaded");
    if record.is_empty() {
        println!("skipped: this kernel hands no calls over (seccomp)");
        return (output, None);
    }
    (output, Some(Tape::of(record, &disk)))
}

impl Tape {
    /// Reads what the recorder wrote: six numbers, two names and the bytes of each step.
    fn of(record: Vec<u8>, disk: &Path) -> Tape {
        let (mut steps, mut nodes, mut made, mut at) = (Vec::new(), HashMap::new(), TOP, 0);
        while at < record.len() {
            let number = |n: usize| u64::from_ne_bytes(record[at + n * 8..at + n * 8 + 8].try_into().unwrap());
            let [kind, inode, place, bytes, name, other] = std::array::from_fn(number);
            let names = at + 48;
            let path = |begin: usize, bytes: u64| {
                let text = std::str::from_utf8(&record[begin..begin + bytes as usize]).unwrap();
                Path::new(text).strip_prefix(disk).unwrap_or(Path::new("")).to_path_buf()
            };
            let (first, second) = (path(names, name), path(names + name as usize, other));
            let data = names + (name + other) as usize;
            // An inode that is free is given again.
            if matches!(kind as u8, b'c' | b'm') {
                made += 1;
                nodes.insert(inode, made);
            }
            let file = || nodes[&inode];
            steps.extend(match kind as u8 {
                b'b' => None,
                b'c' => Some(Step::Create(first, made)),
                b'm' => Some(Step::MakeDirectory(first, made)),
                b'r' => Some(Step::Rename(first, second)),
                b'l' => Some(Step::Link(first, second)),
                b'u' => Some(Step::Remove(first)),
                b'w' => Some(Step::Write { file: file(), at: place, bytes: data..data + bytes as usize }),
                b't' => Some(Step::Resize { file: file(), bytes: place }),
                b's' => Some(Step::SyncFile(file())),
                b'D' => Some(Step::SyncDirectory(first)),
                other => panic!("a step of kind {other}"),
            });
            at = data + bytes as usize;
        }
        Tape { steps, record }
    }

    /// Without the steps that `keep` does not keep: a disk that forgets.
    pub fn without(mut self, keep: impl Fn(&Step) -> bool) -> Tape {
        self.steps.retain(keep);
        self
    }

    /// All that the first steps wrote to the file of that name, synced or not: what the process said of itself.
    pub fn said(&self, steps: usize, name: &str) -> String {
        let steps = &self.steps[..steps];
        let made = steps
            .iter()
            .find_map(|step| if let Step::Create(path, node) = step { (path == Path::new(name)).then_some(*node) } else { None });
        let parts = steps.iter().filter_map(|step| match step {
            Step::Write { file, bytes, .. } if Some(*file) == made => Some(&self.record[bytes.clone()]),
            _ => None,
        });
        String::from_utf8(parts.flatten().copied().collect()).unwrap()
    }

    /// Makes of the empty directory `to` what the recorded one would be, had the power gone after the first steps.
    pub fn after_power_loss(&self, steps: usize, to: &Path, rest: Rest, dice: &mut Dice) {
        let mut disk = Disk::default();
        self.steps[..steps].iter().enumerate().for_each(|(at, step)| disk.take(at, step));
        disk.lose_names(rest, dice);
        self.lay(&disk, TOP, to, rest, dice, &mut HashMap::new());
    }

    fn lay(&self, disk: &Disk, directory: Node, to: &Path, rest: Rest, dice: &mut Dice, laid: &mut HashMap<Node, PathBuf>) {
        for (name, node) in disk.durable.get(&directory).into_iter().flatten() {
            let place = to.join(name);
            match disk.files.get(node) {
                None => {
                    std::fs::create_dir(&place).unwrap();
                    self.lay(disk, *node, &place, rest, dice, laid);
                }
                Some(_) if laid.contains_key(node) => std::fs::hard_link(&laid[node], &place).unwrap(),
                Some(file) => {
                    self.fill(file, &place, rest, dice);
                    laid.insert(*node, place);
                }
            }
        }
    }

    fn fill(&self, content: &Content, place: &Path, rest: Rest, dice: &mut Dice) {
        let file = File::create_new(place).unwrap();
        let (synced, later) = content.steps.split_at(content.synced);
        synced.iter().for_each(|step| self.redo(&file, *step, u64::MAX, |_| true));
        let some = match rest {
            Rest::Nothing => 0,
            Rest::Everything => 1,
            Rest::Some => dice.below(4),
        };
        match some {
            0 => {}
            1 => later.iter().for_each(|step| self.redo(&file, *step, u64::MAX, |_| true)),
            // A beginning, the last step of it torn.
            2 if !later.is_empty() => {
                let whole = dice.below(later.len() as u64) as usize;
                later[..whole].iter().for_each(|step| self.redo(&file, *step, u64::MAX, |_| true));
                self.redo(&file, later[whole], dice.roll(), |_| true);
            }
            _ => later.iter().for_each(|step| self.redo(&file, *step, u64::MAX, |_| dice.below(2) == 0)),
        }
    }

    /// Does a step to a file again: of what is written the pages that are kept, or, torn, as much as `torn` leaves of it.
    fn redo(&self, file: &File, step: usize, torn: u64, mut keep: impl FnMut(u64) -> bool) {
        match &self.steps[step] {
            Step::Resize { bytes, .. } => file.set_len(*bytes).unwrap(),
            Step::Write { at, bytes, .. } => {
                let mut bytes = self.record[bytes.clone()].to_vec();
                if torn != u64::MAX {
                    bytes.truncate((torn % bytes.len() as u64) as usize);
                }
                let (mut at, mut bytes) = (*at, bytes.as_slice());
                while !bytes.is_empty() {
                    let (page, later) = bytes.split_at(bytes.len().min((PAGE_BYTES - at % PAGE_BYTES) as usize));
                    if keep(at) {
                        file.write_all_at(page, at).unwrap();
                    }
                    (at, bytes) = (at + page.len() as u64, later);
                }
            }
            other => panic!("{other:?} changes no content"),
        }
    }
}

/// Names of one directory that changed together.
type Change = (Node, Vec<(String, Option<Node>)>);

/// What is where after some steps, and what of it is durable.
#[derive(Default)]
struct Disk {
    now: HashMap<Node, BTreeMap<String, Node>>,
    durable: HashMap<Node, BTreeMap<String, Node>>,
    /// Changes of names whose directory was not synced since, in their order.
    pending: Vec<Change>,
    files: HashMap<Node, Content>,
}

/// The steps that wrote a file, and how many of them are synced.
#[derive(Default)]
struct Content {
    steps: Vec<usize>,
    synced: usize,
}

impl Disk {
    fn take(&mut self, at: usize, step: &Step) {
        match step {
            Step::Create(path, node) => {
                self.files.insert(*node, Content::default());
                self.change(&[(path, Some(*node))]);
            }
            Step::MakeDirectory(path, node) => self.change(&[(path, Some(*node))]),
            Step::Rename(from, to) => self.change(&[(to, Some(self.find(from))), (from, None)]),
            Step::Link(from, to) => self.change(&[(to, Some(self.find(from)))]),
            Step::Remove(path) => self.change(&[(path, None)]),
            Step::Write { file, .. } | Step::Resize { file, .. } => self.files.get_mut(file).unwrap().steps.push(at),
            Step::SyncFile(file) => {
                let content = self.files.get_mut(file).unwrap();
                content.synced = content.steps.len();
            }
            Step::SyncDirectory(path) => {
                let directory = self.find(path);
                let (synced, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending).into_iter().partition(|(of, _)| *of == directory);
                synced.iter().for_each(|change| apply(&mut self.durable, change));
                self.pending = rest;
            }
        }
    }

    /// Names that change together are in one directory.
    fn change(&mut self, names: &[(&PathBuf, Option<Node>)]) {
        let folder = names[0].0.parent().unwrap();
        assert!(names.iter().all(|(path, _)| path.parent() == Some(folder)), "{names:?} are in two directories");
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_string();
        let change = (self.find(folder), names.iter().map(|(path, node)| (name(path), *node)).collect());
        apply(&mut self.now, &change);
        self.pending.push(change);
    }

    fn find(&self, path: &Path) -> Node {
        path.components().fold(TOP, |directory, part| match part {
            Component::Normal(name) => self.now[&directory][name.to_str().unwrap()],
            other => panic!("{other:?} in {path:?}"),
        })
    }

    fn lose_names(&mut self, rest: Rest, dice: &mut Dice) {
        for change in &self.pending {
            let there = match rest {
                Rest::Nothing => false,
                Rest::Everything => true,
                Rest::Some => dice.below(2) == 0,
            };
            if there {
                apply(&mut self.durable, change);
            }
        }
    }
}

fn apply(names: &mut HashMap<Node, BTreeMap<String, Node>>, (directory, changes): &Change) {
    let names = names.entry(*directory).or_default();
    for (name, node) in changes {
        match node {
            Some(node) => drop(names.insert(name.clone(), *node)),
            None => drop(names.remove(name)),
        }
    }
}
