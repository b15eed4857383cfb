//! Records of a text file to chunks: counts them, keeps what is wrong with one away from its neighbours, and tells a bad file from a bad record.

use super::records::{Fields, Records, Step};
use crate::Error;
use crate::source::{Bad, Chunk, End, Header, Parser};
use schemas::{Family, Rows};
use std::collections::BTreeMap;

/// What is wrong with one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file's name of the field; `None` = the whole record.
    pub field: Option<String>,
    /// What is wrong, what was expected.
    pub reason: String,
    /// Set when a whole file of such faults is not what it was taken for: what to do about it.
    pub file: Option<&'static str>,
}

impl Fault {
    /// A value that cannot be taken.
    pub fn value(field: &str, reason: impl Into<String>) -> Fault {
        Fault { field: Some(field.into()), reason: reason.into(), file: None }
    }
}

/// So many records at the beginning, none of them usable, show that a file is not what it was taken for.
const HOPELESS_ENOUGH: usize = 64;

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// Its columns are set; the row is not yet ended.
    Row,
    /// It holds nothing of the family.
    Nothing,
}

/// Turns the fields of a record into a row: what differs between text formats.
pub trait RowMaker: Send {
    /// The family of the rows.
    fn family(&self) -> Family;

    /// Number of fields of every record.
    fn width(&self) -> usize;

    /// Names of the fields, for messages.
    fn expected(&self) -> String;

    /// What to do about a file in which no record has the right number of fields; `None` where a header has shown that the file is the right one.
    fn misfit(&self) -> Option<&'static str> {
        None
    }

    /// Sets the columns of the current row, all but `source_record` and `source_byte`.
    fn make(&mut self, fields: &Fields, rows: &mut Rows) -> Result<Made, Fault>;

    /// The dataset, once a row was made.
    fn dataset(&self) -> String;

    /// What a user should be told at the end of the file.
    fn last_notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A text file that is read row by row.
pub struct Table<M> {
    /// For messages.
    pub file: String,
    /// The file, after its header.
    pub records: Records,
    /// Makes rows of records.
    pub maker: M,
    /// Header facts.
    pub header: Header,
    /// What the path adds.
    pub path_facts: BTreeMap<String, String>,
    /// What is to be told with the first chunk.
    pub notes: Vec<String>,
    /// Further rows that go out with the first chunk.
    pub extra: Vec<Rows>,
    /// Records consumed.
    pub done: i64,
    /// An error that waits until the records before it are out.
    pub failed: Option<Error>,
}

impl<M: RowMaker> Table<M> {
    /// A table whose header is read.
    pub fn new(file: String, records: Records, maker: M, header: Header, path_facts: BTreeMap<String, String>) -> Table<M> {
        Table { file, records, maker, header, path_facts, notes: vec![], extra: vec![], done: 0, failed: None }
    }

    fn read(&mut self, records_max: usize) -> Result<Chunk, Error> {
        let family = self.maker.family();
        let (record_column, byte_column) = (family.topic().column("source_record"), family.topic().column("source_byte"));
        let first = self.done == 0;
        let mut rows = Rows::new(family);
        let mut bad = Vec::new();
        let mut hopeless = None;
        let mut usable = 0;
        let mut read = 0;
        let end = loop {
            let doubtful = first && usable == 0 && hopeless.is_some() && read < HOPELESS_ENOUGH;
            if read >= records_max && !doubtful {
                break End::More;
            }
            let (place, fault) = match self.records.step() {
                Ok(Step::Record(place)) => match self.make(&mut rows) {
                    Ok(made) => {
                        usable += 1;
                        if made == Made::Row {
                            rows.i64(record_column, self.done);
                            rows.i64(byte_column, place.byte as i64);
                            rows.end_row();
                        }
                        (place, None)
                    }
                    Err(fault) => {
                        rows.abandon_row();
                        (place, Some(fault))
                    }
                },
                Ok(Step::Bad(place, reason)) => (place, Some(Fault { field: None, reason, file: None })),
                Ok(Step::Finished) if self.records.ended_in_quote() => break End::OpenQuote,
                Ok(Step::Finished) => break End::Finished,
                Ok(Step::Unfinished) => {
                    self.notes.push("the last line has no end yet: it is left for the next time".into());
                    break End::Finished;
                }
                Ok(Step::CutShort(why)) => break End::CutShort(why),
                Err(error) if read == 0 => return Err(error),
                Err(error) => {
                    self.failed = Some(error);
                    break End::More;
                }
            };
            if let Some(fault) = fault {
                hopeless = Some((fault.file, place, fault.reason.clone()));
                bad.push(Bad {
                    record: self.done,
                    byte: place.byte as i64,
                    line: Some(place.line),
                    field: fault.field,
                    reason: fault.reason,
                    raw: self.records.raw(place).to_vec(),
                });
            }
            self.done += 1;
            read += 1;
        };
        if let (true, 0, Some((Some(todo), place, reason))) = (first, usable, hopeless) {
            let what = format!("no record can be read; line {} (byte {}): {reason}", place.line, place.byte);
            return Err(Error::Input { file: self.file.clone(), what, todo: todo.into() });
        }
        let mut notes = std::mem::take(&mut self.notes);
        notes.extend(self.records.take_notes());
        if end != End::More {
            notes.extend(self.maker.last_notes());
        }
        let mut families = std::mem::take(&mut self.extra);
        families.push(rows);
        Ok(Chunk { rows: families, bad, notes, records: self.done, bytes: self.records.consumed(), end })
    }

