//! The store as a whole, against a log made here that repeats, breaks off and lies, and tables whose disk fails at the worst moment:
//! every record is stored once, and what is no record is in quarantine once.

#[path = "../../lake/tests/support/dice.rs"]
mod dice;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int32Type, Int64Type};
use async_trait::async_trait;
use bytes::Bytes;
use dice::{Dice, column};
use eventlog::{Error, Event, EventLog, Polled, Reader, Start, StateTopic, TimestampType, TopicInfo, TopicReport, Watermarks, Writer};
use futures::stream::BoxStream;
use lake::{DurableLocal, Lake};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use schemas::{Family, frame};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::batcher::Limits;
use store::{Options, Report, Store, record};

/// A log in memory. It is honest about order and offsets unless told otherwise.
#[derive(Default)]
struct TestLog {
    events: Mutex<BTreeMap<(Family, i32), Vec<Event>>>,
    low: Mutex<HashMap<(Family, i32), i64>>,
    stored: Mutex<HashMap<(Family, i32), i64>>,
    /// Every event comes twice, and the one before it once more.
    repeats: AtomicBool,
    /// Polls until the next one fails; 0 never fails.
    fails_after: AtomicUsize,
    /// Its topics were deleted and made again: same names, other ids.
    remade: AtomicBool,
    polls: AtomicUsize,
}

const EVENTS_PER_POLL: usize = 7;
/// Times that two logs race for the same tables.
const ROUNDS: usize = 12;

impl TestLog {
    fn append(&self, event: Event) {
        self.events.lock().unwrap().entry((event.family, event.partition)).or_default().push(event);
    }

    fn partition(&self, at: (Family, i32)) -> Vec<Event> {
        self.events.lock().unwrap().get(&at).cloned().unwrap_or_default()
    }

    fn next(&self, at: (Family, i32)) -> i64 {
        self.partition(at).last().map_or(0, |event| event.offset + 1)
    }
}

struct TestReader {
    log: Arc<TestLog>,
    at: Vec<Start>,
}

impl Reader for TestReader {
    fn poll(&mut self, timeout: Duration, _: usize) -> Result<Polled, Error> {
        let polls = self.log.polls.fetch_add(1, Ordering::SeqCst) + 1;
        let fails_after = self.log.fails_after.load(Ordering::SeqCst);
        if fails_after > 0 && polls.is_multiple_of(fails_after) {
            return Err(Error::Failed { doing: "polling".into(), why: "broken off".into() });
        }
        let mut polled = Polled::default();
        for start in &mut self.at {
            let at = (start.family, start.partition);
            let events = self.log.partition(at);
            let due: Vec<&Event> = events.iter().filter(|event| event.offset >= start.offset).take(EVENTS_PER_POLL).collect();
            if let Some(last) = due.last() {
                start.offset = last.offset + 1;
            }
            for event in &due {
                polled.events.push((*event).clone());
                if self.log.repeats.load(Ordering::SeqCst) {
                    polled.events.extend([due[0].clone(), (*event).clone()]);
                }
            }
            if events.last().is_none_or(|last| last.offset < start.offset) {
                polled.at_end.push(at);
            }
        }
        if polled.events.is_empty() {
            std::thread::sleep(timeout.min(Duration::from_millis(5)));
        }
        Ok(polled)
    }
}

/// The trait is implemented for the shared log, so that its readers can hold it.
struct Shared(Arc<TestLog>);

impl EventLog for Shared {
    fn describe(&self) -> String {
        "log in memory".into()
    }
    fn has_markers(&self) -> bool {
        true
    }
    fn cluster_id(&self) -> Result<String, Error> {
        Ok("test-cluster".into())
    }
    fn create_topics(&self) -> Result<Vec<TopicReport>, Error> {
        Ok(Vec::new())
    }
    fn check_topics(&self) -> Result<Vec<TopicReport>, Error> {
        Ok(Vec::new())
    }
    fn topic(&self, family: Family) -> Result<TopicInfo, Error> {
        let topic = family.topic();
        let again = if self.0.remade.load(Ordering::SeqCst) { "new-" } else { "" };
        Ok(TopicInfo { name: format!("tape.{}", topic.name), id: format!("{again}id-of-{}", topic.name), partitions: topic.partitions })
    }
    fn writer(&self, _: &str) -> Result<Box<dyn Writer>, Error> {
        Err(Error::Failed { doing: "writing".into(), why: "this log is filled by the test".into() })
    }
    fn states(&self, _: StateTopic) -> Result<HashMap<String, Bytes>, Error> {
        Ok(HashMap::new())
    }
    fn reader(&self, starts: &[Start]) -> Result<Box<dyn Reader>, Error> {
        for start in starts {
            let low = self.0.low.lock().unwrap().get(&(start.family, start.partition)).copied().unwrap_or(0);
            if start.offset < low {
                let name = start.family.topic().name.to_string();
                return Err(Error::OffsetGone { name, partition: start.partition, offset: start.offset, low });
            }
        }
        Ok(Box::new(TestReader { log: self.0.clone(), at: starts.to_vec() }))
    }
    fn watermarks(&self, family: Family) -> Result<Vec<Watermarks>, Error> {
        let low = self.0.low.lock().unwrap();
        let of = |partition| {
            let low = low.get(&(family, partition)).copied().unwrap_or(0);
            Watermarks { low, high: self.0.next((family, partition)).max(low) }
        };
        Ok((0..family.topic().partitions).map(of).collect())
    }
    fn stored(&self, family: Family, partition: i32, offset: i64) -> Result<(), Error> {
        self.0.stored.lock().unwrap().insert((family, partition), offset);
        Ok(())
    }
}

