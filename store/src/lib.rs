//! From the log to the tables, every record exactly once.
//!
//! ```text
//!              ┌─ read_ahead.rs ───────────────────────────────────────────┐
//! opened.rs ──►│ ledger.rs accept / skip ──► decode.rs rows, or quarantine │──► batcher.rs time to commit? ──► run.rs one Delta version
//!   ▲          └───────────────────────────────────────────────────────────┘                                    with its offsets
//!   └──────────────────────── after any error: where do the tables say they are? ◄───────────────────────────────────┘
//! ```
//!
//! Promise: a record that the log delivered is in its family's table once, or in `quarantine` once, whole; from the row the record can be
//! made again, byte for byte. Offsets live in the same Delta commit as the rows, so no crash comes between.

pub mod batcher;
pub mod commits;
pub mod decode;
pub mod info;
pub mod lag;
pub mod ledger;
mod membership;
pub mod moves;
mod opened;
pub mod place;
pub mod proof;
mod read_ahead;
mod report;
pub mod requeue;
pub mod retry;
mod run;
mod sha256;
mod spool;
pub mod tail;
pub mod verify;

pub use opened::refuse_other_log;
pub use report::Report;
pub use run::{Options, Store};
pub use schemas::record;

/// What can go wrong while storing. Nothing that was read is lost by it: the next run continues where the tables say.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tables.
    #[error(transparent)]
    Lake(#[from] lake::Error),
    /// The log.
    #[error(transparent)]
    Log(#[from] eventlog::Error),
    /// Records could not be decoded or encoded for a reason that is not in them: a broken promise of our own.
    #[error(transparent)]
    Schema(#[from] schemas::Error),
    /// A table has more than the log.
    #[error(
        "{name}[{partition}]: the table has everything before offset {stored}, but the log ends at {high}: it was cut or replaced; use the log that the tables were made from"
    )]
    Ahead {
        /// Topic name.
        name: String,
        /// Partition.
        partition: i32,
        /// Next offset by the table.
        stored: i64,
        /// Next offset by the log.
        high: i64,
    },
    /// A table was stored from a log that had another record here.
    #[error(
        "{name}[{partition}]: the record at offset {offset} is not the one that was stored from there: the log was brought back from an older copy, or replaced, and went on; the table has records that this log has not, and would lose those that it has in their place: use the log that the tables were made from, or give this one tables of its own (--tables)"
    )]
    Rewritten {
        /// Topic name.
        name: String,
        /// Partition.
        partition: i32,
        /// Offset of the record.
        offset: i64,
    },
    /// A table has rows of a partition, and nothing says which.
    #[error(
        "table {table} has rows of {name}[{partition}], but no transaction says up to which offset: stored from the beginning, they would be there twice; bring the table back from a copy whose log still has it, or store everything anew into other tables (--tables); whoever set delta.setTransactionRetentionDuration on the table must remove it"
    )]
    TxnLost {
        /// Table name.
        table: &'static str,
        /// Topic name.
        name: String,
        /// Partition.
        partition: i32,
    },
    /// `quarantine` says that it has a bad record, and has not.
    #[error(
        "{name}[{partition}]: the record at offset {offset} cannot be decoded, and by its transaction table quarantine has it already, but no row of it is that record: somebody wrote to the table's log, or took rows away; the record would be lost, so nothing more is stored: tape verify --against-log tells what else was changed; bring quarantine back from a copy, or store everything anew into other tables (--tables)"
    )]
    NotQuarantined {
        /// Topic name.
        name: String,
        /// Partition.
        partition: i32,
        /// Offset of the record.
        offset: i64,
    },
    /// A table was made from another log.
    #[error(
        "table {table} was stored from another log ({stored}) than this one ({given}): what both logs hold would be stored twice; use the log that the tables were made from, or give this one tables of its own (--tables)"
    )]
    OtherLog {
        /// Table name.
        table: &'static str,
        /// Topic, its id and the cluster, as the table's newest commit says.
        stored: String,
        /// The same of the log that is to be stored.
        given: String,
    },
    /// Rows could not be put together: a broken promise of our own.
    #[error("rows of {table} cannot be put together: {why}")]
    Rows {
        /// Table name.
        table: &'static str,
        /// What Arrow says.
        why: String,
    },
    /// A part of the store ended without saying why.
    #[error("the store's {part} ended unexpectedly: {why}")]
    Ended {
        /// Which part.
        part: &'static str,
        /// What is known.
        why: String,
    },
    /// The same kind of trouble came again and again with nothing stored between.
    #[error("gave up after {tries} tries without progress; everything stored so far stays, and the next run continues there: {last}")]
    GaveUp {
        /// How many times in a row.
        tries: u32,
        /// The last error.
        last: Box<Error>,
    },
}

impl Error {
    /// True where the log cannot be reached.
    pub fn is_outage(&self) -> bool {
        matches!(self, Error::Log(eventlog::Error::Unreachable { .. }))
    }

    /// True where another store was first: what this one was to store is stored.
    pub fn is_fence(&self) -> bool {
        matches!(self, Error::Lake(lake::Error::Fenced { .. } | lake::Error::Moved { .. }))
    }

    /// True where trying again may help: the outside was at fault, and may recover.
    pub fn may_pass(&self) -> bool {
        match self {
            Error::Lake(e) => match e {
                lake::Error::Fenced { .. } | lake::Error::Moved { .. } | lake::Error::Storage { .. } => true,
                lake::Error::Location { .. } | lake::Error::Protocol { .. } | lake::Error::Column { .. } => false,
                lake::Error::Gone { .. } | lake::Error::Gap { .. } => false,
                lake::Error::Batch { .. } | lake::Error::Full { .. } => false,
            },
            Error::Log(e) => match e {
                eventlog::Error::Unreachable { .. } | eventlog::Error::Failed { .. } | eventlog::Error::OffsetGone { .. } => true,
                eventlog::Error::TopicMissing { .. } | eventlog::Error::TopicUnfit { .. } | eventlog::Error::Refused { .. } => false,
                eventlog::Error::Fenced { .. } | eventlog::Error::Owned { .. } | eventlog::Error::TooLarge { .. } => false,
                eventlog::Error::Restored { .. } => false,
                eventlog::Error::MemberTaken { .. } => true,
            },
            Error::NotQuarantined { .. } => false,
            Error::Schema(_) | Error::Ahead { .. } | Error::Rewritten { .. } | Error::OtherLog { .. } | Error::TxnLost { .. } => false,
            Error::Rows { .. } | Error::Ended { .. } | Error::GaveUp { .. } => false,
        }
    }
}
