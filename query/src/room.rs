//! Functions that make much of little say so before they make it: `repeat('x', 1500000000)` is 30 bytes of a statement, and no memory pool sees
//! what a function holds while it computes.

use crate::error::Error;
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

/// Most bytes that one call makes, for all rows of a batch.
const BYTES_MAX: u64 = 32 << 20;
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
            _ => 0,
        })
    }
}

fn product(of: u64, count: i64) -> u64 {
    of.saturating_mul(u64::try_from(count).unwrap_or(0))
}

/// Bytes of each text.
fn lengths(text: &ColumnarValue, rows: usize) -> Result<Vec<u64>> {
    Ok(match text {
        ColumnarValue::Scalar(text) => vec![text.try_as_str().flatten().map_or(0, |text| text.len() as u64); rows],
        ColumnarValue::Array(texts) => {
            let lengths = cast(&length(texts)?, &DataType::Int64)?;
            lengths.as_primitive::<Int64Type>().iter().map(|length| length.unwrap_or(0).unsigned_abs()).collect()
        }
    })
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
        self.own.simplify(args, info)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.own.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_one = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let bytes = self.bytes(&args.args, if is_one { 1 } else { args.number_rows })?;
        match bytes <= BYTES_MAX {
            true => self.own.invoke_with_args(args),
            false => Err(Error::Plan(format!(
                "{} would make {bytes} bytes at once, and may make {BYTES_MAX}: ask for less, or for rows, as in SELECT … FROM generate_series(…)",
                self.own.name()
            ))
            .into()),
        }
    }
}
