//! A request trace without a clock keeps its own time: milliseconds since its start become `ts_offset_ns`, and no date is invented.

use crate::Error;
use crate::source::{Bad, Chunk, End, Format, Given, Header, Parser};
use crate::sources::clock::date_of;
use crate::sources::page::Scalar;
use crate::sources::page::{Fault, count, excerpt, last, members, scalar};
use crate::sources::sniff::{first_byte, holds};
use crate::sources::usage::Members;
use schemas::{Family, Rows, exact};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};

/// The longest line: 16 MiB of one request's block ids would be millions of them. A longer one is no trace.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Bytes of one chunk: long lines end it before its records do.
const CHUNK_BYTES_MAX: u64 = 16 << 20;

/// Request traces of the Mooncake shape: JSON lines of `timestamp` (ms), `input_length`, `output_length`, `hash_ids`.
pub fn format() -> Format {
    Format { parser: "mooncake/1", recognise: |head, _| is_trace(head), open: |input, given| Ok(Box::new(Trace::new(input, given))) }
}

fn is_trace(head: &[u8]) -> bool {
    let start = head.iter().position(|byte| *byte == b'{').unwrap_or(0);
    let line = head[start..].split(|byte| *byte == b'\n').next().unwrap_or(&[]);
    first_byte(head) == Some(b'{') && ["\"timestamp\"", "\"input_length\"", "\"output_length\""].iter().all(|name| holds(line, name))
}

struct Trace {
    input: BufReader<Box<dyn Read + Send>>,
    given: Given,
    header: Header,
    /// Names that have no column, told once.
    unknown: Vec<String>,
    line: u64,
    records: i64,
    bytes: u64,
}

/// What the next line is.
enum Line {
    /// A line, with its line end.
    Whole(Vec<u8>),
    /// The last one, without a line end.
    Last(Vec<u8>),
    /// Nothing more.
    End,
    /// The input cannot be read on.
    Broken(String),
}

impl Trace {
    fn new(input: Box<dyn Read + Send>, given: &Given) -> Trace {
        let input = BufReader::with_capacity(1 << 16, input);
        Trace { input, given: given.clone(), header: Header::default(), unknown: vec![], line: 0, records: 0, bytes: 0 }
    }

    fn line(&mut self) -> Result<Line, Error> {
        let mut line = Vec::new();
        let read = self.input.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line);
        if let Err(why) = read {
            return Ok(Line::Broken(format!("byte {}: the unpacked content cannot be read on: {why}", self.bytes + line.len() as u64)));
        }
        match line.last() {
            None => Ok(Line::End),
            Some(b'\n') => Ok(Line::Whole(line)),
            Some(_) if line.len() > LINE_BYTES_MAX => Err(Error::Input {
                file: self.given.label(),
                what: format!(
                    "line {}, byte {}: longer than {LINE_BYTES_MAX} bytes, expected one request per line",
                    self.line + 1,
                    self.bytes
                ),
                todo: "check that the file has a line end after every request".into(),
            }),
            Some(_) => Ok(Line::Last(line)),
        }
    }

    /// Takes a line: a good row, a bad one, or nothing for a blank one.
    fn take(&mut self, line: &[u8], rows: &mut Rows, bad: &mut Vec<Bad>) {
        let at = self.bytes;
        self.bytes += line.len() as u64;
        self.line += 1;
        let content = line.trim_ascii();
        let content = if at == 0 { content.strip_prefix("\u{feff}".as_bytes()).unwrap_or(content) } else { content };
        if content.is_empty() {
            return;
        }
        match Request::read(content) {
            Ok(request) => {
                self.learn(&request);
                request.push(rows, &self.dataset(), &self.given, self.records, at);
            }
            Err(fault) => bad.push(Bad {
                record: self.records,
                byte: at as i64,
                line: Some(self.line),
                field: fault.field,
                reason: fault.reason,
                raw: line.to_vec(),
            }),
        }
        self.records += 1;
    }

    fn learn(&mut self, request: &Request) {
        let columns = self.header.columns.get_or_insert_with(|| request.names.clone());
        for name in &request.names {
            if !columns.contains(name) && columns.len() < 1000 {
                columns.push(name.clone());
            }
        }
        let known = ["timestamp", "input_length", "output_length", "hash_ids", "model"];
        self.unknown = columns.iter().filter(|name| !known.contains(&name.as_str())).cloned().collect();
    }

    fn end(&self, rows: Rows, bad: Vec<Bad>, end: End) -> Chunk {
        let mut notes = vec![];
        if end != End::More && !self.unknown.is_empty() {
            notes.push(format!("fields without a column in requests are not stored: {}", self.unknown.join(", ")));
        }
        let rows = if rows.is_empty() { vec![] } else { vec![rows] };
        Chunk { rows, bad, notes, records: self.records, bytes: self.bytes, end }
    }
}

