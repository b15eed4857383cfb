//! `tape doctor`: checks configuration, log, tables, disk and clock, and says what to do about each.

use super::Code;
use crate::say::say_line;
use crate::settings::{LogAt, Settings};
use crate::{home, tables};
use anyhow::Result;
use eventlog::{EventLog, StateTopic};
use lake::Lake;
use query::TableFiles;
use query::files::Lost;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

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
        findings.push(origin(&log, &lake)?);
    }
    Ok(findings)
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
                vec![tables, files(&listed).await]
            }
        })
    })
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
