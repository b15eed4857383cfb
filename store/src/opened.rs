//! Where the store begins: the tables and the log as they are found, and from which offset each partition is to be read.

use crate::ledger::{Ledger, app_id};
use crate::place::{self, Begin, Lost, Place};
use crate::proof::{Hash, Hasher, Leaves};
use crate::record;
use crate::tail::{self, Tail};
use crate::{Error, Report, decode, info};
use eventlog::{EventLog, Partitions, Start, TopicInfo, Watermarks};
use lake::{Lake, Table, Txn};
use schemas::Family;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Refuses tables that were stored from another log than this one, or from a part of it that it no longer has, as a store of it would.
/// Changes nothing.
pub async fn refuse_other_log(log: &Arc<dyn EventLog>, lake: &Lake) -> Result<(), Error> {
    let (cluster_id, topics) = look(log).await?;
    let mut places = Vec::new();
    for family in Family::ALL {
        let Some(mut table) = lake.find(family).await? else { continue };
        let topic = &topics[&family];
        info::refuse_other_log(&table, &cluster_id, &topics).await?;
        let txns = txns(&mut table, topic).await?;
        let last = info::tails(&table, &topic.id, &txns).await?;
        for partition in 0..topic.partitions {
            let place = Place { txn: txns.get(&partition).copied(), quarantine: None, tail: last.get(&partition).copied() };
            place::refuse_unsaid(family, topic, partition, &place)?;
            places.push((family, partition, place));
        }
    }
    let watermarks = watermarks(log).await?;
    let mut tails = HashMap::new();
    for (family, partition, place) in places {
        let begin = place::begin(family, &topics[&family], partition, &place, &watermarks[&(family, partition)])?;
        tails.extend(begin.compare.map(|tail| ((family, partition), tail)));
    }
    if let Some(owner) = lake.owner().await? {
        info::refuse_other_owner(&owner, &cluster_id, &topics)?;
    }
    refuse_rewritten(log, tails, &topics).await
}

/// The transactions of the family's own topic, of those partitions that have one.
async fn txns(table: &mut Table, topic: &TopicInfo) -> Result<BTreeMap<i32, i64>, Error> {
    let mut txns = BTreeMap::new();
    for partition in 0..topic.partitions {
        let app_id = app_id(table.family().topic().name, &topic.id, partition);
        txns.extend(table.txn_version(&app_id).await?.map(|next| (partition, next)));
    }
    Ok(txns)
}

