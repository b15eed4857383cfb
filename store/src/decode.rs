//! Events of one family to stored rows; what is not a record of the family goes whole to `quarantine`. Pure.

use crate::Error;
use crate::record::{self, NS_PER_MS};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, Int32Array, Int32RunArray, Int64Array, RecordBatch, Scalar, UInt64Array,
};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{partition, take, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use eventlog::Event;
use schemas::{Family, Rows, Topic, frame};
use std::sync::Arc;

/// Dataset of a quarantined record whose key names none.
pub const DATASET_UNKNOWN: &str = "UNKNOWN";
/// Fewer rows are kept as they are: a run costs more than it spares.
const ONCE_ROWS_MIN: usize = 256;
/// Longest dataset code in characters: DBN's header holds no more, and it names a directory.
pub const DATASET_CHARS_MAX: usize = 15;

/// Events of one family, decoded.
#[derive(Debug)]
pub struct Decoded {
    /// The good rows, in the order of their events; columns that would be NULL throughout are left out.
    pub rows: RecordBatch,
    /// The events that are not records of the family.
    pub bad: Vec<Bad>,
    /// Ids of the writers' schemas, each once.
    pub schema_ids: Vec<u32>,
}

/// An event that is not a record of its family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// Its position among the events.
    pub index: usize,
    /// The column at fault, where one is.
    pub field: Option<String>,
    /// What is wrong with it.
    pub reason: String,
}

/// Decodes events of one family. Every event is a row or is bad.
pub fn decode(family: Family, events: &[Event]) -> Result<Decoded, Error> {
    match decode_alike(family, events)? {
        Some(decoded) => Ok(decoded),
        None => decode_each(family, events),
    }
}

/// Events that are all good records of our own spelling, with what they have alike decoded once; `None` where they are not.
fn decode_alike(family: Family, events: &[Event]) -> Result<Option<Decoded>, Error> {
    let topic = family.topic();
    let fault = |e: ArrowError| Error::Rows { table: topic.name, why: e.to_string() };
    let Ok(frames) = events.iter().map(readable).collect::<Result<Vec<_>, _>>() else { return Ok(None) };
    if frames.len() < ONCE_ROWS_MIN {
        return Ok(None);
    }
    let Some(alike) = frame::decode_alike(family, &frames)? else { return Ok(None) };
    let column =
        |name: &&'static str| alike.column(name).map(|(column, _)| (*name, column.clone())).expect("a partition column is a column");
    if has_partition_fault(&topic.partition_by.iter().map(column).collect::<Vec<_>>()).map_err(fault)? {
        return Ok(None);
    }
    let events: Vec<&Event> = events.iter().collect();
    let own_keys = alike.has_keys(family, events.iter().map(|event| event.key.as_deref()));
    let mut columns = Vec::with_capacity(topic.stored_schema().fields().len());
    for field in topic.wire_schema().fields() {
        match alike.column(field.name()) {
            Some((column, true)) if column.is_null(0) => {}
            Some((column, true)) => columns.push((field.clone(), run(column, frames.len()).map_err(fault)?)),
            Some((column, false)) => columns.push((field.clone(), column.clone())),
            None => unreachable!("a wire column is among those that differ or those that do not"),
        }
    }
    let schema_ids = vec![topic.schema_id];
    let raw = BinaryArray::new_null(events.len());
    let log = log_columns(&events, &schema_ids.repeat(events.len()), &own_keys, raw);
    columns.extend(log.into_iter().map(|(name, array)| (Arc::new(topic.stored_schema().field(topic.column(name)).clone()), array)));
    let (fields, columns): (Vec<_>, Vec<_>) = columns
        .into_iter()
        .map(|(field, column)| (Arc::new(field.as_ref().clone().with_data_type(column.data_type().clone())), column))
        .unzip();
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(fault)?;
    Ok(Some(Decoded { rows: slim(topic, rows)?, bad: Vec::new(), schema_ids }))
}

