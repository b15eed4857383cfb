//! One family as a SQL table over a fixed list of Parquet files: files are pruned by what the log states of them, row groups and pages by their
//! statistics, and what SQL shows as `TIMESTAMP(ns, UTC)` is the Int64 that stands in the file. Beside the files stand the rows of the hot tail.

use crate::error::Error;
use crate::facts::Facts;
use crate::files::TableFiles;
use crate::pushed::cannot_fail;
use crate::tail::Moment;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{SortOptions, cast, filter_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::datasource::{TableProvider, TableType};
use datafusion::error::Result;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::reassign_expr_columns;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use futures::future::join_all;
use lake::FileInfo;
use object_store::{ObjectMeta, ObjectStore};
use parquet::file::metadata::{ParquetMetaData, SortingColumn};
use schemas::{Family, Kind};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// The Arrow type of a kind in SQL: as stored, but for times.
pub fn sql_type(kind: Kind) -> DataType {
    match kind {
        Kind::Time => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
        other => other.arrow(),
    }
}

/// The columns of a family as SQL shows them, in the order of the data dictionary.
pub fn sql_schema(family: Family) -> SchemaRef {
    let fields = family.topic().stored_fields();
    Arc::new(Schema::new(fields.iter().map(|f| Field::new(f.name.as_ref(), sql_type(f.kind), !f.required)).collect::<Vec<_>>()))
}

/// A family's table at one version.
pub struct TapeTable {
    family: Family,
    /// What SQL sees.
    schema: SchemaRef,
    /// What the scan sees: the file's columns, then the partition columns.
    scanned: TableSchema,
    /// For every column of `schema` its position in `scanned`.
    position: Vec<usize>,
    store: ObjectStoreUrl,
    files: Vec<PartitionedFile>,
    /// Of each of `files`.
    facts: Facts,
    /// The next offset that `files` do not have, of each partition of the followed log of which they have any.
    cut: BTreeMap<i32, i64>,
    /// Whether each of `files` says that it is sorted, once somebody looked.
    sorted: Vec<OnceLock<bool>>,
    /// What opens them.
    open: Option<Opener>,
    /// Why `files` is not known.
    fault: Option<String>,
}

/// What a file of a table is sorted by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SortKey {
    pub(crate) by: &'static [&'static str],
    /// Whether its footer was seen to say so.
    pub(crate) stated: bool,
}

/// Where a table's files are, and the footers that were read.
struct Opener {
    store: Arc<dyn ObjectStore>,
    footers: Arc<FileMetadataCache>,
}

/// So many files at most are read side by side, where each is a stream in the family's order.
const FILES_IN_ORDER_MAX: usize = 32;
/// The statistics of so many files go into a plan; more take more to plan with than they spare.
const FILES_DESCRIBED_MAX: usize = 1_000;

impl TapeTable {
    /// The table over these files; its object store becomes known to `runtime`.
    pub fn open(table: TableFiles, runtime: &RuntimeEnv) -> std::result::Result<TapeTable, Error> {
        let name = table.family.topic().name;
        let (root, version) = (table.root.to_string(), table.version);
        let fault = |what: String| Error::Table { table: name, root: root.clone(), version, what };
        let mut tape = TapeTable::empty(table.family);
        tape.fault = table.fault.clone();
        tape.cut = table.cut.clone();
        tape.store = store_url(name, table.root.as_str());
        runtime.register_object_store(tape.store.as_ref(), table.store.clone());
        let footers = runtime.cache_manager.get_file_metadata_cache();
        tape.open = Some(Opener { store: table.store.clone(), footers });
        let mut infos = table.files;
        infos.sort_by(|a, b| a.location.cmp(&b.location));
        if let Some(info) = infos.iter().find(|info| info.stats.rows.is_none()) {
            tape.fault = Some(format!("{name}: the Delta log states no row count for {}: it was not written by tape", info.location));
            return Ok(tape);
        }
        for info in &infos {
            tape.files.push(partitioned_file(info, tape.family.topic().sort_key, tape.scanned.table_partition_cols()).map_err(fault)?);
        }
        let partitions = tape.scanned.table_partition_cols().iter().enumerate();
        let values = |at: usize| tape.files.iter().map(|file| file.partition_values[at].clone()).collect();
        let partitions = partitions.map(|(at, column)| (column.name().clone(), values(at))).collect();
        tape.facts = Facts::new(tape.schema.clone(), infos, partitions);
        tape.sorted = tape.files.iter().map(|_| OnceLock::new()).collect();
        Ok(tape)
    }

