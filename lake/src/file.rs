//! The rows of one partition to one Parquet file: sorted, and says so. One column at a time, so that memory holds one column's copy of
//! the rows and no more.

use crate::sort::{self, Partition};
use crate::stats::Stats;
use crate::table::{Upload, Uploaded};
use crate::{Error, layout};
use arrow::array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow::compute::{interleave, partition};
use arrow::datatypes::{Field as ArrowField, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, ArrowWriterOptions, compute_leaves};
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use schemas::{Kind, Topic};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How the rows of a file are laid out. Tables are written with the default, which a sweep chose (docs/decisions/0012-file-layout.md); others are
/// there to be measured beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FileLayout {
    /// Most rows of a row group.
    pub group_rows: usize,
    /// A row group of at least so many rows ends where the first column of the sort key changes: from there on it holds one symbol alone.
    pub cut_rows: usize,
    /// Most rows of a page: the unit of the page index, and of compression.
    pub page_rows: usize,
    /// The codec of all pages.
    pub compression: Compression,
    /// Of a column's encodings that one which a sample of its rows is smallest in; else always a dictionary, or never.
    pub dictionary: Option<bool>,
}

impl Default for FileLayout {
    fn default() -> FileLayout {
        FileLayout {
            group_rows: 1 << 18,
            cut_rows: 1 << 16,
            page_rows: 20_000,
            compression: Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL).expect("3 is a level of zstd")),
            dictionary: None,
        }
    }
}

/// Bytes of a row group that is written as rows come: it is in memory until it is whole.
const ROW_GROUP_BYTES: usize = 64 << 20;
/// Rows gathered at a time: the copy of one column's slice fits the cache.
const SLICE_ROWS: usize = 1 << 16;
/// Rows of a page in files that an earlier version wrote: more than any has now.
pub const PAGE_ROWS_MAX: usize = 50_000;
/// Rows from which the encodings of a file are chosen.
const SAMPLE_ROWS: usize = 1 << 15;
/// Files with fewer rows are not worth choosing for.
const SAMPLED_ROWS_MIN: usize = 1 << 13;
/// Level 3: above it a file takes longer and is hardly smaller (compaction may go higher).
const ZSTD_LEVEL: i32 = 3;
/// Longest text in the page index and in the chunk statistics, in bytes; the writer marks what it cut.
const STATISTICS_BYTES_MAX: usize = 64;

/// A file that is ready to be put into its place.
#[derive(Debug)]
pub struct Encoded {
    /// The Parquet file.
    pub bytes: Bytes,
    /// What the log says of it.
    pub stats: Stats,
}

/// Encodes the partition's rows, in its order. The partition columns are not in the file: the log names their values.
pub fn encode(
    topic: &'static Topic,
    layout: FileLayout,
    batches: &[RecordBatch],
    partition: &Partition,
    threads: usize,
) -> Result<Encoded, Error> {
    let fault = |e: ParquetError| Error::Batch { table: topic.name, why: e.to_string() };
    let columns = Columns::new(topic, layout, batches);
    let encodings = columns.choose_encodings(&partition.order, threads).map_err(fault)?;
    let properties = Arc::new(properties(topic, layout, &columns.schema, &encodings));
    let schema = ArrowSchemaConverter::new().convert(&columns.schema).map_err(fault)?;
    let mut writer = SerializedFileWriter::new(Vec::new(), schema.root_schema_ptr(), properties).map_err(fault)?;
    let factory = ArrowRowGroupWriterFactory::new(&writer, columns.schema.clone());
    let mut stats = Stats { rows: Some(partition.order.len() as u64), ..Stats::default() };
    for (number, group) in columns.row_groups(topic, &partition.order).map_err(fault)?.into_iter().enumerate() {
        let writers = factory.create_column_writers(number).map_err(fault)?;
        let encoded = columns.encode(&partition.order[group], writers, threads).map_err(fault)?;
        let mut group = writer.next_row_group().map_err(fault)?;
        for (chunk, column_stats) in encoded {
            chunk.append_to_row_group(&mut group).map_err(fault)?;
            stats.merge(column_stats);
        }
        group.close().map_err(fault)?;
    }
    Ok(Encoded { bytes: writer.into_inner().map_err(fault)?.into(), stats })
}

