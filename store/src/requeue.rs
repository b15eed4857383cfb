//! What stands in `quarantine` and can be decoded now is published again, once: the record, a record of `quarantine` that cancels the bad
//! one, and the note of it in the log's compacted state are one transaction.
//!
//! ```text
//! table quarantine ──► rows that the store wrote ──► does the frame decode now? ──► family's topic, quarantine, state requeue/…
//!                  └─► rows that ingest wrote ──► which source they are of: its raw text is no frame. A person settles them, by a word of his own:
//!                                                 a record that cancels each, and the note, in one transaction
//! ```
//!
//! A frame belongs to the family that its schema id names, whatever topic it was written to. The note is read after the writer is there, which
//! fences an earlier one: who comes second finds all that the first one did. What stands where the family's own table has not come to is left alone:
//! no commit proves it yet. The new record has the time of its second publication:
//! at its first nobody could know it. Its headers `tape-requeued-*` say where it stood.

use crate::Error;
use crate::decode::decode;
use crate::opened::{self, blocking};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use eventlog::origin::Origin;
use eventlog::{Batch, Event, EventLog, State, StateTopic, TimestampType, TopicInfo, Whole, Writer, murmur2};
use lake::{FileInfo, Lake};
use schemas::record::{self, Headers, Record};
use schemas::{Family, Rows, frame};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;

/// The one who publishes again: a second one fences the first.
const TRANSACTIONAL_ID: &str = "requeue";
/// What the keys of its notes begin with.
const STATE_PREFIX: &str = "requeue/";
/// Offsets that one note speaks of, as a power of two: a note stays small however much is published again.
const NOTE_BITS: u32 = 12;
/// Records, and bytes, of one transaction.
const RECORDS_MAX: usize = 1_000;
const BYTES_MAX: usize = 8 << 20;
/// Bytes of records that are in memory at a time.
const PART_BYTES_MAX: usize = 64 << 20;
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
    /// Records that still cannot be decoded, or are left alone, by the table of their topic and the reason of today.
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

/// What became of a source's bad records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Settled {
    /// Records that were, or would be, settled by this.
    pub settled: u64,
    /// Records that were settled before.
    pub already: u64,
}

/// Settles the bad records of a source that ingest put into `quarantine`: whoever knows what became of them says it. They stay there; a record for
/// each cancels it, with `why` as its reason. Each is settled once, however often this runs.
pub async fn settle(log: &Arc<dyn EventLog>, lake: &Lake, source: &[u8; 16], why: &str, dry_run: bool) -> Result<Settled, Error> {
    opened::refuse_other_log(log, lake).await?;
    let (_, topics) = opened::look(log).await?;
    let mut bad: Vec<BadRecord> = Vec::new();
    for file in files(lake, Family::Quarantine).await? {
        for rows in lake.read(Family::Quarantine, &file).await? {
            bad.extend(bad_records(&rows?, &Options::default()).into_iter().filter(|bad| bad.source == source));
        }
    }
    bad.sort_by_key(|bad| (bad.record, bad.byte));
    let why = why.to_string();
    let work = move |log: &dyn EventLog| -> Result<Settled, Error> {
        let mut writer = if dry_run { None } else { Some(log.writer(TRANSACTIONAL_ID)?) };
        let mut notes = Notes::read(log)?;
        let (before, bad): (Vec<_>, Vec<_>) = bad.into_iter().partition(|bad| notes.is_settled(&bad.source, bad.record));
        let settled = Settled { settled: bad.len() as u64, already: before.len() as u64 };
        for bad in bad.chunks(RECORDS_MAX) {
            let mut pending = Pending::default();
            for bad in bad {
                pending.settle(bad, &why, &topics)?;
            }
            pending.publish(writer.as_mut(), &mut notes)?;
        }
        Ok(settled)
    };
    blocking(log, move |log| Ok(work(log))).await?
}

/// A record of a source that ingest could not read, as it stands in `quarantine`.
struct BadRecord {
    dataset: String,
    source: Vec<u8>,
    record: i64,
    byte: i64,
    reason: String,
}

/// Why a record is left alone that another log had first.
const REPLAYED: &str = "it was replayed to this log: requeue it in the log that it comes from, and replay that";
/// Why a record is left alone that stands behind all that its family's table claims.
const UNPROVEN: &str =
    "its table has not come to its offset, so that no commit proves it yet: tape store --once, then tape verify --against-log";
/// Numbers of a source's bad records that are named.
const NAMED_MAX: usize = 10;

