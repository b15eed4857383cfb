//! Where the store begins: the tables and the log as they are found, and from which offset each partition is to be read.

use crate::ledger::{Ledger, app_id};
use crate::proof::Hasher;
use crate::tail::{self, Tail};
use crate::{Error, Report, decode, info};
use eventlog::{EventLog, Start, TopicInfo, Watermarks};
use lake::{Lake, Table, Txn};
use schemas::Family;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Refuses tables that were stored from another log than this one, or from a part of it that it no longer has, as a store of it would.
/// Changes nothing.
pub async fn refuse_other_log(log: &Arc<dyn EventLog>, lake: &Lake) -> Result<(), Error> {
    let (cluster_id, found) = look(log).await?;
    let topics = topics(&found);
    let mut tails = HashMap::new();
    for (family, topic, watermarks) in &found {
        let Some(mut table) = lake.find(*family).await? else { continue };
        let last = info::refuse_other_log(&table, &cluster_id, &topics).await?;
        for (partition, watermarks) in (0i32..).zip(watermarks) {
            let stored = table.txn_version(&app_id(family.topic().name, &topic.id, partition)).await?;
            refuse_ahead(topic, partition, stored.unwrap_or(0), watermarks)?;
            let kept = last.get(&partition).filter(|tail| tail.offset >= watermarks.low);
            tails.extend(kept.map(|tail| ((*family, partition), *tail)));
        }
    }
    if let Some(owner) = lake.owner().await? {
        info::refuse_other_owner(&owner, &cluster_id, &topics)?;
    }
    refuse_rewritten(log, tails, &topics).await
}

/// Refuses a log whose record at a tail is another one.
async fn refuse_rewritten(
    log: &Arc<dyn EventLog>,
    tails: HashMap<(Family, i32), Tail>,
    topics: &HashMap<Family, TopicInfo>,
) -> Result<(), Error> {
    match blocking(log, move |log| tail::find_other(log, tails)).await? {
        None => Ok(()),
        Some((family, partition, offset)) => Err(Error::Rewritten { name: topics[&family].name.clone(), partition, offset }),
    }
}

/// A family's topic and the watermarks of its partitions.
pub(crate) type Found = (Family, TopicInfo, Vec<Watermarks>);

/// The log's cluster and topics.
pub(crate) async fn look(log: &Arc<dyn EventLog>) -> Result<(String, Vec<Found>), Error> {
    blocking(log, |log| {
        let found = Family::ALL.iter().map(|family| Ok((*family, log.topic(*family)?, log.watermarks(*family)?)));
        Ok((log.cluster_id()?, found.collect::<Result<Vec<_>, eventlog::Error>>()?))
    })
    .await
}

pub(crate) fn topics(found: &[Found]) -> HashMap<Family, TopicInfo> {
    found.iter().map(|(family, topic, _)| (*family, topic.clone())).collect()
}

/// Refuses a log that ends before what was stored from it.
fn refuse_ahead(topic: &TopicInfo, partition: i32, stored: i64, watermarks: &Watermarks) -> Result<(), Error> {
    match stored > watermarks.high {
        true => Err(Error::Ahead { name: topic.name.clone(), partition, stored, high: watermarks.high }),
        false => Ok(()),
    }
}

/// Where one log partition stands in the tables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// The family's transaction.
    pub(crate) txn: Option<i64>,
    /// The transaction of table `quarantine` for this partition.
    pub(crate) quarantine: Option<i64>,
    /// The last record that the family's table has, where a commit says it.
    pub(crate) tail: Option<Tail>,
}

/// The tables that there are. A family's table is made when its first row comes: for most logs that is never.
pub(crate) struct Tables {
    lake: Lake,
    open: HashMap<Family, Table>,
    /// The log that they are stored from.
    cluster_id: String,
    topics: HashMap<Family, TopicInfo>,
    /// They are known to belong to that log.
    claimed: bool,
}

