//! `tape doctor`: checks configuration, log, tables, disk and clock, what was lost, stands in quarantine or waits, and says what to do about each.

use super::Code;
use crate::say::say_line;
use crate::settings::{LogAt, Settings};
use crate::{held, home, tables};
use anyhow::Result;
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use eventlog::{EventLog, StateTopic};
use futures::TryStreamExt;
use indicatif::{HumanCount, HumanDuration};
use lake::Lake;
use query::files::Lost;
use query::{Engine, Principal, TableFiles};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use store::lag::Lag;

/// One thing that was looked at.
struct Finding {
    what: &'static str,
    good: bool,
    says: String,
}

/// A clock before this was never set: the day of the first commit, 2026-11-21.
const CLOCK_MIN: Duration = Duration::from_secs(1_795_219_200);
const LISTING_TIMEOUT: Duration = Duration::from_secs(60);

pub fn run(settings: &Settings) -> Result<Code> {
    let mut findings = vec![configuration(settings), clock(SystemTime::now())];
    // With the log in Kafka and the tables elsewhere nothing lies in a home.
    if !matches!(settings.log, LogAt::Kafka { .. }) || Path::new(&settings.tables).starts_with(&settings.home) {
        findings.push(home_folder(settings));
    }
    // Without a home there is no embedded log to look at, and to open it would make both.
    if !home::is_missing(settings) || matches!(settings.log, LogAt::Kafka { .. }) {
        findings.extend(log_and_tables(settings)?);
    }
    let good = findings.iter().all(|finding| finding.good);
    if settings.json {
        let list: Vec<_> = findings.iter().map(|f| json!({ "check": f.what, "ok": f.good, "says": f.says })).collect();
        say_line!("{}", json!({ "ok": good, "checks": list }));
    } else {
        for finding in &findings {
            say_line!("{} {:<14} {}", if finding.good { "ok  " } else { "BAD " }, finding.what, finding.says);
        }
    }
    Ok(if good { Code::Fine } else { Code::Found })
}

fn log_and_tables(settings: &Settings) -> Result<Vec<Finding>> {
    let log = home::log(settings);
    let mut findings = topics(&log);
    findings.extend(stored(settings)?);
    if let (Ok(log), Ok(lake)) = (log, home::lake(settings)) {
        let origin = origin(&log, &lake)?;
        let is_its = origin.good;
        findings.push(origin);
        // How far tables are behind a log that is not theirs says nothing.
        if is_its {
            findings.extend(behind(&log, &lake, settings)?);
        }
    }
    Ok(findings)
}

/// Partitions and reasons that one finding names.
const NAMED_MAX: usize = 3;
/// A store that runs commits within seconds: what waits for longer is stored by nobody.
const WAITING_MAX: Duration = Duration::from_secs(60);

/// What waits to be stored, and what nobody can read yet.
fn behind(log: &Arc<dyn EventLog>, lake: &Lake, settings: &Settings) -> Result<Vec<Finding>> {
    let lags = match home::runtime()?.block_on(store::lag::lag(log, lake)) {
        Ok(lags) => lags,
        Err(why) => return Ok(vec![Finding { what: "lag", good: false, says: why.to_string() }]),
    };
    let now = SystemTime::now();
    let mut findings = vec![lag(&lags, settings, now)];
    let lost: i64 = lags.iter().map(Lag::lost).sum();
    if lost > 0 {
        let parts = lags.iter().filter(|lag| lag.lost() > 0);
        let named =
            some(parts.map(|lag| format!("{}[{}] from offset {}: {}", lag.topic, lag.partition, lag.stored.max(lag.noted), lag.lost())));
        let says = format!(
            "{} left the log before they were stored, and no store has noted it: {named}; `{}` does, tells which, and goes on behind them",
            counted(lost),
            settings.command("store --once")
        );
        findings.push(Finding { what: "retention", good: false, says });
    }
    let held: Vec<_> = lags.iter().filter_map(|lag| lag.held).collect();
    if !held.is_empty() {
        let old: Vec<_> = held.iter().filter(|one| held::is_old(one, now)).collect();
        let says = match old.first() {
            None => format!("{} partitions have one that has just begun", held.len()),
            Some(first) => {
                let named = some(old.iter().map(|one| held::line(one, settings, now)));
                format!("{named}; {}", held::advice(first, settings))
            }
        };
        findings.push(Finding { what: "transactions", good: old.is_empty(), says });
    }
    Ok(findings)
}

