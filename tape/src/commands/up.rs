//! `tape up`: everything on one machine. Sample feeds go in, three answers come out, and it goes on as a service.

use super::{Code, ingest, sql, store};
use crate::args::Up;
use crate::say::{say, say_line};
use crate::settings::{LogAt, Settings, WrongUse};
use crate::supervisor::{NeverBegun, supervise};
use crate::tables::Queries;
use crate::{background, home, panics, signals, summary};
use ::ingest::source::Given;
use ::ingest::synthetic;
use ::store::Store;
use anyhow::{Context, Result};
use eventlog::EventLog;
use eventlog::socket::Server;
use query::Engine;
use query::output::{Format, TableStyle};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest time of a statement.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The three questions that the sample answers, with what to say above each.
const QUESTIONS: [(&str, &str); 3] = [
    ("The latest futures curve (synthetic market, SYN.*): last settlement or price per contract", include_str!("up/curve.sql")),
    (
        "Tokens per day as published by 2026-05-28, and as it stands now (axis ts_publish; SYN.USAGE is synthetic)",
        include_str!("up/usage.sql"),
    ),
    (
        "Volume-weighted average price per contract (synthetic market, from trades; SYN.XSGE publishes snapshots, no trades)",
        include_str!("up/vwap.sql"),
    ),
];

pub fn run(args: &Up, settings: &Settings) -> Result<Code> {
    let LogAt::Embedded { dir, .. } = &settings.log else {
        return Err(
            WrongUse("`tape up` runs on the embedded log: with Kafka start `tape topics`, `tape store` and `tape query`".into()).into()
        );
    };
    panics::go_to_the_log();
    let runtime = home::runtime()?;
    let stop = signals::stop_flag(&runtime)?;
    let (log, socket) = home::own_embedded(dir, settings)?;
    let listener = if args.once { None } else { Some(runtime.block_on(home::listen(&args.listen))?) };
    if !args.no_samples {
        samples(args, settings, log.as_ref(), &stop)?;
    }
    let keeper = Store::new(log.clone(), home::lake_to_write(settings)?, store::options(settings));
    runtime.block_on(async { keeper.run_once(&mut |_| {}).await.context("storing what is in the log") })?;
    if !args.no_samples && !stop.load(Ordering::Relaxed) {
        let queries = Queries::open(settings, TIMEOUT)?;
        runtime.block_on(answers(&queries.engine))?;
    }
    match listener {
        None => Ok(Code::Fine),
        Some(listener) => runtime.block_on(serve(listener, settings, keeper, socket, stop)),
    }
}

fn samples(args: &Up, settings: &Settings, log: &dyn EventLog, stop: &AtomicBool) -> Result<()> {
    let folder = settings.home.join("samples");
    home::private_folder(&folder)?;
    let feeds = synthetic::write(&folder, args.seed).with_context(|| format!("writing the sample feeds into {}", folder.display()))?;
    let began = Instant::now();
    let given = |feed: &synthetic::Feed| Given { dataset: feed.dataset.map(String::from), ..Given::default() };
    let inputs: Vec<_> = feeds.iter().flat_map(|feed| ingest::inputs(&feed.path, &given(feed))).collect();
    let bar = ingest::bar(&inputs, false);
    let reports = ingest::publish(log, inputs, &bar, stop)?;
    say_line!("Sample feeds in {}", folder.display());
    say!("{}", summary::text(&reports, began.elapsed()));
    anyhow::ensure!(summary::failed(&reports) == 0 && !summary::found_something(&reports), "the sample feeds must be without fault");
    Ok(())
}

async fn answers(engine: &Engine) -> Result<()> {
    for (title, question) in QUESTIONS {
        let style = TableStyle { timing: false, ..TableStyle::default() };
        let mut answer = Vec::new();
        let answered = sql::answer(engine, question, Format::Table, &style, &mut answer).await;
        answered.with_context(|| format!("answering: {title}"))?;
        say_line!("\n{title}\n{}", String::from_utf8_lossy(&answer).trim_end());
    }
    say_line!();
    Ok(())
}

/// The query service, kept alive on a thread of its own. Whatever happens to it, storing goes on.
fn supervised(listener: TcpListener, settings: &Settings, stop: Arc<AtomicBool>) -> Result<JoinHandle<()>> {
    let settings = settings.clone();
    let work = move || {
        if let Err(why) = supervise(listener, &settings, TIMEOUT, NeverBegun::TryAgain, &stop) {
            tracing::error!("there is no query service any more, storing goes on: {why:#}");
        }
    };
    std::thread::Builder::new().name("supervisor".into()).spawn(work).context("starting the query service")
}

/// Goes on storing and answering until it is told to stop.
async fn serve(listener: TcpListener, settings: &Settings, keeper: Store, socket: Server, stop: Arc<AtomicBool>) -> Result<Code> {
    say_line!("Up. Home {}. Ctrl-C stops it.", settings.home.display());
    say_line!("  publish  {} FILE…", settings.command("ingest"));
    say_line!("  ask      {}", settings.command("sql"));
    say_line!("  HTTP     http://{}  (/healthz, POST /v1/sql, /subjects)", listener.local_addr()?);
    let web = supervised(listener, settings, stop.clone())?;
    let upkeep = background::start(home::lake(settings)?, settings, stop.clone())?;
    let mut nothing = |_: &::store::Report| {};
    let storing = keeper.run(signals::until(stop.clone()), &mut nothing);
    let report = storing.await.context("storing");
    // A store that gave up takes the rest down with it: nothing runs on half.
    stop.store(true, Ordering::Relaxed);
    if tokio::task::spawn_blocking(|| web.join()).await.context("ending the query service")?.is_err() {
        anyhow::bail!("what keeps the query service alive ended unexpectedly: everything that was stored stays");
    }
    tokio::task::spawn_blocking(|| background::end(upkeep)).await.context("ending the upkeep")??;
    let mut report = report?;
    report.add(store::last(&keeper, socket).await?);
    say_line!("Stopped. Everything published is stored.");
    Ok(if report.is_clean() { Code::Fine } else { Code::Found })
}