    /// The table of a family of which nothing is stored yet.
    pub fn empty(family: Family) -> TapeTable {
        let schema = sql_schema(family);
        let partition_by = family.topic().partition_by;
        let in_partition = |field: &&FieldRef| partition_by.contains(&field.name().as_str());
        let in_file: Vec<FieldRef> = schema.fields().iter().filter(|field| !in_partition(field)).cloned().collect();
        let partitions: Vec<FieldRef> = partition_by
            .iter()
            .map(|name| schema.field_with_name(name).expect("topic.rs partitions by columns of the family").clone().into())
            .collect();
        let scanned = TableSchema::builder(Arc::new(Schema::new(in_file))).with_table_partition_cols(partitions).build();
        let position = schema
            .fields()
            .iter()
            .map(|field| scanned.table_schema().index_of(field.name()).expect("both schemas have the same columns"))
            .collect();
        let store = store_url(family.topic().name, "");
        let facts = Facts::new(schema.clone(), Vec::new(), Vec::new());
        let (files, sorted, cut) = (Vec::new(), Vec::new(), BTreeMap::new());
        TapeTable { family, schema, scanned, position, store, files, facts, sorted, cut, open: None, fault: None }
    }

    /// True where it has no files, and is not known to be unreadable.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.fault.is_none()
    }

    /// The family stored in the table.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The next offset of a partition of the followed log that the files do not have; `None` where it is not known.
    pub(crate) fn cut(&self, partition: i32) -> Option<i64> {
        self.fault.is_none().then(|| self.cut.get(&partition).copied().unwrap_or(0))
    }

    /// Positions of the files that may hold a row that passes the filters: by their partition, then by their statistics.
    fn prune(&self, state: &dyn Session, filters: &[Expr]) -> Result<Vec<usize>> {
        let mut kept = self.prune_by_partition(state, filters)?;
        let about_rows = filters.iter().filter(|filter| !self.is_of_partition_at_most(filter) && is_plain(filter)).cloned();
        let Some(filter) = conjunction(about_rows).filter(|_| !kept.is_empty()) else { return Ok(kept) };
        let filter = state.create_physical_expr(filter, &DFSchema::try_from(self.schema.clone())?)?;
        let may_hold = PruningPredicateBuilder::new().with_file_schema(self.schema.clone()).try_build(filter)?.prune(&self.facts)?;
        kept.retain(|file| may_hold[*file]);
        Ok(kept)
    }

    /// Positions of the files whose partition passes every filter that is about nothing but the partition. Such a filter may have lost its
    /// columns since it was taken on: the planner makes `dataset <> NULL` a NULL, and nobody else applies it.
    fn prune_by_partition(&self, state: &dyn Session, filters: &[Expr]) -> Result<Vec<usize>> {
        let partition_schema = Arc::new(Schema::new(self.scanned.table_partition_cols().clone()));
        let mut kept: Vec<usize> = (0..self.files.len()).collect();
        let filters: Vec<&Expr> = filters.iter().filter(|filter| self.is_of_partition_at_most(filter)).collect();
        if filters.is_empty() || kept.is_empty() {
            return Ok(kept);
        }
        let columns = (0..partition_schema.fields().len())
            .map(|i| ScalarValue::iter_to_array(self.files.iter().map(|file| file.partition_values[i].clone())))
            .collect::<Result<Vec<ArrayRef>>>()?;
        let partitions = RecordBatch::try_new(partition_schema.clone(), columns)?;
        let names = DFSchema::try_from(partition_schema)?;
        for filter in filters {
            let expr = state.create_physical_expr(filter.clone(), &names)?;
            let verdict = cast(&expr.evaluate(&partitions)?.into_array(self.files.len())?, &DataType::Boolean)?;
            let verdict = verdict.as_boolean();
            kept.retain(|file| verdict.is_valid(*file) && verdict.value(*file));
        }
        Ok(kept)
    }

    /// Does each of these files say that it is sorted? One that cannot be read says nothing here; whoever reads its rows is told.
    async fn are_sorted(&self, kept: &[usize]) -> bool {
        let Some(open) = &self.open else { return false };
        let look = |file: &usize| {
            let (file, sort_key) = (*file, self.family.topic().sort_key);
            async move {
                if let Some(known) = self.sorted[file].get() {
                    return *known;
                }
                let footer = DFParquetMetadata::new(&open.store, &self.files[file].object_meta);
                let footer = footer.with_file_metadata_cache(Some(open.footers.clone())).fetch_metadata().await;
                *self.sorted[file].get_or_init(|| footer.is_ok_and(|footer| is_sorted_by(&footer, sort_key)))
            }
        };
        join_all(kept.iter().map(look)).await.into_iter().all(|sorted| sorted)
    }

    /// The orders of each file's rows, of files that are sorted, where these are few enough to be read side by side.
    fn orders_of(&self, kept: &[usize]) -> Vec<LexOrdering> {
        if kept.len() > FILES_IN_ORDER_MAX {
            return Vec::new();
        }
        let sort_key = self.family.topic().sort_key;
        // Where no file has a NULL in it, it is as much the order that has NULL last, as SQL does.
        let whole = sort_key.iter().all(|name| kept.iter().all(|file| self.facts.nulls(*file, name) == Some(0)));
        // Files are read apart, and in each of them the partition columns are the same in every row.
        let partition_by = self.family.topic().partition_by;
        let before = (0..=partition_by.len()).rev().map(|from| &partition_by[from..]);
        before.filter_map(|before| self.order(before, !whole)).collect()
    }

    /// The family's sort key, behind some partition columns.
    fn order(&self, before: &[&str], nulls_first: bool) -> Option<LexOrdering> {
        let sorted = |name: &&str| {
            let at = self.scanned.table_schema().index_of(name).expect("topic.rs sorts by columns of the family");
            PhysicalSortExpr::new(Arc::new(Column::new(name, at)), SortOptions { descending: false, nulls_first })
        };
        LexOrdering::new(before.iter().chain(self.family.topic().sort_key).map(sorted))
    }

    /// Is it one that the scan takes on alone? All of these are among those that [`TapeTable::prune`] applies.
    fn is_about_partition(&self, filter: &Expr) -> bool {
        !filter.column_refs().is_empty() && self.is_of_partition_at_most(filter)
    }

    /// Can it be told from the partition, or from nothing?
    fn is_of_partition_at_most(&self, filter: &Expr) -> bool {
        let partition_by = self.family.topic().partition_by;
        filter.column_refs().iter().all(|column| partition_by.contains(&column.name.as_str())) && is_plain(filter)
    }
}