/// A disk that fails when it writes a log entry of a named table, before it is written or after.
#[derive(Debug, Default)]
struct Faulty {
    inner: DurableLocal,
    before: Mutex<Option<&'static str>>,
    after: Mutex<Option<&'static str>>,
    /// Every so many log entries the answer is lost; 0 never.
    loses_every: AtomicUsize,
    entries: AtomicUsize,
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "faulty")
    }
}

fn broken() -> object_store::Error {
    object_store::Error::Generic { store: "faulty", source: Box::new(std::io::Error::from(std::io::ErrorKind::TimedOut)) }
}

fn take_if(fault: &Mutex<Option<&'static str>>, path: &str) -> bool {
    fault.lock().unwrap().take_if(|table| path.contains(&format!("/{table}/_delta_log/"))).is_some()
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> object_store::Result<PutResult> {
        if take_if(&self.before, location.as_ref()) {
            return Err(broken());
        }
        let done = self.inner.put_opts(location, payload, opts).await?;
        let loses_every = self.loses_every.load(Ordering::SeqCst);
        let loses = location.as_ref().ends_with("json")
            && !location.as_ref().ends_with("/00000000000000000000.json")
            && loses_every > 0
            && (self.entries.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(loses_every);
        match loses || take_if(&self.after, location.as_ref()) {
            true => Err(broken()),
            false => Ok(done),
        }
    }
    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(location, options).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, object_store::Result<Path>>) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// One installation: a log, tables, and a disk that can be made to fail.
struct Home {
    directory: tempfile::TempDir,
    log: Arc<TestLog>,
    disk: Arc<Faulty>,
    lake: Lake,
}

impl Home {
    fn new() -> Home {
        let directory = tempfile::tempdir().unwrap();
        let disk = Arc::new(Faulty::default());
        let lake = Lake::with_store(url::Url::from_directory_path(directory.path()).unwrap(), disk.clone()).unwrap();
        Home { directory, log: Arc::new(TestLog::default()), disk, lake }
    }

    fn store(&self, limits: Limits) -> Store {
        let options = Options { limits, tries_max: 40, backoff: Duration::from_millis(1), member: None };
        Store::new(Arc::new(Shared(self.log.clone())), self.lake.clone(), options)
    }

    async fn once(&self) -> Report {
        self.store(small()).run_once(&mut |_| {}).await.unwrap()
    }

    /// Publishes rows to partitions in turn, as our writers would.
    fn publish(&self, family: Family, batch: &RecordBatch) {
        let values = frame::encode(family, batch).unwrap();
        for (value, key) in values.into_iter().zip(frame::keys(family, batch)) {
            self.raw(family, Some(key), Some(value));
        }
    }

    fn raw(&self, family: Family, key: Option<Bytes>, value: Option<Bytes>) -> Event {
        let partition = (self.log.events.lock().unwrap().values().map(Vec::len).sum::<usize>() % family.topic().partitions as usize) as i32;
        let event = Event {
            family,
            partition,
            offset: self.log.next((family, partition)),
            ts_ms: 1_700_000_000_123,
            ts_type: TimestampType::LogAppend,
            key,
            value,
            headers: Vec::new(),
        };
        self.log.append(event.clone());
        event
    }

    /// All rows of a table in its stored schema.
    async fn rows(&self, family: Family) -> RecordBatch {
        let schema = family.topic().stored_schema();
        let table = self.lake.table(family).await.unwrap();
        let mut batches = Vec::new();
        for file in table.snapshot().files() {
            let bytes = self.lake.object_store().get(&file.location).await.unwrap().bytes().await.unwrap();
            for part in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
                let part = part.unwrap();
                let columns = schema.fields().iter().map(|field| -> ArrayRef {
                    let Some((_, value)) = file.partition_values.iter().find(|(name, _)| name == field.name()) else {
                        return part.column_by_name(field.name()).unwrap().clone();
                    };
                    let text: ArrayRef = Arc::new(StringArray::from(vec![value.as_deref(); part.num_rows()]));
                    arrow::compute::cast(&text, field.data_type()).unwrap()
                });
                batches.push(RecordBatch::try_new(schema.clone(), columns.collect()).unwrap());
            }
        }
        concat_batches(schema, &batches).unwrap()
    }

    /// Table and kind of what a verification finds, each once; beside the log or without it.
    async fn found(&self, beside: bool) -> Vec<(&'static str, &'static str)> {
        let log = Arc::new(Shared(self.log.clone())) as Arc<dyn EventLog>;
        let verified = match beside {
            true => store::verify::verify_against(&self.lake, &log, &mut |_| {}).await,
            false => store::verify::verify(&self.lake, &mut |_| {}).await,
        };
        let findings = verified.unwrap().findings;
        findings.iter().map(|finding| (finding.table, finding.kind)).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Path and text of every entry of a table's log.
    fn entries(&self, table: &str) -> Vec<(std::path::PathBuf, String)> {
        let folder = std::fs::read_dir(self.directory.path().join(table).join("_delta_log")).unwrap();
        let paths = folder.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|ext| ext == "json"));
        paths.map(|path| (path.clone(), std::fs::read_to_string(&path).unwrap())).collect()
    }

    /// Puts rows into `gaps` as somebody would who is not the store.
    async fn note(&self, rows: RecordBatch) {
        let mut gaps = self.lake.existing(Family::Gaps).await.unwrap().unwrap();
        gaps.commit(&[rows], &[], serde_json::Map::new()).await.unwrap();
    }

    /// Every event of the family is a row that tells it exactly, or is in quarantine with its bytes; each once. Returns how many were bad.
    async fn check(&self, family: Family) -> usize {
        let verified = store::verify::verify(&self.lake, &mut |_| {}).await.unwrap();
        // Some stories lose offsets, or publish the same rows again: the proof says so.
        assert!(verified.findings.iter().all(|finding| ["lost", "doubled"].contains(&finding.kind)), "{:#?}", verified.findings);
        let rows = self.rows(family).await;
        let mut expected: BTreeMap<(i32, i64), Event> = BTreeMap::new();
        for partition in 0..family.topic().partitions {
            expected.extend(self.log.partition((family, partition)).into_iter().map(|event| ((event.partition, event.offset), event)));
        }
        let records = record::rebuild(family, &rows).unwrap();
        let (partitions, offsets) = (ints(&rows, "_partition"), longs(&rows, "_offset"));
        for (row, record) in records.into_iter().enumerate() {
            let (Some(partition), Some(offset)) = (partitions[row], offsets[row]) else { continue };
            let event = expected.remove(&(partition, offset)).unwrap_or_else(|| panic!("{partition}/{offset} is there twice"));
            let told = (record.key, record.value, record.headers, record.ts_ms, record.ts_type);
            assert_eq!(told, (event.key, event.value, event.headers, event.ts_ms, event.ts_type));
        }
        let quarantine = self.rows(Family::Quarantine).await;
        let topics = quarantine.column_by_name("origin_topic").unwrap().as_string::<i32>();
        let (partitions, offsets) = (ints(&quarantine, "origin_partition"), longs(&quarantine, "origin_offset"));
        let raw = quarantine.column_by_name("raw").unwrap().as_binary::<i32>();
        let name = format!("tape.{}", family.topic().name);
        let mut bad = 0;
        for row in 0..quarantine.num_rows() {
            let written_here = quarantine.column_by_name("_offset").unwrap().is_null(row);
            if written_here && topics.is_valid(row) && topics.value(row) == name {
                let at = (partitions[row].unwrap(), offsets[row].unwrap());
                let event = expected.remove(&at).unwrap_or_else(|| panic!("{at:?} is quarantined twice, or stored too"));
                assert_eq!(raw.is_valid(row).then(|| raw.value(row)), event.value.as_deref());
                bad += 1;
            }
        }
        assert!(expected.is_empty(), "not stored: {:?}", expected.keys().collect::<Vec<_>>());
        bad
    }
}

