//! Every committed record from the given offsets on, in order per partition, or an error: never a jump.

use super::trouble::{Context, code};
use super::{Kafka, RETRY, Shared, topics};
use crate::embedded::POLL_BYTES_MAX;
use crate::{Error, Event, Held, Polled, Reader, Start, StateTopic, TimestampType, origin};
use bytes::{Bytes, BytesMut};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, Timestamp, TopicPartitionList};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// What a reader holds beyond what it was asked for, over all its partitions.
const PREFETCH_BYTES: usize = 64 << 20;
/// What it may hold of one partition, however many there are: enough to go on with during `FETCH_WAIT_MS`. librdkafka counts what is in the
/// records, not what it keeps beside each, and what it has just fetched comes on top.
const PREFETCH_BYTES_MIN: usize = 2 << 20;
/// The part of it that one request asks for, packed: several times as much when it is unpacked.
const FETCH_SHARE: usize = 8;
const FETCH_BYTES_MIN: usize = 256 << 10;
/// A reader that waits looks after its connections this often.
const SERVE_EVERY: Duration = Duration::from_millis(100);
/// How long reading a compacted topic may go without a record: longer than any transaction stays open.
const STATES_WAIT: Duration = Duration::from_secs(30);

/// How long the broker may wait for records where there are none, in milliseconds: the end of a compacted topic is asked for often.
const STATES_FETCH_WAIT_MS: &str = "5";
/// The same for readers. One request asks for all partitions whose queues have room, so where one is full and the others are at their ends,
/// the full one waits as long before it is asked for again.
const FETCH_WAIT_MS: &str = "20";

fn consumer(shared: &Shared, partitions: usize, fetch_wait_ms: &'static str) -> Result<BaseConsumer<Context>, Error> {
    let share = (PREFETCH_BYTES / partitions.max(1)).max(PREFETCH_BYTES_MIN);
    let queued_kbytes = (share / 1024).to_string();
    let fetch_bytes = (share / FETCH_SHARE).clamp(FETCH_BYTES_MIN, 8 << 20).to_string();
    let tuned = |name: &'static str, value: &'static str| match shared.options.properties.get(name) {
        Some(set) => (name, set.as_str()),
        None => (name, value),
    };
    // Nobody ever joins this group, and nothing is committed in it: librdkafka wants a name.
    let group = format!("{}reader", shared.options.prefix);
    shared.create(&[
        ("group.id", &group),
        ("isolation.level", "read_committed"),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "error"),
        ("enable.partition.eof", "true"),
        ("allow.auto.create.topics", "false"),
        ("check.crcs", "true"),
        ("queued.max.messages.kbytes", &queued_kbytes),
        ("max.partition.fetch.bytes", &fetch_bytes),
        tuned("queued.min.messages", "100000"),
        tuned("fetch.wait.max.ms", fetch_wait_ms),
        tuned("fetch.queue.backoff.ms", "2"),
        tuned("fetch.error.backoff.ms", "100"),
    ])
}

/// Says of each when the log got the first record of its transaction, which no reader of what is committed is shown.
pub(super) fn since(shared: &Arc<Shared>, held: &mut [Held]) -> Result<(), Error> {
    if held.is_empty() {
        return Ok(());
    }
    let doing = "reading where open transactions begin";
    let group = format!("{}reader", shared.options.prefix);
    let own = [
        ("group.id", group.as_str()),
        ("isolation.level", "read_uncommitted"),
        ("enable.auto.commit", "false"),
        ("auto.offset.reset", "error"),
        ("allow.auto.create.topics", "false"),
    ];
    let consumer: BaseConsumer<Context> = shared.create(&own)?;
    let mut places = TopicPartitionList::new();
    for part in held.iter() {
        let placed = places.add_partition_offset(shared.name(part.family), part.partition, Offset::Offset(part.from));
        placed.map_err(|e| shared.error(doing, e))?;
    }
    consumer.assign(&places).map_err(|e| shared.error(doing, e))?;
    // Without an answer in time it is not known since when.
    let deadline = Instant::now() + super::ASK_WAIT;
    let mut told = 0;
    while told < held.len() && Instant::now() < deadline {
        let Some(Ok(message)) = consumer.poll(SERVE_EVERY) else { continue };
        let is_its = |part: &&mut Held| shared.name(part.family) == message.topic() && part.partition == message.partition();
        if let Some(part) = held.iter_mut().find(is_its).filter(|part| part.since_ms.is_none()) {
            part.since_ms = message.timestamp().to_millis();
            told += 1;
        }
    }
    Ok(())
}

