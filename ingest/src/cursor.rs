//! What a snapshot says that was not known: the rows to publish are exactly those that turn the last known snapshot into this one.
//!
//! Pure: the rows of one whole page and the states that earlier pages left (topic `state`) go in, the rows to publish and the states to set in
//! the same transaction come out.
//!
//! ```text
//! price map    price changed ──► new, revision + 1     only its words (mode) changed ──► restate, same interval     gone ──► cancel
//! usage page   figure changed ──► restate              figures of other periods stay: a page is a part of a report, not all of it
//! ```

use crate::Error;
use crate::source::Bad;
use crate::sources::prices::withheld;
use arrow::array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Int32Type, Int64Type};
use bytes::Bytes;
use chrono::DateTime;
use schemas::{Family, Rows};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The parsers whose pages are compared with what was last known: their chunks go through [`decide`].
pub const SNAPSHOT_PARSERS: &[&str] = &["openai-usage/1", "anthropic-usage/1", "litellm-prices/1", "openrouter/1"];

/// What to publish of a page.
#[derive(Debug)]
pub struct Decision {
    /// New, restated and cancelled rows, with `change`, `revision`, `supersedes` and the interval set.
    pub batch: RecordBatch,
    /// States to set in the same transaction.
    pub states: Vec<(String, Bytes)>,
    /// Rows that say what was known.
    pub unchanged: usize,
    /// Prices that vanished; their rows are in the batch.
    pub cancelled: usize,
}

/// How the rows of a family are compared.
struct Rules {
    /// Columns whose change is a change of the figure.
    values: &'static [&'static str],
    /// Columns whose change is a change of words.
    words: &'static [&'static str],
    /// The column that says when the page was what it is; NULL = not known.
    observed: &'static str,
    /// A page is all there is: what it lacks has vanished, and rows say in which interval they took effect.
    whole: bool,
    /// What a changed figure is called.
    changed: &'static str,
}

const PRICES: Rules = Rules { values: &["price", "currency"], words: &["mode"], observed: "effective_by", whole: true, changed: "new" };
const USAGE: Rules = Rules {
    values: &["tokens", "requests", "input_reported", "qualifier"],
    words: &[],
    observed: "ts_recv",
    whole: false,
    changed: "restate",
};

fn rules(family: Family) -> Option<&'static Rules> {
    match family {
        Family::PriceList => Some(&PRICES),
        Family::TokenUsage => Some(&USAGE),
        _ => None,
    }
}

/// What is known of one business key. Times are ns UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Known {
    revision: i32,
    values: Vec<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    words: Vec<Value>,
    /// The interval in which the standing price took effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<i64>,
    /// The last page that showed it, where that is not the dataset's last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seen: Option<i64>,
    /// The price vanished.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    gone: bool,
}

/// The last page of a dataset, and the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Pages {
    last: i64,
    before: Option<i64>,
}

/// Compares the rows of one page with what is known (`known`: the whole topic `state`). `bad` are the page's bad records: a price that is
/// one of them has not vanished. Rows of families that are not compared pass as they are. `file` names the page in errors.
pub fn decide(family: Family, rows: &RecordBatch, bad: &[Bad], known: &HashMap<String, Bytes>, file: &str) -> Result<Decision, Error> {
    let Some(rules) = rules(family).filter(|_| rows.num_rows() > 0) else {
        return Ok(Decision { batch: rows.clone(), states: vec![], unchanged: 0, cancelled: 0 });
    };
    let dataset = rows.column(family.topic().column("dataset")).as_string::<i32>().value(0).to_string();
    let prefix = format!("{}/{dataset}", family.topic().name);
    let observed = observed(family, rules, rows);
    let earlier: Option<Pages> = known.get(&prefix).map(|state| read_state(&prefix, state, file)).transpose()?;
    if let (true, Some(Pages { last, .. }), Some(observed)) = (rules.whole, earlier, observed)
        && observed < last
    {
        return Err(older(file, &format!("{dataset} is known as of {}", print_time(last)), observed));
    }
    let before = match (earlier, observed) {
        (Some(pages), Some(observed)) if observed == pages.last => pages.before,
        (earlier, _) => earlier.map(|pages| pages.last),
    };
    let mut page = Comparison { family, rules, prefix, file, known, observed, before, set: HashMap::new(), order: vec![], unchanged: 0 };
    let kept = page.compare(rows)?;
    let cancelled = if rules.whole { page.vanished(&withheld(bad))? } else { vec![] };
    let batch = concat_batches(family.topic().wire_schema(), &[page.kept_rows(rows, &kept)?, page.cancel_rows(rows, &cancelled)?]);
    let batch = batch.map_err(|e| build_error(family, &e))?;
    Ok(Decision { batch, unchanged: page.unchanged, cancelled: cancelled.len(), states: page.states(earlier) })
}

