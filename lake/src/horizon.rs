//! What no version of the audit horizon needs goes: old log entries (their words are archived first), old checkpoints, files that nobody names.
//!
//! ```text
//!            archived, then removed        │ needed to read the versions of the horizon
//!  ──────────────────────────────────[checkpoint]─────[current when it began]──────────────────────► newest version
//!                                                      └─ horizon ─────────────────────────────────┘
//! ```
//!
//! Within the horizon every version can be read, its files included. What a version before it said of itself is in the archive for ever; its rows
//! are in the files of today.

use crate::Error;
use crate::own::{Kind, Own};
use crate::stop::Stop;
use crate::table::Table;
use deltalake_core::kernel::Action;
use deltalake_core::logstore::get_actions;
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use std::collections::HashSet;
use std::time::Duration;

/// Log entries that are read at the same time.
const ENTRIES_AT_ONCE: usize = 32;
/// Of checkpoints behind the horizon's first one, and before the newest two, one stays for so many versions: any of them can be read, sooner or later.
const CHECKPOINTS_APART: u64 = 10_000;
/// Newest checkpoints that always stay: whoever opens the table at this moment may have chosen one of them.
const CHECKPOINTS_KEPT: usize = 2;

/// How far back every version of a table stays readable.
#[derive(Debug, Clone, Copy)]
pub struct Horizon {
    /// Its length.
    pub keep: Duration,
    /// Its end: now, in milliseconds since 1970 UTC.
    pub now_ms: i64,
    /// Only say what would go.
    pub dry_run: bool,
}

impl Horizon {
    /// When it begins, in milliseconds since 1970 UTC.
    fn begin_ms(&self) -> i64 {
        self.now_ms.saturating_sub(i64::try_from(self.keep.as_millis()).unwrap_or(i64::MAX))
    }
}

/// What went, or would go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Entries of the table's log, all of them archived.
    pub entries: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Data files: replaced ones, those that never came into a version, and what a killed process had begun to write.
    pub files: u64,
    /// Bytes of the data files.
    pub bytes: u64,
}

impl Removed {
    /// Nothing at all?
    pub fn is_nothing(&self) -> bool {
        *self == Removed::default()
    }
}

/// What a table's log folder holds.
#[derive(Debug, Default)]
struct Log {
    /// Versions that have an entry, in order.
    entries: Vec<u64>,
    /// Versions that have a whole checkpoint, in order.
    checkpoints: Vec<u64>,
}

/// What is to go of a table's log: the entries before `behind`, and some checkpoints. Pure.
#[derive(Debug, Default, PartialEq, Eq)]
struct Going {
    /// The checkpoint that the horizon's first version is read from: it stays, entries before it go.
    behind: Option<u64>,
    entries: Vec<u64>,
    checkpoints: Vec<u64>,
}

impl Table {
    /// Removes what no version of the horizon needs. Stops before the next object when `stop` says so; what is left goes the next time.
    pub async fn clean_up(&mut self, horizon: &Horizon, stop: &Stop) -> Result<Removed, Error> {
        let mut removed = Removed::default();
        self.clean_up_into(&mut removed, horizon, stop).await.map(|()| removed)
    }

    /// The same; what went is counted also where it ends with an error.
    pub(crate) async fn clean_up_into(&mut self, removed: &mut Removed, horizon: &Horizon, stop: &Stop) -> Result<(), Error> {
        self.refresh().await?;
        let own = self.own_files().await?;
        let log = self.log_folder().await?;
        let begin_ms = horizon.begin_ms();
        let first_recent = self.first_since(&log, begin_ms).await?;
        let hint = self.place().checkpoint_hint().await?;
        let going = going(&log, first_recent, hint).of(&own);
        let stale = self.stale_files(&own, first_recent, begin_ms).await?;
        if !horizon.dry_run
            && let Some(checkpoint) = going.behind
            && !going.entries.is_empty()
        {
            self.readable_at(checkpoint).await?;
            self.place().settle(&format!("_delta_log/{checkpoint:020}.checkpoint.parquet")).await?;
            self.archive_until(checkpoint).await?;
            killpoint::here!("lake.clean_up.archived");
        }
        // The oldest first: an entry is gone only where all before it are, which a writer that was stopped for long relies on.
        for version in going.entries {
            if stop.is_set() {
                return Ok(());
            }
            self.remove(&format!("_delta_log/{version:020}.json"), horizon).await?;
            killpoint::here!("lake.clean_up.entry_removed");
            removed.entries += 1;
        }
        for version in going.checkpoints {
            if stop.is_set() {
                return Ok(());
            }
            self.remove(&format!("_delta_log/{version:020}.checkpoint.parquet"), horizon).await?;
            killpoint::here!("lake.clean_up.checkpoint_removed");
            removed.checkpoints += 1;
        }
        for file in stale {
            if stop.is_set() {
                return Ok(());
            }
            self.remove(&file.path, horizon).await?;
            killpoint::here!("lake.clean_up.file_removed");
            removed.files += 1;
            removed.bytes += file.bytes;
        }
        for file in own.iter().filter(|file| file.kind == Kind::Begun && file.modified_ms < begin_ms) {
            if stop.is_set() {
                return Ok(());
            }
            if !horizon.dry_run {
                self.remove_begun(&file.path)?;
            }
            removed.files += 1;
            removed.bytes += file.bytes;
        }
        Ok(())
    }

