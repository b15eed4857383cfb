//! File statistics as the Delta log holds them: exact. Decimals are digits, never floats; text is cut so that the bounds stay bounds.

use crate::layout;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::{max, max_boolean, max_string, min, min_boolean, min_string};
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Int32Type, Int64Type};
use schemas::{Field, Kind, Topic, exact};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::fmt::{self, Write};
use std::marker::PhantomData;

/// Longest text in statistics, in characters.
const TEXT_CHARS_MAX: usize = 32;

/// A bound of one column over one file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// An integer, a time in nanoseconds or a date in days.
    Int(i64),
    /// The unscaled value of a decimal.
    Decimal(i128),
    /// Text; a bound of the longer texts that it begins or follows.
    Text(String),
}

/// What the log says of a file's columns. A column that is absent from a map is not known there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rows in the file.
    pub rows: Option<u64>,
    /// Column → a value that none is less than; absent where the column is NULL throughout.
    pub min: HashMap<String, Bound>,
    /// Column → a value that none is greater than; absent where the column is NULL throughout, or no short text is great enough.
    pub max: HashMap<String, Bound>,
    /// Column → number of NULLs.
    pub nulls: HashMap<String, u64>,
    /// Why the text in the log could not be read as a whole; other readers may make something of it.
    pub unread: Option<String>,
}

impl Stats {
    /// Takes in the next values of a column.
    pub fn add(&mut self, name: &str, array: &ArrayRef) {
        *self.nulls.entry(name.to_string()).or_default() += array.null_count() as u64;
        let Some((least, greatest)) = bounds(array) else { return };
        widen(&mut self.min, name.to_string(), least, |new, old| new < old);
        widen(&mut self.max, name.to_string(), greatest, |new, old| new > old);
    }

    /// Takes in what another part of the file has; the number of rows stays.
    pub fn merge(&mut self, other: Stats) {
        for (name, count) in other.nulls {
            *self.nulls.entry(name).or_default() += count;
        }
        for (name, least) in other.min {
            widen(&mut self.min, name, least, |new, old| new < old);
        }
        for (name, greatest) in other.max {
            widen(&mut self.max, name, greatest, |new, old| new > old);
        }
    }

    /// The statistics as the text that an Add action carries.
    pub fn json(&self, fields: &[Field]) -> String {
        let mut out = format!("{{\"numRecords\":{}", self.rows.unwrap_or(0));
        let least = |field: &Field| self.min.get(field.name.as_ref()).and_then(|bound| bound_json(field.kind, bound, cut_down));
        let greatest = |field: &Field| self.max.get(field.name.as_ref()).and_then(|bound| bound_json(field.kind, bound, cut_up));
        let nulls = |field: &Field| self.nulls.get(field.name.as_ref()).map(u64::to_string);
        push_object(&mut out, "minValues", fields, least);
        push_object(&mut out, "maxValues", fields, greatest);
        push_object(&mut out, "nullCount", fields, nulls);
        out.push('}');
        out
    }

    /// Reads what [`Stats::json`], or another writer of Delta, wrote. What cannot be read exactly is as if it were absent: statistics only
    /// ever spare work.
    pub fn parse(topic: &Topic, json: &str) -> Stats {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Written<'a> {
            num_records: Option<u64>,
            #[serde(borrow, default)]
            min_values: Once<'a>,
            #[serde(borrow, default)]
            max_values: Once<'a>,
            #[serde(borrow, default)]
            null_count: Once<'a>,
        }
        if json.is_empty() {
            return Stats::default();
        }
        let written = match serde_json::from_str::<Written>(json) {
            Ok(written) => written,
            Err(e) => return Stats { unread: Some(e.to_string()), ..Stats::default() },
        };
        let kinds: HashMap<String, Kind> = topic.stored_fields().into_iter().map(|field| (field.name.to_string(), field.kind)).collect();
        let bounds = |values: Once| -> HashMap<String, Bound> {
            values
                .0
                .into_iter()
                .filter_map(|(name, value)| Some((bound(*kinds.get(&name)?, value.get())?, name)))
                .map(|(bound, name)| (name, bound))
                .collect()
        };
        Stats {
            rows: written.num_records,
            min: bounds(written.min_values),
            max: bounds(written.max_values),
            nulls: written.null_count.0.into_iter().filter_map(|(name, count)| Some((name, count.get().parse().ok()?))).collect(),
            unread: None,
        }
    }
}

