//! Remembers the bytes that pass to a parser until a record boundary behind them is known, and hashes exactly what was consumed.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};

/// The consumed bytes of a source: their number and their hash.
#[derive(Clone, Default)]
pub struct Trail {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// Bytes hashed so far.
    consumed: u64,
    sha: Sha256,
    /// Bytes that were read but do not yet belong to a whole record.
    ahead: Vec<u8>,
    /// Hash everything as it passes, and note the hash at every multiple of this many bytes.
    step: Option<u64>,
    noted: BTreeMap<u64, Sha256>,
}

impl Trail {
    /// A trail for a parser that reads the whole source before it gives chunks of `step` bytes each: nothing is held in memory.
    pub fn in_steps(step: u64) -> Trail {
        let trail = Trail::default();
        trail.lock().step = Some(step);
        trail
    }

    /// A reader that leaves its bytes on this trail.
    pub fn follow<R: Read>(&self, inner: R) -> Follow<R> {
        Follow { inner, trail: self.clone() }
    }

    /// Hash of the first `bytes` bytes of the source, which must lie at or behind the last point asked for.
    pub fn hash_at(&self, bytes: u64) -> [u8; 32] {
        let mut seen = self.lock();
        if let Some(noted) = seen.noted.get(&bytes) {
            return noted.clone().finalize().into();
        }
        if seen.step.is_none() {
            let step = usize::try_from(bytes.saturating_sub(seen.consumed)).unwrap_or(usize::MAX).min(seen.ahead.len());
            let Seen { sha, ahead, consumed, .. } = &mut *seen;
            sha.update(&ahead[..step]);
            ahead.drain(..step);
            *consumed += step as u64;
        }
        assert!(seen.consumed == bytes, "a parser claims {bytes} consumed bytes where {} can be", seen.consumed);
        seen.sha.clone().finalize().into()
    }

    /// Hash of all bytes that have passed, on a trail in steps.
    pub fn hash_of_all(&self) -> [u8; 32] {
        self.lock().sha.clone().finalize().into()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("no thread panics while it holds the trail")
    }
}

impl Seen {
    fn hash_in_steps(&mut self, mut bytes: &[u8], step: u64) {
        while !bytes.is_empty() {
            let left = usize::try_from(step - self.consumed % step).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(left.min(bytes.len()));
            self.sha.update(now);
            self.consumed += now.len() as u64;
            if self.consumed.is_multiple_of(step) {
                self.noted.insert(self.consumed, self.sha.clone());
            }
            bytes = rest;
        }
    }
}

/// A reader that leaves its bytes on a trail.
pub struct Follow<R> {
    inner: R,
    trail: Trail,
}

impl<R: Read> Read for Follow<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let mut seen = self.trail.lock();
        match seen.step {
            Some(step) => seen.hash_in_steps(&buffer[..count], step),
            None => seen.ahead.extend_from_slice(&buffer[..count]),
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_of_the_consumed_bytes_whatever_was_read_ahead() {
        let content: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        let trail = Trail::default();
        let mut reader = trail.follow(&content[..]);
        let mut buffer = vec![0; 4096];
        reader.read_exact(&mut buffer).expect("memory");
        assert_eq!(trail.hash_at(100), <[u8; 32]>::from(Sha256::digest(&content[..100])));
        assert_eq!(trail.hash_at(4000), <[u8; 32]>::from(Sha256::digest(&content[..4000])));
        reader.read_to_end(&mut buffer).expect("memory");
        assert_eq!(trail.hash_at(10_000), <[u8; 32]>::from(Sha256::digest(&content)));
    }

    #[test]
    fn a_whole_source_can_be_asked_for_at_every_step() {
        let content: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        let trail = Trail::in_steps(4000);
        trail.follow(&content[..]).read_to_end(&mut Vec::new()).expect("memory");
        for bytes in [4000, 8000, 10_000] {
            assert_eq!(trail.hash_at(bytes as u64), <[u8; 32]>::from(Sha256::digest(&content[..bytes])));
        }
    }

    #[test]
    #[should_panic(expected = "a parser claims")]
    fn a_parser_cannot_claim_bytes_that_it_never_read() {
        Trail::default().hash_at(1);
    }
}