/// Publishes again what can be decoded now. The rows of `quarantine` are read once to see where records stand, then once for each part of them, so that
/// one part is in memory.
pub async fn requeue(log: &Arc<dyn EventLog>, lake: &Lake, options: &Options) -> Result<Requeued, Error> {
    opened::refuse_other_log(log, lake).await?;
    let (_, topics) = opened::look(log).await?;
    // Before the rows: of a row that comes meanwhile it is then not known that a commit proves it.
    let ends = opened::ends(lake, &topics).await?;
    let quarantine =
        Quarantine { lake: lake.clone(), files: files(lake, Family::Quarantine).await?, topics, ends, options: options.clone() };
    let settled = blocking(log, |log| Ok(Notes::read(log))).await??;
    let (stands, sources) = quarantine.look(&settled).await?;
    let records: u64 = stands.values().map(|part| part.records).sum();
    let looked = records + sources.iter().flat_map(|source| source.reasons.values()).sum::<u64>();
    let requeued = Requeued { looked, sources, ..Requeued::default() };
    let runtime = Handle::current();
    let work = move |log: &dyn EventLog| -> Result<Requeued, Error> {
        let mut requeued = requeued;
        // The writer comes before the notes are read: who held it before can note nothing any more.
        let mut writer = if quarantine.options.dry_run || records == 0 { None } else { Some(log.writer(TRANSACTIONAL_ID)?) };
        let mut notes = Notes::read(log)?;
        for part in parts(&stands) {
            let records = runtime.block_on(quarantine.records(&part))?;
            publish(&quarantine, records, writer.as_mut(), &mut notes, &mut requeued)?;
        }
        Ok(requeued)
    };
    blocking(log, move |log| Ok(work(log))).await?
}

/// Thousands of offsets of one partition of one family's topic, in the order in which they are published again.
type Stands = (Family, i32, i64);

/// How much stands there.
#[derive(Debug, Clone, Copy, Default)]
struct Much {
    records: u64,
    bytes: usize,
}

/// Ranges of places that hold about as much as may be in memory, or one place that holds more. Pure.
fn parts(stands: &BTreeMap<Stands, Much>) -> Vec<RangeInclusive<Stands>> {
    let mut parts: Vec<RangeInclusive<Stands>> = Vec::new();
    let mut bytes = 0;
    for (at, much) in stands {
        match parts.last_mut() {
            Some(part) if bytes + much.bytes <= PART_BYTES_MAX => {
                *part = *part.start()..=*at;
                bytes += much.bytes;
            }
            _ => {
                parts.push(*at..=*at);
                bytes = much.bytes;
            }
        }
    }
    parts
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

impl Stood {
    fn at(&self) -> Stands {
        (self.family, self.partition, self.offset >> NOTE_BITS)
    }

    /// About so much memory.
    fn bytes(&self) -> usize {
        let headers = self.record.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Bytes::len));
        size_of::<Stood>() + self.record.value.as_ref().map_or(0, Bytes::len) + headers.sum::<usize>()
    }
}

/// The table as it was when it was first looked at.
struct Quarantine {
    lake: Lake,
    files: Vec<Arc<FileInfo>>,
    topics: HashMap<Family, TopicInfo>,
    /// Where the families' own tables end.
    ends: HashMap<(Family, i32), i64>,
    options: Options,
}

impl Quarantine {
    /// Of the rows that the options name: where records of the log stood and how much, and the sources.
    async fn look(&self, settled: &Notes) -> Result<(BTreeMap<Stands, Much>, Vec<BadSource>), Error> {
        let mut stands: BTreeMap<Stands, Much> = BTreeMap::new();
        let mut sources: BTreeMap<Vec<u8>, BadSource> = BTreeMap::new();
        for file in &self.files {
            for rows in self.lake.read(Family::Quarantine, file).await? {
                let rows = rows?;
                for stood in self.stood(&rows)? {
                    let much = stands.entry(stood.at()).or_default();
                    much.records += 1;
                    much.bytes += stood.bytes();
                }
                if self.options.table.is_none() {
                    of_sources(&rows, &self.options, settled, &mut sources);
                }
            }
        }
        if !sources.is_empty() {
            name(&self.lake, &mut sources).await?;
        }
        Ok((stands, sources.into_values().collect()))
    }

