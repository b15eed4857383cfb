//! `tape topics`: creates the topics that are missing and checks all of them.

use super::Code;
use crate::args::Topics;
use crate::home;
use crate::say::say_line;
use crate::settings::{LogAt, Settings, WrongUse};
use anyhow::Result;
use serde_json::json;

pub fn run(args: &Topics, settings: &Settings) -> Result<Code> {
    if args.check && home::is_missing(settings) && matches!(settings.log, LogAt::Embedded { .. }) {
        return Err(WrongUse(home::missing(settings)).into());
    }
    let log = home::log(settings)?;
    let reports = if args.check { log.check_topics()? } else { log.create_topics()? };
    if settings.json {
        let topics: Vec<_> =
            reports.iter().map(|report| json!({ "name": report.name, "created": report.created, "problems": report.problems })).collect();
        say_line!("{}", json!({ "log": log.describe(), "topics": topics }));
    } else {
        say_line!("{}", log.describe());
        for report in &reports {
            let state = match (report.created, report.problems.is_empty()) {
                (_, false) => "unfit",
                (true, true) => "created",
                (false, true) => "fine",
            };
            say_line!("{:<28} {state}", report.name);
            report.problems.iter().for_each(|problem| say_line!("    {problem}"));
        }
    }
    Ok(if reports.iter().all(|report| report.problems.is_empty()) { Code::Fine } else { Code::Found })
}
