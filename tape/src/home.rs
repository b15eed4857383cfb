//! Opens what the settings name: the log, the tables, the runtime.

use crate::settings::{LogAt, Settings, WrongUse};
use anyhow::{Context, Result, bail};
use eventlog::EventLog;
use eventlog::embedded::{Embedded, Options};
use eventlog::kafka::{Kafka, KafkaOptions};
use eventlog::socket::Socket;
use lake::Lake;
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Stack of a worker: computing a long chain of operators goes as deep as the chain is long, and a stack that overflows ends the process.
const STACK_BYTES: usize = 64 << 20;

/// Stack of a thread that only serves connections.
const SERVING_STACK_BYTES: usize = 2 << 20;

/// Workers for queries beyond the number of cores: as many statements can compute without a pause, past their time limit, before others wait.
const QUERY_WORKERS_MORE: usize = 6;

/// Threads that wait for files on behalf of queries: each has a stack, which counts as memory of the process.
const QUERY_FILE_THREADS: usize = 16;

/// The runtime of a command.
pub fn runtime() -> Result<Runtime> {
    start(tokio::runtime::Builder::new_multi_thread().enable_all(), STACK_BYTES)
}

/// The runtime of a process that serves connections, and computes on [`query_runtime`].
pub fn serving_runtime() -> Result<Runtime> {
    start(tokio::runtime::Builder::new_multi_thread().enable_all(), SERVING_STACK_BYTES)
}

/// The runtime that queries compute on.
pub fn query_runtime() -> Result<Runtime> {
    let builder = &mut tokio::runtime::Builder::new_multi_thread();
    start(builder.enable_all().worker_threads(query_workers()).max_blocking_threads(QUERY_FILE_THREADS), STACK_BYTES)
}

/// Bytes that the stacks of the query engine's threads take of what the system counts, though little of them is ever used.
pub fn query_stacks() -> u64 {
    let of_runtime = (query_workers() + QUERY_FILE_THREADS) * STACK_BYTES;
    (of_runtime + query::planner::STACKS_BYTES) as u64
}

fn query_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from) + QUERY_WORKERS_MORE
}

fn start(builder: &mut tokio::runtime::Builder, stack_bytes: usize) -> Result<Runtime> {
    builder.thread_stack_size(stack_bytes).build().context("starting the runtime")
}

/// Binds an address, to be handed down: connections wait there until somebody accepts them. On a runtime.
pub async fn listen(address: &str) -> Result<std::net::TcpListener> {
    let bound = TcpListener::bind(address).await.and_then(TcpListener::into_std);
    bound.with_context(|| format!("listening on {address}; another address: --listen, make up LISTEN=…"))
}

/// Makes a folder of the home, and the home itself, where they are missing: for this user alone whatever the umask says, since what lies
/// there may be licensed to nobody else. One that is there keeps its rights. What was made is on disk when this returns.
pub fn private_folder(folder: &Path) -> Result<()> {
    private_folder_synced(folder)
        .with_context(|| format!("making {}: give this user the right to write there, or name another --home", folder.display()))
}

fn private_folder_synced(folder: &Path) -> std::io::Result<()> {
    let Some(parent) = folder.parent().filter(|_| !folder.is_dir()) else { return Ok(()) };
    private_folder_synced(parent)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
        _ => File::open(parent)?.sync_all(),
    }
}

/// The log, for use beside whoever owns it: an embedded log that another process owns is reached through its socket.
pub fn log(settings: &Settings) -> Result<Arc<dyn EventLog>> {
    Ok(match &settings.log {
        LogAt::Embedded { dir, .. } => Arc::from(eventlog::home::open_home(dir, &embedded_options(settings))?),
        LogAt::Kafka { .. } => Arc::new(kafka(settings)?),
    })
}

/// The log, where there is one: a home without an embedded log is wrong use, and none is made.
pub fn existing_log(settings: &Settings) -> Result<Arc<dyn EventLog>> {
    match &settings.log {
        LogAt::Embedded { dir, .. } if matches!(dir.try_exists(), Ok(false)) => {
            Err(WrongUse(format!("there is no log in {}: name its home with --home, or Kafka with --brokers", dir.display())).into())
        }
        LogAt::Embedded { .. } | LogAt::Kafka { .. } => log(settings),
    }
}

/// A log that is there to be followed.
pub enum Reach {
    /// There is none.
    None,
    /// Others write to it meanwhile.
    Served(Arc<dyn EventLog>),
    /// An embedded one that nobody serves: as long as this is held, nobody else has it. And the folder it is in.
    Alone(Arc<dyn EventLog>, PathBuf),
}

