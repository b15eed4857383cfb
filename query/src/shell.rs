//! The interactive shell, and the same language from a pipe: statements ended by `;`, commands that begin with `\`. An error or Ctrl-C ends
//! the statement, never the shell.

use crate::catalog::SCHEMA;
use crate::draw;
use crate::engine::{Engine, Principal};
use crate::error::Error;
use crate::output::{self, Format, TableStyle, Written};
use crate::pager::Pager;
use crate::statements::{is_blank, split};
use arrow::array::{RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::FutureExt;
use futures::future::BoxFuture;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper, Highlighter, Hinter};
use schemas::about::{self, VIEWS, View, shown_fields};
use schemas::{Family, Topic};
use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;

/// Becomes ready when the person wants the running statement to stop.
pub type Interrupt = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// Ctrl-C at this process.
pub fn ctrl_c() -> Interrupt {
    Arc::new(|| {
        async {
            if tokio::signal::ctrl_c().await.is_err() {
                // No handler can be installed: the statement runs to its end or its time limit.
                futures::future::pending::<()>().await;
            }
        }
        .boxed()
    })
}

/// A conversation with the engine.
pub struct Shell {
    engine: Arc<Engine>,
    principal: Principal,
    runtime: Handle,
    interrupt: Interrupt,
    format: Format,
    style: TableStyle,
    /// For what is longer than a terminal, where there is one.
    pager: Option<Pager>,
}

/// Where a conversation is written to: results and what is said about them.
pub struct Writers<'a> {
    /// Results.
    pub out: &'a mut (dyn Write + Send),
    /// Errors and remarks.
    pub err: &'a mut (dyn Write + Send),
}

/// How a statement or a command went; of several, the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Went {
    /// It was answered.
    Well,
    /// It was not understood or is not allowed: another statement is needed.
    Misused,
    /// It could not be answered.
    Failed,
}

/// Does the conversation go on?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    More,
    Quit,
}

const HELP: &str = "\
SELECT …;        a query, on as many lines as it takes, ended by ;
\\d               the tables
\\d NAME          columns of a table, with type, unit and meaning
\\x               one line per column instead of one per row, on and off
\\pager           what is longer than the terminal through PAGER, or less; on and off
\\plot            results of two columns (time or number, number) as pictures, on and off
\\timing          how long each statement took, on and off
\\q               leave (also exit, quit, Ctrl-D)
\\?               this text (also help)
Ctrl-C stops the running statement, or clears what is typed. Tab completes tables, columns and SQL words.
";

impl Shell {
    /// A conversation in `format`; the runtime must not be the one that calls, since the shell waits for it.
    pub fn new(
        engine: Arc<Engine>,
        principal: Principal,
        runtime: Handle,
        interrupt: Interrupt,
        format: Format,
        style: TableStyle,
    ) -> Shell {
        Shell { engine, principal, runtime, interrupt, format, style, pager: None }
    }

    /// Reads statements from a terminal until the person leaves; `history` is made where it does not exist.
    pub fn interactive(&mut self, history: Option<PathBuf>, writers: &mut Writers<'_>) -> Result<(), Error> {
        let terminal = |e: ReadlineError| Error::Terminal(e.to_string());
        let config = Config::builder().completion_type(CompletionType::List).auto_add_history(true).build();
        let mut editor: Editor<Words, DefaultHistory> = Editor::with_config(config).map_err(terminal)?;
        editor.set_helper(Some(Words::new()));
        self.pager = Some(Pager::of_environment());
        // A first conversation has no history yet.
        let _absent = history.as_ref().map(|path| editor.load_history(path));
        writeln!(writers.out, "tokentape: SQL over the tape. \\? for help, \\q to leave.")?;
        writers.out.flush()?;
        loop {
            let typed = match editor.readline("tape> ") {
                Ok(typed) => typed,
                Err(ReadlineError::Interrupted) => continue,
                Err(ReadlineError::Eof) => break,
                Err(e) => return Err(terminal(e)),
            };
            if let Some((columns, lines)) = editor.dimensions() {
                self.style.width = Some(usize::from(columns));
                self.pager.iter_mut().for_each(|pager| pager.height = usize::from(lines));
            }
            if self.typed(&typed, writers)? == After::Quit {
                break;
            }
        }
        if let Some(Err(e)) = history.as_ref().map(|path| editor.save_history(path)) {
            writeln!(writers.err, "the history could not be kept: {e}")?;
        }
        Ok(())
    }

