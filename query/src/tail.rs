//! The hot tail: rows that the log has and the tables have not yet, in memory, so that a query sees them beside the files of one version.
//!
//! Whoever follows the log ([`Tail::begin`], [`Tail::start`], [`Tail::append`]) gives every record of a partition from some offset on, in order.
//! A query freezes the tail together with the catalog it reads; of each partition it shows the rows from the cut on, the next offset that the
//! version of the table does not have. So files and tail meet without a gap and without a row twice, however far either of them is.
//!
//! What is held is bounded. Where there is no room, nothing more is taken until a version of the table has what is held, and
//! [`Tail::behind`] says so; a query then shows less of the newest, never a gap between older and newer rows of a partition.

use crate::table::sql_schema;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{cast, concat, take};
use arrow::datatypes::{DataType, Int32Type, Int64Type, SchemaRef};
use arrow::error::ArrowError;
use datafusion::catalog::Session;
use schemas::Family;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Small pieces are joined up to so many rows: what engines take at a time.
const CHUNK_ROWS_MAX: usize = 8192;

/// The log that is followed: for every family the transactions of its table, by partition, that say how far each is stored.
pub type Followed = BTreeMap<Family, Vec<String>>;

/// A partition of a family's topic.
pub type Place = (Family, i32);

/// Rows of the log beyond the tables. Shared between the one who fills it and the engine.
pub struct Tail {
    held: Mutex<Held>,
    /// Told when rows were taken in or let go.
    changed: Condvar,
    bytes_max: usize,
}

#[derive(Default)]
struct Held {
    followed: Option<Arc<Followed>>,
    lanes: BTreeMap<Place, Lane>,
    bytes: usize,
    behind: Option<String>,
    /// Why the log may have what was not taken, by whoever compares the two.
    late: Option<String>,
    /// Somebody has begun to fill it, and has not been at the log's end yet.
    beginning: bool,
}

/// One partition.
struct Lane {
    /// First offset that is held, or would be.
    from: i64,
    /// Next offset to take.
    next: i64,
    /// The end of the log was reached, and nothing came since.
    at_end: bool,
    /// Moves with every piece that comes, and every end that is reached.
    moves: u64,
    chunks: Arc<Vec<Arc<Chunk>>>,
}

/// How far a partition is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// First offset that is held, or would be.
    pub from: i64,
    /// Next offset to take.
    pub next: i64,
    /// The end of the log was reached, and nothing came since.
    pub at_end: bool,
    /// Moves with every piece that comes, and every end that is reached.
    pub moves: u64,
}

/// Rows of one partition, in the order of their offsets.
#[derive(Debug)]
struct Chunk {
    offsets: Int64Array,
    /// In the order of the family's SQL columns; `None` is NULL throughout.
    columns: Vec<Option<ArrayRef>>,
    bytes: usize,
}

/// The tail as it was when a query began. Nothing changes in it.
#[derive(Clone, Default)]
pub(crate) struct Moment {
    lanes: BTreeMap<Place, Arc<Vec<Arc<Chunk>>>>,
}

/// What a moment has of one family, to be compared with what another has: it is the same as long as nothing was taken in or let go between them.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeldOf(Vec<(Place, Arc<Vec<Arc<Chunk>>>)>);

impl PartialEq for HeldOf {
    fn eq(&self, other: &HeldOf) -> bool {
        let same = |(one, other): (&(Place, _), &(Place, _))| one.0 == other.0 && Arc::ptr_eq(&one.1, &other.1);
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }
}

impl Tail {
    /// An empty one that holds at most about so many bytes.
    pub fn new(bytes_max: usize) -> Tail {
        Tail { held: Mutex::default(), changed: Condvar::new(), bytes_max }
    }

    /// From now on this log is followed. What is held of the same one stays, what was held of another is let go.
    pub fn begin(&self, followed: Followed) {
        let mut held = self.held();
        if held.followed.as_deref() != Some(&followed) {
            held.let_go();
            held.followed = Some(Arc::new(followed));
        }
    }

    /// No log is followed any more, and nothing is held.
    pub fn end(&self) {
        let mut held = self.held();
        held.let_go();
        held.followed = None;
    }

