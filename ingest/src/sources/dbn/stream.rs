//! Where one DBN record ends and the next begins: a window of unpacked bytes, and the decision what stands at its beginning.

use super::layout::{HEADER_LEN, RECORD_LEN_MAX};
use super::row::Plan;
use std::io::{ErrorKind, Read};

/// How much is read at once.
const BLOCK_BYTES: usize = 1 << 20;
/// Enough to judge a record by what follows it.
const LOOKAHEAD: usize = 2 * RECORD_LEN_MAX + HEADER_LEN;

/// The bytes of a stream that are at hand.
pub(super) struct Window {
    input: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Where `start` is in the unpacked source.
    byte: u64,
    ended: bool,
    failed: Option<std::io::Error>,
}

impl Window {
    /// A window on what follows `byte`.
    pub(super) fn new(input: Box<dyn Read + Send>, byte: u64) -> Window {
        Window { input, buffer: vec![0; BLOCK_BYTES], start: 0, end: 0, byte, ended: false, failed: None }
    }

    /// What is at hand.
    #[inline]
    pub(super) fn rest(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Where it begins in the unpacked source.
    #[inline]
    pub(super) fn byte(&self) -> u64 {
        self.byte
    }

    /// True when nothing comes after what is at hand.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Why nothing more comes, where that is not the end of the source.
    pub(super) fn failed(&self) -> Option<&std::io::Error> {
        self.failed.as_ref()
    }

    /// Steps over what has been read.
    #[inline]
    pub(super) fn consume(&mut self, n: usize) {
        self.start += n;
        self.byte += n as u64;
    }

    /// Reads until at least `n` bytes are at hand, or all that ever will be.
    pub(super) fn fill(&mut self, n: usize) {
        if self.end - self.start >= n || self.ended {
            return;
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < n {
            self.buffer.resize(n, 0);
        }
        while self.end < n && !self.ended {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(read) => self.end += read,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    self.failed = Some(e);
                    self.ended = true;
                }
            }
        }
    }

    /// Reads what is needed to judge the record at the beginning.
    pub(super) fn look_ahead(&mut self) {
        self.fill(LOOKAHEAD);
    }
}

/// What stands at the beginning of the window.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Nothing: the source ends here.
    End,
    /// A record of a known type, complete.
    Record(usize),
    /// Bytes that are no record of ours, but it is known where the next one begins.
    Bad(usize, String),
    /// Bytes after which no next record can be found.
    Lost(String),
    /// A record that the source ends in; so many bytes were expected.
    CutShort(usize),
}

/// Decides what stands at the beginning of `rest`, which holds what [`Window::look_ahead`] could get; `ended` = nothing follows it.
pub(super) fn frame(rest: &[u8], ended: bool, plans: &[Option<Plan>]) -> Frame {
    if rest.is_empty() {
        return Frame::End;
    }
    let length = usize::from(rest[0]) * 4;
    if rest.len() < 2 {
        return Frame::CutShort(length.max(HEADER_LEN));
    }
    let rtype = rest[1];
    match &plans[usize::from(rtype)] {
        Some(plan) if plan.size == length => whole(rest, length),
        Some(plan) => misfit(rest, ended, length, plan, plans),
        None if length < HEADER_LEN => {
            Frame::Lost(format!("record type 0x{rtype:02x} is not known and its length {length} is shorter than any record ({HEADER_LEN})"))
        }
        None if rest.len() < length => Frame::CutShort(length),
        None => Frame::Bad(length, format!("record type 0x{rtype:02x} is not known in this DBN version")),
    }
}

fn whole(rest: &[u8], length: usize) -> Frame {
    if rest.len() < length { Frame::CutShort(length) } else { Frame::Record(length) }
}

/// Type and length contradict each other: the one after which a record follows is believed.
fn misfit(rest: &[u8], ended: bool, length: usize, plan: &Plan, plans: &[Option<Plan>]) -> Frame {
    let reason = format!("record of type {} (0x{:02x}) says it is {length} bytes long, expected are {}", plan.schema, rest[1], plan.size);
    // A whole file may hold records of another length than ours: then the next one has it too.
    let alike = rest.get(length..length + 2).is_some_and(|next| next == &rest[..2]);
    if length >= HEADER_LEN && (alike || record_follows(rest, length, ended, plans)) {
        return Frame::Bad(length, reason);
    }
    if record_follows(rest, plan.size, ended, plans) {
        return Frame::Bad(plan.size, reason);
    }
    Frame::Lost(reason)
}

/// True when a record of known type and length begins at `at`, or the source ends there.
fn record_follows(rest: &[u8], at: usize, ended: bool, plans: &[Option<Plan>]) -> bool {
    match rest.get(at..) {
        Some([]) => ended,
        Some([length, rtype, ..]) => plans[usize::from(*rtype)].as_ref().is_some_and(|plan| plan.size == usize::from(*length) * 4),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::{FileFacts, plans};
    use super::*;

    fn trades() -> Vec<Option<Plan>> {
        plans(FileFacts { version: 3, schema: Some(dbn::Schema::Trades), ts_out: false })
    }

    /// Headers of records: (length in bytes, type), each filled up to its length.
    fn records(heads: &[(usize, u8)]) -> Vec<u8> {
        heads
            .iter()
            .flat_map(|(length, rtype)| {
                let mut record = vec![0; (*length).max(2)];
                record[0] = (length / 4) as u8;
                record[1] = *rtype;
                record
            })
            .collect()
    }

    #[test]
    fn good_records_and_their_end() {
        let plans = trades();
        assert_eq!(frame(&records(&[(48, 0), (48, 0)]), true, &plans), Frame::Record(48));
        assert_eq!(frame(&[], true, &plans), Frame::End);
        assert_eq!(frame(&records(&[(48, 0)])[..47], true, &plans), Frame::CutShort(48));
        assert_eq!(frame(&[12], true, &plans), Frame::CutShort(48));
    }

    #[test]
    fn a_broken_length_costs_one_record_when_its_type_tells_where_the_next_begins() {
        let plans = trades();
        let mut bytes = records(&[(48, 0), (48, 0)]);
        for broken in [0, 3, 11, 13, 255] {
            bytes[0] = broken;
            assert!(matches!(frame(&bytes, true, &plans), Frame::Bad(48, _)), "length {broken}");
        }
    }

    #[test]
    fn a_broken_type_costs_one_record_when_its_length_tells_where_the_next_begins() {
        let plans = trades();
        let mut bytes = records(&[(48, 0), (48, 0)]);
        bytes[1] = 0xee;
        assert!(matches!(frame(&bytes, true, &plans), Frame::Bad(48, _)));
        bytes[1] = dbn::rtype::MBO;
        assert!(matches!(frame(&bytes, true, &plans), Frame::Bad(48, _)));
    }

    #[test]
    fn records_that_are_all_of_another_length_are_stepped_over_one_by_one() {
        let bytes = records(&[(56, 0), (56, 0), (56, 0)]);
        assert!(matches!(frame(&bytes, true, &trades()), Frame::Bad(56, _)));
    }

    #[test]
    fn where_nothing_tells_the_next_record_the_rest_is_lost() {
        let plans = trades();
        assert!(matches!(frame(&[0; 200], true, &plans), Frame::Lost(_)));
        assert!(matches!(frame(&[1, 0xee, 0, 0, 0, 0], true, &plans), Frame::Lost(_)));
    }
}
