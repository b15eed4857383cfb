//! Fills the engine's hot tail: follows the log from where the tables end, and says why where it cannot.

mod watch;

use self::watch::{Watched, ends, followed, watch};
use crate::home::{self, Reach};
use crate::settings::Settings;
use anyhow::{Context, Result, anyhow, bail};
use eventlog::{Event, EventLog, Start, Watermarks};
use query::Engine;
use query::tail::{Place, Tail};
use schemas::Family;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use store::decode::decode;
use store::tail::{Compare, Tail as Last};
use tokio::runtime::Handle;

/// Events of one poll: few, so that what comes first is not kept waiting for what comes last.
const POLL_EVENTS_MAX: usize = 1 << 13;
/// How long a poll waits for the first event; also how long stopping may take.
const POLL_WAIT: Duration = Duration::from_millis(50);
/// After trouble with the log, and between two looks at one that nobody serves.
const RETRY: Duration = Duration::from_millis(500);
/// How long the end waits for a look at the tables that is under way.
const END_WAIT: Duration = Duration::from_secs(2);
/// How often the tables are asked whether they have what is held: so long is it held at least.
const REFRESH_EVERY: Duration = Duration::from_millis(250);

/// Said where there are tables and no log.
const NO_LOG: &str = "no log is known, so only what is stored is here: --brokers names Kafka, --home a home with a log";

/// Follows the log as long as it lives.
pub struct Follower {
    stop: Arc<AtomicBool>,
    /// Held while the tables are asked: a runtime that ends under that has the Delta kernel cry for help.
    asking: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let until = Instant::now() + END_WAIT;
        while self.asking.try_lock().is_err() && Instant::now() < until {
            std::thread::sleep(POLL_WAIT);
        }
    }
}

/// Begins to fill the tail of the engine, whose queries run on `workers`. Until the log's end was reached once, [`Tail::behind`] says so.
pub fn follow(engine: Arc<Engine>, settings: &Settings, workers: &Handle) -> Result<Follower> {
    let stop = Arc::new(AtomicBool::new(false));
    engine.tail().say_beginning();
    let asking = Arc::default();
    let following =
        Following { engine, settings: settings.clone(), workers: workers.clone(), stop: stop.clone(), asking: Arc::clone(&asking) };
    workers.spawn(let_go(following.clone()));
    std::thread::Builder::new()
        .name("tape-tail".into())
        .spawn(move || following.run())
        .context("starting the thread that follows the log")?;
    Ok(Follower { stop, asking })
}

/// Asks the tables for what they have meanwhile, so that it is let go though nobody queries.
async fn let_go(following: Following) {
    while !following.stopped() {
        tokio::time::sleep(REFRESH_EVERY).await;
        if following.tail().bytes() > 0
            && let Err(why) = following.refresh().await
        {
            tracing::debug!(%why, "the tables could not be asked for their newest versions");
        }
    }
}

#[derive(Clone)]
struct Following {
    engine: Arc<Engine>,
    settings: Settings,
    workers: Handle,
    stop: Arc<AtomicBool>,
    asking: Arc<tokio::sync::Mutex<()>>,
}

/// How a log that nobody serves was left.
struct Left {
    dir: PathBuf,
    looks: Vec<Look>,
    /// Partitions that are held.
    lanes: usize,
    /// Not all of it was read: no more fits.
    full: bool,
}

/// A file of the log: its path, its length, and when it was last written.
type Look = (PathBuf, u64, Option<SystemTime>);

/// The last record that was taken of each partition.
type Lasts = BTreeMap<Place, Last>;

