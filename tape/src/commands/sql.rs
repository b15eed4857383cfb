//! `tape sql`: one statement, statements from standard input, or a shell.

use super::Code;
use crate::args::{Format, Sql};
use crate::settings::{Settings, WrongUse};
use crate::tables::{self, Queries};
use crate::{home, panics};
use anyhow::Result;
use query::output::{TableStyle, Written};
use query::shell::{Shell, Went, Writers, command_in, ctrl_c};
use query::{Engine, Principal, output};
use std::io::{IsTerminal, Write, stderr, stdin, stdout};
use std::time::Duration;

pub fn run(args: &Sql, settings: &Settings) -> Result<Code> {
    let format = tables::output_format(format(args, settings)?);
    home::refuse_missing_tables(settings)?;
    panics::become_errors_of_their_query();
    let runtime = home::runtime()?;
    let queries = Queries::open(settings, Duration::from_secs(args.timeout))?;
    queries.wait_for_tail();
    let engine = queries.engine.clone();
    let terminal = stdout().is_terminal();
    let width = terminal.then(|| console::Term::stdout().size().1.into());
    let interactive = args.statement.is_none() && stdin().is_terminal();
    let style = TableStyle { width, color: terminal, timing: interactive, ..TableStyle::default() };
    let mut shell = Shell::new(engine.clone(), Principal::local(), runtime.handle().clone(), ctrl_c(), format, style.clone());
    let (mut out, mut err) = (std::io::BufWriter::new(stdout()), stderr());
    let writers = &mut Writers { out: &mut out, err: &mut err };
    let done = match &args.statement {
        Some(given) if format == output::Format::Table && command_in(given).is_none() => {
            runtime.block_on(drawn(&engine, given, &style, writers))
        }
        Some(given) => shell.once(given, writers).map(code_of),
        None if interactive => shell.interactive(Some(settings.home.join("sql_history")), writers).map(|()| Code::Fine),
        None => shell.script(&mut stdin().lock(), writers).map(code_of),
    };
    let code = match done {
        Err(query::Error::Write(why)) if why.kind() == std::io::ErrorKind::BrokenPipe => Code::Fine,
        done => done?,
    };
    match out.flush() {
        Err(why) if why.kind() != std::io::ErrorKind::BrokenPipe => return Err(why.into()),
        _ => {}
    }
    Ok(code)
}

/// Draws the answer to one statement. A table that was cut is seen by whoever reads only the exit code, too.
async fn drawn(engine: &Engine, sql: &str, style: &TableStyle, writers: &mut Writers<'_>) -> Result<Code, query::Error> {
    let behind = engine.behind();
    let answered = tokio::select! {
        biased;
        () = ctrl_c()() => Err(query::Error::Cancelled),
        answered = answer(engine, sql, output::Format::Table, style, writers.out) => answered,
    };
    if let (Some(why), Ok(_)) = (behind.or_else(|| engine.behind()), &answered) {
        writers.out.flush()?;
        writeln!(writers.err, "tape: the newest records may be missing here: {why}")?;
    }
    match answered {
        Ok(Written { complete: true, .. }) => Ok(Code::Fine),
        Ok(Written { rows, .. }) => {
            writeln!(writers.err, "tape: cut after {rows} rows: all of them with --format csv, json, jsonl or arrow")?;
            Ok(Code::Found)
        }
        Err(query::Error::Write(why)) => Err(query::Error::Write(why)),
        Err(why) => {
            writers.out.flush()?;
            writeln!(writers.err, "error: {why}")?;
            Ok(if why.is_wrong_use() { Code::WrongUse } else { Code::Fault })
        }
    }
}

fn code_of(went: Went) -> Code {
    match went {
        Went::Well => Code::Fine,
        Went::Misused => Code::WrongUse,
        Went::Failed => Code::Fault,
    }
}

/// The format that was asked for: `--json` is `--format json`. A Parquet file holds one result, and is nothing to look at.
fn format(args: &Sql, settings: &Settings) -> Result<Format> {
    if args.format == Some(Format::Parquet) && (args.statement.is_none() || stdout().is_terminal()) {
        let says =
            "a Parquet file holds one result: give the statement, and a file: tape sql --format parquet \"SELECT …\" > result.parquet";
        return Err(WrongUse(says.into()).into());
    }
    match (args.format, settings.json) {
        (None, false) => Ok(Format::Table),
        (None | Some(Format::Json), true) => Ok(Format::Json),
        (Some(_), true) => Err(WrongUse("--json is --format json: give one of the two".into()).into()),
        (Some(format), false) => Ok(format),
    }
}

/// Answers one statement.
pub async fn answer(
    engine: &Engine,
    sql: &str,
    format: output::Format,
    style: &TableStyle,
    out: &mut (dyn Write + Send),
) -> Result<Written, query::Error> {
    let begun = std::time::Instant::now();
    engine.refresh().await?;
    let (_, stream) = engine.run(&Principal::local(), sql).await?;
    output::write(format, style, begun, stream, out).await
}
