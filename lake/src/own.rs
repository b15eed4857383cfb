//! What lies in a table's folder at a path that tape itself gives, and not behind a symbolic link: nothing else is ever removed.
//!
//! ```text
//! dataset=…/date=…/part-<uuid>.zstd.parquet     data; the folders are the table's partition columns, in their order
//! _delta_log/<20 digits>.json                   an entry of the log
//!            <20 digits>.checkpoint.parquet     a checkpoint
//! any of these, _delta_log/_last_checkpoint, or a file of the archive, with `#` and digits behind: begun, not whole
//! ```

use crate::Error;
use crate::table::Table;
use crate::{archive, durable};
use std::path::PathBuf;

/// A file of the table's own.
#[derive(Debug)]
pub(crate) struct Own {
    /// Below the table's folder.
    pub path: String,
    pub kind: Kind,
    pub bytes: u64,
    /// In milliseconds since 1970 UTC.
    pub modified_ms: i64,
}

/// What a file is, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Data,
    Entry(u64),
    Checkpoint(u64),
    /// What a put had begun to write: only a local disk ever has it, and no listing of objects shows it.
    Begun,
}

impl Table {
    /// All files of the table's own.
    pub(crate) async fn own_files(&self) -> Result<Vec<Own>, Error> {
        let columns = self.family().topic().partition_by;
        let found = match self.local_folder() {
            Some(folder) => {
                let enter = |path: &str| is_folder(columns, path);
                durable::plain_files(&folder, &enter).map_err(|e| self.unreadable(format!("looking for what may be removed: {e}")))?
            }
            None => {
                let folder = self.place().location("");
                let plain = |file: object_store::ObjectMeta| {
                    let below: Vec<String> = file.location.prefix_match(&folder)?.map(|part| part.as_ref().to_string()).collect();
                    Some(durable::Plain { path: below.join("/"), bytes: file.size, modified_ms: file.last_modified.timestamp_millis() })
                };
                self.place().list("").await?.into_iter().filter_map(plain).collect()
            }
        };
        let own = |file: durable::Plain| {
            kind(columns, &file.path).map(|kind| Own { path: file.path, kind, bytes: file.bytes, modified_ms: file.modified_ms })
        };
        Ok(found.into_iter().filter_map(own).collect())
    }

    /// The table's folder where that is on a local disk.
    pub(crate) fn local_folder(&self) -> Option<PathBuf> {
        self.place().url().to_file_path().ok()
    }
}

/// May a folder have files of the table's own, or folders that do? Pure.
fn is_folder(columns: &[&str], path: &str) -> bool {
    path == "_delta_log" || path == archive::FOLDER || is_partition(columns, path)
}

/// Does a path begin as the table's partitions do? Pure.
fn is_partition(columns: &[&str], path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let is_value = |(part, column): (&&str, &&str)| part.split_once('=').is_some_and(|(name, value)| name == *column && !value.is_empty());
    parts.len() <= columns.len() && parts.iter().zip(columns).all(is_value)
}

/// What a file of the table's own is; `None` for what is of others. Pure.
fn kind(columns: &[&str], path: &str) -> Option<Kind> {
    let (folder, name) = path.rsplit_once('/')?;
    let whole = |name: &str| match folder {
        "_delta_log" => {
            let version = |suffix: &str| version(name.strip_suffix(suffix)?);
            version(".json").map(Kind::Entry).or_else(|| version(".checkpoint.parquet").map(Kind::Checkpoint))
        }
        _ => {
            let is_ours = is_partition(columns, folder) && folder.split('/').count() == columns.len() && is_data(name);
            is_ours.then_some(Kind::Data)
        }
    };
    // What begins as one of ours and is never removed when it is whole.
    let lasts = |name: &str| match folder {
        "_delta_log" => name == "_last_checkpoint",
        archive::FOLDER => name.strip_suffix(archive::SUFFIX).and_then(version).is_some(),
        _ => false,
    };
    match name.split_once('#') {
        None => whole(name),
        Some((name, number)) => {
            let is_begun = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
            (is_begun && (whole(name).is_some() || lasts(name))).then_some(Kind::Begun)
        }
    }
}

fn version(digits: &str) -> Option<u64> {
    (digits.len() == 20 && digits.bytes().all(|digit| digit.is_ascii_digit())).then(|| digits.parse().ok())?
}

fn is_data(name: &str) -> bool {
    let id = name.strip_prefix("part-").and_then(|name| name.strip_suffix(".zstd.parquet"));
    id.is_some_and(|id| uuid::Uuid::try_parse(id).is_ok_and(|uuid| uuid.hyphenated().to_string() == id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &str = "part-6fa459ea-ee8a-4ca4-894e-db77e160355e.zstd.parquet";

    fn of(path: &str) -> Option<Kind> {
        kind(&["dataset", "date"], path)
    }

    #[test]
    fn paths_that_tape_gives_are_its_own() {
        assert_eq!(of(&format!("dataset=A%20B/date=__HIVE_DEFAULT_PARTITION__/{DATA}")), Some(Kind::Data));
        assert_eq!(kind(&["dataset"], &format!("dataset=A/{DATA}")), Some(Kind::Data));
        assert_eq!(of("_delta_log/00000000000000000012.json"), Some(Kind::Entry(12)));
        assert_eq!(of("_delta_log/00000000000000000012.checkpoint.parquet"), Some(Kind::Checkpoint(12)));
        for begun in [
            format!("dataset=A/date=2026-01-01/{DATA}#18446744073709551615"),
            "_delta_log/00000000000000000012.json#1".into(),
            "_delta_log/_last_checkpoint#1".into(),
            "_tokentape_history/00000000000000000000.jsonl.zst#1".into(),
        ] {
            assert_eq!(of(&begun), Some(Kind::Begun), "{begun}");
        }
    }

    #[test]
    fn all_else_is_of_others() {
        for path in [
            DATA.to_string(),
            format!("dataset=A/{DATA}"),
            format!("date=2026-01-01/dataset=A/{DATA}"),
            format!("dataset=/date=2026-01-01/{DATA}"),
            format!("dataset=A/date=2026-01-01/old/{DATA}"),
            format!("old/dataset=A/date=2026-01-01/{DATA}"),
            "dataset=A/date=2026-01-01/part-x.zstd.parquet".into(),
            format!("dataset=A/date=2026-01-01/{}", DATA.to_uppercase()),
            format!("dataset=A/date=2026-01-01/{DATA}#"),
            format!("dataset=A/date=2026-01-01/{DATA}#1#2"),
            format!("dataset=A/date=2026-01-01/{DATA}#1a"),
            "dataset=A/date=2026-01-01/notes#2026".into(),
            format!("_delta_log/{DATA}"),
            "_delta_log/12.json".into(),
            "_delta_log/+0000000000000000012.json".into(),
            "_delta_log/old/00000000000000000012.json".into(),
            "_delta_log/_last_checkpoint".into(),
            "_tokentape_history/00000000000000000000.jsonl.zst".into(),
            "_mine/a#1".into(),
        ] {
            assert_eq!(of(&path), None, "{path}");
        }
    }
}
