//! `tape query-process`, begun by `tape query` and `tape up` (supervisor.rs): SQL over HTTP on a socket that is handed down, under a limit of memory
//! that the process sets upon itself. It ends with the process that began it, however that ends.

use super::Code;
use crate::args::QueryProcess;
use crate::serve::serve;
use crate::settings::{Settings, WrongUse};
use crate::supervisor::{READY, STOP};
use crate::tables::{self, Queries};
use crate::{home, http, panics, signals};
use anyhow::{Context, Result};
use nix::sys::resource::{Resource, setrlimit};
use query::Engine;
use std::io::{Read, Write, stdin, stdout};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the engine is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub fn run(args: &QueryProcess, settings: &Settings) -> Result<Code> {
    let (listener, lifeline) =
        handed_down().map_err(|_| WrongUse("this command is begun by `tape query` and `tape up`: use one of these".into()))?;
    limit(settings)?;
    panics::go_to_the_log();
    let stop = Arc::new(AtomicBool::new(false));
    follow(lifeline.try_clone().context("watching the process that began this one")?, stop.clone())?;
    let runtime = home::serving_runtime()?;
    let queries = Queries::open(settings, Duration::from_secs(args.timeout))?;
    let stuck = watch(queries.engine.clone(), stop.clone())?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).context("taking the socket over")?;
        (&lifeline).write_all(&[READY]).context("saying that it answers")?;
        serve(listener, http::routes(queries.engine.clone(), &settings.prefix), signals::until(stop)).await;
        Ok(if stuck.load(Ordering::Relaxed) { Code::Fault } else { Code::Fine })
    })
}

/// The socket to answer on is standard input, the line to the process that began this one standard output.
fn handed_down() -> std::io::Result<(TcpListener, UnixStream)> {
    let listener = TcpListener::from(stdin().as_fd().try_clone_to_owned()?);
    let lifeline = UnixStream::from(stdout().as_fd().try_clone_to_owned()?);
    listener.local_addr()?;
    lifeline.local_addr()?;
    listener.set_nonblocking(true)?;
    lifeline.set_nonblocking(false)?;
    Ok((listener, lifeline))
}

/// What this process may take of memory, before any thread of it does. What is missing then ends it, and nothing else.
fn limit(settings: &Settings) -> Result<()> {
    let bytes = settings.query_process as u64 + home::query_stacks();
    setrlimit(Resource::RLIMIT_DATA, bytes, bytes).context("limiting the memory of this process ([query] process_mib)")?;
    // Its image would be written to disk for longer than it takes to begin again.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("leaving out the image of this process when it dies")?;
    // Where the machine itself has no memory left, this process goes first. A system that has no such order keeps its own.
    if let Err(why) = std::fs::write("/proc/self/oom_score_adj", "1000") {
        tracing::debug!("the system's order of who goes first when memory is missing stays as it is: {why}");
    }
    Ok(())
}

/// Ends this process in order where only that ends what computes on for nobody. The flag says that it was so.
fn watch(engine: Arc<Engine>, stop: Arc<AtomicBool>) -> Result<Arc<AtomicBool>> {
    let stuck = Arc::new(AtomicBool::new(false));
    let flag = stuck.clone();
    let work = move || {
        while !stop.load(Ordering::Relaxed) {
            if let Some(why) = engine.stuck() {
                tracing::warn!("the query service ends, to be begun again: {why}");
                flag.store(true, Ordering::Relaxed);
                stop.store(true, Ordering::Relaxed);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    };
    std::thread::Builder::new().name("watchdog".into()).spawn(work).context("watching the query engine")?;
    Ok(stuck)
}

/// Sets `stop` when told to, and ends this process at once when the other end of the line is gone.
fn follow(mut lifeline: UnixStream, stop: Arc<AtomicBool>) -> Result<()> {
    let work = move || {
        let mut word = [0];
        while let Ok(1) = lifeline.read(&mut word) {
            stop.fetch_or(word == [STOP], Ordering::Relaxed);
        }
        tables::remove_spilled();
        // Who would have removed it is gone. What is still in it is not ours.
        let _removed = std::fs::remove_dir(std::env::temp_dir());
        std::process::exit(Code::Fault as i32);
    };
    std::thread::Builder::new().name("lifeline".into()).spawn(work).context("watching the process that began this one")?;
    Ok(())
}
