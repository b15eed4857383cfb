//! One input from its bytes to the log: recognise, find its position, parse, publish chunk by chunk, each with the position behind it.

mod begin;
mod stage;

use crate::Error;
use crate::admission::{self, Attempts, Then};
use crate::cursor;
use crate::position::{self, Position, SourceId};
use crate::report::{FileReport, Outcome};
use crate::source::{Chunk, End, Format, HEAD_BYTES, Parser};
use crate::sources::{self, dbn, document, mapping};
use crate::trail::Trail;
use crate::unpack::{self, Held, Input};
use begin::Begin;
use eventlog::{EventLog, StateTopic};
use stage::{Stage, Staged};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

/// Records of a chunk, and so of a transaction. The first position of a source, and so its name, depends on it: never change it.
const CHUNK_RECORDS: usize = 65_536;
/// Chunks that may wait between parsing and publishing.
const CHUNKS_AHEAD: usize = 1;

/// What a run is told while it works. Called from the publishing thread.
pub trait Progress: Sync {
    /// An input begins; `bytes` is its length as received.
    fn begin(&self, label: &str, bytes: u64);
    /// So many more records of it are published; so many of its bytes as received have been read.
    fn published(&self, records: u64, bytes_read: u64);
    /// The input is done.
    fn end(&self);
}

/// Publishes inputs one after the other. What it has read of the positions serves all of them.
pub struct Ingestor<'a> {
    log: &'a dyn EventLog,
    progress: &'a dyn Progress,
    stop: &'a AtomicBool,
    /// The positions when they were last read. They only ever advance: an input that is known by them is known.
    positions: HashMap<SourceId, Position>,
}

impl<'a> Ingestor<'a> {
    /// Reads the positions once.
    pub fn new(log: &'a dyn EventLog, progress: &'a dyn Progress, stop: &'a AtomicBool) -> Result<Ingestor<'a>, eventlog::Error> {
        Ok(Ingestor { log, progress, stop, positions: begin::read_positions(log)? })
    }

    /// Publishes one input and reports what became of it. Only a fault of the log, never one of the input, is an `Err`.
    pub fn ingest(&mut self, input: &Input) -> Result<FileReport, eventlog::Error> {
        let mut report = FileReport::new(&input.given.label());
        self.progress.begin(&report.file, input.bytes);
        let mut attempts = Attempts::default();
        while let Err(error) = self.attempt(input, &mut report) {
            match (attempts.after(&error), error) {
                (Then::Return { times }, _) => begin::wait_at_door(times, self.stop),
                (Then::Again { attempt }, error) => {
                    tracing::warn!(file = report.file, %error, attempt, "publishing failed, taking the source up from its position");
                }
                (Then::End, Error::Log(why)) => return Err(why),
                (Then::End, why) => {
                    report.outcome = Outcome::Failed(why.to_string());
                    break;
                }
            }
        }
        self.progress.end();
        Ok(report)
    }

    fn attempt(&mut self, input: &Input, report: &mut FileReport) -> Result<(), Error> {
        match input.hold(self.stop)? {
            Some(held) => (Run { run: self, input, held: &held, report }).run(),
            None => {
                report.outcome = Outcome::Interrupted;
                Ok(())
            }
        }
    }
}

/// One attempt at one input.
struct Run<'a, 'b> {
    run: &'a mut Ingestor<'b>,
    input: &'a Input,
    held: &'a Held<'a>,
    report: &'a mut FileReport,
}

impl Run<'_, '_> {
    fn run(&mut self) -> Result<(), Error> {
        let given = &self.input.given;
        let (head, content) = unpack::sniff(self.held.open()?, HEAD_BYTES);
        let format = sources::all().into_iter().find(|format| (format.recognise)(&head, given)).ok_or_else(|| Error::Input {
            file: given.label(),
            what: "is of no known format".into(),
            todo: "see `tape ingest --help` for the formats".into(),
        })?;
        if given.mapping.is_some() && format.parser != mapping::PARSER {
            return Err(Error::Input {
                file: given.label(),
                what: format!("is of format {}, which says itself what its fields are: a mapping is for other text", format.parser),
                todo: "leave out --mapping for this file".into(),
            });
        }
        let trail = if format.parser == document::PARSER { Trail::in_steps(document::PART_BYTES_MAX as u64) } else { Trail::default() };
        let mut parser = (format.open)(Box::new(trail.follow(content)), given)?;
        let first = parser.next(CHUNK_RECORDS)?;
        self.report.parser = format.parser.into();
        self.report.dataset = parser.dataset();
        let Some(begin) = self.begin(&format, parser.as_ref(), &head, &trail, &first)? else {
            return Ok(());
        };
        self.publish_all(&format, parser, &head, &trail, first, begin)
    }

