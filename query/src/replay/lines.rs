//! JSON lines: one object per event. First where it stood (table, topic, partition, offset, log time), then all other columns of its table, as
//! the other JSON results have them.
//!
//! What is the same in a whole run (NULL, a dataset, every name of a column) is put together once for the run.

use super::{Known, Replay, Run};
use crate::error::Error;
use crate::output::{JsonColumn, json_text};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, Scalar};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Int32Type, Int64Type, TimeUnit, TimestampNanosecondType};
use futures::StreamExt;
use std::fmt::Write as _;
use std::io::Write;

/// Writes a replay as JSON lines, several runs at a time; gives their number.
pub async fn write_lines(
    replay: Replay,
    known: &Known,
    out: &mut (dyn Write + Send),
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<u64, Error> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let runs =
        futures::stream::try_unfold(replay, |mut replay| async move { Ok::<_, Error>(replay.next().await?.map(|run| (run, replay))) });
    let encoded = runs.map(|run| {
        let known = known.clone();
        async move {
            let run = run?;
            let rows = run.rows.num_rows() as u64;
            let lines = tokio::task::spawn_blocking(move || lines(&run, &known)).await;
            let lines = lines.map_err(|why| Error::panicked("writing JSON lines", &why))??;
            Ok::<_, Error>((rows, lines))
        }
    });
    let mut encoded = std::pin::pin!(encoded.buffered(threads + 1));
    let mut written = 0;
    while let Some(next) = encoded.next().await {
        let (rows, lines) = next?;
        out.write_all(lines.as_bytes())?;
        written += rows;
        progress(rows);
    }
    Ok(written)
}

/// The lines of one run.
pub(super) fn lines(run: &Run, known: &Known) -> Result<String, Error> {
    let (partition, offset) = super::place(run.quarantined);
    let rows = &run.rows;
    let mut parts = Parts { fixed: vec![String::from("{")], changing: Vec::new() };
    parts.fix("table", &json_text(run.table().topic().name));
    parts.fix("topic", &json_text(&known.topic_name(run.family)));
    for (name, column) in [("partition", partition), ("offset", offset), ("log_ts", "_log_ts")] {
        parts.push(name, column_of(rows, column))?;
    }
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        if !["_partition", "_offset", "_log_ts"].contains(&field.name().as_str()) {
            parts.push(field.name(), column)?;
        }
    }
    parts.fixed.last_mut().expect("there is always one").push_str("}\n");
    let mut lines =
        String::with_capacity(rows.num_rows() * (parts.fixed.iter().map(String::len).sum::<usize>() + 24 * parts.changing.len()));
    for row in 0..rows.num_rows() {
        lines.push_str(&parts.fixed[0]);
        for (cells, fixed) in parts.changing.iter_mut().zip(&parts.fixed[1..]) {
            cells.write(row, &mut lines)?;
            lines.push_str(fixed);
        }
    }
    Ok(lines)
}

fn column_of<'a>(rows: &'a RecordBatch, name: &str) -> &'a ArrayRef {
    rows.column_by_name(name).expect("every table has it")
}

/// A line: fixed text, a cell, fixed text, a cell, …, fixed text.
struct Parts<'a> {
    fixed: Vec<String>,
    changing: Vec<Cells<'a>>,
}

impl<'a> Parts<'a> {
    fn name(&mut self, name: &str) -> &mut String {
        let text = self.fixed.last_mut().expect("there is always one");
        if text != "{" {
            text.push(',');
        }
        text.push_str(&json_text(name));
        text.push(':');
        text
    }

    fn fix(&mut self, name: &str, value: &str) {
        self.name(name).push_str(value);
    }

    fn push(&mut self, name: &str, column: &'a ArrayRef) -> Result<(), Error> {
        let mut cells = Cells::new(column)?;
        let text = self.name(name);
        if is_alike(column) {
            return cells.write(0, text);
        }
        self.fixed.push(String::new());
        self.changing.push(cells);
        Ok(())
    }
}

/// Has every row what the first one has?
fn is_alike(column: &ArrayRef) -> bool {
    let rows = column.len();
    if rows == 0 || column.null_count() == rows {
        return rows > 0;
    }
    let first = Scalar::new(column.slice(0, 1));
    let same = |part: &ArrayRef| not_distinct(part, &first).is_ok_and(|same| same.true_count() == part.len());
    // Most columns that vary are told by their last value.
    same(&column.slice(rows - 1, 1)) && same(column)
}

