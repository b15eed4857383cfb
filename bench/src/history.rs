//! One symbol of one day, asked for in a short history and in one ten times as long.

use crate::queries::{Answer, Asked, Market, Sizes, ask, days, questions, runtime};
use crate::report::Row;
use anyhow::{Context, Result};
use lake::Lake;
use schemas::Family;
use serde_json::Map;
use std::path::Path;

/// The short one; its trades of a day are fewer than the queries are measured over, so that ten times its days are written in a minute.
pub const SIZES: Sizes = Sizes { days: 20, trades_per_day: 100_000, quotes_per_day: 0, runs: 5 };
const TIMES_LONGER: i32 = 10;
/// By how much the longer one may take longer.
const RATIO_MAX: f64 = 1.2;

pub fn measure(place: &Path, short: Sizes) -> Result<Row> {
    let home = tempfile::tempdir_in(place)?;
    let runtime = runtime()?;
    let Asked { day, symbol, from, to } = Asked::of(short);
    let mut questions = questions(day, &symbol, from, to);
    questions.truncate(1);
    let long = Sizes { days: short.days * TIMES_LONGER, ..short };
    let took = |sizes: Sizes| -> Result<Answer> {
        let tables = home.path().join(format!("{} days", sizes.days));
        runtime.block_on(write(&tables, sizes))?;
        runtime.block_on(ask(&tables, home.path(), &questions, sizes.runs))?.pop().context("an answer")
    };
    let (short_took, long_took) = (took(short)?, took(long)?);
    let ratio = long_took.ms / short_took.ms;
    Ok(Row {
        what: format!("{}, in {} days of {} trades", questions[0].name, long.days, long.trades_per_day),
        figure: format!("{:.2} ms", long_took.ms),
        yardstick: format!("{:.2} ms (in {} days)", short_took.ms, short.days),
        ratio: Some(ratio),
        reach: format!("≤ {RATIO_MAX}"),
        met: ratio <= RATIO_MAX,
        runs: short_took.all.iter().zip(&long_took.all).map(|(short, long)| (short / 1e3, long / 1e3)).collect(),
        cpu: None,
    })
}

/// A file for each day, as upkeep leaves them.
async fn write(tables: &Path, sizes: Sizes) -> Result<()> {
    let lake = Lake::open(tables.to_str().context("the temporary folder has a plain name")?)?;
    let mut table = lake.table(Family::Trades).await?;
    let mut market = Market::new(Family::Trades);
    for day in days(sizes) {
        table.commit(&[market.day(day, sizes.trades_per_day)?], &[], Map::new()).await?;
    }
    Ok(())
}