/// Reads partitions, each through a queue of its own: only so it is known whose end was reached.
pub(super) struct KafkaReader {
    shared: Arc<Shared>,
    lanes: Vec<Lane>,
    bell: Arc<Bell>,
    /// Which partition comes first in the next poll, so that none starves.
    turn: usize,
    /// Records and bytes of the last poll: mostly those of the next one.
    last: (usize, usize),
    // After the lanes: their queues must be gone before the client.
    consumer: Arc<BaseConsumer<Context>>,
}

struct Lane {
    queue: PartitionQueue<Context>,
    /// Where to go on.
    at: Start,
}

/// Rings when a queue has become non-empty.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    ring: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().expect("nothing that holds the bell can panic") = true;
        self.ring.notify_one();
    }

    fn reset(&self) {
        *self.rung.lock().expect("nothing that holds the bell can panic") = false;
    }

    fn wait(&self, timeout: Duration) {
        let rung = self.rung.lock().expect("nothing that holds the bell can panic");
        drop(self.ring.wait_timeout_while(rung, timeout, |rung| !*rung).expect("nothing that holds the bell can panic"));
    }
}

/// Keys, values and headers of one poll, copied into one piece of memory.
struct Arena {
    bytes: BytesMut,
    records: Vec<Copied>,
}

struct Copied {
    lane: usize,
    offset: i64,
    timestamp: Timestamp,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Vec<(String, Option<Bytes>)>,
}

impl KafkaReader {
    pub(super) fn open(shared: Arc<Shared>, starts: &[Start]) -> Result<KafkaReader, Error> {
        let consumer = Arc::new(consumer(&shared, starts.len(), FETCH_WAIT_MS)?);
        let bell = Arc::new(Bell::default());
        let mut lanes = Vec::with_capacity(starts.len());
        let mut assignment = TopicPartitionList::with_capacity(starts.len());
        for start in starts {
            let name = shared.name(start.family);
            // Before the assignment: what is fetched first would go to the consumer's common queue otherwise.
            let mut queue = consumer.split_partition_queue(name, start.partition).ok_or_else(|| Error::Failed {
                doing: format!("reading {name}[{}]", start.partition),
                why: "librdkafka gives no queue for it".to_string(),
            })?;
            let rung = bell.clone();
            queue.set_nonempty_callback(move || rung.ring());
            lanes.push(Lane { queue, at: *start });
            let added = assignment.add_partition_offset(name, start.partition, Offset::Offset(start.offset));
            added.map_err(|e| shared.error(&format!("reading {name}[{}] from offset {}", start.partition, start.offset), e))?;
        }
        consumer.assign(&assignment).map_err(|e| shared.error("beginning to read", e))?;
        Ok(KafkaReader { shared, lanes, bell, turn: 0, last: (0, 0), consumer })
    }

