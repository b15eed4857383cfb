//! A statement whose plan would be far larger than its text is refused before that plan is made: a WITH query is written out wherever it is
//! named, and an expression wherever its column is, so that thirty short lines can stand for a billion of either.

use crate::error::Error;
use crate::limits::{
    CENTROIDS, CHAIN, GATHERED, GROUPING_SETS, IN_LIST, JOINED, NODES, PATTERN_BYTES, RELATIONS, STATEMENT_BYTES, SUBQUERIES, TERMS,
    WITH_LEVELS,
};
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result as EngineResult, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, WindowFrameBound, WindowFrameUnits};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, ObjectName, ObjectNamePart, Query, Select,
    Visit, Visitor,
};
use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;

/// Refuses what is too long to be parsed.
pub(crate) fn check_text(sql: &str) -> Result<(), Error> {
    match sql.len() <= STATEMENT_BYTES {
        true => Ok(()),
        false => Err(Error::TooLarge(format!("it has {} bytes, and a statement may have {STATEMENT_BYTES}: send it in parts", sql.len()))),
    }
}

/// Refuses what has too many parts, would have too many relations, or a chain that is too long.
pub(crate) fn check_statement(statement: &Statement) -> Result<(), Error> {
    let sql = match statement {
        Statement::Statement(sql) => sql,
        Statement::Explain(explain) => return check_statement(&explain.statement),
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => return Ok(()),
    };
    let mut size = Size::default();
    match sql.visit(&mut size) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(why) => Err(Error::TooLarge(why)),
    }
}

/// Counts while the parsed statement is walked through.
#[derive(Default)]
struct Size {
    /// The queries that are open, the innermost last.
    open: Vec<Open>,
    depth: usize,
    nodes: usize,
}

/// A query that is being walked through. Its WITH queries come first, in order.
#[derive(Default)]
struct Open {
    /// Names of the WITH queries that are still to come.
    to_come: VecDeque<String>,
    /// Relations of each WITH query that has been, and its level: one more than the highest that it names.
    named: HashMap<String, (u64, u64)>,
    relations: u64,
    /// The highest level of a WITH query that is named.
    level: u64,
    /// Relations before each SELECT that is open.
    before: Vec<u64>,
    /// Expressions that were open around it, and subqueries of expressions up to it.
    depth: usize,
    subqueries: usize,
}

impl Size {
    /// Relations that a name stands for, and its level: those of the nearest WITH query of this name, else one of none.
    fn of(&self, name: &ObjectName) -> (u64, u64) {
        let [ObjectNamePart::Identifier(name)] = name.0.as_slice() else { return (1, 0) };
        let name = normal(name);
        self.open.iter().rev().find_map(|query| query.named.get(&name)).copied().unwrap_or((1, 0))
    }

    fn add(&mut self, relations: u64, level: u64) {
        if let Some(query) = self.open.last_mut() {
            query.relations = query.relations.saturating_add(relations);
            query.level = query.level.max(level);
        }
    }

    fn count(&mut self) -> ControlFlow<String> {
        self.nodes += 1;
        match self.nodes <= NODES {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(format!(
                "it has more than {NODES} parts (expressions, relations, queries): ask in parts, or for all rows and choose among them"
            )),
        }
    }
}

/// How many sets CUBE, ROLLUP and GROUPING SETS beside each other stand for.
fn grouping_sets(group_by: &GroupByExpr) -> u64 {
    let GroupByExpr::Expressions(expressions, _) = group_by else { return 1 };
    let each = |expression: &SqlExpr| match expression {
        SqlExpr::Cube(columns) => 2u64.saturating_pow(u32::try_from(columns.len()).unwrap_or(u32::MAX)),
        SqlExpr::Rollup(columns) => columns.len() as u64 + 1,
        SqlExpr::GroupingSets(sets) => sets.len() as u64,
        _ => 1,
    };
    expressions.iter().map(each).fold(1, u64::saturating_mul)
}