    fn make(&mut self, rows: &mut Rows) -> Result<Made, Fault> {
        let (found, expected) = (self.records.fields().len(), self.maker.width());
        if found != expected {
            let reason = format!("has {found} fields, expected {expected} ({})", self.maker.expected());
            return Err(Fault { field: None, reason, file: self.maker.misfit() });
        }
        self.maker.make(self.records.fields(), rows)
    }
}

impl<M: RowMaker> Parser for Table<M> {
    fn dataset(&self) -> String {
        self.maker.dataset()
    }

    fn header(&self) -> Header {
        self.header.clone()
    }

    fn path_facts(&self) -> BTreeMap<String, String> {
        self.path_facts.clone()
    }

    fn next(&mut self, records_max: usize) -> Result<Chunk, Error> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.read(records_max.max(1)),
        }
    }
}

/// Reads the header line.
pub fn header_line(records: &mut Records, file: &str, expected: &str) -> Result<Vec<String>, Error> {
    let input = |what: String, todo: &str| Error::Input { file: file.into(), what, todo: todo.into() };
    match records.step()? {
        Step::Record(_) => Ok(records.fields().iter().map(|name| name.trim().to_string()).collect()),
        Step::Bad(_, reason) => Err(input(format!("the header line {reason}"), "expected a line of column names")),
        Step::CutShort(why) => Err(input(format!("ends before its header line does, at {why}"), "fetch the file again")),
        Step::Finished => Err(input("is empty".into(), &format!("expected a header line: {expected}"))),
        Step::Unfinished => Err(input("has no whole header line yet".into(), "try again when the writer has written more")),
    }
}

/// For each expected column its position in the header, or an error that names every missing, extra and repeated one.
pub fn positions(file: &str, header: &[String], expected: &[String]) -> Result<Vec<usize>, Error> {
    let missing: Vec<&str> = expected.iter().filter(|name| !header.contains(name)).map(String::as_str).collect();
    let extra: Vec<&str> = header.iter().filter(|name| !expected.contains(name)).map(String::as_str).collect();
    let twice: Vec<&str> = repeated(header);
    if missing.is_empty() && extra.is_empty() && twice.is_empty() {
        return Ok(expected.iter().map(|name| header.iter().position(|h| h == name).expect("no column is missing")).collect());
    }
    let part = |what: &str, names: Vec<&str>| (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")));
    let what = [part("missing", missing), part("extra", extra), part("twice", twice)].into_iter().flatten().collect::<Vec<_>>().join("; ");
    Err(Error::Input {
        file: file.into(),
        what: format!("its columns are not the expected ones: {what}"),
        todo: format!("expected {}; rename the columns, or describe the file in a mapping (--mapping FILE)", expected.join(", ")),
    })
}

/// A dataset code: what a DBN header, a partition folder and a log key can hold.
pub fn is_dataset(code: &str) -> bool {
    (1..=15).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// Names that stand more than once.
pub fn repeated(header: &[String]) -> Vec<&str> {
    header.iter().enumerate().filter(|(at, name)| header[..*at].contains(name)).map(|(_, name)| name.as_str()).collect()
}

/// The column names in the first line of a file, for recognising it; empty when there is no whole first line.
pub fn first_line(head: &[u8], delimiter: u8) -> Vec<String> {
    let Some(end) = head.iter().position(|byte| *byte == b'\n') else { return split_line(head, delimiter) };
    split_line(&head[..end], delimiter)
}

fn split_line(line: &[u8], delimiter: u8) -> Vec<String> {
    let shape = super::records::Shape { delimiter, multiline: false, growing: false };
    let mut records = Records::new(Box::new(std::io::Cursor::new(line.to_vec())), String::new(), shape);
    match records.step() {
        Ok(Step::Record(_)) => records.fields().iter().map(|name| name.trim().to_string()).collect(),
        _ => Vec::new(),
    }
}
