//! What is said of records that wait behind a transaction which somebody left open.

use crate::settings::{LogAt, Settings};
use chrono::{DateTime, SecondsFormat};
use eventlog::Held;
use indicatif::{HumanCount, HumanDuration};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

/// A transaction that is open for longer is none of ours: those end, or are ended by the broker, within 10 s.
const OLD: Duration = Duration::from_secs(10);

/// Is it none that is just being published? Where the broker does not say since when it is open, that is not known, and it is told of.
pub fn is_old(held: &Held, now: SystemTime) -> bool {
    age(held.since_ms, now).is_none_or(|age| age > OLD)
}

/// How long ago that was; nothing where the clocks differ so much that it is to come.
pub fn age(since_ms: Option<i64>, now: SystemTime) -> Option<Duration> {
    let since = Duration::from_millis(u64::try_from(since_ms?).ok()?);
    Some(now.duration_since(SystemTime::UNIX_EPOCH + since).unwrap_or_default())
}

/// A time as the tables show it, without what no broker counts.
pub fn time(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms)
        .map_or_else(|| format!("{ms} ms since 1970"), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// What waits, and since when.
pub fn line(held: &Held, settings: &Settings, now: SystemTime) -> String {
    let topic = format!("{}{}", settings.prefix, held.family.topic().name);
    let since = match (held.since_ms, age(held.since_ms, now)) {
        (Some(ms), Some(age)) => format!("open since {} ({})", time(ms), HumanDuration(age)),
        _ => "open, the broker does not say since when".to_string(),
    };
    let offsets = match held.offsets() {
        1 => "1 offset cannot be read or stored".to_string(),
        offsets => format!("{} offsets cannot be read or stored", HumanCount(offsets)),
    };
    format!("{topic}[{}] from offset {} on: {offsets}, behind a transaction that is {since}", held.partition, held.from)
}

/// What to do about it.
pub fn advice(held: &Held, settings: &Settings) -> String {
    let Held { family, partition, from, .. } = held;
    let topic = format!("{}{}", settings.prefix, family.topic().name);
    let brokers = match &settings.log {
        LogAt::Kafka { brokers, .. } => brokers,
        LogAt::Embedded { .. } => "HOST:9092",
    };
    format!(
        "a transaction ends when its producer commits or comes again, or when the broker gives it up (within 15 minutes by default); one that stays is \
         ended, partition by partition, with Kafka's own tool: kafka-transactions.sh --bootstrap-server {brokers} abort --topic {topic} --partition {partition} \
         --start-offset {from}"
    )
}

/// The same for scripts.
pub fn json(held: &Held, settings: &Settings) -> Value {
    json!({
        "topic": format!("{}{}", settings.prefix, held.family.topic().name),
        "partition": held.partition,
        "from_offset": held.from,
        "to_offset": held.to - 1,
        "open_since": held.since_ms.map(time),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::Family;

    #[test]
    fn a_transaction_is_old_when_none_of_ours_would_be_open() {
        let at = |since_ms| Held { family: Family::Trades, partition: 0, from: 7, to: 9, since_ms };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!(
            [Some(100_000), Some(91_000), Some(89_000), Some(200_000), None].map(|ms| is_old(&at(ms), now)),
            [false, false, true, false, true]
        );
        assert_eq!(time(89_000), "1970-01-01T00:01:29.000Z");
    }
}
