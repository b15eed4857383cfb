//! The store at work: reads, decodes, commits, and after any trouble begins again where the tables say they are.
//!
//! One thread reads, one decodes, one task commits, and between them bounded queues: while a batch is being committed the next one is
//! read. Memory is bounded by what is pending and what is being committed (`Limits::bytes_total_max`) and a few polls on the way.

use crate::batcher::{self, Limits, Pending};
use crate::ledger::{Ledger, Span, Verdict, app_id};
use crate::{Error, Report, decode, info};
use arrow::array::RecordBatch;
use eventlog::{Event, EventLog, Start, TopicInfo};
use lake::{Committed, Lake, Table, Txn};
use schemas::Family;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Events of one poll: enough to decode in bulk, few enough that a poll of large records stays small.
const POLL_EVENTS_MAX: usize = 1 << 16;
/// How long a poll waits for the first event; also how long stopping may take.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// Events that are worth a thread of their own to decode.
const DECODE_EVENTS_MIN: usize = 1 << 12;
/// Threads that decode one poll.
const DECODE_THREADS_MAX: usize = 4;
/// Polls that wait to be decoded.
const POLLS_AHEAD: usize = 1;
/// Polls on their way from the reader to the batches.
const QUEUE_POLLS: usize = 2;
/// Longest wait before trying again.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How the store works.
#[derive(Debug, Clone)]
pub struct Options {
    /// When to commit.
    pub limits: Limits,
    /// Troubles in a row, with nothing stored between, before it gives up.
    pub tries_max: u32,
    /// Wait after the first trouble; doubled after each further one.
    pub backoff: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { limits: Limits::default(), tries_max: 6, backoff: Duration::from_millis(500) }
    }
}

/// The store of one log into one lake.
pub struct Store {
    log: Arc<dyn EventLog>,
    lake: Lake,
    options: Options,
}

impl Store {
    /// A store; nothing is opened yet.
    pub fn new(log: Arc<dyn EventLog>, lake: Lake, options: Options) -> Store {
        Store { log, lake, options }
    }

    /// Stores everything that the log holds now, and ends. `progress` is called after every poll and every commit.
    pub async fn run_once(&self, progress: &mut (dyn FnMut(&Report) + Send)) -> Result<Report, Error> {
        let options = Options { limits: Limits { age_max: None, ..self.options.limits }, ..self.options.clone() };
        self.repeat(&options, true, Shutdown::new(std::future::pending()), progress).await
    }

    /// Stores what comes until `shutdown` is ready; then commits what was read, and ends.
    pub async fn run(
        &self,
        shutdown: impl Future<Output = ()> + Send,
        progress: &mut (dyn FnMut(&Report) + Send),
    ) -> Result<Report, Error> {
        self.repeat(&self.options, false, Shutdown::new(shutdown), progress).await
    }

    async fn repeat(
        &self,
        options: &Options,
        once: bool,
        mut shutdown: Shutdown<'_>,
        progress: &mut (dyn FnMut(&Report) + Send),
    ) -> Result<Report, Error> {
        let mut report = Report::default();
        let mut failures = 0;
        loop {
            let commits = report.commits;
            let error = match self.session(options, once, &mut shutdown, &mut report, progress).await {
                Ok(()) => return Ok(report),
                Err(error) => error,
            };
            failures = if report.commits > commits { 1 } else { failures + 1 };
            if !error.may_pass() || shutdown.done {
                return Err(error);
            }
            if failures >= options.tries_max {
                return Err(Error::GaveUp { tries: failures, last: Box::new(error) });
            }
            let wait = options.backoff.saturating_mul(1 << (failures - 1).min(16)).min(BACKOFF_MAX);
            tracing::warn!(%error, failures, wait_ms = wait.as_millis() as u64, "reading the tables again and continuing from there");
            report.retries += 1;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.wait() => return Err(error),
            }
        }
    }

    /// From opening the tables to the end, or to the first trouble.
    async fn session(
        &self,
        options: &Options,
        once: bool,
        shutdown: &mut Shutdown<'_>,
        report: &mut Report,
        progress: &mut (dyn FnMut(&Report) + Send),
    ) -> Result<(), Error> {
        let opened = Opened::open(&self.log, &self.lake, report).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = mpsc::channel(QUEUE_POLLS);
        let reader =
            ReadAhead { log: self.log.clone(), starts: opened.starts, ledger: opened.ledger, names: opened.names, stop: stop.clone() };
        let reading = tokio::task::spawn_blocking(move || reader.run(&sender));
        let mut session = Session {
            ends: if once { reader_ends(&opened.places) } else { HashSet::new() },
            tables: Some(opened.tables),
            context: Arc::new(Context { log: self.log.clone(), cluster_id: opened.cluster_id, topics: opened.topics }),
            places: opened.places,
            pending: HashMap::new(),
            committing: None,
            limits: options.limits,
            once,
            draining: false,
        };
        let result = session.run(receiver, &stop, shutdown, report, progress).await;
        stop.store(true, Ordering::Relaxed);
        session.settle(report).await;
        // The queue is closed by now, so a reader that waits on it ends; its own error was the queue's last message.
        let ended = reading.await.map_err(|e| Error::Ended { part: "reader", why: e.to_string() });
        result.and(ended)
    }
}

