//! A parsed chunk to a transaction: the new records, the bad ones as quarantine, the position behind them. Pure.

use super::is_snapshot;
use crate::Error;
use crate::cursor;
use crate::position::{self, Position, SourceId};
use crate::report::{FileReport, Outcome};
use crate::rows;
use crate::source::{Chunk, End, Format, Given, Parser};
use crate::sources::document;
use crate::trail::Trail;
use arrow::array::RecordBatch;
use eventlog::{Batch, Records, State, StateTopic};
use schemas::{Family, frame};
use std::collections::{BTreeMap, HashMap};

/// What parsing hands to publishing.
pub(super) struct Staged {
    pub(super) batch: Option<Batch>,
    /// Records consumed since the source's beginning.
    pub(super) records: i64,
    /// Unpacked bytes consumed, and their hash.
    pub(super) bytes: u64,
    pub(super) sha256: [u8; 32],
    /// Nothing comes behind it.
    pub(super) ended: bool,
    pub(super) report: FileReport,
}

/// What every chunk of a source shares.
pub(super) struct Stage<'a> {
    pub(super) format: &'a Format,
    pub(super) given: &'a Given,
    pub(super) bytes: u64,
    pub(super) head: &'a [u8],
    pub(super) trail: &'a Trail,
    pub(super) id: SourceId,
    pub(super) path_facts: BTreeMap<String, String>,
    pub(super) mapping: Option<String>,
    pub(super) skip: i64,
    /// The revision under which the first record was published when its line was not whole.
    pub(super) corrects: Option<i32>,
    pub(super) reads: i32,
    pub(super) ends: Vec<(u64, String)>,
    /// What the file has become as a document, until there is something new to go with it.
    pub(super) grown_document: Option<RecordBatch>,
    pub(super) known_state: HashMap<String, bytes::Bytes>,
}

impl Stage<'_> {
    /// Chunk to transaction: the new records, the bad ones as quarantine, the position behind them, and at the end the source's own row.
    pub(super) fn stage(&mut self, chunk: Chunk, parser: &dyn Parser) -> Result<Staged, Error> {
        let mut report = FileReport::new(&self.given.label());
        let mut batches = Vec::new();
        for mut family_rows in chunk.rows {
            let family = family_rows.family();
            rows::complete(&mut family_rows, &self.id);
            let batch = family_rows.finish()?;
            if family == Family::Documents && self.format.parser != document::PARSER && self.skip > 0 && rows::is_of_records(&batch, family)
            {
                // The file as a whole, beside the records that it was read for: it has grown too. A header has not.
                self.grown_document = Some(rows::as_received(rows::grown(batch, family, self.reads.max(1))?, self.bytes)?);
                continue;
            }
            let batch = rows::from_record(batch, family, self.skip)?;
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
        match &chunk.end {
            End::More => {}
            End::Finished | End::OpenQuote => report.outcome = Outcome::Done,
            End::CutShort(why) => report.outcome = Outcome::CutShort(why.clone()),
            End::Unlike(why) => report.outcome = Outcome::Unlike(why.clone()),
        }
        let ended = chunk.end != End::More;
        let sha256 = self.trail.hash_at(chunk.bytes);
        let nothing_new = batches.iter().all(|(_, batch)| batch.num_rows() == 0) && chunk.records <= self.skip;
        let staged = |batch, report| Staged { batch, records: chunk.records, bytes: chunk.bytes, sha256, ended, report };
        if nothing_new && (!ended || self.reads > 0) {
            return Ok(staged(None, report));
        }
        batches.extend(self.grown_document.take().map(|document| (Family::Documents, document)));
        for (family, batch) in &batches {
            report.count(*family, batch.num_rows() as u64);
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
        Ok(staged(Some(Batch { records, states, ..Batch::default() }), report))
    }
}
