//! Publishing again what stands in quarantine: each record once, whatever is lost on the way.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use eventlog::embedded::{Embedded, Options as LogOptions};
use eventlog::origin::Origin;
use eventlog::{Batch, Event, EventLog, Reader, Records, Start, StateTopic, TopicInfo, TopicReport, Watermarks, Whole, Writer};
use lake::{Lake, Txn};
use schemas::{Family, Rows, frame, record};
use std::collections::HashMap;
use std::sync::Arc;
use store::requeue::{Options as Requeue, Requeued, requeue};
use store::verify::verify_against;
use store::{Options, Store, decode};

struct Home {
    _dir: tempfile::TempDir,
    log: Arc<dyn EventLog>,
    lake: Lake,
}

/// Three bars that somebody wrote to the topic of trades, a frame of a schema that nobody knows, and two good trades; all stored.
async fn home() -> Home {
    let dir = tempfile::tempdir().unwrap();
    let log: Arc<dyn EventLog> = Arc::new(Embedded::open(&dir.path().join("log"), &LogOptions::default()).unwrap());
    log.create_topics().unwrap();
    let lake = Lake::open(dir.path().join("tables").to_str().unwrap()).unwrap();
    let (trades, bars) = (rows(Family::Trades, 2), rows(Family::Bars, 3));
    let mut records =
        Records { family: Family::Trades, keys: frame::keys(Family::Trades, &trades), values: frames(Family::Trades, &trades) };
    records.keys.extend(frame::keys(Family::Bars, &bars));
    records.values.extend(frames(Family::Bars, &bars));
    records.keys.push("T.DATA/TOK".into());
    records.values.push(Bytes::from_static(&[0, 0, 0, 0x27, 0x0f, 2, 2]));
    log.writer("client").unwrap().publish(&Batch { records: vec![records], ..Batch::default() }).unwrap();
    let home = Home { _dir: dir, log, lake };
    home.store().await;
    assert_eq!(home.rows(Family::Quarantine).await.iter().map(RecordBatch::num_rows).sum::<usize>(), 4);
    home
}

fn frames(family: Family, rows: &RecordBatch) -> Vec<Bytes> {
    frame::encode(family, rows).unwrap()
}

fn rows(family: Family, count: i64) -> RecordBatch {
    let topic = family.topic();
    let mut rows = Rows::new(family);
    for n in 0..count {
        rows.text(topic.column("dataset"), "T.DATA");
        rows.text(topic.column("symbol"), "TOK");
        rows.text(topic.column("change"), "new");
        rows.i32(topic.column("revision"), 0);
        rows.date(topic.column("date"), 20_000);
        rows.i64(topic.column("ts_event"), n);
        rows.bytes(topic.column("source_id"), &[7; 16]);
        rows.i64(topic.column("source_record"), n);
        rows.i64(topic.column("source_byte"), n);
        rows.end_row();
    }
    rows.finish().unwrap()
}

impl Home {
    async fn store(&self) {
        Store::new(self.log.clone(), self.lake.clone(), Options::default()).run_once(&mut |_| {}).await.unwrap();
    }

    async fn requeue(&self, options: &Requeue) -> Requeued {
        requeue(&self.log, &self.lake, options).await.unwrap()
    }

    async fn rows(&self, family: Family) -> Vec<RecordBatch> {
        let Some(table) = self.lake.find(family).await.unwrap() else { return Vec::new() };
        let mut all = Vec::new();
        for file in table.snapshot().files() {
            let bytes = self.lake.fetch(family, file).await.unwrap();
            all.extend(self.lake.rows(family, file, bytes).unwrap().map(Result::unwrap));
        }
        all
    }

    /// Numbers of the bars that are stored.
    async fn bars(&self) -> Vec<i64> {
        let at = Family::Bars.topic().column("source_record");
        let numbers = |rows: &RecordBatch| rows.column(at).as_primitive::<Int64Type>().values().to_vec();
        let mut all: Vec<i64> = self.rows(Family::Bars).await.iter().flat_map(numbers).collect();
        all.sort_unstable();
        all
    }

