//! Tables as a whole: what was committed reads back exactly, is sorted, is found by its statistics, and is there once.

#[path = "support/dice.rs"]
mod dice;

use arrow::array::{Array, ArrayRef, AsArray, Date32Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::{SortColumn, SortOptions, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Int64Type};
use bytes::Bytes;
use dice::{Dice, column};
use lake::{Bound, Error, Lake, Table, Txn};
use object_store::ObjectStoreExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Type as Physical;
use proptest::prelude::*;
use schemas::{Family, Kind};
use serde_json::{Map, Value, json};
use std::sync::Arc;

fn batch(family: Family, seed: u64, rows: usize) -> RecordBatch {
    let mut dice = Dice(seed);
    let topic = family.topic();
    let columns = topic.stored_fields().iter().map(|field| column(&mut dice, field, rows)).collect();
    RecordBatch::try_new(topic.stored_schema().clone(), columns).unwrap()
}

/// The batch without the columns that hold nothing, as the store gives it.
fn slim(batch: &RecordBatch) -> RecordBatch {
    let keep: Vec<usize> = (0..batch.num_columns()).filter(|i| batch.column(*i).null_count() < batch.num_rows()).collect();
    batch.project(&keep).unwrap()
}

async fn read(lake: &Lake, file: &lake::FileInfo) -> Bytes {
    lake.object_store().get(&file.location).await.unwrap().bytes().await.unwrap()
}

/// All rows of the table as it is, in the stored schema, the partition columns made from the log's values.
async fn rows(lake: &Lake, table: &Table) -> RecordBatch {
    let schema = table.family().topic().stored_schema().clone();
    let mut batches = Vec::new();
    for file in table.snapshot().files() {
        let bytes = read(lake, file).await;
        for part in ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap() {
            batches.push(with_partition_columns(&part.unwrap(), file, &schema));
        }
    }
    concat_batches(&schema, &batches).unwrap()
}

fn with_partition_columns(part: &RecordBatch, file: &lake::FileInfo, schema: &arrow::datatypes::SchemaRef) -> RecordBatch {
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        let Some((_, value)) = file.partition_values.iter().find(|(name, _)| name == field.name()) else {
            return part.column_by_name(field.name()).unwrap().clone();
        };
        let text: ArrayRef = Arc::new(StringArray::from(vec![value.as_deref(); part.num_rows()]));
        arrow::compute::cast(&text, field.data_type()).unwrap()
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
}

/// The rows in one order that depends only on their content.
fn ordered(batch: &RecordBatch) -> RecordBatch {
    let comparable = |column: &&ArrayRef| column.data_type() != &DataType::Null;
    let columns: Vec<SortColumn> =
        batch.columns().iter().filter(comparable).map(|values| SortColumn { values: values.clone(), options: None }).collect();
    take_record_batch(batch, &lexsort_to_indices(&columns, None).unwrap()).unwrap()
}

fn by_path(table: &Table) -> Vec<Arc<lake::FileInfo>> {
    let mut files = table.snapshot().files().to_vec();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn txn(from: Option<i64>, to: i64) -> Txn {
    Txn { app_id: "table/topic/0".into(), from, to }
}

fn home() -> (tempfile::TempDir, Lake) {
    let directory = tempfile::tempdir().unwrap();
    let lake = Lake::open(directory.path().join("ta bles").to_str().unwrap()).unwrap();
    (directory, lake)
}

/// Nearest thing to an assertion on a whole file: sorted, says so, prices are INT64, statistics bound every value.
async fn check_files(lake: &Lake, table: &Table) {
    let topic = table.family().topic();
    for file in table.snapshot().files() {
        let builder = ParquetRecordBatchReaderBuilder::try_new(read(lake, file).await).unwrap();
        let metadata = builder.metadata().clone();
        let leaves = metadata.file_metadata().schema_descr().columns().to_vec();
        for leaf in &leaves {
            let field = topic.stored_fields().into_iter().find(|f| f.name == leaf.name()).unwrap();
            assert!(field.kind != Kind::Price || leaf.physical_type() == Physical::INT64, "{}", leaf.name());
            assert!(!topic.partition_by.contains(&leaf.name()));
        }
        for group in metadata.row_groups() {
            let said: Vec<&str> = group.sorting_columns().unwrap().iter().map(|c| leaves[c.column_idx as usize].name()).collect();
            assert_eq!(said, topic.sort_key);
            assert!(group.sorting_columns().unwrap().iter().all(|c| c.nulls_first && !c.descending));
        }
        let parts: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
        let part = concat_batches(&parts[0].schema(), &parts).unwrap();
        assert_eq!(file.stats.rows, Some(part.num_rows() as u64));
        check_sorted(&part, topic.sort_key);
        check_stats(&part, file);
    }
}

fn check_sorted(part: &RecordBatch, key: &[&str]) {
    let columns: Vec<ArrayRef> = key.iter().map(|name| part.column_by_name(name).unwrap().clone()).collect();
    let fields = columns.iter().map(|c| arrow::row::SortField::new_with_options(c.data_type().clone(), SortOptions::default())).collect();
    let keys = arrow::row::RowConverter::new(fields).unwrap().convert_columns(&columns).unwrap();
    assert!((1..part.num_rows()).all(|i| keys.row(i - 1) <= keys.row(i)), "not sorted by {key:?}");
}

fn check_stats(part: &RecordBatch, file: &lake::FileInfo) {
    for (name, nulls) in &file.stats.nulls {
        assert_eq!(*nulls, part.column_by_name(name).unwrap().null_count() as u64, "{name}");
    }
    for (name, bounds, at_end) in file.stats.min.iter().map(|(n, b)| (n, b, false)).chain(file.stats.max.iter().map(|(n, b)| (n, b, true)))
    {
        let array = part.column_by_name(name).unwrap();
        let values: Vec<Bound> = (0..array.len()).filter(|row| array.is_valid(*row)).map(|row| bound(array, row)).collect();
        let exact = if at_end { values.iter().max() } else { values.iter().min() };
        match bounds {
            Bound::Text(text) => {
                assert!(text.chars().count() <= 32);
                assert!(values.iter().all(|v| if at_end { v <= bounds } else { v >= bounds }), "{name}");
            }
            _ => assert_eq!(Some(bounds), exact, "{name}"),
        }
    }
}

fn bound(array: &ArrayRef, row: usize) -> Bound {
    use arrow::datatypes::{Date32Type, Decimal128Type, Int32Type};
    match array.data_type() {
        DataType::Int32 => Bound::Int(array.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Bound::Int(array.as_primitive::<Int64Type>().value(row)),
        DataType::Date32 => Bound::Int(array.as_primitive::<Date32Type>().value(row).into()),
        DataType::Decimal128(..) => Bound::Decimal(array.as_primitive::<Decimal128Type>().value(row)),
        _ => Bound::Text(array.as_string::<i32>().value(row).to_string()),
    }
}

/// Given every family, when its table is made and opened again, then its columns and properties are those of the declaration.
#[tokio::test]
async fn every_family_has_a_table() {
    let (directory, lake) = home();
    assert!(lake.tables().await.unwrap().is_empty());
    for family in Family::ALL {
        assert!(lake.find(family).await.unwrap().is_none());
        assert_eq!(lake.table(family).await.unwrap().version(), 0);
        assert_eq!(lake.table(family).await.unwrap().version(), 0, "opening changes nothing");
        let entry = first_entry(&directory, family);
        let schema: Value = serde_json::from_str(entry["schemaString"].as_str().unwrap()).unwrap();
        let types: Vec<(String, Value)> =
            schema["fields"].as_array().unwrap().iter().map(|f| (f["name"].as_str().unwrap().to_string(), f["type"].clone())).collect();
        assert_eq!(types.len(), family.topic().stored_fields().len());
        for (field, (name, delta)) in family.topic().stored_fields().iter().zip(types) {
            let expected = match field.kind {
                Kind::Text => "string".into(),
                Kind::I32 => "integer".into(),
                Kind::I64 | Kind::Time => "long".into(),
                Kind::Date => "date".into(),
                Kind::Bool => "boolean".into(),
                Kind::Bytes => "binary".into(),
                _ => format!("decimal({},{})", field.kind.decimal().unwrap().0, field.kind.decimal().unwrap().1),
            };
            assert_eq!((name.as_str(), delta), (field.name.as_ref(), json!(expected)));
        }
        assert_eq!(entry["configuration"]["delta.appendOnly"], "true");
        assert_eq!(entry["configuration"]["delta.enableExpiredLogCleanup"], "false");
        assert_eq!(entry["partitionColumns"], json!(family.topic().partition_by));
    }
    assert_eq!(lake.tables().await.unwrap(), Family::ALL);
}

fn log_file(directory: &tempfile::TempDir, family: Family, version: u64) -> std::path::PathBuf {
    directory.path().join("ta bles").join(family.topic().name).join(format!("_delta_log/{version:020}.json"))
}

fn first_entry(directory: &tempfile::TempDir, family: Family) -> Value {
    let text = std::fs::read_to_string(log_file(directory, family, 0)).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).find_map(|action| action.get("metaData").cloned()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    /// Given any rows of any family, in several batches, when they are committed, then the files hold exactly them.
    #[test]
    fn what_is_committed_reads_back(seed in any::<u64>(), family in proptest::sample::select(&Family::ALL[..]), counts in proptest::collection::vec(0usize..60, 1..4)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let (_directory, lake) = home();
            let given: Vec<RecordBatch> = counts.iter().enumerate().map(|(i, n)| batch(family, seed.wrapping_add(i as u64), *n)).collect();
            let mut table = lake.table(family).await.unwrap();
            let slim: Vec<RecordBatch> = given.iter().map(slim).collect();
            let committed = table.commit(&slim, &[txn(None, 7)], Map::new()).await.unwrap();
            prop_assert_eq!(committed.rows, counts.iter().sum::<usize>() as u64);
            let expected = concat_batches(family.topic().stored_schema(), &given).unwrap();
            if expected.num_rows() > 0 {
                prop_assert_eq!(ordered(&rows(&lake, &table).await), ordered(&expected));
                check_files(&lake, &table).await;
            }
            // A second look, through the log on disk, is the same.
            let again = lake.find(family).await.unwrap().unwrap();
            prop_assert_eq!(by_path(&again), by_path(&table));
            Ok(())
        })?;
    }
}

/// Given a large file of few symbols, when encodings are chosen from a sample and row groups are cut, then the rows are still the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_reads_back() {
    let (_directory, lake) = home();
    let mut table = lake.table(Family::Trades).await.unwrap();
    let given = batch(Family::Trades, 42, 20_000);
    let one = |name: &str, array: ArrayRef| (family_column(name), array);
    let same: Vec<(usize, ArrayRef)> = vec![
        one("dataset", Arc::new(StringArray::from(vec!["X"; 20_000]))),
        one("date", Arc::new(Date32Array::from(vec![None; 20_000]))),
        one("_offset", Arc::new(Int64Array::from_iter_values((0..20_000).rev()))),
    ];
    let mut columns = given.columns().to_vec();
    same.into_iter().for_each(|(i, array)| columns[i] = array);
    let given = RecordBatch::try_new(given.schema(), columns).unwrap();
    let committed = table.commit(&[given.slice(0, 9_000), given.slice(9_000, 11_000)], &[], Map::new()).await.unwrap();
    assert_eq!((committed.files, committed.rows), (1, 20_000));
    assert_eq!(table.snapshot().files()[0].partition_values, [("dataset", Some("X".to_string())), ("date", None)]);
    assert_eq!(ordered(&rows(&lake, &table).await), ordered(&given));
    check_files(&lake, &table).await;
}