    fn typed(&mut self, typed: &str, writers: &mut Writers<'_>) -> Result<After, Error> {
        if let Some(command) = command_in(typed) {
            return Ok(self.command(command, writers)?.0);
        }
        let (statements, rest) = split(typed);
        for statement in statements.into_iter().chain((!is_blank(rest)).then_some(rest)) {
            self.statement(statement, writers)?;
        }
        Ok(After::More)
    }

    /// Reads statements and commands to the end of `input`, whatever becomes of each. What stands after the last `;` is run too.
    pub fn script(&mut self, input: &mut dyn BufRead, writers: &mut Writers<'_>) -> Result<Went, Error> {
        let mut worst = Went::Well;
        let mut pending = String::new();
        let mut line = String::new();
        while input.read_line(&mut line).map_err(|e| Error::Terminal(e.to_string()))? > 0 {
            if let (true, Some(command)) = (is_blank(&pending), command_in(&line)) {
                let (after, went) = self.command(command, writers)?;
                worst = worst.max(went);
                if after == After::Quit {
                    return Ok(worst);
                }
                line.clear();
                continue;
            }
            pending.push_str(&line);
            line.clear();
            let (statements, rest) = split(&pending);
            for statement in statements {
                worst = worst.max(self.statement(statement, writers)?);
            }
            pending = rest.to_string();
        }
        if !is_blank(&pending) {
            worst = worst.max(self.statement(pending.trim(), writers)?);
        }
        Ok(worst)
    }

    /// Runs what was given whole, a command or one statement. What went wrong was said.
    pub fn once(&mut self, given: &str, writers: &mut Writers<'_>) -> Result<Went, Error> {
        match command_in(given) {
            Some(command) => Ok(self.command(command, writers)?.1),
            None => self.statement(given, writers),
        }
    }

    /// Runs one statement and writes its result, or says what went wrong. An error is one of writing.
    pub fn statement(&mut self, sql: &str, writers: &mut Writers<'_>) -> Result<Went, Error> {
        match self.answer(sql, writers) {
            Ok(_) => Ok(Went::Well),
            Err(Error::Write(e)) => Err(Error::Write(e)),
            Err(e) => {
                writers.out.flush()?;
                writeln!(writers.err, "error: {e}")?;
                Ok(if e.is_wrong_use() { Went::Misused } else { Went::Failed })
            }
        }
    }

