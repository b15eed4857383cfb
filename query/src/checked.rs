//! Arithmetic over integers and decimals is exact or an error: DataFusion wraps integers in silence, and lets a decimal have more digits than
//! its type. Every `+ - * / %`, shift and negation of a plan becomes a function that checks; a quotient of decimals is rounded, half away from
//! zero, where DataFusion cuts it.

use crate::concat;
use crate::error::Inexact;
use arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, Datum, PrimitiveArray, Scalar, new_empty_array};
use arrow::buffer::NullBuffer;
use arrow::compute::kernels::arity::try_binary;
use arrow::compute::kernels::numeric;
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{
    ArrowNativeType, DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType, Field, FieldRef, Int64Type,
};
use arrow::error::ArrowError;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue, exec_err};
use datafusion::config::ConfigOptions;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::BinaryExpr;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr_common::datum::apply;
use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Puts checked functions in the place of operators, once the types of a plan are settled.
#[derive(Debug)]
pub(crate) struct CheckArithmetic;

impl AnalyzerRule for CheckArithmetic {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(check_node).data()
    }

    fn name(&self) -> &str {
        "check_arithmetic"
    }
}

fn check_node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = &plan {
        schema.merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
    }
    let names = NamePreserver::new(&plan);
    let checked = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let checked = expr.transform_up(|expr| check(expr, &schema))?;
        Ok(checked.update_data(|expr| name.restore(expr)))
    })?;
    match checked.transformed {
        true => checked.map_data(LogicalPlan::recompute_schema),
        false => Ok(checked),
    }
}

fn check(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    if let Some(together) = concat::bounded(&expr, |operand| type_of(operand, schema))? {
        return Ok(Transformed::yes(together));
    }
    let (operation, operands) = match &expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_arithmetic(*op) => {
            (Operation::Binary(*op), vec![type_of(left, schema)?, type_of(right, schema)?])
        }
        Expr::Negative(of) => (Operation::Negation, vec![type_of(of, schema)?]),
        _ => return Ok(Transformed::no(expr)),
    };
    if !operands.iter().all(|operand| operand.is_integer() || operand.is_decimal()) {
        return Ok(Transformed::no(expr));
    }
    let function = CheckedOperation::new(operation, &operands, &expr)?;
    let operands = match expr {
        Expr::BinaryExpr(BinaryExpr { left, right, op: Operator::Multiply }) => {
            // Not both: the product of two integers is an integer.
            match (integer_in(&left, schema), integer_in(&right, schema)) {
                (Some(integer), None) => vec![integer, *right],
                (None, Some(integer)) => vec![*left, integer],
                _ => vec![*left, *right],
            }
        }
        Expr::BinaryExpr(BinaryExpr { left, right, .. }) => vec![*left, *right],
        Expr::Negative(of) => vec![*of],
        other => return Ok(Transformed::no(other)),
    };
    Ok(Transformed::yes(ScalarUDF::from(function).call(operands)))
}

/// The integer that an operand casts to a decimal.
fn integer_in(operand: &Expr, schema: &DFSchema) -> Option<Expr> {
    let Expr::Cast(cast) = operand else { return None };
    let integer = *cast.field.data_type() == INTEGER && cast.expr.get_type(schema).is_ok_and(|of| of == DataType::Int64);
    integer.then(|| cast.expr.as_ref().clone())
}

/// The type of an operand. One that is checked already knows it: in a long chain every other way takes the chain's length for each link.
fn type_of(operand: &Expr, schema: &DFSchema) -> Result<DataType> {
    checked_in(operand).map_or_else(|| operand.get_type(schema), |checked| Ok(checked.result.clone()))
}

fn checked_in(operand: &Expr) -> Option<&CheckedOperation> {
    let Expr::ScalarFunction(function) = operand else { return None };
    function.func.inner().downcast_ref()
}

fn is_arithmetic(op: Operator) -> bool {
    use Operator::{BitwiseShiftLeft, BitwiseShiftRight, Divide, Minus, Modulo, Multiply, Plus};
    matches!(op, Plus | Minus | Multiply | Divide | Modulo | BitwiseShiftLeft | BitwiseShiftRight)
}

/// How Arrow computes it, with a check.
type Kernel = fn(&dyn Datum, &dyn Datum) -> std::result::Result<ArrayRef, ArrowError>;

/// What is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operation {
    Binary(Operator),
    Negation,
}

