//! The lake's tables as the query engine lists them, and the engine over them.

use crate::args::Format;
use crate::follow::{Follower, follow};
use crate::settings::Settings;
use crate::{about, home};
use anyhow::{Context, Result};
use query::{Engine, TableFiles, listing};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How long a command waits for the records that the log has when it begins.
const FIRST_WAIT: Duration = Duration::from_secs(3);

/// An engine over the tables of the settings, as they stand now.
pub async fn engine(settings: &Settings, timeout: Duration) -> Result<Engine> {
    let lake = home::lake(settings)?;
    let options = query::Options {
        memory_limit: settings.query_memory,
        target_partitions: std::thread::available_parallelism().map_or(1, usize::from),
        temp_dir: spill_folder()?,
        tail_limit: settings.query_tail,
        temp_limit: settings.query_spill,
        timeout,
        principal_places: query::limits::PRINCIPAL_PLACES,
    };
    let asked = about::asked(settings, lake.clone());
    Ok(Engine::open(options, listing(lake), asked).await?)
}

/// An engine with workers of its own, and what feeds its tail: what a query computes without a pause keeps nobody else from being served or told
/// to stop.
pub struct Queries {
    pub engine: Arc<Engine>,
    _follower: Follower,
    workers: Option<Runtime>,
}

impl Queries {
    /// Over the tables as they stand now. Not for callers on a runtime.
    pub fn open(settings: &Settings, timeout: Duration) -> Result<Queries> {
        let workers = home::query_runtime()?;
        let engine = Arc::new(workers.block_on(engine(settings, timeout))?);
        let follower = follow(engine.clone(), settings, workers.handle())?;
        Ok(Queries { engine, _follower: follower, workers: Some(workers) })
    }

    /// Waits until the tail has the records that the log has now, as long as a person would.
    pub fn wait_for_tail(&self) {
        self.engine.tail().wait_for_beginning(FIRST_WAIT);
    }
}

/// The end waits for no query: one that computes without a pause would never let it.
impl Drop for Queries {
    fn drop(&mut self) {
        if let Some(workers) = self.workers.take() {
            workers.shutdown_background();
        }
    }
}

/// The files of all tables, as their newest versions list them; an error where one of them cannot be read.
pub async fn listed(settings: &Settings) -> Result<Vec<TableFiles>> {
    let listing = listing(home::lake(settings)?);
    let tables = listing(None).await.map_err(anyhow::Error::from_boxed).context("listing the tables")?;
    match tables.iter().find_map(|table| table.fault.clone()) {
        Some(fault) => Err(anyhow::Error::msg(fault).context("listing the tables")),
        None => Ok(tables),
    }
}

/// Where this process puts what does not fit into memory: made when it is first asked for, for this user alone.
static SPILL: Mutex<Option<TempDir>> = Mutex::new(None);

fn spill_folder() -> Result<PathBuf> {
    let mut spill = SPILL.lock().expect("nothing that holds the folder can panic");
    if spill.is_none() {
        let made = tempfile::Builder::new().prefix("tape-").permissions(Permissions::from_mode(0o700)).tempdir();
        *spill =
            Some(made.with_context(|| format!("making a folder for what does not fit into memory in {}", std::env::temp_dir().display()))?);
    }
    Ok(spill.as_ref().expect("it was just made").path().to_path_buf())
}

/// Removes what was put there. A static is never dropped, so the end of the program says it.
pub fn remove_spilled() {
    drop(SPILL.lock().map(|mut spill| spill.take()));
}

/// The result format that was typed.
pub fn output_format(format: Format) -> query::output::Format {
    match format {
        Format::Table => query::output::Format::Table,
        Format::Csv => query::output::Format::Csv,
        Format::Json => query::output::Format::Json,
        Format::Jsonl => query::output::Format::JsonLines,
        Format::Arrow => query::output::Format::Arrow,
        Format::Parquet => query::output::Format::Parquet,
        Format::Plot => query::output::Format::Plot,
    }
}
