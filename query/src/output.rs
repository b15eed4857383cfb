//! Results as text, Arrow or Parquet, as they stream in: every number with all its digits, every time to the nanosecond, and NULL never taken for a value.

use crate::draw::{self, Cell};
pub use crate::draw::{ROWS_DRAWN_MAX, TableStyle, Written};
use crate::error::Error;
use crate::plot::{self, Plot};
use arrow::array::{Array, ArrayRef, AsArray, GenericListArray, OffsetSizeTrait, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures::{Stream, StreamExt};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use std::collections::HashSet;
use std::io::Write;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// A drawn table for people.
    #[default]
    Table,
    /// RFC 4180 with a header line and line feeds; NULL is nothing, empty text is `""`.
    Csv,
    /// One array of objects.
    Json,
    /// One object per line.
    JsonLines,
    /// Arrow's IPC stream.
    Arrow,
    /// A Parquet file.
    Parquet,
    /// A picture of two columns for people.
    Plot,
}

impl Format {
    /// The names that [`Format::from_str`] knows.
    pub const NAMES: [&str; 7] = ["table", "csv", "json", "jsonl", "arrow", "parquet", "plot"];
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Format, String> {
        match name {
            "table" => Ok(Format::Table),
            "csv" => Ok(Format::Csv),
            "json" => Ok(Format::Json),
            "jsonl" => Ok(Format::JsonLines),
            "arrow" => Ok(Format::Arrow),
            "parquet" => Ok(Format::Parquet),
            "plot" => Ok(Format::Plot),
            other => Err(format!("unknown format {other:?}: one of {}", Format::NAMES.join(", "))),
        }
    }
}

/// Longest cell of a drawn table in characters; of an expanded one; both are for people, the other formats cut nothing.
const CELL_MAX: usize = 200;
const EXPANDED_CELL_MAX: usize = 4_000;

/// Writes a whole result. `begun` is when the query was asked. May be dropped half-way; what was written until then stays written.
pub async fn write(
    format: Format,
    style: &TableStyle,
    begun: Instant,
    mut stream: SendableRecordBatchStream,
    out: &mut (dyn Write + Send),
) -> Result<Written, Error> {
    let format = if format == Format::Table && style.plots && plot::is_drawable(&stream.schema()) { Format::Plot } else { format };
    let mut encoder = Encoder::new(format, style, begun, &stream.schema())?;
    while !encoder.is_full()
        && let Some(batch) = stream.next().await
    {
        out.write_all(&encoder.batch(&batch.map_err(running)?)?)?;
    }
    drop(stream);
    let (rest, written) = encoder.end()?;
    out.write_all(&rest)?;
    out.flush()?;
    Ok(written)
}

/// Most rows of a piece, and most bytes of what they are made of: whoever does not take a piece holds no more than this.
const PIECE_ROWS_MAX: usize = 1024;
const PIECE_BYTES_MAX: usize = 1 << 20;
/// Fewest rows of a piece, however wide: what a batch holds is told too large where it is a part of another one.
const PIECE_ROWS_MIN: usize = 8;

/// The same bytes as they come, in small pieces. An error is the last that comes, and then the bytes are no whole result.
pub fn pieces(
    format: Format,
    style: &TableStyle,
    begun: Instant,
    stream: SendableRecordBatchStream,
) -> Result<impl Stream<Item = Result<Vec<u8>, Error>> + Send + use<>, Error> {
    let encoder = Encoder::new(format, style, begun, &stream.schema())?;
    let stream = Box::pin(stream.flat_map(|batch| futures::stream::iter(slices(batch))));
    Ok(futures::stream::try_unfold(Some((encoder, stream)), |going| async move {
        let Some((mut encoder, mut stream)) = going else { return Ok(None) };
        if !encoder.is_full()
            && let Some(batch) = stream.next().await
        {
            let piece = encoder.batch(&batch.map_err(running)?)?;
            return Ok(Some((piece, Some((encoder, stream)))));
        }
        drop(stream);
        Ok(Some((encoder.end()?.0, None)))
    }))
}

