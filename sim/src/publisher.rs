//! An ingest process of the simulation: one input, from the positions to its last transaction. Who the input is and what is to be done next,
//! the functions of `ingest` decide for it.

use crate::log::{Batch, Record};
use crate::page::{self, Page};
use crate::plant::Plant;
use crate::world::{Input, Outside};
use bytes::Bytes;
use ingest::Error;
use ingest::admission::{self, Admission, Asking, Attempts, Next, Then};
use ingest::position::{self, Position, Sought, SourceId};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};

const PARSER: &str = "lines/1";
/// Records of a transaction.
const CHUNK: usize = 3;
/// Bytes of a line.
const LINE: usize = 8;

/// An ingest process.
#[derive(Debug, Default)]
pub struct Publisher {
    pub name: usize,
    /// Which input.
    pub input: usize,
    state: State,
    attempts: Attempts,
    /// As they were last read.
    positions: HashMap<SourceId, Position>,
    states: HashMap<String, Bytes>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Down,
    /// It has begun, and reads the positions.
    Starting,
    /// Who is the input, by the positions?
    Asking(Box<Asked>),
    /// Becomes the only writer.
    Taking(Box<Asked>, String, bool),
    /// Has become it, and reads the positions again.
    LookingAgain(Box<Asked>),
    Publishing(Box<Going>),
    /// A transaction is sent, and not yet committed.
    Sent(Box<Going>, usize, Box<Position>),
    /// The position or the states of a transaction, where they are one of their own (planted faults).
    Apart(Box<Going>, usize, i64),
    /// Was let in: becomes the source's own writer.
    OwnTaking(Box<Going>),
    /// Has become it, and looks whether another one was faster.
    OwnLooking(Box<Going>),
    Waiting(u64),
    Ended,
}

/// The input as it was read, on its way to a writer.
#[derive(Debug, Default)]
struct Asked {
    content: Vec<u8>,
    admission: Admission,
    writer: Option<Writer>,
}

#[derive(Debug, Clone, Default)]
struct Writer {
    id: String,
    epoch: u64,
    at_door: bool,
}

/// A source that is being published.
#[derive(Debug, Default)]
struct Going {
    content: Vec<u8>,
    id: SourceId,
    skip: usize,
    reads: i32,
    ends: Vec<(u64, String)>,
    /// Records before the next chunk.
    at: usize,
    published: i64,
    writer: Writer,
    through_door: bool,
}

impl Publisher {
    pub fn new(name: usize, input: usize) -> Publisher {
        Publisher { name, input, ..Publisher::default() }
    }

