//! One input from its bytes to the log: recognise, find its position, parse, publish chunk by chunk, each with the position behind it.

use crate::Error;
use crate::cursor;
use crate::position::{self, Known, Position, Sought, SourceId};
use crate::report::{FileReport, Outcome};
use crate::rows;
use crate::source::{Chunk, End, Format, Given, HEAD_BYTES, Parser};
use crate::sources::{self, dbn, document, mapping};
use crate::trail::Trail;
use crate::unpack::Input;
use eventlog::{Batch, EventLog, Records, State, StateTopic, Writer};
use schemas::{Family, frame};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Cursor, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Records of a chunk, and so of a transaction. The first position of a source, and so its name, depends on it: never change it.
const CHUNK_RECORDS: usize = 65_536;
/// Chunks that may wait between parsing and publishing.
const CHUNKS_AHEAD: usize = 1;
/// How often a source is taken up again after the log failed in the middle of it.
const ATTEMPTS: usize = 3;
/// How often a new source comes back to the door after another one was let in before it.
const DOOR_ATTEMPTS: u32 = 20;
/// Longest wait before the first return to the door; doubled each time, up to 64 of it.
const DOOR_WAIT: Duration = Duration::from_millis(50);
/// What the transactional id begins with under which every new source is let in: one at a time.
const DOOR: &str = "ingest.new.";

/// How soon a stop ends a wait.
const STOP_CHECK: Duration = Duration::from_millis(20);

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
        Ok(Ingestor { log, progress, stop, positions: read_positions(log)? })
    }

    /// Publishes one input and reports what became of it. Only a fault of the log, never one of the input, is an `Err`.
    pub fn ingest(&mut self, input: &Input) -> Result<FileReport, eventlog::Error> {
        let mut report = FileReport::new(&input.given.label());
        self.progress.begin(&report.file, input.bytes);
        let mut turned_away = 0;
        for attempt in 1.. {
            match (Run { run: self, input, report: &mut report }).run() {
                Ok(()) => break,
                // Another source was let in meanwhile, and nothing of this one was published: who this one is must be asked again.
                Err(Error::Log(eventlog::Error::Fenced { id })) if id.starts_with(DOOR) && turned_away < DOOR_ATTEMPTS => {
                    turned_away += 1;
                    wait_at_door(turned_away, self.stop);
                }
                // Nothing is known of the transaction: begin again from the position that the log has.
                Err(Error::Log(eventlog::Error::Failed { doing, why })) if attempt < ATTEMPTS => {
                    tracing::warn!(file = report.file, doing, why, attempt, "publishing failed, taking the source up from its position");
                }
                Err(Error::Log(why)) => return Err(why),
                Err(why) => {
                    report.outcome = Outcome::Failed(why.to_string());
                    break;
                }
            }
        }
        self.progress.end();
        Ok(report)
    }
}

/// One attempt at one input.
struct Run<'a, 'b> {
    run: &'a mut Ingestor<'b>,
    input: &'a Input,
    report: &'a mut FileReport,
}

/// Where a run begins: who the source is, and what of it is published.
struct Begin {
    id: SourceId,
    position: Option<Position>,
    writer: Box<dyn Writer>,
    /// The writer is the door's: it publishes the first chunk, and the source's own writer the others.
    at_door: bool,
    path_facts: BTreeMap<String, String>,
    /// Hash of the user's mapping, taken once: a mapping that is edited meanwhile changes nothing of this run.
    mapping: Option<String>,
}