    /// Removes what a killed process had begun to put: it has a name that no object has.
    fn remove_begun(&self, path: &str) -> Result<(), Error> {
        let Some(folder) = self.local_folder() else { return Ok(()) };
        match std::fs::remove_file(folder.join(path)) {
            // Another clean-up was first.
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(self.unreadable(format!("removing {path}: {e}"))),
            _ => Ok(()),
        }
    }

    async fn remove(&self, path: &str, horizon: &Horizon) -> Result<(), Error> {
        if horizon.dry_run { Ok(()) } else { self.place().remove(&self.place().location(path)).await }
    }

    async fn log_folder(&self) -> Result<Log, Error> {
        let mut log = Log::default();
        let folder = self.place().location("_delta_log");
        for file in self.place().list("_delta_log").await? {
            // What others keep in folders of the log's is none of it.
            if file.location.prefix_match(&folder).is_none_or(|below| below.count() != 1) {
                continue;
            }
            let name = file.location.filename().unwrap_or_default();
            let version = |suffix: &str| name.strip_suffix(suffix).filter(|digits| digits.len() == 20)?.parse::<u64>().ok();
            log.entries.extend(version(".json"));
            log.checkpoints.extend(version(".checkpoint.parquet"));
        }
        log.entries.sort_unstable();
        log.checkpoints.sort_unstable();
        Ok(log)
    }

    /// The first version that was committed since a time; the one after the newest where none was. A clock that was set forward for a while makes a
    /// version look recent for longer, and so keeps what comes after it.
    async fn first_since(&self, log: &Log, begin_ms: i64) -> Result<u64, Error> {
        for version in log.entries.iter().copied().filter(|version| *version <= self.version()) {
            let actions = self.actions(version).await?;
            // A version that does not say when it was made is taken for a recent one.
            if committed_at(&actions).is_none_or(|at| at >= begin_ms) {
                return Ok(version);
            }
        }
        Ok(self.version() + 1)
    }

    async fn actions(&self, version: u64) -> Result<Vec<Action>, Error> {
        let bytes = self.entry(version).await?.ok_or_else(|| self.unreadable(format!("version {version} is gone")))?;
        get_actions(version, &bytes).map_err(|e| self.unreadable(format!("version {version}: {e}")))
    }

    /// Data files of the table's own that no version since `first_recent`, the one that was current then included, names, and that were written before
    /// the horizon began: a commit that is on its way now has newer ones.
    async fn stale_files<'a>(&self, own: &'a [Own], first_recent: u64, begin_ms: i64) -> Result<Vec<&'a Own>, Error> {
        let mut needed: HashSet<String> = self.snapshot().files().iter().map(|file| file.location.to_string()).collect();
        self.are_there(&needed, own).await?;
        let mut versions =
            futures::stream::iter(first_recent..=self.version()).map(|version| self.actions(version)).buffered(ENTRIES_AT_ONCE);
        while let Some(actions) = versions.try_next().await? {
            needed.extend(removed_paths(actions).map(|path| self.place().location(&path).to_string()));
        }
        let stale = |file: &&Own| {
            file.kind == Kind::Data && file.modified_ms < begin_ms && !needed.contains(self.place().location(&file.path).as_ref())
        };
        Ok(own.iter().filter(stale).collect())
    }

    /// What is needed is there under the very names that the log gives: else the two are not of one table, or speak of files differently. It need not
    /// be tape's own: another program wrote it, or it lies behind a link.
    async fn are_there(&self, needed: &HashSet<String>, own: &[Own]) -> Result<(), Error> {
        let mut missing = needed.clone();
        for file in own {
            missing.remove(self.place().location(&file.path).as_ref());
        }
        if !missing.is_empty() {
            for file in self.place().list("").await? {
                missing.remove(file.location.as_ref());
            }
        }
        match missing.into_iter().min() {
            None => Ok(()),
            Some(file) => {
                Err(self.place().storage("looking for files to remove", format!("{file} is not there: `tape verify` tells more")))
            }
        }
    }
}