fn ints(batch: &RecordBatch, name: &str) -> Vec<Option<i32>> {
    batch.column_by_name(name).unwrap().as_primitive::<Int32Type>().iter().collect()
}

fn longs(batch: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().iter().collect()
}

/// Commits after a few rows, so that a test sees many commits.
fn small() -> Limits {
    Limits { rows_max: 20, ..Limits::default() }
}

fn wire(family: Family, seed: u64, rows: usize) -> RecordBatch {
    let mut dice = Dice(seed);
    let topic = family.topic();
    let columns = topic.fields.iter().map(|field| column(&mut dice, field, rows)).collect();
    RecordBatch::try_new(topic.wire_schema().clone(), columns).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]
    /// Given any rows of any family, with odd keys, headers and clocks among them, then every record can be made again from its row.
    #[test]
    fn a_record_can_be_made_again_from_its_row(seed in any::<u64>(), family in proptest::sample::select(&Family::ALL[..]), count in 1usize..40) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let home = Home::new();
            home.publish(family, &wire(family, seed, count));
            let mut dice = Dice(seed);
            for events in home.log.events.lock().unwrap().values_mut() {
                events.iter_mut().for_each(|event| make_odd(&mut dice, event));
            }
            let report = home.once().await;
            let bad = home.check(family).await;
            prop_assert_eq!(report.quarantined_total(), bad as u64);
            prop_assert!(report.is_clean() == (bad == 0));
            prop_assert_eq!(report.read, report.to_read);
            let again = home.once().await;
            prop_assert_eq!((again.rows_total(), again.commits), (0, 0), "a second run finds nothing to do");
            Ok(())
        })?;
    }
}

/// What a foreign producer might do to an event.
fn make_odd(dice: &mut Dice, event: &mut Event) {
    match dice.below(10) {
        0 => event.key = None,
        1 => event.key = Some(Bytes::new()),
        2 => event.headers = vec![("a".into(), None), (String::new(), Some(Bytes::from_static(b"\0")))],
        3 => event.ts_type = TimestampType::Create,
        4 => (event.ts_ms, event.ts_type) = (-1, TimestampType::None),
        5 => event.ts_ms = i64::MAX,
        6 => event.value = event.value.take().map(overlong),
        7 => event.value = event.value.take().map(|value| value.slice(..value.len() - 1)),
        _ => {}
    }
}

/// The same record with the length of its first text written in one byte more than needed.
fn overlong(value: Bytes) -> Bytes {
    let mut bytes = value.to_vec();
    if bytes[5] < 0x80 {
        bytes[5] |= 0x80;
        bytes.insert(6, 0);
    }
    bytes.into()
}