    /// Looks after connections. Records never come this way.
    fn serve(&self) -> Result<(), Error> {
        match self.consumer.poll(Duration::ZERO) {
            None => Ok(()),
            Some(Ok(message)) => Err(Error::Failed {
                doing: format!("reading {}[{}]", message.topic(), message.partition()),
                why: format!("offset {} came through the wrong queue: make a new reader", message.offset()),
            }),
            // Lost connections mend themselves, and a group that is refused is never used.
            Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                Err(self.shared.error("reading", KafkaError::MessageConsumptionFatal(code)))
            }
            Some(Err(e)) => {
                tracing::debug!(error = %e, "while reading");
                Ok(())
            }
        }
    }

    fn take(&mut self, events_max: usize) -> Result<(Arena, Vec<usize>), Error> {
        let mut arena = Arena { bytes: BytesMut::with_capacity(self.last.1), records: Vec::with_capacity(self.last.0) };
        let mut at_end = Vec::new();
        let count = self.lanes.len();
        for step in 0..count {
            let lane = (self.turn + step) % count;
            self.take_lane(lane, events_max, &mut arena, &mut at_end)?;
        }
        self.turn = (self.turn + 1) % count.max(1);
        self.last = (arena.records.len(), arena.bytes.len());
        Ok((arena, at_end))
    }

    fn take_lane(&mut self, lane: usize, events_max: usize, arena: &mut Arena, at_end: &mut Vec<usize>) -> Result<(), Error> {
        while arena.records.len() < events_max && arena.bytes.len() < POLL_BYTES_MAX {
            let next = self.lanes[lane].at.offset;
            let Some(message) = self.lanes[lane].queue.poll(Duration::ZERO) else { return Ok(()) };
            match message {
                Ok(message) if message.offset() < next => return Err(self.backwards(lane, message.offset())),
                Ok(message) => {
                    let offset = message.offset();
                    arena.copy(lane, &message);
                    drop(message);
                    self.lanes[lane].at.offset = offset + 1;
                }
                Err(KafkaError::PartitionEOF(_)) => at_end.push(lane),
                Err(e) => self.trouble(lane, e)?,
            }
        }
        Ok(())
    }

    fn backwards(&self, lane: usize, offset: i64) -> Error {
        let at = &self.lanes[lane].at;
        Error::Failed {
            doing: format!("reading {}[{}]", self.shared.name(at.family), at.partition),
            why: format!("offset {offset} came after offset {}: make a new reader", at.offset - 1),
        }
    }

    /// An error of one partition: what mends itself is waited for, all else ends the reader.
    fn trouble(&self, lane: usize, e: KafkaError) -> Result<(), Error> {
        let at = &self.lanes[lane].at;
        let name = self.shared.name(at.family);
        match code(&e) {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => Err(self.shared.out_of_range(&self.consumer, at)),
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                Err(Error::TopicMissing { name: name.to_string() })
            }
            Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut | Code::RequestTimedOut) => {
                tracing::debug!(topic = name, partition = at.partition, error = %e, "while reading");
                Ok(())
            }
            _ => Err(self.shared.error(&format!("reading {name}[{}] from offset {}", at.partition, at.offset), e)),
        }
    }

    /// What was replayed has the time of its origin where that was asked for, and nowhere without a word.
    fn time_of_origin(&self, event: &mut Event) {
        if self.shared.options.replayed {
            origin::restore_time(event);
        } else if origin::is_told(&event.headers) && !self.shared.told_of_origin.swap(true, Ordering::Relaxed) {
            let name = self.shared.name(event.family);
            let (partition, offset) = (event.partition, event.offset);
            tracing::warn!(
                "{name}[{partition}] offset {offset} says that it was replayed (headers tape-origin-*): it keeps the time of this log; where `tape \
                 replay` wrote these topics, --replayed gives its records the time of their origin"
            );
        }
    }

    fn deliver(&self, arena: Arena, at_end: Vec<usize>) -> Polled {
        let bytes = arena.bytes.freeze();
        let whole = |range: Option<Range<usize>>| range.map(|range| bytes.slice(range));
        let events = arena.records.into_iter().map(|record| {
            let at = &self.lanes[record.lane].at;
            let (ts_ms, ts_type) = match record.timestamp {
                Timestamp::LogAppendTime(ms) => (ms, TimestampType::LogAppend),
                Timestamp::CreateTime(ms) => (ms, TimestampType::Create),
                Timestamp::NotAvailable => (0, TimestampType::None),
            };
            let mut event = Event {
                family: at.family,
                partition: at.partition,
                offset: record.offset,
                ts_ms,
                ts_type,
                key: whole(record.key),
                value: whole(record.value),
                headers: record.headers,
            };
            self.time_of_origin(&mut event);
            event
        });
        let at_end = at_end.into_iter().map(|lane| (self.lanes[lane].at.family, self.lanes[lane].at.partition)).collect();
        Polled { events: events.collect(), at_end }
    }
}

impl Arena {
    fn copy(&mut self, lane: usize, message: &BorrowedMessage<'_>) {
        let key = message.key().map(|key| self.put(key));
        let value = message.payload().map(|value| self.put(value));
        let headers = match message.headers() {
            None => Vec::new(),
            Some(headers) => headers.iter().map(|header| (header.key.to_string(), header.value.map(Bytes::copy_from_slice))).collect(),
        };
        self.records.push(Copied { lane, offset: message.offset(), timestamp: message.timestamp(), key, value, headers });
    }

