//! What each version of a table said when it was committed: when, by whom, which files came and went. The oldest version comes first. The newer
//! ones stand in the table's log, the older ones in the archive that outlives it (archive.rs).

use crate::Error;
use crate::archive::Archived;
use crate::table::Table;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::VecDeque;

/// Versions that are in memory when they are read from the log.
const VERSIONS_AT_ONCE: u64 = 256;
/// Log entries that are read at the same time.
const ENTRIES_AT_ONCE: usize = 32;

/// One version of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Delta version.
    pub version: u64,
    /// The whole commitInfo; null where the version has none.
    pub info: Value,
    /// The data files that came.
    pub added: Files,
    /// The data files that went: a rewrite put others in their place.
    pub removed: Files,
    /// The application transactions that it moved, and to where.
    pub txns: Vec<(String, i64)>,
}

impl Entry {
    /// When it was committed, by the clock of who did, in milliseconds since 1970 UTC; `None` where it does not say.
    pub fn committed_at_ms(&self) -> Option<i64> {
        self.info["timestamp"].as_i64()
    }

    /// What it did, as Delta names it: `CREATE TABLE`, `WRITE`, `OPTIMIZE`, `ADD COLUMN` …; empty where it does not say.
    pub fn operation(&self) -> &str {
        self.info["operation"].as_str().unwrap_or_default()
    }
}

/// Data files of one version, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// How many.
    pub files: u64,
    /// Rows in them; `None` where one of them does not say.
    pub rows: Option<u64>,
    /// Bytes.
    pub bytes: u64,
}

/// The versions of a table, the oldest first, each read when it is asked for: however many there are, a few are in memory.
pub struct History<'a> {
    table: &'a Table,
    /// The version that comes next, and the one behind the last.
    next: u64,
    end: u64,
    /// Versions that were read from the log.
    logged: VecDeque<Entry>,
    /// The file of the archive that is being read.
    archived: Option<Archived>,
}

impl History<'_> {
    /// The next version; `None` behind the table's own.
    pub async fn next(&mut self) -> Result<Option<Entry>, Error> {
        if self.next == self.end {
            return Ok(None);
        }
        let entry = match self.at_hand()? {
            Some(entry) => entry,
            None => {
                self.find().await?;
                self.at_hand()?.ok_or_else(|| self.table.unreadable(format!("version {} is gone", self.next)))?
            }
        };
        self.next += 1;
        Ok(Some(entry))
    }

    /// The next version, where it was found already.
    fn at_hand(&mut self) -> Result<Option<Entry>, Error> {
        while let Some(archived) = &mut self.archived {
            match self.table.next_archived(archived)? {
                Some(entry) if entry.version == self.next => return Ok(Some(entry)),
                Some(_) => {}
                None => self.archived = None,
            }
        }
        Ok(self.logged.pop_front())
    }

    /// Looks for the next version: in the log, and where that does not have it in the archive. An entry goes from the log only when the archive has it.
    async fn find(&mut self) -> Result<(), Error> {
        self.logged = self.table.logged(self.next, self.end.min(self.next + VERSIONS_AT_ONCE)).await?.into();
        if self.logged.is_empty() {
            let file = self.table.archive_files().await?.into_iter().rfind(|first| *first <= self.next);
            if let Some(first) = file {
                self.archived = Some(self.table.archived(first).await?);
            }
        }
        Ok(())
    }
}

impl Table {
    /// Every version up to the table's own, version 0 included: those that the log no longer has are in the archive.
    pub fn history(&self) -> History<'_> {
        History { table: self, next: 0, end: self.version() + 1, logged: VecDeque::new(), archived: None }
    }

    /// What the newest commit that says anything under `key` of its commitInfo says; `None` where none does.
    pub async fn latest_info(&self, key: &str) -> Result<Option<Value>, Error> {
        Ok(self.info_before(key, self.version() + 1).await?.map(|(_, info)| info))
    }

    /// The same of the commits before a version, with the version of the one that says it.
    pub async fn info_before(&self, key: &str, end: u64) -> Result<Option<(u64, Value)>, Error> {
        let said = |mut entry: Entry| Some((entry.version, entry.info.get_mut(key)?.take()));
        for version in (0..end).rev() {
            let Some(bytes) = self.entry(version).await? else { break };
            if let Some(info) = self.parsed(version, &bytes).map(said)? {
                return Ok(Some(info));
            }
        }
        for first in self.archive_files().await?.into_iter().rev().filter(|first| *first < end) {
            let mut archived = self.archived(first).await?;
            let mut last = None;
            while let Some(entry) = self.next_archived(&mut archived)?.filter(|entry| entry.version < end) {
                last = said(entry).or(last);
            }
            if last.is_some() {
                return Ok(last);
            }
        }
        Ok(None)
    }

    /// What the log says of the versions from `first` on and before `end`, up to the first one that it does not have.
    pub(crate) async fn logged(&self, first: u64, end: u64) -> Result<Vec<Entry>, Error> {
        let read = |version: u64| async move {
            let bytes = self.entry(version).await?;
            bytes.map(|bytes| self.parsed(version, &bytes)).transpose()
        };
        let read = futures::stream::iter(first..end).map(read).buffered(ENTRIES_AT_ONCE);
        read.try_take_while(|entry| std::future::ready(Ok(entry.is_some()))).try_filter_map(|entry| async { Ok(entry) }).try_collect().await
    }

    fn parsed(&self, version: u64, bytes: &Bytes) -> Result<Entry, Error> {
        parse(version, bytes).map_err(|why| self.unreadable(format!("version {version}: {why}")))
    }
}

