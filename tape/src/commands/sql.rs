//! `tape sql`: one statement, statements from standard input, or a shell.

use super::Code;
use crate::args::{Format, Sql};
use crate::settings::{Settings, WrongUse};
use crate::{home, panics, tables};
use anyhow::Result;
use query::output::TableStyle;
use query::shell::{Shell, Writers, ctrl_c};
use query::{Principal, output};
use std::io::{IsTerminal, Write, stderr, stdin, stdout};
use std::sync::Arc;
use std::time::Duration;

pub fn run(args: &Sql, settings: &Settings) -> Result<Code> {
    let format = tables::output_format(format(args, settings)?);
    home::refuse_missing_tables(settings)?;
    panics::become_errors_of_their_query();
    let runtime = home::runtime()?;
    let engine = Arc::new(runtime.block_on(tables::engine(settings, Duration::from_secs(args.timeout)))?);
    let terminal = stdout().is_terminal();
    let width = terminal.then(|| console::Term::stdout().size().1.into());
    let interactive = args.statement.is_none() && stdin().is_terminal();
    let style = TableStyle { width, color: terminal, timing: interactive, ..TableStyle::default() };
    let mut shell = Shell::new(engine, Principal::local(), runtime.handle().clone(), ctrl_c(), format, style);
    let (mut out, mut err) = (std::io::BufWriter::new(stdout()), stderr());
    let writers = &mut Writers { out: &mut out, err: &mut err };
    let done = match &args.statement {
        Some(given) => shell.once(given, writers),
        None if interactive => shell.interactive(Some(settings.home.join("sql_history")), writers).map(|()| true),
        None => shell.script(&mut stdin().lock(), writers).map(|failed| failed == 0),
    };
    let good = match done {
        Err(query::Error::Write(why)) if why.kind() == std::io::ErrorKind::BrokenPipe => true,
        done => done?,
    };
    match out.flush() {
        Err(why) if why.kind() != std::io::ErrorKind::BrokenPipe => return Err(why.into()),
        _ => {}
    }
    Ok(if good { Code::Fine } else { Code::Fault })
}

/// The format that was asked for: `--json` is `--format json`.
fn format(args: &Sql, settings: &Settings) -> Result<Format> {
    match (args.format, settings.json) {
        (None, false) => Ok(Format::Table),
        (None | Some(Format::Json), true) => Ok(Format::Json),
        (Some(_), true) => Err(WrongUse("--json is --format json: give one of the two".into()).into()),
        (Some(format), false) => Ok(format),
    }
}

/// Answers one statement into memory: for the few rows that `tape up` shows.
pub async fn answer(engine: &query::Engine, sql: &str, format: output::Format, style: &TableStyle) -> Result<Vec<u8>, query::Error> {
    let begun = std::time::Instant::now();
    engine.refresh().await?;
    let (_, stream) = engine.run(&Principal::local(), sql).await?;
    let mut bytes = Vec::new();
    output::write(format, style, begun, stream, &mut bytes).await?;
    Ok(bytes)
}