/// Given a log that repeats itself and breaks off again and again, and a disk that loses answers, then every record is stored once.
#[tokio::test(flavor = "multi_thread")]
async fn trouble_everywhere_stores_each_record_once() {
    let home = Home::new();
    home.publish(Family::Trades, &wire(Family::Trades, 1, 300));
    home.publish(Family::Bars, &wire(Family::Bars, 2, 100));
    home.publish(Family::Quarantine, &wire(Family::Quarantine, 3, 30));
    for family in [Family::Trades, Family::Bars, Family::Quarantine] {
        for n in 0..5 {
            home.raw(family, None, Some(Bytes::from(vec![n])));
        }
    }
    home.log.repeats.store(true, Ordering::SeqCst);
    home.log.fails_after.store(9, Ordering::SeqCst);
    home.disk.loses_every.store(4, Ordering::SeqCst);
    let report = home.once().await;
    assert!(report.retries > 2 && report.skipped > 0, "{report:?}");
    assert!(home.check(Family::Trades).await >= 5);
    assert!(home.check(Family::Bars).await >= 5);
    assert!(home.check(Family::Quarantine).await >= 5);
    assert_eq!(home.log.stored.lock().unwrap()[&(Family::Bars, 0)], home.log.next((Family::Bars, 0)));
}

/// Given poison among good records, then the good are stored, the poison is in quarantine with its reason, and the report counts it.
#[tokio::test(flavor = "multi_thread")]
async fn poison_is_quarantined_whole() {
    let home = Home::new();
    let mut rows = schemas::Rows::new(Family::Bars);
    let topic = Family::Bars.topic();
    for (n, dataset) in ["GOOD", "", "A.DATASET.MUCH.TOO.LONG"].iter().enumerate() {
        rows.text(topic.column("dataset"), dataset);
        rows.text(topic.column("change"), "new");
        rows.i32(topic.column("revision"), 0);
        rows.bytes(topic.column("source_id"), &[1; 16]);
        rows.i64(topic.column("source_record"), n as i64);
        rows.i64(topic.column("source_byte"), 0);
        rows.date(topic.column("date"), if n == 0 { i32::MAX } else { 0 });
        rows.end_row();
    }
    home.publish(Family::Bars, &rows.finish().unwrap());
    let good = wire(Family::Bars, 4, 3);
    home.publish(Family::Bars, &good);
    home.raw(Family::Bars, Some("GOOD/x".into()), None);
    home.raw(Family::Bars, Some("A.DATASET.MUCH.TOO.LONG/x".into()), Some(Bytes::new()));
    home.raw(Family::Bars, None, Some(Bytes::from_static(b"\x01\0\0\x03\xEFxx")));
    home.raw(Family::Bars, Some("no slash".into()), Some(Bytes::from_static(b"\0\0\0\0\x07xx")));
    home.raw(Family::Bars, Some(Bytes::from_static(b"\xFF/")), Some(Bytes::from_static(b"\0\0\0\x03\xEF\x02")));
    home.publish(Family::Bars, &good);
    let report = home.once().await;
    assert_eq!(home.check(Family::Bars).await, 8);
    assert_eq!(report.rows[&Family::Bars], 6);
    assert_eq!(report.rows[&Family::Quarantine], 8);
    assert_eq!(report.quarantined_total(), 8);
    assert!(!report.is_clean());
    let reasons: Vec<&str> = report.quarantined.keys().map(|(_, reason)| reason.as_str()).collect();
    for part in ["null", "magic", "schema id 7", "too few", "beyond the years", "characters"] {
        assert!(reasons.iter().any(|reason| reason.contains(part)), "{part}: {reasons:?}");
    }
    let quarantine = home.rows(Family::Quarantine).await;
    let datasets: Vec<&str> = quarantine.column_by_name("dataset").unwrap().as_string::<i32>().iter().flatten().collect();
    assert_eq!(datasets.iter().filter(|d| **d == "GOOD").count(), 2, "{datasets:?}");
    assert_eq!(datasets.iter().filter(|d| **d == "UNKNOWN").count(), 6, "{datasets:?}");
    assert!(quarantine.column_by_name("_key").unwrap().null_count() == 0);
}

/// Given a crash after the commit to quarantine and before the family's, when the store starts again, then neither is doubled.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_quarantine_and_family() {
    for after in [false, true] {
        let home = Home::new();
        // The table is there: the fault is that of a commit.
        home.lake.table(Family::Bars).await.unwrap();
        home.publish(Family::Bars, &wire(Family::Bars, 5, 6));
        home.raw(Family::Bars, None, Some(Bytes::from_static(b"poison")));
        home.publish(Family::Bars, &wire(Family::Bars, 6, 6));
        let fault = if after { &home.disk.after } else { &home.disk.before };
        *fault.lock().unwrap() = Some("bars");
        let store = Store::new(Arc::new(Shared(home.log.clone())), home.lake.clone(), Options { tries_max: 1, ..Options::default() });
        let crashed = store.run_once(&mut |_| {}).await;
        assert!(matches!(crashed, Err(store::Error::GaveUp { tries: 1, .. })), "{crashed:?}");
        assert_eq!(home.rows(Family::Quarantine).await.num_rows(), 1);
        assert_eq!(home.rows(Family::Bars).await.num_rows(), if after { 12 } else { 0 });
        home.raw(Family::Bars, None, Some(Bytes::from_static(b"more poison")));
        home.once().await;
        assert_eq!(home.check(Family::Bars).await, 2);
    }
}

