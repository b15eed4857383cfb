//! CSV by a mapping: a small TOML file says which family a text file holds, how it is recognised, and what each column means.
//!
//! ```toml
//! family = "requests"
//! dataset = "AZURE.TRACE"
//! fields = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
//! [columns]
//! ts_event = { from = "TIMESTAMP", clock = "iso" }
//! input_tokens = { from = "ContextTokens" }
//! output_tokens = { from = "GeneratedTokens" }
//! schema = { text = "request" }
//! ```
//!
//! A template (`dataset`, `zone`, `text`) puts path facts and fields of the row in braces: `{root}`; `{root:upper}` in capitals, `{resolution:lookup}` by the table
//! `[lookups.resolution]`, `{symbol:ctp}` the dataset of a Chinese futures contract.

mod plan;
mod template;

pub use plan::Mapping;

use super::clock::{self, NS_PER_DAY, date_of};
use super::records::{Fields, RECORD_BYTES_MAX, Records, Shape};
use super::table::{Fault, Made, RowMaker, Table, first_line, header_line, is_dataset, positions, repeated};
use crate::Error;
use crate::source::{Format, Given, Header, Parser};
use plan::{Target, Value};
use schemas::field::Kind;
use schemas::{Family, Rows, exact};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::sync::LazyLock;
use template::Facts;

/// Name and version of the parser that `--mapping` is for.
pub const PARSER: &str = "csv/1";

/// CSV that a shipped mapping knows, in tokentape's own column names, or by `--mapping FILE`.
pub fn csv() -> Format {
    Format { parser: PARSER, recognise: |head, given| given.mapping.is_some() || best(&SHIPPED, head, given).is_some(), open: open_csv }
}

/// The minute and day bars of the recorder that also wrote the CTP snapshots.
pub fn ctp_bars() -> Format {
    Format {
        parser: "ctp-bars/1",
        recognise: |head, given| given.mapping.is_none() && best(&CTP_BARS, head, given).is_some(),
        open: |input, given| open_best(&CTP_BARS, input, given),
    }
}

macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        LazyLock::new(|| vec![$(
            Mapping::parse(concat!("mappings/", $name, ".toml"), include_str!(concat!("../../mappings/", $name, ".toml")))
                .expect("every shipped mapping is parsed by a test")
        ),+])
    };
}

static CTP_BARS: LazyLock<Vec<Mapping>> = shipped!["ctp-minute-bars", "ctp-day-bars"];

static SHIPPED: LazyLock<Vec<Mapping>> = shipped![
    "azure-llm-trace",
    "epoch-usage-reports",
    "lean-trade-tick",
    "lean-quote-tick",
    "lean-openinterest-intraday",
    "lean-openinterest-hour",
    "lean-openinterest-daily",
    "lean-trade-intraday",
    "lean-trade-hour",
    "lean-trade-daily",
    "lean-quote-intraday",
    "lean-quote-hour",
    "lean-quote-daily",
    "lean-universe",
    "own-token-usage",
    "own-trades",
    "own-quotes",
    "own-bars",
    "own-statistics",
    "own-instruments",
    "own-price-list",
    "own-index-values",
    "own-index-inputs",
    "own-conversions",
];

/// The mapping that fits best, where one does.
fn best<'a>(mappings: &'a [Mapping], head: &[u8], given: &Given) -> Option<&'a Mapping> {
    let path = path_text(given);
    let mut fitting: Option<(u32, &Mapping)> = None;
    for mapping in mappings {
        let fit = fit(mapping, head, &path);
        if fit > fitting.map_or(0, |(best, _)| best) {
            fitting = Some((fit, mapping));
        }
    }
    fitting.map(|(_, mapping)| mapping)
}

