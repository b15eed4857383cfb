//! Ctrl-C and SIGTERM become one flag that every loop looks at; a second one ends the process at once.

use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// How soon whoever waits for the flag notices it.
const STOP_CHECK: Duration = Duration::from_millis(50);
/// Exit code of a process that was told twice to stop.
const TOLD_TWICE: i32 = 130;

/// A flag that becomes true with the first signal.
pub fn stop_flag(runtime: &Runtime) -> Result<Arc<AtomicBool>> {
    let _guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    runtime.spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(TOLD_TWICE);
            }
        }
    });
    Ok(stop)
}

/// Ready when the flag is set.
pub async fn until(stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(STOP_CHECK).await;
    }
}