/// A type that is told in a text is parsed and made, however deep or long it says that it is; how a time is written is applied to every row.
fn check_pattern(function: &Function) -> ControlFlow<String> {
    let name = function.name.0.last().map(ToString::to_string).unwrap_or_default().to_lowercase();
    let is_type = matches!(name.as_str(), "arrow_cast" | "arrow_try_cast");
    if !is_type && !matches!(name.as_str(), "to_char" | "date_format") {
        return ControlFlow::Continue(());
    }
    let FunctionArguments::List(list) = &function.args else { return ControlFlow::Continue(()) };
    let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(pattern))) = list.args.get(1) else { return ControlFlow::Continue(()) };
    let text = match pattern {
        SqlExpr::Value(value) => value.clone().value.into_string(),
        _ => None,
    };
    let Some(text) = text.filter(|text| text.len() <= PATTERN_BYTES) else {
        return ControlFlow::Break(format!("the second argument of {name} is a text of at most {PATTERN_BYTES} bytes, written out"));
    };
    // A list or text of a fixed length is made as long as it says.
    let long = is_type && text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 4);
    match long || (is_type && text.matches('(').count() > 8) {
        true => ControlFlow::Break(format!("{name} to {text}: a type has no length above 9999, and at most 8 types inside each other")),
        false => ControlFlow::Continue(()),
    }
}

