//! Batch of records to one frame per record and back: Confluent framing (0x00, schema id, Avro). arrow-avro does the work; this file
//! decides which schema, which key, and what becomes of a frame that is not one.

use crate::field::Kind;
use crate::spelling::{Differing, Speller, Spelling};
use crate::topic::{Family, Topic};
use crate::{Error, exact};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, Scalar, UInt64Array};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Decimal128Type, Int64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, FingerprintStrategy, SCHEMA_METADATA_KEY, SchemaStore};
use arrow_avro::writer::{EncodedRows, WriterBuilder, format::AvroSoeFormat};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

/// Length of magic byte and schema id.
pub const PREFIX_LEN: usize = 5;
/// Most keys are shorter: a guess for the memory of many.
const KEY_BYTES: usize = 24;

/// Rows for which it is worth to look for columns that are alike.
const ALIKE_ROWS_MIN: usize = 64;

/// Encodes every row of `batch` (in the family's wire schema) as one frame. Columns that have the same value in every row are encoded once.
pub fn encode(family: Family, batch: &RecordBatch) -> Result<Vec<Bytes>, Error> {
    let topic = family.topic();
    let columns: Vec<usize> = (0..batch.num_columns()).collect();
    if batch.num_rows() < ALIKE_ROWS_MIN || batch.schema_ref().fields() != topic.wire_schema().fields() {
        return Ok(encode_columns(topic, batch, topic.wire_schema())?.iter().collect());
    }
    let alike: Vec<bool> = batch.columns().iter().map(is_alike).collect();
    let runs = columns.chunk_by(|one, next| alike[*one] == alike[*next]);
    let parts = runs.enumerate().map(|(run, columns)| Part::encode(topic, batch, columns, alike[columns[0]], run == 0));
    let parts: Vec<Part> = parts.collect::<Result<_, _>>()?;
    // All frames in one piece of memory: each is a slice of it.
    let mut frames = Vec::with_capacity(parts.iter().map(|part| part.bytes(batch.num_rows())).sum());
    let mut ends = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        parts.iter().for_each(|part| frames.extend_from_slice(part.row(row)));
        ends.push(frames.len());
    }
    Ok(slices(frames.into(), &ends))
}

/// What neighbouring columns are in each frame.
struct Part {
    rows: EncodedRows,
    /// The first row stands for all.
    alike: bool,
    /// Bytes of the prefix that only the first part of a frame keeps.
    cut: usize,
}

impl Part {
    fn encode(topic: &Topic, batch: &RecordBatch, columns: &[usize], alike: bool, first: bool) -> Result<Part, Error> {
        let fault = |e: ArrowError| Error::Encode { topic: topic.name, why: e.to_string() };
        let rows = batch.slice(0, if alike { 1 } else { batch.num_rows() }).project(columns).map_err(fault)?;
        let mut avro: Value = serde_json::from_str(topic.avro()).map_err(|e| fault(ArrowError::from_external_error(e.into())))?;
        let fields: Vec<Value> = columns.iter().map(|column| avro["fields"][*column].take()).collect();
        avro["fields"] = fields.into();
        let metadata = HashMap::from([(SCHEMA_METADATA_KEY.to_string(), avro.to_string())]);
        let schema = Arc::new(topic.wire_schema().project(columns).map_err(fault)?.with_metadata(metadata));
        Ok(Part { rows: encode_columns(topic, &rows, &schema)?, alike, cut: if first { 0 } else { PREFIX_LEN } })
    }

    fn row(&self, row: usize) -> &[u8] {
        let row = if self.alike { 0 } else { row };
        let ends = self.rows.offsets();
        &self.rows.bytes()[ends[row] + self.cut..ends[row + 1]]
    }

    /// Bytes in all of so many frames.
    fn bytes(&self, rows: usize) -> usize {
        if self.alike { self.row(0).len() * rows } else { self.rows.bytes().len() - self.cut * rows }
    }
}

/// Has every row what the first one has?
fn is_alike(column: &ArrayRef) -> bool {
    let rows = column.len();
    if column.null_count() == rows {
        return true;
    }
    let first = Scalar::new(column.slice(0, 1));
    let same = |part: &ArrayRef| not_distinct(part, &first).is_ok_and(|same| same.true_count() == part.len());
    // Most columns that vary are told by their last value.
    same(&column.slice(rows - 1, 1)) && same(column)
}

fn encode_columns(topic: &Topic, batch: &RecordBatch, schema: &SchemaRef) -> Result<EncodedRows, Error> {
    let mut encoder = WriterBuilder::new(schema.as_ref().clone())
        .with_fingerprint_strategy(FingerprintStrategy::Id(topic.schema_id))
        .with_row_capacity(batch.num_rows())
        .build_encoder::<AvroSoeFormat>()
        .map_err(|e| Error::Encode { topic: topic.name, why: e.to_string() })?;
    encoder.encode(batch).map_err(|e| Error::Encode { topic: topic.name, why: e.to_string() })?;
    Ok(encoder.flush())
}

