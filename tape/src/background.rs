//! Work beside storing, each on a thread of its own, and never a reason to end: upkeep, and looking for transactions that somebody left open.
//!
//! One table after the other and one file at a time, so that commits are not held up; the thread has a runtime of its own, so that nothing that it
//! waits for keeps the store's workers, and the lowest priority, so that whoever stores goes first where both want a core.

use crate::held;
use crate::settings::{LogAt, Settings};
use crate::signals::until;
use anyhow::{Context, Result};
use eventlog::EventLog;
use lake::{Error, Kept, Lake, Stop, Upkeep};
use schemas::Family;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use thread_priority::{ThreadPriority, set_current_thread_priority};

/// What the horizon no longer needs is looked for this often: it means reading what every version of the horizon removed.
const CLEAN_UP_EVERY: Duration = Duration::from_secs(86_400);
/// Transactions that somebody left open are looked for this often.
const HELD_EVERY: Duration = Duration::from_secs(60);
/// Whether it is time to end is looked at this often.
const STOP_EVERY: Duration = Duration::from_millis(200);
/// Threads that wait for files.
const FILE_THREADS: usize = 4;

/// Looks after the tables until `stop` is set; `None` where the settings say never.
pub fn start(lake: Lake, settings: &Settings, stop: Arc<AtomicBool>) -> Result<Option<JoinHandle<()>>> {
    let Some(every) = settings.upkeep_every else { return Ok(None) };
    let horizon = settings.upkeep_horizon;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(FILE_THREADS)
        .on_thread_start(step_back)
        .build()
        .context("starting the runtime of the upkeep")?;
    let work = move || {
        step_back();
        runtime.block_on(rounds(&lake, every, horizon, stop))
    };
    Ok(Some(std::thread::Builder::new().name("upkeep".into()).spawn(work).context("starting the upkeep")?))
}

/// Gives this thread the lowest priority. A system that refuses it only makes commits beside a merge slower.
fn step_back() {
    if let Err(error) = set_current_thread_priority(ThreadPriority::Min) {
        tracing::warn!(?error, "the upkeep could not be given a low priority: commits may take longer while files are merged");
    }
}

/// Says, until `stop` is set, which records nobody can read as somebody left a transaction open: once for each transaction. Only Kafka has such.
pub fn watch_held(log: Arc<dyn EventLog>, settings: &Settings, stop: Arc<AtomicBool>) -> Result<Option<JoinHandle<()>>> {
    if !matches!(settings.log, LogAt::Kafka { .. }) {
        return Ok(None);
    }
    let settings = settings.clone();
    let work = move || {
        let mut told: HashSet<(Family, i32, i64)> = HashSet::new();
        let mut looked: Option<Instant> = None;
        while !stop.load(Ordering::Relaxed) {
            if looked.is_some_and(|at| at.elapsed() < HELD_EVERY) {
                std::thread::sleep(STOP_EVERY);
                continue;
            }
            looked = Some(Instant::now());
            match log.held() {
                Ok(found) => {
                    let now = SystemTime::now();
                    let old = found.iter().filter(|one| held::is_old(one, now));
                    for one in old.filter(|one| told.insert((one.family, one.partition, one.from))) {
                        tracing::warn!("records wait: {}; {}", held::line(one, &settings, now), held::advice(one, &settings));
                    }
                }
                // Whoever reads the log tells of its troubles.
                Err(error) => tracing::debug!(%error, "open transactions were not looked for"),
            }
        }
    };
    Ok(Some(std::thread::Builder::new().name("held".into()).spawn(work).context("starting to look for open transactions")?))
}

/// Waits for its end, which comes soon after `stop` was set.
pub fn end(work: Option<JoinHandle<()>>) -> Result<()> {
    match work.map(JoinHandle::join) {
        None | Some(Ok(())) => Ok(()),
        Some(Err(_)) => anyhow::bail!("work beside storing ended unexpectedly: everything that was stored stays"),
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
            let mut kept = Kept::default();
            let done = keep(lake, family, &upkeep, &stop, &mut kept).await;
            if !kept.is_nothing() {
                tracing::info!(table, ?kept, "looked after a table");
            }
            match done {
                Ok(()) => {}
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

/// Looks after one family's table, where there is one, and adds to `kept` what was done, also before an error.
pub async fn keep(lake: &Lake, family: Family, upkeep: &Upkeep, stop: &Stop, kept: &mut Kept) -> Result<(), Error> {
    match lake.existing(family).await? {
        Some(mut table) => table.keep(upkeep, now_ms(), stop, kept).await,
        None => Ok(()),
    }
}

/// What [`keep`] would do; changes nothing.
pub async fn would_keep(lake: &Lake, family: Family, upkeep: &Upkeep) -> Result<Kept, Error> {
    match lake.find(family).await? {
        Some(mut table) => table.would_keep(upkeep, now_ms()).await,
        None => Ok(Kept::default()),
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64)
}
