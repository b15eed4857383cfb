//! What SQL shows beside the records themselves: tables about the tables, and columns that explain the rows of `gaps` and `quarantine`.

use crate::field::Kind::{I32, I64, Text, Time};
use crate::field::{Field, opt, req};
use crate::topic::Family;
use std::sync::LazyLock;

/// A table of SQL that is no family: nothing is stored for it, it is made of what commits and the log say.
#[derive(Debug)]
pub struct View {
    /// Name of the SQL table.
    pub name: &'static str,
    /// What a row is.
    pub doc: &'static str,
    /// Its columns, in order.
    pub fields: Vec<Field>,
}

impl View {
    /// The view with this name.
    pub fn named(name: &str) -> Option<&'static View> {
        VIEWS.iter().find(|view| view.name == name)
    }
}

/// `commits`, `intervals`, `lag`, `schemas` and `queries`.
pub static VIEWS: LazyLock<[View; 5]> = LazyLock::new(|| {
    [
        View {
            name: COMMITS,
            doc: "a Delta version of a table: when, by whom, which part of the log, what it brought and took",
            fields: commits(),
        },
        View { name: INTERVALS, doc: "the part of one log partition that one Delta version holds, with its proof", fields: intervals() },
        View {
            name: LAG,
            doc: "a partition of the log: what of it is stored, and how far the tables are behind; asks the log, and is an error without one",
            fields: lag(),
        },
        View { name: SCHEMAS, doc: "a wire schema: what column `_schema` of every row refers to", fields: schemas() },
        View {
            name: QUERIES,
            doc: "a statement that this query service was asked, and how it went: the last 1,000 since it began, in memory only",
            fields: queries(),
        },
    ]
});

/// When losses were noted, which `gaps` is joined with: asked for as the other views are, and shown by none.
pub static NOTED: LazyLock<View> = LazyLock::new(|| View {
    name: "noted",
    doc: "a note of the store in `gaps`, and when it was committed",
    fields: vec![
        req("topic", Text, "", "topic that the note is about"),
        req("partition", I32, "", "partition of the topic"),
        req("to_seq", I64, "", "last lost offset"),
        opt("noted_at", Time, "ns UTC", "when it was committed"),
    ],
});

/// Name of the table of Delta versions.
pub const COMMITS: &str = "commits";
/// Name of the table of stored parts of log partitions.
pub const INTERVALS: &str = "intervals";
/// Name of the table of how far the tables are behind the log.
pub const LAG: &str = "lag";
/// Name of the table of wire schemas.
pub const SCHEMAS: &str = "schemas";
/// Name of the table of statements.
pub const QUERIES: &str = "queries";

fn commits() -> Vec<Field> {
    vec![
        req("table_name", Text, "", "the table"),
        req("version", I64, "", "its Delta version; 0 made the table"),
        opt("committed_at", Time, "ns UTC", "when, by the clock of the machine that committed, milliseconds kept as nanoseconds"),
        req("operation", Text, "", "what it did, as Delta names it: CREATE TABLE, ADD COLUMN, WRITE, OPTIMIZE (tape upkeep)"),
        opt("writer", Text, "", "program and version that stored records; NULL where the version stored none"),
        opt("cluster", Text, "", "id of the log that they are from"),
        opt("topic", Text, "", "topic that they are from; of `quarantine` and `gaps` also the topic that the rows are about"),
        opt("topic_id", Text, "", "its id, which changes when a topic is deleted and made again"),
        opt(
            "offsets",
            Text,
            "",
            "which part of the log it holds: per partition first and last offset, as in 0: 0-399, 3: 17-90 (numbers: intervals)",
        ),
        req("records", I64, "records", "records of the log in it, those that went to `quarantine` included"),
        req("quarantined", I64, "records", "how many of them went to `quarantine`"),
        req("absent", I64, "offsets", "offsets of that part that hold no record"),
        opt("schemas", Text, "", "ids of the wire schemas of its records, each with the first 16 hex digits of its SHA-256"),
        opt("rows", I64, "rows", "rows in the files that it added; NULL where a file does not say"),
        req("files", I64, "files", "data files that it added"),
        req("bytes", I64, "bytes", "bytes in them"),
        req("files_removed", I64, "files", "data files that it took away: others of its own hold their rows"),
        req("bytes_removed", I64, "bytes", "bytes in those"),
    ]
}