fn reader_ends(places: &HashMap<(Family, i32), Place>) -> HashSet<(Family, i32)> {
    places.keys().copied().collect()
}

/// A future that may be waited for again after it was ready.
struct Shutdown<'a> {
    future: Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
    done: bool,
}

impl<'a> Shutdown<'a> {
    fn new(future: impl Future<Output = ()> + Send + 'a) -> Shutdown<'a> {
        Shutdown { future: Box::pin(future), done: false }
    }

    async fn wait(&mut self) {
        if !self.done {
            self.future.as_mut().await;
            self.done = true;
        }
    }
}

/// Refuses tables that were stored from another log than this one, as a store of it would. Changes nothing.
pub async fn refuse_other_log(log: &Arc<dyn EventLog>, lake: &Lake) -> Result<(), Error> {
    let (cluster_id, topics) = blocking(log, |log| {
        let topics = Family::ALL.iter().map(|family| Ok((*family, log.topic(*family)?)));
        Ok((log.cluster_id()?, topics.collect::<Result<HashMap<_, _>, eventlog::Error>>()?))
    })
    .await?;
    for family in Family::ALL {
        if let Some(table) = lake.find(family).await? {
            info::refuse_other_log(&table, &cluster_id, &topics).await?;
        }
    }
    Ok(())
}

/// Where one log partition stands in the tables.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// The family's transaction.
    txn: Option<i64>,
    /// The transaction of table `quarantine` for this partition.
    quarantine: Option<i64>,
}

/// The tables that there are. A family's table is made when its first row comes: for most logs that is never.
struct Tables {
    lake: Lake,
    open: HashMap<Family, Table>,
}

impl Tables {
    /// The table of a family that has rows to store.
    async fn of(&mut self, family: Family) -> Result<&mut Table, Error> {
        match self.open.entry(family) {
            Entry::Occupied(table) => Ok(table.into_mut()),
            Entry::Vacant(free) => Ok(free.insert(self.lake.table(family).await?)),
        }
    }
}

/// All tables and the log, as they were found.
struct Opened {
    cluster_id: String,
    topics: HashMap<Family, TopicInfo>,
    names: HashMap<Family, String>,
    tables: Tables,
    places: HashMap<(Family, i32), Place>,
    starts: Vec<Start>,
    ledger: Ledger,
}