/// Given a crash after the commit to quarantine, and somebody who takes away what it brought, then the store does not pass over the poison as if it
/// were there: it says which record would be lost.
#[tokio::test(flavor = "multi_thread")]
async fn poison_that_quarantine_does_not_have_is_not_passed_over() {
    let home = Home::new();
    home.lake.table(Family::Bars).await.unwrap();
    let poison = home.raw(Family::Bars, None, Some(Bytes::from_static(b"poison")));
    *home.disk.before.lock().unwrap() = Some("bars");
    let store = Store::new(Arc::new(Shared(home.log.clone())), home.lake.clone(), Options { tries_max: 1, ..Options::default() });
    store.run_once(&mut |_| {}).await.unwrap_err();
    let whole = home.entries("quarantine");
    for (path, entry) in &whole {
        std::fs::write(path, entry.lines().filter(|line| !line.contains("\"add\"")).collect::<Vec<_>>().join("\n")).unwrap();
    }
    let refused = home.store(small()).run_once(&mut |_| {}).await;
    let is_refused = matches!(&refused, Err(store::Error::NotQuarantined { offset, partition, .. }) if (*partition, *offset) == (poison.partition, poison.offset));
    assert!(is_refused, "{refused:?}");
    whole.iter().for_each(|(path, entry)| std::fs::write(path, entry).unwrap());
    home.once().await;
    assert_eq!(home.check(Family::Bars).await, 1);
}

/// Given poison that is in quarantine when the family's commit fails, then the run that goes on after it tells of it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_quarantined_before_a_commit_failed_is_told() {
    let home = Home::new();
    home.lake.table(Family::Bars).await.unwrap();
    home.publish(Family::Bars, &wire(Family::Bars, 5, 6));
    home.raw(Family::Bars, None, Some(Bytes::from_static(b"poison")));
    *home.disk.before.lock().unwrap() = Some("bars");
    let report = home.once().await;
    assert_eq!((report.retries, report.quarantined_total(), report.rows_total()), (1, 1, 7), "{report:?}");
    assert!(!report.is_clean());
    assert_eq!(home.check(Family::Bars).await, 1);
}

/// Given two stores on one log, when both run at once, then every record is stored once.
#[tokio::test(flavor = "multi_thread")]
async fn two_stores_do_not_double() {
    let home = Home::new();
    home.once().await;
    home.publish(Family::Trades, &wire(Family::Trades, 7, 200));
    home.raw(Family::Trades, None, Some(Bytes::from_static(b"poison")));
    let (one, two) = (home.store(small()), home.store(small()));
    let (mut nothing, mut nothing_too) = (|_: &Report| {}, |_: &Report| {});
    let (first, second) = tokio::join!(one.run_once(&mut nothing), two.run_once(&mut nothing_too));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.rows_total() + second.rows_total(), 201);
    assert_eq!(home.check(Family::Trades).await, 1);
}

/// Given holes that a log has, then the commit names them; given offsets that a log lost, then `gaps` has one row, however often it is found.
#[tokio::test(flavor = "multi_thread")]
async fn holes_are_named_and_losses_are_gaps() {
    let home = Home::new();
    let family = Family::Bars;
    home.publish(family, &wire(family, 8, 10));
    {
        let mut events = home.log.events.lock().unwrap();
        let events = events.get_mut(&(family, 0)).unwrap();
        for (n, event) in events.iter_mut().enumerate() {
            event.offset = 100 + 2 * n as i64 + i64::from(n >= 5) * 10;
        }
        home.log.low.lock().unwrap().insert((family, 0), 100);
    }
    let report = home.once().await;
    assert_eq!(report.lost, 100);
    assert!(!report.is_clean());
    assert_eq!(home.check(family).await, 0);
    let gaps = home.rows(Family::Gaps).await;
    assert_eq!((longs(&gaps, "from_seq"), longs(&gaps, "to_seq")), (vec![Some(0)], vec![Some(99)]));
    let entry = std::fs::read_to_string(home.directory.path().join("bars/_delta_log/00000000000000000001.json")).unwrap();
    let info: serde_json::Value = serde_json::from_str(entry.lines().next().unwrap()).unwrap();
    let said = &info["commitInfo"]["tokentape"];
    assert_eq!(said["cluster"], "test-cluster");
    assert_eq!(said["topicId"], "id-of-bars");
    assert_eq!(said["schemas"][0]["id"], family.topic().schema_id);
    assert_eq!(said["schemas"][0]["sha256"].as_str().unwrap().len(), 64);
    let partition = &said["partitions"][0];
    assert_eq!((partition["from"].as_i64(), partition["to"].as_i64(), partition["records"].as_u64()), (Some(99), Some(128), Some(10)));
    assert_eq!(partition["absent"][4], serde_json::json!([109, 119, "control_or_aborted"]));
    home.log.low.lock().unwrap().insert((family, 0), 104);
    assert_eq!(home.once().await.lost, 0, "what was stored before it was lost is no loss");
    assert_eq!(home.rows(Family::Gaps).await.num_rows(), 1);
    // What is lost behind all that was stored is told for as long as it is missing.
    home.publish(family, &wire(family, 9, 10));
    let end = home.log.next((family, 0));
    assert!(end > 129);
    home.log.low.lock().unwrap().insert((family, 0), end);
    assert_eq!(home.once().await.lost, (end - 129).unsigned_abs());
    let findings = store::verify::verify(&home.lake, &mut |_| {}).await.unwrap().findings;
    let lost = |offsets: (i64, i64)| findings.iter().any(|finding| finding.kind == "lost" && finding.offsets == Some(offsets));
    assert!(lost((0, 99)) && lost((129, end - 1)), "{findings:?}");
}

