//! The embedded log of a home, whoever owns it: this process when it is free, else its owner's socket.

use crate::embedded::{Embedded, Options};
use crate::socket::Socket;
use crate::{Error, EventLog};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long an owner may take to open its socket, or one that keeps the log to itself to end, before the home counts as taken.
const OWNER_WAIT: Duration = Duration::from_secs(30);
/// Waiting that a person should hear of.
const QUIET_WAIT: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(50);

/// Where the owner of the log in `dir` serves it.
pub fn socket_path(dir: &Path) -> PathBuf {
    dir.join("tape.sock")
}

/// Opens the log in `dir`, or reaches it through its owner's socket, or says which process keeps it to itself.
pub fn open_home(dir: &Path, options: &Options) -> Result<Box<dyn EventLog>, Error> {
    wait_for(|| match Embedded::open(dir, options) {
        Ok(log) => Ok(Box::new(log) as Box<dyn EventLog>),
        Err(owned @ Error::Owned { .. }) => match Socket::connect(&socket_path(dir)) {
            Ok(socket) => Ok(Box::new(socket) as Box<dyn EventLog>),
            Err(Error::Unreachable { .. }) => Err(owned),
            Err(other) => Err(other),
        },
        Err(other) => Err(other),
    })
}

/// Opens the log in `dir` as its owner. One that keeps it to itself, as an ingest does, is waited for; one that serves it is there to stay, and
/// the error says which process that is.
pub fn own_home(dir: &Path, options: &Options) -> Result<Embedded, Error> {
    wait_for(|| match Embedded::open(dir, options) {
        Err(owned @ Error::Owned { .. }) if Socket::connect(&socket_path(dir)).is_ok() => Ok(Err(owned)),
        other => other.map(Ok),
    })?
}

/// Tries again as long as another process has the log and [`OWNER_WAIT`] has not passed.
fn wait_for<T>(mut open: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let began = Instant::now();
    let mut said = false;
    loop {
        match open() {
            Err(owned @ Error::Owned { .. }) if began.elapsed() < OWNER_WAIT => {
                if !said && began.elapsed() >= QUIET_WAIT {
                    tracing::warn!(longest_s = OWNER_WAIT.as_secs(), "waiting: {owned}");
                    said = true;
                }
                std::thread::sleep(RETRY);
            }
            other => return other,
        }
    }
}
