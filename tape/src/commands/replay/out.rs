//! Where events are written to: standard output, or files that have their names only when they are whole and on disk.

use crate::settings::WrongUse;
use anyhow::{Context, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufWriter, ErrorKind, Stdout, Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What is written at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// Are events written to standard output?
pub fn is_stdout(to: &Path) -> bool {
    to == Path::new("-")
}

/// The output, for messages.
pub fn name(to: &Path) -> String {
    if is_stdout(to) { "standard output".into() } else { to.display().to_string() }
}

/// Is it to be a folder? A slash at the end says so, or that it is one.
pub fn is_folder(to: &Path) -> bool {
    to.to_string_lossy().ends_with('/') || to.is_dir()
}

/// An error where there is something already.
pub fn refuse_used(dir: &Path) -> Result<()> {
    match std::fs::read_dir(dir).map(|mut entries| entries.next().is_some()) {
        Ok(false) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Ok(true) => Err(WrongUse(format!("{} is not empty: name a new folder", dir.display())).into()),
        Err(e) => Err(WrongUse(format!("{}: {e}: name a new folder", dir.display())).into()),
    }
}

/// One output.
pub struct Out {
    to: Shared,
    /// The file's name until it is whole, and then.
    names: Option<(PathBuf, PathBuf)>,
}

#[derive(Clone)]
enum Shared {
    Stdout(Arc<Mutex<BufWriter<Stdout>>>),
    File(Arc<Mutex<BufWriter<File>>>),
}

impl Out {
    /// Standard output, or a file that is not there yet.
    pub fn create(to: &Path) -> Result<Out> {
        if is_stdout(to) {
            return Ok(Out { to: Shared::Stdout(Arc::new(Mutex::new(BufWriter::with_capacity(BUFFER_BYTES, stdout())))), names: None });
        }
        if to.exists() {
            return Err(WrongUse(format!("{} is there already: name another file, or remove it", to.display())).into());
        }
        let name = to.file_name().ok_or_else(|| WrongUse(format!("--to {}: that is no name of a file", to.display())))?;
        let mut part = name.to_os_string();
        part.push(".part");
        let part = to.with_file_name(part);
        let making = || format!("making {}", part.display());
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&part).with_context(making)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(WrongUse(format!("another replay is writing {}: wait for it, or name another file", to.display())).into());
            }
            Err(TryLockError::Error(why)) => tracing::debug!(file = %part.display(), %why, "the file system knows no locks"),
        }
        // The one that had it may have finished meanwhile; one that was broken off leaves its part, which is begun anew.
        if to.exists() {
            return Err(WrongUse(format!("{} is there already: name another file, or remove it", to.display())).into());
        }
        file.set_len(0).with_context(making)?;
        let file = Arc::new(Mutex::new(BufWriter::with_capacity(BUFFER_BYTES, file)));
        Ok(Out { to: Shared::File(file), names: Some((part, to.to_path_buf())) })
    }

    /// Writes to the same place.
    pub fn handle(&self) -> Box<dyn Write + Send> {
        Box::new(Handle(self.to.clone()))
    }

    /// What was written is whole: a file is on disk, and gets its name.
    pub fn finish(mut self) -> Result<()> {
        self.flush().map_err(query::Error::Write)?;
        let (Shared::File(file), Some((part, to))) = (&self.to, &self.names) else { return Ok(()) };
        let naming = || format!("finishing {}", to.display());
        file.lock().expect("nothing that writes can panic").get_ref().sync_all().with_context(naming)?;
        std::fs::rename(part, to).with_context(naming)?;
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).with_context(naming)
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Handle(self.to.clone()).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Handle(self.to.clone()).flush()
    }
}

struct Handle(Shared);

impl Write for Handle {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &self.0 {
            Shared::Stdout(out) => out.lock().expect("nothing that writes can panic").write(bytes),
            Shared::File(out) => out.lock().expect("nothing that writes can panic").write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match &self.0 {
            Shared::Stdout(out) => out.lock().expect("nothing that writes can panic").flush(),
            Shared::File(out) => out.lock().expect("nothing that writes can panic").flush(),
        }
    }
}

/// A new folder of files.
pub struct Folder {
    dir: PathBuf,
    files: Vec<Out>,
}

impl Folder {
    /// Makes it; one that is there must be empty.
    pub fn create(dir: &Path) -> Result<Folder> {
        refuse_used(dir)?;
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        Ok(Folder { dir: dir.to_path_buf(), files: Vec::new() })
    }

    /// A file of it.
    pub fn file(&mut self, name: &str) -> Result<Box<dyn Write + Send>, query::Error> {
        let file = Out::create(&self.dir.join(name)).map_err(|why| query::Error::Write(std::io::Error::other(format!("{why:#}"))))?;
        let handle = file.handle();
        self.files.push(file);
        Ok(handle)
    }
}

/// All that was written is whole.
pub fn finish(one: Option<Out>, folder: Option<Folder>) -> Result<()> {
    one.into_iter().chain(folder.into_iter().flat_map(|folder| folder.files)).try_for_each(Out::finish)
}
