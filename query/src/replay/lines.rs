//! JSON lines: one object per event. First where it stood (table, topic, partition, offset, log time), then all other columns of its table, as
//! the other JSON results have them.
//!
//! What is the same in a whole run (NULL, a dataset, every name of a column) is put together once for the run.

use super::{Known, Replay, Run};
use crate::error::Error;
use crate::output::{JsonColumn, json_text};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, Scalar};
use arrow::buffer::NullBuffer;
use arrow::compute::kernels::cmp::not_distinct;
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Int32Type, Int64Type, TimeUnit, TimestampNanosecondType};
use futures::{StreamExt, TryStreamExt};
use std::io::Write;
use std::sync::Mutex;

/// Rows whose lines are made at a time: few enough that they are still in the processor's caches when they are written.
const ROWS_TOGETHER: usize = 2048;

/// Writes a replay as JSON lines, several pieces of its runs at a time; gives their number.
pub async fn write_lines(
    replay: Replay,
    known: &Known,
    out: &mut (dyn Write + Send),
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<u64, Error> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // Memory that was written from is used again: fresh memory costs more than what is put into it.
    let spare: Mutex<Vec<Vec<u8>>> = Mutex::default();
    let take = || spare.lock().expect("nothing that holds it can panic").pop().unwrap_or_default();
    let runs =
        futures::stream::try_unfold(replay, |mut replay| async move { Ok::<_, Error>(replay.next().await?.map(|run| (run, replay))) });
    let pieces = runs.map_ok(|run| futures::stream::iter(pieces(run)).map(Ok::<_, Error>)).try_flatten();
    let encoded = pieces.map(|piece| {
        let (known, mut text) = (known.clone(), take());
        async move {
            let piece = piece?;
            let rows = piece.rows.num_rows() as u64;
            let made = tokio::task::spawn_blocking(move || lines(&piece, &known, &mut text).map(|()| text)).await;
            let text = made.map_err(|why| Error::panicked("writing JSON lines", &why))??;
            Ok::<_, Error>((rows, text))
        }
    });
    let mut encoded = std::pin::pin!(encoded.buffered(threads + 1));
    let mut written = 0;
    while let Some(next) = encoded.next().await {
        let (rows, mut text) = next?;
        out.write_all(&text)?;
        text.clear();
        spare.lock().expect("nothing that holds it can panic").push(text);
        written += rows;
        progress(rows);
    }
    Ok(written)
}

/// A run in pieces.
fn pieces(run: Run) -> impl Iterator<Item = Run> {
    let rows = run.rows.num_rows();
    let piece = move |first| Run { rows: run.rows.slice(first, ROWS_TOGETHER.min(rows - first)), ..run };
    (0..rows).step_by(ROWS_TOGETHER).map(piece)
}

/// Adds the lines of one run to `lines`.
pub(super) fn lines(run: &Run, known: &Known, lines: &mut Vec<u8>) -> Result<(), Error> {
    let (partition, offset) = super::place(run.quarantined);
    let rows = &run.rows;
    let mut parts = Parts { fixed: vec![Vec::from(b"{")], changing: Vec::new() };
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
    parts.fixed.last_mut().expect("there is always one").extend_from_slice(b"}\n");
    lines.reserve(rows.num_rows() * (parts.fixed.iter().map(Vec::len).sum::<usize>() + CELL_BYTES * parts.changing.len()));
    for row in 0..rows.num_rows() {
        lines.extend_from_slice(&parts.fixed[0]);
        for (cells, fixed) in parts.changing.iter_mut().zip(&parts.fixed[1..]) {
            cells.write(row, lines)?;
            lines.extend_from_slice(fixed);
        }
    }
    Ok(())
}

/// Most cells are shorter: a guess for the memory of many.
const CELL_BYTES: usize = 24;

fn column_of<'a>(rows: &'a RecordBatch, name: &str) -> &'a ArrayRef {
    rows.column_by_name(name).expect("every table has it")
}

/// A line: fixed text, a cell, fixed text, a cell, …, fixed text.
struct Parts<'a> {
    fixed: Vec<Vec<u8>>,
    changing: Vec<Cells<'a>>,
}

impl<'a> Parts<'a> {
    fn name(&mut self, name: &str) -> &mut Vec<u8> {
        let text = self.fixed.last_mut().expect("there is always one");
        if text != b"{" {
            text.push(b',');
        }
        text.extend_from_slice(json_text(name).as_bytes());
        text.push(b':');
        text
    }

    fn fix(&mut self, name: &str, value: &str) {
        self.name(name).extend_from_slice(value.as_bytes());
    }

    fn push(&mut self, name: &str, column: &'a ArrayRef) -> Result<(), Error> {
        let mut cells = Cells::new(column)?;
        let text = self.name(name);
        if is_alike(column) {
            return cells.write(0, text);
        }
        self.fixed.push(Vec::new());
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
    /// `None` where no cell is NULL, and where `shape` tells.
    nulls: Option<&'a NullBuffer>,
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
    /// And room for the text of one.
    Other(JsonColumn<'a>, String),
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
            _ => Shape::Other(JsonColumn::new(column)?, String::new()),
        };
        Ok(Cells { nulls: column.nulls().filter(|nulls| nulls.null_count() > 0), shape })
    }

