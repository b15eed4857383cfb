//! Entries of one size that wait in files until they are put in order, a bucket at a time: how much is to be ordered never matters to memory.

use crate::Error;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::ops::RangeInclusive;

/// Entries of one bucket that are written at a time.
const WRITTEN_ENTRIES: usize = 1024;

/// Files of a folder that is removed at the end, one per bucket. `K` orders the buckets, `N` is the length of an entry.
pub(crate) struct Spool<K, const N: usize> {
    folder: tempfile::TempDir,
    buckets: BTreeMap<K, BufWriter<File>>,
    made: usize,
}

impl<K: Ord + Copy, const N: usize> Spool<K, N> {
    pub(crate) fn new() -> Result<Spool<K, N>, Error> {
        Ok(Spool { folder: tempfile::tempdir().map_err(|e| fault(&e))?, buckets: BTreeMap::new(), made: 0 })
    }

    /// Adds entries, one after the other in `entries`.
    pub(crate) fn push(&mut self, bucket: K, entries: &[u8]) -> Result<(), Error> {
        debug_assert!(entries.len().is_multiple_of(N), "whole entries");
        let file = match self.buckets.entry(bucket) {
            Entry::Occupied(file) => file.into_mut(),
            Entry::Vacant(free) => {
                let path = self.folder.path().join(self.made.to_string());
                self.made += 1;
                let file = File::options().create_new(true).read(true).write(true).open(path).map_err(|e| fault(&e))?;
                free.insert(BufWriter::with_capacity(N * WRITTEN_ENTRIES, file))
            }
        };
        file.write_all(entries).map_err(|e| fault(&e))
    }

    /// Takes the buckets of a range out; they come in their order, the entries of each in the order of their bytes.
    pub(crate) fn take(&mut self, range: RangeInclusive<K>) -> Result<Sorted<N>, Error> {
        let keys: Vec<K> = self.buckets.range(range).map(|(key, _)| *key).collect();
        let mut files = Vec::with_capacity(keys.len());
        for key in keys.iter().rev() {
            let Some(writer) = self.buckets.remove(key) else { continue };
            let mut file = writer.into_inner().map_err(|e| fault(e.error()))?;
            file.rewind().map_err(|e| fault(&e))?;
            files.push(file);
        }
        Ok(Sorted { files, bucket: Bucket::default() })
    }
}

/// The entries of some buckets, one bucket in memory.
pub(crate) struct Sorted<const N: usize> {
    /// The last one first.
    files: Vec<File>,
    bucket: Bucket,
}

/// Entries as they were written, and the order in which they come.
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
            let Some(file) = self.files.pop() else { return Ok(None) };
            self.bucket = read::<N>(file).map_err(|e| fault(&e))?;
        }
    }
}

fn entry<const N: usize>(entries: &[u8], number: u32) -> &[u8; N] {
    let at = number as usize * N;
    entries[at..at + N].try_into().expect("an entry is as long as it is")
}

fn read<const N: usize>(mut file: File) -> io::Result<Bucket> {
    let mut entries = Vec::new();
    file.read_to_end(&mut entries)?;
    let numbers = 0..u32::try_from(entries.len() / N).map_err(|_| io::Error::other("a bucket has more entries than can be counted"))?;
    let first = |number: u32| u64::from_be_bytes(entry::<N>(&entries, number)[..8].try_into().expect("entries are longer than that"));
    let mut order: Vec<(u64, u32)> = numbers.map(|number| (first(number), number)).collect();
    // What was written in order in long runs, as a file's rows are, is merged rather than sorted.
    order.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| entry::<N>(&entries, a.1).cmp(entry::<N>(&entries, b.1))));
    Ok(Bucket { entries, order: order.into_iter() })
}

fn fault(e: &io::Error) -> Error {
    Error::Ended { part: "verification", why: format!("its files in {} cannot be written or read: {e}", std::env::temp_dir().display()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Given entries of any buckets, pushed in any pieces, then those of a range of buckets come back in the order of buckets, then of bytes.
        #[test]
        fn entries_come_back_in_order(pieces in proptest::collection::vec((0u8..5, proptest::collection::vec(any::<[u8; 9]>(), 0..40)), 0..9)) {
            let mut spool = Spool::<u8, 9>::new().expect("a folder");
            for (bucket, entries) in &pieces {
                spool.push(*bucket, entries.as_flattened()).expect("it is written");
            }
            let mut expected: Vec<(u8, [u8; 9])> =
                pieces.iter().filter(|(bucket, _)| (1..=3).contains(bucket)).flat_map(|(bucket, all)| all.iter().map(|entry| (*bucket, *entry))).collect();
            expected.sort_unstable();
            let mut sorted = spool.take(1..=3).expect("they are there");
            let mut got = Vec::new();
            while let Some(entry) = sorted.next().expect("it is read") {
                got.push(entry);
            }
            prop_assert_eq!(got, expected.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>());
        }
    }
}
