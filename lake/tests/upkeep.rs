//! Cleaning up: what the horizon needs stays readable, what went is told for ever, and nobody who was asleep meanwhile does harm.

#[path = "support/dice.rs"]
mod dice;
#[path = "support/told.rs"]
#[allow(dead_code, reason = "each test program uses some of it")]
mod told;

use arrow::array::{ArrayRef, RecordBatch};
use dice::{Dice, column};
use lake::{Compaction, Error, Horizon, Lake, Removed, Stop, Table, Txn};
use schemas::Family;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const FAMILY: Family = Family::Bars;

struct Home {
    dir: tempfile::TempDir,
    lake: Lake,
}

impl Home {
    fn new() -> Home {
        let dir = tempfile::tempdir().unwrap();
        let lake = Lake::open(dir.path().to_str().unwrap()).unwrap();
        Home { dir, lake }
    }

    async fn table(&self) -> Table {
        self.lake.table(FAMILY).await.unwrap()
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join(FAMILY.topic().name)
    }

    /// Everything below the table's folder.
    fn on_disk(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        walk(&self.folder(), &mut found);
        found
    }

    fn entries(&self) -> usize {
        self.on_disk().iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")).count()
    }
}

fn walk(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found)
        } else {
            found.insert(path);
        }
    }
}

/// Rows of several days and datasets, oddly named ones among them.
fn batch(dice: &mut Dice, rows: usize) -> RecordBatch {
    let topic = FAMILY.topic();
    let columns: Vec<ArrayRef> = topic.stored_fields().iter().map(|field| column(dice, field, rows)).collect();
    RecordBatch::try_new(topic.stored_schema().clone(), columns).unwrap()
}

async fn append(table: &mut Table, dice: &mut Dice, number: i64) -> u64 {
    let txn = Txn { app_id: "t/x/0".into(), from: (number > 0).then_some(number), to: number + 1 };
    let info = Map::from_iter([("tokentape".to_string(), json!({ "number": number }))]);
    table.commit(&[batch(dice, 30)], &[txn], info).await.unwrap().version
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64
}

/// A moment that is behind everything that was done, and before everything that comes.
fn between() -> i64 {
    let before = now_ms();
    while now_ms() < before + 3 {
        std::thread::yield_now();
    }
    before + 2
}

/// A horizon that begins at a moment.
fn since(moment: i64) -> Horizon {
    Horizon { keep: Duration::from_secs(1), now_ms: moment + 1000, dry_run: false }
}

fn never() -> Stop {
    Stop::default()
}

async fn rows(home: &Home) -> u64 {
    let table = home.lake.find(FAMILY).await.unwrap().unwrap();
    let mut rows = 0;
    for file in table.snapshot().files() {
        let bytes = home.lake.fetch(FAMILY, file).await.unwrap();
        rows += home.lake.rows(FAMILY, file, bytes).unwrap().map(|batch| batch.unwrap().num_rows() as u64).sum::<u64>();
    }
    rows
}

/// Twelve commits, a rewrite and a checkpoint; then what comes within the horizon: three commits and a rewrite.
async fn a_table_with_a_past(home: &Home) -> i64 {
    let mut dice = Dice(5);
    let mut table = home.table().await;
    for number in 0..12 {
        append(&mut table, &mut dice, number).await;
    }
    table.compact(&Compaction { small_files_max: 1, ..Compaction::default() }, &never()).await.unwrap();
    table.checkpoint().await.unwrap();
    let moment = between();
    for number in 12..15 {
        append(&mut table, &mut dice, number).await;
    }
    table.compact(&Compaction { small_files_max: 1, ..Compaction::default() }, &never()).await.unwrap();
    moment
}

const DATA: &str = "part-6fa459ea-ee8a-4ca4-894e-db77e160355e.zstd.parquet";

/// The folder of one of the table's partitions.
fn a_partition(home: &Home) -> PathBuf {
    let data =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == "parquet") && !path.to_string_lossy().contains("_delta_log");
    home.on_disk().into_iter().find(data).unwrap().parent().unwrap().to_path_buf()
}

