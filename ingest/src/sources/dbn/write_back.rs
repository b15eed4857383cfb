//! A stored row of DBN origin back to the DBN record that it was read from, field for field.
//!
//! The record is laid out as its version and type say (`layout.rs`, read backwards). What comes back is the same bytes except these, which no
//! column holds and which are written as 0:
//! - reserved bytes: of `bbo-*` and `cbbo-*` where other records have `action`, `depth`, `ts_in_delta` (and `sequence` in `cbbo-*`), of
//!   `cmbp-1` and `tcbbo` where others have `depth` and `sequence`, two after each consolidated publisher, and those at the end of `status`,
//!   `imbalance`, `statistics` and definitions (in version 1 also between their fields);
//! - what stands in a text field after its first 0 byte.
//!
//! A text that was not UTF-8 comes back as UTF-8. A `ts_out` that was undefined comes back as no `ts_out`. The `length` follows from the
//! layout. System and error messages come back as they are stored: whole.

use super::layout::{HEADER_LEN, TS_OUT_LEN, Wire, layout};
use super::row::RECORD_MEDIA_TYPE;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Decimal128Type, Int32Type, Int64Type};
use dbn::SType;
use schemas::Family;

/// Why a row is no DBN record.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotARecord {
    /// It did not come from a DBN record, but from another source, or from a DBN file's header.
    #[error("the row did not come from a DBN record: {0}")]
    OtherOrigin(&'static str),
    /// No DBN version lays such a record out.
    #[error("rtype {rtype} of DBN version {version} is no record of {family}")]
    NoLayout {
        /// Table of the row.
        family: &'static str,
        /// Its record type.
        rtype: i32,
        /// Its version.
        version: i32,
    },
    /// The batch lacks a column.
    #[error("column {0} is missing, or is not of the type that the family declares")]
    NoColumn(String),
    /// A value that a DBN record of this type always has is NULL.
    #[error("{0} is NULL, but a DBN record cannot leave it out")]
    Null(String),
    /// A value does not fit the field of the record.
    #[error("{column} is {value}, which does not fit its field of the DBN record")]
    DoesNotFit {
        /// Column and field.
        column: String,
        /// The value.
        value: String,
    },
}

/// The DBN record that row `row` of `batch`, a batch of `family`, was read from.
pub fn record_bytes(family: Family, batch: &RecordBatch, row: usize) -> Result<Vec<u8>, NotARecord> {
    let cells = Cells { batch, row };
    if family == Family::Documents {
        return message(&cells);
    }
    let rtype = cells.i32("rtype").map_err(|_| NotARecord::OtherOrigin("its family has no rtype"))?;
    let rtype = rtype.ok_or(NotARecord::OtherOrigin("rtype is NULL"))?;
    let version = version(family, &cells)?;
    let no_layout = NotARecord::NoLayout { family: family.topic().name, rtype, version };
    let (Ok(version), Ok(rtype)) = (u8::try_from(version), u8::try_from(rtype)) else { return Err(no_layout) };
    let layout = layout(version, rtype).filter(|layout| layout.family == family).ok_or(no_layout)?;
    let ts_out = cells.i64("ts_out")?;
    let size = layout.size();
    let length = size + if ts_out.is_some() { TS_OUT_LEN } else { 0 };
    let mut record = vec![0; length];
    record[0] = (length / 4) as u8;
    record[1] = rtype;
    cells.put("publisher_id", Wire::U16, &mut record[2..])?;
    cells.put("instrument_id", Wire::U32, &mut record[4..])?;
    cells.put("ts_event", Wire::Time, &mut record[8..])?;
    for (name, offset, wire) in layout.columns() {
        cells.put(name, wire, &mut record[offset..])?;
    }
    if ts_out.is_some() {
        cells.put("ts_out", Wire::Time, &mut record[size..])?;
    }
    Ok(record)
}

/// Only some records are laid out differently by version, and their families say which it was.
fn version(family: Family, cells: &Cells) -> Result<i32, NotARecord> {
    match family {
        Family::Instruments | Family::Statistics => cells.i32("dbn_version")?.ok_or(NotARecord::OtherOrigin("dbn_version is NULL")),
        _ => Ok(3),
    }
}

fn message(cells: &Cells) -> Result<Vec<u8>, NotARecord> {
    if cells.text("media_type")? != Some(RECORD_MEDIA_TYPE) {
        return Err(NotARecord::OtherOrigin("the document is not a DBN record"));
    }
    let body = cells.column("body")?.as_binary_opt::<i32>().ok_or_else(|| NotARecord::NoColumn("body".into()))?;
    if body.is_null(cells.row) || body.value(cells.row).len() < HEADER_LEN {
        return Err(NotARecord::Null("body".into()));
    }
    Ok(body.value(cells.row).to_vec())
}

/// One row of a batch, asked by column name.
struct Cells<'a> {
    batch: &'a RecordBatch,
    row: usize,
}

