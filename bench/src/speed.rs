//! Our ways from a file to the tables, each timed in turns with its yardstick.

use crate::input;
use crate::raw::{self, Frames};
use crate::report::{Row, Times, per_core, rate, reached};
use anyhow::{Context, Result, ensure};
use eventlog::EventLog;
use eventlog::embedded::{Embedded, Options};
use eventlog::kafka::{Kafka, KafkaOptions};
use ingest::pipeline::{self, Progress};
use ingest::report::Outcome;
use ingest::source::{Chunk, End, Given, Parser};
use ingest::sources::dbn::FORMAT;
use lake::Lake;
use parquet::file::reader::{FileReader, SerializedFileReader};
use schemas::{Family, frame};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};
use store::Store;

/// Records of a chunk, as the ingest pipeline has them.
const CHUNK_RECORDS: usize = 65_536;

/// The unit of CPU times in `/proc`: 100 on every Linux that user space sees.
const TICKS_PER_SECOND: u64 = 100;

/// What the speed measurements share.
pub struct Bench {
    /// The input.
    pub file: PathBuf,
    /// Trades in it.
    pub records: u64,
    /// Runs of each measurement.
    pub runs: usize,
    /// Where logs and tables go.
    pub place: PathBuf,
}

/// Yardstick, ours, yardstick, ours, …; each side says how long its own part took.
pub fn in_turns(
    runs: usize,
    mut yardstick: impl FnMut(usize) -> Result<Duration>,
    mut ours: impl FnMut(usize) -> Result<Duration>,
) -> Result<Times> {
    let mut times = Times::default();
    for run in 0..runs {
        let began = cpu()?;
        times.yardstick.push(yardstick(run)?);
        let between = cpu()?;
        times.ours.push(ours(run)?);
        times.cpu.push((between - began, cpu()? - between));
    }
    Ok(times)
}

/// CPU time of this process so far, of all its threads: what another process does to the machine hardly changes it.
pub fn cpu() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("reading /proc/self/stat")?;
    // User and system time are the 14th and 15th field; the name, the 2nd, may hold spaces.
    let fields = stat.rsplit(')').next().context("a name in /proc/self/stat")?.split_whitespace();
    let ticks: Vec<u64> = fields.skip(11).take(2).map(str::parse).collect::<Result<_, _>>().context("CPU times in /proc/self/stat")?;
    Ok(Duration::from_millis(ticks.iter().sum::<u64>() * 1000 / TICKS_PER_SECOND))
}

pub fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let began = Instant::now();
    let done = work()?;
    Ok((began.elapsed(), done))
}

impl Bench {
    /// DBN (zstd) to Arrow batches on this thread alone, beside the dbn crate's own decoder.
    pub fn parse(&self) -> Result<Row> {
        let times = in_turns(self.runs, |_| self.decode_raw(), |_| self.parse_once())?;
        Ok(rate("DBN (.zst) trades → Arrow, one core", "dbn crate, records only", self.records, &times, reached::rate(3_000_000)))
    }

    fn decode_raw(&self) -> Result<Duration> {
        let (took, records) = timed(|| raw::decode(&self.file))?;
        ensure!(records == self.records, "{records} of {} records were decoded", self.records);
        Ok(took)
    }

    fn parse_once(&self) -> Result<Duration> {
        let (took, rows) = timed(|| {
            let mut rows = 0;
            self.each_batch(|family, batch| {
                rows += if family == Family::Trades { batch.num_rows() as u64 } else { 0 };
                Ok(())
            })?;
            Ok(rows)
        })?;
        ensure!(rows == self.records, "{rows} of {} records became rows", self.records);
        Ok(took)
    }

    /// Every batch of the input as the pipeline makes it.
    fn each_batch(&self, mut take: impl FnMut(Family, &arrow::array::RecordBatch) -> Result<()>) -> Result<()> {
        let file = File::open(&self.file).context("opening the input")?;
        let unpacked = zstd::Decoder::new(file).context("starting zstd")?;
        let mut parser: Box<dyn Parser> = (FORMAT.open)(Box::new(unpacked), &Given::default())?;
        loop {
            let Chunk { rows, end, .. } = parser.next(CHUNK_RECORDS)?;
            for mut rows in rows {
                let topic = rows.topic();
                rows.default_bytes(topic.column("source_id"), &[7; 16]);
                rows.default_text(topic.column("change"), "new");
                rows.default_i32(topic.column("revision"), 0);
                take(rows.family(), &rows.finish()?)?;
            }
            if end != End::More {
                ensure!(end == End::Finished, "the input ended early: {end:?}");
                return Ok(());
            }
        }
    }