    /// Gives the offset from which on rows of a partition are to come: where it goes on, or for one that is not held, or of which more is held
    /// than the log has now, `cut`. That must be the cut of the engine's catalog, or before it.
    pub fn start(&self, place: Place, cut: i64, end: i64) -> i64 {
        let mut held = self.held();
        if let Some(lane) = held.lanes.get(&place).filter(|lane| lane.next <= end.max(cut)) {
            return lane.next;
        }
        held.drop_lane(place);
        held.lanes.insert(place, Lane { from: cut, next: cut, at_end: false, moves: 0, chunks: Arc::default() });
        cut
    }

    /// A partition is no longer held.
    pub fn drop(&self, place: Place) {
        self.held().drop_lane(place);
    }

    /// Takes the good rows among all records of a partition up to `next`, in the order of their offsets. A column that `rows` lacks is NULL.
    pub fn append(&self, place: Place, next: i64, rows: &RecordBatch) -> Result<(), ArrowError> {
        let chunk = Chunk::of(place.0, rows)?;
        let mut held = self.held();
        let Some(lane) = held.lanes.get_mut(&place) else { return Ok(()) };
        lane.next = lane.next.max(next);
        lane.at_end = false;
        lane.moves += 1;
        if chunk.rows() > 0 {
            let added = lane.push(chunk)?;
            held.bytes = held.bytes.saturating_add_signed(added);
        }
        drop(held);
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until there is room for more, at most so long; gives whether there is.
    pub fn has_room(&self, patience: Duration) -> bool {
        let full = |held: &mut Held| held.bytes >= self.bytes_max;
        let waited = self.changed.wait_timeout_while(self.held(), patience, full);
        !waited.expect("nothing that holds the tail can panic").1.timed_out()
    }

    /// The log's end was reached: every record of a partition before this offset was taken, though the last of them may be none.
    pub fn read_to_end(&self, place: Place, next: i64) {
        if let Some(lane) = self.held().lanes.get_mut(&place) {
            lane.next = lane.next.max(next);
            lane.at_end = true;
            lane.moves += 1;
        }
    }

    /// How far each partition is held.
    pub fn reached(&self) -> BTreeMap<Place, Reached> {
        let reached = |lane: &Lane| Reached { from: lane.from, next: lane.next, at_end: lane.at_end, moves: lane.moves };
        self.held().lanes.iter().map(|(place, lane)| (*place, reached(lane))).collect()
    }

    /// Bytes that are held.
    pub fn bytes(&self) -> usize {
        self.held().bytes
    }

    /// Bytes that may be held.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Says that somebody begins to fill it: until the log's end was reached, or trouble was met, the newest records are not here.
    pub fn say_beginning(&self) {
        let mut held = self.held();
        held.behind = Some("the log has not been read to its end yet".into());
        held.beginning = true;
    }

    /// Says why the newest records are not all here, or with `None` that they are.
    pub fn say_behind(&self, why: Option<String>) {
        let mut held = self.held();
        held.behind = why;
        held.beginning = false;
        drop(held);
        self.changed.notify_all();
    }

    /// Says why the log may have records that were not taken though nothing is known to be wrong, or with `None` that it has none.
    pub fn say_late(&self, why: Option<String>) {
        self.held().late = why;
    }

    /// Waits until whoever began to fill it has been at the log's end or met trouble, at most so long.
    pub fn wait_for_beginning(&self, patience: Duration) {
        let waited = self.changed.wait_timeout_while(self.held(), patience, |held| held.beginning);
        drop(waited.expect("nothing that holds the tail can panic"));
    }

    /// Why a query may not see the newest records of the log; `None` where it does.
    pub fn behind(&self) -> Option<String> {
        let held = self.held();
        held.behind.clone().or_else(|| held.late.clone())
    }

    /// The log that is followed.
    pub(crate) fn followed(&self) -> Option<Arc<Followed>> {
        self.held().followed.clone()
    }

    /// Everything that is held now.
    pub(crate) fn freeze(&self) -> Moment {
        let held = self.held();
        let lanes = held.lanes.iter().filter(|(_, lane)| !lane.chunks.is_empty());
        Moment { lanes: lanes.map(|(place, lane)| (*place, lane.chunks.clone())).collect() }
    }

    /// Lets go what the tables have: queries that begin from now on cut there; nothing where it is not known. A table that has gone back behind
    /// what is held leaves a hole, so its partition is no longer held.
    pub(crate) fn trim(&self, cut: impl Fn(Place) -> Option<i64>) {
        let mut held = self.held();
        let mut freed = 0;
        let mut gone_back = Vec::new();
        for (place, lane) in &mut held.lanes {
            let Some(cut) = cut(*place) else { continue };
            if cut < lane.from {
                gone_back.push(*place);
                continue;
            }
            freed += lane.trim(cut);
        }
        if !gone_back.is_empty() {
            held.behind = Some("a table went back to an older version: the newest records are read again".into());
        }
        for place in gone_back {
            held.drop_lane(place);
        }
        held.bytes -= freed;
        drop(held);
        self.changed.notify_all();
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("nothing that holds the tail can panic")
    }
}

impl Held {
    fn let_go(&mut self) {
        self.lanes.clear();
        self.bytes = 0;
    }