    fn put(&mut self, bytes: &[u8]) -> Range<usize> {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        from..self.bytes.len()
    }
}

impl Reader for KafkaReader {
    fn poll(&mut self, timeout: Duration, events_max: usize) -> Result<Polled, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            self.bell.reset();
            self.serve()?;
            let (arena, at_end) = self.take(events_max.max(1))?;
            if !arena.records.is_empty() || !at_end.is_empty() {
                return Ok(self.deliver(arena, at_end));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Polled::default());
            }
            self.bell.wait(left.min(SERVE_EVERY));
        }
    }
}

// ── compacted topics ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A compacted topic as far as it was read: the next question reads on from there.
pub(super) struct Tail {
    consumer: BaseConsumer<Context>,
    states: HashMap<String, Bytes>,
    next: Offset,
}

/// Every key of a compacted topic with the last value that was committed when this began. `kept` holds what earlier calls have read; after an
/// error it is empty and the next call begins anew.
pub(super) fn states(kafka: &Kafka, topic: StateTopic, kept: &mut Option<Tail>) -> Result<HashMap<String, Bytes>, Error> {
    let name = kafka.shared.state_name(topic);
    let mut tail = match kept.take() {
        Some(tail) => tail,
        None => {
            kafka.shared.info(name.clone(), kafka.describe_topics(std::slice::from_ref(&name), "describing topics")?.remove(0))?;
            Tail { consumer: consumer(&kafka.shared, 1, STATES_FETCH_WAIT_MS)?, states: HashMap::new(), next: Offset::Beginning }
        }
    };
    let ends = kafka.ends(kafka.admin.inner(), &name, 0)?;
    topics::refuse_lost(kafka, topic, ends)?;
    wait_until_settled(kafka, &name, ends.1)?;
    tail.read_to_end(kafka, &name)?;
    let states = tail.states.clone();
    *kept = Some(tail);
    Ok(states)
}

impl Tail {
    fn read_to_end(&mut self, kafka: &Kafka, name: &str) -> Result<(), Error> {
        let doing = format!("reading {name} to its end");
        let failed = |e| kafka.error(&doing, e);
        // A new assignment drops whatever the consumer has fetched meanwhile: the end that it then reports lies behind the one just asked for.
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(name, 0, self.next).map_err(failed)?;
        self.consumer.assign(&assignment).map_err(failed)?;
        let mut heard = Instant::now();
        loop {
            match self.consumer.poll(SERVE_EVERY) {
                Some(Ok(message)) => {
                    set(&mut self.states, &message);
                    self.next = Offset::Offset(message.offset() + 1);
                    heard = Instant::now();
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                None => {}
                Some(Err(e)) => match code(&e) {
                    Some(
                        Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut | Code::GroupAuthorizationFailed,
                    ) => {}
                    _ => return Err(failed(e)),
                },
            }
            if heard.elapsed() > STATES_WAIT {
                return Err(failed(KafkaError::Global(Code::OperationTimedOut)));
            }
        }
    }
}

/// A committed value can stand behind the open transaction of somebody else, where a reader does not see it yet. Waits until everything that
/// is in the topic now, before `end`, is decided; transactions end within their time-out.
fn wait_until_settled(kafka: &Kafka, name: &str, end: i64) -> Result<(), Error> {
    let deadline = Instant::now() + STATES_WAIT;
    loop {
        let (_, settled) = kafka.ends(kafka.committed.client(), name, 0)?;
        if settled >= end {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let why = format!(
                "a transaction is open at offset {settled} for more than {} s: find it with kafka-transactions.sh find-hanging, and abort it",
                STATES_WAIT.as_secs()
            );
            return Err(Error::Failed { doing: format!("reading {name} to its end"), why });
        }
        std::thread::sleep(RETRY);
    }
}

fn set(states: &mut HashMap<String, Bytes>, message: &BorrowedMessage<'_>) {
    let Some(key) = message.key() else { return };
    let Ok(key) = std::str::from_utf8(key) else {
        tracing::warn!(topic = message.topic(), offset = message.offset(), "a key that is not UTF-8 was not written by tokentape");
        return;
    };
    match message.payload() {
        Some(value) => drop(states.insert(key.to_string(), Bytes::copy_from_slice(value))),
        None => drop(states.remove(key)),
    }
}
