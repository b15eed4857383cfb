//! How a family lies in its Delta table: column types, table properties, statistics columns, partition values and their paths.

use crate::Error;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType as ArrowType, Date32Type};
use chrono::NaiveDate;
use deltalake_core::kernel::{DataType, PrimitiveType, StructField, StructType};
use schemas::{Field, Kind, Topic};
use std::fmt::Write;

/// First day that a `date` partition can name: 0001-01-01, in days since 1970-01-01.
pub const DATE_MIN: i32 = -719_162;
/// Last day that a `date` partition can name: 9999-12-31, in days since 1970-01-01.
pub const DATE_MAX: i32 = 2_932_896;

/// Versions of the log are kept, and removed files named, for as long as an auditor may ask.
const AUDIT_HORIZON: &str = "interval 3650 days";
/// For how long checkpoints name removed files: upkeep sets it to the audit horizon.
pub const REMOVED_FILES_KEPT: &str = "delta.deletedFileRetentionDuration";
/// Table versions between two checkpoints. Readers replay at most this many log entries.
pub const CHECKPOINT_INTERVAL: u64 = 100;

/// The columns of a family's Delta table.
pub fn delta_fields(topic: &Topic) -> Vec<StructField> {
    topic
        .stored_fields()
        .iter()
        .map(|field| {
            let comment = if field.unit.is_empty() { field.doc.to_string() } else { format!("{} [{}]", field.doc, field.unit) };
            StructField::new(field.name.as_ref(), delta_type(field.kind), !field.required).with_metadata([("comment", comment)])
        })
        .collect()
}

fn delta_type(kind: Kind) -> DataType {
    match kind {
        Kind::Text => PrimitiveType::String.into(),
        Kind::I32 => PrimitiveType::Integer.into(),
        Kind::I64 | Kind::Time => PrimitiveType::Long.into(),
        Kind::Date => PrimitiveType::Date.into(),
        Kind::Bool => PrimitiveType::Boolean.into(),
        Kind::Bytes => PrimitiveType::Binary.into(),
        Kind::U64 | Kind::Price | Kind::Tokens | Kind::Amount | Kind::Factor => {
            let (precision, scale) = kind.decimal().expect("these five kinds are decimals");
            DataType::decimal(precision, scale.unsigned_abs()).expect("no kind has more than 38 digits")
        }
    }
}

/// Table properties, with the reasons in decisions and in the constants above.
pub fn properties(topic: &Topic) -> Vec<(String, Option<String>)> {
    let stats: Vec<String> = stats_fields(topic).iter().map(|field| field.name.to_string()).collect();
    [
        ("delta.appendOnly", "true".to_string()),
        ("delta.checkpointInterval", CHECKPOINT_INTERVAL.to_string()),
        ("delta.logRetentionDuration", AUDIT_HORIZON.to_string()),
        (REMOVED_FILES_KEPT, AUDIT_HORIZON.to_string()),
        ("delta.enableExpiredLogCleanup", "false".to_string()),
        ("delta.dataSkippingStatsColumns", stats.join(",")),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_string(), Some(value)))
    .collect()
}

/// A length of time as Delta's properties spell it.
pub fn interval(length: std::time::Duration) -> String {
    match length.as_secs() {
        seconds if seconds.is_multiple_of(86_400) => format!("interval {} days", seconds / 86_400),
        seconds => format!("interval {seconds} seconds"),
    }
}

/// The columns whose least and greatest value the log holds for every file: the sort key, all clocks and dates, where the row stood in
/// the log, and prices (of a book only the best level).
pub fn stats_fields(topic: &Topic) -> Vec<Field> {
    let named = ["symbol", "schema", "instrument_id", "sequence", "_partition", "_offset"];
    topic
        .stored_fields()
        .into_iter()
        .filter(|field| !topic.partition_by.contains(&field.name.as_ref()))
        .filter(|field| match field.kind {
            Kind::Time | Kind::Date => true,
            Kind::Price => !is_deep_level(&field.name),
            Kind::Text | Kind::I32 | Kind::I64 => {
                let name = field.name.as_ref();
                named.contains(&name) || topic.sort_key.contains(&name)
            }
            Kind::U64 | Kind::Tokens | Kind::Amount | Kind::Factor | Kind::Bool | Kind::Bytes => false,
        })
        .collect()
}

fn is_deep_level(name: &str) -> bool {
    name.rsplit_once('_').is_some_and(|(_, level)| level.len() == 2 && level != "00" && level.bytes().all(|b| b.is_ascii_digit()))
}

