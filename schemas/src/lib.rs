//! What a record is, on the wire and at rest. Pure: no tokio, no Kafka, no engine.
//!
//! ```text
//! family.rs  columns ──► topic.rs  family = name + columns + keys + schema id
//!                             │
//!            rows.rs  cells ──► batch ──► frame.rs ──► Avro frames (and back; spelling.rs: are they just what we would write?)
//!                                      └──► record.rs  stored row ──► the record as it stood in the log
//! ```
//!
//! Promise: a record that was encoded decodes to the same values, and a decoded record encodes to the same bytes.
//!
//! ```
//! use schemas::{Family, Rows, frame};
//! let topic = Family::Trades.topic();
//! let mut rows = Rows::new(Family::Trades);
//! rows.text(topic.column("dataset"), "GLBX.MDP3");
//! rows.text(topic.column("symbol"), "GPU1V6");
//! rows.decimal(topic.column("price"), 2_810_000_000);
//! rows.text(topic.column("change"), "new");
//! rows.i32(topic.column("revision"), 0);
//! rows.bytes(topic.column("source_id"), &[7; 16]);
//! rows.i64(topic.column("source_record"), 0);
//! rows.i64(topic.column("source_byte"), 0);
//! rows.end_row();
//! let batch = rows.finish()?;
//! let frames = frame::encode(Family::Trades, &batch)?;
//! let decoded = frame::decode(Family::Trades, &[&frames[0]])?;
//! assert_eq!(decoded.batch, batch);
//! # Ok::<(), schemas::Error>(())
//! ```

pub mod about;
pub mod container;
pub mod dictionary;
pub mod exact;
mod family;
pub mod field;
pub mod frame;
pub mod record;
pub mod rows;
mod spelling;
pub mod topic;

pub use field::{Field, Kind};
pub use rows::Rows;
pub use topic::{Family, Topic};

/// Under which `path_facts` of `sources` says within what (`source`, `symbol`) the numbers of `sequence` are declared to count up by one.
pub const SEQUENCE_COMPLETE: &str = "sequence_complete";

/// What can go wrong between a batch and its frames.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A batch could not be built from its cells.
    #[error("building a batch of {topic}: {why}")]
    Build {
        /// The family's topic.
        topic: &'static str,
        /// What Arrow says.
        why: String,
    },
    /// A batch could not be encoded.
    #[error("encoding records of {topic}: {why}")]
    Encode {
        /// The family's topic.
        topic: &'static str,
        /// What arrow-avro says.
        why: String,
    },
    /// Frames could not be decoded for a reason that is not in the frames.
    #[error("decoding records of {topic}: {why}")]
    Decode {
        /// The family's topic.
        topic: &'static str,
        /// What arrow-avro says.
        why: String,
    },
    /// A stored row does not say what its record was.
    #[error("making a record of {topic} again from its row: {why}")]
    Rebuild {
        /// The family's topic.
        topic: &'static str,
        /// What is wrong with the row.
        why: String,
    },
}
