//! What a scan filters by while it reads cannot fail: an error in there would be no error of ours any more, but words of the Parquet reader.
//!
//! Filters of the statement are given to the reader by [`crate::table::TapeTable`], where they compare columns with literals alone. What joins and
//! sorts learn while they run comes from the optimizer, as hints, and is taken back here where it computes something.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::datasource::physical_plan::{FileScanConfigBuilder, FileSource, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::{Expr, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, DynamicFilterPhysicalExpr, lit};
use datafusion::physical_expr::utils::{conjunction_opt, split_conjunction};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use std::sync::Arc;

/// Is a filter made of comparisons of columns with literals alone?
pub(crate) fn cannot_fail(filter: &Expr) -> bool {
    use Operator::{And, Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq, Or};
    let compares = |op| matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom | And | Or);
    let harmless = |expr: &Expr| match expr {
        Expr::Column(_) | Expr::Literal(..) | Expr::Not(_) | Expr::IsNull(_) | Expr::IsNotNull(_) | Expr::Between(_) | Expr::InList(_) => {
            true
        }
        Expr::BinaryExpr(pair) => compares(pair.op),
        _ => false,
    };
    !filter.exists(|expr| Ok(!harmless(expr))).unwrap_or(true)
}

/// Takes back hints that compute something: the rows that they would have spared are left out by who gave them.
#[derive(Debug)]
pub(crate) struct TakeBackHints;

impl PhysicalOptimizerRule for TakeBackHints {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let without = without_hints(&node);
            Ok(without.map_or_else(|| Transformed::no(node), Transformed::yes))
        })
        .data()
    }

    fn name(&self) -> &str {
        "take_back_hints"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The scan without those hints; `None` where it has none.
fn without_hints(scan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    let (config, source) = scan.downcast_ref::<DataSourceExec>()?.downcast_to_file_source::<ParquetSource>()?;
    let predicate = source.filter()?;
    let (taken, kept): (Vec<_>, Vec<_>) = split_conjunction(&predicate).into_iter().cloned().partition(is_computing_hint);
    if taken.is_empty() {
        return None;
    }
    let source = source.with_predicate(conjunction_opt(kept).unwrap_or_else(|| lit(true)));
    let config = FileScanConfigBuilder::from(config.clone()).with_source(Arc::new(source)).build();
    Some(DataSourceExec::from_data_source(config))
}

fn is_computing_hint(filter: &Arc<dyn PhysicalExpr>) -> bool {
    filter.downcast_ref::<DynamicFilterPhysicalExpr>().is_some() && filter.children().iter().any(|of| of.downcast_ref::<Column>().is_none())
}