/// Writes a file whose rows come in order, batch by batch: one row group in memory.
pub struct FileWriter {
    topic: &'static Topic,
    layout: FileLayout,
    kept: Vec<usize>,
    writer: ArrowWriter<Upload>,
    has_stats: Vec<bool>,
    stats: Stats,
    /// What the last row has in the first column of the sort key.
    last: Option<ArrayRef>,
}

impl FileWriter {
    /// A file for rows of which these are the first: they settle how its columns are encoded.
    pub fn new(topic: &'static Topic, layout: FileLayout, first: &RecordBatch, file: Upload) -> Result<FileWriter, Error> {
        let fault = |e: ParquetError| Error::Batch { table: topic.name, why: e.to_string() };
        let columns = Columns::new(topic, layout, std::slice::from_ref(first));
        let order: Vec<(usize, usize)> = (0..first.num_rows()).map(|row| (0, row)).collect();
        let encodings = columns.choose_encodings(&order, 1).map_err(fault)?;
        let properties =
            properties(topic, layout, &columns.schema, &encodings).into_builder().set_max_row_group_bytes(Some(ROW_GROUP_BYTES)).build();
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(file, columns.schema.clone(), options).map_err(fault)?;
        let kept = columns.schema.fields().iter().map(|field| topic.column(field.name())).collect();
        Ok(FileWriter {
            topic,
            layout,
            kept,
            writer,
            last: None,
            has_stats: columns.has_stats,
            stats: Stats { rows: Some(0), ..Stats::default() },
        })
    }

    /// Writes the next rows, in the table's stored schema.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<(), Error> {
        let rows = rows.project(&self.kept).map_err(|e| Error::Batch { table: self.topic.name, why: e.to_string() })?;
        for (column, field) in rows.schema().fields().iter().enumerate().filter(|(column, _)| self.has_stats[*column]) {
            self.stats.add(field.name(), rows.column(column));
        }
        self.stats.rows = self.stats.rows.map(|before| before + rows.num_rows() as u64);
        self.write_groups(&rows).map_err(|e| self.fault(&e))
    }

    /// A row group that is large enough ends where the first column of the sort key changes.
    fn write_groups(&mut self, rows: &RecordBatch) -> Result<(), ParquetError> {
        let leads = rows.column_by_name(self.topic.sort_key[0]).expect("no sort key column is a partition column");
        let mut written = 0;
        for run in partition(std::slice::from_ref(leads))?.ranges() {
            let first = leads.slice(run.start, 1);
            let changes = self.last.as_ref().is_some_and(|last| last.as_ref() != first.as_ref());
            self.last = Some(first);
            if changes && self.writer.in_progress_rows() + (run.start - written) >= self.layout.cut_rows {
                self.writer.write(&rows.slice(written, run.start - written))?;
                written = run.start;
                self.writer.flush()?;
            }
        }
        self.writer.write(&rows.slice(written, rows.num_rows() - written))
    }

    /// The file in its place, and what the log is to say of it.
    pub fn finish(mut self) -> Result<(Uploaded, Stats), Error> {
        self.writer.finish().map_err(|e| self.fault(&e))?;
        killpoint::here!("lake.rewrite.merged");
        Ok((self.writer.inner_mut().complete()?, self.stats))
    }

    /// Where the file could not be written, that is what is to be told.
    fn fault(&mut self, e: &ParquetError) -> Error {
        let failed = self.writer.inner_mut().failure();
        failed.unwrap_or_else(|| Error::Batch { table: self.topic.name, why: e.to_string() })
    }
}

/// The columns that go into the file.
struct Columns {
    layout: FileLayout,
    schema: SchemaRef,
    columns: Vec<Column>,
    has_stats: Vec<bool>,
}

/// One column of all batches.
enum Column {
    /// The same in every row of every batch.
    Once(ArrayRef),
    /// One array per batch; where the flag is set, its one value stands for all rows of the batch.
    Arrays(Vec<(ArrayRef, bool)>),
}