fn family_column(name: &str) -> usize {
    Family::Trades.topic().column(name)
}

/// Given a committed batch, when the same is committed again from the old place, then it is refused and the rows are there once.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_moves_only_from_where_it_is() {
    let (_directory, lake) = home();
    let mut table = lake.table(Family::Bars).await.unwrap();
    let given = batch(Family::Bars, 1, 10);
    table.commit(std::slice::from_ref(&given), &[txn(None, 10)], Map::new()).await.unwrap();
    let again = table.commit(std::slice::from_ref(&given), &[txn(None, 10)], Map::new()).await;
    assert!(matches!(again, Err(Error::Moved { .. })), "{again:?}");
    assert_eq!(table.txn_version("table/topic/0").await.unwrap(), Some(10));
    let mut anew = lake.table(Family::Bars).await.unwrap();
    assert_eq!(anew.txn_version("table/topic/0").await.unwrap(), Some(10));
    assert_eq!(anew.txn_version("table/topic/1").await.unwrap(), None);
    let back = anew.commit(&[given], &[txn(Some(10), 9)], Map::new()).await;
    assert!(matches!(back, Err(Error::Batch { .. })), "{back:?}");
    assert_eq!(rows(&lake, &anew).await.num_rows(), 10);
}

/// Given two writers of one table, when they commit the same partition, then the second is fenced; when they commit two, then both land.
#[tokio::test(flavor = "multi_thread")]
async fn a_twin_is_fenced_and_a_neighbour_is_not() {
    let (_directory, lake) = home();
    let mut one = lake.table(Family::Bars).await.unwrap();
    let mut two = lake.table(Family::Bars).await.unwrap();
    let given = [batch(Family::Bars, 1, 10)];
    let other = Txn { app_id: "table/topic/1".into(), from: None, to: 5 };
    assert_eq!(one.commit(&given, &[txn(None, 10)], Map::new()).await.unwrap().version, 1);
    assert_eq!(two.commit(&given, std::slice::from_ref(&other), Map::new()).await.unwrap().version, 2);
    let mut three = lake.table(Family::Bars).await.unwrap();
    three.txn_version("table/topic/0").await.unwrap();
    one.commit(&given, &[txn(Some(10), 20)], Map::new()).await.unwrap();
    let fenced = three.commit(&given, &[txn(Some(10), 20)], Map::new()).await;
    assert!(matches!(fenced, Err(Error::Fenced { version: 3, .. })), "{fenced:?}");
    assert_eq!(three.txn_version("table/topic/0").await.unwrap(), Some(20));
    one.refresh().await.unwrap();
    three.refresh().await.unwrap();
    assert_eq!(by_path(&one), by_path(&three));
    assert_eq!(rows(&lake, &one).await.num_rows(), 30);
}

