//! A chunk is what one publish brought to one partition, as one stored value; what was stored is read back exactly or refused.
//!
//! ```text
//! key    topic id (16) · partition (4) · last offset (8) · first offset (8) · append time in ms (8)      all big-endian
//! value  layout (1) · CRC-32 of the rest, of the key and of a layout other than 1 (4, big-endian) · the rest
//!   1 plain   records: key, value, key, value …
//!   2 whole   who set the time (1: 0 nobody, 1 the producer, 2 the log) · records: key, value, number of headers, name, value …
//!   3 hole    nothing: offsets that held no record in the log that was restored
//! ```
//!
//! The last offset comes first in the key, so the first chunk at or after a position is the one that holds it.

use crate::TimestampType;
use crate::codec::{Broken, put_bytes, put_headers, take_bytes, take_headers};
use bytes::{Buf, Bytes};
use schemas::record::Headers;
use uuid::Uuid;

/// How the rest of a chunk is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// What writers publish: keys and values.
    Plain = 1,
    /// What was replayed or restored: all that a record may have.
    Whole = 2,
    /// No records.
    Hole = 3,
}

impl Layout {
    fn of(byte: u8) -> Option<Layout> {
        [Layout::Plain, Layout::Whole, Layout::Hole].into_iter().find(|layout| *layout as u8 == byte)
    }
}

const HEAD_BYTES: usize = 5;
/// A chunk is closed when it has reached this size, so that reading one costs little memory.
pub(super) const CHUNK_BYTES: usize = 4 << 20;

/// Where a chunk stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub topic: Uuid,
    pub partition: i32,
    pub first: i64,
    pub last: i64,
    pub ts_ms: i64,
}

impl Place {
    const BYTES: usize = 44;

    pub(super) fn key(&self) -> [u8; Self::BYTES] {
        let mut key = [0; Self::BYTES];
        key[..28].copy_from_slice(&seek(self.topic, self.partition, self.last));
        key[28..36].copy_from_slice(&self.first.to_be_bytes());
        key[36..].copy_from_slice(&self.ts_ms.to_be_bytes());
        key
    }

    pub(super) fn of_key(key: &[u8]) -> Result<Place, Broken> {
        if key.len() != Self::BYTES {
            return Err(Broken("a chunk's key has another length"));
        }
        let eight = |at: usize| i64::from_be_bytes(key[at..at + 8].try_into().expect("the slice has eight bytes"));
        Ok(Place {
            topic: Uuid::from_slice(&key[..16]).expect("the slice has sixteen bytes"),
            partition: i32::from_be_bytes(key[16..20].try_into().expect("the slice has four bytes")),
            last: eight(20),
            first: eight(28),
            ts_ms: eight(36),
        })
    }
}

/// The key from which a scan finds the chunk that holds `offset`, and the later ones.
pub(super) fn seek(topic: Uuid, partition: i32, offset: i64) -> [u8; 28] {
    let mut key = [0; 28];
    key[..16].copy_from_slice(topic.as_bytes());
    key[16..20].copy_from_slice(&partition.to_be_bytes());
    key[20..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// Records on their way into a chunk.
pub(super) struct Builder {
    layout: Layout,
    value: Vec<u8>,
    pub count: i64,
}

impl Builder {
    pub(super) fn new() -> Builder {
        Builder { layout: Layout::Plain, value: vec![0; HEAD_BYTES], count: 0 }
    }

    pub(super) fn wholes(ts_type: TimestampType) -> Builder {
        let mut value = vec![0; HEAD_BYTES];
        value.push(ts_type_byte(ts_type));
        Builder { layout: Layout::Whole, value, count: 0 }
    }

    /// Of so many offsets that hold nothing.
    pub(super) fn hole(count: i64) -> Builder {
        Builder { layout: Layout::Hole, value: vec![0; HEAD_BYTES], count }
    }

    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) {
        put_bytes(&mut self.value, Some(key));
        put_bytes(&mut self.value, Some(value));
        self.count += 1;
    }

    /// Adds a record to a builder of wholes.
    pub(super) fn push_whole(&mut self, key: Option<&[u8]>, value: Option<&[u8]>, headers: &Headers) {
        debug_assert_eq!(self.layout, Layout::Whole);
        put_bytes(&mut self.value, key);
        put_bytes(&mut self.value, value);
        put_headers(&mut self.value, headers);
        self.count += 1;
    }

    pub(super) fn bytes(&self) -> usize {
        self.value.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.value.len() >= CHUNK_BYTES
    }

    /// The sum over the records: the costly part, done before a place is known.
    pub(super) fn sum(self) -> Summed {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.value[HEAD_BYTES..]);
        Summed { layout: self.layout, value: self.value, count: self.count, crc }
    }
}

/// A chunk that only lacks its place.
pub(super) struct Summed {
    layout: Layout,
    value: Vec<u8>,
    pub count: i64,
    crc: crc32fast::Hasher,
}

impl Summed {
    pub(super) fn seal(mut self, place: &Place) -> Vec<u8> {
        self.crc.update(&place.key());
        update_with_layout(&mut self.crc, self.layout);
        self.value[0] = self.layout as u8;
        self.value[1..HEAD_BYTES].copy_from_slice(&self.crc.finalize().to_be_bytes());
        self.value
    }
}