    pub fn is_down(&self) -> bool {
        matches!(self.state, State::Down)
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    pub fn start(&mut self) {
        *self = Publisher { state: State::Starting, ..Publisher::new(self.name, self.input) };
    }

    /// `kill -9`.
    pub fn die(&mut self) {
        self.state = State::Down;
    }

    /// One step.
    pub fn step(&mut self, outside: &mut Outside, inputs: &[Input]) {
        let input = &inputs[self.input];
        match std::mem::take(&mut self.state) {
            State::Down => {}
            State::Ended => self.state = State::Ended,
            State::Starting => {
                self.positions = outside.log.positions.clone();
                self.states = outside.log.states.clone();
                self.state = asking(input);
            }
            State::Waiting(until) if outside.now_ms >= until => self.state = asking(input),
            State::Waiting(until) => {
                outside.now_ms += 1;
                self.state = State::Waiting(until);
            }
            State::Asking(asked) => self.ask(asked, input, outside),
            State::Taking(mut asked, id, at_door) => {
                let epoch = outside.log.take_writer(&id);
                asked.writer = Some(Writer { id, epoch, at_door });
                self.state = State::LookingAgain(asked);
            }
            State::LookingAgain(asked) => {
                if outside.plant != Plant::NoSecondLook {
                    self.positions = outside.log.positions.clone();
                }
                self.state = State::Asking(asked);
            }
            State::Publishing(going) => match &input.page {
                None => self.send(going, input, outside),
                Some(page) => self.send_page(going, page, input, outside),
            },
            State::Sent(going, transaction, position) => self.commit(going, transaction, &position, input, outside),
            State::Apart(going, transaction, records) => {
                outside.log.take_position(transaction);
                outside.log.take_states(transaction);
                self.published(going, records, input, outside);
            }
            State::OwnTaking(mut going) => {
                let id = admission::transactional_id(PARSER, None, &going.id);
                let epoch = outside.log.take_writer(&id);
                going.writer = Writer { id, epoch, at_door: false };
                self.state = State::OwnLooking(going);
            }
            State::OwnLooking(going) => {
                self.positions = outside.log.positions.clone();
                match admission::goes_on(&self.positions, &going.id, going.published) {
                    Err(_) if outside.plant != Plant::NoThirdLook => self.fail(&failed("another run was faster"), outside),
                    Ok(()) | Err(_) => self.state = State::Publishing(going),
                }
            }
        }
    }

    fn fail(&mut self, error: &Error, outside: &mut Outside) {
        outside.say(|| format!("ingest {}: {error}", self.name));
        self.state = match self.attempts.after(error) {
            Then::Return { times } => State::Waiting(outside.now_ms + outside.dice.below(u64::from(times) * 4 + 1)),
            Then::Again { .. } => State::Waiting(outside.now_ms),
            // A fault of the log ends the process, one of the input only the input.
            Then::End if matches!(error, Error::Log(_)) => State::Down,
            Then::End => State::Ended,
        };
    }

    fn ask(&mut self, mut asked: Box<Asked>, input: &Input, outside: &mut Outside) {
        let content = std::mem::take(&mut asked.content);
        let (facts, name) = (BTreeMap::new(), input.name());
        let sought = Sought { parser: PARSER, path_facts: &facts, name: &name, head: &content, grows: true, is_own: false };
        let asking = match &input.page {
            None => {
                let first = content.len().min(CHUNK * LINE);
                let (first_records, first_sha256) = ((first / LINE) as i64, Sha256::digest(&content[..first]).into());
                Asking { sought, is_page: false, dataset: "D", first_records, first_sha256 }
            }
            Some(page) => {
                let sought = Sought { parser: page::PARSER, grows: false, ..sought };
                let first_sha256 = Sha256::digest(&content).into();
                Asking { sought, is_page: true, dataset: page::DATASET, first_records: page.listed(), first_sha256 }
            }
        };
        let (id, known) = match asking.who(&self.positions, || Ok(&content[..])) {
            Ok(who) => who,
            Err(error) => return self.fail(&error, outside),
        };
        let next = asked.admission.next(&asking, id, known);
        asked.content = content;
        match next {
            Next::Known(_) => {
                outside.say(|| format!("ingest {}: {name} with {} lines is known", self.name, asked.content.len() / LINE));
                self.state = State::Ended;
            }
            Next::TakeWriter { transactional_id, at_door } => self.state = State::Taking(asked, transactional_id, at_door),
            Next::Publish { position, .. } => {
                let Asked { content, writer, .. } = *asked;
                let skip = position.as_ref().map_or(0, |position| position.records as usize);
                outside.say(|| format!("ingest {}: {name} with {} lines goes on behind record {skip}", self.name, content.len() / LINE));
                let reads = position.as_ref().map_or(0, |position| position.reads);
                let ends = position.map_or_else(Vec::new, |position| position::ends_with(position.ends, position.bytes, &position.sha256));
                let writer = writer.expect("a writer is taken before anything may be published");
                self.state = State::Publishing(Box::new(Going { content, id, skip, reads, ends, writer, ..Going::default() }));
            }
        }
    }

    fn send(&mut self, mut going: Box<Going>, input: &Input, outside: &mut Outside) {
        let lines = going.content.len() / LINE;
        let (from, to) = (going.at, (going.at + CHUNK).min(lines));
        let ended = to == lines;
        going.at = to;
        let records: Vec<Record> = (from.max(going.skip)..to).map(|number| Record::of(input.source, number as u32)).collect();
        if records.is_empty() && to <= going.skip && (!ended || going.reads > 0) {
            self.state = if ended { State::Ended } else { State::Publishing(going) };
            return;
        }
        if std::mem::take(&mut going.through_door) {
            going.at = from;
            self.state = State::OwnTaking(going);
            return;
        }
        let consumed = &going.content[..to * LINE];
        let position = Position {
            parser: PARSER.into(),
            path_facts: BTreeMap::new(),
            name: input.name(),
            records: to as i64,
            bytes: consumed.len() as u64,
            sha256: hex::encode(Sha256::digest(consumed)),
            head: position::head(&going.content, consumed.len() as u64),
            ends: going.ends.clone(),
            dataset: "D".into(),
            reads: going.reads + i32::from(ended),
            mapping: None,
            last_revision: 0,
            open_quote: false,
        };
        self.hand_over(going, records, position, vec![], outside);
    }

    /// A page is one transaction: what is new in it, the states that say what is known now, and its position.
    fn send_page(&mut self, going: Box<Going>, page: &Page, input: &Input, outside: &mut Outside) {
        let known = if outside.plant == Plant::StaleStates { &self.states } else { &outside.log.states };
        let decision = match page.decide(known, &input.name()) {
            Ok(decision) => decision,
            Err(error) => return self.fail(&error, outside),
        };
        let position = Position {
            parser: page::PARSER.into(),
            path_facts: BTreeMap::new(),
            name: input.name(),
            records: page.listed(),
            bytes: going.content.len() as u64,
            sha256: hex::encode(Sha256::digest(&going.content)),
            head: position::head(&going.content, going.content.len() as u64),
            ends: vec![],
            dataset: page::DATASET.into(),
            reads: 1,
            mapping: None,
            last_revision: 0,
            open_quote: false,
        };
        self.hand_over(going, page::records(&decision.batch), position, decision.states, outside);
    }

    fn hand_over(
        &mut self,
        going: Box<Going>,
        records: Vec<Record>,
        position: Position,
        states: Vec<(String, Bytes)>,
        outside: &mut Outside,
    ) {
        let batch = Batch { records, position: (going.id, position.clone()), states };
        match outside.log.send(&going.writer.id, going.writer.epoch, batch) {
            Ok(transaction) => self.state = State::Sent(going, transaction, Box::new(position)),
            Err(_) => self.fail(&fenced(&going.writer), outside),
        }
    }

    fn commit(&mut self, mut going: Box<Going>, transaction: usize, position: &Position, input: &Input, outside: &mut Outside) {
        if outside.dice.chance(outside.rates.unsent) {
            return self.fail(&failed("no answer, nothing is committed"), outside);
        }
        if outside.dice.chance(outside.rates.late) {
            let Writer { id, epoch, .. } = &going.writer;
            outside.late_commits.push((id.clone(), *epoch, transaction));
            if outside.dice.chance(500) {
                return outside.say(|| format!("ingest {} dies, its commit is late", self.name));
            }
            return self.fail(&failed("no answer, perhaps it is committed"), outside);
        }
        if outside.log.commit(&going.writer.id, going.writer.epoch, transaction).is_err() {
            return self.fail(&fenced(&going.writer), outside);
        }
        if outside.dice.chance(outside.rates.unheard) {
            return self.fail(&failed("no answer, though it is committed"), outside);
        }
        going.ends = position::ends_with(std::mem::take(&mut going.ends), position.bytes, &position.sha256);
        if matches!(outside.plant, Plant::PositionApart | Plant::StatesApart) {
            self.state = State::Apart(going, transaction, position.records);
        } else {
            self.published(going, position.records, input, outside);
        }
    }

    fn published(&mut self, mut going: Box<Going>, records: i64, input: &Input, outside: &mut Outside) {
        outside.say(|| format!("ingest {}: {} is published up to record {records}", self.name, input.name()));
        let acknowledged = outside.acknowledged.entry(input.source).or_default();
        *acknowledged = records.max(*acknowledged);
        going.published = records;
        going.through_door = std::mem::take(&mut going.writer.at_door);
        let ended = input.page.is_some() || going.at * LINE == going.content.len();
        self.state = if ended { State::Ended } else { State::Publishing(going) };
    }
}

fn asking(input: &Input) -> State {
    let lines = || (0..input.lines).flat_map(|number| format!("{:02} {number:04}\n", input.source).into_bytes()).collect();
    let content = input.page.as_ref().map_or_else(lines, Page::content);
    State::Asking(Box::new(Asked { content, ..Asked::default() }))
}

fn fenced(writer: &Writer) -> Error {
    eventlog::Error::Fenced { id: writer.id.clone() }.into()
}

fn failed(why: &str) -> Error {
    eventlog::Error::Failed { doing: "publishing".into(), why: why.into() }.into()
}
