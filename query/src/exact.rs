//! Exact numbers stay exact on their way through functions, or the statement says that they need not: a function that computes in floats takes
//! decimals, and lists of numbers, only by an explicit CAST; `median` keeps the half between two middle values; `1e3` is 1000; an integer is its
//! own `ceil`, `floor`, `trunc` and `round`.

use crate::error::Inexact;
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{AggregateFunction, Cast, WindowFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, WindowFunctionDefinition};
use datafusion::optimizer::AnalyzerRule;
use std::cell::Cell;

/// Most digits of a decimal.
const DIGITS_MAX: u8 = 38;
/// Most digits of what `median` is taken of: two of them can be added in 128 bits.
const MEDIAN_DIGITS_MAX: u8 = 37;
/// Digits of the widest integer.
const INTEGER_DIGITS: u8 = 20;

/// Comes before the rule that settles types: after it nobody can tell whose CAST to a float it is.
#[derive(Debug)]
pub(crate) struct StayExact;

impl AnalyzerRule for StayExact {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        // A median of another type is another type in every plan above it.
        let retyped = Cell::new(false);
        plan.transform_up_with_subqueries(|plan| each_expression(plan, &retyped)).data()
    }

    fn name(&self) -> &str {
        "stay_exact"
    }
}

fn each_expression(plan: LogicalPlan, retyped: &Cell<bool>) -> Result<Transformed<LogicalPlan>> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = &plan {
        schema.merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
    }
    let names = NamePreserver::new(&plan);
    let done = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        refuse_float_seconds(&expr, &schema)?;
        let done = expr.transform_up(|expr| stay_exact(expr, &schema))?;
        Ok(done.update_data(|expr| name.restore(expr)))
    })?;
    retyped.set(retyped.get() || done.transformed);
    match retyped.get() {
        true => done.map_data(LogicalPlan::recompute_schema),
        false => Ok(done),
    }
}

fn stay_exact(mut expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    if let Some(whole) = whole(&expr) {
        return Ok(Transformed::yes(whole));
    }
    if let Some(itself) = integer_itself(&expr, schema) {
        return Ok(Transformed::yes(itself));
    }
    let Some((function, arguments)) = call(&mut expr) else { return Ok(Transformed::no(expr)) };
    // What has no type yet is told by the rule that settles types.
    let types: Vec<Option<DataType>> = arguments.iter().map(|argument| argument.get_type(schema).ok()).collect();
    let mut changed = false;
    for (argument, of) in arguments.iter_mut().zip(&types) {
        let wanted = of.as_ref().and_then(|of| wanted(&function, of));
        if let Some(wanted) = wanted {
            *argument = Expr::Cast(Cast::new(Box::new(std::mem::take(argument)), wanted));
            changed = true;
        }
    }
    // What comes after the values of a percentile says which one.
    let values = if function.contains("percentile") { 1 } else { arguments.len() };
    let exact = |(argument, of): (&Expr, &Option<DataType>)| {
        of.as_ref().is_some_and(|of| is_exact_list(of) || (of.is_decimal() && !is_literal(argument)))
    };
    let integer_power = function == "power" && types.iter().all(|of| of.as_ref().is_some_and(DataType::is_integer));
    let takes_exact = integer_power || arguments.iter().zip(&types).take(values).any(exact);
    if takes_exact && expr.get_type(schema).is_ok_and(|result| is_float(&result)) {
        return Err(Inexact::in_floats(&expr.human_display().to_string(), &function).into());
    }
    Ok(Transformed::new_transformed(expr, changed))
}

/// A literal such as `1e3`, which has fewer digits than its number, with all of them.
fn whole(expr: &Expr) -> Option<Expr> {
    let Expr::Literal(ScalarValue::Decimal128(Some(value), digits, scale @ ..0), metadata) = expr else { return None };
    let more = scale.unsigned_abs();
    let digits = digits.checked_add(more).filter(|digits| *digits <= DIGITS_MAX)?;
    let value = value.checked_mul(10i128.checked_pow(more.into())?)?;
    Some(Expr::Literal(ScalarValue::Decimal128(Some(value), digits, 0), metadata.clone()))
}

