//! The log of one machine: what was published is on disk before `publish` returns, whole or not at all, and belongs to one process at a time.
//!
//! ```text
//! DIR/owner.pid        lock, with the owner's process id
//! DIR/tape.sock        the owner's socket, while it serves one (socket.rs)
//! DIR/published.mark   how many publishes were acknowledged (mark.rs)
//! DIR/journal.aside/   the journals while the log is opened; journal.damaged/ those of one that is not whole (aside.rs)
//! DIR/log/             fjall: `log` chunks by topic, partition, offset (chunk.rs) · `states` key → last value · `meta` ids, ends, epochs
//! ```

mod aside;
mod chunk;
mod lock;
mod mark;

use crate::murmur2::partition;
use crate::{Batch, Error, Event, EventLog, Polled, Reader, Records, Start, StateTopic, TimestampType, TopicInfo, TopicReport};
use crate::{Watermarks, Writer};
use aside::Aside;
use bytes::Bytes;
use chunk::{Builder, Place, Summed};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode, Readable};
use lock::{Lock, advice};
use mark::Mark;
use schemas::Family;
use std::collections::{BTreeMap, HashMap};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Layout of the directory; a larger number was written by a newer tokentape.
const FORMAT: u32 = 1;
/// fjall's block cache: the log is read in order, so little is read twice.
const CACHE_BYTES: u64 = 16 << 20;
/// What fjall keeps in memory before it writes a file.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// What fjall's journals may hold before files are written.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
/// A poll ends when it has this many bytes, whatever the number of events.
pub(crate) const POLL_BYTES_MAX: usize = 32 << 20;
/// The key under which each keyspace counts publishes: all three are one state, or one of them has lost something.
const PUBLISHES: &str = "publishes";
/// Chunks that one call of `stored` drops at most, so that it stays short.
const EXPIRE_CHUNKS_MAX: usize = 1000;

/// How to open an embedded log.
#[derive(Debug, Clone)]
pub struct Options {
    /// What topic names begin with.
    pub prefix: String,
    /// How long records stay at least; `None` keeps them for ever. What is not yet stored stays in any case.
    pub retention: Option<Duration>,
}

impl Default for Options {
    fn default() -> Options {
        Options { prefix: "tape.".to_string(), retention: None }
    }
}

/// The embedded log, owned by this process until it and everything made of it is dropped.
#[derive(Clone)]
pub struct Embedded {
    log: Arc<Log>,
}

struct Log {
    dir: PathBuf,
    options: Options,
    cluster_id: String,
    topics: Vec<Topic>,
    chunks: Keyspace,
    states: Keyspace,
    meta: Keyspace,
    db: Database,
    /// Held over a whole publish: there is one order of all that is written.
    writing: Mutex<Writing>,
    mark: Mark,
    ends: Mutex<Ends>,
    grown: Condvar,
    // The last field: the directory is free only after the database is closed.
    _lock: Lock,
}

/// What writers share.
struct Writing {
    /// Epoch per transactional id.
    epochs: HashMap<String, u64>,
    /// Publishes that are on disk.
    published: u64,
}

struct Topic {
    family: Family,
    id: Uuid,
    partitions: i32,
}

/// What readers may see, and what they wait for.
struct Ends {
    /// Per family, in its order, per partition.
    partitions: Vec<Vec<End>>,
    /// Counts publishes.
    generation: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct End {
    low: i64,
    next: i64,
    ts_ms: i64,
}

impl Embedded {
    /// Opens the log in `dir`, making it and its topics where they do not exist.
    pub fn open(dir: &Path, options: &Options) -> Result<Embedded, Error> {
        // For this user alone, whatever the umask says.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|e| Error::Failed { doing: format!("making {}", dir.display()), why: advice(&e) })?;
        let lock = Lock::acquire(dir)?;
        let opening = || format!("opening the embedded log in {}", dir.display());
        let storage = |e| failed(opening(), e);
        refuse_damaged(dir, &opening)?;
        let journal = Aside::take(dir);
        let db = Database::builder(dir.join("log"))
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(2)
            .open()
            .map_err(storage)?;
        let plain = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let separated = || plain().with_kv_separation(Some(KvSeparationOptions::default()));
        let meta = db.keyspace("meta", plain).map_err(storage)?;
        let chunks = db.keyspace("log", separated).map_err(storage)?;
        let states = db.keyspace("states", plain).map_err(storage)?;
        // Before anything is written: what was lost may be the ids themselves.
        let published = count_publishes(&[&meta, &chunks, &states], &journal, &opening)?;
        let mark = Mark::open(dir, published, &journal)?;
        check_format(&meta, &opening)?;
        let (cluster_id, topics) = identities(&db, &meta, published, &opening)?;
        let partitions = topics.iter().map(|topic| read_ends(&meta, topic, &opening)).collect::<Result<_, _>>()?;
        let ends = Mutex::new(Ends { partitions, generation: 0 });
        let log = Log {
            dir: dir.to_path_buf(),
            options: options.clone(),
            cluster_id,
            topics,
            chunks,
            states,
            meta,
            db,
            writing: Mutex::new(Writing { epochs: HashMap::new(), published }),
            mark,
            ends,
            grown: Condvar::new(),
            _lock: lock,
        };
        journal.remove();
        log.expire_all()?;
        Ok(Embedded { log: Arc::new(log) })
    }

