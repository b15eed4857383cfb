//! Which currency and unit an instrument's prices have at a time: from the dated rows of `instruments` of the same moment, read when a query asks
//! and kept until they change; NULL where no row says.
//!
//! The rule, per (dataset, symbol) and per column: symbol mappings and cancelled definitions do not count; of a definition (kind, `valid_from`)
//! the highest revision stands; of the definitions that state the column, the one with the latest `valid_from` ≤ `ts_event` holds, unless
//! its `valid_to` has passed. A row without `ts_event` (a day bar) gets the value when all definitions agree on it.

use crate::table::TapeTable;
use crate::tail::{HeldOf, Moment};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimeUnit, TimestampNanosecondType};
use datafusion::catalog::Session;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, col, lit};
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use schemas::Family;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use tokio::sync::Mutex;

/// What of an instrument is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Unit {
    Currency,
    PriceUnit,
}

impl Unit {
    /// The column, the same in `instruments` and in the priced families.
    pub(crate) fn column(self) -> &'static str {
        match self {
            Unit::Currency => "currency",
            Unit::PriceUnit => "price_unit",
        }
    }
}

/// The units of the instruments of one catalog.
#[derive(Debug)]
pub(crate) struct InstrumentUnits {
    instruments: Arc<TapeTable>,
    /// The units that were asked for last, and the rows of the log that they follow from beside the table's files.
    kept: Mutex<Option<(HeldOf, Arc<DatedUnits>)>>,
}

/// The dated units of all instruments of one moment.
#[derive(Debug)]
pub(crate) struct DatedUnits {
    units: Units,
    /// Holds the memory until the last query that asks goes.
    _memory: MemoryReservation,
}

impl InstrumentUnits {
    /// Over this `instruments` table; nothing is read yet.
    pub(crate) fn new(instruments: Arc<TapeTable>) -> InstrumentUnits {
        InstrumentUnits { instruments, kept: Mutex::default() }
    }

    /// Those of the moment that a query began at: read anew where the last ones were of another.
    pub(crate) async fn at(&self, state: &dyn Session) -> Result<Arc<DatedUnits>> {
        let held = Moment::of(state).held_of(Family::Instruments);
        let mut kept = self.kept.lock().await;
        if let Some((of, units)) = &*kept
            && *of == held
        {
            return Ok(units.clone());
        }
        let units = Arc::new(self.read(state).await?);
        *kept = Some((held, units.clone()));
        Ok(units)
    }

    async fn read(&self, state: &dyn Session) -> Result<DatedUnits> {
        let state: &SessionState = state.as_any().downcast_ref().ok_or_else(|| DataFusionError::Internal("no session of ours".into()))?;
        let memory = MemoryConsumer::new("units of the instruments").register(&state.runtime_env().memory_pool);
        let context = SessionContext::new_with_state(state.clone());
        let definition = col("kind").is_null().or(col("kind").not_eq(lit("mapping")));
        let mut rows = context
            .read_table(self.instruments.clone())?
            .filter(col("symbol").is_not_null().and(definition))?
            .select_columns(&COLUMNS)?
            .execute_stream()
            .await?;
        let mut definitions = Definitions::default();
        while let Some(batch) = rows.next().await {
            definitions.add(&batch?)?;
            memory.try_resize(definitions.bytes())?;
        }
        let units = definitions.settle();
        memory.try_resize(units.bytes())?;
        Ok(DatedUnits { units, _memory: memory })
    }
}

impl DatedUnits {
    /// The function (dataset, symbol, ts_event) → unit.
    pub(crate) fn function(self: &Arc<Self>, unit: Unit) -> ScalarUDF {
        let asked = vec![DataType::Utf8, DataType::Utf8, DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))];
        ScalarUDF::from(InstrumentUnit { units: self.clone(), unit, signature: Signature::exact(asked, Volatility::Stable) })
    }
}

const COLUMNS: [&str; 11] =
    ["dataset", "symbol", "kind", "valid_from", "valid_to", "currency", "price_unit", "change", "revision", "_log_ts", "_offset"];

