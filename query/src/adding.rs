//! Adding in 128 bits with a check, value by value: what `sum` and `avg` share.

use crate::error::Inexact;
use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray};
use arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType,
    DurationSecondType, Int64Type, TimeUnit, UInt64Type,
};
use datafusion::common::{Result, internal_err};
use datafusion::error::DataFusionError;
use std::collections::HashMap;

/// What is added up for what: an overflow is told with both.
#[derive(Debug)]
pub(crate) struct Adding {
    /// As the query has it.
    pub(crate) name: String,
    /// What the outcome must fit.
    pub(crate) result: DataType,
}

impl Adding {
    pub(crate) fn new(name: &str, result: &DataType) -> Adding {
        Adding { name: name.to_string(), result: result.clone() }
    }

    pub(crate) fn add(&self, sum: &mut i128, value: i128) -> Result<()> {
        *sum = sum.checked_add(value).ok_or_else(|| self.overflow())?;
        Ok(())
    }

    pub(crate) fn take_away(&self, sum: &mut i128, value: i128) -> Result<()> {
        *sum = sum.checked_sub(value).ok_or_else(|| self.overflow())?;
        Ok(())
    }

    /// Adds all values of a column; gives how many there were.
    pub(crate) fn add_all(&self, sum: &mut i128, of: &dyn Array) -> Result<u64> {
        if let Some(added) = small_sum(of) {
            self.add(sum, added)?;
            return Ok(of.len() as u64);
        }
        let mut rows = 0;
        values(of, None, |_, value| {
            rows += 1;
            self.add(sum, value)
        })?;
        Ok(rows)
    }

    pub(crate) fn overflow(&self) -> DataFusionError {
        Inexact::overflow(&self.name, &self.result).into()
    }

    /// Bytes on the heap.
    pub(crate) fn size(&self) -> usize {
        self.name.capacity()
    }
}

/// The sum of different values, each counted so that it can leave a window.
#[derive(Debug, Default)]
pub(crate) struct Different {
    counts: HashMap<i128, u64>,
    pub(crate) sum: i128,
}

impl Different {
    pub(crate) fn add(&mut self, adding: &Adding, batch: &dyn Array) -> Result<()> {
        values(batch, None, |_, value| {
            let count = self.counts.entry(value).or_insert(0);
            *count += 1;
            if *count > 1 { Ok(()) } else { adding.add(&mut self.sum, value) }
        })
    }

    /// Adds what others found different: a list for each of them.
    pub(crate) fn merge(&mut self, adding: &Adding, lists: &ArrayRef) -> Result<()> {
        lists.as_list::<i32>().iter().flatten().try_for_each(|different| self.add(adding, &different))
    }

    pub(crate) fn take_away(&mut self, adding: &Adding, batch: &dyn Array) -> Result<()> {
        values(batch, None, |_, value| {
            let Some(count) = self.counts.get_mut(&value) else { return internal_err!("{value} left a window that it was not in") };
            *count -= 1;
            if *count > 0 {
                return Ok(());
            }
            self.counts.remove(&value);
            adding.take_away(&mut self.sum, value)
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.counts.len()
    }

    pub(crate) fn each(&self) -> impl Iterator<Item = i128> {
        self.counts.keys().copied()
    }

    /// Bytes on the heap.
    pub(crate) fn size(&self) -> usize {
        self.counts.capacity() * size_of::<(i128, u64)>()
    }
}

/// The sum of decimals without NULL of which none has more than a hundred bits: so few rows as a batch has cannot leave 128 with them.
fn small_sum(of: &dyn Array) -> Option<i128> {
    if *of.data_type() == DataType::Int64 && of.null_count() == 0 {
        return Some(of.as_primitive::<Int64Type>().values().iter().map(|value| i128::from(*value)).sum());
    }
    if !matches!(of.data_type(), DataType::Decimal128(..)) || of.null_count() > 0 || of.len() >= 1 << 27 {
        return None;
    }
    let is_small = |value: i128| (value >> 100) == (value >> 127);
    let add = |(sum, small): (i128, bool), value: &i128| (sum.wrapping_add(*value), small & is_small(*value));
    let (sum, small) = of.as_primitive::<Decimal128Type>().values().iter().fold((0, true), add);
    small.then_some(sum)
}

/// Calls `each` with the number and the value of every row that has one and that `filter` lets through.
pub(crate) fn values(of: &dyn Array, filter: Option<&BooleanArray>, each: impl FnMut(usize, i128) -> Result<()>) -> Result<()> {
    match of.data_type() {
        DataType::Int64 => primitives::<Int64Type>(of, filter, each),
        DataType::UInt64 => primitives::<UInt64Type>(of, filter, each),
        DataType::Decimal32(..) => primitives::<Decimal32Type>(of, filter, each),
        DataType::Decimal64(..) => primitives::<Decimal64Type>(of, filter, each),
        DataType::Decimal128(..) => primitives::<Decimal128Type>(of, filter, each),
        DataType::Duration(TimeUnit::Second) => primitives::<DurationSecondType>(of, filter, each),
        DataType::Duration(TimeUnit::Millisecond) => primitives::<DurationMillisecondType>(of, filter, each),
        DataType::Duration(TimeUnit::Microsecond) => primitives::<DurationMicrosecondType>(of, filter, each),
        DataType::Duration(TimeUnit::Nanosecond) => primitives::<DurationNanosecondType>(of, filter, each),
        other => internal_err!("sum was given {other}"),
    }
}

fn primitives<T: ArrowPrimitiveType>(
    of: &dyn Array,
    filter: Option<&BooleanArray>,
    mut each: impl FnMut(usize, i128) -> Result<()>,
) -> Result<()>
where
    T::Native: Into<i128>,
{
    let of: &PrimitiveArray<T> = of.as_primitive();
    if of.null_count() == 0 && filter.is_none() {
        return of.values().iter().enumerate().try_for_each(|(row, value)| each(row, (*value).into()));
    }
    let let_through = |row: usize| filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
    for (row, value) in of.values().iter().enumerate() {
        if of.is_valid(row) && let_through(row) {
            each(row, (*value).into())?;
        }
    }
    Ok(())
}