    fn reports(&self) -> Vec<TopicReport> {
        let families = self.log.topics.iter().map(|topic| {
            let wanted = topic.family.topic().partitions;
            let problem = (topic.partitions != wanted).then(|| {
                format!(
                    "it has {} partitions, this tokentape wants {wanted}: partitions are fixed for life, so use a tokentape that \
                     knows {} or ingest into a new home",
                    topic.partitions, topic.partitions
                )
            });
            TopicReport { name: self.log.name(topic.family), created: false, problems: problem.into_iter().collect() }
        });
        let states = StateTopic::ALL.into_iter().map(|topic| TopicReport {
            name: format!("{}{}", self.log.options.prefix, topic.name()),
            created: false,
            problems: Vec::new(),
        });
        families.chain(states).collect()
    }
}

impl EventLog for Embedded {
    fn describe(&self) -> String {
        format!("embedded log in {}", self.log.dir.display())
    }

    fn cluster_id(&self) -> Result<String, Error> {
        Ok(self.log.cluster_id.clone())
    }

    /// The topics were made when the log was first opened, so none is ever missing.
    fn create_topics(&self) -> Result<Vec<TopicReport>, Error> {
        Ok(self.reports())
    }

    fn check_topics(&self) -> Result<Vec<TopicReport>, Error> {
        Ok(self.reports())
    }

    fn topic(&self, family: Family) -> Result<TopicInfo, Error> {
        let topic = self.log.topic(family);
        Ok(TopicInfo { name: self.log.name(family), id: topic.id.to_string(), partitions: topic.partitions })
    }

    fn writer(&self, transactional_id: &str) -> Result<Box<dyn Writer>, Error> {
        let epoch = self.log.next_epoch(transactional_id)?;
        Ok(Box::new(EmbeddedWriter { log: self.log.clone(), id: transactional_id.to_string(), epoch, failed: false }))
    }

    fn states(&self, topic: StateTopic) -> Result<HashMap<String, Bytes>, Error> {
        self.log.read_states(topic)
    }

    fn reader(&self, starts: &[Start]) -> Result<Box<dyn Reader>, Error> {
        let ends = self.log.ends();
        let mut cursors = Vec::with_capacity(starts.len());
        for start in starts {
            let end = self.log.end(&ends, start.family, start.partition)?;
            self.log.check_start(start, end)?;
            cursors.push(Cursor { family: start.family, partition: start.partition, next: start.offset, chunk: None, ended_at: None });
        }
        drop(ends);
        Ok(Box::new(EmbeddedReader { log: self.log.clone(), cursors, turn: 0 }))
    }

    fn watermarks(&self, family: Family) -> Result<Vec<Watermarks>, Error> {
        let ends = self.log.ends();
        Ok(ends.partitions[family as usize].iter().map(|end| Watermarks { low: end.low, high: end.next }).collect())
    }

