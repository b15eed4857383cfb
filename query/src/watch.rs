//! The second line of defence for memory. What operators hold is counted by a pool; what functions, decoders and answers hold is not, and shows
//! only in the process itself: beyond a limit every statement that runs is ended, so that the process is not.

use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often the process is looked at.
const EVERY: Duration = Duration::from_millis(100);
/// After statements were ended, memory goes back to the system within about this time; those that began since are not ended for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the process may hold beyond the pool: its code, decoders, answers under way, and the store beside it.
pub(crate) const MARGIN_BYTES: u64 = 2 << 30;

/// Tells a statement that the process holds too much. A clone tells what happens after it was made.
#[derive(Debug, Clone)]
pub(crate) struct Watch(watch::Receiver<u64>);

impl Watch {
    /// Looks until the last clone is gone. Where the system does not say what a process holds, nobody is told anything.
    pub(crate) fn over(limit: u64) -> std::io::Result<Watch> {
        let (sender, receiver) = watch::channel(0);
        std::thread::Builder::new().name("tape-memory".into()).spawn(move || look(limit, &sender))?;
        Ok(Watch(receiver))
    }

    /// For what begins now.
    pub(crate) fn anew(&self) -> Watch {
        let mut clone = self.clone();
        clone.0.mark_unchanged();
        clone
    }

    /// Ready when too much is held, with how much that is. May be dropped half-way.
    pub(crate) async fn struck(&mut self) -> u64 {
        match self.0.changed().await {
            Ok(()) => *self.0.borrow(),
            Err(_) => std::future::pending().await,
        }
    }
}

fn look(limit: u64, sender: &watch::Sender<u64>) {
    let mut last: Option<(Instant, u64)> = None;
    while sender.receiver_count() > 0 {
        let Some(held) = held() else { return };
        let patient = last.is_some_and(|(when, then)| when.elapsed() < PATIENCE && held <= then + then / 8);
        if held > limit && !patient {
            last = Some((Instant::now(), held));
            tracing::warn!(
                "this process holds {} MiB of memory, and statements may bring it to {}: those that run are ended",
                held >> 20,
                limit >> 20
            );
            sender.send_replace(held);
        }
        std::thread::sleep(EVERY);
    }
}

/// Bytes of memory that the process holds.
fn held() -> Option<u64> {
    const PAGE: u64 = 4096;
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(pages.split(' ').nth(1)?.parse::<u64>().ok()? * PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_began_before_is_told_and_nobody_after() {
        let mut watch = Watch::over(1).expect("a thread");
        let held = watch.struck().await;
        assert!(held > 1 << 20, "{held}");
        let mut later = watch.anew();
        assert!(tokio::time::timeout(EVERY * 5, later.struck()).await.is_err());
    }

    #[tokio::test]
    async fn nobody_is_told_below_the_limit() {
        let mut watch = Watch::over(u64::MAX).expect("a thread");
        assert!(tokio::time::timeout(EVERY * 3, watch.struck()).await.is_err());
    }
}
