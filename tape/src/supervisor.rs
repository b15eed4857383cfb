//! The query service as a process of its own: begun, begun again whatever ended it, told to stop. Nothing that ends it ends this process.
//!
//! ```text
//! this process                                             the child: `tape query-process` (commands/query_process.rs)
//! binds the socket, never accepts ──── standard input ───► accepts; connections wait in the socket while there is no child
//! lifeline ─────────────────────────── standard output ──► READY once it answers; STOP back: end in order; its end: this process is gone
//! a folder for what does not fit into memory ── TMPDIR ──► removed when the child has ended, however it ended
//! ```

use crate::settings::Settings;
use anyhow::{Context, Result};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The command of the child.
pub const COMMAND: &str = "query-process";
/// What the child says once it answers.
pub const READY: u8 = b'r';
/// What the child is told when it shall end in order.
pub const STOP: u8 = b's';

/// How often the child is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A child that lived for so long did not die of being begun.
const STEADY: Duration = Duration::from_secs(10);
/// The rest before the third child in a row that died young, and the longest before any.
const RESTS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How long a child that was told to stop may take: longer than it gives the answers that are under way.
const STOP_WAIT: Duration = Duration::from_secs(8);
/// jemalloc keeps what is given back reserved, which the system counts against the limit of the child: there it shall not.
const ALLOCATOR: (&str, &str) = ("MALLOC_CONF", "retain:false");

/// What becomes of a child that ends, with an exit code of its own, before it ever answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeverBegun {
    /// Its exit code is that of the service.
    End,
    /// It is begun again as any other.
    TryAgain,
}

/// Keeps a child that answers on `listener` until `stop` is set. Gives the exit code of one that could not begin, where that ends the service.
pub fn supervise(
    listener: TcpListener,
    settings: &Settings,
    timeout: Duration,
    never_begun: NeverBegun,
    stop: &Arc<AtomicBool>,
) -> Result<Option<i32>> {
    let listener = OwnedFd::from(listener);
    let mut young_deaths = 0;
    let mut ended: Option<Instant> = None;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let end = match begin(&listener, settings, timeout) {
            Ok(service) => match watch(service, ended, stop)? {
                None => return Ok(None),
                Some(End { ready: false, status, .. }) if never_begun == NeverBegun::End && ended.is_none() && status.code().is_some() => {
                    return Ok(status.code());
                }
                Some(end) => format!("(process {}) ended after {} s: {}", end.process, seconds(begun), told(end.status)),
            },
            Err(why) if never_begun == NeverBegun::End && ended.is_none() => return Err(why),
            Err(why) => format!("could not be begun: {why:#}"),
        };
        young_deaths = if begun.elapsed() < STEADY { young_deaths + 1 } else { 1 };
        let rest = rest(young_deaths);
        let again = match rest.is_zero() {
            true => "at once".into(),
            false => format!("in {} s, as it ended soon {young_deaths} times in a row", rest.as_secs_f32()),
        };
        tracing::warn!("the query service {end}; statements that ran are broken off, all else goes on; it is begun again {again}");
        ended = Some(Instant::now());
        wait(rest, stop);
    }
    Ok(None)
}

/// How a child ended by itself.
struct End {
    process: u32,
    ready: bool,
    status: ExitStatus,
}

/// Waits until the child ends, or until it is to be told to and has been: then `None`.
fn watch(mut service: Service, ended: Option<Instant>, stop: &AtomicBool) -> Result<Option<End>> {
    let process = service.child.id();
    while !stop.load(Ordering::Relaxed) {
        if service.says_ready() {
            match ended {
                None => tracing::info!("the query service answers: process {process}"),
                Some(ended) => tracing::warn!("the query service answers again {} s after it ended: process {process}", seconds(ended)),
            }
        }
        if let Some(status) = service.child.try_wait().context("waiting for the process that answers queries")? {
            return Ok(Some(End { process, ready: service.ready, status }));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    service.end()?;
    Ok(None)
}

/// How long to wait before the next child, after so many in a row that died young.
fn rest(young_deaths: u32) -> Duration {
    let (first, longest) = RESTS;
    match young_deaths {
        0 | 1 => Duration::ZERO,
        deaths => first.saturating_mul(2u32.saturating_pow(deaths - 2)).min(longest),
    }
}

fn wait(rest: Duration, stop: &AtomicBool) {
    let until = Instant::now() + rest;
    while Instant::now() < until && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK_EVERY);
    }
}

