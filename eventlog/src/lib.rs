//! The event log: one small interface with two homes, Apache Kafka and an embedded log for one machine.
//!
//! ```text
//! Writer::publish(records + states, one transaction) ──► topics, one per family ──► Reader::poll ──► events with offsets
//!                                                    └─► compacted states (positions, last known values)
//! ```
//!
//! Promise: what `publish` returned is durable and visible as a whole; a reader sees every record of a partition once, in offset order,
//! and nothing of a transaction that did not commit.

use bytes::Bytes;
use schemas::Family;
use schemas::record::Headers;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::Duration;

mod codec;
pub mod embedded;
pub mod home;
pub mod kafka;
mod member;
pub mod murmur2;
pub mod origin;
pub mod socket;
mod topic_id;

pub use home::open_home;
pub use member::{Member, Partitions, Share};
pub use schemas::record::TimestampType;

/// What Kafka adds to a record's key and value inside a batch of one, rounded up: a record that fits with it fits its topic.
pub const RECORD_OVERHEAD_BYTES: usize = 512;

/// Largest record of a compacted topic, with key and overhead.
pub const STATE_BYTES_MAX: usize = schemas::topic::MESSAGE_BYTES_MAX;

/// The two compacted topics beside the families: key → last value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StateTopic {
    /// `positions`: how far each source was published.
    Positions,
    /// `state`: the last known value per business key, for sources that publish only what changed; under `replay/…`, how far a replay to
    /// this log came.
    State,
}

impl StateTopic {
    /// Both.
    pub const ALL: [StateTopic; 2] = [StateTopic::Positions, StateTopic::State];

    /// Topic name without the prefix.
    pub fn name(self) -> &'static str {
        match self {
            StateTopic::Positions => "positions",
            StateTopic::State => "state",
        }
    }
}

/// Records of one family, in order: `keys[i]` belongs to `values[i]`.
#[derive(Debug, Clone)]
pub struct Records {
    /// Family, and so topic, of the records.
    pub family: Family,
    /// Keys, as `schemas::frame::keys` makes them.
    pub keys: Vec<Bytes>,
    /// Frames, as `schemas::frame::encode` makes them.
    pub values: Vec<Bytes>,
}

/// A record that stood in another log, with all that a record may have; the log that it is published to sets the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// Partition that it goes to, whatever its key says.
    pub partition: i32,
    /// Key; null and empty are different.
    pub key: Option<Bytes>,
    /// Value; null and empty are different.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Headers,
}

impl Whole {
    fn bytes(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + length(value)).sum();
        length(&self.key) + length(&self.value) + headers
    }
}

/// A new value, or with `None` the end, of one key of a compacted topic.
#[derive(Debug, Clone)]
pub struct State {
    /// Which compacted topic.
    pub topic: StateTopic,
    /// Key.
    pub key: String,
    /// Value; `None` removes the key.
    pub value: Option<Bytes>,
}

/// What becomes visible together, or not at all.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Records by family.
    pub records: Vec<Records>,
    /// Replayed records by family, in order.
    pub wholes: Vec<(Family, Vec<Whole>)>,
    /// States to set in the same transaction.
    pub states: Vec<State>,
}

impl Batch {
    /// Number of records.
    pub fn len(&self) -> usize {
        let wholes: usize = self.wholes.iter().map(|(_, wholes)| wholes.len()).sum();
        wholes + self.records.iter().map(|records| records.values.len()).sum::<usize>()
    }

    /// True when nothing would be published.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.states.is_empty()
    }

    /// Refuses what its topic would refuse, before anything is written: the same rule in every home.
    fn check(&self, prefix: &str) -> Result<(), Error> {
        for records in &self.records {
            let topic = records.family.topic();
            if records.keys.len() != records.values.len() {
                let why =
                    format!("{} keys for {} values of {}: a mistake in the caller", records.keys.len(), records.values.len(), topic.name);
                return Err(Error::Failed { doing: "publishing".to_string(), why });
            }
            let largest = records.keys.iter().zip(&records.values).map(|(key, value)| key.len() + value.len()).max();
            check_size(prefix, topic.name, largest.unwrap_or(0), topic.max_message_bytes)?;
        }
        for (family, wholes) in &self.wholes {
            let topic = family.topic();
            check_size(prefix, topic.name, wholes.iter().map(Whole::bytes).max().unwrap_or(0), topic.max_message_bytes)?;
        }
        for state in &self.states {
            let bytes = state.key.len() + state.value.as_ref().map_or(0, Bytes::len);
            check_size(prefix, state.topic.name(), bytes, STATE_BYTES_MAX)?;
        }
        Ok(())
    }
}

