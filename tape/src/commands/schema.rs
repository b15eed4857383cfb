//! `tape schema`: the record families as text, as Markdown, as Avro, or over the schema registry's read routes.

use super::Code;
use crate::args::Schema;
use crate::say::{say, say_line};
use crate::settings::{Settings, WrongUse};
use crate::{home, registry, serve, signals};
use anyhow::{Context, Result};
use schemas::{Family, dictionary};
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How soon a served process notices that it is to stop.
const STOP_CHECK: Duration = Duration::from_millis(100);

pub fn run(args: &Schema, settings: &Settings) -> Result<Code> {
    if let Some(address) = &args.listen {
        return serve(address, settings);
    }
    let families = match &args.family {
        None => Family::ALL.to_vec(),
        Some(name) => vec![Family::named(name).ok_or_else(|| WrongUse(format!("there is no table {name}; there are {}", names())))?],
    };
    if args.avro {
        families.iter().for_each(|family| say_line!("{}", family.topic().avro()));
    } else if args.markdown && args.family.is_none() {
        say!("{}", dictionary::markdown());
    } else if args.markdown {
        families.iter().for_each(|family| say!("{}", dictionary::family_markdown(*family)));
    } else if settings.json {
        say_line!("{}", json(&families));
    } else if args.family.is_none() {
        families.iter().for_each(|family| say_line!("{:<14} {}", family.topic().name, family.topic().doc));
        say_line!("\n`tape schema TABLE` shows the columns, `tape schema TABLE --avro` the Avro schema of its frames.");
    } else {
        families.iter().for_each(|family| table(*family));
    }
    Ok(Code::Fine)
}

fn names() -> String {
    Family::ALL.map(|family| family.topic().name).join(", ")
}

fn table(family: Family) {
    say_line!("{}: a row is {}\n", family.topic().name, family.topic().doc);
    for field in family.topic().stored_fields() {
        let unit = if field.unit.is_empty() { String::new() } else { format!(" [{}]", field.unit) };
        say_line!("{:<26} {:<18} {}{unit}", field.name, field.kind.sql(), field.doc);
    }
}

fn json(families: &[Family]) -> serde_json::Value {
    let columns = |family: &Family| {
        let fields = family.topic().stored_fields();
        fields
            .iter()
            .map(|field| json!({ "name": field.name, "type": field.kind.sql(), "unit": field.unit, "required": field.required, "doc": field.doc }))
            .collect::<Vec<_>>()
    };
    json!(
        families
            .iter()
            .map(|family| {
                let topic = family.topic();
                json!({ "table": topic.name, "doc": topic.doc, "schema_id": topic.schema_id, "columns": columns(family) })
            })
            .collect::<Vec<_>>()
    )
}

fn serve(address: &str, settings: &Settings) -> Result<Code> {
    let runtime = home::runtime()?;
    let stop = signals::stop_flag(&runtime)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
        say_line!("schema registry (read-only) on http://{}", listener.local_addr()?);
        let stopped = async move {
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep(STOP_CHECK).await;
            }
        };
        serve::serve(listener, registry::routes(&settings.prefix), stopped).await;
        Ok(Code::Fine)
    })
}
