//! What the tests of several sources need: open a format over bytes, read it to its end, look at a column, find the real data.

use crate::Error;
use crate::source::{Chunk, End, Format, Given, Parser};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Decimal128Type, Int64Type};
use schemas::{Family, Rows};
use std::io::{Cursor, Read};
use std::path::PathBuf;

/// Opens `body` with a format that must recognise nothing first.
pub(crate) fn open_with(format: &Format, given: &Given, body: Vec<u8>) -> Result<Box<dyn Parser>, Error> {
    (format.open)(Box::new(Cursor::new(body)), given)
}

/// Every chunk of a parser.
pub(crate) fn drain(mut parser: Box<dyn Parser>) -> Vec<Chunk> {
    let mut chunks = vec![];
    loop {
        let chunk = parser.next(1000).expect("the test's input can be read");
        let end = chunk.end.clone();
        chunks.push(chunk);
        if end != End::More {
            return chunks;
        }
    }
}

/// The rows as a batch, with what the pipeline fills in.
pub(crate) fn finish(mut rows: Rows) -> RecordBatch {
    let topic = rows.topic();
    rows.default_bytes(topic.column("source_id"), &[7; 16]);
    rows.default_text(topic.column("change"), "new");
    rows.default_i32(topic.column("revision"), 0);
    rows.finish().expect("every required column is set")
}

/// The batch of one family of a chunk.
pub(crate) fn family(chunk: Chunk, family: Family) -> RecordBatch {
    finish(chunk.rows.into_iter().find(|rows| rows.family() == family).unwrap_or_else(|| Rows::new(family)))
}

/// A column by name.
pub(crate) fn column<'a>(batch: &'a RecordBatch, family: Family, name: &str) -> &'a ArrayRef {
    batch.column(family.topic().column(name))
}

/// A text cell.
pub(crate) fn text(batch: &RecordBatch, family: Family, name: &str, row: usize) -> Option<String> {
    let column = column(batch, family, name).as_string::<i32>();
    column.is_valid(row).then(|| column.value(row).to_string())
}

/// A decimal cell, unscaled.
pub(crate) fn decimal(batch: &RecordBatch, family: Family, name: &str, row: usize) -> Option<i128> {
    let column = column(batch, family, name).as_primitive::<Decimal128Type>();
    column.is_valid(row).then(|| column.value(row))
}

/// A 64-bit cell.
pub(crate) fn int(batch: &RecordBatch, family: Family, name: &str, row: usize) -> Option<i64> {
    let column = column(batch, family, name).as_primitive::<Int64Type>();
    column.is_valid(row).then(|| column.value(row))
}

/// The real data; `None` (and a line that says so) where it is absent and nobody asked for it with TAPE_DATA.
pub(crate) fn data() -> Option<PathBuf> {
    let asked = std::env::var_os("TAPE_DATA");
    let path = asked.clone().map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")), PathBuf::from);
    if path.join("expected.json").exists() {
        return Some(path);
    }
    assert!(asked.is_none(), "TAPE_DATA is set, but {} does not exist", path.join("expected.json").display());
    println!("skipped: {} does not exist (TAPE_DATA names another place)", path.join("expected.json").display());
    None
}

/// What is expected of a real file.
pub(crate) fn expected(data: &std::path::Path, file: &str) -> serde_json::Value {
    facts(data)["files"][file].clone()
}

/// The real files of a kind.
pub(crate) fn files(data: &std::path::Path, kind: &str) -> Vec<String> {
    let facts = facts(data);
    let files = facts["files"].as_object().expect("facts by file");
    files.iter().filter(|(_, facts)| facts["kind"] == kind).map(|(file, _)| file.clone()).collect()
}

fn facts(data: &std::path::Path) -> serde_json::Value {
    let text = std::fs::read_to_string(data.join("expected.json")).expect("expected.json can be read");
    serde_json::from_str(&text).expect("expected.json is JSON")
}

/// A real file, unpacked.
pub(crate) fn read(data: &std::path::Path, file: &str) -> Vec<u8> {
    let packed = std::fs::read(data.join(file)).expect("the real file can be read");
    if !file.ends_with(".gz") {
        return packed;
    }
    let mut body = Vec::new();
    flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut body).expect("the real file is whole");
    body
}
