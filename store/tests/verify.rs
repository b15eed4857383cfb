//! What a verification must find: tables of a real store, edited as somebody would who wants to hide something.

use arrow::array::{Array, ArrayRef, Decimal128Array, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use eventlog::embedded::{Embedded, Options as LogOptions};
use eventlog::{Batch, EventLog, Records};
use lake::{FileInfo, Lake};
use parquet::arrow::ArrowWriter;
use schemas::{Family, Rows, frame};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::verify::{Verified, verify};
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
    assert_eq!(findings.iter().map(|finding| finding.kind).collect::<Vec<_>>(), ["doubled"], "{findings:?}");
}

/// A rewrite takes away files, and no proof.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_rewritten_is_whole() {
    let home = Home::new().await;
    for family in [F, Family::Quarantine] {
        let mut table = home.lake.existing(family).await.unwrap().unwrap();
        let options = lake::Compaction { small_files_max: 1, ..lake::Compaction::default() };
        let done = table.compact(&options, &|| false).await.unwrap();
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
