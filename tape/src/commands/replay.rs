//! `tape replay`: a range of the history back out as events, to a file, another Kafka, or a home of its own.

mod out;
mod unmatched;

use super::Code;
use crate::args::{self, Clock, ReplayFormat, ReplayOrder};
use crate::say::say_line;
use crate::settings::{LogAt, Settings, WrongUse};
use crate::{home, summary, tables};
use anyhow::{Context, Result};
use eventlog::EventLog;
use eventlog::kafka::{Kafka, KafkaOptions};
use indicatif::{HumanCount, ProgressBar};
use ingest::sources::dbn::write_back;
use lake::Lake;
use out::{Folder, Out};
use query::replay::{self, Known, Order, Range, Source, Stored, Target, Written};
use query::{Engine, Error};
use schemas::Family;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Sources that are named.
const NAMED_MAX: usize = 5;
/// Findings of a verification that say something of the log, and not that the tables are other than it.
const OF_THE_LOG: [&str; 4] = ["lost", "doubled", "backwards", "incomplete"];
/// What a replay may take: it is no statement of somebody who waits.
const TIMEOUT: Duration = Duration::from_secs(366 * 86_400);

pub fn run(args: &args::Replay, settings: &Settings) -> Result<Code> {
    home::refuse_missing_tables(settings)?;
    let range = range(args)?;
    let runtime = home::runtime()?;
    match runtime.block_on(replay(args, range, settings)) {
        Err(fault) => match fault.downcast_ref::<Error>() {
            // Whoever reads has seen enough.
            Some(Error::Write(why)) if why.kind() == std::io::ErrorKind::BrokenPipe => Ok(Code::Fine),
            Some(why) if why.is_wrong_use() => Err(WrongUse(format!("{fault:#}")).into()),
            _ => Err(fault),
        },
        done => done,
    }
}

async fn replay(args: &args::Replay, range: Range, settings: &Settings) -> Result<Code> {
    let lake = home::lake(settings)?;
    let known = Known::read(&lake, &settings.prefix).await?;
    let stored = known.stored(&lake).await?;
    // After it was asked how far is stored: the tables have at least that.
    let engine = tables::engine(settings, TIMEOUT).await?;
    // Of a part it is not known how much it is before it is read.
    let whole = !range.is_cut() && range.datasets.is_empty() && range.sources.is_empty();
    let total = whole.then(|| range.families.iter().map(|family| engine.catalog().rows(*family)).sum());
    let bar = if settings.json { ProgressBar::hidden() } else { summary::counting(total, "records") };
    let history = History { lake, engine, known, stored, bar };
    let asked = (args.to_home.is_none()).then(|| range.clone());
    let by_log = order(args.order.unwrap_or(ReplayOrder::Log));
    let done = match (&args.to_home, &args.to_brokers) {
        (Some(dir), _) => history.to_home(range, dir).await,
        (None, Some(brokers)) => {
            let target = target(brokers, args.to_prefix.as_deref(), settings)?;
            history.to_kafka(&range, by_log, &target, args.beside).await
        }
        (None, None) => match args.format.unwrap_or(ReplayFormat::Jsonl) {
            ReplayFormat::Jsonl => history.to_lines(&range, by_log, &args.to).await,
            ReplayFormat::Avro => history.to_avro(&range, by_log, &args.to).await,
            ReplayFormat::Dbn => history.to_dbn(range, args).await,
        },
    };
    history.bar.finish_and_clear();
    let mut done = done?;
    if let Some(asked) = asked {
        done = history.with_unmatched(done, &asked).await?;
    }
    let to_stdout = args.to_home.is_none() && args.to_brokers.is_none() && out::is_stdout(&args.to);
    done.tell(settings.json, to_stdout);
    Ok(if done.found { Code::Found } else { Code::Fine })
}

/// What is replayed from.
struct History {
    lake: Lake,
    engine: Engine,
    known: Known,
    stored: Stored,
    bar: ProgressBar,
}

