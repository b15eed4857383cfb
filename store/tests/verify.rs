//! What a verification must find: tables of a real store, edited as somebody would who wants to hide something.

use arrow::array::{Array, ArrayRef, Decimal128Array, Int32Array, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use bytes::Bytes;
use eventlog::embedded::{Embedded, Options as LogOptions};
use eventlog::{Batch, EventLog, Polled, Reader, Records, Start, StateTopic, TopicInfo, TopicReport, Watermarks, Writer};
use lake::{FileInfo, Lake};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader, SortingColumn};
use parquet::file::properties::WriterProperties;
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

    /// The kinds of what is found whose words have these among them; there is nothing else.
    async fn found_of(&self, words: &str) -> Vec<&'static str> {
        let findings = self.verify().await.findings;
        assert!(findings.iter().all(|finding| finding.what.contains(words)), "{words}: {findings:?}");
        let mut kinds: Vec<_> = findings.iter().map(|finding| finding.kind).collect();
        kinds.dedup();
        kinds
    }

    /// The rows of a file of trades as they lie in it.
    async fn rows(&self, file: &FileInfo) -> RecordBatch {
        let bytes = self.lake.fetch(F, file).await.unwrap();
        let batches: Vec<RecordBatch> = self.lake.rows(F, file, bytes).unwrap().map(Result::unwrap).collect();
        without_partition(F, &concat_batches(&batches[0].schema(), &batches).unwrap())
    }

    fn path(&self, file: &FileInfo) -> PathBuf {
        self.table().join(&file.path)
    }

    fn table(&self) -> PathBuf {
        self.dir.path().join("tables").join(F.topic().name)
    }

    /// Writes a file of trades anew with other rows.
    async fn edit(&self, file: &FileInfo, change: impl Fn(RecordBatch) -> RecordBatch) {
        self.edit_in(F, file, change).await;
    }

    /// Writes a file anew with other rows, and its length into the table's log, which then states nothing of its values.
    async fn edit_in(&self, family: Family, file: &FileInfo, change: impl Fn(RecordBatch) -> RecordBatch) {
        let bytes = self.lake.fetch(family, file).await.unwrap();
        let batches: Vec<RecordBatch> = self.lake.rows(family, file, bytes).unwrap().map(Result::unwrap).collect();
        let rows = change(concat_batches(&batches[0].schema(), &batches).unwrap());
        let rows = without_partition(family, &rows);
        self.replace_in(family, file, &write(&rows, WriterProperties::builder().build()));
        self.restate(family, file, |_| None);
    }

    /// Has the table's log state other statistics of a file, or none.
    fn restate(&self, family: Family, file: &FileInfo, change: impl Fn(&str) -> Option<String>) {
        self.relog_in(family, |entry| {
            let name = file.path.rsplit('/').next().unwrap();
            let edit = |line: &str| {
                let mut action: serde_json::Value = serde_json::from_str(line).unwrap();
                match action.pointer_mut("/add/stats").filter(|_| line.contains(name)) {
                    None => line.to_string(),
                    Some(stats) => {
                        *stats = change(stats.as_str().unwrap()).into();
                        action.to_string()
                    }
                }
            };
            entry.lines().map(edit).collect::<Vec<_>>().join("\n")
        });
    }

    fn replace(&self, file: &FileInfo, bytes: &[u8]) {
        self.replace_in(F, file, bytes);
    }

    fn replace_in(&self, family: Family, file: &FileInfo, bytes: &[u8]) {
        std::fs::write(self.dir.path().join("tables").join(family.topic().name).join(&file.path), bytes).unwrap();
        self.relog_in(family, |entry| {
            let name = file.path.rsplit('/').next().unwrap();
            let edit = |line: &str| match line.contains(name) {
                true => line.replace(&format!("\"size\":{}", file.size), &format!("\"size\":{}", bytes.len())),
                false => line.to_string(),
            };
            entry.lines().map(edit).collect::<Vec<_>>().join("\n")
        });
    }

    fn relog(&self, change: impl Fn(String) -> String) {
        self.relog_in(F, change);
    }

    fn relog_in(&self, family: Family, change: impl Fn(String) -> String) {
        for entry in entries(&self.dir.path().join("tables").join(family.topic().name).join("_delta_log")) {
            let text = std::fs::read_to_string(&entry).unwrap();
            std::fs::write(&entry, change(text)).unwrap();
        }
    }
}