fn check_size(prefix: &str, name: &str, bytes: usize, max: usize) -> Result<(), Error> {
    let bytes = bytes + RECORD_OVERHEAD_BYTES;
    if bytes <= max {
        return Ok(());
    }
    Err(Error::TooLarge { name: format!("{prefix}{name}"), bytes, max })
}

/// One record as read from the log.
#[derive(Debug, Clone)]
pub struct Event {
    /// Family, and so topic.
    pub family: Family,
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition; gaps are possible.
    pub offset: i64,
    /// Milliseconds since 1970 UTC.
    pub ts_ms: i64,
    /// Who set `ts_ms`.
    pub ts_type: TimestampType,
    /// Key; null and empty are different.
    pub key: Option<Bytes>,
    /// Value; null and empty are different.
    pub value: Option<Bytes>,
    /// Headers in order; empty when there are none.
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// What one poll brought.
#[derive(Debug, Default)]
pub struct Polled {
    /// Events, in offset order within each partition.
    pub events: Vec<Event>,
    /// Partitions whose end was reached: everything that was visible when this poll began has been delivered. A partition is named once
    /// each time its end is reached, and again after more of it was delivered.
    pub at_end: Vec<(Family, i32)>,
}

/// Where to begin reading a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Family, and so topic.
    pub family: Family,
    /// Partition of the topic.
    pub partition: i32,
    /// First offset wanted. An offset that the log no longer has is an error, never a silent jump.
    pub offset: i64,
}

/// What the log says of a family's topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicInfo {
    /// Topic name with the prefix.
    pub name: String,
    /// Id that changes when a topic is deleted and made again.
    pub id: String,
    /// Number of partitions.
    pub partitions: i32,
}

/// One topic in the report of `tape topics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicReport {
    /// Topic name with the prefix.
    pub name: String,
    /// True when this call created it.
    pub created: bool,
    /// What differs from what tokentape needs, in words; empty when nothing does.
    pub problems: Vec<String>,
}

/// Lowest and next offset of a partition, as a read-committed reader sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermarks {
    /// First offset still in the log.
    pub low: i64,
    /// Offset after the last visible one; Kafka counts the markers that end transactions too.
    pub high: i64,
}

/// Offsets of a partition that were written and that nobody can read yet: a transaction among them has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Family, and so topic.
    pub family: Family,
    /// Partition of the topic.
    pub partition: i32,
    /// First offset of the transaction, where readers stop.
    pub from: i64,
    /// Offset after the last one that was written.
    pub to: i64,
    /// When the log got the transaction's first record, in milliseconds since 1970 UTC by the broker's clock; `None` where it does not say.
    pub since_ms: Option<i64>,
}

impl Held {
    /// Offsets that cannot be read yet.
    pub fn offsets(&self) -> u64 {
        (self.to - self.from).unsigned_abs()
    }
}

/// A log: Kafka, embedded, or another process's embedded log behind its socket.
pub trait EventLog: Send + Sync {
    /// What and where, for messages: `Kafka at 127.0.0.1:9092`, `embedded log in /data/log`.
    fn describe(&self) -> String;

    /// Id of the cluster (Kafka's, or the embedded log's random one).
    fn cluster_id(&self) -> Result<String, Error>;

    /// Creates the topics that are missing, then checks all of them.
    fn create_topics(&self) -> Result<Vec<TopicReport>, Error>;

    /// Checks every topic without creating any; a missing one is a problem.
    fn check_topics(&self) -> Result<Vec<TopicReport>, Error>;

    /// The topic of a family; an error when it does not exist.
    fn topic(&self, family: Family) -> Result<TopicInfo, Error>;

    /// The one writer under this transactional id: it fences an earlier one and settles what that one left open.
    fn writer(&self, transactional_id: &str) -> Result<Box<dyn Writer>, Error>;

    /// All keys of a compacted topic with their last committed values, read to its end.
    fn states(&self, topic: StateTopic) -> Result<HashMap<String, Bytes>, Error>;

    /// A reader of the given partitions.
    fn reader(&self, starts: &[Start]) -> Result<Box<dyn Reader>, Error>;

    /// Joins the processes that share the log's partitions, under a name that no other living one has: who comes back under the name of one
    /// that has died takes its place. A log that belongs to one process is not shared.
    fn join(&self, name: &str) -> Result<Box<dyn Member>, Error> {
        let _ = name;
        Ok(Box::new(member::Alone))
    }

    /// Watermarks of every partition of a family's topic, by partition number.
    fn watermarks(&self, family: Family) -> Result<Vec<Watermarks>, Error>;

