//! The rows that ingest itself makes: what every record shares, quarantine, and the `sources` row.

use crate::Error;
use crate::position::SourceId;
use crate::source::{Bad, Given, Parser};
use arrow::array::{ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int32Type, Int64Type};
use schemas::{Family, Rows, SEQUENCE_COMPLETE};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why something is said again.
const GROWN: &str = "the source has grown";

/// Fills what every row has and no parser sets: the source, and `new`, revision 0 where the row does not say otherwise.
pub fn complete(rows: &mut Rows, id: &SourceId) {
    let topic = rows.topic();
    rows.default_bytes(topic.column("source_id"), id);
    rows.default_text(topic.column("change"), "new");
    rows.default_i32(topic.column("revision"), 0);
}

/// The rows whose record is not yet published. Rows of the header (record −1) belong to the first publication.
pub fn from_record(batch: RecordBatch, family: Family, first: i64) -> Result<RecordBatch, Error> {
    if first == 0 {
        return Ok(batch);
    }
    let records = batch.column(family.topic().column("source_record")).as_primitive::<Int64Type>();
    let keep: BooleanArray = records.values().iter().map(|record| Some(*record >= first)).collect();
    filter_record_batch(&batch, &keep).map_err(|e| Error::Schema(schemas::Error::Build { topic: family.topic().name, why: e.to_string() }))
}

/// Rows of a record whose line went on after it was published as `revision`: what it says now corrects what it said then. A `change` of the
/// source's own other than `new` stays.
pub fn corrected(batch: RecordBatch, family: Family, record: i64, revision: i32) -> Result<RecordBatch, Error> {
    let topic = family.topic();
    let records = batch.column(topic.column("source_record")).as_primitive::<Int64Type>();
    let is_it: Vec<bool> = records.values().iter().map(|other| *other == record).collect();
    let text = |name: &str, new: &dyn Fn(Option<&str>) -> String| -> ArrayRef {
        let old = batch.column(topic.column(name)).as_string::<i32>();
        Arc::new(
            is_it.iter().zip(old).map(|(is_it, old)| if *is_it { Some(new(old)) } else { old.map(String::from) }).collect::<StringArray>(),
        )
    };
    let number = |name: &str, new: i32| -> ArrayRef {
        let old = batch.column(topic.column(name)).as_primitive::<Int32Type>();
        Arc::new(is_it.iter().zip(old).map(|(is_it, old)| if *is_it { Some(new) } else { old }).collect::<Int32Array>())
    };
    let went_on = "its line went on after the record was first published";
    let mut columns = batch.columns().to_vec();
    columns[topic.column("change")] = text("change", &|own| own.filter(|own| *own != "new").unwrap_or("correct").into());
    columns[topic.column("reason")] = text("reason", &|own| own.map_or(went_on.into(), |own| format!("{own}; {went_on}")));
    columns[topic.column("revision")] = number("revision", revision + 1);
    columns[topic.column("supersedes")] = number("supersedes", revision);
    RecordBatch::try_new(batch.schema(), columns)
        .map_err(|e| Error::Schema(schemas::Error::Build { topic: topic.name, why: e.to_string() }))
}

/// True where the rows are of records; those of a header have the record −1.
pub fn is_of_records(batch: &RecordBatch, family: Family) -> bool {
    let records = batch.column(family.topic().column("source_record")).as_primitive::<Int64Type>();
    records.values().iter().any(|record| *record >= 0)
}

/// Rows that are told again because the source has grown: a correction of what the reading before said.
pub fn grown(batch: RecordBatch, family: Family, revision: i32) -> Result<RecordBatch, Error> {
    let topic = family.topic();
    let rows = batch.num_rows();
    let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; rows])) };
    let number = |number: i32| -> ArrayRef { Arc::new(Int32Array::from(vec![number; rows])) };
    let mut columns = batch.columns().to_vec();
    columns[topic.column("change")] = text("correct");
    columns[topic.column("reason")] = text(GROWN);
    columns[topic.column("revision")] = number(revision);
    columns[topic.column("supersedes")] = number(revision - 1);
    RecordBatch::try_new(batch.schema(), columns)
        .map_err(|e| Error::Schema(schemas::Error::Build { topic: topic.name, why: e.to_string() }))
}