/// How well a file fits a mapping, in thousandths; 0 = it is something else. A file that only nearly fits is taken, so that its wrong columns become an error that names them.
fn fit(mapping: &Mapping, head: &[u8], path: &str) -> u32 {
    if !mapping.header {
        return if mapping.facts(path).is_some() { 1000 } else { 0 };
    }
    if head.starts_with(b"{") || head.starts_with(b"[") {
        return 0;
    }
    let names = first_line(head, mapping.shape.delimiter);
    let share = |found: usize, of: usize| (found * 1000).checked_div(of).unwrap_or(0) as u32;
    let key = share(mapping.key_columns.iter().filter(|name| names.contains(name)).count(), mapping.key_columns.len());
    let known = share(names.iter().filter(|name| mapping.knows(name)).count(), names.len());
    // Two of three: one of Azure's three columns may be misspelt.
    let enough = if mapping.own_columns { key >= 500 && known >= 660 } else { key >= 660 };
    if enough { (key + known) / 2 } else { 0 }
}

/// Path and member as one text, `/` between folders, without the suffix of a packing.
fn path_text(given: &Given) -> String {
    let path = match &given.member {
        Some(member) => format!("{}/{member}", given.name),
        None => given.name.clone(),
    };
    let path = path.replace('\\', "/");
    let stripped = [".gz", ".zst", ".zstd"].iter().find_map(|suffix| path.strip_suffix(suffix));
    stripped.unwrap_or(&path).to_string()
}

fn open_csv(input: Box<dyn Read + Send>, given: &Given) -> Result<Box<dyn Parser>, Error> {
    let Some(path) = &given.mapping else { return open_best(&SHIPPED, input, given) };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|why| Error::Input {
        file: name.clone(),
        what: format!("the mapping cannot be read: {why}"),
        todo: "check --mapping".into(),
    })?;
    open(&Mapping::parse(&name, &text)?, input, given)
}

fn open_best(mappings: &[Mapping], mut input: Box<dyn Read + Send>, given: &Given) -> Result<Box<dyn Parser>, Error> {
    // The head is read again here, because recognising a file and opening it are two calls.
    let mut head = Vec::new();
    let read = input.by_ref().take(crate::source::HEAD_BYTES as u64).read_to_end(&mut head);
    let broken = read.err().map(Failing);
    let mapping = best(mappings, &head, given).ok_or_else(|| Error::Input {
        file: given.label(),
        what: "no shipped mapping fits this file".into(),
        todo: "describe it in a mapping (--mapping FILE)".into(),
    })?;
    match broken {
        Some(failing) => open(mapping, Box::new(Cursor::new(head).chain(failing)), given),
        None => open(mapping, Box::new(Cursor::new(head).chain(input)), given),
    }
}

/// The rest of an input that could not be read on.
struct Failing(std::io::Error);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::new(self.0.kind(), self.0.to_string()))
    }
}

/// Opens a file by a mapping.
pub fn open(mapping: &Mapping, input: Box<dyn Read + Send>, given: &Given) -> Result<Box<dyn Parser>, Error> {
    let file = given.label();
    let facts = mapping.facts(&path_text(given)).unwrap_or_default();
    let (input, document) = if mapping.document { whole(input, given)? } else { (input, None) };
    let shape = Shape { growing: given.growing, ..mapping.shape };
    let mut records = Records::new(input, file.clone(), shape);
    let names = if mapping.header { header_line(&mut records, &file, &mapping.expected())? } else { mapping.fields.clone() };
    let targets = mapping.targets(&names, &file)?;
    let maker = Mapped::new(mapping, targets, names.clone(), &facts, given)?;
    let header = Header {
        columns: mapping.header.then_some(names),
        schema: maker.constant_schema(),
        licence: mapping.licence.clone(),
        sequence_complete: mapping.sequence_complete.clone(),
        ..Header::default()
    };
    let notes = maker.first_notes();
    let mut table = Table::new(file, records, maker, header, mapping.facts_of_records(facts));
    table.notes = notes;
    if let Some(document) = document {
        table.extra.push(document.rows(&table.maker.dataset, given, mapping.licence.as_deref()));
        table.maker.doc_sha256 = Some(document.sha256);
    }
    Ok(Box::new(table))
}