/// Pieces of `all` that end there, the first at its beginning.
fn slices(all: Bytes, ends: &[usize]) -> Vec<Bytes> {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(ends).map(|(start, end)| all.slice(start..*end)).collect()
}

/// The key of every row: `dataset/` and the family's key columns.
pub fn keys(family: Family, batch: &RecordBatch) -> Vec<Bytes> {
    let topic = family.topic();
    let maker = KeyMaker::new(topic, |name| (batch.column(topic.column(name)).clone(), false));
    // All keys in one piece of memory: each is a slice of it.
    let mut text = String::with_capacity(batch.num_rows() * KEY_BYTES);
    let mut ends = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        maker.push(&mut text, row);
        ends.push(text.len());
    }
    slices(text.into(), &ends)
}

/// The columns that a family's keys are made of.
struct KeyMaker {
    dataset: KeyColumn,
    alternatives: Vec<Vec<KeyColumn>>,
}

/// A column, and whether its first value stands for all rows.
type KeyColumn = (ArrayRef, bool);

impl KeyMaker {
    fn new(topic: &Topic, column: impl Fn(&str) -> KeyColumn) -> KeyMaker {
        let alternatives = topic.key.iter().map(|columns| columns.iter().map(|name| column(name)).collect()).collect();
        KeyMaker { dataset: column("dataset"), alternatives }
    }

    fn push(&self, key: &mut String, row: usize) {
        let place = |once: bool| if once { 0 } else { row };
        let (dataset, once) = &self.dataset;
        push_cell(key, dataset, place(*once));
        key.push('/');
        let has_value = |columns: &&Vec<KeyColumn>| columns[0].0.is_valid(place(columns[0].1));
        for (i, (column, once)) in self.alternatives.iter().find(has_value).into_iter().flatten().enumerate() {
            if i > 0 {
                key.push('/');
            }
            push_cell(key, column, place(*once));
        }
    }
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
    /// For every row of the batch whether its frame is what encoding the row gives. False where only encoding it can tell.
    pub ours: Vec<bool>,
    /// The frames that are not records of the family.
    pub bad: Vec<BadFrame>,
}

/// Decodes frames of one family. A bad frame never harms its neighbours.
pub fn decode(family: Family, frames: &[&[u8]]) -> Result<Decoded, Error> {
    let topic = family.topic();
    let speller = Speller::new(topic);
    let mut bad = Vec::new();
    let mut good = Vec::with_capacity(frames.len());
    let mut ours = vec![false; frames.len()];
    for (index, frame) in frames.iter().enumerate() {
        match writer_schema(topic, frame).map(|_| speller.of(frame)) {
            Ok(Spelling::NotText(column)) => {
                let (field, reason) = (Some(topic.fields[column].name.to_string()), "the text is not UTF-8".to_string());
                bad.push(BadFrame { index, field, reason });
            }
            Ok(spelling) => {
                ours[index] = spelling == Spelling::Ours;
                good.push(index);
            }
            Err(reason) => bad.push(BadFrame { index, field: None, reason }),
        }
    }
    // One writer schema exists per family today, so one pass decodes all; the pass is repeated without each frame that fails. Those of our own
    // spelling have a pass of their own: the repetitions for a bad frame are few and short then.
    let (plain, others): (Vec<usize>, Vec<usize>) = good.into_iter().partition(|index| ours[*index]);
    let mut batches = Vec::new();
    let mut rows = Vec::with_capacity(plain.len() + others.len());
    for mut good in [plain, others] {
        let mut at = 0;
        while at < good.len() {
            let (batch, failed) = decode_run(topic, frames, &good[at..])?;
            at += batch.num_rows();
            batches.push(batch);
            if let Some(reason) = failed {
                bad.push(BadFrame { index: good.remove(at), field: None, reason });
            }
        }
        rows.extend(good);
    }
    let batch = match batches.len() {
        1 => Ok(batches.remove(0)),
        _ => concat_batches(topic.wire_schema(), &batches).and_then(|batch| in_order(batch, &mut rows)),
    };
    let batch = batch.map_err(|e| Error::Decode { topic: topic.name, why: e.to_string() })?;
    let (batch, rows) = refuse_out_of_range(topic, batch, rows, &mut bad)?;
    bad.sort_by_key(|frame| frame.index);
    Ok(Decoded { schema_ids: vec![topic.schema_id; rows.len()], ours: rows.iter().map(|row| ours[*row]).collect(), batch, rows, bad })
}

