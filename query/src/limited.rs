//! A statement's stream within its limits: run by a task of its own, ended at its deadline or when the process holds too much, whatever it computes.

use crate::abandoned::{Computing, Waiting};
use crate::error::Error;
use crate::watch::Watch;
use arrow::array::RecordBatch;
use datafusion::common::Result;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use std::time::Duration;
use tokio::time::Instant;

/// Why a query's task ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// Everything was handed over, or nobody takes it any more.
    End,
    /// The reader did not take a batch in time.
    Deadline,
    /// The process held too much memory.
    TooMuchHeld(u64),
}

/// Batches that may wait between the query and its reader.
const BATCHES_WAITING_MAX: usize = 2;

/// The stream, run by a task of its own, with an error in place of what comes after `deadline`. The answer comes in time even while an
/// operator computes without a pause; dropping the stream aborts the task, and a reader that stands still keeps nothing beyond the deadline.
pub(crate) fn until(
    mut stream: SendableRecordBatchStream,
    deadline: Instant,
    limit: Duration,
    watch: Watch,
    (computing, waiting): (Computing, Waiting),
) -> SendableRecordBatchStream {
    let schema = stream.schema();
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<RecordBatch>>(BATCHES_WAITING_MAX);
    let mut watched = watch.clone();
    let hand_over = async move {
        let _computing = computing;
        while let Some(next) = stream.next().await {
            match tokio::time::timeout_at(deadline, sender.send(next)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return After::End,
                Err(_) => return After::Deadline,
            }
        }
        After::End
    };
    let task = SpawnedTask::spawn(async move {
        tokio::select! {
            biased;
            held = watched.struck() => After::TooMuchHeld(held),
            after = hand_over => after,
        }
    });
    let timed_out = move || Error::TimedOut(limit).into();
    let limited = futures::stream::unfold(Some((task, receiver, watch, waiting)), move |running| async move {
        let (task, mut receiver, mut watch, waiting) = running?;
        let next = tokio::select! {
            biased;
            held = watch.struck() => return Some((Err(Error::too_much_held(held).into()), None)),
            next = tokio::time::timeout_at(deadline, receiver.recv()) => next,
        };
        match next {
            Ok(Some(next)) => Some((next, Some((task, receiver, watch, waiting)))),
            Ok(None) => match task.join().await {
                Ok(After::End) => None,
                Ok(After::Deadline) => Some((Err(timed_out()), None)),
                Ok(After::TooMuchHeld(held)) => Some((Err(Error::too_much_held(held).into()), None)),
                Err(why) => Some((Err(DataFusionError::ExecutionJoin(Box::new(why))), None)),
            },
            Err(_) => Some((Err(timed_out()), None)),
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, limited))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abandoned::Abandoned;
    use arrow::datatypes::Schema;
    use std::sync::Arc;

    fn unwatched() -> Watch {
        Watch::over(u64::MAX).expect("a thread")
    }

    /// Neither a statement that computes without end nor one whose reader stands still keeps what it holds.
    #[tokio::test]
    async fn statements_end_when_the_process_holds_too_much() {
        let schema = Arc::new(Schema::empty());
        let limit = Duration::from_secs(60);
        let endless = RecordBatchStreamAdapter::new(schema, futures::stream::pending());
        let mut limited =
            until(Box::pin(endless), Instant::now() + limit, limit, Watch::over(1).expect("a thread"), Abandoned::default().begin());
        let error = Error::from_engine("running the query", limited.next().await.expect("an error").unwrap_err());
        assert!(matches!(error, Error::Memory(_)) && error.to_string().contains("the process holds"), "{error}");
        assert!(limited.next().await.is_none());
    }

    #[tokio::test]
    async fn a_panic_of_the_engine_is_an_error_of_the_query() {
        let broken = futures::stream::poll_fn(|_| panic!("index out of bounds"));
        let stream = Box::pin(RecordBatchStreamAdapter::new(Arc::new(Schema::empty()), broken));
        let limit = Duration::from_secs(60);
        let mut limited = until(stream, Instant::now() + limit, limit, unwatched(), Abandoned::default().begin());
        let error = Error::from_engine("running the query", limited.next().await.expect("an error").unwrap_err());
        assert!(matches!(error, Error::Panicked { .. }) && error.to_string().contains("index out of bounds"), "{error}");
        assert!(limited.next().await.is_none());
    }

    #[tokio::test]
    async fn a_reader_that_stands_still_gets_no_end_that_looks_whole() {
        let schema = Arc::new(Schema::empty());
        let batch = RecordBatch::new_empty(schema.clone());
        let endless = futures::stream::repeat_with(move || Ok(batch.clone())).take(100);
        let limit = Duration::from_millis(50);
        let limited = until(
            Box::pin(RecordBatchStreamAdapter::new(schema, endless)),
            Instant::now() + limit,
            limit,
            unwatched(),
            Abandoned::default().begin(),
        );
        tokio::time::sleep(limit * 4).await;
        let taken: Vec<_> = limited.collect().await;
        let error = Error::from_engine("running the query", taken.into_iter().last().expect("a last").unwrap_err());
        assert!(matches!(error, Error::TimedOut(_)), "{error}");
    }
}
