//! The schema registry's read routes over our fixed table of ids, so that stock Avro clients need no registry of their own.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use schemas::{Family, Topic};
use serde_json::{Value, json};
use std::sync::Arc;

/// Media type of the registry's REST interface, version 1.
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";
/// The one version of every subject: a frame's schema never changes its meaning.
const VERSION: u32 = 1;

/// What is refused, with the status and the error code of the registry's REST interface.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    Subject,
    Version,
    Schema,
    Write,
}

/// The routes; `prefix` is that of the topics, a subject is `<topic>-value`.
pub fn routes(prefix: &str) -> Router {
    let prefix: Arc<str> = prefix.into();
    Router::new()
        .route("/subjects", get(subjects))
        .route("/subjects/{subject}", post(look_up).delete(refuse_write))
        .route("/subjects/{subject}/versions", get(versions).post(refuse_write))
        .route("/subjects/{subject}/versions/{version}", get(version).delete(refuse_write))
        .route("/subjects/{subject}/versions/{version}/schema", get(version_schema))
        .route("/schemas/types", get(|| async { answer(json!(["AVRO"])) }))
        .route("/schemas/ids/{id}", get(schema))
        .route("/schemas/ids/{id}/schema", get(schema_text))
        .route("/schemas/ids/{id}/subjects", get(schema_subjects))
        .route("/schemas/ids/{id}/versions", get(schema_versions))
        .route("/config", get(config).put(refuse_write))
        .route("/config/{subject}", get(config).put(refuse_write))
        .route("/mode", get(mode).put(refuse_write))
        .route("/mode/{subject}", get(mode).put(refuse_write))
        .with_state(prefix)
}

type Prefix = State<Arc<str>>;
type Answer = Result<Response, Refusal>;

async fn subjects(State(prefix): Prefix) -> Response {
    answer(json!(Family::ALL.map(|family| subject(&prefix, family.topic()))))
}

/// Which id and version a schema has under a subject. White space and the order of attributes make no other schema.
async fn look_up(State(prefix): Prefix, Path(name): Path<String>, Json(asked): Json<Value>) -> Answer {
    let topic = by_subject(&prefix, &name)?;
    let parsed = |text: &str| serde_json::from_str::<Value>(text).ok();
    let text = asked["schema"].as_str().unwrap_or_default();
    if parsed(text).is_none() || parsed(text) != parsed(topic.avro()) {
        return Err(Refusal::Schema);
    }
    Ok(answer(described(&name, topic)))
}

async fn versions(State(prefix): Prefix, Path(name): Path<String>) -> Answer {
    by_subject(&prefix, &name).map(|_| answer(json!([VERSION])))
}

async fn version(State(prefix): Prefix, Path((name, version)): Path<(String, String)>) -> Answer {
    by_version(&prefix, &name, &version).map(|topic| answer(described(&name, topic)))
}

async fn version_schema(State(prefix): Prefix, Path((name, version)): Path<(String, String)>) -> Answer {
    by_version(&prefix, &name, &version).map(text)
}

async fn schema(Path(id): Path<String>) -> Answer {
    by_id(&id).map(|topic| answer(json!({ "schema": topic.avro() })))
}

async fn schema_text(Path(id): Path<String>) -> Answer {
    by_id(&id).map(text)
}

async fn schema_subjects(State(prefix): Prefix, Path(id): Path<String>) -> Answer {
    by_id(&id).map(|topic| answer(json!([subject(&prefix, topic)])))
}

async fn schema_versions(State(prefix): Prefix, Path(id): Path<String>) -> Answer {
    by_id(&id).map(|topic| answer(json!([{ "subject": subject(&prefix, topic), "version": VERSION }])))
}

async fn config() -> Response {
    answer(json!({ "compatibilityLevel": "FULL_TRANSITIVE" }))
}

async fn mode() -> Response {
    answer(json!({ "mode": "READONLY" }))
}

async fn refuse_write() -> Refusal {
    Refusal::Write
}

fn subject(prefix: &str, topic: &Topic) -> String {
    format!("{prefix}{}-value", topic.name)
}

fn by_id(id: &str) -> Result<&'static Topic, Refusal> {
    let topics = Family::ALL.iter().map(|family| family.topic());
    id.parse().ok().and_then(|id: u32| topics.into_iter().find(|topic| topic.schema_id == id)).ok_or(Refusal::Schema)
}

fn by_subject(prefix: &str, name: &str) -> Result<&'static Topic, Refusal> {
    Family::ALL.iter().map(|family| family.topic()).find(|topic| subject(prefix, topic) == name).ok_or(Refusal::Subject)
}

fn by_version(prefix: &str, name: &str, version: &str) -> Result<&'static Topic, Refusal> {
    let topic = by_subject(prefix, name)?;
    // "-1" is the interface's other word for the latest.
    if version == "latest" || version == "-1" || version.parse() == Ok(VERSION) { Ok(topic) } else { Err(Refusal::Version) }
}

fn described(subject: &str, topic: &Topic) -> Value {
    json!({ "subject": subject, "version": VERSION, "id": topic.schema_id, "schemaType": "AVRO", "schema": topic.avro() })
}

fn answer(value: Value) -> Response {
    ([("content-type", MEDIA_TYPE)], value.to_string()).into_response()
}

fn text(topic: &Topic) -> Response {
    ([("content-type", MEDIA_TYPE)], topic.avro().to_string()).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code, message) = match self {
            Refusal::Subject => (StatusCode::NOT_FOUND, 40401, "Subject not found"),
            Refusal::Version => (StatusCode::NOT_FOUND, 40402, "Version not found"),
            Refusal::Schema => (StatusCode::NOT_FOUND, 40403, "Schema not found"),
            Refusal::Write => {
                (StatusCode::UNPROCESSABLE_ENTITY, 42205, "this registry is read-only: tokentape's schemas are part of its release")
            }
        };
        (status, [("content-type", MEDIA_TYPE)], json!({ "error_code": code, "message": message }).to_string()).into_response()
    }
}