/// A Parquet file of these rows.
fn write(rows: &RecordBatch, properties: WriterProperties) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).unwrap();
    writer.write(rows).unwrap();
    writer.into_inner().unwrap()
}

/// The columns that are in a file: the log names the others' values.
fn without_partition(family: Family, rows: &RecordBatch) -> RecordBatch {
    let schema = rows.schema();
    let kept: Vec<usize> =
        (0..rows.num_columns()).filter(|at| !family.topic().partition_by.contains(&schema.field(*at).name().as_str())).collect();
    rows.project(&kept).unwrap()
}

/// A number as Thrift's compact protocol writes it: zigzag, seven bits to a byte, the lowest first.
fn varint(number: i64) -> Vec<u8> {
    let mut left = ((number << 1) ^ (number >> 63)) as u64;
    let mut bytes = Vec::new();
    while left >= 0x80 {
        bytes.push(left as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
    bytes
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
    assert_eq!(home.found().await, ["altered", "misstated"]);
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

/// The proof is of the bytes of a record; where a row keeps them, its columns must be what they say.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_value_beside_the_bytes_that_it_had() {
    let home = Home::new().await;
    let file = home.files().await.remove(0);
    let forge = |batch: RecordBatch| {
        let wire: Vec<usize> = (0..F.topic().fields.len()).collect();
        let own = RecordBatch::try_new(F.topic().wire_schema().clone(), batch.project(&wire).unwrap().columns().to_vec()).unwrap();
        let frames = frame::encode(F, &own).unwrap();
        let raw = frames.iter().enumerate().map(|(row, frame)| (row == 17).then(|| frame.to_vec()));
        let with_bytes = with_column(&batch, "_raw", Arc::new(raw.collect::<arrow::array::BinaryArray>()));
        let old = batch.column(F.topic().column("sequence")).len();
        with_column(&with_bytes, "sequence", Arc::new((0..old).map(|row| (row == 17).then_some(5)).collect::<Int64Array>()))
    };
    home.edit(&file, forge).await;
    assert_eq!(home.found().await, ["altered"]);
}

/// A row that names no offset is proven by no commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_a_place_in_the_log() {
    for forget in [&["_offset"][..], &["_partition"], &["_offset", "_partition"]] {
        let home = Home::new().await;
        let file = home.files().await.remove(0);
        let forge = |batch: RecordBatch| {
            let mut forged = batch.slice(3, 1);
            for name in forget {
                let empty = arrow::array::new_null_array(batch.column(F.topic().column(name)).data_type(), 1);
                forged = with_column(&forged, name, empty);
            }
            concat_batches(&batch.schema(), [&batch, &forged]).unwrap()
        };
        home.edit(&file, forge).await;
        assert_eq!(home.found().await, ["unclaimed"], "{forget:?}");
    }
}

/// A partition that there is not has no proof either.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_a_partition_that_no_commit_names() {
    let home = Home::new().await;
    let file = home.files().await.remove(0);
    let forge = |batch: RecordBatch| {
        let forged = with_column(&batch.slice(3, 1), "_partition", Arc::new(Int32Array::from(vec![99])));
        concat_batches(&batch.schema(), [&batch, &forged]).unwrap()
    };
    home.edit(&file, forge).await;
    assert!(home.found().await.contains(&"unclaimed"), "{:?}", home.verify().await.findings);
}

/// Given a commit that claims what no log can have, then that is told, and nothing panics.
#[tokio::test(flavor = "multi_thread")]
async fn claims_of_what_no_log_has() {
    for (said, forged) in
        [("\"absent\":[]", "\"absent\":[[-9223372036854775808,9223372036854775807,\"x\"]]"), ("\"from\":-1", "\"from\":-2")]
    {
        let home = Home::new().await;
        home.relog(|entry| entry.replacen(said, forged, 1));
        assert!(home.found().await.contains(&"unreadable"), "{forged}: {:?}", home.verify().await.findings);
    }
}