/// Given commits before and after a checkpoint, when the table is opened from it, then files, statistics and transactions are the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_tells_the_same() {
    let (directory, lake) = home();
    let mut table = lake.table(Family::Trades).await.unwrap();
    for i in 0..3 {
        table.commit(&[batch(Family::Trades, i, 20)], &[txn((i > 0).then_some(i as i64), i as i64 + 1)], Map::new()).await.unwrap();
    }
    table.checkpoint().await.unwrap();
    table.commit(&[batch(Family::Trades, 9, 20)], &[txn(Some(3), 4)], Map::new()).await.unwrap();
    for version in 0..3 {
        std::fs::remove_file(log_file(&directory, Family::Trades, version)).unwrap();
    }
    let mut anew = lake.table(Family::Trades).await.unwrap();
    assert_eq!(by_path(&anew), by_path(&table));
    assert_eq!(anew.txn_version("table/topic/0").await.unwrap(), Some(4));
}

/// Given what a table's log says, when it is not what this version writes, then the error says which column or feature.
#[tokio::test]
async fn strange_tables_are_refused_with_a_reason() {
    let edit = |from: &str, to: &str| {
        let (directory, lake) = home();
        let (from, to) = (from.to_string(), to.to_string());
        async move {
            lake.table(Family::Bars).await.unwrap();
            let path = log_file(&directory, Family::Bars, 0);
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(&from), "{text}");
            std::fs::write(&path, text.replacen(&from, &to, 1)).unwrap();
            let result = lake.table(Family::Bars).await.map(drop);
            (result, directory)
        }
    };
    let (wrong_type, _d) = edit(r#"\"name\":\"open\",\"type\":\"decimal(18,9)\""#, r#"\"name\":\"open\",\"type\":\"decimal(20,9)\""#).await;
    let text = wrong_type.unwrap_err().to_string();
    assert!(text.contains("bars") && text.contains("open") && text.contains("decimal(20,9)"), "{text}");
    let (extra, _d) = edit(r#"\"name\":\"open\","#, r#"\"name\":\"opened\","#).await;
    assert!(extra.unwrap_err().to_string().contains("newer version"));
    let (required, _d) = edit(r#"\"name\":\"source_id\","#, r#"\"name\":\"source_it\","#).await;
    assert!(required.unwrap_err().to_string().contains("source_id"));
    let (partitioned, _d) = edit(r#""partitionColumns":["dataset","date"]"#, r#""partitionColumns":["dataset"]"#).await;
    assert!(matches!(partitioned, Err(Error::Column { .. })));
    let (newer, _d) = edit(r#""minReaderVersion":1"#, r#""minReaderVersion":9"#).await;
    let text = newer.unwrap_err().to_string();
    assert!(text.contains("bars") && text.contains("does not support"), "{text}");
}

/// Given a table of an older version, when it is opened to write, then the new columns are added and old rows have NULL there.
#[tokio::test(flavor = "multi_thread")]
async fn missing_columns_are_added() {
    let (directory, lake) = home();
    lake.table(Family::Bars).await.unwrap();
    let path = log_file(&directory, Family::Bars, 0);
    let text = std::fs::read_to_string(&path).unwrap();
    let older: Vec<String> = text
        .lines()
        .map(|line| {
            let mut action: Value = serde_json::from_str(line).unwrap();
            if let Some(metadata) = action.get_mut("metaData") {
                let mut schema: Value = serde_json::from_str(metadata["schemaString"].as_str().unwrap()).unwrap();
                schema["fields"].as_array_mut().unwrap().retain(|field| field["name"] != "turnover");
                metadata["schemaString"] = Value::String(schema.to_string());
            }
            action.to_string()
        })
        .collect();
    std::fs::write(&path, older.join("\n")).unwrap();
    let to_read = lake.find(Family::Bars).await.unwrap().unwrap();
    assert_eq!(to_read.version(), 0, "opening to read changes nothing");
    let mut table = lake.table(Family::Bars).await.unwrap();
    assert_eq!(table.version(), 1);
    let given = batch(Family::Bars, 3, 10);
    table.commit(std::slice::from_ref(&given), &[txn(None, 1)], Map::new()).await.unwrap();
    assert_eq!(ordered(&rows(&lake, &table).await), ordered(&given));
    assert_eq!(lake.table(Family::Bars).await.unwrap().version(), 2);
}

/// Given a batch that does not fit the table, then the error says what and nothing is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_does_not_fit_is_refused() {
    let (directory, lake) = home();
    let mut table = lake.table(Family::Trades).await.unwrap();
    let given = batch(Family::Trades, 3, 10);
    let without = given.project(&(1..given.num_columns()).collect::<Vec<_>>()).unwrap();
    let text = table.commit(&[without], &[], Map::new()).await.unwrap_err().to_string();
    assert!(text.contains("dataset"), "{text}");
    let mut columns = given.columns().to_vec();
    columns[family_column("date")] = Arc::new(Date32Array::from(vec![i32::MAX; 10]));
    let beyond = RecordBatch::try_new(given.schema(), columns).unwrap();
    let text = table.commit(&[beyond], &[], Map::new()).await.unwrap_err().to_string();
    assert!(text.contains("date") && text.contains("9999"), "{text}");
    let other = batch(Family::Bars, 3, 10);
    assert!(matches!(table.commit(&[other], &[], Map::new()).await, Err(Error::Batch { .. })));
    assert_eq!(table.version(), 0);
    assert_eq!(std::fs::read_dir(directory.path().join("ta bles/trades")).unwrap().count(), 1, "only the log");
    table.commit(&[given], &[txn(None, 1)], Map::new()).await.unwrap();
}

/// Given a place that is not one, then the error says what to give.
#[tokio::test]
async fn places_that_are_not_directories() {
    assert!(matches!(Lake::open("s3://bucket/tables"), Err(Error::Location { .. })));
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(matches!(Lake::open(file.path().to_str().unwrap()), Err(Error::Location { .. })));
}

mod faulty {
    //! A store whose writes fail as a full disk, or whose answers get lost.
    use super::*;
    use async_trait::async_trait;
    use futures::stream::BoxStream;
    use lake::DurableLocal;
    use object_store::path::Path;
    use object_store::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Debug, Default)]
    struct Faulty {
        inner: DurableLocal,
        full: AtomicBool,
        lose_answer: AtomicBool,
    }

    impl std::fmt::Display for Faulty {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "faulty")
        }
    }

    #[async_trait]
    impl ObjectStore for Faulty {
        async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
            if self.full.load(Ordering::SeqCst) && location.filename().is_some_and(|name| name.ends_with("parquet")) {
                let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
                return Err(object_store::Error::Generic { store: "faulty", source: Box::new(full) });
            }
            let done = self.inner.put_opts(location, payload, opts).await?;
            if location.filename().is_some_and(|name| name.ends_with("json")) && self.lose_answer.swap(false, Ordering::SeqCst) {
                let lost = std::io::Error::from(std::io::ErrorKind::TimedOut);
                return Err(object_store::Error::Generic { store: "faulty", source: Box::new(lost) });
            }
            Ok(done)
        }
        async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
            self.inner.put_multipart_opts(location, opts).await
        }
        async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
            self.inner.get_opts(location, options).await
        }
        fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.inner.delete_stream(locations)
        }
        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.inner.list(prefix)
        }
        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.inner.list_with_delimiter(prefix).await
        }
        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.inner.copy_opts(from, to, options).await
        }
    }

    fn faulty_home() -> (tempfile::TempDir, Arc<Faulty>, Lake) {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Faulty::default());
        let lake = Lake::with_store(url::Url::from_directory_path(directory.path()).unwrap(), store.clone()).unwrap();
        (directory, store, lake)
    }

    /// Given a full disk, when a batch is committed, then the error says so, nothing is left behind, and later it works.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_disk_commits_nothing() {
        let (directory, store, lake) = faulty_home();
        let mut table = lake.table(Family::Bars).await.unwrap();
        let given = batch(Family::Bars, 5, 10);
        store.full.store(true, Ordering::SeqCst);
        let failed = table.commit(std::slice::from_ref(&given), &[txn(None, 10)], Map::new()).await;
        assert!(matches!(failed, Err(lake::Error::Full { .. })), "{failed:?}");
        assert!(failed.unwrap_err().to_string().contains("no space left"));
        assert!(!log_file_at(&directory, 1).exists());
        store.full.store(false, Ordering::SeqCst);
        assert_eq!(table.txn_version("table/topic/0").await.unwrap(), None);
        table.commit(&[given], &[txn(None, 10)], Map::new()).await.unwrap();
        assert_eq!(rows(&lake, &table).await.num_rows(), 10);
    }

    fn log_file_at(directory: &tempfile::TempDir, version: u64) -> std::path::PathBuf {
        directory.path().join(format!("bars/_delta_log/{version:020}.json"))
    }

    /// Given a commit that landed and whose answer was lost, when the table is asked again, then it says that it landed.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_lost_answer_is_found_out() {
        let (_directory, store, lake) = faulty_home();
        let mut table = lake.table(Family::Bars).await.unwrap();
        let given = batch(Family::Bars, 5, 10);
        store.lose_answer.store(true, Ordering::SeqCst);
        assert!(table.commit(std::slice::from_ref(&given), &[txn(None, 10)], Map::new()).await.is_err());
        let again = table.commit(&[given], &[txn(None, 10)], Map::new()).await;
        assert!(matches!(again, Err(lake::Error::Moved { .. })), "{again:?}");
        assert_eq!(table.txn_version("table/topic/0").await.unwrap(), Some(10));
        assert_eq!(rows(&lake, &table).await.num_rows(), 10);
    }
}