impl Parser for Trace {
    fn dataset(&self) -> String {
        self.given.dataset.clone().unwrap_or_else(|| "MOONCAKE.TRACE".into())
    }

    fn header(&self) -> Header {
        self.header.clone()
    }

    fn path_facts(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    fn next(&mut self, records_max: usize) -> Result<Chunk, Error> {
        let (mut rows, mut bad) = (Rows::new(Family::Requests), vec![]);
        let start = self.bytes;
        while rows.len() + bad.len() < records_max.max(1) && self.bytes - start < CHUNK_BYTES_MAX {
            let line = match self.line()? {
                Line::Whole(line) => line,
                Line::End => return Ok(self.end(rows, bad, End::Finished)),
                Line::Broken(why) => return Ok(self.end(rows, bad, End::CutShort(why))),
                // The last line of a file that is still written is left for the next time.
                Line::Last(_) if self.given.growing => return Ok(self.end(rows, bad, End::Finished)),
                Line::Last(line) => {
                    if let Some(why) = cut_short(&line) {
                        let why = format!("line {}, byte {}: {why}", self.line + 1, self.bytes);
                        return Ok(self.end(rows, bad, End::CutShort(why)));
                    }
                    self.take(&line, &mut rows, &mut bad);
                    return Ok(self.end(rows, bad, End::Finished));
                }
            };
            self.take(&line, &mut rows, &mut bad);
        }
        Ok(self.end(rows, bad, End::More))
    }
}

/// Why a last line without a line end is only the beginning of a record.
fn cut_short(line: &[u8]) -> Option<String> {
    let e = serde_json::from_slice::<serde::de::IgnoredAny>(line.trim_ascii()).err()?;
    e.is_eof().then(|| "the file ends inside a record".to_string())
}

/// One request of the trace.
struct Request {
    offset_ns: i64,
    input: Option<i128>,
    output: Option<i128>,
    hash_ids: Option<String>,
    model: Option<String>,
    names: Vec<String>,
}

impl Request {
    fn read(line: &[u8]) -> Result<Request, Fault> {
        let text = std::str::from_utf8(line).map_err(|e| Fault::whole(format!("byte {} of the line is not UTF-8", e.valid_up_to())))?;
        let value: &RawValue = serde_json::from_str(text).map_err(|e| Fault::whole(format!("{e}, expected one JSON object per line")))?;
        let members = members(value).map_err(|why| Fault::whole(format!("{why}, expected one JSON object per line")))?;
        Ok(Request {
            offset_ns: offset_ns(&members)?,
            input: length(&members, "input_length")?,
            output: length(&members, "output_length")?,
            hash_ids: hash_ids(&members)?,
            model: crate::sources::page::text(&members, "model")?,
            names: members.into_iter().map(|(name, _)| name).collect(),
        })
    }