impl Mapping {
    /// What to read of a file with these columns.
    fn targets(&self, names: &[String], file: &str) -> Result<Vec<Target>, Error> {
        if self.own_columns {
            return self.own_targets(names, file);
        }
        if self.header {
            positions(file, names, &self.fields)?;
        }
        Ok(self.columns.iter().filter_map(|spec| spec.target(names)).collect())
    }

    /// Every column of the file is one of ours.
    fn own_targets(&self, names: &[String], file: &str) -> Result<Vec<Target>, Error> {
        let input = |what: String, todo: String| Error::Input { file: file.into(), what, todo };
        let unknown: Vec<&str> = names.iter().filter(|name| !self.knows(name)).map(String::as_str).collect();
        let missing: Vec<&str> = self.key_columns.iter().filter(|name| !names.contains(name)).map(String::as_str).collect();
        let twice = repeated(names);
        if unknown.is_empty() && missing.is_empty() && twice.is_empty() {
            let uncounted = ["sequence", "symbol"].into_iter().find(|name| !names.iter().any(|own| own == name) && self.counts_by(name));
            if let Some(name) = uncounted {
                let what = format!("it has no column {name}, and the mapping declares its sequence complete");
                return Err(input(what, format!("add {name}, or remove sequence_complete from the mapping")));
            }
            let own = names.iter().enumerate().map(|(at, name)| self.own_target(name, at));
            let derived = self.columns.iter().filter(|spec| !names.iter().any(|name| name == spec.name()));
            let derived = derived.filter_map(|spec| spec.target(names));
            return Ok(own.chain(derived).collect());
        }
        let part = |what: &str, names: Vec<&str>| (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")));
        let faults = [part("missing", missing), part("extra", unknown), part("twice", twice)];
        let what = faults.into_iter().flatten().collect::<Vec<_>>().join("; ");
        let table = self.family.topic().name;
        Err(input(
            format!("its columns are not those of {table}: {what}"),
            format!("expected {} and any other columns of {table} (tape schema {table})", self.key_columns.join(", ")),
        ))
    }

    /// Whether the declared sequence is counted by a column that only the file can fill.
    fn counts_by(&self, name: &str) -> bool {
        let needed = match self.sequence_complete.as_deref() {
            Some("symbol") => true,
            Some(_) => name == "sequence",
            None => false,
        };
        needed && !self.columns.iter().any(|spec| spec.name() == name)
    }

    fn expected(&self) -> String {
        if self.own_columns { self.key_columns.join(", ") } else { self.fields.join(", ") }
    }
}

/// Makes rows by a mapping.
struct Mapped {
    family: Family,
    targets: Vec<Target>,
    names: Vec<String>,
    header: bool,
    facts: Facts,
    zone: clock::Zone,
    required: Vec<String>,
    /// Position and name of the field without which a record is no figure.
    skip_without: Option<(usize, String)>,
    skipped: u64,
    /// Dataset of rows that do not name theirs; empty when nothing says it.
    dataset: String,
    dataset_field: Option<usize>,
    seen_dataset: Option<String>,
    columns: Columns,
    doc_sha256: Option<Vec<u8>>,
    scratch: String,
}

/// Positions of the columns that are filled whatever the mapping says.
struct Columns {
    dataset: usize,
    ts_event: usize,
    ts_recv: usize,
    date: usize,
    doc_sha256: Option<usize>,
}

/// Dataset of a source whose rows should say theirs while none has: of its own row and its quarantine.
const NOT_SAID: &str = "UNKNOWN";

const ASK_FOR_DATASET: &str = "say whose data this is with --dataset CODE (at most 15 characters, for example CME.LEAN)";

impl Mapped {
    fn new(
        mapping: &Mapping,
        targets: Vec<Target>,
        names: Vec<String>,
        facts: &BTreeMap<String, String>,
        given: &Given,
    ) -> Result<Mapped, Error> {
        let file = given.label();
        let facts = Facts { facts: facts.clone(), lookups: mapping.lookups.clone() };
        let input = |what: String, todo: &str| Error::Input { file: file.clone(), what, todo: todo.into() };
        let zone_name = facts.settle(&mapping.zone).ok_or_else(|| {
            let missing: Vec<&str> = mapping.zone.names().filter(|name| !facts.facts.contains_key(*name)).collect();
            let missing = missing.join(", ");
            input(
                format!("its path does not say {missing}, and so not the time zone of its times"),
                &format!("type the path from the folder that says it on, such as future/<{missing}>/…"),
            )
        })?;
        let zone = clock::Zone::named(&zone_name).ok_or_else(|| {
            input(
                format!("its mapping names the time zone {zone_name:?}, which does not exist"),
                "name one of the tz database, such as Asia/Shanghai",
            )
        })?;
        let from_path = mapping.dataset.as_ref().and_then(|template| facts.settle(template));
        let dataset = given.dataset.clone().or(from_path.filter(|code| is_dataset(code))).unwrap_or_default();
        let dataset_field = names.iter().position(|name| mapping.own_columns && name == "dataset");
        if dataset.is_empty() && dataset_field.is_none() {
            return Err(input("nothing in the file or its path says whose data this is".into(), ASK_FOR_DATASET));
        }
        if !dataset.is_empty() && !is_dataset(&dataset) {
            return Err(input(format!("{dataset:?} is not a dataset code"), ASK_FOR_DATASET));
        }
        let topic = mapping.family.topic();
        let columns = Columns {
            dataset: topic.column("dataset"),
            ts_event: topic.column("ts_event"),
            ts_recv: topic.column("ts_recv"),
            date: topic.column("date"),
            doc_sha256: topic.find_column("doc_sha256"),
        };
        let targets = targets.into_iter().map(|target| settled(target, &facts, &names)).collect();
        let skip_without = mapping.skip_without.as_ref().and_then(|name| Some((names.iter().position(|n| n == name)?, name.clone())));
        Ok(Mapped {
            family: mapping.family,
            targets,
            names,
            header: mapping.header,
            facts,
            zone,
            required: mapping.required.clone(),
            skip_without,
            skipped: 0,
            dataset,
            dataset_field,
            seen_dataset: None,
            columns,
            doc_sha256: None,
            scratch: String::new(),
        })
    }