/// (dataset, symbol).
type Instrument = (u32, Box<str>);
/// Position in the list of names; 0 is no name.
type Name = u32;

/// One row of `instruments`, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Definition {
    valid_to: Option<i64>,
    currency: Name,
    price_unit: Name,
    cancelled: bool,
    /// The larger stands: revision, then the log's order.
    standing: (i32, Option<i64>, Option<i64>),
}

/// Names seen, each once.
#[derive(Debug, Default)]
struct Names {
    number: HashMap<Box<str>, Name>,
    text: Vec<Box<str>>,
}

impl Names {
    fn number(&mut self, name: Option<&str>) -> Name {
        let Some(name) = name else { return 0 };
        if let Some(number) = self.number.get(name) {
            return *number;
        }
        self.text.push(name.into());
        let number = u32::try_from(self.text.len()).expect("names of currencies, units, kinds and datasets are few");
        self.number.insert(name.into(), number);
        number
    }

    fn text(&self, number: Name) -> Option<&str> {
        self.text.get((number as usize).checked_sub(1)?).map(AsRef::as_ref)
    }
}

/// The rows of `instruments` while they are read: for every instrument, (valid_from, kind) → what stands.
#[derive(Debug, Default)]
struct Definitions {
    names: Names,
    of: HashMap<Instrument, BTreeMap<(i64, Name), Definition>>,
    count: usize,
}

impl Definitions {
    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let text = |name: &str| -> Result<StringArray> {
            let column = batch.column_by_name(name).ok_or_else(|| DataFusionError::Internal(format!("no column {name}")))?;
            Ok(cast(column, &DataType::Utf8)?.as_string::<i32>().clone())
        };
        let number = |name: &str| -> Result<Int64Array> {
            let column = batch.column_by_name(name).ok_or_else(|| DataFusionError::Internal(format!("no column {name}")))?;
            Ok(cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
        };
        let (dataset, symbol, kind, change) = (text("dataset")?, text("symbol")?, text("kind")?, text("change")?);
        let (currency, price_unit) = (text("currency")?, text("price_unit")?);
        let (valid_from, valid_to) = (number("valid_from")?, number("valid_to")?);
        let (log_ts, offset) = (number("_log_ts")?, number("_offset")?);
        let revision = batch.column(8).as_primitive::<Int32Type>();
        let cell = |array: &Int64Array, row: usize| array.is_valid(row).then(|| array.value(row));
        let name = |array: &'_ StringArray, row: usize| array.is_valid(row).then(|| array.value(row).to_string());
        for row in 0..batch.num_rows() {
            let instrument = (self.names.number(name(&dataset, row).as_deref()), symbol.value(row).into());
            let definition = Definition {
                valid_to: cell(&valid_to, row),
                currency: self.names.number(name(&currency, row).as_deref()),
                price_unit: self.names.number(name(&price_unit, row).as_deref()),
                cancelled: change.value(row) == "cancel",
                standing: (revision.value(row), cell(&log_ts, row), cell(&offset, row)),
            };
            let key = (cell(&valid_from, row).unwrap_or(i64::MIN), self.names.number(name(&kind, row).as_deref()));
            self.put(instrument, key, definition);
        }
        Ok(())
    }

    fn put(&mut self, instrument: Instrument, key: (i64, Name), definition: Definition) {
        let known = self.of.entry(instrument).or_default();
        match known.get_mut(&key) {
            Some(known) if known.standing > definition.standing => {}
            Some(known) => *known = definition,
            None => {
                known.insert(key, definition);
                self.count += 1;
            }
        }
    }

    fn bytes(&self) -> usize {
        self.of.len() * 160 + self.count * (size_of::<Definition>() + 32)
    }

