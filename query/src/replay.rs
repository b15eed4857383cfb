//! A range of the history back out as events, in one stated order: the same range of the same records gives the same events, whatever was
//! compacted meanwhile.
//!
//! ```text
//!                 ┌ rows of a family, sorted ──────────────────┐                        ┌ lines.rs   JSON lines
//! Range, Order ──►│ its quarantined records, sorted            │──► merge.rs ──► Run ──►│ avro.rs    Avro files
//!                 └ … (DataFusion prunes, filters, sorts, spills)┘                      │ dbn.rs     the DBN file that it came from
//!                                                                                       └ records.rs to_log.rs, to_home.rs
//! ```
//!
//! A record that the store could not decode is in table `quarantine`, whole; it is a part of the history of the family that it was
//! published to, and comes where it stood in the log.

mod avro;
mod dbn;
mod known;
mod lines;
mod merge;
mod records;
mod to_home;
mod to_log;

pub use avro::{AvroFiles, write_avro};
pub use dbn::{DbnRows, Sink, Source, Written, dbn_sources, write_dbn};
pub use known::{Known, Stored};
pub use lines::write_lines;
pub use merge::Replay;
pub use to_home::{Lost, Restored, lost, restore};
pub use to_log::{Published, Target, publish};

use crate::Engine;
use crate::error::Error;
use crate::table::TapeTable;
use arrow::array::RecordBatch;
use arrow::compute::cast;
use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{Expr, SortExpr, col, lit};
use datafusion::prelude::SessionContext;
use schemas::Family;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows at a time of tables that hold raw bytes: each may have 64 MiB.
const RAW_ROWS_MAX: usize = 16;

/// Which clock a range of time is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// When it happened.
    TsEvent,
    /// When the capture received it.
    TsRecv,
    /// When the publisher made it public.
    TsPublish,
    /// When the log knew it.
    LogTs,
}

impl Clock {
    /// Its column.
    pub fn column(self) -> &'static str {
        match self {
            Clock::TsEvent => "ts_event",
            Clock::TsRecv => "ts_recv",
            Clock::TsPublish => "ts_publish",
            Clock::LogTs => "_log_ts",
        }
    }
}

/// In which order events come. Each is total: no two events share a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Family (in the order of the data dictionary), partition, offset.
    Log,
    /// `_log_ts`, family, partition, offset.
    Time,
    /// `source_id`, `source_record`, `source_byte`, family, partition, offset: the order of the original file.
    Source,
}

/// What of the history. A record whose column is NULL is in no range of that column.
#[derive(Debug, Clone)]
pub struct Range {
    /// Families, in the order of the data dictionary.
    pub families: Vec<Family>,
    /// Datasets; empty = all.
    pub datasets: Vec<String>,
    /// Symbols; empty = all, and those without one.
    pub symbols: Vec<String>,
    /// Sources; empty = all.
    pub sources: Vec<[u8; 16]>,
    /// Clock of `from` and `to`.
    pub clock: Clock,
    /// First nanosecond since 1970 UTC.
    pub from: Option<i64>,
    /// First nanosecond that is not in the range any more.
    pub to: Option<i64>,
    /// Partition of the topics.
    pub partition: Option<i32>,
    /// First offset.
    pub from_offset: Option<i64>,
    /// First offset that is not in the range any more.
    pub to_offset: Option<i64>,
    /// Documents are in it whatever their symbol and time: the headers of files.
    pub headers: bool,
    /// Only what stood in the log: not the rows of `gaps` that the store wrote of itself.
    pub placed: bool,
    /// Only what stood before these offsets, by family and partition; a family that is not named has nothing.
    pub before: Option<BTreeMap<(Family, i32), i64>>,
}

impl Range {
    /// Are records of a source left out by it?
    pub fn is_cut(&self) -> bool {
        let Range { symbols, from, to, partition, from_offset, to_offset, before, .. } = self;
        !symbols.is_empty()
            || from.is_some()
            || to.is_some()
            || partition.is_some()
            || from_offset.is_some()
            || to_offset.is_some()
            || before.is_some()
    }

    /// All that there is.
    pub fn all() -> Range {
        Range {
            families: Family::ALL.to_vec(),
            datasets: Vec::new(),
            symbols: Vec::new(),
            sources: Vec::new(),
            clock: Clock::LogTs,
            from: None,
            to: None,
            partition: None,
            from_offset: None,
            to_offset: None,
            headers: false,
            placed: false,
            before: None,
        }
    }

    /// As text that is the same for the same range: what a replay that goes on is known by.
    pub(crate) fn text(&self) -> String {
        let names: Vec<&str> = self.families.iter().map(|family| family.topic().name).collect();
        let Range { datasets, symbols, sources, clock, from, to, partition, from_offset, to_offset, .. } = self;
        format!("{names:?} {datasets:?} {symbols:?} {sources:?} {clock:?} {from:?} {to:?} {partition:?} {from_offset:?} {to_offset:?}")
    }
}

/// Neighbouring events of one table.
#[derive(Debug, Clone)]
pub struct Run {
    /// The family that they were published to.
    pub family: Family,
    /// True where the store could not decode them: then `rows` are those of table `quarantine`.
    pub quarantined: bool,
    /// The rows, in all columns of their table as SQL shows them.
    pub rows: RecordBatch,
}

impl Run {
    /// The table that the rows are of.
    pub fn table(&self) -> Family {
        if self.quarantined { Family::Quarantine } else { self.family }
    }

