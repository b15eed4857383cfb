//! `tape store`: what is in the log becomes Delta tables, once to its end or as a service.

use super::Code;
use crate::args;
use crate::say::{say, say_line};
use crate::settings::{LogAt, Settings, WrongUse};
use crate::{background, held, home, seat, signals, summary};
use anyhow::{Context, Result};
use eventlog::EventLog;
use eventlog::socket::Server;
use indicatif::{HumanBytes, HumanCount, ProgressBar};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;
use store::{Options, Report, Store};

pub fn run(args: &args::Store, settings: &Settings) -> Result<Code> {
    // Ingest and up make homes. Without one an embedded log holds nothing to store, and the name is most likely a slip.
    if matches!(settings.log, LogAt::Embedded { .. }) && home::is_missing(settings) {
        return Err(WrongUse(home::missing(settings)).into());
    }
    let runtime = home::runtime()?;
    let stop = signals::stop_flag(&runtime)?;
    // A store of an embedded log owns the home, so that there is one; the service lets the other commands through its socket.
    let (log, server): (Arc<dyn EventLog>, _) = match &settings.log {
        LogAt::Embedded { dir, .. } if args.once => (home::own_embedded_alone(dir, settings)?, None),
        LogAt::Embedded { dir, .. } => {
            let (log, server) = home::own_embedded(dir, settings)?;
            (log, Some(server))
        }
        LogAt::Kafka { .. } => (home::log(settings)?, None),
    };
    home::refuse_unfit_topics(log.as_ref())?;
    // On Kafka several stores share the partitions. One that runs once takes all of them, so that it can say when all is stored.
    let seat = match &settings.log {
        LogAt::Kafka { .. } if !args.once => Some(seat::take(&settings.home)?),
        LogAt::Kafka { .. } | LogAt::Embedded { .. } => None,
    };
    let member = seat.as_ref().map(|seat| seat.name.clone());
    let store = Store::new(log.clone(), home::lake_to_write(settings)?, Options { member, ..options(settings) });
    let bar = bar(settings.json, args.once);
    let mut partitions = None;
    let mut bad = 0;
    let mut progress = |report: &Report| {
        let now = report.quarantined_total();
        if now > bad && !args.once {
            bar.suspend(|| {
                eprintln!(
                    "quarantined: {} records so far, {} of them new; table quarantine has them",
                    HumanCount(now),
                    HumanCount(now - bad)
                )
            });
            bad = now;
        }
        if report.partitions != partitions {
            partitions = report.partitions;
            partitions.iter().for_each(|(mine, all)| bar.suspend(|| eprintln!("this store has {mine} of {all} partitions")));
        }
        show(&bar, report);
    };
    let mut report = if args.once {
        runtime.block_on(store.run_once(&mut progress))?
    } else {
        eprintln!("storing into {}; Ctrl-C stops it", settings.tables);
        let upkeep = background::start(home::lake(settings)?, settings, stop.clone())?;
        let watch = background::watch_held(log.clone(), settings, stop.clone())?;
        let stored = runtime.block_on(store.run(signals::until(stop.clone()), &mut progress));
        // It ends with the store, whatever ended that.
        stop.store(true, Ordering::Relaxed);
        background::end(upkeep)?;
        background::end(watch)?;
        stored?
    };
    // A service tells of it while it runs; one that ends says what it could not store.
    let held = if args.once { log.held() } else { Ok(Vec::new()) };
    drop(log);
    if let Some(server) = server {
        report.add(runtime.block_on(last(&store, server))?);
    }
    bar.finish_and_clear();
    if settings.json {
        let mut told = json(&report);
        told["held"] = held.iter().flatten().map(|held| held::json(held, settings)).collect();
        say_line!("{told}");
    } else {
        say!("{}", text(&report));
        held.iter().flatten().for_each(|one| say_line!("waiting: {}", held::line(one, settings, SystemTime::now())));
    }
    let held = held.context("what could be read is stored, but it is not known whether an open transaction holds more back")?;
    let old = held.iter().find(|held| held::is_old(held, SystemTime::now()));
    if let Some(old) = old {
        eprintln!("{}", held::advice(old, settings));
    }
    Ok(if report.is_clean() && old.is_none() { Code::Fine } else { Code::Found })
}

/// The end of an owner of an embedded log: from now on nobody publishes through it, and what was published is stored.
pub async fn last(store: &Store, server: Server) -> Result<Report> {
    tokio::task::spawn_blocking(move || server.stop()).await.context("closing the socket")?;
    store.run_once(&mut |_| {}).await.context("storing what was published before the end")
}

/// The store's options with what the settings say.
pub fn options(settings: &Settings) -> Options {
    let mut options = Options::default();
    if let Some(rows_max) = settings.store_rows_max {
        options.limits.rows_max = rows_max;
    }
    if let Some(age_max) = settings.store_age_max {
        options.limits.age_max = Some(age_max);
    }
    options
}

/// Only a run to the end of the log knows how much there is to do.
fn bar(quiet: bool, once: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let template = match once {
        true => "{bar:24.cyan} {human_pos}/{human_len} records  {msg}  {rate}, {elapsed}",
        false => "{spinner} {human_pos} records  {msg}  {elapsed}",
    };
    ProgressBar::new(0).with_style(summary::style(template))
}

fn show(bar: &ProgressBar, report: &Report) {
    bar.set_length(report.to_read);
    bar.set_position(report.read.min(report.to_read));
    bar.set_message(format!("{} commits", report.commits));
}

fn text(report: &Report) -> String {
    let mut lines: Vec<String> =
        report.rows.iter().map(|(family, rows)| format!("{:<14} {:>14}", family.topic().name, HumanCount(*rows).to_string())).collect();
    lines.push(format!(
        "{} rows in {} commits, {} files, {}",
        HumanCount(report.rows_total()),
        report.commits,
        report.files,
        HumanBytes(report.bytes)
    ));
    lines.extend(
        report.quarantined.iter().map(|((family, reason), count)| format!("quarantined: {count} of {}: {reason}", family.topic().name)),
    );
    if report.fenced > 0 {
        lines.push(format!("fenced: {} times another store was first; what it stored was not stored again", report.fenced));
    }
    if report.taken > 0 {
        lines.push(format!("taken: {} times its partitions were taken, because the group had not heard of it for too long", report.taken));
    }
    if report.lost > 0 {
        lines.push(format!("lost: {} offsets were gone from the log before they were stored; see table gaps", report.lost));
    }
    lines.join("\n") + "\n"
}

fn json(report: &Report) -> serde_json::Value {
    let rows: serde_json::Map<_, _> = report.rows.iter().map(|(family, rows)| (family.topic().name.to_string(), json!(rows))).collect();
    let quarantined: Vec<_> = report
        .quarantined
        .iter()
        .map(|((family, reason), count)| json!({ "table": family.topic().name, "reason": reason, "records": count }))
        .collect();
    json!({
        "rows": rows,
        "commits": report.commits,
        "files": report.files,
        "bytes": report.bytes,
        "quarantined": quarantined,
        "lost": report.lost,
        "skipped": report.skipped,
        "retries": report.retries,
        "fenced": report.fenced,
        "taken": report.taken,
        "rebalances": report.rebalances,
    })
}