    fn drop_lane(&mut self, place: Place) {
        if let Some(lane) = self.lanes.remove(&place) {
            self.bytes -= lane.chunks.iter().map(|chunk| chunk.bytes).sum::<usize>();
        }
    }
}

impl Lane {
    /// Adds a chunk, joined with those before it as long as they are small and not much larger; so a row is copied a few times at most.
    /// Gives by how many bytes the lane has grown.
    fn push(&mut self, mut chunk: Chunk) -> Result<isize, ArrowError> {
        let chunks = Arc::make_mut(&mut self.chunks);
        let mut grown = 0;
        while let Some(last) = chunks.last() {
            if last.rows() > 2 * chunk.rows() || last.rows() + chunk.rows() > CHUNK_ROWS_MAX {
                break;
            }
            chunk = Chunk::joined(last, &chunk)?;
            grown -= signed(last.bytes);
            chunks.pop();
        }
        grown += signed(chunk.bytes);
        chunks.push(Arc::new(chunk));
        Ok(grown)
    }

    /// Gives the bytes that were let go.
    fn trim(&mut self, cut: i64) -> usize {
        let stored = self.chunks.partition_point(|chunk| chunk.last() < cut);
        self.from = self.from.max(cut);
        self.next = self.next.max(cut);
        if stored == 0 {
            return 0;
        }
        Arc::make_mut(&mut self.chunks).drain(..stored).map(|chunk| chunk.bytes).sum()
    }
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).expect("memory is smaller than half the address space")
}

impl Chunk {
    fn of(family: Family, rows: &RecordBatch) -> Result<Chunk, ArrowError> {
        let schema = sql_schema(family);
        let column = |field: &Arc<arrow::datatypes::Field>| match rows.column_by_name(field.name()) {
            Some(column) if column.null_count() < column.len() => plain(column, field.data_type()).map(Some),
            Some(_) | None => Ok(None),
        };
        let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>, _>>()?;
        let offsets = rows.column_by_name("_offset").ok_or_else(|| ArrowError::SchemaError("rows of the log without _offset".into()))?;
        let offsets = plain(offsets, &DataType::Int64)?.as_primitive::<Int64Type>().clone();
        Ok(Chunk::sized(offsets, columns))
    }

    fn sized(offsets: Int64Array, columns: Vec<Option<ArrayRef>>) -> Chunk {
        let bytes = columns.iter().flatten().map(|column| column.get_array_memory_size()).sum::<usize>() + offsets.get_array_memory_size();
        Chunk { offsets, columns, bytes }
    }