/// One operator of a query. Its type and its name are those of the operator it stands for.
#[derive(Debug)]
struct CheckedOperation {
    operation: Operation,
    result: DataType,
    /// The operator's name in a schema, kept because a long chain would write it anew for every link.
    name: String,
    /// How the query has it, for the error; cut where it is long.
    text: String,
    signature: Signature,
}

/// What is computed is the same whatever it was called.
impl PartialEq for CheckedOperation {
    fn eq(&self, other: &CheckedOperation) -> bool {
        (self.operation, &self.result) == (other.operation, &other.result)
    }
}

impl Eq for CheckedOperation {}

impl Hash for CheckedOperation {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.operation, &self.result).hash(state);
    }
}

impl CheckedOperation {
    fn new(operation: Operation, operands: &[DataType], expr: &Expr) -> Result<CheckedOperation> {
        Ok(CheckedOperation {
            operation,
            result: result_type(operation, operands)?,
            name: expr.schema_name().to_string(),
            text: text_of(operation, expr),
            signature: Signature::any(operands.len(), Volatility::Immutable),
        })
    }

    fn compute(&self, operands: &[ColumnarValue]) -> Result<ColumnarValue> {
        let binary = |kernel: Kernel| apply(&operands[0], &operands[1], kernel);
        match self.operation {
            Operation::Binary(Operator::Plus) => binary(numeric::add),
            Operation::Binary(Operator::Minus) => binary(numeric::sub),
            Operation::Binary(Operator::Multiply) => binary(multiply),
            Operation::Binary(Operator::Divide) => binary(divide),
            Operation::Binary(Operator::Modulo) => binary(numeric::rem),
            Operation::Binary(Operator::BitwiseShiftLeft) => binary(shift_left),
            Operation::Binary(Operator::BitwiseShiftRight) => binary(shift_right),
            Operation::Binary(other) => exec_err!("{other} is no arithmetic"),
            Operation::Negation => match &operands[0] {
                ColumnarValue::Array(array) => Ok(ColumnarValue::Array(numeric::neg(array)?)),
                ColumnarValue::Scalar(one) => {
                    let negated = numeric::neg(&one.to_array()?)?;
                    Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&negated, 0)?))
                }
            },
        }
    }

    fn refused(&self, why: DataFusionError, result: &DataType) -> DataFusionError {
        let DataFusionError::ArrowError(arrow, _) = &why else { return why };
        match arrow.as_ref() {
            ArrowError::ArithmeticOverflow(_) => Inexact::overflow(&self.text, result).into(),
            ArrowError::DivideByZero => Inexact::division_by_zero(&self.text).into(),
            _ => why,
        }
    }
}

/// Sum, difference and product of decimals, or of decimals and integers, that are so small that what comes out cannot leave its type: then
/// nothing else has to be checked. `None` where one of them is not, or the operation is another.
fn of_small(operation: Operation, operands: &[ColumnarValue], result: &DataType) -> Option<ArrayRef> {
    let ([ColumnarValue::Array(left), ColumnarValue::Array(right)], DataType::Decimal128(digits, point)) = (operands, result) else {
        return None;
    };
    let scales = [left, right].map(|of| scale(of.data_type()));
    let same = scales == [i32::from(*point); 2];
    let power = |digits: u8| 10u64.checked_pow(u32::from(digits)).unwrap_or(u64::MAX);
    let values = match operation {
        // Twice what has a digit less.
        Operation::Binary(Operator::Plus) if same => {
            small(left, right, power(digits - 1), |one, other| i128::from(one) + i128::from(other))
        }
        Operation::Binary(Operator::Minus) if same => {
            small(left, right, power(digits - 1), |one, other| i128::from(one) - i128::from(other))
        }
        // A product has no more digits than both factors together, and of two with 63 bits it has 126 bits: fewer than 38 digits have.
        Operation::Binary(Operator::Multiply) if scales[0] + scales[1] == i32::from(*point) => {
            let limit = if *digits == 38 { u64::MAX } else { power(digits / 2) };
            small(left, right, limit, |one, other| i128::from(one) * i128::from(other))
        }
        _ => None,
    };
    let nulls = NullBuffer::union(left.nulls(), right.nulls());
    values.map(|values| Arc::new(PrimitiveArray::<Decimal128Type>::new(values.into(), nulls).with_data_type(result.clone())) as ArrayRef)
}

