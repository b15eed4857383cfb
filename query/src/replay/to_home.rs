//! A log made again from the tables: the same cluster, topics, partitions, offsets, times, nulls, headers and holes.

use super::records::records;
use super::{Known, Replay, Stored};
use crate::error::Error;
use crate::{Engine, Principal};
use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use eventlog::embedded::{Embedded, Identity, Options};
use futures::TryStreamExt;
use schemas::Family;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What retention took from the log before it was stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lost {
    /// Of partitions that begin with it: the first offset that was not lost.
    pub low: BTreeMap<(Family, i32), i64>,
    /// Ranges between stored records: a restored log has holes there, and a store of it cannot tell why.
    pub within: u64,
}

/// What table `gaps` says of it.
pub async fn lost(engine: &Engine, known: &Known) -> Result<Lost, Error> {
    let reading = |e| Error::from_engine("reading the table of gaps", e);
    let sql = "SELECT origin_topic, origin_partition, from_seq, to_seq FROM gaps WHERE _partition IS NULL ORDER BY 1, 2, 3";
    let (_, rows) = engine.run(&Principal::local(), sql).await?;
    let mut lost = Lost::default();
    for rows in rows.try_collect::<Vec<_>>().await.map_err(reading)? {
        let (topics, partitions) = (rows.column(0).as_string::<i32>(), rows.column(1).as_primitive::<Int32Type>());
        let (first, last) = (rows.column(2).as_primitive::<Int64Type>(), rows.column(3).as_primitive::<Int64Type>());
        for row in 0..rows.num_rows() {
            let Some(family) = Family::ALL.into_iter().find(|family| known.topic_name(*family) == topics.value(row)) else { continue };
            let low = lost.low.entry((family, partitions.value(row))).or_insert(0);
            if first.value(row) == *low { *low = last.value(row) + 1 } else { lost.within += 1 }
        }
    }
    Ok(lost)
}

/// What was restored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Records by family.
    pub records: BTreeMap<Family, u64>,
    /// Offsets that hold nothing.
    pub holes: u64,
    /// Partitions that had lost records, and of which nothing was stored: they are empty, and nothing tells of the loss.
    pub forgotten: u64,
}

/// Restores the log in `dir`, where there is none yet. `replay` is all that has a place in the log and stood before `stored`, in the order of
/// the log; `lost` are the first offsets of partitions that retention took before they were stored.
pub async fn restore(
    mut replay: Replay,
    known: &Known,
    stored: &Stored,
    lost: &BTreeMap<(Family, i32), i64>,
    dir: &Path,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Restored, Error> {
    let topics = Family::ALL.into_iter().filter_map(|family| Some((family, known.topic(family)?.clone()))).collect();
    let identity = Identity { cluster_id: known.cluster_id.clone(), topics };
    let options = Options { prefix: known.prefix().to_string(), ..Options::default() };
    let mut log = Embedded::restore(dir, &options, &identity)?;
    let low = |place: &(Family, i32)| lost.get(place).copied().unwrap_or(0);
    let mut restored = Restored::default();
    let mut begun = BTreeSet::new();
    let mut now: Option<((Family, i32), i64)> = None;
    while let Some(run) = replay.next().await? {
        for (partition, offset, record) in records(&run)? {
            let place = (run.family, partition);
            if now.is_none_or(|(before, _)| before != place) {
                end(&mut log, now, stored, &mut restored);
                log.begin(run.family, partition, low(&place))?;
                begun.insert(place);
                now = Some((place, low(&place)));
            }
            log.push(offset, &record)?;
            if let Some((_, next)) = &mut now {
                restored.holes += (offset - *next).unsigned_abs();
                *next = offset + 1;
            }
        }
        *restored.records.entry(run.family).or_default() += run.rows.num_rows() as u64;
        progress(run.rows.num_rows() as u64);
    }
    end(&mut log, now, stored, &mut restored);
    // Partitions of which nothing but holes was stored.
    for place in stored.keys().filter(|place| !begun.contains(place)) {
        log.begin(place.0, place.1, low(place))?;
        end(&mut log, Some((*place, low(place))), stored, &mut restored);
    }
    restored.forgotten = lost.keys().filter(|place| !begun.contains(place) && !stored.contains_key(place)).count() as u64;
    log.finish()?;
    Ok(restored)
}

/// A partition goes as far as it was stored, with nothing behind its last record.
fn end(log: &mut eventlog::embedded::Restorer, now: Option<((Family, i32), i64)>, stored: &Stored, restored: &mut Restored) {
    let Some((place, next)) = now else { return };
    let end = stored.get(&place).copied().unwrap_or(next);
    restored.holes += (end - next).max(0).unsigned_abs();
    log.skip_to(end);
}
