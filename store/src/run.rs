//! The store at work: reads, decodes, commits, and after any trouble begins again where the tables say they are.
//!
//! One thread reads, one decodes, one task commits, and between them bounded queues: while a batch is being committed the next one is
//! read. Memory is bounded by what is pending and what is being committed (`Limits::bytes_total_max`) and a few polls on the way.

use crate::batcher::{self, Limits, Pending};
use crate::ledger::{Span, follow};
use crate::membership::{Membership, Turn};
use crate::moves::{self, Rows};
use crate::opened::{Opened, Tables, blocking};
use crate::place::Place;
use crate::proof::Tree;
use crate::read_ahead::{Decoded, Message, Piece, ReadAhead};
use crate::retry::{self, Patience, Troubles};
use crate::tail::Tail;
use crate::{Error, Report, info};
use arrow::array::RecordBatch;
use eventlog::{EventLog, Partitions, TopicInfo};
use lake::{Committed, Lake};
use schemas::Family;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Polls on their way from the reader to the batches.
const QUEUE_POLLS: usize = 2;

/// How the store works.
#[derive(Debug, Clone)]
pub struct Options {
    /// When to commit.
    pub limits: Limits,
    /// Troubles in a row, with nothing stored between, before it gives up.
    pub tries_max: u32,
    /// Wait after the first trouble; doubled after each further one.
    pub backoff: Duration,
    /// Name under which [`Store::run`] shares the partitions with other stores of the log; without one it takes all of them.
    pub member: Option<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options { limits: Limits::default(), tries_max: 6, backoff: Duration::from_millis(500), member: None }
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

    /// Stores everything that the log holds now, and ends. `progress` is called after every poll and every commit. It takes all partitions:
    /// where another store is at work, each record is stored by the one that is first, and the other reads the tables again.
    pub async fn run_once(&self, progress: &mut (dyn FnMut(&Report) + Send)) -> Result<Report, Error> {
        let options = Options { limits: Limits { age_max: None, ..self.options.limits }, member: None, ..self.options.clone() };
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
        let mut membership = self.join(options);
        let done = self.work(options, once, &mut membership, &mut shutdown, progress).await;
        membership.leave().await;
        done
    }

    fn join(&self, options: &Options) -> Membership {
        match &options.member {
            Some(name) => Membership::join(self.log.clone(), name.clone()),
            None => Membership::alone(),
        }
    }

    async fn work(
        &self,
        options: &Options,
        once: bool,
        membership: &mut Membership,
        shutdown: &mut Shutdown<'_>,
        progress: &mut (dyn FnMut(&Report) + Send),
    ) -> Result<Report, Error> {
        let mut report = Report::default();
        let patience = Patience { tries_max: options.tries_max, backoff: options.backoff };
        let (mut troubles, mut outages) = (Troubles::default(), Troubles::default());
        loop {
            let commits = report.commits;
            let begun = tokio::select! {
                partitions = membership.begin() => partitions,
                () = shutdown.wait() => return Ok(report),
            };
            let ended = match begun {
                Ok(partitions) => self.session(options, (once, &partitions), membership, shutdown, &mut report, progress).await,
                Err(error) => {
                    *membership = self.join(options);
                    Err(error)
                }
            };
            let error = match ended {
                Ok(End::Done) => return Ok(report),
                Ok(End::Turned) => {
                    report.rebalances += 1;
                    continue;
                }
                Err(error) => error,
            };
            if error.is_fence() {
                report.fenced += 1;
            }
            // Where another store was first, something was stored.
            let stored = report.commits > commits || error.is_fence();
            // A service outlasts an outage of its log, however long: it has nothing else to do, and loses nothing by it. Outages are counted apart,
            // so that after one of them other troubles have all their tries.
            let (troubles, patience) = match !once && error.is_outage() {
                true => (&mut outages, Patience { tries_max: u32::MAX, ..patience }),
                false => (&mut troubles, patience),
            };
            let wait = match troubles.another(stored, error.may_pass(), shutdown.done, &patience) {
                retry::Next::Again { wait } => wait,
                retry::Next::End => return Err(error),
                retry::Next::GiveUp => return Err(Error::GaveUp { tries: troubles.in_a_row(), last: Box::new(error) }),
            };
            let failures = troubles.in_a_row();
            tracing::warn!(%error, failures, wait_ms = wait.as_millis() as u64, "reading the tables again and continuing from there");
            report.retries += 1;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.wait() => return Err(error),
            }
        }
    }

    /// From opening the tables to the end, to the first trouble, or until its share is another.
    async fn session(
        &self,
        options: &Options,
        (once, partitions): (bool, &Partitions),
        membership: &mut Membership,
        shutdown: &mut Shutdown<'_>,
        report: &mut Report,
        progress: &mut (dyn FnMut(&Report) + Send),
    ) -> Result<End, Error> {
        let opened = Opened::open(&self.log, &self.lake, partitions, report).await?;
        report.partitions = match partitions {
            Partitions::All => None,
            Partitions::Some(_) => Some((opened.starts.len(), opened.places.len())),
        };
        progress(report);
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = mpsc::channel(QUEUE_POLLS);
        let reader = ReadAhead {
            log: self.log.clone(),
            starts: opened.starts,
            ledger: opened.ledger,
            names: opened.names,
            hashers: opened.hashers,
            held: opened.held,
            stop: stop.clone(),
        };
        let reading = tokio::task::spawn_blocking(move || reader.run(&sender));
        let mut session = Session {
            ends: if once { opened.places.keys().copied().collect() } else { HashSet::new() },
            tables: Some(opened.tables),
            context: Arc::new(Context { log: self.log.clone(), cluster_id: opened.cluster_id, topics: opened.topics }),
            places: opened.places,
            pending: HashMap::new(),
            committing: None,
            limits: options.limits,
            once,
            draining: false,
            turned: false,
        };
        let result = session.run(receiver, &stop, membership, shutdown, report, progress).await;
        stop.store(true, Ordering::Relaxed);
        session.settle(report).await;
        if let Some(tables) = &mut session.tables {
            tables.settle().await;
        }
        // The queue is closed by now, so a reader that waits on it ends; its own error was the queue's last message.
        let ended = reading.await.map_err(|e| Error::Ended { part: "reader", why: e.to_string() });
        // Whatever came of it, nothing of this session is under way any more.
        membership.release();
        ended.and(result)
    }
}