/// `each` of both sides, where all values of both have 64 bits and are below `limit`.
fn small(left: &ArrayRef, right: &ArrayRef, limit: u64, each: impl Fn(i64, i64) -> i128) -> Option<Vec<i128>> {
    use DataType::{Decimal128, Int64};
    let decimals = |of: &'_ ArrayRef| of.as_primitive::<Decimal128Type>().values().clone();
    let integers = |of: &'_ ArrayRef| of.as_primitive::<Int64Type>().values().clone();
    match (left.data_type(), right.data_type()) {
        (Decimal128(..), Decimal128(..)) => small_pairs(&decimals(left), &decimals(right), limit, each),
        (Decimal128(..), Int64) => small_pairs(&decimals(left), &integers(right), limit, each),
        (Int64, Decimal128(..)) => small_pairs(&integers(left), &decimals(right), limit, each),
        _ => None,
    }
}

fn small_pairs<L: Copy + Into<i128>, R: Copy + Into<i128>>(
    left: &[L],
    right: &[R],
    limit: u64,
    each: impl Fn(i64, i64) -> i128,
) -> Option<Vec<i128>> {
    let mut fits = true;
    let pair = |(one, other): (&L, &R)| {
        let (one, other): (i128, i128) = ((*one).into(), (*other).into());
        let (low, other_low) = (one as i64, other as i64);
        fits &= (i128::from(low) == one) & (i128::from(other_low) == other);
        fits &= (low.unsigned_abs() < limit) & (other_low.unsigned_abs() < limit);
        each(low, other_low)
    };
    let values = left.iter().zip(right).map(pair).collect();
    fits.then_some(values)
}

/// The product. Most values of 128 bits fit into 64, and the product of two of those needs no check; an integer needs no cast.
fn multiply(left: &dyn Datum, right: &dyn Datum) -> std::result::Result<ArrayRef, ArrowError> {
    let decimal = |of: &dyn Datum| matches!(of.get().0.data_type(), DataType::Decimal128(..));
    let result = |left: &dyn Array, right: &dyn Array| -> std::result::Result<DataType, ArrowError> {
        let as_decimal = |of: &dyn Array| match of.data_type() {
            DataType::Int64 => new_empty_array(&INTEGER),
            other => new_empty_array(other),
        };
        Ok(numeric::mul(&as_decimal(left), &as_decimal(right))?.data_type().clone())
    };
    let product = |one: i128, other: i128| match (i64::try_from(one), i64::try_from(other)) {
        (Ok(one), Ok(other)) => Ok(i128::from(one) * i128::from(other)),
        _ => one.mul_checked(other),
    };
    let integer = |of: &dyn Datum| *of.get().0.data_type() == DataType::Int64;
    match (decimal(left), decimal(right)) {
        (true, true) => {
            let result = result(left.get().0, right.get().0)?;
            Ok(Arc::new(each_pair::<Decimal128Type>(left, right, product)?.with_data_type(result)))
        }
        (true, false) if integer(right) => by_integer(left, right, product, &result(left.get().0, right.get().0)?),
        (false, true) if integer(left) => by_integer(right, left, product, &result(left.get().0, right.get().0)?),
        _ => numeric::mul(left, right),
    }
}

/// What an integer is to a decimal.
const INTEGER: DataType = DataType::Decimal128(20, 0);

/// `each` of decimals and integers, of which either may be one value for all rows; NULL where either is NULL.
fn by_integer(
    decimals: &dyn Datum,
    integers: &dyn Datum,
    each: impl Fn(i128, i128) -> std::result::Result<i128, ArrowError>,
    result: &DataType,
) -> std::result::Result<ArrayRef, ArrowError> {
    let ((decimals, decimals_are_one), (integers, integers_are_one)) = (decimals.get(), integers.get());
    let (decimals, integers) = (decimals.as_primitive::<Decimal128Type>(), integers.as_primitive::<Int64Type>());
    let products: PrimitiveArray<Decimal128Type> = match (decimals_are_one, integers_are_one) {
        (true, false) if decimals.is_null(0) => PrimitiveArray::new_null(integers.len()),
        (false, true) if integers.is_null(0) => PrimitiveArray::new_null(decimals.len()),
        (true, false) => integers.try_unary(|integer| each(decimals.value(0), integer.into()))?,
        (false, true) => decimals.try_unary(|decimal| each(decimal, integers.value(0).into()))?,
        _ => try_binary(decimals, integers, |decimal, integer| each(decimal, integer.into()))?,
    };
    Ok(Arc::new(products.with_data_type(result.clone())))
}

