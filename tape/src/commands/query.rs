//! `tape query`: SQL over HTTP on one address, with health and the schema routes.

use super::{Code, store};
use crate::args::Query;
use crate::settings::Settings;
use crate::{home, http, panics, signals, tables};
use anyhow::{Context, Result};
use std::sync::Arc;
use std::time::Duration;

pub fn run(args: &Query, settings: &Settings) -> Result<Code> {
    panics::go_to_the_log();
    let runtime = home::runtime()?;
    let stop = signals::stop_flag(&runtime)?;
    runtime.block_on(async {
        let engine = Arc::new(tables::engine(settings, Duration::from_secs(args.timeout)).await?);
        let listener = tokio::net::TcpListener::bind(&args.listen).await.with_context(|| format!("listening on {}", args.listen))?;
        eprintln!("answering SQL on http://{}/v1/sql over {}; Ctrl-C stops it", listener.local_addr()?, settings.tables);
        axum::serve(listener, http::routes(engine, &settings.prefix))
            .with_graceful_shutdown(store::until(stop))
            .await
            .context("serving HTTP")
    })?;
    Ok(Code::Fine)
}