    fn stored(&self, family: Family, partition: i32, offset: i64) -> Result<(), Error> {
        self.log.set_stored(family, partition, offset)?;
        match self.log.options.retention {
            None => Ok(()),
            Some(retention) => self.log.expire(family, partition, offset, before(retention)),
        }
    }
}

struct EmbeddedWriter {
    log: Arc<Log>,
    id: String,
    epoch: u64,
    failed: bool,
}

impl Writer for EmbeddedWriter {
    fn publish(&mut self, batch: &Batch) -> Result<(), Error> {
        if self.failed {
            return Err(used_up(&self.id));
        }
        let result = self.log.publish(&self.id, self.epoch, batch);
        self.failed = result.is_err();
        result
    }
}

/// What a writer says after it has failed once.
pub(crate) fn used_up(id: &str) -> Error {
    Error::Failed {
        doing: format!("publishing as {id}"),
        why: "this writer has failed before: make a new one and read the position again".to_string(),
    }
}

impl Log {
    fn name(&self, family: Family) -> String {
        format!("{}{}", self.options.prefix, family.topic().name)
    }

    fn topic(&self, family: Family) -> &Topic {
        &self.topics[family as usize]
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().expect("nothing that holds the ends can panic")
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().expect("nothing that writes can panic")
    }

    fn end(&self, ends: &Ends, family: Family, partition: i32) -> Result<End, Error> {
        let known = usize::try_from(partition).ok().and_then(|partition| ends.partitions[family as usize].get(partition));
        known.copied().ok_or_else(|| Error::Failed {
            doing: format!("reading {}", self.name(family)),
            why: format!("it has no partition {partition}, only 0 to {}", self.topic(family).partitions - 1),
        })
    }

    fn failed(&self, doing: &str, e: fjall::Error) -> Error {
        failed(format!("{doing} the embedded log in {}", self.dir.display()), e)
    }

    fn corrupt(&self, place: &str, broken: crate::codec::Broken) -> Error {
        corrupt(format!("reading the embedded log in {}", self.dir.display()), place, broken.0)
    }

    // ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn next_epoch(&self, id: &str) -> Result<u64, Error> {
        let mut writing = self.writing();
        let key = format!("writer/{id}");
        let last = read_number(&self.meta, &key, &|| format!("opening a writer of the embedded log in {}", self.dir.display()))?;
        let epoch = last.unwrap_or(0) + 1;
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.meta, key, epoch.to_be_bytes());
        batch.commit().map_err(|e| self.failed("opening a writer of", e))?;
        writing.epochs.insert(id.to_string(), epoch);
        Ok(epoch)
    }

    fn publish(&self, id: &str, epoch: u64, batch: &Batch) -> Result<(), Error> {
        batch.check(&self.options.prefix)?;
        if batch.is_empty() {
            return Ok(());
        }
        let chunks = self.chunks_of(batch);
        let mut writing = self.writing();
        if writing.epochs.get(id) != Some(&epoch) {
            return Err(Error::Fenced { id: id.to_string() });
        }
        let grown = self.write(chunks, batch, now_ms(), writing.published + 1)?;
        writing.published += 1;
        // After the batch is on disk, before anybody is told: what is acknowledged is marked.
        let marked = self.mark.write(writing.published);
        let mut ends = self.ends();
        for ((family, partition), end) in grown {
            let shown = &mut ends.partitions[family as usize][partition as usize];
            (shown.next, shown.ts_ms) = (end.next, end.ts_ms);
        }
        ends.generation += 1;
        drop(ends);
        self.grown.notify_all();
        marked
    }

    /// Sorts records into chunks by partition: the work that needs no lock.
    fn chunks_of(&self, batch: &Batch) -> Vec<(Family, i32, Summed)> {
        let mut full = Vec::new();
        for records in &batch.records {
            self.split(records, &mut full);
        }
        full
    }

    fn split(&self, records: &Records, full: &mut Vec<(Family, i32, Summed)>) {
        let partitions = self.topic(records.family).partitions;
        let mut open: Vec<Builder> = (0..partitions).map(|_| Builder::new()).collect();
        for (key, value) in records.keys.iter().zip(&records.values) {
            let partition = partition(key, partitions);
            let builder = &mut open[partition as usize];
            builder.push(key, value);
            if builder.is_full() {
                full.push((records.family, partition, std::mem::replace(builder, Builder::new()).sum()));
            }
        }
        let rest = open.into_iter().zip(0..).filter(|(builder, _)| builder.count > 0);
        full.extend(rest.map(|(builder, partition)| (records.family, partition, builder.sum())));
    }

    /// Writes all of it in one atomic, synced batch; gives the new ends of the partitions it touched.
    fn write(
        &self,
        chunks: Vec<(Family, i32, Summed)>,
        batch: &Batch,
        now_ms: i64,
        published: u64,
    ) -> Result<BTreeMap<(Family, i32), End>, Error> {
        let mut grown = BTreeMap::new();
        let mut writes = self.db.batch().durability(Some(PersistMode::SyncAll));
        for (family, partition, chunk) in chunks {
            let topic = self.topic(family).id;
            let end: &mut End =
                grown.entry((family, partition)).or_insert_with(|| self.ends().partitions[family as usize][partition as usize]);
            end.ts_ms = end.ts_ms.max(now_ms);
            let place = Place { topic, partition, first: end.next, last: end.next + chunk.count - 1, ts_ms: end.ts_ms };
            end.next = place.last + 1;
            writes.insert(&self.chunks, place.key(), chunk.seal(&place));
        }
        for ((family, partition), end) in &grown {
            writes.insert(&self.meta, partition_key("end", self.topic(*family).id, *partition), numbers(&[end.next, end.ts_ms]));
        }
        for state in &batch.states {
            let key = state_key(state.topic, &state.key);
            match &state.value {
                Some(value) => writes.insert(&self.states, key, value.as_ref()),
                None => writes.remove(&self.states, key),
            }
        }
        for keyspace in [&self.meta, &self.chunks, &self.states] {
            writes.insert(keyspace, PUBLISHES, published.to_be_bytes());
        }
        writes.commit().map_err(|e| self.failed("publishing to", e))?;
        Ok(grown)
    }

    // ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn read_states(&self, topic: StateTopic) -> Result<HashMap<String, Bytes>, Error> {
        let prefix = state_key(topic, "");
        let mut states = HashMap::new();
        for entry in self.db.snapshot().prefix(&self.states, &prefix) {
            let (key, value) = entry.into_inner().map_err(|e| self.failed("reading states of", e))?;
            let key = std::str::from_utf8(&key[prefix.len()..])
                .map_err(|_| self.corrupt(topic.name(), crate::codec::Broken("a key is not UTF-8")))?;
            states.insert(key.to_string(), Bytes::copy_from_slice(&value));
        }
        Ok(states)
    }

    fn check_start(&self, start: &Start, end: End) -> Result<(), Error> {
        if start.offset < end.low {
            return Err(Error::OffsetGone {
                name: self.name(start.family),
                partition: start.partition,
                offset: start.offset,
                low: end.low,
            });
        }
        if start.offset > end.next {
            return Err(beyond_end(&self.name(start.family), start.partition, start.offset, end.next));
        }
        Ok(())
    }

    // ── retention ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    fn set_stored(&self, family: Family, partition: i32, offset: i64) -> Result<(), Error> {
        let end = self.end(&self.ends(), family, partition)?;
        if offset < 0 || offset > end.next {
            return Err(beyond_end(&self.name(family), partition, offset, end.next));
        }
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.meta, partition_key("stored", self.topic(family).id, partition), numbers(&[offset]));
        batch.commit().map_err(|e| self.failed("noting what is stored of", e))
    }

    /// What has grown old in partitions that nobody stores from any more.
    fn expire_all(&self) -> Result<(), Error> {
        let Some(retention) = self.options.retention else { return Ok(()) };
        let doing = || format!("dropping old records of the embedded log in {}", self.dir.display());
        for topic in &self.topics {
            for partition in 0..topic.partitions {
                let stored = read_numbers::<1>(&self.meta, &partition_key("stored", topic.id, partition), &doing)?;
                self.expire(topic.family, partition, stored.map_or(0, |[stored]| stored), before(retention))?;
            }
        }
        Ok(())
    }

    /// Drops chunks from the low end that are wholly before `stored` and were appended before `before_ms`.
    fn expire(&self, family: Family, partition: i32, stored: i64, before_ms: i64) -> Result<(), Error> {
        let topic = self.topic(family).id;
        let end = self.end(&self.ends(), family, partition)?;
        if stored <= end.low {
            return Ok(());
        }
        let mut low = end.low;
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncAll));
        let range = chunk::seek(topic, partition, end.low)..chunk::seek(topic, partition, stored);
        for entry in self.chunks.range(range).take(EXPIRE_CHUNKS_MAX) {
            let key = entry.key().map_err(|e| self.failed("dropping old records of", e))?;
            let place = Place::of_key(&key).map_err(|broken| self.corrupt(&self.name(family), broken))?;
            if place.ts_ms >= before_ms {
                break;
            }
            low = place.last + 1;
            batch.remove(&self.chunks, key);
        }
        if low == end.low {
            return Ok(());
        }
        batch.insert(&self.meta, partition_key("low", topic, partition), numbers(&[low]));
        // First nobody may begin there any more, then it goes: a reader that comes too late is told so.
        self.ends().partitions[family as usize][partition as usize].low = low;
        batch.commit().map_err(|e| self.failed("dropping old records of", e))
    }
}

