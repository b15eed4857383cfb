//! Rows become the records that they were, each with the place where it stood.

use super::Run;
use crate::error::Error;
use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use schemas::record::{self, Record};

/// A record and its partition and offset.
pub(crate) type Placed = (i32, i64, Record);

/// The records of a run, in its order. Every row of it has a place.
pub(crate) fn records(run: &Run) -> Result<Vec<Placed>, Error> {
    let rows = run.stored()?;
    if run.quarantined {
        let records = record::rebuild_quarantined(&rows)?;
        return Ok(records.into_iter().map(|(_, partition, offset, record)| (partition, offset, record)).collect());
    }
    let topic = run.family.topic();
    let partition = rows.column(topic.column("_partition")).as_primitive::<Int32Type>();
    let offset = rows.column(topic.column("_offset")).as_primitive::<Int64Type>();
    let records = record::rebuild(run.family, &rows)?;
    Ok(records.into_iter().enumerate().map(|(row, record)| (partition.value(row), offset.value(row), record)).collect())
}
