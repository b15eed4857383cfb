//! Reads and decodes ahead of the commits: one thread polls the log while another one decodes what came before, its work shared out.

use crate::ledger::{Ledger, Span, Verdict, follow};
use crate::opened::Held;
use crate::proof::{Hash, Hasher, Leaves};
use crate::tail::Tail;
use crate::{Error, decode};
use arrow::array::RecordBatch;
use eventlog::{Event, EventLog, Polled, Start};
use schemas::Family;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;
use tokio::sync::mpsc;

/// Events of one poll: enough to decode in bulk, few enough that a poll of large records stays small.
const POLL_EVENTS_MAX: usize = 1 << 15;
/// How long a poll waits for the first event; also how long stopping may take.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// Events that are worth a thread of their own to decode.
const DECODE_EVENTS_MIN: usize = 1 << 12;
/// Threads that decode one poll.
const DECODE_THREADS_MAX: usize = 4;
/// Polls that wait to be decoded.
const POLLS_AHEAD: usize = 1;

/// Reads and decodes ahead of the commits, on a thread of its own.
pub(crate) struct ReadAhead {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) starts: Vec<Start>,
    pub(crate) ledger: Ledger,
    pub(crate) names: HashMap<Family, String>,
    pub(crate) hashers: HashMap<(Family, i32), Hasher>,
    /// What `quarantine` holds of those partitions in which it is ahead of the family's table.
    pub(crate) held: Held,
    pub(crate) stop: Arc<AtomicBool>,
}

/// What one poll brought, decoded; the last message may be the error that ended the reading.
pub(crate) type Message = Result<Decoded, Error>;

#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) at_end: Vec<(Family, i32)>,
    pub(crate) skipped: u64,
}

/// Events of one family, decoded.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) family: Family,
    pub(crate) rows: RecordBatch,
    pub(crate) quarantine: Option<RecordBatch>,
    /// Partition and reason of every bad event.
    pub(crate) bad: Vec<(i32, String)>,
    pub(crate) spans: BTreeMap<i32, Span>,
    pub(crate) schema_ids: Vec<u32>,
    /// Partition and hash of every event, good and bad, in order.
    pub(crate) leaves: Vec<(i32, Hash)>,
    /// The last event of each partition.
    pub(crate) tails: BTreeMap<i32, Tail>,
}

impl ReadAhead {
    pub(crate) fn run(mut self, queue: &mpsc::Sender<Message>) {
        if let Err(error) = self.read(queue) {
            // Nobody listens any more: the session has ended for a reason of its own.
            let _ = queue.blocking_send(Err(error));
        }
    }

