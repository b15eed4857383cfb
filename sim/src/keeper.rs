//! A store process of the simulation. What it decides, the functions of `store` decide for it; here is only when each step is done, and
//! what may come between two of them.

use crate::log::{PARTITIONS, Read, Record};
use crate::plant::Plant;
use crate::tables::{Handle, Put, Row, Version};
use crate::world::Outside;
use eventlog::{Polled, TopicInfo, Watermarks};
use lake::Txn;
use schemas::Family;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};
use store::batcher::{self, Limits, Pending};
use store::ledger::{self, Ledger, Span, Verdict, app_id};
use store::moves::{self, Rows, Step};
use store::place::{self, Lost, Place};
use store::retry::{self, Patience, Troubles};
use store::tail::{Compare, Tail};
use store::{Error, info};

const LIMITS: Limits =
    Limits { rows_max: 6, bytes_max: 1 << 20, bytes_total_max: 1 << 20, holes_max: 4, age_max: Some(Duration::from_millis(300)) };
const PATIENCE: Patience = Patience { tries_max: 4, backoff: Duration::from_millis(20) };

/// A store process.
#[derive(Debug, Default)]
pub struct Keeper {
    pub name: usize,
    state: State,
    troubles: Troubles,
    /// It ends where the log ends.
    once: bool,
    /// A version of this session landed.
    stored: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Down,
    /// Begins a session: first it looks at the tables.
    Looking,
    /// Then at the log.
    Opening(HashMap<Family, Handle>),
    /// Losses are noted before anything is read.
    Noting(Box<Session>, VecDeque<(usize, Lost)>),
    Running(Box<Session>),
    Waiting(u64),
    /// It refused, and nobody starts it again by itself.
    Refused,
    Done,
}

/// From opening the tables to the first trouble.
#[derive(Debug)]
struct Session {
    generation: u32,
    tables: HashMap<Family, Handle>,
    topics: HashMap<Family, TopicInfo>,
    places: HashMap<(Family, i32), Place>,
    ledger: Ledger,
    /// Where each partition is read on.
    next: BTreeMap<usize, i64>,
    ends: HashSet<usize>,
    pending: BTreeMap<Family, Batch>,
    committing: Option<Committing>,
    /// The trouble that ends the session when the commit on its way is settled: whether it may pass.
    ending: Option<bool>,
}

#[derive(Debug)]
struct Batch {
    spans: BTreeMap<i32, Span>,
    good: Vec<Row>,
    bad: Vec<Row>,
    tails: BTreeMap<i32, Tail>,
    since: Instant,
}

#[derive(Debug)]
struct Committing {
    family: Family,
    batch: Batch,
    quarantined: BTreeMap<i32, u64>,
    places: BTreeMap<i32, Place>,
    steps: VecDeque<Step>,
    /// What the log is still to be told.
    tell: VecDeque<(usize, i64)>,
}

/// What became of a write.
enum Written {
    Done,
    /// Another version came first: once more.
    Again,
    Failed(Error),
    /// The process died of it.
    Died,
}

impl Keeper {
    pub fn new(name: usize) -> Keeper {
        Keeper { name, ..Keeper::default() }
    }

    pub fn is_down(&self) -> bool {
        matches!(self.state, State::Down)
    }

    pub fn has_refused(&self) -> bool {
        matches!(self.state, State::Refused)
    }