/// The next offset to store of every partition that the family's own table says it of.
pub(crate) async fn ends(lake: &Lake, topics: &HashMap<Family, TopicInfo>) -> Result<HashMap<(Family, i32), i64>, Error> {
    let mut ends = HashMap::new();
    for family in Family::ALL {
        let Some(mut table) = lake.find(family).await? else { continue };
        let txns = txns(&mut table, &topics[&family]).await?;
        ends.extend(txns.into_iter().map(|(partition, next)| ((family, partition), next)));
    }
    Ok(ends)
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

/// The log's cluster and topics.
pub(crate) async fn look(log: &Arc<dyn EventLog>) -> Result<(String, HashMap<Family, TopicInfo>), Error> {
    blocking(log, |log| {
        let topics = Family::ALL.iter().map(|family| Ok((*family, log.topic(*family)?)));
        Ok((log.cluster_id()?, topics.collect::<Result<HashMap<_, _>, eventlog::Error>>()?))
    })
    .await
}

/// Where each partition of the log begins and ends. To be asked after the tables were read: another store goes on meanwhile, and must not
/// seem to be ahead of the log.
pub(crate) async fn watermarks(log: &Arc<dyn EventLog>) -> Result<HashMap<(Family, i32), Watermarks>, Error> {
    blocking(log, |log| {
        let mut found = HashMap::new();
        for family in Family::ALL {
            found.extend((0i32..).zip(log.watermarks(family)?).map(|(partition, watermarks)| ((family, partition), watermarks)));
        }
        Ok(found)
    })
    .await
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
    /// The tables that there are already. Tables of another log are refused.
    async fn open(lake: &Lake, cluster_id: &str, topics: &HashMap<Family, TopicInfo>) -> Result<Tables, Error> {
        let mut open = HashMap::new();
        for family in Family::ALL {
            if let Some(table) = lake.existing(family).await? {
                info::refuse_other_log(&table, cluster_id, topics).await?;
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
        Ok(tables)
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

    /// Waits for checkpoints that are being written.
    pub(crate) async fn settle(&mut self) {
        for table in self.open.values_mut() {
            if let Err(error) = table.checkpoint_settled().await {
                tracing::warn!(%error, "everything that was committed stays");
            }
        }
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

/// Offsets and hashes of records of log partitions.
pub(crate) type Held = HashMap<(Family, i32), HashMap<i64, Hash>>;

/// All tables and the log, as they were found.
pub(crate) struct Opened {
    pub(crate) cluster_id: String,
    pub(crate) topics: HashMap<Family, TopicInfo>,
    pub(crate) names: HashMap<Family, String>,
    /// What hashes the records of each partition.
    pub(crate) hashers: HashMap<(Family, i32), Hasher>,
    /// What `quarantine` holds of those partitions in which it is ahead of the family's table.
    pub(crate) held: Held,
    pub(crate) tables: Tables,
    pub(crate) places: HashMap<(Family, i32), Place>,
    pub(crate) starts: Vec<Start>,
    pub(crate) ledger: Ledger,
}

impl Opened {
    /// Opens all tables, and begins those partitions that are to be read; of the others it is only known where the tables stand.
    pub(crate) async fn open(log: &Arc<dyn EventLog>, lake: &Lake, read: &Partitions, report: &mut Report) -> Result<Opened, Error> {
        let (cluster_id, topics) = look(log).await?;
        let tables = Tables::open(lake, &cluster_id, &topics).await?;
        let mut opened = Opened {
            cluster_id,
            names: topics.iter().map(|(family, topic)| (*family, topic.name.clone())).collect(),
            topics: topics.clone(),
            hashers: HashMap::new(),
            held: Held::new(),
            tables,
            places: HashMap::new(),
            starts: Vec::new(),
            ledger: Ledger::default(),
        };
        for family in Family::ALL {
            let topic = &topics[&family];
            opened.place(family, topic).await?;
            opened.refuse_unsaid(family, topic)?;
        }
        let watermarks = watermarks(log).await?;
        let mut to_read = 0;
        let (mut tails, mut lost) = (HashMap::new(), Vec::new());
        for family in Family::ALL {
            let topic = &topics[&family];
            for partition in (0..topic.partitions).filter(|partition| read.has(family, *partition)) {
                let (mut place, watermarks) = (opened.places[&(family, partition)], &watermarks[&(family, partition)]);
                if let Some(next) = place.quarantine.filter(|_| family != Family::Quarantine && place.is_between()) {
                    // To be compared with the log; it is no record of the family's table, and no commit of it names it.
                    place = place.with(opened.side_tail(topic, partition, next).await?);
                    opened.held.insert((family, partition), HashMap::new());
                }
                let begin = place::begin(family, topic, partition, &place, watermarks)?;
                opened.hashers.insert((family, partition), Hasher::new(&opened.cluster_id, topic, partition));
                opened.begin(family, partition, begin);
                to_read += (watermarks.high - begin.next).unsigned_abs();
                tails.extend(begin.compare.map(|tail| ((family, partition), tail)));
                lost.extend(begin.lost.map(|lost| (family, topic, partition, lost)));
            }
        }
        // Nothing is written, and the log told nothing, before it is known to be the one that the tables were stored from.
        refuse_rewritten(log, tails, &opened.topics).await?;
        opened.hold().await?;
        for (family, topic, partition, lost) in lost {
            opened.refuse_moved(family, topic, partition).await?;
            report.lost += opened.note_gap(family, topic, partition, lost).await?;
        }
        killpoint::here!("store.opened");
        for start in &opened.starts {
            let (family, partition) = (start.family, start.partition);
            if let Some(stored) = opened.places[&(family, partition)].txn {
                // A crash may have come between the commit and this.
                blocking(log, move |log| log.stored(family, partition, stored)).await?;
            }
        }
        if report.to_read == 0 {
            report.to_read = to_read;
        }
        Ok(opened)
    }

    /// Finds out where the family's table stands.
    async fn place(&mut self, family: Family, topic: &TopicInfo) -> Result<(), Error> {
        let (txns, tails) = match self.tables.open.get_mut(&family) {
            None => Default::default(),
            Some(table) => {
                let txns = txns(table, topic).await?;
                let tails = info::tails(table, &topic.id, &txns).await?;
                (txns, tails)
            }
        };
        for partition in 0..topic.partitions {
            let place = Place {
                txn: txns.get(&partition).copied(),
                quarantine: self.txn(Family::Quarantine, &side_id(Family::Quarantine, topic, partition)).await?,
                tail: tails.get(&partition).copied(),
            };
            place::refuse_unsaid(family, topic, partition, &place)?;
            self.places.insert((family, partition), place);
        }
        Ok(())
    }

    /// The last record of a partition that the commits to `quarantine` about its topic name: it has everything before `next`.
    async fn side_tail(&self, topic: &TopicInfo, partition: i32, next: i64) -> Result<Option<Tail>, Error> {
        let Some(table) = self.tables.open.get(&Family::Quarantine) else { return Ok(None) };
        Ok(info::tails(table, &topic.id, &BTreeMap::from([(partition, next)])).await?.get(&partition).copied())
    }

    /// Reads what `quarantine` holds behind the ends of the families' tables: a crash came between the two commits, or another store is between
    /// them. Its transaction alone would make the store pass over records that nobody has.
    async fn hold(&mut self) -> Result<(), Error> {
        let Some(table) = self.tables.open.get(&Family::Quarantine).filter(|_| !self.held.is_empty()) else { return Ok(()) };
        let by_name: HashMap<&str, Family> = self.names.iter().map(|(family, name)| (name.as_str(), *family)).collect();
        for file in table.snapshot().files() {
            for rows in self.tables.lake.read(Family::Quarantine, file).await? {
                for (topic, partition, offset, record) in record::rebuild_quarantined(&rows?)? {
                    let place = by_name.get(topic.as_str()).map(|family| (*family, partition));
                    let held = place.and_then(|place| Some((place, self.held.get_mut(&place)?)));
                    let Some((place, held)) = held.filter(|(place, _)| self.places[place].txn.is_none_or(|next| offset >= next)) else {
                        continue;
                    };
                    let mut leaves = Leaves::default();
                    leaves.record(&self.hashers[&place], offset, &record);
                    held.extend(leaves.hashes().into_iter().map(|hash| (offset, hash)));
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, family: Family, partition: i32, begin: Begin) {
        self.ledger.begin(family, partition, begin.next, begin.quarantined);
        self.starts.push(Start { family, partition, offset: begin.next });
    }

    /// Refuses a table that has rows of its topic, and no transaction of any partition that says which. `quarantine` and `gaps` have rows about
    /// other topics.
    fn refuse_unsaid(&self, family: Family, topic: &TopicInfo) -> Result<(), Error> {
        let about_others = matches!(family, Family::Quarantine | Family::Gaps);
        let has_rows = self.tables.open.get(&family).is_some_and(|table| !table.snapshot().files().is_empty());
        let said = (0..topic.partitions).any(|partition| self.places[&(family, partition)].txn.is_some());
        match has_rows && !said && !about_others {
            true => Err(Error::TxnLost { table: family.topic().name, name: topic.name.clone(), partition: 0 }),
            false => Ok(()),
        }
    }

    /// What the log lacks may have been stored by another store since the tables were read, and have gone since: then nothing is lost.
    async fn refuse_moved(&mut self, family: Family, topic: &TopicInfo, partition: i32) -> Result<(), Error> {
        let Some(table) = self.tables.open.get_mut(&family) else { return Ok(()) };
        table.refresh().await?;
        let app_id = app_id(family.topic().name, &topic.id, partition);
        let (before, now) = (self.places[&(family, partition)].txn, table.txn_version(&app_id).await?);
        let show = |txn: Option<i64>| txn.map_or_else(|| "nothing".to_string(), |txn| txn.to_string());
        match before == now {
            true => Ok(()),
            false => Err(lake::Error::Moved { table: family.topic().name, what: app_id, expected: show(before), found: show(now) }.into()),
        }
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
        let held = info::Held {
            spans: &spans,
            quarantined: &quarantined,
            trees: &trees,
            tails: &tails,
            schema_ids: &schema_ids,
            has_markers: true,
        };
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