/// What makes an integer of a number leaves one as it is.
fn integer_itself(expr: &Expr, schema: &DFSchema) -> Option<Expr> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let [of] = call.args.as_slice() else { return None };
    let whole = matches!(call.func.name(), "ceil" | "floor" | "trunc" | "round");
    (whole && of.get_type(schema).is_ok_and(|of| of.is_integer())).then(|| of.clone())
}

/// Refuses seconds since 1970 as a float, which has too few digits for nanoseconds, unless the statement says that it is meant.
fn refuse_float_seconds(expr: &Expr, schema: &DFSchema) -> Result<()> {
    let mut meant: Option<*const Expr> = None;
    expr.apply(|part| {
        match part {
            Expr::Cast(cast) if is_float(cast.field.data_type()) => meant = Some(cast.expr.as_ref()),
            Expr::ScalarFunction(call) if call.func.name() == "date_part" && meant != Some(std::ptr::from_ref(part)) => {
                let [unit, of] = call.args.as_slice() else { return Ok(TreeNodeRecursion::Continue) };
                let epoch = matches!(unit, Expr::Literal(unit, _) if unit.try_as_str().flatten().is_some_and(is_epoch));
                let fine = |of: DataType| matches!(of, DataType::Timestamp(..) | DataType::Duration(_) | DataType::Time64(_));
                if epoch && of.get_type(schema).is_ok_and(fine) {
                    return Err(Inexact::float_seconds(&part.human_display().to_string()).into());
                }
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

fn is_epoch(unit: &str) -> bool {
    unit.trim_matches('\'').eq_ignore_ascii_case("epoch")
}

/// The function that is called, and with what.
fn call(expr: &mut Expr) -> Option<(String, &mut Vec<Expr>)> {
    match expr {
        Expr::ScalarFunction(call) => Some((call.func.name().to_string(), &mut call.args)),
        Expr::AggregateFunction(AggregateFunction { func, params }) => Some((func.name().to_string(), &mut params.args)),
        Expr::WindowFunction(call) => {
            let WindowFunction { fun: WindowFunctionDefinition::AggregateUDF(func), params } = call.as_mut() else { return None };
            Some((func.name().to_string(), &mut params.args))
        }
        _ => None,
    }
}

/// What an argument must become: a median and what is made whole with a digit more, and no decimal with fewer digits than its number.
fn wanted(function: &str, of: &DataType) -> Option<DataType> {
    match of {
        DataType::Decimal128(digits, scale @ ..0) => {
            Some(DataType::Decimal128(digits.saturating_add(scale.unsigned_abs()).min(DIGITS_MAX), 0))
                .map(|of| wanted(function, &of).unwrap_or(of))
        }
        DataType::Decimal32(digits, scale) | DataType::Decimal64(digits, scale) | DataType::Decimal128(digits, scale)
            if function == "median" =>
        {
            Some(DataType::Decimal128((digits + 1).min(MEDIAN_DIGITS_MAX), scale + 1))
        }
        DataType::Decimal128(digits, scale) if *scale > 0 && *digits < DIGITS_MAX && matches!(function, "ceil" | "floor") => {
            Some(DataType::Decimal128(digits + 1, *scale))
        }
        of if function == "median" && of.is_integer() => Some(DataType::Decimal128(INTEGER_DIGITS + 1, 1)),
        _ => None,
    }
}

fn is_literal(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(..) => true,
        Expr::Negative(of) => is_literal(of),
        _ => false,
    }
}

fn is_exact_list(of: &DataType) -> bool {
    element(of).is_some_and(|element| element.is_decimal() || element.is_integer() || is_exact_list(element))
}

fn is_float(of: &DataType) -> bool {
    of.is_floating() || element(of).is_some_and(is_float)
}

fn element(of: &DataType) -> Option<&DataType> {
    match of {
        DataType::List(element) | DataType::LargeList(element) | DataType::FixedSizeList(element, _) => Some(element.data_type()),
        _ => None,
    }
}