impl Column {
    fn new(field: &ArrowField, batches: &[RecordBatch]) -> Column {
        let null = new_null_array(field.data_type(), 1);
        let array = |batch: &RecordBatch| match batch.column_by_name(field.name()) {
            None => (null.clone(), true),
            Some(column) => match sort::once(column) {
                Some(value) => (value, true),
                None => (column.clone(), false),
            },
        };
        let arrays: Vec<(ArrayRef, bool)> = batches.iter().map(array).collect();
        match arrays.split_first() {
            None => Column::Once(null),
            Some(((first, true), rest)) if rest.iter().all(|(array, once)| *once && array == first) => Column::Once(first.clone()),
            _ => Column::Arrays(arrays),
        }
    }

    /// The rows, in the given order, whose value is not that of the row before.
    fn changes(&self, order: &[(usize, usize)]) -> Result<Vec<usize>, ParquetError> {
        let mut changes = Vec::new();
        let mut last: Option<ArrayRef> = None;
        for (slice, order) in order.chunks(SLICE_ROWS).enumerate() {
            let values = self.gather(order)?;
            for run in partition(std::slice::from_ref(&values))?.ranges() {
                let first = values.slice(run.start, 1);
                if last.as_ref().is_some_and(|last| last.as_ref() != first.as_ref()) {
                    changes.push(slice * SLICE_ROWS + run.start);
                }
                last = Some(first);
            }
        }
        Ok(changes)
    }

    /// The column's values in the given order.
    fn gather(&self, order: &[(usize, usize)]) -> Result<ArrayRef, ParquetError> {
        let arrays = match self {
            Column::Once(value) => return Ok(sort::repeated(value, order.len())),
            Column::Arrays(arrays) => arrays,
        };
        let lent: Vec<&dyn Array> = arrays.iter().map(|(array, _)| array.as_ref()).collect();
        let gathered = if arrays.iter().all(|(_, once)| !once) {
            interleave(&lent, order)
        } else {
            let order: Vec<(usize, usize)> = order.iter().map(|(batch, row)| (*batch, if arrays[*batch].1 { 0 } else { *row })).collect();
            interleave(&lent, &order)
        };
        gathered.map_err(|e| ParquetError::ArrowError(e.to_string()))
    }
}

impl Columns {
    fn new(topic: &'static Topic, layout: FileLayout, batches: &[RecordBatch]) -> Columns {
        let fields: Vec<ArrowField> = topic
            .stored_schema()
            .fields()
            .iter()
            .filter(|field| !topic.partition_by.contains(&field.name().as_str()))
            .map(|field| field.as_ref().clone())
            .collect();
        let with_stats = layout::stats_fields(topic);
        Columns {
            layout,
            columns: fields.iter().map(|field| Column::new(field, batches)).collect(),
            has_stats: fields.iter().map(|field| with_stats.iter().any(|s| s.name == field.name().as_str())).collect(),
            schema: Arc::new(Schema::new(fields)),
        }
    }

    /// The rows of each row group.
    fn row_groups(&self, topic: &Topic, order: &[(usize, usize)]) -> Result<Vec<Range<usize>>, ParquetError> {
        let lead = self.schema.index_of(topic.sort_key[0]).expect("no sort key column is a partition column");
        let changes = match self.layout.cut_rows {
            usize::MAX => Vec::new(),
            _ => self.columns[lead].changes(order)?,
        };
        Ok(row_groups(&changes, order.len(), self.layout))
    }

    /// Encodes one row group, the columns shared out among threads.
    fn encode(
        &self,
        order: &[(usize, usize)],
        writers: Vec<ArrowColumnWriter>,
        threads: usize,
    ) -> Result<Vec<(ArrowColumnChunk, Stats)>, ParquetError> {
        shared_out(writers, threads, |column, mut writer| {
            let field = self.schema.field(column);
            let mut stats = Stats::default();
            for slice in order.chunks(SLICE_ROWS) {
                let array = self.columns[column].gather(slice)?;
                if self.has_stats[column] {
                    stats.add(field.name(), &array);
                }
                for leaf in compute_leaves(field, &array)? {
                    writer.write(&leaf)?;
                }
            }
            Ok((writer.close()?, stats))
        })
    }

