//! One publish is one Kafka transaction: it commits, or the writer is of no use any more.

use super::trouble::{Context, code};
use super::{ASK_WAIT, Shared};
use crate::embedded::used_up;
use crate::{Batch, Error, Records, State, Whole, Writer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use schemas::Family;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a transaction may stay open. Short, because readers wait behind the open transaction of a dead writer.
const TRANSACTION_WAIT: Duration = Duration::from_secs(10);
/// How long taking over a transactional id may take: the brokers first settle what an earlier writer left open.
const TAKE_OVER_WAIT: Duration = Duration::from_secs(60);
/// How long to wait before looking again whether the queue has room or is empty.
const QUEUE_WAIT: Duration = Duration::from_millis(1);
const ABORT_WAIT: Duration = Duration::from_secs(5);

pub(super) struct KafkaWriter {
    shared: Arc<Shared>,
    id: String,
    producer: BaseProducer<Context>,
    existing: HashSet<String>,
    failed: bool,
}

impl KafkaWriter {
    pub(super) fn open(shared: Arc<Shared>, id: &str, existing: HashSet<String>) -> Result<KafkaWriter, Error> {
        // Transactional ids are one per cluster: another installation on it may read the same source under another prefix.
        let transactional_id = format!("{}{id}", shared.options.prefix);
        let timeout_ms = TRANSACTION_WAIT.as_millis().to_string();
        // Defaults that a user may change come with his properties; these are ours.
        let tuned = |name: &'static str, value: &'static str| match shared.options.properties.get(name) {
            Some(set) => (name, set.as_str()),
            None => (name, value),
        };
        let settings = [
            ("transactional.id", transactional_id.as_str()),
            ("transaction.timeout.ms", &timeout_ms),
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("partitioner", "murmur2_random"),
            // A record that was delivered needs no word of its own: the commit says it of all.
            ("delivery.report.only.error", "true"),
            tuned("compression.type", "lz4"),
            tuned("linger.ms", "5"),
            tuned("batch.size", "1000000"),
            tuned("batch.num.messages", "100000"),
            tuned("queue.buffering.max.messages", "1000000"),
            tuned("queue.buffering.max.kbytes", "131072"),
        ];
        let producer: BaseProducer<Context> = shared.create(&settings)?;
        let writer = KafkaWriter { shared, id: id.to_string(), producer, existing, failed: false };
        let doing = format!("taking over the transactional id {id}");
        writer.producer.init_transactions(TAKE_OVER_WAIT).map_err(|e| writer.error(&doing, e, Duration::ZERO))?;
        Ok(writer)
    }

    fn transact(&self, batch: &Batch) -> Result<(), Error> {
        self.check(batch)?;
        let began = Instant::now();
        let doing = format!("publishing as {}", self.id);
        self.attempt(batch, began + TRANSACTION_WAIT).map_err(|e| {
            let error = self.error(&doing, e, began.elapsed());
            // Where it can be aborted, readers need not wait for its time-out. Nothing depends on it.
            if let Err(e) = self.producer.abort_transaction(ABORT_WAIT) {
                tracing::debug!(id = self.id, error = %e, "the transaction was not aborted; the broker ends it");
            }
            error
        })
    }

    fn check(&self, batch: &Batch) -> Result<(), Error> {
        batch.check(&self.shared.options.prefix)?;
        let families = batch.records.iter().map(|records| records.family).chain(batch.wholes.iter().map(|(family, _)| *family));
        let families = families.map(|family| self.shared.name(family).to_string());
        let states = batch.states.iter().map(|state| self.shared.state_name(state.topic));
        match families.chain(states).find(|name| !self.existing.contains(name)) {
            Some(name) => Err(Error::TopicMissing { name }),
            None => Ok(()),
        }
    }

    fn attempt(&self, batch: &Batch, deadline: Instant) -> Result<(), KafkaError> {
        self.producer.begin_transaction()?;
        batch.records.iter().try_for_each(|records| self.send_records(records, deadline))?;
        batch.wholes.iter().try_for_each(|(family, wholes)| self.send_wholes(*family, wholes, deadline))?;
        batch.states.iter().try_for_each(|state| self.send_state(state, deadline))?;
        killpoint::here!("log.kafka.sent");
        self.drain(deadline)?;
        killpoint::here!("log.kafka.uncommitted");
        self.producer.commit_transaction(ASK_WAIT)?;
        killpoint::here!("log.kafka.unacknowledged");
        Ok(())
    }

    fn send_records(&self, records: &Records, deadline: Instant) -> Result<(), KafkaError> {
        let name = self.shared.name(records.family);
        let pairs = records.keys.iter().zip(&records.values);
        pairs.into_iter().try_for_each(|(key, value)| self.send(BaseRecord::to(name).key(&key[..]).payload(&value[..]), deadline))
    }

    fn send_wholes(&self, family: Family, wholes: &[Whole], deadline: Instant) -> Result<(), KafkaError> {
        let name = self.shared.name(family);
        wholes.iter().try_for_each(|whole| {
            let mut record = BaseRecord::to(name).partition(whole.partition);
            (record.key, record.payload) = (whole.key.as_deref(), whole.value.as_deref());
            if !whole.headers.is_empty() {
                let headers = OwnedHeaders::new_with_capacity(whole.headers.len());
                let header = |headers: OwnedHeaders, (name, value): &(String, Option<bytes::Bytes>)| {
                    headers.insert(Header { key: name, value: value.as_deref() })
                };
                record.headers = Some(whole.headers.iter().fold(headers, header));
            }
            self.send(record, deadline)
        })
    }

    fn send_state(&self, state: &State, deadline: Instant) -> Result<(), KafkaError> {
        let name = self.shared.state_name(state.topic);
        let record = BaseRecord::to(&name).key(state.key.as_bytes()).partition(0);
        match &state.value {
            Some(value) => self.send(record.payload(&value[..]), deadline),
            None => self.send(record, deadline),
        }
    }

    fn send(&self, mut record: BaseRecord<'_, [u8], [u8]>, deadline: Instant) -> Result<(), KafkaError> {
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(Code::QueueFull), back)) if Instant::now() < deadline => {
                    self.producer.poll(QUEUE_WAIT);
                    record = back;
                }
                Err((e, _)) => return Err(e),
            }
        }
    }

    /// Waits until everything sent is acknowledged. rdkafka's own flush looks only every 100 ms.
    fn drain(&self, deadline: Instant) -> Result<(), KafkaError> {
        while self.producer.in_flight_count() > 0 {
            if Instant::now() >= deadline {
                return Err(KafkaError::Flush(Code::OperationTimedOut));
            }
            self.producer.poll(QUEUE_WAIT);
        }
        Ok(())
    }

    fn error(&self, doing: &str, e: KafkaError, took: Duration) -> Error {
        let undelivered = self.producer.client().context().undelivered();
        // A writer that was fenced between two calls only hears that it is dead; why, its client knows.
        let fatal = self.producer.client().fatal_error().map(|(code, _)| KafkaError::Global(code));
        if [Some(&e), fatal.as_ref(), undelivered.as_ref().map(|(_, e)| e)].into_iter().flatten().any(is_fence) {
            return self.fenced(doing, took);
        }
        match undelivered {
            Some((topic, e)) => self.undelivered(doing, topic, e),
            None => self.shared.error(doing, e),
        }
    }

    /// The broker fences a writer whose place was taken, and one that took too long.
    fn fenced(&self, doing: &str, took: Duration) -> Error {
        if took < TRANSACTION_WAIT {
            return Error::Fenced { id: self.id.clone() };
        }
        let why = format!(
            "the transaction took {} s and the broker ended it after {}: nothing of it is visible; publish smaller batches or see why the \
             broker is slow",
            took.as_secs(),
            TRANSACTION_WAIT.as_secs()
        );
        Error::Failed { doing: doing.to_string(), why }
    }

    fn undelivered(&self, doing: &str, name: String, e: KafkaError) -> Error {
        match code(&e) {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => Error::TopicMissing { name },
            Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
                let why = "the broker finds a record too large: raise the topic's max.message.bytes to what `tape topics` says".to_string();
                Error::TopicUnfit { name, problems: vec![why] }
            }
            _ => self.shared.error(&format!("{doing}, topic {name}"), e),
        }
    }
}

fn is_fence(e: &KafkaError) -> bool {
    matches!(code(e), Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch))
}

impl Writer for KafkaWriter {
    fn publish(&mut self, batch: &Batch) -> Result<(), Error> {
        if self.failed {
            return Err(used_up(&self.id));
        }
        if batch.is_empty() {
            return Ok(());
        }
        let result = self.transact(batch);
        self.failed = result.is_err();
        result
    }
}
