//! A result of two columns as a picture: time, date or number to the right, number upwards. Only the picture is in floats; the bounds beside it are
//! the values themselves, with all their digits.

use crate::draw::{Cell, TableStyle, Written};
use crate::error::Error;
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, Schema};
use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::symbols::Marker;
use ratatui_core::text::Line;
use ratatui_core::widgets::Widget;
use ratatui_widgets::chart::{Axis, Chart, Dataset, GraphType};
use unicode_width::UnicodeWidthStr;

/// Lines of a picture.
const HEIGHT: u16 = 22;
/// Columns where the terminal does not say how many it has.
const WIDTH: usize = 100;
/// Narrower than this there is no room for a picture beside its bounds.
const WIDTH_MIN: usize = 40;
/// Points of a picture: far more than it can show apart, and few enough to hold.
const POINTS_MAX: usize = 1_000_000;

/// Points on their way to a picture.
pub(crate) struct Plot {
    style: TableStyle,
    names: [String; 2],
    /// In the order of the rows; a row with a NULL is none.
    points: Vec<(f64, f64)>,
    /// Of whole numbers and times, the first of both columns: places are told from there.
    firsts: [Option<i64>; 2],
    /// The least and greatest of both columns, with their text.
    bounds: [Option<[Bound; 2]>; 2],
    without: u64,
    complete: bool,
}

#[derive(Debug, Clone)]
struct Bound {
    at: f64,
    text: String,
}

/// Can a result of these columns be drawn?
pub(crate) fn is_drawable(schema: &Schema) -> bool {
    let [x, y] = &schema.fields()[..] else { return false };
    let is_moment = matches!(x.data_type(), DataType::Timestamp(..) | DataType::Date32 | DataType::Date64);
    (is_moment || x.data_type().is_numeric()) && y.data_type().is_numeric()
}

impl Plot {
    /// No points yet; an error where the columns are none that can be drawn.
    pub(crate) fn new(schema: &Schema, style: &TableStyle) -> Result<Plot, Error> {
        if !is_drawable(schema) {
            let columns: Vec<String> = schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
            return Err(Error::Plot(columns.join(", ")));
        }
        let names = [schema.field(0).name().clone(), schema.field(1).name().clone()];
        Ok(Plot { style: style.clone(), names, points: Vec::new(), firsts: [None, None], bounds: [None, None], without: 0, complete: true })
    }

    /// Does it take no more rows?
    pub(crate) fn is_full(&self) -> bool {
        !self.complete
    }

    /// Takes rows; `text` tells a cell.
    pub(crate) fn take(&mut self, batch: &RecordBatch, text: impl Fn(&ArrayRef, usize) -> Result<Cell, Error>) -> Result<(), Error> {
        let room = POINTS_MAX - self.points.len();
        self.complete = batch.num_rows() <= room;
        let batch = batch.slice(0, batch.num_rows().min(room));
        let [x, y] = [0, 1].map(|axis| numbers(batch.column(axis), &mut self.firsts[axis]));
        let (x, y) = (x?, y?);
        for row in 0..batch.num_rows() {
            if x.is_null(row) || y.is_null(row) || !x.value(row).is_finite() || !y.value(row).is_finite() {
                self.without += 1;
                continue;
            }
            let point = [x.value(row), y.value(row)];
            self.points.push(point.into());
            for (axis, at) in point.into_iter().enumerate() {
                let told = || Ok::<_, Error>(Bound { at, text: text(batch.column(axis), row)?.unwrap_or_default() });
                match &mut self.bounds[axis] {
                    Some([least, _]) if at < least.at => *least = told()?,
                    Some([_, greatest]) if at > greatest.at => *greatest = told()?,
                    Some(_) => {}
                    none => *none = Some([told()?, told()?]),
                }
            }
        }
        Ok(())
    }

    /// The picture, and what was drawn.
    pub(crate) fn end(mut self, took: Option<std::time::Duration>) -> (String, Written) {
        // A line goes from left to right, in whatever order the rows came.
        self.points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let written = Written { rows: self.points.len() as u64 + self.without, complete: self.complete };
        let mut out = match (&self.bounds[0], &self.bounds[1]) {
            (Some(x), Some(y)) => self.picture(x, y),
            _ => "nothing to draw: no row has both values\n".to_string(),
        };
        let rows = |count: u64| if count == 1 { "1 row".to_string() } else { format!("{count} rows") };
        out += &rows(written.rows);
        if self.without > 0 {
            out += &format!(", {} without a point (NULL, or no finite number)", rows(self.without));
        }
        if !self.complete {
            out += ", and more that are not drawn";
        }
        if let Some(took) = took {
            out += &format!(" ({:.3} s)", took.as_secs_f64());
        }
        (out + "\n", written)
    }