    /// For every column the encoding that a sample of the file's own rows is smallest in.
    fn choose_encodings(&self, order: &[(usize, usize)], threads: usize) -> Result<Vec<Choice>, ParquetError> {
        let fields = self.schema.fields();
        if let Some(dictionary) = self.layout.dictionary {
            let fitting = |field: &ArrowField| candidates(field).iter().find(|choice| choice.dictionary == dictionary).copied();
            return Ok(fields.iter().map(|field| fitting(field).unwrap_or_else(|| usual(field))).collect());
        }
        if order.len() < SAMPLED_ROWS_MIN {
            return Ok(fields.iter().map(|field| usual(field)).collect());
        }
        let middle = (order.len() - order.len().min(SAMPLE_ROWS)) / 2;
        let sample = &order[middle..middle + order.len().min(SAMPLE_ROWS)];
        shared_out(vec![(); fields.len()], threads, |column, ()| {
            let field = self.schema.field(column);
            let candidates = candidates(field);
            let array = match candidates.len() {
                1 => return Ok(candidates[0]),
                _ => self.columns[column].gather(sample)?,
            };
            if array.null_count() == array.len() {
                return Ok(usual(field));
            }
            let mut sizes = Vec::with_capacity(candidates.len());
            for candidate in candidates {
                sizes.push((size_in(field, self.layout, &array, *candidate)?, *candidate));
            }
            Ok(sizes.iter().min_by_key(|(size, _)| *size).map_or_else(|| usual(field), |(_, candidate)| *candidate))
        })
    }
}

/// The row groups of rows whose first sort column changes at `changes`: a run of at least `cut_rows` has row groups of its own, shorter ones
/// share one until there are so many. Pure.
fn row_groups(changes: &[usize], rows: usize, layout: FileLayout) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let (mut start, mut run) = (0, 0);
    for end in changes.iter().copied().chain([rows]) {
        let is_long = end - run >= layout.cut_rows;
        if start < run && (is_long || end - start > layout.group_rows) {
            groups.push(start..run);
            start = run;
        }
        if end > start && (is_long || end - start >= layout.cut_rows.min(layout.group_rows) || end == rows) {
            // In equal parts, where it is too much for one.
            let parts = (end - start).div_ceil(layout.group_rows);
            let each = (end - start).div_ceil(parts);
            groups.extend((start..end).step_by(each).map(|from| from..end.min(from + each)));
            start = end;
        }
        run = end;
    }
    groups
}

/// How a column is encoded: by a dictionary of its values, with the given encoding where the dictionary grows too large, or by the
/// encoding alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Choice {
    dictionary: bool,
    encoding: Encoding,
}

const DICTIONARY: Choice = Choice { dictionary: true, encoding: Encoding::PLAIN };
const DELTA: Choice = Choice { dictionary: false, encoding: Encoding::DELTA_BINARY_PACKED };
const PLAIN: Choice = Choice { dictionary: false, encoding: Encoding::PLAIN };

fn candidates(field: &ArrowField) -> &'static [Choice] {
    use arrow::datatypes::DataType;
    match field.data_type() {
        DataType::Int64 | DataType::Int32 | DataType::Date32 => &[DELTA, DICTIONARY, PLAIN],
        DataType::Decimal128(precision, _) if *precision <= 18 => &[DICTIONARY, DELTA, PLAIN],
        DataType::Boolean => &[PLAIN],
        // Whole pages and frames: a dictionary would only hold them twice.
        DataType::Binary if ["body", "raw", "_raw"].contains(&field.name().as_str()) => &[PLAIN],
        _ => &[DICTIONARY],
    }
}

/// The encoding where nothing was measured.
fn usual(field: &ArrowField) -> Choice {
    candidates(field)[0]
}

fn size_in(field: &ArrowField, layout: FileLayout, array: &ArrayRef, choice: Choice) -> Result<usize, ParquetError> {
    let schema = Arc::new(Schema::new(vec![field.clone()]));
    let path = ColumnPath::new(vec![field.name().clone()]);
    let properties = apply(base(layout), path, choice).set_statistics_enabled(EnabledStatistics::None).build();
    let batch = RecordBatch::try_new(schema.clone(), vec![array.clone()])?;
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(std::io::sink(), schema, options)?;
    writer.write(&batch)?;
    Ok(writer.close()?.row_groups().iter().map(|group| usize::try_from(group.compressed_size()).unwrap_or(usize::MAX)).sum())
}

