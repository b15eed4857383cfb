//! What a row must be beside the record that is made of it again: whatever of it the record does not hold follows from the record, or is fixed.
//! Otherwise a row could say one thing to whoever queries it, and another to whoever proves it.

use super::claims::Claims;
use crate::decode;
use crate::record::{self, NS_PER_MS};
use arrow::array::{Array, AsArray, RecordBatch, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Int32Type, Int64Type};
use eventlog::Event;
use schemas::{Error, Family, Topic, frame};
use std::collections::HashMap;

/// A row that is not what it must be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: &'static str,
    /// Where it stands, as far as it says.
    pub(super) partition: Option<i32>,
    pub(super) offset: Option<i64>,
    pub(super) what: String,
}

/// The rows of a table as the checks see them.
struct Looked<'a> {
    family: Family,
    topic: &'static Topic,
    rows: &'a RecordBatch,
}

/// What the commits claim.
pub(super) struct Known<'a> {
    /// By table.
    pub(super) claims: &'a HashMap<Family, Claims>,
    /// The table of each topic.
    pub(super) topics: &'a HashMap<String, Family>,
}

impl Known<'_> {
    /// Does a commit claim anything of a partition? Of tables without any claim nothing is known, which is told of them as a whole.
    fn claims(&self, family: Family, partition: i32) -> bool {
        self.claims.get(&family).is_none_or(|claims| claims.partitions.contains_key(&partition))
    }
}

/// The faults of these rows.
pub(super) fn faults(family: Family, rows: &RecordBatch, known: &Known) -> Result<Vec<Fault>, Error> {
    let looked = Looked { family, topic: family.topic(), rows };
    let mut faults = looked.places(known);
    faults.extend(looked.kept_bytes()?);
    Ok(faults)
}

