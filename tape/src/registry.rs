//! The schema registry's read routes over our fixed table of ids, so that stock Avro consumers need no registry of their own.

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use schemas::{Family, Topic};
use serde_json::{Value, json};

/// Media type of the registry's REST interface, version 1.
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";
/// Error codes of the registry's REST interface.
const SUBJECT_NOT_FOUND: u32 = 40401;
const VERSION_NOT_FOUND: u32 = 40402;
const SCHEMA_NOT_FOUND: u32 = 40403;

/// The routes; `prefix` is that of the topics, a subject is `<topic>-value`.
pub fn routes(prefix: &str) -> Router {
    let list_prefix = prefix.to_string();
    let versions_prefix = prefix.to_string();
    let version_prefix = prefix.to_string();
    let ids_prefix = prefix.to_string();
    Router::new()
        .route("/subjects", get(move || async move { answer(json!(subjects(&list_prefix))) }))
        .route("/schemas/types", get(|| async { answer(json!(["AVRO"])) }))
        .route(
            "/schemas/ids/{id}",
            get(|Path(id): Path<u32>| async move {
                by_id(id).map_or_else(|| refuse(SCHEMA_NOT_FOUND, "Schema not found"), |topic| answer(json!({ "schema": topic.avro() })))
            }),
        )
        .route(
            "/schemas/ids/{id}/versions",
            get(move |Path(id): Path<u32>| async move {
                by_id(id).map_or_else(
                    || refuse(SCHEMA_NOT_FOUND, "Schema not found"),
                    |topic| answer(json!([{ "subject": subject(&ids_prefix, topic), "version": 1 }])),
                )
            }),
        )
        .route(
            "/subjects/{subject}/versions",
            get(move |Path(name): Path<String>| async move {
                by_subject(&versions_prefix, &name).map_or_else(|| refuse(SUBJECT_NOT_FOUND, "Subject not found"), |_| answer(json!([1])))
            }),
        )
        .route(
            "/subjects/{subject}/versions/{version}",
            get(move |Path((name, version)): Path<(String, String)>| async move {
                let Some(topic) = by_subject(&version_prefix, &name) else { return refuse(SUBJECT_NOT_FOUND, "Subject not found") };
                if version != "1" && version != "latest" {
                    return refuse(VERSION_NOT_FOUND, "Version not found");
                }
                answer(json!({ "subject": name, "version": 1, "id": topic.schema_id, "schemaType": "AVRO", "schema": topic.avro() }))
            }),
        )
        .route("/config", get(|| async { answer(json!({ "compatibilityLevel": "FULL_TRANSITIVE" })) }))
        .route("/mode", get(|| async { answer(json!({ "mode": "READONLY" })) }))
}

fn subject(prefix: &str, topic: &Topic) -> String {
    format!("{prefix}{}-value", topic.name)
}

fn subjects(prefix: &str) -> Vec<String> {
    Family::ALL.iter().map(|family| subject(prefix, family.topic())).collect()
}

fn by_id(id: u32) -> Option<&'static Topic> {
    Family::ALL.iter().map(|family| family.topic()).find(|topic| topic.schema_id == id)
}

fn by_subject(prefix: &str, name: &str) -> Option<&'static Topic> {
    Family::ALL.iter().map(|family| family.topic()).find(|topic| subject(prefix, topic) == name)
}

fn answer(value: Value) -> Response {
    ([("content-type", MEDIA_TYPE)], value.to_string()).into_response()
}

fn refuse(code: u32, message: &str) -> Response {
    (StatusCode::NOT_FOUND, [("content-type", MEDIA_TYPE)], json!({ "error_code": code, "message": message }).to_string()).into_response()
}