impl Opened {
    async fn open(log: &Arc<dyn EventLog>, lake: &Lake, report: &mut Report) -> Result<Opened, Error> {
        let (cluster_id, found) = blocking(log, |log| {
            let found = Family::ALL.iter().map(|family| Ok((*family, log.topic(*family)?, log.watermarks(*family)?)));
            Ok((log.cluster_id()?, found.collect::<Result<Vec<_>, eventlog::Error>>()?))
        })
        .await?;
        let topics = found.iter().map(|(family, topic, _)| (*family, topic.clone())).collect();
        let mut tables = Tables { lake: lake.clone(), open: HashMap::new() };
        for family in Family::ALL {
            if let Some(table) = lake.existing(family).await? {
                info::refuse_other_log(&table, &cluster_id, &topics).await?;
                tables.open.insert(family, table);
            }
        }
        let mut opened = Opened {
            cluster_id,
            topics,
            names: found.iter().map(|(family, topic, _)| (*family, topic.name.clone())).collect(),
            tables,
            places: HashMap::new(),
            starts: Vec::new(),
            ledger: Ledger::default(),
        };
        let mut to_read = 0;
        for (family, topic, watermarks) in found {
            for (partition, watermarks) in (0i32..).zip(watermarks) {
                let place = opened.place(family, &topic, partition).await?;
                let wanted = place.txn.unwrap_or(0);
                if wanted > watermarks.high {
                    return Err(Error::Ahead { name: topic.name.clone(), partition, stored: wanted, high: watermarks.high });
                }
                let next = wanted.max(watermarks.low);
                opened.begin(family, partition, next, place);
                to_read += (watermarks.high - next).unsigned_abs();
                if next > wanted {
                    report.lost += opened.note_gap(family, &topic, partition, wanted, next).await?;
                }
                if let Some(stored) = place.txn {
                    // A crash may have come between the commit and this.
                    blocking(log, move |log| log.stored(family, partition, stored)).await?;
                }
            }
        }
        if report.to_read == 0 {
            report.to_read = to_read;
        }
        Ok(opened)
    }

    async fn place(&mut self, family: Family, topic: &TopicInfo, partition: i32) -> Result<Place, Error> {
        Ok(Place {
            txn: self.txn(family, &app_id(family.topic().name, &topic.id, partition)).await?,
            quarantine: self.txn(Family::Quarantine, &side_id(Family::Quarantine, topic, partition)).await?,
        })
    }

    fn begin(&mut self, family: Family, partition: i32, next: i64, place: Place) {
        // The family `quarantine` has one transaction for its own rows and for those that the store adds.
        let quarantined = if family == Family::Quarantine { 0 } else { place.quarantine.unwrap_or(0) };
        self.ledger.begin(family, partition, next, quarantined);
        self.places.insert((family, partition), place);
        self.starts.push(Start { family, partition, offset: next });
    }

    /// Notes in table `gaps` that the log lost offsets before they were stored; once, however often it is found. Returns how many.
    async fn note_gap(&mut self, family: Family, topic: &TopicInfo, partition: i32, first: i64, next: i64) -> Result<u64, Error> {
        let app_id = side_id(Family::Gaps, topic, partition);
        let noted = self.txn(Family::Gaps, &app_id).await?;
        let first = noted.unwrap_or(0).max(first);
        if first >= next {
            return Ok(0);
        }
        tracing::error!(topic = topic.name, partition, first, last = next - 1, "the log lost offsets that were never stored");
        let row = decode::gap(&topic.name, partition, first, next - 1)?;
        let info = info::commit_info(&self.cluster_id, topic, family, &BTreeMap::new(), &BTreeMap::new(), &BTreeSet::new());
        let gaps = self.tables.of(Family::Gaps).await?;
        gaps.commit(&[row], &[Txn { app_id, from: noted, to: next }], info).await?;
        if family == Family::Gaps {
            self.places.entry((family, partition)).and_modify(|place| place.txn = Some(next));
        }
        Ok((next - first).unsigned_abs())
    }

    async fn txn(&mut self, table: Family, app_id: &str) -> Result<Option<i64>, Error> {
        match self.tables.open.get_mut(&table) {
            Some(table) => Ok(table.txn_version(app_id).await?),
            None => Ok(None),
        }
    }
}

/// The transaction under which the store writes rows of its own, about a topic, to table `quarantine` or `gaps`.
fn side_id(table: Family, topic: &TopicInfo, partition: i32) -> String {
    app_id(table.topic().name, &topic.id, partition)
}

async fn blocking<T: Send + 'static>(
    log: &Arc<dyn EventLog>,
    work: impl FnOnce(&dyn EventLog) -> Result<T, eventlog::Error> + Send + 'static,
) -> Result<T, Error> {
    let log = log.clone();
    let done = tokio::task::spawn_blocking(move || work(log.as_ref())).await;
    Ok(done.map_err(|e| Error::Ended { part: "request to the log", why: e.to_string() })??)
}