impl Run<'_, '_> {
    fn run(&mut self) -> Result<(), Error> {
        let given = &self.input.given;
        let Some(_alone) = self.input.lock(self.run.stop)? else {
            self.report.outcome = Outcome::Interrupted;
            return Ok(());
        };
        let (head, content) = sniff(self.input.open()?);
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

    /// Settles who the source is. `None` when all of it is published already.
    fn begin(&mut self, format: &Format, parser: &dyn Parser, head: &[u8], trail: &Trail, first: &Chunk) -> Result<Option<Begin>, Error> {
        let mapping = mapping_sha256(&self.input.given);
        let path_facts = path_facts(format, parser, &self.input.given, mapping.as_deref());
        let name = self.input.given.label();
        let first_sha256 = trail.hash_at(first.bytes);
        let look = |positions: &HashMap<SourceId, Position>| -> Result<(SourceId, Known), Error> {
            let grows = format.parser != document::PARSER && !is_snapshot(format);
            let is_own = self.input.given.another_source;
            let sought = Sought { parser: format.parser, path_facts: &path_facts, name: &name, head, grows, is_own };
            let known = match position::find(positions, &sought, || self.input.open())? {
                // A page or document does not grow: a longer one is another one, unless this one's parts were not all published yet.
                Known::Source { grown: true, position, .. } if !grows && position.reads > 0 => {
                    Known::New { same_name: false, whole_sha256: None }
                }
                // A source without records can double none: an empty answer to the query that a fuller one began with.
                Known::Shorter { .. } if first.records == 0 => Known::New { same_name: false, whole_sha256: None },
                known => known,
            };
            let id = match &known {
                Known::Source { position, grown: true, .. } if position.open_quote => return Err(open_quote(&name)),
                Known::Source { id, .. } => *id,
                Known::Shorter { name: source } => return Err(shorter(&name, source)),
                Known::New { whole_sha256, .. } => {
                    let whole = whole_sha256.unwrap_or(first_sha256);
                    position::free_id(format.parser, &path_facts, first_sha256, whole, |id| positions.contains_key(id))
                }
            };
            Ok((id, known))
        };
        // Opening the writer settles what a predecessor left open, so what is known must be read again after it.
        let (mut id, mut known) = look(&self.run.positions)?;
        let mut verified = false;
        loop {
            self.report.source_id = hex::encode(id);
            if let Known::Source { position, grown: false, .. } = &known {
                self.report.known = position.records;
                self.report.outcome = Outcome::Known;
                if let End::CutShort(why) = &first.end
                    && first.bytes < position.bytes
                {
                    // Not an older copy: a damaged one.
                    self.report.known = first.records;
                    self.report.outcome = Outcome::CutShort(why.clone());
                }
                if mapping.is_some() && mapping != position.mapping {
                    let note = "published before by another mapping, and records are never changed: this one is not applied; \
                                --another-source publishes them by this one beside the others";
                    self.report.notes.push(note.into());
                }
                if self.input.given.dataset.as_ref().is_some_and(|dataset| *dataset != position.dataset) {
                    self.report.notes.push(format!("published before as dataset {}: --dataset is not applied", position.dataset));
                }
                return Ok(None);
            }
            if !std::mem::replace(&mut verified, true) {
                self.input.verify(self.run.stop)?;
            }
            let at_door = matches!(known, Known::New { .. }) && !is_snapshot(format);
            let transactional_id = if at_door { door(format, &path_facts) } else { transactional_id(format, parser, &id) };
            let writer = self.run.log.writer(&transactional_id)?;
            self.run.positions = read_positions(self.run.log)?;
            let (earlier, was_new) = (id, matches!(known, Known::New { .. }));
            (id, known) = look(&self.run.positions)?;
            let is_new = matches!(known, Known::New { .. });
            if id != earlier || is_new != was_new || matches!(known, Known::Source { grown: false, .. }) {
                continue;
            }
            let position = match known {
                Known::Source { position, .. } => Some(position),
                Known::New { same_name, .. } => {
                    if same_name {
                        self.report.notes.push("a source of this name was read before with other content: this is a new source".into());
                    }
                    None
                }
                Known::Shorter { .. } => unreachable!("refused when it was looked up"),
            };
            return Ok(Some(Begin { id, position, writer, at_door, path_facts, mapping }));
        }
    }

    /// The writer of a source that was let in, for what follows its first chunk. Another run of the same source may have been faster: then
    /// this one begins again from the position that the other one left.
    fn own_writer(&mut self, transactional_id: &str, id: &SourceId, published: i64) -> Result<Box<dyn Writer>, Error> {
        let writer = self.run.log.writer(transactional_id)?;
        self.run.positions = read_positions(self.run.log)?;
        let position = self.run.positions.get(id).map_or(0, |position| position.records);
        if position == published {
            return Ok(writer);
        }
        let doing = format!("publishing {} behind record {published}", self.input.given.label());
        Err(eventlog::Error::Failed { doing, why: format!("another run has published it up to record {position}") }.into())
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
            Some(position) if is_lines(format) && line_goes_on(self.input, position)? => Some(position.last_revision),
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
            known_state,
        };
        let stop = self.run.stop;
        let own_id = transactional_id(format, parser.as_ref(), &id);
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
                    if std::mem::take(&mut through_door) {
                        writer = self.own_writer(&own_id, &id, published)?;
                    }
                    writer.publish(batch)?;
                    published = staged.records;
                    through_door = std::mem::take(&mut at_door);
                    self.run.progress.published(staged.report.total(), self.input.bytes_read());
                }
                self.report.add(staged.report);
            }
            Ok(())
        })
    }
}

/// A random wait, so that two that turn each other away do not meet for ever; a stop ends it.
fn wait_at_door(times: u32, stop: &AtomicBool) {
    let most = DOOR_WAIT.saturating_mul(1 << times.min(6)).as_millis() as u64;
    let wait = Duration::from_millis(RandomState::new().hash_one(times) % most.max(1));
    let end = Instant::now() + wait;
    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(STOP_CHECK.min(wait));
    }
}

