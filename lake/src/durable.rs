//! A local directory as an object store whose `put` returns only when the object would survive power loss.
//!
//! `object_store`'s own local store links files without syncing them. Here every object is written beside its place, synced, put into
//! its place in one step, and then the directory is synced, and every directory above it once in a process's life: an earlier process may have
//! made one and been killed before it synced the name.

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// Everything that is ever done to change files, one method each: a test stands in between, records it, and takes away what was not synced.
pub trait Disk: std::fmt::Debug + Send + Sync {
    /// Makes a file that is not there yet, writes it whole and syncs it. Its name is not synced.
    fn write(&self, path: &FsPath, payload: &PutPayload) -> std::io::Result<()>;
    /// Writes on at the end of a file that [`Disk::write`] made, and syncs it.
    fn append(&self, path: &FsPath, payload: &PutPayload) -> std::io::Result<()>;
    /// Gives a file a second name, where that name is free.
    fn link(&self, from: &FsPath, to: &FsPath) -> std::io::Result<()>;
    /// Gives a file another name, in the place of what had it.
    fn rename(&self, from: &FsPath, to: &FsPath) -> std::io::Result<()>;
    /// Takes a name away.
    fn remove(&self, path: &FsPath) -> std::io::Result<()>;
    /// Makes a directory.
    fn create_directory(&self, path: &FsPath) -> std::io::Result<()>;
    /// Syncs the names in a directory.
    fn sync_directory(&self, path: &FsPath) -> std::io::Result<()>;
}

/// The disk of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalDisk;

impl Disk for LocalDisk {
    fn write(&self, path: &FsPath, payload: &PutPayload) -> std::io::Result<()> {
        write_synced(&File::options().write(true).create_new(true).open(path)?, payload)
    }

    fn append(&self, path: &FsPath, payload: &PutPayload) -> std::io::Result<()> {
        write_synced(&File::options().append(true).open(path)?, payload)
    }

    fn link(&self, from: &FsPath, to: &FsPath) -> std::io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn rename(&self, from: &FsPath, to: &FsPath) -> std::io::Result<()> {
        if to.ends_with("_last_checkpoint") {
            killpoint::here!("lake.checkpoint.unnamed");
        }
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &FsPath) -> std::io::Result<()> {
        std::fs::remove_file(path)
    }

    fn create_directory(&self, path: &FsPath) -> std::io::Result<()> {
        std::fs::create_dir(path)
    }

    fn sync_directory(&self, path: &FsPath) -> std::io::Result<()> {
        File::open(path)?.sync_all()
    }
}

fn write_synced(mut file: &File, payload: &PutPayload) -> std::io::Result<()> {
    for part in payload {
        file.write_all(part)?;
    }
    killpoint::here!("lake.put.unsynced");
    file.sync_all()
}

/// The local file system from `/` down, with synced writes.
#[derive(Debug, Clone)]
pub struct DurableLocal {
    inner: Arc<LocalFileSystem>,
    disk: Arc<dyn Disk>,
    /// Directories whose names, up to the root, this process has synced.
    settled: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Default for DurableLocal {
    fn default() -> Self {
        DurableLocal::over(Arc::new(LocalDisk))
    }
}

impl DurableLocal {
    /// With all changes done by `disk`.
    pub fn over(disk: Arc<dyn Disk>) -> DurableLocal {
        DurableLocal { inner: Arc::new(LocalFileSystem::new()), disk, settled: Arc::default() }
    }
}

impl std::fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "local directory")
    }
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if matches!(opts.mode, PutMode::Update(_)) {
            return Err(Error::NotImplemented { operation: "conditional update".into(), implementer: self.to_string() });
        }
        let target = self.inner.path_to_filesystem(location)?;
        let create = matches!(opts.mode, PutMode::Create);
        let name = location.to_string();
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.put_synced(&target, &payload, create).map_err(|e| failed(&name, e)))
            .await
            .map_err(|e| Error::JoinError { source: e })??;
        Ok(PutResult { e_tag: None, version: None })
    }

    /// Each part is synced as it comes, so that the disk never has much to do at once: await one before the next.
    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let target = self.inner.path_to_filesystem(location)?;
        let this = self.clone();
        let name = location.to_string();
        let begun = tokio::task::spawn_blocking(move || this.staged(&target).map_err(|e| failed(&name, e)).map(|staged| (target, staged)));
        let (target, staged) = begun.await.map_err(|e| Error::JoinError { source: e })??;
        Ok(Box::new(Parts { name: location.to_string(), target, staged: Some(Arc::new(staged)), parts: 0 }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, disk) = (self.inner.clone(), self.disk.clone());
        let remove = move |location: Path| {
            let (inner, disk) = (inner.clone(), disk.clone());
            async move {
                let target = inner.path_to_filesystem(&location)?;
                let name = location.to_string();
                let removed = tokio::task::spawn_blocking(move || disk.remove(&target).map_err(|e| failed(&name, e)));
                removed.await.map_err(|e| Error::JoinError { source: e })??;
                Ok(location)
            }
        };
        locations.and_then(remove).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy: tables are only ever added to".into(), implementer: self.to_string() })
    }

    async fn rename_opts(&self, _: &Path, _: &Path, _: RenameOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "rename: tables are only ever added to".into(), implementer: self.to_string() })
    }
}