/// A batch in parts that become small pieces.
fn slices(batch: datafusion::error::Result<RecordBatch>) -> Vec<datafusion::error::Result<RecordBatch>> {
    let Ok(batch) = batch else { return vec![batch] };
    let row_bytes = batch.get_array_memory_size() / batch.num_rows().max(1);
    let rows = (PIECE_BYTES_MAX / row_bytes.max(1)).clamp(PIECE_ROWS_MIN, PIECE_ROWS_MAX);
    let slice = |from: usize| Ok(batch.slice(from, rows.min(batch.num_rows() - from)));
    (0..batch.num_rows()).step_by(rows).map(slice).collect()
}

/// A result on its way to bytes, batch by batch.
struct Encoder {
    shape: Shape,
    rows: u64,
}

/// What each format keeps between batches.
enum Shape {
    Table {
        style: TableStyle,
        begun: Instant,
        columns: Vec<draw::Column>,
        rows: Vec<Vec<Cell>>,
        complete: bool,
    },
    /// A plan for people: its lines as they are.
    Plan {
        begun: Instant,
        timing: bool,
        said: String,
    },
    Csv {
        header: String,
    },
    Json {
        keys: Vec<String>,
        marks: JsonMarks,
    },
    Arrow(Box<StreamWriter<Vec<u8>>>),
    Parquet {
        schema: SchemaRef,
        writer: Box<ArrowWriter<Vec<u8>>>,
    },
    Plot {
        begun: Instant,
        timing: bool,
        plot: Plot,
    },
}

impl Encoder {
    fn new(format: Format, style: &TableStyle, begun: Instant, schema: &SchemaRef) -> Result<Encoder, Error> {
        let json = |marks| Shape::Json { keys: json_keys(schema), marks };
        let shape = match format {
            Format::Table if is_plan(schema) => Shape::Plan { begun, timing: style.timing, said: String::new() },
            Format::Table => Shape::Table { style: style.clone(), begun, columns: columns(schema), rows: Vec::new(), complete: true },
            Format::Csv => Shape::Csv { header: csv_header(schema) },
            Format::Json => json(JSON_ARRAY),
            Format::JsonLines => json(JSON_LINES),
            Format::Plot => Shape::Plot { begun, timing: style.timing, plot: Plot::new(schema, style)? },
            Format::Arrow => Shape::Arrow(Box::new(StreamWriter::try_new(Vec::new(), schema).map_err(formatting)?)),
            Format::Parquet => {
                let schema = named_once(schema);
                Shape::Parquet { writer: Box::new(parquet_writer(&schema)?), schema }
            }
        };
        Ok(Encoder { shape, rows: 0 })
    }

