//! Queries over twenty days of trades and quotes, through the engine as every door uses it, beside DuckDB and Polars: each of them on the better of
//! plain sorted files and our own. bench/queries.py asks those two.

use crate::report::{Row, median};
use crate::speed::{cpu, timed};
use anyhow::{Context, Result, ensure};
use arrow::array::{
    ArrayRef, Date32Array, Decimal128Array, FixedSizeBinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use futures::StreamExt;
use lake::Lake;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use query::{Engine, Principal, listing};
use schemas::{Family, Kind};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// How much is asked.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub days: i32,
    pub trades_per_day: usize,
    pub quotes_per_day: usize,
    pub runs: usize,
}

pub const FULL: Sizes = Sizes { days: 20, trades_per_day: 1_000_000, quotes_per_day: 2_000_000, runs: 5 };
pub const QUICK: Sizes = Sizes { days: 3, trades_per_day: 50_000, quotes_per_day: 100_000, runs: 2 };

impl Sizes {
    pub fn with_runs(self, runs: usize) -> Sizes {
        Sizes { runs, ..self }
    }
}

const SYMBOLS: usize = 50;
const DATASET: &str = "SYN.BENCH";
const DAY_NS: i64 = 86_400_000_000_000;
/// 2026-10-05, in days since 1970.
const FIRST_DAY: i32 = 20_731;
/// Of 13:00 to 20:00 UTC.
const OPEN_NS: i64 = 13 * 3_600_000_000_000;
const SESSION_NS: i64 = 7 * 3_600_000_000_000;
/// Price steps are so many billionths.
const TICK: i128 = 10_000_000;
const PARTITIONS: usize = 8;
/// Rows in a row group of the plain files.
const PLAIN_GROUP_ROWS: usize = 1_000_000;
const MEMORY_BYTES: usize = 4 << 30;
const SPILL_BYTES_MAX: u64 = 50 << 30;
const TIMEOUT: Duration = Duration::from_secs(600);

/// Name, SQL, and at most how often the yardstick's time it may take.
pub struct Question {
    pub name: &'static str,
    sql: String,
    reach: f64,
}

/// One row for each query that has `part` in its name.
pub fn measure(place: &Path, days: Option<&Path>, sizes: Sizes, part: &str, python: &Path) -> Result<(Vec<Row>, Vec<String>)> {
    let home = tempfile::tempdir_in(place)?;
    let days = days.unwrap_or(home.path());
    let (tables, plain) = (days.join("tables"), days.join("plain"));
    let runtime = runtime()?;
    let (took, files) = timed(|| runtime.block_on(write_or_find(&tables, &plain, sizes)))?;
    eprintln!("{} days written in {:.0} s", sizes.days, took.as_secs_f64());
    let Asked { day, symbol, from, to } = Asked::of(sizes);
    let mut questions = questions(day, &symbol, from, to);
    questions.retain(|question| question.name.contains(part));
    let ours = runtime.block_on(ask(&tables, home.path(), &questions, sizes.runs))?;
    drop(runtime);
    let setting = json!({
        "runs": sizes.runs, "ms": MEASURED_MS, "threads": threads(), "day": lake_date(day), "symbol": symbol, "from_ns": from, "to_ns": to, "part": part,
        "files": files,
    });
    let theirs = yardsticks(python, &home.path().join("setting.json"), &setting)?;
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    for (question, answer) in questions.iter().zip(ours) {
        let all = theirs[question.name].as_object().with_context(|| format!("the yardsticks did not answer {:?}", question.name))?;
        for (engine, said) in all {
            ensure!(said["rows"] == json!(answer.rows), "{}: {engine} gives {} rows, we {}", question.name, said["rows"], answer.rows);
        }
        let ms = |said: &Value| said["ms"].as_f64().unwrap_or(f64::INFINITY);
        let (engine, best) = all.iter().min_by(|a, b| ms(a.1).total_cmp(&ms(b.1))).context("a yardstick")?;
        let ratio = answer.ms / ms(best);
        rows.push(Row {
            what: question.name.into(),
            figure: format!("{:.2} ms", answer.ms),
            yardstick: format!("{:.2} ms ({engine})", ms(best)),
            ratio: Some(ratio),
            reach: format!("≤ {}", question.reach),
            met: ratio <= question.reach,
            runs: answer
                .all
                .iter()
                .zip(best["all"].as_array().into_iter().flatten())
                .map(|(ours, theirs)| (theirs.as_f64().unwrap_or(0.0) / 1e3, ours / 1e3))
                .collect(),
            cpu: None,
        });
        let others: Vec<String> = all.iter().map(|(engine, said)| format!("{engine} {:.1}", ms(said))).collect();
        notes.push(format!("{}: {}", question.name, others.join(", ")));
    }
    Ok((rows, notes))
}

