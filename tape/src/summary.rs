//! What ingest did, as a person reads it and as a script does; and the progress bar on the way.

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use ingest::pipeline::Progress;
use ingest::report::{FileReport, Outcome};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// What to do about bad records: a corrected file as a whole would be another source, and its good records would come twice.
const QUARANTINE_ADVICE: &str = "what is quarantined is kept whole (SELECT reason, field, source_record, source_byte, raw FROM quarantine): correct \
     these records alone and ingest them as a file of their own";

/// How a bar looks; `{rate}` is whole records a second.
pub fn style(template: &str) -> ProgressStyle {
    let rate = |state: &ProgressState, out: &mut dyn Write| {
        // A line of a terminal that cannot be written is no fault of the work.
        let _ = write!(out, "{}/s", HumanCount(state.per_sec() as u64));
    };
    ProgressStyle::with_template(template).expect("the template is well formed").with_key("rate", rate)
}

/// A bar that counts: towards a total, where that is known.
pub fn counting(total: Option<u64>, what: &str) -> ProgressBar {
    match total {
        Some(total) => {
            ProgressBar::new(total).with_style(style(&format!("{{bar:24.cyan}} {{human_pos}}/{{human_len}} {what}  {{rate}}  {{elapsed}}")))
        }
        None => ProgressBar::no_length().with_style(style(&format!("{{spinner}} {{human_pos}} {what}  {{rate}}  {{elapsed}}"))),
    }
}

/// A bar on a terminal, a line now and then elsewhere.
pub struct Bar {
    bar: ProgressBar,
    files: usize,
    state: Mutex<State>,
}

struct State {
    done: usize,
    /// Bytes of the inputs that are done, and of the one that is read.
    bytes: u64,
    current: u64,
    records: u64,
    label: String,
    began: Instant,
    line: Instant,
}

impl Bar {
    /// For a run over so many inputs of so many bytes. Quiet where output is for a script.
    pub fn new(files: usize, bytes: u64, quiet: bool) -> Bar {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(bytes), target);
        bar.set_style(style("{bar:24.cyan} {percent:>3}%  {msg}  {elapsed} elapsed, {eta} to go"));
        bar.enable_steady_tick(Duration::from_millis(200));
        let now = Instant::now();
        Bar {
            bar,
            files,
            state: Mutex::new(State { done: 0, bytes: 0, current: 0, records: 0, label: String::new(), began: now, line: now }),
        }
    }

    fn show(&self, state: &mut State) {
        let rate = state.records as f64 / state.began.elapsed().as_secs_f64().max(0.001);
        let message = format!(
            "{}/{} files, {} records, {}/s  {}",
            state.done,
            self.files,
            HumanCount(state.records),
            HumanCount(rate as u64),
            state.label
        );
        if self.bar.is_hidden() && !std::io::stderr().is_terminal() && state.line.elapsed() > LINE_EVERY {
            state.line = Instant::now();
            eprintln!("{message}, {} elapsed", HumanDuration(state.began.elapsed()));
        }
        self.bar.set_message(message);
    }
}

impl Progress for Bar {
    fn begin(&self, label: &str, bytes: u64) {
        let mut state = self.state.lock().expect("no thread panics while it draws");
        state.current = bytes;
        state.label = label.rsplit('/').next().unwrap_or(label).to_string();
        self.show(&mut state);
    }

    fn published(&self, records: u64, bytes_read: u64) {
        let mut state = self.state.lock().expect("no thread panics while it draws");
        state.records += records;
        self.bar.set_position(state.bytes + bytes_read.min(state.current));
        self.show(&mut state);
    }

    fn end(&self) {
        let mut state = self.state.lock().expect("no thread panics while it draws");
        state.done += 1;
        state.bytes += state.current;
        self.bar.set_position(state.bytes);
        if state.done == self.files {
            self.bar.finish_and_clear();
        }
    }
}

/// True when something was found that a script must not overlook.
pub fn found_something(reports: &[FileReport]) -> bool {
    let found = |outcome: &Outcome| matches!(outcome, Outcome::CutShort(_) | Outcome::Interrupted | Outcome::Unlike(_));
    reports.iter().any(|report| report.bad() > 0 || found(&report.outcome))
}

