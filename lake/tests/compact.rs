//! Rewriting: the same rows in fewer files, in order, whatever else happens to the table meanwhile.

#[path = "support/dice.rs"]
mod dice;
#[path = "support/told.rs"]
#[allow(dead_code, reason = "each test program uses some of it")]
mod told;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::row::{RowConverter, SortField};
use dice::{Dice, column};
use lake::{Compacted, Compaction, Disk, DurableLocal, Lake, LocalDisk, Stop, Table, Txn, most_files, plan};
use proptest::prelude::*;
use schemas::Family;
use serde_json::Map;
use std::path::Path;

struct Home {
    _dir: tempfile::TempDir,
    lake: Lake,
}

impl Home {
    fn new() -> Home {
        let dir = tempfile::tempdir().unwrap();
        let lake = Lake::open(dir.path().to_str().unwrap()).unwrap();
        Home { _dir: dir, lake }
    }

    async fn rows(&self, family: Family) -> Vec<RecordBatch> {
        let table = self.lake.find(family).await.unwrap().unwrap();
        let mut files = Vec::new();
        for file in table.snapshot().files() {
            let bytes = self.lake.fetch(family, file).await.unwrap();
            let batches: Vec<RecordBatch> = self.lake.rows(family, file, bytes).unwrap().map(Result::unwrap).collect();
            files.push(concat_batches(family.topic().stored_schema(), &batches).unwrap());
        }
        files
    }
}

/// Rows of one dataset and day, so that all commits fall into one partition.
fn batch(family: Family, dice: &mut Dice, rows: usize) -> RecordBatch {
    let topic = family.topic();
    let columns = topic.stored_fields().into_iter().zip(topic.stored_schema().fields()).map(|(field, arrow)| match field.name.as_ref() {
        "dataset" => std::sync::Arc::new(arrow::array::StringArray::from(vec!["T.DATA"; rows])) as ArrayRef,
        "date" => arrow::array::new_null_array(arrow.data_type(), rows),
        _ => column(dice, &field, rows),
    });
    RecordBatch::try_new(topic.stored_schema().clone(), columns.collect()).unwrap()
}

async fn append(table: &mut Table, batch: RecordBatch, number: i64) {
    let txn = Txn { app_id: "t/x/0".into(), from: (number > 0).then_some(number), to: number + 1 };
    table.commit(&[batch], &[txn], Map::new()).await.unwrap();
}

fn now() -> Compaction {
    Compaction { small_files_max: 1, ..Compaction::default() }
}

async fn compact(table: &mut Table) -> Result<Compacted, lake::Error> {
    table.compact(&now(), &Stop::default()).await
}

/// Whole rows as comparable bytes.
fn keys(batches: &[RecordBatch]) -> Vec<Vec<u8>> {
    let fields = batches[0].schema().fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
    let converter = RowConverter::new(fields).unwrap();
    let of =
        |batch: &RecordBatch| converter.convert_columns(batch.columns()).unwrap().iter().map(|row| row.data().to_vec()).collect::<Vec<_>>();
    batches.iter().flat_map(of).collect()
}

fn is_sorted(family: Family, rows: &RecordBatch) -> bool {
    let topic = family.topic();
    let columns: Vec<ArrayRef> = topic.sort_key.iter().map(|name| rows.column(topic.column(name)).clone()).collect();
    let converter = RowConverter::new(columns.iter().map(|column| SortField::new(column.data_type().clone())).collect()).unwrap();
    let keys = converter.convert_columns(&columns).unwrap();
    (1..keys.num_rows()).all(|row| keys.row(row - 1) <= keys.row(row))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]
    /// Given any rows of any family in any number of commits, then a rewrite leaves one sorted file of the same rows.
    #[test]
    fn the_same_rows_in_one_sorted_file(
        seed in any::<u64>(),
        family in proptest::sample::select(&Family::ALL[..]),
        sizes in proptest::collection::vec(1usize..300, 2..9),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let home = Home::new();
            let mut dice = Dice(seed);
            let mut table = home.lake.table(family).await.unwrap();
            for (number, size) in sizes.iter().enumerate() {
                append(&mut table, batch(family, &mut dice, *size), number as i64).await;
            }
            let mut before = keys(&home.rows(family).await);
            let done = compact(&mut table).await.unwrap();
            let after = home.rows(family).await;
            prop_assert_eq!((done.files_before, done.files_after, after.len()), (sizes.len() as u64, 1, 1));
            prop_assert!(is_sorted(family, &after[0]));
            let mut after = keys(&after);
            before.sort_unstable();
            after.sort_unstable();
            prop_assert!(before == after, "rows differ");
            prop_assert_eq!(compact(&mut table).await.unwrap(), Compacted::default(), "there is nothing more to do");
            Ok(())
        })?;
    }
}

