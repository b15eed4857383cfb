//! What is asked of files and hot tail together is asked of each: the first half of an aggregation, and the latest rows. So the files keep what
//! their order and their bounds give them while rows wait to be stored.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, replace_children_if_necessary};
use std::sync::Arc;

type Plan = Arc<dyn ExecutionPlan>;

/// Comes before the rules that look at what stands directly above a scan.
#[derive(Debug)]
pub(crate) struct AskApart;

impl PhysicalOptimizerRule for AskApart {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        plan.transform_up(|node| match asked_apart(&node)? {
            Some(apart) => Ok(Transformed::yes(apart)),
            None => Ok(Transformed::no(node)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "ask_apart"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The node over each part alone; `None` where it asks for more than that gives.
fn asked_apart(node: &Plan) -> Result<Option<Plan>> {
    let (groups, sort) = (node.downcast_ref::<AggregateExec>(), node.downcast_ref::<SortExec>());
    // Without groups, the files' own statistics may say it all.
    let partial = groups.is_some_and(|groups| *groups.mode() == AggregateMode::Partial && !groups.group_expr().is_empty());
    let latest = sort.filter(|sort| sort.fetch().is_some());
    let Some(parts) = (partial || latest.is_some()).then(|| node.children().first().and_then(|input| parts(input))).flatten() else {
        return Ok(None);
    };
    let over = |part: Plan| -> Result<Plan> {
        match latest {
            None => replace_children_if_necessary(node.clone(), vec![part]),
            Some(sort) => {
                let apart = SortExec::new(sort.expr().clone(), part).with_fetch(sort.fetch()).with_preserve_partitioning(true);
                Ok(Arc::new(apart))
            }
        }
    };
    let together = UnionExec::try_new(parts?.into_iter().map(over).collect::<Result<Vec<_>>>()?)?;
    Ok(Some(match latest {
        None => together,
        Some(sort) => Arc::new(SortPreservingMergeExec::new(sort.expr().clone(), together).with_fetch(sort.fetch())),
    }))
}

/// The parts of a union below nodes that look at each row alone, each below those nodes.
fn parts(node: &Plan) -> Option<Result<Vec<Plan>>> {
    if node.is::<UnionExec>() {
        return Some(Ok(node.children().into_iter().cloned().collect()));
    }
    let alone = node.is::<ProjectionExec>() || node.downcast_ref::<FilterExec>().is_some_and(|filter| filter.fetch().is_none());
    let below = alone.then(|| node.children().first().and_then(|input| parts(input))).flatten()?;
    let over = |part| replace_children_if_necessary(node.clone(), vec![part]);
    Some(below.and_then(|parts| parts.into_iter().map(over).collect()))
}
