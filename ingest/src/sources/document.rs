//! What has no family is kept whole: every byte of it, in parts that a record can hold, with the SHA-256 of all of them.

use crate::Error;
use crate::source::{Chunk, End, Format, Given, HEAD_BYTES, Header, Parser};
use crate::sources::clock::date_of;
use crate::sources::sniff::first_byte;
use schemas::topic::RAW_MESSAGE_BYTES_MAX;
use schemas::{Family, Rows};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

/// Most bytes of a document in one record: the largest record, less 64 KiB for its other columns.
pub const PART_BYTES_MAX: usize = RAW_MESSAGE_BYTES_MAX - (64 << 10);

/// Most bytes of a document, unpacked, unless the user allows more: a few kilobytes of gzip can unpack to as many gigabytes, which would fill the
/// disk of temporary files and then the log.
pub const BYTES_MAX: u64 = 1 << 30;

/// The dataset of documents that belong to none.
pub const DATASET: &str = "DOCUMENTS";

/// Name of the parser.
pub const PARSER: &str = "document/1";

/// The format that reads whatever no other format recognised. It must be tried last.
pub fn format() -> Format {
    Format { parser: PARSER, recognise: |_, _| true, open: |input, given| Ok(Box::new(Document::read(input, given)?)) }
}

/// Rows of `documents` that hold `body` whole, and its SHA-256 to link figures to it. `source_record` is the part's number.
pub fn document_rows(dataset: &str, given: &Given, media_type: &str, body: &[u8]) -> (Rows, [u8; 32]) {
    let sha256: [u8; 32] = Sha256::digest(body).into();
    let mut rows = Rows::new(Family::Documents);
    let facts = Facts { dataset, given, media_type, sha256, bytes: body.len() as u64 };
    if body.is_empty() {
        facts.push(&mut rows, 0, body);
    }
    for (part, bytes) in (0..).zip(body.chunks(PART_BYTES_MAX)) {
        facts.push(&mut rows, part, bytes);
    }
    (rows, sha256)
}

/// What all parts of a document share.
struct Facts<'a> {
    dataset: &'a str,
    given: &'a Given,
    media_type: &'a str,
    sha256: [u8; 32],
    bytes: u64,
}

impl Facts<'_> {
    fn parts(&self) -> u64 {
        self.bytes.div_ceil(PART_BYTES_MAX as u64).max(1)
    }

    fn push(&self, rows: &mut Rows, part: u64, bytes: &[u8]) {
        let column = |name| Family::Documents.topic().column(name);
        let number = |n: u64| i32::try_from(n).expect("a file of 2^31 parts of 64 MiB does not exist");
        rows.text(column("dataset"), self.dataset);
        if let Some(ts_recv) = self.given.captured_ns() {
            rows.i64(column("ts_recv"), ts_recv);
            rows.date(column("date"), date_of(ts_recv));
        }
        rows.i64(column("source_record"), part as i64);
        rows.i64(column("source_byte"), (part * PART_BYTES_MAX as u64) as i64);
        rows.text(column("uri"), &self.given.label());
        rows.text(column("media_type"), self.media_type);
        rows.bytes(column("body"), bytes);
        rows.bytes(column("sha256"), &self.sha256);
        rows.i64(column("bytes"), self.bytes as i64);
        rows.i32(column("part"), number(part));
        rows.i32(column("parts"), number(self.parts()));
        rows.end_row();
    }
}

/// The kind of a document, by its first bytes, else by its name.
pub fn media_type(name: &str, head: &[u8]) -> &'static str {
    const BY_CONTENT: &[(&[u8], &str)] = &[
        (b"%PDF-", "application/pdf"),
        (b"PK\x03\x04", "application/zip"),
        (b"PAR1", "application/vnd.apache.parquet"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"DBN", "application/vnd.databento.dbn"),
    ];
    const BY_NAME: &[(&str, &str)] = &[
        ("json", "application/json"),
        ("jsonl", "application/x-ndjson"),
        ("ndjson", "application/x-ndjson"),
        ("csv", "text/csv"),
        ("tsv", "text/tab-separated-values"),
        ("html", "text/html"),
        ("htm", "text/html"),
        ("xml", "application/xml"),
        ("md", "text/markdown"),
        ("toml", "application/toml"),
        ("dbn", "application/vnd.databento.dbn"),
    ];
    if let Some((_, kind)) = BY_CONTENT.iter().find(|(magic, _)| head.starts_with(magic)) {
        return kind;
    }
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    if let Some((_, kind)) = BY_NAME.iter().find(|(known, _)| *known == extension) {
        return kind;
    }
    match (first_byte(head), text_of(head)) {
        (_, None) => "application/octet-stream",
        (Some(b'{' | b'['), Some(_)) => "application/json",
        (Some(b'<'), Some(text)) if text.to_ascii_lowercase().contains("<html") => "text/html",
        (_, Some(_)) => "text/plain",
    }
}