/// The columns that the table does not have yet; an error where one of the table's own is not what this version knows.
pub fn missing_columns(topic: &'static Topic, url: &str, table: &StructType, partition_by: &[String]) -> Result<Vec<StructField>, Error> {
    let wrong = |column: &str, why: String| Error::Column { table: topic.name, url: url.to_string(), column: column.to_string(), why };
    if partition_by != topic.partition_by {
        return Err(wrong(
            &topic.partition_by.join(", "),
            format!(
                "should partition the table, which is partitioned by ({}): it was made by another program; use other tables",
                partition_by.join(", ")
            ),
        ));
    }
    let ours = delta_fields(topic);
    let mut missing = Vec::new();
    for field in &ours {
        match table.field(field.name()) {
            Some(theirs) if theirs.data_type() == field.data_type() => {}
            Some(theirs) => {
                let why = format!(
                    "is {}, and should be {}: the table was changed by another program; use other tables",
                    theirs.data_type(),
                    field.data_type()
                );
                return Err(wrong(field.name(), why));
            }
            None if field.is_nullable() => missing.push(field.clone()),
            None => {
                return Err(wrong(
                    field.name(),
                    "is missing, and every row must have it: this is not a table of tape; use other tables".into(),
                ));
            }
        }
    }
    if let Some(extra) = table.fields().find(|theirs| !ours.iter().any(|field| field.name() == theirs.name())) {
        return Err(wrong(extra.name(), "is not known: the table was written by a newer version of tape; use that version".into()));
    }
    Ok(missing)
}

/// The text of a partition value as Delta writes it, `None` for NULL. An error says why a value cannot name a partition.
pub fn partition_value(column: &ArrayRef, row: usize) -> Result<Option<String>, String> {
    if column.is_null(row) {
        return Ok(None);
    }
    match column.data_type() {
        ArrowType::Utf8 => match column.as_string::<i32>().value(row) {
            "" => Err("is empty text, which Delta cannot tell from NULL".into()),
            text => Ok(Some(text.to_string())),
        },
        ArrowType::Date32 => {
            let days = column.as_primitive::<Date32Type>().value(row);
            date_text(days).map(Some).ok_or_else(|| format!("is day {days} since 1970-01-01, beyond the years 0001 to 9999"))
        }
        other => Err(format!("is a {other}, which never partitions a table")),
    }
}

/// `YYYY-MM-DD`, or `None` beyond the years 0001 to 9999.
pub fn date_text(days: i32) -> Option<String> {
    (DATE_MIN..=DATE_MAX).contains(&days).then(|| NaiveDate::from_epoch_days(days).map(|date| date.format("%Y-%m-%d").to_string()))?
}

/// Days since 1970-01-01 of a `YYYY-MM-DD`.
pub fn date_days(text: &str) -> Option<i32> {
    NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().map(|date| date.to_epoch_days())
}

/// The directory of a partition, as Hive names it: `dataset=XSGE.CTP/date=2018-10-09`. What is not a plain character is percent-encoded.
pub fn partition_path(values: &[(&'static str, Option<String>)]) -> String {
    values
        .iter()
        .map(|(column, value)| format!("{column}={}", value.as_deref().map_or("__HIVE_DEFAULT_PARTITION__".into(), escaped)))
        .collect::<Vec<_>>()
        .join("/")
}

fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => out.push(char::from(byte)),
            _ => write!(out, "%{byte:02X}").expect("writing to a String cannot fail"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::Family;

    #[test]
    fn paths_are_plain_ascii() {
        let values = [("dataset", Some("A B/ü%.X".to_string())), ("date", None)];
        assert_eq!(partition_path(&values), "dataset=A%20B%2F%C3%BC%25.X/date=__HIVE_DEFAULT_PARTITION__");
    }

    #[test]
    fn dates_hold_at_both_ends() {
        assert_eq!(date_text(DATE_MIN).as_deref(), Some("0001-01-01"));
        assert_eq!(date_text(DATE_MAX).as_deref(), Some("9999-12-31"));
        assert_eq!(date_text(DATE_MAX + 1), None);
        assert_eq!(date_text(DATE_MIN - 1), None);
        for days in [DATE_MIN, -1, 0, 17_813, DATE_MAX] {
            assert_eq!(date_days(&date_text(days).unwrap()), Some(days));
        }
    }

    #[test]
    fn a_book_has_statistics_of_its_best_level_only() {
        let names: Vec<String> = stats_fields(Family::Depth.topic()).iter().map(|f| f.name.to_string()).collect();
        assert!(names.iter().any(|n| n == "bid_px_00") && !names.iter().any(|n| n == "bid_px_01"), "{names:?}");
        assert!(!names.iter().any(|n| n == "date" || n == "dataset"));
    }

    #[test]
    fn every_sort_key_has_statistics() {
        for family in Family::ALL {
            let names: Vec<String> = stats_fields(family.topic()).iter().map(|f| f.name.to_string()).collect();
            for key in family.topic().sort_key {
                assert!(names.iter().any(|n| n == key), "{} of {}", key, family.topic().name);
            }
        }
    }
}
