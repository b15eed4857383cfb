//! Sources to records to log: read, parse, decide what is new, publish once.

pub mod admission;
pub mod cursor;
pub mod inputs;
pub mod pipeline;
pub mod position;
pub mod report;
mod rows;
pub mod source;
pub mod sources;
pub mod synthetic;
mod trail;
pub mod unpack;

/// What can go wrong with an input as a whole. What is wrong with one record is a [`source::Bad`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input cannot be read, or is not what it should be.
    #[error("{file}: {what}{}", if todo.is_empty() { String::new() } else { format!(": {todo}") })]
    Input {
        /// File (and member).
        file: String,
        /// What is wrong, with byte, line and field where they are known, and what was expected.
        what: String,
        /// What to do.
        todo: String,
    },
    /// The operating system or an unpacker refuses to read on.
    #[error("{file}: cannot be read at byte {byte} of the unpacked content: {why}: check its disk, or copy or fetch it again")]
    Read {
        /// File (and member).
        file: String,
        /// How far the unpacked content could be read.
        byte: u64,
        /// What was said.
        why: std::io::Error,
    },
    /// Records could not be built or encoded: a broken promise of our own.
    #[error(transparent)]
    Schema(#[from] schemas::Error),
    /// The log.
    #[error(transparent)]
    Log(#[from] eventlog::Error),
}
