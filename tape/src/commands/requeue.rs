//! `tape requeue`: what stands in quarantine and can be decoded now is published again.

use super::Code;
use crate::args;
use crate::home;
use crate::say::{say, say_line};
use crate::settings::{Settings, WrongUse};
use anyhow::Result;
use eventlog::EventLog;
use indicatif::HumanCount;
use lake::Lake;
use schemas::Family;
use serde_json::json;
use std::sync::Arc;
use store::requeue::{BadSource, Options, Requeued, Settled, requeue, settle};

/// Sources, and reasons, that are printed one by one; --json has all.
const SHOWN_MAX: usize = 20;

pub fn run(args: &args::Requeue, settings: &Settings) -> Result<Code> {
    home::refuse_missing_tables(settings)?;
    let table = match &args.table {
        None => None,
        Some(name) => Some(Family::named(name).ok_or_else(|| WrongUse(format!("there is no table {name}: `tape schema` lists them")))?),
    };
    let log = home::existing_log(settings)?;
    home::refuse_unfit_topics(log.as_ref())?;
    let lake = home::lake(settings)?;
    if let (Some(source), Some(why)) = (&args.settle, &args.why) {
        return settle_source(source, why, args.dry_run, &log, &lake, settings);
    }
    let options = Options { table, reason: args.reason.clone(), dry_run: args.dry_run };
    let requeued = home::runtime()?.block_on(requeue(&log, &lake, &options))?;
    if settings.json {
        let Requeued { looked, published, already, still_bad, sources } = &requeued;
        say_line!(
            "{}",
            json!({
                "dry_run": args.dry_run, "looked": looked, "published": published, "already": already,
                "still_bad": still_bad, "sources": sources,
            })
        );
    } else {
        say!("{}", text(&requeued, args.dry_run, settings));
    }
    Ok(if requeued.is_clean() { Code::Fine } else { Code::Found })
}

fn settle_source(source: &str, why: &str, dry_run: bool, log: &Arc<dyn EventLog>, lake: &Lake, settings: &Settings) -> Result<Code> {
    let id = hex::decode(source).ok().and_then(|id| <[u8; 16]>::try_from(id).ok());
    let id =
        id.ok_or_else(|| WrongUse(format!("--settle {source}: write a source_id, 32 hex digits; `tape requeue --dry-run` shows them")))?;
    if why.trim().is_empty() {
        return Err(WrongUse("--why is empty: say what became of the records".into()).into());
    }
    let done = home::runtime()?.block_on(settle(log, lake, &id, why.trim(), dry_run))?;
    if done == Settled::default() {
        return Err(WrongUse(format!(
            "no record of source {source} stands in quarantine: `tape requeue --dry-run` shows the sources of which there are"
        ))
        .into());
    }
    if settings.json {
        say_line!("{}", json!({ "dry_run": dry_run, "settled": done.settled, "already": done.already }));
    } else {
        let word = if dry_run { "would be settled" } else { "settled" };
        say_line!("{} {word}, {} settled before", records_of(done.settled), records_of(done.already));
        if done.settled > 0 && !dry_run {
            say_line!("to store it, where no tape store runs: {}", settings.command("store --once"));
        }
    }
    Ok(Code::Fine)
}

fn text(requeued: &Requeued, dry_run: bool, settings: &Settings) -> String {
    if requeued.looked == 0 {
        return "nothing of this stands in quarantine\n".into();
    }
    let mut lines = Vec::new();
    let done = if dry_run { "would be published again" } else { "published again" };
    for (table, records) in &requeued.published {
        lines.push(format!("{} {done} to {table}", records_of(*records)));
    }
    if requeued.published.is_empty() {
        lines.push(format!("nothing {done}"));
    }
    if requeued.already > 0 {
        lines.push(format!("{} published again before", records_of(requeued.already)));
    }
    let still_bad = requeued.still_bad.iter().flat_map(|(table, reasons)| reasons.iter().map(move |(why, count)| (table, why, count)));
    let still_bad: Vec<_> = still_bad.collect();
    for (table, why, count) in still_bad.iter().take(SHOWN_MAX) {
        lines.push(format!("{} of {table} cannot be decoded: {why}", records_of(**count)));
    }
    lines.extend(more(still_bad.len()));
    if !requeued.published.is_empty() && !dry_run {
        lines.push(format!("to store it, where no tape store runs: {}", settings.command("store --once")));
    }
    if !requeued.sources.is_empty() {
        lines.push("\nwhat ingest could not read has no frame that could be published:".into());
        lines.extend(requeued.sources.iter().take(SHOWN_MAX).flat_map(source));
        lines.extend(more(requeued.sources.len()));
        lines.push(format!(
            "to bring these in, write the corrected records, with the file's header line, to a file of their own: {}",
            settings.command("ingest FILE")
        ));
        lines.push("the corrected file as a whole is another source: its good records would be there twice".into());
        lines.push(format!(
            "once that is done, or nothing is to be done: {}",
            settings.command("requeue --settle SOURCE --why 'what became of them'")
        ));
    }
    lines.join("\n") + "\n"
}

fn records_of(count: u64) -> String {
    format!("{} record{}", HumanCount(count), if count == 1 { "" } else { "s" })
}

fn more(all: usize) -> Option<String> {
    (all > SHOWN_MAX).then(|| format!("  … {} more; --json has all", all - SHOWN_MAX))
}

/// A source, and below it its reasons, the most frequent first.
fn source(source: &BadSource) -> Vec<String> {
    let BadSource { source_id, name, reasons, records } = source;
    let count: u64 = reasons.values().sum();
    let numbers: Vec<String> = records.iter().map(i64::to_string).collect();
    let dots = if count > records.len() as u64 { " …" } else { "" };
    let called = name.as_ref().map_or(String::new(), |name| format!(" ({name})"));
    let mut reasons: Vec<_> = reasons.iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let mut lines = vec![format!("  {source_id}{called}: {} (number {}{dots})", records_of(count), numbers.join(", "))];
    lines.extend(reasons.iter().take(SHOWN_MAX).map(|(why, count)| format!("    {} × {why}", HumanCount(**count))));
    lines.extend(more(reasons.len()).map(|more| format!("  {more}")));
    lines
}
