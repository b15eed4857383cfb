//! What the views of SQL show: commits from the tables' own logs, lag from the event log, each when a statement names it.

use crate::home;
use crate::settings::Settings;
use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use lake::Lake;
use query::{Asked, Asker, Cell};
use schemas::Family;
use std::sync::Arc;
use store::commits::{Commit, Interval, Noted};
use store::lag::Lag;

/// Nanoseconds in the millisecond that commits and brokers count.
const NS_PER_MS: i64 = 1_000_000;
/// Digits of a schema's SHA-256 that a commit's row shows.
const SHA_DIGITS: usize = 16;

/// Versions whose rows are given at a time.
const COMMITS_AT_ONCE: usize = 1024;

type Told = BoxFuture<'static, Result<(), Box<dyn std::error::Error + Send + Sync>>>;
type Row = Vec<Cell>;

/// Over the tables and the log of the settings.
pub fn asked(settings: &Settings, lake: Lake) -> Asked {
    let of_commits = |of: &'static [Family], rows: fn(&Commit) -> Vec<Row>| {
        let lake = lake.clone();
        Arc::new(move |asker: Asker| -> Told {
            let lake = lake.clone();
            async move { tell_commits(&lake, of, rows, &asker).await.map_err(Into::into) }.boxed()
        })
    };
    let (settings, tables) = (settings.clone(), lake.clone());
    let lag = Arc::new(move |asker: Asker| -> Told {
        let (settings, lake) = (settings.clone(), tables.clone());
        async move {
            asker.take(lags(settings, lake).await.map_err(|why| format!("{why:#}"))?).await;
            Ok(())
        }
        .boxed()
    });
    Asked {
        commits: of_commits(&Family::ALL, |commit| vec![commit_row(commit)]),
        intervals: of_commits(&Family::ALL, interval_rows),
        lag,
        noted: of_commits(&[Family::Gaps], noted_rows),
    }
}

/// The rows of all commits of these tables, table by table, the oldest first.
async fn tell_commits(lake: &Lake, of: &[Family], rows: fn(&Commit) -> Vec<Row>, asker: &Asker) -> Result<(), store::Error> {
    for family in lake.tables().await?.into_iter().filter(|family| of.contains(family)) {
        let Some(table) = lake.find(family).await? else { continue };
        let mut commits = store::commits::of(&table);
        let mut told: Vec<Row> = Vec::new();
        while let Some(commit) = commits.next().await? {
            told.extend(rows(&commit));
            if told.len() >= COMMITS_AT_ONCE && !asker.take(std::mem::take(&mut told)).await {
                return Ok(());
            }
        }
        if !told.is_empty() && !asker.take(told).await {
            return Ok(());
        }
    }
    Ok(())
}

async fn lags(settings: Settings, lake: Lake) -> anyhow::Result<Vec<Row>> {
    let opened = tokio::task::spawn_blocking(move || home::existing_log(&settings));
    let log = opened.await.context("opening the log")??;
    let lags = store::lag::lag(&log, &lake).await?;
    // The last holder of an embedded log closes it, which waits for its disk.
    tokio::task::spawn_blocking(move || drop(log)).await.context("closing the log")?;
    Ok(lags.iter().map(lag_row).collect())
}

fn text(text: &str) -> Cell {
    Cell::Text(text.to_string())
}

fn number(number: u64) -> Cell {
    Cell::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

fn time(ms: Option<i64>) -> Cell {
    ms.and_then(|ms| ms.checked_mul(NS_PER_MS)).into()
}

/// In the order of `schemas::about`.
fn commit_row(commit: &Commit) -> Row {
    let entry = &commit.entry;
    let stored = commit.stored.as_ref();
    let said = |of: fn(&store::commits::Stored) -> &String| Cell::from(stored.map(|stored| of(stored).clone()));
    let intervals = commit.own().map_or(&[][..], |stored| &stored.intervals);
    let sum = |of: fn(&Interval) -> u64| number(intervals.iter().map(of).sum());
    let offsets = intervals.iter().map(|part| format!("{}: {}", part.partition, range(part.from + 1, part.to)));
    let schemas = stored.map(|stored| stored.schemas.iter().map(schema).collect::<Vec<_>>().join(", "));
    vec![
        text(commit.table),
        number(entry.version),
        time(entry.committed_at_ms()),
        text(entry.operation()),
        said(|stored| &stored.writer),
        said(|stored| &stored.cluster),
        said(|stored| &stored.topic),
        said(|stored| &stored.topic_id),
        some_text(offsets.collect::<Vec<_>>().join(", ")),
        sum(|part| part.records),
        sum(|part| part.quarantined),
        sum(Interval::absent_offsets),
        schemas.map_or(Cell::Null, some_text),
        entry.added.rows.map_or(Cell::Null, number),
        number(entry.added.files),
        number(entry.added.bytes),
        number(entry.removed.files),
        number(entry.removed.bytes),
    ]
}

/// In the order of `schemas::about`.
fn interval_rows(commit: &Commit) -> Vec<Row> {
    let Some(stored) = commit.own() else { return Vec::new() };
    let row = |part: &Interval| {
        let absent = part.absent.iter().map(|(first, last, why)| format!("{} {why}", range(*first, *last)));
        vec![
            text(commit.table),
            number(commit.entry.version),
            time(commit.entry.committed_at_ms()),
            text(&stored.topic),
            text(&stored.topic_id),
            Cell::Int(part.partition.into()),
            Cell::Int(part.from + 1),
            Cell::Int(part.to),
            number(part.records),
            number(part.quarantined),
            number(part.absent_offsets()),
            some_text(absent.collect::<Vec<_>>().join(", ")),
            part.root.clone().into(),
        ]
    };
    stored.intervals.iter().map(row).collect()
}

/// In the order of `schemas::about::NOTED`.
fn noted_rows(commit: &Commit) -> Vec<Row> {
    let row = |note: Noted| vec![Cell::Text(note.topic), Cell::Int(note.partition.into()), Cell::Int(note.last), time(note.at_ms)];
    store::commits::noted(commit).into_iter().map(row).collect()
}

fn lag_row(lag: &Lag) -> Row {
    vec![
        text(lag.table),
        text(&lag.topic),
        text(&lag.topic_id),
        Cell::Int(lag.partition.into()),
        Cell::Int(lag.stored),
        Cell::Int(lag.begin),
        Cell::Int(lag.end),
        Cell::Int(lag.behind()),
        Cell::Int(lag.lost()),
        time(lag.last_ts_ms),
        time(lag.waiting_ts_ms),
        number(lag.held.map_or(0, |held| held.offsets())),
        time(lag.held.and_then(|held| held.since_ms)),
    ]
}

/// Nothing to say is NULL.
fn some_text(text: String) -> Cell {
    if text.is_empty() { Cell::Null } else { Cell::Text(text) }
}

fn range(first: i64, last: i64) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// `1002 a0b1…`.
fn schema(said: &serde_json::Value) -> String {
    let sha256: String = said["sha256"].as_str().unwrap_or("unknown").chars().take(SHA_DIGITS).collect();
    format!("{} {sha256}", said["id"])
}
