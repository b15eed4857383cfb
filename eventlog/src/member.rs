//! Several processes that read one log share its partitions: each is told which ones are its own, and gives back what it is asked for.

use crate::Error;
use schemas::Family;
use std::collections::BTreeSet;
use std::time::Duration;

/// Which partitions are one process's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Partitions {
    /// All of the log: nobody else reads it for the same purpose.
    All,
    /// These.
    Some(BTreeSet<(Family, i32)>),
}

impl Partitions {
    /// Is this one among them?
    pub fn has(&self, family: Family, partition: i32) -> bool {
        match self {
            Partitions::All => true,
            Partitions::Some(these) => these.contains(&(family, partition)),
        }
    }

    /// True where there is nothing to read.
    pub fn is_empty(&self) -> bool {
        *self == Partitions::Some(BTreeSet::new())
    }
}

/// What a member knows of its share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Its partitions now.
    pub partitions: Partitions,
    /// They are to be shared out anew: finish what is under way, then [`Member::release`] them. The others wait for it.
    pub asked_back: bool,
    /// So often all of them were taken away without asking, because the member had not been heard of for too long: somebody else may have
    /// read on from where the tables stand.
    pub losses: u64,
    /// So often the share was changed.
    pub changes: u64,
}

impl Share {
    /// All partitions, for good.
    pub fn all() -> Share {
        Share { partitions: Partitions::All, ..Share::none() }
    }

    /// Nothing yet.
    pub fn none() -> Share {
        Share { partitions: Partitions::Some(BTreeSet::new()), asked_back: false, losses: 0, changes: 0 }
    }
}

/// One of the processes that share a log. To drop it is to leave: the others get its partitions.
pub trait Member: Send {
    /// Waits at most `timeout` for a change, and gives the share as it is then. To be called again and again: who does not is thought dead.
    fn poll(&mut self, timeout: Duration) -> Result<Share, Error>;

    /// Gives back what was asked for; without effect where nothing was.
    fn release(&mut self) -> Result<(), Error>;
}

/// The only reader of a log that one process owns.
pub(crate) struct Alone;

impl Member for Alone {
    fn poll(&mut self, timeout: Duration) -> Result<Share, Error> {
        std::thread::sleep(timeout);
        Ok(Share::all())
    }

    fn release(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
