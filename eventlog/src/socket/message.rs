//! The socket's messages: bounded, versioned, and either understood wholly or refused.

use super::unreachable;
use crate::codec::{Broken, put_bytes, put_headers, put_varint, take_bytes, take_headers, take_varint};
use crate::{Batch, Error, Event, Polled, Records, Start, State, StateTopic, TimestampType, TopicInfo, TopicReport, Watermarks, Whole};
use bytes::Bytes;
use schemas::Family;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Both sides speak the same version, or not at all.
const VERSION: u32 = 2;
/// First bytes of either side, in every version.
const MAGIC: &[u8; 8] = b"tapelog\0";
/// Largest message: a poll brings at most 32 MiB and one record, a publish what one transaction may hold.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// Largest JSON part.
const HEAD_BYTES_MAX: usize = 16 << 20;

/// What a client asks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    ClusterId,
    CreateTopics,
    CheckTopics,
    Topic(String),
    States(StateTopic),
    Watermarks(String),
    Stored(At),
    OpenWriter(String),
    /// Family and number of records of each run, the same of replayed records, and whose states; the rest is in the payload.
    Publish {
        records: Vec<(String, usize)>,
        wholes: Vec<(String, usize)>,
        states: Vec<(StateTopic, String)>,
    },
    OpenReader(Vec<At>),
    Poll {
        wait_ms: u64,
        events_max: usize,
    },
}

/// What the owner answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Welcome {
        describe: String,
    },
    Refused(Error),
    Done,
    Text(String),
    Reports(Vec<TopicReport>),
    Topic(TopicInfo),
    Watermarks(Vec<Watermarks>),
    /// Family, partition and number of events of each run; the events are in the payload.
    Polled {
        runs: Vec<(String, i32, usize)>,
        at_end: Vec<(String, i32)>,
    },
}

/// A place in the log.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct At {
    pub family: String,
    pub partition: i32,
    pub offset: i64,
}

impl At {
    pub(super) fn of(start: &Start) -> At {
        At { family: start.family.topic().name.to_string(), partition: start.partition, offset: start.offset }
    }

    pub(super) fn start(&self) -> Result<Start, Error> {
        Ok(Start { family: family(&self.family)?, partition: self.partition, offset: self.offset })
    }
}

/// The family of a name that came through the socket.
pub(super) fn family(name: &str) -> Result<Family, Error> {
    Family::named(name).ok_or_else(|| not_understood(&format!("there is no family {name}")))
}

fn not_understood(why: &str) -> Error {
    Error::Failed {
        doing: "reading a message of the log's socket".to_string(),
        why: format!("{why}: use the same tokentape on both sides"),
    }
}

/// Why a channel is of no use any more.
#[derive(Debug)]
pub(super) enum Fault {
    Io(std::io::Error),
    Version(u32),
    Stranger,
    TooLong(usize),
    Broken(String),
}

impl Fault {
    /// As an error of the client's.
    pub(super) fn during(self, doing: &str, path: &Path) -> Error {
        let failed = |why: String| Error::Failed { doing: format!("{doing} at the log's socket {}", path.display()), why };
        match self {
            Fault::Io(e) => unreachable(doing, path, &e.to_string()),
            Fault::Version(version) => failed(format!(
                "its owner speaks version {version} of the protocol, this tokentape {VERSION}: use the same release for both"
            )),
            Fault::Stranger => failed("whoever listens there is not tokentape: remove the file, or end that process".to_string()),
            Fault::TooLong(bytes) => failed(format!("a message has {bytes} bytes, more than {MESSAGE_BYTES_MAX}: publish smaller batches")),
            Fault::Broken(why) => failed(format!("a message was not understood ({why}): use the same tokentape on both sides")),
        }
    }
}

impl From<std::io::Error> for Fault {
    fn from(e: std::io::Error) -> Fault {
        Fault::Io(e)
    }
}

impl From<Broken> for Fault {
    fn from(broken: Broken) -> Fault {
        Fault::Broken(broken.0.to_string())
    }
}

/// One side of a connection after the handshake.
pub(super) struct Channel {
    reader: BufReader<UnixStream>,
    writer: BufWriter<UnixStream>,
}

impl Channel {
    /// The owner's side: hears the version first, then says its own, so that an older client can tell what is wrong.
    pub(super) fn accept(stream: UnixStream) -> Result<Channel, Fault> {
        let mut channel = Channel::new(stream)?;
        let heard = channel.hear();
        channel.greet()?;
        heard.map(|()| channel)
    }

    /// The client's side.
    pub(super) fn connect(stream: UnixStream) -> Result<Channel, Fault> {
        let mut channel = Channel::new(stream)?;
        channel.greet()?;
        channel.hear()?;
        Ok(channel)
    }

    fn new(stream: UnixStream) -> Result<Channel, Fault> {
        Ok(Channel { writer: BufWriter::with_capacity(64 << 10, stream.try_clone()?), reader: BufReader::with_capacity(64 << 10, stream) })
    }

