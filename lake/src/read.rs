//! One data file back to rows of the table's stored schema: the partition's values stand in the log, columns that the file lacks are NULL.

use crate::bounds::{self, Bounds};
use crate::table::{FileInfo, Lake};
use crate::{Error, layout};
use arrow::array::{ArrayRef, Date32Array, RecordBatch, StringArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use bytes::Bytes;
use object_store::ObjectStoreExt;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::PageIndexPolicy;
use schemas::{Family, Topic};
use std::sync::Arc;

/// Rows of one batch.
pub const BATCH_ROWS: usize = 1 << 14;

/// The rows of one file, batch by batch, in the file's order.
pub struct FileRows {
    topic: &'static Topic,
    path: String,
    partition_values: Vec<(&'static str, Option<String>)>,
    reader: ParquetRecordBatchReader,
}

impl Lake {
    /// Fetches a file whole; one that has another length than the log states is an error.
    pub async fn fetch(&self, family: Family, file: &FileInfo) -> Result<Bytes, Error> {
        let bytes = self.object_store().get(&file.location).await.map_err(|e| self.unreadable(family, &file.path, e.to_string()))?;
        let bytes = bytes.bytes().await.map_err(|e| self.unreadable(family, &file.path, e.to_string()))?;
        if bytes.len() as u64 != file.size {
            return Err(self.unreadable(family, &file.path, format!("has {} bytes, the table's log states {}", bytes.len(), file.size)));
        }
        Ok(bytes)
    }

    /// The rows of a file that was fetched.
    pub fn rows(&self, family: Family, file: &FileInfo, bytes: Bytes) -> Result<FileRows, Error> {
        self.rows_by(family, file, bytes, BATCH_ROWS)
    }

    /// The same, with so many rows in a batch.
    pub(crate) fn rows_by(&self, family: Family, file: &FileInfo, bytes: Bytes, batch_rows: usize) -> Result<FileRows, Error> {
        let fault = |why: String| self.unreadable(family, &file.path, why);
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| fault(e.to_string()))?;
        let reader = builder.with_batch_size(batch_rows).build().map_err(|e| fault(e.to_string()))?;
        Ok(FileRows { topic: family.topic(), path: file.path.clone(), partition_values: file.partition_values.clone(), reader })
    }

    /// The rows of a file that was fetched, apart for each of its row groups, in their order: they may be read side by side. They are held against
    /// what is stated of them.
    pub fn row_groups(&self, family: Family, file: &FileInfo, bytes: Bytes) -> Result<Vec<GroupRows>, Error> {
        let fault = |why: String| self.unreadable(family, &file.path, why);
        let options = ArrowReaderOptions::default().with_page_index_policy(PageIndexPolicy::Optional);
        let metadata = ArrowReaderMetadata::load(&bytes, options).map_err(|e| fault(e.to_string()))?;
        // Read page after page: where the page index says that they are is held against that.
        let plain = ArrowReaderMetadata::load(&bytes, ArrowReaderOptions::default()).map_err(|e| fault(e.to_string()))?;
        let mut broken = bounds::of_file(family.topic(), &file.stats, &metadata);
        if metadata.metadata().num_row_groups() == 0 && !broken.is_empty() {
            return Err(fault(broken.remove(0)));
        }
        let group = |group: usize| {
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes.clone(), plain.clone());
            let reader = builder.with_row_groups(vec![group]).with_batch_size(BATCH_ROWS).build().map_err(|e| fault(e.to_string()))?;
            let bounds = Bounds::of(family.topic(), &file.stats, &metadata, group).map_err(|e| fault(e.to_string()))?;
            let rows = FileRows { topic: family.topic(), path: file.path.clone(), partition_values: file.partition_values.clone(), reader };
            Ok(GroupRows { rows, bounds, broken: std::mem::take(&mut broken) })
        };
        (0..metadata.metadata().num_row_groups()).map(group).collect()
    }

    fn unreadable(&self, family: Family, path: &str, why: String) -> Error {
        Error::Storage { table: family.topic().name, url: self.root().to_string(), doing: format!("reading {path}"), why }
    }
}

/// The rows of one row group, held against what is stated of them.
pub struct GroupRows {
    rows: FileRows,
    bounds: Bounds,
    broken: Vec<String>,
}

impl GroupRows {
    /// Path of the file below the table's root.
    pub fn path(&self) -> &str {
        self.rows.path()
    }

    /// What is stated of the rows that were read since this was asked last, and is not so.
    pub fn broken(&mut self) -> Vec<String> {
        std::mem::take(&mut self.broken)
    }
}

impl Iterator for GroupRows {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.rows.next() {
            None => {
                self.broken.extend(self.bounds.end());
                None
            }
            Some(batch) => Some(batch.inspect(|batch| self.broken.extend(self.bounds.hold(batch)))),
        }
    }
}

impl FileRows {
    /// Path of the file below the table's root.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl Iterator for FileRows {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let fault = |why: String| Error::Batch { table: self.topic.name, why: format!("{}: {why}", self.path) };
        let batch = match self.reader.next()? {
            Ok(batch) => batch,
            Err(e) => return Some(Err(fault(e.to_string()))),
        };
        let schema = self.topic.stored_schema();
        let column = |field: &Arc<arrow::datatypes::Field>| -> Result<ArrayRef, String> {
            if let Some((_, value)) = self.partition_values.iter().find(|(name, _)| name == field.name()) {
                return constant(field.data_type(), value.as_deref(), batch.num_rows());
            }
            match batch.column_by_name(field.name()) {
                None => Ok(new_null_array(field.data_type(), batch.num_rows())),
                Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
                Some(column) => cast(column, field.data_type()).map_err(|e| e.to_string()),
            }
        };
        let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>, _>>();
        let rows = columns.and_then(|columns| RecordBatch::try_new(schema.clone(), columns).map_err(|e| e.to_string()));
        Some(rows.map_err(fault))
    }
}

/// A partition column.
fn constant(data_type: &DataType, value: Option<&str>, rows: usize) -> Result<ArrayRef, String> {
    let Some(value) = value else { return Ok(new_null_array(data_type, rows)) };
    match data_type {
        DataType::Utf8 => Ok(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(value, rows)))),
        DataType::Date32 => {
            let days = layout::date_days(value).ok_or_else(|| format!("{value:?} is no date"))?;
            Ok(Arc::new(Date32Array::from_value(days, rows)))
        }
        other => Err(format!("no partition column is a {other}")),
    }
}
