//! What computes on though nobody waits for it any more: a function of a statement that has ended cannot be stopped from outside. Whoever runs the
//! engine in a process of its own can end that process ([`crate::Engine::stuck`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Work that was begun; what is abandoned of it, and since when.
#[derive(Debug, Default, Clone)]
pub(crate) struct Abandoned(Arc<Work>);

#[derive(Debug, Default)]
struct Work {
    begun: AtomicU64,
    going_on: Mutex<HashMap<u64, Option<Instant>>>,
}

/// Held by the work itself: it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Computing(Arc<Work>, u64);

/// Held by whoever waits for the work: it is abandoned when this is dropped first.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Work>, u64);

impl Abandoned {
    /// For a piece of work that begins.
    pub(crate) fn begin(&self) -> (Computing, Waiting) {
        let id = self.0.begun.fetch_add(1, Ordering::Relaxed);
        self.0.going_on.lock().expect("no holder of this lock can panic").insert(id, None);
        (Computing(self.0.clone(), id), Waiting(self.0.clone(), id))
    }

    /// How much of it has been abandoned for so long.
    pub(crate) fn for_longer_than(&self, patience: Duration) -> usize {
        let going_on = self.0.going_on.lock().expect("no holder of this lock can panic");
        going_on.values().filter(|since| since.is_some_and(|since| since.elapsed() > patience)).count()
    }
}

impl Drop for Computing {
    fn drop(&mut self) {
        self.0.going_on.lock().expect("no holder of this lock can panic").remove(&self.1);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(since) = self.0.going_on.lock().expect("no holder of this lock can panic").get_mut(&self.1) {
            *since = Some(Instant::now());
        }
    }
}

/// Are there workers that take a task? One is put there, and looked for later.
#[derive(Debug, Default)]
pub(crate) struct Pulse(Mutex<Option<(Instant, Arc<()>)>>);

impl Pulse {
    /// Since when no worker has taken a task, where one was put there so long ago.
    pub(crate) fn stands_since(&self, workers: &Handle, patience: Duration) -> Option<Instant> {
        let mut beat = self.0.lock().expect("no holder of this lock can panic");
        match &*beat {
            Some((put, task)) if Arc::strong_count(task) > 1 => (put.elapsed() > patience).then_some(*put),
            _ => {
                let task = Arc::new(());
                let put_there = task.clone();
                workers.spawn(async move { drop(put_there) });
                *beat = Some((Instant::now(), task));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_waits_for_is_abandoned_until_it_ends() {
        let abandoned = Abandoned::default();
        let (done, waited) = abandoned.begin();
        drop(done);
        drop(waited);
        let (stuck, left) = abandoned.begin();
        assert_eq!(abandoned.for_longer_than(Duration::ZERO), 0, "somebody waits");
        drop(left);
        while abandoned.for_longer_than(Duration::ZERO) != 1 {
            std::thread::yield_now();
        }
        assert_eq!(abandoned.for_longer_than(Duration::from_secs(3600)), 0);
        drop(stuck);
        assert_eq!(abandoned.for_longer_than(Duration::ZERO), 0);
    }

    #[test]
    fn a_pulse_stands_while_every_worker_computes() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
        let pulse = Pulse::default();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let (began, begun) = std::sync::mpsc::channel::<()>();
        runtime.spawn(async move {
            began.send(()).expect("somebody waits");
            ended.recv().ok()
        });
        begun.recv().expect("it began");
        while pulse.stands_since(runtime.handle(), Duration::from_millis(10)).is_none() {
            std::thread::yield_now();
        }
        drop(end);
        while pulse.stands_since(runtime.handle(), Duration::from_millis(10)).is_some() {
            std::thread::yield_now();
        }
    }
}
