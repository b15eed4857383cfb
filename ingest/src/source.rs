//! What a source is to the rest of ingest: a parser that turns unpacked bytes into chunks of records, and what was known when it was opened.

use crate::Error;
use schemas::Rows;
use std::collections::BTreeMap;
use std::io::Read;

/// What is known of an input before its bytes are read.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// Path or name as the user gave it, for messages, path facts and `sources.name`.
    pub name: String,
    /// Archive member, where the input is one.
    pub member: Option<String>,
    /// `--dataset`.
    pub dataset: Option<String>,
    /// `--dbn-version`, for header-less DBN fragments.
    pub dbn_version: Option<u8>,
    /// `--schema`, for header-less DBN fragments.
    pub schema: Option<String>,
    /// `--mapping`: a TOML file of the user's.
    pub mapping: Option<std::path::PathBuf>,
    /// Milliseconds since 1970 UTC when the capture began: `ts_recv` of what tokentape itself fetches or listens to.
    pub captured_ms: Option<i64>,
    /// The capture time was given by the user, not taken from the clock.
    pub captured_given: bool,
    /// `--another-source`: it is no copy of a source that begins like it and goes on.
    pub another_source: bool,
    /// Most bytes of a document, unpacked; `None` = [`crate::sources::document::BYTES_MAX`].
    pub document_bytes_max: Option<u64>,
    /// The input was modified so lately that its last line may be unfinished: a last line without line end is left for the next time.
    pub growing: bool,
}

impl Given {
    /// `file.zip:member.csv` or `file.csv`, for messages.
    pub fn label(&self) -> String {
        match &self.member {
            Some(member) => format!("{}:{member}", self.name),
            None => self.name.clone(),
        }
    }

    /// The capture time in nanoseconds, where it is known and an i64 holds it.
    pub fn captured_ns(&self) -> Option<i64> {
        self.captured_ms.and_then(|ms| ms.checked_mul(1_000_000))
    }

    /// The innermost file name (member, else path), with its folders, packing suffixes `.gz`, `.zst`, `.zstd` cut off.
    pub fn inner_name(&self) -> &str {
        let name = self.member.as_deref().unwrap_or(&self.name);
        [".gz", ".zst", ".zstd"].into_iter().find_map(|packing| name.strip_suffix(packing)).unwrap_or(name)
    }
}

/// Facts of a file's header, for the `sources` table. Absent facts are `None`.
#[derive(Debug, Clone, Default)]
pub struct Header {
    /// Format version.
    pub version: Option<i64>,
    /// Start of the query, ns UTC.
    pub start: Option<i64>,
    /// End of the query, ns UTC.
    pub end: Option<i64>,
    /// Limit of the query.
    pub limit: Option<u64>,
    /// Symbology type asked by.
    pub stype_in: Option<String>,
    /// Symbology type answered in.
    pub stype_out: Option<String>,
    /// Whether records carry `ts_out`.
    pub ts_out: Option<bool>,
    /// Symbols asked for.
    pub symbols: Option<Vec<String>>,
    /// Number of symbol mappings.
    pub n_mappings: Option<i64>,
    /// Column names of a text file.
    pub columns: Option<Vec<String>>,
    /// The source's record type (`sources.schema`): DBN schema name, ctp, …
    pub schema: Option<String>,
    /// The licence that the source or its mapping states.
    pub licence: Option<String>,
    /// Within what (`source`, `symbol`) its mapping declares that the numbers of `sequence` count up by one, without a hole.
    pub sequence_complete: Option<String>,
}

/// A record that could not be parsed. It goes whole to `quarantine`.
#[derive(Debug, Clone)]
pub struct Bad {
    /// Number of the record in its source, from 0, counted with the good ones.
    pub record: i64,
    /// Where it begins in the unpacked source.
    pub byte: i64,
    /// Its line in a text file, from 1; `None` in a binary one.
    pub line: Option<u64>,
    /// The column or field at fault; `None` = the whole record.
    pub field: Option<String>,
    /// What is wrong, what was expected.
    pub reason: String,
    /// Its bytes as they came.
    pub raw: Vec<u8>,
}

/// How a chunk ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// There is more to read.
    More,
    /// The source ended where a record ended.
    Finished,
    /// The source ended inside a quoted field that may hold line ends: its lines were taken one by one. Were it to go on, the quote might
    /// close, and the lines be one record.
    OpenQuote,
    /// The source ended inside a record, header or compressed frame, or its rest cannot be read: what was complete is kept, the rest is
    /// left unread. Says where (byte) and why.
    CutShort(String),
    /// The source ended, whole, but it is not what its name says, and so none of the records that it should have were read. Says why.
    Unlike(String),
}

/// Some records of a source, parsed.
#[derive(Debug)]
pub struct Chunk {
    /// Good records, by family. The parser sets `dataset`, `source_record`, `source_byte` and all it knows; `source_id` is filled later, `change` and
    /// `revision` are `new` and 0 unless a row set them.
    pub rows: Vec<Rows>,
    /// Bad records.
    pub bad: Vec<Bad>,
    /// What a user should be told once (a known file without a family, a header that contradicts the records, …).
    pub notes: Vec<String>,
    /// Records consumed since the source's beginning, good and bad: the `source_record` of the next one.
    pub records: i64,
    /// Unpacked bytes consumed since the source's beginning, up to a record boundary.
    pub bytes: u64,
    /// How the chunk ended.
    pub end: End,
}

/// Turns one unpacked source into chunks. Reads forward only, holds no more than a chunk (documents and single-page sources: than the page).
pub trait Parser: Send {
    /// The dataset code of the source, for its `sources` row and its quarantine; known once the first chunk has been read.
    fn dataset(&self) -> String;

    /// Facts of the header; complete once the first chunk has been read.
    fn header(&self) -> Header;

    /// What the path or member name adds to the content (date, expiry, symbol). It is part of the source's identity.
    fn path_facts(&self) -> BTreeMap<String, String>;

    /// The next chunk of at most about `records_max` records. Not called again after an end.
    fn next(&mut self, records_max: usize) -> Result<Chunk, Error>;
}

/// A kind of source: how it is recognised, and how it is opened.
pub struct Format {
    /// Name and version of the parser, for example `dbn/1`; part of every source's identity.
    pub parser: &'static str,
    /// True when content (the first bytes, at most [`HEAD_BYTES`], unpacked) and name are of this kind.
    pub recognise: fn(head: &[u8], given: &Given) -> bool,
    /// Opens it. An error here means that the file as a whole cannot be read: it says what was expected and what to do.
    pub open: Open,
}

/// Makes the parser of an input.
pub type Open = fn(input: Box<dyn Read + Send>, given: &Given) -> Result<Box<dyn Parser>, Error>;

/// How many bytes a format may look at to recognise a file.
pub const HEAD_BYTES: usize = 64 * 1024;
