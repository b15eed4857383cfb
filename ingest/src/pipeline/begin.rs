//! Where a run begins: who the source is, what of it is published, and the writer under which it goes on.

use super::{Run, is_snapshot};
use crate::Error;
use crate::admission::{self, Admission, Asking, Next};
use crate::position::{Position, Sought, SourceId};
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
        let grows = !is_document && !is_snapshot(format);
        let sought =
            Sought { parser: format.parser, path_facts: &path_facts, name: &name, head, grows, is_own: self.input.given.another_source };
        let dataset = parser.dataset();
        let (is_page, first_records) = (is_snapshot(format), first.records);
        let asking = Asking { sought, is_page, dataset: &dataset, first_records, first_sha256 };
        let mut admission = Admission::default();
        let mut taken: Option<(Box<dyn Writer>, bool)> = None;
        loop {
            let (id, known) = asking.who(&self.run.positions, || self.held.open())?;
            self.report.source_id = hex::encode(id);
            match admission.next(&asking, id, known) {
                Next::Known(position) => {
                    self.tell_known(&position, first, mapping.as_ref());
                    return Ok(None);
                }
                Next::TakeWriter { transactional_id, at_door } => {
                    if taken.is_none() {
                        self.held.verify(self.run.stop)?;
                    }
                    taken = Some((self.run.log.writer(&transactional_id)?, at_door));
                    killpoint::here!("ingest.fenced");
                    self.run.positions = read_positions(self.run.log)?;
                }
                Next::Publish { position, same_name } => {
                    if same_name {
                        self.report.notes.push("a source of this name was read before with other content: this is a new source".into());
                    }
                    let (writer, at_door) = taken.expect("a writer is taken before anything may be published");
                    return Ok(Some(Begin { id, position: position.map(|position| *position), writer, at_door, path_facts, mapping }));
                }
            }
        }
    }

    /// Says of an input that all of it is published, and what of what was asked for could not be done.
    fn tell_known(&mut self, position: &Position, first: &Chunk, mapping: Option<&String>) {
        self.report.known = position.records;
        self.report.outcome = Outcome::Known;
        if let End::CutShort(why) = &first.end
            && first.bytes < position.bytes
        {
            // Not an older copy: a damaged one.
            self.report.known = first.records;
            self.report.outcome = Outcome::CutShort(why.clone());
        }
        if mapping.is_some() && mapping != position.mapping.as_ref() {
            let note = "published before by another mapping, and records are never changed: this one is not applied; \
                        --another-source publishes them by this one beside the others";
            self.report.notes.push(note.into());
        }
        if self.input.given.dataset.as_ref().is_some_and(|dataset| *dataset != position.dataset) {
            self.report.notes.push(format!("published before as dataset {}: --dataset is not applied", position.dataset));
        }
    }

    /// The writer of a source that was let in, for what follows its first chunk. Another run of the same source may have been faster: then
    /// this one begins again from the position that the other one left.
    pub(super) fn own_writer(&mut self, transactional_id: &str, id: &SourceId, published: i64) -> Result<Box<dyn Writer>, Error> {
        let writer = self.run.log.writer(transactional_id)?;
        self.run.positions = read_positions(self.run.log)?;
        match admission::goes_on(&self.run.positions, id, published) {
            Ok(()) => Ok(writer),
            Err(further) => {
                let doing = format!("publishing {} behind record {published}", self.input.given.label());
                Err(eventlog::Error::Failed { doing, why: format!("another run has published it up to record {further}") }.into())
            }
        }
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
