//! A mapping file to a checked plan: an unknown key, family, column, clock or name is an error that says where and what there is instead.

use super::template::Template;
use crate::Error;
use crate::sources::clock::Clock;
use crate::sources::records::Shape;
use regex::Regex;
use schemas::field::Kind;
use schemas::{Family, SEQUENCE_COMPLETE, Topic};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// The text of a mapping file: what was typed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Typed {
    /// Topic of the rows.
    family: String,
    /// Template of the dataset code; without it `--dataset` or the file's column `dataset` says it.
    dataset: Option<String>,
    /// What the source says about redistribution.
    licence: Option<String>,
    /// Template of the zone of times that state none.
    #[serde(default = "utc")]
    zone: String,
    /// Whether the first line names the columns.
    #[serde(default = "yes")]
    header: bool,
    /// Whether quoted fields may hold line ends.
    #[serde(default)]
    multiline: bool,
    /// One ASCII character.
    #[serde(default = "comma")]
    delimiter: char,
    /// Texts that mean "no value".
    #[serde(default = "empty_text")]
    absent: Vec<String>,
    /// The file's columns; in order where there is no header.
    #[serde(default)]
    fields: Vec<String>,
    /// Fields that no column takes, named so that none is lost by mistake.
    #[serde(default)]
    ignored: Vec<String>,
    /// The file's columns are tokentape's own, of any number; those of `recognise.columns` must be there.
    #[serde(default)]
    own_columns: bool,
    /// Columns without which a record is refused.
    #[serde(default)]
    required: Vec<String>,
    /// Within what the numbers of `sequence` count up by one, without a hole: `source`, or `symbol`.
    sequence_complete: Option<String>,
    /// A field without which a record is no figure and gives no row.
    skip_without: Option<String>,
    /// The file also goes whole to `documents`.
    #[serde(default)]
    document: bool,
    #[serde(default)]
    recognise: Recognise,
    #[serde(default)]
    lookups: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default)]
    columns: BTreeMap<String, Column>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recognise {
    /// Regular expressions over path and member; named captures are path facts. The first that matches gives them.
    #[serde(default)]
    path: Vec<String>,
    /// Header columns that tell this file from others; all of `fields` where none are named.
    #[serde(default)]
    columns: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Column {
    /// The field that the column takes.
    from: Option<String>,
    /// Or a template.
    text: Option<String>,
    /// How a time is written.
    clock: Option<String>,
    /// The path fact that names the day of `ms_of_day`.
    day: Option<String>,
    /// The power of ten that the value is multiplied by.
    #[serde(default)]
    shift: i32,
    /// Days added to a time.
    #[serde(default)]
    plus_days: i64,
    /// Texts that mean "no value" here.
    absent: Option<Vec<String>>,
}

fn utc() -> String {
    "UTC".into()
}

fn yes() -> bool {
    true
}

fn comma() -> char {
    ','
}

fn empty_text() -> Vec<String> {
    vec![String::new()]
}

/// Columns that ingest fills and no mapping may.
const RESERVED: [&str; 4] = ["date", "source_id", "source_record", "source_byte"];

/// How far a value may be shifted, in powers of ten: from a millionth of a cent to a quadrillion and back.
const SHIFT_MAX: i32 = 18;

/// A mapping: what a text file holds, and how to read it. Everything that it names exists.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// Family of the rows.
    pub family: Family,
    pub(super) dataset: Option<Template>,
    pub(super) licence: Option<String>,
    pub(super) zone: Template,
    pub(super) header: bool,
    pub(super) shape: Shape,
    pub(super) fields: Vec<String>,
    pub(super) own_columns: bool,
    pub(super) key_columns: Vec<String>,
    pub(super) required: Vec<String>,
    pub(super) sequence_complete: Option<String>,
    pub(super) skip_without: Option<String>,
    pub(super) document: bool,
    pub(super) lookups: BTreeMap<String, BTreeMap<String, String>>,
    pub(super) columns: Vec<Spec>,
    absent: Vec<String>,
    paths: Vec<Regex>,
}

