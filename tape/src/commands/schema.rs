//! `tape schema`: the record families as text, as Markdown, as Avro, or over the schema registry's read routes.

use super::Code;
use crate::args::Schema;
use crate::say::{say, say_line};
use crate::settings::{Settings, WrongUse};
use crate::{home, registry, serve, signals};
use anyhow::{Context, Result};
use schemas::about::{VIEWS, View, shown_fields};
use schemas::{Family, Field, dictionary};
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
        None => Family::ALL.map(Shown::Family).into_iter().chain(VIEWS.iter().map(Shown::View)).collect(),
        Some(name) => vec![Shown::named(name).ok_or_else(|| WrongUse(format!("there is no table {name}; there are {}", names())))?],
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
        shown.iter().for_each(Shown::say);
    }
    Ok(Code::Fine)
}

/// A table of SQL.
enum Shown {
    Family(Family),
    View(&'static View),
}

impl Shown {
    fn named(name: &str) -> Option<Shown> {
        Family::named(name).map(Shown::Family).or_else(|| View::named(name).map(Shown::View))
    }

    fn family(&self) -> Option<Family> {
        match self {
            Shown::Family(family) => Some(*family),
            Shown::View(_) => None,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Shown::Family(family) => family.topic().name,
            Shown::View(view) => view.name,
        }
    }

    fn doc(&self) -> &'static str {
        match self {
            Shown::Family(family) => family.topic().doc,
            Shown::View(view) => view.doc,
        }
    }

    fn fields(&self) -> Vec<Field> {
        match self {
            Shown::Family(family) => shown_fields(*family),
            Shown::View(view) => view.fields.clone(),
        }
    }

    fn markdown(&self) -> String {
        match self {
            Shown::Family(family) => dictionary::family_markdown(*family),
            Shown::View(view) => dictionary::view_markdown(view),
        }
    }

    fn say(&self) {
        say_line!("{}: a row is {}\n", self.name(), self.doc());
        for field in self.fields() {
            let unit = if field.unit.is_empty() { String::new() } else { format!(" [{}]", field.unit) };
            say_line!("{:<26} {:<18} {}{unit}", field.name, field.kind.sql(), field.doc);
        }
    }

    /// A view has no wire schema: `schema_id` is null.
    fn json(&self) -> serde_json::Value {
        let column = |field: &Field| json!({ "name": field.name, "type": field.kind.sql(), "unit": field.unit, "required": field.required, "doc": field.doc });
        let columns: Vec<_> = self.fields().iter().map(column).collect();
        let schema_id = self.family().map(|family| family.topic().schema_id);
        json!({ "table": self.name(), "doc": self.doc(), "schema_id": schema_id, "columns": columns })
    }
}

fn names() -> String {
    let views = VIEWS.iter().map(|view| view.name);
    Family::ALL.into_iter().map(|family| family.topic().name).chain(views).collect::<Vec<_>>().join(", ")
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