/// Can it be told now, and of each row alone?
fn is_plain(filter: &Expr) -> bool {
    let plain = |expr: &Expr| {
        !matches!(
            expr,
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::OuterReferenceColumn(..) | Expr::Placeholder(_)
        )
    };
    !filter.is_volatile() && !filter.exists(|expr| Ok(!plain(expr))).unwrap_or(true)
}

impl fmt::Debug for TapeTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} files", self.family.topic().name, self.files.len())
    }
}

#[async_trait]
impl TableProvider for TapeTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let verdict = |filter: &&Expr| match self.is_about_partition(filter) {
            true => TableProviderFilterPushDown::Exact,
            false => TableProviderFilterPushDown::Inexact,
        };
        Ok(filters.iter().map(verdict).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(fault) = &self.fault {
            return Err(Error::Listing(fault.clone().into()).into());
        }
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let projection = projection.unwrap_or(&all);
        let stored = self.scan_files(state, projection, filters, limit).await?;
        let tail = self.scan_tail(state, projection, filters)?;
        match (stored, tail) {
            (None, None) => Ok(Arc::new(EmptyExec::new(Arc::new(self.schema.project(projection)?)))),
            (Some(one), None) | (None, Some(one)) => Ok(one),
            (Some(stored), Some(tail)) => UnionExec::try_new(vec![stored, tail]),
        }
    }
}

