//! `avg` of decimals, rounded: DataFusion's own cuts what comes after the last digit, and adds in 128 bits without saying what left them. Here
//! the sum is that of [`crate::adding`] and the last digit is rounded half away from zero.

use crate::adding::{Adding, Different, values};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, UInt64Array};
use arrow::datatypes::{DataType, Field, FieldRef, UInt64Type};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::functions_aggregate::average::Avg;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, Signature};
use std::sync::Arc;

/// Most digits of a decimal.
const DIGITS_MAX: u8 = 38;
/// Digits that an average has after the point beyond those of its values, as everywhere in DataFusion.
const DIGITS_MORE: u8 = 4;

/// The function `avg` of every query. What is no decimal goes to DataFusion's own.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct RoundedAverage {
    own: Avg,
}

impl AggregateUDFImpl for RoundedAverage {
    fn name(&self) -> &str {
        "avg"
    }

    fn aliases(&self) -> &[String] {
        self.own.aliases()
    }

    fn signature(&self) -> &Signature {
        self.own.signature()
    }

    fn return_type(&self, of: &[DataType]) -> Result<DataType> {
        match &of[0] {
            DataType::Decimal32(digits, scale) | DataType::Decimal64(digits, scale) | DataType::Decimal128(digits, scale) => {
                let more = |of: u8| DIGITS_MAX.min(of + DIGITS_MORE);
                Ok(DataType::Decimal128(more(*digits), u8::try_from(*scale).map_or(0, more) as i8))
            }
            _ => self.own.return_type(of),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let of = args.input_fields[0].data_type();
        let Some(mean) = Mean::new(args.name, of, args.return_type()) else { return self.own.state_fields(args) };
        if args.is_distinct {
            let list = Field::new_list(format_state_name(args.name, "avg distinct"), Field::new_list_field(mean.state_type(), true), false);
            return Ok(vec![list.into()]);
        }
        Ok(vec![
            Field::new(format_state_name(args.name, "count"), DataType::UInt64, true).into(),
            Field::new(format_state_name(args.name, "sum"), mean.state_type(), true).into(),
        ])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match Mean::new(args.name, args.expr_fields[0].data_type(), args.return_type()) {
            None => self.own.accumulator(args),
            Some(mean) if args.is_distinct => Ok(Box::new(DistinctAverage { mean, different: Different::default() })),
            Some(mean) => Ok(Box::new(OneAverage { mean, sum: 0, rows: 0 })),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match Mean::new(args.name, args.expr_fields[0].data_type(), args.return_type()) {
            None => self.own.create_sliding_accumulator(args),
            Some(_) => self.accumulator(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.own.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        match Mean::new(args.name, args.expr_fields[0].data_type(), args.return_type()) {
            None => self.own.create_groups_accumulator(args),
            Some(mean) => Ok(Box::new(GroupAverages { mean, sums: Vec::new(), rows: Vec::new() })),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }
}

/// An average: its result is a decimal of 128 bits.
#[derive(Debug)]
struct Mean {
    adding: Adding,
    /// Digits after the point of the values.
    scale: i8,
}

impl Mean {
    /// None where the values are no decimals.
    fn new(name: &str, of: &DataType, result: &DataType) -> Option<Mean> {
        let (DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale)) = of else { return None };
        Some(Mean { adding: Adding::new(name, result), scale: *scale })
    }

    /// What a part of the sum travels as.
    fn state_type(&self) -> DataType {
        DataType::Decimal128(DIGITS_MAX, self.scale)
    }

    fn of(&self, sum: i128, rows: u64) -> Result<Option<i128>> {
        let DataType::Decimal128(digits, scale) = self.adding.result else {
            return internal_err!("an average is a {}", self.adding.result);
        };
        if rows == 0 {
            return Ok(None);
        }
        let more = 10i128.pow(u32::from((scale - self.scale).unsigned_abs()));
        let average = rounded(sum, rows, more).filter(|average| average.unsigned_abs() < 10u128.pow(digits.into()));
        average.map(Some).ok_or_else(|| self.adding.overflow())
    }

    fn one(&self, sum: i128, rows: u64) -> Result<ScalarValue> {
        let DataType::Decimal128(digits, scale) = self.adding.result else {
            return internal_err!("an average is a {}", self.adding.result);
        };
        Ok(ScalarValue::Decimal128(self.of(sum, rows)?, digits, scale))
    }

    fn sum(&self, sum: i128) -> ScalarValue {
        ScalarValue::Decimal128(Some(sum), DIGITS_MAX, self.scale)
    }

    fn sums(&self, sums: impl Iterator<Item = Option<i128>>) -> ArrayRef {
        Arc::new(sums.collect::<Decimal128Array>().with_data_type(self.state_type()))
    }
}

/// `sum * more / rows`, half away from zero; None where 128 bits do not hold it.
fn rounded(sum: i128, rows: u64, more: i128) -> Option<i128> {
    let rows = i128::from(rows);
    let rest = (sum % rows).checked_mul(more)?;
    let half = i128::from(2 * (rest % rows).abs() >= rows) * sum.signum();
    (sum / rows).checked_mul(more)?.checked_add(rest / rows + half)
}

/// The average of one group, or of a window, which values may leave.
#[derive(Debug)]
struct OneAverage {
    mean: Mean,
    sum: i128,
    rows: u64,
}

impl Accumulator for OneAverage {
    fn update_batch(&mut self, batch: &[ArrayRef]) -> Result<()> {
        self.rows += self.mean.adding.add_all(&mut self.sum, &batch[0])?;
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.rows += states[0].as_primitive::<UInt64Type>().iter().flatten().sum::<u64>();
        values(&states[1], None, |_, sum| self.mean.adding.add(&mut self.sum, sum))
    }

    fn retract_batch(&mut self, batch: &[ArrayRef]) -> Result<()> {
        values(&batch[0], None, |_, value| {
            self.rows -= 1;
            self.mean.adding.take_away(&mut self.sum, value)
        })
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::UInt64(Some(self.rows)), self.mean.sum(self.sum)])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.mean.one(self.sum, self.rows)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.mean.adding.size()
    }
}

/// The average of different values.
#[derive(Debug)]
struct DistinctAverage {
    mean: Mean,
    different: Different,
}

impl Accumulator for DistinctAverage {
    fn update_batch(&mut self, batch: &[ArrayRef]) -> Result<()> {
        self.different.add(&self.mean.adding, &batch[0])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.different.merge(&self.mean.adding, &states[0])
    }

    fn retract_batch(&mut self, batch: &[ArrayRef]) -> Result<()> {
        self.different.take_away(&self.mean.adding, &batch[0])
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let different: Vec<ScalarValue> = self.different.each().map(|value| self.mean.sum(value)).collect();
        Ok(vec![ScalarValue::List(ScalarValue::new_list_nullable(&different, &self.mean.state_type()))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.mean.one(self.different.sum, self.different.len() as u64)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.mean.adding.size() + self.different.size()
    }
}

/// The averages of many groups at once.
#[derive(Debug)]
struct GroupAverages {
    mean: Mean,
    sums: Vec<i128>,
    rows: Vec<u64>,
}

impl GroupAverages {
    fn make_room(&mut self, groups: usize) {
        self.sums.resize(groups, 0);
        self.rows.resize(groups, 0);
    }
}

impl GroupsAccumulator for GroupAverages {
    fn update_batch(&mut self, batch: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, groups_now: usize) -> Result<()> {
        self.make_room(groups_now);
        values(&batch[0], filter, |row, value| {
            let group = groups[row];
            self.rows[group] += 1;
            self.mean.adding.add(&mut self.sums[group], value)
        })
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], groups_now: usize) -> Result<()> {
        self.make_room(groups_now);
        for (group, rows) in groups.iter().zip(states[0].as_primitive::<UInt64Type>()) {
            self.rows[*group] += rows.unwrap_or(0);
        }
        values(&states[1], None, |row, sum| self.mean.adding.add(&mut self.sums[groups[row]], sum))
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let (sums, rows) = (emit.take_needed(&mut self.sums), emit.take_needed(&mut self.rows));
        let averages = sums.iter().zip(&rows).map(|(sum, rows)| self.mean.of(*sum, *rows)).collect::<Result<Decimal128Array>>()?;
        Ok(Arc::new(averages.with_data_type(self.mean.adding.result.clone())))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let (sums, rows) = (emit.take_needed(&mut self.sums), emit.take_needed(&mut self.rows));
        Ok(vec![Arc::new(UInt64Array::from(rows)), self.mean.sums(sums.into_iter().map(Some))])
    }

    fn convert_to_state(&self, batch: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let mut sums = vec![Some(0); batch[0].len()];
        let mut rows = vec![0; batch[0].len()];
        values(&batch[0], filter, |row, value| {
            (sums[row], rows[row]) = (Some(value), 1);
            Ok(())
        })?;
        Ok(vec![Arc::new(UInt64Array::from(rows)), self.mean.sums(sums.into_iter())])
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.mean.adding.size() + self.sums.capacity() * size_of::<i128>() + self.rows.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_go_away_from_zero() {
        for (sum, rows, more, average) in [
            (2, 3, 10_000, 6667),
            (-2, 3, 10_000, -6667),
            (1, 2, 1, 1),
            (-1, 2, 1, -1),
            (1, 3, 1, 0),
            (5, 2, 1, 3),
            (-5, 2, 1, -3),
            (7, 7, 10, 10),
        ] {
            assert_eq!(rounded(sum, rows, more), Some(average), "{sum}/{rows}");
        }
        assert_eq!(rounded(i128::MAX, 1, 10), None);
        assert_eq!(rounded(i128::MAX, u64::MAX, 10_000).map(|a| a > 0), Some(true));
    }
}