/// Records that can be read and are not stored, by topic.
fn lag(lags: &[Lag], settings: &Settings, now: SystemTime) -> Finding {
    let mut topics: BTreeMap<&str, i64> = BTreeMap::new();
    for lag in lags.iter().filter(|lag| lag.behind() > 0) {
        *topics.entry(&lag.topic).or_default() += lag.behind();
    }
    let Some(oldest) = lags.iter().filter_map(|lag| lag.waiting_ts_ms).min() else {
        return Finding { what: "lag", good: true, says: "everything that can be read of the log is stored".into() };
    };
    let waiting = topics.iter().map(|(topic, offsets)| format!("{} of {topic}", counted(*offsets)));
    let waiting = waiting.collect::<Vec<_>>().join(", ");
    // The time of a replayed record is that of its origin.
    let replayed = matches!(settings.log, LogAt::Kafka { replayed: true, .. });
    let age = held::age(Some(oldest), now).filter(|_| !replayed).unwrap_or_default();
    let since = if replayed { String::new() } else { format!(", the oldest since {} ({})", held::time(oldest), HumanDuration(age)) };
    let good = age <= WAITING_MAX;
    let advice = if good { String::new() } else { format!("; nobody stores them: start `{}`", settings.command("store")) };
    Finding { what: "lag", good, says: format!("not stored yet: {waiting}{since}{advice}") }
}

fn counted(offsets: i64) -> String {
    format!("{} offset{}", HumanCount(offsets.unsigned_abs()), if offsets == 1 { "" } else { "s" })
}

/// The first of some, and how many more there are.
fn some(of: impl Iterator<Item = String>) -> String {
    let of: Vec<String> = of.collect();
    let more = if of.len() > NAMED_MAX { format!("; … {} more", of.len() - NAMED_MAX) } else { String::new() };
    format!("{}{more}", of[..of.len().min(NAMED_MAX)].join("; "))
}

fn configuration(settings: &Settings) -> Finding {
    let log = match &settings.log {
        LogAt::Embedded { dir, .. } => format!("embedded log in {}", dir.display()),
        LogAt::Kafka { brokers, properties, replayed } => {
            let origin = if *replayed { ", replayed: its records keep the time of their origin" } else { "" };
            format!("Kafka at {brokers}, {} properties of its own{origin}", properties.len())
        }
    };
    Finding { what: "configuration", good: true, says: format!("{log}; tables in {}; topic prefix {}", settings.tables, settings.prefix) }
}

fn clock(now: SystemTime) -> Finding {
    let good = now.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since > CLOCK_MIN);
    let says = if good { "plausible".into() } else { "stands before this program was written: set it, for example with NTP".into() };
    Finding { what: "clock", good, says }
}

fn home_folder(settings: &Settings) -> Finding {
    if home::is_missing(settings) {
        return Finding { what: "home", good: false, says: home::missing(settings) };
    }
    let probe = settings.home.join(".doctor");
    let write = || std::fs::write(&probe, b"tape").and_then(|()| std::fs::remove_file(&probe));
    match write() {
        Ok(()) => Finding { what: "home", good: true, says: format!("{} can be written", settings.home.display()) },
        Err(why) => Finding {
            what: "home",
            good: false,
            says: format!("{}: {why}: give this user the right to write there", settings.home.display()),
        },
    }
}

fn topics(log: &Result<Arc<dyn EventLog>>) -> Vec<Finding> {
    let log = match log {
        Ok(log) => log,
        Err(why) => return vec![Finding { what: "log", good: false, says: format!("{why:#}") }],
    };
    let cluster = match log.cluster_id() {
        Ok(id) => Finding { what: "log", good: true, says: format!("{}, cluster {id}", log.describe()) },
        Err(why) => Finding { what: "log", good: false, says: why.to_string() },
    };
    let topics = match log.check_topics() {
        Err(why) => Finding { what: "topics", good: false, says: why.to_string() },
        Ok(reports) => {
            let unfit: Vec<_> =
                reports.iter().filter(|r| !r.problems.is_empty()).map(|r| format!("{} ({})", r.name, r.problems.join("; "))).collect();
            let says = if unfit.is_empty() {
                format!("all {} are fine", reports.len())
            } else {
                format!("run `tape topics`: {}", unfit.join(", "))
            };
            Finding { what: "topics", good: unfit.is_empty(), says }
        }
    };
    // Whether a compacted topic has lost records shows where it is read.
    let states = match topics.good {
        true => StateTopic::ALL.iter().find_map(|topic| log.states(*topic).err()),
        false => None,
    };
    let published = states.map(|why| Finding { what: "published", good: false, says: why.to_string() });
    [cluster, topics].into_iter().chain(published).collect()
}

fn stored(settings: &Settings) -> Result<Vec<Finding>> {
    if home::named_tables_are_missing(settings)? {
        return Ok(vec![Finding { what: "tables", good: false, says: home::missing_tables(settings) }]);
    }
    home::runtime()?.block_on(async {
        Ok(match tables::engine(settings, LISTING_TIMEOUT).await {
            Err(why) => vec![Finding { what: "tables", good: false, says: format!("{why:#}") }],
            Ok(engine) => {
                let listed = match tables::listed(settings).await {
                    Ok(listed) => listed,
                    Err(why) => return Ok(vec![Finding { what: "tables", good: false, says: format!("{why:#}") }]),
                };
                let catalog = engine.catalog();
                let rows: u64 = schemas::Family::ALL.iter().map(|family| catalog.rows(*family)).sum();
                let tables = Finding { what: "tables", good: true, says: format!("{rows} rows in {}", settings.tables) };
                vec![tables, files(&listed).await, losses(&engine).await, quarantine(&engine, settings).await]
            }
        })
    })
}

