//! Files are read side by side, each a stream in the family's order, only where somebody above wants that order: else they are shared out among
//! as few streams as there are cores.

use datafusion::common::Result;
use datafusion::config::ConfigOptions;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, InputOrderMode, replace_children_if_necessary};
use std::sync::Arc;

/// Comes before all other rules: they then see the streams that there will be.
#[derive(Debug)]
pub(crate) struct ReadTogether;

impl PhysicalOptimizerRule for ReadTogether {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, options: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        read(plan, false, options.execution.target_partitions)
    }

    fn name(&self) -> &str {
        "read_together"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn read(node: Arc<dyn ExecutionPlan>, wanted: bool, streams: usize) -> Result<Arc<dyn ExecutionPlan>> {
    let wanted = wanted || wants_order(node.as_ref())?;
    if node.children().is_empty() {
        return Ok(if wanted { node } else { together(&node, streams).unwrap_or(node) });
    }
    let children = node.children().into_iter().map(|child| read(child.clone(), wanted, streams)).collect::<Result<Vec<_>>>()?;
    replace_children_if_necessary(node, children)
}

/// Does it gain by rows that come in the order that they have?
fn wants_order(node: &dyn ExecutionPlan) -> Result<bool> {
    if let Some(groups) = node.downcast_ref::<AggregateExec>() {
        return Ok(!groups.group_expr().is_empty() && *groups.input_order_mode() != InputOrderMode::Linear);
    }
    if let Some(sort) = node.downcast_ref::<SortExec>() {
        return sort.input().equivalence_properties().ordering_satisfy(sort.expr().iter().cloned());
    }
    Ok(["WindowAggExec", "BoundedWindowAggExec", "SortMergeJoinExec", "SortPreservingMergeExec"].contains(&node.name()))
}

/// The scan without its order; `None` where it is no scan of ours, or has none.
fn together(scan: &Arc<dyn ExecutionPlan>, streams: usize) -> Option<Arc<dyn ExecutionPlan>> {
    let (config, _) = scan.downcast_ref::<DataSourceExec>()?.downcast_to_file_source::<ParquetSource>()?;
    if config.output_ordering.is_empty() {
        return None;
    }
    let files = config.file_groups.iter().flat_map(|group| group.iter().cloned()).collect();
    let groups = FileGroup::new(files).split_files(streams);
    let config = FileScanConfigBuilder::from(config.clone()).with_output_ordering(Vec::new()).with_file_groups(groups).build();
    Some(DataSourceExec::from_data_source(config))
}