/// Given a loss behind all that is stored, when its row of `gaps` is taken away, made smaller, or joined by one about what is stored, then that
/// is found. Before, the tables were whole again.
#[tokio::test(flavor = "multi_thread")]
async fn a_loss_cannot_be_wiped_out() {
    let home = Home::new();
    let family = Family::Bars;
    for seed in [8, 9, 10] {
        home.publish(family, &wire(family, seed, 10));
        if seed == 8 {
            home.once().await;
        }
    }
    let (stored, end) = (
        home.lake.find(family).await.unwrap().unwrap().txn_version("bars/id-of-bars/0").await.unwrap().unwrap(),
        home.log.next((family, 0)),
    );
    assert!(stored > 0 && end > stored + 2);
    // Before the store has seen it, the log alone tells.
    home.log.low.lock().unwrap().insert((family, 0), end);
    assert_eq!(home.found(true).await, [("bars", "gap")]);
    home.once().await;
    assert_eq!(home.found(true).await, [("bars", "lost")]);
    let whole = home.entries("gaps");
    assert_eq!(whole.iter().filter(|(_, entry)| entry.contains("\"add\"")).count(), 1);
    for (path, entry) in &whole {
        std::fs::write(path, entry.lines().filter(|line| !line.contains("\"add\"")).collect::<Vec<_>>().join("\n")).unwrap();
    }
    assert_eq!(home.found(false).await, [("gaps", "missing")]);
    assert_eq!(home.found(true).await, [("bars", "gap"), ("gaps", "missing")]);
    // Another row in its place, which says that one offset was lost.
    home.note(store::decode::gap("tape.bars", 0, end - 1, end - 1).unwrap()).await;
    assert_eq!(home.found(false).await, [("bars", "lost"), ("gaps", "missing")]);
    home.note(store::decode::gap("tape.bars", 0, stored, end - 2).unwrap()).await;
    assert_eq!(home.found(false).await, [("bars", "lost"), ("gaps", "unclaimed")], "all is told, by a row that nobody noted");

    whole.iter().for_each(|(path, entry)| std::fs::write(path, entry).unwrap());
    for (path, _) in home.entries("gaps").into_iter().filter(|(path, _)| !whole.iter().any(|(known, _)| known == path)) {
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(home.found(true).await, [("bars", "lost")]);
    home.note(store::decode::gap("tape.bars", 0, 0, stored - 1).unwrap()).await;
    assert_eq!(home.found(false).await, [("bars", "lost"), ("gaps", "overlap"), ("gaps", "unclaimed")]);
}

/// Given losses that were noted one after the other before anything was stored again, then their rows together explain the hole.
#[tokio::test(flavor = "multi_thread")]
async fn losses_that_follow_each_other_explain_one_hole() {
    let home = Home::new();
    let family = Family::Bars;
    home.publish(family, &wire(family, 8, 40));
    let end = home.log.next((family, 0));
    for low in [2, end] {
        home.log.low.lock().unwrap().insert((family, 0), low);
        // The first time all that is left of the partition waits, as after a crash.
        *home.disk.before.lock().unwrap() = (low == 2).then_some("bars");
        let store = Store::new(Arc::new(Shared(home.log.clone())), home.lake.clone(), Options { tries_max: 1, ..Options::default() });
        assert_eq!(store.run_once(&mut |_| {}).await.is_ok(), low == end);
    }
    home.publish(family, &wire(family, 9, 40));
    home.once().await;
    assert_eq!(home.rows(Family::Gaps).await.num_rows(), 2);
    assert_eq!(home.found(true).await, [("bars", "lost")]);
}

/// Given a log that ends before what the tables have, then the store says so and touches nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_replaced_is_refused() {
    let home = Home::new();
    home.publish(Family::Bars, &wire(Family::Bars, 9, 10));
    home.once().await;
    home.log.events.lock().unwrap().get_mut(&(Family::Bars, 0)).unwrap().truncate(4);
    let refused = home.store(small()).run_once(&mut |_| {}).await;
    assert!(matches!(refused, Err(store::Error::Ahead { stored: 10, high: 4, .. })), "{refused:?}");
}

/// Given a log that was brought back from an older copy and has gone on past what was stored, then the store refuses it before anything is
/// committed: the records in between would be lost. What retention took away is not compared.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_brought_back_and_went_on_is_refused() {
    let home = Home::new();
    let family = Family::Bars;
    home.publish(family, &wire(family, 9, 10));
    home.once().await;
    let stored_last = home.log.partition((family, 0)).last().unwrap().clone();
    for change in [
        |event: &mut Event| event.ts_ms += 1,
        |event: &mut Event| event.value = Some(Bytes::from_static(b"other")),
        |event: &mut Event| {
            event.offset += 1;
        },
    ] {
        let before = home.log.partition((family, 0));
        let mut other = before.clone();
        change(other.last_mut().unwrap());
        home.log.events.lock().unwrap().insert((family, 0), other);
        home.publish(family, &wire(family, 10, 5));
        let refused = home.store(small()).run_once(&mut |_| {}).await;
        assert!(
            matches!(refused, Err(store::Error::Rewritten { partition: 0, offset, .. }) if offset == stored_last.offset),
            "{refused:?}"
        );
        let doctor = store::refuse_other_log(&(Arc::new(Shared(home.log.clone())) as Arc<dyn EventLog>), &home.lake).await;
        assert!(matches!(doctor, Err(store::Error::Rewritten { .. })), "{doctor:?}");
        assert_eq!(home.rows(family).await.num_rows(), 10);
        home.log.events.lock().unwrap().insert((family, 0), before);
    }
    home.publish(family, &wire(family, 11, 5));
    home.log.low.lock().unwrap().insert((family, 0), 10);
    home.once().await;
    assert_eq!(home.rows(family).await.num_rows(), 15);
}

