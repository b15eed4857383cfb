//! How long after its publisher's commit a record is in an answer: a real broker, the release binary as store and as query service, and a
//! publisher of ten thousand records per second. The yardstick is a plain consumer of what is committed, in the same minute.

use crate::report::Row;
use crate::{raw, speed};
use anyhow::{Context, Result, ensure};
use eventlog::{Batch, EventLog, Reader, Records, Start};
use schemas::{Family, Rows, frame};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Records per second.
const RATE: u64 = 10_000;
/// One transaction this often at most.
const COMMIT_EVERY: Duration = Duration::from_millis(10);
/// What is published before it is measured: processes start, first files are made.
const WARM: Duration = Duration::from_secs(5);
/// The last record must be seen within this time.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is to be reached, in milliseconds.
const MEDIAN_MAX: f64 = 25.0;
const P99_MAX: f64 = 100.0;
const QUESTION: &str = "SELECT max(source_record) FROM trades";
const FULL: Duration = Duration::from_secs(60);
const QUICK: Duration = Duration::from_secs(5);

/// A transaction that was committed: its last record, and when the commit returned.
type Commit = (i64, Instant);
/// A look: the last record that it saw, and when it had.
type Look = (i64, Instant);

pub fn measure(tape: &Path, brokers: &str, place: &Path, quick: bool) -> Result<Vec<Row>> {
    let home = tempfile::tempdir_in(place)?;
    let prefix = speed::prefix("freshness");
    let log = speed::kafka(brokers, &prefix)?;
    let mut store = start(tape, &["store"], home.path(), brokers, &prefix)?;
    let mut service = start(tape, &["query", "--listen", "127.0.0.1:0"], home.path(), brokers, &prefix)?;
    let address = address(&mut service.0)?;
    let time = WARM + if quick { QUICK } else { FULL };
    let done = AtomicBool::new(false);
    let (commits, looks, received) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| looks(&address, &done));
        let consuming = scope.spawn(|| received(&log, &done));
        let published = publish(&log, time);
        let settled = published.as_ref().map_or(Duration::ZERO, |_| PATIENCE);
        let last = published.as_ref().ok().and_then(|commits| commits.last()).map_or(0, |(last, _)| *last);
        let deadline = Instant::now() + settled;
        while Instant::now() < deadline && ask(&address, QUESTION).unwrap_or(0) < last {
            std::thread::sleep(COMMIT_EVERY);
        }
        done.store(true, Ordering::Relaxed);
        let joined = |what: std::thread::Result<Result<Vec<Look>>>| what.map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        Ok::<_, anyhow::Error>((published?, joined(asking.join())?, joined(consuming.join())?))
    })?;
    store.end()?;
    service.end()?;
    raw::remove_topics(brokers, &speed::topics(&log)?)?;
    let begin = commits[0].1 + WARM;
    let measured: Vec<Commit> = commits.into_iter().filter(|(_, at)| *at > begin).collect();
    let (ours, raw) = (delays(&measured, &looks)?, delays(&measured, &received)?);
    let asked = looks.len();
    let row = |what: &str, share: f64, most: f64| {
        let (figure, yardstick) = (at(&ours, share), at(&raw, share));
        Row {
            what: format!("{what} of {} commits, {RATE} records/s, {asked} queries meanwhile", measured.len()),
            figure: format!("{figure:.1} ms"),
            yardstick: format!("{yardstick:.1} ms (a consumer alone)"),
            ratio: Some(figure / yardstick),
            reach: format!("≤ {most} ms"),
            met: figure <= most,
            runs: vec![],
            cpu: None,
        }
    };
    Ok(vec![row("commit to SQL, median", 0.5, MEDIAN_MAX), row("commit to SQL, p99", 0.99, P99_MAX)])
}

/// A child that ends with this.
struct Started(Child);