    /// The next poll is under way while the last one is decoded.
    fn read(&mut self, queue: &mpsc::Sender<Message>) -> Result<(), Error> {
        let mut reader = self.log.reader(&self.starts)?;
        let stop = self.stop.clone();
        let (sender, polls) = std::sync::mpsc::sync_channel(POLLS_AHEAD);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let polled = reader.poll(POLL_WAIT, POLL_EVENTS_MAX);
                    let failed = polled.is_err();
                    let nothing = polled.as_ref().is_ok_and(|polled| polled.events.is_empty() && polled.at_end.is_empty());
                    if !nothing && sender.send(polled).is_err() || failed {
                        return;
                    }
                }
            });
            let decoded = self.decode_all(polls, queue);
            // A log that has nothing more to give would not notice that nobody listens.
            self.stop.store(true, Ordering::Relaxed);
            decoded
        })
    }

    fn decode_all(&mut self, polls: Receiver<Result<Polled, eventlog::Error>>, queue: &mpsc::Sender<Message>) -> Result<(), Error> {
        for polled in polls {
            let polled = polled?;
            killpoint::here!("store.polled");
            let mut decoded = self.decode(polled.events)?;
            killpoint::here!("store.decoded");
            decoded.at_end = polled.at_end;
            if queue.blocking_send(Ok(decoded)).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn decode(&mut self, mut events: Vec<Event>) -> Result<Decoded, Error> {
        let mut decoded = Decoded::default();
        let mut absent = Vec::with_capacity(events.len());
        events.retain(|event| match self.ledger.offer(event.family, event.partition, event.offset) {
            Verdict::Accept { absent: hole } => {
                absent.push(hole);
                true
            }
            Verdict::Skip => {
                decoded.skipped += 1;
                false
            }
        });
        // Mostly all are of one family, and stay where they are.
        while let Some(family) = events.first().map(|event| event.family) {
            let mut holes = std::mem::take(&mut absent);
            let mut others = Vec::new();
            if events.iter().any(|event| event.family != family) {
                let all = events.into_iter().zip(holes);
                let (of_family, of_others): (Vec<_>, Vec<_>) = all.partition(|(event, _)| event.family == family);
                (events, holes) = of_family.into_iter().unzip();
                (others, absent) = of_others.into_iter().unzip();
            }
            decoded.pieces.extend(self.decode_family(family, &events, &holes)?);
            events = others;
        }
        Ok(decoded)
    }

    fn decode_family(&self, family: Family, events: &[Event], absent: &[Option<(i64, i64)>]) -> Result<Vec<Piece>, Error> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(DECODE_THREADS_MAX);
        let length = events.len().div_ceil(threads).max(DECODE_EVENTS_MIN);
        let parts: Vec<_> = events.chunks(length).zip(absent.chunks(length)).collect();
        if let [(events, absent)] = parts[..] {
            return Ok(vec![self.piece(family, events, absent)?]);
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = parts.into_iter().map(|(events, absent)| scope.spawn(|| self.piece(family, events, absent))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    /// Refuses to pass over a bad record that `quarantine` should have by its transaction, and has not.
    fn refuse_unheld(&self, family: Family, event: &Event) -> Result<(), Error> {
        let place = (family, event.partition);
        let mut leaves = Leaves::default();
        leaves.event(&self.hashers[&place], event);
        let held = self.held.get(&place).and_then(|held| held.get(&event.offset));
        match held.is_some_and(|hash| leaves.hashes()[..] == [*hash]) {
            true => Ok(()),
            false => Err(Error::NotQuarantined { name: self.names[&family].clone(), partition: event.partition, offset: event.offset }),
        }
    }

    fn piece(&self, family: Family, events: &[Event], absent: &[Option<(i64, i64)>]) -> Result<Piece, Error> {
        let mut decoded = decode::decode(family, events)?;
        let is_quarantined = |bad: &decode::Bad| self.ledger.is_quarantined(family, events[bad.index].partition, events[bad.index].offset);
        for bad in decoded.bad.extract_if(.., |bad| is_quarantined(bad)) {
            self.refuse_unheld(family, &events[bad.index])?;
        }
        let quarantine = match decoded.bad.is_empty() {
            true => None,
            false => Some(decode::quarantine(&self.names[&family], events, &decoded.bad)?),
        };
        let mut spans: BTreeMap<i32, Span> = BTreeMap::new();
        // Neighbours mostly share a partition: they are put together first.
        let mut last: Option<(i32, Span)> = None;
        for (event, absent) in events.iter().zip(absent) {
            let span = Span::of(event.offset, *absent);
            match &mut last {
                Some((partition, before)) if *partition == event.partition => before.extend(span),
                _ => last.replace((event.partition, span)).into_iter().for_each(|(partition, span)| follow(&mut spans, partition, span)),
            }
        }
        last.into_iter().for_each(|(partition, span)| follow(&mut spans, partition, span));
        let bad = decoded.bad.into_iter().map(|bad| (events[bad.index].partition, bad.reason)).collect();
        let last: BTreeMap<i32, &Event> = events.iter().map(|event| (event.partition, event)).collect();
        let tails = last.into_iter().map(|(partition, event)| (partition, Tail::of(event))).collect();
        let hashers: BTreeMap<i32, &Hasher> = spans.keys().map(|at| (*at, &self.hashers[&(family, *at)])).collect();
        let mut leaves = Leaves::default();
        events.iter().for_each(|event| leaves.event(hashers[&event.partition], event));
        let leaves = events.iter().map(|event| event.partition).zip(leaves.hashes()).collect();
        Ok(Piece { family, rows: decoded.rows, quarantine, bad, spans, schema_ids: decoded.schema_ids, leaves, tails })
    }
}
