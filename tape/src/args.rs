//! What was typed: commands, flags, environment. What it means is in settings.rs.

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// The record of what was published, when, and as known when: market data of AI compute from source files to SQL.
#[derive(Debug, Parser)]
#[command(name = "tape", version, max_term_width = 110, after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tape up                                   everything in one process, with sample feeds
  tape ingest --home H trades.dbn.zst       publish a file (any known format, gz, zst and zip too)
  tape store  --home H --once               store what is in the log, then exit
  tape sql    --home H \"SELECT count(*) FROM trades\"

Exit codes: 0 fine; 1 done, but something was found, cut short or quarantined; 2 wrong use: a flag, a statement, \
a path, a setting or a mapping that must change; 3 a fault: nothing or only part was done.";

/// Flags of every command.
#[derive(Debug, Clone, ClapArgs)]
pub struct Common {
    /// Folder of a one-machine installation: its log, tables, socket and settings [default: ~/.tokentape]
    #[arg(long, global = true, env = "TAPE_HOME", value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Kafka brokers (host:port,…); without them the embedded log of the home is used
    #[arg(long, global = true, env = "TAPE_BROKERS", value_name = "LIST")]
    pub brokers: Option<String>,
    /// Where the Delta tables lie: a folder or a file:// URL [default: tables in the home]
    #[arg(long, global = true, env = "TAPE_TABLES", value_name = "URL")]
    pub tables: Option<String>,
    /// Prefix of topic names [default: tape.]
    #[arg(long, global = true, env = "TAPE_PREFIX", value_name = "TEXT")]
    pub prefix: Option<String>,
    /// Settings file [default: tape.toml in the home]
    #[arg(long, global = true, env = "TAPE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print results as JSON, for scripts
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in one process: embedded log, sample feeds, store, SQL
    Up(Up),
    /// Publish files to the log: DBN, CTP snapshots and bars, usage reports, price lists, request logs, CSV by a mapping
    Ingest(Ingest),
    /// Store what is in the log as Delta tables
    ///
    /// As a service, until it is told to stop (Ctrl-C, SIGTERM), or with --once. On Kafka several of them share the work: start as many as there
    /// is work for (docs/scaling.md).
    Store(Store),
    /// Ask the tables, in SQL: one statement, or a shell
    Sql(Sql),
    /// Serve SQL over HTTP on one address, with health and the schema routes
    Query(Query),
    /// Show the record families: columns, units, clocks; or serve the schema registry's read routes
    Schema(Schema),
    /// Create the missing topics and check all of them
    Topics(Topics),
    /// Rewrite many small files of the tables to few large sorted ones; ingest, store and queries may go on meanwhile
    ///
    /// The files that are replaced stay on disk: queries that began before still read them, and auditors may.
    Upkeep,
    /// Is the archive complete and unaltered? Recomputes from the rows what every commit said of itself when it was made
    ///
    /// Reads every row of every table, and nothing of the log. Exit code 1 where something is missing, twice, altered, or cannot be read.
    Verify,
    /// Check configuration, log, tables and clock, and say what to do
    ///
    /// Of the tables: every file of their newest versions must be there with the length that the table's log states; what is in the files is
    /// not read. A query that only counts all rows (SELECT count(*) FROM trades) is answered from the log and does not notice a lost file.
    Doctor,
}

#[derive(Debug, ClapArgs)]
pub struct Up {
    /// Exit after the answers
    #[arg(long)]
    pub once: bool,
    /// Do not ingest the sample feeds
    #[arg(long)]
    pub no_samples: bool,
    /// Address of health, schema routes and SQL over HTTP
    #[arg(long, default_value = "127.0.0.1:8642", value_name = "ADDR", value_parser = address)]
    pub listen: String,
    /// Seed of the synthetic market
    #[arg(long, default_value_t = 20261005)]
    pub seed: u64,
}

#[derive(Debug, ClapArgs)]
pub struct Ingest {
    /// Files, folders or archives
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Dataset code of the records, where the content does not say it (at most 15 characters)
    #[arg(long, value_name = "CODE")]
    pub dataset: Option<String>,
    /// DBN version of a fragment without a header
    #[arg(long, value_name = "N")]
    pub dbn_version: Option<u8>,
    /// DBN schema of a fragment without a header
    #[arg(long, value_name = "NAME")]
    pub schema: Option<String>,
    /// Mapping of CSV columns: a TOML file
    #[arg(long, value_name = "FILE")]
    pub mapping: Option<PathBuf>,
    /// Time of the capture, where the content does not say it (RFC 3339, to the millisecond): ts_recv of pages that were fetched
    #[arg(long, value_name = "TIME")]
    pub captured: Option<String>,
    /// The files are sources of their own, not older or cut copies of longer ones that begin alike
    #[arg(long)]
    pub another_source: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Store {
    /// Store up to the end of the log, then exit; of Kafka all partitions, also beside other stores
    #[arg(long)]
    pub once: bool,
}

/// Longest time limit of a statement: a year. A clock that counts from it is far from its end.
const TIMEOUT_SECONDS_MAX: u64 = 366 * 86_400;

#[derive(Debug, ClapArgs)]
pub struct Sql {
    /// The statement, or a command of the shell such as '\d trades'; without one a shell starts
    #[arg(value_name = "SQL")]
    pub statement: Option<String>,
    /// How results are written [default: table, with --json json]; a table of one statement is cut after 10,000 rows, with exit code 1
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Longest time of a statement, in seconds
    #[arg(long, default_value_t = 600, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=TIMEOUT_SECONDS_MAX))]
    pub timeout: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Csv,
    Json,
    Jsonl,
    Arrow,
}

#[derive(Debug, ClapArgs)]
pub struct Query {
    /// Address to listen on; there is no authentication, so keep it on loopback or a private network
    #[arg(long, default_value = "127.0.0.1:8642", env = "TAPE_LISTEN", value_name = "ADDR", value_parser = address)]
    pub listen: String,
    /// Longest time of a statement until its last row is sent, in seconds
    #[arg(long, default_value_t = 600, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=TIMEOUT_SECONDS_MAX))]
    pub timeout: u64,
}

#[derive(Debug, ClapArgs)]
pub struct Schema {
    /// One family only
    #[arg(value_name = "TABLE")]
    pub family: Option<String>,
    /// The dictionary as Markdown
    #[arg(long, conflicts_with = "avro")]
    pub markdown: bool,
    /// The Avro schema of the frames
    #[arg(long)]
    pub avro: bool,
    /// Serve the schema registry's read routes on this address
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub listen: Option<String>,
}

/// An address to listen on: whose host it is shows when it is bound.
fn address(typed: &str) -> Result<String, String> {
    match typed.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(typed.to_string()),
        _ => Err("an address is HOST:PORT, for example 127.0.0.1:8642".into()),
    }
}

#[derive(Debug, ClapArgs)]
pub struct Topics {
    /// Only check: create nothing
    #[arg(long)]
    pub check: bool,
}