/// A market of some contracts: what a vendor's trades file holds, as rows (all columns) and as the vendor's 48-byte records.
fn market(rows: usize, symbols: u64) -> (RecordBatch, Vec<u8>) {
    let topic = Family::Trades.topic();
    let mut dice = Dice(11);
    let mut built = schemas::Rows::new(Family::Trades);
    built.default_text(topic.column("dataset"), "GLBX.MDP3");
    built.default_text(topic.column("schema"), "trades");
    built.default_text(topic.column("change"), "new");
    built.default_i32(topic.column("revision"), 0);
    built.default_i32(topic.column("publisher_id"), 1);
    built.default_i32(topic.column("rtype"), 0);
    built.default_bytes(topic.column("source_id"), &[7; 16]);
    let mut dbn = Vec::with_capacity(rows * 48);
    let (mut partitions, mut offsets, mut log_ts) = (Vec::new(), Vec::new(), Vec::new());
    let mut next = [0i64; 8];
    let mut ts = 1_700_000_000_000_000_000i64;
    let mut prices: Vec<i64> = (0..symbols).map(|s| 2_000 + 137 * s as i64).collect();
    for row in 0..rows {
        // Mostly bursts, sometimes a pause.
        ts += if dice.below(4) == 0 { dice.below(80_000_000) as i64 } else { dice.below(40_000) as i64 };
        let symbol = dice.below(symbols).min(dice.below(symbols));
        prices[symbol as usize] += dice.pick(&[0, 0, 0, 1, -1, 0, 1, -1, 2, -2]);
        let price = prices[symbol as usize] * 250_000_000;
        let large = 1 + dice.below(40) as i64;
        let size = dice.pick(&[1, 1, 1, 1, 2, 2, 3, 5, 10, large]);
        let side = dice.pick(&["A", "B", "B", "A", "N"]);
        let ts_recv = ts + 150_000 + dice.below(60_000) as i64;
        let in_delta = 12_000 + dice.below(9_000) as i32;
        let sequence = row as i64 * 3 + dice.below(3) as i64;
        let flags = dice.pick(&[0, 128]);
        built.text(topic.column("symbol"), &format!("GPU{symbol}V6"));
        built.i64(topic.column("instrument_id"), 118 + symbol as i64);
        built.i64(topic.column("ts_event"), ts);
        built.i64(topic.column("ts_recv"), ts_recv);
        built.date(topic.column("date"), 19_675);
        built.i64(topic.column("sequence"), sequence);
        built.i64(topic.column("source_record"), row as i64);
        built.i64(topic.column("source_byte"), 400 + 48 * row as i64);
        built.decimal(topic.column("price"), price.into());
        built.i64(topic.column("size"), size);
        built.text(topic.column("action"), "T");
        built.text(topic.column("side"), side);
        built.i32(topic.column("flags"), flags);
        built.i32(topic.column("depth"), 0);
        built.i32(topic.column("ts_in_delta"), in_delta);
        built.end_row();
        let partition = (symbol % 8) as usize;
        partitions.push(partition as i32);
        offsets.push(next[partition]);
        log_ts.push((1_750_000_000_000 + row as i64 / 500) * 1_000_000);
        // A transaction marker now and then.
        next[partition] += if row % 10_000 == 9_999 { 2 } else { 1 };
        dbn.extend([12, 0]);
        dbn.extend(1u16.to_le_bytes());
        dbn.extend((118 + symbol as u32).to_le_bytes());
        dbn.extend(ts.to_le_bytes());
        dbn.extend(price.to_le_bytes());
        dbn.extend((size as u32).to_le_bytes());
        dbn.extend([b'T', side.as_bytes()[0], flags as u8, 0]);
        dbn.extend(ts_recv.to_le_bytes());
        dbn.extend(in_delta.to_le_bytes());
        dbn.extend((sequence as u32).to_le_bytes());
    }
    let wire = built.finish().unwrap();
    let log: Vec<(&str, ArrayRef)> = vec![
        ("_partition", Arc::new(arrow::array::Int32Array::from(partitions))),
        ("_offset", Arc::new(Int64Array::from(offsets))),
        ("_log_ts", Arc::new(Int64Array::from(log_ts))),
        ("_schema", Arc::new(arrow::array::Int32Array::from(vec![1002; rows]))),
    ];
    let fields = wire.schema().fields().iter().cloned().collect::<Vec<_>>();
    let fields = fields.into_iter().chain(log.iter().map(|(n, a)| Arc::new(arrow::datatypes::Field::new(*n, a.data_type().clone(), true))));
    let schema = Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()));
    let columns = wire.columns().iter().cloned().chain(log.into_iter().map(|(_, a)| a)).collect();
    (slim(&RecordBatch::try_new(schema, columns).unwrap()), dbn)
}

