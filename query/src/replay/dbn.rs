//! DBN files again, as their sources had them: the header that ingest kept, then record for record, those that were no good among them.
//!
//! How a row becomes a record is known where DBN is read; this file knows in which order they come, and what else a file had.

use super::{Replay, Run};
use crate::Engine;
use crate::error::Error;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::logical_expr::{col, lit};
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use schemas::Family;
use std::collections::{BTreeMap, HashSet};
use std::io::Write;

/// Makes the records of some rows of a batch again, one behind the other, and says where each ends; an error says which row it cannot, and why.
pub type DbnRows = fn(Family, &RecordBatch, &[usize]) -> Result<(Vec<u8>, Vec<usize>), (usize, String)>;

/// Where the file of a source goes.
pub type Sink<'a> = dyn FnMut(&[u8; 16]) -> Result<Box<dyn Write + Send>, Error> + Send + 'a;

/// What a header begins with.
const MAGIC: &[u8] = b"DBN";
/// Media types under which ingest keeps a header, and a gateway's message.
const HEADER: &str = "application/vnd.databento.dbn-metadata";
const MESSAGE: &str = "application/vnd.databento.dbn-record";
/// What the name of the parser of a DBN file begins with.
const PARSER: &str = "dbn/";

/// A source that came from DBN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its id.
    pub id: [u8; 16],
    /// The name under which it was first read.
    pub name: String,
    /// Its file began with a header.
    pub has_header: bool,
}

/// What was written of DBN sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Records.
    pub records: u64,
    /// Sources of which anything was.
    pub sources: HashSet<[u8; 16]>,
    /// Those whose file begins without a header.
    pub headless: HashSet<[u8; 16]>,
    /// Records that are not there between two that are, or before the first, by source.
    pub missing: BTreeMap<[u8; 16], u64>,
}

impl Source {
    /// The families that DBN records become, with what else a file has.
    pub fn families() -> Vec<Family> {
        let of_dbn = |family: &Family| family.topic().find_column("rtype").is_some();
        Family::ALL.into_iter().filter(|family| of_dbn(family) || matches!(family, Family::Documents | Family::Quarantine)).collect()
    }
}

/// The sources of the tables that came from DBN, by id; those of the datasets where any are named.
pub async fn dbn_sources(engine: &Engine, datasets: &[String]) -> Result<Vec<Source>, Error> {
    let reading = |e| Error::from_engine("reading the table of sources", e);
    let (catalog, state) = engine.tables();
    let rows = SessionContext::new_with_state(state).read_table(catalog.tape(Family::Sources)).map_err(reading)?;
    let of_dbn = datafusion::functions::expr_fn::starts_with(col("parser"), lit(PARSER));
    let mut rows = rows.filter(of_dbn.and(col("revision").eq(lit(0)))).map_err(reading)?;
    if !datasets.is_empty() {
        rows = rows.filter(col("dataset").in_list(datasets.iter().map(lit).collect(), false)).map_err(reading)?;
    }
    let rows = rows.sort(vec![col("source_id").sort(true, true)]).map_err(reading)?;
    let mut sources: Vec<Source> = Vec::new();
    for rows in rows.select_columns(&["source_id", "name", "n_mappings"]).map_err(reading)?.collect().await.map_err(reading)? {
        let (ids, names) = (rows.column(0).as_binary::<i32>(), rows.column(1).as_string::<i32>());
        let source = |row| {
            let (id, name) = (ids.value(row).try_into().ok()?, names.value(row).to_string());
            Some(Source { id, name, has_header: rows.column(2).is_valid(row) })
        };
        sources.extend((0..rows.num_rows()).filter_map(source));
    }
    sources.dedup_by_key(|source| source.id);
    Ok(sources)
}

