//! DBN end to end: real files against facts that other libraries computed, generated files of every schema and version, broken files.

mod broken;
mod generated;
mod real;

use super::{FORMAT, write_back};
use crate::Error;
use crate::source::{Bad, End, Given, Header};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Date32Type, Decimal128Type, Int32Type, Int64Type};
use schemas::{Family, Rows};
use std::io::{Cursor, Read};

/// Everything that was read of a source.
struct Tape {
    dataset: String,
    header: Header,
    batches: Vec<(Family, RecordBatch)>,
    bad: Vec<Bad>,
    notes: Vec<String>,
    records: i64,
    bytes: u64,
    end: End,
}

fn given() -> Given {
    Given { name: "some.dbn".into(), ..Given::default() }
}

fn read(bytes: &[u8], given: &Given) -> Result<Tape, Error> {
    read_from(Box::new(Cursor::new(bytes.to_vec())), given, 1000)
}

/// Reads a source in chunks of `records_max`, as a caller does: source, change and revision are filled in after the parser.
fn read_from(input: Box<dyn Read + Send>, given: &Given, records_max: usize) -> Result<Tape, Error> {
    let mut parser = (FORMAT.open)(input, given)?;
    let mut tape = Tape {
        dataset: String::new(),
        header: Header::default(),
        batches: vec![],
        bad: vec![],
        notes: vec![],
        records: 0,
        bytes: 0,
        end: End::More,
    };
    while tape.end == End::More {
        let chunk = parser.next(records_max)?;
        let more = chunk.records - tape.records;
        let rows: i64 = chunk.rows.into_iter().map(|rows| tape.add(rows)).sum();
        assert_eq!(rows + chunk.bad.len() as i64, more, "every record is a row or bad");
        assert!(chunk.bytes >= tape.bytes && more <= records_max as i64);
        (tape.records, tape.bytes, tape.end) = (chunk.records, chunk.bytes, chunk.end);
        tape.bad.extend(chunk.bad);
        tape.notes.extend(chunk.notes);
    }
    (tape.dataset, tape.header) = (parser.dataset(), parser.header());
    assert!(parser.path_facts().is_empty());
    Ok(tape)
}

impl Tape {
    /// Adds a chunk's rows and says how many of them are records.
    fn add(&mut self, mut rows: Rows) -> i64 {
        let topic = rows.topic();
        rows.default_text(topic.column("change"), "new");
        rows.default_i32(topic.column("revision"), 0);
        rows.default_bytes(topic.column("source_id"), &[7; 16]);
        let batch = rows.finish().unwrap();
        let records = i64s(&batch, "source_record").iter().filter(|record| **record >= Some(0)).count();
        self.batches.push((topic.family, batch));
        records as i64
    }

    /// Rows of a family that are records, not the header's.
    fn of(&self, family: Family) -> Vec<RecordBatch> {
        self.batches
            .iter()
            .filter(|(of, batch)| *of == family && i64s(batch, "source_record").first().is_none_or(|record| *record >= Some(0)))
            .map(|(_, batch)| batch.clone())
            .collect()
    }

    fn one(&self, family: Family) -> RecordBatch {
        let batches = self.of(family);
        assert_eq!(batches.len(), 1, "one batch of {}", family.topic().name);
        batches[0].clone()
    }

    /// Every row that is a record, with its family and its number in the batch, in the order of the source.
    fn rows(&self) -> Vec<(Family, RecordBatch, usize)> {
        let mut rows = Vec::new();
        for (family, batch) in &self.batches {
            for (row, record) in i64s(batch, "source_record").into_iter().enumerate().filter(|(_, record)| *record >= Some(0)) {
                rows.push((record, (*family, batch.clone(), row)));
            }
        }
        rows.sort_by_key(|(record, _)| *record);
        rows.into_iter().map(|(_, row)| row).collect()
    }
}

fn i64s(batch: &RecordBatch, column: &str) -> Vec<Option<i64>> {
    batch.column_by_name(column).unwrap().as_primitive::<Int64Type>().iter().collect()
}

fn i32s(batch: &RecordBatch, column: &str) -> Vec<Option<i32>> {
    batch.column_by_name(column).unwrap().as_primitive::<Int32Type>().iter().collect()
}

fn dates(batch: &RecordBatch) -> Vec<Option<i32>> {
    batch.column_by_name("date").unwrap().as_primitive::<Date32Type>().iter().collect()
}

fn decimals(batch: &RecordBatch, column: &str) -> Vec<Option<i128>> {
    batch.column_by_name(column).unwrap().as_primitive::<Decimal128Type>().iter().collect()
}

fn texts(batch: &RecordBatch, column: &str) -> Vec<Option<String>> {
    batch.column_by_name(column).unwrap().as_string::<i32>().iter().map(|text| text.map(str::to_string)).collect()
}

fn message(error: Result<Tape, Error>) -> String {
    error.map(|tape| tape.records).unwrap_err().to_string()
}