    fn push(&self, rows: &mut Rows, dataset: &str, given: &Given, record: i64, byte: u64) {
        let column = |name| Family::Requests.topic().column(name);
        rows.text(column("dataset"), dataset);
        if let Some(ts_recv) = given.captured_ns() {
            rows.i64(column("ts_recv"), ts_recv);
            rows.date(column("date"), date_of(ts_recv));
        }
        rows.i64(column("ts_offset_ns"), self.offset_ns);
        self.input.into_iter().for_each(|tokens| rows.decimal(column("input_tokens"), tokens));
        self.output.into_iter().for_each(|tokens| rows.decimal(column("output_tokens"), tokens));
        self.hash_ids.iter().for_each(|ids| rows.text(column("hash_ids"), ids));
        self.model.iter().for_each(|model| rows.text(column("model"), model));
        rows.i64(column("source_record"), record);
        rows.i64(column("source_byte"), byte as i64);
        rows.end_row();
    }
}

fn length(members: &Members, name: &str) -> Result<Option<i128>, Fault> {
    match count(members, name)? {
        Some(tokens) => Ok(Some(tokens)),
        None => Err(Fault::of(name, "there is none, expected a number of tokens")),
    }
}

fn offset_ns(members: &Members) -> Result<i64, Fault> {
    let expected = "expected milliseconds since the start of the trace";
    let value = last(members, "timestamp").ok_or_else(|| Fault::of("timestamp", format!("there is none, {expected}")))?;
    let Ok(Scalar::Number(number)) = scalar(value) else {
        return Err(Fault::of("timestamp", format!("{} is not a number, {expected}", excerpt(value))));
    };
    let ns = exact::parse(number, 19, 0, 6).map_err(|e| Fault::of("timestamp", format!("{e}, {expected}")))?;
    match i64::try_from(ns) {
        Ok(ns) if ns >= 0 => Ok(ns),
        _ => Err(Fault::of("timestamp", format!("{number} is negative or beyond i64 nanoseconds, {expected}"))),
    }
}

fn hash_ids(members: &Members) -> Result<Option<String>, Fault> {
    let Some(value) = last(members, "hash_ids").filter(|value| value.get() != "null") else { return Ok(None) };
    if !value.get().starts_with('[') {
        return Err(Fault::of("hash_ids", format!("{} is not a list", excerpt(value))));
    }
    Ok(Some(value.get().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::testing::{column, data, decimal, drain, expected, family, int, open_with, read, text};
    use arrow::array::Array;
    use proptest::prelude::*;
    use schemas::Family::Requests;

    fn chunks(body: &[u8], growing: bool) -> Vec<Chunk> {
        let given = Given { name: "t.jsonl".into(), growing, ..Given::default() };
        drain(open_with(&format(), &given, body.to_vec()).unwrap())
    }

    const LINE: &str = r#"{"timestamp": 27, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}"#;

    #[test]
    fn the_real_trace() {
        let Some(data) = data() else { return };
        let file = "mooncake-trace/conversation_trace.jsonl.gz";
        let (facts, body) = (expected(&data, file), read(&data, file));
        assert!(is_trace(&body));
        let fact = |name: &str| i128::from(facts[name].as_i64().expect("a number"));
        let (mut rows, mut input, mut output, mut ids, mut longest) = (0, 0, 0, 0, 0);
        let mut times = vec![];
        for chunk in chunks(&body, false) {
            assert!(chunk.bad.is_empty() && chunk.notes.is_empty());
            let batch = family(chunk, Requests);
            for row in 0..batch.num_rows() {
                let tokens = decimal(&batch, Requests, "input_tokens", row).unwrap();
                (input, longest) = (input + tokens, longest.max(tokens));
                output += decimal(&batch, Requests, "output_tokens", row).unwrap();
                times.push(int(&batch, Requests, "ts_offset_ns", row).unwrap());
                let list: Vec<i64> = serde_json::from_str(&text(&batch, Requests, "hash_ids", row).unwrap()).unwrap();
                ids += list.len() as i128;
            }
            assert_eq!(column(&batch, Requests, "date").null_count(), batch.num_rows());
            rows += batch.num_rows() as i128;
        }
        assert_eq!((rows, input, output), (fact("rows"), fact("input_length_sum"), fact("output_length_sum")));
        assert_eq!((ids, longest), (fact("hash_ids_sum"), fact("input_length_max")));
        assert_eq!(i128::from(times[0]), fact("min_timestamp_ms") * 1_000_000);
        assert_eq!(i128::from(*times.last().unwrap()), fact("max_timestamp_ms") * 1_000_000);
        assert_eq!(times.is_sorted(), facts["time_nondecreasing"].as_bool().unwrap());
    }

    #[test]
    fn bad_lines_stay_whole_and_good_ones_stay() {
        let body = format!("{LINE}\r\n\n{{\"timestamp\": 1.5, \"input_length\": \"x\", \"output_length\": 1}}\n{LINE}");
        let chunk = chunks(body.as_bytes(), false).remove(0);
        assert_eq!((chunk.records, chunk.bytes, &chunk.end), (3, body.len() as u64, &End::Finished));
        let bad = &chunk.bad[0];
        assert_eq!((bad.record, bad.line, bad.field.as_deref()), (1, Some(3), Some("input_length")));
        assert!(bad.raw.ends_with(b"1}\n"));
        let batch = family(chunk, Requests);
        assert_eq!(int(&batch, Requests, "source_record", 1), Some(2));
        assert_eq!(int(&batch, Requests, "ts_offset_ns", 0), Some(27_000_000));
    }

    #[test]
    fn a_last_line_without_its_end() {
        let body = format!("{LINE}\n{}", &LINE[..30]);
        let cut = chunks(body.as_bytes(), false).remove(0);
        assert!(matches!(&cut.end, End::CutShort(why) if why.starts_with("line 2, byte ")), "{:?}", cut.end);
        assert_eq!((cut.records, cut.bytes), (1, LINE.len() as u64 + 1));
        let growing = chunks(format!("{LINE}\n{LINE}").as_bytes(), true).remove(0);
        assert_eq!((growing.records, growing.end), (1, End::Finished));
    }

    #[test]
    fn fields_without_a_column_are_told() {
        let chunk = chunks(br#"{"timestamp":0,"input_length":1,"output_length":2,"turn":3}"#, false).remove(0);
        assert_eq!(chunk.notes, ["fields without a column in requests are not stored: turn"]);
    }

    proptest! {
        #[test]
        fn no_mutation_panics(at in 0usize..170, byte in any::<u8>(), cut in 0usize..170) {
            let mut body = format!("{LINE}\n{LINE}\n").into_bytes();
            body[at] = byte;
            body.truncate(body.len().saturating_sub(cut.saturating_sub(85)));
            let _ = is_trace(&body);
            for chunk in chunks(&body, at % 2 == 0) {
                prop_assert!(chunk.bytes <= body.len() as u64);
                prop_assert!(family(chunk, Requests).num_rows() <= 3);
            }
        }
    }
}
