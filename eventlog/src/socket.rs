//! The embedded log of another process, through its Unix-domain socket: the same interface, the same answers.
//!
//! ```text
//! client                                   server, one thread per connection
//! "tapelog\0" version ────────────────────► checks
//!        ◄──────────────────────────────── "tapelog\0" version, then Answer::Welcome or Answer::Refused
//! length, Question (JSON), payload ───────► asks the log
//!        ◄──────────────────────────────── length, Answer (JSON), payload
//! ```
//!
//! A connection is a plain one, or that of one writer, or that of one reader. Records travel in the payload, never in JSON.

mod message;

use crate::embedded::used_up;
use crate::{Batch, Error, EventLog, Polled, Reader, Start, StateTopic, TopicInfo, TopicReport, Watermarks, Writer};
use bytes::Bytes;
use message::{Answer, At, Channel, Question};
use schemas::Family;
use std::collections::HashMap;
use std::fs::Permissions;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections served at a time; a process uses one, and one more per writer and reader.
const CONNECTIONS_MAX: usize = 128;
/// How long a connection may take to say what it is. Until then it takes a place, which honest clients want.
const GREETING_WAIT: Duration = Duration::from_secs(2);
/// A server never waits longer for events than this, so that it can stop; the client asks again.
const POLL_SLICE: Duration = Duration::from_millis(250);
/// How long an answer may take. A publish waits for the disk, nothing else takes long.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// A path longer than this does not fit into a socket address (108 bytes with the final zero).
const PATH_BYTES_MAX: usize = 107;

// ── the owner's side ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A log being served; dropping it stops the service and removes the socket.
pub struct Server {
    path: PathBuf,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    log: Arc<dyn EventLog>,
    stopping: AtomicBool,
    next: AtomicU64,
    connections: Mutex<HashMap<u64, Connection>>,
}

struct Connection {
    stream: UnixStream,
    thread: Option<JoinHandle<()>>,
}

/// Serves `log` at `path`, to this user only, until the returned server is stopped or dropped. The caller owns the log, so a socket that
/// lies there was left by a dead process and is replaced.
pub fn serve(log: Arc<dyn EventLog>, path: &Path) -> Result<Server, Error> {
    let failed = |e: std::io::Error| Error::Failed { doing: format!("opening the socket {}", path.display()), why: e.to_string() };
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let listener = at_path(path, |path| UnixListener::bind(path)).map_err(failed)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    let shared = Arc::new(Shared { log, stopping: AtomicBool::new(false), next: AtomicU64::new(0), connections: Mutex::default() });
    let accepting = shared.clone();
    let acceptor =
        std::thread::Builder::new().name("log socket".to_string()).spawn(move || accept(&listener, &accepting)).map_err(failed)?;
    Ok(Server { path: path.to_path_buf(), shared, acceptor: Some(acceptor) })
}