/// What the store noted of its own has no offset of its own either: it is about a topic that it stored from, and says no more than it ever does.
#[tokio::test(flavor = "multi_thread")]
async fn a_note_of_the_store_that_it_did_not_write() {
    let forgeries = [("origin_topic", Some("tape.nothing")), ("origin_topic", None), ("change", Some("cancel")), ("symbol", Some("TOK1"))];
    for (name, forged) in forgeries {
        let home = Home::new().await;
        let family = Family::Quarantine;
        let file = home.lake.find(family).await.unwrap().unwrap().snapshot().files()[0].clone();
        let change = |batch: RecordBatch| {
            assert_eq!(batch.num_rows(), 1);
            let mut columns = batch.columns().to_vec();
            columns[family.topic().column(name)] = Arc::new(arrow::array::StringArray::from(vec![forged]));
            RecordBatch::try_new(batch.schema(), columns).unwrap()
        };
        home.edit_in(family, &file, change).await;
        assert!(home.found().await.contains(&"unclaimed"), "{name}: {:?}", home.verify().await.findings);
    }
}

/// How the cells of such a note are spelled follows from the record that it keeps.
#[tokio::test(flavor = "multi_thread")]
async fn a_note_of_the_store_in_another_spelling() {
    let family = Family::Quarantine;
    type Forge = fn(&ArrayRef) -> ArrayRef;
    let forgeries: [(&str, Forge); 4] = [
        ("_log_ts", |old| Arc::new(Int64Array::from(vec![Int64Array::from(old.to_data()).value(0) + 999_999]))),
        ("_headers", |_| Arc::new(arrow::array::BinaryArray::from(vec![Some(&b""[..])]))),
        ("field", |_| Arc::new(arrow::array::StringArray::from(vec!["price"]))),
        ("_ts_type", |_| Arc::new(Int32Array::from(vec![7]))),
    ];
    for (name, forge) in forgeries {
        let home = Home::new().await;
        let file = home.lake.find(family).await.unwrap().unwrap().snapshot().files()[0].clone();
        let change = |batch: RecordBatch| {
            assert_eq!(batch.num_rows(), 1);
            let at = family.topic().column(name);
            let mut columns = batch.columns().to_vec();
            columns[at] = forge(&columns[at]);
            RecordBatch::try_new(batch.schema(), columns).unwrap()
        };
        home.edit_in(family, &file, change).await;
        assert!(home.found().await.contains(&"unclaimed"), "{name}: {:?}", home.verify().await.findings);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_and_a_schema_that_no_log_gave() {
    let home = Home::new().await;
    let file = home.files().await.remove(0);
    let later = |batch: RecordBatch| {
        let old = batch.column(F.topic().column("_log_ts")).to_data();
        let old = Int64Array::from(old);
        let times = old.iter().enumerate().map(|(row, time)| time.map(|time| time + i64::from(row == 17)));
        with_column(&batch, "_log_ts", Arc::new(times.collect::<Int64Array>()))
    };
    home.edit(&file, later).await;
    assert_eq!(home.found().await, ["altered"]);
    let home = Home::new().await;
    let file = home.files().await.remove(0);
    let forget = |batch: RecordBatch| {
        let ids = (0..batch.num_rows()).map(|row| (row != 17).then_some(F.topic().schema_id.cast_signed()));
        with_column(&batch, "_schema", Arc::new(ids.collect::<Int32Array>()))
    };
    home.edit(&file, forget).await;
    assert_eq!(home.found().await, ["altered"]);
}

/// Rows that are all there are hidden from queries by a wrong count or bound: of the table's log, the file's footer, its page index.
#[tokio::test(flavor = "multi_thread")]
async fn statistics_that_hide_rows() {
    let changes: [(&str, &str); 4] = [
        ("\"numRecords\":400", "\"numRecords\":0"),
        ("\"price\":2.810000399", "\"price\":2.810000398"),
        ("\"price\":2.810000000", "\"price\":2.810000001"),
        ("\"ts_recv\":400", "\"ts_recv\":399"),
    ];
    for (said, forged) in changes {
        let home = Home::new().await;
        let file = home.files().await.remove(0);
        home.restate(F, &file, |stats| {
            assert!(stats.contains(said), "{said} is not in {stats}");
            Some(stats.replace(said, forged))
        });
        assert_eq!(home.found().await, ["misstated"], "{forged}");
    }
    // The greatest price, as the footer and the page index have it; behind the pages, and nowhere else.
    for by in ["its footer", "its page index"] {
        let home = Home::new().await;
        let file = home.files().await.remove(0);
        let mut bytes = std::fs::read(home.path(&file)).unwrap();
        let footer = bytes.len() - 8 - u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
        let (greatest, less) = (2_810_000_399i64.to_le_bytes(), 2_810_000_398i64.to_le_bytes());
        let (of_pages, of_footer): (Vec<_>, Vec<_>) =
            (0..bytes.len() - 8).filter(|at| bytes[*at..*at + 8] == greatest).partition(|at| *at < footer);
        // The page index stands between the pages and the footer.
        let places = if by == "its footer" { of_footer } else { vec![*of_pages.last().unwrap()] };
        assert!(!places.is_empty(), "the greatest price is in {by}");
        places.iter().for_each(|at| bytes[*at..*at + 8].copy_from_slice(&less));
        home.replace(&file, &bytes);
        let findings = home.verify().await.findings;
        assert!(
            findings.iter().all(|finding| finding.kind == "misstated" && finding.what.contains(by)) && !findings.is_empty(),
            "{findings:?}"
        );
    }
}

/// Readers pass over pages by the page index, and over row groups by Bloom filters; both can be forged beside rows that are all there.
#[tokio::test(flavor = "multi_thread")]
async fn pages_and_filters_that_hide_rows() {
    for forged in ["its page index has other rows", "Bloom filter"] {
        let home = Home::new().await;
        let file = home.files().await.remove(0);
        let rows = home.rows(&file).await;
        let small_pages = WriterProperties::builder().set_data_page_row_count_limit(64).set_write_batch_size(16);
        let properties = match forged {
            "Bloom filter" => small_pages.set_column_bloom_filter_enabled("symbol".into(), true).build(),
            _ => small_pages.build(),
        };
        let mut bytes = write(&rows, properties);
        home.replace(&file, &bytes);
        if forged == "Bloom filter" {
            assert_eq!(home.found_of(forged).await, ["misstated"]);
            continue;
        }
        assert_eq!(home.found().await, [] as [&str; 0], "small pages alone are no lie");
        // In the offset index of one column a page begins five rows earlier than it does.
        let footer = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
        let footer = footer.parse_and_finish(&Bytes::from(bytes.clone())).unwrap();
        let price = footer.row_group(0).columns().iter().position(|column| column.column_path().string() == "price").unwrap();
        let column = footer.row_group(0).column(price);
        let (at, length) = (column.offset_index_offset().unwrap() as usize, column.offset_index_length().unwrap() as usize);
        let third = footer.offset_index().unwrap()[0][price].page_locations()[2].first_row_index;
        let (said, forged_row) = (varint(third), varint(third - 5));
        assert_eq!(said.len(), forged_row.len());
        let place = (at..at + length)
            .rev()
            .find(|at| bytes[*at..].starts_with(&said) && bytes[at - 1] == 0x16)
            .expect("the third page's first row");
        bytes[place..place + said.len()].copy_from_slice(&forged_row);
        home.replace(&home.files().await.remove(0), &bytes);
        assert_eq!(home.found_of(forged).await, ["misstated"]);
    }
}

/// Queries do not sort again what says that it is sorted.
#[tokio::test(flavor = "multi_thread")]
async fn rows_out_of_the_order_that_is_stated() {
    let home = Home::new().await;
    let file = home.files().await.remove(0);
    let rows = home.rows(&file).await;
    let backwards = UInt64Array::from_iter_values((0..rows.num_rows() as u64).rev());
    let shuffled = take_record_batch(&rows, &backwards).unwrap();
    home.replace(&file, &write(&shuffled, WriterProperties::builder().build()));
    assert_eq!(home.found().await, [] as [&str; 0], "a file that states no order may have any");
    let by = F.topic().sort_key.iter().map(|name| rows.schema().index_of(name).unwrap() as i32);
    let by: Vec<_> = by.map(|column_idx| SortingColumn { column_idx, descending: false, nulls_first: true }).collect();
    for group_rows in [1 << 20, 1] {
        let properties = WriterProperties::builder().set_sorting_columns(Some(by.clone())).set_max_row_group_row_count(Some(group_rows));
        home.replace(&home.files().await.remove(0), &write(&shuffled, properties.build()));
        assert_eq!(home.found_of("sorted by symbol, ts_event").await, ["misstated"], "{group_rows} rows in a group");
    }
}

/// A row group without rows would stand between two that are not in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_group_without_rows() {
    let home = Home::new().await;
    let file = home.files().await.remove(0);
    let rows = home.rows(&file).await;
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    let (mut writer, columns) = writer.into_serialized_writer().unwrap();
    let empty = columns.create_column_writers(1).unwrap();
    let mut group = writer.next_row_group().unwrap();
    empty.into_iter().for_each(|column| column.close().unwrap().append_to_row_group(&mut group).unwrap());
    group.close().unwrap();
    home.replace(&file, &writer.into_inner().unwrap());
    assert_eq!(home.found_of("row group without rows").await, ["misstated"]);
}

/// The table's log says which columns there are, and every reader but ours believes it.
#[tokio::test(flavor = "multi_thread")]
async fn columns_and_statistics_that_the_log_misstates() {
    for (said, forged, told) in [
        (r#"\"name\":\"price\",\"type\":\"decimal(18,9)\""#, r#"\"name\":\"price\",\"type\":\"decimal(18,8)\""#, "price"),
        (r#"\"name\":\"trade_id\""#, r#"\"name\":\"trade_ix\""#, "trade_ix"),
        (r#"\"numRecords\":"#, r#"\"numRecords\":10,\"numRecords\":"#, "cannot be read"),
        (r#"\"nullCount\":{"#, r#"\"nullCount\":{\"price\":400,"#, "comes twice"),
    ] {
        let home = Home::new().await;
        home.relog(|entry| entry.replace(said, forged));
        assert_eq!(home.found_of(told).await, ["misstated"], "{forged}");
    }
}

/// A table that is removed whole takes all that it claimed with it: that it was there is known beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_gone() {
    let home = Home::new().await;
    std::fs::remove_dir_all(home.table()).unwrap();
    assert!(home.found().await.contains(&"missing"));
    let anew = home.lake.table(F).await;
    assert!(matches!(anew, Err(lake::Error::Gone { table: "trades", .. })), "it is not begun anew in silence: {anew:?}");
}

/// A topic that had nothing but poison has a proof of it too.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_poison_is_whole() {
    let (dir, log) = log();
    let lake = Lake::open(dir.path().join("tables").to_str().unwrap()).unwrap();
    let records = Records { family: F, keys: vec!["poison".into()], values: vec!["no frame".into()] };
    log.writer("test").unwrap().publish(&Batch { records: vec![records], ..Batch::default() }).unwrap();
    Store::new(log, lake.clone(), Options::default()).run_once(&mut |_| {}).await.unwrap();
    let verified = verify(&lake, &mut |_| {}).await.unwrap();
    assert_eq!((verified.findings.as_slice(), verified.tables["quarantine"].rows), (&[][..], 1));
}

/// Who takes away a commit with all it says of itself leaves a hole between its neighbours, or a transaction that is ahead.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_claims_were_taken_away() {
    let home = Home::new().await;
    home.relog(|entry| entry.replace("\"tokentape\"", "\"nothing\""));
    assert_eq!(home.found().await, ["unclaimed", "unproven"], "and what the store noted in quarantine is about nothing");
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
    assert_eq!(home.found().await, ["altered", "schema"], "it is not the id in the record's own bytes");
    let findings: Vec<_> = findings.into_iter().filter(|finding| finding.kind == "schema").collect();
    assert!(findings[0].what.contains("4711") && findings[0].what.contains(&file.path), "{findings:?}");
}

/// Given a commit that says of an offset that it holds no record, for a reason that there is not, then the hole is unexplained; and there is a row.
#[tokio::test(flavor = "multi_thread")]
async fn a_hole_without_a_reason() {
    let home = Home::new().await;
    home.relog(|entry| match entry.contains("\"from\":-1,") {
        true => entry.replacen("\"absent\":[]", "\"absent\":[[0,0,\"the cat\"]]", 1),
        false => entry,
    });
    assert_eq!(home.found().await, ["unclaimed", "unexplained"], "{:?}", home.verify().await.findings);
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