/// An object each of whose names comes once: of two values one reader takes the first, another the last.
#[derive(Default)]
struct Once<'a>(HashMap<String, &'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Once<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Once<'a>, D::Error> {
        struct Names<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Names<'a> {
            type Value = Once<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Once<'a>, M::Error> {
                let mut values = HashMap::new();
                while let Some((name, value)) = map.next_entry::<String, &'a RawValue>()? {
                    if values.insert(name.clone(), value).is_some() {
                        return Err(M::Error::custom(format!("{name} comes twice")));
                    }
                }
                Ok(Once(values))
            }
        }
        from.deserialize_map(Names(PhantomData))
    }
}

fn widen(bounds: &mut HashMap<String, Bound>, name: String, new: Bound, wider: impl Fn(&Bound, &Bound) -> bool) {
    match bounds.get_mut(&name) {
        Some(old) if !wider(&new, old) => {}
        Some(old) => *old = new,
        None => drop(bounds.insert(name, new)),
    }
}

/// The least and the greatest value; `None` where all are NULL, or of a type that has no bounds. Of true and false false is less.
pub(crate) fn extent(array: &ArrayRef) -> Option<(Bound, Bound)> {
    match array.data_type() {
        DataType::Boolean => {
            let values = array.as_boolean();
            Some((Bound::Int(min_boolean(values)?.into()), Bound::Int(max_boolean(values)?.into())))
        }
        _ => bounds(array),
    }
}

fn bounds(array: &ArrayRef) -> Option<(Bound, Bound)> {
    macro_rules! primitive {
        ($type:ty, $bound:path, $wide:ty) => {{
            let values = array.as_primitive::<$type>();
            Some(($bound(<$wide>::from(min(values)?)), $bound(<$wide>::from(max(values)?))))
        }};
    }
    match array.data_type() {
        DataType::Int32 => primitive!(Int32Type, Bound::Int, i64),
        DataType::Int64 => primitive!(Int64Type, Bound::Int, i64),
        DataType::Date32 => primitive!(Date32Type, Bound::Int, i64),
        DataType::Decimal128(..) => primitive!(Decimal128Type, Bound::Decimal, i128),
        DataType::Utf8 => {
            let values = array.as_string::<i32>();
            Some((Bound::Text(min_string(values)?.to_string()), Bound::Text(max_string(values)?.to_string())))
        }
        _ => None,
    }
}

fn push_object(out: &mut String, name: &str, fields: &[Field], value: impl Fn(&Field) -> Option<String>) {
    write!(out, ",\"{name}\":{{").expect("writing to a String cannot fail");
    let mut first = true;
    for field in fields {
        let Some(value) = value(field) else { continue };
        let comma = if first { "" } else { "," };
        write!(out, "{comma}\"{}\":{value}", field.name).expect("writing to a String cannot fail");
        first = false;
    }
    out.push('}');
}

fn bound_json(kind: Kind, bound: &Bound, cut: impl Fn(&str) -> Option<String>) -> Option<String> {
    match bound {
        Bound::Int(days) if kind == Kind::Date => layout::date_text(i32::try_from(*days).ok()?).map(|text| format!("\"{text}\"")),
        Bound::Int(value) => Some(value.to_string()),
        Bound::Decimal(value) => {
            let (_, scale) = kind.decimal()?;
            Some(exact::print(*value, u32::from(scale.unsigned_abs())))
        }
        Bound::Text(text) => serde_json::to_string(&cut(text)?).ok(),
    }
}

fn bound(kind: Kind, json: &str) -> Option<Bound> {
    match kind {
        Kind::I32 | Kind::I64 | Kind::Time => json.parse().ok().map(Bound::Int),
        Kind::Date => layout::date_days(json.trim_matches('"')).map(|days| Bound::Int(i64::from(days))),
        Kind::U64 | Kind::Price | Kind::Tokens | Kind::Amount | Kind::Factor => {
            let (precision, scale) = kind.decimal()?;
            exact::parse(json, precision, u32::from(scale.unsigned_abs()), 0).ok().map(Bound::Decimal)
        }
        Kind::Text => serde_json::from_str(json).ok().map(Bound::Text),
        Kind::Bool | Kind::Bytes => None,
    }
}

