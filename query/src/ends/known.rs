//! Where the runs of a file's symbols begin and end, and how late they are: looked up once for each file, and kept.

use crate::table::is_sorted_by;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use datafusion::common::{Result, internal_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::StreamExt;
use object_store::path::Path;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask, parquet_to_arrow_schema};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics as Stated;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// A row group whose runs are shorter than this on average is read as a whole: its pages would be read anyway.
const RUN_ROWS_MIN: usize = 128;
/// So many runs of a row group are always worth it.
const RUNS_FREE: usize = 64;
/// Runs that are kept in memory, of all files together; each takes some sixty bytes.
const RUNS_KEPT_MAX: usize = 1 << 20;
/// Rows of the leading column that are looked over at a time.
const BATCH_ROWS: usize = 1 << 16;

/// What is known of one file's runs.
#[derive(Debug)]
pub(super) struct FileRuns {
    pub(super) groups: Vec<Group>,
}

/// A row group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) rows: usize,
    /// The least and the greatest time, where none is NULL.
    pub(super) times: Option<(i64, i64)>,
    /// Its runs, one behind the other; `None` where it is not sorted, or they are too many.
    pub(super) runs: Option<Vec<Run>>,
}

/// The rows of a row group that have one symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) lead: Option<Box<str>>,
    pub(super) rows: Range<usize>,
}

/// The runs of files that were looked over. A file never changes once a version names it.
#[derive(Debug, Default)]
pub(crate) struct KnownRuns {
    files: Mutex<HashMap<(String, Path, u64), Arc<FileRuns>>>,
}

impl KnownRuns {
    /// Those of a file that is sorted by `lead` and `time`.
    pub(super) async fn of(
        &self,
        store: &str,
        file: &PartitionedFile,
        [lead, time]: [&str; 2],
        factory: &dyn ParquetFileReaderFactory,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Arc<FileRuns>> {
        let key = (store.to_string(), file.object_meta.location.clone(), file.object_meta.size);
        let known = self.files.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let read = Arc::new(read_runs(file, [lead, time], factory, metrics).await?);
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: usize = files.values().map(|file| file.count()).sum();
        if kept + read.count() > RUNS_KEPT_MAX {
            files.clear();
        }
        files.insert(key, read.clone());
        Ok(read)
    }
}

impl FileRuns {
    fn count(&self) -> usize {
        self.groups.iter().map(|group| 1 + group.runs.as_ref().map_or(0, Vec::len)).sum()
    }
}

/// Looks a file over: of a row group whose footer says that it has one symbol alone nothing is read, of another its symbols.
async fn read_runs(
    file: &PartitionedFile,
    [lead_name, time_name]: [&str; 2],
    factory: &dyn ParquetFileReaderFactory,
    metrics: &ExecutionPlanMetricsSet,
) -> Result<FileRuns> {
    let reader = || factory.create_reader(0, file.clone(), None, metrics);
    let mut first = reader()?;
    let footer = first.get_metadata(None).await?;
    let sorted = is_sorted_by(&footer, &[lead_name, time_name]);
    let at = |name: &str| {
        let columns = footer.file_metadata().schema_descr().columns();
        columns.iter().position(|column| column.name() == name)
    };
    let mut groups = Vec::with_capacity(footer.num_row_groups());
    for (number, stated) in footer.row_groups().iter().enumerate() {
        let rows = usize::try_from(stated.num_rows()).unwrap_or(0);
        let (Some(lead), Some(time), true) = (at(lead_name), at(time_name), sorted) else {
            groups.push(Group { rows, times: None, runs: None });
            continue;
        };
        let times = times(stated, time);
        let runs = match one_lead(stated, lead) {
            Some(symbol) => Some(vec![Run { lead: Some(symbol), rows: 0..rows }]),
            None if times.is_some() => runs_in_rows(reader()?, &footer, number, lead, lead_name, rows).await?,
            None => None,
        };
        groups.push(Group { rows, times, runs });
    }
    Ok(FileRuns { groups })
}

/// The least and greatest time of a row group, where it has no NULL.
fn times(stated: &RowGroupMetaData, column: usize) -> Option<(i64, i64)> {
    match stated.column(column).statistics()? {
        Stated::Int64(of) if of.null_count_opt() == Some(0) => Some((*of.min_opt()?, *of.max_opt()?)),
        _ => None,
    }
}

/// The symbol of a row group that has one alone.
fn one_lead(stated: &RowGroupMetaData, column: usize) -> Option<Box<str>> {
    let of = stated.column(column).statistics()?;
    let exact = of.min_is_exact() && of.max_is_exact() && of.null_count_opt() == Some(0);
    let one = of.min_bytes_opt().filter(|least| exact && Some(*least) == of.max_bytes_opt())?;
    std::str::from_utf8(one).ok().map(Box::from)
}

/// The runs of a row group, as its rows have them.
async fn runs_in_rows(
    reader: Box<dyn AsyncFileReader>,
    footer: &Arc<ParquetMetaData>,
    group: usize,
    column: usize,
    name: &str,
    rows: usize,
) -> Result<Option<Vec<Run>>> {
    let descr = footer.file_metadata().schema_descr();
    let own = parquet_to_arrow_schema(descr, None)?;
    // The dictionary's numbers are compared, not the texts.
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let field = |field: &Arc<Field>| match field.name() == name {
        true => Arc::new(Field::new(name, dictionary.clone(), field.is_nullable())),
        false => field.clone(),
    };
    let schema = Arc::new(Schema::new(own.fields().iter().map(field).collect::<Vec<_>>()));
    let metadata = ArrowReaderMetadata::try_new(footer.clone(), ArrowReaderOptions::new().with_schema(schema))?;
    let mut batches = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, metadata)
        .with_projection(ProjectionMask::leaves(descr, [column]))
        .with_row_groups(vec![group])
        .with_batch_size(BATCH_ROWS)
        .build()?;
    let most = RUNS_FREE.max(rows / RUN_ROWS_MIN);
    let mut runs: Vec<Run> = Vec::new();
    let mut at = 0;
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        add_runs(&mut runs, batch.column(0), at)?;
        at += batch.num_rows();
        if runs.len() > most {
            return Ok(None);
        }
    }
    if at != rows {
        return internal_err!("a row group has {at} rows, its footer states {rows}");
    }
    Ok(Some(runs))
}

/// Adds what the next rows, from row `at` on, have of runs.
fn add_runs(runs: &mut Vec<Run>, symbols: &ArrayRef, at: usize) -> Result<()> {
    let symbols = symbols.as_dictionary::<Int32Type>();
    let texts = symbols.values().as_string::<i32>();
    let text = |row: usize| symbols.key(row).filter(|key| texts.is_valid(*key)).map(|key| texts.value(key));
    let keys = symbols.keys();
    let mut row = 0;
    while row < symbols.len() {
        let begun = row;
        let null = keys.is_null(row);
        while row < symbols.len() && keys.is_null(row) == null && (null || keys.value(row) == keys.value(begun)) {
            row += 1;
        }
        let lead = text(begun);
        match runs.last_mut() {
            Some(last) if last.lead.as_deref() == lead => last.rows.end = at + row,
            _ => runs.push(Run { lead: lead.map(Box::from), rows: at + begun..at + row }),
        }
    }
    Ok(())
}
