//! What `tape up` and `tape query` serve: health, the schema routes, SQL. No authentication: for loopback or a private network.

use crate::commands::sql::answer;
use crate::registry;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use query::Engine;
use query::output::{Format, TableStyle};
use std::sync::Arc;

/// Longest statement in bytes: what a worker's stack is sure to hold when it is one long chain of operators.
const STATEMENT_BYTES_MAX: usize = 16 << 10;

/// The routes: `GET /healthz`, `POST /v1/sql` (the statement as the body, the result as `Accept` asks), and the schema registry's.
pub fn routes(engine: Arc<Engine>, prefix: &str) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/v1/sql", post(sql))
        .layer(axum::extract::DefaultBodyLimit::max(STATEMENT_BYTES_MAX))
        .with_state(engine)
        .merge(registry::routes(prefix))
}

async fn sql(State(engine): State<Arc<Engine>>, headers: HeaderMap, statement: String) -> Response {
    let accept = headers.get("accept").and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    let (format, media_type) = match accept {
        "text/csv" => (Format::Csv, "text/csv"),
        "text/plain" => (Format::Table, "text/plain; charset=utf-8"),
        "application/vnd.apache.arrow.stream" => (Format::Arrow, "application/vnd.apache.arrow.stream"),
        _ => (Format::Json, "application/json"),
    };
    match answer(&engine, &statement, format, &TableStyle { timing: false, ..TableStyle::default() }).await {
        Ok(bytes) => ([("content-type", media_type)], bytes).into_response(),
        Err(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    }
}