    fn ends(&self) -> Vec<Watermarks> {
        Family::ALL.iter().flat_map(|family| self.log.watermarks(*family).unwrap()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_decoded_now_is_published_again_once_and_the_rest_says_why_not() {
    let home = home().await;
    let before = home.ends();
    let told = home.requeue(&Requeue { dry_run: true, ..Requeue::default() }).await;
    assert_eq!((told.looked, &told.published[&"bars"], told.already), (4, &3, 0));
    assert_eq!(told.still_bad["trades"].values().sum::<u64>(), 1);
    assert!(told.still_bad["trades"].keys().all(|why| why.contains("9999")), "{told:?}");
    assert_eq!(home.ends(), before, "a dry run publishes nothing");

    assert_eq!(home.requeue(&Requeue::default()).await, told);
    // Nothing of it is stored yet: the log itself knows that it was done.
    let again = home.requeue(&Requeue::default()).await;
    assert_eq!((again.published.len(), again.already), (0, 3));

    home.store().await;
    assert_eq!(home.bars().await, [0, 1, 2]);
    assert_eq!(home.requeue(&Requeue::default()).await.already, 3);
    home.store().await;
    assert_eq!(home.bars().await, [0, 1, 2]);
    assert_eq!(verify_against(&home.lake, &home.log, &mut |_| {}).await.unwrap().findings, []);
}

/// The stored row says where its record stood, keeps its bytes, and has the time at which it could first be known.
/// Given a bad record that was replayed from another log, then it is left alone: that log may have published it again, and the replay brings that too.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_replayed_is_requeued_where_it_comes_from() {
    let home = home().await;
    let bars = rows(Family::Bars, 4).slice(3, 1);
    let origin = Origin {
        topic: "tape.trades".into(),
        topic_id: "x".into(),
        partition: 0,
        offset: 7,
        ts_ms: 1_764_000_000_000,
        ts_type: record::TimestampType::LogAppend,
    };
    let whole = Whole { partition: 0, key: None, value: Some(frames(Family::Bars, &bars).remove(0)), headers: origin.headers() };
    home.log.writer("replay").unwrap().publish(&Batch { wholes: vec![(Family::Trades, vec![whole])], ..Batch::default() }).unwrap();
    home.store().await;
    let told = home.requeue(&Requeue::default()).await;
    assert_eq!(told.published[&"bars"], 3, "those of this log: {told:?}");
    assert!(told.still_bad["trades"].keys().any(|why| why.contains("replayed")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_requeued_says_where_it_stood() {
    let home = home().await;
    let bad = home.rows(Family::Quarantine).await.remove(0);
    let stood = record::rebuild_quarantined(&bad).unwrap();
    home.requeue(&Requeue::default()).await;
    home.store().await;
    let rows = home.rows(Family::Bars).await.remove(0);
    let records = record::rebuild(Family::Bars, &rows).unwrap();
    for record in &records {
        let (topic, partition, offset, before) = stood.iter().find(|(.., before)| before.value == record.value).expect("equal bytes");
        let told: HashMap<&str, &[u8]> = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref().unwrap())).collect();
        let expected = [
            ("tape-requeued-topic", topic.clone()),
            ("tape-requeued-topic-id", home.log.topic(Family::Trades).unwrap().id),
            ("tape-requeued-partition", partition.to_string()),
            ("tape-requeued-offset", offset.to_string()),
            ("tape-requeued-ts", before.ts_ms.to_string()),
        ];
        assert_eq!(told, expected.iter().map(|(name, value)| (*name, value.as_bytes())).collect());
        assert!(record.ts_ms >= before.ts_ms);
    }
    let cancels = home.rows(Family::Quarantine).await;
    let at = |name: &str| Family::Quarantine.topic().column(name);
    let mut cancelled: Vec<i64> = Vec::new();
    for rows in &cancels {
        let changes = rows.column(at("change")).as_string::<i32>();
        let offsets = rows.column(at("origin_offset")).as_primitive::<Int64Type>();
        cancelled.extend((0..rows.num_rows()).filter(|row| changes.value(*row) == "cancel").map(|row| offsets.value(row)));
    }
    cancelled.sort_unstable();
    let mut expected: Vec<i64> =
        stood.iter().filter(|(.., record)| record.value.as_ref().unwrap().len() > 10).map(|(.., o, _)| *o).collect();
    expected.sort_unstable();
    assert_eq!(cancelled, expected);
}

/// Given a publish that fails, before it was done or after, then the next run finds out which and does what is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_publish_whose_answer_is_lost_doubles_nothing() {
    for done in [false, true] {
        let home = home().await;
        let lossy: Arc<dyn EventLog> = Arc::new(Lossy { log: home.log.clone(), done });
        requeue(&lossy, &home.lake, &Requeue::default()).await.expect_err("the answer is lost");
        let told = home.requeue(&Requeue::default()).await;
        assert_eq!((told.published.get("bars").copied(), told.already), if done { (None, 3) } else { (Some(3), 0) });
        home.store().await;
        assert_eq!(home.bars().await, [0, 1, 2]);
    }
}

/// Given a row of `quarantine` about an offset that the store has not come to, which somebody wrote with its transaction, then it is left alone,
/// counted, and told beside the log; and a bad record that then comes there is not lost unseen.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_commit_proves_is_left_alone() {
    let home = home().await;
    let topic = home.log.topic(Family::Trades).unwrap();
    let end = |partition: i32| home.log.watermarks(Family::Trades).unwrap()[partition as usize].high;
    let partition = (0..topic.partitions).find(|partition| end(*partition) > 0).unwrap();
    let offset = end(partition);
    let forged = rows(Family::Trades, 3).slice(2, 1);
    let value = Some(frames(Family::Trades, &forged).remove(0));
    let event = |value: Option<Bytes>| Event {
        family: Family::Trades,
        partition,
        offset,
        ts_ms: 1_764_000_000_000,
        ts_type: record::TimestampType::LogAppend,
        key: Some("T.DATA/TOK".into()),
        value,
        headers: Vec::new(),
    };
    let bad = decode::Bad { index: 0, field: None, reason: "schema id 1002 is not known on this topic".into() };
    let row = decode::quarantine(&topic.name, &[event(value)], &[bad]).unwrap();
    let mut quarantine = home.lake.existing(Family::Quarantine).await.unwrap().unwrap();
    let app_id = format!("quarantine/{}/{partition}", topic.id);
    let from = quarantine.txn_version(&app_id).await.unwrap();
    quarantine.commit(&[row], &[Txn { app_id, from, to: offset + 1_000 }], serde_json::Map::new()).await.unwrap();

    let told = home.requeue(&Requeue { dry_run: true, ..Requeue::default() }).await;
    assert_eq!((told.looked, told.published.get("trades"), told.published["bars"]), (5, None, 3), "{told:?}");
    assert!(told.still_bad["trades"].iter().any(|(why, count)| why.contains("no commit proves it") && *count == 1), "{told:?}");
    assert!(!told.is_clean());
    let kinds = || async {
        let findings = verify_against(&home.lake, &home.log, &mut |_| {}).await.unwrap().findings;
        findings.iter().map(|finding| (finding.kind, finding.offsets)).collect::<Vec<_>>()
    };
    assert_eq!(kinds().await, [("unlogged", Some((offset, offset)))], "the log has nothing there");
    // Now a real one comes, which cannot be decoded either.
    let whole = Whole { partition, key: None, value: Some("no frame".into()), headers: Vec::new() };
    home.log.writer("client").unwrap().publish(&Batch { wholes: vec![(Family::Trades, vec![whole])], ..Batch::default() }).unwrap();
    assert_eq!(kinds().await, [("differs", Some((offset, offset)))], "it has another record there");
    let refused = Store::new(home.log.clone(), home.lake.clone(), Options::default()).run_once(&mut |_| {}).await;
    let why = refused.expect_err("the record would be in no table").to_string();
    assert!(why.contains(&format!("{}[{partition}]: the record at offset {offset} cannot be decoded", topic.name)), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_asked_for_is_published() {
    let home = home().await;
    let of = |table: Option<Family>, reason: Option<&str>| Requeue { table, reason: reason.map(String::from), dry_run: true };
    assert_eq!(home.requeue(&of(Some(Family::Bars), None)).await, Requeued::default(), "they stood in the topic of trades");
    assert_eq!(home.requeue(&of(Some(Family::Trades), None)).await.looked, 4);
    let told = home.requeue(&of(None, Some("9999"))).await;
    assert_eq!((told.looked, told.published.len()), (1, 0));
}

/// A log whose writer says that it failed: before it published, or after.
struct Lossy {
    log: Arc<dyn EventLog>,
    done: bool,
}

struct LossyWriter {
    writer: Box<dyn Writer>,
    done: bool,
}

impl Writer for LossyWriter {
    fn publish(&mut self, batch: &Batch) -> Result<(), eventlog::Error> {
        if self.done {
            self.writer.publish(batch)?;
        }
        Err(eventlog::Error::Failed { doing: "publishing".into(), why: "the answer was lost".into() })
    }
}

impl EventLog for Lossy {
    fn describe(&self) -> String {
        self.log.describe()
    }
    fn cluster_id(&self) -> Result<String, eventlog::Error> {
        self.log.cluster_id()
    }
    fn create_topics(&self) -> Result<Vec<TopicReport>, eventlog::Error> {
        self.log.create_topics()
    }
    fn check_topics(&self) -> Result<Vec<TopicReport>, eventlog::Error> {
        self.log.check_topics()
    }
    fn topic(&self, family: Family) -> Result<TopicInfo, eventlog::Error> {
        self.log.topic(family)
    }
    fn writer(&self, transactional_id: &str) -> Result<Box<dyn Writer>, eventlog::Error> {
        Ok(Box::new(LossyWriter { writer: self.log.writer(transactional_id)?, done: self.done }))
    }
    fn states(&self, topic: StateTopic) -> Result<HashMap<String, Bytes>, eventlog::Error> {
        self.log.states(topic)
    }
    fn reader(&self, starts: &[Start]) -> Result<Box<dyn Reader>, eventlog::Error> {
        self.log.reader(starts)
    }
    fn watermarks(&self, family: Family) -> Result<Vec<Watermarks>, eventlog::Error> {
        self.log.watermarks(family)
    }
    fn stored(&self, family: Family, partition: i32, offset: i64) -> Result<(), eventlog::Error> {
        self.log.stored(family, partition, offset)
    }
}