impl Going {
    /// What of it are files of the table's own; of the entries those before the first that is not, since an entry goes only after all before it.
    fn of(mut self, own: &[Own]) -> Going {
        let own: HashSet<Kind> = own.iter().map(|file| file.kind).collect();
        let end = self.entries.iter().position(|version| !own.contains(&Kind::Entry(*version)));
        self.entries.truncate(end.unwrap_or(self.entries.len()));
        self.checkpoints.retain(|version| own.contains(&Kind::Checkpoint(*version)));
        self
    }
}

/// What of the log no version from the one before `first_recent` on needs. Pure.
fn going(log: &Log, first_recent: u64, hint: Option<u64>) -> Going {
    // The version that was current when the horizon began, and the newest checkpoint that it can be read from.
    let Some(current) = first_recent.checked_sub(1) else { return Going::default() };
    let Some(behind) = log.checkpoints.iter().copied().rfind(|version| *version <= current) else { return Going::default() };
    let newest = log.checkpoints.len().saturating_sub(CHECKPOINTS_KEPT);
    let mut last_kept = behind;
    let checkpoints = log.checkpoints[..newest].iter().copied().filter(|version| match *version {
        // Whoever follows the hint finds what it names.
        version if Some(version) == hint || version == behind => false,
        version if version < behind => true,
        version if version - last_kept < CHECKPOINTS_APART => true,
        version => {
            last_kept = version;
            false
        }
    });
    Going {
        behind: Some(behind),
        checkpoints: checkpoints.collect(),
        entries: log.entries.iter().copied().filter(|version| *version < behind).collect(),
    }
}

/// When a version was committed, as it says, in milliseconds since 1970 UTC.
fn committed_at(actions: &[Action]) -> Option<i64> {
    actions.iter().find_map(|action| if let Action::CommitInfo(info) = action { info.timestamp } else { None })
}

fn removed_paths(actions: Vec<Action>) -> impl Iterator<Item = String> {
    actions.into_iter().filter_map(|action| if let Action::Remove(remove) = action { Some(remove.path) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(versions: u64, checkpoints: &[u64]) -> Log {
        Log { entries: (0..=versions).collect(), checkpoints: checkpoints.to_vec() }
    }

    #[test]
    fn entries_go_behind_the_checkpoint_that_the_horizon_begins_at() {
        let going = going(&log(450, &[100, 200, 300, 400]), 251, Some(400));
        assert_eq!((going.behind, going.entries.len(), going.entries.last()), (Some(200), 200, Some(&199)));
        assert_eq!(going.checkpoints, [100]);
    }

    #[test]
    fn nothing_goes_without_a_checkpoint_before_the_horizon() {
        assert_eq!(going(&log(450, &[300, 400]), 251, Some(400)), Going::default());
        assert_eq!(going(&log(450, &[]), 451, None), Going::default());
        assert_eq!(going(&log(450, &[0, 100]), 0, Some(100)), Going::default());
    }

    #[test]
    fn a_checkpoint_that_readers_are_sent_to_stays() {
        assert_eq!(going(&log(450, &[100, 200, 300, 400]), 351, Some(100)).checkpoints, [200]);
    }

    #[test]
    fn checkpoints_within_the_horizon_thin_out() {
        let checkpoints: Vec<u64> = (1..=500).map(|n| n * 100).collect();
        let going = going(&log(50_000, &checkpoints), 5_050, Some(50_000));
        let kept: Vec<u64> = checkpoints.iter().copied().filter(|version| !going.checkpoints.contains(version)).collect();
        assert_eq!(kept, [5_000, 15_000, 25_000, 35_000, 45_000, 49_900, 50_000]);
    }
}