impl Started {
    /// Told to end, it does so without a fault.
    fn end(&mut self) -> Result<()> {
        let told = Command::new("kill").args(["-s", "TERM", &self.0.id().to_string()]).status().context("running kill")?;
        ensure!(told.success(), "process {} was gone", self.0.id());
        let status = self.0.wait()?;
        ensure!(status.success(), "process {} ended with {status}", self.0.id());
        Ok(())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It has mostly ended before.
        let _gone = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn start(tape: &Path, args: &[&str], home: &Path, brokers: &str, prefix: &str) -> Result<Started> {
    let mut command = Command::new(tape);
    for name in ["TAPE_HOME", "TAPE_BROKERS", "TAPE_TABLES", "TAPE_PREFIX", "TAPE_REPLAYED", "TAPE_CONFIG", "TAPE_LISTEN"] {
        command.env_remove(name);
    }
    command.args(args).arg("--home").arg(home).args(["--brokers", brokers, "--prefix", prefix]);
    // A pipe that nobody reads would hold its writer when it is full.
    let said = if args[0] == "query" { Stdio::piped() } else { Stdio::null() };
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn();
    Ok(Started(spawned.with_context(|| format!("starting {}: build it first, or name it with --tape", tape.display()))?))
}

/// Where the service says that it is.
fn address(service: &mut Child) -> Result<String> {
    let mut said = String::new();
    let mut lines = BufReader::new(service.stderr.take().context("its output is piped")?);
    while lines.read_line(&mut said)? > 0 {
        if let Some(address) = said.split_once("http://").and_then(|(_, rest)| rest.split_once('/')).map(|(address, _)| address.to_string())
        {
            std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
            return Ok(address);
        }
    }
    anyhow::bail!("tape query ended: {said}")
}

fn publish(log: &dyn EventLog, time: Duration) -> Result<Vec<Commit>> {
    let mut writer = log.writer("freshness")?;
    let (mut next, mut commits) = (1, Vec::new());
    let began = Instant::now();
    while began.elapsed() < time {
        // Whatever was due since the last transaction began: a slow one is followed by a larger one.
        let due = (began.elapsed().as_millis() as i64 * RATE as i64 / 1000 - (next - 1)).max(0) as u64;
        if due < RATE * COMMIT_EVERY.as_millis() as u64 / 1000 {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        writer.publish(&Batch { records: vec![batch(next, due)?], ..Batch::default() })?;
        next += due as i64;
        commits.push((next - 1, Instant::now()));
    }
    let kept = (next - 1) as f64 / began.elapsed().as_secs_f64();
    ensure!(kept > RATE as f64 * 0.95, "only {kept:.0} records/s could be published");
    Ok(commits)
}

/// Trades of fifty symbols.
fn batch(first: i64, count: u64) -> Result<Records> {
    let topic = Family::Trades.topic();
    let now = chrono::Utc::now();
    let mut rows = Rows::new(Family::Trades);
    for number in first..first + count as i64 {
        rows.text(topic.column("dataset"), "SYN.BENCH");
        rows.text(topic.column("change"), "new");
        rows.i32(topic.column("revision"), 0);
        rows.bytes(topic.column("source_id"), &[7; 16]);
        rows.i64(topic.column("source_record"), number);
        rows.i64(topic.column("source_byte"), number);
        rows.text(topic.column("symbol"), &format!("TOK{}", number % 50));
        rows.i64(topic.column("ts_event"), now.timestamp_nanos_opt().context("a time of this century")?);
        rows.date(topic.column("date"), i32::try_from(now.timestamp().div_euclid(86_400))?);
        rows.decimal(topic.column("price"), 2_310_000_000 + i128::from(number % 1000));
        rows.end_row();
    }
    let batch = rows.finish()?;
    let values = frame::encode(Family::Trades, &batch)?;
    Ok(Records { family: Family::Trades, keys: frame::keys(Family::Trades, &batch), values })
}

fn looks(address: &str, done: &AtomicBool) -> Result<Vec<Look>> {
    let mut looks = Vec::new();
    while !done.load(Ordering::Relaxed) {
        looks.push((ask(address, QUESTION)?, Instant::now()));
    }
    Ok(looks)
}

/// The number that is the answer; 0 for NULL.
fn ask(address: &str, sql: &str) -> Result<i64> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    write!(stream, "POST /v1/sql HTTP/1.0\r\nAccept: text/csv\r\nContent-Length: {}\r\n\r\n{sql}", sql.len())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains(" 200 "), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").context("an answer has a head")?;
    Ok(body.lines().nth(1).and_then(|line| line.parse().ok()).unwrap_or(0))
}

/// What a reader of the log has when: records are numbered in the order of their commits.
fn received(log: &dyn EventLog, done: &AtomicBool) -> Result<Vec<Look>> {
    let partitions = log.topic(Family::Trades)?.partitions;
    let starts: Vec<Start> = (0..partitions).map(|partition| Start { family: Family::Trades, partition, offset: 0 }).collect();
    let mut reader: Box<dyn Reader> = log.reader(&starts)?;
    let (mut count, mut looks) = (0, Vec::new());
    while !done.load(Ordering::Relaxed) {
        let events = reader.poll(Duration::from_millis(50), usize::MAX)?.events;
        if !events.is_empty() {
            count += events.len() as i64;
            looks.push((count, Instant::now()));
        }
    }
    Ok(looks)
}

/// From each commit to the first look that has it, in milliseconds, sorted.
fn delays(commits: &[Commit], looks: &[Look]) -> Result<Vec<f64>> {
    let mut from = 0;
    let mut delays = Vec::with_capacity(commits.len());
    for (last, committed) in commits {
        from += looks[from..].iter().position(|(seen, _)| seen >= last).with_context(|| format!("record {last} was never seen"))?;
        delays.push(looks[from].1.saturating_duration_since(*committed).as_secs_f64() * 1e3);
    }
    delays.sort_by(f64::total_cmp);
    Ok(delays)
}

fn at(sorted: &[f64], share: f64) -> f64 {
    sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