    /// The `schema` that all rows share, where the mapping settles it.
    fn constant_schema(&self) -> Option<String> {
        let schema = self.targets.iter().find(|target| target.name == "schema")?;
        let Value::Constant(schema) = &schema.value else { return None };
        Some(schema.clone())
    }

    /// A symbol that should come from the path and does not is said, not guessed.
    fn first_notes(&self) -> Vec<String> {
        let Some(symbol) = self.targets.iter().find(|target| target.name == "symbol") else { return vec![] };
        match &symbol.value {
            Value::Constant(symbol) if symbol.is_empty() => vec!["no part of the path names the contract: symbol stays empty".into()],
            _ => vec![],
        }
    }

    fn row_dataset<'a>(&'a self, fields: &'a Fields) -> Result<&'a str, Fault> {
        let own = self.dataset_field.map(|at| fields.get(at)).filter(|code| !code.is_empty());
        let code = own.unwrap_or(&self.dataset);
        if is_dataset(code) {
            return Ok(code);
        }
        let reason = if code.is_empty() { "is empty".into() } else { format!("{:?} is not a dataset code", clock::shortened(code)) };
        Err(Fault { field: Some("dataset".into()), reason, file: Some(ASK_FOR_DATASET) })
    }
}

/// A text that no field of a row changes is put together once.
fn settled(target: Target, facts: &Facts, names: &[String]) -> Target {
    match &target.value {
        Value::Text(template) if template.names().all(|name| facts.facts.contains_key(name) || !names.iter().any(|n| n == name)) => {
            Target { value: Value::Constant(facts.fill_alone(template)), ..target }
        }
        _ => target,
    }
}

impl RowMaker for Mapped {
    fn family(&self) -> Family {
        self.family
    }

