//! SQL over the whole history: the tables of one moment, queried read-only, with exact numbers and nanosecond clocks.
//!
//! ```text
//! files.rs ──► catalog.rs ──► table.rs   one family = one table (times as TIMESTAMP(ns, UTC)); facts.rs prunes its files
//!                  │      ┌─► tail.rs    the rows that the log has beyond those files
//!                  │      └─► units.rs   currency and unit of a price, from the instruments
//!                  ├─► priced.rs         both, as SQL shows a family with prices
//!                  └─► about.rs          commits, intervals, lag; gaps and quarantine with what explains their rows
//!
//!        together.rs, runs.rs   files in their order where somebody wants it, and groups without hashing
//!        apart.rs               files and tail are each asked alone where that gives as much
//!        ends.rs                 of the last of each symbol, and of the latest rows, nothing but these
//!        gate.rs     one statement, and it only reads (functions.rs: which functions; ignored.rs: which words; folders.rs: plans without places)
//!        bounds.rs, products.rs   no plan far larger than its text, no join of all with all
//!        queries.rs  what was asked, and how it went; abandoned.rs: what computes on for nobody
//!        limits.rs   every limit, once                        exact.rs, checked.rs, sum.rs,  functions, + - * / %, sum
//!        planner.rs  plans are made beside the workers         average.rs                     and avg: exact, or an error
//!                                │
//!        (principal, SQL) ──► engine.rs (session.rs, limited.rs) ──► stream of batches ──► output.rs (CSV, JSON, Arrow) · draw.rs (tables) · plot.rs
//!                                                             └─► shell.rs
//!        tables ──► replay.rs ──► JSON lines, Avro, DBN, another log, another home
//! ```
//!
//! Promise: a query sees the tables at one moment, changes nothing, and prints every number with all its digits.

mod abandoned;
pub mod about;
mod adding;
mod apart;
mod average;
mod bounds;
pub mod catalog;
mod checked;
mod concat;
mod counted;
pub mod draw;
mod ends;
pub mod engine;
pub mod error;
mod exact;
mod facts;
pub mod files;
mod folders;
mod functions;
mod gate;
mod ignored;
mod limited;
pub mod limits;
mod octets;
pub mod output;
mod pager;
pub mod planner;
mod plot;
mod priced;
mod products;
mod pushed;
mod queries;
pub mod replay;
mod room;
mod runs;
mod session;
pub mod shell;
pub mod statements;
mod sum;
pub mod table;
pub mod tail;
mod together;
mod units;
mod watch;

pub use about::{Asked, Asker, Cell};
pub use catalog::Catalog;
pub use engine::{Engine, Options, Principal};
pub use error::Error;
pub use files::{Listing, TableFiles, listing};
pub use tail::Tail;
