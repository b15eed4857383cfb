//! What a row must keep so that its record can be made again byte for byte, and how it is made again. Pure.
//!
//! Our own writers need none of it: key and value follow from the row, there are no headers, the broker sets the time. The cells here are
//! filled only where a record differs.

use crate::{Error, Family, frame};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;

/// Nanoseconds in the millisecond that a broker counts.
pub const NS_PER_MS: i64 = 1_000_000;

/// Who set a record's timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The broker, when it appended the record: ours.
    LogAppend,
    /// The producer.
    Create,
    /// Nobody.
    None,
}

/// A record's headers, in order.
pub type Headers = Vec<(String, Option<Bytes>)>;

/// The cell `_key`, for a key that is not the row's own: 0 for the null key, else 1 and the key. Null and empty are different keys.
pub fn key_cell(key: Option<&Bytes>) -> Vec<u8> {
    match key {
        None => vec![0],
        Some(key) => [&[1][..], key].concat(),
    }
}

/// The cell `_headers`: for each header the length of its name (four bytes, big-endian) and the name, then the length of its value (the
/// same, `ffffffff` for the null value) and the value. `None` where there are no headers.
pub fn headers_cell(headers: &[(String, Option<Bytes>)]) -> Option<Vec<u8>> {
    if headers.is_empty() {
        return None;
    }
    let mut cell = Vec::new();
    for (name, value) in headers {
        push(&mut cell, Some(name.as_bytes()));
        push(&mut cell, value.as_deref());
    }
    Some(cell)
}

fn push(cell: &mut Vec<u8>, bytes: Option<&[u8]>) {
    let length = bytes.map_or(u32::MAX, |bytes| u32::try_from(bytes.len()).expect("a record has at most 64 MiB"));
    cell.extend(length.to_be_bytes());
    cell.extend(bytes.unwrap_or_default());
}

/// The cell `_ts_type`: NULL for the broker's own time.
pub fn ts_type_cell(ts_type: TimestampType) -> Option<i32> {
    match ts_type {
        TimestampType::LogAppend => None,
        TimestampType::Create => Some(0),
        TimestampType::None => Some(-1),
    }
}

/// A record as it stood in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Key; null and empty are different.
    pub key: Option<Bytes>,
    /// Value; null and empty are different.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Headers,
    /// Milliseconds since 1970 UTC.
    pub ts_ms: i64,
    /// Who set `ts_ms`.
    pub ts_type: TimestampType,
}

/// Makes the records of stored rows (all columns of the family's stored schema) again.
pub fn rebuild(family: Family, rows: &RecordBatch) -> Result<Vec<Record>, Error> {
    let topic = family.topic();
    let fault = |why: String| Error::Rebuild { topic: topic.name, why };
    let wire: Vec<usize> = (0..topic.fields.len()).collect();
    let own = rows
        .project(&wire)
        .and_then(|batch| RecordBatch::try_new(topic.wire_schema().clone(), batch.columns().to_vec()))
        .map_err(|e| fault(e.to_string()))?;
    let values = frame::encode(family, &own)?;
    let keys = frame::keys(family, &own);
    let bytes = |name: &str| {
        let cells = rows.column(topic.column(name)).as_binary::<i32>();
        move |row: usize| cells.is_valid(row).then(|| Bytes::copy_from_slice(cells.value(row)))
    };
    let (other_key, other_value, other_headers) = (bytes("_key"), bytes("_raw"), bytes("_headers"));
    let log_ts = rows.column(topic.column("_log_ts")).as_primitive::<Int64Type>();
    let ts_type = rows.column(topic.column("_ts_type")).as_primitive::<Int32Type>();
    let of_row = |(row, (key, value))| {
        Ok(Record {
            key: match other_key(row) {
                None => Some(key),
                Some(cell) => match cell.split_first() {
                    Some((0, _)) => None,
                    Some((1, _)) => Some(cell.slice(1..)),
                    _ => return Err(fault("a _key is neither the null key nor a key".into())),
                },
            },
            value: other_value(row).or(Some(value)),
            headers: match other_headers(row) {
                None => Vec::new(),
                Some(cell) => headers(cell).ok_or_else(|| fault("_headers is cut short".into()))?,
            },
            ts_ms: log_ts.value(row) / NS_PER_MS,
            ts_type: self::ts_type(ts_type.is_valid(row).then(|| ts_type.value(row))),
        })
    };
    keys.into_iter().zip(values).enumerate().map(of_row).collect()
}

