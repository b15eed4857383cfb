//! Compares now and then what was taken of the log with what it has: a broker that is gone says nothing to a reader.

use anyhow::{Result, bail};
use eventlog::{EventLog, Extent, Watermarks};
use query::Engine;
use query::tail::{Followed, Place};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use store::ledger::app_id;

/// How often what was read is compared with what the log has, and how long it may take to be read: a broker that is gone is said within both.
const CHECK_EVERY: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_millis(500);
/// How long its end may take.
const STOP_CHECK: Duration = Duration::from_millis(50);
/// A log that does not answer for so long is said to.
const SILENCE: Duration = Duration::from_secs(2);

/// Between who reads and who compares.
#[derive(Default)]
pub(super) struct Watched {
    over: AtomicBool,
    changed: AtomicBool,
    /// Since when the log is asked how far it is, while it is.
    asked: Mutex<Option<Instant>>,
}

/// Ends the comparing when it is dropped.
pub(super) struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Watched {
    /// Whoever reads holds this.
    pub(super) fn until_dropped(&self) -> Over<'_> {
        Over(&self.over)
    }

    /// An error where all must be read again.
    pub(super) fn refuse_changed(&self) -> Result<()> {
        if self.changed.load(Ordering::Relaxed) {
            bail!("the topics of the log have changed, or a loss of it was noted: the newest records are read again");
        }
        Ok(())
    }

    /// Why the log may have more than was read, where it does not answer.
    pub(super) fn silence(&self) -> Option<String> {
        let asked = *self.asked.lock().expect("nothing that holds this can panic");
        let silence = asked.map(|since| since.elapsed()).filter(|silence| *silence > SILENCE)?;
        Some(format!("the log has not answered for {} s", silence.as_secs()))
    }

    fn ask(&self, since: Option<Instant>) {
        *self.asked.lock().expect("nothing that holds this can panic") = since;
    }

    /// Waits so long; true as soon as it is over.
    fn wait(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(STOP_CHECK);
        }
        self.over.load(Ordering::Relaxed)
    }
}

/// Says of the engine's tail how far it is behind the log `since` which it follows, until whoever reads is done or must begin anew.
pub(super) fn watch(engine: &Engine, log: &dyn EventLog, since: &Followed, watched: &Watched) {
    let mut before: BTreeMap<Place, (i64, u64)> = BTreeMap::new();
    while !watched.wait(CHECK_EVERY) {
        watched.ask(Some(Instant::now()));
        let asked = log.extents();
        watched.ask(None);
        let ends = match asked {
            Ok(now) if followed(&now) == *since => ends(&now),
            Ok(_) => {
                watched.changed.store(true, Ordering::Relaxed);
                return;
            }
            Err(why) => {
                engine.tail().say_late(Some(why.to_string()));
                continue;
            }
        };
        if watched.wait(GRACE) {
            return;
        }
        let (reached, catalog) = (engine.tail().reached(), engine.catalog());
        let mut behind = 0;
        for (place, Watermarks { low, high }) in &ends {
            let lost = catalog.cut(*place).is_some_and(|cut| cut < *low);
            let Some(at) = reached.get(place) else {
                // Noted, or readable, since.
                let again = catalog.cut(*place).is_some() && !lost;
                watched.changed.fetch_or(again, Ordering::Relaxed);
                continue;
            };
            watched.changed.fetch_or(lost && at.from < *low, Ordering::Relaxed);
            // The last offsets may hold no record: an end that was reached since the log grew is as good.
            let (known, moves) = before.insert(*place, (*high, at.moves)).unwrap_or((i64::MIN, u64::MAX));
            if at.next < *high && !(at.at_end && (known == *high || moves != at.moves)) {
                behind += high - at.next;
            }
        }
        engine.tail().say_late((behind > 0).then(|| format!("up to {behind} records of the log have not been read yet")));
    }
    engine.tail().say_late(None);
}

/// Where every partition of the log begins and ends.
pub(super) fn ends(extents: &[Extent]) -> BTreeMap<Place, Watermarks> {
    let of = |extent: &Extent| {
        let family = extent.family;
        (0..).zip(extent.watermarks.clone()).map(move |(partition, watermarks)| ((family, partition), watermarks))
    };
    extents.iter().flat_map(of).collect()
}

/// The transactions that say in the tables how far each partition is stored.
pub(super) fn followed(extents: &[Extent]) -> Followed {
    let of = |extent: &Extent, partition| app_id(extent.family.topic().name, &extent.topic.id, partition);
    extents.iter().map(|extent| (extent.family, (0..extent.topic.partitions).map(|partition| of(extent, partition)).collect())).collect()
}