    /// It came to the end of the log, or to its own.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Done | State::Refused)
    }

    pub fn start(&mut self, once: bool) {
        *self = Keeper { name: self.name, state: State::Looking, once, ..Keeper::default() };
    }

    /// `kill -9`.
    pub fn die(&mut self) {
        self.state = State::Down;
    }

    /// The log breaks off: an error to whoever reads it.
    pub fn break_off(&mut self, outside: &mut Outside) {
        match std::mem::take(&mut self.state) {
            State::Running(mut session) => {
                session.ending = session.ending.or(Some(true));
                self.state = State::Running(session);
            }
            State::Looking | State::Opening(_) | State::Noting(..) => self.trouble(true, outside),
            other => self.state = other,
        }
    }

    /// Its partitions were given to others: what was read is forgotten, what is being committed is settled.
    pub fn rebalance(&mut self, outside: &mut Outside) {
        self.break_off(outside);
    }

    /// One step.
    pub fn step(&mut self, outside: &mut Outside) -> Result<(), String> {
        match std::mem::take(&mut self.state) {
            State::Down => {}
            State::Refused => self.state = State::Refused,
            State::Done => self.state = State::Done,
            State::Looking => {
                let tables = [Family::Trades, Family::Quarantine, Family::Gaps];
                self.state = State::Opening(tables.into_iter().map(|family| (family, outside.tables.open(family))).collect());
            }
            State::Opening(tables) => self.open(tables, outside),
            State::Noting(session, lost) => self.note(session, lost, outside)?,
            State::Running(session) => self.run(session, outside)?,
            State::Waiting(until) if outside.now_ms >= until => {
                self.stored = false;
                self.state = State::Looking;
            }
            State::Waiting(until) => {
                outside.now_ms = outside.now_ms.max(until.min(outside.now_ms + 5));
                self.state = State::Waiting(until);
            }
        }
        Ok(())
    }

    fn trouble(&mut self, may_pass: bool, outside: &mut Outside) {
        self.state = match self.troubles.another(self.stored, may_pass, false, &PATIENCE) {
            retry::Next::Again { wait } => State::Waiting(outside.now_ms + wait.as_millis() as u64),
            // The process ends; who looks after it starts another one.
            retry::Next::GiveUp => State::Down,
            retry::Next::End => State::Refused,
        };
    }

    fn fail(&mut self, error: &Error, outside: &mut Outside) {
        outside.say(|| format!("store {}: {error}", self.name));
        self.trouble(error.may_pass(), outside);
    }

    // ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn open(&mut self, tables: HashMap<Family, Handle>, outside: &mut Outside) {
        match self.opened(tables, outside) {
            Ok((session, lost)) => {
                outside.say(|| format!("store {} begins at {:?}, after {:?}", self.name, session.next, session.places));
                self.state = State::Noting(Box::new(session), lost);
            }
            Err(error) => self.fail(&error, outside),
        }
    }

    fn opened(&self, tables: HashMap<Family, Handle>, outside: &mut Outside) -> Result<(Session, VecDeque<(usize, Lost)>), Error> {
        let topics: HashMap<Family, TopicInfo> = PARTITIONS.iter().map(|(family, _)| (*family, outside.log.topic(*family))).collect();
        if outside.remakes && outside.plant != Plant::NoOwner {
            let topics = outside.log.topics();
            let owner = outside.tables.owner.get_or_insert_with(|| info::owner(&outside.log.cluster(), &topics)).clone();
            info::refuse_other_owner(owner.as_bytes(), &outside.log.cluster(), &topics)?;
        }
        let mine = outside.partitions_of(self.name);
        let looked: Vec<(usize, Watermarks)> = mine.into_iter().map(|at| (at, outside.log.watermarks(at))).collect();
        let mut session = Session {
            generation: outside.log.generation,
            tables,
            topics,
            places: HashMap::new(),
            ledger: Ledger::default(),
            next: BTreeMap::new(),
            ends: looked.iter().map(|(at, _)| *at).collect(),
            pending: BTreeMap::new(),
            committing: None,
            ending: None,
        };
        let (mut lost, mut compare) = (VecDeque::new(), HashMap::new());
        for (at, watermarks) in &looked {
            let (family, partition) = PARTITIONS[*at];
            let topic = &session.topics[&family];
            let txn = |table: Family| session.tables[&table].txn(&app_id(table.topic().name, &topic.id, partition));
            let newest = outside.tables.newest_about(family, &session.tables[&family], family);
            let tail = newest.and_then(|version| version.tails.get(&partition)).copied();
            let place = Place { txn: txn(family), quarantine: txn(Family::Quarantine), tail };
            place::refuse_unsaid(family, topic, partition, &place)?;
            // What `quarantine` says is compared, and is not said of the family's own table.
            let mut found = place;
            if family != Family::Quarantine && place.is_between() {
                let side = outside.tables.newest_about(Family::Quarantine, &session.tables[&Family::Quarantine], family);
                found = place.with(side.and_then(|version| version.tails.get(&partition)).copied());
            }
            let begin = place::begin(family, topic, partition, &found, watermarks)?;
            session.ledger.begin(family, partition, begin.next, begin.quarantined);
            session.places.insert((family, partition), place);
            session.next.insert(*at, begin.next);
            lost.extend(begin.lost.map(|lost| (*at, lost)));
            compare.extend(begin.compare.map(|tail| ((family, partition), tail)));
        }
        if outside.plant != Plant::NoComparison {
            refuse_rewritten(compare, outside)?;
        }
        for (at, place) in looked.iter().map(|(at, _)| (*at, session.places[&PARTITIONS[*at]])) {
            place.txn.into_iter().for_each(|stored| outside.log.told(at, stored));
        }
        if outside.plant == Plant::SilentLoss {
            lost.clear();
        }
        Ok((session, lost))
    }

    fn note(&mut self, mut session: Box<Session>, mut lost: VecDeque<(usize, Lost)>, outside: &mut Outside) -> Result<(), String> {
        let Some((at, all)) = lost.front().copied() else {
            self.state = State::Running(session);
            return Ok(());
        };
        let (family, partition) = PARTITIONS[at];
        let app_id = app_id(Family::Gaps.topic().name, &session.topics[&family].id, partition);
        let noted = session.tables[&Family::Gaps].txn(&app_id);
        // Another store may have stored it since: then nothing is lost.
        let own = store::ledger::app_id(family.topic().name, &session.topics[&family].id, partition);
        if outside.tables.open(family).txn(&own) != session.places[&(family, partition)].txn {
            let (what, expected, found) = (own, String::new(), String::new());
            self.fail(&lake::Error::Moved { table: family.topic().name, what, expected, found }.into(), outside);
            return Ok(());
        }
        if let Some(Lost { first, next }) = all.beyond(noted) {
            let version = Version {
                txns: vec![Txn { app_id, from: noted, to: next }],
                about: Some(family),
                generation: session.generation,
                gap: Some((at, first, next)),
                ..Version::default()
            };
            match self.write(&mut session, Family::Gaps, &version, outside)? {
                Written::Again => {
                    self.state = State::Noting(session, lost);
                    return Ok(());
                }
                Written::Failed(error) => {
                    self.fail(&error, outside);
                    return Ok(());
                }
                Written::Died => return Ok(()),
                Written::Done => {
                    outside.say(|| format!("store {} notes that {family:?}[{partition}] lost {first}..{next}", self.name));
                    session.places.entry((family, partition)).and_modify(|place| *place = place::noted(family, *place, next));
                }
            }
        }
        lost.pop_front();
        self.state = State::Noting(session, lost);
        Ok(())
    }

    // ── reading and committing ───────────────────────────────────────────────────────────────────────────────────────────────────

    fn run(&mut self, mut session: Box<Session>, outside: &mut Outside) -> Result<(), String> {
        if session.committing.is_none() {
            if let Some(may_pass) = session.ending {
                self.trouble(may_pass, outside);
                return Ok(());
            }
            self.start_commit(&mut session, outside);
        }
        let draining = self.once && session.ends.is_empty();
        if draining && session.committing.is_none() && session.pending.is_empty() {
            outside.say(|| format!("store {} is at the end", self.name));
            self.state = State::Done;
            return Ok(());
        }
        let reads = !draining && session.ending.is_none() && (session.committing.is_none() || outside.dice.chance(500));
        if reads {
            self.poll(&mut session, outside);
        } else if session.committing.is_some() && !self.commit(&mut session, outside)? {
            return Ok(());
        }
        self.state = State::Running(session);
        Ok(())
    }

    fn poll(&self, session: &mut Session, outside: &mut Outside) {
        let partitions: Vec<usize> = session.next.keys().copied().collect();
        if partitions.is_empty() {
            return;
        }
        let at = partitions[outside.dice.index(partitions.len())];
        let mut from = session.next[&at];
        if outside.dice.chance(outside.rates.again) {
            // The log delivers something again.
            from = (from - 1 - outside.dice.below(3) as i64).max(outside.log.watermarks(at).low.min(from));
        }
        let Read { records, next, is_end } = match outside.log.read(at, from, 1 + outside.dice.index(5)) {
            Ok(read) => read,
            Err(low) => {
                outside.say(|| format!("store {}: offset {from} of {:?} is gone, the log begins at {low}", self.name, PARTITIONS[at]));
                session.ending = Some(true);
                return;
            }
        };
        let seen = session.next.entry(at).or_default();
        *seen = next.max(*seen);
        if is_end {
            session.ends.remove(&at);
        }
        self.take(session, at, &records, outside);
    }

    fn take(&self, session: &mut Session, at: usize, records: &[(i64, Record)], outside: &mut Outside) {
        let (family, partition) = PARTITIONS[at];
        for (offset, record) in records.iter().copied() {
            let absent = match session.ledger.offer(family, partition, offset) {
                Verdict::Accept { absent } => absent,
                Verdict::Skip if outside.plant == Plant::NothingSkipped => None,
                Verdict::Skip => continue,
            };
            let now = outside.instant();
            let new = || Batch { spans: BTreeMap::new(), good: vec![], bad: vec![], tails: BTreeMap::new(), since: now };
            let batch = session.pending.entry(family).or_insert_with(new);
            ledger::follow(&mut batch.spans, partition, Span::of(offset, absent));
            batch.tails.insert(partition, Tail::of(&outside.log.event(at, offset, record)));
            let row = Row { at, offset, record };
            if !record.bad {
                batch.good.push(row);
            } else if !session.ledger.is_quarantined(family, partition, offset) || outside.plant == Plant::QuarantinedAgain {
                batch.bad.push(row);
            }
        }
    }

    fn start_commit(&self, session: &mut Session, outside: &mut Outside) {
        let pending: Vec<Pending> = session.pending.iter().map(|(family, batch)| batch.pending(*family)).collect();
        let draining = self.once && session.ends.is_empty();
        let Some(family) = batcher::next(&pending, draining, outside.instant(), &LIMITS) else { return };
        let Some(mut batch) = session.pending.remove(&family) else { return };
        let places = batch.spans.keys().map(|partition| (*partition, session.places[&(family, *partition)])).collect();
        for ((_, partition), place) in session.places.iter().filter(|((of, _), _)| *of == family) {
            if let Some(tail) = place.tail {
                batch.tails.entry(*partition).or_insert(tail);
            }
        }
        let mut quarantined: BTreeMap<i32, u64> = BTreeMap::new();
        batch.bad.iter().for_each(|row| *quarantined.entry(PARTITIONS[row.at].1).or_default() += 1);
        let mut steps: VecDeque<Step> =
            moves::steps(family, &session.topics[&family].id, &batch.spans, &quarantined, &places).into_iter().collect();
        if outside.plant == Plant::FamilyFirst {
            steps.make_contiguous().reverse();
        }
        let index = |partition: &i32| PARTITIONS.iter().position(|place| *place == (family, *partition)).expect("one of ours");
        let tell: VecDeque<(usize, i64)> = batch.spans.iter().map(|(partition, span)| (index(partition), span.next)).collect();
        if outside.plant == Plant::ToldTooEarly {
            tell.iter().for_each(|(at, next)| outside.log.told(*at, *next));
        }
        outside.say(|| format!("store {} commits {family:?} {:?}", self.name, batch.spans));
        session.committing = Some(Committing { family, batch, quarantined, places, steps, tell });
    }

    /// One step of the commit on its way. False when the session has ended, or the process.
    fn commit(&mut self, session: &mut Session, outside: &mut Outside) -> Result<bool, String> {
        let Some(mut committing) = session.committing.take() else { return Ok(true) };
        if let Some(step) = committing.steps.front() {
            let version = committing.version(step, session.generation);
            let table = step.table;
            match self.write(session, table, &version, outside)? {
                Written::Done => drop(committing.steps.pop_front()),
                Written::Again => {}
                Written::Failed(error) => {
                    self.fail(&error, outside);
                    return Ok(false);
                }
                Written::Died => return Ok(false),
            }
            session.committing = Some(committing);
        } else if let Some((at, next)) = committing.tell.pop_front() {
            outside.log.told(at, next);
            session.committing = Some(committing);
        } else {
            let Committing { family, batch, quarantined, places, .. } = committing;
            let places = moves::moved(family, &batch.spans, &quarantined, &batch.tails, places);
            session.places.extend(places.into_iter().map(|(partition, place)| ((family, partition), place)));
        }
        Ok(true)
    }

    /// One try to write a version, and what may become of it on the way.
    fn write(&mut self, session: &mut Session, table: Family, version: &Version, outside: &mut Outside) -> Result<Written, String> {
        let storage =
            |why: &str| Error::from(lake::Error::Storage { table: "t", url: String::new(), doing: "committing".into(), why: why.into() });
        let name = table.topic().name;
        let handle = session.tables.get_mut(&table).expect("a table");
        let Outside { log, tables, dice, rates, .. } = outside;
        if dice.chance(rates.unsent) {
            return Ok(Written::Failed(storage("no answer, nothing landed")));
        }
        if dice.chance(rates.late) {
            tables.put_late(table, handle, version);
            let died = dice.chance(500);
            outside.say(|| format!("store {}: its request to {name} is late", self.name));
            return Ok(if died { Written::Died } else { Written::Failed(storage("no answer, perhaps it lands")) });
        }
        let put = tables.put(log, table, handle, version)?;
        let unheard = put == Put::Landed && dice.chance(rates.unheard);
        let found = |app_id| lake::Error::Moved { table: name, what: app_id, expected: String::new(), found: String::new() };
        Ok(match put {
            Put::Landed if unheard => {
                outside.say(|| format!("store {}: a version of {name} landed, its answer is lost", self.name));
                Written::Failed(storage("no answer, though it landed"))
            }
            Put::Landed => {
                self.stored = true;
                Written::Done
            }
            Put::SteppedOver => Written::Again,
            Put::Fenced(app_id) => Written::Failed(lake::Error::Fenced { table: name, app_id, version: 0 }.into()),
            Put::Moved(app_id) => Written::Failed(found(app_id).into()),
        })
    }
}

