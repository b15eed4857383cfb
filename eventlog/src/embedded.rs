//! The log of one machine: what was published is on disk before `publish` returns, whole or not at all, and belongs to one process at a time.
//!
//! ```text
//! DIR/owner.pid        lock, with the owner's process id
//! DIR/tape.sock        the owner's socket, while it serves one (socket.rs)
//! DIR/published.mark   how many publishes were acknowledged (mark.rs)
//! DIR/journal.aside/   the journals while the log is opened; journal.damaged/ those of one that is not whole (aside.rs)
//! DIR/log.part/        the database while it is made (database.rs)
//! DIR/log/             fjall: `log` chunks by topic, partition, offset (chunk.rs) · `states` key → last value · `meta` ids, ends, epochs
//! ```

mod aside;
mod chunk;
mod database;
mod lock;
mod mark;
mod meta;
mod reader;
mod restore;
mod settled;

use crate::murmur2::partition;
use crate::{Batch, Error, EventLog, Reader, Records, Start, StateTopic, TopicInfo, TopicReport};
use crate::{TimestampType, Watermarks, Whole, Writer};
use aside::Aside;
use bytes::Bytes;
use chunk::{Builder, Place, Summed};
use database::Opened;
use fjall::{Database, Keyspace, PersistMode, Readable};
use lock::{Lock, advice};
use mark::Mark;
use meta::{
    Identities, PUBLISHES, check_format, count_publishes, identities, numbers, partition_key, read_ends, read_number, read_numbers,
};
use reader::EmbeddedReader;
pub use restore::{Identity, Restorer};
use schemas::Family;
use std::collections::{BTreeMap, HashMap};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// What fjall keeps in memory before it writes a file, unless told otherwise.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// A poll ends when it has this many bytes, whatever the number of events.
pub(crate) const POLL_BYTES_MAX: usize = 32 << 20;
/// Chunks that one call of `stored` drops at most, so that it stays short.
const EXPIRE_CHUNKS_MAX: usize = 1000;

