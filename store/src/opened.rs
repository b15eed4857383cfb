//! Where the store begins: the tables and the log as they are found, and from which offset each partition is to be read.

use crate::ledger::{Ledger, app_id};
use crate::place::{self, Begin, Lost, Place};
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
            let place = Place { txn: stored, quarantine: None, tail: last.get(&partition).copied() };
            let begin = begin(log, *family, topic, partition, &place, watermarks).await?;
            tails.extend(begin.compare.map(|tail| ((*family, partition), tail)));
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

/// Decides where a partition begins. Another store may have stored what came after the log was looked at: before a log is refused as
/// ending too early, it is looked at again.
async fn begin(
    log: &Arc<dyn EventLog>,
    family: Family,
    topic: &TopicInfo,
    partition: i32,
    place: &Place,
    looked: &Watermarks,
) -> Result<Begin, Error> {
    match place::begin(family, topic, partition, place, looked) {
        Err(Error::Ahead { .. }) => {
            let now = blocking(log, move |log| log.watermarks(family)).await?;
            let high = usize::try_from(partition).ok().and_then(|at| now.get(at)).map_or(looked.high, |now| now.high);
            place::begin(family, topic, partition, place, &Watermarks { high, ..*looked })
        }
        begun => begun,
    }
}

/// A family's topic and the watermarks of its partitions.
type Found = (Family, TopicInfo, Vec<Watermarks>);

/// The log's cluster and topics.
async fn look(log: &Arc<dyn EventLog>) -> Result<(String, Vec<Found>), Error> {
    blocking(log, |log| {
        let found = Family::ALL.iter().map(|family| Ok((*family, log.topic(*family)?, log.watermarks(*family)?)));
        Ok((log.cluster_id()?, found.collect::<Result<Vec<_>, eventlog::Error>>()?))
    })
    .await
}

fn topics(found: &[Found]) -> HashMap<Family, TopicInfo> {
    found.iter().map(|(family, topic, _)| (*family, topic.clone())).collect()
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
        let (mut tails, mut lost) = (HashMap::new(), Vec::new());
        for (family, topic, watermarks) in &found {
            let family = *family;
            for (partition, watermarks) in (0i32..).zip(watermarks) {
                let tail = last.get(&family).and_then(|last| last.get(&partition)).copied();
                let mut place = Place { tail, ..opened.place(family, topic, partition).await? };
                if family != Family::Quarantine && place.is_between() {
                    place = place.with(opened.side_tail(topic, partition).await?);
                }
                let begin = begin(log, family, topic, partition, &place, watermarks).await?;
                opened.hashers.insert((family, partition), Hasher::new(&opened.cluster_id, topic, partition));
                opened.begin(family, partition, begin, place);
                to_read += (watermarks.high - begin.next).unsigned_abs();
                tails.extend(begin.compare.map(|tail| ((family, partition), tail)));
                lost.extend(begin.lost.map(|lost| (family, topic, partition, lost)));
            }
        }
        // Nothing is written, and the log told nothing, before it is known to be the one that the tables were stored from.
        refuse_rewritten(log, tails, &opened.topics).await?;
        for (family, topic, partition, lost) in lost {
            report.lost += opened.note_gap(family, topic, partition, lost).await?;
        }
        killpoint::here!("store.opened");
        for ((family, partition), place) in &opened.places {
            let (family, partition) = (*family, *partition);
            if let Some(stored) = place.txn {
                // A crash may have come between the commit and this.
                blocking(log, move |log| log.stored(family, partition, stored)).await?;
            }
        }
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

    /// The last record of a partition that the newest commit to `quarantine` about its topic names.
    async fn side_tail(&self, topic: &TopicInfo, partition: i32) -> Result<Option<Tail>, Error> {
        let Some(table) = self.tables.open.get(&Family::Quarantine) else { return Ok(None) };
        Ok(info::tails_of(table, topic).await?.get(&partition).copied())
    }

    fn begin(&mut self, family: Family, partition: i32, begin: Begin, place: Place) {
        self.ledger.begin(family, partition, begin.next, begin.quarantined);
        self.places.insert((family, partition), place);
        self.starts.push(Start { family, partition, offset: begin.next });
    }

    /// Notes in table `gaps` that the log lost offsets before they were stored; once, however often it is found. Returns how many.
    async fn note_gap(&mut self, family: Family, topic: &TopicInfo, partition: i32, lost: Lost) -> Result<u64, Error> {
        let app_id = side_id(Family::Gaps, topic, partition);
        let noted = self.txn(Family::Gaps, &app_id).await?;
        let Some(lost) = lost.beyond(noted) else { return Ok(0) };
        let Lost { first, next } = lost;
        tracing::error!(topic = topic.name, partition, first, last = next - 1, "the log lost offsets that were never stored");
        let row = decode::gap(&topic.name, partition, first, next - 1)?;
        let (spans, quarantined, trees, tails, schema_ids) = Default::default();
        let held = info::Held { spans: &spans, quarantined: &quarantined, trees: &trees, tails: &tails, schema_ids: &schema_ids };
        let info = info::commit_info(&self.cluster_id, topic, family, &held);
        let gaps = self.tables.of(Family::Gaps).await?;
        gaps.commit(&[row], &[Txn { app_id, from: noted, to: next }], info).await?;
        self.places.entry((family, partition)).and_modify(|place| *place = place::noted(family, *place, next));
        Ok(lost.offsets())
    }

    async fn txn(&mut self, table: Family, app_id: &str) -> Result<Option<i64>, Error> {
        match self.tables.open.get_mut(&table) {
            Some(table) => Ok(table.txn_version(app_id).await?),
            None => Ok(None),
        }
    }
}

/// The transaction under which the store writes rows of its own, about a topic, to table `quarantine` or `gaps`.
fn side_id(table: Family, topic: &TopicInfo, partition: i32) -> String {
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