impl Looked<'_> {
    fn int(&self, name: &str, row: usize) -> Option<i32> {
        let cells = self.rows.column(self.topic.column(name)).as_primitive::<Int32Type>();
        cells.is_valid(row).then(|| cells.value(row))
    }

    fn long(&self, name: &str, row: usize) -> Option<i64> {
        let cells = self.rows.column(self.topic.column(name)).as_primitive::<Int64Type>();
        cells.is_valid(row).then(|| cells.value(row))
    }

    fn bytes(&self, name: &str, row: usize) -> Option<&[u8]> {
        let cells = self.rows.column(self.topic.column(name)).as_binary::<i32>();
        cells.is_valid(row).then(|| cells.value(row))
    }

    fn text(&self, name: &str, row: usize) -> Option<&str> {
        let cells = self.rows.column(self.topic.column(name)).as_string::<i32>();
        cells.is_valid(row).then(|| cells.value(row))
    }

    fn fault(&self, kind: &'static str, row: usize, what: impl Into<String>) -> Fault {
        Fault { kind, partition: self.int("_partition", row), offset: self.long("_offset", row), what: what.into() }
    }

    /// Each row stands in the log, at a time and by a schema; the store alone writes others, and only two kinds of them.
    fn places(&self, known: &Known) -> Vec<Fault> {
        let column = |name: &str| self.rows.column(self.topic.column(name));
        let (partitions, offsets) = (column("_partition").as_primitive::<Int32Type>(), column("_offset").as_primitive::<Int64Type>());
        let (times, ids) = (column("_log_ts").as_primitive::<Int64Type>(), column("_schema").as_primitive::<Int32Type>());
        let (types, keys, headers, raws) = (column("_ts_type"), column("_key"), column("_headers"), column("_raw"));
        let own = self.topic.schema_id.cast_signed();
        let rows = self.rows.num_rows();
        // Almost every batch is of our own records, of which nothing had to be kept: no row needs a look of its own.
        let whole = [partitions.null_count(), offsets.null_count(), times.null_count(), ids.null_count()] == [0; 4];
        if whole
            && [raws, types, keys, headers].iter().all(|cells| cells.null_count() == rows)
            && ids.values().iter().all(|id| *id == own)
            && times.values().iter().all(|time| time % NS_PER_MS == 0)
            && partitions.values().chunk_by(|one, other| one == other).all(|run| known.claims(self.family, run[0]))
        {
            return Vec::new();
        }
        let mut faults = Vec::new();
        for row in 0..self.rows.num_rows() {
            match (partitions.is_valid(row), offsets.is_valid(row)) {
                (true, true) if !known.claims(self.family, partitions.value(row)) => {
                    faults.push(self.fault("unclaimed", row, "a row of a partition of which no commit claims anything"));
                }
                (true, true) => {}
                (false, false) => {
                    faults.extend(self.store_written(row, known).map(|what| self.fault("unclaimed", row, what)));
                    continue;
                }
                _ => {
                    faults.push(self.fault("unclaimed", row, "a row that names a partition or an offset, and not both"));
                    continue;
                }
            }
            if times.is_null(row) || times.value(row) % NS_PER_MS != 0 {
                faults.push(self.fault("altered", row, "its _log_ts is no time of a log, which counts milliseconds"));
            }
            if raws.is_null(row) && (ids.is_null(row) || ids.value(row) != own) {
                faults.push(self.fault("altered", row, format!("its _schema is not {own}, by which its record was written")));
            }
            if types.is_valid(row) && !matches!(self.int("_ts_type", row), Some(0 | -1)) {
                faults.push(self.fault("altered", row, "its _ts_type is neither NULL, 0 nor -1"));
            }
            if headers.is_valid(row) && self.bytes("_headers", row) == Some(&[]) {
                faults.push(self.fault("altered", row, "its _headers are none, and not NULL"));
            }
            if keys.is_valid(row) && matches!(self.bytes("_key", row), Some([0, _, ..])) {
                faults.push(self.fault("altered", row, "its _key is the null key, and goes on"));
            }
        }
        faults
    }

    /// Why a row without a place in the log is none that the store writes: a record that is none, or a range that was lost.
    fn store_written(&self, row: usize, known: &Known) -> Option<String> {
        if !matches!(self.family, Family::Quarantine | Family::Gaps) {
            return Some("a row without a place in the log".into());
        }
        let Some(origin) = self.text("origin_topic", row).filter(|origin| known.topics.contains_key(*origin)) else {
            return Some("a row without a place in the log, about a topic that no table was stored from".into());
        };
        let family = known.topics[origin];
        let is_claimed = |partition| known.claims(family, partition) || self.family == Family::Gaps;
        let whole = self.int("origin_partition", row).is_some_and(is_claimed)
            && match self.family {
                Family::Gaps => matches!((self.long("from_seq", row), self.long("to_seq", row)), (Some(from), Some(to)) if from <= to),
                _ => self.long("origin_offset", row).is_some(),
            };
        if !whole {
            return Some(format!(
                "a row without a place in the log, about {origin}, that names no offsets, or a partition of which no commit claims anything"
            ));
        }
        // What the store writes itself has no more than this; the record is in the cells that its proof covers.
        const FREE: &[&str] = &[
            "dataset",
            "change",
            "revision",
            "reason",
            "source_id",
            "source_record",
            "source_byte",
            "origin_topic",
            "origin_partition",
            "origin_offset",
            "field",
            "raw",
            "from_seq",
            "to_seq",
            "_log_ts",
            "_key",
            "_headers",
            "_ts_type",
        ];
        /// What it has of a record, and not of a range.
        const OF_RECORDS: &[&str] = &["origin_offset", "field", "raw", "_log_ts", "_key", "_headers", "_ts_type"];
        let writes = |name: &str| FREE.contains(&name) && !(self.family == Family::Gaps && OF_RECORDS.contains(&name));
        let fixed = self.text("change", row) == Some("new")
            && self.int("revision", row) == Some(0)
            && self.bytes("source_id", row) == Some(&[0; 16])
            && self.long("source_record", row) == Some(0)
            && self.long("source_byte", row) == Some(0);
        let schema = self.rows.schema_ref();
        let more = (0..self.rows.num_columns())
            .find(|at| self.rows.column(*at).is_valid(row) && !writes(schema.field(*at).name()))
            .map(|at| schema.field(at).name().as_str());
        let dataset = match self.family {
            Family::Quarantine => {
                decode::dataset_of_key(self.bytes("_key", row).and_then(|cell| cell.split_first()).map_or(&[], |(_, key)| key))
            }
            _ => decode::DATASET_UNKNOWN,
        };
        match (fixed, more) {
            (_, Some(column)) => Some(format!("a row of the store's own with a {column}, which it never writes")),
            (false, None) => Some("a row of the store's own that is not new, or names a source".into()),
            (true, None) if self.text("dataset", row) != Some(dataset) => {
                Some(format!("a row of the store's own whose dataset is not {dataset}"))
            }
            (true, None) => self
                .rewritten(row, family)
                .map(|column| format!("a row of the store's own whose {column} is not what the store writes of its record")),
        }
    }

    /// The column of a bad record's row that the store would have written otherwise: how a cell is spelled no proof of the record covers.
    fn rewritten(&self, row: usize, family: Family) -> Option<&'static str> {
        if self.family != Family::Quarantine {
            return None;
        }
        // What cannot be made again is told as unreadable, with its file.
        let (_, partition, offset, record) = record::rebuild_quarantined(&self.rows.slice(row, 1)).ok()?.pop()?;
        let cells = [
            ("_log_ts", self.long("_log_ts", row) == record.ts_ms.checked_mul(NS_PER_MS)),
            ("_key", self.bytes("_key", row) == Some(record::key_cell(record.key.as_ref()).as_ref())),
            ("_headers", self.bytes("_headers", row) == record::headers_cell(&record.headers).as_deref()),
            ("_ts_type", self.int("_ts_type", row) == record::ts_type_cell(record.ts_type)),
        ];
        if let Some((column, _)) = cells.into_iter().find(|(_, is_written)| !is_written) {
            return Some(column);
        }
        let event = Event {
            family,
            partition,
            offset,
            ts_ms: record.ts_ms,
            ts_type: record.ts_type,
            key: record.key,
            value: record.value,
            headers: record.headers,
        };
        let today = decode::decode(family, std::slice::from_ref(&event)).ok()?.bad.pop();
        let field = self.text("field", row);
        let is_written = match today.filter(|bad| Some(bad.reason.as_str()) == self.text("reason", row)) {
            Some(bad) => field == bad.field.as_deref(),
            // Another version gave another reason: it named a column all the same.
            None => field.is_none_or(|field| family.topic().wire_schema().column_with_name(field).is_some()),
        };
        (!is_written).then_some("field")
    }

    /// Where the row keeps the bytes of its value, its columns are what those say: the proof is of the bytes.
    fn kept_bytes(&self) -> Result<Vec<Fault>, Error> {
        let raw = self.rows.column(self.topic.column("_raw")).as_binary::<i32>();
        let at: Vec<usize> = (0..raw.len()).filter(|row| raw.is_valid(*row)).collect();
        if at.is_empty() {
            return Ok(Vec::new());
        }
        let frames: Vec<&[u8]> = at.iter().map(|row| raw.value(*row)).collect();
        let decoded = frame::decode(self.family, &frames)?;
        let mut faults: Vec<Fault> = decoded
            .bad
            .iter()
            .map(|bad| self.fault("altered", at[bad.index], format!("its _raw is no record of {}: {}", self.topic.name, bad.reason)))
            .collect();
        let kept: Vec<usize> = decoded.rows.iter().map(|frame| at[*frame]).collect();
        let fault = |e: arrow::error::ArrowError| Error::Rebuild { topic: self.topic.name, why: e.to_string() };
        let stored = take_record_batch(self.rows, &UInt64Array::from_iter_values(kept.iter().map(|row| *row as u64))).map_err(fault)?;
        for (number, row) in kept.iter().enumerate() {
            if self.int("_schema", *row) != Some(decoded.schema_ids[number].cast_signed()) {
                faults.push(self.fault("altered", *row, "its _schema is not that of its _raw"));
            }
        }
        for (at, field) in self.topic.wire_schema().fields().iter().enumerate() {
            let (ours, theirs) = (stored.column(self.topic.column(field.name())), decoded.batch.column(at));
            if ours == theirs {
                continue;
            }
            let differs = (0..ours.len()).filter(|row| ours.slice(*row, 1) != theirs.slice(*row, 1));
            faults.extend(differs.map(|number| {
                self.fault("altered", kept[number], format!("its {} is not what its _raw says, the bytes of its record", field.name()))
            }));
        }
        Ok(faults)
    }
}