impl Server {
    /// Stops: no new connections, the open ones are cut, and what they were doing is finished or was never begun.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.stopping.store(true, Ordering::SeqCst);
        // The acceptor waits for a connection: give it one.
        let woken = at_path(&self.path, |path| UnixStream::connect(path)).is_ok();
        let _ = std::fs::remove_file(&self.path);
        if woken {
            let _ = acceptor.join();
        }
        let connections = std::mem::take(&mut *self.shared.connections());
        for mut connection in connections.into_values() {
            let _ = connection.stream.shutdown(Shutdown::Both);
            if let Some(thread) = connection.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn connections(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Connection>> {
        self.connections.lock().expect("nothing that holds the connections can panic")
    }
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        match stream {
            Ok(stream) => admit(stream, shared),
            Err(e) => {
                tracing::warn!(error = %e, "a connection to the log's socket failed");
                // Out of file descriptors: let some be given back.
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

fn admit(stream: UnixStream, shared: &Arc<Shared>) {
    let Ok(kept) = stream.try_clone() else { return };
    let id = shared.next.fetch_add(1, Ordering::SeqCst);
    let mut connections = shared.connections();
    if connections.len() >= 2 * CONNECTIONS_MAX {
        // More than can be told why: the greeting of the others is soon over.
        return;
    }
    let room = connections.len() < CONNECTIONS_MAX;
    let served = shared.clone();
    let spawned = std::thread::Builder::new().name("log client".to_string()).spawn(move || {
        attend(stream, &served, room);
        served.connections().remove(&id);
    });
    match spawned {
        Ok(thread) => drop(connections.insert(id, Connection { stream: kept, thread: Some(thread) })),
        Err(e) => tracing::warn!(error = %e, "no thread for a connection to the log's socket"),
    }
}

fn attend(stream: UnixStream, shared: &Shared, room: bool) {
    if stream.set_read_timeout(Some(GREETING_WAIT)).is_err() {
        return;
    }
    let Ok(patience) = stream.try_clone() else { return };
    let Ok(mut channel) = Channel::accept(stream) else { return };
    if patience.set_read_timeout(None).is_err() {
        return;
    }
    if !room {
        let why = format!("it already serves {CONNECTIONS_MAX} connections: end some of the processes that use it");
        let _ = channel.send(&Answer::Refused(Error::Failed { doing: "connecting to the log's socket".to_string(), why }), &[]);
        return;
    }
    let describe = shared.log.describe();
    if channel.send(&Answer::Welcome { describe }, &[]).is_err() {
        return;
    }
    let mut held = Held::default();
    while let Ok((question, payload)) = channel.receive::<Question>() {
        let (answer, payload) = match held.answer(shared.log.as_ref(), question, payload) {
            Ok(answered) => answered,
            Err(error) => (Answer::Refused(error), Vec::new()),
        };
        if channel.send(&answer, &payload).is_err() || shared.stopping.load(Ordering::SeqCst) {
            return;
        }
    }
}

/// What a connection has opened.
#[derive(Default)]
struct Held {
    writer: Option<Box<dyn Writer>>,
    reader: Option<Box<dyn Reader>>,
}

impl Held {
    fn answer(&mut self, log: &dyn EventLog, question: Question, payload: Bytes) -> Result<(Answer, Vec<u8>), Error> {
        let plain = |answer| Ok((answer, Vec::new()));
        match question {
            Question::ClusterId => plain(Answer::Text(log.cluster_id()?)),
            Question::CreateTopics => plain(Answer::Reports(log.create_topics()?)),
            Question::CheckTopics => plain(Answer::Reports(log.check_topics()?)),
            Question::Topic(name) => plain(Answer::Topic(log.topic(message::family(&name)?)?)),
            Question::States(topic) => {
                let payload = message::encode_states(&log.states(topic)?);
                Ok((Answer::Done, payload))
            }
            Question::Watermarks(name) => plain(Answer::Watermarks(log.watermarks(message::family(&name)?)?)),
            Question::Stored(at) => {
                log.stored(message::family(&at.family)?, at.partition, at.offset)?;
                plain(Answer::Done)
            }
            Question::OpenWriter(id) => {
                self.writer = Some(log.writer(&id)?);
                plain(Answer::Done)
            }
            Question::Publish { records, wholes, states } => {
                let batch = message::decode_batch(&records, &wholes, &states, payload)?;
                self.writer.as_mut().ok_or_else(|| out_of_turn("publishing"))?.publish(&batch)?;
                plain(Answer::Done)
            }
            Question::OpenReader(starts) => {
                let starts = starts.iter().map(At::start).collect::<Result<Vec<_>, _>>()?;
                self.reader = Some(log.reader(&starts)?);
                plain(Answer::Done)
            }
            Question::Poll { wait_ms, events_max } => {
                let wait = Duration::from_millis(wait_ms).min(POLL_SLICE);
                let polled = self.reader.as_mut().ok_or_else(|| out_of_turn("reading"))?.poll(wait, events_max)?;
                Ok(message::encode_polled(&polled))
            }
        }
    }
}

fn out_of_turn(doing: &str) -> Error {
    Error::Failed { doing: format!("{doing} through the log's socket"), why: "the connection was not opened for it".to_string() }
}

/// Binds or connects also where the path is too long for a socket address: through the directory's file descriptor.
fn at_path<T>(path: &Path, act: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    if path.as_os_str().len() <= PATH_BYTES_MAX {
        return act(path);
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return act(path) };
    let dir = std::fs::File::open(dir)?;
    act(&Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name))
}

// ── the other processes' side ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Another process's log.
pub struct Socket {
    path: PathBuf,
    describe: String,
    line: Mutex<Line>,
}

/// One connection, asked one thing at a time.
struct Line {
    channel: Channel,
    path: PathBuf,
    broken: bool,
}

impl Socket {
    /// Connects to the owner that serves its log at `path`.
    pub fn connect(path: &Path) -> Result<Socket, Error> {
        let (line, describe) = Line::open(path)?;
        Ok(Socket { path: path.to_path_buf(), describe, line: Mutex::new(line) })
    }

    fn ask(&self, question: &Question) -> Result<(Answer, Bytes), Error> {
        let mut line = self.line.lock().expect("nothing that holds the line can panic");
        if line.broken {
            *line = Line::open(&self.path)?.0;
        }
        line.ask(question, &[])
    }
}

impl Line {
    fn open(path: &Path) -> Result<(Line, String), Error> {
        let unreachable = |e: std::io::Error| unreachable("connecting", path, &e.to_string());
        let stream = at_path(path, |path| UnixStream::connect(path)).map_err(unreachable)?;
        stream.set_read_timeout(Some(ANSWER_WAIT)).map_err(unreachable)?;
        stream.set_write_timeout(Some(ANSWER_WAIT)).map_err(unreachable)?;
        let channel = Channel::connect(stream).map_err(|e| e.during("connecting", path))?;
        let mut line = Line { channel, path: path.to_path_buf(), broken: false };
        match line.receive()? {
            (Answer::Welcome { describe }, _) => Ok((line, describe)),
            (other, _) => Err(unexpected(path, &other)),
        }
    }

    fn ask(&mut self, question: &Question, payload: &[u8]) -> Result<(Answer, Bytes), Error> {
        if let Err(e) = self.channel.send(question, payload) {
            self.broken = true;
            return Err(e.during("asking", &self.path));
        }
        self.receive()
    }

    fn receive(&mut self) -> Result<(Answer, Bytes), Error> {
        match self.channel.receive() {
            Ok((Answer::Refused(error), _)) => Err(error),
            Ok(answered) => Ok(answered),
            Err(e) => {
                self.broken = true;
                Err(e.during("waiting for an answer", &self.path))
            }
        }
    }
}

fn unreachable(doing: &str, path: &Path, why: &str) -> Error {
    let why = format!("{why}: the process that owns the log has ended or is busy; run this again");
    Error::Unreachable { doing: doing.to_string(), log: format!("the log's socket {}", path.display()), why }
}

fn unexpected(path: &Path, answer: &Answer) -> Error {
    Error::Failed {
        doing: format!("asking the log's socket {}", path.display()),
        why: format!("it answered something else ({answer:?}): use the same tokentape on both sides"),
    }
}

/// Takes the one kind of answer that fits the question.
macro_rules! answer {
    ($self:expr, $question:expr, $pattern:pat => $value:expr) => {
        match $self.ask(&$question)? {
            ($pattern, _) => Ok($value),
            (other, _) => Err(unexpected(&$self.path, &other)),
        }
    };
}

impl EventLog for Socket {
    fn describe(&self) -> String {
        format!("{}, through its owner's socket", self.describe)
    }

    fn cluster_id(&self) -> Result<String, Error> {
        answer!(self, Question::ClusterId, Answer::Text(id) => id)
    }

    fn create_topics(&self) -> Result<Vec<TopicReport>, Error> {
        answer!(self, Question::CreateTopics, Answer::Reports(reports) => reports)
    }

    fn check_topics(&self) -> Result<Vec<TopicReport>, Error> {
        answer!(self, Question::CheckTopics, Answer::Reports(reports) => reports)
    }

    fn topic(&self, family: Family) -> Result<TopicInfo, Error> {
        answer!(self, Question::Topic(family.topic().name.to_string()), Answer::Topic(topic) => topic)
    }

    fn writer(&self, transactional_id: &str) -> Result<Box<dyn Writer>, Error> {
        let (mut line, _) = Line::open(&self.path)?;
        line.ask(&Question::OpenWriter(transactional_id.to_string()), &[])?;
        Ok(Box::new(SocketWriter { line, id: transactional_id.to_string(), failed: false }))
    }

    fn states(&self, topic: StateTopic) -> Result<HashMap<String, Bytes>, Error> {
        match self.ask(&Question::States(topic))? {
            (Answer::Done, payload) => message::decode_states(payload).map_err(|e| e.during("reading states", &self.path)),
            (other, _) => Err(unexpected(&self.path, &other)),
        }
    }

    fn reader(&self, starts: &[Start]) -> Result<Box<dyn Reader>, Error> {
        let (mut line, _) = Line::open(&self.path)?;
        line.ask(&Question::OpenReader(starts.iter().map(At::of).collect()), &[])?;
        Ok(Box::new(SocketReader { line }))
    }

    fn watermarks(&self, family: Family) -> Result<Vec<Watermarks>, Error> {
        answer!(self, Question::Watermarks(family.topic().name.to_string()), Answer::Watermarks(watermarks) => watermarks)
    }

    fn stored(&self, family: Family, partition: i32, offset: i64) -> Result<(), Error> {
        answer!(self, Question::Stored(At::of(&Start { family, partition, offset })), Answer::Done => ())
    }
}

struct SocketWriter {
    line: Line,
    id: String,
    failed: bool,
}

impl Writer for SocketWriter {
    fn publish(&mut self, batch: &Batch) -> Result<(), Error> {
        if self.failed {
            return Err(used_up(&self.id));
        }
        let (question, payload) = message::encode_batch(batch);
        let result = self.line.ask(&question, &payload);
        self.failed = result.is_err();
        result.map(drop)
    }
}

struct SocketReader {
    line: Line,
}

impl Reader for SocketReader {
    fn poll(&mut self, timeout: Duration, events_max: usize) -> Result<Polled, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (answer, payload) = self.line.ask(&Question::Poll { wait_ms: left.as_millis() as u64, events_max }, &[])?;
            let Answer::Polled { runs, at_end } = answer else { return Err(unexpected(&self.line.path, &answer)) };
            let polled = message::decode_polled(&runs, &at_end, payload)?;
            if !polled.events.is_empty() || !polled.at_end.is_empty() || left.is_zero() {
                return Ok(polled);
            }
        }
    }
}
