//! What a run of ingest did, file by file, for the summary and the exit code.

use crate::source::{Bad, Given};
use schemas::Family;
use std::collections::BTreeMap;

/// How an input ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Outcome {
    /// Read to its end.
    #[default]
    Done,
    /// Every byte of it was published before.
    Known,
    /// It ended inside a record: what was complete is published.
    CutShort(String),
    /// The run was stopped; the rest comes next time.
    Interrupted,
    /// It could not be read.
    Failed(String),
    /// A folder or an archive without files.
    Empty,
    /// It is kept whole as a document, but it is not what its name says.
    Unlike(String),
}

/// What became of one input.
#[derive(Debug, Clone, Default)]
pub struct FileReport {
    /// File (and member).
    pub file: String,
    /// Parser that read it.
    pub parser: String,
    /// Dataset of its records.
    pub dataset: String,
    /// Its id in hex.
    pub source_id: String,
    /// Records published now, by family.
    pub records: BTreeMap<Family, u64>,
    /// Records of it that had been published before.
    pub known: i64,
    /// Values of a snapshot that are as they were, and so not published again.
    pub unchanged: u64,
    /// Bad records by reason, with the first place of each.
    pub quarantined: BTreeMap<String, (u64, String)>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// How it ended.
    pub outcome: Outcome,
}

impl FileReport {
    /// Nothing done yet.
    pub fn new(file: &str) -> FileReport {
        FileReport { file: file.into(), ..FileReport::default() }
    }

    /// Counts records of a family.
    pub fn count(&mut self, family: Family, records: u64) {
        if records > 0 {
            *self.records.entry(family).or_default() += records;
        }
    }

    /// Counts bad records by reason.
    pub fn quarantine(&mut self, bad: &[&Bad], given: &Given) {
        for bad in bad {
            let place = bad.line.map_or(format!("byte {}", bad.byte), |line| format!("line {line}, byte {}", bad.byte));
            let reason = bad.field.as_ref().map_or(bad.reason.clone(), |field| format!("{field}: {}", bad.reason));
            self.quarantined.entry(reason).or_insert_with(|| (0, format!("{} {place}", given.label()))).0 += 1;
        }
    }

    /// Records published, all families.
    pub fn total(&self) -> u64 {
        self.records.values().sum()
    }

    /// Number of bad records.
    pub fn bad(&self) -> u64 {
        self.quarantined.values().map(|(count, _)| count).sum()
    }

    /// Adds what a further chunk of the same file did; its outcome stands.
    pub fn add(&mut self, chunk: FileReport) {
        for (family, records) in chunk.records {
            self.count(family, records);
        }
        for (reason, (count, place)) in chunk.quarantined {
            self.quarantined.entry(reason).or_insert((0, place)).0 += count;
        }
        for note in chunk.notes {
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
        self.unchanged += chunk.unchanged;
        self.outcome = chunk.outcome;
    }
}