/// A column as the mapping describes it.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    source: Source,
    /// Without its place in a file.
    target: Target,
}

#[derive(Debug, Clone)]
enum Source {
    Field(String),
    Text(Template),
}

/// A column to fill, in a file whose columns are known.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub name: String,
    pub column: usize,
    pub kind: Kind,
    pub value: Value,
    pub clock: Clock,
    pub day: Option<String>,
    pub shift: i32,
    pub plus_days: i64,
    pub absent: Vec<String>,
}

/// Where a column's text comes from.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// The field at this position.
    Field(usize),
    /// Put together for each row.
    Text(Template),
    /// The same in every row.
    Constant(String),
}

impl Mapping {
    /// Parses and checks a mapping file; `file` is its name for messages.
    pub fn parse(file: &str, text: &str) -> Result<Mapping, Error> {
        let error = |what: String| Error::Input { file: file.into(), what, todo: "correct the mapping".into() };
        let typed: Typed = toml::from_str(text).map_err(|e| error(format!("is not a mapping: {}", e.to_string().trim_end())))?;
        check(typed).map_err(error)
    }

    /// The path facts of a path that this mapping describes; `None` when the path is another one.
    pub fn facts(&self, path: &str) -> Option<BTreeMap<String, String>> {
        let (regex, captures) = self.paths.iter().find_map(|regex| Some((regex, regex.captures(path)?)))?;
        let named = regex.capture_names().flatten();
        Some(named.filter_map(|name| Some((name.to_string(), captures.name(name)?.as_str().to_string()))).collect())
    }

    /// Those of the path facts that the records are made of. What only says whose data it is (dataset, zone) is no part of a source's name: it
    /// is lost when a member is unpacked, and the same file has no other records because of it.
    pub(super) fn facts_of_records(&self, mut facts: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let names = |spec: &Spec| -> Vec<String> {
            let text = match &spec.source {
                Source::Text(template) => template.names().map(String::from).collect(),
                Source::Field(_) => vec![],
            };
            text.into_iter().chain(spec.target.day.clone()).collect()
        };
        let used: BTreeSet<String> = self.columns.iter().flat_map(names).collect();
        facts.retain(|name, _| used.contains(name));
        facts
    }

    /// Whether a header column of this name belongs here.
    pub fn knows(&self, name: &str) -> bool {
        if self.own_columns { may_fill(self.family.topic(), name) } else { self.fields.iter().any(|field| field == name) }
    }

    /// The column of this name, taken as tokentape writes it.
    pub(super) fn own_target(&self, name: &str, at: usize) -> Target {
        let topic = self.family.topic();
        let column = topic.column(name);
        Target {
            name: name.into(),
            column,
            kind: topic.fields[column].kind,
            value: Value::Field(at),
            clock: Clock::Iso,
            day: None,
            shift: 0,
            plus_days: 0,
            absent: self.absent.clone(),
        }
    }
}

impl Spec {
    /// Name of the column.
    pub fn name(&self) -> &str {
        &self.target.name
    }

    /// The column in a file with these fields; `None` when its field is not there.
    pub fn target(&self, names: &[String]) -> Option<Target> {
        let value = match &self.source {
            Source::Field(field) => Value::Field(names.iter().position(|name| name == field)?),
            Source::Text(template) => Value::Text(template.clone()),
        };
        Some(Target { value, ..self.target.clone() })
    }
}

impl Target {
    /// What the file calls the column, for messages.
    pub fn name_in_file(&self, names: &[String]) -> String {
        match &self.value {
            Value::Field(at) => names[*at].clone(),
            Value::Text(_) | Value::Constant(_) => self.name.clone(),
        }
    }
}

fn may_fill(topic: &Topic, name: &str) -> bool {
    topic.find_column(name).is_some_and(|column| column < topic.fields.len()) && !RESERVED.contains(&name)
}

