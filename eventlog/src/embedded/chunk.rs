//! A chunk is what one publish brought to one partition, as one stored value; what was stored is read back exactly or refused.
//!
//! ```text
//! key    topic id (16) · partition (4) · last offset (8) · first offset (8) · append time in ms (8)      all big-endian
//! value  layout (1) · CRC-32 of the rest and of the key (4, big-endian) · records: key, value, key, value …
//! ```
//!
//! The last offset comes first in the key, so the first chunk at or after a position is the one that holds it.

use crate::codec::{Broken, put_bytes, take_bytes};
use bytes::Bytes;
use uuid::Uuid;

/// The layout written today; an older one stays readable.
const LAYOUT: u8 = 1;
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
    value: Vec<u8>,
    pub count: i64,
}

impl Builder {
    pub(super) fn new() -> Builder {
        Builder { value: vec![0; HEAD_BYTES], count: 0 }
    }

    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) {
        put_bytes(&mut self.value, Some(key));
        put_bytes(&mut self.value, Some(value));
        self.count += 1;
    }

    pub(super) fn is_full(&self) -> bool {
        self.value.len() >= CHUNK_BYTES
    }

    /// The sum over the records: the costly part, done before a place is known.
    pub(super) fn sum(self) -> Summed {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.value[HEAD_BYTES..]);
        Summed { value: self.value, count: self.count, crc }
    }
}

/// A chunk that only lacks its place.
pub(super) struct Summed {
    value: Vec<u8>,
    pub count: i64,
    crc: crc32fast::Hasher,
}

impl Summed {
    pub(super) fn seal(mut self, place: &Place) -> Vec<u8> {
        self.crc.update(&place.key());
        self.value[0] = LAYOUT;
        self.value[1..HEAD_BYTES].copy_from_slice(&self.crc.finalize().to_be_bytes());
        self.value
    }
}

/// Checks a chunk's value against its sum and gives its records: key, value, key, value …
pub(super) fn open(place: &Place, value: Bytes) -> Result<Bytes, Broken> {
    if value.len() < HEAD_BYTES {
        return Err(Broken("a chunk is shorter than its head"));
    }
    if value[0] != LAYOUT {
        return Err(Broken("a chunk has a layout that this tokentape does not know: it was written by a newer one, or is damaged"));
    }
    let stated = u32::from_be_bytes(value[1..HEAD_BYTES].try_into().expect("the slice has four bytes"));
    let records = value.slice(HEAD_BYTES..);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&records);
    crc.update(&place.key());
    if crc.finalize() != stated {
        return Err(Broken("a chunk does not match its check sum: the disk or something else has altered it"));
    }
    Ok(records)
}

/// Takes one record off the front.
pub(super) fn take(records: &mut Bytes) -> Result<(Option<Bytes>, Option<Bytes>), Broken> {
    Ok((take_bytes(records)?, take_bytes(records)?))
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
        assert_eq!(take(&mut records), Ok((Some(Bytes::from("k")), Some(Bytes::from("v")))));
        assert_eq!(take(&mut records), Ok((Some(Bytes::new()), Some(Bytes::new()))));
        assert!(records.is_empty());
        for bit in 0..value.len() * 8 {
            let mut altered = value.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&place(), Bytes::from(altered)).is_err(), "bit {bit}");
        }
        let elsewhere = Place { first: 11, last: 12, ..place() };
        assert!(open(&elsewhere, Bytes::from(value)).is_err());
    }
}
