//! How many publishes were acknowledged, kept beside the database: one that has fewer has lost some, and is refused.
//!
//! fjall takes a broken end of its journal for a write that a crash cut short, and cuts it off. It cannot know that the write was
//! acknowledged; the mark does. A publish counts itself in its own batch, and the mark is written after that batch is on disk. It is not
//! synced: after a power loss it may be behind the database, and is never ahead of a whole one.

use super::aside::Aside;
use super::lock::advice;
use crate::Error;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Beside the database, in the log's directory.
const NAME: &str = "published.mark";
/// The count, big-endian, and the CRC-32 of its bytes.
const BYTES: usize = 12;

/// The mark of an open log.
pub(super) struct Mark {
    file: File,
    path: PathBuf,
}

impl Mark {
    /// Compares the mark in `dir` with what the database has counted, and brings it up to that. `journal` is named where some are missing.
    pub(super) fn open(dir: &Path, counted: u64, journal: &Aside) -> Result<Mark, Error> {
        let path = dir.join(NAME);
        let failed = |e| Error::Failed { doing: format!("opening {}", path.display()), why: advice(&e) };
        let (marked, is_new) = match read(&path) {
            Ok(bytes) => (decode(&bytes), false),
            Err(e) if e.kind() == ErrorKind::NotFound => (None, true),
            Err(e) => return Err(failed(e)),
        };
        match marked {
            Some(marked) if marked > counted => return Err(lost(dir, &path, marked - counted, marked, journal)),
            Some(_) => {}
            None if is_new => tracing::debug!(mark = %path.display(), counted, "the log has no mark yet: made from what it has"),
            None => tracing::warn!(mark = %path.display(), counted, "the mark is unreadable: made anew from what the log has"),
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        file.set_len(BYTES as u64).map_err(failed)?;
        let mark = Mark { file, path };
        mark.write(counted)?;
        if is_new {
            mark.sync(dir)?;
        }
        Ok(mark)
    }

    /// Notes that so many publishes are on disk: one small write in place.
    pub(super) fn write(&self, count: u64) -> Result<(), Error> {
        self.file.write_all_at(&encode(count), 0).map_err(|e| self.failed(&e))
    }

    fn sync(&self, dir: &Path) -> Result<(), Error> {
        self.file.sync_all().and_then(|()| File::open(dir)?.sync_all()).map_err(|e| self.failed(&e))
    }

    fn failed(&self, e: &std::io::Error) -> Error {
        Error::Failed { doing: format!("writing {}", self.path.display()), why: advice(e) }
    }
}

fn lost(dir: &Path, path: &Path, missing: u64, marked: u64, journal: &Aside) -> Error {
    let rest = match journal.path() {
        Some(copy) => format!("as it was it is in {}, until the log opens again", copy.display()),
        None => "opening it has cut off what was behind the damage".to_string(),
    };
    Error::Failed {
        doing: format!("opening the embedded log in {}", dir.display()),
        why: format!(
            "{missing} of {marked} publishes that were acknowledged are missing: its journal was damaged or cut ({rest}); bring the whole \
             directory back from a copy. If there is none: remove {} to go on without them, then ingest the sources again: their positions \
             are lost with the records, so what is missing is published again. Tables that have stored some of it will be refused: give the \
             log new ones (--tables)",
            path.display()
        ),
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(BYTES);
    // One more than there should be, so that a longer file is no mark.
    File::open(path)?.take(BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn encode(count: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let (number, sum) = bytes.split_at_mut(8);
    number.copy_from_slice(&count.to_be_bytes());
    sum.copy_from_slice(&crc32fast::hash(number).to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let (number, sum) = bytes.split_first_chunk::<8>()?;
    (sum == crc32fast::hash(number).to_be_bytes()).then_some(u64::from_be_bytes(*number))
}