/// What the questions name.
pub struct Asked {
    pub day: i32,
    pub symbol: String,
    /// An hour of that day.
    pub from: i64,
    pub to: i64,
}

impl Asked {
    pub fn of(sizes: Sizes) -> Asked {
        let day = FIRST_DAY + sizes.days / 2;
        let from = i64::from(day) * DAY_NS + OPEN_NS + SESSION_NS / 2;
        Asked { day, symbol: symbol(SYMBOLS / 2), from, to: from + 3_600_000_000_000 }
    }
}

pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")
}

pub fn questions(day: i32, symbol: &str, from: i64, to: i64) -> Vec<Question> {
    let day = lake_date(day);
    let time = |ns: i64| chrono::DateTime::from_timestamp_nanos(ns).format("%Y-%m-%dT%H:%M:%S%.9fZ").to_string();
    let (from, to) = (time(from), time(to));
    let question = |name, reach, sql: String| Question { name, sql, reach };
    vec![
        question(
            "one symbol, one day",
            1.5,
            format!("SELECT count(*), sum(size), min(price), max(price) FROM trades WHERE symbol = '{symbol}' AND date = '{day}'"),
        ),
        question("one symbol, whole history", 1.0, format!("SELECT sum(price * size) / sum(size) FROM trades WHERE symbol = '{symbol}'")),
        question("VWAP per symbol", 1.3, "SELECT symbol, sum(price * size) / sum(size), count(*) FROM trades GROUP BY symbol".into()),
        question(
            "minute bars, one day",
            1.0,
            format!(
                "SELECT symbol, date_bin(interval '1 minute', ts_event) AS m, first_value(price ORDER BY ts_event), max(price), min(price), \
                 last_value(price ORDER BY ts_event), sum(size) FROM trades WHERE date = '{day}' GROUP BY symbol, m"
            ),
        ),
        question(
            "last trade per symbol",
            0.2,
            "SELECT symbol, max(ts_event), last_value(price ORDER BY ts_event) FROM trades GROUP BY symbol".into(),
        ),
        question("latest 10 trades", 0.1, "SELECT symbol, ts_event, price, size FROM trades ORDER BY ts_event DESC LIMIT 10".into()),
        question(
            "one hour by time",
            1.0,
            format!(
                "SELECT symbol, ts_event, price, size FROM trades WHERE date = '{day}' AND ts_event >= '{from}' AND ts_event < '{to}' \
                 ORDER BY ts_event"
            ),
        ),
        question(
            "high bid and spread per day",
            1.2,
            "SELECT date, symbol, max(bid_px_00), avg(ask_px_00 - bid_px_00) FROM quotes GROUP BY date, symbol".into(),
        ),
    ]
}

pub struct Answer {
    rows: usize,
    pub ms: f64,
    pub all: Vec<f64>,
    /// Milliseconds of CPU time of a run, of all threads: what other processes do to the machine is hardly in it.
    pub cpu: f64,
}

/// Runs of a query that is answered at once take at least so long together, in milliseconds: what is measured is a service that is in use.
const MEASURED_MS: f64 = 1e3;