fn write_at(path: &Path, moment_ms: i64) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, b"begun").unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(moment_ms as u64);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// Given files that a killed process had begun to put, then those that are older than the horizon go, and nothing else does: names of others that end
/// like them stay.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_finished_goes() {
    let home = Home::new();
    let mut dice = Dice(9);
    let mut table = home.table().await;
    append(&mut table, &mut dice, 0).await;
    let kept: BTreeSet<PathBuf> = home.on_disk();
    let (day, log, folder) = (a_partition(&home), home.folder().join("_delta_log"), home.folder());
    let old = [
        day.join(format!("{DATA}#123")),
        log.join("00000000000000000009.json#7"),
        log.join("00000000000000000009.checkpoint.parquet#18446744073709551615"),
        log.join("_last_checkpoint#7"),
        folder.join("_tokentape_history/00000000000000000000.jsonl.zst#5"),
    ];
    let young = day.join(DATA.replace("6fa4", "7fa4") + "#9");
    let others = [
        day.join("notes#"),
        day.join("notes#2026"),
        day.join("chapter#1a"),
        day.join("part-x.zstd.parquet#1"),
        day.join(format!("{DATA}#")),
        day.join(format!("{DATA}#1#")),
        day.join(format!("old/{DATA}#1")),
        log.join("notes#2026"),
        log.join("9.json#7"),
        log.join(format!("{DATA}#1")),
        folder.join("notes#2026"),
        folder.join(format!("{DATA}#1")),
        folder.join("_mine/a#1"),
        folder.join(format!("_mine/{DATA}#1")),
        folder.join("_mine/_delta_log/00000000000000000009.json#7"),
        folder.join(format!("mine/{DATA}#1")),
    ];
    let long_ago = now_ms() - 9 * 86_400_000;
    for path in old.iter().chain(&others) {
        write_at(path, long_ago);
    }
    write_at(&young, now_ms());
    let week = Horizon { keep: Duration::from_secs(7 * 86_400), now_ms: now_ms(), dry_run: false };
    let would = table.clean_up(&Horizon { dry_run: true, ..week }, &never()).await.unwrap();
    let removed = table.clean_up(&week, &never()).await.unwrap();
    let mut there = kept;
    there.extend(others);
    there.insert(young);
    assert_eq!(home.on_disk(), there);
    assert_eq!((removed, would), (Removed { files: 5, bytes: 25, ..Removed::default() }, removed));
}

/// Given links in a table's folder to a neighbour's folder, to one outside and to another table's partition, and links that lead nowhere or round, then
/// clean-up does what it does without them, and nothing behind any of them is gone, and no link.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn nothing_behind_a_link_goes() {
    let home = Home::new();
    let moment = a_table_with_a_past(&home).await;
    let without = home.table().await.clean_up(&Horizon { dry_run: true, ..since(moment) }, &never()).await.unwrap();
    let (day, folder, log) = (a_partition(&home), home.folder(), home.folder().join("_delta_log"));
    let dataset = day.parent().unwrap();
    let neighbour = home.dir.path().join("sources");
    let outside = tempfile::tempdir().unwrap();
    let outside = outside.path();
    let long_ago = now_ms() - 9 * 86_400_000;
    let behind = [
        neighbour.join("dataset=A").join(DATA),
        neighbour.join("dataset=A").join(format!("{DATA}#1")),
        neighbour.join("dataset=A/date=2026-01-01").join(DATA),
        neighbour.join("_delta_log/00000000000000000000.json"),
        neighbour.join("_delta_log/00000000000000000009.json#1"),
        outside.join("other.parquet"),
        outside.join("date=2026-01-01").join(DATA),
        outside.join("_delta_log/5.parquet"),
        outside.join(DATA),
        outside.join(format!("{DATA}#1")),
        outside.join("00000000000000000001.checkpoint.parquet"),
    ];
    for path in &behind {
        write_at(path, long_ago);
    }
    let links = [
        (neighbour.clone(), folder.join("s")),
        (neighbour.join("dataset=A"), folder.join("dataset=A")),
        (outside.to_path_buf(), folder.join("dataset=B")),
        (outside.to_path_buf(), folder.join("outside")),
        (outside.to_path_buf(), dataset.join("date=2026-01-01")),
        (outside.join(DATA), day.join(DATA)),
        (outside.join("_delta_log"), log.join("other")),
        (outside.to_path_buf(), log.join("more")),
        (outside.join(format!("{DATA}#1")), day.join(format!("{DATA}#1"))),
        (outside.join("nothing"), dataset.join("date=2026-01-02")),
    ];
    for (to, link) in &links {
        std::os::unix::fs::symlink(to, link).unwrap();
    }
    let removed = home.table().await.clean_up(&since(moment), &never()).await.unwrap();
    let gone: Vec<&PathBuf> = behind.iter().filter(|path| !path.exists()).collect();
    assert_eq!(gone, Vec::<&PathBuf>::new());
    assert!(links.iter().all(|(_, link)| link.is_symlink()), "the links are there as they were");
    assert_eq!(removed, without, "what is the table's own went");
    assert_eq!(rows(&home).await, 15 * 30);
}