/// How to open an embedded log.
#[derive(Debug, Clone)]
pub struct Options {
    /// What topic names begin with.
    pub prefix: String,
    /// How long records stay at least; `None` keeps them for ever. What is not yet stored stays in any case.
    pub retention: Option<Duration>,
    /// What is kept in memory of records, and of states, before a file is written. Of a log that is there already, what it was made with counts.
    pub memtable_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { prefix: "tape.".to_string(), retention: None, memtable_bytes: MEMTABLE_BYTES }
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
    /// It takes no new records.
    restored: bool,
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
    /// Its chunks' keys begin with it.
    id: Uuid,
    /// The id as others know it: the same, or the one of the log that this one was restored from.
    known_as: String,
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
        Embedded::open_as(dir, options, None)
    }

    /// Opens it, or begins to restore the log of that identity.
    fn open_as(dir: &Path, options: &Options, restored_as: Option<&Identity>) -> Result<Embedded, Error> {
        // For this user alone, whatever the umask says.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|e| Error::Failed { doing: format!("making {}", dir.display()), why: advice(&e) })?;
        let lock = Lock::acquire(dir)?;
        let opening = || format!("opening the embedded log in {}", dir.display());
        refuse_damaged(dir, &opening)?;
        let journal = Aside::take(dir);
        let Opened { db, meta, chunks, states } = database::open(dir, options.memtable_bytes, &opening)?;
        // Before anything is written: what was lost may be the ids themselves.
        let published = count_publishes(&[&meta, &chunks, &states], &journal, &opening)?;
        let mark = Mark::open(dir, published, &journal)?;
        check_format(&meta, &opening)?;
        let Identities { cluster_id, topics, restored } = identities(&db, &meta, published, restored_as, &opening)?;
        let partitions = topics.iter().map(|topic| read_ends(&meta, topic, &opening)).collect::<Result<_, _>>()?;
        let ends = Mutex::new(Ends { partitions, generation: 0 });
        let log = Log {
            dir: dir.to_path_buf(),
            options: options.clone(),
            cluster_id,
            topics,
            restored,
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
        let absolute = std::path::absolute(dir);
        let settled = absolute.and_then(|dir| settled::folders(&dir));
        settled.map_err(|e| Error::Failed { doing: format!("syncing the folders of {}", dir.display()), why: advice(&e) })?;
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
        Ok(TopicInfo { name: self.log.name(family), id: topic.known_as.clone(), partitions: topic.partitions })
    }

    fn writer(&self, transactional_id: &str) -> Result<Box<dyn Writer>, Error> {
        if self.log.restored {
            return Err(Error::Restored { log: self.describe() });
        }
        let epoch = self.log.next_epoch(transactional_id)?;
        Ok(Box::new(EmbeddedWriter { log: self.log.clone(), id: transactional_id.to_string(), epoch, failed: false }))
    }

    fn states(&self, topic: StateTopic) -> Result<HashMap<String, Bytes>, Error> {
        self.log.read_states(topic)
    }

    fn reader(&self, starts: &[Start]) -> Result<Box<dyn Reader>, Error> {
        Ok(Box::new(EmbeddedReader::new(self.log.clone(), starts)?))
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
        let chunks = self.chunks_of(batch)?;
        let mut writing = self.writing();
        if writing.epochs.get(id) != Some(&epoch) {
            return Err(Error::Fenced { id: id.to_string() });
        }
        let grown = self.write(chunks, batch, now_ms(), writing.published + 1)?;
        killpoint::here!("log.embedded.unmarked");
        writing.published += 1;
        // After the batch is on disk, before anybody is told: what is acknowledged is marked.
        let marked = self.mark.write(writing.published);
        killpoint::here!("log.embedded.unacknowledged");
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
    fn chunks_of(&self, batch: &Batch) -> Result<Vec<(Family, i32, Summed)>, Error> {
        let mut full = Vec::new();
        for records in &batch.records {
            self.split(records, &mut full);
        }
        for (family, wholes) in &batch.wholes {
            self.split_wholes(*family, wholes, &mut full)?;
        }
        Ok(full)
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

    fn split_wholes(&self, family: Family, wholes: &[Whole], full: &mut Vec<(Family, i32, Summed)>) -> Result<(), Error> {
        let mut open: BTreeMap<i32, Builder> = BTreeMap::new();
        for Whole { partition, key, value, headers } in wholes {
            self.end(&self.ends(), family, *partition)?;
            let builder = open.entry(*partition).or_insert_with(|| Builder::wholes(TimestampType::LogAppend));
            builder.push_whole(key.as_deref(), value.as_deref(), headers);
            if builder.is_full() {
                full.extend(open.remove(partition).map(|builder| (family, *partition, builder.sum())));
            }
        }
        full.extend(open.into_iter().map(|(partition, builder)| (family, partition, builder.sum())));
        Ok(())
    }

    /// Writes chunks whose places are known, and the ends that their partitions then have, as one publish.
    fn write_restored(&self, chunks: Vec<(Family, i32, Place, Summed)>, ends: &[(Family, i32, End)]) -> Result<(), Error> {
        let mut writing = self.writing();
        let mut writes = self.db.batch().durability(Some(PersistMode::SyncAll));
        for (_, _, place, chunk) in chunks {
            writes.insert(&self.chunks, place.key(), chunk.seal(&place));
        }
        for (family, partition, end) in ends {
            let topic = self.topic(*family).id;
            writes.insert(&self.meta, partition_key("end", topic, *partition), numbers(&[end.next, end.ts_ms]));
            writes.insert(&self.meta, partition_key("low", topic, *partition), numbers(&[end.low]));
        }
        let published = writing.published + 1;
        for keyspace in [&self.meta, &self.chunks, &self.states] {
            writes.insert(keyspace, PUBLISHES, published.to_be_bytes());
        }
        writes.commit().map_err(|e| self.failed("restoring", e))?;
        writing.published = published;
        self.mark.write(published)
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
        killpoint::here!("log.embedded.unwritten");
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

/// An offset after the end: it was made by another log.
pub(crate) fn beyond_end(name: &str, partition: i32, offset: i64, end: i64) -> Error {
    Error::Failed {
        doing: format!("reading {name}[{partition}] from offset {offset}"),
        why: format!(
            "the log ends at {end}: it is not the log that this offset comes from, or it was cut back; check the brokers or --home"
        ),
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

fn state_key(topic: StateTopic, key: &str) -> String {
    format!("{}/{key}", topic.name())
}

fn corrupt(doing: String, place: &str, what: &str) -> Error {
    Error::Failed { doing, why: format!("{place} is damaged: {what}: restore the directory from a copy, or ingest into a new home") }
}

fn failed(doing: String, e: fjall::Error) -> Error {
    let why = match &e {
        // Its own files are neither gone nor there by themselves: an opening makes what it needs, and finds what it made.
        fjall::Error::Io(io) | fjall::Error::Storage(fjall::LsmError::Io(io))
            if matches!(io.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::AlreadyExists) =>
        {
            format!("one of its files is missing ({io}): restore the whole directory from a copy, or ingest into a new home")
        }
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
