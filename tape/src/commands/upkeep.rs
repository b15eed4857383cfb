//! `tape upkeep`: looks after every table once, now; or says what it would do.

use super::Code;
use crate::say::{say, say_line};
use crate::settings::Settings;
use crate::{args, background, home, signals};
use anyhow::Result;
use indicatif::{HumanBytes, HumanCount};
use lake::{Error, Kept, Lake, Stop, Upkeep};
use schemas::Family;
use serde_json::json;
use std::time::Duration;

const DAY: u64 = 86_400;
/// Times that a table is tried where another upkeep was first each time.
const TRIES: u32 = 10;
/// Between two of them.
const TRY_AGAIN: Duration = Duration::from_millis(500);

pub fn run(args: &args::Upkeep, settings: &Settings) -> Result<Code> {
    home::refuse_missing_tables(settings)?;
    let runtime = home::runtime()?;
    let stop = Stop::from(signals::stop_flag(&runtime)?);
    let lake = home::lake(settings)?;
    let horizon = args.horizon_days.map_or(settings.upkeep_horizon, |days| Duration::from_secs(days * DAY));
    let upkeep = Upkeep { horizon: Some(horizon), ..Upkeep::default() };
    let mut done: Vec<(Family, Kept)> = Vec::new();
    let mut failed: Vec<(Family, Error)> = Vec::new();
    for family in Family::ALL {
        if stop.is_set() {
            break;
        }
        let mut kept = Kept::default();
        let ended = match args.dry_run {
            true => runtime.block_on(background::would_keep(&lake, family, &upkeep)).map(|would| kept = would),
            false => runtime.block_on(keep(&lake, family, &upkeep, &stop, &mut kept)),
        };
        failed.extend(ended.err().map(|error| (family, error)));
        if !kept.is_nothing() {
            done.push((family, kept));
        }
    }
    if settings.json {
        let tables: serde_json::Map<_, _> = done.iter().map(|(family, kept)| (family.topic().name.to_string(), json!(kept))).collect();
        let failed: serde_json::Map<_, _> =
            failed.iter().map(|(family, error)| (family.topic().name.to_string(), json!(error.to_string()))).collect();
        let days = horizon.as_secs() / DAY;
        say_line!("{}", json!({ "dry_run": args.dry_run, "horizon_days": days, "tables": tables, "failed": failed }));
    } else {
        say!("{}", text(&done, args.dry_run, horizon));
        failed.iter().for_each(|(_, error)| eprintln!("{error}"));
    }
    anyhow::ensure!(failed.is_empty(), "{} of the tables could not be looked after; the others were", failed.len());
    Ok(Code::Fine)
}

/// Looks after a table. Where another upkeep was first it tries again: what that one left is still to be done, and it may not be there the next time.
async fn keep(lake: &Lake, family: Family, upkeep: &Upkeep, stop: &Stop, kept: &mut Kept) -> Result<(), Error> {
    for _ in 1..TRIES {
        match background::keep(lake, family, upkeep, stop, kept).await {
            Err(error @ (Error::Fenced { .. } | Error::Moved { .. })) if !stop.is_set() => {
                tracing::info!(table = family.topic().name, %error, "another upkeep was first: trying again");
                tokio::time::sleep(TRY_AGAIN).await;
            }
            ended => return ended,
        }
    }
    background::keep(lake, family, upkeep, stop, kept).await
}

fn text(done: &[(Family, Kept)], dry_run: bool, horizon: Duration) -> String {
    if done.is_empty() {
        return "every day of every table has few files or large ones, and nothing is older than the audit horizon: nothing to do\n".into();
    }
    let days = horizon.as_secs() / DAY;
    let mut lines = vec![match dry_run {
        true => format!("would be done, with an audit horizon of {days} days; nothing was changed:"),
        false => format!("done, with an audit horizon of {days} days:"),
    }];
    for (family, kept) in done {
        let (merged, removed, name) = (&kept.merged, &kept.removed, family.topic().name);
        if merged.commits > 0 {
            let after = if dry_run { String::new() } else { format!(" → {}", HumanBytes(merged.bytes_after)) };
            let rows = HumanCount(merged.rows);
            let (before, count) = (HumanBytes(merged.bytes_before), merged.files_after);
            lines.push(format!("{name:<14} merged   {} files → {count}, {rows} rows, {before}{after}", merged.files_before));
        }
        if kept.checkpoint {
            lines.push(format!("{name:<14} checkpoint"));
        }
        if !removed.is_nothing() {
            lines.push(format!(
                "{name:<14} removed  {} files ({}), {} log entries (archived), {} checkpoints",
                removed.files,
                HumanBytes(removed.bytes),
                removed.entries,
                removed.checkpoints
            ));
        }
    }
    lines.join("\n") + "\n"
}
