//! Apache Kafka as the log: one transaction per publish, manual assignment for reading, nothing that differs between homes for the caller.
//!
//! The only file (with topic_id.rs and the files below kafka/) that knows rdkafka.

mod member;
mod read;
mod topics;
mod trouble;
mod write;

use crate::embedded::beyond_end;
use crate::topic_id::{self, Described};
use crate::{Error, EventLog, Extent, Held, Member, Reader, Start, StateTopic, TopicInfo, TopicReport, Watermarks, Writer};
use bytes::Bytes;
use rdkafka::admin::AdminClient;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use schemas::Family;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use trouble::{Context, Trouble};

/// How long a question to the brokers may take.
const ASK_WAIT: Duration = Duration::from_secs(10);
/// How long to wait before asking the same again.
const RETRY: Duration = Duration::from_millis(20);
/// How long group offsets are not written after that failed.
const LAG_REST: Duration = Duration::from_secs(60);
/// Complaints looked at for the one that explains an error.
const COMPLAINTS_MAX: usize = 100;
/// Room for the largest record with everything a batch adds to it.
const MESSAGE_BYTES_MAX: usize = schemas::topic::RAW_MESSAGE_BYTES_MAX + (1 << 20);

/// How to reach a Kafka.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// Brokers to begin with, `host:port,host:port`.
    pub brokers: String,
    /// What topic names begin with.
    pub prefix: String,
    /// librdkafka properties, handed on as they are (TLS, SASL, …). Those that exactly-once rests on are refused.
    pub properties: BTreeMap<String, String>,
    /// Replicas of a new topic; -1 leaves it to the brokers' default.
    pub replication_factor: i32,
    /// `retention.ms` of the families' topics; -1, for ever, unless somebody decides otherwise.
    pub retention_ms: i64,
    /// The topics hold what `tape replay` wrote: events have the time that their headers `tape-origin-*` say. Only for topics that nobody else may
    /// write to: whoever may can so state any time.
    pub replayed: bool,
}

impl KafkaOptions {
    /// The usual options for these brokers.
    pub fn new(brokers: &str) -> KafkaOptions {
        KafkaOptions {
            brokers: brokers.to_string(),
            prefix: "tape.".to_string(),
            properties: BTreeMap::new(),
            replication_factor: -1,
            retention_ms: -1,
            replayed: false,
        }
    }
}

/// A Kafka cluster as a log.
pub struct Kafka {
    shared: Arc<Shared>,
    admin: AdminClient<Context>,
    /// Asks as a reader does: the high end is what is committed.
    committed: BaseConsumer<Context>,
    /// Writes group offsets for lag displays.
    lag: Mutex<Lag>,
    /// While this process is a member of the group, only the member may write them.
    member: Mutex<Weak<BaseConsumer<member::GroupContext>>>,
    /// The compacted topics, as far as they were read.
    tails: [Mutex<Option<read::Tail>>; 2],
    cluster_id: String,
}

/// What writes group offsets: made when first needed, and left alone for a while after it failed, since each try waits for the group.
#[derive(Default)]
struct Lag {
    consumer: Option<BaseConsumer<Context>>,
    rests_until: Option<Instant>,
}

/// What writers and readers need of their log.
struct Shared {
    options: KafkaOptions,
    trouble: Arc<Trouble>,
    names: Vec<String>,
    /// It was said that records tell of an origin whose time nobody asked for.
    told_of_origin: AtomicBool,
}

/// A partition whose leader is being chosen, or that a broker has not heard of yet.
fn is_moving(e: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        trouble::code(e),
        Some(Code::NotLeaderForPartition | Code::LeaderNotAvailable | Code::UnknownTopicOrPartition | Code::UnknownPartition)
    )
}

/// Properties that tokentape sets itself: another value would break a promise of the log.
const OWN_PROPERTIES: [&str; 20] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "partition.assignment.strategy",
    "isolation.level",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "enable.partition.eof",
    "check.crcs",
    "acks",
    "request.required.acks",
    "enable.idempotence",
    "transactional.id",
    "transaction.timeout.ms",
    "partitioner",
    "allow.auto.create.topics",
    "delivery.report.only.error",
];