impl TapeTable {
    /// The rows of the files; `None` where no file may have one that passes the filters.
    async fn scan_files(
        &self,
        state: &dyn Session,
        projection: &[usize],
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let kept = self.prune(state, filters)?;
        if kept.is_empty() {
            return Ok(None);
        }
        let mut statistics = Statistics::new_unknown(self.scanned.table_schema());
        statistics.num_rows = row_count(kept.iter().map(|file| self.facts.rows(*file)));
        let described = kept.len() <= FILES_DESCRIBED_MAX;
        let stated = self.are_sorted(&kept).await;
        let file = |at: &usize| {
            let mut file = self.files[*at].clone().with_extension(SortKey { by: self.family.topic().sort_key, stated });
            file.statistics = described.then(|| Arc::new(self.facts.statistics(*at, self.scanned.table_schema())));
            file
        };
        let files: Vec<PartitionedFile> = kept.iter().map(file).collect();
        let orders = if stated { self.orders_of(&kept) } else { Vec::new() };
        let groups = match orders.as_slice() {
            [_, ..] => files.into_iter().map(|file| FileGroup::new(vec![file])).collect(),
            [] => FileGroup::new(files).split_files(state.config().target_partitions()),
        };
        let mut parquet = state.config_options().execution.parquet.clone();
        // Columns that only the answer needs are decoded for the rows that pass, where these lie together: picked one by one they cost more.
        let topic = self.family.topic();
        let in_runs =
            |column: &datafusion::common::Column| topic.partition_by.iter().chain(topic.sort_key).any(|name| *name == column.name);
        let picks_runs = |filter: &Expr| filter.column_refs().into_iter().all(in_runs) && cannot_fail(filter);
        parquet.pushdown_filters = !filters.is_empty() && filters.iter().all(picks_runs);
        let open = self.open.as_ref().expect("a table that has files has what opens them");
        let reader = CachedParquetFileReaderFactory::new(open.store.clone(), open.footers.clone());
        let source = ParquetSource::new(self.scanned.clone())
            .with_parquet_file_reader_factory(Arc::new(reader))
            .with_table_parquet_options(datafusion::common::config::TableParquetOptions { global: parquet, ..Default::default() });
        let config = FileScanConfigBuilder::new(self.store.clone(), Arc::new(source))
            .with_file_groups(groups)
            .with_output_ordering(orders)
            .with_statistics(statistics)
            .with_limit(limit)
            .with_projection_indices(Some(projection.iter().map(|column| self.position[*column]).collect()))?
            .build();
        Ok(Some(DataSourceExec::from_data_source(config)))
    }