struct EmbeddedReader {
    log: Arc<Log>,
    cursors: Vec<Cursor>,
    /// Which partition comes first in the next poll, so that none starves.
    turn: usize,
}

struct Cursor {
    family: Family,
    partition: i32,
    next: i64,
    chunk: Option<Open>,
    /// The end that was last reported.
    ended_at: Option<i64>,
}

/// A chunk that is being read.
struct Open {
    records: Bytes,
    last: i64,
    ts_ms: i64,
}

impl Reader for EmbeddedReader {
    fn poll(&mut self, timeout: Duration, events_max: usize) -> Result<Polled, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            let (generation, ends) = self.seen()?;
            let polled = self.read(&ends, events_max.max(1))?;
            if !polled.events.is_empty() || !polled.at_end.is_empty() {
                return Ok(polled);
            }
            let ends = self.log.ends();
            let left = deadline.saturating_duration_since(Instant::now());
            let grown = self.log.grown.wait_timeout_while(ends, left, |ends| ends.generation == generation);
            if grown.expect("nothing that holds the ends can panic").1.timed_out() {
                return Ok(Polled::default());
            }
        }
    }
}

impl EmbeddedReader {
    fn seen(&self) -> Result<(u64, Vec<End>), Error> {
        let ends = self.log.ends();
        let seen = self.cursors.iter().map(|cursor| self.log.end(&ends, cursor.family, cursor.partition)).collect::<Result<_, _>>()?;
        Ok((ends.generation, seen))
    }

    fn read(&mut self, ends: &[End], events_max: usize) -> Result<Polled, Error> {
        let mut polled = Polled::default();
        let mut bytes = 0;
        let count = self.cursors.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            self.cursors[at].read(&self.log, ends[at].next, &mut polled.events, events_max, &mut bytes)?;
        }
        self.turn = (self.turn + 1) % count.max(1);
        for (cursor, end) in self.cursors.iter_mut().zip(ends) {
            if cursor.next >= end.next && cursor.ended_at != Some(cursor.next) {
                cursor.ended_at = Some(cursor.next);
                polled.at_end.push((cursor.family, cursor.partition));
            }
        }
        Ok(polled)
    }
}

impl Cursor {
    fn read(&mut self, log: &Log, end: i64, events: &mut Vec<Event>, events_max: usize, bytes: &mut usize) -> Result<(), Error> {
        if self.chunk.is_some() {
            self.drain(log, events, events_max, bytes)?;
        }
        if self.next >= end || full(events, events_max, *bytes) {
            return Ok(());
        }
        let topic = log.topic(self.family).id;
        for entry in log.chunks.range(chunk::seek(topic, self.partition, self.next)..chunk::seek(topic, self.partition, i64::MAX)) {
            let (key, value) = entry.into_inner().map_err(|e| log.failed("reading", e))?;
            self.open(log, &key, Bytes::from_owner(value))?;
            self.drain(log, events, events_max, bytes)?;
            if self.next >= end || full(events, events_max, *bytes) {
                return Ok(());
            }
        }
        Err(self.missing(log, end))
    }

    /// Opens the chunk that holds `next` and goes to it.
    fn open(&mut self, log: &Log, key: &[u8], value: Bytes) -> Result<(), Error> {
        let broken = |broken| log.corrupt(&format!("{}[{}] offset {}", log.name(self.family), self.partition, self.next), broken);
        let place = Place::of_key(key).map_err(broken)?;
        if place.first > self.next {
            return Err(self.missing(log, place.first));
        }
        let mut records = chunk::open(&place, value).map_err(broken)?;
        for _ in place.first..self.next {
            chunk::take(&mut records).map_err(broken)?;
        }
        self.chunk = Some(Open { records, last: place.last, ts_ms: place.ts_ms });
        Ok(())
    }

