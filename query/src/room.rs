//! Functions that make much of little say so before they make it: `repeat('x', 1500000000)` is 30 bytes of a statement, and no memory pool sees
//! what a function holds while it computes.

use crate::error::Error;
use crate::limits::{CONSTANT_BYTES, MADE_BYTES};
use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::compute::kernels::length::length;
use arrow::datatypes::{DataType, FieldRef, Int64Type, IntervalMonthDayNanoType, TimeUnit};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use std::sync::Arc;

/// Bytes of a number in a list.
const NUMBER_BYTES: u64 = 8;
const DAY_NS: i128 = 86_400_000_000_000;

/// How much a function makes of its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Makes {
    /// (text, count): the text so many times.
    Repetitions,
    /// (text, characters, …): so many characters.
    Characters,
    /// (element, count): a list of so many.
    Elements,
    /// (list, count, …): a list of so many numbers or texts.
    Resized,
    /// ([start,] stop [, step]): a list of numbers or times.
    Series,
    /// (text, what, by what, …): the text with one in the place of the other.
    Replaced,
    /// (list, text, …): the list's values with the text between them.
    Joined,
    /// (text, …): all of them, one after the other.
    Together,
    /// (between, text, …): all of them, with the first between two.
    Separated,
}

/// One of DataFusion's functions with a limit.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Roomed {
    own: Arc<ScalarUDF>,
    makes: Makes,
}

impl Roomed {
    /// The function with a limit, where it needs one.
    pub(crate) fn over(own: &Arc<ScalarUDF>) -> Option<Roomed> {
        let makes = match own.name() {
            "repeat" => Makes::Repetitions,
            "lpad" | "rpad" => Makes::Characters,
            "array_repeat" => Makes::Elements,
            "array_resize" => Makes::Resized,
            "range" | "generate_series" => Makes::Series,
            "replace" | "regexp_replace" => Makes::Replaced,
            "array_to_string" => Makes::Joined,
            "concat" => Makes::Together,
            "concat_ws" => Makes::Separated,
            _ => return None,
        };
        Some(Roomed { own: own.clone(), makes })
    }

    /// Bytes of the result, or a little more.
    fn bytes(&self, args: &[ColumnarValue], rows: usize) -> Result<u64> {
        let each =
            |of: Vec<u64>, counts: Vec<i64>| of.iter().zip(counts).map(|(of, count)| product(*of, count)).fold(0, u64::saturating_add);
        Ok(match (self.makes, args) {
            (Makes::Repetitions, [text, count]) => each(lengths(text, rows)?, counts(count, rows)?),
            (Makes::Characters, [_, count, ..]) => each(vec![1; rows], counts(count, rows)?),
            (Makes::Elements, [element, count]) => each(vec![size(element); rows], counts(count, rows)?),
            (Makes::Resized, [_, count, ..]) => each(vec![NUMBER_BYTES; rows], counts(count, rows)?),
            (Makes::Series, [stop]) => series(&ColumnarValue::Scalar(ScalarValue::Int64(Some(0))), stop, None, rows)?,
            (Makes::Series, [start, stop]) => series(start, stop, None, rows)?,
            (Makes::Series, [start, stop, step]) => series(start, stop, Some(step), rows)?,
            (Makes::Replaced, [text, what, by, ..]) => {
                // A pattern can match what is empty, before every character and after the last one.
                let places = |text: u64, what: u64| if self.name() == "replace" { text / what.max(1) + 1 } else { text + 1 };
                let (texts, whats, bys) = (lengths(text, rows)?, lengths(what, rows)?, lengths(by, rows)?);
                let each = (0..rows).map(|row| texts[row].saturating_add(places(texts[row], whats[row]).saturating_mul(bys[row])));
                each.fold(0, u64::saturating_add)
            }
            (Makes::Joined, [list, between, ..]) => {
                let (held, texts) = (held(list).saturating_mul(if is_one(list) { rows as u64 } else { 1 }), lengths(between, rows)?);
                // No value takes less than a bit in a list; most take bytes.
                let longest = texts.into_iter().max().unwrap_or(0);
                held.saturating_add(values(list).saturating_mul(if is_one(list) { rows as u64 } else { 1 }).saturating_mul(longest))
            }
            (Makes::Together, texts) => {
                let each = texts.iter().map(|text| text_bytes(text, rows));
                each.collect::<Result<Vec<u64>>>()?.into_iter().fold(0, u64::saturating_add)
            }
            (Makes::Separated, [between, texts @ ..]) => {
                let each = texts.iter().map(|text| text_bytes(text, rows));
                let between = text_bytes(between, rows)?.saturating_mul(texts.len().saturating_sub(1) as u64);
                each.collect::<Result<Vec<u64>>>()?.into_iter().fold(between, u64::saturating_add)
            }
            _ => 0,
        })
    }
}

/// An error where a function would make so many bytes, of constants or of a batch of rows.
pub(crate) fn check(function: &str, bytes: u64, of_constants: bool) -> Result<()> {
    let most = if of_constants { CONSTANT_BYTES } else { MADE_BYTES };
    match bytes <= most {
        true => Ok(()),
        false => Err(Error::Plan(format!(
            "{function} would make {bytes} bytes at once, and may make {most}: ask for less, or for rows, as in SELECT … FROM \
             generate_series(…)"
        ))
        .into()),
    }
}