fn check(typed: Typed) -> Result<Mapping, String> {
    let families = || Family::ALL.map(|family| family.topic().name).join(", ");
    let family =
        Family::named(&typed.family).ok_or_else(|| format!("family {:?} does not exist; there are {}", typed.family, families()))?;
    let topic = family.topic();
    if !typed.delimiter.is_ascii() || matches!(typed.delimiter, '"' | '\n' | '\r') {
        return Err(format!("delimiter {:?} is not one ASCII character other than a quote or a line end", typed.delimiter));
    }
    if typed.own_columns && (!typed.header || !typed.fields.is_empty()) {
        return Err("own_columns needs a header, and no fields".into());
    }
    if !typed.own_columns && typed.fields.is_empty() {
        return Err("fields names no column of the file".into());
    }
    let twice: Vec<&str> = crate::sources::table::repeated(&typed.fields);
    if !twice.is_empty() {
        return Err(format!("fields names {} twice", twice.join(", ")));
    }
    let paths = typed
        .recognise
        .path
        .iter()
        .map(|path| Regex::new(path).map_err(|e| format!("recognise.path: {e}")))
        .collect::<Result<Vec<_>, _>>()?;
    let facts: BTreeSet<String> = paths.iter().flat_map(|path| path.capture_names().flatten().map(String::from)).collect();
    let columns = typed.columns.iter().map(|(name, column)| spec(topic, name, column, &typed, &facts)).collect::<Result<Vec<_>, _>>()?;
    let template = |text: &String| checked_template(text, &typed, &facts, false);
    if let Some(name) = typed.required.iter().find(|name| !may_fill(topic, name)) {
        return Err(unknown_column(topic, name));
    }
    let counted = counted(&typed, &facts)?;
    every_field_is_used(&typed)?;
    if let Some(name) = typed.skip_without.as_ref().filter(|name| !typed.fields.contains(name)) {
        return Err(format!("skip_without names {name:?}, which is not among the fields"));
    }
    let key_columns = if typed.recognise.columns.is_empty() { typed.fields.clone() } else { typed.recognise.columns.clone() };
    let known = |name: &&String| if typed.own_columns { may_fill(topic, name) } else { typed.fields.contains(name) };
    if let Some(name) = key_columns.iter().find(|name| !known(name)) {
        return Err(format!("recognise.columns names {name:?}, which the file cannot have"));
    }
    Ok(Mapping {
        family,
        dataset: typed.dataset.as_ref().map(template).transpose()?,
        zone: template(&typed.zone)?,
        shape: Shape { delimiter: typed.delimiter as u8, multiline: typed.multiline, growing: false },
        columns,
        paths,
        key_columns,
        header: typed.header,
        licence: typed.licence,
        fields: typed.fields,
        own_columns: typed.own_columns,
        required: typed.required.into_iter().chain(counted.iter().map(|name| name.to_string())).collect(),
        sequence_complete: typed.sequence_complete,
        skip_without: typed.skip_without,
        document: typed.document,
        lookups: typed.lookups,
        absent: typed.absent,
    })
}

/// The columns without which nobody can say whether a sequence that is declared complete has a hole.
fn counted(typed: &Typed, facts: &BTreeSet<String>) -> Result<&'static [&'static str], String> {
    let columns: &[&str] = match typed.sequence_complete.as_deref() {
        None => return Ok(&[]),
        Some("source") => &["sequence"],
        Some("symbol") => &["sequence", "symbol"],
        Some(other) => return Err(format!("sequence_complete = {other:?} is neither \"source\" nor \"symbol\"")),
    };
    if let Some(name) = columns.iter().find(|name| !typed.own_columns && !typed.columns.contains_key(**name)) {
        return Err(format!("sequence_complete needs the column {name}, and [columns] does not fill it"));
    }
    if facts.contains(SEQUENCE_COMPLETE) {
        return Err(format!(
            "a capture in recognise.path may not be called {SEQUENCE_COMPLETE}: sources says by that name what is declared"
        ));
    }
    Ok(columns)
}