/// Given a partition that was moved to another disk with a link in its place, and then the table's log too, then clean-up goes on, and leaves alone what is there.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_on_another_disk_is_left_alone() {
    let home = Home::new();
    let moment = a_table_with_a_past(&home).await;
    let disk = tempfile::tempdir().unwrap();
    let there = || {
        let mut found = BTreeSet::new();
        walk(disk.path(), &mut found);
        found
    };
    let moved = |from: &Path, to: &str| {
        std::fs::rename(from, disk.path().join(to)).unwrap();
        std::os::unix::fs::symlink(disk.path().join(to), from).unwrap();
    };
    let dataset = a_partition(&home).parent().unwrap().to_path_buf();
    moved(&dataset, "dataset");
    let before = there();
    let removed = home.table().await.clean_up(&since(moment), &never()).await.unwrap();
    assert_eq!(there(), before);
    assert!(removed.entries > 0, "{removed:?}");
    for number in 15..18 {
        append(&mut home.table().await, &mut Dice(16), number).await;
    }
    home.table().await.checkpoint().await.unwrap();
    moved(&home.folder().join("_delta_log"), "log");
    let before = there();
    let removed = home.table().await.clean_up(&since(between()), &never()).await.unwrap();
    assert_eq!((removed.entries, removed.checkpoints), (0, 0));
    assert_eq!(there(), before);
    assert_eq!(rows(&home).await, 18 * 30);
}

/// Given a table whose past is behind the horizon, when it is cleaned up, then log entries and files are fewer, and whoever opens it finds the
/// same rows, the same transactions and the same history.
#[tokio::test(flavor = "multi_thread")]
async fn what_went_is_told_for_ever() {
    let home = Home::new();
    let moment = a_table_with_a_past(&home).await;
    let before = home.table().await;
    let history = told::history(&before).await.unwrap();
    let infos = told::infos(&history, "tokentape");
    let on_disk = home.on_disk();

    let would = home.table().await.clean_up(&Horizon { dry_run: true, ..since(moment) }, &never()).await.unwrap();
    assert_eq!(home.on_disk(), on_disk, "a dry run changes nothing");
    let removed = home.table().await.clean_up(&since(moment), &never()).await.unwrap();
    assert_eq!(would, removed);
    assert!(removed.entries >= 12 && removed.files >= 12 && removed.bytes > 0, "{removed:?}");
    assert_eq!(
        home.on_disk().len() as u64,
        on_disk.len() as u64 - removed.entries - removed.checkpoints - removed.files + 1,
        "and an archive"
    );

    let mut after = home.table().await;
    assert_eq!(rows(&home).await, 15 * 30);
    assert_eq!(after.txn_version("t/x/0").await.unwrap(), Some(15));
    assert_eq!(told::history(&after).await.unwrap(), history);
    assert_eq!(infos.len(), 15);
    assert_eq!(after.latest_info("tokentape").await.unwrap(), Some(json!({ "number": 14 })));
    assert_eq!(home.table().await.clean_up(&since(moment), &never()).await.unwrap(), Removed::default(), "there is nothing more to do");
    append(&mut after, &mut Dice(6), 15).await;
    assert_eq!(told::history(&home.table().await).await.unwrap().len(), history.len() + 1);
}

