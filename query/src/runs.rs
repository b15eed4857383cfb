//! Grouping rows that come sorted: neighbours with the same keys are a group, found by comparing each row with the one before it. Nothing is
//! hashed, and a group is handed on as soon as the next one begins.
//!
//! Only the first half of an aggregation is done so; the second half merges the groups of all streams as ever. Rows that were not sorted after
//! all would make more groups to merge, and no other result.

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{concat, partition, take};
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{
    AggregateExec, AggregateMode, PhysicalGroupBy, aggregate_expressions, evaluate_group_by, evaluate_many,
};
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ExecutionPlan, PlanProperties, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, InputOrderMode};
use futures::StreamExt;
use std::fmt;
use std::sync::Arc;

/// Puts [`RunsExec`] in the place of the first half of an aggregation whose rows come sorted by its keys.
#[derive(Debug)]
pub(crate) struct GroupRuns;

impl PhysicalOptimizerRule for GroupRuns {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let runs = node.downcast_ref::<AggregateExec>().and_then(RunsExec::instead_of);
            Ok(runs.map_or_else(|| Transformed::no(node), |runs| Transformed::yes(Arc::new(runs) as Arc<dyn ExecutionPlan>)))
        })
        .data()
    }

    fn name(&self) -> &str {
        "group_runs"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The first half of an aggregation, by runs of equal keys.
#[derive(Debug)]
struct RunsExec {
    /// What it stands for: its keys, functions and properties.
    aggregate: AggregateExec,
    metrics: ExecutionPlanMetricsSet,
}

impl RunsExec {
    fn instead_of(aggregate: &AggregateExec) -> Option<RunsExec> {
        let plain = aggregate.group_expr().is_single() && !aggregate.group_expr().is_empty() && aggregate.limit_options().is_none();
        let unfiltered = aggregate.filter_expr().iter().all(Option::is_none);
        // By all of its keys: else a run may be a row.
        let sorted = *aggregate.input_order_mode() == InputOrderMode::Sorted;
        let in_groups = aggregate.aggr_expr().iter().all(|function| function.groups_accumulator_supported());
        let applies = *aggregate.mode() == AggregateMode::Partial && plain && unfiltered && sorted && in_groups;
        applies.then(|| RunsExec { aggregate: aggregate.clone(), metrics: ExecutionPlanMetricsSet::new() })
    }
}

impl DisplayAs for RunsExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "RunsExec: ")?;
        self.aggregate.fmt_as(format, f)
    }
}