fn failed(path: &str, e: std::io::Error) -> Error {
    match e.kind() {
        ErrorKind::NotFound => Error::NotFound { path: path.to_string(), source: Box::new(e) },
        ErrorKind::AlreadyExists => Error::AlreadyExists { path: path.to_string(), source: Box::new(e) },
        ErrorKind::PermissionDenied => Error::PermissionDenied { path: path.to_string(), source: Box::new(e) },
        _ => Error::Generic { store: "local directory", source: Box::new(e) },
    }
}

impl DurableLocal {
    /// Writes the whole object beside its place, syncs it, and puts it into its place. With `create` an object that is there stays.
    fn put_synced(&self, target: &FsPath, payload: &PutPayload, create: bool) -> std::io::Result<()> {
        let staged = self.staged(target)?;
        self.disk.write(&staged.path, payload)?;
        killpoint::here!("lake.put.unlinked");
        if !create {
            return staged.put(target);
        }
        let linked = self.disk.link(&staged.path, target);
        drop(staged);
        // Also where it was there already: whoever put it may have been killed before this, and who is told of it relies on it.
        self.disk.sync_directory(directory(target)?)?;
        linked
    }

    /// A file beside its place, in a directory that is there; nothing is written yet.
    fn staged(&self, target: &FsPath) -> std::io::Result<Staged> {
        let directory = directory(target)?;
        self.settle_directory(directory)?;
        // object_store hides names that end in `#` and digits from its listings: a part that a crash leaves behind is never read.
        let mut name = target.file_name().ok_or_else(|| std::io::Error::other("an object needs a name"))?.to_owned();
        name.push(format!("#{}", uuid::Uuid::new_v4().as_u64_pair().0));
        Ok(Staged { disk: self.disk.clone(), path: directory.join(name) })
    }

    /// Makes the directory and its missing parents; its name, and the names of those above it, are synced when this returns.
    fn settle_directory(&self, directory: &FsPath) -> std::io::Result<()> {
        if self.settled.lock().expect("nothing that holds it can panic").contains(directory) {
            return Ok(());
        }
        let Some(parent) = directory.parent() else { return Ok(()) };
        self.settle_directory(parent)?;
        let made = match directory.is_dir() {
            true => false,
            false => match self.disk.create_directory(directory) {
                Ok(()) => true,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => false,
                Err(e) => return Err(e),
            },
        };
        match self.disk.sync_directory(parent) {
            Ok(()) => {}
            // A folder that this user may not list is none that it made another one in.
            Err(e) if !made && e.kind() == ErrorKind::PermissionDenied => {}
            Err(e) => return Err(e),
        }
        self.settled.lock().expect("nothing that holds it can panic").insert(directory.to_path_buf());
        Ok(())
    }
}

/// A file that is no link, and lies behind none.
pub(crate) struct Plain {
    /// Below the folder that was looked into.
    pub path: String,
    pub bytes: u64,
    /// In milliseconds since 1970 UTC.
    pub modified_ms: i64,
}

/// Plain files below `folder`, in it and in those folders that `enter` names. Links are not followed below it; what [`DurableLocal`] had begun to put
/// when its process was killed, and no listing of objects shows, is there too.
pub(crate) fn plain_files(folder: &FsPath, enter: &dyn Fn(&str) -> bool) -> std::io::Result<Vec<Plain>> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(below) = folders.pop() {
        for entry in std::fs::read_dir(folder.join(&below))? {
            let entry = entry?;
            // A name that is not UTF-8 is none that an object has.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            // Of a link itself, not of what it leads to. One that went meanwhile is none that is left.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() && enter(&path) {
                folders.push(path);
            } else if metadata.is_file() {
                let modified = metadata.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                found.push(Plain { path, bytes: metadata.len(), modified_ms: i64::try_from(modified.as_millis()).unwrap_or(i64::MAX) });
            }
        }
    }
    Ok(found)
}