    fn settle(self) -> Units {
        let mut of: HashMap<u32, HashMap<Box<str>, [Timeline; 2]>> = HashMap::new();
        for ((dataset, symbol), definitions) in self.of {
            let standing: Vec<(i64, Definition)> =
                definitions.into_iter().filter(|(_, definition)| !definition.cancelled).map(|((from, _), d)| (from, d)).collect();
            let timelines = [Timeline::of(&standing, |d| d.currency), Timeline::of(&standing, |d| d.price_unit)];
            of.entry(dataset).or_default().insert(symbol, timelines);
        }
        Units { names: self.names, of }
    }
}

/// The dated values of one column for one instrument, in order of time.
#[derive(Debug, Default, PartialEq, Eq)]
struct Timeline(Vec<Span>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    from: i64,
    to: Option<i64>,
    name: Name,
}

impl Timeline {
    /// From definitions in order of `valid_from`: those that say nothing are left out, those that repeat the one before are joined to it.
    fn of(definitions: &[(i64, Definition)], column: impl Fn(&Definition) -> Name) -> Timeline {
        let mut spans: Vec<Span> = Vec::new();
        for (from, definition) in definitions {
            let span = Span { from: *from, to: definition.valid_to, name: column(definition) };
            if span.name == 0 {
                continue;
            }
            match spans.last_mut() {
                Some(last) if last.from == span.from => *last = span,
                Some(last) if last.name == span.name && last.to.is_none_or(|to| to >= span.from) => last.to = span.to,
                _ => spans.push(span),
            }
        }
        Timeline(spans)
    }

    fn at(&self, time: i64) -> Name {
        let next = self.0.partition_point(|span| span.from <= time);
        match next.checked_sub(1).map(|i| self.0[i]) {
            Some(span) if span.to.is_none_or(|to| time < to) => span.name,
            _ => 0,
        }
    }

    /// The value, where it never was another.
    fn always(&self) -> Name {
        match self.0.first() {
            Some(first) if self.0.iter().all(|span| span.name == first.name) => first.name,
            _ => 0,
        }
    }
}

/// Dataset → symbol → currency and price unit over time.
#[derive(Debug)]
struct Units {
    names: Names,
    of: HashMap<u32, HashMap<Box<str>, [Timeline; 2]>>,
}

impl Units {
    fn of(&self, dataset: &str, symbol: &str, unit: Unit) -> Option<&Timeline> {
        let timelines = self.of.get(self.names.number.get(dataset)?)?.get(symbol)?;
        Some(match unit {
            Unit::Currency => &timelines[0],
            Unit::PriceUnit => &timelines[1],
        })
    }

    fn bytes(&self) -> usize {
        let spans = |timelines: &[Timeline; 2]| timelines.iter().map(|t| t.0.len() * size_of::<Span>()).sum::<usize>();
        self.of.values().flat_map(|symbols| symbols.values()).map(|timelines| 128 + spans(timelines)).sum()
    }

    fn column(&self, unit: Unit, dataset: &StringArray, symbol: &StringArray, time: &Int64Array) -> StringArray {
        let mut out = StringBuilder::new();
        // Rows come sorted by symbol: the instrument of the row before is most often the one of this row.
        let mut last: Option<(&str, &str, Option<&Timeline>)> = None;
        for row in 0..time.len() {
            if dataset.is_null(row) || symbol.is_null(row) {
                out.append_null();
                continue;
            }
            let (dataset, symbol) = (dataset.value(row), symbol.value(row));
            let timeline = match last {
                Some((d, s, timeline)) if d == dataset && s == symbol => timeline,
                _ => self.of(dataset, symbol, unit),
            };
            last = Some((dataset, symbol, timeline));
            let name = timeline.map_or(0, |timeline| match time.is_valid(row) {
                true => timeline.at(time.value(row)),
                false => timeline.always(),
            });
            out.append_option(self.names.text(name));
        }
        out.finish()
    }
}

/// The SQL function behind `currency` and `price_unit` of the priced families; only a plan of ours contains it.
#[derive(Debug)]
struct InstrumentUnit {
    units: Arc<DatedUnits>,
    unit: Unit,
    signature: Signature,
}

impl PartialEq for InstrumentUnit {
    fn eq(&self, other: &Self) -> bool {
        self.unit == other.unit && Arc::ptr_eq(&self.units, &other.units)
    }
}

