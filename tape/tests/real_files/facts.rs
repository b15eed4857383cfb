//! A fact, the question that must give it, and the comparison: exact, whatever the spelling of a number.

use super::run::{Home, Ingested};
use schemas::exact;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// How a fact's number relates to the column's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// The same number.
    Same,
    /// The fact counts in this power of ten below one: 9 for raw DBN prices.
    Down(u32),
    /// The fact is smaller by this power of ten: 6 for a price per token beside one per million.
    Up(u32),
    /// The fact counts in milliseconds, the column in nanoseconds.
    Milliseconds,
}

/// One fact of a file.
#[derive(Debug, Clone)]
pub enum Check {
    /// The value of an expression over a table's rows of this file.
    Scalar { name: String, from: String, expr: String, scale: Scale, expected: Option<Value> },
    /// A question whose columns `k` and `v` give a map.
    Map { name: String, sql: String },
    /// A question whose column `v` gives a list.
    List { name: String, sql: String },
    /// A question whose rows must be these objects, where the columns of a row are compared by name. Numbers named `…_ms` count milliseconds.
    Rows { name: String, sql: String, expected: Vec<Value> },
    /// A fact that no record holds.
    Excluded { name: String },
}

/// Stands in a question for the rows of the file under test.
pub const ROWS: &str = "$rows";

impl Check {
    pub fn scalar(name: &str, from: &str, expr: &str) -> Check {
        Check::Scalar { name: name.into(), from: from.into(), expr: expr.into(), scale: Scale::Same, expected: None }
    }

    pub fn scaled(name: &str, from: &str, expr: &str, scale: Scale) -> Check {
        Check::Scalar { name: name.into(), from: from.into(), expr: expr.into(), scale, expected: None }
    }

    /// A number that is derived from the facts.
    pub fn value(name: &str, from: &str, expr: &str, expected: Value) -> Check {
        Check::Scalar { name: name.into(), from: from.into(), expr: expr.into(), scale: Scale::Same, expected: Some(expected) }
    }

    pub fn map(name: &str, sql: &str) -> Check {
        Check::Map { name: name.into(), sql: sql.into() }
    }

    pub fn list(name: &str, sql: &str) -> Check {
        Check::List { name: name.into(), sql: sql.into() }
    }

    pub fn excluded(name: &str, _why: &str) -> Check {
        Check::Excluded { name: name.into() }
    }

    pub fn name(&self) -> &str {
        match self {
            Check::Scalar { name, .. }
            | Check::Map { name, .. }
            | Check::List { name, .. }
            | Check::Rows { name, .. }
            | Check::Excluded { name } => name,
        }
    }
}

/// What was found over several files.
#[derive(Debug, Default)]
pub struct Outcome {
    files: usize,
    checked: usize,
    wrong: Vec<String>,
}

impl Outcome {
    pub fn add(&mut self, other: Outcome) {
        self.files += other.files;
        self.checked += other.checked;
        self.wrong.extend(other.wrong);
    }

    pub fn conclude(self, files: usize) {
        println!("{} facts of {} files checked, 0 skipped", self.checked, self.files);
        assert_eq!(self.files, files);
        assert!(self.wrong.is_empty(), "{} facts are wrong:\n{}", self.wrong.len(), self.wrong.join("\n"));
    }
}

/// A file and what is to be found out about it.
pub struct Subject<'a> {
    pub file: &'a str,
    pub facts: &'a Value,
    pub checks: Vec<Check>,
    /// Narrows the tables to its sources where they hold other files too.
    pub ids: Vec<String>,
    pub first: Ingested,
    pub second: Ingested,
}

/// Checks every fact of these files, with one `tape sql` for all of them.
pub fn check(home: &Home, subjects: &[Subject]) -> Outcome {
    let statements: Vec<Vec<String>> = subjects.iter().map(Subject::statements).collect();
    let answers = home.ask(&statements.concat());
    assert_eq!(answers.len(), statements.concat().len(), "every statement has an answer");
    let mut rest = &answers[..];
    let mut outcome = Outcome::default();
    for (subject, statements) in subjects.iter().zip(&statements) {
        let (own, others) = rest.split_at(statements.len());
        outcome.add(subject.judge(own));
        rest = others;
    }
    outcome
}

