//! Batch of records to one frame per record and back: Confluent framing (0x00, schema id, Avro). arrow-avro does the work; this file
//! decides which schema, which key, and what becomes of a frame that is not one.

use crate::field::Kind;
use crate::topic::{Family, Topic};
use crate::{Error, exact};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Decimal128Type, Int64Type};
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, FingerprintStrategy, SchemaStore};
use arrow_avro::writer::{WriterBuilder, format::AvroSoeFormat};
use bytes::Bytes;
use std::fmt::Write;

/// Length of magic byte and schema id.
pub const PREFIX_LEN: usize = 5;
/// Most keys are shorter: a guess for the memory of many.
const KEY_BYTES: usize = 24;

/// Encodes every row of `batch` (in the family's wire schema) as one frame.
pub fn encode(family: Family, batch: &RecordBatch) -> Result<Vec<Bytes>, Error> {
    let topic = family.topic();
    let mut encoder = WriterBuilder::new(topic.wire_schema().as_ref().clone())
        .with_fingerprint_strategy(FingerprintStrategy::Id(topic.schema_id))
        .with_row_capacity(batch.num_rows())
        .build_encoder::<AvroSoeFormat>()
        .map_err(|e| Error::Encode { topic: topic.name, why: e.to_string() })?;
    encoder.encode(batch).map_err(|e| Error::Encode { topic: topic.name, why: e.to_string() })?;
    Ok(encoder.flush().iter().collect())
}

/// The key of every row: `dataset/` and the family's key columns.
pub fn keys(family: Family, batch: &RecordBatch) -> Vec<Bytes> {
    let topic = family.topic();
    let dataset = batch.column(topic.column("dataset"));
    let alternatives: Vec<Vec<&ArrayRef>> =
        topic.key.iter().map(|columns| columns.iter().map(|name| batch.column(topic.column(name))).collect()).collect();
    // All keys in one piece of memory: each is a slice of it.
    let mut text = String::with_capacity(batch.num_rows() * KEY_BYTES);
    let mut ends = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        push_cell(&mut text, dataset, row);
        text.push('/');
        if let Some(columns) = alternatives.iter().find(|columns| columns[0].is_valid(row)) {
            for (i, column) in columns.iter().enumerate() {
                if i > 0 {
                    text.push('/');
                }
                push_cell(&mut text, column, row);
            }
        }
        ends.push(text.len());
    }
    let text = Bytes::from(text);
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(&ends).map(|(start, end)| text.slice(start..*end)).collect()
}

fn push_cell(key: &mut String, column: &ArrayRef, row: usize) {
    if column.is_null(row) {
        return;
    }
    match column.data_type() {
        DataType::Utf8 => key.push_str(column.as_string::<i32>().value(row)),
        DataType::Binary => column.as_binary::<i32>().value(row).iter().for_each(|byte| {
            write!(key, "{byte:02x}").expect("writing to a String cannot fail");
        }),
        DataType::Int64 => write!(key, "{}", column.as_primitive::<Int64Type>().value(row)).expect("writing to a String cannot fail"),
        other => unreachable!("no key column is a {other}"),
    }
}

/// A frame that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadFrame {
    /// Its position among the frames that were given.
    pub index: usize,
    /// The column at fault, where one is.
    pub field: Option<String>,
    /// What is wrong with it.
    pub reason: String,
}

/// Decoded frames: `batch` holds row `i` for frame `rows[i]`; every other frame is in `bad`.
#[derive(Debug)]
pub struct Decoded {
    /// The good records, in the order of their frames.
    pub batch: RecordBatch,
    /// For every row of the batch the position of its frame.
    pub rows: Vec<usize>,
    /// For every row of the batch the id of the schema that wrote it.
    pub schema_ids: Vec<u32>,
    /// The frames that are not records of the family.
    pub bad: Vec<BadFrame>,
}

/// Decodes frames of one family. A bad frame never harms its neighbours.
pub fn decode(family: Family, frames: &[&[u8]]) -> Result<Decoded, Error> {
    let topic = family.topic();
    let mut bad = Vec::new();
    let mut good = Vec::with_capacity(frames.len());
    for (index, frame) in frames.iter().enumerate() {
        match writer_schema(topic, frame) {
            Ok(_) => good.push(index),
            Err(reason) => bad.push(BadFrame { index, field: None, reason }),
        }
    }
    // One writer schema exists per family today, so one pass decodes all; the pass is repeated without each frame that fails.
    let mut batches = Vec::new();
    let mut at = 0;
    while at < good.len() {
        let (batch, failed) = decode_run(topic, frames, &good[at..])?;
        at += batch.num_rows();
        batches.push(batch);
        if let Some(reason) = failed {
            bad.push(BadFrame { index: good.remove(at), field: None, reason });
        }
    }
    let batch = match batches.len() {
        1 => batches.remove(0),
        _ => concat_batches(topic.wire_schema(), &batches).map_err(|e| Error::Decode { topic: topic.name, why: e.to_string() })?,
    };
    let (batch, rows) = refuse_out_of_range(topic, batch, good, &mut bad)?;
    bad.sort_by_key(|frame| frame.index);
    Ok(Decoded { schema_ids: vec![topic.schema_id; rows.len()], batch, rows, bad })
}

