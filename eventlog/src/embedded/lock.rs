//! One owner per directory: the lock belongs to the process that holds it and ends with it, however it ends.

use crate::Error;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to wait for an owner to write its process id after it has locked the file.
const PID_WAIT: Duration = Duration::from_millis(500);

/// The lock; dropping it frees the directory.
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Locks `dir`, or says who has it. The file of a dead process is no obstacle: the kernel let go of its lock.
    pub(super) fn acquire(dir: &Path) -> Result<Lock, Error> {
        let path = dir.join("owner.pid");
        let failed = |e: std::io::Error| Error::Failed { doing: format!("locking {}", path.display()), why: advice(&e) };
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Owned { dir: dir.display().to_string(), pid: owner(&mut file) }),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Lock { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Without a text nobody can be misled by it; the lock itself ends when the file is closed.
        let _ = self.file.set_len(0);
    }
}

fn owner(file: &mut File) -> String {
    let deadline = Instant::now() + PID_WAIT;
    loop {
        let mut pid = String::new();
        let read = file.rewind().and_then(|()| file.read_to_string(&mut pid));
        if read.is_ok() && !pid.trim().is_empty() {
            return pid.trim().to_string();
        }
        if Instant::now() >= deadline {
            return "(unknown)".to_string();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the system says, and what a person can do about it.
pub(super) fn advice(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::PermissionDenied => format!("{e}: give this user the right to write there, or name another --home"),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => format!("{e}: free some space, then start again"),
        std::io::ErrorKind::ReadOnlyFilesystem => format!("{e}: name a --home on a disk that can be written"),
        _ => e.to_string(),
    }
}