    fn joined(first: &Chunk, second: &Chunk) -> Result<Chunk, ArrowError> {
        let column = |(one, other): (&Option<ArrayRef>, &Option<ArrayRef>)| {
            let of = match one.as_ref().or(other.as_ref()) {
                Some(column) => column.data_type().clone(),
                None => return Ok(None),
            };
            let whole = |column: &Option<ArrayRef>, rows| column.clone().unwrap_or_else(|| new_null_array(&of, rows));
            concat(&[&whole(one, first.rows()), &whole(other, second.rows())]).map(Some)
        };
        let columns = first.columns.iter().zip(&second.columns).map(column).collect::<Result<Vec<_>, ArrowError>>()?;
        let offsets = concat(&[&first.offsets, &second.offsets])?.as_primitive::<Int64Type>().clone();
        Ok(Chunk::sized(offsets, columns))
    }

    fn rows(&self) -> usize {
        self.offsets.len()
    }

    fn last(&self) -> i64 {
        self.offsets.values().last().copied().unwrap_or(i64::MIN)
    }

    /// The rows from an offset on, with these columns of the family.
    fn from(&self, cut: i64, columns: &[usize], schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        let first = self.offsets.values().partition_point(|offset| *offset < cut);
        let rows = self.rows() - first;
        let column = |(at, field): (&usize, &Arc<arrow::datatypes::Field>)| match &self.columns[*at] {
            Some(column) => column.slice(first, rows),
            None => new_null_array(field.data_type(), rows),
        };
        let columns = columns.iter().zip(schema.fields()).map(column).collect();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(schema.clone(), columns, &options)
    }
}

