//! A join that would compare more pairs of rows than anybody waits for is refused before it begins: without an equality between its two sides
//! every row of one meets every row of the other, and no index, order or hash helps.

use crate::error::Error;
use crate::limits::PAIRS;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{CrossJoinExec, NestedLoopJoinExec, PiecewiseMergeJoinExec};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use std::sync::Arc;

/// Refuses a plan with such a join, as far as the numbers of rows are known or estimated; what is not ends at its time limit.
pub(crate) fn check_joins(plan: &Arc<dyn ExecutionPlan>) -> std::result::Result<(), Error> {
    let statistics = StatisticsContext::new();
    let rows = |of: &Arc<dyn ExecutionPlan>| -> Result<Option<u64>> {
        let all = statistics.compute(of.as_ref(), &StatisticsArgs::new())?;
        Ok(all.num_rows.get_value().map(|rows| *rows as u64))
    };
    let check = |node: &Arc<dyn ExecutionPlan>| {
        if let (true, [left, right]) = (compares_all(node), node.children().as_slice())
            && let (Some(left), Some(right)) = (rows(left)?, rows(right)?)
            && left.saturating_mul(right) > PAIRS
        {
            return Err(Error::TooLarge(format!(
                "a join without an equality would compare {left} rows with {right} each, and may compare {PAIRS} pairs: join on columns that are \
                 equal, or narrow both sides first, for example by dataset, date and symbol"
            ))
            .into());
        }
        Ok(TreeNodeRecursion::Continue)
    };
    plan.apply(check).map(|_| ()).map_err(|why| Error::from_engine("planning the query", why))
}

fn compares_all(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.is::<CrossJoinExec>() || node.is::<NestedLoopJoinExec>() || node.is::<PiecewiseMergeJoinExec>()
}
