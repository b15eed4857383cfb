//! Words that the parser takes and the planner leaves out: the answer would be that of another question, so they are refused.

use crate::error::Error;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Expr, FunctionArguments, GroupByExpr, Query, Select, SelectFlavor, TableFactor, Visit, Visitor};
use std::ops::ControlFlow;

/// Refuses a statement that asks for something which would be left out.
pub(crate) fn check(statement: &Statement) -> Result<(), Error> {
    let sql = match statement {
        Statement::Statement(sql) => sql,
        Statement::Explain(explain) => return check(&explain.statement),
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => return Ok(()),
    };
    match sql.visit(&mut Ignored) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break((what, instead)) => {
            Err(Error::Plan(format!("{what} is not known here, and without it the answer would be another: {instead}")))
        }
    }
}

struct Ignored;

type Said = (&'static str, &'static str);

fn first(of: &[(bool, Said)]) -> ControlFlow<Said> {
    match of.iter().find(|(is, _)| *is) {
        Some((_, said)) => ControlFlow::Break(*said),
        None => ControlFlow::Continue(()),
    }
}

impl Visitor for Ignored {
    type Break = Said;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Said> {
        first(&[
            (!query.locks.is_empty(), ("FOR UPDATE or FOR SHARE", "nothing here is ever changed, leave it out")),
            (
                query.for_clause.is_some(),
                ("FOR JSON, FOR XML or FOR BROWSE", "the form of a result is chosen with --format, over HTTP with Accept"),
            ),
            (query.fetch.is_some(), ("FETCH FIRST", "use LIMIT")),
            (query.settings.is_some(), ("SETTINGS", "limits are set where the service is started")),
            (query.format_clause.is_some(), ("FORMAT", "the form of a result is chosen with --format, over HTTP with Accept")),
        ])
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Said> {
        let modified = matches!(&select.group_by, GroupByExpr::Expressions(_, with) | GroupByExpr::All(with) if !with.is_empty());
        first(&[
            (select.prewhere.is_some(), ("PREWHERE", "use WHERE")),
            (!select.connect_by.is_empty(), ("CONNECT BY", "use WITH RECURSIVE")),
            (modified, ("GROUP BY … WITH", "use GROUP BY ROLLUP (…) or CUBE (…)")),
            (select.top.is_some(), ("TOP", "use LIMIT")),
            (!select.sort_by.is_empty(), ("SORT BY", "use ORDER BY")),
            (
                !select.cluster_by.is_empty() || !select.distribute_by.is_empty(),
                ("CLUSTER BY or DISTRIBUTE BY", "leave it out, or use ORDER BY"),
            ),
            (!select.lateral_views.is_empty(), ("LATERAL VIEW", "use unnest(…)")),
            (select.value_table_mode.is_some(), ("SELECT AS STRUCT or AS VALUE", "use named_struct(…)")),
            (select.flavor == SelectFlavor::FromFirstNoSelect, ("FROM without SELECT", "put SELECT * before it")),
        ])
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<Said> {
        const SAMPLE: Said = ("TABLESAMPLE or SAMPLE", "use WHERE random() < 0.01, or LIMIT");
        match table {
            TableFactor::Table { version, with_ordinality, partitions, json_path, sample, index_hints, with_hints, .. } => first(&[
                (sample.is_some(), SAMPLE),
                (version.is_some(), ("a version of a table (FOR SYSTEM_TIME AS OF, VERSION AS OF)", "use WHERE _log_ts <= …")),
                (*with_ordinality, ("WITH ORDINALITY", "use row_number() OVER ()")),
                (!partitions.is_empty(), ("PARTITION (…)", "use WHERE on dataset and date")),
                (json_path.is_some(), ("a path behind a table's name", "name the column")),
                (!index_hints.is_empty() || !with_hints.is_empty(), ("a hint", "leave it out")),
            ]),
            TableFactor::Derived { sample, .. } => first(&[(sample.is_some(), SAMPLE)]),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Said> {
        match expr {
            Expr::Function(function) => {
                first(&[(function.parameters != FunctionArguments::None, ("a second list of arguments", "give all arguments in one"))])
            }
            Expr::SimilarTo { .. } => ControlFlow::Break(("SIMILAR TO", "use LIKE, or ~ with a regular expression")),
            _ => ControlFlow::Continue(()),
        }
    }
}