    fn publish_all(
        &mut self,
        format: &Format,
        mut parser: Box<dyn Parser>,
        head: &[u8],
        trail: &Trail,
        first: Chunk,
        begin: Begin,
    ) -> Result<(), Error> {
        let Begin { id, position, mut writer, mut at_door, path_facts, mapping } = begin;
        let mut skip = position.as_ref().map_or(0, |position| position.records);
        let corrects = match &position {
            Some(position) if is_lines(format) && begin::line_goes_on(self.held, &self.input.given, position)? => {
                Some(position.last_revision)
            }
            _ => None,
        };
        if corrects.is_some() {
            skip -= 1;
            let note = format!(
                "record {skip} was published when its line was not whole: it is published again as it stands now, as a correction \
                 (change 'correct', a higher revision)"
            );
            self.report.notes.push(note);
        }
        let reads = position.as_ref().map_or(0, |position| position.reads);
        let ends = position.map_or_else(Vec::new, |position| position::ends_with(position.ends, position.bytes, &position.sha256));
        self.report.known = skip;
        let known_state = if is_snapshot(format) { self.run.log.states(StateTopic::State)? } else { HashMap::new() };
        let mut stage = Stage {
            format,
            given: &self.input.given,
            bytes: self.input.bytes,
            head,
            trail,
            id,
            path_facts,
            mapping,
            skip,
            corrects,
            reads,
            ends,
            grown_document: None,
            known_state,
        };
        let stop = self.run.stop;
        let dataset = parser.dataset();
        let own_id = admission::transactional_id(format.parser, is_snapshot(format).then_some(dataset.as_str()), &id);
        let (mut published, mut through_door) = (0, false);
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::sync_channel::<Result<Staged, Error>>(CHUNKS_AHEAD);
            scope.spawn(move || {
                let mut chunk = first;
                loop {
                    let (records, bytes, more) = (chunk.records, chunk.bytes, chunk.end == End::More);
                    let staged = stage.stage(chunk, parser.as_ref());
                    let failed = staged.is_err();
                    if sender.send(staged).is_err() || failed || !more {
                        return;
                    }
                    chunk = parser.next(CHUNK_RECORDS).unwrap_or_else(|why| unreadable_rest(records, bytes, &why));
                }
            });
            for staged in receiver {
                let staged = staged?;
                if stop.load(Ordering::Relaxed) {
                    self.report.outcome = Outcome::Interrupted;
                    return Ok(());
                }
                if let Some(batch) = &staged.batch {
                    if staged.ended && !self.held.is_as_it_was(staged.bytes, &staged.sha256)? {
                        return Err(overwritten(self.input, self.report.total()));
                    }
                    if std::mem::take(&mut through_door) {
                        writer = self.own_writer(&own_id, &id, published)?;
                    }
                    killpoint::here!("ingest.staged");
                    writer.publish(batch)?;
                    killpoint::here!("ingest.published");
                    published = staged.records;
                    through_door = std::mem::take(&mut at_door);
                    self.run.progress.published(staged.report.total(), self.held.bytes_read());
                }
                self.report.add(staged.report);
            }
            Ok(())
        })
    }
}

/// True when each source of this format is a page of which only what changed is published.
fn is_snapshot(format: &Format) -> bool {
    cursor::SNAPSHOT_PARSERS.contains(&format.parser)
}

/// True when a source of this format is lines of text, of which the last may have been read before its end was there.
fn is_lines(format: &Format) -> bool {
    format.parser != document::PARSER && format.parser != dbn::FORMAT.parser && !is_snapshot(format)
}

fn overwritten(input: &Input, published: u64) -> Error {
    let todo = match published {
        0 => "nothing of it was published; ingest it again when nobody writes to it".to_string(),
        _ => format!("{published} records were published already and may be of no version of it; copy the file, and ingest the copy"),
    };
    Error::Input { file: input.given.label(), what: "was overwritten while it was read: what was read is no version of it".into(), todo }
}

/// The end of a source whose rest cannot be read: what came before it is kept, and the source is told of.
fn unreadable_rest(records: i64, bytes: u64, why: &Error) -> Chunk {
    Chunk { rows: vec![], bad: vec![], notes: vec![], records, bytes, end: End::CutShort(why.to_string()) }
}
