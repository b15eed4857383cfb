//! The Delta tables: open, read, commit. The only crate that knows Delta; it knows nothing of the log and nothing of SQL.
//!
//! ```text
//! batches (any order) ──► sort.rs order per partition ──► file.rs Parquet + stats.rs ──► table.rs one Delta version with its txns
//!                                                                                            │
//!                                                       durable.rs: data, then log entry, each on disk before the next
//! ```
//!
//! Promise: a commit that returned is on disk as a whole, its files are sorted and say so, and its transactions moved exactly from
//! where the caller said they were.
//!
//! ```no_run
//! # async fn example(rows: arrow::array::RecordBatch) -> Result<(), lake::Error> {
//! let lake = lake::Lake::open("/data/tables")?;
//! let mut trades = lake.table(schemas::Family::Trades).await?;
//! let txn = lake::Txn { app_id: "trades/some-topic-id/0".into(), from: None, to: 1000 };
//! let committed = trades.commit(&[rows], &[txn], serde_json::Map::new()).await?;
//! println!("version {} has {} files", committed.version, trades.snapshot().files().len());
//! # Ok(())
//! # }
//! ```

mod archive;
mod bounds;
mod compact;
mod durable;
mod file;
mod groups;
mod history;
mod horizon;
mod layout;
mod merge;
mod own;
mod pages;
mod read;
mod sort;
mod sorted;
mod stats;
mod stop;
mod table;
mod upkeep;

pub use compact::{Compacted, Compaction, most_files, plan};
pub use durable::{Disk, DurableLocal, LocalDisk};
pub use file::FileLayout;
pub use groups::GroupRows;
pub use history::{Entry, Files, History};
pub use horizon::{Horizon, Removed};
pub use layout::{DATE_MAX, DATE_MIN, partition_value};
pub use read::FileRows;
pub use stats::{Bound, Stats};
pub use stop::Stop;
pub use table::{Committed, FileInfo, Lake, Snapshot, Table, Txn};
pub use upkeep::{Kept, Upkeep};

/// What can go wrong with a table. Every variant says which table, what was being done and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The place of the tables is not one that can be used.
    #[error("tables at {url}: {why}")]
    Location {
        /// As it was given.
        url: String,
        /// What is wrong and what to give instead.
        why: String,
    },
    /// The table was written by something that this version does not understand.
    #[error(
        "table {table} at {url} needs {needs}, which this version of tape does not support: use the version that wrote it, or other tables"
    )]
    Protocol {
        /// Table name.
        table: &'static str,
        /// Where it is.
        url: String,
        /// What its protocol asks for.
        needs: String,
    },
    /// A column of the table is not the one that this version writes.
    #[error("table {table} at {url}: column {column} {why}")]
    Column {
        /// Table name.
        table: &'static str,
        /// Where it is.
        url: String,
        /// The column.
        column: String,
        /// What it is, what was expected, and what to do.
        why: String,
    },
    /// A batch does not belong into this table: a broken promise of our own.
    #[error("table {table}: a batch cannot be stored: {why}")]
    Batch {
        /// Table name.
        table: &'static str,
        /// What is wrong.
        why: String,
    },
    /// Another writer committed for the same log partition after this one last looked. Nothing of this commit is visible.
    #[error("table {table}: another process stores the same partition ({app_id}) and was first at version {version}")]
    Fenced {
        /// Table name.
        table: &'static str,
        /// The application transaction both carry.
        app_id: String,
        /// The version that won.
        version: u64,
    },
    /// The table stands elsewhere than the caller believed. Nothing of this commit is visible.
    #[error(
        "table {table}: another process changed it meanwhile: {what} is {found} now and was {expected} when this one read it; nothing of this one's \
         work is in the table: it is to be read again, and gone on from there"
    )]
    Moved {
        /// Table name.
        table: &'static str,
        /// What moved: an application transaction, or the table's schema.
        what: String,
        /// What the caller said.
        expected: String,
        /// What the table says.
        found: String,
    },
    /// No space is left.
    #[error("table {table}: no space left while writing {path}: nothing was committed; free space at {url} and run again")]
    Full {
        /// Table name.
        table: &'static str,
        /// Where the tables are.
        url: String,
        /// File that was being written.
        path: String,
    },
    /// A table that was there once is gone.
    #[error(
        "table {table} was in {url} once, and is gone with all that it held: bring its folder back from a copy, or remove {memory} there to begin \
         the table anew with what the log still has"
    )]
    Gone {
        /// Table name.
        table: &'static str,
        /// Where the tables are.
        url: String,
        /// What remembers it, below that.
        memory: String,
    },
    /// An entry of the table's log is missing between others: what it brought and took is not known.
    #[error(
        "table {table} at {url}: its log has no version {version}, though later ones are there: _delta_log/{version:020}.json is gone; bring it back from \
         a copy, or, where the log of records still holds everything, store it again into an empty folder (tape store --once --tables DIR)"
    )]
    Gap {
        /// Table name.
        table: &'static str,
        /// Where it is.
        url: String,
        /// The first version that is missing.
        version: u64,
    },
    /// Storage refused or failed. After an error of a commit the table must be read again before deciding anything.
    #[error("table {table} at {url}: {doing}: {why}")]
    Storage {
        /// Table name.
        table: &'static str,
        /// Where it is.
        url: String,
        /// What was being done.
        doing: String,
        /// What was said.
        why: String,
    },
}
