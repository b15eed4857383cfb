//! What stands in `quarantine` and can be decoded now is published again, once: the record, a record of `quarantine` that cancels the bad
//! one, and the note of it in the log's compacted state are one transaction.
//!
//! ```text
//! table quarantine ──► rows that the store wrote ──► does the frame decode now? ──► family's topic, quarantine, state requeue/…
//!                  └─► rows that ingest wrote ──► which source they are of: its raw text is no frame
//! ```
//!
//! A frame belongs to the family that its schema id names, whatever topic it was written to. The note is read after the writer is there, which
//! fences an earlier one: who comes second finds all that the first one did. The new record has the time of its second publication:
//! at its first nobody could know it. Its headers `tape-requeued-*` say where it stood.

use crate::Error;
use crate::decode::decode;
use crate::opened::{self, blocking};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use eventlog::{Batch, Event, EventLog, State, StateTopic, TimestampType, TopicInfo, Whole, Writer, murmur2};
use lake::Lake;
use schemas::record::{self, Headers, Record};
use schemas::{Family, Rows, frame};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The one who publishes again: a second one fences the first.
const TRANSACTIONAL_ID: &str = "requeue";
/// What the keys of its notes begin with.
const STATE_PREFIX: &str = "requeue/";
/// Offsets that one note speaks of, as a power of two: a note stays small however much is published again.
const NOTE_BITS: u32 = 12;
/// Records, and bytes, of one transaction.
const RECORDS_MAX: usize = 1_000;
const BYTES_MAX: usize = 8 << 20;
/// What the names of headers begin with that say where a record stood before.
pub const HEADER_PREFIX: &str = "tape-requeued-";

/// What to publish again.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only what stood in this family's topic.
    pub table: Option<Family>,
    /// Only what has this text in its reason.
    pub reason: Option<String>,
    /// Publish nothing.
    pub dry_run: bool,
}

/// What was, or would be, published again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Requeued {
    /// Rows of `quarantine` that were looked at: those that the options name.
    pub looked: u64,
    /// Records published again, by the table that they go to.
    pub published: BTreeMap<&'static str, u64>,
    /// Records that were published again before.
    pub already: u64,
    /// Records that still cannot be decoded, by the table of their topic and the reason of today.
    pub still_bad: BTreeMap<&'static str, BTreeMap<String, u64>>,
    /// Bad rows of sources, which have no frame that could be published.
    pub sources: Vec<BadSource>,
}

impl Requeued {
    /// True when nothing is left behind: exit code 0.
    pub fn is_clean(&self) -> bool {
        self.still_bad.is_empty() && self.sources.is_empty()
    }
}

/// A source some of whose records ingest could not read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BadSource {
    /// First 16 bytes of the hash that names it, in hex.
    pub source_id: String,
    /// File or address that it was last read from, where `sources` has it.
    pub name: Option<String>,
    /// How many of its records, by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Numbers of the first of them.
    pub records: Vec<i64>,
}

/// Numbers of a source's bad records that are named.
const NAMED_MAX: usize = 10;

/// Publishes again what can be decoded now.
pub async fn requeue(log: &Arc<dyn EventLog>, lake: &Lake, options: &Options) -> Result<Requeued, Error> {
    opened::refuse_other_log(log, lake).await?;
    let (_, topics) = opened::look(log).await?;
    let mut requeued = Requeued::default();
    let (records, sources) = bad(lake, &topics, options).await?;
    requeued.sources = sources;
    requeued.looked = records.len() as u64 + requeued.sources.iter().flat_map(|source| source.reasons.values()).sum::<u64>();
    let options = options.clone();
    blocking(log, move |log| Ok(publish(log, &topics, records, &options, &mut requeued).map(|()| requeued))).await?
}

/// A bad record as it stands in `quarantine`.
struct Stood {
    /// Family whose topic it stood in.
    family: Family,
    partition: i32,
    offset: i64,
    dataset: String,
    record: Record,
}