fn writer_schema(topic: &Topic, frame: &[u8]) -> Result<u32, String> {
    if frame.len() < PREFIX_LEN {
        return Err(format!("{} bytes are too few for a frame", frame.len()));
    }
    if frame[0] != 0 {
        return Err(format!("magic byte is 0x{:02x}, not 0x00", frame[0]));
    }
    let id = u32::from_be_bytes([frame[1], frame[2], frame[3], frame[4]]);
    if id != topic.schema_id {
        return Err(format!("schema id {id} is not known on this topic (known: {})", topic.schema_id));
    }
    Ok(id)
}

/// Decodes frames until one fails: the rows so far, and why the next one failed. A decoder that met a bad frame is never used again.
fn decode_run(topic: &Topic, frames: &[&[u8]], indices: &[usize]) -> Result<(RecordBatch, Option<String>), Error> {
    let fault = |e: String| Error::Decode { topic: topic.name, why: e };
    let run = |count: usize| -> Result<(Option<RecordBatch>, usize, Option<String>), Error> {
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        store.set(Fingerprint::Id(topic.schema_id), AvroSchema::new(topic.avro().to_string())).map_err(|e| fault(e.to_string()))?;
        let mut decoder = ReaderBuilder::new()
            .with_writer_schema_store(store)
            .with_active_fingerprint(Fingerprint::Id(topic.schema_id))
            .with_batch_size(count.max(1))
            .build_decoder()
            .map_err(|e| fault(e.to_string()))?;
        for (done, index) in indices[..count].iter().enumerate() {
            let frame = frames[*index];
            let room = decoder.capacity();
            match decoder.decode(frame) {
                // A frame that is a prefix alone is consumed and is no row: the next one would be taken for its body.
                Ok(consumed) if consumed == frame.len() && decoder.capacity() + 1 == room => {}
                Ok(consumed) => return Ok((None, done, Some(format!("record ends or breaks at byte {consumed} of {}", frame.len())))),
                Err(e) => return Ok((None, done, Some(e.to_string()))),
            }
        }
        Ok((decoder.flush().map_err(|e| fault(e.to_string()))?, count, None))
    };
    let (batch, done, failed) = run(indices.len())?;
    let batch = match failed {
        None => batch,
        Some(_) => run(done)?.0,
    };
    let batch = match batch {
        None => RecordBatch::new_empty(topic.wire_schema().clone()),
        Some(batch) => RecordBatch::try_new(topic.wire_schema().clone(), batch.columns().to_vec()).map_err(|e| fault(e.to_string()))?,
    };
    if batch.num_rows() != done {
        return Err(fault(format!("{} rows came out of {done} frames", batch.num_rows())));
    }
    Ok((batch, failed))
}

/// Avro can carry a decimal with more digits than its column: such a record leaves the batch.
fn refuse_out_of_range(
    topic: &Topic,
    batch: RecordBatch,
    indices: Vec<usize>,
    bad: &mut Vec<BadFrame>,
) -> Result<(RecordBatch, Vec<usize>), Error> {
    let mut refused: Vec<Option<(&str, i128)>> = Vec::new();
    for (field, column) in topic.fields.iter().zip(batch.columns()) {
        let Some((precision, _)) = field.kind.decimal() else { continue };
        let values = column.as_primitive::<Decimal128Type>();
        if values.iter().flatten().all(|value| exact::fits(value, precision)) {
            continue;
        }
        refused.resize(batch.num_rows(), None);
        for (row, value) in values.iter().enumerate() {
            if let Some(value) = value.filter(|value| !exact::fits(*value, precision)) {
                refused[row] = Some((field.name.as_ref(), value));
            }
        }
    }
    if refused.is_empty() {
        return Ok((batch, indices));
    }
    let mut keep = Vec::new();
    for (row, fault) in refused.iter().enumerate() {
        match fault {
            None => keep.push(row as u64),
            Some((field, value)) => bad.push(BadFrame {
                index: indices[row],
                field: Some((*field).to_string()),
                reason: format!("{value} (unscaled) is beyond the range of {}", kind_of(topic, field).sql()),
            }),
        }
    }
    let rows = keep.iter().map(|row| indices[*row as usize]).collect();
    let batch = take_record_batch(&batch, &UInt64Array::from(keep)).map_err(|e| Error::Decode { topic: topic.name, why: e.to_string() })?;
    Ok((batch, rows))
}

fn kind_of(topic: &Topic, field: &str) -> Kind {
    topic.fields[topic.column(field)].kind
}
