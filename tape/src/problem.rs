//! An error over HTTP as a client reads it: a problem of RFC 9457, whose detail says what to do.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// The answer with this status.
pub fn problem(status: StatusCode, detail: impl AsRef<str>) -> Response {
    let said = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail.as_ref().trim_end(),
    });
    let mut answer = (status, Json(said)).into_response();
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    answer
}
