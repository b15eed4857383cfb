//! The same days in other layouts of our files: how large they are, and what the queries take over each.

use crate::queries::{Asked, Market, Sizes, ask, days, questions, runtime};
use anyhow::{Context, Result};
use lake::{FileLayout, Lake};
use parquet::basic::{Compression, ZstdLevel};
use schemas::Family;
use serde_json::Map;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Fewer days than the queries are measured over: they are written in every layout.
pub const SIZES: Sizes = Sizes { days: 3, trades_per_day: 1_000_000, quotes_per_day: 2_000_000, runs: 5 };

/// Name and layout.
fn layouts() -> Result<Vec<(&'static str, FileLayout)>> {
    let zstd = |level| -> Result<Compression> { Ok(Compression::ZSTD(ZstdLevel::try_new(level)?)) };
    let layout = |cut_rows, group_rows, page_rows| -> Result<FileLayout> {
        Ok(FileLayout { group_rows, cut_rows, page_rows, compression: zstd(3)?, dictionary: None })
    };
    let (never, whole, quarter) = (usize::MAX, 1 << 20, 1 << 18);
    let base = layout(1 << 16, quarter, 20_000)?;
    Ok(vec![
        ("groups of 1M, pages of 50k", layout(never, whole, 50_000)?),
        ("groups of 1M, pages of 20k", layout(never, whole, 20_000)?),
        ("groups of 128k, pages of 20k", layout(never, 1 << 17, 20_000)?),
        ("cut from 1, groups of 256k, pages of 20k", layout(1, quarter, 20_000)?),
        ("cut from 16k", layout(1 << 14, quarter, 20_000)?),
        ("cut from 32k", layout(1 << 15, quarter, 20_000)?),
        ("cut from 64k", base),
        ("cut from 64k, pages of 50k", layout(1 << 16, quarter, 50_000)?),
        ("cut from 64k, pages of 8k", layout(1 << 16, quarter, 8_192)?),
        ("cut from 64k, zstd 1", FileLayout { compression: zstd(1)?, ..base }),
        ("cut from 64k, lz4", FileLayout { compression: Compression::LZ4_RAW, ..base }),
        ("cut from 64k, dictionaries wherever there may be", FileLayout { dictionary: Some(true), ..base }),
        ("cut from 64k, no dictionaries of numbers", FileLayout { dictionary: Some(false), ..base }),
    ])
}

/// A table in Markdown: a line for each layout, and the mean CPU time of each query's runs, in milliseconds.
pub fn measure(place: &Path, sizes: Sizes) -> Result<String> {
    let home = tempfile::tempdir_in(place)?;
    let layouts = layouts()?;
    let runtime = runtime()?;
    let folder = |number: usize| -> PathBuf { home.path().join(format!("layout-{number}")) };
    let bytes = runtime.block_on(write(&layouts, folder, sizes))?;
    let Asked { day, symbol, from, to } = Asked::of(sizes);
    let questions = questions(day, &symbol, from, to);
    let mut table = String::from("| layout | trades, quotes MB |");
    questions.iter().for_each(|question| table.extend([" ", question.name, " |"]));
    table.push_str("\n|---|---|");
    table.push_str(&"---|".repeat(questions.len()));
    for (number, (name, _)) in layouts.iter().enumerate() {
        let [trades, quotes] = bytes[number].map(|bytes| bytes as f64 / 1e6);
        write!(table, "\n| {name} | {trades:.1}, {quotes:.1} |")?;
        for answer in runtime.block_on(ask(&folder(number), home.path(), &questions, sizes.runs)).context(*name)? {
            write!(table, " {:.1} |", answer.cpu)?;
        }
    }
    table.push('\n');
    Ok(table)
}

/// Every day in every layout; gives the bytes of trades and of quotes.
async fn write(layouts: &[(&str, FileLayout)], folder: impl Fn(usize) -> PathBuf, sizes: Sizes) -> Result<Vec<[u64; 2]>> {
    let mut bytes = vec![[0; 2]; layouts.len()];
    for (of, family, per_day) in [(0, Family::Trades, sizes.trades_per_day), (1, Family::Quotes, sizes.quotes_per_day)] {
        let mut market = Market::new(family);
        for day in days(sizes) {
            let batch = market.day(day, per_day)?;
            for (number, (_, layout)) in layouts.iter().enumerate() {
                let lake = Lake::open(folder(number).to_str().context("the temporary folder has a plain name")?)?.laid_out(*layout);
                bytes[number][of] += lake.table(family).await?.commit(std::slice::from_ref(&batch), &[], Map::new()).await?.bytes;
            }
        }
    }
    Ok(bytes)
}