/// The head as text, if it is text: a character cut in two at the end of the head does no harm.
fn text_of(head: &[u8]) -> Option<&str> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&head[..e.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    (!text.contains('\0')).then_some(text)
}

/// True when the head's fields are those of a trading signal (entry, stop, target): an opinion about a price, never a price.
pub fn is_signal(head: &[u8]) -> bool {
    let Some(text) = text_of(head) else { return false };
    let fields = match first_byte(head) {
        Some(b'{' | b'[') => json_names(text),
        _ => text.lines().next().unwrap_or("").split([',', ';', '\t']).map(plain_name).collect(),
    };
    let any = |names: &[&str]| fields.iter().any(|field| names.iter().any(|name| field == name || field.starts_with(&format!("{name}_"))));
    any(&["entry"]) && any(&["stop", "stoploss", "sl"]) && any(&["target", "targets", "take_profit", "takeprofit", "tp"])
}

fn json_names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut quoted = text.split('"');
    quoted.next();
    // A string and what follows it: a name is followed by a colon. Escaped quotes only shift the pairing inside one string.
    while let (Some(string), Some(after)) = (quoted.next(), quoted.next()) {
        if after.trim_start().starts_with(':') {
            names.push(plain_name(string));
        }
    }
    names
}

fn plain_name(name: &str) -> String {
    name.trim().trim_matches('"').trim_start_matches('\u{feff}').to_ascii_lowercase().replace([' ', '-'], "_")
}

/// A document whose length is known, ready to be given part by part.
struct Document {
    given: Given,
    media_type: &'static str,
    notes: Vec<String>,
    /// Why it is not what its name says.
    unlike: Option<String>,
    sha256: [u8; 32],
    bytes: u64,
    body: Body,
    next_part: u64,
}

/// Where the bytes wait: a document of one part in memory, a larger one in an unnamed temporary file.
enum Body {
    Memory(Vec<u8>),
    Spooled(File),
}

impl Document {
    fn read(mut input: Box<dyn Read + Send>, given: &Given) -> Result<Document, Error> {
        let mut first = Vec::new();
        let read = input.by_ref().take(PART_BYTES_MAX as u64).read_to_end(&mut first);
        read.map_err(|why| Error::Read { file: given.label(), byte: first.len() as u64, why })?;
        if first.is_empty() {
            return Err(Error::Input {
                file: given.label(),
                what: "the file is empty (0 bytes)".into(),
                todo: "check where it came from; there is nothing to ingest".into(),
            });
        }
        let bytes_max = given.document_bytes_max.unwrap_or(BYTES_MAX);
        if first.len() as u64 > bytes_max {
            return Err(too_large(given, bytes_max));
        }
        let head = &first[..first.len().min(HEAD_BYTES)];
        let media_type = media_type(given.inner_name(), head);
        let unlike = unlike(head, given);
        let notes = if unlike.is_none() { vec![note(head)] } else { vec![] };
        let (body, sha256, bytes) = if first.len() < PART_BYTES_MAX {
            let (sha256, bytes) = (Sha256::digest(&first).into(), first.len() as u64);
            (Body::Memory(first), sha256, bytes)
        } else {
            let (file, sha256, bytes) = spool(first, input, given)?;
            (Body::Spooled(file), sha256, bytes)
        };
        Ok(Document { given: given.clone(), media_type, notes, unlike, sha256, bytes, body, next_part: 0 })
    }