    fn answer(&self, sql: &str, writers: &mut Writers<'_>) -> Result<Written, Error> {
        let begun = Instant::now();
        let Writers { out, err } = writers;
        let query = async {
            if let Err(e) = self.engine.refresh().await {
                writeln!(err, "warning: {e}; answering from the tables as they were before")?;
            }
            let behind = self.engine.behind();
            let (_, stream) = self.engine.run(&self.principal, sql).await?;
            let written = match &self.pager {
                None => output::write(self.format, &self.style, begun, stream, *out).await?,
                Some(pager) => {
                    let mut drawn = Vec::new();
                    let written = output::write(self.format, &self.style, begun, stream, &mut drawn).await?;
                    if !pager.shows(&drawn)? {
                        out.write_all(&drawn)?;
                        out.flush()?;
                    }
                    written
                }
            };
            if let Some(why) = behind.or_else(|| self.engine.behind()) {
                out.flush()?;
                writeln!(err, "note: the newest records may be missing here: {why}")?;
            }
            Ok(written)
        };
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = (self.interrupt)() => Err(Error::Cancelled),
                answer = query => answer,
            }
        })
    }

    /// Obeys a command.
    fn command(&mut self, command: &str, writers: &mut Writers<'_>) -> Result<(After, Went), Error> {
        let mut words = command.split_whitespace();
        let went = match (words.next().unwrap_or(""), words.next(), words.next()) {
            ("q", None, None) => return Ok((After::Quit, Went::Well)),
            ("?", None, None) => writers.out.write_all(HELP.as_bytes()).map(|()| Went::Well)?,
            ("x", None, None) => {
                self.style.expanded = !self.style.expanded;
                said(writers, "expanded display", self.style.expanded)?
            }
            ("pager", None, None) => {
                let on = self.pager.as_mut().is_some_and(|pager| {
                    pager.on = !pager.on;
                    pager.on
                });
                said(writers, "the pager", on)?
            }
            ("plot", None, None) => {
                self.style.plots = !self.style.plots;
                said(writers, "plots of two columns", self.style.plots)?
            }
            ("timing", None, None) => {
                self.style.timing = !self.style.timing;
                said(writers, "timing", self.style.timing)?
            }
            ("d", None, None) => self.list_tables(writers)?,
            ("d", Some(name), None) => self.describe(name.trim_end_matches(';'), writers)?,
            _ => {
                writeln!(writers.err, "error: no command \\{command}; \\? lists the commands")?;
                Went::Misused
            }
        };
        writers.out.flush()?;
        Ok((After::More, went))
    }

    fn list_tables(&self, writers: &mut Writers<'_>) -> Result<Went, Error> {
        let row = |(family, rows): (Family, u64)| {
            let topic = family.topic();
            vec![Some(topic.name.to_string()), Some(rows.to_string()), Some(topic.doc.to_string())]
        };
        let mut rows: Vec<_> = self.engine.rows().into_iter().map(row).collect();
        // What the others show is only known when they are asked.
        let count = |view: &View| (view.name == about::SCHEMAS).then(|| Family::ALL.len().to_string());
        rows.extend(VIEWS.iter().map(|view| vec![Some(view.name.to_string()), count(view), Some(view.doc.to_string())]));
        self.listed(&[("table", false), ("rows", true), ("a row is", false)], rows, writers)
    }

    fn describe(&mut self, name: &str, writers: &mut Writers<'_>) -> Result<Went, Error> {
        let plain = name.to_lowercase();
        let plain = plain.strip_prefix(&format!("{SCHEMA}.")).unwrap_or(&plain);
        let (about, fields) = match (Family::named(plain), View::named(plain)) {
            (Some(family), _) => (about_family(family.topic()), shown_fields(family)),
            (None, Some(view)) => (format!("a row is {}", view.doc), view.fields.clone()),
            (None, None) => return self.statement(&format!("DESCRIBE {name}"), writers),
        };
        if self.format == Format::Table {
            writeln!(writers.out, "{plain}: {about}")?;
        }
        let row = |field: schemas::Field| {
            let null = if field.required { " NOT NULL" } else { "" };
            [field.name.to_string(), field.kind.sql() + null, field.unit.to_string(), field.doc.to_string()].map(Some).to_vec()
        };
        let rows: Vec<_> = fields.into_iter().map(row).collect();
        self.listed(&[("column", false), ("type", false), ("unit", false), ("meaning", false)], rows, writers)
    }

    /// A list of our own in the format of results; numbers are those of the second kind of column.
    fn listed(&self, heads: &[(&str, bool)], rows: Vec<Vec<draw::Cell>>, writers: &mut Writers<'_>) -> Result<Went, Error> {
        let field = |(name, numeric): &(&str, bool)| Field::new(*name, if *numeric { DataType::UInt64 } else { DataType::Utf8 }, true);
        let schema = Arc::new(Schema::new(heads.iter().map(field).collect::<Vec<_>>()));
        let column =
            |(i, field): (usize, &FieldRef)| cast(&rows.iter().map(|row| row[i].as_deref()).collect::<StringArray>(), field.data_type());
        let columns = schema.fields().iter().enumerate().map(column).collect::<Result<Vec<_>, _>>();
        let batch = columns.and_then(|columns| RecordBatch::try_new(schema.clone(), columns));
        let batch = batch.map_err(|e| Error::Execution { doing: "listing", what: e.to_string() })?;
        let stream = Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter([Ok(batch)])));
        let style = TableStyle { expanded: false, timing: false, plots: false, ..self.style.clone() };
        self.runtime.block_on(output::write(self.format, &style, Instant::now(), stream, writers.out))?;
        Ok(Went::Well)
    }
}

/// What stands behind the `\` of a command, or what a word means that other shells know.
pub fn command_in(typed: &str) -> Option<&str> {
    let typed = typed.trim();
    match typed.strip_suffix(';').unwrap_or(typed).trim_end().to_lowercase().as_str() {
        "exit" | "quit" => Some("q"),
        "help" => Some("?"),
        _ => typed.strip_prefix('\\'),
    }
}

fn about_family(topic: &Topic) -> String {
    let revisions = match topic.business_key {
        [] => String::new(),
        key => format!("; revisions count within {}", key.join(", ")),
    };
    format!("a row is {}; partitioned by {}{revisions}", topic.doc, topic.partition_by.join(", "))
}

fn said(writers: &mut Writers<'_>, what: &str, on: bool) -> Result<Went, Error> {
    writeln!(writers.out, "{what} is {}", if on { "on" } else { "off" })?;
    Ok(Went::Well)
}

