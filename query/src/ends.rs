//! A query that asks for nothing but the last of each symbol, or for the latest few rows of all, reads no rows but those at the ends of runs: a
//! run is what a file that is sorted by symbol and time has of one symbol, and its latest rows come last.
//!
//! What is left out is known to be of no account: for the last of each symbol, a later row of the same symbol is there; for the latest few,
//! as many later rows. Where a symbol's runs begin and end is read from the rows themselves, once for each file; how late they are, from the
//! footer. Whatever a footer does not say for sure (NULLs among the times, another order) is read as a whole.

mod known;

pub(crate) use self::known::KnownRuns;
use self::known::{FileRuns, Run};
use crate::table::SortKey;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue, Statistics};
use datafusion::config::ConfigOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{ParquetAccessPlan, RowGroupAccess};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, Partitioning, replace_children_if_necessary};
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// Most rows that are worth looking for at the end of each run.
const LATEST_MAX: usize = 10_000;
/// Puts [`EndsExec`] in the place of a scan of which only the ends of runs are asked for. Comes before all other rules.
#[derive(Debug)]
pub(crate) struct ReadEnds(pub(crate) Arc<KnownRuns>);

impl PhysicalOptimizerRule for ReadEnds {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, options: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let streams = options.execution.target_partitions;
        plan.transform_down(|node| {
            let put = match asked_by(node.as_ref()) {
                Some((asked, input)) => self.put(input, &asked, streams)?,
                None => None,
            };
            match put {
                Some(input) => Ok(Transformed::yes(replace_children_if_necessary(node, vec![input])?)),
                None => Ok(Transformed::no(node)),
            }
        })
        .data()
    }

    fn name(&self) -> &str {
        "read_ends"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// What a node asks of its input, in its input's columns.
enum Asked {
    /// The last row by a time of each group.
    LastOfEach { groups: Vec<usize>, times: Vec<usize> },
    /// So many rows that are last by a time.
    Latest { rows: usize, time: usize },
}

fn asked_by(node: &dyn ExecutionPlan) -> Option<(Asked, &Arc<dyn ExecutionPlan>)> {
    if let Some(groups) = node.downcast_ref::<AggregateExec>() {
        return Some((last_of_each(groups)?, groups.input()));
    }
    let sort = node.downcast_ref::<SortExec>()?;
    let rows = sort.fetch().filter(|rows| *rows <= LATEST_MAX)?;
    let [by] = sort.expr().as_ref() else { return None };
    let time = column(&by.expr).filter(|_| by.options.descending)?;
    Some((Asked::Latest { rows, time }, sort.input()))
}

/// Where nothing is asked of a group but `max` of a time, and what stands in the last row by that time.
fn last_of_each(node: &AggregateExec) -> Option<Asked> {
    let keys = node.group_expr();
    let plain = keys.is_single() && !keys.is_empty() && node.limit_options().is_none() && node.filter_expr().iter().all(Option::is_none);
    if !plain || !matches!(node.mode(), AggregateMode::Partial | AggregateMode::Single | AggregateMode::SinglePartitioned) {
        return None;
    }
    let groups = keys.expr().iter().map(|(key, _)| column(key)).collect::<Option<Vec<usize>>>()?;
    let time = |function: &Arc<datafusion::physical_expr::aggregate::AggregateFunctionExpr>| {
        let plain = !function.ignore_nulls() && !function.is_distinct();
        let by = match (function.fun().name(), function.order_bys()) {
            ("max", []) => function.expressions().first().cloned(),
            ("last_value", [by]) if !by.options.descending => Some(by.expr.clone()),
            ("first_value", [by]) if by.options.descending => Some(by.expr.clone()),
            _ => None,
        };
        by.filter(|_| plain).and_then(|by| column(&by))
    };
    let times = node.aggr_expr().iter().map(time).collect::<Option<Vec<usize>>>()?;
    (!times.is_empty()).then_some(Asked::LastOfEach { groups, times })
}

fn column(expr: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    expr.downcast_ref::<Column>().map(Column::index)
}

impl ReadEnds {
    /// The input with the ends of runs in the place of its scan; `None` where more than those is asked for, or may be.
    fn put(&self, input: &Arc<dyn ExecutionPlan>, asked: &Asked, streams: usize) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(scan) = scan_below(input) else { return Ok(None) };
        let Some((config, source)) = scan.downcast_ref::<DataSourceExec>().and_then(|scan| scan.downcast_to_file_source::<ParquetSource>())
        else {
            return Ok(None);
        };
        let first = config.file_groups.iter().flat_map(FileGroup::iter).next();
        let Some([lead, time, ..]) = first.and_then(|file| file.extensions.get::<SortKey>()).map(|key| key.by) else { return Ok(None) };
        let Some(factory) = source.parquet_file_reader_factory().filter(|_| config.limit.is_none()) else { return Ok(None) };
        let schema = config.file_source().table_schema();
        let partitions = schema.table_partition_cols();
        let partition = |name: &str| partitions.iter().position(|column| column.name() == name);
        let is_text = |name: &str| schema.table_schema().field_with_name(name).is_ok_and(|field| *field.data_type() == DataType::Utf8);
        let is_time = |at: usize| name_below(input, at).is_some_and(|name| name == *time);
        let wanted = match asked {
            Asked::Latest { rows, time } if is_time(*time) => Wanted::Latest(*rows),
            Asked::LastOfEach { groups, times } if times.iter().all(|time| is_time(*time)) => {
                let Some(names) = groups.iter().map(|at| name_below(input, *at)).collect::<Option<Vec<String>>>() else { return Ok(None) };
                let by = names.iter().filter(|name| name.as_str() != *lead).map(|name| partition(name)).collect::<Option<Vec<usize>>>();
                let Some(by) = by.filter(|by| by.len() < names.len()) else { return Ok(None) };
                Wanted::LastOfEach(by)
            }
            _ => return Ok(None),
        };
        let runs = Arc::new(Schema::new(
            std::iter::once(Field::new(*lead, DataType::Utf8, true))
                .chain(partitions.iter().map(|column| column.as_ref().clone()))
                .collect::<Vec<_>>(),
        ));
        let Some(filters) = filters_below(input, &runs)?.filter(|_| is_text(lead)) else { return Ok(None) };
        let ends = EndsExec::new(scan, config, factory, Search { lead, time, wanted, runs, filters, known: self.0.clone() }, streams);
        replace_scan(input.clone(), Arc::new(ends)).map(Some)
    }
}

