//! What every version of a table says of itself, as values: when, by whom, which part of the log it holds, which files came and went.

use crate::{Error, info};
use lake::{Entry, History, Table};
use schemas::Family;
use serde_json::Value;

/// One Delta version of one table.
#[derive(Debug, Clone, PartialEq)]
pub struct Commit {
    /// The table.
    pub table: &'static str,
    /// What the table's log says of it.
    pub entry: Entry,
    /// What the store said of it; `None` for a version that stored nothing (made the table, added columns, merged files).
    pub stored: Option<Stored>,
}

/// What the store said of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Family whose topic the rows are of, or about.
    pub of: String,
    /// Program and version.
    pub writer: String,
    /// Id of the log.
    pub cluster: String,
    /// Topic with its prefix.
    pub topic: String,
    /// Id of the topic.
    pub topic_id: String,
    /// Wire schemas of the records: id and SHA-256, hex; as they were written.
    pub schemas: Vec<Value>,
    /// The part of the log, by partition.
    pub intervals: Vec<Interval>,
}

/// The part of one log partition that a version holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interval {
    /// Partition of the topic.
    pub partition: i32,
    /// Offset before the first one.
    pub from: i64,
    /// Last offset.
    pub to: i64,
    /// Records in it.
    pub records: u64,
    /// How many of them went to `quarantine`.
    pub quarantined: u64,
    /// Offsets in it that hold no record: first, last, and why.
    pub absent: Vec<(i64, i64, String)>,
    /// RFC 6962 root over the canonical bytes of its records, hex.
    pub root: Option<String>,
}

impl Interval {
    /// Offsets in it that hold no record.
    pub fn absent_offsets(&self) -> u64 {
        self.absent.iter().map(|(first, last, _)| (last - first).unsigned_abs() + 1).sum()
    }
}

impl Commit {
    fn of(family: Family, entry: Entry) -> Result<Commit, Error> {
        let said = &entry.info[info::KEY];
        let malformed = |part: &Value| Error::Rows {
            table: family.topic().name,
            why: format!("version {} of its log has a commitInfo that tokentape did not write: {part}", entry.version),
        };
        let stored = match said {
            Value::Null => None,
            said => {
                let text = |key: &str| said[key].as_str().unwrap_or_default().to_string();
                let partitions = said["partitions"].as_array().map(Vec::as_slice).unwrap_or_default();
                let intervals = partitions.iter().map(|said| interval(said).ok_or_else(|| malformed(said))).collect::<Result<_, _>>()?;
                let schemas = said["schemas"].as_array().cloned().unwrap_or_default();
                Some(Stored {
                    of: text("table"),
                    writer: text("writer"),
                    cluster: text("cluster"),
                    topic: text("topic"),
                    topic_id: text("topicId"),
                    schemas,
                    intervals,
                })
            }
        };
        Ok(Commit { table: family.topic().name, entry, stored })
    }

    /// What it says of the table's own topic: `quarantine` and `gaps` also have commits about other topics.
    pub fn own(&self) -> Option<&Stored> {
        self.stored.as_ref().filter(|stored| stored.of == self.table)
    }
}

/// A note of table `gaps` that the log lost offsets before they were stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// Topic with its prefix.
    pub topic: String,
    /// Partition of the topic.
    pub partition: i32,
    /// The last lost offset.
    pub last: i64,
    /// When it was committed, by the clock of who did, in milliseconds since 1970 UTC.
    pub at_ms: Option<i64>,
}

/// What a version of table `gaps` notes about topics; nothing for versions of other tables, and for those with records of the topic `gaps`, which
/// move the table's own transactions.
pub fn noted(commit: &Commit) -> Vec<Noted> {
    let is_note = |stored: &&Stored| commit.table == Family::Gaps.topic().name && stored.intervals.is_empty();
    let Some(stored) = commit.stored.as_ref().filter(is_note) else { return Vec::new() };
    let note = |(app_id, next): &(String, i64)| {
        let partition = app_id.strip_prefix(&format!("{}/{}/", commit.table, stored.topic_id))?.parse().ok()?;
        Some(Noted { topic: stored.topic.clone(), partition, last: next - 1, at_ms: commit.entry.committed_at_ms() })
    };
    commit.entry.txns.iter().filter(|(_, next)| *next > 0).filter_map(note).collect()
}

/// `None` where it is no part of a log: offsets begin at 0, and a hole is within its interval.
fn interval(said: &Value) -> Option<Interval> {
    let (from, to) = (said["from"].as_i64()?, said["to"].as_i64()?);
    if from < -1 || from > to || to == i64::MAX {
        return None;
    }
    let hole = |hole: &Value| {
        let (first, last) = (hole[0].as_i64()?, hole[1].as_i64()?);
        (from < first && first <= last && last <= to).then(|| (first, last, hole[2].as_str().unwrap_or("none").to_string()))
    };
    Some(Interval {
        partition: i32::try_from(said["partition"].as_i64()?).ok()?,
        from,
        to,
        records: said["records"].as_u64()?,
        quarantined: said["quarantined"].as_u64().unwrap_or(0),
        absent: said["absent"].as_array()?.iter().map(hole).collect::<Option<_>>()?,
        root: said["root"].as_str().map(String::from),
    })
}

/// The versions of one table, the oldest first, read one after the other.
pub struct Commits<'a> {
    family: Family,
    history: History<'a>,
}

/// The versions of one table.
pub fn of(table: &Table) -> Commits<'_> {
    Commits { family: table.family(), history: table.history() }
}

impl Commits<'_> {
    /// The next one; `None` behind the last.
    pub async fn next(&mut self) -> Result<Option<Commit>, Error> {
        self.history.next().await?.map(|entry| Commit::of(self.family, entry)).transpose()
    }
}