/// How following went on without trouble.
enum After {
    /// There is no log.
    NoLog,
    /// A log that nobody serves was read to its end, or until no more fits, and was given back.
    Read(Left),
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
                    let stored = !self.families().is_empty();
                    self.tail().say_behind(stored.then(|| NO_LOG.into()));
                    std::thread::sleep(RETRY);
                }
                Ok(After::Read(left)) => self.wait_for_change(&left),
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
        let (log, alone) = match home::reach(&self.settings)? {
            Reach::None => return Ok(After::NoLog),
            Reach::Served(log) => (log, None),
            Reach::Alone(log, dir) => (log, Some(dir)),
        };
        if let Err(why) = self.refuse_other_log(&log) {
            self.tail().end();
            return Err(why);
        }
        let extents = log.extents()?;
        let followed = followed(&extents);
        self.tail().begin(followed.clone());
        self.workers.block_on(self.refresh())?;
        let begun = self.start(ends(&extents), last);
        let watched = Watched::default();
        let all_read = std::thread::scope(|scope| {
            let _over = watched.until_dropped();
            if alone.is_none() {
                scope.spawn(|| watch(&self.engine, log.as_ref(), &followed, &watched));
            }
            self.read(&log, begun, last, &watched, alone.is_some())
        })?;
        match alone.filter(|_| all_read) {
            None => Ok(After::Stopped),
            Some(dir) => {
                // Closed before it is looked at: closing writes.
                drop(log);
                let (looks, lanes) = (looks(&dir), self.tail().reached().len());
                Ok(After::Read(Left { dir, looks, lanes, full: !self.tail().has_room(Duration::ZERO) }))
            }
        }
    }

    /// Reads until it is stopped; of a log that is read `once`, until its end or until no more fits, which gives true.
    fn read(&self, log: &Arc<dyn EventLog>, begun: Begun, last: &mut Lasts, watched: &Watched, once: bool) -> Result<bool> {
        let Begun { starts, ends, mut compare, without } = begun;
        let mut families = self.families();
        let mut reader = log.reader(&starts)?;
        let mut here = false;
        while !self.stopped() {
            watched.refuse_changed()?;
            if let Some(silence) = watched.silence() {
                self.tail().say_late(Some(silence));
            }
            if !self.tail().has_room(POLL_WAIT) {
                self.tail().say_behind(Some(full(self.tail())));
                here = false;
                // Whoever would store it must have the log.
                if once {
                    return Ok(true);
                }
                continue;
            }
            let polled = reader.poll(POLL_WAIT, POLL_EVENTS_MAX)?;
            if let Some(place) = compare.take(&polled) {
                return Err(self.another_record(place, last));
            }
            self.take(polled.events, last)?;
            for place in polled.at_end {
                self.tail().read_to_end(place, ends.get(&place).map_or(0, |ends| ends.high));
            }
            let held = self.tail().reached();
            if starts.iter().any(|start| !held.contains_key(&(start.family, start.partition))) {
                bail!("a table went back to an older version: the newest records are read again");
            }
            let now = self.families();
            if now != families {
                self.refuse_other_log(log)?;
                families = now;
            }
            let is_here = |start: &Start| held[&(start.family, start.partition)].next >= ends[&(start.family, start.partition)].high;
            if !here && starts.iter().all(is_here) {
                self.tail().say_behind(without.clone());
                here = true;
            }
            if here && once {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// An error where the tables hold records of another log.
    fn refuse_other_log(&self, log: &Arc<dyn EventLog>) -> Result<()> {
        let lake = home::lake(&self.settings)?;
        let compared = self.workers.block_on(async {
            let _asking = self.asking.lock().await;
            if self.stopped() { Ok(()) } else { store::refuse_other_log(log, &lake).await }
        });
        compared.context("comparing the log with the tables")
    }

    /// Lets go what is held of a partition whose last record the log has no longer.
    fn another_record(&self, (family, partition, offset): (Family, i32, i64), last: &mut Lasts) -> anyhow::Error {
        self.tail().drop((family, partition));
        last.remove(&(family, partition));
        anyhow!(
            "{}[{partition}]: the record at offset {offset} is not the one that was read from there: the log was brought back from an older copy, \
             or replaced, and is read again",
            family.topic().name
        )
    }

    /// Begins every partition where its table ends, or at the last record that is held, to compare it. What the log has no longer, the table will
    /// say is lost; until then nothing newer of that partition is shown.
    fn start(&self, ends: BTreeMap<Place, Watermarks>, last: &Lasts) -> Begun {
        let catalog = self.engine.catalog();
        let (mut starts, mut held, mut without) = (Vec::new(), HashMap::new(), None);
        for (place @ (family, partition), watermarks) in &ends {
            let Some(cut) = catalog.cut(*place) else { continue };
            if cut < watermarks.low {
                self.tail().drop(*place);
                without = Some(format!(
                    "{}[{partition}]: offsets {cut} to {} are lost to retention, and no store has noted it yet: tape store",
                    family.topic().name,
                    watermarks.low - 1
                ));
                continue;
            }
            let next = self.tail().start(*place, cut, watermarks.high);
            // Before the cut it is stored, and was compared with the table.
            let known = last.get(place).filter(|last| last.offset >= cut && last.offset < next);
            held.extend(known.map(|last| (*place, *last)));
            starts.push(Start { family: *family, partition: *partition, offset: known.map_or(next, |last| last.offset) });
        }
        Begun { starts, ends, compare: Compare::new(held), without }
    }

    fn take(&self, events: Vec<Event>, last: &mut Lasts) -> Result<()> {
        let known = self.tail().reached();
        let mut lanes: BTreeMap<Place, Vec<Event>> = BTreeMap::new();
        for event in events {
            let place = (event.family, event.partition);
            // What is compared is held already.
            if known.get(&place).is_none_or(|held| event.offset >= held.next) {
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

    /// Waits until there is more to read: somebody serves the log or has written to it, a table went back to an older version, or there is room
    /// for what did not fit.
    fn wait_for_change(&self, left: &Left) {
        let same = || looks(&left.dir) == left.looks && self.tail().reached().len() == left.lanes;
        while !self.stopped() && same() && !(left.full && self.tail().has_room(Duration::ZERO)) {
            std::thread::sleep(RETRY);
        }
    }

    /// The families that have a table.
    fn families(&self) -> Vec<Family> {
        let catalog = self.engine.catalog();
        Family::ALL.into_iter().filter(|family| catalog.version(*family).is_some()).collect()
    }

    async fn refresh(&self) -> Result<bool, query::Error> {
        let _asking = self.asking.lock().await;
        if self.stopped() { Ok(false) } else { self.engine.refresh().await }
    }

    fn tail(&self) -> &Tail {
        self.engine.tail()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Where to read from.
struct Begun {
    starts: Vec<Start>,
    /// How far the log was then.
    ends: BTreeMap<Place, Watermarks>,
    /// What must still be there.
    compare: Compare,
    /// Why a partition is not among them.
    without: Option<String>,
}

fn full(tail: &Tail) -> String {
    format!(
        "{} MiB of records wait to be stored, and no more are held: see that tape store runs (tape doctor), or raise tail_mib under [query]",
        tail.bytes_max() >> 20
    )
}

/// The files of the log's folder as they are now.
fn looks(folder: &Path) -> Vec<Look> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut looks = Vec::new();
    for entry in entries.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        looks.push((entry.path(), meta.len(), meta.modified().ok()));
        if meta.is_dir() {
            looks.extend(self::looks(&entry.path()));
        }
    }
    looks.sort();
    looks
}