    fn width(&self) -> usize {
        self.names.len()
    }

    fn expected(&self) -> String {
        self.names.join(", ")
    }

    fn misfit(&self) -> Option<&'static str> {
        (!self.header).then_some("check the file, or describe it in a mapping (--mapping FILE)")
    }

    fn make(&mut self, fields: &Fields, rows: &mut Rows) -> Result<Made, Fault> {
        if self.skip_without.as_ref().is_some_and(|(at, _)| fields.get(*at).is_empty()) {
            self.skipped += 1;
            return Ok(Made::Nothing);
        }
        let mut filled = std::mem::take(&mut self.scratch);
        let dataset = self.row_dataset(fields)?;
        let mut index_time = None;
        for target in self.targets.iter().filter(|target| target.column != self.columns.dataset) {
            let text = match &target.value {
                Value::Field(at) => fields.get(*at),
                Value::Text(template) => {
                    filled.clear();
                    self.facts.fill(template, fields, &self.names, &mut filled);
                    filled.trim()
                }
                Value::Constant(text) => text,
            };
            let empty = text.is_empty() && !matches!(target.value, Value::Field(_));
            if empty || target.absent.iter().any(|absent| absent == text) {
                if self.required.contains(&target.name) {
                    return Err(Fault::value(
                        &target.name_in_file(&self.names),
                        format!("is empty; {} needs it", self.family.topic().name),
                    ));
                }
                // Every row has these two; where another row of the file says them, this one must.
                match target.name.as_str() {
                    "change" => rows.text(target.column, "new"),
                    "revision" => rows.i32(target.column, 0),
                    _ => {}
                }
                continue;
            }
            let time = set(rows, target, text, self.zone, &self.facts)
                .map_err(|reason| Fault::value(&target.name_in_file(&self.names), reason))?;
            if target.column == self.columns.ts_recv || (target.column == self.columns.ts_event && index_time.is_none()) {
                index_time = time;
            }
        }
        if let Some(time) = index_time {
            rows.date(self.columns.date, date_of(time));
        }
        rows.text(self.columns.dataset, dataset);
        if let (Some(column), Some(hash)) = (self.columns.doc_sha256, &self.doc_sha256) {
            rows.bytes(column, hash);
        }
        if self.seen_dataset.is_none() {
            let seen = dataset.to_string();
            self.seen_dataset = Some(seen);
        }
        self.scratch = filled;
        Ok(Made::Row)
    }

    fn dataset(&self) -> String {
        let known = self.seen_dataset.as_ref().unwrap_or(&self.dataset);
        if known.is_empty() { NOT_SAID.into() } else { known.clone() }
    }

    fn last_notes(&self) -> Vec<String> {
        match &self.skip_without {
            Some((_, name)) if self.skipped > 0 => {
                vec![format!(
                    "{} records have no {name:?}: they are no figures, and are kept in documents with the whole file",
                    self.skipped
                )]
            }
            _ => vec![],
        }
    }
}

