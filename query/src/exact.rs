//! Exact numbers stay exact on their way through functions, or the statement says that they need not: a function that computes in floats takes
//! decimals, and lists of numbers, only by an explicit CAST; `median` keeps the half between two middle values; `1e3` is 1000.

use crate::error::Inexact;
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
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
    let takes_exact = arguments.iter().zip(&types).take(values).any(exact);
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

/// What an argument must become: a median with a digit more, and no decimal with fewer digits than its number.
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