    /// The records of a part, in the order of their places.
    async fn records(&self, part: &RangeInclusive<Stands>) -> Result<Vec<Stood>, Error> {
        let mut records = Vec::new();
        for file in &self.files {
            for rows in self.lake.read(Family::Quarantine, file).await? {
                records.extend(self.stood(&rows?)?.into_iter().filter(|stood| part.contains(&stood.at())));
            }
        }
        records.sort_by_key(|stood: &Stood| (stood.family, stood.partition, stood.offset));
        Ok(records)
    }

    fn stood(&self, rows: &RecordBatch) -> Result<Vec<Stood>, Error> {
        let by_name: HashMap<&str, Family> = self.topics.iter().map(|(family, topic)| (topic.name.as_str(), *family)).collect();
        stood(rows, &by_name, &self.options)
    }
}

/// The files of a table.
async fn files(lake: &Lake, family: Family) -> Result<Vec<Arc<FileInfo>>, Error> {
    Ok(lake.find(family).await?.map_or_else(Vec::new, |table| table.snapshot().files().to_vec()))
}

/// Names sources as they were last called.
async fn name(lake: &Lake, sources: &mut BTreeMap<Vec<u8>, BadSource>) -> Result<(), Error> {
    let topic = Family::Sources.topic();
    for file in files(lake, Family::Sources).await? {
        for rows in lake.read(Family::Sources, &file).await? {
            let rows = rows?;
            let ids = rows.column(topic.column("source_id")).as_binary::<i32>();
            let names = rows.column(topic.column("name")).as_string::<i32>();
            for row in (0..rows.num_rows()).filter(|row| names.is_valid(*row)) {
                if let Some(source) = sources.get_mut(ids.value(row)) {
                    source.name = Some(names.value(row).to_string());
                }
            }
        }
    }
    Ok(())
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

/// Counts the records of sources that ingest put there and that nobody settled.
fn of_sources(rows: &RecordBatch, options: &Options, settled: &Notes, sources: &mut BTreeMap<Vec<u8>, BadSource>) {
    for bad in bad_records(rows, options).into_iter().filter(|bad| !settled.is_settled(&bad.source, bad.record)) {
        let source =
            sources.entry(bad.source.clone()).or_insert_with(|| BadSource { source_id: hex::encode(&bad.source), ..BadSource::default() });
        *source.reasons.entry(without_place(&bad.reason).to_string()).or_default() += 1;
        source.records.push(bad.record);
        source.records.sort_unstable();
        source.records.truncate(NAMED_MAX);
    }
}

/// Records of sources that ingest put there.
fn bad_records(rows: &RecordBatch, options: &Options) -> Vec<BadRecord> {
    let columns = Columns { rows };
    let topic = Family::Quarantine.topic();
    let ids = rows.column(topic.column("source_id")).as_binary::<i32>();
    let numbers = rows.column(topic.column("source_record")).as_primitive::<Int64Type>();
    let bytes = rows.column(topic.column("source_byte")).as_primitive::<Int64Type>();
    let partition = rows.column(topic.column("_partition")).as_primitive::<Int32Type>();
    let of_source = |row: &usize| partition.is_valid(*row) && columns.text("change", *row) == "new" && columns.has_reason(*row, options);
    let bad = |row: usize| BadRecord {
        dataset: columns.text("dataset", row).to_string(),
        source: ids.value(row).to_vec(),
        record: numbers.value(row),
        byte: bytes.value(row),
        reason: columns.text("reason", row).to_string(),
    };
    (0..rows.num_rows()).filter(of_source).map(bad).collect()
}

/// A reason without the line and byte that ingest puts behind it: so that the same reason counts as one.
fn without_place(reason: &str) -> &str {
    match reason.rfind(" (") {
        Some(at) if reason.ends_with(')') && (reason[at..].starts_with(" (line ") || reason[at..].starts_with(" (byte ")) => &reason[..at],
        _ => reason,
    }
}

/// Publishes what decodes and stands before the end of its family's table, a transaction at a time; without a writer it only says what it would publish.
fn publish(
    quarantine: &Quarantine,
    records: Vec<Stood>,
    mut writer: Option<&mut Box<dyn Writer>>,
    notes: &mut Notes,
    requeued: &mut Requeued,
) -> Result<(), Error> {
    let topics = &quarantine.topics;
    let (before, records): (Vec<_>, Vec<_>) = records.into_iter().partition(|stood| notes.has(&topics[&stood.family].id, stood));
    requeued.already += before.len() as u64;
    let mut pending = Pending::default();
    for stood in records {
        let family = family_of(&stood);
        let event = event(&stood, family);
        let is_proven = quarantine.ends.get(&(stood.family, stood.partition)).is_some_and(|end| stood.offset < *end);
        let bad = match Origin::of(&stood.record.headers) {
            _ if !is_proven => Some(UNPROVEN.to_string()),
            // The log that it comes from may have done it, and both would be replayed here.
            Some(_) => Some(REPLAYED.to_string()),
            None => decode(family, std::slice::from_ref(&event))?.bad.first().map(|bad| bad.reason.clone()),
        };
        match bad {
            Some(reason) => {
                let reasons = requeued.still_bad.entry(stood.family.topic().name).or_default();
                *reasons.entry(reason).or_default() += 1;
            }
            None => {
                *requeued.published.entry(family.topic().name).or_default() += 1;
                pending.add(family, &stood, topics)?;
                if pending.is_full() {
                    pending.publish(writer.as_deref_mut(), notes)?;
                }
            }
        }
    }
    pending.publish(writer, notes)
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

    /// The key that stands for a topic's id where the record is one of a source, which has no partition.
    fn of_source(source: &[u8]) -> String {
        format!("source-{}", hex::encode(source))
    }

    fn is_settled(&self, source: &[u8], record: i64) -> bool {
        self.0.get(&Notes::key(&Notes::of_source(source), 0, record)).is_some_and(|records| records.contains(&record))
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

    /// Adds the record that cancels a bad one of a source.
    fn settle(&mut self, bad: &BadRecord, why: &str, topics: &HashMap<Family, TopicInfo>) -> Result<(), Error> {
        let cancel = settling(bad, why)?;
        let key = frame::keys(Family::Quarantine, &cancel).remove(0);
        let value = frame::encode(Family::Quarantine, &cancel)?.remove(0);
        // It stands behind later records of its source: the header says that it was not published in their order.
        let header = (format!("{HEADER_PREFIX}settled"), Some(Bytes::from_static(b"source")));
        self.push(Family::Quarantine, key, value, vec![header], topics);
        self.places.push((Notes::of_source(&bad.source), 0, bad.record));
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
    let mut rows = cancelling(&stood.dataset, &format!("it can be decoded now, and was published again to {to}"), &[0; 16], (0, 0));
    rows.text(topic.column("origin_topic"), from);
    rows.i32(topic.column("origin_partition"), stood.partition);
    rows.i64(topic.column("origin_offset"), stood.offset);
    rows.end_row();
    Ok(rows.finish()?)
}

/// The record of `quarantine` that settles what ingest put there.
fn settling(bad: &BadRecord, why: &str) -> Result<RecordBatch, Error> {
    let mut rows = cancelling(&bad.dataset, &format!("settled: {why}"), &bad.source, (bad.record, bad.byte));
    rows.end_row();
    Ok(rows.finish()?)
}

/// What records that cancel have in common; the row is not ended.
fn cancelling(dataset: &str, reason: &str, source: &[u8], (record, byte): (i64, i64)) -> Rows {
    let topic = Family::Quarantine.topic();
    let mut rows = Rows::new(Family::Quarantine);
    rows.text(topic.column("dataset"), dataset);
    rows.text(topic.column("change"), "cancel");
    rows.i32(topic.column("revision"), 1);
    rows.i32(topic.column("supersedes"), 0);
    rows.text(topic.column("reason"), reason);
    rows.bytes(topic.column("source_id"), source);
    rows.i64(topic.column("source_record"), record);
    rows.i64(topic.column("source_byte"), byte);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Given anything that stands anywhere, then every place is in one part, in order, and no part of several places holds more than it may.
        #[test]
        fn every_place_is_in_one_part(sizes in proptest::collection::btree_map((0i32..3, 0i64..40), 0..PART_BYTES_MAX * 3 / 2, 0..60)) {
            let much = |bytes: &usize| Much { records: 1, bytes: *bytes };
            let stands: BTreeMap<Stands, Much> =
                sizes.iter().map(|((partition, thousand), bytes)| ((Family::Trades, *partition, *thousand), much(bytes))).collect();
            let mut told: Vec<Stands> = Vec::new();
            for part in parts(&stands) {
                let held: Vec<(&Stands, &Much)> = stands.range(part).collect();
                let bytes: usize = held.iter().map(|(_, much)| much.bytes).sum();
                prop_assert!(held.len() == 1 || bytes <= PART_BYTES_MAX, "{} places, {bytes} bytes", held.len());
                told.extend(held.into_iter().map(|(at, _)| *at));
            }
            prop_assert_eq!(told, stands.into_keys().collect::<Vec<_>>());
        }
    }
}