/// The rows of `quarantine` that the options name: records of the log in the order of their places, and sources.
async fn bad(lake: &Lake, topics: &HashMap<Family, TopicInfo>, options: &Options) -> Result<(Vec<Stood>, Vec<BadSource>), Error> {
    let by_name: HashMap<&str, Family> = topics.iter().map(|(family, topic)| (topic.name.as_str(), *family)).collect();
    let mut records = Vec::new();
    let mut sources: BTreeMap<Vec<u8>, BadSource> = BTreeMap::new();
    for rows in rows(lake, Family::Quarantine).await? {
        let stood = stood(&rows, &by_name, options)?;
        records.extend(stood);
        if options.table.is_none() {
            of_sources(&rows, options, &mut sources);
        }
    }
    records.sort_by_key(|stood: &Stood| (stood.family, stood.partition, stood.offset));
    let mut names: HashMap<Vec<u8>, String> = HashMap::new();
    if !sources.is_empty() {
        for rows in rows_of_sources(lake).await? {
            names.extend(rows);
        }
    }
    let named = sources.into_iter().map(|(id, source)| BadSource { name: names.remove(&id), ..source });
    Ok((records, named.collect()))
}

/// All rows of a table.
async fn rows(lake: &Lake, family: Family) -> Result<Vec<RecordBatch>, Error> {
    let Some(table) = lake.find(family).await? else { return Ok(Vec::new()) };
    let mut batches = Vec::new();
    for file in table.snapshot().files() {
        let bytes = lake.fetch(family, file).await?;
        for batch in lake.rows(family, file, bytes)? {
            batches.push(batch?);
        }
    }
    Ok(batches)
}

async fn rows_of_sources(lake: &Lake) -> Result<Vec<Vec<(Vec<u8>, String)>>, Error> {
    let topic = Family::Sources.topic();
    let named = |rows: &RecordBatch| {
        let ids = rows.column(topic.column("source_id")).as_binary::<i32>();
        let names = rows.column(topic.column("name")).as_string::<i32>();
        let row = |row: usize| (ids.value(row).to_vec(), names.value(row).to_string());
        (0..rows.num_rows()).filter(|row| names.is_valid(*row)).map(row).collect()
    };
    Ok(rows(lake, Family::Sources).await?.iter().map(named).collect())
}

/// The columns that tell rows of `quarantine` apart.
struct Columns<'a> {
    rows: &'a RecordBatch,
}

impl Columns<'_> {
    fn text(&self, name: &str, row: usize) -> &str {
        let cells = self.rows.column(Family::Quarantine.topic().column(name)).as_string::<i32>();
        if cells.is_valid(row) { cells.value(row) } else { "" }
    }

    fn is_null(&self, name: &str, row: usize) -> bool {
        self.rows.column(Family::Quarantine.topic().column(name)).is_null(row)
    }

    fn has_reason(&self, row: usize, options: &Options) -> bool {
        options.reason.as_ref().is_none_or(|wanted| self.text("reason", row).contains(wanted.as_str()))
    }
}

/// Records of the log that the store put there.
fn stood(rows: &RecordBatch, by_name: &HashMap<&str, Family>, options: &Options) -> Result<Vec<Stood>, Error> {
    let columns = Columns { rows };
    // As `rebuild_quarantined` tells them: a row of the log's own topic has a place in it.
    let by_store = (0..rows.num_rows()).filter(|row| columns.is_null("_partition", *row) && !columns.is_null("origin_topic", *row));
    let mut stood = Vec::new();
    for (row, (topic, partition, offset, record)) in by_store.zip(record::rebuild_quarantined(rows)?) {
        let family = by_name.get(topic.as_str()).copied().filter(|family| options.table.is_none_or(|wanted| wanted == *family));
        if let Some(family) = family.filter(|_| columns.has_reason(row, options)) {
            stood.push(Stood { family, partition, offset, dataset: columns.text("dataset", row).to_string(), record });
        }
    }
    Ok(stood)
}

/// Counts the records of sources that ingest put there.
fn of_sources(rows: &RecordBatch, options: &Options, sources: &mut BTreeMap<Vec<u8>, BadSource>) {
    let columns = Columns { rows };
    let topic = Family::Quarantine.topic();
    let ids = rows.column(topic.column("source_id")).as_binary::<i32>();
    let numbers = rows.column(topic.column("source_record")).as_primitive::<Int64Type>();
    let partition = rows.column(topic.column("_partition")).as_primitive::<Int32Type>();
    let of_source = |row: &usize| partition.is_valid(*row) && columns.text("change", *row) == "new" && columns.has_reason(*row, options);
    for row in (0..rows.num_rows()).filter(of_source) {
        let id = ids.value(row);
        let source = sources.entry(id.to_vec()).or_insert_with(|| BadSource { source_id: hex::encode(id), ..BadSource::default() });
        *source.reasons.entry(columns.text("reason", row).to_string()).or_default() += 1;
        source.records.push(numbers.value(row));
        source.records.sort_unstable();
        source.records.truncate(NAMED_MAX);
    }
}