    /// Every family's topic, with the watermarks of its partitions.
    fn extents(&self) -> Result<Vec<Extent>, Error> {
        let extent = |family| Ok(Extent { family, topic: self.topic(family)?, watermarks: self.watermarks(family)? });
        Family::ALL.into_iter().map(extent).collect()
    }

    /// Partitions of which something was written that cannot be read yet, as a transaction is open. A log that publishes at once has none.
    fn held(&self) -> Result<Vec<Held>, Error> {
        Ok(Vec::new())
    }

    /// Do transactions leave offsets that hold no record: their markers, and what was aborted? Where not, only what was restored has holes, and
    /// why the origin had them is not known here.
    fn has_markers(&self) -> bool {
        false
    }

    /// Says that everything before `offset` is stored for good. The embedded log may drop it once its retention has passed; Kafka keeps
    /// its own retention.
    fn stored(&self, family: Family, partition: i32, offset: i64) -> Result<(), Error>;
}

/// How much of a family the log has.
#[derive(Debug, Clone)]
pub struct Extent {
    /// The family.
    pub family: Family,
    /// Its topic.
    pub topic: TopicInfo,
    /// By partition number.
    pub watermarks: Vec<Watermarks>,
}

/// The single writer of a transactional id.
pub trait Writer: Send {
    /// Publishes all of `batch` in one transaction. On return it is durable and visible. After an error nothing is known: throw the writer
    /// away (it refuses to publish again), make a new one, and read the position again.
    fn publish(&mut self, batch: &Batch) -> Result<(), Error>;
}

/// A reader of some partitions.
pub trait Reader: Send {
    /// Waits at most `timeout` for events; at most about `events_max` are returned.
    fn poll(&mut self, timeout: Duration, events_max: usize) -> Result<Polled, Error>;
}

/// What can go wrong with a log. Every variant says what was being done and what to do next.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// The log cannot be reached.
    #[error("{doing}: {log} cannot be reached: {why}")]
    Unreachable {
        /// What was being done.
        doing: String,
        /// Which log.
        log: String,
        /// What the library says.
        why: String,
    },
    /// A topic does not exist.
    #[error("topic {name} does not exist: run `tape topics` to create it")]
    TopicMissing {
        /// Topic name.
        name: String,
    },
    /// A topic has other settings than tokentape needs.
    #[error("topic {name} is not fit: {}", problems.join("; "))]
    TopicUnfit {
        /// Topic name.
        name: String,
        /// What differs and what to do.
        problems: Vec<String>,
    },
    /// The broker refused for lack of rights.
    #[error("{doing}: {log} refuses: {why}: check the user's rights (ACLs) and the [kafka] settings")]
    Refused {
        /// What was being done.
        doing: String,
        /// Which log.
        log: String,
        /// What the broker says.
        why: String,
    },
    /// Another writer took over this transactional id.
    #[error("another process publishes the same source ({id}): this one stops; nothing was published twice")]
    Fenced {
        /// Transactional id.
        id: String,
    },
    /// A group knows another member under the name of this one: a broker that stood still may have taken this one twice.
    #[error(
        "the group {group} has another member under the name of this one ({name}): after a standstill of the broker that mends itself; where it comes again and again, a home was copied while its store ran: delete the folder stores in the copy, and start its store again"
    )]
    MemberTaken {
        /// Consumer group.
        group: String,
        /// The name.
        name: String,
    },
    /// An offset is no longer in the log.
    #[error(
        "{name}[{partition}]: offset {offset} is no longer in the log, which begins at {low}: records {offset}..{low} are lost to retention"
    )]
    OffsetGone {
        /// Topic name.
        name: String,
        /// Partition.
        partition: i32,
        /// Offset asked for.
        offset: i64,
        /// First offset that is left.
        low: i64,
    },
    /// Another process owns the embedded log.
    #[error("{dir} is in use by process {pid}: stop it, or let it do the work through its socket")]
    Owned {
        /// The home's log directory.
        dir: String,
        /// Process id of the owner.
        pid: String,
    },
    /// The log was restored from tables.
    #[error(
        "{log} was restored from tables by `tape replay` and takes no new records: how far its sources were published could not be restored with \
         it, so what it has would be published again; ingest into another home"
    )]
    Restored {
        /// Which log.
        log: String,
    },
    /// A record is larger than its topic allows.
    #[error("a record of {name} has {bytes} bytes, more than the topic's {max}")]
    TooLarge {
        /// Topic name.
        name: String,
        /// Bytes of the record.
        bytes: usize,
        /// Largest allowed.
        max: usize,
    },
    /// Storage or broker failed in the middle of something.
    #[error("{doing}: {why}")]
    Failed {
        /// What was being done.
        doing: String,
        /// What the library says.
        why: String,
    },
}