impl<'a> Cells<'a> {
    fn column(&self, name: &str) -> Result<&'a ArrayRef, NotARecord> {
        self.batch.column_by_name(name).ok_or_else(|| NotARecord::NoColumn(name.into()))
    }

    fn i32(&self, name: &str) -> Result<Option<i32>, NotARecord> {
        let values = self.column(name)?.as_primitive_opt::<Int32Type>().ok_or_else(|| NotARecord::NoColumn(name.into()))?;
        Ok(values.is_valid(self.row).then(|| values.value(self.row)))
    }

    fn i64(&self, name: &str) -> Result<Option<i64>, NotARecord> {
        let values = self.column(name)?.as_primitive_opt::<Int64Type>().ok_or_else(|| NotARecord::NoColumn(name.into()))?;
        Ok(values.is_valid(self.row).then(|| values.value(self.row)))
    }

    fn decimal(&self, name: &str) -> Result<Option<i128>, NotARecord> {
        let values = self.column(name)?.as_primitive_opt::<Decimal128Type>().ok_or_else(|| NotARecord::NoColumn(name.into()))?;
        Ok(values.is_valid(self.row).then(|| values.value(self.row)))
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, NotARecord> {
        let values = self.column(name)?.as_string_opt::<i32>().ok_or_else(|| NotARecord::NoColumn(name.into()))?;
        Ok(values.is_valid(self.row).then(|| values.value(self.row)))
    }

    /// Writes one column's value at the beginning of `field`, its sentinel where it is NULL.
    fn put(&self, name: &str, wire: Wire, field: &mut [u8]) -> Result<(), NotARecord> {
        let wide = |value: Option<i64>| value.map(i128::from);
        let narrow = |value: Option<i32>| value.map(i128::from);
        match wire {
            Wire::Price => put_number(name, self.decimal(name)?, Some(i64::MAX), field),
            Wire::Time => match self.i64(name)? {
                Some(value) => put_number::<u64>(name, Some(i128::from(value)), None, field),
                None => put_number(name, None, Some(u64::MAX), field),
            },
            Wire::U64 => put_number::<u64>(name, self.decimal(name)?, None, field),
            Wire::U32Wide => put_number::<u32>(name, self.decimal(name)?, None, field),
            Wire::Volume => put_number::<u64>(name, self.whole(name)?, None, field),
            Wire::Quantity64 => put_number(name, self.whole(name)?, Some(i64::MAX), field),
            Wire::Quantity32 => put_number(name, self.whole(name)?, Some(i32::MAX), field),
            Wire::Size => put_number(name, wide(self.i64(name)?), Some(u32::MAX), field),
            Wire::U32 => put_number::<u32>(name, wide(self.i64(name)?), None, field),
            Wire::I32 => put_number::<i32>(name, narrow(self.i32(name)?), None, field),
            Wire::I32Opt => put_number(name, narrow(self.i32(name)?), Some(i32::MAX), field),
            Wire::U16 => put_number::<u16>(name, narrow(self.i32(name)?), None, field),
            Wire::U16Opt => put_number(name, narrow(self.i32(name)?), Some(u16::MAX), field),
            Wire::I16Opt => put_number(name, narrow(self.i32(name)?), Some(i16::MAX), field),
            Wire::U8 => put_number::<u8>(name, narrow(self.i32(name)?), None, field),
            Wire::U8Opt => put_number(name, narrow(self.i32(name)?), Some(u8::MAX), field),
            Wire::I8Opt => put_number(name, narrow(self.i32(name)?), Some(i8::MAX), field),
            Wire::Char => put_char(name, self.text(name)?, field),
            Wire::Text(len) => put_text(name, self.text(name)?, &mut field[..len]),
            Wire::SType => put_stype(name, self.text(name)?, field),
            Wire::Reserved(_) => Ok(()),
        }
    }

    /// A whole quantity from a column with nine decimals.
    fn whole(&self, name: &str) -> Result<Option<i128>, NotARecord> {
        let value = self.decimal(name)?;
        match value {
            Some(value) if value % 1_000_000_000 != 0 => Err(does_not_fit(name, schemas::exact::print(value, 9))),
            value => Ok(value.map(|value| value / 1_000_000_000)),
        }
    }
}

fn does_not_fit(column: &str, value: impl ToString) -> NotARecord {
    NotARecord::DoesNotFit { column: column.into(), value: value.to_string() }
}

/// A number of a record: little-endian, of fixed width.
trait Number: TryFrom<i128> + Copy + PartialEq {
    fn put(self, field: &mut [u8]);
}

macro_rules! number {
    ($($number:ty),+) => {
        $(impl Number for $number {
            fn put(self, field: &mut [u8]) {
                field[..size_of::<$number>()].copy_from_slice(&self.to_le_bytes());
            }
        })+
    };
}

number!(u8, i8, u16, i16, u32, i32, u64, i64);

fn put_number<N: Number>(name: &str, value: Option<i128>, none: Option<N>, field: &mut [u8]) -> Result<(), NotARecord> {
    let number = match value {
        None => none.ok_or_else(|| NotARecord::Null(name.into()))?,
        Some(value) => {
            let number = N::try_from(value).map_err(|_| does_not_fit(name, value))?;
            if Some(number) == none {
                return Err(does_not_fit(name, value)); // it would be read as NULL
            }
            number
        }
    };
    number.put(field);
    Ok(())
}

fn put_char(name: &str, value: Option<&str>, field: &mut [u8]) -> Result<(), NotARecord> {
    let mut letters = value.unwrap_or("\0").chars();
    match (letters.next().map(|letter| u8::try_from(u32::from(letter))), letters.next()) {
        (Some(Ok(byte)), None) => field[0] = byte,
        _ => return Err(does_not_fit(name, value.unwrap_or_default())),
    }
    Ok(())
}

fn put_text(name: &str, value: Option<&str>, field: &mut [u8]) -> Result<(), NotARecord> {
    let text = value.unwrap_or_default().as_bytes();
    if text.len() > field.len() {
        return Err(does_not_fit(name, value.unwrap_or_default()));
    }
    field[..text.len()].copy_from_slice(text);
    Ok(())
}

fn put_stype(name: &str, value: Option<&str>, field: &mut [u8]) -> Result<(), NotARecord> {
    field[0] = match value {
        None => u8::MAX,
        Some(text) => match (text.parse::<SType>(), text.parse::<u8>()) {
            (Ok(stype), _) => stype as u8,
            (_, Ok(number)) => number,
            _ => return Err(does_not_fit(name, text)),
        },
    };
    Ok(())
}