/// A comparison under way.
struct Comparison<'a> {
    family: Family,
    rules: &'a Rules,
    prefix: String,
    file: &'a str,
    known: &'a HashMap<String, Bytes>,
    observed: Option<i64>,
    /// The page before this one.
    before: Option<i64>,
    /// States to set, and the order in which they came up.
    set: HashMap<String, Known>,
    order: Vec<String>,
    unchanged: usize,
}

/// A row to publish.
struct Kept {
    row: usize,
    verdict: Verdict,
}

/// What a row that says something new is published as.
struct Verdict {
    change: &'static str,
    state: Known,
    reason: Option<String>,
}

impl Comparison<'_> {
    fn compare(&mut self, rows: &RecordBatch) -> Result<Vec<Kept>, Error> {
        let topic = self.family.topic();
        let columns = |names: &[&str]| -> Vec<ArrayRef> { names.iter().map(|name| rows.column(topic.column(name)).clone()).collect() };
        let (keys, values, words) = (columns(topic.business_key), columns(self.rules.values), columns(self.rules.words));
        let row_of = |columns: &[ArrayRef], row| -> Vec<Value> { columns.iter().map(|column| cell(column, row)).collect() };
        let mut kept = Vec::new();
        for row in 0..rows.num_rows() {
            let key = self.key(row_of(&keys, row));
            let standing = self.standing(&key)?;
            let now = Known {
                revision: standing.as_ref().map_or(0, |known| known.revision.saturating_add(1)),
                values: row_of(&values, row),
                words: row_of(&words, row),
                after: standing.as_ref().and_then(|known| known.seen.or(self.before)).filter(|_| self.rules.whole),
                by: self.observed.or(standing.as_ref().and_then(|known| known.by)),
                seen: None,
                gone: false,
            };
            match self.judge(&key, standing, now)? {
                Some(verdict) => kept.push(Kept { row, verdict }),
                None => self.unchanged += 1,
            }
        }
        Ok(kept)
    }

    /// What a row is, measured by what stands under its key; `None` = it says nothing new.
    fn judge(&mut self, key: &str, standing: Option<Known>, now: Known) -> Result<Option<Verdict>, Error> {
        let Some(standing) = standing else {
            self.set(key, now.clone());
            return Ok(Some(Verdict { change: "new", state: now, reason: None }));
        };
        if standing.gone || standing.values != now.values {
            let change = if self.rules.whole { "new" } else { self.refuse_older(key, &standing)? };
            self.set(key, now.clone());
            return Ok(Some(Verdict { change, state: now, reason: None }));
        }
        if standing.words != now.words {
            let reason = format!("{} was {}", self.rules.words.join(", "), Value::from(standing.words));
            let now = Known { after: standing.after, by: standing.by, ..now };
            self.set(key, now.clone());
            return Ok(Some(Verdict { change: "restate", state: now, reason: Some(reason) }));
        }
        // A later capture that says the same makes the knowledge younger; a price that was hidden is seen again.
        let by = if self.rules.whole { standing.by } else { standing.by.max(self.observed) };
        if standing.by != by || standing.seen.is_some() || self.set.contains_key(key) {
            self.set(key, Known { by, seen: None, ..standing });
        } else {
            self.order.push(key.to_string());
        }
        Ok(None)
    }

    /// A figure that an older capture contradicts stays: which of two captures without a time is younger, their order says.
    fn refuse_older(&self, key: &str, standing: &Known) -> Result<&'static str, Error> {
        match (standing.by, self.observed) {
            (Some(last), Some(observed)) if observed < last => {
                Err(older(self.file, &format!("{key} is known as of {}", print_time(last)), observed))
            }
            _ => Ok(self.rules.changed),
        }
    }

    /// The keys that the page lacks: those that vanished, with their last state. What a bad record hides is only marked as unseen.
    fn vanished(&mut self, withheld: &HashSet<String>) -> Result<Vec<(String, Known)>, Error> {
        let shown: HashSet<&String> = self.order.iter().collect();
        let here = format!("{}/[", self.prefix);
        let mut missing: Vec<String> = self.known.keys().filter(|key| key.starts_with(&here) && !shown.contains(key)).cloned().collect();
        missing.sort();
        let mut vanished = vec![];
        for key in missing {
            let Some(standing) = self.standing(&key)?.filter(|known| !known.gone) else { continue };
            let seen = standing.seen.or(self.before);
            if self.key_cells(&key)?.get("model").and_then(Value::as_str).is_some_and(|model| withheld.contains(model)) {
                self.set(&key, Known { seen, ..standing });
                continue;
            }
            let gone =
                Known { revision: standing.revision.saturating_add(1), after: seen, by: self.observed, seen: None, gone: true, ..standing };
            self.set(&key, gone.clone());
            vanished.push((key, gone));
        }
        Ok(vanished)
    }

    fn key(&self, cells: Vec<Value>) -> String {
        format!("{}/{}", self.prefix, Value::from(cells))
    }

    /// The columns of a state's key.
    fn key_cells(&self, key: &str) -> Result<HashMap<&'static str, Value>, Error> {
        let cells: Vec<Value> = read_state(key, &Bytes::copy_from_slice(&key.as_bytes()[self.prefix.len() + 1..]), self.file)?;
        Ok(self.family.topic().business_key.iter().copied().zip(cells).collect())
    }

    fn standing(&self, key: &str) -> Result<Option<Known>, Error> {
        match self.set.get(key) {
            Some(known) => Ok(Some(known.clone())),
            None => self.known.get(key).map(|state| read_state(key, state, self.file)).transpose(),
        }
    }

    fn set(&mut self, key: &str, state: Known) {
        self.order.push(key.to_string());
        self.set.insert(key.to_string(), state);
    }

    /// The page's rows that say something new, as they will be published.
    fn kept_rows(&self, rows: &RecordBatch, kept: &[Kept]) -> Result<RecordBatch, Error> {
        let topic = self.family.topic();
        let fault = |e| build_error(self.family, &e);
        let batch = take_record_batch(rows, &UInt64Array::from_iter_values(kept.iter().map(|kept| kept.row as u64))).map_err(fault)?;
        let given = batch.column(topic.column("reason")).as_string::<i32>().clone();
        let reason = kept.iter().zip(given.iter()).map(|(kept, given)| kept.verdict.reason.as_deref().or(given));
        let mut columns = batch.columns().to_vec();
        let mut replace = |name: &str, array: ArrayRef| columns[topic.column(name)] = array;
        replace("reason", Arc::new(StringArray::from_iter(reason)));
        replace("change", Arc::new(StringArray::from_iter_values(kept.iter().map(|kept| kept.verdict.change))));
        replace("revision", Arc::new(Int32Array::from_iter_values(kept.iter().map(|kept| kept.verdict.state.revision))));
        replace("supersedes", Arc::new(Int32Array::from_iter(kept.iter().map(|kept| superseded(&kept.verdict.state)))));
        if self.rules.whole {
            replace("effective_after", Arc::new(Int64Array::from_iter(kept.iter().map(|kept| kept.verdict.state.after))));
            replace("effective_by", Arc::new(Int64Array::from_iter(kept.iter().map(|kept| kept.verdict.state.by))));
        }
        RecordBatch::try_new(topic.wire_schema().clone(), columns).map_err(fault)
    }

    /// One row per vanished price: what it was a price of, and in which interval it vanished. They stand behind the page's own records.
    fn cancel_rows(&self, rows: &RecordBatch, cancelled: &[(String, Known)]) -> Result<RecordBatch, Error> {
        let column = |name| self.family.topic().column(name);
        let records = rows.column(column("source_record")).as_primitive::<Int64Type>();
        let first = 1 + records.iter().flatten().max().unwrap_or(-1);
        let mut cancels = Rows::new(self.family);
        for (number, (key, state)) in (first..).zip(cancelled) {
            // Of the page: everything that all its rows share.
            for name in ["dataset", "schema", "source_id", "licence", "ts_publish", "ts_recv", "date", "doc_sha256"] {
                copy_cell(&mut cancels, column(name), rows.column(column(name)));
            }
            for (name, value) in self.key_cells(key)?.into_iter().chain(self.rules.words.iter().copied().zip(state.words.clone())) {
                match value {
                    Value::String(text) => cancels.text(column(name), &text),
                    Value::Number(number) => number.as_i64().into_iter().for_each(|number| cancels.i64(column(name), number)),
                    Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {}
                }
            }
            if let Some(currency) = state.values.get(1).and_then(Value::as_str) {
                cancels.text(column("currency"), currency);
            }
            cancels.text(column("change"), "cancel");
            cancels.text(column("reason"), "no longer listed");
            cancels.i32(column("revision"), state.revision);
            superseded(state).into_iter().for_each(|revision| cancels.i32(column("supersedes"), revision));
            state.after.into_iter().for_each(|time| cancels.i64(column("effective_after"), time));
            state.by.into_iter().for_each(|time| cancels.i64(column("effective_by"), time));
            cancels.i64(column("source_record"), number);
            cancels.i64(column("source_byte"), 0);
            cancels.end_row();
        }
        Ok(cancels.finish()?)
    }

    /// The states to set, the dataset's own first.
    fn states(mut self, earlier: Option<Pages>) -> Vec<(String, Bytes)> {
        let mut states = vec![];
        let pages = self.observed.filter(|_| self.rules.whole).map(|last| Pages { last, before: self.before });
        if let Some(pages) = pages.filter(|pages| earlier != Some(*pages)) {
            states.push((self.prefix.clone(), write_state(&pages)));
        }
        for key in std::mem::take(&mut self.order) {
            if let Some(known) = self.set.remove(&key) {
                states.push((key, write_state(&known)));
            }
        }
        states
    }
}

