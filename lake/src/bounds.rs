//! Do the values of a file keep the bounds that are stated of them? Readers pass over what cannot hold what they look for by the bounds and
//! NULL counts of the table's log, of the file's footer and of its page index: one that is wrong hides rows, though all of them are there.

use crate::stats::{Bound, Stats, extent};
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::cast;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::errors::ParquetError;
use schemas::Topic;
use std::collections::HashSet;
use std::ops::Range;

/// What is stated of one column's values in some rows of a row group.
#[derive(Debug)]
struct Stated {
    by: &'static str,
    rows: Range<u64>,
    least: Option<Bound>,
    greatest: Option<Bound>,
    nulls: Option<u64>,
    /// NULLs met so far.
    met: u64,
}

/// All that is stated of a row group, held against its batches as they come.
#[derive(Debug)]
pub(crate) struct Bounds {
    topic: &'static Topic,
    /// By stored column.
    stated: Vec<Vec<Stated>>,
    rows: u64,
    at: u64,
}

/// What is stated of a file as a whole, and is not so: its rows, its columns and their types. `unnamed` are columns that the table's log does not
/// name.
pub(crate) fn of_file(topic: &'static Topic, log: &Stats, unnamed: &[String], metadata: &ArrowReaderMetadata) -> Vec<String> {
    let file = metadata.metadata();
    let groups: i64 = file.row_groups().iter().map(|group| group.num_rows()).sum();
    let whole = file.file_metadata().num_rows();
    let mut broken = Vec::new();
    if groups != whole {
        broken.push(format!("its footer states {whole} rows, and its row groups {groups}"));
    }
    if file.row_groups().iter().any(|group| group.num_rows() == 0) {
        // Its neighbours would not be held against each other.
        broken.push("it has a row group without rows, and tape writes none".to_string());
    }
    if let Some(rows) = log.rows.filter(|rows| i64::try_from(*rows) != Ok(whole)) {
        broken.push(format!("the table's log states {rows} rows, and the file has {whole}"));
    }
    broken.extend(log.unread.as_ref().map(|why| format!("what the table's log states of it cannot be read: {why}")));
    let mut names = HashSet::new();
    for field in metadata.schema().fields() {
        let name = field.name();
        if !names.insert(name) {
            broken.push(format!("it has two columns {name}"));
        }
        if unnamed.contains(name) {
            broken.push(format!("it has a column {name}, which the table's log does not name"));
        }
        match topic.stored_schema().field_with_name(name) {
            Err(_) => broken.push(format!("it has a column {name}, which the table has not")),
            Ok(_) if topic.partition_by.contains(&name.as_str()) => {
                broken.push(format!("it has a column {name}, whose value the log states"))
            }
            Ok(stored) if stored.data_type() != field.data_type() => {
                broken.push(format!("its {name} is {}, and that of the table {}", field.data_type(), stored.data_type()));
            }
            Ok(_) => {}
        }
    }
    broken
}

