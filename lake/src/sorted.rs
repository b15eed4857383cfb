//! Are the rows of a file in the order that its footer states? Queries trust it, and do not sort again.

use arrow::array::RecordBatch;
use arrow::compute::{LexicographicalComparator, SortColumn, SortOptions, concat_batches};
use arrow::error::ArrowError;
use parquet::file::metadata::ParquetMetaData;
use std::cmp::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The order that one row group states, held against its rows as they come.
pub(crate) struct Sorted {
    by: Vec<(String, SortOptions)>,
    group: usize,
    file: Arc<Mutex<Edges>>,
    first: Option<RecordBatch>,
    last: Option<RecordBatch>,
}

/// What the row groups of a file know of each other.
struct Edges {
    /// The first and the last row of each that was read to its end.
    ends: Vec<Option<(RecordBatch, RecordBatch)>>,
    /// Whether it was said that the file is not sorted: once is enough.
    told: bool,
}

impl Sorted {
    /// For each row group of a file; nothing is held against one that states no order.
    pub(crate) fn of(footer: &ParquetMetaData) -> Vec<Sorted> {
        let file = Arc::new(Mutex::new(Edges { ends: vec![None; footer.num_row_groups()], told: false }));
        let columns = footer.file_metadata().schema_descr();
        let stated = |group: usize| -> Vec<(String, SortOptions)> {
            let sorted = footer.row_group(group).sorting_columns().into_iter().flatten();
            let column = |at: i32| usize::try_from(at).ok().filter(|at| *at < columns.num_columns()).map(|at| columns.column(at));
            let by = sorted.map_while(|by| {
                let options = SortOptions { descending: by.descending, nulls_first: by.nulls_first };
                Some((column(by.column_idx)?.name().to_string(), options))
            });
            by.collect()
        };
        let sorted = |group| Sorted { by: stated(group), group, file: file.clone(), first: None, last: None };
        (0..footer.num_row_groups()).map(sorted).collect()
    }

    /// What the next rows break.
    pub(crate) fn hold(&mut self, rows: &RecordBatch) -> Result<Option<String>, ArrowError> {
        if self.by.is_empty() || rows.num_rows() == 0 {
            return Ok(None);
        }
        let inside = first_break(&self.by, rows)?;
        let edge = self.last.as_ref().map(|last| follows(&self.by, last, rows)).transpose()?.unwrap_or(true);
        self.first.get_or_insert_with(|| rows.slice(0, 1));
        self.last = Some(rows.slice(rows.num_rows() - 1, 1));
        Ok((inside.is_some() || !edge).then(|| self.tell(&mut self.edges())).flatten())
    }

    /// What the end of the row group says beside its neighbours.
    pub(crate) fn end(&mut self) -> Result<Option<String>, ArrowError> {
        let Some(own) = self.first.take().zip(self.last.take()) else { return Ok(None) };
        let mut edges = self.edges();
        let before = self.group.checked_sub(1).and_then(|before| edges.ends[before].as_ref());
        let after = edges.ends.get(self.group + 1).and_then(Option::as_ref);
        let before = before.map(|(_, last)| follows(&self.by, last, &own.0)).transpose()?.unwrap_or(true);
        let after = after.map(|(first, _)| follows(&self.by, &own.1, first)).transpose()?.unwrap_or(true);
        edges.ends[self.group] = Some(own);
        Ok((!(before && after)).then(|| self.tell(&mut edges)).flatten())
    }

    fn edges(&self) -> MutexGuard<'_, Edges> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, edges: &mut Edges) -> Option<String> {
        if std::mem::replace(&mut edges.told, true) {
            return None;
        }
        let by: Vec<&str> = self.by.iter().map(|(name, _)| name.as_str()).collect();
        Some(format!("its footer states that its rows are sorted by {}, and they are not", by.join(", ")))
    }
}

fn keys(by: &[(String, SortOptions)], rows: &RecordBatch) -> Vec<SortColumn> {
    let column = |(name, options): &(String, SortOptions)| {
        rows.column_by_name(name).map(|values| SortColumn { values: values.clone(), options: Some(*options) })
    };
    by.iter().filter_map(column).collect()
}

/// The first row that comes before the one before it.
fn first_break(by: &[(String, SortOptions)], rows: &RecordBatch) -> Result<Option<usize>, ArrowError> {
    let keys = keys(by, rows);
    if keys.is_empty() {
        return Ok(None);
    }
    let comparator = LexicographicalComparator::try_new(&keys)?;
    Ok((1..rows.num_rows()).find(|row| comparator.compare(row - 1, *row) == Ordering::Greater))
}

/// Does the first of `rows` come after the one row of `last`?
fn follows(by: &[(String, SortOptions)], last: &RecordBatch, rows: &RecordBatch) -> Result<bool, ArrowError> {
    let both = concat_batches(last.schema_ref(), [last, &rows.slice(0, 1)])?;
    Ok(first_break(by, &both)?.is_none())
}
