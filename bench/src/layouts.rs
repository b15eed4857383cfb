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
pub const SIZES: Sizes = Sizes { days: 5, trades_per_day: 1_000_000, quotes_per_day: 2_000_000, runs: 5 };

/// Name and layout.
fn layouts() -> Result<Vec<(&'static str, FileLayout)>> {
    let zstd = |level| -> Result<Compression> { Ok(Compression::ZSTD(ZstdLevel::try_new(level)?)) };
    let (whole, uncut) = (1 << 20, usize::MAX);
    let base = FileLayout { group_rows: whole, cut_rows: uncut, page_rows: 50_000, compression: zstd(3)?, dictionary: None };
    let (cut, small) = (FileLayout { cut_rows: 1 << 14, page_rows: 20_000, ..base }, 1 << 17);
    Ok(vec![
        ("groups 1M, pages 50k, zstd 3", base),
        ("groups 1M, pages 20k", FileLayout { page_rows: 20_000, ..base }),
        ("groups 1M, pages 8k", FileLayout { page_rows: 8_192, ..base }),
        ("groups 128k, pages 20k", FileLayout { group_rows: small, page_rows: 20_000, ..base }),
        ("cut from 1, groups 1M, pages 20k", FileLayout { cut_rows: 1, ..cut }),
        ("cut from 1, groups 128k, pages 20k", FileLayout { cut_rows: 1, group_rows: small, ..cut }),
        ("cut from 16k, groups 1M, pages 20k", cut),
        ("cut from 16k, groups 128k, pages 20k", FileLayout { group_rows: small, ..cut }),
        ("cut from 16k, groups 256k, pages 8k", FileLayout { group_rows: 1 << 18, page_rows: 8_192, ..cut }),
        ("cut from 64k, groups 256k, pages 8k", FileLayout { group_rows: 1 << 18, cut_rows: 1 << 16, page_rows: 8_192, ..cut }),
        ("cut from 16k, 128k, 20k, zstd 1", FileLayout { group_rows: small, compression: zstd(1)?, ..cut }),
        ("cut from 16k, 128k, 20k, lz4", FileLayout { group_rows: small, compression: Compression::LZ4_RAW, ..cut }),
        ("cut from 16k, 128k, 20k, always dictionaries", FileLayout { group_rows: small, dictionary: Some(true), ..cut }),
        ("cut from 16k, 128k, 20k, no dictionaries", FileLayout { group_rows: small, dictionary: Some(false), ..cut }),
    ])
}

/// A table in Markdown: a line for each layout, and what the fastest run of each query took, in milliseconds.
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
            write!(table, " {:.1} |", answer.least())?;
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
