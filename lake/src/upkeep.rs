//! Everything that a table needs beside its commits, in the order in which each step helps the next: few files, a checkpoint, then what the
//! horizon no longer needs.

use crate::{Compacted, Compaction, Error, Horizon, Removed, Stop, Table, plan};
use serde::Serialize;
use std::time::Duration;

/// How tables are kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Upkeep {
    /// When files are merged.
    pub compaction: Compaction,
    /// How far back every version stays readable; `None` removes nothing.
    pub horizon: Option<Duration>,
}

/// What was done to one table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Files that were merged.
    pub merged: Compacted,
    /// A checkpoint was written.
    pub checkpoint: bool,
    /// What went because no version of the horizon needs it.
    pub removed: Removed,
}

impl Kept {
    /// Nothing at all?
    pub fn is_nothing(&self) -> bool {
        *self == Kept::default()
    }
}

impl Table {
    /// Does what is to be done now, and adds it to `kept`, also what was done before an error. Appends may go on meanwhile; of two that do this at
    /// once one gives way, with [`Error::Fenced`] or [`Error::Moved`]. Soon after `stop` is set it ends where it is; what is left is done the next
    /// time.
    pub async fn keep(&mut self, upkeep: &Upkeep, now_ms: i64, stop: &Stop, kept: &mut Kept) -> Result<(), Error> {
        self.compact_into(&mut kept.merged, &upkeep.compaction, stop).await?;
        if !stop.is_set() && (kept.merged.commits > 0 || self.checkpoint_due()) {
            self.checkpoint().await?;
            kept.checkpoint = true;
        }
        if let Some(keep) = upkeep.horizon
            && !stop.is_set()
        {
            self.forget_removed_after(keep).await?;
            self.clean_up_into(&mut kept.removed, &Horizon { keep, now_ms, dry_run: false }, stop).await?;
        }
        Ok(())
    }

    /// What [`Table::keep`] would do first: the groups of files that it would merge, and what would go by then. Changes nothing.
    pub async fn would_keep(&mut self, upkeep: &Upkeep, now_ms: i64) -> Result<Kept, Error> {
        self.refresh().await?;
        let mut kept = Kept { checkpoint: self.checkpoint_due(), ..Kept::default() };
        for group in plan(self.snapshot().files(), &upkeep.compaction) {
            kept.merged.commits += 1;
            kept.merged.files_before += group.len() as u64;
            kept.merged.files_after += 1;
            kept.merged.rows += group.iter().filter_map(|file| file.stats.rows).sum::<u64>();
            kept.merged.bytes_before += group.iter().map(|file| file.size).sum::<u64>();
        }
        if let Some(keep) = upkeep.horizon {
            kept.removed = self.clean_up(&Horizon { keep, now_ms, dry_run: true }, &Stop::default()).await?;
        }
        Ok(kept)
    }
}