/// Puts rows into the order of their frames, whose numbers `rows` holds.
fn in_order(batch: RecordBatch, rows: &mut [usize]) -> Result<RecordBatch, ArrowError> {
    if rows.is_sorted() {
        return Ok(batch);
    }
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_unstable_by_key(|row| rows[*row]);
    rows.sort_unstable();
    take_record_batch(&batch, &UInt64Array::from_iter_values(order.into_iter().map(|row| row as u64)))
}

/// Frames that differ in some columns only, decoded.
#[derive(Debug)]
pub struct Alike {
    /// The first record, in all its columns.
    pub first: RecordBatch,
    /// The columns in which the records differ, one row per frame. In all other columns every record has what the first one has.
    pub differing: RecordBatch,
}

/// Decodes frames of one family that are all good records, each of them what encoding its row gives: most of what a log holds. `None` where
/// they are anything else, and for [`decode`] to take apart. Columns that all frames have alike are decoded once.
pub fn decode_alike(family: Family, frames: &[&[u8]]) -> Result<Option<Alike>, Error> {
    let topic = family.topic();
    if frames.iter().any(|frame| writer_schema(topic, frame).is_err()) {
        return Ok(None);
    }
    let Some(differing) = Speller::new(topic).differing(frames).filter(|differing| !differing.columns.is_empty()) else { return Ok(None) };
    let (first, failed) = decode_run(topic, frames, &[0])?;
    if failed.is_some() || !in_range(&first) {
        return Ok(None);
    }
    let differing = decode_differing(topic, &differing, frames.len())?.filter(in_range);
    Ok(differing.map(|differing| Alike { first, differing }))
}

/// Decodes what is left of frames by what is left of their schema; `None` where one of them fails.
fn decode_differing(topic: &Topic, differing: &Differing, rows: usize) -> Result<Option<RecordBatch>, Error> {
    let fault = |e: String| Error::Decode { topic: topic.name, why: e };
    let mut avro: Value = serde_json::from_str(topic.avro()).map_err(|e| fault(e.to_string()))?;
    let fields = differing.columns.iter().zip(&differing.never_null).map(|(column, never_null)| {
        let mut field = avro["fields"][*column].take();
        if *never_null {
            // A default of null is none of the value's type.
            field = json!({ "name": field["name"], "type": field["type"][1] });
        }
        field
    });
    let fields: Vec<Value> = fields.collect();
    avro["fields"] = fields.into();
    let mut decoder = decoder(topic, avro.to_string(), rows)?;
    if !decoder.decode(&differing.frames).is_ok_and(|consumed| consumed == differing.frames.len()) {
        return Ok(None);
    }
    let batch = decoder.flush().map_err(|e| fault(e.to_string()))?.filter(|batch| batch.num_rows() == rows);
    let batch = batch.ok_or_else(|| fault(format!("other rows came out of {rows} frames")))?;
    let schema = topic.wire_schema().project(&differing.columns).map_err(|e| fault(e.to_string()))?;
    RecordBatch::try_new(Arc::new(schema), batch.columns().to_vec()).map(Some).map_err(|e| fault(e.to_string()))
}

fn decoder(topic: &Topic, avro: String, rows: usize) -> Result<Decoder, Error> {
    let fault = |e: ArrowError| Error::Decode { topic: topic.name, why: e.to_string() };
    let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
    store.set(Fingerprint::Id(topic.schema_id), AvroSchema::new(avro)).map_err(fault)?;
    let builder = ReaderBuilder::new().with_writer_schema_store(store).with_active_fingerprint(Fingerprint::Id(topic.schema_id));
    builder.with_batch_size(rows.max(1)).build_decoder().map_err(fault)
}

impl Alike {
    /// A column: one value per row, or the one that stands for all.
    pub fn column(&self, name: &str) -> Option<(&ArrayRef, bool)> {
        let differing = self.differing.column_by_name(name).map(|column| (column, false));
        differing.or_else(|| self.first.column_by_name(name).map(|column| (column, true)))
    }

    /// For every row whether `key` is the row's own.
    pub fn has_keys<'a>(&self, family: Family, keys: impl Iterator<Item = Option<&'a [u8]>>) -> Vec<bool> {
        let column =
            |name: &str| self.column(name).map(|(column, once)| (column.clone(), once)).expect("a key is made of the family's columns");
        let maker = KeyMaker::new(family.topic(), column);
        let mut own = String::with_capacity(KEY_BYTES);
        let is_own = |(row, key): (usize, Option<&[u8]>)| {
            own.clear();
            maker.push(&mut own, row);
            key == Some(own.as_bytes())
        };
        keys.enumerate().map(is_own).collect()
    }
}

fn in_range(batch: &RecordBatch) -> bool {
    batch.columns().iter().all(|column| match column.data_type() {
        DataType::Decimal128(precision, _) => {
            column.as_primitive::<Decimal128Type>().iter().flatten().all(|value| exact::fits(value, *precision))
        }
        _ => true,
    })
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
        let mut decoder = decoder(topic, topic.avro().to_string(), count)?;
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
