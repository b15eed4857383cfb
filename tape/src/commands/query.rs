//! `tape query`: SQL over HTTP on one address, with health and the schema routes, by a process of its own that is kept alive.

use super::Code;
use crate::args::Query;
use crate::settings::Settings;
use crate::supervisor::{NeverBegun, supervise};
use crate::{home, signals};
use anyhow::Result;
use std::time::Duration;

pub fn run(args: &Query, settings: &Settings) -> Result<Code> {
    home::refuse_missing_tables(settings)?;
    let runtime = home::runtime()?;
    let stop = signals::stop_flag(&runtime)?;
    let listener = runtime.block_on(home::listen(&args.listen))?;
    eprintln!("answering SQL on http://{}/v1/sql over {}; Ctrl-C stops it", listener.local_addr()?, settings.tables);
    match supervise(listener, settings, Duration::from_secs(args.timeout), NeverBegun::End, &stop)? {
        None => Ok(Code::Fine),
        // It has said why.
        Some(code) => Ok(Code::of_child(code)),
    }
}