/// A line of a log entry, as far as it is of interest here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    commit_info: Option<Value>,
    add: Option<Added>,
    remove: Option<Removed>,
    txn: Option<Moved>,
}

#[derive(Deserialize)]
struct Added {
    size: u64,
    stats: Option<String>,
}

#[derive(Deserialize)]
struct Removed {
    size: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Moved {
    app_id: String,
    version: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counted {
    num_records: Option<u64>,
}

fn parse(version: u64, bytes: &Bytes) -> Result<Entry, serde_json::Error> {
    let none = Files { rows: Some(0), ..Files::default() };
    let mut entry = Entry { version, info: Value::Null, added: none, removed: Files::default(), txns: Vec::new() };
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        let line: Line = serde_json::from_slice(line)?;
        if let Some(info) = line.commit_info {
            entry.info = info;
        }
        if let Some(add) = line.add {
            let rows = add.stats.and_then(|stats| serde_json::from_str::<Counted>(&stats).ok()?.num_records);
            entry.added.files += 1;
            entry.added.bytes += add.size;
            entry.added.rows = entry.added.rows.zip(rows).map(|(before, rows)| before + rows);
        }
        if let Some(remove) = line.remove {
            // A `remove` says nothing of rows.
            entry.removed.files += 1;
            entry.removed.bytes += remove.size.unwrap_or(0);
        }
        entry.txns.extend(line.txn.map(|txn| (txn.app_id, txn.version)));
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_entry_says_what_came_what_went_and_what_moved() {
        let lines = [
            json!({ "commitInfo": { "timestamp": 1_764_000_000_000i64, "operation": "WRITE", "tokentape": { "topic": "tape.trades" } } }),
            json!({ "txn": { "appId": "trades/id/0", "version": 7 } }),
            json!({ "add": { "path": "a", "size": 10, "partitionValues": {}, "stats": r#"{"numRecords":3,"minValues":{"x":1}}"# } }),
            json!({ "add": { "path": "b", "size": 20, "partitionValues": {}, "stats": r#"{"numRecords":4}"# } }),
            json!({ "remove": { "path": "c", "size": 5, "dataChange": false } }),
            json!({ "somethingNew": {} }),
        ];
        let text = lines.map(|line| line.to_string()).join("\n") + "\n";
        let entry = parse(9, &text.into()).expect("it is a log entry");
        assert_eq!((entry.version, entry.committed_at_ms(), entry.operation()), (9, Some(1_764_000_000_000), "WRITE"));
        assert_eq!(entry.info["tokentape"]["topic"], "tape.trades");
        assert_eq!(entry.added, Files { files: 2, rows: Some(7), bytes: 30 });
        assert_eq!((entry.removed.files, entry.removed.bytes), (1, 5));
        assert_eq!(entry.txns, [("trades/id/0".to_string(), 7)]);
    }

    #[test]
    fn a_file_without_a_row_count_leaves_the_sum_unknown() {
        let text = r#"{"add":{"path":"a","size":10,"stats":"{}"}}"#;
        let entry = parse(1, &Bytes::from_static(text.as_bytes())).expect("it is a log entry");
        assert_eq!((entry.added.rows, entry.info, entry.removed), (None, Value::Null, Files::default()));
    }

    #[test]
    fn what_is_no_log_entry_is_an_error() {
        assert!(parse(1, &Bytes::from_static(b"{\"add\":")).is_err());
    }
}
