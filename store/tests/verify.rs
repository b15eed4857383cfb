//! What a verification must find: tables of a real store, edited as somebody would who wants to hide something.

use arrow::array::{Array, ArrayRef, Decimal128Array, Int32Array, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use bytes::Bytes;
use eventlog::embedded::{Embedded, Options as LogOptions};
use eventlog::{Batch, EventLog, Polled, Reader, Records, Start, StateTopic, TopicInfo, TopicReport, Watermarks, Writer};
use lake::{FileInfo, Lake};
use parquet::arrow::ArrowWriter;
use schemas::{Family, Rows, frame};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::verify::{Verified, verify, verify_against};
use store::{Options, Store};

const ROWS: i64 = 400;
const F: Family = Family::Trades;

struct Home {
    dir: tempfile::TempDir,
    lake: Lake,
}

impl Home {
    /// Two days of trades in two commits, and one frame that is no record.
    async fn new() -> Home {
        let dir = tempfile::tempdir().unwrap();
        let log: Arc<dyn EventLog> = Arc::new(Embedded::open(&dir.path().join("log"), &LogOptions::default()).unwrap());
        log.create_topics().unwrap();
        let lake = Lake::open(dir.path().join("tables").to_str().unwrap()).unwrap();
        let mut writer = log.writer("test").unwrap();
        for day in 0..2 {
            let rows = trades(day);
            let mut records = Records { family: F, keys: frame::keys(F, &rows), values: frame::encode(F, &rows).unwrap() };
            records.keys.push("poison".into());
            records.values.push("no frame".into());
            writer.publish(&Batch { records: vec![records], ..Batch::default() }).unwrap();
            Store::new(log.clone(), lake.clone(), Options::default()).run_once(&mut |_| {}).await.unwrap();
        }
        Home { dir, lake }
    }

    async fn files(&self) -> Vec<Arc<FileInfo>> {
        self.lake.find(F).await.unwrap().unwrap().snapshot().files().to_vec()
    }

    async fn verify(&self) -> Verified {
        verify(&self.lake, &mut |_| {}).await.unwrap()
    }

    /// The kinds of what is found, each once.
    async fn found(&self) -> Vec<&'static str> {
        let mut kinds: Vec<_> = self.verify().await.findings.iter().map(|finding| finding.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    fn path(&self, file: &FileInfo) -> PathBuf {
        self.table().join(&file.path)
    }

    fn table(&self) -> PathBuf {
        self.dir.path().join("tables").join(F.topic().name)
    }

    /// Writes a file anew with other rows, and its length into the table's log.
    async fn edit(&self, file: &FileInfo, change: impl Fn(RecordBatch) -> RecordBatch) {
        let bytes = self.lake.fetch(F, file).await.unwrap();
        let batches: Vec<RecordBatch> = self.lake.rows(F, file, bytes).unwrap().map(Result::unwrap).collect();
        let rows = change(concat_batches(&batches[0].schema(), &batches).unwrap());
        let kept: Vec<usize> =
            (0..rows.num_columns()).filter(|at| !F.topic().partition_by.contains(&rows.schema().field(*at).name().as_str())).collect();
        let rows = rows.project(&kept).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
        writer.write(&rows).unwrap();
        self.replace(file, &writer.into_inner().unwrap());
    }

    fn replace(&self, file: &FileInfo, bytes: &[u8]) {
        std::fs::write(self.path(file), bytes).unwrap();
        self.relog(|entry| {
            let name = file.path.rsplit('/').next().unwrap();
            let edit = |line: &str| match line.contains(name) {
                true => line.replace(&format!("\"size\":{}", file.size), &format!("\"size\":{}", bytes.len())),
                false => line.to_string(),
            };
            entry.lines().map(edit).collect::<Vec<_>>().join("\n")
        });
    }

    fn relog(&self, change: impl Fn(String) -> String) {
        for entry in entries(&self.table().join("_delta_log")) {
            let text = std::fs::read_to_string(&entry).unwrap();
            std::fs::write(&entry, change(text)).unwrap();
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|ext| ext == "json")).collect()
}

fn trades(day: i32) -> RecordBatch {
    let mut rows = Rows::new(F);
    let column = |name| F.topic().column(name);
    for n in 0..ROWS {
        rows.text(column("dataset"), "T.DATA");
        rows.text(column("symbol"), &format!("TOK{}", n % 5));
        rows.text(column("change"), "new");
        rows.i32(column("revision"), 0);
        rows.date(column("date"), 20_000 + day);
        rows.i64(column("ts_event"), i64::from(day) * 86_400_000_000_000 + n);
        rows.decimal(column("price"), 2_810_000_000 + i128::from(n));
        rows.bytes(column("source_id"), &[7; 16]);
        rows.i64(column("source_record"), i64::from(day) * ROWS + n);
        rows.i64(column("source_byte"), n * 48);
        rows.end_row();
    }
    rows.finish().unwrap()
}

fn rows_of(batch: &RecordBatch, rows: impl Iterator<Item = usize>) -> RecordBatch {
    take_record_batch(batch, &UInt64Array::from_iter_values(rows.map(|row| row as u64))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_touched_is_whole() {
    let home = Home::new().await;
    let verified = home.verify().await;
    assert_eq!(verified.findings, []);
    let looked = &verified.tables["trades"];
    assert_eq!((looked.rows, looked.files, looked.commits), (2 * ROWS as u64, 2, 2));
    assert!(looked.intervals >= 2);
    assert_eq!(verified.tables["quarantine"].rows, 2);
}

/// The log itself may hold a record twice, as a late write of a dead transaction would leave it: each has its offset and its proof, and still
/// one of them is too many.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_log_has_twice() {
    let dir = tempfile::tempdir().unwrap();
    let log: Arc<dyn EventLog> = Arc::new(Embedded::open(&dir.path().join("log"), &LogOptions::default()).unwrap());
    log.create_topics().unwrap();
    let lake = Lake::open(dir.path().join("tables").to_str().unwrap()).unwrap();
    let rows = trades(0);
    let again = rows.slice(7, 1);
    for rows in [&rows, &again] {
        let records = Records { family: F, keys: frame::keys(F, rows), values: frame::encode(F, rows).unwrap() };
        log.writer("test").unwrap().publish(&Batch { records: vec![records], ..Batch::default() }).unwrap();
    }
    Store::new(log, lake.clone(), Options::default()).run_once(&mut |_| {}).await.unwrap();
    let findings = verify(&lake, &mut |_| {}).await.unwrap().findings;
    assert_eq!(findings.iter().map(|finding| finding.kind).collect::<Vec<_>>(), ["backwards", "doubled"], "{findings:?}");
}

/// A rewrite takes away files, and no proof.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_rewritten_is_whole() {
    let home = Home::new().await;
    for family in [F, Family::Quarantine] {
        let mut table = home.lake.existing(family).await.unwrap().unwrap();
        let options = lake::Compaction { small_files_max: 1, ..lake::Compaction::default() };
        let done = table.compact(&options, &lake::Stop::default()).await.unwrap();
        assert_eq!(done.files_before, if family == F { 0 } else { 2 }, "a day of trades has one file");
    }
    assert_eq!(home.verify().await.findings, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_value() {
    let home = Home::new().await;
    let file = home.files().await.remove(0);
    let raise = |batch: RecordBatch| {
        let at = F.topic().column("price");
        let old = batch.column(at).to_data();
        let old = Decimal128Array::from(old);
        let prices =
            old.iter().enumerate().map(|(row, price)| price.map(|price| price + i128::from(row == 17))).collect::<Decimal128Array>();
        let mut columns = batch.columns().to_vec();
        columns[at] = Arc::new(prices.with_data_type(old.data_type().clone())) as ArrayRef;
        RecordBatch::try_new(batch.schema(), columns).unwrap()
    };
    home.edit(&file, raise).await;
    assert_eq!(home.found().await, ["altered"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_row() {
    let home = Home::new().await;
    let file = home.files().await.remove(0);
    home.edit(&file, |batch| rows_of(&batch, (0..batch.num_rows()).filter(|row| *row != 3))).await;
    let verified = home.verify().await;
    assert_eq!(home.found().await, ["missing"]);
    let (first, last) = verified.findings[0].offsets.unwrap();
    assert_eq!(first, last, "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_twice() {
    let home = Home::new().await;
    let file = home.files().await.remove(0);
    home.edit(&file, |batch| rows_of(&batch, (0..batch.num_rows()).chain([5]))).await;
    assert_eq!(home.found().await, ["repeated"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_files_that_changed_places() {
    let home = Home::new().await;
    let files = home.files().await;
    let [first, second] = [&files[0], &files[1]];
    let (one, other) = (std::fs::read(home.path(first)).unwrap(), std::fs::read(home.path(second)).unwrap());
    home.replace(first, &other);
    home.replace(second, &one);
    assert_eq!(home.found().await, ["altered"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_cut_short_with_its_length_changed_or_not() {
    for in_log_too in [false, true] {
        let home = Home::new().await;
        let file = home.files().await.remove(0);
        let bytes = std::fs::read(home.path(&file)).unwrap();
        match in_log_too {
            true => home.replace(&file, &bytes[..bytes.len() / 2]),
            false => std::fs::write(home.path(&file), &bytes[..bytes.len() / 2]).unwrap(),
        }
        assert_eq!(home.found().await, ["missing", "unreadable"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_is_gone_from_disk_or_from_the_log() {
    let home = Home::new().await;
    let file = home.files().await.remove(1);
    std::fs::remove_file(home.path(&file)).unwrap();
    assert_eq!(home.found().await, ["missing", "unreadable"]);
    let name = file.path.rsplit('/').next().unwrap().to_string();
    home.relog(|entry| entry.lines().filter(|line| !line.contains(&name)).collect::<Vec<_>>().join("\n"));
    assert_eq!(home.found().await, ["missing"]);
}

/// Who takes away a commit with all it says of itself leaves a hole between its neighbours, or a transaction that is ahead.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_claims_were_taken_away() {
    let home = Home::new().await;
    home.relog(|entry| entry.replace("\"tokentape\"", "\"nothing\""));
    assert_eq!(home.found().await, ["unproven"]);
    let home = Home::new().await;
    let mut entries = entries(&home.table().join("_delta_log"));
    entries.sort();
    let last = entries.last().unwrap();
    let text = std::fs::read_to_string(last).unwrap();
    std::fs::write(last, text.replace("\"tokentape\"", "\"nothing\"")).unwrap();
    assert_eq!(home.found().await, ["transaction", "unclaimed"]);
}

/// Any byte of a data file may be damaged: that is found, or it changed no row. It never ends the verification.
#[tokio::test(flavor = "multi_thread")]
async fn damage_anywhere_in_a_file() {
    let home = Home::new().await;
    let file = home.files().await.remove(0);
    let whole = std::fs::read(home.path(&file)).unwrap();
    let rows =
        |bytes: &[u8]| -> Vec<RecordBatch> { home.lake.rows(F, &file, bytes.to_vec().into()).unwrap().map(Result::unwrap).collect() };
    let told = rows(&whole);
    let mut found = 0;
    for at in (0..whole.len()).step_by(131) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        std::fs::write(home.path(&file), &bytes).unwrap();
        match home.found().await.is_empty() {
            true => assert_eq!(rows(&bytes), told, "byte {at} of {} changed a row", whole.len()),
            false => found += 1,
        }
    }
    assert!(found > 0);
    std::fs::write(home.path(&file), whole).unwrap();
    assert_eq!(home.found().await, [""; 0]);
}

/// A schema's id never changes its meaning: a commit that recorded another text under it was made by something else, or was edited.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_not_the_one_that_was_recorded() {
    let home = Home::new().await;
    let ours = hex::encode(Sha256::digest(F.topic().avro()));
    home.relog(|entry| entry.replace(&ours, &ours.replace('a', "b")));
    assert_eq!(home.found().await, ["schema"]);

    let home = Home::new().await;
    let file = home.files().await.remove(0);
    let another = |batch: RecordBatch| with_column(&batch, "_schema", Arc::new(Int32Array::from_value(4711, batch.num_rows())));
    home.edit(&file, another).await;
    let findings = home.verify().await.findings;
    assert_eq!(findings.iter().map(|finding| finding.kind).collect::<Vec<_>>(), ["schema"], "the id is in no proof: {findings:?}");
    assert!(findings[0].what.contains("4711") && findings[0].what.contains(&file.path), "{findings:?}");
}

/// Given a commit that says of an offset that it holds no record, for a reason that there is not, then the hole is unexplained; and there is a row.
#[tokio::test(flavor = "multi_thread")]
async fn a_hole_without_a_reason() {
    let home = Home::new().await;
    home.relog(|entry| entry.replacen("\"absent\":[]", "\"absent\":[[1,1,\"the cat\"]]", 1));
    assert_eq!(home.found().await, ["unclaimed", "unexplained"]);
    assert!(home.verify().await.tables["trades"].absent["the cat"] > 0);
}

/// Given a transaction that was put back, then the next store would store again what is there: that is found.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_put_back() {
    let home = Home::new().await;
    let table = home.lake.find(F).await.unwrap().unwrap();
    let mut history = table.history();
    let mut txns: Vec<(String, i64)> = Vec::new();
    while let Some(entry) = history.next().await.unwrap() {
        txns = entry.txns;
    }
    let (_, version) = txns.first().unwrap();
    home.relog(|entry| entry.replace(&format!("\"version\":{version}}}"), "\"version\":1}"));
    let findings = home.verify().await.findings;
    assert!(findings.iter().all(|finding| finding.kind == "transaction") && findings.len() >= 2, "{findings:?}");
    assert!(findings.iter().any(|finding| finding.what.contains("would be stored again")), "{findings:?}");
}

/// Given records of one source that were published in another order than they stand in, then that is found, with the file's name.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_source_in_the_wrong_order() {
    let (dir, log) = log();
    let lake = Lake::open(dir.path().join("tables").to_str().unwrap()).unwrap();
    let rows = trades(0);
    let one_symbol: Vec<usize> = (0..rows.num_rows()).step_by(5).collect();
    let (early, late) = one_symbol.split_at(40);
    for part in [late, early] {
        publish(&log, &rows_of(&rows, part.iter().copied()));
    }
    Store::new(log, lake.clone(), Options::default()).run_once(&mut |_| {}).await.unwrap();
    let findings = verify(&lake, &mut |_| {}).await.unwrap().findings;
    let told: Vec<_> = findings.iter().map(|finding| (finding.kind, finding.offsets)).collect();
    assert_eq!(told, [("backwards", Some((40, 40)))], "{findings:?}");
}

/// Sequence numbers and flags are the venue's own: they are told, and are no fault of the archive.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_venue_says_of_itself_is_told() {
    let (dir, log) = log();
    let lake = Lake::open(dir.path().join("tables").to_str().unwrap()).unwrap();
    let rows = trades(0);
    let sequences: Int64Array = (0..rows.num_rows() as i64).map(|n| Some(if n == 200 { 3 } else { n })).collect();
    let flags: Int32Array = (0..rows.num_rows()).map(|n| Some(if n < 7 { 1 << 3 } else { 1 << 7 })).collect();
    let rows = with_column(&with_column(&rows, "sequence", Arc::new(sequences)), "flags", Arc::new(flags));
    publish(&log, &rows);
    Store::new(log, lake.clone(), Options::default()).run_once(&mut |_| {}).await.unwrap();
    let verified = verify(&lake, &mut |_| {}).await.unwrap();
    assert_eq!(verified.findings, []);
    let [source] = &verified.sources[..] else { panic!("{verified:?}") };
    assert_eq!(source.source_id, "07".repeat(16));
    assert_eq!((source.sequence_back, source.flagged_bad_ts_recv, source.flagged_bad_book), (1, 7, 0));
}

/// Given rows and commits that were both rewritten, so that the tables agree with themselves, then the log that still has the records tells.
#[tokio::test(flavor = "multi_thread")]
async fn beside_the_log_a_forgery_with_its_proof_is_found() {
    let (dir, log) = log();
    let tables = |name: &str| Lake::open(dir.path().join(name).to_str().unwrap()).unwrap();
    publish(&log, &trades(0));
    Store::new(log.clone(), tables("tables"), Options::default()).run_once(&mut |_| {}).await.unwrap();
    let whole = verify_against(&tables("tables"), &log, &mut |_| {}).await.unwrap();
    assert_eq!(whole.findings, []);
    assert_eq!(whole.tables["trades"].compared, Some(ROWS as u64));
    assert_eq!(verify(&tables("tables"), &mut |_| {}).await.unwrap().tables["trades"].compared, None);

    // Another log of the same name and ids, in which one price differs, stored in the same way: tables that prove themselves.
    let forged = Arc::new(Forged { log: log.clone() }) as Arc<dyn EventLog>;
    Store::new(forged, tables("forged"), Options::default()).run_once(&mut |_| {}).await.unwrap();
    assert_eq!(verify(&tables("forged"), &mut |_| {}).await.unwrap().findings, []);
    let findings = verify_against(&tables("forged"), &log, &mut |_| {}).await.unwrap().findings;
    let told: Vec<_> = findings.iter().map(|finding| (finding.kind, finding.offsets)).collect();
    assert_eq!(told, [("differs", Some((FORGED, FORGED)))], "{findings:?}");
}

/// Offset in the first partition whose record the forger changes.
const FORGED: i64 = 7;

/// A log that shows another price in one record: what somebody would store who wants the tables to say so.
struct Forged {
    log: Arc<dyn EventLog>,
}

struct ForgedReader {
    reader: Box<dyn Reader>,
    partition: Option<i32>,
}

impl Reader for ForgedReader {
    fn poll(&mut self, timeout: Duration, events_max: usize) -> Result<Polled, eventlog::Error> {
        let mut polled = self.reader.poll(timeout, events_max)?;
        for event in polled.events.iter_mut().filter(|event| event.family == F && event.offset == FORGED) {
            if *self.partition.get_or_insert(event.partition) == event.partition {
                let decoded = frame::decode(F, &[event.value.as_deref().unwrap()]).unwrap().batch;
                let at = F.topic().column("price");
                let price = Decimal128Array::from_value(1, 1).with_data_type(decoded.column(at).data_type().clone());
                let value = frame::encode(F, &with_column(&decoded, "price", Arc::new(price))).unwrap().remove(0);
                event.value = Some(value);
            }
        }
        Ok(polled)
    }
}

impl EventLog for Forged {
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
        self.log.writer(transactional_id)
    }
    fn states(&self, topic: StateTopic) -> Result<HashMap<String, Bytes>, eventlog::Error> {
        self.log.states(topic)
    }
    fn reader(&self, starts: &[Start]) -> Result<Box<dyn Reader>, eventlog::Error> {
        Ok(Box::new(ForgedReader { reader: self.log.reader(starts)?, partition: None }))
    }
    fn watermarks(&self, family: Family) -> Result<Vec<Watermarks>, eventlog::Error> {
        self.log.watermarks(family)
    }
    fn stored(&self, family: Family, partition: i32, offset: i64) -> Result<(), eventlog::Error> {
        self.log.stored(family, partition, offset)
    }
}

fn log() -> (tempfile::TempDir, Arc<dyn EventLog>) {
    let dir = tempfile::tempdir().unwrap();
    let log: Arc<dyn EventLog> = Arc::new(Embedded::open(&dir.path().join("log"), &LogOptions::default()).unwrap());
    log.create_topics().unwrap();
    (dir, log)
}

fn publish(log: &Arc<dyn EventLog>, rows: &RecordBatch) {
    let records = Records { family: F, keys: frame::keys(F, rows), values: frame::encode(F, rows).unwrap() };
    log.writer("test").unwrap().publish(&Batch { records: vec![records], ..Batch::default() }).unwrap();
}

fn with_column(batch: &RecordBatch, name: &str, column: ArrayRef) -> RecordBatch {
    let mut columns = batch.columns().to_vec();
    columns[F.topic().column(name)] = column;
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}
