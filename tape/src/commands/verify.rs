//! `tape verify`: is the archive complete and unaltered? From the tables alone.

use super::Code;
use crate::home;
use crate::say::{say, say_line};
use crate::settings::Settings;
use anyhow::Result;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use serde_json::json;
use store::verify::{Finding, Verified};

/// Findings that are printed one by one; --json has all.
const SHOWN_MAX: usize = 50;

pub fn run(settings: &Settings) -> Result<Code> {
    let lake = home::lake(settings)?;
    let bar = match settings.json {
        true => ProgressBar::hidden(),
        false => ProgressBar::no_length()
            .with_style(ProgressStyle::with_template("{spinner} {human_pos} rows  {per_sec}").expect("the template is well formed")),
    };
    let verified = home::runtime()?.block_on(store::verify::verify(&lake, &mut |rows| bar.inc(rows)))?;
    bar.finish_and_clear();
    let whole = verified.findings.is_empty();
    if settings.json {
        say_line!("{}", json!({ "whole": whole, "tables": verified.tables, "findings": verified.findings }));
    } else {
        say!("{}", text(&verified, settings));
    }
    Ok(if whole { Code::Fine } else { Code::Found })
}

fn text(verified: &Verified, settings: &Settings) -> String {
    let mut lines = vec![format!("{:<14} {:>8} {:>8} {:>8} {:>10} {:>14}", "table", "version", "files", "commits", "intervals", "rows")];
    lines.extend(verified.tables.iter().map(|(name, looked)| {
        let rows = HumanCount(looked.rows).to_string();
        format!("{name:<14} {:>8} {:>8} {:>8} {:>10} {rows:>14}", looked.version, looked.files, looked.commits, looked.intervals)
    }));
    lines.push(match verified.findings.len() {
        0 if verified.tables.is_empty() => format!("there are no tables in {}", settings.tables),
        0 => "every interval of every commit is there, once, as it was stored".to_string(),
        count => format!("{count} findings:"),
    });
    lines.extend(verified.findings.iter().take(SHOWN_MAX).map(line));
    if verified.findings.len() > SHOWN_MAX {
        lines.push(format!("  … {} more; --json has all", verified.findings.len() - SHOWN_MAX));
    }
    lines.join("\n") + "\n"
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
