//! Sorted streams of different tables become one: always the least row that is left, as long runs as there are.

use super::{Lane, Order, Run, place};
use crate::error::Error;
use arrow::array::{ArrayRef, Int32Array, RecordBatch};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::session_state::SessionState;
use futures::StreamExt;
use futures::future::try_join_all;
use schemas::Family;
use std::sync::Arc;

/// The events of a range, one run after the other.
pub struct Replay {
    state: SessionState,
    order: Order,
    /// What is merged with each other, the first last.
    groups: Vec<Vec<Lane>>,
    open: Vec<Open>,
}

/// A stream with its next rows.
struct Open {
    family: Family,
    quarantined: bool,
    stream: SendableRecordBatchStream,
    rows: RecordBatch,
    keys: Rows,
    next: usize,
}

impl Replay {
    pub(super) fn new(mut groups: Vec<Vec<Lane>>, order: Order, state: SessionState) -> Replay {
        groups.reverse();
        Replay { state, order, groups, open: Vec::new() }
    }

    /// The next run; `None` at the end. Not to be dropped half-way and asked again.
    pub async fn next(&mut self) -> Result<Option<Run>, Error> {
        while self.open.is_empty() {
            let Some(group) = self.groups.pop() else { return Ok(None) };
            let opened = try_join_all(group.into_iter().map(|lane| open(lane, &self.state, self.order))).await?;
            self.open = opened.into_iter().flatten().collect();
        }
        let least = (0..self.open.len()).min_by_key(|at| self.open[*at].key(0)).expect("one is open");
        let others = self.open.iter().enumerate().filter(|(at, _)| *at != least);
        let lane = &self.open[least];
        let count = match others.map(|(_, other)| other.key(0)).min() {
            None => lane.left(),
            Some(other) => lane.less_than(other),
        };
        let lane = &mut self.open[least];
        let run = Run { family: lane.family, quarantined: lane.quarantined, rows: lane.rows.slice(lane.next, count) };
        lane.next += count;
        if lane.left() == 0 && !lane.fill(self.order).await? {
            self.open.remove(least);
        }
        Ok(Some(run))
    }
}

async fn open(lane: Lane, state: &SessionState, order: Order) -> Result<Option<Open>, Error> {
    let (family, quarantined) = (lane.family, lane.quarantined);
    let stream = lane.open(state).await?;
    let rows = RecordBatch::new_empty(stream.schema());
    let keys = keys(order, family, quarantined, &rows)?;
    let mut opened = Open { family, quarantined, stream, rows, keys, next: 0 };
    Ok(opened.fill(order).await?.then_some(opened))
}

impl Open {
    fn left(&self) -> usize {
        self.rows.num_rows() - self.next
    }

    fn key(&self, at: usize) -> arrow::row::Row<'_> {
        self.keys.row(self.next + at)
    }

    /// How many of the next rows come before `other`; the first one does.
    fn less_than(&self, other: arrow::row::Row<'_>) -> usize {
        let (mut less, mut not_less) = (0, self.left());
        while less < not_less {
            let middle = usize::midpoint(less, not_less);
            if self.key(middle) < other { less = middle + 1 } else { not_less = middle }
        }
        less.max(1)
    }

    /// Takes the next rows of the stream; false at its end.
    async fn fill(&mut self, order: Order) -> Result<bool, Error> {
        while let Some(rows) = self.stream.next().await {
            self.rows = rows.map_err(|e| Error::from_engine("reading the rows to be replayed", e))?;
            self.next = 0;
            if self.rows.num_rows() > 0 {
                self.keys = keys(order, self.family, self.quarantined, &self.rows)?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What each row is compared by: the order's columns, with the family in its place.
fn keys(order: Order, family: Family, quarantined: bool, rows: &RecordBatch) -> Result<Rows, Error> {
    let (partition, offset) = place(quarantined);
    let column = |name: &str| rows.column_by_name(name).cloned().expect("every table has it");
    let families: ArrayRef = Arc::new(Int32Array::from(vec![family as i32; rows.num_rows()]));
    let mut columns = match order {
        Order::Log => vec![],
        Order::Time => vec![column("_log_ts")],
        Order::Source => vec![column("source_id"), column("source_record"), column("source_byte")],
    };
    columns.extend([families, column(partition), column(offset)]);
    let fields = columns.iter().map(|column| SortField::new(DataType::clone(column.data_type()))).collect();
    let made = RowConverter::new(fields).and_then(|converter| converter.convert_columns(&columns));
    made.map_err(|e| Error::Execution { doing: "ordering what is replayed", what: e.to_string() })
}