    fn picture(&self, x: &[Bound; 2], y: &[Bound; 2]) -> String {
        let width = self.style.width.unwrap_or(WIDTH).max(WIDTH_MIN);
        let area = Rect::new(0, 0, u16::try_from(width).unwrap_or(u16::MAX), HEIGHT);
        let kind = if self.points.len() > 1 { GraphType::Line } else { GraphType::Scatter };
        let line = Dataset::default().marker(Marker::Braille).graph_type(kind).data(&self.points);
        let chart = Chart::new(vec![line]).x_axis(axis(&self.names[0], x)).y_axis(axis(&self.names[1], y)).legend_position(None);
        let mut cells = Buffer::empty(area);
        chart.render(area, &mut cells);
        let mut out = String::new();
        for row in 0..area.height {
            let mut line = String::new();
            let mut covered = 0;
            for column in 0..area.width {
                let symbol = cells[(column, row)].symbol();
                // What is wide covers the cell behind it.
                if covered > 0 {
                    covered -= 1;
                    continue;
                }
                covered = symbol.width().saturating_sub(1);
                line.push_str(symbol);
            }
            out += line.trim_end();
            out.push('\n');
        }
        out
    }
}

fn axis<'a>(name: &'a str, [least, greatest]: &'a [Bound; 2]) -> Axis<'a> {
    // A line of one height is drawn in the middle.
    let apart = if least.at < greatest.at { [least.at, greatest.at] } else { [least.at - 1.0, greatest.at + 1.0] };
    let labels = if least.at < greatest.at { vec![least, greatest] } else { vec![least, least] };
    Axis::default().title(name).bounds(apart).labels(labels.into_iter().map(|bound| Line::from(short(&bound.text))))
}

/// The same value without the zeros at the end of its fraction.
fn short(text: &str) -> String {
    let (number, zone) = text.split_at(text.find(['Z', '+']).unwrap_or(text.len()));
    match number.contains('.') {
        true => format!("{}{zone}", number.trim_end_matches('0').trim_end_matches('.')),
        false => text.to_string(),
    }
}

/// A column as places in the picture. Nanoseconds since 1970 have more digits than a float: what counts is how far they are from the first.
fn numbers(column: &ArrayRef, first: &mut Option<i64>) -> Result<Float64Array, Error> {
    let place = |e: arrow::error::ArrowError| Error::Execution { doing: "drawing the result", what: e.to_string() };
    let counted = match column.data_type() {
        DataType::Timestamp(..) | DataType::Date64 | DataType::Int64 => cast(column, &DataType::Int64).map_err(place)?,
        DataType::Date32 => cast(&cast(column, &DataType::Int32).map_err(place)?, &DataType::Int64).map_err(place)?,
        _ => return Ok(cast(column, &DataType::Float64).map_err(place)?.as_primitive::<Float64Type>().clone()),
    };
    let counted = counted.as_primitive::<Int64Type>();
    *first = first.or_else(|| counted.iter().flatten().next());
    let Some(first) = *first else { return Ok(Float64Array::new_null(counted.len())) };
    Ok(counted.unary(|value| (i128::from(value) - i128::from(first)) as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Decimal128Array, TimestampNanosecondArray};
    use arrow::datatypes::{Field, TimeUnit};
    use std::sync::Arc;

    fn drawn(prices: Vec<Option<i128>>) -> String {
        let fields = vec![
            Field::new("ts", DataType::Timestamp(TimeUnit::Nanosecond, None), true),
            Field::new("price", DataType::Decimal128(18, 9), true),
        ];
        let schema = Arc::new(Schema::new(fields));
        let times: TimestampNanosecondArray = (0..prices.len()).map(|i| Some(1_790_000_000_000_000_000 + i as i64)).collect();
        let prices = Decimal128Array::from(prices).with_precision_and_scale(18, 9).expect("it fits");
        let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(times), Arc::new(prices)]).expect("two columns");
        let mut plot = Plot::new(&schema, &TableStyle { width: Some(60), ..TableStyle::default() }).expect("two columns that can be drawn");
        let text = |column: &ArrayRef, row| Ok(Some(arrow::util::display::array_value_to_string(column, row).expect("it prints")));
        plot.take(&batch, text).expect("points");
        plot.end(None).0
    }

    #[test]
    fn a_line_stands_between_bounds_with_all_their_digits() {
        let picture = drawn((0..50).map(|i| Some(2_000_000_001 + i * i)).collect());
        for said in ["2.000000001", "2.000002402", "price", "ts", "50 rows"] {
            assert!(picture.contains(said), "{said}\n{picture}");
        }
        assert_eq!(picture.lines().count(), usize::from(HEIGHT) + 1, "{picture}");
        assert!(picture.chars().filter(|c| ('\u{2801}'..='\u{28ff}').contains(c)).count() > 20, "{picture}");
        assert!(picture.lines().all(|line| line.width() <= 60), "{picture}");
    }

    #[test]
    fn nulls_are_no_points_and_are_counted() {
        assert!(drawn(vec![None, Some(1), None]).ends_with("3 rows, 2 rows without a point (NULL, or no finite number)\n"));
        assert_eq!(
            drawn(vec![None]),
            "nothing to draw: no row has both values\n1 row, 1 row without a point (NULL, or no finite number)\n"
        );
    }

    #[test]
    fn what_cannot_be_drawn_is_said() {
        let schema = Schema::new(vec![Field::new("symbol", DataType::Utf8, true), Field::new("n", DataType::Int64, true)]);
        let error = Plot::new(&schema, &TableStyle::default()).err().expect("text is no place");
        assert!(error.to_string().contains("symbol Utf8, n Int64"), "{error}");
    }
}