fn intervals() -> Vec<Field> {
    vec![
        req("table_name", Text, "", "the table"),
        req("version", I64, "", "the Delta version that holds it"),
        opt("committed_at", Time, "ns UTC", "when, by the clock of the machine that committed, milliseconds kept as nanoseconds"),
        req("topic", Text, "", "topic with its prefix"),
        req("topic_id", Text, "", "id of the topic"),
        req("partition", I32, "", "partition of the topic"),
        req("from_offset", I64, "", "first offset (inclusive)"),
        req("to_offset", I64, "", "last offset (inclusive)"),
        req("records", I64, "records", "records in it, those that went to `quarantine` included"),
        req("quarantined", I64, "records", "how many of them went to `quarantine`"),
        req("absent", I64, "offsets", "offsets in it that hold no record"),
        opt("absent_offsets", Text, "", "which, and why: 7 control_or_aborted, 9-12 control_or_aborted; NULL where there are none"),
        opt(
            "root",
            Text,
            "",
            "RFC 6962 root over the canonical bytes of its records (docs/auditing.md), hex; NULL from versions without proofs",
        ),
    ]
}

fn lag() -> Vec<Field> {
    vec![
        req("table_name", Text, "", "the table"),
        req("topic", Text, "", "topic with its prefix"),
        req("topic_id", Text, "", "id of the topic"),
        req("partition", I32, "", "partition of the topic"),
        req("stored_offset", I64, "", "next offset to store: all before it are stored or explained"),
        req("log_begin", I64, "", "first offset that the log still has"),
        req("log_end", I64, "", "offset after the last one that a reader sees"),
        req(
            "behind",
            I64,
            "offsets",
            "offsets that can be read and are not stored, the markers of Kafka's transactions among them; 0 where only markers are left",
        ),
        req(
            "lost",
            I64,
            "offsets",
            "offsets that the log no longer has, that were not stored and that no row of `gaps` names; the next store notes them there",
        ),
        opt("last_log_ts", Time, "ns UTC", "clock 4 of the last stored record; NULL where none is stored, or the log no longer has it"),
        opt("waiting_since", Time, "ns UTC", "clock 4 of the first record that can be read and is not stored; NULL where there is none"),
        req(
            "held",
            I64,
            "offsets",
            "offsets from log_end on that were written and that nobody can read before a transaction ends that is open",
        ),
        opt(
            "held_since",
            Time,
            "ns UTC",
            "when the broker got the first record of that transaction, by its clock; NULL where none is open",
        ),
    ]
}

fn schemas() -> Vec<Field> {
    vec![
        req("id", I32, "", "id, which stands in every frame and never changes its meaning"),
        req("topic", Text, "", "family that it is of"),
        req("sha256", Text, "", "SHA-256 of the text, hex"),
        req("text", Text, "", "the Avro schema"),
    ]
}

fn queries() -> Vec<Field> {
    vec![
        req("id", I64, "", "number of the statement, from 1 since the service began"),
        req("principal", Text, "", "who asked: http, or local for `tape sql`"),
        req(
            "state",
            Text,
            "",
            "running; done; failed; cancelled: whoever asked left; timed out; refused: not let in, or there was no place (the text of the error says it)",
        ),
        req("begun_at", Time, "ns UTC", "when it was asked, by the clock of the service"),
        opt("ended_at", Time, "ns UTC", "begun_at and elapsed; NULL while it runs"),
        req(
            "elapsed",
            I64,
            "ns",
            "how long it took until its last row was taken, or takes until now; waiting for a place and for its reader included",
        ),
        req("rows", I64, "rows", "rows that it gave"),
        req("bytes", I64, "bytes", "bytes of them as columns in memory, before they became text"),
        req("memory", I64, "bytes", "the most that its sorts, joins and groups held of the memory of queries at a time"),
        opt("error", Text, "", "what it was answered, at most 4 KiB; NULL where it is done, runs, or was cancelled"),
        req("sql", Text, "", "the statement, at most 4 KiB of it"),
    ]
}

/// The columns that SQL shows of a family beside the stored ones, after them. They are made when they are asked for.
pub fn explaining(family: Family) -> Vec<Field> {
    let named =
        opt("source_name", Text, "", "file or address of the source (table sources); NULL where the log is at fault, or it is not known");
    match family {
        Family::Quarantine => vec![
            opt("stood", Text, "", "where it stood, in words: topic[partition] offset n, or source, record and byte"),
            named,
            opt(
                "requeued_at",
                Time,
                "ns UTC",
                "clock 4 of the record that cancels it, as it was published again or settled (tape requeue); NULL where there is none",
            ),
        ],
        Family::Gaps => vec![
            opt("stood", Text, "", "where the hole is, in words: topic[partition], or source"),
            named,
            opt("missing", I64, "", "how many numbers or offsets it spans"),
            opt(
                "noted_at",
                Time,
                "ns UTC",
                "when the store noted a loss of the log, by the clock of the machine that committed the row, milliseconds kept as nanoseconds; NULL for what a source published",
            ),
        ],
        _ => Vec::new(),
    }
}

/// All columns of a family as SQL shows them.
pub fn shown_fields(family: Family) -> Vec<Field> {
    [family.topic().stored_fields(), explaining(family)].concat()
}
