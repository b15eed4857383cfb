//! `tape upkeep`: many small files to few large ones, table by table.

use super::Code;
use crate::say::{say, say_line};
use crate::settings::Settings;
use crate::{home, signals};
use anyhow::Result;
use indicatif::{HumanBytes, HumanCount};
use lake::{Compacted, Compaction};
use schemas::Family;
use serde_json::json;
use std::sync::atomic::Ordering;

pub fn run(settings: &Settings) -> Result<Code> {
    let runtime = home::runtime()?;
    let stop = signals::stop_flag(&runtime)?;
    let lake = home::lake(settings)?;
    let mut done: Vec<(Family, Compacted)> = Vec::new();
    for family in Family::ALL {
        let Some(mut table) = runtime.block_on(lake.existing(family))? else { continue };
        let compacted = runtime.block_on(table.compact(&Compaction::default(), &|| stop.load(Ordering::Relaxed)))?;
        if compacted.commits > 0 {
            runtime.block_on(table.checkpoint())?;
            done.push((family, compacted));
        }
    }
    if settings.json {
        let tables: serde_json::Map<_, _> = done.iter().map(|(family, done)| (family.topic().name.to_string(), json!(done))).collect();
        say_line!("{}", json!({ "tables": tables }));
    } else {
        say!("{}", text(&done));
    }
    Ok(Code::Fine)
}

fn text(done: &[(Family, Compacted)]) -> String {
    let line = |(family, done): &(Family, Compacted)| {
        format!(
            "{:<14} {:>6} files → {:<6} {:>14} rows  {} → {}\n",
            family.topic().name,
            done.files_before,
            done.files_after,
            HumanCount(done.rows).to_string(),
            HumanBytes(done.bytes_before),
            HumanBytes(done.bytes_after),
        )
    };
    match done.is_empty() {
        true => "every day of every table has few files or large ones: nothing to do\n".into(),
        false => done.iter().map(line).collect(),
    }
}