impl Kafka {
    /// Connects, and waits until a broker has answered.
    pub fn connect(options: KafkaOptions) -> Result<Kafka, Error> {
        if let Some(name) = options.properties.keys().find(|name| OWN_PROPERTIES.contains(&name.as_str())) {
            let why = format!("tokentape sets {name} itself, because exactly-once rests on it: remove it from the properties");
            return Err(Error::Failed { doing: "reading the Kafka settings".to_string(), why });
        }
        let names = Family::ALL.iter().map(|family| format!("{}{}", options.prefix, family.topic().name)).collect();
        let shared = Arc::new(Shared { options, trouble: Arc::default(), names, told_of_origin: AtomicBool::new(false) });
        // Between transactions' ends there is more in the log than a reader may see: the admin client is asked for that.
        let admin: AdminClient<Context> = shared.create(&[("isolation.level", "read_uncommitted")])?;
        let committed: BaseConsumer<Context> = shared.create(&[("isolation.level", "read_committed")])?;
        let cluster_id = admin.inner().fetch_cluster_id(ASK_WAIT);
        let kafka = Kafka {
            shared,
            admin,
            committed,
            lag: Mutex::default(),
            member: Mutex::default(),
            tails: Default::default(),
            cluster_id: cluster_id.unwrap_or_default(),
        };
        match kafka.cluster_id.is_empty() {
            true => Err(kafka.error("connecting", KafkaError::Global(RDKafkaErrorCode::OperationTimedOut))),
            false => Ok(kafka),
        }
    }

    /// An error with what the clients have complained of; the admin client's own complaints cannot be heard, its sister's can.
    fn error(&self, doing: &str, e: KafkaError) -> Error {
        for _ in 0..COMPLAINTS_MAX {
            if self.committed.poll(Duration::ZERO).is_none() {
                break;
            }
        }
        self.shared.error(doing, e)
    }

    /// First and next offset of a partition, as `client` sees them. A new topic's partition is for a moment nobody's: asked again.
    fn ends<C: ClientContext>(&self, client: &Client<C>, name: &str, partition: i32) -> Result<(i64, i64), Error> {
        let deadline = Instant::now() + ASK_WAIT;
        loop {
            match client.fetch_watermarks(name, partition, ASK_WAIT) {
                Ok(ends) => return Ok(ends),
                Err(e) if Instant::now() < deadline && is_moving(&e) => std::thread::sleep(RETRY),
                Err(e) => return Err(self.error(&format!("asking for the ends of {name}[{partition}]"), e)),
            }
        }
    }

    /// Of what is committed.
    fn watermarks_of(&self, topic: &TopicInfo) -> Result<Vec<Watermarks>, Error> {
        let of = |partition| self.ends(self.committed.client(), &topic.name, partition).map(|(low, high)| Watermarks { low, high });
        (0..topic.partitions).map(of).collect()
    }

    fn describe_topics(&self, names: &[String], doing: &str) -> Result<Vec<Result<Described, RDKafkaErrorCode>>, Error> {
        topic_id::describe(self.admin.inner(), names, ASK_WAIT).map_err(|code| self.error(doing, KafkaError::Global(code)))
    }

    fn topics(&self, families: &[Family]) -> Result<Vec<TopicInfo>, Error> {
        let names: Vec<String> = families.iter().map(|family| self.shared.name(*family).to_string()).collect();
        let described = self.describe_topics(&names, "describing topics")?;
        names.into_iter().zip(described).map(|(name, described)| self.shared.info(name, described)).collect()
    }

    fn commit_lag(&self, offsets: &TopicPartitionList) -> Result<(), KafkaError> {
        let mut lag = self.lag.lock().expect("nothing that holds the lag consumer can panic");
        if lag.rests_until.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        let consumer = match lag.consumer.take() {
            Some(consumer) => consumer,
            None => {
                let group = self.shared.group();
                // The session's time-out is how long a commit waits for the group.
                let own =
                    [("group.id", group.as_str()), ("enable.auto.commit", "false"), ("session.timeout.ms", member::SESSION_TIMEOUT_MS)];
                self.shared.create_raw(&own, self.shared.context())?
            }
        };
        let committed = consumer.commit(offsets, CommitMode::Sync);
        *lag = Lag { consumer: Some(consumer), rests_until: committed.is_err().then(|| Instant::now() + LAG_REST) };
        committed
    }
}