impl Tables {
    /// The tables that there are already, and the last record that each has of each partition. Tables of another log are refused.
    async fn open(
        lake: &Lake,
        cluster_id: &str,
        topics: &HashMap<Family, TopicInfo>,
    ) -> Result<(Tables, HashMap<Family, BTreeMap<i32, Tail>>), Error> {
        let (mut open, mut last) = (HashMap::new(), HashMap::new());
        for family in Family::ALL {
            if let Some(table) = lake.existing(family).await? {
                last.insert(family, info::refuse_other_log(&table, cluster_id, topics).await?);
                open.insert(family, table);
            }
        }
        let there_are = !open.is_empty();
        let mut tables = Tables { lake: lake.clone(), open, cluster_id: cluster_id.to_string(), topics: topics.clone(), claimed: false };
        match lake.owner().await? {
            Some(owner) => tables.refuse_other(&owner)?,
            // Tables of an older tokentape. Where there are none yet, the first row claims them.
            None if there_are => tables.claim().await?,
            None => {}
        }
        Ok((tables, last))
    }

    /// Makes sure that all tables belong to this log, those included that there are not yet: of two logs that come at once, one is first.
    async fn claim(&mut self) -> Result<(), Error> {
        if self.claimed {
            return Ok(());
        }
        let owner = self.lake.claim(info::owner(&self.cluster_id, &self.topics).into()).await?;
        self.refuse_other(&owner)
    }

    fn refuse_other(&mut self, owner: &[u8]) -> Result<(), Error> {
        info::refuse_other_owner(owner, &self.cluster_id, &self.topics)?;
        self.claimed = true;
        Ok(())
    }

    /// The table of a family that has rows to store.
    pub(crate) async fn of(&mut self, family: Family) -> Result<&mut Table, Error> {
        self.claim().await?;
        match self.open.entry(family) {
            Entry::Occupied(table) => Ok(table.into_mut()),
            Entry::Vacant(free) => {
                let table = self.lake.table(family).await?;
                // An older tokentape's store of another log, which claims nothing, may have made it since.
                info::refuse_other_log(&table, &self.cluster_id, &self.topics).await?;
                Ok(free.insert(table))
            }
        }
    }
}

/// All tables and the log, as they were found.
pub(crate) struct Opened {
    pub(crate) cluster_id: String,
    pub(crate) topics: HashMap<Family, TopicInfo>,
    pub(crate) names: HashMap<Family, String>,
    /// What hashes the records of each partition.
    pub(crate) hashers: HashMap<(Family, i32), Hasher>,
    pub(crate) tables: Tables,
    pub(crate) places: HashMap<(Family, i32), Place>,
    pub(crate) starts: Vec<Start>,
    pub(crate) ledger: Ledger,
}

impl Opened {
    pub(crate) async fn open(log: &Arc<dyn EventLog>, lake: &Lake, report: &mut Report) -> Result<Opened, Error> {
        let (cluster_id, found) = look(log).await?;
        let topics = topics(&found);
        let (tables, last) = Tables::open(lake, &cluster_id, &topics).await?;
        let mut opened = Opened {
            cluster_id,
            topics,
            names: found.iter().map(|(family, topic, _)| (*family, topic.name.clone())).collect(),
            hashers: HashMap::new(),
            tables,
            places: HashMap::new(),
            starts: Vec::new(),
            ledger: Ledger::default(),
        };
        let mut to_read = 0;
        let mut tails = HashMap::new();
        for (family, topic, watermarks) in found {
            for (partition, watermarks) in (0i32..).zip(watermarks) {
                let tail = last.get(&family).and_then(|last| last.get(&partition)).copied();
                tails.extend(tail.filter(|tail| tail.offset >= watermarks.low).map(|tail| ((family, partition), tail)));
                let place = Place { tail, ..opened.place(family, &topic, partition).await? };
                let wanted = place.txn.unwrap_or(0);
                refuse_ahead(&topic, partition, wanted, &watermarks)?;
                opened.hashers.insert((family, partition), Hasher::new(&opened.cluster_id, &topic, partition));
                let next = wanted.max(watermarks.low);
                opened.begin(family, partition, next, place);
                to_read += (watermarks.high - next).unsigned_abs();
                if next > wanted {
                    report.lost += opened.note_gap(family, &topic, partition, wanted, next).await?;
                }
                if let Some(stored) = place.txn {
                    // A crash may have come between the commit and this.
                    blocking(log, move |log| log.stored(family, partition, stored)).await?;
                }
            }
        }
        refuse_rewritten(log, tails, &opened.topics).await?;
        if report.to_read == 0 {
            report.to_read = to_read;
        }
        Ok(opened)
    }