/// The scan below nodes that look at each row alone, and hand on all or a part of them.
pub(crate) fn scan_below(node: &Arc<dyn ExecutionPlan>) -> Option<&Arc<dyn ExecutionPlan>> {
    if node.is::<DataSourceExec>() {
        return Some(node);
    }
    let alone = node.is::<ProjectionExec>() || node.downcast_ref::<FilterExec>().is_some_and(|filter| filter.fetch().is_none());
    if alone { scan_below(node.children().first()?) } else { None }
}

fn replace_scan(node: Arc<dyn ExecutionPlan>, by: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    if node.is::<DataSourceExec>() {
        return Ok(by);
    }
    let children = node.children().into_iter().map(|child| replace_scan(child.clone(), by.clone())).collect::<Result<Vec<_>>>()?;
    replace_children_if_necessary(node, children)
}

/// The column of the scan that a column of the node is, unchanged.
pub(crate) fn name_below(node: &Arc<dyn ExecutionPlan>, at: usize) -> Option<String> {
    if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
        return name_below(projection.input(), column(&projection.expr().get(at)?.expr)?);
    }
    if let Some(filter) = node.downcast_ref::<FilterExec>() {
        let at = filter.projection().as_ref().map_or(Some(at), |kept| kept.get(at).copied())?;
        return name_below(filter.input(), at);
    }
    let config = node.downcast_ref::<DataSourceExec>()?.downcast_to_file_source::<ParquetSource>()?.0;
    let kept = config.file_source().projection()?;
    let at = column(&kept.as_ref().get(at)?.expr)?;
    config.file_source().table_schema().table_schema().fields().get(at).map(|field| field.name().clone())
}

