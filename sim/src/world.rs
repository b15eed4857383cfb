//! One run: a log, tables, and processes that are stepped in an order that the seed decides, while all that can go wrong goes wrong. In the
//! end the faults stop, everything is brought to its end, and what is stored is held against what was acknowledged.

use crate::dice::Dice;
use crate::keeper::Keeper;
use crate::log::{Log, PARTITIONS, Record};
use crate::page::{self, Page};
use crate::plant::Plant;
use crate::publisher::Publisher;
use crate::tables::Tables;
use schemas::Family;
use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Steps in which everything must come to its end once nothing goes wrong any more.
const HEAL_STEPS: usize = 5_000;

/// How often in a thousand something goes wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    /// A request is lost.
    pub unsent: u64,
    /// An answer is lost.
    pub unheard: u64,
    /// A request arrives long after its sender has given it up.
    pub late: u64,
    /// The log delivers something again.
    pub again: u64,
    /// A process dies.
    pub death: u64,
    /// Something happens outside: retention, a rebalance, a rewrite, a time-out.
    pub outside: u64,
}

/// What processes see and what can happen to them.
pub struct Outside {
    pub dice: Dice,
    pub plant: Plant,
    pub rates: Rates,
    pub now_ms: u64,
    pub log: Log,
    pub tables: Tables,
    /// Commits of the log that arrive later, if they still may.
    pub late_commits: Vec<(String, u64, usize)>,
    /// Records of each source of which a publish has returned.
    pub acknowledged: HashMap<u32, i64>,
    /// Topics may be made again in this run.
    pub remakes: bool,
    /// Which store has which partition; `None` = each has all.
    assignment: Option<[usize; 4]>,
    trace: Option<Vec<String>>,
}

impl Outside {
    /// Tells what happens, where somebody listens.
    pub fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>6} ms  {}", self.now_ms, what()));
        }
    }

    pub fn instant(&self) -> Instant {
        static BEGAN: OnceLock<Instant> = OnceLock::new();
        *BEGAN.get_or_init(Instant::now) + Duration::from_millis(self.now_ms)
    }

    pub fn partitions_of(&self, keeper: usize) -> Vec<usize> {
        (0..PARTITIONS.len()).filter(|at| self.assignment.is_none_or(|assignment| assignment[*at] == keeper)).collect()
    }
}

/// A file: the first lines of a source; or a page of a price list.
#[derive(Debug)]
pub struct Input {
    pub source: u32,
    pub lines: usize,
    number: usize,
    /// It is no file that grows, but a page of which only what is new is published.
    pub page: Option<Page>,
}

impl Input {
    pub fn name(&self) -> String {
        format!("file-{}", self.number)
    }
}

pub struct World {
    outside: Outside,
    inputs: Vec<Input>,
    keepers: Vec<Keeper>,
    publishers: Vec<Publisher>,
    /// An older copy of the log.
    copy: Option<Log>,
    /// No store is ever behind another one, and no version behind its time: what is named as lost is never stored after all.
    is_in_step: bool,
    /// The log was brought back from it, or its topics were made again.
    replaced: bool,
}

/// What a run came to.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    pub steps: u64,
    pub commits: u64,
    pub lost: u64,
    pub refused: bool,
}

/// One run by its seed. `Err` says which rule was broken.
pub fn run(seed: u64, plant: Plant) -> Result<Seen, String> {
    World::new(seed, plant, None).run().map_err(|(why, _)| why)
}

/// The same, with the story that led to it.
pub fn tell(seed: u64, plant: Plant) -> (Vec<String>, Option<String>) {
    match World::new(seed, plant, Some(vec![])).run() {
        Ok(_) => (vec![], None),
        Err((why, trace)) => (trace, Some(why)),
    }
}

