//! What `tape up` and `tape query` serve: health, the tables, the schema routes, SQL. No authentication: for loopback or a private network.

use crate::accept::preferred;
use crate::problem::problem;
use crate::registry;
use crate::shown::Shown;
use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::future::ready;
use futures::{StreamExt, TryStreamExt, stream};
use query::limits::STATEMENT_BYTES;
use query::output::{self, Format, TableStyle};
use query::{Engine, Principal};
use std::sync::Arc;
use std::time::Instant;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, NotForContentType, Predicate};

/// The routes: `GET /healthz`, `POST /v1/sql` (the statement as the body, the result as `Accept` asks), `GET /v1/tables` (their columns), and the
/// schema registry's. Answers are packed as `Accept-Encoding` asks.
pub fn routes(engine: Arc<Engine>, prefix: &str) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/v1/sql", post(sql))
        .route("/v1/tables", get(|| async { Json(Shown::all().iter().map(Shown::json).collect::<Vec<_>>()) }))
        .route("/v1/tables/{name}", get(table))
        .with_state(engine)
        .merge(registry::routes(prefix))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, format!("no such path: {ROUTES}")) })
        .method_not_allowed_fallback(|| async { problem(StatusCode::METHOD_NOT_ALLOWED, format!("not this method: {ROUTES}")) })
        // A Parquet file is packed already.
        .layer(CompressionLayer::new().compress_when(DefaultPredicate::new().and(NotForContentType::const_new(PARQUET))))
}

async fn table(Path(name): Path<String>) -> Response {
    match Shown::named(&name) {
        Some(shown) => Json(shown.json()).into_response(),
        None => problem(StatusCode::NOT_FOUND, Shown::there_is_no(&name)),
    }
}

/// What is there, for who asks for something else.
const ROUTES: &str = "POST /v1/sql takes a statement, GET /v1/tables, /healthz and /subjects answer; see docs/http.md";

/// Why the newest records of the log may be missing in an answer; absent where they are not.
const BEHIND: &str = "tape-behind";

const PARQUET: &str = "application/vnd.apache.parquet";

/// What a result can come as; where a client takes several alike, the first.
const FORMS: [(Format, &str); 6] = [
    (Format::Json, "application/json"),
    (Format::JsonLines, "application/x-ndjson"),
    (Format::Csv, "text/csv"),
    (Format::Arrow, "application/vnd.apache.arrow.stream"),
    (Format::Parquet, PARQUET),
    (Format::Table, "text/plain; charset=utf-8"),
];

fn accepted(accept: &str) -> Option<(Format, &'static str)> {
    preferred(accept, &FORMS.map(|(_, media_type)| media_type)).map(|form| FORMS[form])
}

async fn sql(State(engine): State<Arc<Engine>>, headers: HeaderMap, body: Bytes) -> Response {
    let statement = match statement(&headers, &body) {
        Ok(statement) => statement,
        Err((status, why)) => return problem(status, why),
    };
    let accept: Vec<&str> = headers.get_all("accept").iter().filter_map(|value| value.to_str().ok()).collect();
    let Some((format, media_type)) = accepted(&accept.join(",")) else {
        let says = format!("this result comes as {}: name one of them in Accept", FORMS.map(|(_, media_type)| media_type).join(", "));
        return problem(StatusCode::NOT_ACCEPTABLE, says);
    };
    match answer(&engine, statement, format).await {
        Ok((body, behind)) => {
            let mut answer = ([("content-type", media_type)], body).into_response();
            if let Some(why) = behind.and_then(|why| HeaderValue::from_str(&why.replace('\n', " ")).ok()) {
                answer.headers_mut().insert(BEHIND, why);
            }
            answer
        }
        Err(why) => problem(status(&why), why.to_string()),
    }
}

/// The body as text, without the mark that some editors put before it.
fn statement<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<&'a str, (StatusCode, String)> {
    let encoding = headers.get("content-encoding").filter(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
    if let Some(encoding) = encoding {
        let says = format!("a statement comes as plain text, not in Content-Encoding {encoding:?}");
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, says));
    }
    if body.len() > STATEMENT_BYTES {
        let says = format!("a statement has at most {STATEMENT_BYTES} bytes, this one has {}", body.len());
        return Err((StatusCode::PAYLOAD_TOO_LARGE, says));
    }
    let text = std::str::from_utf8(body).map_err(|why| (StatusCode::BAD_REQUEST, format!("the statement is no UTF-8: {why}")))?;
    Ok(text.trim_start_matches('\u{feff}'))
}

/// The result as it comes, batch by batch. What fails before the first bytes is an answer of its own; what fails later breaks the transfer off,
/// so that a part is never taken for the whole, and its reason is in our log.
async fn answer(engine: &Engine, statement: &str, format: Format) -> Result<(Body, Option<String>), query::Error> {
    let begun = Instant::now();
    engine.refresh().await?;
    let behind = engine.behind();
    let (_, stream) = engine.run(&Principal::http(), statement).await?;
    let style = TableStyle { timing: false, ..TableStyle::default() };
    let pieces = output::pieces(format, &style, begun, stream)?.try_filter(|piece| ready(!piece.is_empty()));
    let mut pieces = Box::pin(pieces);
    let first = pieces.next().await.transpose()?;
    let rest = pieces.inspect_err(|why| tracing::warn!("an answer over HTTP was broken off: {why}"));
    Ok((Body::from_stream(stream::iter(first.map(Ok)).chain(rest)), behind))
}

fn status(why: &query::Error) -> StatusCode {
    match why {
        query::Error::Panicked { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        query::Error::Busy | query::Error::Full(_) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    }
}
