//! Opens what the settings name: the log, the tables, the runtime.

use crate::settings::{LogAt, Settings};
use anyhow::{Context, Result, bail};
use eventlog::EventLog;
use eventlog::embedded::{Embedded, Options};
use eventlog::kafka::{Kafka, KafkaOptions};
use lake::Lake;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// Stack of a worker: planning a statement takes some ten kilobytes for each term of a chain, and a stack that overflows ends the process.
const STACK_BYTES: usize = 256 << 20;

/// The runtime of a command.
pub fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK_BYTES).build().context("starting the runtime")
}

/// The log, for use beside whoever owns it: an embedded log that another process owns is reached through its socket.
pub fn log(settings: &Settings) -> Result<Arc<dyn EventLog>> {
    Ok(match &settings.log {
        LogAt::Embedded { dir, .. } => Arc::from(eventlog::home::open_home(dir, &embedded_options(settings))?),
        LogAt::Kafka { .. } => Arc::new(kafka(settings)?),
    })
}

/// The embedded log as its owner; the socket beside it lets other commands through.
pub fn own_embedded(dir: &Path, settings: &Settings) -> Result<(Arc<dyn EventLog>, eventlog::socket::Server)> {
    let log: Arc<dyn EventLog> = Arc::new(Embedded::open(dir, &embedded_options(settings))?);
    let server = eventlog::socket::serve(log.clone(), &eventlog::home::socket_path(dir))?;
    Ok((log, server))
}

fn embedded_options(settings: &Settings) -> Options {
    let retention = match settings.log {
        LogAt::Embedded { retention, .. } => retention,
        LogAt::Kafka { .. } => None,
    };
    Options { prefix: settings.prefix.clone(), retention }
}

fn kafka(settings: &Settings) -> Result<Kafka> {
    let LogAt::Kafka { brokers, properties } = &settings.log else { bail!("no brokers are configured") };
    let options = KafkaOptions { prefix: settings.prefix.clone(), properties: properties.clone(), ..KafkaOptions::new(brokers) };
    Ok(Kafka::connect(options)?)
}

/// An error that names every topic that is missing or differs from what tokentape needs.
pub fn refuse_unfit_topics(log: &dyn EventLog) -> Result<()> {
    let unfit: Vec<String> = log
        .check_topics()?
        .into_iter()
        .filter(|report| !report.problems.is_empty())
        .map(|report| format!("{}: {}", report.name, report.problems.join("; ")))
        .collect();
    if unfit.is_empty() {
        return Ok(());
    }
    bail!(
        "{} is not fit to be used:\n  {}\n`tape topics` creates what is missing and shows what to change",
        log.describe(),
        unfit.join("\n  ")
    )
}

/// The Delta tables.
pub fn lake(settings: &Settings) -> Result<Lake> {
    Lake::open(&settings.tables).with_context(|| format!("opening the tables in {}", settings.tables))
}