    /// Does it take no more rows?
    fn is_full(&self) -> bool {
        match &self.shape {
            Shape::Table { complete, .. } => !complete,
            Shape::Plot { plot, .. } => plot.is_full(),
            Shape::Plan { .. } | Shape::Csv { .. } | Shape::Json { .. } | Shape::Arrow(_) | Shape::Parquet { .. } => false,
        }
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, Error> {
        let bytes = match &mut self.shape {
            Shape::Table { style, rows, complete, .. } => {
                let longest = if style.expanded { EXPANDED_CELL_MAX } else { CELL_MAX };
                let room = style.rows_max - rows.len();
                *complete = batch.num_rows() <= room;
                cells(&batch.slice(0, batch.num_rows().min(room)), longest, rows)?;
                self.rows = rows.len() as u64;
                return Ok(Vec::new());
            }
            Shape::Plot { plot, .. } => {
                plot.take(batch, |column, row| Ok(Some(text(&formatter(column)?, row)?)))?;
                return Ok(Vec::new());
            }
            Shape::Plan { said, .. } => {
                let (kinds, plans) = (formatter(batch.column(0))?, formatter(batch.column(1))?);
                for row in 0..batch.num_rows() {
                    *said += &format!("{}:\n{}\n", text(&kinds, row)?, text(&plans, row)?.trim_end());
                }
                return Ok(Vec::new());
            }
            Shape::Csv { header } => {
                let mut lines = std::mem::take(header);
                csv_lines(batch, &mut lines)?;
                lines.into_bytes()
            }
            Shape::Json { keys, marks } => json_objects(keys, marks, batch, self.rows == 0)?.into_bytes(),
            Shape::Arrow(writer) => {
                writer.write(batch).map_err(formatting)?;
                std::mem::take(writer.get_mut())
            }
            Shape::Parquet { schema, writer } => {
                let batch = RecordBatch::try_new(schema.clone(), batch.columns().to_vec()).map_err(formatting)?;
                writer.write(&batch).map_err(packing)?;
                if writer.memory_size() > PARQUET_GROUP_BYTES_MAX {
                    writer.flush().map_err(packing)?;
                }
                std::mem::take(writer.inner_mut())
            }
        };
        self.rows += batch.num_rows() as u64;
        Ok(bytes)
    }

    fn end(self) -> Result<(Vec<u8>, Written), Error> {
        let mut written = Written { rows: self.rows, complete: true };
        let bytes = match self.shape {
            Shape::Table { style, begun, columns, rows, complete } => {
                written.complete = complete;
                let took = style.timing.then(|| begun.elapsed());
                draw::table(&columns, &rows, &style, &written, took).into_bytes()
            }
            Shape::Plot { begun, timing, plot } => {
                let (picture, drawn) = plot.end(timing.then(|| begun.elapsed()));
                written = drawn;
                picture.into_bytes()
            }
            Shape::Plan { begun, timing, mut said } => {
                if timing {
                    said += &format!("({:.3} s)\n", begun.elapsed().as_secs_f64());
                }
                said.into_bytes()
            }
            Shape::Csv { header } => header.into_bytes(),
            Shape::Json { marks, .. } => if self.rows == 0 { marks.none } else { marks.close }.into(),
            Shape::Arrow(mut writer) => {
                writer.finish().map_err(formatting)?;
                std::mem::take(writer.get_mut())
            }
            Shape::Parquet { writer, .. } => writer.into_inner().map_err(packing)?,
        };
        Ok((bytes, written))
    }
}

/// Is it what EXPLAIN gives?
fn is_plan(schema: &Schema) -> bool {
    schema.fields().iter().map(|field| field.name().as_str()).eq(["plan_type", "plan"])
}

fn running(e: DataFusionError) -> Error {
    Error::from_engine("running the query", e)
}

fn formatting(e: ArrowError) -> Error {
    Error::Execution { doing: "writing the result", what: e.to_string() }
}

fn packing(e: ParquetError) -> Error {
    Error::Execution { doing: "writing the result as Parquet", what: e.to_string() }
}

/// A row group is held until it is whole: few rows, and few bytes.
const PARQUET_GROUP_ROWS_MAX: usize = 1 << 17;
const PARQUET_GROUP_BYTES_MAX: usize = 16 << 20;

/// The schema with names as JSON has them: a Parquet file with one name twice is read by few.
fn named_once(schema: &SchemaRef) -> SchemaRef {
    let named = schema.fields().iter().zip(names_once(schema)).map(|(field, name)| field.as_ref().clone().with_name(name));
    Arc::new(Schema::new(named.collect::<Vec<_>>()))
}

fn parquet_writer(schema: &SchemaRef) -> Result<ArrowWriter<Vec<u8>>, Error> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(PARQUET_GROUP_ROWS_MAX))
        .build();
    ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties)).map_err(packing)
}

/// Times in ISO 8601 with nine digits: `Z` where the zone is UTC, the offset where it is another one.
fn format_options(data_type: &DataType) -> FormatOptions<'static> {
    let zone = match data_type {
        DataType::Timestamp(_, Some(zone)) if matches!(zone.as_ref(), "UTC" | "Z" | "+00:00" | "+00") => "%Y-%m-%dT%H:%M:%S%.9fZ",
        _ => "%Y-%m-%dT%H:%M:%S%.9f%:z",
    };
    FormatOptions::new()
        .with_display_error(false)
        .with_timestamp_tz_format(Some(zone))
        .with_timestamp_format(Some("%Y-%m-%dT%H:%M:%S%.9f"))
        .with_datetime_format(Some("%Y-%m-%dT%H:%M:%S%.9f"))
        .with_time_format(Some("%H:%M:%S%.9f"))
}

