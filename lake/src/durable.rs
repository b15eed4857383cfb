//! A local directory as an object store whose `put` returns only when the object would survive power loss.
//!
//! `object_store`'s own local store links files without syncing them. Here every object is written beside its place, synced, put into
//! its place in one step, and then the directory is synced, and every directory that had to be made.

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

/// The local file system from `/` down, with synced writes.
#[derive(Debug, Clone)]
pub struct DurableLocal {
    inner: Arc<LocalFileSystem>,
}

impl Default for DurableLocal {
    fn default() -> Self {
        DurableLocal { inner: Arc::new(LocalFileSystem::new()) }
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
        tokio::task::spawn_blocking(move || put_synced(&target, &payload, create).map_err(|e| failed(&name, e)))
            .await
            .map_err(|e| Error::JoinError { source: e })??;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart upload: use put".into(), implementer: self.to_string() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
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
        ErrorKind::AlreadyExists => Error::AlreadyExists { path: path.to_string(), source: Box::new(e) },
        ErrorKind::PermissionDenied => Error::PermissionDenied { path: path.to_string(), source: Box::new(e) },
        _ => Error::Generic { store: "local directory", source: Box::new(e) },
    }
}

/// Writes the whole object beside its place, syncs it, and puts it into its place. With `create` an object that is there stays.
fn put_synced(target: &FsPath, payload: &PutPayload, create: bool) -> std::io::Result<()> {
    let directory = target.parent().ok_or_else(|| std::io::Error::other("an object needs a directory"))?;
    create_directory_synced(directory)?;
    // object_store hides names that end in `#` and digits from its listings: a part that a crash leaves behind is never read.
    let mut name = target.file_name().ok_or_else(|| std::io::Error::other("an object needs a name"))?.to_owned();
    name.push(format!("#{}", uuid::Uuid::new_v4().as_u64_pair().0));
    let staged = Staged(directory.join(name));
    let mut file = File::options().write(true).create_new(true).open(&staged.0)?;
    for part in payload {
        file.write_all(part)?;
    }
    killpoint::here!("lake.put.unsynced");
    file.sync_all()?;
    killpoint::here!("lake.put.unlinked");
    if create {
        std::fs::hard_link(&staged.0, target)?;
        drop(staged);
    } else {
        std::fs::rename(&staged.0, target)?;
    }
    File::open(directory)?.sync_all()
}

/// A file beside its place; removed again whatever happens.
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename there is nothing to remove, and a failed write may have left nothing: neither is a fault.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Makes the directory and its missing parents, and syncs the parent of each that was made.
fn create_directory_synced(directory: &FsPath) -> std::io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let Some(parent) = directory.parent() else { return Ok(()) };
    create_directory_synced(parent)?;
    match std::fs::create_dir(directory) {
        Ok(()) => File::open(parent)?.sync_all(),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
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
}