/// Given a writer that does not know of the rewrite, then its next commit goes on, and keeps its transaction.
#[tokio::test(flavor = "multi_thread")]
async fn appends_go_on_beside_a_rewrite() {
    let home = Home::new();
    let (family, mut dice) = (Family::Bars, Dice(3));
    let mut writer = home.lake.table(family).await.unwrap();
    for number in 0..5 {
        append(&mut writer, batch(family, &mut dice, 20), number).await;
    }
    let mut upkeep = home.lake.table(family).await.unwrap();
    assert_eq!(compact(&mut upkeep).await.unwrap().files_before, 5);
    append(&mut writer, batch(family, &mut dice, 20), 5).await;
    assert_eq!(writer.snapshot().files().len(), 2);
    let mut fresh = home.lake.table(family).await.unwrap();
    assert_eq!(fresh.txn_version("t/x/0").await.unwrap(), Some(6));
    assert_eq!((fresh.snapshot().files().len(), most_files(&fresh.snapshot())), (2, 2));
    assert_eq!(home.rows(family).await.iter().map(RecordBatch::num_rows).sum::<usize>(), 120);
}

/// Given two that rewrite the same table at the same time, then one of them wins and no row is there twice.
#[tokio::test(flavor = "multi_thread")]
async fn two_rewriters_do_not_double() {
    let home = Home::new();
    let (family, mut dice) = (Family::Trades, Dice(4));
    let mut writer = home.lake.table(family).await.unwrap();
    for number in 0..6 {
        append(&mut writer, batch(family, &mut dice, 50), number).await;
    }
    let (mut one, mut other) = (home.lake.table(family).await.unwrap(), home.lake.table(family).await.unwrap());
    let (first, second) = tokio::join!(compact(&mut one), compact(&mut other));
    let won = [&first, &second].iter().filter(|done| done.as_ref().is_ok_and(|done| done.commits == 1)).count();
    assert_eq!(won, 1, "{first:?} {second:?}");
    for lost in [first, second].into_iter().filter_map(Result::err) {
        assert!(matches!(lost, lake::Error::Fenced { .. } | lake::Error::Moved { .. }), "{lost}");
    }
    assert_eq!(home.rows(family).await.iter().map(RecordBatch::num_rows).sum::<usize>(), 300);
}

/// Given a table that was made, written to twice and rewritten, then its history says so, whoever opens it.
#[tokio::test(flavor = "multi_thread")]
async fn the_history_tells_what_each_version_did() {
    let home = Home::new();
    let mut dice = Dice(11);
    let mut table = home.lake.table(Family::Trades).await.unwrap();
    for number in 0..2 {
        append(&mut table, batch(Family::Trades, &mut dice, 5), number).await;
    }
    compact(&mut table).await.unwrap();

    let history = told::history(&home.lake.find(Family::Trades).await.unwrap().unwrap()).await.unwrap();
    let told: Vec<_> =
        history.iter().map(|e| (e.version, e.operation().to_string(), e.added.files, e.added.rows, e.removed.files)).collect();
    let said = |version, operation: &str, added, rows, removed| (version, operation.to_string(), added, Some(rows), removed);
    let expected = [said(0, "CREATE TABLE", 0, 0, 0), said(1, "WRITE", 1, 5, 0), said(2, "WRITE", 1, 5, 0), said(3, "OPTIMIZE", 1, 10, 2)];
    assert_eq!(told, expected);
    assert_eq!(history[2].txns, [("t/x/0".to_string(), 2)]);
    assert_eq!(history[3].removed.bytes, history[1].added.bytes + history[2].added.bytes);
    assert!(history.iter().all(|entry| entry.committed_at_ms().is_some()));
}

