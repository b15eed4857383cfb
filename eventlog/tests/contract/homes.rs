//! The three homes under test, each made fresh for a test and gone with it.

use eventlog::embedded::{Embedded, Options};
use eventlog::kafka::{Kafka, KafkaOptions};
use eventlog::socket::{Server, Socket, serve};
use eventlog::{Event, EventLog, Polled, Reader, Start};
use schemas::Family;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine; a test that waits this long fails.
pub const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Embedded,
    Socket,
    Kafka,
}

/// A log and what keeps it alive.
pub struct Home {
    pub kind: Kind,
    pub log: Option<Arc<dyn EventLog>>,
    pub prefix: String,
    server: Option<Server>,
    dir: Option<TempDir>,
}

impl Home {
    /// `None`, with a word why, where there is no broker.
    pub fn new(kind: Kind) -> Option<Home> {
        let prefix = match kind {
            Kind::Kafka => format!("t{}.", uuid::Uuid::new_v4().simple()),
            _ => "tape.".to_string(),
        };
        let dir = match kind {
            Kind::Kafka => {
                brokers()?;
                None
            }
            _ => Some(tempfile::tempdir().unwrap()),
        };
        let mut home = Home { kind, log: None, prefix, server: None, dir };
        home.open();
        home.log().create_topics().unwrap();
        Some(home)
    }

    pub fn log(&self) -> &dyn EventLog {
        self.log.as_deref().unwrap()
    }

    /// Closes everything and opens it again, as another process would find it.
    pub fn reopen(&mut self) {
        self.log = None;
        self.server = None;
        self.open();
    }

    fn open(&mut self) {
        let dir = self.dir.as_ref().map(|dir| dir.path().to_path_buf());
        self.log = Some(match self.kind {
            Kind::Embedded => Arc::new(open_embedded(&dir.unwrap())),
            Kind::Socket => {
                let dir = dir.unwrap();
                let path = dir.join("tape.sock");
                self.server = Some(serve(Arc::new(open_embedded(&dir)), &path).unwrap());
                Arc::new(Socket::connect(&path).unwrap())
            }
            Kind::Kafka => Arc::new(kafka(&self.prefix)),
        });
    }
}

/// Opens an embedded log that an earlier owner in this process may be just closing.
pub fn open_embedded(dir: &Path) -> Embedded {
    let began = Instant::now();
    loop {
        match Embedded::open(dir, &Options::default()) {
            Ok(log) => return log,
            Err(eventlog::Error::Owned { .. }) if began.elapsed() < DEADLINE => std::thread::sleep(Duration::from_millis(10)),
            Err(e) => panic!("{e}"),
        }
    }
}

pub fn kafka(prefix: &str) -> Kafka {
    let mut options = KafkaOptions::new(brokers().expect("asked before"));
    options.prefix = prefix.to_string();
    Kafka::connect(options).unwrap()
}

/// Brokers for tests: those of `make test`, else one of our own that ends with this process, else none.
pub fn brokers() -> Option<&'static str> {
    static BROKERS: OnceLock<Result<String, String>> = OnceLock::new();
    match BROKERS.get_or_init(find_brokers) {
        Ok(brokers) => Some(brokers),
        Err(why) if std::env::var_os("TAPE_REQUIRE_KAFKA").is_some() => panic!("no Kafka, and TAPE_REQUIRE_KAFKA is set: {why}"),
        Err(why) => {
            eprintln!("skipped: no Kafka: {why}");
            None
        }
    }
}

fn find_brokers() -> Result<String, String> {
    if let Ok(brokers) = std::env::var("TAPE_TEST_KAFKA") {
        return Ok(brokers);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kafka.sh");
    let dir: PathBuf = tempfile::Builder::new().prefix("tape-kafka-").tempdir().map_err(|e| e.to_string())?.keep();
    let output = Command::new(script).arg("start").arg(&dir).arg(std::process::id().to_string()).output().map_err(|e| e.to_string())?;
    let out = String::from_utf8_lossy(&output.stdout);
    match out.lines().find_map(|line| line.strip_prefix("BROKERS=")) {
        Some(brokers) => Ok(brokers.to_string()),
        None => Err(String::from_utf8_lossy(&output.stderr).trim().to_string()),
    }
}

/// Every partition of a family from its beginning.
pub fn from_start(log: &dyn EventLog, family: Family) -> Vec<Start> {
    (0..log.topic(family).unwrap().partitions).map(|partition| Start { family, partition, offset: 0 }).collect()
}

/// Polls until `enough`, or fails at the deadline.
pub fn poll_until(reader: &mut dyn Reader, enough: impl Fn(&Polled) -> bool) -> Polled {
    let began = Instant::now();
    let mut all = Polled::default();
    while !enough(&all) {
        assert!(began.elapsed() < DEADLINE, "waited {DEADLINE:?}, got {} events, ends {:?}", all.events.len(), all.at_end);
        let mut polled = reader.poll(Duration::from_secs(1), 1000).unwrap();
        all.events.append(&mut polled.events);
        all.at_end.append(&mut polled.at_end);
    }
    all
}

/// All that is visible in the partitions of `starts`.
pub fn read_all(log: &dyn EventLog, starts: &[Start]) -> Vec<Event> {
    let mut reader = log.reader(starts).unwrap();
    let at_end = |polled: &Polled| starts.iter().all(|start| polled.at_end.contains(&(start.family, start.partition)));
    poll_until(reader.as_mut(), at_end).events
}
