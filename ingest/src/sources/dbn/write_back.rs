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
    let mut record = Vec::new();
    WriteBack::new(family, batch).push(row, &mut record)?;
    Ok(record)
}

/// The DBN records of some rows of a batch, one behind the other, and where each ends; or the row that is none, and why.
pub fn rows(family: Family, batch: &RecordBatch, rows: &[usize]) -> Result<(Vec<u8>, Vec<usize>), (usize, String)> {
    let mut write_back = WriteBack::new(family, batch);
    let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(rows.len()));
    for row in rows {
        write_back.push(*row, &mut bytes).map_err(|why| (*row, why.to_string()))?;
        ends.push(bytes.len());
    }
    Ok((bytes, ends))
}

/// Writes rows of one batch back, with its columns looked up once.
pub struct WriteBack<'a> {
    family: Family,
    batch: &'a RecordBatch,
    plans: Vec<Plan<'a>>,
}

/// How the records of one type and version are laid out, over the columns of the batch.
struct Plan<'a> {
    rtype: u8,
    version: u8,
    size: usize,
    fields: Vec<Field<'a>>,
    ts_out: Column<'a>,
}

struct Field<'a> {
    column: Column<'a>,
    offset: usize,
    wire: Wire,
}

impl<'a> WriteBack<'a> {
    /// Of a batch of `family`.
    pub fn new(family: Family, batch: &'a RecordBatch) -> WriteBack<'a> {
        WriteBack { family, batch, plans: Vec::new() }
    }

    /// Appends the DBN record that row `row` was read from.
    pub fn push(&mut self, row: usize, out: &mut Vec<u8>) -> Result<(), NotARecord> {
        if self.family == Family::Documents {
            out.extend_from_slice(message(self.batch, row)?);
            return Ok(());
        }
        let rtype = Column::of(self.batch, "rtype").map_err(|_| NotARecord::OtherOrigin("its family has no rtype"))?.at(row);
        let rtype = rtype.i32()?.ok_or(NotARecord::OtherOrigin("rtype is NULL"))?;
        let version = version(self.family, self.batch, row)?;
        let plan = self.plan(rtype, version)?;
        let ts_out = plan.ts_out.at(row).i64()?;
        let length = plan.size + if ts_out.is_some() { TS_OUT_LEN } else { 0 };
        let begin = out.len();
        out.resize(begin + length, 0);
        let record = &mut out[begin..];
        record[0] = (length / 4) as u8;
        record[1] = plan.rtype;
        for Field { column, offset, wire } in &plan.fields {
            column.at(row).put(*wire, &mut record[*offset..])?;
        }
        if ts_out.is_some() {
            plan.ts_out.at(row).put(Wire::Time, &mut record[plan.size..])?;
        }
        Ok(())
    }

    fn plan(&mut self, rtype: i32, version: i32) -> Result<&Plan<'a>, NotARecord> {
        let known = self.plans.iter().position(|plan| (i32::from(plan.rtype), i32::from(plan.version)) == (rtype, version));
        let at = match known {
            Some(at) => at,
            None => {
                self.plans.push(Plan::new(self.family, self.batch, rtype, version)?);
                self.plans.len() - 1
            }
        };
        Ok(&self.plans[at])
    }
}

impl<'a> Plan<'a> {
    fn new(family: Family, batch: &'a RecordBatch, rtype: i32, version: i32) -> Result<Plan<'a>, NotARecord> {
        let no_layout = NotARecord::NoLayout { family: family.topic().name, rtype, version };
        let (Ok(version), Ok(rtype)) = (u8::try_from(version), u8::try_from(rtype)) else { return Err(no_layout) };
        let layout = layout(version, rtype).filter(|layout| layout.family == family).ok_or(no_layout)?;
        let header = [("publisher_id", 2, Wire::U16), ("instrument_id", 4, Wire::U32), ("ts_event", 8, Wire::Time)];
        let fields = header.into_iter().chain(layout.columns());
        let fields = fields.map(|(name, offset, wire)| Ok(Field { column: Column::of(batch, name)?, offset, wire }));
        Ok(Plan { rtype, version, size: layout.size(), fields: fields.collect::<Result<_, _>>()?, ts_out: Column::of(batch, "ts_out")? })
    }
}

/// Only some records are laid out differently by version, and their families say which it was.
fn version(family: Family, batch: &RecordBatch, row: usize) -> Result<i32, NotARecord> {
    match family {
        Family::Instruments | Family::Statistics => {
            Column::of(batch, "dbn_version")?.at(row).i32()?.ok_or(NotARecord::OtherOrigin("dbn_version is NULL"))
        }
        _ => Ok(3),
    }
}

fn message(batch: &RecordBatch, row: usize) -> Result<&[u8], NotARecord> {
    if Column::of(batch, "media_type")?.at(row).text()? != Some(RECORD_MEDIA_TYPE) {
        return Err(NotARecord::OtherOrigin("the document is not a DBN record"));
    }
    let body = Column::of(batch, "body")?.array.as_binary_opt::<i32>().ok_or_else(|| NotARecord::NoColumn("body".into()))?;
    if body.is_null(row) || body.value(row).len() < HEADER_LEN {
        return Err(NotARecord::Null("body".into()));
    }
    Ok(body.value(row))
}

/// A column by its name.
#[derive(Clone, Copy)]
struct Column<'a> {
    name: &'a str,
    array: &'a ArrayRef,
}