/// Why an event is bad whose time no column of nanoseconds holds: the reason is where its time is kept.
pub fn ts_reason(ts_ms: i64) -> String {
    format!("timestamp {ts_ms} ms is beyond the range of nanoseconds")
}

fn ts_in_reason(reason: &str) -> Option<i64> {
    reason.strip_prefix("timestamp ")?.strip_suffix(" ms is beyond the range of nanoseconds")?.parse().ok()
}

/// Makes the records that the store put into `quarantine` again: topic, partition and offset where each stood, and the record.
pub fn rebuild_quarantined(rows: &RecordBatch) -> Result<Vec<(String, i32, i64, Record)>, Error> {
    let topic = Family::Quarantine.topic();
    let fault = |why: &str| Error::Rebuild { topic: topic.name, why: why.into() };
    let column = |name: &str| rows.column(topic.column(name));
    let bytes = |name: &str, row: usize| {
        let cells = column(name).as_binary::<i32>();
        cells.is_valid(row).then(|| Bytes::copy_from_slice(cells.value(row)))
    };
    let int = |name: &str, row: usize| {
        let cells = column(name).as_primitive::<Int32Type>();
        cells.is_valid(row).then(|| cells.value(row))
    };
    let long = |name: &str, row: usize| {
        let cells = column(name).as_primitive::<Int64Type>();
        cells.is_valid(row).then(|| cells.value(row))
    };
    let origin = column("origin_topic").as_string::<i32>();
    let reason = column("reason").as_string::<i32>();
    // Rows of the log's own topic `quarantine` have a place in it; these have only that of what they hold.
    let by_store = (0..rows.num_rows()).filter(|row| int("_partition", *row).is_none() && origin.is_valid(*row));
    by_store
        .map(|row| {
            let place = int("origin_partition", row).zip(long("origin_offset", row)).ok_or_else(|| fault("a row names no offset"))?;
            let key = match bytes("_key", row).ok_or_else(|| fault("a row has no _key"))? {
                cell if cell.first() == Some(&0) => None,
                cell if cell.first() == Some(&1) => Some(cell.slice(1..)),
                _ => return Err(fault("a _key is neither the null key nor a key")),
            };
            let record = Record {
                key,
                value: bytes("raw", row),
                headers: bytes("_headers", row).map_or(Some(Vec::new()), headers).ok_or_else(|| fault("_headers is cut short"))?,
                ts_ms: match long("_log_ts", row) {
                    Some(ns) => ns / NS_PER_MS,
                    None => ts_in_reason(reason.value(row)).ok_or_else(|| fault("a row has no time"))?,
                },
                ts_type: ts_type(int("_ts_type", row)),
            };
            Ok((origin.value(row).to_string(), place.0, place.1, record))
        })
        .collect()
}

fn ts_type(cell: Option<i32>) -> TimestampType {
    match cell {
        None => TimestampType::LogAppend,
        Some(0) => TimestampType::Create,
        Some(_) => TimestampType::None,
    }
}

fn headers(mut cell: Bytes) -> Option<Headers> {
    let mut headers = Vec::new();
    while !cell.is_empty() {
        let name = pull(&mut cell)??;
        let value = pull(&mut cell)?;
        headers.push((String::from_utf8(name.to_vec()).ok()?, value));
    }
    Some(headers)
}

/// The next text of a cell: `None` where the cell is cut short, `Some(None)` for the null value.
fn pull(cell: &mut Bytes) -> Option<Option<Bytes>> {
    let length = cell.get(..4)?;
    let length = u32::from_be_bytes(length.try_into().expect("four bytes were taken"));
    let _ = cell.split_to(4);
    if length == u32::MAX {
        return Some(None);
    }
    let length = usize::try_from(length).ok()?;
    (cell.len() >= length).then(|| Some(cell.split_to(length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_come_back(given in proptest::collection::vec(("\\PC{0,8}", proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9))), 0..5)) {
            let given: Headers = given.into_iter().map(|(name, value)| (name, value.map(Bytes::from))).collect();
            match headers_cell(&given) {
                None => prop_assert!(given.is_empty()),
                Some(cell) => prop_assert_eq!(headers(cell.into()), Some(given)),
            }
        }

        #[test]
        fn no_cell_panics(cell in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = headers(cell.into());
        }
    }
}
