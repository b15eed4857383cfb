//! Where a replayed record stood first, told by its headers `tape-origin-*`: a reader of the copy learns when the origin's log knew it. Pure.
//!
//! A record whose origin headers are not whole (one is missing, there twice, or no such number) is taken as it stands.

use crate::Event;
use bytes::Bytes;
use schemas::record::{Headers, TimestampType};

const TOPIC: &str = "tape-origin-topic";
const TOPIC_ID: &str = "tape-origin-topic-id";
const PARTITION: &str = "tape-origin-partition";
const OFFSET: &str = "tape-origin-offset";
const TS: &str = "tape-origin-ts";
const TS_TYPE: &str = "tape-origin-ts-type";

/// Where a record stood before it was replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Topic name with its prefix.
    pub topic: String,
    /// Id of the topic.
    pub topic_id: String,
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// Milliseconds since 1970 UTC: when the origin's log knew it.
    pub ts_ms: i64,
    /// Who set `ts_ms`.
    pub ts_type: TimestampType,
}

impl Origin {
    /// As headers: numbers as decimal text; `tape-origin-ts-type` (`create` or `none`) only where the broker did not set the time.
    pub fn headers(&self) -> Headers {
        let text = |name: &str, value: String| (name.to_string(), Some(Bytes::from(value)));
        let mut headers = vec![
            text(TOPIC, self.topic.clone()),
            text(TOPIC_ID, self.topic_id.clone()),
            text(PARTITION, self.partition.to_string()),
            text(OFFSET, self.offset.to_string()),
            text(TS, self.ts_ms.to_string()),
        ];
        match self.ts_type {
            TimestampType::LogAppend => {}
            TimestampType::Create => headers.push(text(TS_TYPE, "create".into())),
            TimestampType::None => headers.push(text(TS_TYPE, "none".into())),
        }
        headers
    }

    /// What a record's headers say; `None` where it was not replayed, or where they are not whole.
    pub fn of(headers: &[(String, Option<Bytes>)]) -> Option<Origin> {
        let ts_type = match one(headers, TS_TYPE)? {
            None => TimestampType::LogAppend,
            Some("create") => TimestampType::Create,
            Some("none") => TimestampType::None,
            Some(_) => return None,
        };
        Some(Origin {
            topic: one(headers, TOPIC)??.to_string(),
            topic_id: one(headers, TOPIC_ID)??.to_string(),
            partition: number(one(headers, PARTITION)??)?.try_into().ok()?,
            offset: number(one(headers, OFFSET)??)?,
            ts_ms: number(one(headers, TS)??)?,
            ts_type,
        })
    }
}

/// Do the headers say when the origin's log knew the record, be they whole or not?
pub(crate) fn is_told(headers: &[(String, Option<Bytes>)]) -> bool {
    headers.iter().any(|(name, _)| name == TS)
}

/// Gives an event that was replayed the time that it had at its origin.
pub(crate) fn restore_time(event: &mut Event) {
    if let Some(origin) = Origin::of(&event.headers) {
        (event.ts_ms, event.ts_type) = (origin.ts_ms, origin.ts_type);
    }
}

/// The text of a header: `None` where it is there twice or is no text, `Some(None)` where it is not there.
fn one<'a>(headers: &'a [(String, Option<Bytes>)], name: &str) -> Option<Option<&'a str>> {
    let mut named = headers.iter().filter(|(header, _)| header == name);
    match (named.next(), named.next()) {
        (None, _) => Some(None),
        (Some((_, Some(value))), None) => std::str::from_utf8(value).ok().map(Some),
        _ => None,
    }
}

/// A number as we write it: one spelling only, so that what was read is what would be written.
fn number(text: &str) -> Option<i64> {
    text.parse().ok().filter(|number: &i64| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn origin(partition: i32, offset: i64, ts_ms: i64, ts_type: TimestampType) -> Origin {
        Origin { topic: "tape.trades".into(), topic_id: "x".into(), partition, offset, ts_ms, ts_type }
    }

    proptest! {
        #[test]
        fn what_was_told_is_read(partition in 0i32.., offset in 0i64.., ts_ms: i64, kind in 0usize..3, foreign in 0usize..3) {
            let ts_type = [TimestampType::LogAppend, TimestampType::Create, TimestampType::None][kind];
            let origin = origin(partition, offset, ts_ms, ts_type);
            let mut headers = origin.headers();
            headers.insert(foreign, ("trace".into(), None));
            prop_assert_eq!(Origin::of(&headers), Some(origin));
        }

        #[test]
        fn no_header_panics(headers in proptest::collection::vec((0usize..7, proptest::option::of(proptest::collection::vec(any::<u8>(), 0..4))), 0..9)) {
            let names = [TOPIC, TOPIC_ID, PARTITION, OFFSET, TS, TS_TYPE, "other"];
            let headers: Headers = headers.into_iter().map(|(name, value)| (names[name].into(), value.map(Bytes::from))).collect();
            let _ = Origin::of(&headers);
        }
    }

    #[test]
    fn headers_that_are_not_whole_say_nothing() {
        let whole = origin(3, 12, 1_764_000_000_000, TimestampType::Create).headers();
        for at in 0..whole.len() - 1 {
            let missing: Headers = whole.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, header)| header.clone()).collect();
            assert_eq!(Origin::of(&missing), None, "without {}", whole[at].0);
            let mut twice = whole.clone();
            twice.push(whole[at].clone());
            assert_eq!(Origin::of(&twice), None, "{} twice", whole[at].0);
        }
        for (at, value) in [(2, "03"), (2, "4294967296"), (3, "+1"), (4, "now"), (5, "creat")] {
            let mut wrong = whole.clone();
            wrong[at].1 = Some(Bytes::from(value));
            assert_eq!(Origin::of(&wrong), None, "{} is {value}", whole[at].0);
        }
        assert_eq!(Origin::of(&[]), None);
    }
}
