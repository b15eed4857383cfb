//! The embedded log of a home, whoever owns it: this process when it is free, else its owner's socket.

use crate::embedded::{Embedded, Options};
use crate::socket::Socket;
use crate::{Error, EventLog};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long an owner may take to open its socket, or an ending one to let go, before the home counts as taken.
const OWNER_WAIT: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(50);

/// Where the owner of the log in `dir` serves it.
pub fn socket_path(dir: &Path) -> PathBuf {
    dir.join("tape.sock")
}

/// Opens the log in `dir`, or reaches it through its owner's socket, or says which process keeps it to itself.
pub fn open_home(dir: &Path, options: &Options) -> Result<Box<dyn EventLog>, Error> {
    let deadline = Instant::now() + OWNER_WAIT;
    loop {
        let owned = match Embedded::open(dir, options) {
            Ok(log) => return Ok(Box::new(log)),
            Err(owned @ Error::Owned { .. }) => owned,
            Err(other) => return Err(other),
        };
        match Socket::connect(&socket_path(dir)) {
            Ok(socket) => return Ok(Box::new(socket)),
            Err(Error::Unreachable { .. }) if Instant::now() < deadline => std::thread::sleep(RETRY),
            Err(Error::Unreachable { .. }) => return Err(owned),
            Err(other) => return Err(other),
        }
    }
}
