//! What a run of the store did, for a person and for a script.

use schemas::Family;
use std::collections::BTreeMap;

/// Reasons that are counted one by one; the others are counted together.
const REASONS_MAX: usize = 50;

/// Counts of a run so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Offsets between where the tables were and where the log ended, when the log was opened.
    pub to_read: u64,
    /// How many of those have been read, holes included.
    pub read: u64,
    /// How many of those are stored.
    pub stored: u64,
    /// Rows stored, by family; rows that the store itself put into `quarantine` and `gaps` included.
    pub rows: BTreeMap<Family, u64>,
    /// Commits.
    pub commits: u64,
    /// Files written.
    pub files: u64,
    /// Bytes in those files.
    pub bytes: u64,
    /// Records that could not be decoded, by family and reason.
    pub quarantined: BTreeMap<(Family, String), u64>,
    /// Offsets that the log had lost before they were stored.
    pub lost: u64,
    /// Events that the log delivered again.
    pub skipped: u64,
    /// Times that trouble passed and the tables were read again.
    pub retries: u64,
    /// How many of those because another store was first with a partition: nothing of this one's try is in the tables.
    pub fenced: u64,
    /// Times that its partitions were taken from it, because it was not heard of for too long: what it had read was dropped, for others to store.
    pub taken: u64,
    /// Where several stores share the partitions: how many this one has of how many. `None` where it has all by itself.
    pub partitions: Option<(usize, usize)>,
    /// Times that this changed.
    pub rebalances: u64,
}

impl Report {
    /// All rows stored.
    pub fn rows_total(&self) -> u64 {
        self.rows.values().sum()
    }

    /// All records that could not be decoded.
    pub fn quarantined_total(&self) -> u64 {
        self.quarantined.values().sum()
    }

    /// True when everything was as it should be: exit code 0.
    pub fn is_clean(&self) -> bool {
        self.quarantined.is_empty() && self.lost == 0
    }

    /// Adds what a later run did.
    pub fn add(&mut self, later: Report) {
        self.to_read += later.to_read;
        self.read += later.read;
        self.stored += later.stored;
        later.rows.into_iter().for_each(|(family, rows)| *self.rows.entry(family).or_default() += rows);
        self.commits += later.commits;
        self.files += later.files;
        self.bytes += later.bytes;
        later.quarantined.into_iter().for_each(|((family, reason), count)| self.count_quarantined(family, &reason, count));
        self.lost += later.lost;
        self.skipped += later.skipped;
        self.retries += later.retries;
        self.fenced += later.fenced;
        self.taken += later.taken;
        self.partitions = later.partitions.or(self.partitions);
        self.rebalances += later.rebalances;
    }

    pub(crate) fn count_quarantined(&mut self, family: Family, reason: &str, count: u64) {
        let key = (family, reason.to_string());
        let known = self.quarantined.contains_key(&key) || self.quarantined.len() < REASONS_MAX;
        *self.quarantined.entry(if known { key } else { (family, "other reasons".to_string()) }).or_default() += count;
    }
}