impl History {
    fn progress(&self) -> impl FnMut(u64) + Send + '_ {
        |records| self.bar.inc(records)
    }

    /// What of the range is nowhere in the tables. Whoever names a symbol that is not there, or a time beyond all records, would else take nothing for
    /// an answer.
    async fn with_unmatched(&self, mut done: Done, asked: &Range) -> Result<Done> {
        let mut unmatched = unmatched::values(&self.engine, asked).await?;
        let is_part = asked.is_cut() || !asked.datasets.is_empty() || !asked.sources.is_empty();
        if done.is_nothing && unmatched.is_empty() {
            unmatched = unmatched::range(&self.engine, asked).await?;
            if unmatched.is_empty() && is_part {
                unmatched.push("no record is in all of the ranges that were named".into());
            }
        }
        // A table that is empty is one, and all of it is what was asked for.
        done.found |= is_part && !unmatched.is_empty();
        unmatched.iter().for_each(|why| eprintln!("{why}"));
        Ok(done.and("unmatched", unmatched))
    }

    async fn to_lines(&self, range: &Range, order: Order, to: &Path) -> Result<Done> {
        if out::is_folder(to) {
            return Err(
                WrongUse("JSON lines of all tables go to one file: name a file with --to, without a slash at its end".into()).into()
            );
        }
        let mut out = Out::create(to)?;
        let replay = self.engine.replay(range, order, &self.known);
        let records = replay::write_lines(replay, &self.known, &mut out, &mut self.progress()).await?;
        out.finish()?;
        Ok(Done::new(records).line(format!("{} to {}", counted(records, "record"), out::name(to))))
    }

    /// A file has one schema, so it has one table.
    async fn to_avro(&self, range: &Range, order: Order, to: &Path) -> Result<Done> {
        let replay = self.engine.replay(range, order, &self.known);
        let mut folder = if out::is_folder(to) { Some(Folder::create(to)?) } else { None };
        let mut one: Option<Out> = None;
        if folder.is_none() {
            let [_] = range.families[..] else {
                let why = "an Avro file has one schema: name one table with --family, or a folder for a file each (--to FOLDER/)";
                return Err(WrongUse(why.into()).into());
            };
            one = Some(Out::create(to)?);
        }
        let only = range.families[0];
        let mut open = |table: Family| -> Result<Option<Box<dyn Write + Send>>, Error> {
            match (&mut folder, &one) {
                (Some(folder), _) => Ok(Some(folder.file(&format!("{}.avro", table.topic().name))?)),
                (None, Some(one)) if table == only => Ok(Some(one.handle())),
                (None, _) => Ok(None),
            }
        };
        let (records, left_out) = replay::write_avro(replay, &mut open, &mut self.progress()).await?;
        if records == 0
            && let Some(one) = &one
        {
            // A file without records says of which table there are none.
            one.handle().write_all(&schemas::container::head(only))?;
        }
        out::finish(one, folder)?;
        let left = format!(
            "{} quarantined records of {} have no place in a file of good ones: a folder (--to FOLDER/) has them in quarantine.avro",
            HumanCount(left_out),
            only.topic().name
        );
        let done = Done::new(records).line(format!("{} to {}", counted(records, "record"), out::name(to)));
        Ok(done.and("left_out", left_out).found_if(left_out > 0, left))
    }

    async fn to_dbn(&self, range: Range, args: &args::Replay) -> Result<Done> {
        if !matches!(args.order, None | Some(ReplayOrder::Source)) {
            return Err(WrongUse("a DBN file has the order of its source: leave --order away, or say --order source".into()).into());
        }
        if !args.families.is_empty() {
            return Err(WrongUse("a DBN file has what its source had: leave --family away, and name sources with --source".into()).into());
        }
        let sources = self.dbn_sources(&range, args).await?;
        let mut folder = if out::is_folder(&args.to) { Some(Folder::create(&args.to)?) } else { None };
        let mut one = None;
        if folder.is_none() {
            if let [_, _, ..] = sources[..] {
                return Err(WrongUse(several(&sources)).into());
            }
            one = Some(Out::create(&args.to)?);
        }
        let ids = sources.iter().map(|source| source.id).collect();
        let range = Range { families: Source::families(), sources: ids, headers: true, ..range };
        let mut open = |id: &[u8; 16]| -> Result<Box<dyn Write + Send>, Error> {
            match (&mut folder, &one) {
                (Some(folder), _) => folder.file(&format!("{}.dbn", hex::encode(id))),
                (None, one) => Ok(one.as_ref().map(Out::handle).expect("there is a folder, or a file")),
            }
        };
        // Without sources there is no range: an empty list would be all of them.
        let whole = !range.is_cut();
        let written = match sources.is_empty() {
            true => Written::default(),
            false => {
                let replay = self.engine.replay(&range, Order::Source, &self.known);
                replay::write_dbn(replay, write_back::rows, &mut open, &mut self.progress()).await?
            }
        };
        out::finish(one, folder)?;
        let files: Vec<Value> = sources.iter().map(|source| json!({ "source": hex::encode(source.id), "name": source.name })).collect();
        let Written { records, sources: begun, headless, missing } = written;
        let line = format!("{} of {} to {}", counted(records, "record"), counted(begun.len() as u64, "source"), out::name(&args.to));
        let named =
            |of: &dyn Fn(&Source) -> bool| sources.iter().filter(|source| of(source)).map(|source| source.name.clone()).collect::<Vec<_>>();
        let nothing = named(&|source| !begun.contains(&source.id));
        let headless = named(&|source| source.has_header && headless.contains(&source.id));
        let holes = if whole { named(&|source| missing.contains_key(&source.id)) } else { Vec::new() };
        Ok(Done::new(records)
            .and("sources", files)
            .and("nothing_of", nothing.clone())
            .and("without_header", headless.clone())
            .and("with_holes", holes.clone())
            .line(line)
            .found_if(!nothing.is_empty() && whole, several_of("nothing is left of", &nothing))
            .found_if(!headless.is_empty(), several_of("the header is not in the tables, so that no reader takes the file, of", &headless))
            .found_if(!holes.is_empty(), several_of("records are not in the tables, or only as what could not be decoded, of", &holes)))
    }

    /// The DBN sources of the range: those that were named, else those of its datasets.
    async fn dbn_sources(&self, range: &Range, args: &args::Replay) -> Result<Vec<Source>> {
        let mut sources = replay::dbn_sources(&self.engine, &range.datasets).await?;
        if range.sources.is_empty() {
            return Ok(sources);
        }
        if let Some(at) = range.sources.iter().position(|wanted| sources.iter().all(|source| source.id != *wanted)) {
            let why = format!("source {} did not come from DBN, or is not there: SELECT * FROM sources says what is", args.sources[at]);
            return Err(WrongUse(why).into());
        }
        sources.retain(|source| range.sources.contains(&source.id));
        Ok(sources)
    }

    async fn to_kafka(&self, range: &Range, order: Order, target: &Kafka, beside: bool) -> Result<Done> {
        home::refuse_unfit_topics(target)?;
        let lost = replay::lost(&self.engine, &self.known).await?;
        let lost = lost.within + lost.low.values().filter(|low| **low > 0).count() as u64;
        let to = Target { log: target, beside };
        let done = replay::publish(&self.engine, range, order, &self.known, &self.stored, &to, &mut self.progress()).await?;
        let line = format!("{} to {} (replay {})", counted(done.records, "record"), target.describe(), done.id);
        let before = format!("{} were there before", HumanCount(done.before));
        let done_so_far = Done { is_nothing: done.records + done.before == 0, ..Done::new(done.records) };
        let done_so_far = done_so_far.and("replay", done.id).and("published_before", done.before).line(line);
        let done_so_far = if done.before > 0 { done_so_far.line(before) } else { done_so_far };
        let why = format!(
            "{lost} ranges were lost to retention before they were stored: they are not in the copy, and a store of it knows nothing of them"
        );
        Ok(done_so_far.and("lost", lost).found_if(lost > 0, why))
    }

    /// What is not whole is not restored: the new log, and whatever is stored from it, would prove the damage.
    async fn refuse_damaged(&self) -> Result<()> {
        let verified = store::verify::verify(&self.lake, &mut |rows| self.bar.inc(rows)).await.context("verifying the tables")?;
        self.bar.reset();
        let damage: Vec<_> = verified.findings.iter().filter(|finding| !OF_THE_LOG.contains(&finding.kind)).collect();
        let Some(first) = damage.first() else { return Ok(()) };
        anyhow::bail!(
            "the tables are not whole, and a log that is made of them would prove their damage: {} findings, the first in {}: {}; `tape verify` shows \
             all; bring the tables back from a copy",
            damage.len(),
            first.table,
            first.what
        )
    }

    async fn to_home(&self, range: Range, dir: &Path) -> Result<Done> {
        let dir = &std::path::absolute(dir).with_context(|| format!("finding {}", dir.display()))?;
        out::refuse_used(dir)?;
        if self.stored.is_empty() {
            return Err(WrongUse("there is nothing to restore: the tables do not say which log they were stored from".into()).into());
        }
        self.refuse_damaged().await?;
        let lost = replay::lost(&self.engine, &self.known).await?;
        home::private_folder(dir)?;
        let range = Range { placed: true, before: Some(self.stored.clone()), ..range };
        let replay = self.engine.replay(&range, Order::Log, &self.known);
        let log = dir.join("log");
        let restored = replay::restore(replay, &self.known, &self.stored, &lost.low, &log, &mut self.progress()).await;
        let restored = restored.with_context(|| format!("what is in {} is no whole log: remove it and try again", dir.display()))?;
        let records = restored.records.values().sum();
        let families: Map<String, Value> = restored.records.iter().map(|(family, n)| (family.topic().name.into(), json!(n))).collect();
        let done = Done::new(records)
            .and("families", families)
            .and("holes", restored.holes)
            .and("lost_within", lost.within)
            .and("lost_forgotten", restored.forgotten)
            .line(format!("{} records in {}, {} offsets hold nothing", HumanCount(records), log.display(), HumanCount(restored.holes)))
            .line(format!("its tables: tape store --once --home {}{}", dir.display(), prefix_flag(self.known.prefix())));
        let why = format!(
            "{} ranges were lost to retention before they were stored: they hold nothing in the restored log, of which a store does not know why \
             (table gaps of these tables says it)",
            lost.within + restored.forgotten
        );
        Ok(done.found_if(lost.within + restored.forgotten > 0, why))
    }
}