/// A column as SQL shows it: of its type, every value spelled out.
fn plain(column: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, ArrowError> {
    let spelled = match column.data_type() {
        DataType::RunEndEncoded(..) => {
            let runs = column.as_run_opt::<Int32Type>().ok_or_else(|| ArrowError::CastError("runs are counted by Int32 here".into()))?;
            let physical = |row| u32::try_from(runs.get_physical_index(row)).expect("runs are counted by Int32");
            take(runs.values(), &UInt32Array::from_iter_values((0..runs.len()).map(physical)), None)?
        }
        _ => column.clone(),
    };
    if spelled.data_type() == wanted { Ok(spelled) } else { cast(&spelled, wanted) }
}

impl Moment {
    /// The moment that a session's query began at; nothing is held where none was set.
    pub(crate) fn of(state: &dyn Session) -> Arc<Moment> {
        state.config().get_extension().unwrap_or_default()
    }

    /// What it has of one family.
    pub(crate) fn held_of(&self, family: Family) -> HeldOf {
        HeldOf(self.lanes_of(family).map(|(place, chunks)| (*place, chunks.clone())).collect())
    }

    fn lanes_of(&self, family: Family) -> impl Iterator<Item = (&Place, &Arc<Vec<Arc<Chunk>>>)> {
        self.lanes.range((family, i32::MIN)..=(family, i32::MAX))
    }

    /// How many rows of a family it has from the cut of each partition on; none of those where it is not known.
    pub(crate) fn count(&self, family: Family, cut: impl Fn(i32) -> Option<i64>) -> u64 {
        let beyond = |chunk: &Arc<Chunk>, cut| (chunk.rows() - chunk.offsets.values().partition_point(|offset| *offset < cut)) as u64;
        let of = |((_, partition), chunks): (&Place, &Arc<Vec<Arc<Chunk>>>)| {
            let cut = cut(*partition)?;
            Some(chunks.iter().map(|chunk| beyond(chunk, cut)).sum::<u64>())
        };
        self.lanes_of(family).filter_map(of).sum()
    }

    /// The rows of a family from the cut of each partition on, with these columns, `schema`, of the family.
    pub(crate) fn rows(
        &self,
        family: Family,
        cut: impl Fn(i32) -> i64,
        columns: &[usize],
        schema: &SchemaRef,
    ) -> Result<Vec<RecordBatch>, ArrowError> {
        let mut batches = Vec::new();
        for ((_, partition), chunks) in self.lanes_of(family) {
            let cut = cut(*partition);
            for chunk in chunks.iter().filter(|chunk| chunk.last() >= cut) {
                batches.push(chunk.from(cut, columns, schema)?);
            }
        }
        Ok(batches)
    }
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held();
        write!(f, "{} bytes of {} partitions, behind: {:?}", held.bytes, held.lanes.len(), held.behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Array, StringArray};
    use arrow::datatypes::{Field, Schema};
    use proptest::prelude::*;

    const PLACE: Place = (Family::Trades, 3);

    fn rows(offsets: &[i64]) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("symbol", DataType::Utf8, true),
            Field::new("_partition", DataType::Int32, true),
            Field::new("_offset", DataType::Int64, true),
        ]);
        let symbol = offsets.iter().map(|offset| (offset % 3 > 0).then(|| format!("S{offset}")));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(symbol.collect::<StringArray>()),
            Arc::new(Int32Array::from(vec![PLACE.1; offsets.len()])),
            Arc::new(Int64Array::from(offsets.to_vec())),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    /// The offsets of the rows that are shown; the symbol of each is what it was.
    fn shown(moment: &Moment, cut: i64) -> Vec<i64> {
        let schema = sql_schema(Family::Trades);
        let columns = ["symbol", "_offset"].map(|name| schema.index_of(name).unwrap());
        let batches = moment.rows(Family::Trades, |_| cut, &columns, &Arc::new(schema.project(&columns).unwrap())).unwrap();
        let rows = |batch: &RecordBatch| {
            let offsets = batch["_offset"].as_primitive::<Int64Type>().values().to_vec();
            let symbols = batch["symbol"].as_string::<i32>().iter().map(|symbol| symbol.map(String::from));
            for (offset, symbol) in offsets.iter().zip(symbols) {
                assert_eq!(symbol, (offset % 3 > 0).then(|| format!("S{offset}")));
            }
            offsets
        };
        batches.iter().flat_map(rows).collect()
    }

    proptest! {
        /// However records come in pieces, and however far the table is when, what is shown is every record from the cut on, once.
        #[test]
        fn from_the_cut_on_every_row_once(steps in prop::collection::vec((0..40usize, 1..4i64, any::<bool>()), 1..60), salt in 0..1000i64) {
            let tail = Tail::new(usize::MAX);
            tail.begin(Followed::new());
            tail.start(PLACE, 0, 0);
            let (mut next, mut cut, mut all) = (0, 0, Vec::new());
            let mut earlier: Vec<(Moment, i64, Vec<i64>)> = Vec::new();
            for (count, step, stored) in steps {
                let offsets: Vec<i64> = (0..count as i64).map(|i| next + i * step).collect();
                next = offsets.last().map_or(next, |last| last + 1);
                tail.append(PLACE, next, &rows(&offsets)).unwrap();
                all.extend(offsets);
                if stored {
                    cut += (next - cut) * (salt % 7) / 6;
                    tail.trim(|_| Some(cut));
                }
                let wanted: Vec<i64> = all.iter().copied().filter(|offset| *offset >= cut).collect();
                let moment = tail.freeze();
                prop_assert_eq!(&shown(&moment, cut), &wanted);
                earlier.push((moment, cut, wanted));
            }
            // Who began earlier still sees what was there then.
            for (moment, cut, wanted) in earlier {
                prop_assert_eq!(shown(&moment, cut), wanted);
            }
            tail.trim(|_| Some(next));
            prop_assert_eq!(tail.bytes(), 0);
        }
    }

    #[test]
    fn a_table_that_went_back_leaves_no_hole() {
        let tail = Tail::new(usize::MAX);
        tail.start(PLACE, 10, 10);
        tail.append(PLACE, 12, &rows(&[10, 11])).unwrap();
        tail.trim(|_| Some(9));
        assert_eq!((tail.reached(), tail.bytes()), (BTreeMap::new(), 0));
        tail.append(PLACE, 13, &rows(&[12])).unwrap();
        assert_eq!(shown(&tail.freeze(), 9), Vec::<i64>::new());
    }

    #[test]
    fn there_is_room_again_when_the_table_has_the_rows() {
        let tail = Tail::new(1);
        tail.start(PLACE, 0, 0);
        assert!(tail.has_room(Duration::ZERO));
        tail.append(PLACE, 2, &rows(&[0, 1])).unwrap();
        assert!(!tail.has_room(Duration::ZERO));
        tail.trim(|_| Some(2));
        assert!(tail.has_room(Duration::ZERO));
    }
}
