//! `sum` that is exact or an error: DataFusion's own adds integers, decimals and durations in their own width and wraps in silence. Here they
//! are added in 128 bits with a check, and the sum of integers is a `DECIMAL(38,0)`.

use crate::adding::{Adding, Different, values};
use arrow::array::{Array, ArrayRef, BooleanArray, Decimal128Array, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, Signature};

/// Most digits of a decimal.
const DIGITS_MAX: u8 = 38;
/// Digits that a sum of decimals has more than they: room for 10^10 rows, as everywhere in DataFusion.
const DIGITS_MORE: u8 = 10;

/// The function `sum` of every query. What has no exact sum (floats, intervals) goes to DataFusion's own.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ExactSum {
    own: Sum,
}

impl AggregateUDFImpl for ExactSum {
    fn name(&self) -> &str {
        "sum"
    }

    fn signature(&self) -> &Signature {
        self.own.signature()
    }

    fn return_type(&self, of: &[DataType]) -> Result<DataType> {
        match &of[0] {
            DataType::Int64 | DataType::UInt64 => Ok(DataType::Decimal128(DIGITS_MAX, 0)),
            DataType::Decimal32(digits, scale) | DataType::Decimal64(digits, scale) | DataType::Decimal128(digits, scale) => {
                Ok(DataType::Decimal128(DIGITS_MAX.min(digits + DIGITS_MORE), *scale))
            }
            DataType::Decimal256(..) => exec_err!("sum over more than {DIGITS_MAX} digits: cast to DECIMAL({DIGITS_MAX},…) first"),
            _ => self.own.return_type(of),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let Some(total) = Total::new(args.name, args.return_type()) else { return self.own.state_fields(args) };
        let state = total.state_type();
        let field = match args.is_distinct {
            true => Field::new_list(format_state_name(args.name, "sum distinct"), Field::new_list_field(state, true), false),
            false => Field::new(format_state_name(args.name, "sum"), state, true),
        };
        Ok(vec![field.into()])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match Total::new(args.name, args.return_type()) {
            None => self.own.accumulator(args),
            Some(total) if args.is_distinct => Ok(Box::new(DistinctSum { total, different: Different::default() })),
            Some(total) => Ok(Box::new(OneSum { total, sum: 0, rows: 0 })),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match Total::new(args.name, args.return_type()) {
            None => self.own.create_sliding_accumulator(args),
            Some(_) => self.accumulator(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        match Total::new(args.name, args.return_type()) {
            None => self.own.create_groups_accumulator(args),
            Some(total) => Ok(Box::new(GroupSums { total, sums: Vec::new(), seen: Vec::new() })),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

/// A sum: its result is a decimal of 128 bits or a duration.
#[derive(Debug)]
struct Total(Adding);

impl Total {
    /// None where the sum is not one of integers.
    fn new(name: &str, result: &DataType) -> Option<Total> {
        let exact = matches!(result, DataType::Decimal128(..) | DataType::Duration(_));
        exact.then(|| Total(Adding::new(name, result)))
    }

    /// What a part of the sum travels as. It may have a digit more than its type says; the whole is checked.
    fn state_type(&self) -> DataType {
        match self.0.result {
            DataType::Decimal128(_, scale) => DataType::Decimal128(DIGITS_MAX, scale),
            _ => DataType::Decimal128(DIGITS_MAX, 0),
        }
    }

    fn fits(&self, sum: i128) -> bool {
        match self.0.result {
            DataType::Decimal128(digits, _) => sum.unsigned_abs() < 10u128.pow(digits.into()),
            _ => i64::try_from(sum).is_ok(),
        }
    }

    fn state(&self, sums: impl Iterator<Item = Option<i128>>) -> Result<ArrayRef> {
        Ok(std::sync::Arc::new(sums.collect::<Decimal128Array>().with_data_type(self.state_type())))
    }

    /// The sums as what they must fit.
    fn whole(&self, sums: impl Iterator<Item = Option<i128>> + Clone) -> Result<ArrayRef> {
        if sums.clone().flatten().any(|sum| !self.fits(sum)) {
            return Err(self.0.overflow());
        }
        match self.0.result {
            DataType::Decimal128(..) => Ok(std::sync::Arc::new(sums.collect::<Decimal128Array>().with_data_type(self.0.result.clone()))),
            _ => {
                let ticks: Int64Array = sums.map(|sum| sum.and_then(|sum| i64::try_from(sum).ok())).collect();
                Ok(cast(&ticks, &self.0.result)?)
            }
        }
    }

    fn one(&self, sum: Option<i128>) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&self.whole([sum].into_iter())?, 0)
    }
}

/// The sum of one group, or of a window, which values may leave.
#[derive(Debug)]
struct OneSum {
    total: Total,
    sum: i128,
    rows: usize,
}

impl Accumulator for OneSum {
    fn update_batch(&mut self, batch: &[ArrayRef]) -> Result<()> {
        self.rows += self.total.0.add_all(&mut self.sum, &batch[0])? as usize;
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn retract_batch(&mut self, batch: &[ArrayRef]) -> Result<()> {
        values(&batch[0], None, |_, value| {
            self.rows -= 1;
            self.total.0.take_away(&mut self.sum, value)
        })
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let state = self.total.state([(self.rows > 0).then_some(self.sum)].into_iter())?;
        Ok(vec![ScalarValue::try_from_array(&state, 0)?])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.total.one((self.rows > 0).then_some(self.sum))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.total.0.size()
    }
}

/// The sum of different values.
#[derive(Debug)]
struct DistinctSum {
    total: Total,
    different: Different,
}

impl Accumulator for DistinctSum {
    fn update_batch(&mut self, batch: &[ArrayRef]) -> Result<()> {
        self.different.add(&self.total.0, &batch[0])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.different.merge(&self.total.0, &states[0])
    }

    fn retract_batch(&mut self, batch: &[ArrayRef]) -> Result<()> {
        self.different.take_away(&self.total.0, &batch[0])
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let different = self.total.state(self.different.each().map(Some))?;
        let different = (0..different.len()).map(|i| ScalarValue::try_from_array(&different, i)).collect::<Result<Vec<_>>>()?;
        Ok(vec![ScalarValue::List(ScalarValue::new_list_nullable(&different, &self.total.state_type()))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.total.one((self.different.len() > 0).then_some(self.different.sum))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.total.0.size() + self.different.size()
    }
}

/// The sums of many groups at once.
#[derive(Debug)]
struct GroupSums {
    total: Total,
    sums: Vec<i128>,
    /// Whether the group has a value at all: the sum of none is NULL.
    seen: Vec<bool>,
}

impl GroupSums {
    fn take(&mut self, emit: EmitTo) -> (Vec<i128>, Vec<bool>) {
        (emit.take_needed(&mut self.sums), emit.take_needed(&mut self.seen))
    }
}

fn seen_only<'a>((sums, seen): &'a (Vec<i128>, Vec<bool>)) -> impl Iterator<Item = Option<i128>> + Clone + 'a {
    sums.iter().zip(seen).map(|(sum, seen)| seen.then_some(*sum))
}

impl GroupsAccumulator for GroupSums {
    fn update_batch(&mut self, batch: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, groups_now: usize) -> Result<()> {
        self.sums.resize(groups_now, 0);
        self.seen.resize(groups_now, false);
        values(&batch[0], filter, |row, value| {
            let group = groups[row];
            self.seen[group] = true;
            self.total.0.add(&mut self.sums[group], value)
        })
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], groups_now: usize) -> Result<()> {
        self.update_batch(states, groups, None, groups_now)
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let taken = self.take(emit);
        self.total.whole(seen_only(&taken))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let taken = self.take(emit);
        Ok(vec![self.total.state(seen_only(&taken))?])
    }

    fn convert_to_state(&self, batch: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let mut rows = vec![None; batch[0].len()];
        values(&batch[0], filter, |row, value| {
            rows[row] = Some(value);
            Ok(())
        })?;
        Ok(vec![self.total.state(rows.into_iter())?])
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.total.0.size() + self.sums.capacity() * size_of::<i128>() + self.seen.capacity()
    }
}