fn normal(name: &datafusion::sql::sqlparser::ast::Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

impl Visitor for Size {
    type Break = String;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<String> {
        self.count()?;
        let to_come = query.with.iter().flat_map(|with| &with.cte_tables).map(|cte| normal(&cte.alias.name)).collect();
        let (around, depth) = self.open.last().map_or((0, 0), |around| (around.subqueries, around.depth));
        let subqueries = around + usize::from(self.depth > depth);
        self.open.push(Open { to_come, depth: self.depth, subqueries, ..Open::default() });
        match subqueries <= SUBQUERIES {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(format!(
                "more than {SUBQUERIES} subqueries of expressions lie inside each other, and the time to plan them doubles with each: name the \
                 inner ones in a WITH, or join"
            )),
        }
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<String> {
        let (relations, level) = self.open.pop().map_or((0, 0), |query| (query.relations, query.level));
        let around = self.open.last_mut();
        if let Some((query, name)) = around.and_then(|query| query.to_come.pop_front().map(|name| (query, name))) {
            query.named.insert(name, (relations, level + 1));
            return match level < WITH_LEVELS {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(format!(
                    "more than {WITH_LEVELS} WITH queries each name the one before: put some of the steps into one"
                )),
            };
        }
        self.add(relations, level);
        match relations <= RELATIONS {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(format!(
                "it stands for {relations} relations once its WITH queries are written out, each wherever it is named, and a statement may \
                 have {RELATIONS}: name each fewer times, for example with a window function in place of a join with itself"
            )),
        }
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<String> {
        let sets = grouping_sets(&select.group_by);
        if sets > GROUPING_SETS {
            return ControlFlow::Break(format!(
                "one GROUP BY groups by {sets} sets, and may by {GROUPING_SETS}: name those that are wanted with GROUPING SETS (…)"
            ));
        }
        if let Some(query) = self.open.last_mut() {
            query.before.push(query.relations);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &Select) -> ControlFlow<String> {
        let relations = self.open.last_mut().and_then(|query| Some(query.relations - query.before.pop()?)).unwrap_or(0);
        if relations == 0 {
            self.add(1, 0);
        }
        let joins = select.from.len() > 1 || select.from.iter().any(|from| !from.joins.is_empty());
        match joins && relations > JOINED {
            false => ControlFlow::Continue(()),
            true => ControlFlow::Break(format!(
                "one FROM joins {relations} relations, its WITH queries written out, and may join {JOINED}: join fewer, or put rows \
                 under each other with UNION ALL and aggregate"
            )),
        }
    }

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<String> {
        let (relations, level) = self.of(name);
        self.add(relations, level);
        self.count()
    }

    fn pre_visit_expr(&mut self, expr: &SqlExpr) -> ControlFlow<String> {
        self.count()?;
        if let SqlExpr::InList { list, .. } = expr
            && list.len() > IN_LIST
        {
            return ControlFlow::Break(format!(
                "an IN list has {} values, and may have {IN_LIST}: ask in parts, or join with a range or a table that has them",
                list.len()
            ));
        }
        if let SqlExpr::Function(function) = expr {
            check_pattern(function)?;
        }
        self.depth += 1;
        match self.depth <= CHAIN {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(format!(
                "an expression has more than {CHAIN} operators in a chain or inside each other: put the values into a list, as in IN (…), \
                 or into rows, as in SELECT sum(v) FROM (VALUES (…), (…)) AS t(v)"
            )),
        }
    }

    fn post_visit_expr(&mut self, _: &SqlExpr) -> ControlFlow<String> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

/// Refuses a plan in which a value would be computed of too many columns once everything between is written out, as the optimizer may.
pub(crate) fn check_plan(plan: &LogicalPlan) -> Result<(), Error> {
    terms(plan).map(|_| ()).map_err(|why| Error::from_engine("planning the query", why))
}

/// For each column of the plan, of how many columns it is computed. What is computed over many rows is one: nothing is written out across it.
fn terms(plan: &LogicalPlan) -> EngineResult<Vec<u64>> {
    let inputs = plan.inputs().into_iter().map(terms).collect::<EngineResult<Vec<_>>>()?;
    subqueries(plan)?;
    if let LogicalPlan::Window(window) = plan {
        window.window_expr.iter().try_for_each(gathers_little)?;
    }
    let width = plan.schema().fields().len();
    let mut columns = match plan {
        LogicalPlan::Projection(node) => {
            let each = |expr: &Expr| of_expression(expr, node.input.schema(), &inputs[0]);
            node.expr.iter().map(each).collect::<EngineResult<_>>()?
        }
        LogicalPlan::Aggregate(node) => {
            let each = |expr: &Expr| of_expression(expr, node.input.schema(), &inputs[0]);
            node.group_expr.iter().map(each).collect::<EngineResult<Vec<_>>>()?
        }
        LogicalPlan::Union(_) => {
            let most = |column: usize| inputs.iter().filter_map(|input| input.get(column)).copied().max();
            (0..width).map(|column| most(column).unwrap_or(1)).collect()
        }
        _ => inputs.concat(),
    };
    columns.resize(width, 1);
    match columns.iter().max() {
        Some(most) if *most > TERMS => Err(Error::TooLarge(format!(
            "a column is computed of {most} others once all between is written out, and may be of {TERMS}: each level names the one \
             below it more than once"
        ))
        .into()),
        _ => Ok(columns),
    }
}

/// Refuses a window that puts a list of all its rows beside each of them: so it grows with the square of their number.
fn gathers_little(expr: &Expr) -> EngineResult<()> {
    expr.apply(|part| {
        let Expr::WindowFunction(call) = part else { return Ok(TreeNodeRecursion::Continue) };
        let (name, frame) = (call.fun.name(), &call.params.window_frame);
        let gathers = matches!(name, "array_agg" | "string_agg");
        if gathers && !(frame.units == WindowFrameUnits::Rows && is_near(&frame.start_bound) && is_near(&frame.end_bound)) {
            return Err(Error::TooLarge(format!(
                "{name} over a window gathers its rows anew for each of them, and may only in a frame as ROWS BETWEEN {GATHERED} PRECEDING \
                 AND CURRENT ROW, or smaller: gather once with GROUP BY and join the result"
            ))
            .into());
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map(|_| ())
}

/// Refuses an aggregate whose arguments, once they are constants, make it take much before the first row.
pub(crate) fn check_optimized(plan: &LogicalPlan) -> Result<(), Error> {
    let check = |expr: &Expr| {
        if let Expr::AggregateFunction(function) = expr
            && function.func.name().starts_with("approx_percentile_cont")
            && function.params.args.iter().any(|argument| !is_few(argument))
        {
            return Err(Error::TooLarge(format!("an approximate percentile has at most {CENTROIDS} centroids")).into());
        }
        Ok(TreeNodeRecursion::Continue)
    };
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| expr.apply(check))?;
        Ok(TreeNodeRecursion::Continue)
    });
    walked.map(|_| ()).map_err(|e| Error::from_engine("planning the query", e))
}

/// Is it no whole number beyond the most centroids?
fn is_few(argument: &Expr) -> bool {
    let Expr::Literal(value, _) = argument else { return true };
    let whole = value.data_type().is_integer() && !value.is_null();
    !whole || matches!(value.cast_to(&DataType::UInt64), Ok(ScalarValue::UInt64(Some(..=CENTROIDS))))
}

fn is_near(bound: &WindowFrameBound) -> bool {
    match bound {
        WindowFrameBound::CurrentRow => true,
        WindowFrameBound::Preceding(rows) | WindowFrameBound::Following(rows) => {
            matches!(rows.cast_to(&DataType::UInt64), Ok(ScalarValue::UInt64(Some(..=GATHERED))))
        }
    }
}

/// Plans inside expressions, as in `IN (SELECT …)`.
fn subqueries(plan: &LogicalPlan) -> EngineResult<()> {
    plan.apply_subqueries(|subquery| terms(subquery).map(|_| TreeNodeRecursion::Jump)).map(|_| ())
}

fn of_expression(expr: &Expr, schema: &DFSchema, input: &[u64]) -> EngineResult<u64> {
    let of = |column: &Column| schema.maybe_index_of_column(column).and_then(|i| input.get(i)).copied().unwrap_or(1);
    let mut terms = 0u64;
    expr.apply(|part| {
        if let Expr::Column(column) = part {
            terms = terms.saturating_add(of(column));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(terms.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::sql::parser::DFParser;

    fn refused(sql: &str) -> Option<String> {
        let statement = DFParser::parse_sql(sql).expect("SQL").pop_front().expect("a statement");
        check_statement(&statement).err().map(|why| why.to_string())
    }

    /// WITH queries of which each names the one before it `times`.
    fn tower(levels: usize, times: usize) -> String {
        let level = |i: usize| format!(", c{i} AS (SELECT * FROM {})", vec![format!("c{}", i - 1); times].join(", "));
        format!("WITH c0 AS (SELECT 1 AS x){} SELECT * FROM c{}", (1..levels).map(level).collect::<String>(), levels - 1)
    }

    #[test]
    fn a_with_query_counts_wherever_it_is_named() {
        assert_eq!(refused(&tower(64, 1)), None);
        assert!(refused(&tower(66, 1)).expect("too high").contains("WITH queries each name the one before"));
        let wide =
            format!("WITH a AS (SELECT 1){} SELECT * FROM a", (0..300).map(|i| format!(", b{i} AS (SELECT * FROM a)")).collect::<String>());
        assert_eq!(refused(&wide), None);
        assert_eq!(refused(&tower(6, 2)), None);
        let said = refused(&tower(7, 2)).expect("64 in one FROM");
        assert!(said.contains("one FROM joins 64 relations"), "{said}");
        let said = refused(&tower(80, 2)).expect("more than can be counted");
        assert!(said.contains("one FROM joins"), "{said}");
        let unions = |n: usize| vec!["SELECT 1"; n].join(" UNION ALL ");
        assert_eq!(refused(&unions(500)), None);
        assert!(refused(&unions(501)).expect("too many").contains("stands for 501 relations"));
        let named = format!("WITH a AS ({}) SELECT * FROM A UNION ALL SELECT * FROM a UNION ALL SELECT * FROM \"A\"", unions(249));
        assert_eq!(refused(&named), None);
        assert!(refused(&named.replace("\"A\"", "a")).expect("747").contains("stands for 747 relations"));
        assert!(refused(&format!("EXPLAIN {}", tower(30, 2))).is_some());
        assert!(refused(&format!("SELECT 1 WHERE EXISTS ({})", tower(30, 2))).is_some());
    }

    #[test]
    fn an_inner_name_hides_an_outer_one() {
        let outer = "WITH a AS (SELECT 1), b AS (WITH a AS (SELECT * FROM a, a x, a y) SELECT * FROM a) SELECT * FROM b, b AS c, a";
        let statement = DFParser::parse_sql(outer).expect("SQL").pop_front().expect("a statement");
        let Statement::Statement(sql) = &statement else { panic!("{statement}") };
        let mut size = Size { open: vec![Open::default()], ..Size::default() };
        assert!(sql.visit(&mut size).is_continue());
        assert_eq!(size.open[0].relations, 7);
    }

    #[test]
    fn subqueries_of_expressions_double() {
        let scalar = |n: usize| format!("SELECT {}1{}", "(SELECT ".repeat(n), ")".repeat(n));
        assert_eq!(refused(&scalar(SUBQUERIES)), None);
        assert!(refused(&scalar(SUBQUERIES + 1)).expect("too deep").contains("doubles with each"));
        let derived = |n: usize| format!("SELECT * FROM {}t{}", "(SELECT 1 + x FROM ".repeat(n), ")".repeat(n));
        assert_eq!(refused(&derived(20)), None);
    }

    #[test]
    fn a_chain_is_as_deep_as_it_is_long() {
        let chain = |n: usize| format!("SELECT {}", vec!["1"; n].join(" + "));
        assert_eq!(refused(&chain(CHAIN)), None);
        assert!(refused(&chain(CHAIN + 1)).expect("too deep").contains("operators in a chain"));
        let among = |n: usize| format!("SELECT 1 IN ({})", vec!["1"; n].join(","));
        assert_eq!(refused(&among(IN_LIST)), None);
        assert!(refused(&among(IN_LIST + 1)).expect("too long").contains("an IN list has 5001 values"));
        let columns = |n: usize| format!("SELECT {}", vec!["1"; n].join(","));
        assert_eq!(refused(&columns(NODES - 2)), None);
        assert!(refused(&columns(NODES)).expect("too many").contains("more than 20000 parts"));
    }
}