/// The first layout was once the only one, and no part of the sum.
fn update_with_layout(crc: &mut crc32fast::Hasher, layout: Layout) {
    if layout != Layout::Plain {
        crc.update(&[layout as u8]);
    }
}

/// A chunk that is read, record by record.
#[derive(Debug)]
pub(super) struct Opened {
    pub layout: Layout,
    pub ts_type: TimestampType,
    rest: Bytes,
}

/// Checks a chunk's value against its sum.
pub(super) fn open(place: &Place, value: Bytes) -> Result<Opened, Broken> {
    if value.len() < HEAD_BYTES {
        return Err(Broken("a chunk is shorter than its head"));
    }
    let Some(layout) = Layout::of(value[0]) else {
        return Err(Broken("a chunk has a layout that this tokentape does not know: it was written by a newer one, or is damaged"));
    };
    let stated = u32::from_be_bytes(value[1..HEAD_BYTES].try_into().expect("the slice has four bytes"));
    let mut rest = value.slice(HEAD_BYTES..);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&rest);
    crc.update(&place.key());
    update_with_layout(&mut crc, layout);
    if crc.finalize() != stated {
        return Err(Broken("a chunk does not match its check sum: the disk or something else has altered it"));
    }
    let ts_type = match layout {
        Layout::Whole => take_ts_type(&mut rest)?,
        Layout::Plain | Layout::Hole => TimestampType::LogAppend,
    };
    Ok(Opened { layout, ts_type, rest })
}

impl Opened {
    /// Takes one record off the front: key, value, headers.
    pub(super) fn take(&mut self) -> Result<(Option<Bytes>, Option<Bytes>, Headers), Broken> {
        let (key, value) = (take_bytes(&mut self.rest)?, take_bytes(&mut self.rest)?);
        let headers = match self.layout {
            Layout::Whole => take_headers(&mut self.rest)?,
            Layout::Plain | Layout::Hole => Headers::new(),
        };
        Ok((key, value, headers))
    }
}

fn ts_type_byte(ts_type: TimestampType) -> u8 {
    match ts_type {
        TimestampType::None => 0,
        TimestampType::Create => 1,
        TimestampType::LogAppend => 2,
    }
}

fn take_ts_type(from: &mut Bytes) -> Result<TimestampType, Broken> {
    match from.has_remaining().then(|| from.get_u8()) {
        Some(0) => Ok(TimestampType::None),
        Some(1) => Ok(TimestampType::Create),
        Some(2) => Ok(TimestampType::LogAppend),
        _ => Err(Broken("a timestamp is of no known type")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(place: &Place) -> Vec<u8> {
        let mut builder = Builder::new();
        builder.push(b"k", b"v");
        builder.push(b"", b"");
        builder.sum().seal(place)
    }

    fn place() -> Place {
        Place { topic: Uuid::from_bytes([7; 16]), partition: 3, first: 10, last: 11, ts_ms: 1_764_000_000_000 }
    }

    #[test]
    fn a_key_tells_its_place_and_sorts_by_last_offset() {
        assert_eq!(Place::of_key(&place().key()), Ok(place()));
        assert!(place().key().as_slice() >= seek(place().topic, 3, 11).as_slice());
        assert!(place().key().as_slice() < seek(place().topic, 3, 12).as_slice());
    }

    #[test]
    fn a_chunk_opens_and_any_altered_bit_is_noticed() {
        let value = sealed(&place());
        let mut records = open(&place(), Bytes::from(value.clone())).expect("a sealed chunk opens");
        assert_eq!(records.take(), Ok((Some(Bytes::from("k")), Some(Bytes::from("v")), vec![])));
        assert_eq!(records.take(), Ok((Some(Bytes::new()), Some(Bytes::new()), vec![])));
        assert!(records.rest.is_empty());
        for bit in 0..value.len() * 8 {
            let mut altered = value.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&place(), Bytes::from(altered)).is_err(), "bit {bit}");
        }
        let mut wholes = Builder::wholes(TimestampType::Create);
        let headers = vec![("h".to_string(), None), (String::new(), Some(Bytes::from("x")))];
        wholes.push_whole(None, Some(b""), &headers);
        let hole = Builder::hole(2).sum().seal(&place());
        let whole = wholes.sum().seal(&place());
        let mut opened = open(&place(), Bytes::from(whole.clone())).expect("a sealed chunk opens");
        assert_eq!((opened.ts_type, opened.take()), (TimestampType::Create, Ok((None, Some(Bytes::new()), headers))));
        assert_eq!(open(&place(), Bytes::from(hole.clone())).expect("a sealed hole opens").layout, Layout::Hole);
        for (sealed, bit) in [whole, hole].iter().flat_map(|sealed| (0..sealed.len() * 8).map(move |bit| (sealed, bit))) {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&place(), Bytes::from(altered)).is_err(), "bit {bit}");
        }
        let elsewhere = Place { first: 11, last: 12, ..place() };
        assert!(open(&elsewhere, Bytes::from(value)).is_err());
    }
}
