//! Databento DBN, versions 1 to 3: every record becomes a row of its family, goes to quarantine whole, or is named as cut off.
//!
//! ```text
//! header.rs  metadata ──► documents, instruments, symbols.rs
//! stream.rs  bytes ──► one record ──► row.rs (by layout.rs) ──► rows ──► write_back.rs ──► the same record
//! ```
//!
//! Records are taken as they are: no version is upgraded, so nothing that a version says is lost. What a live gateway says among the records
//! is kept too: its symbol mappings are rows of `instruments`, its system and error messages go whole to `documents`.

mod header;
mod layout;
mod row;
mod stream;
mod symbols;
pub mod write_back;

#[cfg(test)]
mod tests;

use crate::Error;
use crate::source::{Bad, Chunk, End, Format, Given, Header, Parser};
use layout::TS_OUT_LEN;
use row::{FileFacts, Plan};
use schemas::{Family, Rows};
use std::collections::BTreeMap;
use std::io::Read;
use stream::{Frame, Window};
use symbols::Symbols;

/// The format's entry in the list of formats.
pub const FORMAT: Format = Format { parser: "dbn/1", recognise, open };

const MAGIC: &[u8] = b"DBN";
/// Enough to tell a DBN file, a DBZ file and a record apart.
const HEAD_BYTES: usize = 12;
/// How much of an unreadable rest is kept in quarantine.
const LOST_BYTES_MAX: usize = 16 << 20;
/// A dataset code has at most so many characters, in DBN's header and in ours.
const DATASET_LEN_MAX: usize = 15;

/// True when the bytes are a legacy DBZ file, DBN's predecessor: a zstd frame that decoders skip, with its metadata in it. A caller that
/// unpacks zstd must ask before it does, because unpacking throws the metadata away.
pub fn is_dbz(head: &[u8]) -> bool {
    match head.first_chunk::<12>() {
        Some(head) => {
            let magic = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
            (0x184D_2A50..0x184D_2A60).contains(&magic) && &head[8..11] == b"DBZ"
        }
        None => false,
    }
}

fn recognise(head: &[u8], given: &Given) -> bool {
    is_dbz(head) || has_magic(head) || is_fragment(head, given)
}

/// The magic with a version after it. `DBN` before a printable character or a line end is the beginning of some text, unless the length
/// of a header follows, which no text looks like.
fn has_magic(head: &[u8]) -> bool {
    match head.strip_prefix(MAGIC) {
        Some([]) => true,
        Some([version, length @ ..]) => {
            !(version.is_ascii_graphic() || version.is_ascii_whitespace()) || length.iter().take(4).any(|b| *b == 0)
        }
        None => false,
    }
}

/// Records without a header are only taken for such where the user says so, and the first one is what he says.
fn is_fragment(head: &[u8], given: &Given) -> bool {
    let (Some(version), Some(_), [length, rtype, ..]) = (given.dbn_version, &given.schema, head) else { return false };
    let versions = if (1..=3).contains(&version) { version..=version } else { 1..=3 };
    versions.into_iter().any(|version| ts_out_of(version, *rtype, usize::from(*length) * 4).is_some())
}

/// Whether a record of this type and length carries `ts_out`; `None` = it is no record of this version.
fn ts_out_of(version: u8, rtype: u8, length: usize) -> Option<bool> {
    let size = layout::layout(version, rtype)?.size();
    [false, true].into_iter().find(|ts_out| length == size + if *ts_out { TS_OUT_LEN } else { 0 })
}

fn open(mut input: Box<dyn Read + Send>, given: &Given) -> Result<Box<dyn Parser>, Error> {
    let head = header::read_up_to(&mut input, Vec::new(), HEAD_BYTES, given)?;
    if is_dbz(&head) {
        return Err(Error::Input {
            file: given.label(),
            what: "legacy DBZ, which is not read, expected DBN version 1, 2 or 3".into(),
            todo: "convert it with Databento's own tool: dbn FILE.dbz -o FILE.dbn.zst".into(),
        });
    }
    let fragment = match (given.dbn_version, &given.schema) {
        (Some(version), Some(schema)) if !head.starts_with(MAGIC) => Some((version, schema)),
        _ => None,
    };
    let ts_out = fragment.and_then(|(version, _)| ts_out_of(version, *head.get(1)?, usize::from(head[0]) * 4));
    let input: Box<dyn Read + Send> = Box::new(std::io::Cursor::new(head).chain(input));
    let parser = match fragment {
        Some((version, schema)) => DbnParser::of_fragment(input, version, schema, ts_out.unwrap_or(false), given)?,
        None => DbnParser::of_file(input, given)?,
    };
    Ok(Box::new(parser))
}

