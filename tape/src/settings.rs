//! What was typed becomes what is meant: file, then environment, then flags; unknown keys are refused.

use crate::args::Common;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A mistake in what was typed or configured: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongUse(pub String);

/// `tape.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    brokers: Option<String>,
    tables: Option<String>,
    prefix: Option<String>,
    replayed: Option<bool>,
    #[serde(default)]
    kafka: BTreeMap<String, toml::Value>,
    #[serde(default)]
    embedded: EmbeddedFile,
    #[serde(default)]
    ingest: IngestFile,
    #[serde(default)]
    store: StoreFile,
    #[serde(default)]
    query: QueryFile,
    #[serde(default)]
    upkeep: UpkeepFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EmbeddedFile {
    /// Hours that records stay in the log after every table has them; absent = for ever.
    retention_hours: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct IngestFile {
    document_mib_max: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreFile {
    rows_max: Option<usize>,
    age_max_seconds: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryFile {
    memory_mib: Option<usize>,
    tail_mib: Option<usize>,
    process_mib: Option<usize>,
    spill_mib: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpkeepFile {
    /// Seconds between two looks of `tape store` and `tape up` at the tables; 0 = never.
    every_seconds: Option<usize>,
    horizon_days: Option<usize>,
}

/// Where the log is.
#[derive(Debug, Clone)]
pub enum LogAt {
    /// In the home, for one machine.
    Embedded { dir: PathBuf, retention: Option<Duration> },
    /// Kafka, with any librdkafka property. `replayed`: its records are those that `tape replay` wrote, and keep the time of their origin.
    Kafka { brokers: String, properties: BTreeMap<String, String>, replayed: bool },
}

/// What is meant.
#[derive(Debug, Clone)]
pub struct Settings {
    pub home: PathBuf,
    pub log: LogAt,
    /// Folder or URL of the Delta tables.
    pub tables: String,
    pub prefix: String,
    pub json: bool,
    /// The settings file that was typed.
    config: Option<PathBuf>,
    /// Most bytes of a document, unpacked: a guard against inputs that unpack without end. Pages and PDFs are far below the default.
    pub document_bytes_max: Option<u64>,
    /// Rows of one Delta commit. A million: files of good size at a memory that stays flat.
    pub store_rows_max: Option<usize>,
    /// Longest time that a record waits for its commit.
    pub store_age_max: Option<Duration>,
    /// Memory of one engine. 2 GiB leaves room on a small machine for ingest and store.
    pub query_memory: usize,
    /// Memory for rows that the log has and the tables have not yet: some hundred thousand trades, what a store leaves behind for seconds.
    pub query_tail: usize,
    /// Memory that the process of the query service may take from the system, the stacks of its threads aside: beyond it it dies, and is begun
    /// again. Above what ends its statements (`query_memory` and 2 GiB), so that it dies only of what takes much at once.
    pub query_process: usize,
    /// Bytes that sorts and joins of one engine may put on disk together.
    pub query_spill: u64,
    /// How often a running store looks after its tables; `None` = never. Ten minutes: a day that commits every five seconds then has some hundred
    /// files at its worst, and merging them takes seconds.
    pub upkeep_every: Option<Duration>,
    /// How far back every version of a table stays readable. A week: long enough for whoever began to read, short enough that replaced files and
    /// log entries do not pile up. Rows and what commits said of themselves stay for ever.
    pub upkeep_horizon: Duration,
}

/// What topic names begin with unless somebody says otherwise.
pub const PREFIX: &str = "tape.";
const QUERY_MEMORY_MIB: usize = 2048;
/// Below the lower end no sort begins; the upper one is a tebibyte, more than a slip of the unit (bytes, KiB) leaves.
const QUERY_MEMORY_MIB_RANGE: RangeInclusive<usize> = 16..=1 << 20;
const QUERY_TAIL_MIB: usize = 256;
const QUERY_TAIL_MIB_RANGE: RangeInclusive<usize> = 1..=1 << 20;
/// What the process may have beyond the memory of its statements.
const QUERY_PROCESS_MORE_MIB: usize = 4096;
/// Below the lower end a process with an empty home does not begin.
const QUERY_PROCESS_MIB_RANGE: RangeInclusive<usize> = 256..=1 << 21;
const QUERY_SPILL_MIB: usize = 50 << 10;
const QUERY_SPILL_MIB_RANGE: RangeInclusive<usize> = 0..=1 << 24;
/// A commit of no rows is none; one of more than these does not fit into memory.
const STORE_ROWS: RangeInclusive<usize> = 1..=100_000_000;
const UPKEEP_EVERY_SECONDS: usize = 600;
/// Up to a week; the upper end catches a slip of the unit.
const UPKEEP_EVERY_SECONDS_RANGE: RangeInclusive<usize> = 0..=7 * 86_400;
const UPKEEP_HORIZON_DAYS: usize = 7;
/// Below a day a query that runs for long could lose its files; a hundred years are for ever.
const UPKEEP_HORIZON_DAYS_RANGE: RangeInclusive<usize> = 1..=36_500;

/// Settles what is meant; an error says which key of which file.
pub fn settle(typed: &Common) -> Result<Settings> {
    let home = match &typed.home {
        Some(home) => home.clone(),
        None => std::env::home_dir().ok_or_else(|| WrongUse("no home folder is known: give --home DIR".into()))?.join(".tokentape"),
    };
    let home = std::path::absolute(&home).with_context(|| format!("finding {}", home.display()))?;
    let path = typed.config.clone().unwrap_or_else(|| home.join("tape.toml"));
    let file = read(&path, typed.config.is_some())?;
    let brokers = typed.brokers.clone().or(file.brokers);
    let properties = properties(file.kafka, &path)?;
    let replayed = typed.replayed || file.replayed.unwrap_or(false);
    let log = match brokers {
        Some(brokers) => LogAt::Kafka { brokers, properties, replayed },
        None if replayed => return Err(WrongUse("--replayed says so of topics of Kafka: give --brokers too".into()).into()),
        None => LogAt::Embedded {
            dir: home.join("log"),
            retention: file.embedded.retention_hours.map(|hours| Duration::from_secs(hours * 3600)),
        },
    };
    let every_seconds =
        ranged(file.upkeep.every_seconds, UPKEEP_EVERY_SECONDS_RANGE, "[upkeep] every_seconds", &path)?.unwrap_or(UPKEEP_EVERY_SECONDS);
    let horizon_days =
        ranged(file.upkeep.horizon_days, UPKEEP_HORIZON_DAYS_RANGE, "[upkeep] horizon_days", &path)?.unwrap_or(UPKEEP_HORIZON_DAYS);
    let memory_mib = ranged(file.query.memory_mib, QUERY_MEMORY_MIB_RANGE, "[query] memory_mib", &path)?.unwrap_or(QUERY_MEMORY_MIB);
    let process_mib = ranged(file.query.process_mib, QUERY_PROCESS_MIB_RANGE, "[query] process_mib", &path)?;
    let spill_mib = ranged(file.query.spill_mib, QUERY_SPILL_MIB_RANGE, "[query] spill_mib", &path)?.unwrap_or(QUERY_SPILL_MIB);
    Ok(Settings {
        upkeep_every: (every_seconds > 0).then(|| Duration::from_secs(every_seconds as u64)),
        upkeep_horizon: Duration::from_secs(horizon_days as u64 * 86_400),
        tables: typed.tables.clone().or(file.tables).unwrap_or_else(|| home.join("tables").display().to_string()),
        home,
        log,
        prefix: typed.prefix.clone().or(file.prefix).unwrap_or_else(|| PREFIX.into()),
        json: typed.json,
        config: typed.config.clone(),
        document_bytes_max: file.ingest.document_mib_max.map(|mib| mib.saturating_mul(1 << 20)),
        store_rows_max: ranged(file.store.rows_max, STORE_ROWS, "[store] rows_max", &path)?,
        store_age_max: file.store.age_max_seconds.map(Duration::from_secs),
        query_tail: ranged(file.query.tail_mib, QUERY_TAIL_MIB_RANGE, "[query] tail_mib", &path)?.unwrap_or(QUERY_TAIL_MIB) << 20,
        query_memory: memory_mib << 20,
        query_process: process_mib.unwrap_or(memory_mib + QUERY_PROCESS_MORE_MIB) << 20,
        query_spill: (spill_mib as u64) << 20,
    })
}

impl Settings {
    /// This program with another command, and what leads it to the same home, log and tables: to be typed as it stands.
    pub fn command(&self, command: &str) -> String {
        let program = std::env::current_exe().unwrap_or_else(|_| "tape".into());
        let flags = self.flags();
        let words = flags.iter().map(|flag| word(&flag.to_string_lossy()));
        [word(&program.display().to_string()), command.to_string()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
    }

    /// What leads another process of this program to the same home, log and tables.
    pub fn flags(&self) -> Vec<OsString> {
        let brokers = match &self.log {
            LogAt::Embedded { .. } => None,
            LogAt::Kafka { brokers, .. } => Some(brokers.into()),
        };
        let elsewhere = (Path::new(&self.tables) != self.home.join("tables")).then(|| self.tables.clone().into());
        let prefix = (self.prefix != PREFIX).then(|| self.prefix.clone().into());
        let config = self.config.as_ref().map(|path| path.clone().into());
        let home = Some(self.home.clone().into());
        let given = [("--home", home), ("--brokers", brokers), ("--tables", elsewhere), ("--prefix", prefix), ("--config", config)];
        let mut flags: Vec<OsString> = given.into_iter().filter_map(|(flag, value)| Some([flag.into(), value?])).flatten().collect();
        if matches!(self.log, LogAt::Kafka { replayed: true, .. }) {
            flags.push("--replayed".into());
        }
        flags
    }
}

/// A word of a command line, in quotes where the shell would take it apart.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:,+@%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_string() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn read(path: &Path, asked_for: bool) -> Result<File> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(why) if why.kind() == std::io::ErrorKind::NotFound && !asked_for => return Ok(File::default()),
        Err(why) => return Err(WrongUse(format!("{}: cannot be read: {why}", path.display())).into()),
    };
    toml::from_str(&text).map_err(|why| WrongUse(format!("{}: {why}", path.display())).into())
}

fn ranged(value: Option<usize>, range: RangeInclusive<usize>, key: &str, path: &Path) -> Result<Option<usize>> {
    match value {
        Some(value) if !range.contains(&value) => {
            let (least, most) = range.into_inner();
            Err(WrongUse(format!("{}: {key} = {value}: must be from {least} to {most}", path.display())).into())
        }
        value => Ok(value),
    }
}

/// librdkafka takes text; TOML may say numbers and booleans.
fn properties(kafka: BTreeMap<String, toml::Value>, path: &Path) -> Result<BTreeMap<String, String>> {
    kafka
        .into_iter()
        .map(|(key, value)| {
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(truth) => truth.to_string(),
                other => {
                    return Err(WrongUse(format!(
                        "{}: [kafka] {key} = {other}: a librdkafka property is a text, a number or a truth value (write \"a.b\" = … with quotes)",
                        path.display()
                    ))
                    .into());
                }
            };
            Ok((key, text))
        })
        .collect()
}
