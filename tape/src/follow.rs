//! Fills the engine's hot tail: follows the log from where the tables end, and says why where it cannot.

use crate::home::{self, Reach};
use crate::settings::Settings;
use anyhow::{Context, Result, bail};
use eventlog::{Event, EventLog, Start, Watermarks};
use query::Engine;
use query::tail::{Followed, Place, Tail};
use schemas::Family;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use store::decode::decode;
use store::ledger::app_id;
use store::tail::{Compare, Tail as Last};
use tokio::runtime::Handle;

/// Events of one poll: few, so that what comes first is not kept waiting for what comes last.
const POLL_EVENTS_MAX: usize = 1 << 13;
/// How long a poll waits for the first event; also how long stopping may take.
const POLL_WAIT: Duration = Duration::from_millis(50);
/// After trouble with the log, and between two looks at one that nobody serves.
const RETRY: Duration = Duration::from_millis(500);
/// How often the tables are asked whether they have what is held: so long is it held at least.
const REFRESH_EVERY: Duration = Duration::from_millis(250);

/// Follows the log as long as it lives.
pub struct Follower {
    stop: Arc<AtomicBool>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Begins to fill the tail of the engine, whose queries run on `workers`. Until the log's end was reached once, [`Tail::behind`] says so.
pub fn follow(engine: Arc<Engine>, settings: &Settings, workers: &Handle) -> Result<Follower> {
    let stop = Arc::new(AtomicBool::new(false));
    engine.tail().say_beginning();
    workers.spawn(let_go(engine.clone(), stop.clone()));
    let following = Following { engine, settings: settings.clone(), workers: workers.clone(), stop: stop.clone() };
    std::thread::Builder::new()
        .name("tape-tail".into())
        .spawn(move || following.run())
        .context("starting the thread that follows the log")?;
    Ok(Follower { stop })
}

/// Asks the tables for what they have meanwhile, so that it is let go though nobody queries.
async fn let_go(engine: Arc<Engine>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(REFRESH_EVERY).await;
        if engine.tail().bytes() > 0
            && let Err(why) = engine.refresh().await
        {
            tracing::debug!(%why, "the tables could not be asked for their newest versions");
        }
    }
}

struct Following {
    engine: Arc<Engine>,
    settings: Settings,
    workers: Handle,
    stop: Arc<AtomicBool>,
}

/// The last record that was taken of each partition.
type Lasts = BTreeMap<Place, Last>;

/// How following went on without trouble.
enum After {
    /// There is no log.
    NoLog,
    /// Everything was read of a log that nobody serves, and which looks like this since.
    Read(PathBuf, Option<SystemTime>),
    Stopped,
}

impl Following {
    fn run(self) {
        let mut last = Lasts::new();
        while !self.stopped() {
            match self.follow(&mut last) {
                Ok(After::Stopped) => return,
                Ok(After::NoLog) => {
                    self.tail().end();
                    self.tail().say_behind(None);
                    std::thread::sleep(RETRY);
                }
                Ok(After::Read(log, looked)) => self.wait_for_change(&log, looked),
                Err(why) => {
                    tracing::debug!("following the log: {why:#}");
                    self.tail().say_behind(Some(format!("{why:#}")));
                    std::thread::sleep(RETRY);
                }
            }
        }
    }

    /// Follows the log until there is trouble with it. What is held of it from before stays where the log still has the last record of that.
    fn follow(&self, last: &mut Lasts) -> Result<After> {
        let (log, served) = match home::reach(&self.settings)? {
            Reach::None => return Ok(After::NoLog),
            Reach::Served(log) => (log, None),
            Reach::Alone(log, dir) => (log, Some(dir)),
        };
        let lake = home::lake(&self.settings)?;
        self.workers.block_on(store::refuse_other_log(&log, &lake)).context("comparing the log with the tables")?;
        self.tail().begin(followed(log.as_ref())?);
        self.workers.block_on(self.engine.refresh())?;
        let mut ends = BTreeMap::new();
        for family in Family::ALL {
            let watermarks = (0..).zip(log.watermarks(family)?);
            ends.extend(watermarks.map(|(partition, watermarks)| ((family, partition), watermarks)));
        }
        let (starts, mut compare) = self.start(&ends, last)?;
        let mut families = self.families();
        let mut reader = log.reader(&starts)?;
        let ends: BTreeMap<Place, i64> = ends.iter().map(|(place, watermarks)| (*place, watermarks.high)).collect();
        let mut here = false;
        while !self.stopped() {
            if !self.tail().has_room(POLL_WAIT) {
                self.tail().say_behind(Some(full(self.tail())));
                here = false;
                continue;
            }
            let polled = reader.poll(POLL_WAIT, POLL_EVENTS_MAX)?;
            if let Some((family, partition, offset)) = compare.take(&polled) {
                self.tail().drop((family, partition));
                last.remove(&(family, partition));
                bail!(
                    "{}[{partition}]: the record at offset {offset} is not the one that was read from there: the log was brought back from an older \
                     copy, or replaced, and is read again",
                    family.topic().name
                );
            }
            self.take(polled.events, last)?;
            for place in polled.at_end {
                self.tail().read_to(place, ends.get(&place).copied().unwrap_or(0));
            }
            let held = self.tail().ends();
            if starts.iter().any(|start| !held.contains_key(&(start.family, start.partition))) {
                bail!("a table went back to an older version: the newest records are read again");
            }
            let now = self.families();
            if now != families {
                self.workers.block_on(store::refuse_other_log(&log, &lake)).context("comparing the log with the tables")?;
                families = now;
            }
            if !here && starts.iter().all(|start| held[&(start.family, start.partition)] >= ends[&(start.family, start.partition)]) {
                self.tail().say_behind(None);
                here = true;
            }
            if let Some(dir) = served.as_ref().filter(|_| here) {
                // Closed before it is looked at: closing writes.
                drop(reader);
                drop(log);
                return Ok(After::Read(dir.clone(), changed(dir)));
            }
        }
        Ok(After::Stopped)
    }