    async fn place(&mut self, family: Family, topic: &TopicInfo, partition: i32) -> Result<Place, Error> {
        Ok(Place {
            txn: self.txn(family, &app_id(family.topic().name, &topic.id, partition)).await?,
            quarantine: self.txn(Family::Quarantine, &side_id(Family::Quarantine, topic, partition)).await?,
            tail: None,
        })
    }

    fn begin(&mut self, family: Family, partition: i32, next: i64, place: Place) {
        // The family `quarantine` has one transaction for its own rows and for those that the store adds.
        let quarantined = if family == Family::Quarantine { 0 } else { place.quarantine.unwrap_or(0) };
        self.ledger.begin(family, partition, next, quarantined);
        self.places.insert((family, partition), place);
        self.starts.push(Start { family, partition, offset: next });
    }

    /// Notes in table `gaps` that the log lost offsets before they were stored; once, however often it is found. Returns how many.
    async fn note_gap(&mut self, family: Family, topic: &TopicInfo, partition: i32, first: i64, next: i64) -> Result<u64, Error> {
        let app_id = side_id(Family::Gaps, topic, partition);
        let noted = self.txn(Family::Gaps, &app_id).await?;
        let first = noted.unwrap_or(0).max(first);
        if first >= next {
            return Ok(0);
        }
        tracing::error!(topic = topic.name, partition, first, last = next - 1, "the log lost offsets that were never stored");
        let row = decode::gap(&topic.name, partition, first, next - 1)?;
        let (spans, quarantined, trees, tails, schema_ids) = Default::default();
        let held = info::Held { spans: &spans, quarantined: &quarantined, trees: &trees, tails: &tails, schema_ids: &schema_ids };
        let info = info::commit_info(&self.cluster_id, topic, family, &held);
        let gaps = self.tables.of(Family::Gaps).await?;
        gaps.commit(&[row], &[Txn { app_id, from: noted, to: next }], info).await?;
        if family == Family::Gaps {
            self.places.entry((family, partition)).and_modify(|place| place.txn = Some(next));
        }
        Ok((next - first).unsigned_abs())
    }

    async fn txn(&mut self, table: Family, app_id: &str) -> Result<Option<i64>, Error> {
        match self.tables.open.get_mut(&table) {
            Some(table) => Ok(table.txn_version(app_id).await?),
            None => Ok(None),
        }
    }
}

/// The transaction under which the store writes rows of its own, about a topic, to table `quarantine` or `gaps`.
pub(crate) fn side_id(table: Family, topic: &TopicInfo, partition: i32) -> String {
    app_id(table.topic().name, &topic.id, partition)
}

pub(crate) async fn blocking<T: Send + 'static>(
    log: &Arc<dyn EventLog>,
    work: impl FnOnce(&dyn EventLog) -> Result<T, eventlog::Error> + Send + 'static,
) -> Result<T, Error> {
    let log = log.clone();
    let done = tokio::task::spawn_blocking(move || work(log.as_ref())).await;
    Ok(done.map_err(|e| Error::Ended { part: "request to the log", why: e.to_string() })??)
}