impl<'a> Column<'a> {
    fn of(batch: &'a RecordBatch, name: &'a str) -> Result<Column<'a>, NotARecord> {
        let array = batch.column_by_name(name).ok_or_else(|| NotARecord::NoColumn(name.into()))?;
        Ok(Column { name, array })
    }

    fn at(self, row: usize) -> Cell<'a> {
        Cell { column: self, row }
    }
}

/// One cell of a batch.
struct Cell<'a> {
    column: Column<'a>,
    row: usize,
}

impl<'a> Cell<'a> {
    fn no_column(&self) -> NotARecord {
        NotARecord::NoColumn(self.column.name.into())
    }

    fn i32(&self) -> Result<Option<i32>, NotARecord> {
        let values = self.column.array.as_primitive_opt::<Int32Type>().ok_or_else(|| self.no_column())?;
        Ok(values.is_valid(self.row).then(|| values.value(self.row)))
    }

    fn i64(&self) -> Result<Option<i64>, NotARecord> {
        let values = self.column.array.as_primitive_opt::<Int64Type>().ok_or_else(|| self.no_column())?;
        Ok(values.is_valid(self.row).then(|| values.value(self.row)))
    }

    fn decimal(&self) -> Result<Option<i128>, NotARecord> {
        let values = self.column.array.as_primitive_opt::<Decimal128Type>().ok_or_else(|| self.no_column())?;
        Ok(values.is_valid(self.row).then(|| values.value(self.row)))
    }

    fn text(&self) -> Result<Option<&'a str>, NotARecord> {
        let values = self.column.array.as_string_opt::<i32>().ok_or_else(|| self.no_column())?;
        Ok(values.is_valid(self.row).then(|| values.value(self.row)))
    }

    /// Writes the value at the beginning of `field`, its sentinel where it is NULL.
    fn put(&self, wire: Wire, field: &mut [u8]) -> Result<(), NotARecord> {
        let name = self.column.name;
        let wide = |value: Option<i64>| value.map(i128::from);
        let narrow = |value: Option<i32>| value.map(i128::from);
        match wire {
            Wire::Price => put_number(name, self.decimal()?, Some(i64::MAX), field),
            Wire::Time => match self.i64()? {
                Some(value) => put_number::<u64>(name, Some(i128::from(value)), None, field),
                None => put_number(name, None, Some(u64::MAX), field),
            },
            Wire::U64 => put_number::<u64>(name, self.decimal()?, None, field),
            Wire::U32Wide => put_number::<u32>(name, self.decimal()?, None, field),
            Wire::Volume => put_number::<u64>(name, self.whole()?, None, field),
            Wire::Quantity64 => put_number(name, self.whole()?, Some(i64::MAX), field),
            Wire::Quantity32 => put_number(name, self.whole()?, Some(i32::MAX), field),
            Wire::Size => put_number(name, wide(self.i64()?), Some(u32::MAX), field),
            Wire::U32 => put_number::<u32>(name, wide(self.i64()?), None, field),
            Wire::I32 => put_number::<i32>(name, narrow(self.i32()?), None, field),
            Wire::I32Opt => put_number(name, narrow(self.i32()?), Some(i32::MAX), field),
            Wire::U16 => put_number::<u16>(name, narrow(self.i32()?), None, field),
            Wire::U16Opt => put_number(name, narrow(self.i32()?), Some(u16::MAX), field),
            Wire::I16Opt => put_number(name, narrow(self.i32()?), Some(i16::MAX), field),
            Wire::U8 => put_number::<u8>(name, narrow(self.i32()?), None, field),
            Wire::U8Opt => put_number(name, narrow(self.i32()?), Some(u8::MAX), field),
            Wire::I8Opt => put_number(name, narrow(self.i32()?), Some(i8::MAX), field),
            Wire::Char => put_char(name, self.text()?, field),
            Wire::Text(len) => put_text(name, self.text()?, &mut field[..len]),
            Wire::SType => put_stype(name, self.text()?, field),
            Wire::Reserved(_) => Ok(()),
        }
    }

    /// A whole quantity from a column with nine decimals.
    fn whole(&self) -> Result<Option<i128>, NotARecord> {
        let value = self.decimal()?;
        match value {
            Some(value) if value % 1_000_000_000 != 0 => Err(does_not_fit(self.column.name, schemas::exact::print(value, 9))),
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
