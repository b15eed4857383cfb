//! Entries of one size that wait in files until they are put in order, a bucket at a time: how much is to be ordered never matters to memory.

use crate::Error;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Seek, Write};
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

    pub(crate) fn push(&mut self, bucket: K, entry: &[u8; N]) -> Result<(), Error> {
        let file = match self.buckets.entry(bucket) {
            Entry::Occupied(file) => file.into_mut(),
            Entry::Vacant(free) => {
                let path = self.folder.path().join(self.made.to_string());
                self.made += 1;
                let file = File::options().create_new(true).read(true).write(true).open(path).map_err(|e| fault(&e))?;
                free.insert(BufWriter::with_capacity(N * WRITTEN_ENTRIES, file))
            }
        };
        file.write_all(entry).map_err(|e| fault(&e))
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
        Ok(Sorted { files, bucket: Vec::new().into_iter() })
    }
}

/// The entries of some buckets, one bucket in memory.
pub(crate) struct Sorted<const N: usize> {
    /// The last one first.
    files: Vec<File>,
    bucket: std::vec::IntoIter<[u8; N]>,
}

impl<const N: usize> Sorted<N> {
    pub(crate) fn next(&mut self) -> Result<Option<[u8; N]>, Error> {
        loop {
            if let Some(entry) = self.bucket.next() {
                return Ok(Some(entry));
            }
            let Some(file) = self.files.pop() else { return Ok(None) };
            self.bucket = read(file).map_err(|e| fault(&e))?.into_iter();
        }
    }
}

fn read<const N: usize>(file: File) -> io::Result<Vec<[u8; N]>> {
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut entries = Vec::new();
    let mut entry = [0; N];
    loop {
        match reader.read_exact(&mut entry) {
            Ok(()) => entries.push(entry),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => break,
            Err(e) => return Err(e),
        }
    }
    entries.sort_unstable();
    Ok(entries)
}

fn fault(e: &io::Error) -> Error {
    Error::Ended { part: "verification", why: format!("its files in {} cannot be written or read: {e}", std::env::temp_dir().display()) }
}