/// Given a million trades, then the sorted file takes at most three quarters of the vendor's format with zstd 3, all our columns included.
#[tokio::test(flavor = "multi_thread")]
async fn a_million_trades_are_small() {
    let (_directory, lake) = home();
    for symbols in [1, 12] {
        let (rows, dbn) = market(1_000_000, symbols);
        let dbn_zstd = zstd::bulk::compress(&dbn, 3).unwrap().len() as f64 / 1e6;
        let mut table = lake.table(Family::Trades).await.unwrap();
        let began = std::time::Instant::now();
        let committed = table.commit(&[rows], &[], Map::new()).await.unwrap();
        let took = began.elapsed();
        let ours = committed.bytes as f64 / 1e6;
        eprintln!("{symbols} symbols: {ours:.2} bytes per trade, DBN + zstd 3 {dbn_zstd:.2}, ratio {:.3}, {took:?}", ours / dbn_zstd);
        let file = table.snapshot().files().last().unwrap().clone();
        let metadata = ParquetRecordBatchReaderBuilder::try_new(read(&lake, &file).await).unwrap().metadata().clone();
        for column in metadata.row_group(0).columns().iter().filter(|c| c.compressed_size() > 50_000) {
            eprintln!(
                "    {:14} {:8.3} {:?}",
                column.column_descr().name(),
                column.compressed_size() as f64 / 1e6,
                column.encodings().collect::<Vec<_>>()
            );
        }
        assert!(ours <= 0.75 * dbn_zstd, "{ours} > 0.75 × {dbn_zstd}");
    }
}