/// Given a day of more than a few large files, then it becomes several, none too large, few too small, and a second look finds nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_day_becomes_several_large_files() {
    let home = Home::new();
    let (family, mut dice) = (Family::Bars, Dice(6));
    let mut table = home.lake.table(family).await.unwrap();
    for number in 0..60 {
        append(&mut table, batch(family, &mut dice, 500), number).await;
    }
    let largest = table.snapshot().files().iter().map(|file| file.size).max().unwrap();
    let options = Compaction { target_bytes: largest * 4, ..Compaction::default() };
    table.compact(&options, &Stop::default()).await.unwrap();
    let sizes: Vec<u64> = table.snapshot().files().iter().map(|file| file.size).collect();
    let large = sizes.iter().filter(|size| **size >= options.target_bytes).count();
    assert!(large >= 2 && sizes.len() <= large + options.small_files_max, "{sizes:?} for {}", options.target_bytes);
    assert!(sizes.iter().all(|size| *size <= 4 * options.target_bytes), "{sizes:?} for {}", options.target_bytes);
    assert_eq!(table.compact(&options, &Stop::default()).await.unwrap(), Compacted::default());
    let rows = home.rows(family).await;
    assert!(rows.iter().all(|rows| is_sorted(family, rows)));
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 60 * 500);
}

/// Given files whose pages would not fit into memory side by side, then few of them are merged at a time.
#[tokio::test(flavor = "multi_thread")]
async fn large_files_are_merged_a_few_at_a_time() {
    let home = Home::new();
    let mut table = home.lake.table(Family::Bars).await.unwrap();
    append(&mut table, batch(Family::Bars, &mut Dice(7), 5), 0).await;
    let snapshot = table.snapshot();
    let with_rows = |rows: u64| {
        let mut file = snapshot.files()[0].as_ref().clone();
        file.stats.rows = Some(rows);
        std::sync::Arc::new(file)
    };
    let groups = |rows: u64| plan(&vec![with_rows(rows); 100], &now()).iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(groups(1_000), [100]);
    assert_eq!(groups(50_000), [20, 20, 20, 20, 20]);
    assert_eq!(groups(5_000_000), groups(50_000), "one page of each column of a file is open");
}

/// A disk that lets something happen before the first data file is written.
#[derive(Debug)]
struct Slow(std::sync::mpsc::Sender<()>, std::sync::Mutex<std::sync::mpsc::Receiver<()>>);

impl Disk for Slow {
    fn write(&self, path: &Path, payload: &object_store::PutPayload) -> std::io::Result<()> {
        if path.to_string_lossy().contains(".parquet") {
            // Both fail where nobody waits any more: then it already happened.
            let _ = self.0.send(());
            let _ = self.1.lock().unwrap().recv();
        }
        LocalDisk.write(path, payload)
    }

    fn append(&self, path: &Path, payload: &object_store::PutPayload) -> std::io::Result<()> {
        LocalDisk.append(path, payload)
    }

    fn link(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        LocalDisk.link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        LocalDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> std::io::Result<()> {
        LocalDisk.remove(path)
    }

    fn create_directory(&self, path: &Path) -> std::io::Result<()> {
        LocalDisk.create_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> std::io::Result<()> {
        LocalDisk.sync_directory(path)
    }
}

/// Given more commits while files are merged than a commit steps over, then the merge comes in all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_merge_beside_many_commits_comes_in() {
    let home = Home::new();
    let (family, mut dice) = (Family::Bars, Dice(5));
    let mut writer = home.lake.table(family).await.unwrap();
    for number in 0..4 {
        append(&mut writer, batch(family, &mut dice, 5), number).await;
    }
    let (begun, begins) = std::sync::mpsc::channel();
    let (go_on, goes_on) = std::sync::mpsc::channel();
    let slow = DurableLocal::over(std::sync::Arc::new(Slow(begun, std::sync::Mutex::new(goes_on))));
    let lake = Lake::with_store(home.lake.root().clone(), std::sync::Arc::new(slow)).unwrap();
    let merging = tokio::spawn(async move { compact(&mut lake.table(family).await.unwrap()).await });
    tokio::task::spawn_blocking(move || begins.recv()).await.unwrap().unwrap();
    for number in 4..114 {
        append(&mut writer, batch(family, &mut dice, 5), number).await;
    }
    drop(go_on);
    assert!(merging.await.unwrap().unwrap().files_before >= 114, "those that came meanwhile are merged too");
    assert_eq!(home.rows(family).await.iter().map(RecordBatch::num_rows).sum::<usize>(), 114 * 5);
}
