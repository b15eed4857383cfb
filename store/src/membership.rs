//! Which partitions are this store's, where several share the work: a thread listens to the group, the session hears of changes.
//!
//! Nothing here makes storing safe: the transactions in the tables do that. A store that reads a partition which is another's by now is
//! fenced by its first commit. Membership only keeps two stores from doing the same work.

use crate::Error;
use eventlog::{EventLog, Member, Partitions, Share};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How soon the group's word is heard at the latest, and the store's answer.
const POLL_WAIT: Duration = Duration::from_millis(50);

/// What a session is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Its partitions are the same.
    GoOn,
    /// It ends, and commits what it has read: whoever reads on begins behind it. Where stores come and go faster than commits fall due,
    /// nothing would ever be stored otherwise.
    Finish,
    /// It ends, and drops what it has read: others have read on already, and would be first.
    Drop,
}

/// What becomes of a session that began with one share when the share is another now. Pure.
pub fn turn(began: &Share, now: &Share) -> Turn {
    match () {
        () if now.losses != began.losses => Turn::Drop,
        () if now.asked_back || now.partitions != began.partitions => Turn::Finish,
        () => Turn::GoOn,
    }
}

/// A store among others, or alone.
pub(crate) struct Membership {
    /// What the session under way began with.
    began: Share,
    heard: watch::Receiver<Result<Share, eventlog::Error>>,
    release: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Membership {
    /// All partitions, for good.
    pub(crate) fn alone() -> Membership {
        let (_, heard) = watch::channel(Ok(Share::all()));
        Membership { began: Share::none(), heard, release: Arc::default(), stop: Arc::default(), thread: None }
    }

    /// Joins those who share the log's partitions.
    pub(crate) fn join(log: Arc<dyn EventLog>, name: String) -> Membership {
        let (tell, heard) = watch::channel(Ok(Share::none()));
        let (release, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (asked, told) = (release.clone(), stop.clone());
        let thread = tokio::task::spawn_blocking(move || {
            if let Err(error) = listen(log.as_ref(), &name, &tell, &asked, &told) {
                let _ = tell.send_replace(Err(error));
            }
        });
        Membership { began: Share::none(), heard, release, stop, thread: Some(thread) }
    }

    /// The partitions to begin a session with, once there are any; what is asked back while nobody reads is given at once.
    pub(crate) async fn begin(&mut self) -> Result<Partitions, Error> {
        loop {
            let share = self.heard.borrow_and_update().clone()?;
            if share.asked_back {
                self.release();
            } else if !share.partitions.is_empty() {
                self.began = share.clone();
                return Ok(share.partitions);
            }
            self.changed().await;
        }
    }

    /// Ready when the share is not what the session began with; says what to do. May be dropped half-way.
    pub(crate) async fn turned(&mut self) -> Result<Turn, Error> {
        loop {
            let now = self.heard.borrow_and_update().clone()?;
            match turn(&self.began, &now) {
                Turn::GoOn => self.changed().await,
                other => return Ok(other),
            }
        }
    }

    /// Nothing of what was asked back is read any more.
    pub(crate) fn release(&self) {
        self.release.store(true, Ordering::Relaxed);
    }

    /// Leaves, and waits until the others may know it.
    pub(crate) async fn leave(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && let Err(error) = thread.await
        {
            tracing::warn!(%error, "the thread of the group's member ended unexpectedly");
        }
    }

    async fn changed(&mut self) {
        // Nobody tells any more: whoever is alone has what he has, and the last word of a thread that ended was its error.
        if self.heard.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn listen(
    log: &dyn EventLog,
    name: &str,
    tell: &watch::Sender<Result<Share, eventlog::Error>>,
    release: &AtomicBool,
    stop: &AtomicBool,
) -> Result<(), eventlog::Error> {
    let mut member: Box<dyn Member> = log.join(name)?;
    while !stop.load(Ordering::Relaxed) {
        if release.swap(false, Ordering::Relaxed) {
            member.release()?;
        }
        let share = member.poll(POLL_WAIT)?;
        tell.send_if_modified(|told| {
            let news = told.as_ref().ok() != Some(&share);
            *told = Ok(share);
            news
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::Family;

    fn share(partitions: &[i32], asked_back: bool, losses: u64) -> Share {
        let partitions = Partitions::Some(partitions.iter().map(|partition| (Family::Trades, *partition)).collect());
        Share { partitions, asked_back, losses, changes: 1 }
    }

    #[test]
    fn a_session_finishes_what_it_is_asked_for_and_drops_what_was_taken() {
        let began = share(&[0, 1], false, 2);
        assert_eq!(turn(&began, &Share { changes: 9, ..began.clone() }), Turn::GoOn, "the group changed, the share did not");
        assert_eq!(turn(&began, &share(&[0, 1], true, 2)), Turn::Finish);
        assert_eq!(turn(&began, &share(&[0, 1, 2], false, 2)), Turn::Finish);
        assert_eq!(turn(&began, &share(&[], false, 3)), Turn::Drop);
        assert_eq!(turn(&began, &share(&[0, 1], false, 3)), Turn::Drop, "taken, and given again since");
    }
}
