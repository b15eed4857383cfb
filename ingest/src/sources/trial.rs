//! For tests of text sources: reads a file as ingest would, and finds the real files and the facts about them.

use crate::Error;
use crate::source::{Bad, End, Given, Header, Parser};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Date32Type, Decimal128Type, Int32Type, Int64Type};
use schemas::Family;
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::PathBuf;

/// Everything that a parser gave.
pub struct Trial {
    pub batches: BTreeMap<Family, RecordBatch>,
    pub bad: Vec<Bad>,
    pub notes: Vec<String>,
    pub records: i64,
    pub bytes: u64,
    pub end: End,
    pub dataset: String,
    pub header: Header,
    pub facts: BTreeMap<String, String>,
    pub parser: &'static str,
}

/// Reads bytes by the first format that recognises them, in chunks of `records_max`; `None` when only `documents` takes them.
pub fn read_by(bytes: &[u8], given: &Given, records_max: usize) -> Option<Result<Trial, Error>> {
    let head = &bytes[..bytes.len().min(crate::source::HEAD_BYTES)];
    let format = super::all().into_iter().find(|format| (format.recognise)(head, given))?;
    if format.parser == super::document::PARSER {
        return None;
    }
    let opened = (format.open)(Box::new(Cursor::new(bytes.to_vec())), given);
    Some(opened.and_then(|parser| drain(parser, format.parser, records_max)))
}

/// Reads bytes that must be recognised and readable.
pub fn read(bytes: &[u8], name: &str) -> Trial {
    read_by(bytes, &given(name), 4096).expect("recognised").expect("readable")
}

pub fn given(name: &str) -> Given {
    match name.split_once(".zip:") {
        Some((zip, member)) => Given { name: format!("{zip}.zip"), member: Some(member.into()), ..Given::default() },
        None => Given { name: name.into(), ..Given::default() },
    }
}

fn drain(mut parser: Box<dyn Parser>, name: &'static str, records_max: usize) -> Result<Trial, Error> {
    let mut all: BTreeMap<Family, Vec<RecordBatch>> = BTreeMap::new();
    let (mut bad, mut notes) = (vec![], vec![]);
    loop {
        let chunk = parser.next(records_max)?;
        for mut rows in chunk.rows {
            rows.default_bytes(rows.topic().column("source_id"), &[7; 16]);
            rows.default_text(rows.topic().column("change"), "new");
            rows.default_i32(rows.topic().column("revision"), 0);
            let family = rows.family();
            all.entry(family).or_default().push(rows.finish().expect("rows are valid"));
        }
        bad.extend(chunk.bad);
        notes.extend(chunk.notes);
        if chunk.end != End::More {
            let batches =
                all.into_iter().map(|(family, list)| (family, concat_batches(family.topic().wire_schema(), &list).unwrap())).collect();
            let (dataset, header, facts) = (parser.dataset(), parser.header(), parser.path_facts());
            return Ok(Trial {
                batches,
                bad,
                notes,
                records: chunk.records,
                bytes: chunk.bytes,
                end: chunk.end,
                dataset,
                header,
                facts,
                parser: name,
            });
        }
    }
}

impl Trial {
    pub fn batch(&self, family: Family) -> &RecordBatch {
        &self.batches[&family]
    }

    pub fn rows(&self, family: Family) -> usize {
        self.batches.get(&family).map_or(0, RecordBatch::num_rows)
    }

    pub fn column(&self, family: Family, name: &str) -> &ArrayRef {
        self.batch(family).column(family.topic().column(name))
    }

    pub fn decimals(&self, family: Family, name: &str) -> Vec<Option<i128>> {
        self.column(family, name).as_primitive::<Decimal128Type>().iter().collect()
    }

    pub fn integers(&self, family: Family, name: &str) -> Vec<Option<i64>> {
        self.column(family, name).as_primitive::<Int64Type>().iter().collect()
    }

    pub fn small(&self, family: Family, name: &str) -> Vec<Option<i32>> {
        self.column(family, name).as_primitive::<Int32Type>().iter().collect()
    }

    pub fn dates(&self, family: Family, name: &str) -> Vec<Option<String>> {
        let days = self.column(family, name).as_primitive::<Date32Type>().iter();
        days.map(|d| d.map(|d| chrono::NaiveDate::from_num_days_from_ce_opt(d + 719_163).unwrap().format("%Y%m%d").to_string())).collect()
    }

    pub fn texts(&self, family: Family, name: &str) -> Vec<Option<String>> {
        self.column(family, name).as_string::<i32>().iter().map(|t| t.map(String::from)).collect()
    }

    /// The one text of all rows.
    pub fn text(&self, family: Family, name: &str) -> Option<String> {
        let mut texts = self.texts(family, name);
        texts.dedup();
        assert_eq!(texts.len(), 1, "{name} differs between rows");
        texts.remove(0)
    }

    pub fn sum(&self, family: Family, name: &str) -> i128 {
        self.decimals(family, name).into_iter().flatten().sum()
    }

    pub fn nulls(&self, family: Family, name: &str) -> usize {
        self.column(family, name).null_count()
    }
}

/// The folder of real files; `None`, said in a line, where there is none. With `TAPE_DATA` set, its absence is a failure.
pub fn data() -> Option<PathBuf> {
    let named = std::env::var_os("TAPE_DATA");
    let folder = named.clone().map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    if folder.join("expected.json").is_file() {
        return Some(folder);
    }
    assert!(named.is_none(), "TAPE_DATA is set, and {} holds no expected.json", folder.display());
    eprintln!("skipped: no real files at {} (TAPE_DATA names another place)", folder.display());
    None
}

/// The files of a kind in `expected.json`, with their facts.
pub fn expected(data: &std::path::Path, kind: &str) -> Vec<(String, serde_json::Value)> {
    let text = std::fs::read_to_string(data.join("expected.json")).unwrap();
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    let files = all["files"].as_object().unwrap();
    files.iter().filter(|(_, facts)| facts["kind"] == kind).map(|(path, facts)| (path.clone(), facts.clone())).collect()
}

/// A real file, unpacked where it is a gz.
pub fn unpacked(data: &std::path::Path, path: &str) -> Vec<u8> {
    let bytes = std::fs::read(data.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    if !path.ends_with(".gz") {
        return bytes;
    }
    let mut out = Vec::new();
    flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut out).unwrap();
    out
}

/// The members of a real zip.
pub fn members(data: &std::path::Path, path: &str) -> Vec<(String, Vec<u8>)> {
    let file = std::fs::File::open(data.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut zip = zip::ZipArchive::new(file).unwrap();
    (0..zip.len())
        .map(|at| {
            let mut member = zip.by_index(at).unwrap();
            let mut out = Vec::new();
            member.read_to_end(&mut out).unwrap();
            (member.name().unwrap().into_owned(), out)
        })
        .collect()
}

/// A decimal text as the unscaled value of scale 9.
pub fn nano(text: &str) -> i128 {
    schemas::exact::parse(text, 38, 9, 0).unwrap()
}
