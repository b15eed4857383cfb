//! What was typed becomes what is meant: file, then environment, then flags; unknown keys are refused.

use crate::args::Common;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
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
}

/// Where the log is.
#[derive(Debug, Clone)]
pub enum LogAt {
    /// In the home, for one machine.
    Embedded { dir: PathBuf, retention: Option<Duration> },
    /// Kafka, with any librdkafka property.
    Kafka { brokers: String, properties: BTreeMap<String, String> },
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
    /// Most bytes of a document, unpacked: a guard against inputs that unpack without end. Pages and PDFs are far below the default.
    pub document_bytes_max: Option<u64>,
    /// Rows of one Delta commit. A million: files of good size at a memory that stays flat.
    pub store_rows_max: Option<usize>,
    /// Longest time that a record waits for its commit.
    pub store_age_max: Option<Duration>,
    /// Memory of one engine. 2 GiB leaves room on a small machine for ingest and store.
    pub query_memory: usize,
}

const QUERY_MEMORY_MIB: usize = 2048;

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
    let log = match brokers {
        Some(brokers) => LogAt::Kafka { brokers, properties },
        None => LogAt::Embedded {
            dir: home.join("log"),
            retention: file.embedded.retention_hours.map(|hours| Duration::from_secs(hours * 3600)),
        },
    };
    Ok(Settings {
        tables: typed.tables.clone().or(file.tables).unwrap_or_else(|| home.join("tables").display().to_string()),
        home,
        log,
        prefix: typed.prefix.clone().or(file.prefix).unwrap_or_else(|| "tape.".into()),
        json: typed.json,
        document_bytes_max: file.ingest.document_mib_max.map(|mib| mib.saturating_mul(1 << 20)),
        store_rows_max: file.store.rows_max,
        store_age_max: file.store.age_max_seconds.map(Duration::from_secs),
        query_memory: file.query.memory_mib.unwrap_or(QUERY_MEMORY_MIB) << 20,
    })
}

fn read(path: &Path, asked_for: bool) -> Result<File> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(why) if why.kind() == std::io::ErrorKind::NotFound && !asked_for => return Ok(File::default()),
        Err(why) => return Err(WrongUse(format!("{}: cannot be read: {why}", path.display())).into()),
    };
    toml::from_str(&text).map_err(|why| WrongUse(format!("{}: {why}", path.display())).into())
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
