//! `tape verify`: is the archive complete and unaltered? From the tables alone, or also beside the log.

use super::Code;
use crate::args::Verify;
use crate::home;
use crate::say::{say, say_line};
use crate::settings::Settings;
use crate::summary;
use anyhow::Result;
use indicatif::{HumanCount, ProgressBar};
use lake::Lake;
use serde_json::json;
use std::time::{Duration, Instant};
use store::verify::{Finding, Looked, SourceLooked, Verified, verify, verify_against};

/// Findings, and sources, that are printed one by one; --json has all.
const SHOWN_MAX: usize = 50;

pub fn run(args: &Verify, settings: &Settings) -> Result<Code> {
    home::refuse_missing_tables(settings)?;
    let lake = home::lake(settings)?;
    let log = if args.against_log { Some(home::existing_log(settings)?) } else { None };
    let runtime = home::runtime()?;
    let bar = match settings.json {
        true => ProgressBar::hidden(),
        false => summary::counting(runtime.block_on(rows(&lake)), "rows"),
    };
    let began = Instant::now();
    let mut progress = |rows| bar.inc(rows);
    let verified = runtime.block_on(async {
        match &log {
            None => verify(&lake, &mut progress).await,
            Some(log) => verify_against(&lake, log, &mut progress).await,
        }
    })?;
    bar.finish_and_clear();
    // Of nothing nothing is proven.
    let whole = verified.findings.is_empty() && !verified.tables.is_empty();
    if settings.json {
        let Verified { tables, findings, sources } = &verified;
        say_line!("{}", json!({ "whole": whole, "tables": tables, "findings": findings, "sources": sources }));
    } else {
        say!("{}", text(&verified, args.against_log, began.elapsed(), settings));
    }
    Ok(if whole { Code::Fine } else { Code::Found })
}

/// Rows of all tables, as their logs state them; `None` where one cannot be read, which the verification tells.
async fn rows(lake: &Lake) -> Option<u64> {
    let mut rows = 0;
    for family in lake.tables().await.ok()? {
        let table = lake.find(family).await.ok()??;
        rows += table.snapshot().files().iter().map(|file| file.stats.rows).sum::<Option<u64>>()?;
    }
    Some(rows)
}

fn text(verified: &Verified, against_log: bool, took: Duration, settings: &Settings) -> String {
    if verified.tables.is_empty() {
        return format!("there are no tables in {}: nothing was checked\n", settings.tables);
    }
    let in_log = |text: &str| if against_log { format!(" {text:>14}") } else { String::new() };
    let mut lines = vec![format!(
        "{:<14} {:>8} {:>7} {:>14} {:>8} {:>10} {:>11}{}",
        "table",
        "version",
        "files",
        "rows",
        "commits",
        "intervals",
        "no record",
        in_log("also in log")
    )];
    lines.extend(verified.tables.iter().map(|(name, looked)| {
        let Looked { version, files, commits, intervals, .. } = looked;
        let (rows, absent) = (count(looked.rows), count(looked.absent.values().sum()));
        let compared = in_log(&looked.compared.map_or("-".to_string(), count));
        format!("{name:<14} {version:>8} {files:>7} {rows:>14} {commits:>8} {intervals:>10} {absent:>11}{compared}")
    }));
    let rows: u64 = verified.tables.values().map(|looked| looked.rows).sum();
    lines.push(format!("\n{} rows in {:.1} s", count(rows), took.as_secs_f64()));
    lines.push(match verified.findings.len() {
        0 if against_log => "whole: every interval of every commit is there, once, as it was stored and as the log has it".to_string(),
        0 => "whole: every interval of every commit is there, once, as it was stored".to_string(),
        1 => "NOT whole: 1 finding".to_string(),
        findings => format!("NOT whole: {findings} findings"),
    });
    lines.extend(verified.findings.iter().take(SHOWN_MAX).map(line));
    lines.extend(more(verified.findings.len()));
    if !verified.sources.is_empty() {
        lines.push("\nwhat sources say of themselves; that is as it was published, and no finding:".to_string());
        lines.extend(verified.sources.iter().take(SHOWN_MAX).map(remark));
        lines.extend(more(verified.sources.len()));
    }
    lines.join("\n") + "\n"
}

fn count(count: u64) -> String {
    HumanCount(count).to_string()
}

fn more(all: usize) -> Option<String> {
    (all > SHOWN_MAX).then(|| format!("  … {} more; --json has all", all - SHOWN_MAX))
}

fn line(finding: &Finding) -> String {
    let partition = finding.partition.map_or(String::new(), |partition| format!("[{partition}]"));
    let offsets = match finding.offsets {
        None => String::new(),
        Some((first, last)) if first == last => format!(" offset {first}"),
        Some((first, last)) => format!(" offsets {first} to {last}"),
    };
    format!("  {:<12} {}{partition}{offsets}: {}", finding.kind, finding.table, finding.what)
}

fn remark(source: &SourceLooked) -> String {
    let SourceLooked { source_id, name, sequence_back, sequence_again, flagged_bad_book, flagged_bad_ts_recv } = source;
    let said = [
        (sequence_back, "sequence numbers go back"),
        (sequence_again, "sequence numbers come again"),
        (flagged_bad_book, "records flagged after a gap of the venue's feed"),
        (flagged_bad_ts_recv, "records flagged for a wrong ts_recv"),
    ];
    let said: Vec<String> =
        said.iter().filter(|(number, _)| **number > 0).map(|(number, what)| format!("{} {what}", count(**number))).collect();
    format!("  {}: {}", name.as_ref().unwrap_or(source_id), said.join(", "))
}