/// The log as it can be reached now, without waiting for a process that keeps it to itself.
pub fn reach(settings: &Settings) -> Result<Reach> {
    let dir = match &settings.log {
        LogAt::Kafka { .. } => return Ok(Reach::Served(Arc::new(kafka(settings)?))),
        LogAt::Embedded { dir, .. } => dir,
    };
    if matches!(dir.try_exists(), Ok(false)) {
        return Ok(Reach::None);
    }
    match Socket::connect(&eventlog::home::socket_path(dir)) {
        Ok(log) => Ok(Reach::Served(Arc::new(log))),
        Err(_) => Ok(Reach::Alone(Arc::new(Embedded::open(dir, &embedded_options(settings))?), dir.clone())),
    }
}

/// The embedded log for this process alone; one that ingests is waited for, and where a service owns it, the error has its process id.
pub fn own_embedded_alone(dir: &Path, settings: &Settings) -> Result<Arc<dyn EventLog>> {
    Ok(Arc::new(eventlog::home::own_home(dir, &embedded_options(settings))?))
}

/// The embedded log as its owner; the socket beside it lets other commands through.
pub fn own_embedded(dir: &Path, settings: &Settings) -> Result<(Arc<dyn EventLog>, eventlog::socket::Server)> {
    let log = own_embedded_alone(dir, settings)?;
    let server = eventlog::socket::serve(log.clone(), &eventlog::home::socket_path(dir))?;
    Ok((log, server))
}

/// Does another process own the embedded log, and let others through its socket?
pub fn is_owned_by_another(dir: &Path) -> bool {
    Socket::connect(&eventlog::home::socket_path(dir)).is_ok()
}

fn embedded_options(settings: &Settings) -> Options {
    let retention = match settings.log {
        LogAt::Embedded { retention, .. } => retention,
        LogAt::Kafka { .. } => None,
    };
    Options { prefix: settings.prefix.clone(), retention, ..Options::default() }
}

fn kafka(settings: &Settings) -> Result<Kafka> {
    let LogAt::Kafka { brokers, properties, replayed } = &settings.log else { bail!("no brokers are configured") };
    let options =
        KafkaOptions { prefix: settings.prefix.clone(), properties: properties.clone(), replayed: *replayed, ..KafkaOptions::new(brokers) };
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

/// Is there no home? Whoever only looks makes none.
pub fn is_missing(settings: &Settings) -> bool {
    matches!(settings.home.try_exists(), Ok(false))
}

/// What to do where [`is_missing`].
pub fn missing(settings: &Settings) -> String {
    format!("there is no home {}: name another --home, or make this one with `tape up` or `tape ingest`", settings.home.display())
}

/// Is the folder of the tables missing that was named? One of the home is made with the first table.
pub fn named_tables_are_missing(settings: &Settings) -> Result<bool> {
    let folder = lake(settings)?.root().to_file_path();
    let missing = folder.is_ok_and(|folder| matches!(folder.try_exists(), Ok(false)));
    Ok(missing && Path::new(&settings.tables) != settings.home.join("tables"))
}

/// What to do where [`named_tables_are_missing`].
pub fn missing_tables(settings: &Settings) -> String {
    format!("there is no folder {}: name the folder of the tables with --tables, or make it with `tape store`", settings.tables)
}

/// An error where the tables cannot be there: without a home, or without the folder that was named. A home without tables yet is none.
pub fn refuse_missing_tables(settings: &Settings) -> Result<()> {
    if named_tables_are_missing(settings)? {
        return Err(WrongUse(missing_tables(settings)).into());
    }
    let in_home = Path::new(&settings.tables) == settings.home.join("tables");
    if in_home && is_missing(settings) { Err(WrongUse(missing(settings)).into()) } else { Ok(()) }
}

/// The Delta tables, to write: those of the home are made for this user alone, those elsewhere with the rights that its umask gives.
pub fn lake_to_write(settings: &Settings) -> Result<Lake> {
    let folder = Path::new(&settings.tables);
    let own = settings.home.join("tables");
    // The log counts what was stored, not by whom.
    if matches!(settings.log, LogAt::Embedded { retention: Some(_), .. }) && folder != own && own.is_dir() {
        return Err(WrongUse(format!(
            "the log drops what was stored ([embedded] retention_hours): what {} have, {} would never get; store into those alone, or take \
             retention_hours out of tape.toml",
            folder.display(),
            own.display()
        ))
        .into());
    }
    if folder.starts_with(&settings.home) && !folder.exists() {
        private_folder(folder)?;
    }
    lake(settings)
}

/// The Delta tables, to read.
pub fn lake(settings: &Settings) -> Result<Lake> {
    let opened = Lake::open(&settings.tables).with_context(|| format!("opening the tables in {}", settings.tables));
    // A URL of a kind that there is not stands in what was typed, whatever is in the world.
    opened.map_err(|why| if settings.tables.contains("://") { WrongUse(format!("{why:#}")).into() } else { why })
}