/// The words that Tab completes.
#[derive(Helper, Hinter, Highlighter)]
struct Words {
    tables: BTreeSet<String>,
    columns: BTreeSet<String>,
}

/// SQL words worth completing.
const KEYWORDS: [&str; 48] = [
    "ALL",
    "AND",
    "AS",
    "ASC",
    "AVG",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "COALESCE",
    "COUNT",
    "CROSS",
    "DATE_BIN",
    "DATE_TRUNC",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "FIRST_VALUE",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "INNER",
    "INTERVAL",
    "JOIN",
    "LAST_VALUE",
    "LEFT",
    "LIMIT",
    "MAX",
    "MIN",
    "NULL",
    "OFFSET",
    "ORDER",
    "OVER",
    "PARTITION",
    "ROW_NUMBER",
    "SELECT",
    "SHOW",
    "SUM",
    "TIMESTAMP",
    "UNION",
    "WHERE",
    "WITH",
];

impl Words {
    fn new() -> Words {
        let of_views = VIEWS.iter().flat_map(|view| view.fields.clone());
        let columns = Family::ALL.into_iter().flat_map(shown_fields).chain(of_views).map(|field| field.name.into_owned()).collect();
        let tables = Family::ALL.into_iter().map(|family| family.topic().name).chain(VIEWS.iter().map(|view| view.name));
        let tables = tables.map(String::from).collect();
        Words { tables, columns }
    }

    /// Where the word before the cursor begins, and what it may become.
    fn candidates(&self, before: &str) -> (usize, Vec<String>) {
        let begin = before
            .rfind(|c: char| !c.is_alphanumeric() && c != '_')
            .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
        let word = before[begin..].to_lowercase();
        let starting = |names: &BTreeSet<String>| names.iter().filter(|name| name.starts_with(&word)).cloned().collect::<Vec<_>>();
        if before.starts_with("\\d ") {
            return (begin, starting(&self.tables));
        }
        if word.is_empty() {
            return (begin, Vec::new());
        }
        let keywords = KEYWORDS.iter().map(|keyword| keyword.to_lowercase()).filter(|keyword| keyword.starts_with(&word));
        let upper = before[begin..].starts_with(char::is_uppercase);
        let keywords = keywords.map(|keyword| if upper { keyword.to_uppercase() } else { keyword });
        (begin, starting(&self.tables).into_iter().chain(starting(&self.columns)).chain(keywords).collect())
    }
}

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.candidates(&line[..pos]))
    }
}

impl Validator for Words {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let complete = is_complete(context.input());
        Ok(if complete { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

/// Commands end with their line, statements with `;`.
fn is_complete(input: &str) -> bool {
    command_in(input).is_some() || is_blank(split(input).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tab_completes_tables_columns_and_words() {
        let words = Words::new();
        let complete = |before: &str| words.candidates(before);
        assert_eq!(
            complete("SELECT * FROM trad"),
            (
                14,
                vec![
                    "trades".into(),
                    "trade_date".into(),
                    "trade_id".into(),
                    "trading_event".into(),
                    "trading_reference_date".into(),
                    "trading_reference_price".into()
                ]
            )
        );
        assert_eq!(complete("\\d tok"), (3, vec!["token_usage".into()]));
        assert_eq!(complete("SEL"), (0, vec!["SELECT".into()]));
        assert_eq!(complete("tape.quo"), (5, vec!["quotes".into()]));
        assert_eq!(complete("select "), (7, vec![]));
        assert_eq!(complete("é…wher"), ("é…".len(), vec!["where".into()]));
    }

    #[test]
    fn words_of_other_shells_are_commands() {
        for (typed, command) in [("exit", "q"), (" QUIT ;\n", "q"), ("help;", "?"), ("\\d trades", "d trades")] {
            assert_eq!(command_in(typed), Some(command), "{typed}");
            assert!(is_complete(typed), "{typed}");
        }
        assert!(command_in("SELECT 1").is_none() && command_in("help me").is_none());
    }

    #[test]
    fn a_statement_is_complete_at_its_semicolon() {
        assert!(is_complete("") && is_complete("\\d trades") && is_complete("SELECT 1;") && is_complete("SELECT 1; -- done"));
        assert!(!is_complete("SELECT 1") && !is_complete("SELECT ';") && !is_complete("SELECT 1; SELECT"));
    }
}