struct DbnParser {
    dataset: String,
    header: Header,
    /// Rows and notes of the header, until the first chunk takes them.
    first: (Vec<Rows>, Vec<String>),
    plans: Vec<Option<Plan>>,
    symbols: Symbols,
    window: Window,
    records: i64,
    /// Record types that contradict the file's schema and were told of.
    told: Vec<u8>,
}

impl DbnParser {
    fn of_file(mut input: Box<dyn Read + Send>, given: &Given) -> Result<DbnParser, Error> {
        let raw = header::read(&mut input, given)?;
        let metadata = &raw.metadata;
        let dataset = dataset(Some(&metadata.dataset), given)?;
        let file = FileFacts { version: metadata.version, schema: metadata.schema, ts_out: metadata.ts_out };
        let notes = match &given.dataset {
            Some(other) if *other != dataset => vec![format!("the file says that its dataset is {dataset}: --dataset {other} is not used")],
            _ => vec![],
        };
        Ok(DbnParser {
            header: header::facts(metadata),
            first: (header::rows(&raw, &dataset, given), notes),
            plans: row::plans(file),
            symbols: Symbols::of(metadata),
            window: Window::new(input, raw.bytes.len() as u64),
            records: 0,
            told: vec![],
            dataset,
        })
    }

    fn of_fragment(input: Box<dyn Read + Send>, version: u8, schema: &str, ts_out: bool, given: &Given) -> Result<DbnParser, Error> {
        let schema = fragment_schema(version, schema, given)?;
        Ok(DbnParser {
            dataset: dataset(None, given)?,
            header: Header {
                version: Some(i64::from(version)),
                ts_out: Some(ts_out),
                schema: Some(schema.as_str().into()),
                ..Header::default()
            },
            first: (vec![], vec![]),
            plans: row::plans(FileFacts { version, schema: Some(schema), ts_out }),
            symbols: Symbols::none(),
            window: Window::new(input, 0),
            records: 0,
            told: vec![],
        })
    }
}

fn fragment_schema(version: u8, schema: &str, given: &Given) -> Result<dbn::Schema, Error> {
    let wrong = |what: String, todo: &str| Error::Input { file: given.label(), what, todo: todo.into() };
    if !(1..=3).contains(&version) {
        return Err(wrong(format!("DBN version {version} is not known, known are versions 1, 2 and 3"), "give --dbn-version 1, 2 or 3"));
    }
    schema.parse().map_err(|_| wrong(format!("{schema:?} is no DBN schema"), "give --schema trades, mbp-1, mbo, definition, …"))
}

fn dataset(stated: Option<&str>, given: &Given) -> Result<String, Error> {
    let code = stated.filter(|code| !code.is_empty()).or(given.dataset.as_deref()).unwrap_or_default();
    let what = match code.chars().count() {
        1..=DATASET_LEN_MAX => return Ok(code.into()),
        0 => "the file does not say which dataset it is of".to_string(),
        n => format!("dataset {code:?} has {n} characters, at most {DATASET_LEN_MAX} are possible"),
    };
    Err(Error::Input { file: given.label(), what, todo: "name it with --dataset, for example --dataset GLBX.MDP3".into() })
}

impl Parser for DbnParser {
    fn dataset(&self) -> String {
        self.dataset.clone()
    }

    fn header(&self) -> Header {
        self.header.clone()
    }

    fn path_facts(&self) -> BTreeMap<String, String> {
        // A DBN file's path adds nothing to its content.
        BTreeMap::new()
    }

    fn next(&mut self, records_max: usize) -> Result<Chunk, Error> {
        let (header_rows, mut notes) = std::mem::take(&mut self.first);
        let mut tables = Tables::new(self.dataset.clone());
        let mut bad = Vec::new();
        let end = self.read(records_max, &mut tables, &mut bad, &mut notes);
        let rows = header_rows.into_iter().chain(tables.finish()).collect();
        Ok(Chunk { rows, bad, notes, records: self.records, bytes: self.window.byte(), end })
    }
}