    /// The rows as they lie in the files: times as Int64.
    pub(crate) fn stored(&self) -> Result<RecordBatch, Error> {
        let schema = self.table().topic().stored_schema();
        let columns = self.rows.columns().iter().zip(schema.fields()).map(|(column, field)| cast(column, field.data_type()));
        let columns = columns.collect::<Result<_, _>>().and_then(|columns| RecordBatch::try_new(schema.clone(), columns));
        columns.map_err(|e| Error::Execution { doing: "reading the rows to be replayed", what: e.to_string() })
    }
}

/// One sorted stream of a replay, before it is begun.
pub(crate) struct Lane {
    pub(crate) family: Family,
    pub(crate) quarantined: bool,
    table: Arc<TapeTable>,
    filters: Vec<Expr>,
    sort: Vec<SortExpr>,
}

impl Lane {
    /// Begins to read and sort.
    pub(crate) async fn open(self, state: &SessionState) -> Result<SendableRecordBatchStream, Error> {
        let reading = |e| Error::from_engine("reading the rows to be replayed", e);
        let topic = self.table.family().topic();
        let state = match topic.max_message_bytes > schemas::topic::MESSAGE_BYTES_MAX {
            true => {
                let config = state.config().clone().with_batch_size(RAW_ROWS_MAX);
                SessionStateBuilder::new_from_existing(state.clone()).with_config(config).build()
            }
            false => state.clone(),
        };
        let mut rows = SessionContext::new_with_state(state).read_table(self.table).map_err(reading)?;
        for filter in self.filters {
            rows = rows.filter(filter).map_err(reading)?;
        }
        rows.sort(self.sort).map_err(reading)?.execute_stream().await.map_err(reading)
    }
}

impl Engine {
    /// Replays a range of the tables as they stood when the engine was opened or last refreshed.
    pub fn replay(&self, range: &Range, order: Order, known: &Known) -> Replay {
        let (catalog, state) = self.tables();
        let mut groups: Vec<Vec<Lane>> = Vec::new();
        for family in &range.families {
            let lanes = [false, true].into_iter().filter_map(|quarantined| {
                let table = catalog.tape(if quarantined { Family::Quarantine } else { *family });
                let filters = filters(range, *family, quarantined, known)?;
                (!table.is_empty()).then(|| Lane { family: *family, quarantined, table, filters, sort: sort(order, *family, quarantined) })
            });
            groups.push(lanes.collect());
        }
        // In the order of the log no family comes between the records of another one.
        let groups = if order == Order::Log { groups } else { vec![groups.into_iter().flatten().collect()] };
        Replay::new(groups, order, state)
    }
}

/// The columns that say where a row stood: its own, or those of the record that it holds.
pub(crate) fn place(quarantined: bool) -> (&'static str, &'static str) {
    if quarantined { ("origin_partition", "origin_offset") } else { ("_partition", "_offset") }
}

/// `None` where the lane can hold nothing.
fn filters(range: &Range, family: Family, quarantined: bool, known: &Known) -> Option<Vec<Expr>> {
    let (partition, offset) = place(quarantined);
    let mut filters = Vec::new();
    if quarantined {
        filters.push(col("_partition").is_null());
        filters.push(col("origin_topic").eq(lit(known.topic_name(family))));
        filters.push(col("origin_offset").is_not_null());
    } else if range.placed || family == Family::Quarantine {
        // What the store wrote to `quarantine` comes where it stood.
        filters.push(col("_partition").is_not_null());
    }
    let among = |name: &str, values: Vec<Expr>| (!values.is_empty()).then(|| col(name).in_list(values, false));
    filters.extend(among("dataset", range.datasets.iter().map(lit).collect()));
    let binary = |id: &[u8; 16]| lit(ScalarValue::Binary(Some(id.to_vec())));
    filters.extend(among("source_id", range.sources.iter().map(binary).collect()));
    if !(range.headers && family == Family::Documents) {
        filters.extend(among("symbol", range.symbols.iter().map(lit).collect()));
        let time = |ns: i64| lit(ScalarValue::TimestampNanosecond(Some(ns), Some("UTC".into())));
        let clock = col(range.clock.column());
        filters.extend(range.from.map(|from| clock.clone().gt_eq(time(from))));
        filters.extend(range.to.map(|to| clock.lt(time(to))));
    }
    filters.extend(range.partition.map(|wanted| col(partition).eq(lit(wanted))));
    filters.extend(range.from_offset.map(|from| col(offset).gt_eq(lit(from))));
    filters.extend(range.to_offset.map(|to| col(offset).lt(lit(to))));
    if let Some(before) = &range.before {
        let ends = before.iter().filter(|((of, _), end)| *of == family && **end > 0);
        let ends = ends.map(|((_, p), end)| col(partition).eq(lit(*p)).and(col(offset).lt(lit(*end))));
        filters.push(ends.reduce(Expr::or)?);
    }
    Some(filters)
}

fn sort(order: Order, family: Family, quarantined: bool) -> Vec<SortExpr> {
    let (partition, offset) = place(quarantined);
    let first: &[&str] = match order {
        Order::Log => &[],
        Order::Time => &["_log_ts"],
        Order::Source => &["source_id", "source_record", "source_byte"],
    };
    // What the store wrote to `gaps` has no place of its own; what it says of one tells its rows apart.
    let by_store: &[&str] = &["origin_topic", "origin_partition", "from_seq", "to_seq"];
    let last = if family == Family::Gaps && !quarantined { by_store } else { &[] };
    let names = [first, &[partition, offset], last].concat();
    names.into_iter().map(|name| col(name).sort(true, true)).collect()
}