fn has_partition_fault(columns: &[(&'static str, ArrayRef)]) -> Result<bool, ArrowError> {
    for (name, column) in columns {
        let alike = partition(std::slice::from_ref(column))?;
        if alike.ranges().into_iter().any(|range| partition_fault(name, column, range.start).is_some()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Decodes events one by one: among them may be anything.
fn decode_each(family: Family, events: &[Event]) -> Result<Decoded, Error> {
    let topic = family.topic();
    let mut bad = Vec::new();
    let (mut frames, mut positions) = (Vec::with_capacity(events.len()), Vec::with_capacity(events.len()));
    for (index, event) in events.iter().enumerate() {
        match readable(event) {
            Ok(frame) => {
                frames.push(frame);
                positions.push(index);
            }
            Err(reason) => bad.push(Bad { index, field: None, reason }),
        }
    }
    let decoded = frame::decode(family, &frames)?;
    bad.extend(decoded.bad.into_iter().map(|frame| Bad { index: positions[frame.index], field: frame.field, reason: frame.reason }));
    let indices: Vec<usize> = decoded.rows.iter().map(|row| positions[*row]).collect();
    let (batch, kept) = refuse_without_partition(topic, decoded.batch, &indices, &mut bad)?;
    let sources: Vec<&Event> = kept.iter().map(|row| &events[indices[*row]]).collect();
    let ids: Vec<u32> = kept.iter().map(|row| decoded.schema_ids[*row]).collect();
    bad.sort_by_key(|bad| bad.index);
    let ours: Vec<bool> = kept.iter().map(|row| decoded.ours[*row]).collect();
    let rows = slim(topic, with_log_columns(family, &batch, &sources, &ids, &ours)?)?;
    let mut schema_ids = ids;
    schema_ids.sort_unstable();
    schema_ids.dedup();
    Ok(Decoded { rows, bad, schema_ids })
}

fn readable(event: &Event) -> Result<&[u8], String> {
    if event.ts_ms.checked_mul(NS_PER_MS).is_none() {
        return Err(record::ts_reason(event.ts_ms));
    }
    event.value.as_deref().ok_or_else(|| "the value is null: records are never deleted".to_string())
}

/// A row that can name no partition of the table leaves the batch. Returns what stays, and which rows those are.
fn refuse_without_partition(
    topic: &'static Topic,
    batch: RecordBatch,
    indices: &[usize],
    bad: &mut Vec<Bad>,
) -> Result<(RecordBatch, Vec<usize>), Error> {
    let columns: Vec<ArrayRef> = topic.partition_by.iter().map(|name| batch.column(topic.column(name)).clone()).collect();
    let wrong = |row: usize| {
        let cells = topic.partition_by.iter().zip(&columns);
        cells.into_iter().find_map(|(name, column)| partition_fault(name, column, row).map(|why| (*name, why)))
    };
    // Neighbours mostly share a partition: what is true of the first of them is true of all.
    let alike = partition(&columns).map_err(|e| Error::Rows { table: topic.name, why: e.to_string() })?;
    let mut kept = Vec::with_capacity(batch.num_rows());
    for range in alike.ranges() {
        match wrong(range.start) {
            None => kept.extend(range),
            Some((field, reason)) => {
                bad.extend(indices[range].iter().map(|index| Bad { index: *index, field: Some(field.to_string()), reason: reason.clone() }))
            }
        }
    }
    if kept.len() == batch.num_rows() {
        return Ok((batch, kept));
    }
    let rows = UInt64Array::from_iter_values(kept.iter().map(|row| *row as u64));
    let batch = take_record_batch(&batch, &rows).map_err(|e| Error::Rows { table: topic.name, why: e.to_string() })?;
    Ok((batch, kept))
}

fn partition_fault(name: &str, column: &ArrayRef, row: usize) -> Option<String> {
    if name == "dataset" {
        let dataset = column.as_string::<i32>().value(row);
        return (!is_dataset(dataset))
            .then(|| format!("dataset {:?} has not 1 to {DATASET_CHARS_MAX} characters", dataset.chars().take(64).collect::<String>()));
    }
    lake::partition_value(column, row).err()
}

fn is_dataset(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= DATASET_CHARS_MAX
}

/// Adds where each row stood in the log and what of its record the row does not give. This is where every batch is checked: a frame that is
/// not known to be what the row would be written back as is compared with just that.
fn with_log_columns(
    family: Family,
    batch: &RecordBatch,
    events: &[&Event],
    schema_ids: &[u32],
    ours: &[bool],
) -> Result<RecordBatch, Error> {
    let topic = family.topic();
    let fault = |e: ArrowError| Error::Rows { table: topic.name, why: e.to_string() };
    let others: Vec<usize> = (0..events.len()).filter(|row| !ours[*row]).collect();
    let rows = UInt64Array::from_iter_values(others.iter().map(|row| *row as u64));
    let rewritten = frame::encode(family, &take_record_batch(batch, &rows).map_err(fault)?)?;
    let mut raw: Vec<Option<&[u8]>> = vec![None; events.len()];
    for (row, rewritten) in others.iter().zip(&rewritten) {
        raw[*row] = events[*row].value.as_deref().filter(|read| read != rewritten);
    }
    let keys = frame::keys(family, batch);
    let own_keys: Vec<bool> = events.iter().zip(&keys).map(|(event, key)| event.key.as_ref() == Some(key)).collect();
    let log = log_columns(events, schema_ids, &own_keys, BinaryArray::from(raw));
    let columns = batch.columns().iter().cloned().chain(log.into_iter().map(|(name, array)| {
        debug_assert!(topic.find_column(name).is_some());
        array
    }));
    RecordBatch::try_new(topic.stored_schema().clone(), columns.collect()).map_err(fault)
}

/// The log's columns, in the table's order. `own_keys` says whose key follows from the row, `raw` holds what the row is not written back as.
fn log_columns(events: &[&Event], schema_ids: &[u32], own_keys: &[bool], raw: BinaryArray) -> [(&'static str, ArrayRef); 8] {
    let mut key_cells = BinaryBuilder::new();
    let mut header_cells = BinaryBuilder::new();
    for (event, own) in events.iter().zip(own_keys) {
        key_cells.append_option((!own).then(|| record::key_cell(event.key.as_ref())));
        header_cells.append_option(record::headers_cell(&event.headers));
    }
    [
        ("_partition", Arc::new(Int32Array::from_iter_values(events.iter().map(|event| event.partition)))),
        ("_offset", Arc::new(Int64Array::from_iter_values(events.iter().map(|event| event.offset)))),
        ("_log_ts", Arc::new(Int64Array::from_iter_values(events.iter().map(|event| event.ts_ms * NS_PER_MS)))),
        ("_schema", Arc::new(Int32Array::from_iter_values(schema_ids.iter().map(|id| id.cast_signed())))),
        ("_key", Arc::new(key_cells.finish())),
        ("_headers", Arc::new(header_cells.finish())),
        ("_ts_type", Arc::new(events.iter().map(|event| record::ts_type_cell(event.ts_type)).collect::<Int32Array>())),
        ("_raw", Arc::new(raw)),
    ]
}

/// The batch as it waits in memory for its commit: without the columns that are NULL throughout, with a column that is the same throughout
/// as one run, and without spare capacity.
pub fn slim(topic: &'static Topic, batch: RecordBatch) -> Result<RecordBatch, Error> {
    let rows = batch.num_rows();
    let (schema, columns, _) = batch.into_parts();
    let (fields, columns): (Vec<Arc<Field>>, Vec<ArrayRef>) = schema
        .fields()
        .iter()
        .cloned()
        .zip(columns)
        .filter(|(field, column)| rows == 0 || !field.is_nullable() || column.null_count() < rows)
        .map(|(field, mut column)| match once(&column) {
            Some(column) => (Arc::new(Field::new(field.name(), column.data_type().clone(), field.is_nullable())), column),
            None => {
                column.shrink_to_fit();
                (field, column)
            }
        })
        .unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|e| Error::Rows { table: topic.name, why: e.to_string() })
}

/// A column of one value throughout as a single run; `None` where it has several or too few rows to be worth it.
fn once(column: &ArrayRef) -> Option<ArrayRef> {
    if column.len() < ONCE_ROWS_MIN || matches!(column.data_type(), DataType::RunEndEncoded(..)) {
        return None;
    }
    let first = Scalar::new(column.slice(0, 1));
    // Most columns that vary are told by their last value.
    let same = |part: &ArrayRef| not_distinct(part, &first).is_ok_and(|same| same.true_count() == part.len());
    if !same(&column.slice(column.len() - 1, 1)) || !same(column) {
        return None;
    }
    run(&take(column, &UInt64Array::from(vec![0]), None).ok()?, column.len()).ok()
}

/// The one value of a column for so many rows, as a single run.
fn run(value: &ArrayRef, rows: usize) -> Result<ArrayRef, ArrowError> {
    let end = i32::try_from(rows).map_err(|_| ArrowError::InvalidArgumentError(format!("{rows} rows are too many for a run")))?;
    Ok(Arc::new(Int32RunArray::try_new(&Int32Array::from(vec![end]), value)?))
}

/// The rows of table `quarantine` for bad events of `origin_topic`. Partition and offset are the origin's and stand in its columns; key,
/// headers and time are kept like a stored row's, so that nothing of the record is lost.
pub fn quarantine(origin_topic: &str, events: &[Event], bad: &[Bad]) -> Result<RecordBatch, Error> {
    let topic = Family::Quarantine.topic();
    let mut rows = Rows::new(Family::Quarantine);
    let mut key_cells = BinaryBuilder::new();
    let mut header_cells = BinaryBuilder::new();
    let events: Vec<&Event> = bad.iter().map(|bad| &events[bad.index]).collect();
    for (event, bad) in events.iter().zip(bad) {
        common(&mut rows, dataset_of(event), &bad.reason);
        rows.text(topic.column("origin_topic"), origin_topic);
        rows.i32(topic.column("origin_partition"), event.partition);
        rows.i64(topic.column("origin_offset"), event.offset);
        if let Some(field) = &bad.field {
            rows.text(topic.column("field"), field);
        }
        if let Some(value) = &event.value {
            rows.bytes(topic.column("raw"), value);
        }
        rows.end_row();
        key_cells.append_value(record::key_cell(event.key.as_ref()));
        header_cells.append_option(record::headers_cell(&event.headers));
    }
    let batch = rows.finish()?;
    let log: [(&str, ArrayRef); 4] = [
        ("_log_ts", Arc::new(events.iter().map(|event| event.ts_ms.checked_mul(NS_PER_MS)).collect::<Int64Array>())),
        ("_key", Arc::new(key_cells.finish())),
        ("_headers", Arc::new(header_cells.finish())),
        ("_ts_type", Arc::new(events.iter().map(|event| record::ts_type_cell(event.ts_type)).collect::<Int32Array>())),
    ];
    let fields = batch
        .schema_ref()
        .fields()
        .iter()
        .cloned()
        .chain(log.iter().map(|(name, array)| Arc::new(Field::new(*name, array.data_type().clone(), true))));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let columns = batch.columns().iter().cloned().chain(log.into_iter().map(|(_, array)| array)).collect();
    slim(topic, RecordBatch::try_new(schema, columns).map_err(|e| Error::Rows { table: topic.name, why: e.to_string() })?)
}

/// The row of table `gaps` for offsets that the log has lost.
pub fn gap(origin_topic: &str, partition: i32, first: i64, last: i64) -> Result<RecordBatch, Error> {
    let topic = Family::Gaps.topic();
    let mut rows = Rows::new(Family::Gaps);
    common(&mut rows, DATASET_UNKNOWN, "the log no longer has these offsets, and they were never stored");
    rows.text(topic.column("origin_topic"), origin_topic);
    rows.i32(topic.column("origin_partition"), partition);
    rows.i64(topic.column("from_seq"), first);
    rows.i64(topic.column("to_seq"), last);
    rows.end_row();
    slim(topic, rows.finish()?)
}

/// The columns that every row must fill, for a row that no source published.
fn common(rows: &mut Rows, dataset: &str, reason: &str) {
    let topic = rows.topic();
    rows.text(topic.column("dataset"), dataset);
    rows.text(topic.column("change"), "new");
    rows.i32(topic.column("revision"), 0);
    rows.text(topic.column("reason"), reason);
    rows.bytes(topic.column("source_id"), &[0; 16]);
    rows.i64(topic.column("source_record"), 0);
    rows.i64(topic.column("source_byte"), 0);
}

fn dataset_of(event: &Event) -> &str {
    dataset_of_key(event.key.as_deref().unwrap_or_default())
}

/// The dataset that a key begins with.
pub fn dataset_of_key(key: &[u8]) -> &str {
    let prefix = key.split(|byte| *byte == b'/').next().unwrap_or_default();
    std::str::from_utf8(prefix).ok().filter(|text| key.contains(&b'/') && is_dataset(text)).unwrap_or(DATASET_UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use eventlog::TimestampType;

    /// Trades of two partitions, some without a price, one with a header, one with another key, one with another kind of time.
    fn events(count: usize) -> Vec<Event> {
        let topic = Family::Trades.topic();
        let mut rows = Rows::new(Family::Trades);
        for i in 0..count {
            common(&mut rows, "GLBX.MDP3", "x");
            rows.text(topic.column("symbol"), ["GPU1V6", "TOK", ""][i % 3]);
            rows.i64(topic.column("ts_event"), i as i64 * 1_000);
            rows.date(topic.column("date"), 20_000 + (i > count / 2) as i32);
            if i % 7 > 0 {
                rows.decimal(topic.column("price"), i as i128 - 100);
            }
            rows.end_row();
        }
        let batch = rows.finish().expect("every required column is set");
        let frames = frame::encode(Family::Trades, &batch).expect("it encodes");
        let event = |(i, (key, value)): (usize, (Bytes, Bytes))| Event {
            family: Family::Trades,
            partition: (i / 10) as i32 % 2,
            offset: i as i64,
            ts_ms: 1_764_000_000_000 + i as i64,
            ts_type: if i == 5 { TimestampType::Create } else { TimestampType::LogAppend },
            key: (i != 6).then_some(key),
            value: Some(value),
            headers: if i == 7 { vec![("a".to_string(), None)] } else { vec![] },
        };
        frame::keys(Family::Trades, &batch).into_iter().zip(frames).enumerate().map(event).collect()
    }

    #[test]
    fn what_is_alike_is_decoded_once_and_the_rows_are_the_same() {
        let events = events(3 * ONCE_ROWS_MIN);
        let alike = decode_alike(Family::Trades, &events).expect("they decode").expect("all are of our spelling");
        let each = decode_each(Family::Trades, &events).expect("they decode");
        assert_eq!(alike.rows, each.rows);
        assert_eq!((alike.bad, alike.schema_ids), (each.bad, each.schema_ids));
    }

    #[test]
    fn one_frame_of_another_spelling_keeps_its_bytes_and_harms_no_other() {
        let mut events = events(ONCE_ROWS_MIN);
        let plain = events[9].value.clone().expect("it has a value");
        // The last column's branch, NULL, in two bytes instead of one.
        let at = (5..plain.len()).rev().find(|at| plain[*at] == 0).expect("a NULL at the end");
        let longer = Bytes::from([&plain[..at], &[0x80], &plain[at..]].concat());
        events[9].value = Some(longer.clone());
        assert!(decode_alike(Family::Trades, &events).expect("they decode").is_none());
        let decoded = decode(Family::Trades, &events).expect("they decode");
        let raw = decoded.rows.column_by_name("_raw").expect("a value is kept").as_binary::<i32>();
        assert_eq!((raw.null_count(), raw.value(9), decoded.bad), (events.len() - 1, longer.as_ref(), vec![]));
    }

    #[test]
    fn a_record_that_can_name_no_partition_is_bad_among_alike_ones() {
        let mut events = events(ONCE_ROWS_MIN);
        let mut rows = Rows::new(Family::Trades);
        common(&mut rows, "A.DATASET.WITH.A.LONG.NAME", "x");
        rows.end_row();
        let frames = frame::encode(Family::Trades, &rows.finish().expect("complete")).expect("it encodes");
        events[3].value = Some(frames[0].clone());
        let decoded = decode(Family::Trades, &events).expect("they decode");
        assert_eq!((decoded.rows.num_rows(), decoded.bad.len(), decoded.bad[0].index), (events.len() - 1, 1, 3));
    }
}
