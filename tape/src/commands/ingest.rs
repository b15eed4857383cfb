//! `tape ingest`: publishes files to the log and says what became of each.

use super::Code;
use crate::args::Ingest;
use crate::say::{say, say_line};
use crate::settings::{LogAt, Settings, WrongUse};
use crate::{home, signals, summary};
use anyhow::{Context, Result};
use eventlog::EventLog;
use ingest::pipeline::Ingestor;
use ingest::report::{FileReport, Outcome};
use ingest::source::Given;
use ingest::sources::mapping::Mapping;
use ingest::unpack::Input;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Longest dataset code: DBN's header has no room for more.
const DATASET_MAX: usize = 15;

pub fn run(args: &Ingest, settings: &Settings) -> Result<Code> {
    let given = given(args, settings)?;
    refuse_wrong_mapping(args)?;
    let runtime = home::runtime()?;
    let stop = signals::stop_flag(&runtime)?;
    let log = home::log(settings)?;
    home::refuse_unfit_topics(log.as_ref())?;
    let began = Instant::now();
    let (mut all, mut reports) = (Vec::new(), Vec::new());
    for path in &args.files {
        match inputs(path, &given) {
            none if none.is_empty() => reports.push(FileReport { outcome: Outcome::Empty, ..FileReport::new(&path.display().to_string()) }),
            some => all.extend(some),
        }
    }
    let bar = bar(&all, settings.json);
    reports.extend(publish(log.as_ref(), all, &bar, &stop)?);
    if settings.json {
        say_line!("{}", summary::json(&reports, began.elapsed()));
    } else {
        say!("{}", summary::text(&reports, began.elapsed()));
        if reports.iter().any(|report| !report.records.is_empty() || report.known > 0) {
            say!("{}", to_store(settings));
        }
    }
    // Whatever else failed, a file that is not there was misnamed; a file that is there and cannot be read is a fault.
    let missing = args.files.iter().filter(|path| matches!(path.try_exists(), Ok(false))).count();
    Ok(if summary::failed(&reports) > missing {
        Code::Fault
    } else if missing > 0 {
        Code::WrongUse
    } else if summary::found_something(&reports) {
        Code::Found
    } else {
        Code::Fine
    })
}

/// How what was published comes into the tables, where no owner of the home stores it.
fn to_store(settings: &Settings) -> String {
    let command = settings.command("store --once");
    match &settings.log {
        LogAt::Embedded { dir, .. } if home::is_owned_by_another(dir) => String::new(),
        LogAt::Embedded { .. } => format!("to store it: {command}\n"),
        LogAt::Kafka { .. } => format!("to store it, where no tape store runs: {command}\n"),
    }
}

/// The progress bar of a run over these inputs.
pub fn bar(inputs: &[Result<Input, ingest::Error>], quiet: bool) -> summary::Bar {
    let bytes = inputs.iter().flatten().map(|input| input.bytes).sum();
    summary::Bar::new(inputs.len(), bytes, quiet)
}

/// The inputs of one path.
pub fn inputs(path: &Path, given: &Given) -> Vec<Result<Input, ingest::Error>> {
    ingest::inputs::of(path, given, SystemTime::now())
}

/// Publishes the inputs one after the other. An input that cannot be read does not keep the others back.
pub fn publish(
    log: &dyn EventLog,
    inputs: Vec<Result<Input, ingest::Error>>,
    bar: &summary::Bar,
    stop: &AtomicBool,
) -> Result<Vec<FileReport>> {
    let mut ingestor = Ingestor::new(log, bar, stop).context("reading how far the sources were published")?;
    let mut reports = Vec::new();
    for input in inputs {
        if stop.load(Ordering::Relaxed) {
            reports.push(FileReport { outcome: Outcome::Interrupted, ..FileReport::new("the remaining files") });
            break;
        }
        reports.push(match input {
            Ok(input) => ingestor.ingest(&input).with_context(|| format!("ingesting {}", input.given.label()))?,
            Err(why) => FileReport { outcome: Outcome::Failed(why.to_string()), ..FileReport::default() },
        });
    }
    Ok(reports)
}

/// A mapping with a mistake, or none, fits no file: it is said once, before anything is done.
fn refuse_wrong_mapping(args: &Ingest) -> Result<()> {
    let Some(path) = &args.mapping else { return Ok(()) };
    let text = match std::fs::read_to_string(path) {
        Err(why) if why.kind() == ErrorKind::NotFound => {
            return Err(WrongUse(format!("{}: the mapping cannot be read: {why}: check --mapping", path.display())).into());
        }
        text => text.with_context(|| format!("reading the mapping {}", path.display()))?,
    };
    Mapping::parse(&path.display().to_string(), &text).map(|_| ()).map_err(|why| WrongUse(why.to_string()).into())
}

fn given(args: &Ingest, settings: &Settings) -> Result<Given> {
    if let Some(dataset) = &args.dataset {
        let fit = !dataset.is_empty() && dataset.len() <= DATASET_MAX && dataset.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        if !fit {
            return Err(
                WrongUse(format!("--dataset {dataset}: a code has 1 to {DATASET_MAX} visible ASCII characters and no slash")).into()
            );
        }
    }
    let captured_ms = match &args.captured {
        None => SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_millis() as i64,
        Some(text) => captured_ms(text).map_err(|why| WrongUse(format!("--captured {text}: {why}")))?,
    };
    Ok(Given {
        dataset: args.dataset.clone(),
        dbn_version: args.dbn_version,
        schema: args.schema.clone(),
        mapping: args.mapping.clone(),
        captured_ms: Some(captured_ms),
        captured_given: args.captured.is_some(),
        another_source: args.another_source,
        document_bytes_max: settings.document_bytes_max,
        ..Given::default()
    })
}

/// Milliseconds since 1970 UTC of a capture time; what they cannot say is refused, not rounded.
fn captured_ms(text: &str) -> Result<i64, String> {
    let time = chrono::DateTime::parse_from_rfc3339(text).map_err(|why| format!("{why}; write for example 2026-10-05T14:30:00Z"))?;
    let ns = time.timestamp_subsec_nanos();
    if ns >= 1_000_000_000 {
        return Err("is a leap second, which no time here can say; write the second before it".into());
    }
    if ns % 1_000_000 != 0 {
        return Err("is finer than a millisecond; write at most three digits behind the point".into());
    }
    let in_range = time.timestamp_nanos_opt().map(|_| time.timestamp_millis());
    in_range.ok_or_else(|| "is beyond the years 1678 to 2261 that nanoseconds reach".into())
}

#[cfg(test)]
mod tests {
    use super::captured_ms;

    #[test]
    fn a_capture_time_is_exact_or_refused() {
        assert_eq!(captured_ms("2026-10-05T14:30:00.25+08:00"), Ok(1_791_181_800_250));
        assert_eq!(captured_ms("1969-12-31T23:59:59.999Z"), Ok(-1));
        for (text, says) in [
            ("yesterday", "2026-10-05T14:30:00Z"),
            ("2300-01-01T00:00:00Z", "1678 to 2261"),
            ("1600-01-01T00:00:00Z", "1678 to 2261"),
            ("2026-10-05T14:30:00.0005Z", "three digits"),
            ("2026-10-05T14:30:00.123456789Z", "three digits"),
            ("2026-12-31T23:59:60Z", "leap second"),
        ] {
            assert!(captured_ms(text).expect_err(text).contains(says), "{text}");
        }
    }
}