impl Shared {
    fn name(&self, family: Family) -> &str {
        &self.names[family as usize]
    }

    fn state_name(&self, topic: StateTopic) -> String {
        format!("{}{}", self.options.prefix, topic.name())
    }

    fn describe(&self) -> String {
        format!("Kafka at {}", self.options.brokers)
    }

    /// The consumer group of the stores.
    fn group(&self) -> String {
        format!("{}store", self.options.prefix)
    }

    /// A client with what the user set and, above it, what we need.
    fn create<T: FromClientConfigAndContext<Context>>(&self, own: &[(&str, &str)]) -> Result<T, Error> {
        self.create_with(own, self.context())
    }

    fn context(&self) -> Context {
        Context::new(self.trouble.clone())
    }

    fn create_with<C: ClientContext, T: FromClientConfigAndContext<C>>(&self, own: &[(&str, &str)], context: C) -> Result<T, Error> {
        self.create_raw(own, context).map_err(|e| self.error("reading the Kafka settings", e))
    }

    fn create_raw<C: ClientContext, T: FromClientConfigAndContext<C>>(&self, own: &[(&str, &str)], context: C) -> Result<T, KafkaError> {
        let mut config = ClientConfig::new();
        let bytes = MESSAGE_BYTES_MAX.to_string();
        config.set("client.id", "tokentape").set("message.max.bytes", bytes).set("socket.keepalive.enable", "true");
        for (name, value) in &self.options.properties {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.options.brokers);
        for (name, value) in own {
            config.set(*name, *value);
        }
        config.create_with_context(context)
    }

    fn error(&self, doing: &str, e: KafkaError) -> Error {
        self.trouble.error(doing, &self.describe(), e)
    }

    fn info(&self, name: String, described: Result<Described, RDKafkaErrorCode>) -> Result<TopicInfo, Error> {
        match described {
            Ok(topic) => Ok(TopicInfo { name, id: topic.id, partitions: topic.partitions }),
            Err(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Err(Error::TopicMissing { name }),
            Err(code) => Err(self.error(&format!("describing topic {name}"), KafkaError::Global(code))),
        }
    }

    /// Why the log does not have an offset that somebody wants to read.
    fn out_of_range(&self, consumer: &BaseConsumer<Context>, start: &Start) -> Error {
        let name = self.name(start.family);
        match consumer.fetch_watermarks(name, start.partition, ASK_WAIT) {
            Ok((low, _)) if start.offset < low => {
                Error::OffsetGone { name: name.to_string(), partition: start.partition, offset: start.offset, low }
            }
            Ok((_, high)) => beyond_end(name, start.partition, start.offset, high),
            Err(e) => self.error(&format!("asking for the ends of {name}[{}]", start.partition), e),
        }
    }
}

/// The partitions of a family's topic.
fn parts(topic: &TopicInfo, family: Family) -> impl Iterator<Item = (&str, Family, i32)> {
    (0..topic.partitions).map(move |partition| (topic.name.as_str(), family, partition))
}

impl EventLog for Kafka {
    fn describe(&self) -> String {
        self.shared.describe()
    }

    fn cluster_id(&self) -> Result<String, Error> {
        Ok(self.cluster_id.clone())
    }

    fn create_topics(&self) -> Result<Vec<TopicReport>, Error> {
        topics::create(self)
    }

    fn check_topics(&self) -> Result<Vec<TopicReport>, Error> {
        topics::check(self, &[])
    }

    fn topic(&self, family: Family) -> Result<TopicInfo, Error> {
        Ok(self.topics(&[family])?.remove(0))
    }