impl DbnParser {
    fn read(&mut self, records_max: usize, tables: &mut Tables, bad: &mut Vec<Bad>, notes: &mut Vec<String>) -> End {
        for _ in 0..records_max {
            // What is at hand and whole needs no second look: this is the way of all but a few records of every block.
            let mut length = whole_record(self.window.rest(), &self.plans);
            if length == 0 {
                self.window.look_ahead();
                length = match stream::frame(self.window.rest(), self.window.ended(), &self.plans) {
                    Frame::Record(length) => length,
                    Frame::Bad(length, reason) => {
                        self.refuse(length, None, reason, bad);
                        continue;
                    }
                    Frame::Lost(reason) => return self.lose(reason, bad),
                    Frame::CutShort(expected) => return self.cut_short(expected),
                    Frame::End => return self.end(),
                };
            }
            self.take(length, tables, bad, notes);
        }
        End::More
    }

    /// Takes the record of known type and length at the beginning of the window.
    fn take(&mut self, length: usize, tables: &mut Tables, bad: &mut Vec<Bad>, notes: &mut Vec<String>) {
        let record = &self.window.rest()[..length];
        let rtype = record[1];
        let Some(plan) = &self.plans[usize::from(rtype)] else { unreachable!("only records with a plan are whole") };
        if plan.contradicts && !self.told.contains(&rtype) {
            self.told.push(rtype);
            notes.push(format!(
                "the header says schema {}, but record {} at byte {} is of {}: such rows have schema {}",
                self.header.schema.as_deref().unwrap_or_default(),
                self.records,
                self.window.byte(),
                plan.schema,
                plan.schema
            ));
        }
        let pushed = plan.push(tables.of(plan.family), &mut self.symbols, record, self.records, self.window.byte());
        match pushed {
            Ok(()) => {
                self.window.consume(length);
                self.records += 1;
            }
            Err(fault) => self.refuse(length, Some(fault.field), fault.reason, bad),
        }
    }

    /// Puts the next `length` bytes aside as a record that is none.
    fn refuse(&mut self, length: usize, field: Option<&str>, reason: String, bad: &mut Vec<Bad>) {
        bad.push(Bad {
            record: self.records,
            byte: self.window.byte() as i64,
            line: None,
            field: field.map(str::to_string),
            reason: format!("record {} at byte {}: {reason}", self.records, self.window.byte()),
            raw: self.window.rest()[..length].to_vec(),
        });
        self.window.consume(length);
        self.records += 1;
    }

    /// Nobody can say where the next record begins: the rest is put aside as far as it can be kept.
    fn lose(&mut self, reason: String, bad: &mut Vec<Bad>) -> End {
        let at = self.window.byte();
        self.window.fill(LOST_BYTES_MAX);
        let kept = self.window.rest().len().min(LOST_BYTES_MAX);
        self.refuse(kept, None, format!("{reason}; where the next record begins cannot be told, so the rest is here"), bad);
        End::CutShort(format!(
            "record {} at byte {at} is broken ({reason}): what follows cannot be read, {kept} bytes from there are in quarantine",
            self.records - 1
        ))
    }

    fn cut_short(&self, expected: usize) -> End {
        let why = match self.window.failed() {
            Some(why) => format!("cannot be read on: {why}"),
            None => "the source ends inside it".to_string(),
        };
        let (at, there) = (self.window.byte(), self.window.rest().len());
        End::CutShort(format!(
            "record {} at byte {at} should be {expected} bytes long, {there} are there, up to byte {}: {why}",
            self.records,
            at + there as u64
        ))
    }

    fn end(&self) -> End {
        match self.window.failed() {
            Some(why) => End::CutShort(format!("cannot be read on at byte {}, after {} records: {why}", self.window.byte(), self.records)),
            None => End::Finished,
        }
    }
}

/// Length of the record at the beginning, when it is whole and of known type and length; else 0.
#[inline]
fn whole_record(rest: &[u8], plans: &[Option<Plan>]) -> usize {
    let [length, rtype, ..] = rest else { return 0 };
    let length = usize::from(*length) * 4;
    match &plans[usize::from(*rtype)] {
        Some(plan) if plan.size == length && rest.len() >= length => length,
        _ => 0,
    }
}

/// The rows of a chunk, by family.
struct Tables {
    dataset: String,
    rows: [Option<Rows>; Family::ALL.len()],
}

impl Tables {
    fn new(dataset: String) -> Tables {
        Tables { dataset, rows: [const { None }; Family::ALL.len()] }
    }

    #[inline]
    fn of(&mut self, family: Family) -> &mut Rows {
        let dataset = &self.dataset;
        self.rows[family as usize].get_or_insert_with(|| {
            let mut rows = Rows::new(family);
            rows.default_text(family.topic().column("dataset"), dataset);
            rows
        })
    }

    fn finish(self) -> impl Iterator<Item = Rows> {
        self.rows.into_iter().flatten().filter(|rows| !rows.is_empty())
    }
}