/// Publishes what decodes, a transaction at a time.
fn publish(
    log: &dyn EventLog,
    topics: &HashMap<Family, TopicInfo>,
    records: Vec<Stood>,
    options: &Options,
    requeued: &mut Requeued,
) -> Result<(), Error> {
    // The writer comes before the notes are read: who held it before can note nothing any more.
    let mut writer = if options.dry_run || records.is_empty() { None } else { Some(log.writer(TRANSACTIONAL_ID)?) };
    let mut notes = Notes::read(log)?;
    let (before, records): (Vec<_>, Vec<_>) = records.into_iter().partition(|stood| notes.has(&topics[&stood.family].id, stood));
    requeued.already = before.len() as u64;
    let mut pending = Pending::default();
    for stood in records {
        let family = family_of(&stood);
        let event = event(&stood, family);
        match decode(family, std::slice::from_ref(&event))?.bad.first() {
            Some(bad) => {
                let reasons = requeued.still_bad.entry(stood.family.topic().name).or_default();
                *reasons.entry(bad.reason.clone()).or_default() += 1;
            }
            None => {
                *requeued.published.entry(family.topic().name).or_default() += 1;
                pending.add(family, &stood, topics)?;
                if pending.is_full() {
                    pending.publish(writer.as_mut(), &mut notes)?;
                }
            }
        }
    }
    pending.publish(writer.as_mut(), &mut notes)
}

/// The family that a frame is of: that which its schema id names, else that of the topic where it stood.
fn family_of(stood: &Stood) -> Family {
    let id = stood.record.value.as_deref().and_then(|value| value.get(1..frame::PREFIX_LEN)).and_then(|id| id.try_into().ok());
    let named = id.map(u32::from_be_bytes).and_then(|id| Family::ALL.into_iter().find(|family| family.topic().schema_id == id));
    named.unwrap_or(stood.family)
}

/// As the log would deliver it if it were published now.
fn event(stood: &Stood, family: Family) -> Event {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Event {
        family,
        partition: stood.partition,
        offset: stood.offset,
        ts_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
        ts_type: TimestampType::LogAppend,
        key: stood.record.key.clone(),
        value: stood.record.value.clone(),
        headers: Vec::new(),
    }
}

/// What the log's compacted state says was published again: offsets by topic id, partition and thousands.
struct Notes(BTreeMap<String, BTreeSet<i64>>);

impl Notes {
    fn read(log: &dyn EventLog) -> Result<Notes, Error> {
        let states = log.states(StateTopic::State)?.into_iter().filter(|(key, _)| key.starts_with(STATE_PREFIX));
        let note = |(key, value): (String, Bytes)| {
            let why =
                |e: serde_json::Error| eventlog::Error::Failed { doing: format!("reading what was requeued ({key})"), why: e.to_string() };
            let ranges: Vec<(i64, i64)> = serde_json::from_slice(&value).map_err(why)?;
            let offsets = ranges.into_iter().flat_map(|(first, last)| first..=last).collect();
            Ok((key, offsets))
        };
        Ok(Notes(states.map(note).collect::<Result<_, eventlog::Error>>()?))
    }

    fn key(topic_id: &str, partition: i32, offset: i64) -> String {
        format!("{STATE_PREFIX}{topic_id}/{partition}/{}", offset >> NOTE_BITS)
    }

    fn has(&self, topic_id: &str, stood: &Stood) -> bool {
        self.0.get(&Notes::key(topic_id, stood.partition, stood.offset)).is_some_and(|offsets| offsets.contains(&stood.offset))
    }

    /// Notes places; gives the states that say so.
    fn add(&mut self, places: &[(String, i32, i64)]) -> Vec<State> {
        let keys: HashSet<String> = places
            .iter()
            .map(|(topic_id, partition, offset)| {
                let key = Notes::key(topic_id, *partition, *offset);
                self.0.entry(key.clone()).or_default().insert(*offset);
                key
            })
            .collect();
        let state = |key: String| {
            let value = serde_json::to_vec(&ranges(&self.0[&key])).expect("pairs of numbers are JSON");
            State { topic: StateTopic::State, key, value: Some(value.into()) }
        };
        keys.into_iter().map(state).collect()
    }
}