/// Bytes of a text in all rows.
pub(crate) fn text_bytes(text: &ColumnarValue, rows: usize) -> Result<u64> {
    Ok(lengths(text, rows)?.into_iter().fold(0, u64::saturating_add))
}

fn is_one(of: &ColumnarValue) -> bool {
    matches!(of, ColumnarValue::Scalar(_))
}

/// Bytes of all values.
fn held(of: &ColumnarValue) -> u64 {
    match of {
        ColumnarValue::Scalar(one) => one.size() as u64,
        ColumnarValue::Array(array) => array.get_array_memory_size() as u64,
    }
}

/// How many values are in all lists.
fn values(of: &ColumnarValue) -> u64 {
    let array = match of {
        ColumnarValue::Scalar(one) => one.to_array().ok(),
        ColumnarValue::Array(array) => Some(array.clone()),
    };
    let lists = array.as_ref().map(|array| match array.data_type() {
        DataType::List(_) => array.as_list::<i32>().values().len(),
        DataType::LargeList(_) => array.as_list::<i64>().values().len(),
        DataType::FixedSizeList(_, _) => array.as_fixed_size_list().values().len(),
        _ => 0,
    });
    lists.unwrap_or(0) as u64
}

fn product(of: u64, count: i64) -> u64 {
    of.saturating_mul(u64::try_from(count).unwrap_or(0))
}

/// Bytes of each text.
fn lengths(text: &ColumnarValue, rows: usize) -> Result<Vec<u64>> {
    Ok(match text {
        ColumnarValue::Scalar(text) => vec![text.try_as_str().flatten().map_or(0, |text| text.len() as u64); rows],
        ColumnarValue::Array(texts) if !is_text(texts.data_type()) => vec![0; rows],
        ColumnarValue::Array(texts) => {
            let lengths = cast(&length(texts)?, &DataType::Int64)?;
            lengths.as_primitive::<Int64Type>().iter().map(|length| length.unwrap_or(0).unsigned_abs()).collect()
        }
    })
}

fn is_text(of: &DataType) -> bool {
    matches!(of, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// The numbers of each row; none is none.
fn counts(of: &ColumnarValue, rows: usize) -> Result<Vec<i64>> {
    let of = match of {
        ColumnarValue::Scalar(one) => cast(&one.to_array()?, &DataType::Int64)?,
        ColumnarValue::Array(array) => cast(array, &DataType::Int64)?,
    };
    let of = of.as_primitive::<Int64Type>();
    let at = |row: usize| if of.is_valid(row) { of.value(row) } else { 0 };
    Ok((0..rows).map(|row| at(if of.len() == 1 { 0 } else { row })).collect())
}

/// Bytes of one value, of several their mean.
fn size(of: &ColumnarValue) -> u64 {
    match of {
        ColumnarValue::Scalar(one) => one.size() as u64,
        ColumnarValue::Array(array) => (array.get_array_memory_size() / array.len().max(1)) as u64,
    }
}

fn series(start: &ColumnarValue, stop: &ColumnarValue, step: Option<&ColumnarValue>, rows: usize) -> Result<u64> {
    let unit = match stop.data_type() {
        DataType::Date32 => DAY_NS,
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
        DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        _ => 1,
    };
    let (start, stop) = (counts(start, rows)?, counts(stop, rows)?);
    let steps: Vec<i128> = match step {
        None => vec![1; rows],
        Some(step) if matches!(step.data_type(), DataType::Interval(_)) => {
            let months_days_ns = step.cast_to(&DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano), None)?.to_array(rows)?;
            let ns = |step: arrow::datatypes::IntervalMonthDayNano| {
                (i128::from(step.months) * 28 + i128::from(step.days)) * DAY_NS + i128::from(step.nanoseconds)
            };
            months_days_ns.as_primitive::<IntervalMonthDayNanoType>().iter().map(|step| step.map_or(1, ns)).collect()
        }
        Some(step) => counts(step, rows)?.into_iter().map(i128::from).collect(),
    };
    let length = |row: usize| {
        let (start, stop, step) = (i128::from(start[row]) * unit, i128::from(stop[row]) * unit, steps[row]);
        if step == 0 || (stop - start).signum() == -step.signum() { 0 } else { (stop - start).unsigned_abs() / step.unsigned_abs() + 1 }
    };
    let whole: u128 = (0..rows).map(length).sum();
    Ok(u64::try_from(whole).map_or(u64::MAX, |whole| whole.saturating_mul(NUMBER_BYTES)))
}

impl ScalarUDFImpl for Roomed {
    fn name(&self) -> &str {
        self.own.name()
    }

    fn aliases(&self) -> &[String] {
        self.own.aliases()
    }

    fn signature(&self) -> &Signature {
        self.own.signature()
    }

    fn coerce_types(&self, of: &[DataType]) -> Result<Vec<DataType>> {
        self.own.coerce_types(of)
    }

    fn return_type(&self, of: &[DataType]) -> Result<DataType> {
        self.own.return_type(of)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.own.return_field_from_args(args)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        match self.makes {
            // What these are simplified to is the function without a limit.
            Makes::Together | Makes::Separated | Makes::Replaced => Ok(ExprSimplifyResult::Original(args)),
            _ => self.own.simplify(args, info),
        }
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.own.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let all_one = args.args.iter().all(is_one);
        let bytes = self.bytes(&args.args, if all_one { 1 } else { args.number_rows })?;
        check(self.own.name(), bytes, all_one)?;
        self.own.invoke_with_args(args)
    }
}
