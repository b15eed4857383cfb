//! Grouping rows that come sorted: neighbours with the same keys are a group, found by comparing each row with the one before it. Nothing is
//! hashed, and groups that have ended are handed on by the thousand.
//!
//! Only the first half of an aggregation is done so; the second half merges the groups of all streams as ever. Rows that were not sorted after
//! all would make more groups to merge, and no other result.

use crate::ends::{name_below, scan_below};
use crate::table::SortKey;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{concat, concat_batches, partition, take};
use arrow::datatypes::{DataType, Int64Type, SchemaRef, TimeUnit, TimestampNanosecondType};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::datasource::physical_plan::{FileGroup, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::utils::collect_columns;
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
use std::ops::Range;
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
        let sorted = *aggregate.input_order_mode() == InputOrderMode::Sorted || is_in_runs(aggregate);
        let in_groups = aggregate.aggr_expr().iter().all(|function| function.groups_accumulator_supported());
        let applies = *aggregate.mode() == AggregateMode::Partial && plain && unfiltered && sorted && in_groups;
        applies.then(|| RunsExec { aggregate: aggregate.clone(), metrics: ExecutionPlanMetricsSet::new() })
    }
}

/// Do rows with the same keys come together, file by file? So they do in sorted files, however many there are, whose partition, first sort column
/// and the next one are all that the keys look at.
fn is_in_runs(aggregate: &AggregateExec) -> bool {
    let input = aggregate.input();
    let scan = scan_below(input).and_then(|scan| scan.downcast_ref::<DataSourceExec>()?.downcast_to_file_source::<ParquetSource>());
    let Some((config, _)) = scan else { return false };
    let mut sorted_by: Option<&[&str]> = None;
    for file in config.file_groups.iter().flat_map(FileGroup::iter) {
        match file.extensions.get::<SortKey>() {
            Some(key) if key.stated => sorted_by = Some(key.by),
            _ => return false,
        }
    }
    let Some([first, next, ..]) = sorted_by else { return false };
    let partitions = config.file_source().table_schema().table_partition_cols();
    let mut seen: Vec<String> = Vec::new();
    for (key, _) in aggregate.group_expr().expr() {
        for column in collect_columns(key) {
            match name_below(input, column.index()) {
                Some(name) if partitions.iter().any(|partition| *partition.name() == name) => {}
                Some(name) if name == *first || name == *next => seen.push(name),
                _ => return false,
            }
        }
    }
    // What is the same in all rows of a file makes no runs shorter; a time alone has them in every symbol anew.
    seen.is_empty() || seen.iter().any(|name| name == first)
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
        let groups = futures::stream::try_unfold(
            (input, runs, Ended::default(), held, false),
            move |(mut input, mut runs, mut ended, held, over)| {
                let metrics = metrics.intermediate();
                async move {
                    if over {
                        return Ok(None);
                    }
                    while let Some(rows) = input.next().await.transpose()? {
                        let _timer = metrics.elapsed_compute().timer();
                        ended.add(runs.take(&rows)?);
                        held.try_resize(runs.size() + ended.bytes)?;
                        if ended.are_many() {
                            let groups = ended.all(&runs.schema)?;
                            held.try_resize(runs.size())?;
                            return Ok(groups.map(|groups| (groups, (input, runs, ended, held, false))));
                        }
                    }
                    ended.add(runs.end()?);
                    held.try_resize(runs.size() + ended.bytes)?;
                    let groups = ended.all(&runs.schema)?;
                    held.free();
                    Ok(groups.map(|groups| (groups, (input, runs, ended, held, true))))
                }
            },
        );
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

/// So many groups that have ended are handed on together. Who merges streams in order takes those of one stream at a time, and the others
/// compute on only as long as they hand nothing on.
const ENDED_MAX: usize = 32_768;
/// Or so many bytes of them: a group may hold all of its values.
const ENDED_BYTES_MAX: usize = 16 << 20;

/// Groups that have ended and were not handed on yet.
#[derive(Default)]
struct Ended {
    groups: Vec<RecordBatch>,
    count: usize,
    bytes: usize,
}

impl Ended {
    fn add(&mut self, groups: Option<RecordBatch>) {
        self.count += groups.as_ref().map_or(0, RecordBatch::num_rows);
        self.bytes += groups.as_ref().map_or(0, RecordBatch::get_array_memory_size);
        self.groups.extend(groups);
    }

    fn are_many(&self) -> bool {
        self.count >= ENDED_MAX || self.bytes >= ENDED_BYTES_MAX
    }

    /// All of them; none are left.
    fn all(&mut self, schema: &SchemaRef) -> Result<Option<RecordBatch>> {
        let Ended { groups, .. } = std::mem::take(self);
        Ok(if groups.is_empty() { None } else { Some(concat_batches(schema, &groups)?) })
    }
}

/// Runs of so many rows on average are long: what begins and ends with each of them no longer counts.
const LONG_ROWS: usize = 256;

/// The groups of one stream.
struct Runs {
    schema: SchemaRef,
    keys: PhysicalGroupBy,
    functions: Vec<Function>,
    states: States,
    /// The keys of the group whose end was not seen yet: one row.
    open: Option<Vec<ArrayRef>>,
}

/// One function of the aggregation.
struct Function {
    of: Arc<AggregateFunctionExpr>,
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    /// Whether the one row that decides is a run's first or its last, where the run's rows are in the order that the function asks for.
    edge: Option<Edge>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    First,
    Last,
}

/// What the functions know of the groups whose end was not seen yet.
enum States {
    /// One function for all groups at once, where runs are short. Group 0 is the one that is open, if any is.
    Many(Vec<Box<dyn GroupsAccumulator>>),
    /// One for the group that is open, where they are long: it takes a run as a whole.
    One(Vec<Box<dyn Accumulator>>),
}

impl Function {
    fn new(of: &Arc<AggregateFunctionExpr>, arguments: Vec<Arc<dyn PhysicalExpr>>) -> Function {
        let edge = match (of.fun().name(), of.order_bys()) {
            ("first_value", [by]) => Some(if by.options.descending { Edge::Last } else { Edge::First }),
            ("last_value", [by]) => Some(if by.options.descending { Edge::First } else { Edge::Last }),
            _ => None,
        };
        Function { of: of.clone(), edge: edge.filter(|_| !of.ignore_nulls() && arguments.len() == 2), arguments }
    }

    /// The first or last row of each run, where that is all that the function looks for in it.
    fn edges(&self, values: &[ArrayRef], runs: &[Range<usize>]) -> Option<UInt32Array> {
        let edge = self.edge?;
        let by = integers(values.get(1)?)?;
        let row = |run: &Range<usize>| if edge == Edge::First { run.start } else { run.end - 1 };
        runs.iter().all(|run| by[run.clone()].is_sorted()).then(|| runs.iter().map(|run| row(run) as u32).collect())
    }
}

/// The values of a column of 64-bit integers or nanoseconds without NULL.
fn integers(of: &ArrayRef) -> Option<&[i64]> {
    let values: &[i64] = match of.data_type() {
        DataType::Int64 => of.as_primitive::<Int64Type>().values(),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => of.as_primitive::<TimestampNanosecondType>().values(),
        _ => return None,
    };
    (of.null_count() == 0).then_some(values)
}

impl Runs {
    fn new(aggregate: &AggregateExec) -> Result<Runs> {
        let functions = aggregate.aggr_expr();
        let arguments = aggregate_expressions(functions, aggregate.mode(), 0)?;
        Ok(Runs {
            schema: aggregate.schema(),
            keys: aggregate.group_expr().clone(),
            functions: functions.iter().zip(arguments).map(|(of, arguments)| Function::new(of, arguments)).collect(),
            states: States::One(Vec::new()),
            open: None,
        })
    }

    /// Takes the next rows; gives the groups that have ended.
    fn take(&mut self, rows: &RecordBatch) -> Result<Option<RecordBatch>> {
        if rows.num_rows() == 0 {
            return Ok(None);
        }
        let keys = evaluate_group_by(&self.keys, rows)?.swap_remove(0);
        let runs = runs_of(&keys, rows.num_rows())?;
        let turned = self.turn(runs.len() * LONG_ROWS <= rows.num_rows())?;
        let arguments = self.functions.iter().map(|function| function.arguments.clone()).collect::<Vec<_>>();
        let values = evaluate_many(&arguments, rows)?;
        let goes_on = match &self.open {
            Some(open) => same(open, &keys)?,
            None => false,
        };
        // The last run may go on in the next rows. Of those that began here, the others have ended; so has the open group, unless the only
        // run goes on with it.
        let last = runs.len() - 1;
        let begun = self.open.is_some();
        let was_open = self.open.take_if(|_| !(goes_on && last == 0));
        let starts: UInt32Array = runs[usize::from(goes_on).min(last)..last].iter().map(|run| run.start as u32).collect();
        let ended = keys.iter().map(|key| Ok(take(key, &starts, None)?)).collect::<Result<Vec<ArrayRef>>>()?;
        let ended = match &was_open {
            None => ended,
            Some(open) => {
                open.iter().zip(&ended).map(|(open, ended)| Ok(concat(&[open.as_ref(), ended.as_ref()])?)).collect::<Result<_>>()?
            }
        };
        // Groups before the first run: the open one, where this is another.
        let before = usize::from(was_open.is_some() && !goes_on);
        if self.open.is_none() {
            self.open = Some(keys.iter().map(|key| key.slice(runs[last].start, 1)).collect());
        }
        let states = match &mut self.states {
            States::Many(states) => many(states, &self.functions, &values, &runs, before)?,
            States::One(states) => one(states, &self.functions, &values, &runs, (begun, goes_on))?,
        };
        let ended = states.map(|states| batch(&self.schema, ended, states)).transpose()?;
        match (turned, ended) {
            (Some(turned), Some(ended)) => Ok(Some(concat_batches(&self.schema, [&turned, &ended])?)),
            (turned, ended) => Ok(turned.or(ended)),
        }
    }

    /// The functions for long runs, or for short ones; gives the group that was open, where they are others than before.
    fn turn(&mut self, long: bool) -> Result<Option<RecordBatch>> {
        match (&self.states, long) {
            (States::Many(_), false) => return Ok(None),
            (States::One(_), true) => return Ok(None),
            _ => {}
        }
        let ended = self.end()?;
        self.states = match long {
            true => States::One(Vec::new()),
            false => States::Many(self.functions.iter().map(|function| function.of.create_groups_accumulator()).collect::<Result<_>>()?),
        };
        Ok(ended)
    }

    /// The last group, after the last row.
    fn end(&mut self) -> Result<Option<RecordBatch>> {
        let Some(open) = self.open.take() else { return Ok(None) };
        let states = match &mut self.states {
            States::Many(states) => states_of(states, EmitTo::All)?,
            States::One(states) => columns(vec![state(states)?])?,
        };
        batch(&self.schema, open, states).map(Some)
    }

    /// Bytes that the functions hold.
    fn size(&self) -> usize {
        match &self.states {
            States::Many(states) => states.iter().map(|state| state.size()).sum(),
            States::One(states) => states.iter().map(|state| state.size()).sum(),
        }
    }
}

/// Short runs; gives the states of all groups but the last.
fn many(
    states: &mut [Box<dyn GroupsAccumulator>],
    functions: &[Function],
    values: &[Vec<ArrayRef>],
    runs: &[Range<usize>],
    before: usize,
) -> Result<Option<Vec<ArrayRef>>> {
    let count = before + runs.len();
    let mut groups = vec![0; runs.last().map_or(0, |run| run.end)];
    for (number, run) in runs.iter().enumerate() {
        groups[run.clone()].fill(before + number);
    }
    for ((state, function), values) in states.iter_mut().zip(functions).zip(values) {
        match function.edges(values, runs) {
            None => state.update_batch(values, &groups, None, count)?,
            Some(edges) => {
                let values = values.iter().map(|column| Ok(take(column, &edges, None)?)).collect::<Result<Vec<ArrayRef>>>()?;
                state.update_batch(&values, &(before..count).collect::<Vec<_>>(), None, count)?;
            }
        }
    }
    if count == 1 { Ok(None) } else { states_of(states, EmitTo::First(count - 1)).map(Some) }
}

/// Long runs; gives the states of those that have ended. `begun` says that a group was open, `goes_on` that the first run is of that group.
fn one(
    states: &mut Vec<Box<dyn Accumulator>>,
    functions: &[Function],
    values: &[Vec<ArrayRef>],
    runs: &[Range<usize>],
    (begun, goes_on): (bool, bool),
) -> Result<Option<Vec<ArrayRef>>> {
    let mut ended = Vec::new();
    let edges: Vec<Option<UInt32Array>> = functions.iter().zip(values).map(|(function, values)| function.edges(values, runs)).collect();
    for (number, run) in runs.iter().enumerate() {
        if number > 0 || !goes_on {
            // Without functions there are no states, and groups all the same.
            if number > 0 || begun {
                ended.push(state(states)?);
            }
            *states = functions.iter().map(|function| function.of.create_accumulator()).collect::<Result<_>>()?;
        }
        for ((state, values), edges) in states.iter_mut().zip(values).zip(&edges) {
            let (start, length) = edges.as_ref().map_or((run.start, run.len()), |edges| (edges.value(number) as usize, 1));
            let slices: Vec<ArrayRef> = values.iter().map(|column| column.slice(start, length)).collect();
            state.update_batch(&slices)?;
        }
    }
    if ended.is_empty() { Ok(None) } else { columns(ended).map(Some) }
}

fn states_of(states: &mut [Box<dyn GroupsAccumulator>], which: EmitTo) -> Result<Vec<ArrayRef>> {
    let mut columns = Vec::new();
    for state in states {
        columns.extend(state.state(which)?);
    }
    Ok(columns)
}

/// What stands of the open group in each column.
fn state(states: &mut Vec<Box<dyn Accumulator>>) -> Result<Vec<ScalarValue>> {
    let mut columns = Vec::new();
    for mut state in states.drain(..) {
        columns.extend(state.state()?);
    }
    Ok(columns)
}

/// Rows to columns.
fn columns(rows: Vec<Vec<ScalarValue>>) -> Result<Vec<ArrayRef>> {
    let width = rows.first().map_or(0, Vec::len);
    (0..width).map(|column| ScalarValue::iter_to_array(rows.iter().map(|row| row[column].clone()))).collect()
}

fn batch(schema: &SchemaRef, mut keys: Vec<ArrayRef>, states: Vec<ArrayRef>) -> Result<RecordBatch> {
    keys.extend(states);
    Ok(RecordBatch::try_new(schema.clone(), keys)?)
}

/// The runs of rows whose keys are all the same.
fn runs_of(keys: &[ArrayRef], rows: usize) -> Result<Vec<Range<usize>>> {
    let differing: Vec<ArrayRef> = keys.iter().filter(|key| !is_one_text(key)).cloned().collect();
    if differing.is_empty() { Ok(std::iter::once(0..rows).collect()) } else { Ok(partition(&differing)?.ranges()) }
}

/// Is it one text in all rows? Then its bytes are the same as those one text later.
fn is_one_text(key: &ArrayRef) -> bool {
    if *key.data_type() != DataType::Utf8 || key.null_count() > 0 || key.is_empty() {
        return false;
    }
    let texts = key.as_string::<i32>();
    let (offsets, length) = (texts.value_offsets(), texts.value_length(0));
    if !offsets.windows(2).fold(true, |even, pair| even & (pair[1] - pair[0] == length)) {
        return false;
    }
    let bytes = &texts.value_data()[offsets[0] as usize..offsets[texts.len()] as usize];
    bytes[length as usize..] == bytes[..bytes.len() - length as usize]
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