    fn drain(&mut self, log: &Log, events: &mut Vec<Event>, events_max: usize, bytes: &mut usize) -> Result<(), Error> {
        let Some(open) = &mut self.chunk else { return Ok(()) };
        while self.next <= open.last && !full(events, events_max, *bytes) {
            let (key, value) = chunk::take(&mut open.records)
                .map_err(|broken| log.corrupt(&format!("{}[{}] offset {}", log.name(self.family), self.partition, self.next), broken))?;
            *bytes += key.as_ref().map_or(0, Bytes::len) + value.as_ref().map_or(0, Bytes::len);
            events.push(Event {
                family: self.family,
                partition: self.partition,
                offset: self.next,
                ts_ms: open.ts_ms,
                ts_type: TimestampType::LogAppend,
                key,
                value,
                headers: Vec::new(),
            });
            self.next += 1;
        }
        if self.next > open.last {
            self.chunk = None;
        }
        Ok(())
    }

    /// Offsets up to `until` were to be there and are not: dropped by retention since the reader was made, or lost.
    fn missing(&self, log: &Log, until: i64) -> Error {
        let low = log.ends().partitions[self.family as usize][self.partition as usize].low;
        if self.next < low {
            return Error::OffsetGone { name: log.name(self.family), partition: self.partition, offset: self.next, low };
        }
        let place = format!("{}[{}] offsets {}..{until}", log.name(self.family), self.partition, self.next);
        log.corrupt(&place, crate::codec::Broken("records are missing"))
    }
}

fn full(events: &[Event], events_max: usize, bytes: usize) -> bool {
    events.len() >= events_max || bytes >= POLL_BYTES_MAX
}

/// An offset after the end: it was made by another log.
pub(crate) fn beyond_end(name: &str, partition: i32, offset: i64, end: i64) -> Error {
    Error::Failed {
        doing: format!("reading {name}[{partition}] from offset {offset}"),
        why: format!(
            "the log ends at {end}: it is not the log that this offset comes from, or it was cut back; check the brokers or --home"
        ),
    }
}

// ── what is kept in `meta` ───────────────────────────────────────────────────────────────────────────────────────────────────────────

fn check_format(meta: &Keyspace, opening: &dyn Fn() -> String) -> Result<(), Error> {
    match read_number(meta, "format", opening)? {
        None => meta.insert("format", u64::from(FORMAT).to_be_bytes()).map_err(|e| failed(opening(), e)),
        Some(format) if format <= u64::from(FORMAT) => Ok(()),
        Some(format) => Err(Error::Failed {
            doing: opening(),
            why: format!("it was written by a newer tokentape (format {format}, this one knows {FORMAT}): use that one"),
        }),
    }
}

/// How many publishes the database has; a log of an older tokentape has counted none. Refuses one that opening has cut otherwise than at its
/// end: its positions, say, are not those of its records.
fn count_publishes(keyspaces: &[&Keyspace; 3], journal: &Aside, opening: &dyn Fn() -> String) -> Result<u64, Error> {
    let was_cut = journal.was_cut().map_err(|e| Error::Failed { doing: opening(), why: advice(&e) })?;
    let mut counts = [0; 3];
    for (count, keyspace) in counts.iter_mut().zip(keyspaces) {
        *count = read_number(keyspace, PUBLISHES, opening)?.unwrap_or(0);
    }
    match counts {
        [meta, chunks, states] if meta == chunks && chunks == states && !was_cut => Ok(meta),
        _ => {
            journal.keep();
            Err(corrupt(opening(), "the journal", &format!("what is left of it ends at publishes {counts:?} and is not whole before")))
        }
    }
}

/// Refuses a log that was found damaged before.
fn refuse_damaged(dir: &Path, opening: &dyn Fn() -> String) -> Result<(), Error> {
    match Aside::kept(dir) {
        None => Ok(()),
        Some(kept) => {
            Err(corrupt(opening(), "the journal", &format!("it was unreadable before its end; as it was then it is in {}", kept.display())))
        }
    }
}

