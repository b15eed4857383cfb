//! Upkeep beside storing: every so often, on a thread of its own, and never a reason to end.
//!
//! One table after the other and one file at a time, so that commits are not held up; the thread has a runtime of its own, so that nothing that it
//! waits for keeps the store's workers.

use crate::commands::store::until;
use crate::settings::Settings;
use anyhow::{Context, Result};
use lake::{Error, Kept, Lake, Stop, Upkeep};
use schemas::Family;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// What the horizon no longer needs is looked for this often: it means reading what every version of the horizon removed.
const CLEAN_UP_EVERY: Duration = Duration::from_secs(86_400);
/// Threads that wait for files.
const FILE_THREADS: usize = 4;

/// Looks after the tables until `stop` is set; `None` where the settings say never.
pub fn start(lake: Lake, settings: &Settings, stop: Arc<AtomicBool>) -> Result<Option<JoinHandle<()>>> {
    let Some(every) = settings.upkeep_every else { return Ok(None) };
    let horizon = settings.upkeep_horizon;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(FILE_THREADS)
        .build()
        .context("starting the runtime of the upkeep")?;
    let work = move || runtime.block_on(rounds(&lake, every, horizon, stop));
    Ok(Some(std::thread::Builder::new().name("upkeep".into()).spawn(work).context("starting the upkeep")?))
}

/// Waits for its end, which comes soon after `stop` was set.
pub fn end(upkeep: Option<JoinHandle<()>>) -> Result<()> {
    match upkeep.map(JoinHandle::join) {
        None | Some(Ok(())) => Ok(()),
        Some(Err(_)) => anyhow::bail!("the upkeep ended unexpectedly: everything that was stored stays"),
    }
}

async fn rounds(lake: &Lake, every: Duration, horizon: Duration, stop: Arc<AtomicBool>) {
    let mut cleaned: Option<Instant> = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = until(stop.clone()) => return,
        }
        let clean_up = cleaned.is_none_or(|at| at.elapsed() >= CLEAN_UP_EVERY);
        let upkeep = Upkeep { horizon: clean_up.then_some(horizon), ..Upkeep::default() };
        let stop = Stop::from(stop.clone());
        for family in Family::ALL.into_iter().take_while(|_| !stop.is_set()) {
            let table = family.topic().name;
            match keep(lake, family, &upkeep, false, &stop).await {
                Ok(None) => {}
                Ok(Some(kept)) if kept.is_nothing() => {}
                Ok(Some(kept)) => tracing::info!(table, ?kept, "looked after a table"),
                Err(error @ (Error::Fenced { .. } | Error::Moved { .. })) => tracing::info!(table, %error, "another upkeep was first"),
                Err(error) => {
                    tracing::warn!(table, %error, again_s = every.as_secs(), "a table could not be looked after; storing goes on")
                }
            }
        }
        if clean_up {
            cleaned = Some(Instant::now());
        }
    }
}

/// Looks after one family's table, where there is one; with `dry_run` it only says what it would do.
pub async fn keep(lake: &Lake, family: Family, upkeep: &Upkeep, dry_run: bool, stop: &Stop) -> Result<Option<Kept>, Error> {
    let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64);
    if dry_run {
        let Some(mut table) = lake.find(family).await? else { return Ok(None) };
        return table.would_keep(upkeep, now_ms).await.map(Some);
    }
    let Some(mut table) = lake.existing(family).await? else { return Ok(None) };
    table.keep(upkeep, now_ms, stop).await.map(Some)
}