fn formatter(column: &dyn Array) -> Result<ArrayFormatter<'_>, Error> {
    ArrayFormatter::try_new(column, &format_options(column.data_type())).map_err(formatting)
}

fn text(formatter: &ArrayFormatter<'_>, row: usize) -> Result<String, Error> {
    formatter.value(row).try_to_string().map_err(formatting)
}

fn csv_header(schema: &Schema) -> String {
    let names: Vec<String> = schema.fields().iter().map(|field| quoted(field.name())).collect();
    names.join(",") + "\n"
}

fn csv_lines(batch: &RecordBatch, lines: &mut String) -> Result<(), Error> {
    let formatters = batch.columns().iter().map(|column| formatter(column)).collect::<Result<Vec<_>, _>>()?;
    for row in 0..batch.num_rows() {
        for (i, (formatter, column)) in formatters.iter().zip(batch.columns()).enumerate() {
            if i > 0 {
                lines.push(',');
            }
            if !column.is_null(row) && column.data_type() != &DataType::Null {
                lines.push_str(&quoted(&text(formatter, row)?));
            }
        }
        lines.push('\n');
    }
    Ok(())
}

/// A CSV field; empty text is quoted so that it is not NULL.
fn quoted(text: &str) -> String {
    match text.is_empty() || text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_string(),
    }
}

/// What stands around and between objects.
struct JsonMarks {
    open: &'static str,
    between: &'static str,
    close: &'static str,
    /// Instead of all these where there is no object.
    none: &'static str,
}

const JSON_ARRAY: JsonMarks = JsonMarks { open: "[\n", between: ",\n", close: "\n]\n", none: "[]\n" };
const JSON_LINES: JsonMarks = JsonMarks { open: "", between: "\n", close: "\n", none: "" };

fn json_objects(keys: &[String], marks: &JsonMarks, batch: &RecordBatch, first: bool) -> Result<String, Error> {
    let columns = batch.columns().iter().map(JsonColumn::new).collect::<Result<Vec<_>, _>>()?;
    let mut objects = String::new();
    for row in 0..batch.num_rows() {
        objects.push_str(if first && row == 0 { marks.open } else { marks.between });
        json_object(keys, &columns, row, &mut objects)?;
    }
    Ok(objects)
}

/// Column names as JSON text, each with its colon. A name that occurs again gets a number: an object holds a key once.
fn json_keys(schema: &Schema) -> Vec<String> {
    names_once(schema).iter().map(|name| format!("{}:", json_text(name))).collect()
}

/// The names of columns, with a number behind each that occurred before.
fn names_once(schema: &Schema) -> Vec<String> {
    let mut taken = HashSet::new();
    let mut names = Vec::new();
    for field in schema.fields() {
        let mut name = field.name().clone();
        let mut number = 1;
        while !taken.insert(name.clone()) {
            name = format!("{}_{number}", field.name());
            number += 1;
        }
        names.push(name);
    }
    names
}

pub(crate) fn json_text(text: &str) -> String {
    serde_json::to_string(text).expect("text is always JSON")
}

fn json_object(keys: &[String], columns: &[JsonColumn<'_>], row: usize, out: &mut String) -> Result<(), Error> {
    out.push('{');
    for (i, (key, column)) in keys.iter().zip(columns).enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(key);
        column.write(row, out)?;
    }
    out.push('}');
    Ok(())
}

/// One column on its way to JSON.
pub(crate) struct JsonColumn<'a> {
    array: &'a dyn Array,
    shape: JsonShape<'a>,
}