/// Given a clean-up, then every version since the horizon began, and the one that was current then, can be read with all its files.
#[tokio::test(flavor = "multi_thread")]
async fn every_version_of_the_horizon_is_readable() {
    let home = Home::new();
    let moment = a_table_with_a_past(&home).await;
    let newest = home.table().await.version();
    let history = told::history(&home.table().await).await.unwrap();
    let first = history.iter().find(|entry| entry.committed_at_ms().unwrap() >= moment).unwrap().version;
    home.table().await.clean_up(&since(moment), &never()).await.unwrap();
    let url = url::Url::from_directory_path(home.folder()).unwrap();
    for version in first - 1..=newest {
        let delta = deltalake_core::open_table_with_version(url.clone(), version).await.unwrap();
        let files: Vec<_> = delta.snapshot().unwrap().log_data().iter().map(|file| (file.path().to_string(), file.size())).collect();
        assert!(!files.is_empty());
        for (path, size) in files {
            // A path in the log is a URL; on disk the file has the name that it had in the log.
            let there = std::fs::metadata(home.folder().join(&path)).unwrap_or_else(|e| panic!("version {version}: {path}: {e}"));
            assert_eq!(there.len() as i64, size);
        }
    }
    assert!(deltalake_core::open_table_with_version(url, 3).await.is_err(), "an older version is gone, and says so");
}

/// Given quiet weeks, then the newest commit that names the log is found though its entry is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_quiet_still_says_where_its_rows_came_from() {
    let home = Home::new();
    let mut table = home.table().await;
    for number in 0..3 {
        append(&mut table, &mut Dice(7), number).await;
    }
    table.compact(&Compaction { small_files_max: 1, ..Compaction::default() }, &never()).await.unwrap();
    table.checkpoint().await.unwrap();
    table.clean_up(&since(between()), &never()).await.unwrap();
    assert_eq!(home.entries(), 1);
    let mut fresh = home.table().await;
    assert_eq!(fresh.latest_info("tokentape").await.unwrap(), Some(json!({ "number": 2 })));
    assert_eq!(fresh.latest_info("nothing").await.unwrap(), None::<Value>);
    assert_eq!(append(&mut fresh, &mut Dice(8), 3).await, fresh.version());
    assert_eq!(rows(&home).await, 120);
}

/// Given files that no version ever named, then old ones go, and those that a commit may be writing stay; so does what others keep there.
#[tokio::test(flavor = "multi_thread")]
async fn orphans_go_when_they_are_old() {
    let home = Home::new();
    append(&mut home.table().await, &mut Dice(9), 0).await;
    let moment = between();
    let partition = a_partition(&home);
    let (old, new) = (partition.join(DATA), partition.join(DATA.replace("6fa4", "7fa4")));
    let others = [
        partition.join("README.txt"),
        partition.join("trades.parquet"),
        partition.join("part-old.zstd.parquet"),
        partition.join("old").join(DATA),
        home.folder().join(DATA),
        home.folder().join("dataset=A").join(DATA),
        home.folder().join("old/date=2026-01-01").join(DATA),
        home.folder().join("_others").join("x.parquet"),
        home.folder().join("_delta_log").join(DATA),
    ];
    for path in [&old, &new].into_iter().chain(&others) {
        write_at(path, if path == &new { moment + 60_000 } else { moment - 60_000 });
    }
    let removed = home.table().await.clean_up(&since(moment), &never()).await.unwrap();
    assert_eq!((removed.files, removed.bytes), (1, 5));
    assert!(!old.exists() && new.exists() && others.iter().all(|path| path.exists()));
    assert_eq!(rows(&home).await, 30);
}