fn directory(target: &FsPath) -> std::io::Result<&FsPath> {
    target.parent().ok_or_else(|| std::io::Error::other("an object needs a directory"))
}

/// A file beside its place; removed again unless it was put there.
#[derive(Debug)]
struct Staged {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Staged {
    /// Puts it into its place, over what is there.
    fn put(self, target: &FsPath) -> std::io::Result<()> {
        self.disk.rename(&self.path, target)?;
        let disk = self.disk.clone();
        std::mem::forget(self);
        disk.sync_directory(directory(target)?)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // A failed write may have left nothing: that is no fault.
        let _ = self.disk.remove(&self.path);
    }
}

/// An object that comes in parts: none of it is to be seen before all are there. Dropped before, nothing of it is left.
#[derive(Debug)]
struct Parts {
    name: String,
    target: PathBuf,
    /// `None` when it is in its place, or given up.
    staged: Option<Arc<Staged>>,
    parts: usize,
}

impl Parts {
    /// Does something to the file on a thread that may wait for the disk.
    fn act<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> impl Future<Output = Result<T>> + Send + 'static {
        let name = self.name.clone();
        let acting = tokio::task::spawn_blocking(move || act().map_err(|e| failed(&name, e)));
        async { acting.await.map_err(|e| Error::JoinError { source: e })? }
    }

    fn ended(&self) -> Error {
        failed(&self.name, std::io::Error::other("its upload has ended"))
    }
}

#[async_trait]
impl MultipartUpload for Parts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let Some(staged) = self.staged.clone() else {
            let ended = self.ended();
            return Box::pin(async { Err(ended) });
        };
        self.parts += 1;
        let first = self.parts == 1;
        Box::pin(self.act(move || match first {
            true => staged.disk.write(&staged.path, &data),
            false => staged.disk.append(&staged.path, &data),
        }))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let staged = self.staged.take().and_then(Arc::into_inner).ok_or_else(|| self.ended())?;
        let target = self.target.clone();
        self.act(move || {
            killpoint::here!("lake.put.unlinked");
            staged.put(&target)
        })
        .await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> Result<()> {
        let staged = self.staged.take();
        self.act(move || {
            drop(staged);
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;

    fn put(mode: PutMode) -> PutOptions {
        PutOptions { mode, ..Default::default() }
    }

    #[tokio::test]
    async fn create_never_replaces_and_leaves_nothing_beside() {
        let directory = tempfile::tempdir().unwrap();
        let store = DurableLocal::default();
        let at = Path::from_absolute_path(directory.path()).unwrap().join("a").join("b c.json");
        store.put_opts(&at, "one".into(), put(PutMode::Create)).await.unwrap();
        let again = store.put_opts(&at, "two".into(), put(PutMode::Create)).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
        assert_eq!(store.get(&at).await.unwrap().bytes().await.unwrap(), "one");
        store.put_opts(&at, "three".into(), put(PutMode::Overwrite)).await.unwrap();
        assert_eq!(store.get(&at).await.unwrap().bytes().await.unwrap(), "three");
        let names: Vec<_> = std::fs::read_dir(directory.path().join("a")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["b c.json"]);
    }

    #[tokio::test]
    async fn parts_are_one_object_or_none() {
        let directory = tempfile::tempdir().unwrap();
        let store = DurableLocal::default();
        let at = Path::from_absolute_path(directory.path()).unwrap().join("a.parquet");
        let names = || std::fs::read_dir(directory.path()).unwrap().count();
        for end in ["complete", "abort", "drop"] {
            let mut upload = store.put_multipart(&at).await.unwrap();
            for part in ["one ", "two ", "three"] {
                upload.put_part(part.into()).await.unwrap();
            }
            assert!(matches!(store.head(&at).await, Err(Error::NotFound { .. })), "not there before its end");
            match end {
                "complete" => {
                    upload.complete().await.unwrap();
                    assert_eq!(store.get(&at).await.unwrap().bytes().await.unwrap(), "one two three");
                    assert!(upload.put_part("four".into()).await.is_err());
                    store.delete(&at).await.unwrap();
                }
                "abort" => upload.abort().await.unwrap(),
                _ => drop(upload),
            }
            assert_eq!(names(), 0, "{end} leaves nothing beside");
        }
    }
}