/// Writes a replay in the order of the source, of sources that came from DBN, to the files that `open` gives: one after the other.
pub async fn write_dbn(
    replay: Replay,
    rows: DbnRows,
    open: &mut Sink<'_>,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Written, Error> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let runs =
        futures::stream::try_unfold(replay, |mut replay| async move { Ok::<_, Error>(replay.next().await?.map(|run| (run, replay))) });
    let encoded = runs.map(|run| async move {
        let run = run?;
        let pieces = tokio::task::spawn_blocking(move || pieces(&run, rows)).await;
        pieces.map_err(|why| Error::panicked("writing DBN", &why))?
    });
    let mut encoded = std::pin::pin!(encoded.buffered(threads + 1));
    let mut now: Option<([u8; 16], Box<dyn Write + Send>)> = None;
    let mut written = Written::default();
    let mut next = 0;
    while let Some(pieces) = encoded.next().await {
        for Piece { source, records, bytes, first, last, missing } in pieces? {
            if now.as_ref().is_none_or(|(before, _)| *before != source) {
                if let Some((_, mut file)) = now.take() {
                    file.flush()?;
                }
                now = Some((source, open(&source)?));
                written.sources.insert(source);
                if !bytes.starts_with(MAGIC) {
                    written.headless.insert(source);
                }
                next = 0;
            }
            if let Some((_, file)) = &mut now {
                file.write_all(&bytes)?;
            }
            if let (Some(first), Some(last)) = (first, last) {
                let missing = missing + (first - next).max(0).unsigned_abs();
                if missing > 0 {
                    *written.missing.entry(source).or_default() += missing;
                }
                next = last + 1;
            }
            written.records += records;
            progress(records);
        }
    }
    if let Some((_, mut file)) = now {
        file.flush()?;
    }
    Ok(written)
}

/// Neighbouring bytes of one source.
struct Piece {
    source: [u8; 16],
    records: u64,
    bytes: Vec<u8>,
    /// Numbers of its first and last record.
    first: Option<i64>,
    last: Option<i64>,
    /// Records that are not there between them.
    missing: u64,
}

fn pieces(run: &Run, make: DbnRows) -> Result<Vec<Piece>, Error> {
    let rows = run.stored()?;
    let topic = run.table().topic();
    let sources = rows.column(topic.column("source_id")).as_binary::<i32>();
    let numbers = rows.column(topic.column("source_record")).as_primitive::<Int64Type>();
    let is_record = |row: usize| numbers.value(row) >= 0;
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    let mut taken: Vec<usize> = Vec::with_capacity(rows.num_rows());
    let kept = |row| match run.family {
        Family::Documents => document(&rows, row, is_record(row)),
        // What ingest refused is there as it was in the file.
        _ => refused(&rows, row).filter(|_| is_record(row)),
    };
    match run.family {
        Family::Documents | Family::Quarantine => {
            for (row, kept) in (0..rows.num_rows()).filter_map(|row| Some((row, kept(row)?))) {
                bytes.extend_from_slice(kept);
                ends.push(bytes.len());
                taken.push(row);
            }
        }
        family => {
            // The header's mappings are in the header.
            taken.extend((0..rows.num_rows()).filter(|row| is_record(*row)));
            (bytes, ends) = make(family, &rows, &taken).map_err(|(row, why)| Error::Execution {
                doing: "writing a DBN record",
                what: format!("source {}, record {}, table {}: {why}", hex::encode(sources.value(row)), numbers.value(row), topic.name),
            })?;
        }
    }
    let mut pieces: Vec<Piece> = Vec::new();
    let mut begin = 0;
    for (row, end) in taken.into_iter().zip(ends) {
        let bytes = &bytes[begin..end];
        begin = end;
        if pieces.last().is_none_or(|piece| piece.source != sources.value(row)) {
            let source: [u8; 16] = sources.value(row).try_into().expect("a source's id has 16 bytes");
            pieces.push(Piece { source, records: 0, bytes: Vec::new(), first: None, last: None, missing: 0 });
        }
        let piece = pieces.last_mut().expect("there is one");
        if is_record(row) {
            let number = numbers.value(row);
            piece.missing += piece.last.map_or(0, |last| (number - last - 1).max(0).unsigned_abs());
            piece.first = piece.first.or(Some(number));
            piece.last = Some(number);
            piece.records += 1;
        }
        piece.bytes.extend_from_slice(bytes);
    }
    Ok(pieces)
}

/// A header's part, or a message; any other document is no part of a DBN file.
fn document(rows: &RecordBatch, row: usize, is_record: bool) -> Option<&[u8]> {
    let topic = Family::Documents.topic();
    let media_type = rows.column(topic.column("media_type")).as_string::<i32>();
    let body = rows.column(topic.column("body")).as_binary::<i32>();
    let wanted = if is_record { MESSAGE } else { HEADER };
    (media_type.is_valid(row) && media_type.value(row) == wanted && body.is_valid(row)).then(|| body.value(row))
}

fn refused(rows: &RecordBatch, row: usize) -> Option<&[u8]> {
    let raw = rows.column(Family::Quarantine.topic().column("raw")).as_binary::<i32>();
    raw.is_valid(row).then(|| raw.value(row))
}