    /// The trades as the pipeline would publish them, one element per transaction.
    fn frames(&self) -> Result<Vec<Frames>> {
        let mut all = Vec::new();
        self.each_batch(|family, batch| {
            if family == Family::Trades {
                all.push(frame::keys(family, batch).into_iter().zip(frame::encode(family, batch)?).collect());
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// DBN to Kafka, beside librdkafka that publishes the same frames ready made.
    pub fn publish(&self, brokers: &str) -> Result<Row> {
        let frames = self.frames()?;
        let raw_log = kafka(brokers, &prefix("raw"))?;
        let log = kafka(brokers, &prefix("publish"))?;
        let topic = raw_log.topic(Family::Trades)?.name;
        let times = in_turns(
            self.runs,
            |_| Ok(timed(|| raw::produce(brokers, &topic, &frames))?.0),
            |run| {
                // Another day of the same market each time, into topics that are there already: what was published is not published again.
                let file = self.place.join("publish.dbn.zst");
                input::write(&file, self.records, input::SEED + 1 + run as u64)?;
                self.ingest_file(&log, &file)
            },
        )?;
        for log in [&raw_log, &log] {
            raw::remove_topics(brokers, &topics(log)?)?;
        }
        let bytes: usize = frames.iter().flatten().map(|(key, value)| key.len() + value.len()).sum();
        let yardstick = format!("raw librdkafka producer, {} B/record", bytes as u64 / self.records);
        Ok(rate("DBN trades → Kafka, transactional", &yardstick, self.records, &times, reached::ratio_at_least(0.6)))
    }

    /// Kafka to Delta, beside librdkafka that reads the same topic.
    pub fn store(&self, brokers: &str) -> Result<Row> {
        let log = Arc::new(kafka(brokers, &prefix("store"))?);
        let names = topics(log.as_ref())?;
        let topic = log.topic(Family::Trades)?;
        self.ingest(log.as_ref())?;
        let times = in_turns(
            self.runs,
            |_| Ok(timed(|| raw::consume(brokers, &topic.name, topic.partitions, self.records))?.0),
            |_| {
                let tables = tempfile::tempdir_in(&self.place)?;
                Ok(self.store_all(log.clone(), tables.path())?.0)
            },
        )?;
        raw::remove_topics(brokers, &names)?;
        Ok(rate("Kafka → Delta", "raw librdkafka consumer, read-committed", self.records, &times, reached::ratio_at_least(0.5)))
    }

    /// File to embedded log to Delta in one process, one after the other, beside the dbn crate's decoder as a measure of the machine.
    pub fn whole(&self) -> Result<Row> {
        let times = in_turns(
            self.runs,
            |_| self.decode_raw(),
            |_| {
                let home = tempfile::tempdir_in(&self.place)?;
                let log = Embedded::open(&home.path().join("log"), &Options::default())?;
                let ingested = self.ingest(&log)?;
                let stored = self.store_all(Arc::new(log), &home.path().join("tables"))?.0;
                Ok(ingested + stored)
            },
        )?;
        Ok(rate("file → embedded log → Delta, one process", "dbn crate, records only", self.records, &times, reached::rate(400_000)))
    }

    /// Stored trades to the roots of their commits, beside the Parquet reader that decodes the same columns of the same files to Arrow on one core.
    pub fn verify(&self) -> Result<Row> {
        let home = tempfile::tempdir_in(&self.place)?;
        let tables = home.path().join("tables");
        {
            let log = Embedded::open(&home.path().join("log"), &Options::default())?;
            self.ingest(&log)?;
            self.store_all(Arc::new(log), &tables)?;
        }
        let lake = Lake::open(tables.to_str().context("the temporary folder has a plain name")?)?;
        let files = parquet_files(&tables.join("trades"))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
        let times = in_turns(
            self.runs,
            |_| {
                let (took, rows) = timed(|| raw::decode_parquet(&files))?;
                ensure!(rows == self.records, "{rows} of {} rows were decoded", self.records);
                Ok(took)
            },
            |_| {
                let (took, verified) = timed(|| Ok(runtime.block_on(store::verify::verify(&lake, &mut |_| {}))?))?;
                let rows = verified.tables.get("trades").map_or(0, |looked| looked.rows);
                ensure!(rows == self.records && verified.findings.is_empty(), "{rows} rows were verified: {:?}", verified.findings);
                Ok(took)
            },
        )?;
        Ok(per_core("Delta trades → verified, all cores; rate per core", "parquet crate, one core", self.records, &times, 700_000))
    }

    /// Publishes the whole input.
    pub fn ingest(&self, log: &dyn EventLog) -> Result<Duration> {
        self.ingest_file(log, &self.file)
    }

    pub fn ingest_file(&self, log: &dyn EventLog, file: &Path) -> Result<Duration> {
        let mut inputs = ingest::inputs::of(file, &Given::default(), SystemTime::now());
        let input = inputs.pop().context("the input is there")??;
        let (took, report) = timed(|| Ok(pipeline::Ingestor::new(log, &Silent, &AtomicBool::new(false))?.ingest(&input)?))?;
        ensure!(report.outcome == Outcome::Done, "ingest ended as {:?}", report.outcome);
        let published = report.records.get(&Family::Trades).copied().unwrap_or(0);
        ensure!(published == self.records, "{published} of {} trades were published", self.records);
        Ok(took)
    }

    /// Stores everything into tables that exist already, as those of an installation do.
    pub fn store_all(&self, log: Arc<dyn EventLog>, tables: &Path) -> Result<(Duration, store::Report)> {
        std::fs::create_dir_all(tables)?;
        let lake = Lake::open(tables.to_str().context("the temporary folder has a plain name")?)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
        runtime.block_on(async {
            for family in Family::ALL {
                lake.table(family).await?;
            }
            anyhow::Ok(())
        })?;
        let store = Store::new(log, lake, store::Options::default());
        let (took, report) = timed(|| Ok(runtime.block_on(store.run_once(&mut |_| {}))?))?;
        let stored = report.rows.get(&Family::Trades).copied().unwrap_or(0);
        ensure!(stored == self.records && report.is_clean(), "{stored} of {} trades were stored: {report:?}", self.records);
        Ok((took, report))
    }
}

/// Bytes of a stored trade in one sorted file, beside the same records as DBN with zstd level 3; and what each column takes of them.
pub fn size(place: &Path, records: u64) -> Result<(Row, String)> {
    let file = place.join("size.dbn.zst");
    input::write(&file, records, input::SEED)?;
    let home = tempfile::tempdir_in(place)?;
    let bench = Bench { file: file.clone(), records, runs: 1, place: place.to_path_buf() };
    let log = Embedded::open(&home.path().join("log"), &Options::default())?;
    bench.ingest(&log)?;
    let tables = home.path().join("tables");
    bench.store_all(Arc::new(log), &tables)?;
    let files = parquet_files(&tables.join("trades"))?;
    ensure!(files.len() == 1, "{} files instead of one", files.len());
    let packed = std::fs::metadata(&file)?.len();
    let each = |bytes: u64| bytes as f64 / records as f64;
    let stored = std::fs::metadata(&files[0])?.len();
    let ratio = each(stored) / each(packed);
    let row = Row {
        what: "stored bytes per trade, one sorted file".into(),
        figure: format!("{:.2} B", each(stored)),
        yardstick: format!("{:.2} B (DBN + zstd 3)", each(packed)),
        ratio: Some(ratio),
        reach: "≤ 0.75".into(),
        met: ratio <= 0.75,
        runs: vec![],
        cpu: None,
    };
    Ok((row, by_column(&files[0], records)?))
}

/// Bytes per row of every column that takes some.
fn by_column(file: &Path, records: u64) -> Result<String> {
    let reader = SerializedFileReader::new(File::open(file)?).context("reading the stored file")?;
    let mut sizes: BTreeMap<String, i64> = BTreeMap::new();
    for column in reader.metadata().row_groups().iter().flat_map(|group| group.columns()) {
        *sizes.entry(column.column_path().string()).or_default() += column.compressed_size();
    }
    let mut sizes: Vec<(f64, String)> = sizes.into_iter().map(|(name, bytes)| (bytes as f64 / records as f64, name)).collect();
    sizes.sort_by(|a, b| b.0.total_cmp(&a.0));
    let shown = sizes.iter().filter(|(bytes, _)| *bytes >= 0.01).map(|(bytes, name)| format!("{name} {bytes:.2}"));
    Ok(format!("stored bytes per trade by column: {}", shown.collect::<Vec<_>>().join(", ")))
}

/// The Parquet files below a table's folder; what lies in its log folder is no data.
fn parquet_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "_delta_log" {
                found.extend(parquet_files(&entry.path())?);
            }
        } else if entry.path().extension().is_some_and(|extension| extension == "parquet") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Topics of one measurement are apart from those of every other, also of an earlier run on the same broker.
pub fn prefix(name: &str) -> String {
    format!("bench-{}-{name}.", std::process::id())
}

/// A Kafka with all topics made.
pub fn kafka(brokers: &str, prefix: &str) -> Result<Kafka> {
    let log = Kafka::connect(KafkaOptions { prefix: prefix.to_string(), ..KafkaOptions::new(brokers) })?;
    log.create_topics()?;
    Ok(log)
}

/// Names of all its topics.
pub fn topics(log: &Kafka) -> Result<Vec<String>> {
    Ok(log.check_topics()?.into_iter().map(|report| report.name).collect())
}

struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn published(&self, _: u64, _: u64) {}
    fn end(&self) {}
}