    /// The rows of the moment that the query began at, from the cut on; `None` where there are none. The filters that the scan takes on alone
    /// are applied here.
    fn scan_tail(&self, state: &dyn Session, projection: &[usize], filters: &[Expr]) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let moment = Moment::of(state);
        let filters: Vec<&Expr> = filters.iter().filter(|filter| self.is_of_partition_at_most(filter)).collect();
        let named = filters.iter().flat_map(|filter| filter.column_refs()).map(|column| self.schema.index_of(&column.name));
        let mut columns = projection.to_vec();
        columns.extend(named.collect::<std::result::Result<Vec<_>, _>>()?);
        let schema = Arc::new(self.schema.project(&columns)?);
        let cut = |partition| self.cut.get(&partition).copied().unwrap_or(0);
        let mut rows = moment.rows(self.family, cut, &columns, &schema)?;
        let names = DFSchema::try_from(self.schema.clone())?;
        for filter in filters {
            let filter = state.create_physical_expr(filter.clone(), &names)?;
            let filter = reassign_expr_columns(filter, &schema)?;
            for batch in &mut rows {
                let verdict = cast(&filter.evaluate(batch)?.into_array(batch.num_rows())?, &DataType::Boolean)?;
                *batch = filter_record_batch(batch, verdict.as_boolean())?;
            }
        }
        rows.retain(|batch| batch.num_rows() > 0);
        if rows.is_empty() {
            return Ok(None);
        }
        let shown: Vec<usize> = (0..projection.len()).collect();
        let rows = rows.iter().map(|batch| batch.project(&shown)).collect::<std::result::Result<Vec<_>, _>>()?;
        let exec = MemorySourceConfig::try_new_exec(&[rows], Arc::new(self.schema.project(projection)?), None)?;
        Ok(Some(exec))
    }
}

/// Do all row groups say that they are sorted by these columns first, ascending, NULL first?
pub(crate) fn is_sorted_by(footer: &ParquetMetaData, names: &[&str]) -> bool {
    let columns = footer.file_metadata().schema_descr();
    let is = |(sorted, name): (&SortingColumn, &&str)| {
        let column = usize::try_from(sorted.column_idx).ok().filter(|at| *at < columns.num_columns());
        column.is_some_and(|at| columns.column(at).name() == *name) && !sorted.descending && sorted.nulls_first
    };
    footer
        .row_groups()
        .iter()
        .all(|group| group.sorting_columns().is_some_and(|sorted| sorted.len() >= names.len() && sorted.iter().zip(names).all(is)))
}

fn row_count(rows: impl Iterator<Item = u64>) -> Precision<usize> {
    usize::try_from(rows.sum::<u64>()).map_or(Precision::Absent, Precision::Exact)
}

/// The engine finds a table's store by scheme and host alone, so both together name family and root.
fn store_url(table: &str, root: &str) -> ObjectStoreUrl {
    let digest = hex::encode(&Sha256::digest(root)[..8]);
    ObjectStoreUrl::parse(format!("tape-{digest}://{}", table.replace('_', "-"))).expect("hex digits and a topic's name make a URL")
}

fn partitioned_file(
    info: &FileInfo,
    sort_key: &'static [&'static str],
    partition_columns: &[FieldRef],
) -> std::result::Result<PartitionedFile, String> {
    let last_modified = chrono::DateTime::from_timestamp_millis(info.modification_time)
        .ok_or_else(|| format!("file {} was modified at {} ms, which is no time", info.location, info.modification_time))?;
    let values = partition_columns.iter().map(|column| partition_value(info, column)).collect::<std::result::Result<Vec<_>, _>>()?;
    let meta = ObjectMeta { location: info.location.clone(), last_modified, size: info.size, e_tag: None, version: None };
    Ok(PartitionedFile::new_from_meta(meta).with_partition_values(values).with_extension(SortKey { by: sort_key, stated: false }))
}

/// Delta's text of a partition value as a typed one; absent and empty text both mean NULL there.
fn partition_value(info: &FileInfo, column: &Field) -> std::result::Result<ScalarValue, String> {
    let text = info
        .partition_values
        .iter()
        .find(|(name, _)| *name == column.name().as_str())
        .ok_or_else(|| format!("file {} has no value of partition column {}", info.location, column.name()))?
        .1
        .as_deref()
        .filter(|text| !text.is_empty());
    let value = match text {
        None => ScalarValue::try_new_null(column.data_type()),
        Some(text) => ScalarValue::try_from_string(text.to_string(), column.data_type()),
    };
    value.map_err(|e| {
        format!("file {} has {} = {:?}, which is no {}: {e}", info.location, column.name(), text.unwrap_or(""), column.data_type())
    })
}
