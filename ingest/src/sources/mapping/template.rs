//! Texts with path facts and fields in braces: `{root:upper} {expiry}`.

use crate::sources::products;
use crate::sources::records::Fields;
use std::collections::BTreeMap;

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Name(String, Filter),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    None,
    Upper,
    Lookup,
    Ctp,
}

/// What the path says, and how a mapping rewrites it.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Named captures of the path.
    pub facts: BTreeMap<String, String>,
    /// Replacements by name and value.
    pub lookups: BTreeMap<String, BTreeMap<String, String>>,
}

impl Template {
    /// Parses a template, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let close = rest[open..].find('}').ok_or_else(|| format!("{text:?} has a brace that is not closed"))? + open;
            if open > 0 {
                parts.push(Part::Text(rest[..open].into()));
            }
            let (name, filter) = rest[open + 1..close].split_once(':').unwrap_or((&rest[open + 1..close], ""));
            let filter = match filter {
                "" => Filter::None,
                "upper" => Filter::Upper,
                "lookup" => Filter::Lookup,
                "ctp" => Filter::Ctp,
                other => return Err(format!("{text:?} has the filter {other:?}; there are upper, lookup and ctp")),
            };
            parts.push(Part::Name(name.into(), filter));
            rest = &rest[close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        Ok(Template(parts))
    }

    /// The names in braces.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Name(name, _) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The names that are looked up in a table.
    pub fn lookups(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Name(name, Filter::Lookup) => Some(name.as_str()),
            _ => None,
        })
    }

    fn fill<'a>(&self, value: impl Fn(&str) -> Option<&'a str>, lookups: &BTreeMap<String, BTreeMap<String, String>>, out: &mut String) {
        for part in &self.0 {
            let (name, filter) = match part {
                Part::Text(text) => {
                    out.push_str(text);
                    continue;
                }
                Part::Name(name, filter) => (name, filter),
            };
            // What is absent is not "any other value" of a lookup.
            let Some(value) = value(name) else { continue };
            match filter {
                Filter::None => out.push_str(value),
                Filter::Upper => out.extend(value.chars().flat_map(char::to_uppercase)),
                Filter::Lookup => {
                    let table = lookups.get(name);
                    let found = table.and_then(|table| table.get(value).or_else(|| table.get("*")));
                    out.push_str(found.map_or("", String::as_str));
                }
                Filter::Ctp => out.push_str(products::exchange(value).map_or("", |exchange| exchange.dataset)),
            }
        }
    }
}

impl Facts {
    /// The text of a template for one row: a name is a path fact, else a field; one that is neither here is empty.
    pub fn fill(&self, template: &Template, fields: &Fields, names: &[String], out: &mut String) {
        let value = |name: &str| match self.facts.get(name) {
            Some(fact) => Some(fact.as_str()),
            None => names.iter().position(|n| n == name).map(|at| fields.get(at)),
        };
        template.fill(value, &self.lookups, out);
    }

    /// The text of a template with the path facts only; what the path does not say is empty.
    pub fn fill_alone(&self, template: &Template) -> String {
        let mut out = String::new();
        template.fill(|name| self.facts.get(name).map(String::as_str), &self.lookups, &mut out);
        out.trim().to_string()
    }

    /// The text of a template of which the path says every name.
    pub fn settle(&self, template: &Template) -> Option<String> {
        template.names().all(|name| self.facts.contains_key(name)).then(|| self.fill_alone(template))
    }
}
