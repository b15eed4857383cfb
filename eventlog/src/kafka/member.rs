//! Membership in the consumer group of the stores: who may read which partition, and nothing else. No record comes this way.
//!
//! The partitions of each topic go round the members, so that each family's work is shared: what keeps more partitions where they are
//! (cooperative-sticky) may leave all of a busy family with one member. So everything is asked back when the group changes. librdkafka waits for
//! the answer to each word of the group, and nothing is ever assigned in its sense: the stores read through readers of their own.

use super::trouble::{Context, Trouble};
use super::{KafkaError, Shared};
use crate::member::{Member, Partitions, Share};
use crate::{Error, Family};
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::types::RDKafkaRespErr;
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a member may be silent before the others get its partitions; six seconds is the least that brokers allow by default. The store
/// of a crashed machine is replaced after this time.
pub(super) const SESSION_TIMEOUT_MS: &str = "6000";
/// How often a member is heard of, and so how soon it hears that the group has changed.
const HEARTBEAT_MS: &str = "1000";
/// How soon partitions that were added to a topic are noticed.
const METADATA_REFRESH_MS: &str = "30000";
/// Longest wait for one word, so that the timeout is kept.
const POLL_STEP: Duration = Duration::from_millis(100);

/// A word of the group that waits for its answer.
enum Word {
    Assigned(Vec<(String, i32)>),
    Revoked { lost: bool },
}

/// Takes the group's words, which are dealt with outside of the callback.
pub(super) struct GroupContext {
    heard: Context,
    words: Mutex<VecDeque<Word>>,
    /// The consumer is being closed: words are answered at once.
    closing: AtomicBool,
}

impl GroupContext {
    pub(super) fn new(trouble: Arc<Trouble>) -> GroupContext {
        GroupContext { heard: Context::new(trouble), words: Mutex::default(), closing: AtomicBool::new(false) }
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.heard.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.heard.error(error, reason);
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<GroupContext>, code: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        if self.closing.load(Ordering::Relaxed) {
            let answered = match code {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => consumer.assign(&TopicPartitionList::new()),
                _ => consumer.unassign(),
            };
            return answered.unwrap_or_else(|e| tracing::debug!(error = %e, "while leaving the group"));
        }
        let word = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                Word::Assigned(partitions.elements().iter().map(|at| (at.topic().to_string(), at.partition())).collect())
            }
            _ => Word::Revoked { lost: consumer.assignment_lost() },
        };
        self.words.lock().expect("nothing that holds the words can panic").push_back(word);
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(e) = result {
            tracing::debug!(error = %e, "group offset for lag displays not committed");
        }
    }
}

/// A member of the group.
pub(super) struct KafkaMember {
    shared: Arc<Shared>,
    name: String,
    consumer: Arc<BaseConsumer<GroupContext>>,
    mine: BTreeSet<(Family, i32)>,
    /// They were asked back and are not released yet.
    asked: bool,
    losses: u64,
    changes: u64,
}

impl KafkaMember {
    /// Joins. A process that comes back under a name that the group still knows has its partitions again at once.
    pub(super) fn join(shared: Arc<Shared>, name: &str) -> Result<KafkaMember, Error> {
        let tuned = |name: &'static str, value: &'static str| match shared.options.properties.get(name) {
            Some(set) => (name, set.as_str()),
            None => (name, value),
        };
        let group = shared.group();
        let consumer: BaseConsumer<GroupContext> = shared.create_with(
            &[
                ("group.id", &group),
                ("group.instance.id", name),
                ("group.protocol", "classic"),
                ("partition.assignment.strategy", "roundrobin"),
                ("enable.auto.commit", "false"),
                ("enable.auto.offset.store", "false"),
                ("allow.auto.create.topics", "false"),
                tuned("session.timeout.ms", SESSION_TIMEOUT_MS),
                tuned("heartbeat.interval.ms", HEARTBEAT_MS),
                tuned("topic.metadata.refresh.interval.ms", METADATA_REFRESH_MS),
            ],
            GroupContext::new(shared.trouble.clone()),
        )?;
        let topics: Vec<&str> = shared.names.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(|e| shared.error(&format!("joining the group {group}"), e))?;
        Ok(KafkaMember {
            shared,
            name: name.to_string(),
            consumer: Arc::new(consumer),
            mine: BTreeSet::new(),
            asked: false,
            losses: 0,
            changes: 0,
        })
    }

    /// The consumer that may commit the group's offsets.
    pub(super) fn consumer(&self) -> &Arc<BaseConsumer<GroupContext>> {
        &self.consumer
    }

    fn take(&mut self, word: Word) -> Result<(), Error> {
        self.changes += 1;
        match word {
            Word::Assigned(partitions) => {
                self.mine = self.known(partitions);
                self.answer(self.consumer.assign(&TopicPartitionList::new()))
            }
            // Asked or not, they are somebody else's: there is nothing to finish.
            Word::Revoked { lost: true } => {
                self.losses += 1;
                self.asked = false;
                self.mine.clear();
                self.answer(self.consumer.unassign())
            }
            Word::Revoked { lost: false } => {
                self.asked = true;
                Ok(())
            }
        }
    }

    fn known(&self, partitions: Vec<(String, i32)>) -> BTreeSet<(Family, i32)> {
        let family = |name: &str| Family::ALL.into_iter().find(|family| self.shared.name(*family) == name);
        partitions.into_iter().filter_map(|(name, partition)| Some((family(&name)?, partition))).collect()
    }

    fn answer(&self, answered: KafkaResult<()>) -> Result<(), Error> {
        answered.map_err(|e| self.shared.error(&format!("answering the group {}", self.shared.group()), e))
    }

    fn share(&self) -> Share {
        Share { partitions: Partitions::Some(self.mine.clone()), asked_back: self.asked, losses: self.losses, changes: self.changes }
    }

    /// Serves the group for a moment. What mends itself is waited for.
    fn serve(&self, timeout: Duration) -> Result<(), Error> {
        match self.consumer.poll(timeout) {
            Some(Err(KafkaError::MessageConsumptionFatal(Code::FencedInstanceId))) => {
                Err(Error::MemberTaken { group: self.shared.group(), name: self.name.clone() })
            }
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                Err(self.shared.error(&format!("being a member of the group {}", self.shared.group()), KafkaError::Global(code)))
            }
            Some(Err(e)) if super::trouble::code(&e) == Some(Code::GroupAuthorizationFailed) => {
                Err(self.shared.error(&format!("joining the group {}", self.shared.group()), e))
            }
            Some(Err(e)) => {
                tracing::debug!(error = %e, "as a member of the group");
                Ok(())
            }
            Some(Ok(_)) | None => Ok(()),
        }
    }
}

impl Member for KafkaMember {
    fn poll(&mut self, timeout: Duration) -> Result<Share, Error> {
        let deadline = Instant::now() + timeout;
        let before = self.changes;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            self.serve(left.min(POLL_STEP))?;
            loop {
                let word = self.consumer.context().words.lock().expect("nothing that holds the words can panic").pop_front();
                let Some(word) = word else { break };
                self.take(word)?;
            }
            if self.changes != before || left.is_zero() {
                return Ok(self.share());
            }
        }
    }

    fn release(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.asked) {
            return Ok(());
        }
        self.mine.clear();
        self.changes += 1;
        self.answer(self.consumer.unassign())
    }
}

impl Drop for KafkaMember {
    fn drop(&mut self) {
        self.consumer.context().closing.store(true, Ordering::Relaxed);
        if self.asked {
            let _ = self.consumer.unassign();
        }
    }
}