/// `1 record`, `2 records`.
fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", HumanCount(count), if count == 1 { "" } else { "s" })
}

/// What is wrong, and the first of the sources of which it is.
fn several_of(what: &str, names: &[String]) -> String {
    let more = if names.len() > NAMED_MAX { format!(", … ({} in all)", names.len()) } else { String::new() };
    format!("{what} {}{more}", names.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", "))
}

fn prefix_flag(prefix: &str) -> String {
    if prefix == crate::settings::PREFIX { String::new() } else { format!(" --prefix {prefix}") }
}

fn several(sources: &[Source]) -> String {
    let named: Vec<String> = sources.iter().take(5).map(|source| format!("  {}  {}", hex::encode(source.id), source.name)).collect();
    let more = if sources.len() > 5 { format!("\n  … and {} more", sources.len() - 5) } else { String::new() };
    format!(
        "a DBN file has one source, and the range has {}: name one with --source, or a folder (--to FOLDER/):\n{}{more}",
        sources.len(),
        named.join("\n")
    )
}

/// What was done, for people and for scripts.
struct Done {
    told: Map<String, Value>,
    lines: Vec<String>,
    found: bool,
    /// The range has no record.
    is_nothing: bool,
}

impl Done {
    fn new(records: u64) -> Done {
        Done { told: Map::from_iter([("records".to_string(), json!(records))]), lines: Vec::new(), found: false, is_nothing: records == 0 }
    }