fn superseded(state: &Known) -> Option<i32> {
    state.revision.checked_sub(1).filter(|revision| *revision >= 0)
}

fn observed(family: Family, rules: &Rules, rows: &RecordBatch) -> Option<i64> {
    let column = rows.column(family.topic().column(rules.observed)).as_primitive::<Int64Type>();
    column.is_valid(0).then(|| column.value(0))
}

/// A cell as JSON that compares exactly: decimals as the digits of their unscaled value.
fn cell(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Decimal128(..) => column.as_primitive::<Decimal128Type>().value(row).to_string().into(),
        other => unreachable!("no compared column is a {other}"),
    }
}

/// Copies row 0 of a column to the current row.
fn copy_cell(rows: &mut Rows, at: usize, column: &ArrayRef) {
    if column.is_null(0) {
        return;
    }
    match column.data_type() {
        DataType::Utf8 => rows.text(at, column.as_string::<i32>().value(0)),
        DataType::Int64 => rows.i64(at, column.as_primitive::<Int64Type>().value(0)),
        DataType::Date32 => rows.date(at, column.as_primitive::<Date32Type>().value(0)),
        DataType::Binary => rows.bytes(at, column.as_binary::<i32>().value(0)),
        other => unreachable!("no shared column is a {other}"),
    }
}

fn read_state<T: serde::de::DeserializeOwned>(key: &str, state: &Bytes, file: &str) -> Result<T, Error> {
    serde_json::from_slice(state).map_err(|e| Error::Input {
        file: file.into(),
        what: format!("what is known of {key} (topic state) cannot be read: {e}"),
        todo: "the topic was written by another version or damaged: run tape doctor".into(),
    })
}

fn write_state<T: Serialize>(state: &T) -> Bytes {
    serde_json::to_vec(state).expect("numbers and text are always JSON").into()
}

fn older(file: &str, known: &str, observed: i64) -> Error {
    Error::Input {
        file: file.into(),
        what: format!("it is of {}, but {known}: an older page cannot say what is new", print_time(observed)),
        todo: "ingest the pages of a dataset in the order of their times, or give this one a dataset of its own with --dataset".into(),
    }
}

fn print_time(ns: i64) -> String {
    DateTime::from_timestamp_nanos(ns).to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

fn build_error(family: Family, e: &arrow::error::ArrowError) -> Error {
    schemas::Error::Build { topic: family.topic().name, why: e.to_string() }.into()
}

#[cfg(test)]
mod tests;