impl Bounds {
    /// What is stated of row group `group`: by its footer, its page index and, where that knows the bounds of the whole file, the log.
    pub(crate) fn of(topic: &'static Topic, log: &Stats, metadata: &ArrowReaderMetadata, group: usize) -> Result<Bounds, ParquetError> {
        let file = metadata.metadata();
        let rows = u64::try_from(file.row_group(group).num_rows()).unwrap_or(0);
        let only = file.num_row_groups() == 1;
        let mut stated = Vec::new();
        for field in topic.stored_schema().fields() {
            let name = field.name();
            let (least, greatest) = (log.min.get(name).cloned(), log.max.get(name).cloned());
            let nulls = log.nulls.get(name).copied().filter(|_| only);
            let mut column = vec![Stated { by: "the table's log", rows: 0..rows, least, greatest, nulls, met: 0 }];
            if metadata.schema().field_with_name(name).is_ok() {
                let converter = StatisticsConverter::try_new(name, metadata.schema(), metadata.parquet_schema())?;
                let bound = |array: &ArrayRef, row: usize| -> Result<Option<Bound>, ParquetError> {
                    let value = cast(&array.slice(row, 1), field.data_type()).map_err(|e| ParquetError::General(e.to_string()))?;
                    Ok(extent(&value).map(|(least, _)| least))
                };
                let of_group = || std::iter::once(file.row_group(group));
                let (mins, maxes) = (converter.row_group_mins(of_group())?, converter.row_group_maxes(of_group())?);
                let converter = converter.with_missing_null_counts_as_zero(false);
                let nulls = converter.row_group_null_counts(of_group())?;
                let nulls = nulls.is_valid(0).then(|| nulls.value(0));
                column.push(Stated {
                    by: "its footer",
                    rows: 0..rows,
                    least: bound(&mins, 0)?,
                    greatest: bound(&maxes, 0)?,
                    nulls,
                    met: 0,
                });
                if let (Some(columns), Some(offsets), Some(at)) =
                    (file.column_index(), file.offset_index(), converter.parquet_column_index())
                {
                    let (mins, maxes) =
                        (converter.data_page_mins(columns, offsets, [&group])?, converter.data_page_maxes(columns, offsets, [&group])?);
                    let nulls = converter.data_page_null_counts(columns, offsets, [&group])?;
                    let first = |page: usize| {
                        let pages = offsets[group][at].page_locations();
                        pages.get(page).map_or(rows, |page| u64::try_from(page.first_row_index).unwrap_or(0))
                    };
                    for page in 0..mins.len().min(maxes.len()) {
                        column.push(Stated {
                            by: "its page index",
                            rows: first(page)..first(page + 1),
                            least: bound(&mins, page)?,
                            greatest: bound(&maxes, page)?,
                            nulls: (page < nulls.len() && nulls.is_valid(page)).then(|| nulls.value(page)),
                            met: 0,
                        });
                    }
                }
            }
            column.retain(|stated| stated.least.is_some() || stated.greatest.is_some() || stated.nulls.is_some());
            stated.push(column);
        }
        Ok(Bounds { topic, stated, rows, at: 0 })
    }

    /// Holds the next batch against what is stated; what it breaks is told once for each column and who stated it.
    pub(crate) fn hold(&mut self, batch: &RecordBatch) -> Vec<String> {
        let (from, to) = (self.at, self.at + batch.num_rows() as u64);
        self.at = to;
        let mut broken = Vec::new();
        for (at, stated) in self.stated.iter_mut().enumerate() {
            let name = batch.schema_ref().field(at).name();
            let column = batch.column(at);
            let mut whole = None;
            let mut kept = true;
            stated.retain_mut(|stated| {
                let (first, end) = (stated.rows.start.max(from), stated.rows.end.min(to));
                if first >= end {
                    return true;
                }
                let part = column.slice((first - from) as usize, (end - first) as usize);
                let met = if part.len() == column.len() { whole.get_or_insert_with(|| extent(column)).clone() } else { extent(&part) };
                stated.met += part.null_count() as u64;
                let why = stated.broken(met, end);
                kept &= why.is_none();
                broken.extend(why.map(|why| format!("{} states of {name} that {why}", stated.by)));
                kept
            });
        }
        broken
    }

    /// What the end of the rows says: there must be as many as are stated.
    pub(crate) fn end(&self) -> Option<String> {
        (self.at != self.rows)
            .then(|| format!("its footer states {} rows of a row group that has {} ({})", self.rows, self.at, self.topic.name))
    }
}

impl Stated {
    /// Why the values that were met are not what is stated. NULLs are counted once all rows were met.
    fn broken(&self, met: Option<(Bound, Bound)>, end: u64) -> Option<String> {
        if let Some((least, greatest)) = met {
            if self.nulls == Some(self.rows.end - self.rows.start) {
                return Some("all are NULL, and one is not".into());
            }
            if let Some(stated) = self.least.as_ref().filter(|stated| least < **stated) {
                return Some(format!("none is less than {}, and one is {}", told(stated), told(&least)));
            }
            if let Some(stated) = self.greatest.as_ref().filter(|stated| greatest > **stated) {
                return Some(format!("none is greater than {}, and one is {}", told(stated), told(&greatest)));
            }
        }
        let nulls = self.nulls.filter(|nulls| end == self.rows.end && *nulls != self.met)?;
        Some(format!("{nulls} are NULL, and {} are", self.met))
    }
}

fn told(bound: &Bound) -> String {
    match bound {
        Bound::Int(value) => value.to_string(),
        Bound::Decimal(unscaled) => format!("{unscaled} (unscaled)"),
        Bound::Text(text) => format!("{text:?}"),
    }
}
