//! Where a run begins: who the source is, what of it is published, and the writer under which it goes on.

use super::{Run, is_snapshot};
use crate::Error;
use crate::position::{self, Known, Position, Sought, SourceId};
use crate::report::Outcome;
use crate::source::{Chunk, End, Format, Given, Parser};
use crate::sources::document;
use crate::trail::Trail;
use crate::unpack::Held;
use eventlog::{EventLog, StateTopic, Writer};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest wait before the first return to the door; doubled each time, up to 64 of it.
const DOOR_WAIT: Duration = Duration::from_millis(50);
/// What the transactional id begins with under which every new source is let in: one at a time.
const DOOR: &str = "ingest.new.";

/// How soon a stop ends a wait.
const STOP_CHECK: Duration = Duration::from_millis(20);

/// Where a run begins: who the source is, and what of it is published.
pub(super) struct Begin {
    pub(super) id: SourceId,
    pub(super) position: Option<Position>,
    pub(super) writer: Box<dyn Writer>,
    /// The writer is the door's: it publishes the first chunk, and the source's own writer the others.
    pub(super) at_door: bool,
    pub(super) path_facts: BTreeMap<String, String>,
    /// Hash of the user's mapping, taken once: a mapping that is edited meanwhile changes nothing of this run.
    pub(super) mapping: Option<String>,
}

impl Run<'_, '_> {
    /// Settles who the source is. `None` when all of it is published already.
    pub(super) fn begin(
        &mut self,
        format: &Format,
        parser: &dyn Parser,
        head: &[u8],
        trail: &Trail,
        first: &Chunk,
    ) -> Result<Option<Begin>, Error> {
        let mapping = mapping_sha256(&self.input.given);
        let path_facts = path_facts(format, parser, &self.input.given, mapping.as_deref());
        let name = self.input.given.label();
        // A document is all of its content, of which its parts are only pieces.
        let is_document = format.parser == document::PARSER;
        let first_sha256 = if is_document { trail.hash_of_all() } else { trail.hash_at(first.bytes) };
        let look = |positions: &HashMap<SourceId, Position>| -> Result<(SourceId, Known), Error> {
            let grows = !is_document && !is_snapshot(format);
            let is_own = self.input.given.another_source;
            let sought = Sought { parser: format.parser, path_facts: &path_facts, name: &name, head, grows, is_own };
            let known = match position::find(positions, &sought, || self.held.open())? {
                // A page or document does not grow: a longer one is another one, unless it is this one, of which not all parts are published.
                Known::Source { grown: true, id, .. } if !grows && id != position::source_id(format.parser, &path_facts, &first_sha256) => {
                    Known::New { same_name: false, whole_sha256: None }
                }
                // Its records cannot be told from those that were published: the user says that they may stand beside them.
                Known::Source { grown: true, position, .. } if is_own && position.open_quote => {
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
                self.held.verify(self.run.stop)?;
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
                Known::Source { position, .. } => Some(*position),
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
    pub(super) fn own_writer(&mut self, transactional_id: &str, id: &SourceId, published: i64) -> Result<Box<dyn Writer>, Error> {
        let writer = self.run.log.writer(transactional_id)?;
        self.run.positions = read_positions(self.run.log)?;
        let position = self.run.positions.get(id).map_or(0, |position| position.records);
        if position == published {
            return Ok(writer);
        }
        let doing = format!("publishing {} behind record {published}", self.input.given.label());
        Err(eventlog::Error::Failed { doing, why: format!("another run has published it up to record {position}") }.into())
    }
}

/// A random wait, so that two that turn each other away do not meet for ever; a stop ends it.
pub(super) fn wait_at_door(times: u32, stop: &AtomicBool) {
    let most = DOOR_WAIT.saturating_mul(1 << times.min(6)).as_millis() as u64;
    let wait = Duration::from_millis(RandomState::new().hash_one(times) % most.max(1));
    let end = Instant::now() + wait;
    while Instant::now() < end && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(STOP_CHECK.min(wait));
    }
}

/// True when the position stands inside a line of the input: neither behind a line end nor before one.
pub(super) fn line_goes_on(held: &Held, given: &Given, position: &Position) -> Result<bool, Error> {
    if position.records == 0 || position.bytes == 0 {
        return Ok(false);
    }
    let unread = |why| Error::Read { file: given.label(), byte: position.bytes, why };
    let mut content = held.open()?;
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
pub(super) fn transactional_id(format: &Format, parser: &dyn Parser, id: &SourceId) -> String {
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

/// True for the transactional id of a door.
pub(super) fn is_door(transactional_id: &str) -> bool {
    transactional_id.starts_with(DOOR)
}

/// All known positions.
pub(super) fn read_positions(log: &dyn EventLog) -> Result<HashMap<SourceId, Position>, eventlog::Error> {
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