    fn writer(&self, transactional_id: &str) -> Result<Box<dyn Writer>, Error> {
        let states = StateTopic::ALL.map(|topic| self.shared.state_name(topic));
        let names: Vec<String> = self.shared.names.iter().cloned().chain(states).collect();
        let described = self.describe_topics(&names, "describing topics")?;
        let existing = names.into_iter().zip(described).filter(|(_, described)| described.is_ok()).map(|(name, _)| name).collect();
        Ok(Box::new(write::KafkaWriter::open(self.shared.clone(), transactional_id, existing)?))
    }

    fn states(&self, topic: StateTopic) -> Result<HashMap<String, Bytes>, Error> {
        let tail = &self.tails[StateTopic::ALL.iter().position(|known| *known == topic).expect("both topics are in the list")];
        read::states(self, topic, &mut tail.lock().expect("no thread panics while it reads a state topic"))
    }

    fn has_markers(&self) -> bool {
        true
    }

    fn reader(&self, starts: &[Start]) -> Result<Box<dyn Reader>, Error> {
        let mut families: Vec<Family> = starts.iter().map(|start| start.family).collect();
        families.sort_unstable();
        families.dedup();
        let topics = self.topics(&families)?;
        for start in starts {
            let topic = &topics[families.binary_search(&start.family).expect("every start's family was asked for")];
            if !(0..topic.partitions).contains(&start.partition) {
                let why = format!("it has no partition {}, only 0 to {}", start.partition, topic.partitions - 1);
                return Err(Error::Failed { doing: format!("reading {}", topic.name), why });
            }
        }
        Ok(Box::new(read::KafkaReader::open(self.shared.clone(), starts)?))
    }

    fn watermarks(&self, family: Family) -> Result<Vec<Watermarks>, Error> {
        self.watermarks_of(&self.topic(family)?)
    }

    fn extents(&self) -> Result<Vec<Extent>, Error> {
        // All topics are described by one request.
        let extent = |(family, topic)| Ok(Extent { family, watermarks: self.watermarks_of(&topic)?, topic });
        Family::ALL.into_iter().zip(self.topics(&Family::ALL)?).map(extent).collect()
    }

    fn held(&self) -> Result<Vec<Held>, Error> {
        let mut held = Vec::new();
        let topics = self.topics(&Family::ALL)?;
        for (name, family, partition) in topics.iter().zip(Family::ALL).flat_map(|(topic, family)| parts(topic, family)) {
            // All that is written comes first: what can be read only grows, so that nothing seems to be held that is not.
            let (_, to) = self.ends(self.admin.inner(), name, partition)?;
            let (_, from) = self.ends(self.committed.client(), name, partition)?;
            if from < to {
                held.push(Held { family, partition, from, to, since_ms: None });
            }
        }
        read::since(&self.shared, &mut held)?;
        Ok(held)
    }

    fn join(&self, name: &str) -> Result<Box<dyn Member>, Error> {
        let member = member::KafkaMember::join(self.shared.clone(), name)?;
        *self.member.lock().expect("nothing that holds the member can panic") = Arc::downgrade(member.consumer());
        Ok(Box::new(member))
    }

    /// Commits a group offset, for lag displays only: where that fails, nothing is lost, so it is logged and forgotten.
    fn stored(&self, family: Family, partition: i32, offset: i64) -> Result<(), Error> {
        let mut offsets = TopicPartitionList::new();
        let set = offsets.add_partition_offset(self.shared.name(family), partition, Offset::Offset(offset));
        set.map_err(|e| self.shared.error("noting what is stored", e))?;
        let member = self.member.lock().expect("nothing that holds the member can panic").upgrade();
        let committed = match member {
            // Not waited for: the member hears what came of it.
            Some(member) => member.commit(&offsets, CommitMode::Async),
            None => self.commit_lag(&offsets),
        };
        match committed {
            Err(e) if trouble::code(&e) == Some(RDKafkaErrorCode::UnknownMemberId) => {
                tracing::debug!(topic = self.shared.name(family), partition, offset, "the group's members tell its offsets themselves");
            }
            Err(e) => {
                tracing::warn!(topic = self.shared.name(family), partition, offset, error = %e, "group offset for lag displays not committed");
            }
            Ok(()) => {}
        }
        Ok(())
    }
}
