//! Planning on threads of its own: whatever a plan takes to make, it holds no worker of the runtime, and only so many are made at once.

use crate::abandoned::Abandoned;
use crate::error::Error;
use crate::limits::{PLACE_WAIT, PLANNING_PLACES};
use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

/// Stack of a planning thread: a chain of operators takes some ten kilobytes for each, and a stack that overflows ends the process.
const STACK_BYTES: usize = 64 << 20;
/// Stacks of all that may plan at once.
pub const STACKS_BYTES: usize = PLANNING_PLACES * STACK_BYTES;
/// Name of a planning thread.
pub const THREAD: &str = "tape-planner";

/// The places.
#[derive(Debug)]
pub(crate) struct Planner {
    places: Arc<Semaphore>,
    wait: Duration,
    abandoned: Abandoned,
}

impl Planner {
    pub(crate) fn new(abandoned: Abandoned) -> Planner {
        Planner { places: Arc::new(Semaphore::new(PLANNING_PLACES)), wait: PLACE_WAIT, abandoned }
    }

    /// Runs `work` on a thread of its own, with what it spawns on `runtime`; an error comes at the deadline whatever the thread does. Dropped
    /// half-way, the work ends where it next waits for something, or at its end.
    pub(crate) async fn plan<T: Send + 'static>(
        &self,
        runtime: &Handle,
        deadline: Instant,
        limit: Duration,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let free = timeout_at(deadline.min(Instant::now() + self.wait), self.places.clone().acquire_owned());
        let place = free.await.map_err(|_| Error::Busy)?.expect("this semaphore is never closed");
        let (mut sender, receiver) = oneshot::channel();
        let (computing, _waiting) = self.abandoned.begin();
        let runtime = runtime.clone();
        let thread = std::thread::Builder::new().name(THREAD.into()).stack_size(STACK_BYTES);
        let started = thread.spawn(move || {
            let wanted = async {
                tokio::select! {
                    biased;
                    () = sender.closed() => None,
                    planned = work => Some(planned),
                }
            };
            let planned = catch_unwind(AssertUnwindSafe(|| runtime.block_on(wanted)));
            drop(place);
            drop(computing);
            if let Some(planned) = planned.transpose() {
                // Nobody may be waiting any more.
                let _unwanted = sender.send(planned);
            }
        });
        started.map_err(|e| Error::Execution { doing: "starting a thread to plan the query", what: e.to_string() })?;
        match timeout_at(deadline, receiver).await {
            Err(_) => Err(Error::TimedOut(limit)),
            Ok(Ok(Ok(planned))) => planned,
            Ok(Ok(Err(panic))) => Err(panicked(panic.as_ref())),
            Ok(Err(_)) => Err(panicked(&"its thread ended without a word")),
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    Error::Panicked { doing: "planning the query", what: format!("panicked with {:?}", said.unwrap_or("no message")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn planner(places: usize) -> Planner {
        Planner { places: Arc::new(Semaphore::new(places)), wait: Duration::from_millis(20), abandoned: Abandoned::default() }
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(20);

    async fn plan<T: Send + 'static>(
        planner: &Planner,
        limit: Duration,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        planner.plan(&Handle::current(), Instant::now() + limit, limit, work).await
    }

    /// One worker, which the test itself runs on: whoever held it would hold everything.
    #[tokio::test]
    async fn plans_that_do_not_end_hold_their_places_and_nothing_else() {
        let planner = planner(2);
        let mut ends = Vec::new();
        for _ in 0..2 {
            let (end, ended) = mpsc::channel::<()>();
            ends.push(end);
            let stuck = plan(&planner, SHORT, async move { ended.recv().map_err(|_| Error::Cancelled) }).await;
            assert!(matches!(stuck, Err(Error::TimedOut(_))), "{stuck:?}");
        }
        let busy = plan(&planner, LONG, async { Ok(1) }).await.unwrap_err();
        assert!(matches!(busy, Error::Busy), "{busy}");
        ends.pop();
        let free = planner.places.acquire().await.expect("the place comes free");
        drop(free);
        assert_eq!(plan(&planner, LONG, async { Ok(1) }).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_its_statement_and_frees_the_place() {
        let planner = planner(1);
        let panicked = plan(&planner, LONG, async { if true { panic!("index out of bounds") } else { Ok(1) } }).await.unwrap_err();
        assert!(matches!(panicked, Error::Panicked { .. }) && panicked.to_string().contains("index out of bounds"), "{panicked}");
        assert_eq!(plan(&planner, LONG, async { Ok(1) }).await.unwrap(), 1);
    }

    /// A statement whose reader has gone ends where it waits.
    #[tokio::test]
    async fn nobody_plans_for_nobody() {
        let planner = planner(1);
        let gone = plan(&planner, SHORT, std::future::pending::<Result<u8, Error>>()).await;
        assert!(matches!(gone, Err(Error::TimedOut(_))), "{gone:?}");
        let free = tokio::time::timeout(LONG, planner.places.acquire()).await;
        assert!(free.is_ok_and(|free| free.is_ok()));
    }
}