/// Sets one column; gives back the time, where it is one.
fn set(rows: &mut Rows, target: &Target, text: &str, zone: clock::Zone, facts: &Facts) -> Result<Option<i64>, String> {
    let column = target.column;
    let integer = |precision| exact::parse(text, precision, 0, target.shift).map_err(|e| e.to_string());
    match target.kind {
        Kind::Text => {
            let words = rows.topic().fields[column].words;
            if !words.is_empty() && !words.contains(&text) {
                return Err(format!("{:?} is none of {}", clock::shortened(text), words.join(", ")));
            }
            rows.text(column, text);
        }
        Kind::I32 => rows.i32(column, i32::try_from(integer(10)?).map_err(|_| format!("{text} is beyond a 32-bit integer"))?),
        Kind::I64 => rows.i64(column, i64::try_from(integer(19)?).map_err(|_| format!("{text} is beyond a 64-bit integer"))?),
        Kind::U64 | Kind::Price | Kind::Tokens | Kind::Amount | Kind::Factor => {
            let (precision, scale) = target.kind.decimal().expect("these five kinds are decimals");
            rows.decimal(column, exact::parse(text, precision, scale as u32, target.shift).map_err(|e| e.to_string())?);
        }
        Kind::Time => {
            let day = target.day.as_ref().and_then(|name| facts.facts.get(name)).map(|day| clock::date(day)).transpose()?;
            let time = target.clock.parse(text, zone, day)?;
            let time = time.checked_add(target.plus_days * NS_PER_DAY).ok_or("is beyond the years that nanoseconds reach")?;
            rows.i64(column, time);
            return Ok(Some(time));
        }
        Kind::Date => rows.date(column, date_text(text, target)?),
        Kind::Bool => rows.bool(column, truth(text)?),
        Kind::Bytes => rows.bytes(column, &hex::decode(text).map_err(|e| format!("is not hexadecimal: {e}"))?),
    }
    Ok(None)
}

/// A date, or the date of a time that a pattern reads (a day bar stamped `20131006 00:00`).
fn date_text(text: &str, target: &Target) -> Result<i32, String> {
    match &target.clock {
        clock::Clock::Pattern(_) => target.clock.parse(text, clock::UTC, None).map(date_of),
        _ => clock::date(text).map(clock::days),
    }
}

fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err(format!("{:?} is not true or false", clock::shortened(text))),
    }
}

/// A file that also goes whole to `documents`.
struct Document {
    body: Vec<u8>,
    sha256: Vec<u8>,
}

/// Longest file that is kept in memory to go whole to `documents`: with its frame it stays under the topic's 64 MiB.
const DOCUMENT_BYTES_MAX: usize = 3 * RECORD_BYTES_MAX;

type Input = Box<dyn Read + Send>;

fn whole(mut input: Input, given: &Given) -> Result<(Input, Option<Document>), Error> {
    let mut body = Vec::new();
    if let Err(why) = input.by_ref().take(DOCUMENT_BYTES_MAX as u64 + 1).read_to_end(&mut body) {
        return Err(Error::Read { file: given.label(), byte: body.len() as u64, why });
    }
    if body.len() > DOCUMENT_BYTES_MAX {
        let what = format!("is longer than {} MiB, and its mapping keeps the whole file as a document", DOCUMENT_BYTES_MAX >> 20);
        return Err(Error::Input { file: given.label(), what, todo: "use a mapping without `document = true`".into() });
    }
    let sha256 = Sha256::digest(&body).to_vec();
    Ok((Box::new(Cursor::new(body.clone())), Some(Document { body, sha256 })))
}

impl Document {
    fn rows(&self, dataset: &str, given: &Given, licence: Option<&str>) -> Rows {
        let mut rows = Rows::new(Family::Documents);
        let column = |name| Family::Documents.topic().column(name);
        rows.text(column("dataset"), dataset);
        rows.text(column("uri"), &given.label());
        rows.text(column("media_type"), "text/csv");
        rows.bytes(column("body"), &self.body);
        rows.bytes(column("sha256"), &self.sha256);
        let packed = given.member.is_some() || given.inner_name() != given.name;
        if !packed {
            rows.i64(column("bytes"), self.body.len() as i64);
        }
        rows.i32(column("part"), 0);
        rows.i32(column("parts"), 1);
        if let Some(licence) = licence {
            rows.text(column("licence"), licence);
        }
        rows.i64(column("source_record"), 0);
        rows.i64(column("source_byte"), 0);
        rows.end_row();
        rows
    }
}

#[cfg(test)]
mod tests;