/// Why a session ended without trouble.
enum End {
    /// All is stored that was to be.
    Done,
    /// The share is another: the next session reads that one.
    Turned,
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

/// Decoded rows of one family that wait for their commit.
#[derive(Debug)]
struct Batch {
    family: Family,
    rows: Vec<RecordBatch>,
    quarantine: Vec<RecordBatch>,
    bad: Vec<(i32, String)>,
    spans: BTreeMap<i32, Span>,
    schema_ids: BTreeSet<u32>,
    trees: BTreeMap<i32, Tree>,
    tails: BTreeMap<i32, Tail>,
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
            trees: BTreeMap::new(),
            tails: BTreeMap::new(),
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
        piece.leaves.into_iter().for_each(|(partition, leaf)| self.trees.entry(partition).or_default().push(leaf));
        self.tails.extend(piece.tails);
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
    /// Because the share is another.
    turned: bool,
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
    Turned(Result<Turn, Error>),
    Shutdown,
}

impl Session {
    async fn run(
        &mut self,
        mut queue: mpsc::Receiver<Message>,
        stop: &AtomicBool,
        membership: &mut Membership,
        shutdown: &mut Shutdown<'_>,
        report: &mut Report,
        progress: &mut (dyn FnMut(&Report) + Send),
    ) -> Result<End, Error> {
        loop {
            self.start_commit();
            if self.draining && self.pending.is_empty() && self.committing.is_none() {
                return Ok(if self.turned && !shutdown.done { End::Turned } else { End::Done });
            }
            match self.next(&mut queue, membership, shutdown).await {
                Next::Message(Some(message)) => self.take(message?, report),
                // The reader ends only when it was told to, or after its error was taken above.
                Next::Message(None) => self.draining = true,
                Next::Committed(Ok(done)) => self.finish(done, report),
                Next::Committed(Err(error)) => {
                    self.count(report);
                    return Err(error);
                }
                Next::Due => {}
                Next::Turned(Ok(Turn::Drop)) => {
                    report.taken += 1;
                    tracing::warn!(
                        "the group has not heard of this store for too long: others may have its partitions, and what it had read is dropped"
                    );
                    return Ok(End::Turned);
                }
                Next::Turned(turn) => {
                    turn?;
                    self.turned = true;
                    stop.store(true, Ordering::Relaxed);
                }
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

    async fn next(&mut self, queue: &mut mpsc::Receiver<Message>, membership: &mut Membership, shutdown: &mut Shutdown<'_>) -> Next {
        let pending: Vec<Pending> = self.pending.values().map(Batch::pending).collect();
        let committing_bytes = self.committing.as_ref().map_or(0, |c| c.bytes);
        let room = !self.draining && batcher::has_room(pending.iter().map(|p| p.bytes).sum(), committing_bytes, &self.limits);
        let due = batcher::next_due(&pending, &self.limits).filter(|_| self.committing.is_none());
        let told = shutdown.done;
        tokio::select! {
            done = finished(&mut self.committing), if self.committing.is_some() => Next::Committed(done),
            message = queue.recv(), if room => Next::Message(message),
            () = sleep_until(due), if due.is_some() => Next::Due,
            turn = membership.turned(), if !self.turned => Next::Turned(turn),
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
        let due = batcher::next(&pending, self.draining, Instant::now(), &self.limits);
        let Some(mut batch) = due.and_then(|family| self.pending.remove(&family)) else {
            self.tables = Some(tables);
            return;
        };
        let places = batch.spans.keys().map(|partition| (*partition, self.places[&(batch.family, *partition)])).collect();
        // A commit names the tails of all partitions, so that the newest one suffices.
        for ((_, partition), place) in self.places.iter().filter(|((family, _), _)| *family == batch.family) {
            if let Some(tail) = place.tail {
                batch.tails.entry(*partition).or_insert(tail);
            }
        }
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
                report.fenced += u64::from(error.is_fence());
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

/// Commits one batch, version by version. Then tells the log.
async fn commit(
    context: Arc<Context>,
    mut tables: Tables,
    batch: Batch,
    places: BTreeMap<i32, Place>,
    tally: Arc<Mutex<Tally>>,
) -> Result<Done, Error> {
    let Batch { family, rows, quarantine, bad, spans, schema_ids, trees, tails, .. } = batch;
    let topic = &context.topics[&family];
    // A topic that was deleted and made again under its name has other records at these offsets.
    let now = blocking(&context.log, move |log| log.topic(family)).await?;
    if now.id != topic.id {
        return Err(info::other_log(family, &context.cluster_id, topic, &now));
    }
    let mut quarantined: BTreeMap<i32, u64> = BTreeMap::new();
    bad.iter().for_each(|(partition, _)| *quarantined.entry(*partition).or_default() += 1);
    let has_markers = context.log.has_markers();
    let held = info::Held { spans: &spans, quarantined: &quarantined, trees: &trees, tails: &tails, schema_ids: &schema_ids, has_markers };
    let info = info::commit_info(&context.cluster_id, topic, family, &held);
    let mut bad: Vec<(Family, String)> = bad.into_iter().map(|(_, reason)| (family, reason)).collect();
    let mut done = |table: Family, committed: Committed| {
        let mut tally = tally.lock().expect("nothing that holds the tally can panic");
        tally.commits.push((table, committed));
        tally.bad.append(&mut bad);
    };
    for step in moves::steps(family, &topic.id, &spans, &quarantined, &places) {
        let rows = match step.rows {
            Rows::Bad => quarantine.clone(),
            Rows::Good => rows.clone(),
            Rows::Both => [rows.as_slice(), &quarantine].concat(),
        };
        let table = tables.of(step.table).await?;
        done(step.table, table.commit(&rows, &step.txns, info.clone()).await?);
        if step.rows == Rows::Bad {
            killpoint::here!("store.quarantined");
        }
    }
    killpoint::here!("store.committed");
    for (partition, span) in &spans {
        let (partition, next) = (*partition, span.next);
        blocking(&context.log, move |log| log.stored(family, partition, next)).await?;
    }
    killpoint::here!("store.told");
    let places = moves::moved(family, &spans, &quarantined, &tails, places);
    let touched: Vec<Family> =
        tally.lock().expect("nothing that holds the tally can panic").commits.iter().map(|(family, _)| *family).collect();
    for family in touched {
        let table = tables.of(family).await?;
        // Of a checkpoint that fails readers only notice that they replay more of the log; the next one is tried after as many versions again.
        if let Err(error) = table.checkpoint_done().await {
            tracing::warn!(%error, "storing goes on");
        }
        if table.checkpoint_due() {
            table.begin_checkpoint();
        }
    }
    let places = places.into_iter().map(|(partition, place)| ((family, partition), place)).collect();
    Ok(Done { tables, places })
}
