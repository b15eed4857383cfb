//! The metadata header of a DBN file: read whole, decoded by the `dbn` crate, kept as bytes in `documents` and as dated mappings in
//! `instruments`.

use super::symbols::day_of;
use crate::Error;
use crate::source::{Given, Header};
use dbn::decode::dbn::MetadataDecoder;
use dbn::{Metadata, SType, VersionUpgradePolicy};
use schemas::{Family, Rows};
use sha2::{Digest, Sha256};
use std::io::{ErrorKind, Read};

/// Magic, version and length: what the length does not count.
const PRELUDE_LEN: usize = 8;
/// No version's header is shorter.
const LENGTH_MIN: u32 = 100;
/// A header of this length names some 1.6 million symbols; a larger length is a broken one, and would fill the memory.
const LENGTH_MAX: u32 = 256 << 20;
/// Largest part of a header in one row of `documents`, so that the row fits the topic's largest message of 64 MiB.
const PART_BYTES: usize = (64 << 20) - (64 << 10);
/// `source_record` of rows that come from the header and not from a record.
const HEADER_RECORD: i64 = -1;
const METADATA_MEDIA_TYPE: &str = "application/vnd.databento.dbn-metadata";
const DAY_NS: i64 = 86_400_000_000_000;

/// A header as read.
#[derive(Debug)]
pub(super) struct RawHeader {
    /// Its bytes, magic included.
    pub(super) bytes: Vec<u8>,
    /// What they say.
    pub(super) metadata: Metadata,
}

/// Reads the header from the beginning of the stream.
pub(super) fn read(input: &mut dyn Read, given: &Given) -> Result<RawHeader, Error> {
    let mut bytes = read_up_to(input, Vec::new(), PRELUDE_LEN, given)?;
    expect_magic(&bytes, given)?;
    expect_length(&bytes, PRELUDE_LEN, given)?;
    expect_version(bytes[3], given)?;
    let length = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    expect_sane(length, given)?;
    let end = PRELUDE_LEN + length as usize;
    bytes = read_up_to(input, bytes, end, given)?;
    expect_length(&bytes, end, given)?;
    let metadata = MetadataDecoder::with_upgrade_policy(&bytes[..], VersionUpgradePolicy::AsIs)
        .decode()
        .map_err(|e| broken(given, format!("the DBN header in bytes 0 to {end} cannot be decoded: {e}")))?;
    Ok(RawHeader { bytes, metadata })
}

/// Reads on until `end` bytes are there or the stream ends; memory grows with what really comes, not with what a length claims.
pub(super) fn read_up_to(input: &mut dyn Read, mut bytes: Vec<u8>, end: usize, given: &Given) -> Result<Vec<u8>, Error> {
    let missing = (end - bytes.len()) as u64;
    match input.take(missing).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(bytes),
        Err(why) => Err(Error::Read { file: given.label(), byte: bytes.len() as u64, why }),
    }
}

fn expect_magic(bytes: &[u8], given: &Given) -> Result<(), Error> {
    if bytes.iter().zip(super::MAGIC).all(|(byte, magic)| byte == magic) {
        return Ok(());
    }
    Err(Error::Input {
        file: given.label(),
        what: "does not begin with DBN, as a DBN file with a header does".into(),
        todo: "if it holds DBN records without a header, say what they are with --dbn-version and --schema".into(),
    })
}

fn expect_length(bytes: &[u8], expected: usize, given: &Given) -> Result<(), Error> {
    if bytes.len() == expected {
        return Ok(());
    }
    Err(Error::Input {
        file: given.label(),
        what: format!("cut short: the DBN header ends at byte {}, it should be {expected} bytes long", bytes.len()),
        todo: "fetch the file again, nothing in it can be read".into(),
    })
}

fn expect_version(version: u8, given: &Given) -> Result<(), Error> {
    if (1..=3).contains(&version) {
        return Ok(());
    }
    Err(Error::Input {
        file: given.label(),
        what: format!("DBN version {version} (byte 3) is not known, known are versions 1, 2 and 3"),
        todo: "ask the sender for DBN version 3, or use a tokentape that knows this version".into(),
    })
}

fn expect_sane(length: u32, given: &Given) -> Result<(), Error> {
    if (LENGTH_MIN..=LENGTH_MAX).contains(&length) {
        return Ok(());
    }
    Err(broken(given, format!("the DBN header says at byte 4 that it is {length} bytes long, expected are {LENGTH_MIN} to {LENGTH_MAX}")))
}

fn broken(given: &Given, what: String) -> Error {
    Error::Input { file: given.label(), what, todo: "fetch the file again; if it stays so, ask its sender".into() }
}

/// The facts for table `sources`.
pub(super) fn facts(metadata: &Metadata) -> Header {
    Header {
        version: Some(i64::from(metadata.version)),
        start: time(metadata.start),
        end: metadata.end.and_then(|end| time(end.get())),
        limit: metadata.limit.map(|limit| limit.get()),
        stype_in: metadata.stype_in.map(|stype| stype.as_str().into()),
        stype_out: Some(metadata.stype_out.as_str().into()),
        ts_out: Some(metadata.ts_out),
        symbols: Some(metadata.symbols.clone()),
        n_mappings: Some(metadata.mappings.len() as i64),
        columns: None,
        schema: metadata.schema.map(|schema| schema.as_str().into()),
        licence: None,
        sequence_complete: None,
    }
}

