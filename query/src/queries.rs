//! What this engine was asked: the last statements, how each went, and those that run. `tape.queries` shows it.

use crate::about::{Ask, Asker, Cell};
use crate::error::Error;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use tokio::time::Instant;

/// Statements that are kept; those that run are never dropped before they end.
const KEPT: usize = 1_000;
/// Bytes of a statement's text, and of an error's, that are kept.
const TEXT_BYTES: usize = 4 << 10;

/// How a statement went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Done,
    Failed,
    Cancelled,
    TimedOut,
    Refused,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Done => "done",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
            State::TimedOut => "timed out",
            State::Refused => "refused",
        }
    }

    fn after(why: &Error) -> State {
        match why {
            Error::Refused { .. } | Error::NotOneStatement(_) | Error::TooLarge(_) | Error::Busy | Error::Full(_) => State::Refused,
            Error::TimedOut(_) => State::TimedOut,
            Error::Cancelled => State::Cancelled,
            _ => State::Failed,
        }
    }
}

/// The statements of an engine.
#[derive(Debug, Default, Clone)]
pub(crate) struct Queries(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    asked: i64,
    entries: VecDeque<Arc<Entry>>,
}

/// One statement.
#[derive(Debug)]
struct Entry {
    id: i64,
    principal: String,
    sql: String,
    begun_at: SystemTime,
    begun: Instant,
    deadline: Instant,
    rows: AtomicI64,
    bytes: AtomicI64,
    memory: Arc<Memory>,
    end: Mutex<Option<(Instant, State, Option<String>)>>,
}

/// What a statement holds of the memory of queries, and the most that it held.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    held: AtomicI64,
    most: AtomicI64,
}

impl Memory {
    /// It holds so much more, or less.
    pub(crate) fn add(&self, bytes: i64) {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.most.fetch_max(held, Ordering::Relaxed);
    }
}

/// A statement that runs. Dropped before its end, it was cancelled: nobody wants its answer any more.
#[derive(Debug)]
pub(crate) struct Running(Arc<Entry>);

impl Queries {
    pub(crate) fn begin(&self, principal: &str, sql: &str, deadline: Instant) -> Running {
        let mut kept = self.0.lock().expect("no holder of this lock can panic");
        kept.asked += 1;
        let entry = Arc::new(Entry {
            id: kept.asked,
            principal: principal.to_string(),
            sql: cut(sql),
            begun_at: SystemTime::now(),
            begun: Instant::now(),
            deadline,
            rows: AtomicI64::new(0),
            bytes: AtomicI64::new(0),
            memory: Arc::default(),
            end: Mutex::new(None),
        });
        kept.entries.push_back(entry.clone());
        if kept.entries.len() > KEPT
            && let Some(at) = kept.entries.iter().position(|entry| entry.state() != State::Running)
        {
            kept.entries.remove(at);
        }
        Running(entry)
    }

    /// Is there a statement that may run still, and began before `then`?
    pub(crate) fn any_live(&self, then: Instant) -> bool {
        let kept = self.0.lock().expect("no holder of this lock can panic");
        let now = Instant::now();
        kept.entries.iter().any(|entry| entry.begun < then && entry.deadline > now && entry.state() == State::Running)
    }

    /// The rows of `tape.queries`, the newest first.
    pub(crate) fn ask(&self) -> Ask {
        let queries = self.clone();
        Arc::new(move |asker: Asker| {
            let rows: Vec<Vec<Cell>> = {
                let kept = queries.0.lock().expect("no holder of this lock can panic");
                kept.entries.iter().rev().map(|entry| entry.row()).collect()
            };
            Box::pin(async move {
                asker.take(rows).await;
                Ok(())
            })
        })
    }
}

impl Running {
    /// What it holds of the memory of queries.
    pub(crate) fn memory(&self) -> Arc<Memory> {
        self.0.memory.clone()
    }

    /// It gave so much of its answer.
    pub(crate) fn gave(&self, rows: usize, bytes: usize) {
        self.0.rows.fetch_add(rows as i64, Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes as i64, Ordering::Relaxed);
    }

    /// It has given all.
    pub(crate) fn done(&self) {
        self.0.end(State::Done, None);
    }

    /// It ended with an error.
    pub(crate) fn failed(&self, why: &Error) {
        self.0.end(State::after(why), Some(cut(&why.to_string())));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.end(State::Cancelled, None);
    }
}

impl Entry {
    /// The first end counts.
    fn end(&self, state: State, why: Option<String>) {
        self.end.lock().expect("no holder of this lock can panic").get_or_insert((Instant::now(), state, why));
    }

    fn state(&self) -> State {
        self.end.lock().expect("no holder of this lock can panic").as_ref().map_or(State::Running, |(_, state, _)| *state)
    }

    /// In the order of `schemas::about`.
    fn row(&self) -> Vec<Cell> {
        let end = self.end.lock().expect("no holder of this lock can panic").clone();
        let (until, state, why) = end.map_or((Instant::now(), State::Running, None), |end| end);
        let elapsed = i64::try_from((until - self.begun).as_nanos()).unwrap_or(i64::MAX);
        let begun = self.begun_at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
        let count = |of: &AtomicI64| Cell::Int(of.load(Ordering::Relaxed));
        vec![
            Cell::Int(self.id),
            Cell::Text(self.principal.clone()),
            Cell::Text(state.name().into()),
            Cell::Int(begun),
            (state != State::Running).then(|| begun.saturating_add(elapsed)).into(),
            Cell::Int(elapsed),
            count(&self.rows),
            count(&self.bytes),
            count(&self.memory.most),
            why.into(),
            Cell::Text(self.sql.clone()),
        ]
    }
}

/// The beginning of a text.
fn cut(text: &str) -> String {
    let end = (0..=TEXT_BYTES.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_last_are_kept_and_those_that_run() {
        let queries = Queries::default();
        let deadline = Instant::now() + Duration::from_secs(60);
        let running = queries.begin("a", "SELECT 'ü'", deadline);
        for _ in 0..KEPT + 10 {
            queries.begin("b", &"ü".repeat(TEXT_BYTES), deadline).failed(&Error::Busy);
        }
        let kept = queries.0.lock().unwrap();
        assert_eq!((kept.entries.len(), kept.entries[0].id), (KEPT, running.0.id));
        let last = kept.entries.back().unwrap();
        assert_eq!((last.id, last.state(), last.sql.len()), ((KEPT + 11) as i64, State::Refused, TEXT_BYTES));
        drop(kept);
        assert!(queries.any_live(Instant::now()));
        drop(running);
        assert!(!queries.any_live(Instant::now()));
        assert_eq!(queries.0.lock().unwrap().entries[0].state(), State::Cancelled);
    }
}
