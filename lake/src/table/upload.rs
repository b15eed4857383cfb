//! A data file on its way to its place, as bytes come: handed on in parts, so that of a file of any size one part is in memory, and the disk never has
//! much to sync at once.

use super::Table;
use super::place::Place;
use crate::{Error, layout};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt};
use std::io::{self, Write};
use tokio::runtime::Handle;
use uuid::Uuid;

/// Bytes of a part: no store wants less than 5 MiB.
const PART_BYTES: usize = 8 << 20;

/// Bytes that are written here go to the file. On threads that may wait only. Dropped before it is [complete](Upload::complete), it leaves nothing.
#[derive(Debug)]
pub(crate) struct Upload {
    place: Place,
    /// Path of the file below the table's folder.
    path: String,
    parts: Box<dyn MultipartUpload>,
    runtime: Handle,
    part: Vec<u8>,
    size: u64,
    /// What a write ended with: an `io::Error` could not tell it.
    failed: Option<Error>,
}

/// A data file in its place, which no version names yet.
#[derive(Debug)]
pub(crate) struct Uploaded {
    /// Path of the file below the table's folder.
    pub(crate) path: String,
    pub(crate) location: Path,
    /// Bytes.
    pub(crate) size: u64,
}

impl Table {
    /// Begins a data file of a partition.
    pub(crate) async fn upload(&self, values: &[(&'static str, Option<String>)]) -> Result<Upload, Error> {
        let path = format!("{}/part-{}.zstd.parquet", layout::partition_path(values), Uuid::new_v4());
        let parts = self.place.store.put_multipart(&self.place.location(&path)).await.map_err(|e| self.place.put_failed(&path, e))?;
        let (place, runtime) = (self.place.clone(), Handle::current());
        Ok(Upload { place, path, parts, runtime, part: Vec::with_capacity(PART_BYTES), size: 0, failed: None })
    }
}

impl Upload {
    /// Puts the file into its place, on disk, when all of it was written.
    pub(crate) fn complete(&mut self) -> Result<Uploaded, Error> {
        self.hand_on()?;
        self.runtime.block_on(async { self.parts.complete().await }).map_err(|e| self.place.put_failed(&self.path, e))?;
        Ok(Uploaded { path: self.path.clone(), location: self.place.location(&self.path), size: self.size })
    }

    /// What a write failed with.
    pub(crate) fn failure(&mut self) -> Option<Error> {
        self.failed.take()
    }

    fn hand_on(&mut self) -> Result<(), Error> {
        if self.part.is_empty() {
            return Ok(());
        }
        let part = std::mem::replace(&mut self.part, Vec::with_capacity(PART_BYTES));
        self.runtime.block_on(async { self.parts.put_part(part.into()).await }).map_err(|e| self.place.put_failed(&self.path, e))
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = bytes.len().min(PART_BYTES - self.part.len());
        self.part.extend_from_slice(&bytes[..fits]);
        self.size += fits as u64;
        if self.part.len() == PART_BYTES
            && let Err(error) = self.hand_on()
        {
            let told = io::Error::other(error.to_string());
            self.failed = Some(error);
            return Err(told);
        }
        Ok(fits)
    }

    /// Parts are of one size: only a whole one is handed on before the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
