//! The binary as a user runs it: a home, an ingest, a store, a question.

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The binary.
pub struct Tape {
    path: &'static str,
}

impl Tape {
    pub fn new(path: &'static str) -> Tape {
        Tape { path }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.path);
        // As many have it set: errors stay one line.
        command.env("RUST_BACKTRACE", "1");
        for name in ["TAPE_HOME", "TAPE_BROKERS", "TAPE_TABLES", "TAPE_PREFIX", "TAPE_REPLAYED", "TAPE_CONFIG"] {
            command.env_remove(name);
        }
        command
    }
}

/// An installation of its own: a temporary home, and on Kafka a topic prefix of its own.
pub struct Home {
    dir: tempfile::TempDir,
    kafka: Vec<String>,
}

/// The broker for tests, or `None` (said aloud). `TAPE_REQUIRE_KAFKA` makes its absence a failure.
pub fn broker() -> Option<String> {
    let broker = std::env::var("TAPE_TEST_KAFKA").ok();
    if broker.is_none() {
        assert!(std::env::var_os("TAPE_REQUIRE_KAFKA").is_none(), "TAPE_TEST_KAFKA names no broker");
        println!("skipped: TAPE_TEST_KAFKA names no broker (`make test` starts one)");
    }
    broker
}

impl Home {
    pub fn embedded() -> Home {
        Home { dir: tempfile::tempdir().expect("temp dir"), kafka: vec![] }
    }

    pub fn kafka(broker: &str) -> Home {
        let home = Home::without_topics(broker);
        let output = home.run(&["topics"], "");
        assert!(output.status.success(), "tape topics: {}", text(&output));
        home
    }

    /// On Kafka, where its topics have not been made.
    pub fn without_topics(broker: &str) -> Home {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("real{}-{}.", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let kafka = ["--brokers", broker, "--prefix", &prefix].map(String::from).to_vec();
        Home { dir: tempfile::tempdir().expect("temp dir"), kafka }
    }

    /// The topic of a table, on Kafka.
    pub fn topic(&self, table: &str) -> String {
        format!("{}{table}", self.kafka.last().expect("on Kafka the prefix is given"))
    }

    /// A path in the home.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `tape ARGS --home H`, not yet started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = super::tape().command();
        command.args(args).arg("--home").arg(self.dir.path()).args(&self.kafka);
        command
    }

    /// `tape ARGS --home H`, with this on standard input.
    pub fn run(&self, args: &[&str], input: &str) -> Output {
        let mut child =
            self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_string();
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().expect("the binary ends");
        // A command that does not read its input closes it early: that is no fault.
        let _ = writer.join().expect("the writer does not panic");
        output
    }

    pub fn ingest(&self, path: &Path, flags: &[&str]) -> Ingested {
        let path = path.to_str().expect("paths here are UTF-8");
        let output = self.run(&[&["ingest", "--json", path], flags].concat(), "");
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{path}: {e}: {}", text(&output)));
        Ingested { code: output.status.code().expect("not killed"), report }
    }

    /// Several files in one run.
    pub fn ingest_all(&self, paths: &[String]) -> Ingested {
        let args: Vec<&str> = ["ingest", "--json"].into_iter().chain(paths.iter().map(String::as_str)).collect();
        let output = self.run(&args, "");
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
        Ingested { code: output.status.code().expect("not killed"), report }
    }

    pub fn store(&self) {
        let output = self.run(&["store", "--once"], "");
        assert!(output.status.success(), "tape store: {}", text(&output));
    }

    /// The rows of each statement.
    pub fn ask(&self, statements: &[String]) -> Vec<Vec<Value>> {
        let script: String = statements.iter().map(|sql| format!("{sql};\n")).collect();
        let output = self.run(&["sql", "--format", "json"], &script);
        assert!(output.status.success(), "tape sql: {}\n{script}", text(&output));
        let exact = quote_numbers(&String::from_utf8_lossy(&output.stdout));
        let answers = serde_json::Deserializer::from_str(&exact).into_iter::<Vec<Value>>();
        answers.map(|answer| answer.unwrap_or_else(|e| panic!("{e}: {}\n{script}", text(&output)))).collect()
    }
}

/// JSON with its numbers as texts: a parser would make floats of decimals.
fn quote_numbers(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut in_text, mut escaped, mut in_number) = (false, false, false);
    for c in json.chars() {
        let number = !in_text && (c.is_ascii_digit() || matches!(c, '-' | '+' | '.') || (in_number && matches!(c, 'e' | 'E')));
        if number != in_number {
            out.push('"');
            in_number = number;
        }
        out.push(c);
        let quote = c == '"' && !escaped;
        escaped = in_text && c == '\\' && !escaped;
        in_text ^= quote;
    }
    out
}

/// All that a command said, and how it ended.
pub fn text(output: &Output) -> String {
    format!("{}\n{}\n{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What `tape ingest --json` said.
pub struct Ingested {
    pub code: i32,
    pub report: Value,
}

impl Ingested {
    fn files(&self) -> &[Value] {
        self.report["files"].as_array().expect("files")
    }

    /// What was said of one path, its archive members included.
    pub fn of(&self, path: &str) -> Ingested {
        let is_of = |file: &&Value| file["file"].as_str().is_some_and(|name| name == path || name.starts_with(&format!("{path}:")));
        let files: Vec<Value> = self.files().iter().filter(is_of).cloned().collect();
        assert!(!files.is_empty(), "nothing was said of {path}");
        Ingested { code: self.code, report: serde_json::json!({ "files": files }) }
    }

    pub fn source_ids(&self) -> Vec<String> {
        self.files().iter().map(|file| file["source_id"].as_str().expect("an id").to_string()).collect()
    }

    /// Records published, all families.
    pub fn published(&self) -> u64 {
        self.files()
            .iter()
            .flat_map(|file| file["records"].as_object().expect("by family").values())
            .map(|n| n.as_u64().expect("a count"))
            .sum()
    }
}