/// The cells of a column on their way to JSON.
struct Cells<'a> {
    column: &'a ArrayRef,
    shape: Shape<'a>,
}

enum Shape<'a> {
    I32(&'a [i32]),
    I64(&'a [i64]),
    Decimal(&'a [i128], usize),
    Time(&'a [i64], Day),
    Date(&'a [i32]),
    Text(&'a arrow::array::StringArray),
    Bytes(&'a arrow::array::BinaryArray),
    Other(JsonColumn<'a>),
}

impl<'a> Cells<'a> {
    fn new(column: &'a ArrayRef) -> Result<Cells<'a>, Error> {
        let shape = match column.data_type() {
            DataType::Int32 => Shape::I32(column.as_primitive::<Int32Type>().values()),
            DataType::Int64 => Shape::I64(column.as_primitive::<Int64Type>().values()),
            DataType::Decimal128(_, scale) if *scale >= 0 => {
                Shape::Decimal(column.as_primitive::<Decimal128Type>().values(), scale.unsigned_abs().into())
            }
            DataType::Timestamp(TimeUnit::Nanosecond, Some(zone)) if zone.as_ref() == "UTC" => {
                Shape::Time(column.as_primitive::<TimestampNanosecondType>().values(), Day::default())
            }
            DataType::Date32 => Shape::Date(column.as_primitive::<Date32Type>().values()),
            DataType::Utf8 => Shape::Text(column.as_string::<i32>()),
            DataType::Binary => Shape::Bytes(column.as_binary::<i32>()),
            _ => Shape::Other(JsonColumn::new(column)?),
        };
        Ok(Cells { column, shape })
    }

    fn write(&mut self, row: usize, line: &mut String) -> Result<(), Error> {
        if self.column.is_null(row) {
            line.push_str("null");
            return Ok(());
        }
        match &mut self.shape {
            Shape::I32(values) => push_number(line, values[row].into(), 0),
            Shape::I64(values) => push_number(line, values[row].into(), 0),
            Shape::Decimal(values, scale) => push_number(line, values[row], *scale),
            Shape::Time(values, day) => day.push(line, values[row]),
            Shape::Date(values) => {
                line.push('"');
                push_date(line, values[row].into());
                line.push('"');
            }
            Shape::Text(values) => push_text(line, values.value(row)),
            Shape::Bytes(values) => push_hex(line, values.value(row)),
            Shape::Other(cells) => cells.write(row, line)?,
        }
        Ok(())
    }
}

/// Longest number: 39 digits, a point, a sign.
const NUMBER_CHARS_MAX: usize = 42;

/// A number of so many decimals, all of them.
fn push_number(line: &mut String, value: i128, scale: usize) {
    let mut text = [0u8; NUMBER_CHARS_MAX];
    let mut at = text.len();
    let mut put = |byte: u8| {
        at -= 1;
        text[at] = byte;
    };
    let mut rest = value.unsigned_abs();
    let mut digits = 0;
    // Most numbers have 64 bits, and those divide faster.
    let mut next_digit = || match u64::try_from(rest) {
        Ok(small) => {
            rest = (small / 10).into();
            ((small % 10) as u8, rest == 0)
        }
        Err(_) => {
            let digit = (rest % 10) as u8;
            rest /= 10;
            (digit, rest == 0)
        }
    };
    loop {
        let (digit, last) = next_digit();
        put(b'0' + digit);
        digits += 1;
        if digits == scale {
            put(b'.');
        }
        if last && digits > scale {
            break;
        }
    }
    if value < 0 {
        put(b'-');
    }
    line.push_str(std::str::from_utf8(&text[at..]).expect("digits are ASCII"));
}

fn push_text(line: &mut String, text: &str) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        line.push('"');
        line.push_str(text);
        line.push('"');
    } else {
        line.push_str(&json_text(text));
    }
}

fn push_hex(line: &mut String, bytes: &[u8]) {
    line.push('"');
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            line.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    line.push('"');
}

/// Days since 1970-01-01 in ISO 8601. Every day that a column can hold: a year of more than four digits has its sign.
fn push_date(text: &mut String, days: i64) {
    // Eras of 400 years that begin on a 1st of March, so that the day that comes and goes is the last of a year.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    let written = match year {
        0..=9_999 => write!(text, "{year:04}-{month:02}-{day:02}"),
        _ => write!(text, "{year:+05}-{month:02}-{day:02}"),
    };
    written.expect("writing to a String cannot fail");
}

const NS_PER_SECOND: i64 = 1_000_000_000;
const NS_PER_DAY: i64 = 86_400 * NS_PER_SECOND;

/// The day of the last time that was written: most times follow one of the same day.
#[derive(Default)]
struct Day {
    known: Option<(i64, String)>,
}

impl Day {
    /// ISO 8601 with nine digits.
    fn push(&mut self, line: &mut String, ns: i64) {
        let (day, in_day) = (ns.div_euclid(NS_PER_DAY), ns.rem_euclid(NS_PER_DAY));
        if self.known.as_ref().is_none_or(|(known, _)| *known != day) {
            let mut text = String::from("\"");
            push_date(&mut text, day);
            text.push('T');
            self.known = Some((day, text));
        }
        line.push_str(self.known.as_ref().map_or("", |(_, text)| text));
        let (seconds, fraction) = (in_day / NS_PER_SECOND, in_day % NS_PER_SECOND);
        for (value, behind) in [(seconds / 3600, ':'), (seconds / 60 % 60, ':'), (seconds % 60, '.')] {
            line.push(char::from(b'0' + (value / 10) as u8));
            line.push(char::from(b'0' + (value % 10) as u8));
            line.push(behind);
        }
        let mut digits = [0u8; 9];
        let mut rest = fraction;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        line.push_str(std::str::from_utf8(&digits).expect("digits are ASCII"));
        line.push_str("Z\"");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        BinaryArray, BooleanArray, Date32Array, Decimal128Array, Int32Array, Int64Array, StringArray, TimestampNanosecondArray,
    };
    use proptest::prelude::*;
    use std::sync::Arc;

    fn columns() -> impl Strategy<Value = Vec<ArrayRef>> {
        let rows = proptest::collection::vec(
            (
                proptest::option::of(any::<i32>()),
                proptest::option::of(any::<i64>()),
                proptest::option::of(-(10i128.pow(38) - 1)..10i128.pow(38)),
                proptest::option::of(prop_oneof![any::<String>(), "\\PC{0,6}", Just("a\u{7f}\u{1}\"\\/".to_string())]),
                proptest::option::of(proptest::collection::vec(any::<u8>(), 0..5)),
                proptest::option::of(any::<bool>()),
                proptest::option::of(-700_000i32..2_900_000),
            ),
            1..6,
        );
        rows.prop_map(|rows| {
            let decimal = |scale| {
                let values: Decimal128Array = rows.iter().map(|row| row.2).collect();
                Arc::new(values.with_precision_and_scale(38, scale).expect("38 digits")) as ArrayRef
            };
            let times: TimestampNanosecondArray = rows.iter().map(|row| row.1).collect();
            vec![
                Arc::new(rows.iter().map(|row| row.0).collect::<Int32Array>()) as ArrayRef,
                Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
                decimal(0),
                decimal(9),
                decimal(18),
                Arc::new(times.with_timezone("UTC")),
                Arc::new(rows.iter().map(|row| row.3.clone()).collect::<StringArray>()),
                Arc::new(rows.iter().map(|row| row.4.clone()).collect::<BinaryArray>()),
                Arc::new(rows.iter().map(|row| row.5).collect::<BooleanArray>()),
                Arc::new(rows.iter().map(|row| row.6).collect::<Date32Array>()),
            ]
        })
    }

    #[test]
    fn every_day_can_be_told() {
        for (days, date) in [
            (0, "1970-01-01"),
            (i32::MAX, "+5881580-07-11"),
            (i32::MIN, "-5877641-06-23"),
            (2_932_897, "+10000-01-01"),
            (-719_529, "-0001-12-31"),
        ] {
            let mut text = String::new();
            push_date(&mut text, days.into());
            assert_eq!(text, date);
        }
    }

    proptest! {
        /// The fast way writes what the other JSON results have.
        #[test]
        fn every_cell_is_as_in_the_other_json(columns in columns()) {
            for column in &columns {
                let (mut cells, slow) = (Cells::new(column).unwrap(), JsonColumn::new(column).unwrap());
                for row in 0..column.len() {
                    let (mut ours, mut theirs) = (String::new(), String::new());
                    cells.write(row, &mut ours).unwrap();
                    slow.write(row, &mut theirs).unwrap();
                    prop_assert_eq!(ours, theirs);
                }
            }
        }
    }
}