/// The end of a source whose rest cannot be read: what came before it is kept, and the source is told of.
fn unreadable_rest(records: i64, bytes: u64, why: &Error) -> Chunk {
    Chunk { rows: vec![], bad: vec![], notes: vec![], records, bytes, end: End::CutShort(why.to_string()) }
}

/// What parsing hands to publishing.
struct Staged {
    batch: Option<Batch>,
    /// Records consumed since the source's beginning.
    records: i64,
    report: FileReport,
}

/// What every chunk of a source shares.
struct Stage<'a> {
    format: &'a Format,
    given: &'a Given,
    bytes: u64,
    head: &'a [u8],
    trail: &'a Trail,
    id: SourceId,
    path_facts: BTreeMap<String, String>,
    mapping: Option<String>,
    skip: i64,
    /// The revision under which the first record was published when its line was not whole.
    corrects: Option<i32>,
    reads: i32,
    ends: Vec<(u64, String)>,
    known_state: HashMap<String, bytes::Bytes>,
}

impl Stage<'_> {
    /// Chunk to transaction: the new records, the bad ones as quarantine, the position behind them, and at the end the source's own row.
    fn stage(&mut self, chunk: Chunk, parser: &dyn Parser) -> Result<Staged, Error> {
        let mut report = FileReport::new(&self.given.label());
        let mut batches = Vec::new();
        for mut family_rows in chunk.rows {
            let family = family_rows.family();
            rows::complete(&mut family_rows, &self.id);
            let batch = rows::from_record(family_rows.finish()?, family, self.skip)?;
            let batch = match self.corrects {
                Some(revision) => rows::corrected(batch, family, self.skip, revision)?,
                None => batch,
            };
            let batch = if family == Family::Documents { rows::as_received(batch, self.bytes)? } else { batch };
            batches.push((family, batch));
        }
        let mut states = Vec::new();
        if is_snapshot(self.format) {
            for (family, batch) in &mut batches {
                let decision = cursor::decide(*family, batch, &chunk.bad, &self.known_state, &self.given.label())?;
                report.unchanged += decision.unchanged as u64;
                states.extend(decision.states.into_iter().map(|(key, value)| State { topic: StateTopic::State, key, value: Some(value) }));
                *batch = decision.batch;
            }
        }
        let bad: Vec<_> = chunk.bad.iter().filter(|bad| bad.record >= self.skip).collect();
        if !bad.is_empty() {
            batches.push((Family::Quarantine, rows::quarantine(&parser.dataset(), &self.id, &bad)?));
        }
        report.quarantine(&bad, self.given);
        report.notes = chunk.notes;
        for (family, batch) in &batches {
            report.count(*family, batch.num_rows() as u64);
        }
        match &chunk.end {
            End::More => {}
            End::Finished | End::OpenQuote => report.outcome = Outcome::Done,
            End::CutShort(why) => report.outcome = Outcome::CutShort(why.clone()),
            End::Unlike(why) => report.outcome = Outcome::Unlike(why.clone()),
        }
        let ended = chunk.end != End::More;
        let sha256 = self.trail.hash_at(chunk.bytes);
        let nothing_new = batches.iter().all(|(_, batch)| batch.num_rows() == 0) && chunk.records <= self.skip;
        if nothing_new && (!ended || self.reads > 0) {
            return Ok(Staged { batch: None, records: chunk.records, report });
        }
        if ended {
            let row = rows::source_row(self.format.parser, self.given, self.bytes, parser, &self.id, self.reads, &sha256)?;
            batches.push((Family::Sources, row));
        }
        let position = Position {
            parser: self.format.parser.into(),
            path_facts: self.path_facts.clone(),
            name: self.given.label(),
            records: chunk.records,
            bytes: chunk.bytes,
            sha256: hex::encode(sha256),
            head: position::head(self.head, chunk.bytes),
            ends: self.ends.clone(),
            dataset: parser.dataset(),
            reads: self.reads + i32::from(ended),
            mapping: self.mapping.clone(),
            last_revision: self.corrects.filter(|_| chunk.records == self.skip + 1).map_or(0, |revision| revision + 1),
            open_quote: chunk.end == End::OpenQuote,
        };
        self.ends = position::ends_with(std::mem::take(&mut self.ends), position.bytes, &position.sha256);
        let value = serde_json::to_vec(&position).expect("a position is plain text and numbers");
        states.push(State { topic: StateTopic::Positions, key: hex::encode(self.id), value: Some(value.into()) });
        let records = batches
            .iter()
            .filter(|(_, batch)| batch.num_rows() > 0)
            .map(|(family, batch)| {
                Ok(Records { family: *family, keys: frame::keys(*family, batch), values: frame::encode(*family, batch)? })
            })
            .collect::<Result<_, schemas::Error>>()?;
        Ok(Staged { batch: Some(Batch { records, states }), records: chunk.records, report })
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

/// True when the position stands inside a line of the input: neither behind a line end nor before one.
fn line_goes_on(input: &Input, position: &Position) -> Result<bool, Error> {
    if position.records == 0 || position.bytes == 0 {
        return Ok(false);
    }
    let unread = |why| Error::Read { file: input.given.label(), byte: position.bytes, why };
    let mut content = input.open()?;
    io::copy(&mut content.by_ref().take(position.bytes - 1), &mut io::sink()).map_err(unread)?;
    let mut around = Vec::new();
    content.take(2).read_to_end(&mut around).map_err(unread)?;
    Ok(matches!(around[..], [before, behind] if before != b'\n' && behind != b'\n' && behind != b'\r'))
}

/// SHA-256 of the user's mapping file, in hex. One that cannot be read has been refused before.
fn mapping_sha256(given: &Given) -> Option<String> {
    let mapping = std::fs::read(given.mapping.as_ref()?).ok()?;
    Some(hex::encode(Sha256::digest(mapping)))
}

/// What the path adds to the content, and of a page whose capture time was given, that time: the same page seen again later is news.
fn path_facts(format: &Format, parser: &dyn Parser, given: &Given, mapping: Option<&str>) -> BTreeMap<String, String> {
    let mut facts = parser.path_facts();
    if let (true, Some(mapping)) = (given.another_source, mapping) {
        facts.insert("mapping".into(), mapping.into());
    }
    if let (true, true, Some(captured_ms)) = (is_snapshot(format), given.captured_given, given.captured_ms) {
        facts.insert("captured_ms".into(), captured_ms.to_string());
    }
    facts
}

fn shorter(file: &str, source: &str) -> Error {
    Error::Input {
        file: file.into(),
        what: format!("begins like the source {source}, which was published further than this file reaches: an older or a cut copy of it"),
        todo: "nothing was published; ingest the whole file, or say --another-source if it is a source of its own".into(),
    }
}

fn open_quote(file: &str) -> Error {
    Error::Input {
        file: file.into(),
        what: "has grown since it was read to its end inside a quoted field: the lines of that field were taken for records of their own, and \
               what came behind the quote cannot be told from what was published"
            .into(),
        todo: "nothing more was published; say --another-source to publish the whole file beside what is there".into(),
    }
}

/// Who may publish at one time: one run per source, and of pages that are compared with each other one per dataset.
fn transactional_id(format: &Format, parser: &dyn Parser, id: &SourceId) -> String {
    if is_snapshot(format) {
        return format!("ingest.{}.{}", format.parser, parser.dataset());
    }
    format!("ingest.{}", hex::encode(id))
}

/// The door for new sources that may be the same one: whether two copies of different length are one source can be told only when the first
/// of them has a position, so they are let in one after the other. Who comes to the door turns away the one that stands in it.
fn door(format: &Format, path_facts: &BTreeMap<String, String>) -> String {
    format!("{DOOR}{}", hex::encode(position::source_id(format.parser, path_facts, &[0; 32])))
}

/// All known positions.
fn read_positions(log: &dyn EventLog) -> Result<HashMap<SourceId, Position>, eventlog::Error> {
    let states = log.states(StateTopic::Positions)?;
    states
        .into_iter()
        .map(|(key, value)| {
            let broken = |why: String| eventlog::Error::Failed { doing: format!("reading the position of source {key}"), why };
            let id = hex::decode(&key).ok().and_then(|id| id.try_into().ok()).ok_or_else(|| broken("its key is no source id".into()))?;
            let position = serde_json::from_slice(&value).map_err(|e| broken(e.to_string()))?;
            Ok((id, position))
        })
        .collect()
}

/// The first bytes, and the content from its beginning; an error met in the first bytes comes again where it was.
fn sniff(mut content: Box<dyn Read + Send>) -> (Vec<u8>, Box<dyn Read + Send>) {
    let mut head = Vec::new();
    let mut fault = None;
    let mut buffer = vec![0; 8192];
    while head.len() < HEAD_BYTES {
        let want = buffer.len().min(HEAD_BYTES - head.len());
        match content.read(&mut buffer[..want]) {
            Ok(0) => break,
            Ok(count) => head.extend_from_slice(&buffer[..count]),
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => {
                fault = Some(why);
                break;
            }
        }
    }
    let whole: Box<dyn Read + Send> = match fault {
        None => Box::new(Cursor::new(head.clone()).chain(content)),
        Some(why) => Box::new(Cursor::new(head.clone()).chain(Broken(Some(why)))),
    };
    (head, whole)
}

/// A reader that fails as an earlier one did.
struct Broken(Option<io::Error>);

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(self.0.take().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()))
    }
}