/// Each query once unmeasured, then timed from its text to its last batch.
pub async fn ask(tables: &Path, place: &Path, questions: &[Question], runs: usize) -> Result<Vec<Answer>> {
    let options = query::Options {
        memory_limit: MEMORY_BYTES,
        target_partitions: threads(),
        temp_dir: place.join("spill"),
        temp_limit: SPILL_BYTES_MAX,
        tail_limit: 0,
        timeout: TIMEOUT,
        principal_places: query::limits::PRINCIPAL_PLACES,
    };
    let lake = Lake::open(tables.to_str().context("the temporary folder has a plain name")?)?;
    let engine = Engine::open(options, listing(lake), query::Asked::nobody()).await?;
    let mut answers = Vec::new();
    for question in questions {
        let (mut all, mut rows, mut spent) = (Vec::new(), 0, 0.0);
        for run in 0.. {
            if run > runs && all.iter().sum::<f64>() >= MEASURED_MS {
                break;
            }
            let (began, before) = (std::time::Instant::now(), cpu()?);
            let (_, mut stream) = engine.run(&Principal::local(), &question.sql).await.context(question.name)?;
            rows = 0;
            while let Some(batch) = stream.next().await {
                rows += batch.context(question.name)?.num_rows();
            }
            if run > 0 {
                all.push(began.elapsed().as_secs_f64() * 1e3);
                spent += (cpu()? - before).as_secs_f64() * 1e3;
            }
        }
        eprintln!("{}: {:.2} ms", question.name, median(all.clone()));
        answers.push(Answer { rows, ms: median(all.clone()), cpu: spent / all.len() as f64, all });
    }
    Ok(answers)
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn yardsticks(python: &Path, file: &Path, setting: &Value) -> Result<Value> {
    std::fs::write(file, setting.to_string())?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("queries.py");
    let output = Command::new(python).arg(&script).arg(file).output().with_context(|| format!("starting {}", python.display()))?;
    ensure!(output.status.success(), "{} {}: {}", python.display(), script.display(), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("reading what the yardsticks said")
}

/// The files that lie there; where there are none, those that are written now.
async fn write_or_find(tables: &Path, plain: &Path, sizes: Sizes) -> Result<Value> {
    let known = tables.with_file_name("files.json");
    if let Ok(said) = std::fs::read(&known) {
        let said: Value = serde_json::from_slice(&said)?;
        ensure!(said["days"] == sizes.days, "{} has {} days, not {}: name another folder", known.display(), said["days"], sizes.days);
        return Ok(said["files"].clone());
    }
    let files = write(tables, plain, sizes).await?;
    std::fs::write(&known, json!({ "days": sizes.days, "files": files }).to_string())?;
    Ok(files)
}

/// Tables as the store and upkeep leave them, and the same rows in plain files; gives the paths of both.
async fn write(tables: &Path, plain: &Path, sizes: Sizes) -> Result<Value> {
    let lake = Lake::open(tables.to_str().context("the temporary folder has a plain name")?)?;
    let mut files = BTreeMap::new();
    for (family, per_day) in [(Family::Trades, sizes.trades_per_day), (Family::Quotes, sizes.quotes_per_day)] {
        let mut table = lake.table(family).await?;
        let mut market = Market::new(family);
        let mut plains: Vec<PathBuf> = Vec::new();
        for day in days(sizes) {
            let batch = market.day(day, per_day)?;
            plains.push(write_plain(plain, family, day, &batch)?);
            table.commit(&[batch], &[], Map::new()).await?;
        }
        let ours = table.snapshot().files().iter().map(|file| tables.join(family.topic().name).join(&file.path)).collect::<Vec<_>>();
        let name = family.topic().name;
        files.entry("plain").or_insert_with(BTreeMap::new).insert(name, plains);
        files.entry("ours").or_insert_with(BTreeMap::new).insert(name, ours);
    }
    Ok(json!(files))
}

pub fn days(sizes: Sizes) -> std::ops::Range<i32> {
    FIRST_DAY..FIRST_DAY + sizes.days
}

/// Only what is asked for, times as Parquet knows them, row groups of a million, sorted by symbol and time.
fn write_plain(plain: &Path, family: Family, day: i32, batch: &RecordBatch) -> Result<PathBuf> {
    let names: &[&str] = match family {
        Family::Trades => &["symbol", "ts_event", "price", "size", "side"],
        _ => &["symbol", "ts_event", "bid_px_00", "ask_px_00", "bid_sz_00", "ask_sz_00"],
    };
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for name in names {
        let column = batch.column_by_name(name).context("a column of the family")?;
        let column = match *name {
            "ts_event" => cast(column, &DataType::Timestamp(TimeUnit::Nanosecond, None))?,
            _ => column.clone(),
        };
        fields.push(Field::new(*name, column.data_type().clone(), true));
        columns.push(column);
    }
    let schema = Arc::new(Schema::new(fields));
    let path = plain.join(family.topic().name).join(format!("date={}", lake_date(day))).join("part.parquet");
    std::fs::create_dir_all(path.parent().context("a folder")?)?;
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(PLAIN_GROUP_ROWS))
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .build();
    let mut writer = ArrowWriter::try_new(File::create(&path)?, schema.clone(), Some(properties))?;
    writer.write(&RecordBatch::try_new(schema, columns)?)?;
    writer.close()?;
    Ok(path)
}

fn symbol(i: usize) -> String {
    let month = char::from(b"FGHJKMNQUVXZ"[i % 12]);
    format!("{}{month}{}", ["GPU1", "GPU2", "HPR", "MTK", "TOK"][i / 12], 6 + i % 3)
}

fn lake_date(day: i32) -> String {
    chrono::DateTime::from_timestamp(i64::from(day) * 86_400, 0).map(|time| time.format("%Y-%m-%d").to_string()).unwrap_or_default()
}

/// Days of one family, one after the other.
pub struct Market {
    family: Family,
    random: u64,
    prices: Vec<i128>,
    offsets: [i64; PARTITIONS],
    record: i64,
}

impl Market {
    pub fn new(family: Family) -> Market {
        let prices = (0..SYMBOLS).map(|i| (100 + i as i128 * 7) * 100 * TICK).collect();
        Market { family, random: crate::input::SEED, prices, offsets: [0; PARTITIONS], record: 0 }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// About `rows` rows of one day, by symbol and time. Symbol i has a share of 1/(i + 1).
    pub fn day(&mut self, day: i32, rows: usize) -> Result<RecordBatch> {
        let whole: f64 = (1..=SYMBOLS).map(|i| 1.0 / i as f64).sum();
        let mut day_rows = DayRows::default();
        let mut symbols: Vec<usize> = (0..SYMBOLS).collect();
        symbols.sort_by_key(|i| symbol(*i));
        for i in symbols {
            let name = symbol(i);
            let count = ((rows as f64 / whole / (i + 1) as f64) as i64).max(1);
            let step = SESSION_NS / count;
            for n in 0..count {
                let random = self.next();
                let ts = i64::from(day) * DAY_NS + OPEN_NS + n * step + (random % step.unsigned_abs().max(1)) as i64;
                let walk = i128::from((random >> 32) % 5) - 2;
                self.prices[i] = (self.prices[i] + walk * TICK).max(TICK);
                let spread = 1 + i128::from((random >> 40) % 3);
                day_rows.symbol.push(name.clone());
                day_rows.instrument.push(4_000 + i as i64);
                day_rows.ts_event.push(ts);
                day_rows.ts_recv.push(ts + 40_000 + (random >> 48) as i64);
                day_rows.bid.push(self.prices[i]);
                day_rows.ask.push(self.prices[i] + spread * TICK);
                day_rows.size.push(1 + ((random >> 20) % 12) as i64);
                day_rows.other_size.push(1 + ((random >> 24) % 30) as i64);
                day_rows.side.push(if random & 1 == 0 { "A" } else { "B" });
                let partition = i % PARTITIONS;
                day_rows.partition.push(partition as i32);
                day_rows.offset.push(self.offsets[partition]);
                self.offsets[partition] += 1;
                day_rows.record.push(self.record);
                self.record += 1;
            }
        }
        day_rows.batch(self.family, day)
    }
}

#[derive(Default)]
struct DayRows {
    symbol: Vec<String>,
    instrument: Vec<i64>,
    ts_event: Vec<i64>,
    ts_recv: Vec<i64>,
    bid: Vec<i128>,
    ask: Vec<i128>,
    size: Vec<i64>,
    other_size: Vec<i64>,
    side: Vec<&'static str>,
    partition: Vec<i32>,
    offset: Vec<i64>,
    record: Vec<i64>,
}

impl DayRows {
    fn batch(self, family: Family, day: i32) -> Result<RecordBatch> {
        let rows = self.symbol.len();
        let price = |values: Vec<i128>| -> Result<ArrayRef> {
            let (digits, scale) = Kind::Price.decimal().context("prices are decimals")?;
            Ok(Arc::new(Decimal128Array::from(values).with_precision_and_scale(digits, scale)?))
        };
        let text = |value: &str| -> ArrayRef { Arc::new(StringArray::from(vec![value; rows])) };
        let int = |value: i32| -> ArrayRef { Arc::new(Int32Array::from(vec![value; rows])) };
        let log_ts = self.ts_recv.iter().map(|ts| ts / 1_000_000 * 1_000_000 + 2_000_000).collect::<Vec<_>>();
        let source = FixedSizeBinaryArray::try_from_iter(std::iter::repeat_n([7u8; 16], rows))?;
        let bytes = self.record.iter().map(|record| 512 + record * 48).collect::<Vec<_>>();
        let sequence = self.record.iter().map(|record| record * 3).collect::<Vec<_>>();
        let mut columns: HashMap<&str, ArrayRef> = HashMap::from([
            ("dataset", text(DATASET)),
            ("date", Arc::new(Date32Array::from(vec![day; rows])) as ArrayRef),
            ("symbol", Arc::new(StringArray::from(self.symbol))),
            ("publisher_id", int(1)),
            ("instrument_id", Arc::new(Int64Array::from(self.instrument))),
            ("ts_event", Arc::new(Int64Array::from(self.ts_event))),
            ("ts_recv", Arc::new(Int64Array::from(self.ts_recv))),
            ("sequence", Arc::new(Int64Array::from(sequence))),
            ("change", text("new")),
            ("revision", int(0)),
            ("source_id", cast(&source, &DataType::Binary)?),
            ("source_record", Arc::new(Int64Array::from(self.record))),
            ("source_byte", Arc::new(Int64Array::from(bytes))),
            ("action", text("T")),
            ("side", Arc::new(StringArray::from(self.side))),
            ("flags", int(0)),
            ("depth", int(0)),
            ("ts_in_delta", int(13_000)),
            ("_partition", Arc::new(Int32Array::from(self.partition))),
            ("_offset", Arc::new(Int64Array::from(self.offset))),
            ("_log_ts", Arc::new(Int64Array::from(log_ts))),
            ("_schema", int(family.topic().schema_id as i32)),
        ]);
        if family == Family::Trades {
            columns.extend([
                ("schema", text("trades")),
                ("rtype", int(0)),
                ("price", price(self.bid)?),
                ("size", Arc::new(Int64Array::from(self.size)) as ArrayRef),
            ]);
        } else {
            columns.extend([
                ("schema", text("mbp-1")),
                ("rtype", int(1)),
                ("bid_px_00", price(self.bid)?),
                ("ask_px_00", price(self.ask)?),
                ("bid_sz_00", Arc::new(Int64Array::from(self.size)) as ArrayRef),
                ("ask_sz_00", Arc::new(Int64Array::from(self.other_size)) as ArrayRef),
            ]);
        }
        let schema = family.topic().stored_schema().clone();
        let column =
            |field: &Arc<Field>| columns.get(field.name().as_str()).cloned().unwrap_or_else(|| new_null_array(field.data_type(), rows));
        let batch = schema.fields().iter().map(column).collect();
        Ok(RecordBatch::try_new(schema, batch)?)
    }
}
