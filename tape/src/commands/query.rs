//! `tape query`: SQL over HTTP on one address, with health and the schema routes.

use super::Code;
use crate::args::Query;
use crate::serve::serve;
use crate::settings::Settings;
use crate::tables::Queries;
use crate::{home, http, panics, signals};
use anyhow::{Context, Result};
use std::time::Duration;

pub fn run(args: &Query, settings: &Settings) -> Result<Code> {
    home::refuse_missing_tables(settings)?;
    panics::go_to_the_log();
    let runtime = home::runtime()?;
    let stop = signals::stop_flag(&runtime)?;
    let queries = Queries::open(settings, Duration::from_secs(args.timeout))?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(&args.listen).await.with_context(|| format!("listening on {}", args.listen))?;
        eprintln!("answering SQL on http://{}/v1/sql over {}; Ctrl-C stops it", listener.local_addr()?, settings.tables);
        serve(listener, http::routes(queries.engine.clone(), &settings.prefix), signals::until(stop)).await;
        Ok(Code::Fine)
    })
}
