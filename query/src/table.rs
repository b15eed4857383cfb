//! One family as a SQL table over a fixed list of Parquet files: files are pruned by their partition, row groups by their statistics, and
//! what SQL shows as `TIMESTAMP(ns, UTC)` is the Int64 that stands in the file.

use crate::error::Error;
use crate::files::{FileInfo, TableFiles};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::datasource::{TableProvider, TableType};
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use object_store::ObjectMeta;
use object_store::path::Path;
use schemas::{Family, Kind};
use sha2::{Digest, Sha256};
use std::sync::Arc;

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
#[derive(Debug)]
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
    /// Rows of each of `files`.
    rows: Vec<u64>,
    /// Why `files` is not known.
    fault: Option<String>,
}

impl TapeTable {
    /// The table over these files; its object store becomes known to `runtime`.
    pub fn open(table: TableFiles, runtime: &RuntimeEnv) -> std::result::Result<TapeTable, Error> {
        let name = table.family.topic().name;
        let fault = |what: String| Error::Table { table: name, root: table.root.to_string(), version: table.version, what };
        let mut tape = TapeTable::empty(table.family);
        tape.fault = table.fault.clone();
        tape.store = store_url(name, table.root.as_str());
        runtime.register_object_store(tape.store.as_ref(), table.store.clone());
        let mut infos: Vec<&FileInfo> = table.files.iter().collect();
        infos.sort_by(|a, b| a.path.cmp(&b.path));
        for info in infos {
            tape.files.push(partitioned_file(info, tape.scanned.table_partition_cols()).map_err(fault)?);
            tape.rows.push(info.rows);
        }
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
        TapeTable { family, schema, scanned, position, store, files: Vec::new(), rows: Vec::new(), fault: None }
    }

    /// True where it has no files, and is not known to be unreadable.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.fault.is_none()
    }

    /// The family stored in the table.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Positions of the files whose partition passes every filter that is about nothing but the partition. Such a filter may have lost its
    /// columns since it was taken on: the planner makes `dataset <> NULL` a NULL, and nobody else applies it.
    fn prune(&self, state: &dyn Session, filters: &[Expr]) -> Result<Vec<usize>> {
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

    /// Is it one that the scan takes on alone? All of these are among those that [`TapeTable::prune`] applies.
    fn is_about_partition(&self, filter: &Expr) -> bool {
        !filter.column_refs().is_empty() && self.is_of_partition_at_most(filter)
    }

    /// Can it be told from the partition, or from nothing?
    fn is_of_partition_at_most(&self, filter: &Expr) -> bool {
        let partition_by = self.family.topic().partition_by;
        let columns = filter.column_refs();
        let plain = |expr: &Expr| {
            !matches!(
                expr,
                Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::OuterReferenceColumn(..) | Expr::Placeholder(_)
            )
        };
        columns.iter().all(|column| partition_by.contains(&column.name.as_str()))
            && !filter.is_volatile()
            && !filter.exists(|expr| Ok(!plain(expr))).unwrap_or(true)
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
        let kept = self.prune(state, filters)?;
        if kept.is_empty() {
            return Ok(Arc::new(EmptyExec::new(Arc::new(self.schema.project(projection)?))));
        }
        let mut statistics = Statistics::new_unknown(self.scanned.table_schema());
        statistics.num_rows = row_count(kept.iter().map(|file| self.rows[*file]));
        let files = FileGroup::new(kept.iter().map(|file| self.files[*file].clone()).collect());
        let parquet = &state.config_options().execution.parquet;
        let source = ParquetSource::new(self.scanned.clone())
            .with_table_parquet_options(datafusion::common::config::TableParquetOptions { global: parquet.clone(), ..Default::default() });
        let config = FileScanConfigBuilder::new(self.store.clone(), Arc::new(source))
            .with_file_groups(files.split_files(state.config().target_partitions()))
            .with_statistics(statistics)
            .with_limit(limit)
            .with_projection_indices(Some(projection.iter().map(|column| self.position[*column]).collect()))?
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

fn row_count(rows: impl Iterator<Item = u64>) -> Precision<usize> {
    usize::try_from(rows.sum::<u64>()).map_or(Precision::Absent, Precision::Exact)
}

/// The engine finds a table's store by scheme and host alone, so both together name family and root.
fn store_url(table: &str, root: &str) -> ObjectStoreUrl {
    let digest = hex::encode(&Sha256::digest(root)[..8]);
    ObjectStoreUrl::parse(format!("tape-{digest}://{}", table.replace('_', "-"))).expect("hex digits and a topic's name make a URL")
}

fn partitioned_file(info: &FileInfo, partition_columns: &[FieldRef]) -> std::result::Result<PartitionedFile, String> {
    let location = Path::parse(&info.path).map_err(|e| format!("the log names a file {:?}, which is no path: {e}", info.path))?;
    let last_modified = chrono::DateTime::from_timestamp_millis(info.modification_time_ms)
        .ok_or_else(|| format!("file {} was modified at {} ms, which is no time", info.path, info.modification_time_ms))?;
    let values = partition_columns.iter().map(|column| partition_value(info, column)).collect::<std::result::Result<Vec<_>, _>>()?;
    let meta = ObjectMeta { location, last_modified, size: info.size, e_tag: None, version: None };
    Ok(PartitionedFile::new_from_meta(meta).with_partition_values(values))
}

/// Delta's text of a partition value as a typed one; absent and empty text both mean NULL there.
fn partition_value(info: &FileInfo, column: &Field) -> std::result::Result<ScalarValue, String> {
    let text = info
        .partition_values
        .iter()
        .find(|(name, _)| name == column.name())
        .ok_or_else(|| format!("file {} has no value of partition column {}", info.path, column.name()))?
        .1
        .as_deref()
        .filter(|text| !text.is_empty());
    let value = match text {
        None => ScalarValue::try_new_null(column.data_type()),
        Some(text) => ScalarValue::try_from_string(text.to_string(), column.data_type()),
    };
    value.map_err(|e| {
        format!("file {} has {} = {:?}, which is no {}: {e}", info.path, column.name(), text.unwrap_or(""), column.data_type())
    })
}