    fn part(&mut self) -> std::io::Result<Vec<u8>> {
        let file = match &mut self.body {
            Body::Memory(bytes) => return Ok(std::mem::take(bytes)),
            Body::Spooled(file) => file,
        };
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(self.next_part * PART_BYTES_MAX as u64))?;
        file.take(PART_BYTES_MAX as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

fn note(head: &[u8]) -> String {
    if is_tar(head) {
        return "a tar archive, which is not read through: stored whole in documents; unpack it (tar xf) and ingest what is in it".into();
    }
    let why = if is_signal(head) { "a trading signal (entry, stop, target) is not a price" } else { "no family known for this content" };
    format!("{why}: stored whole in documents")
}

/// A header of POSIX or GNU tar: its magic stands at byte 257.
fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// What is wrong with a file that is named like DBN and is none.
fn unlike(head: &[u8], given: &Given) -> Option<String> {
    given.inner_name().ends_with(".dbn").then(|| {
        format!(
            "it is named like DBN but does not start with `DBN`: at byte 0 stands {}, expected the magic 44424e and a version: no record was \
             read, its bytes are kept whole in documents; check where it came from; records without a header need --dataset, --dbn-version \
             and --schema",
            hex::encode(&head[..head.len().min(4)])
        )
    })
}

/// Copies the input to a temporary file: a part must say how many parts there are before the last is read.
fn spool(first: Vec<u8>, mut input: Box<dyn Read + Send>, given: &Given) -> Result<(File, [u8; 32], u64), Error> {
    let unwritten = |why: std::io::Error| Error::Input {
        file: given.label(),
        what: format!("it is larger than {PART_BYTES_MAX} bytes and cannot be put aside in {}: {why}", std::env::temp_dir().display()),
        todo: "make room there, or point TMPDIR to a larger disk".into(),
    };
    let mut file = tempfile::tempfile().map_err(unwritten)?;
    let mut sha256 = Sha256::new();
    let mut bytes = 0;
    let mut piece = first;
    let bytes_max = given.document_bytes_max.unwrap_or(BYTES_MAX);
    while !piece.is_empty() {
        if bytes + piece.len() as u64 > bytes_max {
            return Err(too_large(given, bytes_max));
        }
        file.write_all(&piece).map_err(unwritten)?;
        sha256.update(&piece);
        bytes += piece.len() as u64;
        piece.clear();
        let read = input.by_ref().take(1 << 20).read_to_end(&mut piece);
        read.map_err(|why| Error::Read { file: given.label(), byte: bytes + piece.len() as u64, why })?;
    }
    Ok((file, sha256.finalize().into(), bytes))
}

fn too_large(given: &Given, bytes_max: u64) -> Error {
    Error::Input {
        file: given.label(),
        what: format!("unpacks to more than {} MiB, the most that a document may have", bytes_max >> 20),
        todo: "nothing of it was published; if it is no bomb, raise document_mib_max under [ingest] in tape.toml".into(),
    }
}

impl Parser for Document {
    fn dataset(&self) -> String {
        self.given.dataset.clone().unwrap_or_else(|| DATASET.into())
    }

    fn header(&self) -> Header {
        Header::default()
    }

    fn path_facts(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    fn next(&mut self, _records_max: usize) -> Result<Chunk, Error> {
        let done = self.next_part * PART_BYTES_MAX as u64;
        let bytes = self.part().map_err(|why| Error::Read { file: self.given.label(), byte: done, why })?;
        let mut rows = Rows::new(Family::Documents);
        let dataset = self.dataset();
        let facts = Facts { dataset: &dataset, given: &self.given, media_type: self.media_type, sha256: self.sha256, bytes: self.bytes };
        facts.push(&mut rows, self.next_part, &bytes);
        let parts = facts.parts();
        self.next_part += 1;
        Ok(Chunk {
            rows: vec![rows],
            bad: vec![],
            notes: std::mem::take(&mut self.notes),
            records: self.next_part as i64,
            bytes: done + bytes.len() as u64,
            end: if self.next_part < parts { End::More } else { self.unlike.take().map_or(End::Finished, End::Unlike) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::testing::{column, drain, finish, open_with};
    use arrow::array::AsArray;
    use proptest::prelude::*;

    fn open(name: &str, body: Vec<u8>) -> Result<Box<dyn Parser>, Error> {
        open_with(&format(), &Given { name: name.into(), ..Given::default() }, body)
    }

    #[test]
    fn a_tar_is_told_to_be_one() {
        let mut tar = vec![0; 1024];
        tar[..5].copy_from_slice(b"x.csv");
        tar[257..263].copy_from_slice(b"ustar\0");
        let chunks = drain(open("x.tar", tar).unwrap());
        assert!(chunks[0].notes[0].contains("a tar archive") && chunks[0].notes[0].contains("tar xf"), "{:?}", chunks[0].notes);
    }

    #[test]
    fn a_page_without_a_family_is_stored_whole_and_says_so() {
        let chunks = drain(open("notice.html", b"<html>tick size</html>".to_vec()).unwrap());
        assert_eq!(chunks.len(), 1);
        assert_eq!(chunks[0].notes, ["no family known for this content: stored whole in documents"]);
        let batch = finish(chunks.into_iter().next().unwrap().rows.remove(0));
        assert_eq!(column(&batch, Family::Documents, "body").as_binary::<i32>().value(0), b"<html>tick size</html>");
        assert_eq!(column(&batch, Family::Documents, "media_type").as_string::<i32>().value(0), "text/html");
        assert_eq!(column(&batch, Family::Documents, "dataset").as_string::<i32>().value(0), "DOCUMENTS");
        let sha: [u8; 32] = Sha256::digest(b"<html>tick size</html>").into();
        assert_eq!(column(&batch, Family::Documents, "sha256").as_binary::<i32>().value(0), sha);
    }

    // A document of two parts and three bytes: the parts put together are the document, and each says how many there are.
    #[test]
    fn a_large_document_comes_in_parts() {
        let body: Vec<u8> = (0..2 * PART_BYTES_MAX + 3).map(|i| (i % 251) as u8).collect();
        let chunks = drain(open("large.bin", body.clone()).unwrap());
        assert_eq!(chunks.iter().map(|chunk| chunk.end.clone()).collect::<Vec<_>>(), [End::More, End::More, End::Finished]);
        assert_eq!(chunks.iter().map(|chunk| chunk.notes.len()).sum::<usize>(), 1);
        assert_eq!(chunks[2].bytes, body.len() as u64);
        let sha: [u8; 32] = Sha256::digest(&body).into();
        let mut whole = Vec::new();
        for mut chunk in chunks {
            let batch = finish(chunk.rows.remove(0));
            whole.extend_from_slice(column(&batch, Family::Documents, "body").as_binary::<i32>().value(0));
            assert_eq!(column(&batch, Family::Documents, "parts").as_primitive::<arrow::datatypes::Int32Type>().value(0), 3);
            assert_eq!(column(&batch, Family::Documents, "sha256").as_binary::<i32>().value(0), sha);
        }
        assert!(whole == body);
    }

    // What unpacks without end stops at the limit, before anything of it is published.
    #[test]
    fn a_bomb_stops_at_the_limit() {
        let given = Given { name: "bomb.bin".into(), document_bytes_max: Some(PART_BYTES_MAX as u64 + (5 << 20)), ..Given::default() };
        let error = (format().open)(Box::new(std::io::repeat(0)), &given).err().expect("it is refused").to_string();
        assert!(error.starts_with("bomb.bin: unpacks to more than 68 MiB") && error.contains("document_mib_max"), "{error}");
        let fits = std::io::repeat(0).take(PART_BYTES_MAX as u64 + (5 << 20));
        assert_eq!(drain((format().open)(Box::new(fits), &given).unwrap()).len(), 2);
    }

    #[test]
    fn what_is_named_like_dbn_and_is_none_is_kept_and_found_out() {
        for name in ["a.dbn", "a.dbn.zst"] {
            let chunks = drain(open(name, b"DBX\x01....".to_vec()).unwrap());
            assert!(
                matches!(&chunks[0].end, End::Unlike(why) if why.contains("44425801") && why.contains("kept whole")),
                "{:?}",
                chunks[0].end
            );
            assert_eq!(chunks[0].records, 1);
        }
    }

    #[test]
    fn an_empty_file_is_an_error_that_says_so() {
        let error = open("empty.json", vec![]).err().expect("an empty file is refused").to_string();
        assert!(error.starts_with("empty.json: the file is empty"), "{error}");
    }

    #[test]
    fn a_signal_is_never_a_price() {
        assert!(is_signal(br#"{"symbol": "ETH/USD", "entry": 2710.5, "stop": 2650, "targets": [2800, 2900]}"#));
        assert!(is_signal(b"time,symbol,Entry Price,stop_loss,Take Profit\n1,ETH,2,1,3\n"));
        assert!(!is_signal(b"the entry was blocked, we did not stop on target"));
        assert!(!is_signal(b"time,symbol,open,high,low,close\n"));
        let chunks = drain(open("eth.json", br#"[{"entry":1,"stop":2,"target":3}]"#.to_vec()).unwrap());
        assert!(chunks[0].notes[0].contains("signal"), "{:?}", chunks[0].notes);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..300), name in "[a-z.]{0,8}") {
            let _ = (media_type(&name, &body), is_signal(&body));
            if let Ok(parser) = open(&name, body.clone()) {
                let mut chunk = drain(parser).remove(0);
                let batch = finish(chunk.rows.remove(0));
                prop_assert_eq!(column(&batch, Family::Documents, "body").as_binary::<i32>().value(0), &body[..]);
            }
        }
    }
}