/// Given a writer that slept while the log was cleaned up behind its back, then its commit is an error that nobody sees, and the next one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_slept_beyond_the_horizon_does_no_harm() {
    let home = Home::new();
    let mut sleeper = home.table().await;
    append(&mut sleeper, &mut Dice(10), 0).await;
    let mut reader = home.lake.find(FAMILY).await.unwrap().unwrap();
    let mut other = home.table().await;
    for number in 1..6 {
        append(&mut other, &mut Dice(11), number).await;
    }
    other.checkpoint().await.unwrap();
    other.clean_up(&since(between()), &never()).await.unwrap();
    let txn = Txn { app_id: "t/x/0".into(), from: Some(1), to: 2 };
    let refused = sleeper.commit(&[batch(&mut Dice(12), 7)], &[txn], Map::new()).await.unwrap_err();
    assert!(matches!(&refused, Error::Moved { .. }), "{refused}");
    assert_eq!(sleeper.txn_version("t/x/0").await.unwrap(), Some(6), "it reads the table again");
    append(&mut sleeper, &mut Dice(13), 6).await;
    reader.refresh().await.unwrap();
    assert_eq!((reader.version(), rows(&home).await), (7, 7 * 30));
    assert_eq!(told::history(&home.table().await).await.unwrap().len(), 8);
}

/// Given two that clean up at the same time while a third one commits, then the history has every version once.
#[tokio::test(flavor = "multi_thread")]
async fn two_clean_ups_at_once_keep_one_history() {
    let home = Home::new();
    let moment = a_table_with_a_past(&home).await;
    let history = told::history(&home.table().await).await.unwrap();
    let (mut one, mut other, mut writer) = (home.table().await, home.table().await, home.table().await);
    let commits = async {
        for number in 15..18 {
            append(&mut writer, &mut Dice(number as u64), number).await;
        }
    };
    let (horizon, stop) = (since(moment), never());
    let (first, second, ()) = tokio::join!(one.clean_up(&horizon, &stop), other.clean_up(&horizon, &stop), commits);
    first.and(second).unwrap();
    let told = told::history(&home.table().await).await.unwrap();
    assert_eq!((&told[..history.len()], told.len()), (&history[..], history.len() + 3));
    assert_eq!(rows(&home).await, 18 * 30);
}

/// Given another time for which removed files are named, then it is a version of its own, once, and a writer beside it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn the_horizon_is_written_into_the_table_once() {
    let home = Home::new();
    let mut writer = home.table().await;
    append(&mut writer, &mut Dice(14), 0).await;
    let mut upkeep = home.table().await;
    let week = Duration::from_secs(7 * 86_400);
    assert!(upkeep.forget_removed_after(week).await.unwrap());
    assert!(!home.table().await.forget_removed_after(week).await.unwrap());
    append(&mut writer, &mut Dice(15), 1).await;
    assert_eq!((writer.version(), rows(&home).await), (3, 60));
    let entry = std::fs::read_to_string(home.folder().join("_delta_log/00000000000000000002.json")).unwrap();
    assert!(entry.contains("interval 7 days") && entry.contains("maintenance/bars"), "{entry}");
}

/// Given a checkpoint that is written beside commits, then they go on, and readers begin at it.
#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_are_written_beside_commits() {
    let home = Home::new();
    let mut table = home.table().await;
    let mut begun = 0;
    for number in 0..205 {
        let txn = Txn { app_id: "t/x/0".into(), from: (number > 0).then_some(number), to: number + 1 };
        table.commit(&[batch(&mut Dice(1), 1)], &[txn], Map::new()).await.unwrap();
        if table.checkpoint_due() {
            table.begin_checkpoint();
            begun += 1;
        }
        table.checkpoint_done().await.unwrap();
    }
    table.checkpoint_settled().await.unwrap();
    assert_eq!(begun, 2);
    let checkpoints = home.on_disk().into_iter().filter(|path| path.to_string_lossy().contains(".checkpoint.")).count();
    assert_eq!(checkpoints, 2);
    assert!(!home.table().await.checkpoint_due());
    assert_eq!(home.table().await.txn_version("t/x/0").await.unwrap(), Some(205));
}