fn base(layout: FileLayout) -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_created_by(concat!("tokentape ", env!("CARGO_PKG_VERSION")).to_string())
        .set_compression(layout.compression)
        .set_max_row_group_row_count(Some(layout.group_rows))
        .set_data_page_row_count_limit(layout.page_rows)
        .set_statistics_truncate_length(Some(STATISTICS_BYTES_MAX))
        .set_column_index_truncate_length(Some(STATISTICS_BYTES_MAX))
}

fn apply(builder: WriterPropertiesBuilder, path: ColumnPath, choice: Choice) -> WriterPropertiesBuilder {
    builder.set_column_dictionary_enabled(path.clone(), choice.dictionary).set_column_encoding(path, choice.encoding)
}

fn properties(topic: &Topic, layout: FileLayout, schema: &Schema, choices: &[Choice]) -> WriterProperties {
    let mut builder = base(layout).set_sorting_columns(Some(sorting_columns(topic, schema)));
    for (field, choice) in schema.fields().iter().zip(choices) {
        let path = ColumnPath::new(vec![field.name().clone()]);
        if matches!(kind(topic, field.name()), Kind::Bytes) {
            builder = builder.set_column_statistics_enabled(path.clone(), EnabledStatistics::None);
        }
        builder = apply(builder, path, *choice);
    }
    builder.build()
}

fn kind(topic: &Topic, column: &str) -> Kind {
    topic.stored_fields().into_iter().find(|field| field.name == column).expect("a file has only the table's columns").kind
}

fn sorting_columns(topic: &Topic, schema: &Schema) -> Vec<SortingColumn> {
    let column = |name: &&str| SortingColumn {
        column_idx: schema.index_of(name).expect("no sort key column is a partition column") as i32,
        descending: false,
        nulls_first: true,
    };
    topic.sort_key.iter().map(column).collect()
}

/// Does `work` for every item, in the items' order of results, on some threads.
fn shared_out<T: Send, R: Send>(
    items: Vec<T>,
    threads: usize,
    work: impl Fn(usize, T) -> Result<R, ParquetError> + Sync,
) -> Result<Vec<R>, ParquetError> {
    if threads <= 1 {
        return items.into_iter().enumerate().map(|(i, item)| work(i, item)).collect();
    }
    let slots: Vec<std::sync::Mutex<Option<T>>> = items.into_iter().map(|item| std::sync::Mutex::new(Some(item))).collect();
    let next = AtomicUsize::new(0);
    let take = |i: usize| slots[i].lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    let one = || {
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            match slots.get(i).and_then(|_| take(i)) {
                None => return done,
                Some(item) => done.push((i, work(i, item))),
            }
        }
    };
    let mut results: Vec<(usize, Result<R, ParquetError>)> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads.min(slots.len())).map(|_| scope.spawn(one)).collect();
        handles.into_iter().flat_map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_long_run_shares_its_row_groups_with_no_other(runs in proptest::collection::vec(1usize..200, 0..40)) {
            let layout = FileLayout { group_rows: 100, cut_rows: 30, ..FileLayout::default() };
            let ends: Vec<usize> = runs.iter().scan(0, |end, run| { *end += run; Some(*end) }).collect();
            let (rows, changes) = (ends.last().copied().unwrap_or(0), &ends[..ends.len().saturating_sub(1)]);
            let groups = row_groups(changes, rows, layout);
            let whole: Vec<usize> = groups.iter().cloned().flatten().collect();
            prop_assert_eq!(whole, (0..rows).collect::<Vec<_>>());
            for group in &groups {
                prop_assert!(!group.is_empty() && group.len() <= layout.group_rows);
                let inside = runs.iter().zip(&ends).filter(|(run, end)| **end > group.start && **end - **run < group.end);
                let inside: Vec<usize> = inside.map(|(run, _)| *run).collect();
                prop_assert!(inside.len() == 1 || inside.iter().all(|run| *run < layout.cut_rows), "{:?} in {:?}", inside, group);
            }
        }
    }
}
