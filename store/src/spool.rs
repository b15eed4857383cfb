//! Entries of one size that wait in a file until they are put in order, a bucket at a time: how much is to be ordered never matters to memory.

use crate::Error;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Entries of one bucket that are written at a time.
const WRITTEN_ENTRIES: usize = 1024;

/// A file without a name. `K` orders the buckets, `N` is the length of an entry.
pub(crate) struct Spool<K, const N: usize> {
    file: Arc<File>,
    written: u64,
    buckets: BTreeMap<K, Waiting>,
}

/// A bucket as it waits.
#[derive(Default)]
struct Waiting {
    /// Where pieces of it begin in the file, and their lengths.
    pieces: Vec<(u64, usize)>,
    /// What is not in the file yet.
    last: Vec<u8>,
}

impl<K: Ord + Copy, const N: usize> Spool<K, N> {
    pub(crate) fn new() -> Result<Spool<K, N>, Error> {
        Ok(Spool { file: Arc::new(tempfile::tempfile().map_err(|e| fault(&e))?), written: 0, buckets: BTreeMap::new() })
    }

    /// Adds entries, one after the other in `entries`.
    pub(crate) fn push(&mut self, bucket: K, entries: &[u8]) -> Result<(), Error> {
        debug_assert!(entries.len().is_multiple_of(N), "whole entries");
        let Waiting { pieces, last } = self.buckets.entry(bucket).or_default();
        last.extend_from_slice(entries);
        if last.len() >= N * WRITTEN_ENTRIES {
            self.file.write_all_at(last, self.written).map_err(|e| fault(&e))?;
            pieces.push((self.written, last.len()));
            self.written += last.len() as u64;
            last.clear();
        }
        Ok(())
    }

    /// Takes the buckets of a range out; they come in their order, the entries of each in the order of their bytes.
    pub(crate) fn take(&mut self, range: RangeInclusive<K>) -> Sorted<N> {
        let keys: Vec<K> = self.buckets.range(range).map(|(key, _)| *key).collect();
        let buckets = keys.iter().rev().filter_map(|key| self.buckets.remove(key)).collect();
        Sorted { file: self.file.clone(), buckets, bucket: Bucket::default() }
    }
}

/// The entries of some buckets, one bucket in memory.
pub(crate) struct Sorted<const N: usize> {
    file: Arc<File>,
    /// The last one first.
    buckets: Vec<Waiting>,
    bucket: Bucket,
}

/// Entries as they were added, and the order in which they come.
#[derive(Default)]
struct Bucket {
    entries: Vec<u8>,
    /// The first eight bytes of each entry as a number, and the entry's own number.
    order: std::vec::IntoIter<(u64, u32)>,
}

impl<const N: usize> Sorted<N> {
    pub(crate) fn next(&mut self) -> Result<Option<[u8; N]>, Error> {
        loop {
            if let Some((_, number)) = self.bucket.order.next() {
                return Ok(Some(*entry(&self.bucket.entries, number)));
            }
            let Some(waiting) = self.buckets.pop() else { return Ok(None) };
            self.bucket = read::<N>(&self.file, waiting).map_err(|e| fault(&e))?;
        }
    }
}

fn entry<const N: usize>(entries: &[u8], number: u32) -> &[u8; N] {
    let at = number as usize * N;
    entries[at..at + N].try_into().expect("an entry is as long as it is")
}

fn read<const N: usize>(file: &File, waiting: Waiting) -> io::Result<Bucket> {
    let Waiting { pieces, last } = waiting;
    let written: usize = pieces.iter().map(|(_, length)| length).sum();
    let mut entries = vec![0; written];
    let mut rest = &mut entries[..];
    for (at, length) in pieces {
        let (piece, behind) = rest.split_at_mut(length);
        file.read_exact_at(piece, at)?;
        rest = behind;
    }
    entries.extend_from_slice(&last);
    let numbers = 0..u32::try_from(entries.len() / N).map_err(|_| io::Error::other("a bucket has more entries than can be counted"))?;
    let first = |number: u32| u64::from_be_bytes(entry::<N>(&entries, number)[..8].try_into().expect("entries are longer than that"));
    let mut order: Vec<(u64, u32)> = numbers.map(|number| (first(number), number)).collect();
    // What was written in order in long runs, as a file's rows are, is merged rather than sorted.
    order.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| entry::<N>(&entries, a.1).cmp(entry::<N>(&entries, b.1))));
    Ok(Bucket { entries, order: order.into_iter() })
}

fn fault(e: &io::Error) -> Error {
    Error::Ended { part: "verification", why: format!("its file in {} cannot be written or read: {e}", std::env::temp_dir().display()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Given entries of any buckets, pushed in any pieces, then those of a range of buckets come back in the order of buckets, then of bytes.
        #[test]
        fn entries_come_back_in_order(pieces in proptest::collection::vec((0u8..5, prop_oneof![
                8 => proptest::collection::vec(any::<[u8; 9]>(), 0..40),
                1 => proptest::collection::vec(any::<[u8; 9]>(), WRITTEN_ENTRIES - 20..WRITTEN_ENTRIES + 20),
            ]), 0..9)) {
            let mut spool = Spool::<u8, 9>::new().expect("a folder");
            for (bucket, entries) in &pieces {
                spool.push(*bucket, entries.as_flattened()).expect("it is written");
            }
            let mut expected: Vec<(u8, [u8; 9])> =
                pieces.iter().filter(|(bucket, _)| (1..=3).contains(bucket)).flat_map(|(bucket, all)| all.iter().map(|entry| (*bucket, *entry))).collect();
            expected.sort_unstable();
            let mut sorted = spool.take(1..=3);
            let mut got = Vec::new();
            while let Some(entry) = sorted.next().expect("it is read") {
                got.push(entry);
            }
            prop_assert_eq!(got, expected.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>());
        }
    }
}
