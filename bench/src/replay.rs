//! Replays to a file, each form in turns with the same rows read in the same order and thrown away.

use crate::input;
use crate::report::{Row, rate, reached};
use crate::speed::{Bench, in_turns, timed};
use anyhow::{Context, Result, ensure};
use eventlog::embedded::{Embedded, Options};
use ingest::sources::dbn::write_back;
use lake::Lake;
use query::Engine;
use query::replay::{self, Known, Order, Range, Source};
use schemas::Family;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The memory that `tape replay` gives its engine unless it is told otherwise.
const MEMORY_BYTES: usize = 2 << 30;
const SPILL_BYTES_MAX: u64 = 50 << 30;
const TIMEOUT: Duration = Duration::from_secs(3600);
/// What is to be reached by every form.
const REACH: u64 = 1_000_000;

/// Where a replay is written to.
type Out = Box<dyn Write + Send>;
/// Name, what it replays in which order, and how it writes that; gives the records.
type Form<'a> = (&'a str, &'a Range, Order, &'a dyn Fn(Out) -> Result<u64>);

/// One row for each form.
pub fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let home = tempfile::tempdir_in(&bench.place)?;
    let file = home.path().join("replay.dbn.zst");
    input::write(&file, bench.records, input::SEED)?;
    let log = Embedded::open(&home.path().join("log"), &Options::default())?;
    bench.ingest_file(&log, &file)?;
    let tables = home.path().join("tables");
    bench.store_all(Arc::new(log), &tables)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    let lake = Lake::open(tables.to_str().context("the temporary folder has a plain name")?)?;
    let known = runtime.block_on(Known::read(&lake, "tape."))?;
    let engine = runtime.block_on(engine(lake, home.path()))?;
    let trades = Range { families: vec![Family::Trades], ..Range::all() };
    let dbn = Range { families: Source::families(), headers: true, ..Range::all() };
    let written = home.path().join("written");

    let drain = |range: &Range, order| -> Result<Duration> {
        let (took, rows) = timed(|| {
            runtime.block_on(async {
                let mut replay = engine.replay(range, order, &known);
                let mut rows = 0;
                while let Some(run) = replay.next().await? {
                    rows += run.rows.num_rows() as u64;
                }
                anyhow::Ok(rows)
            })
        })?;
        ensure!(rows >= bench.records, "{rows} of {} rows were read", bench.records);
        Ok(took)
    };
    let to_file = |form: &dyn Fn(Out) -> Result<u64>| -> Result<Duration> {
        // A new file each time: to give back the room of the one before is not a part of writing.
        if written.exists() {
            std::fs::remove_file(&written).context("removing the file of the run before")?;
        }
        let (took, records) = timed(|| {
            let file = File::create(&written).context("making a file")?;
            let records = form(Box::new(BufWriter::with_capacity(1 << 20, file.try_clone()?)))?;
            file.sync_all()?;
            Ok(records)
        })?;
        ensure!(records == bench.records, "{records} of {} records were written", bench.records);
        Ok(took)
    };
    let lines = |mut out: Out| {
        let records = runtime.block_on(replay::write_lines(engine.replay(&trades, Order::Log, &known), &known, &mut out, &mut |_| {}))?;
        out.flush()?;
        anyhow::Ok(records)
    };
    let avro = |out: Out| {
        let mut out = Some(out);
        let mut open = |_: Family| Ok(out.take());
        Ok(runtime.block_on(replay::write_avro(engine.replay(&trades, Order::Log, &known), &mut open, &mut |_| {}))?.0)
    };
    let file_again = |out: Out| {
        let mut out = Some(out);
        let mut open = |_: &[u8; 16]| Ok(out.take().expect("there is one source"));
        let replay = engine.replay(&dbn, Order::Source, &known);
        Ok(runtime.block_on(replay::write_dbn(replay, write_back::rows, &mut open, &mut |_| {}))?.records)
    };
    let forms: [Form; 3] =
        [("JSON lines", &trades, Order::Log, &lines), ("Avro", &trades, Order::Log, &avro), ("DBN", &dbn, Order::Source, &file_again)];
    let mut rows = Vec::new();
    for (form, range, order, write) in forms {
        let times = in_turns(bench.runs, |_| drain(range, order), |_| to_file(write))?;
        let what = format!("replay of trades → {form}, to a file");
        rows.push(rate(&what, "the same rows read and sorted, not written", bench.records, &times, reached::rate(REACH)));
    }
    Ok(rows)
}

async fn engine(lake: Lake, place: &Path) -> Result<Engine> {
    let options = query::Options {
        memory_limit: MEMORY_BYTES,
        target_partitions: std::thread::available_parallelism().map_or(1, usize::from),
        temp_dir: place.join("spill"),
        temp_limit: SPILL_BYTES_MAX,
        tail_limit: 0,
        timeout: TIMEOUT,
        principal_places: query::limits::PRINCIPAL_PLACES,
    };
    Ok(Engine::open(options, query::listing(lake), query::Asked::nobody()).await?)
}