/// Reads and decodes ahead of the commits, on a thread of its own.
struct ReadAhead {
    log: Arc<dyn EventLog>,
    starts: Vec<Start>,
    ledger: Ledger,
    names: HashMap<Family, String>,
    stop: Arc<AtomicBool>,
}

/// What one poll brought, decoded; the last message may be the error that ended the reading.
type Message = Result<Decoded, Error>;

#[derive(Debug, Default)]
struct Decoded {
    pieces: Vec<Piece>,
    at_end: Vec<(Family, i32)>,
    skipped: u64,
}

/// Events of one family, decoded.
#[derive(Debug)]
struct Piece {
    family: Family,
    rows: RecordBatch,
    quarantine: Option<RecordBatch>,
    /// Partition and reason of every bad event.
    bad: Vec<(i32, String)>,
    spans: BTreeMap<i32, Span>,
    schema_ids: Vec<u32>,
}

impl ReadAhead {
    fn run(mut self, queue: &mpsc::Sender<Message>) {
        if let Err(error) = self.read(queue) {
            // Nobody listens any more: the session has ended for a reason of its own.
            let _ = queue.blocking_send(Err(error));
        }
    }

    /// The next poll is under way while the last one is decoded.
    fn read(&mut self, queue: &mpsc::Sender<Message>) -> Result<(), Error> {
        let mut reader = self.log.reader(&self.starts)?;
        let stop = self.stop.clone();
        let (sender, polls) = std::sync::mpsc::sync_channel(POLLS_AHEAD);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let polled = reader.poll(POLL_WAIT, POLL_EVENTS_MAX);
                    let failed = polled.is_err();
                    let nothing = polled.as_ref().is_ok_and(|polled| polled.events.is_empty() && polled.at_end.is_empty());
                    if !nothing && sender.send(polled).is_err() || failed {
                        return;
                    }
                }
            });
            for polled in polls {
                let polled = polled?;
                let mut decoded = self.decode(polled.events)?;
                decoded.at_end = polled.at_end;
                if queue.blocking_send(Ok(decoded)).is_err() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn decode(&mut self, events: Vec<Event>) -> Result<Decoded, Error> {
        let mut decoded = Decoded::default();
        let mut families: Vec<(Family, Accepted)> = Vec::new();
        let count = events.len();
        for event in events {
            let Verdict::Accept { absent } = self.ledger.offer(event.family, event.partition, event.offset) else {
                decoded.skipped += 1;
                continue;
            };
            let at = match families.iter().position(|(family, _)| *family == event.family) {
                Some(at) => at,
                None => {
                    families.push((event.family, Accepted::with_capacity(count)));
                    families.len() - 1
                }
            };
            families[at].1.push(event, absent);
        }
        for (family, accepted) in families {
            decoded.pieces.extend(self.decode_family(family, accepted)?);
        }
        Ok(decoded)
    }

    fn decode_family(&self, family: Family, accepted: Accepted) -> Result<Vec<Piece>, Error> {
        let Accepted { events, absent } = accepted;
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(DECODE_THREADS_MAX);
        let length = events.len().div_ceil(threads).max(DECODE_EVENTS_MIN);
        let parts: Vec<_> = events.chunks(length).zip(absent.chunks(length)).collect();
        if let [(events, absent)] = parts[..] {
            return Ok(vec![self.piece(family, events, absent)?]);
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = parts.into_iter().map(|(events, absent)| scope.spawn(|| self.piece(family, events, absent))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    fn piece(&self, family: Family, events: &[Event], absent: &[Option<(i64, i64)>]) -> Result<Piece, Error> {
        let mut decoded = decode::decode(family, events)?;
        decoded.bad.retain(|bad| {
            let event = &events[bad.index];
            !self.ledger.is_quarantined(family, event.partition, event.offset)
        });
        let quarantine = match decoded.bad.is_empty() {
            true => None,
            false => Some(decode::quarantine(&self.names[&family], events, &decoded.bad)?),
        };
        let mut spans: BTreeMap<i32, Span> = BTreeMap::new();
        for (event, absent) in events.iter().zip(absent) {
            follow(&mut spans, event.partition, Span::of(event.offset, *absent));
        }
        let bad = decoded.bad.into_iter().map(|bad| (events[bad.index].partition, bad.reason)).collect();
        Ok(Piece { family, rows: decoded.rows, quarantine, bad, spans, schema_ids: decoded.schema_ids })
    }
}

/// Events that the ledger accepted, and the hole before each.
struct Accepted {
    events: Vec<Event>,
    absent: Vec<Option<(i64, i64)>>,
}

impl Accepted {
    fn with_capacity(count: usize) -> Accepted {
        Accepted { events: Vec::with_capacity(count), absent: Vec::with_capacity(count) }
    }

    fn push(&mut self, event: Event, absent: Option<(i64, i64)>) {
        self.events.push(event);
        self.absent.push(absent);
    }
}

fn follow(spans: &mut BTreeMap<i32, Span>, partition: i32, span: Span) {
    match spans.get_mut(&partition) {
        Some(before) => before.extend(span),
        None => drop(spans.insert(partition, span)),
    }
}

/// Decoded rows of one family that wait for their commit.
#[derive(Debug)]
struct Batch {
    family: Family,
    rows: Vec<RecordBatch>,
    quarantine: Vec<RecordBatch>,
    bad: Vec<(i32, String)>,
    spans: BTreeMap<i32, Span>,
    schema_ids: BTreeSet<u32>,
    bytes: usize,
    since: Instant,
}

impl Batch {
    fn new(family: Family, now: Instant) -> Batch {
        Batch {
            family,
            rows: Vec::new(),
            quarantine: Vec::new(),
            bad: Vec::new(),
            spans: BTreeMap::new(),
            schema_ids: BTreeSet::new(),
            bytes: 0,
            since: now,
        }
    }

    fn add(&mut self, piece: Piece) {
        self.bytes += piece.rows.get_array_memory_size() + piece.quarantine.as_ref().map_or(0, RecordBatch::get_array_memory_size);
        if piece.rows.num_rows() > 0 {
            self.rows.push(piece.rows);
        }
        self.quarantine.extend(piece.quarantine);
        self.bad.extend(piece.bad);
        piece.spans.into_iter().for_each(|(partition, span)| follow(&mut self.spans, partition, span));
        self.schema_ids.extend(piece.schema_ids);
    }

    fn pending(&self) -> Pending {
        Pending {
            family: self.family,
            rows: self.spans.values().map(|span| span.records as usize).sum(),
            bytes: self.bytes,
            holes: self.spans.values().map(|span| span.absent.len()).sum(),
            since: self.since,
        }
    }

    /// Offsets covered.
    fn offsets(&self) -> u64 {
        self.spans.values().map(|span| (span.next - span.from).unsigned_abs()).sum()
    }
}

/// What every commit needs to know.
struct Context {
    log: Arc<dyn EventLog>,
    cluster_id: String,
    topics: HashMap<Family, TopicInfo>,
}

/// The commits of one session: what waits, what is on its way, and where the tables stand.
struct Session {
    /// Partitions whose end was not seen yet; only used where the end ends the session.
    ends: HashSet<(Family, i32)>,
    /// The tables, unless a commit has them.
    tables: Option<Tables>,
    context: Arc<Context>,
    places: HashMap<(Family, i32), Place>,
    pending: HashMap<Family, Batch>,
    committing: Option<Committing>,
    limits: Limits,
    once: bool,
    /// Nothing more is read; what waits is committed.
    draining: bool,
}

struct Committing {
    bytes: usize,
    offsets: u64,
    tally: Arc<Mutex<Tally>>,
    task: JoinHandle<Result<Done, Error>>,
}

/// What is in the tables, whether or not the rest of the commit fails: the next try does not store it again, so it is counted now or never.
#[derive(Default)]
struct Tally {
    commits: Vec<(Family, Committed)>,
    /// Family and reason of what went to `quarantine`.
    bad: Vec<(Family, String)>,
}

impl Tally {
    fn count(&mut self, report: &mut Report) {
        for (family, committed) in self.commits.drain(..) {
            report.commits += 1;
            report.files += committed.files as u64;
            report.bytes += committed.bytes;
            *report.rows.entry(family).or_default() += committed.rows;
        }
        self.bad.drain(..).for_each(|(family, reason)| report.count_quarantined(family, &reason, 1));
    }
}

/// A commit that was done.
struct Done {
    tables: Tables,
    places: Vec<((Family, i32), Place)>,
}

/// What happened next.
enum Next {
    Message(Option<Message>),
    Committed(Result<Done, Error>),
    Due,
    Shutdown,
}

impl Session {
    async fn run(
        &mut self,
        mut queue: mpsc::Receiver<Message>,
        stop: &AtomicBool,
        shutdown: &mut Shutdown<'_>,
        report: &mut Report,
        progress: &mut (dyn FnMut(&Report) + Send),
    ) -> Result<(), Error> {
        loop {
            self.start_commit();
            if self.draining && self.pending.is_empty() && self.committing.is_none() {
                return Ok(());
            }
            match self.next(&mut queue, shutdown).await {
                Next::Message(Some(message)) => self.take(message?, report),
                // The reader ends only when it was told to, or after its error was taken above.
                Next::Message(None) => self.draining = true,
                Next::Committed(Ok(done)) => self.finish(done, report),
                Next::Committed(Err(error)) => {
                    self.count(report);
                    return Err(error);
                }
                Next::Due => {}
                Next::Shutdown => stop.store(true, Ordering::Relaxed),
            }
            if self.once && self.ends.is_empty() {
                self.draining = true;
            }
            report.read =
                report.stored + self.pending.values().map(Batch::offsets).sum::<u64>() + self.committing.as_ref().map_or(0, |c| c.offsets);
            progress(report);
        }
    }

    async fn next(&mut self, queue: &mut mpsc::Receiver<Message>, shutdown: &mut Shutdown<'_>) -> Next {
        let pending: Vec<Pending> = self.pending.values().map(Batch::pending).collect();
        let committing_bytes = self.committing.as_ref().map_or(0, |c| c.bytes);
        let room = !self.draining && batcher::has_room(pending.iter().map(|p| p.bytes).sum(), committing_bytes, &self.limits);
        let due = batcher::next_due(&pending, &self.limits).filter(|_| self.committing.is_none());
        let told = shutdown.done;
        tokio::select! {
            done = finished(&mut self.committing), if self.committing.is_some() => Next::Committed(done),
            message = queue.recv(), if room => Next::Message(message),
            () = sleep_until(due), if due.is_some() => Next::Due,
            () = shutdown.wait(), if !told => Next::Shutdown,
        }
    }

    fn take(&mut self, decoded: Decoded, report: &mut Report) {
        let now = Instant::now();
        for piece in decoded.pieces {
            self.pending.entry(piece.family).or_insert_with(|| Batch::new(piece.family, now)).add(piece);
        }
        report.skipped += decoded.skipped;
        for end in &decoded.at_end {
            self.ends.remove(end);
        }
    }

    /// Begins the commit that is due, unless one is on its way.
    fn start_commit(&mut self) {
        let Some(tables) = self.tables.take_if(|_| !self.pending.is_empty()) else { return };
        let pending: Vec<Pending> = self.pending.values().map(Batch::pending).collect();
        let due = match self.draining {
            true => pending.iter().min_by_key(|p| p.since).map(|p| p.family),
            false => batcher::due(&pending, Instant::now(), &self.limits),
        };
        let Some(batch) = due.and_then(|family| self.pending.remove(&family)) else {
            self.tables = Some(tables);
            return;
        };
        let places = batch.spans.keys().map(|partition| (*partition, self.places[&(batch.family, *partition)])).collect();
        let (bytes, offsets) = (batch.bytes, batch.offsets());
        let tally = Arc::default();
        let task = tokio::spawn(commit(self.context.clone(), tables, batch, places, Arc::clone(&tally)));
        self.committing = Some(Committing { bytes, offsets, tally, task });
    }

    /// Waits for the commit on its way, if trouble elsewhere ended the session: the next session must not meet it. Its own error, if it
    /// has one, is found out by reading the tables again.
    async fn settle(&mut self, report: &mut Report) {
        if self.committing.is_none() {
            return;
        }
        match finished(&mut self.committing).await {
            Ok(done) => self.finish(done, report),
            Err(error) => {
                self.count(report);
                tracing::warn!(%error, "a commit on its way failed too");
            }
        }
        report.read = report.stored;
    }

    fn finish(&mut self, done: Done, report: &mut Report) {
        report.stored += self.count(report);
        self.tables = Some(done.tables);
        self.places.extend(done.places);
    }

    /// Counts what the commit that ended brought into the tables; gives the offsets that it was to cover.
    fn count(&mut self, report: &mut Report) -> u64 {
        let Some(ended) = self.committing.take() else { return 0 };
        ended.tally.lock().expect("nothing that holds the tally can panic").count(report);
        ended.offsets
    }
}

async fn finished(committing: &mut Option<Committing>) -> Result<Done, Error> {
    match committing {
        None => std::future::pending().await,
        Some(committing) => {
            let done = (&mut committing.task).await;
            done.map_err(|e| Error::Ended { part: "commit", why: e.to_string() })?
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        None => std::future::pending().await,
        Some(due) => tokio::time::sleep_until(due.into()).await,
    }
}

/// Commits one batch: first what the store adds to `quarantine`, then the family's rows, each with its transactions. Then tells the log.
async fn commit(
    context: Arc<Context>,
    mut tables: Tables,
    batch: Batch,
    mut places: BTreeMap<i32, Place>,
    tally: Arc<Mutex<Tally>>,
) -> Result<Done, Error> {
    let Batch { family, mut rows, quarantine, bad, spans, schema_ids, .. } = batch;
    let topic = &context.topics[&family];
    let mut quarantined: BTreeMap<i32, u64> = BTreeMap::new();
    bad.iter().for_each(|(partition, _)| *quarantined.entry(*partition).or_default() += 1);
    let info = info::commit_info(&context.cluster_id, topic, family, &spans, &quarantined, &schema_ids);
    let mut bad: Vec<(Family, String)> = bad.into_iter().map(|(_, reason)| (family, reason)).collect();
    let mut done = |table: Family, committed: Committed| {
        let mut tally = tally.lock().expect("nothing that holds the tally can panic");
        tally.commits.push((table, committed));
        tally.bad.append(&mut bad);
    };
    if family == Family::Quarantine {
        // One table, one transaction: the store's rows go with the family's own.
        rows.extend(quarantine);
    } else if !quarantine.is_empty() {
        let txns: Vec<Txn> = quarantined
            .keys()
            .map(|partition| Txn {
                app_id: side_id(Family::Quarantine, topic, *partition),
                from: places[partition].quarantine,
                to: spans[partition].next,
            })
            .collect();
        let table = tables.of(Family::Quarantine).await?;
        done(Family::Quarantine, table.commit(&quarantine, &txns, info.clone()).await?);
        for (partition, place) in &mut places {
            place.quarantine = quarantined.contains_key(partition).then(|| spans[partition].next).or(place.quarantine);
        }
    }
    let txns: Vec<Txn> = spans
        .iter()
        .map(|(partition, span)| Txn {
            app_id: app_id(family.topic().name, &topic.id, *partition),
            from: places[partition].txn,
            to: span.next,
        })
        .collect();
    let table = tables.of(family).await?;
    done(family, table.commit(&rows, &txns, info).await?);
    for (partition, span) in &spans {
        let (partition, next) = (*partition, span.next);
        places.entry(partition).and_modify(|place| place.txn = Some(next));
        blocking(&context.log, move |log| log.stored(family, partition, next)).await?;
    }
    let touched: Vec<Family> =
        tally.lock().expect("nothing that holds the tally can panic").commits.iter().map(|(family, _)| *family).collect();
    for family in touched {
        let table = tables.of(family).await?;
        if table.checkpoint_due() {
            table.checkpoint().await?;
        }
    }
    let places = places.into_iter().map(|(partition, place)| ((family, partition), place)).collect();
    Ok(Done { tables, places })
}