/// Given tables of one log, then another one is refused, with both named, even where it has nothing for a table: what both hold would be
/// stored twice.
#[tokio::test(flavor = "multi_thread")]
async fn tables_of_another_log_are_refused() {
    let home = Home::new();
    let store = || home.store(small());
    let refuse = async || store::refuse_other_log(&(Arc::new(Shared(home.log.clone())) as Arc<dyn EventLog>), &home.lake).await;
    refuse().await.unwrap();
    home.publish(Family::Bars, &wire(Family::Bars, 9, 10));
    home.raw(Family::Trades, None, Some(Bytes::from_static(b"poison")));
    home.once().await;
    refuse().await.unwrap();
    home.once().await;
    home.log.remade.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let refused = store().run_once(&mut |_| {}).await.unwrap_err();
        let said = refused.to_string();
        assert!(matches!(refused, store::Error::OtherLog { table: "trades", .. }), "{said}");
        for part in ["id id-of-trades, cluster test-cluster", "id new-id-of-trades, cluster test-cluster", "--tables"] {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(refuse().await.unwrap_err().to_string(), said);
        // The second time the log has nothing at all.
        home.log.events.lock().unwrap().clear();
    }
    std::fs::remove_dir_all(home.directory.path().join("trades")).unwrap();
    assert!(refuse().await.unwrap_err().to_string().contains("table bars"));
    std::fs::remove_dir_all(home.directory.path().join("bars")).unwrap();
    let said = refuse().await.unwrap_err().to_string();
    assert!(said.contains("table quarantine") && said.contains("id id-of-trades") && said.contains("id new-id-of-trades"), "{said}");
    home.log.remade.store(false, Ordering::SeqCst);
    refuse().await.unwrap();
}

/// Given one empty folder of tables and two logs, when both are stored at the same moment, then one of them has the folder for ever, with
/// every record once, and the other is refused, now and later, whatever table it begins with.
#[tokio::test(flavor = "multi_thread")]
async fn two_logs_at_the_same_moment_do_not_share_tables() {
    const ROWS: usize = 20;
    for round in 0..ROUNDS {
        let one = Home::new();
        let two = Home { lake: one.lake.clone(), disk: one.disk.clone(), ..Home::new() };
        two.log.remade.store(true, Ordering::SeqCst);
        let families = if round % 2 == 0 { [Family::Bars, Family::Bars] } else { [Family::Bars, Family::Trades] };
        one.publish(families[0], &wire(families[0], 9, ROWS));
        two.publish(families[1], &wire(families[1], 9, ROWS));
        let barrier = Arc::new(tokio::sync::Barrier::new(2));
        let both = [&one, &two].map(|home| {
            let (store, barrier) = (home.store(small()), barrier.clone());
            tokio::spawn(async move {
                barrier.wait().await;
                store.run_once(&mut |_| {}).await
            })
        });
        let [first, second] = both;
        let done = [first.await.unwrap(), second.await.unwrap()];
        let (won, lost) = match &done {
            [Ok(_), Err(e)] => (0, e),
            [Err(e), Ok(_)] => (1, e),
            neither => panic!("round {round}: {neither:?}"),
        };
        assert!(matches!(lost, store::Error::OtherLog { .. }), "round {round}: {lost}");
        let said = lost.to_string();
        assert!(said.contains("id id-of-") && said.contains("id new-id-of-"), "both logs are named: {said}");
        let (winner, loser) = if won == 0 { (&one, &two) } else { (&two, &one) };
        assert_eq!(winner.rows(families[won]).await.num_rows(), ROWS, "round {round}");
        assert_eq!(one.lake.tables().await.unwrap(), [families[won]], "round {round}");
        let origin =
            async |home: &Home| store::refuse_other_log(&(Arc::new(Shared(home.log.clone())) as Arc<dyn EventLog>), &home.lake).await;
        let again = loser.store(small()).run_once(&mut |_| {}).await.unwrap_err();
        assert!(matches!(again, store::Error::OtherLog { .. }), "round {round}: {again}");
        assert_eq!(origin(loser).await.unwrap_err().to_string(), again.to_string());
        origin(winner).await.unwrap();
        winner.once().await;
        assert_eq!(winner.rows(families[won]).await.num_rows(), ROWS, "round {round}");
    }
}

