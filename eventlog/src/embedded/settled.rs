//! Names of folders that survive power loss: the storage engine syncs what it puts into its folders, but not the names of all that it makes, and
//! nobody syncs those of the log's own folder and of the home.

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::path::Path;

/// Syncs `dir`, every folder below it, and the folders above it, whoever made them: one that was killed could not. Before anything in there is
/// acknowledged.
pub(super) fn folders(dir: &Path) -> Result<()> {
    below(dir)?;
    for above in dir.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
        match File::open(above).and_then(|folder| folder.sync_all()) {
            // A folder that this user may not list is none that it made another one in.
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {}
            done => done?,
        }
    }
    Ok(())
}

/// Syncs `dir` and every folder below it.
pub(super) fn below(dir: &Path) -> Result<()> {
    for entry in dir.read_dir()? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            below(&entry.path())?;
        }
    }
    File::open(dir)?.sync_all()
}