/// The beginning of a text: never greater than the text.
fn cut_down(text: &str) -> Option<String> {
    Some(text.chars().take(TEXT_CHARS_MAX).collect())
}

/// A text that is no longer than allowed and not less than `text`: itself, or its beginning with the last character that can be raised
/// raised. `None` where none can.
fn cut_up(text: &str) -> Option<String> {
    let mut kept: Vec<char> = text.chars().take(TEXT_CHARS_MAX).collect();
    if kept.iter().map(|c| c.len_utf8()).sum::<usize>() == text.len() {
        return Some(text.to_string());
    }
    while let Some(last) = kept.pop() {
        if let Some(next) = next_char(last) {
            kept.push(next);
            return Some(kept.into_iter().collect());
        }
    }
    None
}

fn next_char(c: char) -> Option<char> {
    match u32::from(c) + 1 {
        0xD800 => Some('\u{E000}'),
        next => char::from_u32(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Date32Array, Decimal128Array, Int64Array, StringArray};
    use proptest::prelude::*;
    use schemas::Family;
    use std::sync::Arc;

    fn stats_of(columns: Vec<(&str, ArrayRef)>) -> Stats {
        let mut stats = Stats { rows: Some(columns[0].1.len() as u64), ..Stats::default() };
        for (name, array) in &columns {
            stats.add(name, array);
        }
        stats
    }

    #[test]
    fn decimals_are_exact_digits() {
        let prices = Decimal128Array::from(vec![Some(-999_999_999_999_999_999), None, Some(999_999_999_999_999_999)]);
        let stats = stats_of(vec![("price", Arc::new(prices.with_precision_and_scale(18, 9).unwrap()))]);
        let json = stats.json(&layout::stats_fields(Family::Trades.topic()));
        assert_eq!(
            json,
            r#"{"numRecords":3,"minValues":{"price":-999999999.999999999},"maxValues":{"price":999999999.999999999},"nullCount":{"price":1}}"#
        );
        assert_eq!(Stats::parse(Family::Trades.topic(), &json), stats);
    }

    #[test]
    fn what_is_written_reads_back() {
        let stats = stats_of(vec![
            ("ts_event", Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX)]))),
            ("trade_date", Arc::new(Date32Array::from(vec![-1, 17_813]))),
            ("symbol", Arc::new(StringArray::from(vec!["", "\"é\u{1F600}"]))),
            ("ts_publish", Arc::new(Int64Array::from(vec![None, None]))),
        ]);
        let json = stats.json(&layout::stats_fields(Family::Trades.topic()));
        assert_eq!(Stats::parse(Family::Trades.topic(), &json), stats);
        assert!(json.contains("\"trade_date\":\"1969-12-31\""), "{json}");
        assert!(!stats.min.contains_key("ts_publish") && stats.nulls["ts_publish"] == 2);
    }

    #[test]
    fn a_date_beyond_the_calendar_has_no_bound() {
        let stats = stats_of(vec![("trade_date", Arc::new(Date32Array::from(vec![i32::MAX])))]);
        let json = stats.json(&layout::stats_fields(Family::Trades.topic()));
        assert!(json.contains("\"minValues\":{}"), "{json}");
    }

    #[test]
    fn other_writers_statistics_do_not_break_reading() {
        for json in
            ["", "{}", r#"{"numRecords":"x"}"#, r#"{"numRecords":2,"minValues":{"price":1e3,"no_such":{"a":1}},"nullCount":{"a":{"b":1}}}"#]
        {
            let stats = Stats::parse(Family::Trades.topic(), json);
            assert!(stats.rows.is_none() || stats.min.get("price") == Some(&Bound::Decimal(1_000_000_000_000)));
        }
    }

    proptest! {
        #[test]
        fn cut_text_stays_a_bound(text in "\\PC{0,40}|[\u{10FFFE}\u{10FFFF}]{0,40}|[\u{D7FF}a]{30,36}") {
            let down = cut_down(&text).unwrap();
            prop_assert!(down <= text && down.chars().count() <= TEXT_CHARS_MAX);
            if let Some(up) = cut_up(&text) {
                prop_assert!(up >= text && up.chars().count() <= TEXT_CHARS_MAX);
            }
        }
    }
}