/// Numbers as first and last of each run.
fn ranges(offsets: &BTreeSet<i64>) -> Vec<(i64, i64)> {
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for offset in offsets {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *offset => *last = *offset,
            _ => ranges.push((*offset, *offset)),
        }
    }
    ranges
}

/// The next transaction.
#[derive(Default)]
struct Pending {
    wholes: BTreeMap<Family, Vec<Whole>>,
    places: Vec<(String, i32, i64)>,
    bytes: usize,
}

impl Pending {
    fn is_full(&self) -> bool {
        self.places.len() >= RECORDS_MAX || self.bytes >= BYTES_MAX
    }

    /// Adds a record that decodes as one of `family`, and the record that cancels what stands in `quarantine`.
    fn add(&mut self, family: Family, stood: &Stood, topics: &HashMap<Family, TopicInfo>) -> Result<(), Error> {
        let from = &topics[&stood.family];
        let value = stood.record.value.clone().expect("what decodes has a value");
        let key = frame::keys(family, &frame::decode(family, &[&value[..]])?.batch).remove(0);
        let headers = headers(&stood.record, from, stood);
        self.bytes += value.len();
        self.push(family, key, value, headers.clone(), topics);
        let cancel = cancel(stood, &from.name, &topics[&family].name)?;
        let key = frame::keys(Family::Quarantine, &cancel).remove(0);
        let value = frame::encode(Family::Quarantine, &cancel)?.remove(0);
        self.push(Family::Quarantine, key, value, headers, topics);
        self.places.push((from.id.clone(), stood.partition, stood.offset));
        Ok(())
    }

    fn push(&mut self, family: Family, key: Bytes, value: Bytes, headers: Headers, topics: &HashMap<Family, TopicInfo>) {
        let partition = murmur2::partition(&key, topics[&family].partitions);
        self.wholes.entry(family).or_default().push(Whole { partition, key: Some(key), value: Some(value), headers });
    }

    fn publish(&mut self, writer: Option<&mut Box<dyn Writer>>, notes: &mut Notes) -> Result<(), Error> {
        let Pending { wholes, places, .. } = std::mem::take(self);
        let (Some(writer), false) = (writer, places.is_empty()) else { return Ok(()) };
        let batch = Batch { wholes: wholes.into_iter().collect(), states: notes.add(&places), ..Batch::default() };
        Ok(writer.publish(&batch)?)
    }
}

/// The record's own headers, and where it stood; of one that is requeued for the second time, only the last place.
fn headers(record: &Record, topic: &TopicInfo, stood: &Stood) -> Headers {
    let own = record.headers.iter().filter(|(name, _)| !name.starts_with(HEADER_PREFIX)).cloned();
    let place = [
        ("topic", topic.name.clone()),
        ("topic-id", topic.id.clone()),
        ("partition", stood.partition.to_string()),
        ("offset", stood.offset.to_string()),
        ("ts", record.ts_ms.to_string()),
    ];
    let place = place.into_iter().map(|(name, value)| (format!("{HEADER_PREFIX}{name}"), Some(Bytes::from(value))));
    own.chain(place).collect()
}

/// The record of `quarantine` that cancels what the store put there.
fn cancel(stood: &Stood, from: &str, to: &str) -> Result<RecordBatch, Error> {
    let topic = Family::Quarantine.topic();
    let mut rows = Rows::new(Family::Quarantine);
    rows.text(topic.column("dataset"), &stood.dataset);
    rows.text(topic.column("change"), "cancel");
    rows.i32(topic.column("revision"), 1);
    rows.i32(topic.column("supersedes"), 0);
    rows.text(topic.column("reason"), &format!("it can be decoded now, and was published again to {to}"));
    rows.bytes(topic.column("source_id"), &[0; 16]);
    rows.i64(topic.column("source_record"), 0);
    rows.i64(topic.column("source_byte"), 0);
    rows.text(topic.column("origin_topic"), from);
    rows.i32(topic.column("origin_partition"), stood.partition);
    rows.i64(topic.column("origin_offset"), stood.offset);
    rows.end_row();
    Ok(rows.finish()?)
}