/// The filters above the scan, in the columns of a run; `None` where one of them looks at more than that.
fn filters_below(node: &Arc<dyn ExecutionPlan>, runs: &SchemaRef) -> Result<Option<Vec<Arc<dyn PhysicalExpr>>>> {
    let Some(input) = node.children().first().copied() else { return Ok(Some(Vec::new())) };
    let Some(mut filters) = filters_below(input, runs)? else { return Ok(None) };
    if let Some(filter) = node.downcast_ref::<FilterExec>() {
        let mut told = true;
        let filter = filter.predicate().clone().transform(|expr| {
            told &= !expr.is_volatile_node();
            let Some(at) = column(&expr) else { return Ok(Transformed::no(expr)) };
            match name_below(input, at).and_then(|name| Some((runs.index_of(&name).ok()?, name))) {
                Some((at, name)) => Ok(Transformed::yes(Arc::new(Column::new(&name, at)) as Arc<dyn PhysicalExpr>)),
                None => {
                    told = false;
                    Ok(Transformed::no(expr))
                }
            }
        });
        filters.push(filter.data()?);
        if !told {
            return Ok(None);
        }
    }
    Ok(Some(filters))
}

/// What is looked for at the ends of runs.
#[derive(Debug, Clone)]
enum Wanted {
    /// The last row of each symbol, apart by the values of these partition columns.
    LastOfEach(Vec<usize>),
    /// The latest rows of all.
    Latest(usize),
}

/// What is looked for, and in which files' order.
#[derive(Debug)]
struct Search {
    lead: &'static str,
    time: &'static str,
    wanted: Wanted,
    /// A run's symbol and partition, as `filters` see them.
    runs: SchemaRef,
    filters: Vec<Arc<dyn PhysicalExpr>>,
    known: Arc<KnownRuns>,
}

/// A scan that reads the ends of runs.
#[derive(Debug)]
struct EndsExec {
    scan: Arc<dyn ExecutionPlan>,
    config: FileScanConfig,
    factory: Arc<dyn ParquetFileReaderFactory>,
    search: Arc<Search>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    /// The scan of the ends, which the first stream to begin settles.
    found: Arc<OnceCell<Arc<DataSourceExec>>>,
}

impl EndsExec {
    fn new(
        scan: &Arc<dyn ExecutionPlan>,
        config: &FileScanConfig,
        factory: &Arc<dyn ParquetFileReaderFactory>,
        search: Search,
        streams: usize,
    ) -> EndsExec {
        let files = config.file_groups.iter().map(FileGroup::len).sum::<usize>();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(scan.schema()),
            Partitioning::UnknownPartitioning(streams.min(files).max(1)),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        EndsExec {
            scan: scan.clone(),
            config: config.clone(),
            factory: factory.clone(),
            search: Arc::new(search),
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
            found: Arc::default(),
        }
    }
}

impl DisplayAs for EndsExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.search.wanted {
            Wanted::LastOfEach(_) => write!(f, "EndsExec: the last {} of each {}: ", self.search.time, self.search.lead)?,
            Wanted::Latest(rows) => write!(f, "EndsExec: the latest {rows} by {}: ", self.search.time)?,
        }
        match self.scan.downcast_ref::<DataSourceExec>() {
            Some(scan) => scan.fmt_as(format, f),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for EndsExec {
    fn name(&self) -> &'static str {
        "EndsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(&self, _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>, _: ReplaceChildrenOptions) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, stream: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (config, factory, search, found) = (self.config.clone(), self.factory.clone(), self.search.clone(), self.found.clone());
        let streams = self.properties.output_partitioning().partition_count();
        let metrics = self.metrics.clone();
        let rows = async move {
            let scan = found.get_or_try_init(|| scan_of_ends(config, factory, &search, streams, &metrics)).await?;
            match stream < scan.properties().output_partitioning().partition_count() {
                true => scan.execute(stream, context),
                false => Ok(Box::pin(RecordBatchStreamAdapter::new(scan.schema(), futures::stream::empty())) as SendableRecordBatchStream),
            }
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.scan.schema(), futures::stream::once(rows).try_flatten())))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        let mut metrics = self.metrics.clone_inner();
        for metric in self.found.get().and_then(|scan| scan.metrics()).iter().flat_map(MetricsSet::iter) {
            metrics.push(metric.clone());
        }
        Some(metrics)
    }
}