enum JsonShape<'a> {
    /// Digits as they are: integers and decimals, all of them; also true and false.
    Plain(ArrayFormatter<'a>),
    /// Everything that JSON has no form for.
    Text(ArrayFormatter<'a>),
    /// A number where it is finite; JSON has no form for the others, they become text.
    Float(Box<dyn Fn(usize) -> f64 + 'a>, ArrayFormatter<'a>),
    List(Box<dyn Fn(usize) -> (usize, usize) + 'a>, Box<JsonColumn<'a>>),
    Object(Vec<String>, Vec<JsonColumn<'a>>),
}

impl<'a> JsonColumn<'a> {
    pub(crate) fn new(array: &'a ArrayRef) -> Result<JsonColumn<'a>, Error> {
        let array = array.as_ref();
        let shape = match array.data_type() {
            t if t.is_integer() || t.is_decimal() || t == &DataType::Boolean => JsonShape::Plain(formatter(array)?),
            DataType::Float32 => {
                let values = array.as_primitive::<Float32Type>();
                JsonShape::Float(Box::new(|row| f64::from(values.value(row))), formatter(array)?)
            }
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>();
                JsonShape::Float(Box::new(|row| values.value(row)), formatter(array)?)
            }
            DataType::List(_) => json_list(array.as_list::<i32>())?,
            DataType::LargeList(_) => json_list(array.as_list::<i64>())?,
            DataType::Struct(_) => {
                let rows = array.as_struct();
                let columns = rows.columns().iter().map(JsonColumn::new).collect::<Result<_, _>>()?;
                JsonShape::Object(json_keys(&Schema::new(rows.fields().clone())), columns)
            }
            _ => JsonShape::Text(formatter(array)?),
        };
        Ok(JsonColumn { array, shape })
    }

    pub(crate) fn write(&self, row: usize, out: &mut String) -> Result<(), Error> {
        if self.array.is_null(row) || self.array.data_type() == &DataType::Null {
            out.push_str("null");
            return Ok(());
        }
        match &self.shape {
            JsonShape::Plain(formatter) => out.push_str(&text(formatter, row)?),
            JsonShape::Text(formatter) => out.push_str(&json_text(&text(formatter, row)?)),
            JsonShape::Float(value, formatter) => {
                let digits = text(formatter, row)?;
                out.push_str(&if value(row).is_finite() { digits } else { json_text(&digits) });
            }
            JsonShape::Object(keys, columns) => json_object(keys, columns, row, out)?,
            JsonShape::List(range, values) => {
                let (from, to) = range(row);
                out.push('[');
                for value in from..to {
                    if value > from {
                        out.push(',');
                    }
                    values.write(value, out)?;
                }
                out.push(']');
            }
        }
        Ok(())
    }
}

fn json_list<O: OffsetSizeTrait>(list: &GenericListArray<O>) -> Result<JsonShape<'_>, Error> {
    let offsets = list.value_offsets();
    let range = |row: usize| (offsets[row].as_usize(), offsets[row + 1].as_usize());
    Ok(JsonShape::List(Box::new(range), Box::new(JsonColumn::new(list.values())?)))
}

fn columns(schema: &SchemaRef) -> Vec<draw::Column> {
    schema.fields().iter().map(|f| draw::Column { name: f.name().clone(), numeric: f.data_type().is_numeric() }).collect()
}

fn cells(batch: &RecordBatch, longest: usize, rows: &mut Vec<Vec<Cell>>) -> Result<(), Error> {
    let short: Vec<ArrayRef> = batch.columns().iter().map(|column| shortened(column, longest)).collect();
    let formatters = short.iter().map(|column| formatter(column)).collect::<Result<Vec<_>, _>>()?;
    for row in 0..batch.num_rows() {
        let cell =
            |(column, formatter): (&ArrayRef, &ArrayFormatter<'_>)| match column.is_null(row) || column.data_type() == &DataType::Null {
                true => Ok(None),
                false => text(formatter, row).map(|text| Some(draw::one_line(&text, longest))),
            };
        rows.push(batch.columns().iter().zip(&formatters).map(cell).collect::<Result<_, _>>()?);
    }
    Ok(())
}

/// Long bytes cut before they become twice as much text; a cut is seen because one byte more than fits is kept.
fn shortened(column: &ArrayRef, longest: usize) -> ArrayRef {
    match column.data_type() {
        DataType::Binary => {
            let cut = column.as_binary::<i32>().iter().map(|bytes| bytes.map(|bytes| &bytes[..bytes.len().min(longest / 2 + 1)]));
            std::sync::Arc::new(cut.collect::<arrow::array::BinaryArray>())
        }
        _ => column.clone(),
    }
}