fn seconds(since: Instant) -> String {
    format!("{:.2}", since.elapsed().as_secs_f32())
}

/// `signal: 9 (SIGKILL)`; `exit status: 3`.
fn told(status: ExitStatus) -> String {
    match status.code() {
        Some(0) => "it was told to stop, by nobody here".into(),
        _ => status.to_string(),
    }
}

/// A child, and what leads to it.
struct Service {
    child: Child,
    lifeline: UnixStream,
    ready: bool,
    _spill: TempDir,
}

fn begin(listener: &OwnedFd, settings: &Settings, timeout: Duration) -> Result<Service> {
    try_begin(listener, settings, timeout).context("beginning the process that answers queries")
}

fn try_begin(listener: &OwnedFd, settings: &Settings, timeout: Duration) -> Result<Service> {
    let spill = tempfile::Builder::new().prefix("tape-").tempdir().context("making a folder for what does not fit into memory")?;
    let (lifeline, its_lifeline) = UnixStream::pair().context("making a pair of sockets")?;
    lifeline.set_nonblocking(true).context("setting up a socket")?;
    let given = std::env::var(ALLOCATOR.0).map_or(String::new(), |given| format!(",{given}"));
    let child = Command::new(this_program())
        .arg0("tape")
        .arg(COMMAND)
        .args(["--timeout", &timeout.as_secs().to_string()])
        .args(settings.flags())
        .env("TMPDIR", spill.path())
        .env(ALLOCATOR.0, format!("{}{given}", ALLOCATOR.1))
        .stdin(Stdio::from(listener.try_clone().context("handing the socket down")?))
        .stdout(Stdio::from(OwnedFd::from(its_lifeline)))
        // Ctrl-C at the terminal is for this process, which tells its child.
        .process_group(0)
        .spawn()
        .context("starting this program")?;
    Ok(Service { child, lifeline, ready: false, _spill: spill })
}

/// The very program that runs: where another version has been put in its place, not that one.
fn this_program() -> PathBuf {
    let itself = Path::new("/proc/self/exe");
    match std::env::current_exe() {
        Ok(path) if path.exists() || !itself.exists() => path,
        _ => itself.into(),
    }
}

impl Service {
    /// True when it says for the first time that it answers.
    fn says_ready(&mut self) -> bool {
        let mut word = [0];
        let says = !self.ready && matches!(self.lifeline.read(&mut word), Ok(1)) && word == [READY];
        self.ready |= says;
        says
    }

    /// Tells it to stop, and waits for that.
    fn end(mut self) -> Result<()> {
        match self.lifeline.write_all(&[STOP]) {
            Err(why) if why.kind() != ErrorKind::BrokenPipe => tracing::warn!("the query service could not be told to stop: {why}"),
            _ => {}
        }
        let told = Instant::now();
        while told.elapsed() < STOP_WAIT {
            if self.child.try_wait().context("waiting for the process that answers queries")?.is_some() {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        tracing::warn!("the query service (process {}) did not stop within {} s: it is killed", self.child.id(), STOP_WAIT.as_secs());
        Ok(())
    }
}

/// Nobody is left behind.
impl Drop for Service {
    fn drop(&mut self) {
        // An error of either means that it has ended.
        let _ended = self.child.kill();
        let _waited = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first restarts come at once, later ones ever more slowly, and none so late that nobody waits for it.
    #[test]
    fn rests_grow_with_deaths_in_a_row() {
        let rests: Vec<u128> = (0..14).map(|deaths| rest(deaths).as_millis()).collect();
        assert_eq!(rests, [0, 0, 100, 200, 400, 800, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000]);
        assert_eq!(rest(u32::MAX), RESTS.1);
    }
}