    fn write(&mut self, row: usize, line: &mut Vec<u8>) -> Result<(), Error> {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            line.extend_from_slice(b"null");
            return Ok(());
        }
        match &mut self.shape {
            Shape::I32(values) => push_number(line, values[row].into(), 0),
            Shape::I64(values) => push_number(line, values[row].into(), 0),
            Shape::Decimal(values, scale) => push_number(line, values[row], *scale),
            Shape::Time(values, day) => day.push(line, values[row]),
            Shape::Date(values) => {
                line.push(b'"');
                push_date(line, values[row].into());
                line.push(b'"');
            }
            Shape::Text(values) => push_text(line, values.value(row)),
            Shape::Bytes(values) => push_hex(line, values.value(row)),
            Shape::Other(cells, text) => {
                text.clear();
                cells.write(row, text)?;
                line.extend_from_slice(text.as_bytes());
            }
        }
        Ok(())
    }
}

/// A number of so many decimals, all of them.
fn push_number(line: &mut Vec<u8>, value: i128, scale: usize) {
    if value < 0 {
        line.push(b'-');
    }
    // Most numbers have 64 bits, and those divide faster.
    match u64::try_from(value.unsigned_abs()) {
        Ok(whole) if scale == 0 => push_digits(line, whole, 1),
        Ok(small) if scale < SMALL_DIGITS_MAX => {
            let one = 10u64.pow(scale as u32);
            push_digits(line, small / one, 1);
            line.push(b'.');
            push_digits(line, small % one, scale);
        }
        _ => {
            let digits = format!("{:0width$}", value.unsigned_abs(), width = scale + 1);
            let (whole, decimals) = digits.split_at(digits.len() - scale);
            line.extend_from_slice(whole.as_bytes());
            if scale > 0 {
                line.push(b'.');
                line.extend_from_slice(decimals.as_bytes());
            }
        }
    }
}

/// Digits of the largest number of 64 bits.
const SMALL_DIGITS_MAX: usize = 20;

/// The digits of every number below 100.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// A number in at least so many digits.
fn push_digits(line: &mut Vec<u8>, mut number: u64, digits_min: usize) {
    let mut text = [b'0'; SMALL_DIGITS_MAX];
    let mut at = text.len();
    while number >= 10 {
        at -= 2;
        text[at..at + 2].copy_from_slice(&PAIRS[(number % 100) as usize]);
        number /= 100;
    }
    if number > 0 {
        at -= 1;
        text[at] = b'0' + number as u8;
    }
    line.extend_from_slice(&text[at.min(text.len() - digits_min)..]);
}

fn push_text(line: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        line.push(b'"');
        line.extend_from_slice(text.as_bytes());
        line.push(b'"');
    } else {
        line.extend_from_slice(json_text(text).as_bytes());
    }
}

fn push_hex(line: &mut Vec<u8>, bytes: &[u8]) {
    line.push(b'"');
    for byte in bytes {
        line.extend([byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]));
    }
    line.push(b'"');
}

/// Days since 1970-01-01 in ISO 8601. Every day that a column can hold: a year of more than four digits has its sign.
fn push_date(text: &mut Vec<u8>, days: i64) {
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
    written.expect("writing to memory cannot fail");
}

const NS_PER_SECOND: i64 = 1_000_000_000;
const NS_PER_DAY: i64 = 86_400 * NS_PER_SECOND;

/// The day of the last time that was written: most times follow one of the same day.
#[derive(Default)]
struct Day {
    known: Option<(i64, Vec<u8>)>,
}

impl Day {
    /// ISO 8601 with nine digits.
    fn push(&mut self, line: &mut Vec<u8>, ns: i64) {
        let (day, in_day) = (ns.div_euclid(NS_PER_DAY), ns.rem_euclid(NS_PER_DAY));
        let known = match &mut self.known {
            Some((known, text)) if *known == day => text,
            known => {
                let mut text = Vec::from(b"\"");
                push_date(&mut text, day);
                text.push(b'T');
                &known.insert((day, text)).1
            }
        };
        line.extend_from_slice(known);
        let (seconds, mut fraction) = (in_day / NS_PER_SECOND, in_day % NS_PER_SECOND);
        let mut time = *b"00:00:00.000000000Z\"";
        for (at, value) in [(0, seconds / 3600), (3, seconds / 60 % 60), (6, seconds % 60)] {
            time[at..at + 2].copy_from_slice(&PAIRS[value as usize]);
        }
        time[17] = b'0' + (fraction % 10) as u8;
        fraction /= 10;
        for at in [15, 13, 11, 9] {
            time[at..at + 2].copy_from_slice(&PAIRS[(fraction % 100) as usize]);
            fraction /= 100;
        }
        line.extend_from_slice(&time);
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
            let mut text = Vec::new();
            push_date(&mut text, days.into());
            assert_eq!(text, date.as_bytes());
        }
    }

    proptest! {
        /// The fast way writes what the other JSON results have.
        #[test]
        fn every_cell_is_as_in_the_other_json(columns in columns()) {
            for column in &columns {
                let (mut cells, slow) = (Cells::new(column).unwrap(), JsonColumn::new(column).unwrap());
                for row in 0..column.len() {
                    let (mut ours, mut theirs) = (Vec::new(), String::new());
                    cells.write(row, &mut ours).unwrap();
                    slow.write(row, &mut theirs).unwrap();
                    prop_assert_eq!(String::from_utf8_lossy(&ours), theirs);
                }
            }
        }
    }
}
