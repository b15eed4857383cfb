//! The data dictionary: every family and column as text, from the declarations alone.

use crate::about::{VIEWS, View, explaining};
use crate::field::Field;
use crate::topic::Family;
use std::fmt::Write;

/// The whole dictionary as Markdown: `docs/data-dictionary.md`.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Data dictionary\n\nGenerated from `schemas/src/family.rs` by `tape schema --markdown`; do not edit. Topic, Delta table and SQL table of a \
         family share its name.\n\nTimes are nanoseconds UTC: Int64 in files and frames, `TIMESTAMP(ns, UTC)` in SQL. Prices are exact decimals \
         in the row's `currency` per `price_unit`.\n",
    );
    for family in Family::ALL {
        out.push_str(&family_markdown(family));
    }
    out.push_str(
        "\n# Tables about the tables\n\nNothing is stored for these: they are made of what commits and the log say when a statement names them.\n",
    );
    for view in VIEWS.iter() {
        out.push_str(&view_markdown(view));
    }
    out
}

/// One view as Markdown.
pub fn view_markdown(view: &View) -> String {
    format!("\n## {}\n\nA row is {}.\n\n{}", view.name, view.doc, columns_markdown(&view.fields))
}

fn columns_markdown(fields: &[Field]) -> String {
    let mut out = String::from("| column | type | unit | meaning |\n|---|---|---|---|\n");
    for field in fields {
        let required = if field.required { " NOT NULL" } else { "" };
        writeln!(out, "| `{}` | {}{required} | {} | {} |", field.name, field.kind.sql(), field.unit, field.doc)
            .expect("writing to a String cannot fail");
    }
    out
}

/// One family as Markdown.
pub fn family_markdown(family: Family) -> String {
    let topic = family.topic();
    let key = topic.key.iter().map(|columns| columns.join("/")).collect::<Vec<_>>().join(", else ");
    let business_key = match topic.business_key {
        [] => "none (records are `new` only)".to_string(),
        columns => columns.join(", "),
    };
    let mut out = format!(
        "\n## {}\n\nA row is {}.\n\nSchema id {} · key `dataset/` + {key} · revisions within: {business_key} · rows in a file by {} · \
         partitioned by {} · {} topic partitions\n\n",
        topic.name,
        topic.doc,
        topic.schema_id,
        topic.sort_key.join(", "),
        topic.partition_by.join(", "),
        topic.partitions,
    );
    out.push_str(&columns_markdown(&topic.stored_fields()));
    if !explaining(family).is_empty() {
        out.push_str("\nSQL shows beside them, made when they are asked for:\n\n");
        out.push_str(&columns_markdown(&explaining(family)));
    }
    out
}