/// Given tables of a version that claimed nothing, then the next store of their log claims them, and another log has no way in.
#[tokio::test(flavor = "multi_thread")]
async fn tables_without_a_claim_are_claimed() {
    let home = Home::new();
    let claim = home.directory.path().join("_tokentape_log.json");
    home.once().await;
    assert!(!claim.exists(), "nothing is stored, so nothing is claimed");
    home.publish(Family::Bars, &wire(Family::Bars, 9, 10));
    home.once().await;
    let said = std::fs::read_to_string(&claim).unwrap();
    for part in ["test-cluster", "tape.bars", "id-of-bars", "id-of-trades"] {
        assert!(said.contains(part), "{said}");
    }
    std::fs::remove_file(&claim).unwrap();
    home.once().await;
    assert_eq!(std::fs::read_to_string(&claim).unwrap(), said);
    std::fs::remove_dir_all(home.directory.path().join("bars")).unwrap();
    home.log.remade.store(true, Ordering::SeqCst);
    let refused = home.store(small()).run_once(&mut |_| {}).await.unwrap_err();
    assert!(matches!(refused, store::Error::OtherLog { .. }), "{refused}");
    std::fs::write(&claim, "nonsense").unwrap();
    let refused = home.store(small()).run_once(&mut |_| {}).await.unwrap_err();
    assert!(matches!(refused, store::Error::OtherLog { .. }), "{refused}");
}

/// Given a running store, when rows grow old, then they are committed; when it is told to stop, then what it read is committed first.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_commits_by_age_and_on_stopping() {
    let home = Home::new();
    let store = home.store(Limits { age_max: Some(Duration::from_millis(200)), ..Limits::default() });
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(async move { store.run(async { drop(stopped.await) }, &mut |_| {}).await });
    home.publish(Family::Bars, &wire(Family::Bars, 10, 15));
    wait_until(|| home.log.stored.lock().unwrap().get(&(Family::Bars, 0)) == Some(&15)).await;
    home.publish(Family::Bars, &wire(Family::Bars, 11, 15));
    let polls = home.log.polls.load(Ordering::SeqCst);
    wait_until(|| home.log.polls.load(Ordering::SeqCst) > polls + 4).await;
    stop.send(()).unwrap();
    let report = running.await.unwrap().unwrap();
    assert_eq!(report.rows[&Family::Bars], 30);
    assert_eq!(home.check(Family::Bars).await, 0);
}

/// F14: given a topic that is deleted and made again while rows of it wait for their commit, then they are not committed as rows of either.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_again_between_reading_and_committing_is_refused() {
    let home = Home::new();
    let store = home.store(Limits { age_max: None, ..Limits::default() });
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(async move { store.run(async { drop(stopped.await) }, &mut |_| {}).await });
    wait_until(|| home.log.polls.load(Ordering::SeqCst) > 0).await;
    home.publish(Family::Bars, &wire(Family::Bars, 10, 15));
    let polls = home.log.polls.load(Ordering::SeqCst);
    wait_until(|| home.log.polls.load(Ordering::SeqCst) > polls + 4).await;
    home.log.remade.store(true, Ordering::SeqCst);
    stop.send(()).unwrap();
    let error = running.await.unwrap().unwrap_err();
    assert!(matches!(error, store::Error::OtherLog { table: "bars", .. }), "{error}");
    assert!(home.lake.find(Family::Bars).await.unwrap().is_none(), "nothing is stored");
}

async fn wait_until(condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "waited for a minute");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Given a store at work, then whoever opens its tables meanwhile does not take the log for one that was cut: the log's ends are asked for after
/// the tables were read. The simulation found it.
#[tokio::test(flavor = "multi_thread")]
async fn another_store_at_work_does_not_look_like_a_log_that_was_cut() {
    let home = Arc::new(Home::new());
    home.publish(Family::Bars, &wire(Family::Bars, 12, 10));
    home.once().await;
    let other = home.clone();
    let storing = tokio::spawn(async move {
        for seed in 0..10 {
            other.publish(Family::Bars, &wire(Family::Bars, 100 + seed, 10));
            other.once().await;
        }
    });
    let log: Arc<dyn EventLog> = Arc::new(Shared(home.log.clone()));
    while !storing.is_finished() {
        store::refuse_other_log(&log, &home.lake).await.unwrap();
    }
    storing.await.unwrap();
    assert_eq!(home.check(Family::Bars).await, 0);
}

/// Given a crash between the commit to quarantine and the family's, and a log that was brought back meanwhile and went on, then the store
/// refuses it, though the family's table has nothing of it yet. The simulation found it.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_brought_back_behind_quarantine_is_refused() {
    let home = Home::new();
    let family = Family::Bars;
    home.lake.table(family).await.unwrap();
    home.publish(family, &wire(family, 13, 6));
    let poison = home.raw(family, None, Some(Bytes::from_static(b"poison")));
    *home.disk.before.lock().unwrap() = Some("bars");
    let store = Store::new(Arc::new(Shared(home.log.clone())), home.lake.clone(), Options { tries_max: 1, ..Options::default() });
    assert!(matches!(store.run_once(&mut |_| {}).await, Err(store::Error::GaveUp { .. })));
    let place = (family, poison.partition);
    home.log.events.lock().unwrap().get_mut(&place).unwrap().last_mut().unwrap().value = Some(Bytes::from_static(b"other poison"));
    home.publish(family, &wire(family, 14, 6));
    let refused = home.store(small()).run_once(&mut |_| {}).await;
    assert!(matches!(refused, Err(store::Error::Rewritten { offset, .. }) if offset == poison.offset), "{refused:?}");
    let at = poison.offset as usize;
    home.log.events.lock().unwrap().get_mut(&place).unwrap()[at] = poison;
    home.once().await;
    assert_eq!(home.check(family).await, 1);
}