impl Eq for InstrumentUnit {}

impl Hash for InstrumentUnit {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.unit, Arc::as_ptr(&self.units)).hash(state);
    }
}

impl ScalarUDFImpl for InstrumentUnit {
    fn name(&self) -> &str {
        match self.unit {
            Unit::Currency => "instrument_currency",
            Unit::PriceUnit => "instrument_price_unit",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays: Vec<ArrayRef> = ColumnarValue::values_to_arrays(&args.args)?;
        let time = arrays[2].as_primitive::<TimestampNanosecondType>().reinterpret_cast::<Int64Type>();
        let names = self.units.units.column(self.unit, arrays[0].as_string(), arrays[1].as_string(), &time);
        Ok(ColumnarValue::Array(Arc::new(names)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USD: Name = 1;
    const CNY: Name = 2;

    fn definition(valid_to: Option<i64>, currency: Name) -> Definition {
        Definition { valid_to, currency, price_unit: 0, cancelled: false, standing: (0, None, None) }
    }

    fn timeline(definitions: &[(i64, Option<i64>, Name)]) -> Timeline {
        let definitions: Vec<_> = definitions.iter().map(|(from, to, name)| (*from, definition(*to, *name))).collect();
        Timeline::of(&definitions, |d| d.currency)
    }

    #[test]
    fn the_definition_with_the_latest_start_holds_until_its_end() {
        let t = timeline(&[(10, None, USD), (20, Some(30), CNY)]);
        assert_eq!([9, 10, 19, 20, 29, 30].map(|time| t.at(time)), [0, USD, USD, CNY, CNY, 0]);
    }

    #[test]
    fn a_definition_that_does_not_state_the_unit_replaces_nothing() {
        let t = timeline(&[(10, None, USD), (20, None, 0), (30, None, CNY)]);
        assert_eq!([10, 25, 30].map(|time| t.at(time)), [USD, USD, CNY]);
    }

    #[test]
    fn daily_repetitions_take_no_room() {
        let t = timeline(&[(10, Some(20), USD), (20, Some(30), USD), (30, None, USD)]);
        assert_eq!(t, timeline(&[(10, None, USD)]));
        let with_hole = timeline(&[(10, Some(20), USD), (25, None, USD)]);
        assert_eq!([19, 20, 24, 25].map(|time| with_hole.at(time)), [USD, 0, 0, USD]);
    }

    #[test]
    fn without_a_time_only_what_never_changed_is_known() {
        assert_eq!(timeline(&[(10, Some(20), USD), (25, None, USD)]).always(), USD);
        assert_eq!(timeline(&[(10, None, USD), (20, None, CNY)]).always(), 0);
        assert_eq!(timeline(&[]).always(), 0);
    }

    #[test]
    fn the_highest_revision_stands_and_a_cancelled_definition_does_not() {
        let mut definitions = Definitions::default();
        let usd = definitions.names.number(Some("USD"));
        let cny = definitions.names.number(Some("CNY"));
        let dataset = definitions.names.number(Some("SYN.XNYM"));
        let revised = |revision, currency, cancelled| Definition {
            valid_to: None,
            currency,
            price_unit: 0,
            cancelled,
            standing: (revision, Some(0), Some(0)),
        };
        definitions.put((dataset, "A".into()), (0, 0), revised(1, usd, false));
        definitions.put((dataset, "A".into()), (0, 0), revised(0, cny, false));
        definitions.put((dataset, "A".into()), (50, 0), revised(0, cny, false));
        definitions.put((dataset, "A".into()), (50, 0), revised(1, cny, true));
        let units = definitions.settle();
        let a = units.of("SYN.XNYM", "A", Unit::Currency).unwrap();
        assert_eq!((a.at(0), a.at(60), a.at(-1)), (usd, usd, 0));
        assert!(units.of("SYN.XNYM", "B", Unit::Currency).is_none());
        assert!(units.of("SYN.XSGE", "A", Unit::Currency).is_none());
    }
}