impl Subject<'_> {
    /// What to ask: one statement per table for all its scalars, then the others.
    fn statements(&self) -> Vec<String> {
        let rows = match &self.ids[..] {
            [] => "TRUE".to_string(),
            ids => format!("source_id IN ({})", ids.iter().map(|id| format!("X'{id}'")).collect::<Vec<_>>().join(", ")),
        };
        let scalars = scalars_by_table(&self.checks);
        let scalars = scalars.iter().map(|(from, scalars)| {
            let columns: Vec<String> = scalars.iter().enumerate().map(|(i, (_, expr, ..))| format!("{expr} AS c{i}")).collect();
            let from = if from.contains(ROWS) { (*from).to_string() } else { format!("{from} WHERE {ROWS}") };
            format!("SELECT {} FROM {from}", columns.join(", "))
        });
        let others = self.checks.iter().filter_map(|check| match check {
            Check::Map { sql, .. } | Check::List { sql, .. } | Check::Rows { sql, .. } => Some(sql.clone()),
            Check::Scalar { .. } | Check::Excluded { .. } => None,
        });
        scalars.chain(others).map(|sql| sql.replace(ROWS, &rows)).collect()
    }

    fn judge(&self, answers: &[Vec<Value>]) -> Outcome {
        let Subject { file, facts, checks, first, second, .. } = self;
        let mut wrong = Vec::new();
        let mut fault = |what: String| wrong.push(format!("{file}: {what}"));
        if first.code != 0 {
            fault(format!("ingest ended with {}: {}", first.code, first.report));
        }
        if second.published() != 0 || second.code != 0 {
            fault(format!("the second ingest published {} and ended with {}: {}", second.published(), second.code, second.report));
        }
        let named: BTreeSet<&str> = checks.iter().map(Check::name).collect();
        for name in facts.as_object().expect("facts by name").keys() {
            if !named.contains(name.as_str()) {
                fault(format!("fact {name} is neither checked nor excluded"));
            }
        }
        let scalars = scalars_by_table(checks);
        let tables = checks.iter().filter(|check| !matches!(check, Check::Scalar { .. } | Check::Excluded { .. }));
        let mut checked = 0;
        for ((_, scalars), answer) in scalars.iter().zip(answers) {
            for (i, (name, expr, scale, expected)) in scalars.iter().enumerate() {
                let expected = expected.as_ref().unwrap_or(&facts[*name]);
                let found = &answer[0][format!("c{i}")];
                checked += 1;
                if canonical(expected) != scaled(found, *scale) {
                    fault(format!("{name}: {expr} gives {found}, expected {expected}"));
                }
            }
        }
        for (check, answer) in tables.zip(&answers[scalars.len()..]) {
            let expected = match check {
                Check::Rows { expected, .. } => Value::Array(expected.clone()),
                check => facts[check.name()].clone(),
            };
            let found = match check {
                Check::Map { .. } => Value::Object(answer.iter().map(|row| (spelled(&row["k"]), row["v"].clone())).collect()),
                Check::List { .. } => answer.iter().map(|row| row["v"].clone()).collect(),
                _ => Value::Array(answer.clone()),
            };
            checked += 1;
            if !same(&expected, &found) {
                fault(format!("{}: found {found}, expected {expected}", check.name()));
            }
        }
        Outcome { files: 1, checked, wrong }
    }
}

type Scalars<'a> = Vec<(&'a str, &'a str, Scale, Option<Value>)>;

fn scalars_by_table(checks: &[Check]) -> BTreeMap<&str, Scalars<'_>> {
    let mut tables: BTreeMap<&str, Scalars> = BTreeMap::new();
    for check in checks {
        if let Check::Scalar { name, from, expr, scale, expected } = check {
            tables.entry(from).or_default().push((name, expr, *scale, expected.clone()));
        }
    }
    tables
}

fn spelled(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}

/// Objects by the columns that are expected, lists in order, numbers by value.
fn same(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            expected.len() <= found.len() && expected.iter().all(|(key, value)| found.get(key).is_some_and(|found| same(value, found)))
        }
        (Value::Array(expected), Value::Array(found)) => {
            expected.len() == found.len() && expected.iter().zip(found).all(|(expected, found)| same(expected, found))
        }
        (expected, found) => canonical(expected) == canonical(found),
    }
}

/// One spelling per value: numbers without trailing zeros, whether they came as a number or as text.
fn canonical(value: &Value) -> String {
    let text = spelled(value);
    match exact::parse(&text, 38, 18, 0) {
        Ok(number) => number.to_string(),
        Err(_) => text,
    }
}

fn scaled(value: &Value, scale: Scale) -> String {
    let shift = match scale {
        Scale::Same => return canonical(value),
        Scale::Down(digits) => digits as i32,
        Scale::Up(digits) => -(digits as i32),
        Scale::Milliseconds => -6,
    };
    let text = spelled(value);
    exact::parse(&text, 38, 18, shift).map_or(text, |number| number.to_string())
}
