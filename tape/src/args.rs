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
  tape up                                   everything on one machine, with sample feeds
  tape ingest --home H trades.dbn.zst       publish a file (any known format, gz, zst and zip too)
  tape store  --home H --once               store what is in the log, then exit
  tape sql    --home H \"SELECT count(*) FROM trades\"

Exit codes: 0 fine; 1 done, but something was found, cut short or quarantined; 2 wrong use: a flag, a statement, \
a path, a setting or a mapping that must change; 3 a fault: nothing or only part was done.";

const INGEST_EXAMPLES: &str = "\
Examples:
  tape ingest --home H trades.dbn.zst day.zip          files of any known format
  tape ingest --home H folder/                         all that is in a folder; again: nothing twice
  tape ingest --home H fills.csv --mapping fills.toml --dataset VENUE.FILLS
  tape ingest --brokers HOST:9092 trades.dbn           to Kafka

Exit code 1 where records were quarantined or a file is of no known format.";

const STORE_EXAMPLES: &str = "\
Examples:
  tape store --home H --once                           what is in the log of a home, then exit
  tape store --brokers HOST:9092 --tables /data/tables until it is told to stop";

const SQL_EXAMPLES: &str = "\
Examples:
  tape sql --home H                                    a shell: completion, history, \\d, \\plot, \\?
  tape sql --home H \"SELECT symbol, count(*) FROM trades GROUP BY symbol\"
  tape sql --home H --format plot \"SELECT ts_event, price FROM trades WHERE symbol = 'GPU1V6' ORDER BY 1\"
  tape sql --tables /data/tables --format parquet \"SELECT * FROM bars\" > bars.parquet
  tape sql --home H '\\d trades'                        columns, units and clocks of a table";

const QUERY_EXAMPLES: &str = "\
Examples:
  tape query --home H
  tape query --brokers HOST:9092 --tables /data/tables --listen 127.0.0.1:9000
  curl --data 'SELECT count(*) FROM trades' http://127.0.0.1:8642/v1/sql";

const UPKEEP_EXAMPLES: &str = "\
Examples:
  tape upkeep --home H --dry-run               what would be merged and removed
  tape upkeep --home H --horizon-days 90       keep every version of the last 90 days readable";

const REPLAY_EXAMPLES: &str = "\
Examples:
  tape replay --home H --family trades --symbol GPU1V6 > trades.jsonl
  tape replay --home H --clock ts_event --since 2026-10-05 --until 2026-10-06 --order time
  tape replay --home H --family trades,bars --format avro --to avro/    a file for each
  tape replay --home H --format dbn --to dbn/                           DBN files, as they were
  tape replay --home H --to-brokers HOST:9092 --to-prefix copy.         to another Kafka, once
  tape replay --home H --to-home NEW                                    the log again, in a new home

Exit code 1 where something was left out, a name matches no record, or nothing is in the range that was asked for.";

const VERIFY_EXAMPLES: &str = "\
Examples:
  tape verify --home H                         the tables of a home, alone
  tape verify --tables /data/tables --json     tables without a home; all findings for a script
  tape verify --home H --against-log           and every record that the log still has";