/// A document's row says how long the file was as it was received, which its parser cannot know.
pub fn as_received(batch: RecordBatch, bytes: u64) -> Result<RecordBatch, Error> {
    let mut columns = batch.columns().to_vec();
    columns[Family::Documents.topic().column("bytes")] = Arc::new(Int64Array::from(vec![bytes as i64; batch.num_rows()]));
    RecordBatch::try_new(batch.schema(), columns)
        .map_err(|e| Error::Schema(schemas::Error::Build { topic: "documents", why: e.to_string() }))
}

/// Bad records, whole, as rows of `quarantine`.
pub fn quarantine(dataset: &str, id: &SourceId, bad: &[&Bad]) -> Result<RecordBatch, Error> {
    let mut rows = Rows::new(Family::Quarantine);
    let column = |name| Family::Quarantine.topic().column(name);
    for bad in bad {
        let place = bad.line.map_or(format!("byte {}", bad.byte), |line| format!("line {line}, byte {}", bad.byte));
        rows.text(column("dataset"), dataset);
        rows.text(column("reason"), &format!("{} ({place})", bad.reason));
        rows.i64(column("source_record"), bad.record);
        rows.i64(column("source_byte"), bad.byte);
        if let Some(field) = &bad.field {
            rows.text(column("field"), field);
        }
        rows.bytes(column("raw"), &bad.raw);
        rows.end_row();
    }
    complete(&mut rows, id);
    Ok(rows.finish()?)
}

/// The row of `sources` for one reading of a source: revision 0 at the first, one more whenever it had grown.
pub fn source_row(
    parser_name: &str,
    given: &Given,
    bytes: u64,
    parser: &dyn Parser,
    id: &SourceId,
    reads: i32,
    sha256: &[u8; 32],
) -> Result<RecordBatch, Error> {
    let mut rows = Rows::new(Family::Sources);
    let column = |name| Family::Sources.topic().column(name);
    let header = parser.header();
    rows.text(column("dataset"), &parser.dataset());
    rows.text(column("name"), &given.name);
    rows.text(column("parser"), parser_name);
    // What the mapping declares is no part of the source's name, as the facts of its path are.
    let declared = header.sequence_complete.clone().map(|within| (SEQUENCE_COMPLETE.to_string(), within));
    let facts: BTreeMap<String, String> = parser.path_facts().into_iter().chain(declared).collect();
    rows.text(column("path_facts"), &json(&facts));
    rows.i64(column("bytes"), bytes as i64);
    rows.bytes(column("sha256"), sha256);
    rows.i64(column("source_record"), -1);
    rows.i64(column("source_byte"), 0);
    rows.i32(column("revision"), reads);
    if reads > 0 {
        rows.text(column("change"), "correct");
        rows.i32(column("supersedes"), reads - 1);
        rows.text(column("reason"), GROWN);
    }
    if let Some(captured_ms) = given.captured_ms {
        rows.i64(column("ts_recv"), captured_ms * 1_000_000);
    }
    for (name, value) in [
        ("member", given.member.clone()),
        ("schema", header.schema),
        ("licence", header.licence),
        ("stype_in", header.stype_in),
        ("stype_out", header.stype_out),
        ("symbols", header.symbols.as_ref().map(json)),
        ("columns", header.columns.as_ref().map(json)),
    ] {
        if let Some(value) = value {
            rows.text(column(name), &value);
        }
    }
    for (name, value) in [
        ("version", header.version),
        ("start", header.start),
        ("end", header.end),
        ("n_symbols", header.symbols.as_ref().map(|symbols| symbols.len() as i64)),
        ("n_mappings", header.n_mappings),
    ] {
        if let Some(value) = value {
            rows.i64(column(name), value);
        }
    }
    if let Some(limit) = header.limit {
        rows.decimal(column("limit"), i128::from(limit));
    }
    if let Some(ts_out) = header.ts_out {
        rows.bool(column("ts_out"), ts_out);
    }
    rows.end_row();
    complete(&mut rows, id);
    Ok(rows.finish()?)
}

/// Lists and maps of text as JSON.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("lists and maps of text are JSON")
}