impl ExecutionPlan for RunsExec {
    fn name(&self) -> &'static str {
        "RunsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.aggregate.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![self.aggregate.input()]
    }

    fn apply_expressions(&self, f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        self.aggregate.apply_expressions(f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let aggregate = Arc::new(self.aggregate.clone()).replace_children(children, options)?;
        let runs = aggregate.downcast_ref().and_then(RunsExec::instead_of);
        Ok(runs.map_or(aggregate, |runs| Arc::new(runs)))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, stream: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let metrics = BaselineMetrics::new(&self.metrics, stream);
        let runs = Runs::new(&self.aggregate)?;
        // A group may hold much: all of its values, or all different ones.
        let held = MemoryConsumer::new(format!("RunsExec[{stream}]")).register(context.memory_pool());
        let input = self.aggregate.input().execute(stream, context)?;
        let groups = futures::stream::try_unfold((input, runs, held, false), move |(mut input, mut runs, held, ended)| {
            let metrics = metrics.intermediate();
            async move {
                if ended {
                    return Ok(None);
                }
                while let Some(rows) = input.next().await.transpose()? {
                    let _timer = metrics.elapsed_compute().timer();
                    let groups = runs.take(&rows)?;
                    held.try_resize(runs.size())?;
                    if let Some(groups) = groups {
                        return Ok(Some((groups, (input, runs, held, false))));
                    }
                }
                let last = runs.end()?;
                held.try_resize(runs.size())?;
                Ok(last.map(|groups| (groups, (input, runs, held, true))))
            }
        });
        let groups = groups.inspect({
            let metrics = BaselineMetrics::new(&self.metrics, stream);
            move |groups| {
                if let Ok(groups) = groups {
                    metrics.record_output(groups.num_rows());
                }
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.aggregate.schema(), groups)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// The groups of one stream. Group 0 of the accumulators is the one that is open, if any is.
struct Runs {
    schema: SchemaRef,
    keys: PhysicalGroupBy,
    arguments: Vec<Vec<Arc<dyn PhysicalExpr>>>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    /// The keys of the group whose end was not seen yet: one row.
    open: Option<Vec<ArrayRef>>,
}

impl Runs {
    fn new(aggregate: &AggregateExec) -> Result<Runs> {
        let functions = aggregate.aggr_expr();
        Ok(Runs {
            schema: aggregate.schema(),
            keys: aggregate.group_expr().clone(),
            arguments: aggregate_expressions(functions, aggregate.mode(), 0)?,
            accumulators: functions.iter().map(|function| function.create_groups_accumulator()).collect::<Result<_>>()?,
            open: None,
        })
    }

    /// Takes the next rows; gives the groups that have ended.
    fn take(&mut self, rows: &RecordBatch) -> Result<Option<RecordBatch>> {
        if rows.num_rows() == 0 {
            return Ok(None);
        }
        let keys = evaluate_group_by(&self.keys, rows)?.swap_remove(0);
        let runs = partition(&keys)?.ranges();
        let goes_on = match &self.open {
            Some(open) => same(open, &keys)?,
            None => false,
        };
        // Groups before the first run: the open one, where this is another.
        let before = usize::from(self.open.is_some() && !goes_on);
        let mut groups = vec![0; rows.num_rows()];
        for (number, run) in runs.iter().enumerate() {
            groups[run.clone()].fill(before + number);
        }
        let count = before + runs.len();
        for (accumulator, values) in self.accumulators.iter_mut().zip(evaluate_many(&self.arguments, rows)?) {
            accumulator.update_batch(&values, &groups, None, count)?;
        }
        // The last run may go on in the next rows. Of those that began here, the others have ended.
        let last = runs.len() - 1;
        let began = usize::from(goes_on);
        let starts: UInt32Array = runs[began.min(last)..last].iter().map(|run| run.start as u32).collect();
        let ended = keys.iter().map(|key| Ok(take(key, &starts, None)?)).collect::<Result<Vec<ArrayRef>>>()?;
        // The open group has ended unless the only run goes on with it.
        let was_open = self.open.take_if(|_| !(goes_on && last == 0));
        if self.open.is_none() {
            let (start, one) = (runs[last].start, 1);
            self.open = Some(keys.iter().map(|key| key.slice(start, one)).collect());
        }
        let ended = match was_open {
            None => ended,
            Some(open) => {
                open.iter().zip(&ended).map(|(open, ended)| Ok(concat(&[open.as_ref(), ended.as_ref()])?)).collect::<Result<_>>()?
            }
        };
        if count == 1 { Ok(None) } else { self.emit(ended, EmitTo::First(count - 1)).map(Some) }
    }

    /// The last group, after the last row.
    fn end(&mut self) -> Result<Option<RecordBatch>> {
        let Some(open) = self.open.take() else { return Ok(None) };
        self.emit(open, EmitTo::All).map(Some)
    }

    /// Bytes that the accumulators hold.
    fn size(&self) -> usize {
        self.accumulators.iter().map(|accumulator| accumulator.size()).sum()
    }

    fn emit(&mut self, mut columns: Vec<ArrayRef>, which: EmitTo) -> Result<RecordBatch> {
        for accumulator in &mut self.accumulators {
            columns.extend(accumulator.state(which)?);
        }
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

/// Is the first row of `keys` that of `open`? NULL is NULL here.
fn same(open: &[ArrayRef], keys: &[ArrayRef]) -> Result<bool> {
    for (open, key) in open.iter().zip(keys) {
        if !not_distinct(open, &key.slice(0, 1))?.value(0) {
            return Ok(false);
        }
    }
    Ok(true)
}
