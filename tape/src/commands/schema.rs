//! `tape schema`: the record families as text, as Markdown, as Avro, or over the schema registry's read routes.

use super::Code;
use crate::args::Schema;
use crate::say::{say, say_line};
use crate::settings::{Settings, WrongUse};
use crate::shown::Shown;
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
    let shown = match &args.family {
        None => Shown::all(),
        Some(name) => vec![Shown::named(name).ok_or_else(|| WrongUse(Shown::there_is_no(name)))?],
    };
    if args.avro {
        let families: Vec<Family> = shown.iter().filter_map(Shown::family).collect();
        if families.is_empty() {
            return Err(WrongUse("this table has no frames: it is made of what commits and the log say".into()).into());
        }
        families.iter().for_each(|family| say_line!("{}", family.topic().avro()));
    } else if args.markdown && args.family.is_none() {
        say!("{}", dictionary::markdown());
    } else if args.markdown {
        shown.iter().for_each(|shown| say!("{}", shown.markdown()));
    } else if settings.json {
        say_line!("{}", json!(shown.iter().map(Shown::json).collect::<Vec<_>>()));
    } else if args.family.is_none() {
        shown.iter().for_each(|shown| say_line!("{:<14} {}", shown.name(), shown.doc()));
        say_line!("\n`tape schema TABLE` shows the columns, `tape schema TABLE --avro` the Avro schema of its frames.");
    } else {
        shown.iter().for_each(say);
    }
    Ok(Code::Fine)
}

fn say(shown: &Shown) {
    say_line!("{}: a row is {}\n", shown.name(), shown.doc());
    for field in shown.fields() {
        let unit = if field.unit.is_empty() { String::new() } else { format!(" [{}]", field.unit) };
        say_line!("{:<26} {:<18} {}{unit}", field.name, field.kind.sql(), field.doc);
    }
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