/// `u64::MAX` says that there is no time; what lies beyond 2262 cannot be told either, and stays in the raw header.
fn time(ns: u64) -> Option<i64> {
    i64::try_from(ns).ok()
}

/// The header's rows: its bytes in `documents`, its mappings in `instruments`. They count from 0 in `source_byte` and stand at record -1.
pub(super) fn rows(header: &RawHeader, dataset: &str, given: &Given) -> Vec<Rows> {
    let (documents, next) = document(&header.bytes, PART_BYTES, dataset, given);
    let mappings = mappings(&header.metadata, dataset, next);
    if mappings.is_empty() { vec![documents] } else { vec![documents, mappings] }
}

fn document(bytes: &[u8], part_bytes: usize, dataset: &str, given: &Given) -> (Rows, i64) {
    let mut rows = Rows::new(Family::Documents);
    let topic = rows.topic();
    let sha256 = Sha256::digest(bytes);
    let parts = bytes.chunks(part_bytes).count() as i32;
    rows.default_text(topic.column("dataset"), dataset);
    for (part, body) in (0..).zip(bytes.chunks(part_bytes)) {
        rows.text(topic.column("uri"), &given.label());
        rows.text(topic.column("media_type"), METADATA_MEDIA_TYPE);
        rows.bytes(topic.column("body"), body);
        rows.bytes(topic.column("sha256"), &sha256);
        rows.i32(topic.column("part"), part);
        rows.i32(topic.column("parts"), parts);
        rows.i64(topic.column("source_record"), HEADER_RECORD);
        rows.i64(topic.column("source_byte"), i64::from(part));
        rows.end_row();
    }
    (rows, i64::from(parts))
}

fn mappings(metadata: &Metadata, dataset: &str, first: i64) -> Rows {
    let mut rows = Rows::new(Family::Instruments);
    let topic = rows.topic();
    let column = |name| topic.column(name);
    let (symbol, mapped_symbol, instrument_id) = (column("symbol"), column("mapped_symbol"), column("instrument_id"));
    let (valid_from, valid_to) = (column("valid_from"), column("valid_to"));
    let (source_record, source_byte) = (column("source_record"), column("source_byte"));
    rows.default_text(column("dataset"), dataset);
    rows.default_text(column("kind"), "mapping");
    if let Some(stype_in) = metadata.stype_in {
        rows.default_text(column("stype_in"), stype_in.as_str());
    }
    rows.default_text(column("stype_out"), metadata.stype_out.as_str());
    rows.default_i32(column("dbn_version"), i32::from(metadata.version));
    let intervals = metadata.mappings.iter().flat_map(|mapping| mapping.intervals.iter().map(move |interval| (mapping, interval)));
    for (place, (mapping, interval)) in (first..).zip(intervals) {
        rows.text(symbol, &mapping.raw_symbol);
        rows.text(mapped_symbol, &interval.symbol);
        if let Some(id) = instrument_number(metadata, &mapping.raw_symbol, &interval.symbol) {
            rows.i64(instrument_id, i64::from(id));
        }
        if let Some(ns) = midnight(interval.start_date.to_julian_day()) {
            rows.i64(valid_from, ns);
        }
        if let Some(ns) = midnight(interval.end_date.to_julian_day()) {
            rows.i64(valid_to, ns);
        }
        rows.i64(source_record, HEADER_RECORD);
        rows.i64(source_byte, place);
        rows.end_row();
    }
    rows
}

fn instrument_number(metadata: &Metadata, asked: &str, answered: &str) -> Option<u32> {
    match (metadata.stype_in, metadata.stype_out) {
        (_, SType::InstrumentId) => answered.parse().ok(),
        (Some(SType::InstrumentId), _) => asked.parse().ok(),
        _ => None,
    }
}

/// Midnight UTC of a Julian day; `None` beyond the years 1677 to 2262, as in open-ended intervals.
fn midnight(julian_day: i32) -> Option<i64> {
    i64::from(day_of(julian_day)).checked_mul(DAY_NS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;

    #[test]
    fn a_header_too_long_for_one_message_goes_in_parts() {
        let (mut rows, next) = document(&[1, 2, 3, 4, 5], 2, "GLBX.MDP3", &Given::default());
        let topic = rows.topic();
        rows.default_text(topic.column("change"), "new");
        rows.default_i32(topic.column("revision"), 0);
        rows.default_bytes(topic.column("source_id"), &[7; 16]);
        let batch = rows.finish().unwrap();
        let bodies = batch.column_by_name("body").unwrap().as_binary::<i32>();
        assert_eq!((next, bodies.iter().flatten().collect::<Vec<_>>()), (3, vec![&[1, 2][..], &[3, 4], &[5]]));
        let whole = batch.column_by_name("sha256").unwrap().as_binary::<i32>();
        assert!(whole.iter().all(|sha256| sha256 == Some(&Sha256::digest([1, 2, 3, 4, 5])[..])));
    }
}
