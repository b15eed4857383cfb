//! A home, a ledger of all that was published into it, and the question whether the tables hold each of it once.

use crate::counted;
use crate::feed::{self, Random};
use crate::run::{Home, text};
use bytes::Bytes;
use eventlog::embedded::{Embedded, Options};
use eventlog::kafka::{Kafka, KafkaOptions};
use eventlog::{Batch, EventLog, Records};
use schemas::Family;
use std::path::PathBuf;
use std::process::Output;

/// Rows of one commit: a few hundred lines make several.
const STORE_ROWS_MAX: u64 = 100;

/// All that is counted, in one statement.
const COUNTED: &str = "SELECT t.n, t.places, t.price, t.size, o.backward, g.gaps, q.bad, q.values FROM \
    (SELECT count(*) AS n, count(DISTINCT source_record) AS places, coalesce(CAST(sum(price) AS VARCHAR), '') AS price, \
    coalesce(CAST(sum(size) AS BIGINT), 0) AS size FROM trades) AS t CROSS JOIN \
    (SELECT count(*) AS backward FROM (SELECT source_record, lag(source_record) OVER (PARTITION BY _partition ORDER BY _offset) AS before \
    FROM trades) AS r WHERE before >= source_record) AS o CROSS JOIN \
    (SELECT count(*) AS gaps FROM gaps) AS g CROSS JOIN \
    (SELECT count(*) AS bad, count(DISTINCT raw) AS values FROM quarantine) AS q";

/// A home that is tried.
pub struct Trial {
    pub home: Home,
    pub random: Random,
    /// `host:port` and topic prefix, on Kafka.
    kafka: Option<(String, String)>,
    file: PathBuf,
    /// Lines that the file has, each of which must become one row.
    lines: u64,
    /// Records of topic `trades` that are none, each of which must be in `quarantine` once.
    poison: u64,
}

/// What the tables have of what the ledger has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub lost: u64,
    pub doubled: u64,
}

impl Trial {
    /// On the embedded log, or with a broker on Kafka.
    pub fn new(broker: Option<&str>) -> Trial {
        let home = broker.map_or_else(Home::embedded, Home::kafka);
        let kafka = broker.map(|broker| (broker.to_string(), home.topic("")));
        std::fs::write(home.path("tape.toml"), format!("[store]\nrows_max = {STORE_ROWS_MAX}\n")).expect("written");
        let name = if broker.is_some() { "kafka" } else { "embedded" };
        let file = home.path("trades.csv");
        feed::write(&file, feed::HEADER.as_bytes());
        Trial { random: Random::new(name), kafka, file, lines: 0, poison: 0, home }
    }

    pub fn name(&self) -> &'static str {
        if self.kafka.is_some() { "kafka" } else { "embedded" }
    }

    /// Lines that were given so far.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The file has so many more lines.
    pub fn grow(&mut self, lines: u64) {
        let mut bytes = std::fs::read(&self.file).expect("it was written");
        bytes.extend(feed::csv(self.lines, self.lines + lines));
        self.lines += lines;
        feed::write(&self.file, &bytes);
    }

    /// Publishes records that cannot be decoded, each another one, as a foreign producer would: no command may run on the home meanwhile.
    pub fn poison(&mut self, records: u64) {
        let value = |n: u64| Bytes::from(format!("poison {n}"));
        let records = Records {
            family: Family::Trades,
            keys: (0..records).map(|n| Bytes::from(format!("T.DATA/TOK{n}"))).collect(),
            values: (self.poison..self.poison + records).map(value).collect(),
        };
        self.poison += records.values.len() as u64;
        let log = self.log();
        let mut writer = log.writer("poison").expect("nobody else has this id");
        writer.publish(&Batch { records: vec![records], ..Batch::default() }).expect("the log takes any bytes");
    }

    fn log(&self) -> Box<dyn EventLog> {
        match &self.kafka {
            None => Box::new(Embedded::open(&self.home.path("log"), &Options::default()).expect("no command runs")),
            Some((broker, prefix)) => {
                Box::new(Kafka::connect(KafkaOptions { prefix: prefix.clone(), ..KafkaOptions::new(broker) }).expect("the broker answers"))
            }
        }
    }

    /// The arguments of a command by its name: the file belongs to `ingest`.
    pub fn args(&self, command: &str) -> Vec<String> {
        let more = match command {
            "ingest" => Some(self.file.to_str().expect("paths here are UTF-8").to_string()),
            "store" => Some("--once".to_string()),
            _ => None,
        };
        [command.to_string()].into_iter().chain(more).collect()
    }

    /// Runs a command to its end, or to the point where it is to die.
    pub fn run(&self, command: &str, kill_at: Option<&str>) -> Output {
        let args = self.args(command);
        let mut command = self.home.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
        if let Some(point) = kill_at {
            command.env("TAPE_KILL_AT", point);
        }
        command.output().expect("the binary starts")
    }

    /// Runs a command that nobody kills: 0, or 1 where it found something, as a store does of poison.
    pub fn finish(&self, command: &str) {
        let output = self.run(command, None);
        assert!(matches!(output.status.code(), Some(0 | 1)), "tape {command} after a kill: {}", text(&output));
    }

    /// What is lost and what is doubled in the tables, when all was ingested and stored. That it is proven, too.
    pub fn count(&self) -> Count {
        let output = self.run("verify", None);
        assert!(output.status.success(), "tape verify: {}", text(&output));
        let all = counted(&self.home, COUNTED);
        assert_eq!(all["backward"], 0, "records of a partition keep their order");
        assert_eq!(all["gaps"], 0, "nothing in gaps");
        let number = |name: &str| all[name].as_u64().expect("a count");
        let (n, places, bad, values) = (number("n"), number("places"), number("bad"), number("values"));
        let count = Count {
            lost: (self.lines - places.min(self.lines)) + (self.poison - values.min(self.poison)),
            doubled: (n - places) + (bad - values),
        };
        if count == Count::default() {
            let (price, size) =
                (0..self.lines).map(feed::trade).fold((0i128, 0u64), |(p, s), (price, size)| (p + i128::from(price), s + u64::from(size)));
            assert_eq!(all["price"], format!("{}.{:09}", price / 1_000_000_000, price % 1_000_000_000));
            assert_eq!(all["size"], size);
        }
        count
    }

    /// Log entries of all tables: it grows with every commit.
    pub fn commits(&self) -> usize {
        let tables = std::fs::read_dir(self.home.path("tables")).into_iter().flatten().flatten();
        let entries = |table: std::fs::DirEntry| std::fs::read_dir(table.path().join("_delta_log")).into_iter().flatten().flatten();
        tables.flat_map(entries).filter(|entry| entry.path().extension().is_some_and(|extension| extension == "json")).count()
    }
}