/// The scan of what was found.
async fn scan_of_ends(
    config: FileScanConfig,
    factory: Arc<dyn ParquetFileReaderFactory>,
    search: &Arc<Search>,
    streams: usize,
    metrics: &ExecutionPlanMetricsSet,
) -> Result<Arc<DataSourceExec>> {
    let mut files: Vec<PartitionedFile> = config.file_groups.iter().flat_map(|group| group.iter().cloned()).collect();
    let total = files.len();
    if let (Wanted::Latest(rows), [], Ok(time)) =
        (&search.wanted, search.filters.as_slice(), config.file_source().table_schema().table_schema().index_of(search.time))
    {
        retain_newest(&mut files, time, *rows);
    }
    let store = config.object_store_url.as_str().to_string();
    // Each on a task of its own: what is read of a file for the first time is work for a core.
    let read = |file: PartitionedFile| {
        let (factory, search, metrics, store) = (factory.clone(), search.clone(), metrics.clone(), store.clone());
        let task = async move { search.known.of(&store, &file, [search.lead, search.time], factory.as_ref(), &metrics).await };
        async move {
            datafusion::common::runtime::SpawnedTask::spawn(task)
                .join_unwind()
                .await
                .unwrap_or_else(|e| Err(DataFusionError::ExecutionJoin(Box::new(e))))
        }
    };
    let runs: Vec<Arc<FileRuns>> = futures::stream::iter(files.clone()).map(read).buffered(streams).try_collect().await?;
    let kept = search.keep(&files, &runs)?;
    let count = |name: &'static str, of: usize| {
        let counted: Count = MetricBuilder::new(metrics).global_counter(name);
        counted.add(of);
    };
    let mut parts: Vec<PartitionedFile> = Vec::new();
    let mut rows = 0;
    for ((file, groups), runs) in files.iter().zip(kept).zip(&runs) {
        if groups.iter().all(|access| !access.should_scan()) {
            continue;
        }
        rows += groups.iter().zip(&runs.groups).map(|(access, group)| rows_of(access, group.rows)).sum::<usize>();
        parts.push(file.clone().with_extension(ParquetAccessPlan::new(groups)));
    }
    count("files_total", total);
    count("files_with_ends", parts.len());
    count("rows_at_ends", rows);
    let groups = if parts.is_empty() { Vec::new() } else { FileGroup::new(parts).split_files(streams) };
    let unknown = Statistics::new_unknown(config.file_source().table_schema().table_schema());
    let config =
        FileScanConfigBuilder::from(config).with_file_groups(groups).with_output_ordering(Vec::new()).with_statistics(unknown).build();
    Ok(DataSourceExec::from_data_source(config))
}

fn rows_of(access: &RowGroupAccess, all: usize) -> usize {
    match access {
        RowGroupAccess::Skip => 0,
        RowGroupAccess::Scan => all,
        RowGroupAccess::Selection(rows) => rows.row_count(),
    }
}

/// Of one run: which it is, and how late its rows are at least and at most.
struct Candidate<'a> {
    file: usize,
    group: usize,
    run: &'a Run,
    least: i64,
    greatest: i64,
}

impl Search {
    /// What is to be read of each row group of each file.
    fn keep(&self, files: &[PartitionedFile], runs: &[Arc<FileRuns>]) -> Result<Vec<Vec<RowGroupAccess>>> {
        let mut access: Vec<Vec<RowGroupAccess>> = runs.iter().map(|file| vec![RowGroupAccess::Scan; file.groups.len()]).collect();
        let mut candidates = Vec::new();
        for (file, known) in runs.iter().enumerate() {
            for (group, of) in known.groups.iter().enumerate() {
                let (Some(runs), Some((least, greatest))) = (&of.runs, of.times) else { continue };
                access[file][group] = RowGroupAccess::Skip;
                let passed = self.passed(&files[file], runs)?;
                let runs = runs
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| passed.as_ref().is_none_or(|passed| passed.is_valid(*at) && passed.value(*at)));
                candidates.extend(runs.map(|(_, run)| Candidate { file, group, run, least, greatest }));
            }
        }
        let last = match &self.wanted {
            Wanted::LastOfEach(by) => {
                retain_last(&mut candidates, |file| by.iter().map(|at| files[file].partition_values[*at].clone()).collect());
                1
            }
            Wanted::Latest(rows) => {
                retain_latest(&mut candidates, *rows);
                *rows
            }
        };
        let mut ends: HashMap<(usize, usize), Vec<Range<usize>>> = HashMap::new();
        for Candidate { file, group, run, .. } in candidates {
            ends.entry((file, group)).or_default().push(run.rows.end.saturating_sub(last).max(run.rows.start)..run.rows.end);
        }
        for ((file, group), ends) in ends {
            access[file][group] = RowGroupAccess::Selection(selection(&ends, runs[file].groups[group].rows));
        }
        Ok(access)
    }

    /// Which runs pass the filters; `None` is all.
    fn passed(&self, file: &PartitionedFile, runs: &[Run]) -> Result<Option<BooleanArray>> {
        if self.filters.is_empty() {
            return Ok(None);
        }
        let leads: StringArray = runs.iter().map(|run| run.lead.as_deref()).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(leads)];
        for value in &file.partition_values {
            columns.push(value.to_array_of_size(runs.len())?);
        }
        let runs = RecordBatch::try_new(self.runs.clone(), columns)?;
        let mut passed = BooleanArray::from(vec![true; runs.num_rows()]);
        for filter in &self.filters {
            let verdict = cast(&filter.evaluate(&runs)?.into_array(runs.num_rows())?, &DataType::Boolean)?;
            passed = arrow::compute::and_kleene(&passed, verdict.as_boolean())?;
        }
        Ok(Some(passed))
    }
}