/// The quotient. Of decimals it has four digits more after the point than the dividend, the last one rounded half away from zero.
fn divide(left: &dyn Datum, right: &dyn Datum) -> std::result::Result<ArrayRef, ArrowError> {
    match (left.get().0.data_type(), right.get().0.data_type()) {
        (DataType::Decimal32(..), DataType::Decimal32(..)) => divide_decimals::<Decimal32Type>(left, right),
        (DataType::Decimal64(..), DataType::Decimal64(..)) => divide_decimals::<Decimal64Type>(left, right),
        (DataType::Decimal128(..), DataType::Decimal128(..)) => divide_decimals::<Decimal128Type>(left, right),
        (DataType::Decimal256(..), DataType::Decimal256(..)) => divide_decimals::<Decimal256Type>(left, right),
        _ => numeric::div(left, right),
    }
}

fn divide_decimals<T: DecimalType>(left: &dyn Datum, right: &dyn Datum) -> std::result::Result<ArrayRef, ArrowError> {
    // Arrow's own quotient of nothing by nothing has the type that the plan expects.
    let none = |of: &dyn Datum| new_empty_array(of.get().0.data_type());
    let result = numeric::div(&none(left), &none(right))?.data_type().clone();
    let more = scale(&result) - scale(left.get().0.data_type()) + scale(right.get().0.data_type());
    let ten = T::Native::usize_as(10);
    let power = ten.pow_checked(more.unsigned_abs())?;
    let (above, below) = if more < 0 { (T::Native::ONE, power) } else { (power, T::Native::ONE) };
    let quotient = |dividend: T::Native, divisor: T::Native| {
        let (dividend, divisor) = (dividend.mul_checked(above)?, divisor.mul_checked(below)?);
        let (cut, rest) = (dividend.div_checked(divisor)?, dividend.mod_checked(divisor)?);
        let magnitude = |of: T::Native| if of.is_lt(T::Native::ZERO) { of } else { of.neg_wrapping() };
        // Both are negative: so they have room for the lowest number, too.
        let (rest, divisor_negative) = (magnitude(rest), divisor.is_lt(T::Native::ZERO));
        if rest.is_gt(magnitude(divisor).sub_wrapping(rest)) || rest.is_zero() {
            return Ok(cut);
        }
        match dividend.is_lt(T::Native::ZERO) == divisor_negative {
            true => cut.add_checked(T::Native::ONE),
            false => cut.sub_checked(T::Native::ONE),
        }
    };
    let quotients = each_pair::<T>(left, right, quotient)?;
    Ok(Arc::new(quotients.with_data_type(result)))
}

/// Digits after the point.
fn scale(of: &DataType) -> i32 {
    match of {
        DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) => {
            i32::from(*scale)
        }
        _ => 0,
    }
}

/// `each` of both sides, of which either may be one value for all rows; NULL where either is NULL.
fn each_pair<T: ArrowPrimitiveType>(
    left: &dyn Datum,
    right: &dyn Datum,
    each: impl Fn(T::Native, T::Native) -> std::result::Result<T::Native, ArrowError>,
) -> std::result::Result<PrimitiveArray<T>, ArrowError> {
    let ((left, left_is_one), (right, right_is_one)) = (left.get(), right.get());
    let (left, right) = (left.as_primitive::<T>(), right.as_primitive::<T>());
    match (left_is_one, right_is_one) {
        (true, false) if left.is_null(0) => Ok(PrimitiveArray::new_null(right.len())),
        (false, true) if right.is_null(0) => Ok(PrimitiveArray::new_null(left.len())),
        (true, false) => right.try_unary(|right| each(left.value(0), right)),
        (false, true) => left.try_unary(|left| each(left, right.value(0))),
        _ => try_binary(left, right, each),
    }
}

fn shift_left(left: &dyn Datum, right: &dyn Datum) -> std::result::Result<ArrayRef, ArrowError> {
    shift(left, right, |value, bits| {
        let factor = 1i128.checked_shl(bits).filter(|_| bits < 127);
        if value == 0 { Some(0) } else { factor.and_then(|factor| value.checked_mul(factor)) }
    })
}

fn shift_right(left: &dyn Datum, right: &dyn Datum) -> std::result::Result<ArrayRef, ArrowError> {
    shift(left, right, |value, bits| Some(value >> bits.min(127)))
}