    fn and(mut self, name: &str, value: impl Into<Value>) -> Done {
        self.told.insert(name.into(), value.into());
        self
    }

    fn line(mut self, line: String) -> Done {
        self.lines.push(line);
        self
    }

    fn found_if(mut self, found: bool, line: String) -> Done {
        self.found |= found;
        if found { self.line(line) } else { self }
    }

    /// On standard output, unless the events are there.
    fn tell(&self, as_json: bool, events_on_stdout: bool) {
        let text = if as_json { Value::from(self.told.clone()).to_string() } else { self.lines.join("\n") };
        if events_on_stdout {
            eprintln!("{text}");
        } else {
            say_line!("{text}");
        }
    }
}

/// What was typed as a range.
fn range(args: &args::Replay) -> Result<Range, WrongUse> {
    let family = |name: &String| {
        Family::named(name).ok_or_else(|| WrongUse(format!("--family {name}: there is no such table; `tape schema` lists all")))
    };
    let mut families = args.families.iter().map(family).collect::<Result<Vec<_>, _>>()?;
    families.sort_unstable();
    families.dedup();
    let source = |text: &String| {
        let id = hex::decode(text).ok().and_then(|id| id.try_into().ok());
        id.ok_or_else(|| WrongUse(format!("--source {text}: write a source_id of table sources, 32 hex digits")))
    };
    let clock = match args.clock {
        Clock::TsEvent => replay::Clock::TsEvent,
        Clock::TsRecv => replay::Clock::TsRecv,
        Clock::TsPublish => replay::Clock::TsPublish,
        Clock::LogTs => replay::Clock::LogTs,
    };
    let time = |flag: &str, text: &Option<String>| {
        text.as_deref().map(|text| nanoseconds(text).map_err(|why| WrongUse(format!("{flag} {text}: {why}")))).transpose()
    };
    let sorted = |texts: &[String]| {
        let mut texts = texts.to_vec();
        texts.sort_unstable();
        texts
    };
    let (from, to) = (time("--since", &args.since)?, time("--until", &args.until)?);
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        return Err(WrongUse("--until must be later than --since: it is the first time that is not replayed any more".into()));
    }
    if args.from_offset.zip(args.to_offset).is_some_and(|(from, to)| from >= to) {
        return Err(WrongUse("--to-offset must be greater than --from-offset: it is the first one that is not replayed any more".into()));
    }
    Ok(Range {
        families: if families.is_empty() { Family::ALL.to_vec() } else { families },
        datasets: sorted(&args.datasets),
        symbols: sorted(&args.symbols),
        sources: args.sources.iter().map(source).collect::<Result<_, _>>()?,
        clock,
        from,
        to,
        partition: args.partition,
        from_offset: args.from_offset,
        to_offset: args.to_offset,
        ..Range::all()
    })
}