/// The ids of the log and its topics, made at random when they are first asked for.
fn identities(db: &Database, meta: &Keyspace, published: u64, opening: &dyn Fn() -> String) -> Result<(String, Vec<Topic>), Error> {
    let mut made = db.batch().durability(Some(PersistMode::SyncAll));
    let cluster = match read_uuid(meta, "cluster", opening)? {
        Some(id) => id,
        None if published > 0 => return Err(corrupt(opening(), "the log's id", "it is missing")),
        None => {
            let id = Uuid::new_v4();
            made.insert(meta, "cluster", *id.as_bytes());
            id
        }
    };
    let mut topics = Vec::with_capacity(Family::ALL.len());
    for family in Family::ALL {
        let declared = family.topic();
        let (id_key, partitions_key) = (format!("topic/{}", declared.name), format!("partitions/{}", declared.name));
        let known = (read_uuid(meta, &id_key, opening)?, read_number(meta, &partitions_key, opening)?);
        let (id, partitions) = match known {
            (Some(id), Some(partitions)) => (id, partitions as i32),
            _ => {
                let id = Uuid::new_v4();
                made.insert(meta, id_key, *id.as_bytes());
                made.insert(meta, partitions_key, (declared.partitions as u64).to_be_bytes());
                (id, declared.partitions)
            }
        };
        topics.push(Topic { family, id, partitions });
    }
    made.commit().map_err(|e| failed(opening(), e))?;
    Ok((cluster.to_string(), topics))
}

fn read_ends(meta: &Keyspace, topic: &Topic, opening: &dyn Fn() -> String) -> Result<Vec<End>, Error> {
    (0..topic.partitions)
        .map(|partition| {
            let end = read_numbers::<2>(meta, &partition_key("end", topic.id, partition), opening)?.unwrap_or([0, 0]);
            let low = read_numbers::<1>(meta, &partition_key("low", topic.id, partition), opening)?.unwrap_or([0]);
            Ok(End { low: low[0], next: end[0], ts_ms: end[1] })
        })
        .collect()
}

fn partition_key(what: &str, topic: Uuid, partition: i32) -> String {
    format!("{what}/{topic}/{partition}")
}

fn state_key(topic: StateTopic, key: &str) -> String {
    format!("{}/{key}", topic.name())
}

fn numbers(numbers: &[i64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn read_numbers<const N: usize>(meta: &Keyspace, key: &str, doing: &dyn Fn() -> String) -> Result<Option<[i64; N]>, Error> {
    let Some(value) = meta.get(key).map_err(|e| failed(doing(), e))? else { return Ok(None) };
    if value.len() != N * 8 {
        return Err(corrupt(doing(), key, "it has another length"));
    }
    let mut numbers = [0; N];
    for (number, bytes) in numbers.iter_mut().zip(value.chunks_exact(8)) {
        *number = i64::from_be_bytes(bytes.try_into().expect("a chunk of eight bytes"));
    }
    Ok(Some(numbers))
}

fn read_number(meta: &Keyspace, key: &str, doing: &dyn Fn() -> String) -> Result<Option<u64>, Error> {
    Ok(read_numbers::<1>(meta, key, doing)?.map(|[number]| number as u64))
}

fn read_uuid(meta: &Keyspace, key: &str, doing: &dyn Fn() -> String) -> Result<Option<Uuid>, Error> {
    let Some(value) = meta.get(key).map_err(|e| failed(doing(), e))? else { return Ok(None) };
    Uuid::from_slice(&value).map(Some).map_err(|_| corrupt(doing(), key, "it is not an id"))
}

fn corrupt(doing: String, place: &str, what: &str) -> Error {
    Error::Failed { doing, why: format!("{place} is damaged: {what}: restore the directory from a copy, or ingest into a new home") }
}

fn failed(doing: String, e: fjall::Error) -> Error {
    let why = match &e {
        fjall::Error::Io(io) | fjall::Error::Storage(fjall::LsmError::Io(io)) => advice(io),
        fjall::Error::Poisoned => {
            "an earlier write failed (disk full or broken), so nothing more is written: stop, mend the disk, start again".into()
        }
        fjall::Error::JournalRecovery(_)
        | fjall::Error::Decompress(_)
        | fjall::Error::InvalidTrailer
        | fjall::Error::InvalidTag(_)
        | fjall::Error::Unrecoverable
        | fjall::Error::Storage(_) => {
            format!("its files are damaged ({e:?}): restore the directory from a copy, or ingest into a new home")
        }
        fjall::Error::Locked => "another process has its files open: stop it first".to_string(),
        other => format!("the storage engine says {other}"),
    };
    Error::Failed { doing, why }
}

/// Records appended before this moment are older than `retention`.
fn before(retention: Duration) -> i64 {
    now_ms().saturating_sub(millis(retention))
}

fn now_ms() -> i64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