    /// Begins every partition where its table ends, or at the last record that is held, to compare it. What the log has no longer, the table will
    /// say is lost; until then nothing newer is shown.
    fn start(&self, ends: &BTreeMap<Place, Watermarks>, last: &Lasts) -> Result<(Vec<Start>, Compare)> {
        let catalog = self.engine.catalog();
        let mut starts = Vec::new();
        let mut held = HashMap::new();
        for (place @ (family, partition), watermarks) in ends {
            let Some(cut) = catalog.cut(*place) else { continue };
            if cut < watermarks.low {
                bail!(
                    "{}[{partition}]: offsets {cut} to {} are lost to retention, and the store has not noted it yet: tape store",
                    family.topic().name,
                    watermarks.low - 1
                );
            }
            let next = self.tail().start(*place, cut, watermarks.high);
            // Before the cut it is stored, and was compared with the table.
            let known = last.get(place).filter(|last| last.offset >= cut && last.offset < next);
            held.extend(known.map(|last| (*place, *last)));
            starts.push(Start { family: *family, partition: *partition, offset: known.map_or(next, |last| last.offset) });
        }
        Ok((starts, Compare::new(held)))
    }

    fn take(&self, events: Vec<Event>, last: &mut Lasts) -> Result<()> {
        let known = self.tail().ends();
        let mut lanes: BTreeMap<Place, Vec<Event>> = BTreeMap::new();
        for event in events {
            let place = (event.family, event.partition);
            // What is compared is held already.
            if known.get(&place).is_none_or(|next| event.offset >= *next) {
                lanes.entry(place).or_default().push(event);
            }
        }
        for (place, events) in lanes {
            let newest = events.last().expect("a lane begins with its first event");
            let next = newest.offset + 1;
            last.insert(place, Last::of(newest));
            // What cannot be decoded comes to `quarantine` when it is stored.
            let decoded = decode(place.0, &events)?;
            self.tail().append(place, next, &decoded.rows).with_context(|| format!("taking records of {}", place.0.topic().name))?;
        }
        Ok(())
    }

    /// Waits until somebody serves the log, or has written to it.
    fn wait_for_change(&self, log: &Path, looked: Option<SystemTime>) {
        while !self.stopped() && changed(log) == looked {
            std::thread::sleep(RETRY);
        }
    }

    /// The families that have a table.
    fn families(&self) -> Vec<Family> {
        let catalog = self.engine.catalog();
        Family::ALL.into_iter().filter(|family| catalog.version(*family).is_some()).collect()
    }

    fn tail(&self) -> &Tail {
        self.engine.tail()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn followed(log: &dyn EventLog) -> Result<Followed> {
    let transactions = |family: Family| {
        let topic = log.topic(family)?;
        let of = |partition| app_id(family.topic().name, &topic.id, partition);
        Ok((family, (0..topic.partitions).map(of).collect()))
    };
    Family::ALL.into_iter().map(transactions).collect()
}

fn full(tail: &Tail) -> String {
    format!(
        "{} MiB of records wait to be stored, and no more are held: see that tape store runs (tape doctor), or raise tail_mib under [query]",
        tail.bytes_max() >> 20
    )
}

/// When something in the log's folder was last written; `None` where it cannot be told.
fn changed(log: &Path) -> Option<SystemTime> {
    let entries = walk(log);
    entries.into_iter().max()
}

fn walk(folder: &Path) -> Vec<SystemTime> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut times = Vec::new();
    for entry in entries.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        times.extend(meta.modified());
        if meta.is_dir() {
            times.extend(walk(&entry.path()));
        }
    }
    times
}