/// Integers of any width, shifted in 128 bits.
fn shift(left: &dyn Datum, right: &dyn Datum, each: impl Fn(i128, u32) -> Option<i128>) -> std::result::Result<ArrayRef, ArrowError> {
    let result = left.get().0.data_type().clone();
    let overflow = || ArrowError::ArithmeticOverflow("shift".into());
    let wide = |of: &dyn Array| cast(of, &DataType::Decimal128(38, 0));
    let (left, right) = ((wide(left.get().0)?, left.get().1), (wide(right.get().0)?, right.get().1));
    let datum = |(array, one): (ArrayRef, bool)| -> Box<dyn Datum> { if one { Box::new(Scalar::new(array)) } else { Box::new(array) } };
    let shifted = each_pair::<Decimal128Type>(datum(left).as_ref(), datum(right).as_ref(), |value, bits| {
        u32::try_from(bits).ok().and_then(|bits| each(value, bits)).ok_or_else(overflow)
    })?;
    let shifted = shifted.with_precision_and_scale(38, 0)?;
    let fits = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(&shifted, &result, &fits).map_err(|_| overflow())
}

fn result_type(operation: Operation, operands: &[DataType]) -> Result<DataType> {
    match (operation, operands) {
        (Operation::Negation, [of]) => Ok(of.clone()),
        (Operation::Binary(op), [left, right]) => BinaryTypeCoercer::new(left, &op, right).get_result_type(),
        _ => exec_err!("{} operands of {operation:?}", operands.len()),
    }
}

impl ScalarUDFImpl for CheckedOperation {
    fn name(&self) -> &str {
        match self.operation {
            Operation::Binary(Operator::Plus) => "checked_add",
            Operation::Binary(Operator::Minus) => "checked_subtract",
            Operation::Binary(Operator::Multiply) => "checked_multiply",
            Operation::Binary(Operator::Divide) => "checked_divide",
            Operation::Binary(Operator::BitwiseShiftLeft) => "checked_shift_left",
            Operation::Binary(Operator::BitwiseShiftRight) => "checked_shift_right",
            Operation::Binary(_) => "checked_remainder",
            Operation::Negation => "checked_negate",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn schema_name(&self, _: &[Expr]) -> Result<String> {
        Ok(self.name.clone())
    }

    fn return_type(&self, operands: &[DataType]) -> Result<DataType> {
        result_type(self.operation, operands)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), result_type(self.operation, &types)?, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let result = args.return_type();
        if let Some(computed) = of_small(self.operation, &args.args, result) {
            return Ok(ColumnarValue::Array(computed));
        }
        let computed = self.compute(&args.args).map_err(|why| self.refused(why, result))?;
        match has_room(&computed, result)? {
            true => Ok(computed),
            false => Err(Inexact::overflow(&self.text, result).into()),
        }
    }
}

/// Has every decimal as few digits as its type says?
fn has_room(computed: &ColumnarValue, result: &DataType) -> Result<bool> {
    let array = match (computed, result) {
        (_, result) if !result.is_decimal() => return Ok(true),
        (ColumnarValue::Array(array), _) => array.clone(),
        (ColumnarValue::Scalar(one), _) => one.to_array()?,
    };
    Ok(match result {
        DataType::Decimal128(precision, _) => array.as_primitive::<Decimal128Type>().validate_decimal_precision(*precision).is_ok(),
        DataType::Decimal256(precision, _) => array.as_primitive::<Decimal256Type>().validate_decimal_precision(*precision).is_ok(),
        // A value of fewer digits than these cannot leave its type without leaving its integer.
        _ => true,
    })
}

/// Longest piece of a query in an error, in bytes.
const TEXT_MAX: usize = 80;

/// How the query has an operation, to its beginning.
fn text_of(operation: Operation, expr: &Expr) -> String {
    let mut short = Short(String::new());
    let written = match (operation, expr) {
        (Operation::Binary(op), Expr::BinaryExpr(BinaryExpr { left, right, .. })) => {
            write_operand(left, &mut short).and_then(|()| write!(short, " {op} ")).and_then(|()| write_operand(right, &mut short))
        }
        (_, Expr::Negative(of)) => write!(short, "-").and_then(|()| write_operand(of, &mut short)),
        _ => write!(short, "{}", expr.human_display()),
    };
    match written {
        Ok(()) | Err(fmt::Error) => short.0,
    }
}

fn write_operand(operand: &Expr, short: &mut Short) -> fmt::Result {
    match checked_in(operand) {
        Some(checked) => write!(short, "({})", checked.text),
        None => write!(short, "{}", operand.human_display()),
    }
}

/// Text that takes no more than its room; what is longer is not written to its end.
struct Short(String);

impl Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = TEXT_MAX.saturating_sub(self.0.len());
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        self.0.push('…');
        Err(fmt::Error)
    }
}