const REQUEUE_EXAMPLES: &str = "\
Examples:
  tape requeue --home H --dry-run              what could be published again, and why the rest could not
  tape requeue --home H --table trades --reason 'schema id'
  tape requeue --home H --settle SOURCE --why 'corrected in trades-fixed.csv'";

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
    /// The topics hold what `tape replay --to-brokers` wrote: keep the time of the origin as _log_ts (docs/replay.md)
    #[arg(long, global = true, env = "TAPE_REPLAYED")]
    pub replayed: bool,
    /// Settings file [default: tape.toml in the home]
    #[arg(long, global = true, env = "TAPE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print results as JSON, for scripts
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything on one machine: embedded log, sample feeds, store, SQL
    Up(Up),
    /// Publish files to the log: DBN, CTP snapshots and bars, usage reports, price lists, request logs, CSV by a mapping
    #[command(after_long_help = INGEST_EXAMPLES)]
    Ingest(Ingest),
    /// Store what is in the log as Delta tables
    ///
    /// As a service, until it is told to stop (Ctrl-C, SIGTERM), or with --once. On Kafka several of them share the work: start as many as there
    /// is work for (docs/scaling.md).
    #[command(after_long_help = STORE_EXAMPLES)]
    Store(Store),
    /// Ask the tables, in SQL: one statement, or a shell
    #[command(after_long_help = SQL_EXAMPLES)]
    Sql(Sql),
    /// Serve SQL over HTTP on one address, with health and the schema routes
    #[command(after_long_help = QUERY_EXAMPLES)]
    Query(Query),
    /// The process that answers for `tape query` and `tape up`, which begin it
    #[command(hide = true)]
    QueryProcess(QueryProcess),
    /// Show the record families: columns, units, clocks; or serve the schema registry's read routes
    Schema(Schema),
    /// Create the missing topics and check all of them
    Topics(Topics),
    /// Look after the tables: merge small files to large sorted ones, write checkpoints, remove what the audit horizon no longer needs
    ///
    /// Ingest, store and queries may go on meanwhile; `tape store` and `tape up` do the same by themselves every ten minutes (section upkeep of tape.toml).
    /// Rows are never removed. Replaced files and entries of the table's log go when no version since the horizon began needs them; what each commit
    /// said of itself is archived first, so that `tape verify` needs none of them.
    #[command(after_long_help = UPKEEP_EXAMPLES)]
    Upkeep(Upkeep),
    /// The history back out as events: to a file, another Kafka, or a home of its own
    ///
    /// The same range of the same records gives the same bytes, whatever upkeep did to the tables. A record that was quarantined comes where it
    /// stood. See docs/replay.md.
    #[command(after_long_help = REPLAY_EXAMPLES)]
    Replay(Replay),
    /// Is the archive complete and unaltered? Recomputes from the rows what every commit said of itself when it was made
    ///
    /// Reads every row of every table and, unless it is told to, nothing of the log. Exit code 1 where something is missing, twice, altered,
    /// or cannot be read. What each kind of finding means: docs/auditing.md.
    #[command(after_long_help = VERIFY_EXAMPLES)]
    Verify(Verify),
    /// Publish again what stands in quarantine and can be decoded now, each record once
    ///
    /// A frame that could not be decoded when it was stored may be one of a newer version, or may have been written to the wrong topic. It is
    /// published again to the topic of the family that its schema id names, in one transaction with the record that cancels it in quarantine
    /// and the note that it was done: however often this runs, and whatever stops it, it is there once. Its headers tape-requeued-* say where
    /// it stood. What ingest could not read of a source has no frame; the summary says which sources those are, and what to do; once that is
    /// done, or nothing is to be done, --settle says so. Exit code 1 where something stays in quarantine that is not settled.
    #[command(after_long_help = REQUEUE_EXAMPLES)]
    Requeue(Requeue),
    /// Check configuration, log, tables and clock, what was lost, quarantined or waits to be stored, and say what to do
    ///
    /// Exit code 1 where something is BAD. Of the history: offsets that left the log before they were stored (table gaps), records in quarantine that
    /// nobody settled, records that wait for more than a minute to be stored, and transactions of Kafka that somebody left open, behind which
    /// nothing can be read.
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
    Parquet,
    /// A picture of two columns: a time, date or number, and a number
    Plot,
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
pub struct QueryProcess {
    /// Longest time of a statement until its last row is sent, in seconds
    #[arg(long, value_name = "S")]
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
pub struct Upkeep {
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Days for which every version of a table stays readable [default: horizon_days of the settings, else 7]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=36_500))]
    pub horizon_days: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub struct Verify {
    /// Compare every record that the log still has with what the tables hold of it, too: needs the log, and reads all of it
    #[arg(long)]
    pub against_log: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Requeue {
    /// Only what stood in this table's topic
    #[arg(long, value_name = "TABLE")]
    pub table: Option<String>,
    /// Only what has this text in its reason
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Settle all bad records of this source (source_id, 32 hex digits), which have no frame: they stay in quarantine, cancelled, with --why
    #[arg(long, value_name = "SOURCE", requires = "why", conflicts_with_all = ["table", "reason"])]
    pub settle: Option<String>,
    /// What became of them, for whoever reads it later; with --settle
    #[arg(long, value_name = "TEXT", requires = "settle")]
    pub why: Option<String>,
    /// Say what would be published, and publish nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Topics {
    /// Only check: create nothing
    #[arg(long)]
    pub check: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Replay {
    /// Only these families (tables) [default: all]
    #[arg(long = "family", value_name = "TABLE", value_delimiter = ',')]
    pub families: Vec<String>,
    /// Only these datasets
    #[arg(long = "dataset", value_name = "CODE", value_delimiter = ',')]
    pub datasets: Vec<String>,
    /// Only these symbols
    #[arg(long = "symbol", value_name = "SYMBOL", value_delimiter = ',')]
    pub symbols: Vec<String>,
    /// Only these sources: source_id as 32 hex digits
    #[arg(long = "source", value_name = "ID", value_delimiter = ',')]
    pub sources: Vec<String>,
    /// Clock of --since and --until
    #[arg(long, value_enum, default_value = "_log_ts")]
    pub clock: Clock,
    /// First time: RFC 3339, to the nanosecond, or a date (midnight UTC)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// First time that is not replayed any more
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only this partition of the topics
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// First offset
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub from_offset: Option<i64>,
    /// First offset that is not replayed any more
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    pub to_offset: Option<i64>,
    /// In which order [default: log; for DBN source]
    #[arg(long, value_enum)]
    pub order: Option<ReplayOrder>,
    /// How events are written [default: jsonl]
    #[arg(long, value_enum, conflicts_with_all = ["to_brokers", "to_home"])]
    pub format: Option<ReplayFormat>,
    /// File to write, which is not there yet; with a slash at its end a new folder with a file for each table (avro) or source (dbn); - is standard output
    #[arg(long, value_name = "PATH", default_value = "-", conflicts_with_all = ["to_brokers", "to_home"])]
    pub to: PathBuf,
    /// Publish to the topics of another Kafka (host:port,…), each record once however often this is interrupted
    #[arg(long, value_name = "LIST", conflicts_with = "to_home")]
    pub to_brokers: Option<String>,
    /// Prefix of the topics there [default: tape.]
    #[arg(long, value_name = "TEXT", requires = "to_brokers")]
    pub to_prefix: Option<String>,
    /// Publish also where the topics there have records already: a range that overlaps with what they hold is then there twice
    #[arg(long, requires = "to_brokers")]
    pub beside: bool,
    /// Restore the log in this new home: the same partitions, offsets, times, ids and holes; takes all there is
    #[arg(long, value_name = "DIR", conflicts_with_all = ["families", "datasets", "symbols", "sources", "since", "until", "partition",
        "from_offset", "to_offset", "order"])]
    pub to_home: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Clock {
    /// When it happened, by the venue or publisher
    #[value(name = "ts_event")]
    TsEvent,
    /// When the capture received it
    #[value(name = "ts_recv")]
    TsRecv,
    /// When the publisher made it public
    #[value(name = "ts_publish")]
    TsPublish,
    /// When this log knew it
    #[value(name = "_log_ts")]
    LogTs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReplayOrder {
    /// Family, partition, offset
    Log,
    /// _log_ts, family, partition, offset
    Time,
    /// source_id, then the order of the original file
    Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReplayFormat {
    /// JSON lines: where it stood, and all columns
    Jsonl,
    /// Avro object container file: all columns of one table
    Avro,
    /// The DBN file that it came from, in the order of the source
    Dbn,
}
