//! One data file back to rows of the table's stored schema: the partition's values stand in the log, columns that the file lacks are NULL.

use crate::table::{FileInfo, Lake};
use crate::{Error, layout};
use arrow::array::{ArrayRef, Date32Array, RecordBatch, StringArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use bytes::Bytes;
use object_store::{GetResultPayload, ObjectStoreExt};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use schemas::{Family, Topic};
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Rows of one batch.
pub const BATCH_ROWS: usize = 1 << 14;
/// Bytes of one batch of a file that is read where it lies, as they are encoded in pages.
const BATCH_BYTES: usize = 8 << 20;
/// Bytes that are read at once where only the header of a page is looked for.
const HEADER_BYTES: usize = 1 << 10;

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
        let fault = |why: String| self.unreadable(family, &file.path, why);
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| fault(e.to_string()))?;
        let reader = builder.with_batch_size(BATCH_ROWS).build().map_err(|e| fault(e.to_string()))?;
        Ok(FileRows::of(family, file, reader))
    }

    /// The rows of a file that are read where they lie, some at a time: of a file of any size little is in memory.
    pub async fn read(&self, family: Family, file: &FileInfo) -> Result<FileRows, Error> {
        let file = self.open_file(family, file).await?;
        let batch_rows = (BATCH_BYTES / file.bytes_per_row().max(1)).clamp(1, BATCH_ROWS);
        file.rows(batch_rows)
    }

    /// Opens a file whose rows are read where they lie, a page of each column at a time; one that has another length than the log states is an error.
    pub(crate) async fn open_file(&self, family: Family, file: &FileInfo) -> Result<OpenFile, Error> {
        let content = self.content(family, file).await?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(content).map_err(|e| self.unreadable(family, &file.path, e.to_string()))?;
        Ok(OpenFile { topic: family.topic(), path: file.path.clone(), partition_values: file.partition_values.clone(), builder })
    }

    /// The bytes of a file, where they lie; one that has another length than the log states is an error.
    pub(crate) async fn content(&self, family: Family, file: &FileInfo) -> Result<Content, Error> {
        let fault = |why: String| self.unreadable(family, &file.path, why);
        let found = self.object_store().get(&file.location).await.map_err(|e| fault(e.to_string()))?;
        if found.meta.size != file.size {
            return Err(fault(format!("has {} bytes, the table's log states {}", found.meta.size, file.size)));
        }
        match found.payload {
            GetResultPayload::File(local, _) => Ok(Content::Local(Arc::new(local), file.size)),
            GetResultPayload::Stream(_) => found.bytes().await.map(Content::Fetched).map_err(|e| fault(e.to_string())),
        }
    }

    pub(crate) fn unreadable(&self, family: Family, path: &str, why: String) -> Error {
        Error::Storage { table: family.topic().name, url: self.root().to_string(), doing: format!("reading {path}"), why }
    }
}

/// A file whose footer was read, and no row yet.
pub(crate) struct OpenFile {
    topic: &'static Topic,
    path: String,
    partition_values: Vec<(&'static str, Option<String>)>,
    builder: ParquetRecordBatchReaderBuilder<Content>,
}

impl OpenFile {
    /// About so many bytes has a row in memory: as many as it has before compression, where no page is cut short by a dictionary.
    pub(crate) fn bytes_per_row(&self) -> usize {
        let groups = self.builder.metadata().row_groups();
        let (bytes, rows) = groups.iter().fold((0, 0), |(bytes, rows), group| (bytes + group.total_byte_size(), rows + group.num_rows()));
        usize::try_from(bytes / rows.max(1)).unwrap_or(0)
    }

    /// Its rows, so many in a batch.
    pub(crate) fn rows(self, batch_rows: usize) -> Result<FileRows, Error> {
        let fault = |why: String| Error::Batch { table: self.topic.name, why: format!("{}: {why}", self.path) };
        let reader = self.builder.with_batch_size(batch_rows).build().map_err(|e| fault(e.to_string()))?;
        Ok(FileRows { topic: self.topic, path: self.path, partition_values: self.partition_values, reader })
    }
}

/// The bytes of a file.
#[derive(Clone)]
pub(crate) enum Content {
    /// On this machine, with its length: read as they are needed.
    Local(Arc<File>, u64),
    /// In memory.
    Fetched(Bytes),
}

impl Length for Content {
    fn len(&self) -> u64 {
        match self {
            Content::Local(_, size) => *size,
            Content::Fetched(bytes) => bytes.len() as u64,
        }
    }
}

impl ChunkReader for Content {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> Result<Box<dyn Read>, ParquetError> {
        match self {
            Content::Local(file, _) => Ok(Box::new(BufReader::with_capacity(HEADER_BYTES, ReadFrom { file: file.clone(), at: start }))),
            Content::Fetched(bytes) => Ok(Box::new(bytes.get_read(start)?)),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        match self {
            Content::Local(file, _) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, start)?;
                Ok(bytes.into())
            }
            Content::Fetched(bytes) => bytes.get_bytes(start, length),
        }
    }
}

/// A file from one of its bytes on; others may read it at the same time.
struct ReadFrom {
    file: Arc<File>,
    at: u64,
}

impl Read for ReadFrom {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(into, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl FileRows {
    /// The rows that `reader` gives of a file.
    pub(crate) fn of(family: Family, file: &FileInfo, reader: ParquetRecordBatchReader) -> FileRows {
        FileRows { topic: family.topic(), path: file.path.clone(), partition_values: file.partition_values.clone(), reader }
    }

    /// Path of the file below the table's root.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn fault(&self, why: &str) -> Error {
        Error::Batch { table: self.topic.name, why: format!("{}: {why}", self.path) }
    }
}

impl Iterator for FileRows {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = match self.reader.next()? {
            Ok(batch) => batch,
            Err(e) => return Some(Err(self.fault(&e.to_string()))),
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
        Some(rows.map_err(|why| self.fault(&why)))
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