impl Batch {
    fn pending(&self, family: Family) -> Pending {
        Pending {
            family,
            rows: self.spans.values().map(|span| span.records as usize).sum(),
            bytes: 0,
            holes: self.spans.values().map(|span| span.absent.len()).sum(),
            since: self.since,
        }
    }
}

impl Committing {
    fn version(&self, step: &Step, generation: u32) -> Version {
        let Batch { good, bad, spans, tails, .. } = &self.batch;
        let rows = match step.rows {
            Rows::Bad => bad.clone(),
            Rows::Good => good.clone(),
            Rows::Both => [good.as_slice(), bad].concat(),
        };
        let spans = if step.table == self.family { spans.clone() } else { BTreeMap::new() };
        Version { txns: step.txns.clone(), rows, spans, about: Some(self.family), tails: tails.clone(), generation, gap: None }
    }
}

/// Refuses a log that has another record where a table says what its last one was.
fn refuse_rewritten(tails: HashMap<(Family, i32), Tail>, outside: &mut Outside) -> Result<(), Error> {
    let mut compare = Compare::new(tails);
    for start in compare.starts() {
        let at = PARTITIONS.iter().position(|place| *place == (start.family, start.partition)).expect("one of ours");
        let Ok(Read { records, is_end, .. }) = outside.log.read(at, start.offset, 1) else { continue };
        let events = records.into_iter().map(|(offset, record)| outside.log.event(at, offset, record)).collect();
        let at_end = if is_end { vec![(start.family, start.partition)] } else { vec![] };
        if let Some((family, partition, offset)) = compare.take(&Polled { events, at_end }) {
            return Err(Error::Rewritten { name: family.topic().name.into(), partition, offset });
        }
    }
    Ok(())
}