/// Nanoseconds since 1970 UTC.
fn nanoseconds(text: &str) -> Result<i64, String> {
    let time = match chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        Ok(day) => day.and_time(chrono::NaiveTime::MIN).and_utc(),
        Err(_) => chrono::DateTime::parse_from_rfc3339(text)
            .map_err(|_| {
                "is no time that is taken here: write a date, which is its midnight UTC (2026-10-05), or a time with its zone \
                 (2026-10-05T14:30:00.000000001Z, 2026-10-05T22:30:00+08:00)"
            })?
            .to_utc(),
    };
    if time.timestamp_subsec_nanos() >= 1_000_000_000 {
        return Err("is a leap second, which no time here can say; write the second before it".into());
    }
    time.timestamp_nanos_opt().ok_or_else(|| "is beyond the years 1678 to 2261 that nanoseconds reach".into())
}

fn order(order: ReplayOrder) -> Order {
    match order {
        ReplayOrder::Log => Order::Log,
        ReplayOrder::Time => Order::Time,
        ReplayOrder::Source => Order::Source,
    }
}

/// The Kafka that is published to, with the settings' properties.
fn target(brokers: &str, prefix: Option<&str>, settings: &Settings) -> Result<Kafka> {
    let properties = match &settings.log {
        LogAt::Kafka { properties, .. } => properties.clone(),
        LogAt::Embedded { .. } => Default::default(),
    };
    let options = KafkaOptions { prefix: prefix.unwrap_or(crate::settings::PREFIX).into(), properties, ..KafkaOptions::new(brokers) };
    Ok(Kafka::connect(options)?)
}

#[cfg(test)]
mod tests {
    use super::nanoseconds;

    #[test]
    fn a_time_is_exact_or_refused() {
        assert_eq!(nanoseconds("1970-01-02"), Ok(86_400_000_000_000));
        assert_eq!(nanoseconds("1970-01-01T01:00:00.000000001+01:00"), Ok(1));
        for (text, says) in [("today", "2026-10-05"), ("2300-01-01", "1678 to 2261"), ("2026-12-31T23:59:60Z", "leap second")] {
            assert!(nanoseconds(text).expect_err(text).contains(says), "{text}");
        }
    }
}
