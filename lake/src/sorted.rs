//! Are the rows of a file in the order that its footer states? Queries trust it, and do not sort again.

use arrow::array::RecordBatch;
use arrow::compute::{LexicographicalComparator, SortColumn, SortOptions, concat_batches};
use arrow::error::ArrowError;
use parquet::file::metadata::ParquetMetaData;
use std::cmp::Ordering;
use std::sync::{Arc, Mutex};

/// The order that one row group states, held against its rows as they come.
pub(crate) struct Sorted {
    by: Vec<(String, SortOptions)>,
    group: usize,
    edges: Edges,
    first: Option<RecordBatch>,
    last: Option<RecordBatch>,
}

/// The first and the last row of each row group of a file that was read to its end.
type Edges = Arc<Mutex<Vec<Option<(RecordBatch, RecordBatch)>>>>;

impl Sorted {
    /// For each row group of a file; nothing is held against one that states no order.
    pub(crate) fn of(footer: &ParquetMetaData) -> Vec<Sorted> {
        let edges: Edges = Arc::new(Mutex::new(vec![None; footer.num_row_groups()]));
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
        let sorted = |group| Sorted { by: stated(group), group, edges: edges.clone(), first: None, last: None };
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
        match inside.is_some() || !edge {
            true => Ok(Some(self.told())),
            false => Ok(None),
        }
    }

    /// What the end of the row group says beside its neighbours.
    pub(crate) fn end(&mut self) -> Result<Option<String>, ArrowError> {
        let Some(own) = self.first.take().zip(self.last.take()) else { return Ok(None) };
        let mut edges = self.edges.lock().expect("nothing that holds the edges can panic");
        let before = self.group.checked_sub(1).and_then(|before| edges[before].as_ref());
        let after = edges.get(self.group + 1).and_then(Option::as_ref);
        let before = before.map(|(_, last)| follows(&self.by, last, &own.0)).transpose()?.unwrap_or(true);
        let after = after.map(|(first, _)| follows(&self.by, &own.1, first)).transpose()?.unwrap_or(true);
        edges[self.group] = Some(own);
        Ok((!(before && after)).then(|| self.told()))
    }

    fn told(&self) -> String {
        let by: Vec<&str> = self.by.iter().map(|(name, _)| name.as_str()).collect();
        format!("its footer states that its rows are sorted by {}, and they are not", by.join(", "))
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