impl World {
    fn new(seed: u64, plant: Plant, trace: Option<Vec<String>>) -> World {
        let mut dice = Dice::new(seed);
        let mut rate = |most: u64| if dice.chance(300) { 0 } else { dice.below(most) };
        let rates = Rates { unsent: rate(100), unheard: rate(150), late: rate(100), again: rate(400), death: rate(40), outside: rate(150) };
        let is_kafka = dice.chance(600);
        // Rare, because nothing else happens to a log that is another one now; where the planted fault is about it, it is not.
        let remakes = dice.chance(if plant == Plant::NoOwner { 500 } else { 30 });
        let keepers = 1 + dice.index(3);
        // Of partitions that move, the newest commit names only its own store's last records: a log is replaced under one or all.
        let assignment = (keepers > 1 && dice.chance(500)).then(|| std::array::from_fn(|_| dice.index(keepers)));
        let sources = 1 + dice.index(2);
        let mut inputs = Vec::new();
        for number in 0..sources + dice.index(3) {
            inputs.push(Input { source: (number % sources) as u32, lines: dice.index(12), number, page: None });
        }
        let files = inputs.len();
        if dice.chance(300) {
            for number in files..=files + dice.index(4) {
                let page = Some(Page::roll(&mut dice, 1 + (number - files) as i64));
                inputs.push(Input { source: page::source(number), lines: 0, number, page });
            }
        }
        let publishers = (0..inputs.len() + dice.index(2)).map(|name| Publisher::new(name, name % inputs.len())).collect();
        let keepers: Vec<Keeper> = (0..keepers).map(Keeper::new).collect();
        let outside = Outside {
            dice,
            plant,
            rates,
            now_ms: 0,
            log: Log::new(is_kafka, plant),
            tables: Tables::new(plant),
            late_commits: vec![],
            acknowledged: HashMap::new(),
            remakes,
            assignment,
            trace,
        };
        let is_in_step = keepers.len() == 1 && rates.late == 0;
        World { outside, inputs, keepers, publishers, copy: None, is_in_step, replaced: false }
    }

    fn run(mut self) -> Result<Seen, (String, Vec<String>)> {
        match self.live() {
            Ok(seen) => Ok(seen),
            Err(why) => Err((why, self.outside.trace.unwrap_or_default())),
        }
    }

    fn live(&mut self) -> Result<Seen, String> {
        let steps = 60 + self.outside.dice.below(200);
        for _ in 0..steps {
            self.step()?;
        }
        self.heal()?;
        self.check()?;
        let refused = self.keepers.iter().any(Keeper::has_refused);
        let generation = self.outside.log.generation;
        let lost = self.outside.tables.gaps(generation).map(|(_, first, next)| (next - first).unsigned_abs()).sum();
        Ok(Seen { steps, commits: self.outside.tables.landed as u64, lost, refused })
    }

    // ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn step(&mut self) -> Result<(), String> {
        let outside = &mut self.outside;
        if outside.dice.chance(outside.rates.outside) {
            return self.happen();
        }
        let all = self.keepers.len() + self.publishers.len();
        let one = outside.dice.index(all);
        let dies = outside.dice.chance(outside.rates.death);
        match one.checked_sub(self.keepers.len()) {
            None => {
                let keeper = &mut self.keepers[one];
                if keeper.is_down() || (keeper.has_ended() && !keeper.has_refused()) {
                    keeper.start(outside.dice.chance(300));
                } else if dies && !keeper.has_refused() {
                    outside.say(|| format!("store {one} dies"));
                    keeper.die();
                }
                keeper.step(outside)?;
                match keeper.has_refused() && !self.replaced {
                    true => Err(format!("store {one} refuses a log that is the right one")),
                    false => Ok(()),
                }
            }
            Some(at) => {
                let publisher = &mut self.publishers[at];
                if publisher.is_down() || (publisher.has_ended() && outside.dice.chance(40)) {
                    publisher.start();
                } else if dies {
                    outside.say(|| format!("ingest {at} dies"));
                    publisher.die();
                }
                publisher.step(outside, &self.inputs);
                Ok(())
            }
        }
    }

    /// Something that no process of ours does.
    fn happen(&mut self) -> Result<(), String> {
        let outside = &mut self.outside;
        let at = outside.dice.index(PARTITIONS.len());
        match outside.dice.below(100) {
            0..20 => outside.now_ms += outside.dice.below(400),
            20..40 => {
                let input = outside.dice.index(self.inputs.len());
                self.inputs[input].lines += outside.dice.index(5);
            }
            // What retention took from a log that was brought back can no longer be compared.
            40..50 if !self.replaced => {
                outside.log.expire(at, &mut outside.dice);
                let low = outside.log.watermarks(at).low;
                outside.say(|| format!("retention: {:?} begins at {low}", PARTITIONS[at]));
            }
            50..58 if outside.log.is_kafka => outside.log.time_out(&mut outside.dice),
            58..68 => {
                let keeper = outside.dice.index(self.keepers.len());
                outside.say(|| format!("store {keeper}: the log breaks off"));
                self.keepers[keeper].break_off(outside);
            }
            68..78 => self.rebalance(),
            78..83 => outside.tables.rewrite([Family::Trades, Family::Quarantine, Family::Gaps][at % 3]),
            83..95 => self.arrive()?,
            // A copy that was made in the middle of a transaction may end it otherwise, at the same offsets: that is not found out.
            95..97 if self.copy.is_none() && outside.log.is_quiet() => self.copy = Some(outside.log.clone()),
            97..98 => self.replace(),
            98..100 if outside.remakes && !self.replaced => self.remake(),
            _ => {}
        }
        Ok(())
    }

    fn rebalance(&mut self) {
        let (outside, keepers) = (&mut self.outside, self.keepers.len());
        if outside.assignment.is_none() {
            return;
        }
        outside.assignment = Some(std::array::from_fn(|_| outside.dice.index(keepers)));
        outside.say(|| "partitions move".into());
        // Some hear of it at once; the others are still at it, and find out when they commit.
        for keeper in &mut self.keepers {
            if outside.dice.chance(600) {
                keeper.rebalance(outside);
            }
        }
    }

    /// What was late arrives.
    fn arrive(&mut self) -> Result<(), String> {
        let outside = &mut self.outside;
        if !outside.late_commits.is_empty() {
            let (id, epoch, transaction) = outside.late_commits.swap_remove(outside.dice.index(outside.late_commits.len()));
            if outside.log.commit(&id, epoch, transaction).is_ok() {
                outside.say(|| format!("a late commit of {id} arrives"));
            }
        }
        if outside.tables.late() > 0 {
            let index = outside.dice.index(outside.tables.late());
            if outside.tables.arrive(&outside.log, index)? {
                outside.say(|| "a late version lands".into());
            }
        }
        Ok(())
    }

    /// The log is brought back from its copy. Nothing of the old one runs on.
    fn replace(&mut self) {
        let outside = &mut self.outside;
        if self.replaced || outside.assignment.is_some() {
            return;
        }
        let Some(copy) = self.copy.take() else { return };
        outside.say(|| "the log is brought back from an older copy".into());
        outside.log = outside.log.restored(copy);
        self.everybody_dies();
    }

    /// The topics are deleted and made again.
    fn remake(&mut self) {
        let outside = &mut self.outside;
        outside.say(|| "the topics are made again".into());
        outside.log = outside.log.made_again();
        self.everybody_dies();
    }

    fn everybody_dies(&mut self) {
        self.replaced = true;
        self.outside.late_commits.clear();
        self.outside.acknowledged.clear();
        self.keepers.iter_mut().for_each(Keeper::die);
        self.publishers.iter_mut().for_each(Publisher::die);
    }

    // ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Nothing goes wrong any more: every input is ingested to its end, and one store stores what there is.
    fn heal(&mut self) -> Result<(), String> {
        self.outside.say(|| "nothing goes wrong any more".into());
        let outside = &mut self.outside;
        outside.rates = Rates::default();
        outside.late_commits.clear();
        while outside.tables.late() > 0 {
            outside.tables.arrive(&outside.log, 0)?;
        }
        outside.log.time_out_all();
        outside.assignment = None;
        for publisher in &mut self.publishers {
            publisher.start();
            let mut steps = 0;
            while !publisher.has_ended() {
                if publisher.is_down() {
                    publisher.start();
                }
                publisher.step(outside, &self.inputs);
                steps += 1;
                if steps > HEAL_STEPS {
                    return Err(format!("ingest {} does not come to an end", publisher.name));
                }
            }
        }
        // Those that still run are zombies: each does what it can while the one store works.
        let mut steps = 0;
        self.keepers[0].start(true);
        while !self.keepers[0].has_ended() {
            if self.keepers[0].is_down() {
                self.keepers[0].start(true);
            }
            let one = if outside.dice.chance(300) { outside.dice.index(self.keepers.len()) } else { 0 };
            self.keepers[one].step(outside)?;
            steps += 1;
            if steps > HEAL_STEPS {
                return Err("the store does not come to an end".into());
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        self.check_log()?;
        self.check_tables()
    }

    /// Each record of each source is in the log once, in the order of the source in each partition, as far as it was acknowledged at least.
    fn check_log(&self) -> Result<(), String> {
        let log = &self.outside.log;
        let mut seen: HashMap<Record, i64> = HashMap::new();
        let mut last: HashMap<(usize, u32), u32> = HashMap::new();
        for (at, place) in PARTITIONS.iter().enumerate() {
            for offset in 0..log.end_of(at) {
                let Some(record) = log.committed(at, offset) else { continue };
                if let Some(before) = seen.insert(record, offset) {
                    return Err(format!("{record:?} is in the log twice: {:?} offsets {before}, {offset}", place));
                }
                if last.insert((at, record.source), record.number).is_some_and(|before| before > record.number) {
                    return Err(format!("{record:?} is behind a later one of its source in {:?}", place));
                }
            }
        }
        for input in self.inputs.iter().filter(|input| input.page.is_none()) {
            let of_source = self.inputs.iter().filter(|other| other.source == input.source);
            let longest = of_source.map(|input| input.lines as i64).max().unwrap_or(0);
            let acknowledged = self.outside.acknowledged.get(&input.source).copied().unwrap_or(0);
            if let Some(number) = (0..longest.max(acknowledged)).find(|n| !seen.contains_key(&Record::of(input.source, *n as u32))) {
                return Err(format!("record {number} of source {} is not in the log ({acknowledged} acknowledged)", input.source));
            }
        }
        for page in self.inputs.iter().filter(|input| input.page.is_some() && self.outside.acknowledged.contains_key(&input.source)) {
            if !log.positions.values().any(|position| position.name == page.name()) {
                return Err(format!("{} is acknowledged, and the log has no position of it", page.name()));
            }
        }
        page::check(log, self.inputs.iter().filter_map(|input| input.page.as_ref()))
    }

    /// Each record of the log is stored once, or named as lost and gone; and nothing else is.
    fn check_tables(&self) -> Result<(), String> {
        let Outside { log, tables, .. } = &self.outside;
        let generation = log.generation;
        let stranger = tables.rows(generation).find(|(at, offset, record)| log.committed(*at, *offset) != Some(*record));
        let of_older = (0..generation).find(|older| tables.rows(*older).next().is_some());
        if let Some((at, offset, record)) = stranger.filter(|_| !self.replaced) {
            return Err(format!("{:?} offset {offset} is stored as {record:?}, which the log has not", PARTITIONS[at]));
        }
        if let Some((at, offset, _)) = stranger.or(of_older.and_then(|older| tables.rows(older).next())) {
            // The tables have what this log has not: it must have been refused, before anything of it was stored.
            return match self.keepers[0].has_refused() {
                true => Ok(()),
                false => Err(format!("{:?} offset {offset} was stored from another log, and this one is not refused", PARTITIONS[at])),
            };
        }
        if self.keepers[0].has_refused() {
            // A log that was brought back may end before what was stored of it: before markers, or what was aborted.
            return if self.replaced { Ok(()) } else { Err("the store refuses a log that is the right one".into()) };
        }
        for (at, place) in PARTITIONS.iter().enumerate() {
            let low = log.watermarks(at).low;
            for offset in 0..log.end_of(at) {
                let named = tables.is_named(generation, at, offset);
                let Some(record) = log.committed(at, offset) else { continue };
                match tables.stored(generation, at, offset) {
                    Some(_) if named && !record.bad && self.is_in_step && !self.replaced => {
                        return Err(format!("{:?} offset {offset} is stored, and named as lost", place));
                    }
                    Some(_) => {}
                    // It was lost, and is back with the older copy.
                    None if named && self.replaced => {}
                    None if offset >= low => return Err(format!("{:?} offset {offset}, {record:?}, is not stored", place)),
                    None if !named => return Err(format!("{:?} offset {offset}, {record:?}, is lost without a word", place)),
                    None if !log.is_kafka => return Err(format!("{:?} offset {offset} was dropped before it was stored", place)),
                    None => {}
                }
            }
            if let Some((_, _, next)) = tables.gaps(generation).find(|(of, _, next)| *of == at && *next > low && !self.replaced) {
                return Err(format!("gaps names offsets of {:?} up to {next}, and the log has them from {low}", place));
            }
        }
        Ok(())
    }
}