fn unknown_column(topic: &Topic, name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("column {name} is filled by ingest, not by a mapping");
    }
    let names: Vec<&str> = topic.fields.iter().map(|field| field.name.as_ref()).filter(|name| !RESERVED.contains(name)).collect();
    format!("family {} has no column {name:?}; it has {}", topic.name, names.join(", "))
}

fn spec(topic: &'static Topic, name: &str, column: &Column, typed: &Typed, facts: &BTreeSet<String>) -> Result<Spec, String> {
    let wrong = |what: String| format!("column {name}: {what}");
    if !may_fill(topic, name) {
        return Err(unknown_column(topic, name));
    }
    let at = topic.column(name);
    let kind = topic.fields[at].kind;
    let source = match (&column.from, &column.text) {
        (Some(field), None) if typed.own_columns && may_fill(topic, field) => Source::Field(field.clone()),
        (Some(field), None) if typed.fields.contains(field) => Source::Field(field.clone()),
        (Some(field), None) => return Err(wrong(format!("takes {field:?}, which is not among the fields"))),
        (None, Some(text)) => Source::Text(checked_template(text, typed, facts, true).map_err(wrong)?),
        _ => return Err(wrong("needs either `from` (a field) or `text` (a template)".into())),
    };
    let clock = match &column.clock {
        Some(clock) => Clock::named(clock).map_err(wrong)?,
        None => Clock::Iso,
    };
    if clock == Clock::MsOfDay && column.day.as_ref().is_none_or(|day| !facts.contains(day)) {
        return Err(wrong("clock ms_of_day needs `day`, the name of a capture in recognise.path".into()));
    }
    if column.shift.abs() > SHIFT_MAX {
        return Err(wrong(format!("shift {} is more than {SHIFT_MAX} powers of ten", column.shift)));
    }
    if column.plus_days.abs() > 366 {
        return Err(wrong(format!("plus_days {} is more than a year", column.plus_days)));
    }
    let target = Target {
        name: name.into(),
        column: at,
        kind,
        value: Value::Field(0),
        clock,
        day: column.day.clone(),
        shift: column.shift,
        plus_days: column.plus_days,
        absent: column.absent.clone().unwrap_or_else(|| typed.absent.clone()),
    };
    Ok(Spec { source, target })
}

fn checked_template(text: &str, typed: &Typed, facts: &BTreeSet<String>, row: bool) -> Result<Template, String> {
    let template = Template::parse(text)?;
    let known = |name: &str| facts.contains(name) || (row && typed.fields.iter().any(|field| field == name));
    if let Some(name) = template.names().find(|name| !known(name)) {
        return Err(format!(
            "{text:?} names {name:?}, which is neither a capture in recognise.path{}",
            if row { " nor a field" } else { "" }
        ));
    }
    if let Some(name) = template.lookups().find(|name| !typed.lookups.contains_key(*name)) {
        return Err(format!("{text:?} looks up {name:?}, and there is no table [lookups.{name}]"));
    }
    Ok(template)
}

/// A field that nothing takes would be lost without a word.
fn every_field_is_used(typed: &Typed) -> Result<(), String> {
    let from = typed.columns.values().filter_map(|column| column.from.clone());
    let in_text = typed.columns.values().filter_map(|column| column.text.as_deref()).filter_map(|text| Template::parse(text).ok());
    let used: BTreeSet<String> =
        from.chain(in_text.flat_map(|t| t.names().map(String::from).collect::<Vec<_>>())).chain(typed.ignored.clone()).collect();
    let lost: Vec<&str> = typed.fields.iter().filter(|field| !used.contains(*field)).map(String::as_str).collect();
    if lost.is_empty() {
        return Ok(());
    }
    Err(format!("no column takes {}; name what is to be left out in `ignored`", lost.join(", ")))
}
