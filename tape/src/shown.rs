//! The tables of SQL as they are described: their names, columns, units and clocks.

use schemas::about::{VIEWS, View, shown_fields};
use schemas::{Family, Field, dictionary};
use serde_json::json;

/// A table of SQL.
pub enum Shown {
    Family(Family),
    View(&'static View),
}

impl Shown {
    /// Every one, the families first.
    pub fn all() -> Vec<Shown> {
        Family::ALL.map(Shown::Family).into_iter().chain(VIEWS.iter().map(Shown::View)).collect()
    }

    /// Says which names there are.
    pub fn there_is_no(name: &str) -> String {
        let there = Shown::all().iter().map(Shown::name).collect::<Vec<_>>().join(", ");
        format!("there is no table {name}; there are {there}")
    }

    pub fn named(name: &str) -> Option<Shown> {
        Family::named(name).map(Shown::Family).or_else(|| View::named(name).map(Shown::View))
    }

    pub fn family(&self) -> Option<Family> {
        match self {
            Shown::Family(family) => Some(*family),
            Shown::View(_) => None,
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Shown::Family(family) => family.topic().name,
            Shown::View(view) => view.name,
        }
    }

    pub fn doc(&self) -> &'static str {
        match self {
            Shown::Family(family) => family.topic().doc,
            Shown::View(view) => view.doc,
        }
    }

    pub fn fields(&self) -> Vec<Field> {
        match self {
            Shown::Family(family) => shown_fields(*family),
            Shown::View(view) => view.fields.clone(),
        }
    }

    pub fn markdown(&self) -> String {
        match self {
            Shown::Family(family) => dictionary::family_markdown(*family),
            Shown::View(view) => dictionary::view_markdown(view),
        }
    }

    /// A view has no wire schema: `schema_id` is null.
    pub fn json(&self) -> serde_json::Value {
        let column = |field: &Field| json!({ "name": field.name, "type": field.kind.sql(), "unit": field.unit, "required": field.required, "doc": field.doc });
        let columns: Vec<_> = self.fields().iter().map(column).collect();
        let schema_id = self.family().map(|family| family.topic().schema_id);
        json!({ "table": self.name(), "doc": self.doc(), "schema_id": schema_id, "columns": columns })
    }
}
