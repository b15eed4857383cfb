//! What the log states of a table's files, as the planner takes it: bounds of a column over all files, to prune files by, and the statistics of
//! one file.

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, ColumnStatistics, ScalarValue, Statistics};
use lake::{Bound, FileInfo};
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// The facts of all files of a table at one version.
pub(crate) struct Facts {
    /// The columns as SQL shows them.
    schema: SchemaRef,
    files: Vec<Arc<FileInfo>>,
    /// Partition columns, and their value in each of `files`.
    partitions: Vec<(String, Vec<ScalarValue>)>,
    rows: ArrayRef,
    /// Of each column of `schema`, made when a filter first asks for it; `None` where no file says anything.
    bounds: Vec<OnceLock<Option<Bounds>>>,
}

/// One column over all files; NULL = not known.
struct Bounds {
    least: ArrayRef,
    greatest: ArrayRef,
    nulls: ArrayRef,
}

impl Facts {
    pub(crate) fn new(schema: SchemaRef, files: Vec<Arc<FileInfo>>, partitions: Vec<(String, Vec<ScalarValue>)>) -> Facts {
        let rows = Arc::new(files.iter().map(|file| file.stats.rows).collect::<UInt64Array>());
        let bounds = schema.fields().iter().map(|_| OnceLock::new()).collect();
        Facts { schema, files, partitions, rows, bounds }
    }

    /// Rows of a file.
    pub(crate) fn rows(&self, file: usize) -> u64 {
        self.files[file].stats.rows.unwrap_or(0)
    }

    /// NULLs of a column of a file, where the log states them.
    pub(crate) fn nulls(&self, file: usize, column: &str) -> Option<u64> {
        self.files[file].stats.nulls.get(column).copied()
    }

    fn of(&self, column: &Column) -> Option<&Bounds> {
        let at = self.schema.index_of(&column.name).ok()?;
        self.bounds[at].get_or_init(|| self.gather(&column.name, self.schema.field(at).data_type())).as_ref()
    }

    fn gather(&self, column: &str, of: &DataType) -> Option<Bounds> {
        let unknown = ScalarValue::try_new_null(of).ok()?;
        let gathered = |value: &dyn Fn(usize) -> Option<ScalarValue>| {
            ScalarValue::iter_to_array((0..self.files.len()).map(|file| value(file).unwrap_or_else(|| unknown.clone()))).ok()
        };
        if let Some((_, values)) = self.partitions.iter().find(|(name, _)| name == column) {
            let value = gathered(&|file| Some(values[file].clone()))?;
            let nulls = self.files.iter().zip(values).map(|(file, value)| if value.is_null() { file.stats.rows } else { Some(0) });
            return Some(Bounds { least: value.clone(), greatest: value, nulls: Arc::new(nulls.collect::<UInt64Array>()) });
        }
        let nulls: UInt64Array = self.files.iter().map(|file| file.stats.nulls.get(column).copied()).collect();
        Some(Bounds {
            least: gathered(&|file| scalar(self.files[file].stats.min.get(column)?, of))?,
            greatest: gathered(&|file| scalar(self.files[file].stats.max.get(column)?, of))?,
            nulls: Arc::new(nulls),
        })
    }

    /// The statistics of one file, its columns in the order of `columns`.
    pub(crate) fn statistics(&self, file: usize, columns: &SchemaRef) -> Statistics {
        let stats = &self.files[file].stats;
        let precision = |value: Option<ScalarValue>, exact: bool| match (value, exact) {
            (None, _) => Precision::Absent,
            (Some(value), true) => Precision::Exact(value),
            (Some(value), false) => Precision::Inexact(value),
        };
        let column = |name: &String, of: &DataType| {
            let (least, greatest, nulls) = match self.partitions.iter().find(|(column, _)| column == name) {
                Some((_, values)) if values[file].is_null() => (None, None, stats.rows),
                Some((_, values)) => (Some(values[file].clone()), Some(values[file].clone()), Some(0)),
                None => {
                    let bound = |of_all: Option<&Bound>| of_all.and_then(|bound| scalar(bound, of));
                    (bound(stats.min.get(name)), bound(stats.max.get(name)), stats.nulls.get(name).copied())
                }
            };
            // Text is cut in the log.
            let exact = *of != DataType::Utf8;
            ColumnStatistics {
                null_count: nulls.and_then(|nulls| usize::try_from(nulls).ok()).map_or(Precision::Absent, Precision::Exact),
                min_value: precision(least, exact),
                max_value: precision(greatest, exact),
                ..ColumnStatistics::new_unknown()
            }
        };
        Statistics {
            num_rows: stats.rows.and_then(|rows| usize::try_from(rows).ok()).map_or(Precision::Absent, Precision::Exact),
            total_byte_size: Precision::Absent,
            column_statistics: columns.fields().iter().map(|field| column(field.name(), field.data_type())).collect(),
        }
    }
}

/// A bound as a value of the SQL type.
fn scalar(bound: &Bound, of: &DataType) -> Option<ScalarValue> {
    match (bound, of) {
        (Bound::Int(value), DataType::Int64) => Some(ScalarValue::Int64(Some(*value))),
        (Bound::Int(value), DataType::Int32) => i32::try_from(*value).ok().map(|value| ScalarValue::Int32(Some(value))),
        (Bound::Int(value), DataType::Date32) => i32::try_from(*value).ok().map(|value| ScalarValue::Date32(Some(value))),
        (Bound::Int(value), DataType::Timestamp(TimeUnit::Nanosecond, zone)) => {
            Some(ScalarValue::TimestampNanosecond(Some(*value), zone.clone()))
        }
        (Bound::Decimal(value), DataType::Decimal128(digits, scale)) => Some(ScalarValue::Decimal128(Some(*value), *digits, *scale)),
        (Bound::Text(text), DataType::Utf8) => Some(ScalarValue::Utf8(Some(text.clone()))),
        _ => None,
    }
}

impl PruningStatistics for Facts {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        Some(self.of(column)?.least.clone())
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        Some(self.of(column)?.greatest.clone())
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        Some(self.of(column)?.nulls.clone())
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(self.rows.clone())
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "facts of {} files", self.files.len())
    }
}