    fn greet(&mut self) -> Result<(), Fault> {
        self.writer.write_all(MAGIC)?;
        self.writer.write_all(&VERSION.to_be_bytes())?;
        Ok(self.writer.flush()?)
    }

    fn hear(&mut self) -> Result<(), Fault> {
        let (mut magic, mut version) = ([0; 8], [0; 4]);
        self.reader.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(Fault::Stranger);
        }
        self.reader.read_exact(&mut version)?;
        match u32::from_be_bytes(version) {
            VERSION => Ok(()),
            other => Err(Fault::Version(other)),
        }
    }

    /// Sends `head` as JSON with `payload` behind it.
    pub(super) fn send(&mut self, head: &impl Serialize, payload: &[u8]) -> Result<(), Fault> {
        let head = serde_json::to_vec(head).map_err(|e| Fault::Broken(e.to_string()))?;
        let bytes = head.len() + payload.len() + 4;
        if bytes > MESSAGE_BYTES_MAX || head.len() > HEAD_BYTES_MAX {
            return Err(Fault::TooLong(bytes));
        }
        self.writer.write_all(&(bytes as u32).to_be_bytes())?;
        self.writer.write_all(&(head.len() as u32).to_be_bytes())?;
        self.writer.write_all(&head)?;
        self.writer.write_all(payload)?;
        Ok(self.writer.flush()?)
    }

    /// Waits for a message.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> Result<(T, Bytes), Fault> {
        let mut number = [0; 4];
        self.reader.read_exact(&mut number)?;
        let bytes = u32::from_be_bytes(number) as usize;
        self.reader.read_exact(&mut number)?;
        let head_bytes = u32::from_be_bytes(number) as usize;
        if bytes > MESSAGE_BYTES_MAX || head_bytes > HEAD_BYTES_MAX {
            return Err(Fault::TooLong(bytes.max(head_bytes)));
        }
        let Some(payload_bytes) = bytes.checked_sub(head_bytes + 4) else { return Err(Fault::Broken("its lengths disagree".to_string())) };
        let head = self.take(head_bytes)?;
        let head = serde_json::from_slice(&head).map_err(|e| Fault::Broken(e.to_string()))?;
        Ok((head, Bytes::from(self.take(payload_bytes)?)))
    }

    /// Reads what a length announced; memory grows with what really comes, not with what was announced.
    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, Fault> {
        let mut taken = Vec::with_capacity(bytes.min(1 << 20));
        self.reader.by_ref().take(bytes as u64).read_to_end(&mut taken)?;
        if taken.len() < bytes {
            return Err(Fault::Io(std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(taken)
    }
}

// ── payloads ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

pub(super) fn encode_batch(batch: &Batch) -> (Question, Vec<u8>) {
    let mut payload = Vec::new();
    let mut runs = Vec::with_capacity(batch.records.len());
    for records in &batch.records {
        runs.push((records.family.topic().name.to_string(), records.values.len()));
        for (key, value) in records.keys.iter().zip(&records.values) {
            put_bytes(&mut payload, Some(key));
            put_bytes(&mut payload, Some(value));
        }
    }
    let mut wholes = Vec::with_capacity(batch.wholes.len());
    for (family, records) in &batch.wholes {
        wholes.push((family.topic().name.to_string(), records.len()));
        for whole in records {
            put_varint(&mut payload, u64::from(whole.partition.cast_unsigned()));
            put_bytes(&mut payload, whole.key.as_deref());
            put_bytes(&mut payload, whole.value.as_deref());
            put_headers(&mut payload, &whole.headers);
        }
    }
    batch.states.iter().for_each(|state| put_bytes(&mut payload, state.value.as_deref()));
    let states = batch.states.iter().map(|state| (state.topic, state.key.clone())).collect();
    (Question::Publish { records: runs, wholes, states }, payload)
}

pub(super) fn decode_batch(
    runs: &[(String, usize)],
    wholes: &[(String, usize)],
    states: &[(StateTopic, String)],
    payload: Bytes,
) -> Result<Batch, Error> {
    let mut payload = payload;
    let broken = |broken: Broken| not_understood(broken.0);
    let mut batch = Batch::default();
    for (name, count) in runs {
        let mut records = Records { family: family(name)?, keys: Vec::new(), values: Vec::new() };
        for _ in 0..*count {
            records.keys.push(take_bytes(&mut payload).map_err(broken)?.unwrap_or_default());
            records.values.push(take_bytes(&mut payload).map_err(broken)?.unwrap_or_default());
        }
        batch.records.push(records);
    }
    for (name, count) in wholes {
        let records = (0..*count).map(|_| take_whole(&mut payload)).collect::<Result<_, _>>().map_err(broken)?;
        batch.wholes.push((family(name)?, records));
    }
    for (topic, key) in states {
        let value = take_bytes(&mut payload).map_err(broken)?;
        batch.states.push(State { topic: *topic, key: key.clone(), value });
    }
    Ok(batch)
}

fn take_whole(payload: &mut Bytes) -> Result<Whole, Broken> {
    let partition = u32::try_from(take_varint(payload)?).map_err(|_| Broken("a partition has more than 32 bits"))?.cast_signed();
    Ok(Whole { partition, key: take_bytes(payload)?, value: take_bytes(payload)?, headers: take_headers(payload)? })
}

pub(super) fn encode_states(states: &HashMap<String, Bytes>) -> Vec<u8> {
    let mut payload = Vec::new();
    for (key, value) in states {
        put_bytes(&mut payload, Some(key.as_bytes()));
        put_bytes(&mut payload, Some(value));
    }
    payload
}

pub(super) fn decode_states(mut payload: Bytes) -> Result<HashMap<String, Bytes>, Fault> {
    let mut states = HashMap::new();
    while !payload.is_empty() {
        let key = take_bytes(&mut payload)?.unwrap_or_default();
        let key = String::from_utf8(key.to_vec()).map_err(|e| Fault::Broken(e.to_string()))?;
        states.insert(key, take_bytes(&mut payload)?.unwrap_or_default());
    }
    Ok(states)
}

pub(super) fn encode_polled(polled: &Polled) -> (Answer, Vec<u8>) {
    let mut payload = Vec::new();
    let mut runs: Vec<(String, i32, usize)> = Vec::new();
    for run in polled.events.chunk_by(|a, b| (a.family, a.partition) == (b.family, b.partition)) {
        runs.push((run[0].family.topic().name.to_string(), run[0].partition, run.len()));
        run.iter().for_each(|event| put_event(&mut payload, event));
    }
    let at_end = polled.at_end.iter().map(|(family, partition)| (family.topic().name.to_string(), *partition)).collect();
    (Answer::Polled { runs, at_end }, payload)
}

pub(super) fn decode_polled(runs: &[(String, i32, usize)], at_end: &[(String, i32)], payload: Bytes) -> Result<Polled, Error> {
    let mut payload = payload;
    let mut polled = Polled::default();
    for (name, partition, count) in runs {
        let family = family(name)?;
        for _ in 0..*count {
            polled.events.push(take_event(&mut payload, family, *partition).map_err(|broken| not_understood(broken.0))?);
        }
    }
    for (name, partition) in at_end {
        polled.at_end.push((family(name)?, *partition));
    }
    Ok(polled)
}

fn put_event(payload: &mut Vec<u8>, event: &Event) {
    put_varint(payload, event.offset as u64);
    put_varint(payload, event.ts_ms as u64);
    payload.push(match event.ts_type {
        TimestampType::None => 0,
        TimestampType::Create => 1,
        TimestampType::LogAppend => 2,
    });
    put_bytes(payload, event.key.as_deref());
    put_bytes(payload, event.value.as_deref());
    put_headers(payload, &event.headers);
}

fn take_event(payload: &mut Bytes, family: Family, partition: i32) -> Result<Event, Broken> {
    let offset = take_varint(payload)? as i64;
    let ts_ms = take_varint(payload)? as i64;
    let ts_type = match take_varint(payload)? {
        0 => TimestampType::None,
        1 => TimestampType::Create,
        2 => TimestampType::LogAppend,
        _ => return Err(Broken("a timestamp is of no known type")),
    };
    let key = take_bytes(payload)?;
    let value = take_bytes(payload)?;
    let headers = take_headers(payload)?;
    Ok(Event { family, partition, offset, ts_ms, ts_type, key, value, headers })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_payload_ends_in_an_answer(bytes: Vec<u8>, count in 0usize..1000) {
            let payload = Bytes::from(bytes);
            let run = ("trades".to_string(), 0, count);
            let _ = decode_polled(&[run], &[], payload.clone());
            let (runs, states) = ([("trades".to_string(), count)], [(StateTopic::State, String::new())]);
            let _ = decode_batch(&runs, &[], &states, payload.clone());
            let _ = decode_batch(&[], &runs, &states, payload.clone());
            let _ = decode_states(payload);
        }
    }

    #[test]
    fn an_event_travels_whole() {
        let event = Event {
            family: Family::Depth,
            partition: 7,
            offset: i64::MAX,
            ts_ms: -1,
            ts_type: TimestampType::Create,
            key: None,
            value: Some(Bytes::new()),
            headers: vec![("h".to_string(), None), (String::new(), Some(Bytes::from("x")))],
        };
        let polled = Polled { events: vec![event.clone()], at_end: vec![(Family::Gaps, 0)] };
        let (Answer::Polled { runs, at_end }, payload) = encode_polled(&polled) else { panic!("it is a poll's answer") };
        let back = decode_polled(&runs, &at_end, Bytes::from(payload)).expect("it was encoded just now");
        assert_eq!(format!("{back:?}"), format!("{polled:?}"));
    }
}