/// Leaves out what has a later row of the same group elsewhere.
fn retain_last(candidates: &mut Vec<Candidate<'_>>, partition: impl Fn(usize) -> Vec<ScalarValue>) {
    let mut latest: HashMap<(Vec<ScalarValue>, Option<&str>), i64> = HashMap::new();
    for candidate in candidates.iter() {
        let known = latest.entry((partition(candidate.file), candidate.run.lead.as_deref())).or_insert(i64::MIN);
        *known = candidate.least.max(*known);
    }
    candidates.retain(|candidate| {
        let known = latest.get(&(partition(candidate.file), candidate.run.lead.as_deref()));
        known.is_none_or(|known| candidate.greatest >= *known)
    });
}

/// Leaves out what has so many later rows elsewhere.
fn retain_latest(candidates: &mut Vec<Candidate<'_>>, rows: usize) {
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.least));
    let mut later = 0;
    let enough = candidates.iter().find(|candidate| {
        later += candidate.run.rows.len();
        later >= rows
    });
    if let Some(least) = enough.map(|candidate| candidate.least) {
        candidates.retain(|candidate| candidate.greatest >= least);
    }
}

/// Leaves out files that have so many later rows in others, as the table's log states it.
fn retain_newest(files: &mut Vec<PartitionedFile>, time: usize, rows: usize) {
    let exact = |value: &Precision<ScalarValue>| match value {
        Precision::Exact(ScalarValue::TimestampNanosecond(time, _)) => *time,
        _ => None,
    };
    let stated = |file: &PartitionedFile| {
        let statistics = file.statistics.as_ref()?;
        let of = statistics.column_statistics.get(time).filter(|of| of.null_count == Precision::Exact(0))?;
        Some((exact(&of.min_value)?, exact(&of.max_value)?, *statistics.num_rows.get_value()?))
    };
    let mut known: Vec<(i64, usize)> = files.iter().filter_map(|file| stated(file).map(|(least, _, rows)| (least, rows))).collect();
    known.sort_by_key(|(least, _)| std::cmp::Reverse(*least));
    let mut later = 0;
    let enough = known.iter().find(|(_, of)| {
        later += of;
        later >= rows
    });
    if let Some((least, _)) = enough {
        files.retain(|file| stated(file).is_none_or(|(_, greatest, _)| greatest >= *least));
    }
}

/// These rows of a row group, which come in order.
fn selection(ends: &[Range<usize>], rows: usize) -> RowSelection {
    let mut ends: Vec<&Range<usize>> = ends.iter().collect();
    ends.sort_by_key(|end| end.start);
    let mut selectors = Vec::with_capacity(2 * ends.len() + 1);
    let mut at = 0;
    for end in ends {
        selectors.push(RowSelector::skip(end.start - at));
        selectors.push(RowSelector::select(end.len()));
        at = end.end;
    }
    selectors.push(RowSelector::skip(rows - at));
    RowSelection::from(selectors)
}