/// How many inputs could not be read at all.
pub fn failed(reports: &[FileReport]) -> usize {
    reports.iter().filter(|report| matches!(report.outcome, Outcome::Failed(_))).count()
}

/// The summary as a person reads it.
pub fn text(reports: &[FileReport], elapsed: Duration) -> String {
    let mut out = String::new();
    let mut families: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for report in reports {
        for (family, records) in &report.records {
            *families.entry((family.topic().name, &report.dataset)).or_default() += records;
        }
    }
    let total: u64 = families.values().sum();
    if !families.is_empty() {
        writeln!(out, "{:<14} {:<16} {:>14}", "table", "dataset", "records").expect("writing to a String cannot fail");
        for ((family, dataset), records) in &families {
            writeln!(out, "{family:<14} {dataset:<16} {:>14}", HumanCount(*records).to_string()).expect("writing to a String cannot fail");
        }
    }
    let known: i64 = reports.iter().map(|report| report.known).sum();
    let unchanged: u64 = reports.iter().map(|report| report.unchanged).sum();
    let bad: u64 = reports.iter().map(FileReport::bad).sum();
    let sources = reports.iter().filter(|report| report.outcome != Outcome::Empty).count();
    writeln!(
        out,
        "{sources} source{} in {:.1} s: {} records published, {} known before, {} unchanged, {} quarantined",
        if sources == 1 { "" } else { "s" },
        elapsed.as_secs_f64(),
        HumanCount(total),
        HumanCount(known.max(0) as u64),
        HumanCount(unchanged),
        HumanCount(bad),
    )
    .expect("writing to a String cannot fail");
    for report in reports {
        for line in remarks(report) {
            writeln!(out, "{line}").expect("writing to a String cannot fail");
        }
    }
    if bad > 0 {
        writeln!(out, "{QUARANTINE_ADVICE}").expect("writing to a String cannot fail");
    }
    out
}

/// What deserves a line of its own.
fn remarks(report: &FileReport) -> Vec<String> {
    let mut lines: Vec<String> = report.notes.iter().map(|note| format!("note: {}: {note}", report.file)).collect();
    lines.extend(report.quarantined.iter().map(|(reason, (count, place))| format!("quarantined: {count} × {reason} (first: {place})")));
    match &report.outcome {
        Outcome::Done | Outcome::Known => {}
        Outcome::CutShort(why) => lines.push(format!("cut short: {}: {why}; what was complete is published", report.file)),
        Outcome::Interrupted => lines.push(format!("interrupted: {}: ingest it again to go on where it stopped", report.file)),
        Outcome::Failed(why) => lines.push(format!("failed: {why}")),
        Outcome::Empty => lines.push(format!("note: {}: holds no files: there is nothing to ingest", report.file)),
        Outcome::Unlike(why) => lines.push(format!("WRONG CONTENT: {}: {why}", report.file)),
    }
    lines
}

/// The summary as a script reads it.
pub fn json(reports: &[FileReport], elapsed: Duration) -> Value {
    let files: Vec<Value> = reports
        .iter()
        .map(|report| {
            let (outcome, why) = match &report.outcome {
                Outcome::Done => ("done", None),
                Outcome::Known => ("known", None),
                Outcome::CutShort(why) => ("cut_short", Some(why)),
                Outcome::Interrupted => ("interrupted", None),
                Outcome::Failed(why) => ("failed", Some(why)),
                Outcome::Empty => ("empty", None),
                Outcome::Unlike(why) => ("wrong_content", Some(why)),
            };
            json!({
                "file": report.file,
                "parser": report.parser,
                "dataset": report.dataset,
                "source_id": report.source_id,
                "records": report.records.iter().map(|(family, n)| (family.topic().name.to_string(), json!(n))).collect::<serde_json::Map<_, _>>(),
                "known": report.known,
                "unchanged": report.unchanged,
                "quarantined": report.quarantined.iter().map(|(reason, (n, place))| json!({ "reason": reason, "records": n, "first": place })).collect::<Vec<_>>(),
                "notes": report.notes,
                "outcome": outcome,
                "why": why,
            })
        })
        .collect();
    json!({ "files": files, "seconds": elapsed.as_secs_f64() })
}