/// What the log had lost before it was stored, as table `gaps` has it.
const LOSSES: &str = "SELECT concat(stood, ' offsets ', CAST(from_seq AS VARCHAR), ' to ', CAST(to_seq AS VARCHAR), \
     coalesce(concat(', noted ', CAST(noted_at AS VARCHAR)), '')) AS told, missing FROM gaps WHERE _partition IS NULL ORDER BY noted_at DESC, stood, from_seq";
/// What stands in quarantine and nobody settled, by reason.
const STANDING: &str = "SELECT reason AS told, count(*) AS n FROM quarantine WHERE change = 'new' AND requeued_at IS NULL \
     GROUP BY reason ORDER BY n DESC, reason";

async fn losses(engine: &Engine) -> Finding {
    match told(engine, LOSSES).await {
        Err(why) => Finding { what: "losses", good: false, says: format!("reading table gaps: {why:#}") },
        Ok(losses) if losses.is_empty() => Finding { what: "losses", good: true, says: "table gaps has none".into() },
        Ok(losses) => {
            let offsets: i64 = losses.iter().map(|(_, offsets)| offsets).sum();
            let says = format!(
                "{} left the log before they were stored: {}; they are in no table: where the files are still there, ingest them into a home of \
                 their own and query both (docs/auditing.md); and let retention be longer than a store may stand still",
                counted(offsets),
                some(losses.into_iter().map(|(stood, _)| stood))
            );
            Finding { what: "losses", good: false, says }
        }
    }
}

async fn quarantine(engine: &Engine, settings: &Settings) -> Finding {
    match told(engine, STANDING).await {
        Err(why) => Finding { what: "quarantine", good: false, says: format!("reading table quarantine: {why:#}") },
        Ok(standing) if standing.is_empty() => {
            Finding { what: "quarantine", good: true, says: "nothing stands in it that is not settled".into() }
        }
        Ok(standing) => {
            let records: i64 = standing.iter().map(|(_, records)| records).sum();
            let says = format!(
                "{} not settled: {}; what to do about each: {}",
                if records == 1 { "1 record is".to_string() } else { format!("{} records are", HumanCount(records.unsigned_abs())) },
                some(standing.into_iter().map(|(reason, records)| format!("{} × {reason}", HumanCount(records.unsigned_abs())))),
                settings.command("requeue --dry-run")
            );
            Finding { what: "quarantine", good: false, says }
        }
    }
}

/// Rows of a text and a number.
async fn told(engine: &Engine, sql: &str) -> Result<Vec<(String, i64)>> {
    let (_, rows) = engine.run(&Principal::local(), sql).await?;
    let mut told = Vec::new();
    for rows in rows.try_collect::<Vec<_>>().await? {
        let (texts, numbers) = (rows.column(0).as_string::<i32>(), rows.column(1).as_primitive::<Int64Type>());
        told.extend((0..rows.num_rows()).map(|row| (texts.value(row).to_string(), numbers.value(row))));
    }
    Ok(told)
}

/// Tables that were stored from another log would hold twice what both logs hold.
fn origin(log: &Arc<dyn EventLog>, lake: &Lake) -> Result<Finding> {
    Ok(match home::runtime()?.block_on(store::refuse_other_log(log, lake)) {
        Err(why) => Finding { what: "origin", good: false, says: why.to_string() },
        Ok(()) => {
            Finding { what: "origin", good: true, says: "no table was stored from another log, and none is ahead of this one".into() }
        }
    })
}

/// Lost files that one finding names.
const LOST_NAMED_MAX: usize = 3;

/// Is every file of the tables there, as long as the log states?
async fn files(tables: &[TableFiles]) -> Finding {
    let mut lost = Vec::new();
    for table in tables {
        match table.lost().await {
            Ok(of_table) => lost.extend(of_table),
            Err(why) => return Finding { what: "files", good: false, says: format!("listing {}: {why}", table.root) },
        }
    }
    let count: usize = tables.iter().map(|table| table.files.len()).sum();
    if lost.is_empty() {
        return Finding {
            what: "files",
            good: true,
            says: format!("all {count} of the tables are there, with the length that their logs state"),
        };
    }
    let named: Vec<String> = lost.iter().take(LOST_NAMED_MAX).map(Lost::to_string).collect();
    let more = if lost.len() > LOST_NAMED_MAX { " …" } else { "" };
    let says = format!(
        "{} of {count} are not as they were stored: {}{more}; bring them back from a copy, or, where the log still holds everything, store it again into an empty folder \
         (tape store --once --tables DIR)",
        lost.len(),
        named.join("; ")
    );
    Finding { what: "files", good: false, says }
}
