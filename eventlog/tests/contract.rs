//! What every home of the log promises, told once and tried on all three: embedded, through the socket, and on a real Apache Kafka.
//!
//! The broker is that of `TAPE_TEST_KAFKA`, else one that `scripts/kafka.sh` starts; with neither the Kafka tests say "skipped", or fail
//! where `TAPE_REQUIRE_KAFKA` is set.

#[path = "contract/crash.rs"]
mod crash;
#[path = "contract/damage.rs"]
mod damage;
#[cfg(target_os = "linux")]
#[path = "contract/disk.rs"]
mod disk;
#[path = "contract/embedded_only.rs"]
mod embedded_only;
#[path = "contract/homes.rs"]
mod homes;
#[path = "contract/kafka_only.rs"]
mod kafka_only;
#[cfg(target_os = "linux")]
#[path = "contract/power.rs"]
mod power;

use bytes::Bytes;
use eventlog::{Batch, Error, Event, EventLog, Records, Start, State, StateTopic, TimestampType, Watermarks, Whole, murmur2};
use homes::{DEADLINE, Home, Kind, from_start, poll_until, read_all};
use schemas::Family;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

macro_rules! on_every_home {
    ($($story:ident),* $(,)?) => {
        mod embedded { $(#[test] fn $story() { super::$story(super::Home::new(super::Kind::Embedded).unwrap()); })* }
        mod socket { $(#[test] fn $story() { super::$story(super::Home::new(super::Kind::Socket).unwrap()); })* }
        mod kafka { $(#[test] fn $story() { super::Home::new(super::Kind::Kafka).map(super::$story); })* }
    };
}

on_every_home![
    what_is_published_is_read_in_order_with_offsets_and_the_logs_clock,
    states_change_with_their_records_and_end_with_none,
    reading_resumes_at_every_offset_of_a_batch,
    a_second_writer_fences_the_first,
    an_end_is_reported_once_and_again_after_more,
    the_largest_record_passes_and_a_larger_one_leaves_nothing,
    keys_and_values_may_be_empty,
    a_replayed_record_keeps_partition_nulls_and_headers,
    all_is_there_after_reopening,
    writers_at_a_time_lose_and_double_nothing,
    a_waiting_reader_wakes_on_publish,
    an_offset_beyond_the_end_is_an_error,
    few_events_at_a_time_starve_no_partition,
    topics_are_reported_fit_and_have_ids,
];

fn records(family: Family, pairs: &[(&str, &str)]) -> Records {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Records {
        family,
        keys: pairs.iter().map(|(key, _)| bytes(key)).collect(),
        values: pairs.iter().map(|(_, value)| bytes(value)).collect(),
    }
}

fn state(topic: StateTopic, key: &str, value: Option<&str>) -> State {
    State { topic, key: key.to_string(), value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())) }
}

fn publish(log: &dyn EventLog, id: &str, records: Vec<Records>, states: Vec<State>) {
    log.writer(id).unwrap().publish(&Batch { records, states, ..Batch::default() }).unwrap();
}

fn text(bytes: &Option<Bytes>) -> &str {
    std::str::from_utf8(bytes.as_ref().unwrap()).unwrap()
}

fn numbered(family: Family, numbers: std::ops::Range<usize>) -> Records {
    let pairs: Vec<(String, String)> = numbers.map(|n| (format!("d/{}", n % 5), format!("{n}"))).collect();
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    records(family, &pairs)
}

fn what_is_published_is_read_in_order_with_offsets_and_the_logs_clock(home: Home) {
    let log = home.log();
    let before = now_ms();
    publish(log, "a", vec![numbered(Family::Trades, 0..100), numbered(Family::Status, 0..10)], Vec::new());
    publish(log, "a", vec![numbered(Family::Trades, 100..200)], Vec::new());
    let trades = read_all(log, &from_start(log, Family::Trades));
    let mut numbers: Vec<usize> = trades.iter().map(|event| text(&event.value).parse().unwrap()).collect();
    for event in &trades {
        assert_eq!(event.partition, murmur2::partition(text(&event.key).as_bytes(), 8), "partition of {}", text(&event.key));
        assert_eq!((event.family, event.ts_type), (Family::Trades, TimestampType::LogAppend));
        assert!((before - 1000..=now_ms() + 1000).contains(&event.ts_ms), "{} is not now", event.ts_ms);
        assert!(event.headers.is_empty());
    }
    for (partition, events) in by_partition(&trades) {
        assert!(events.is_sorted_by(|a, b| a.offset < b.offset), "offsets of partition {partition}");
        assert!(events.is_sorted_by_key(|event| event.ts_ms), "times of partition {partition}");
        assert!(events.is_sorted_by_key(|event| text(&event.value).parse::<usize>().unwrap()), "order of partition {partition}");
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    assert_eq!(read_all(log, &from_start(log, Family::Status)).len(), 10);
}

fn states_change_with_their_records_and_end_with_none(home: Home) {
    let log = home.log();
    assert!(log.states(StateTopic::Positions).unwrap().is_empty());
    let states = vec![state(StateTopic::Positions, "s/1", Some("10")), state(StateTopic::State, "s/1", Some("x"))];
    publish(log, "a", vec![numbered(Family::Status, 0..1)], states);
    let states = vec![state(StateTopic::Positions, "s/2", Some("")), state(StateTopic::Positions, "s/3", Some("3"))];
    publish(log, "a", Vec::new(), states);
    publish(log, "a", Vec::new(), vec![state(StateTopic::Positions, "s/1", Some("11")), state(StateTopic::Positions, "s/3", None)]);
    let positions: BTreeMap<String, Bytes> = log.states(StateTopic::Positions).unwrap().into_iter().collect();
    assert_eq!(positions, BTreeMap::from([("s/1".to_string(), Bytes::from("11")), ("s/2".to_string(), Bytes::new())]));
    assert_eq!(log.states(StateTopic::State).unwrap()["s/1"], Bytes::from("x"));
}

fn reading_resumes_at_every_offset_of_a_batch(home: Home) {
    let log = home.log();
    publish(log, "a", vec![numbered(Family::Status, 0..7)], Vec::new());
    publish(log, "a", vec![numbered(Family::Status, 7..12)], Vec::new());
    let all = read_all(log, &from_start(log, Family::Status));
    assert_eq!(all.len(), 12);
    for (at, event) in all.iter().enumerate() {
        let rest = read_all(log, &[Start { family: Family::Status, partition: 0, offset: event.offset }]);
        assert_eq!(offsets(&rest), offsets(&all[at..]));
        assert_eq!(rest[0].value, event.value);
    }
}

fn a_second_writer_fences_the_first(home: Home) {
    let log = home.log();
    let batch = |n: usize| Batch { records: vec![numbered(Family::Status, n..n + 1)], ..Batch::default() };
    let mut first = log.writer("same").unwrap();
    first.publish(&batch(0)).unwrap();
    let mut other = log.writer("other").unwrap();
    let mut second = log.writer("same").unwrap();
    let error = first.publish(&batch(1)).unwrap_err();
    assert!(matches!(&error, Error::Fenced { id } if id == "same"), "{error}");
    assert!(first.publish(&batch(2)).is_err(), "a writer that failed once refuses to go on");
    second.publish(&batch(3)).unwrap();
    other.publish(&batch(4)).unwrap();
    let values: Vec<String> = read_all(log, &from_start(log, Family::Status)).iter().map(|event| text(&event.value).to_string()).collect();
    assert_eq!(values, ["0", "3", "4"]);
}

fn an_end_is_reported_once_and_again_after_more(home: Home) {
    let log = home.log();
    let status = (Family::Status, 0);
    let mut reader = log.reader(&from_start(log, Family::Status)).unwrap();
    let empty = poll_until(reader.as_mut(), |polled| !polled.at_end.is_empty());
    assert_eq!((empty.events.len(), empty.at_end), (0, vec![status]));
    for n in 0..3 {
        publish(log, "a", vec![numbered(Family::Status, n..n + 1)], Vec::new());
        let more = poll_until(reader.as_mut(), |polled| polled.at_end.contains(&status));
        assert_eq!(more.events.iter().map(|event| text(&event.value)).collect::<Vec<_>>(), [n.to_string()]);
    }
    let quiet = reader.poll(Duration::from_millis(300), 10).unwrap();
    assert_eq!((quiet.events.len(), quiet.at_end.len()), (0, 0));
    // A reader that begins at the end, behind the last record and what a home may have written after it, is at the end at once.
    let high = log.watermarks(Family::Status).unwrap()[0].high;
    let mut late = log.reader(&[Start { family: Family::Status, partition: 0, offset: high }]).unwrap();
    assert_eq!(poll_until(late.as_mut(), |polled| !polled.at_end.is_empty()).events.len(), 0);
}

fn the_largest_record_passes_and_a_larger_one_leaves_nothing(home: Home) {
    let log = home.log();
    let big = |family: Family, bytes: usize| Batch {
        records: vec![numbered(Family::Status, 0..1), Records { family, keys: vec![Bytes::from("k")], values: vec![noise(bytes)] }],
        states: vec![state(StateTopic::Positions, "p", Some("1"))],
        ..Batch::default()
    };
    for family in [Family::Bars, Family::Documents] {
        let largest = family.topic().max_message_bytes - eventlog::RECORD_OVERHEAD_BYTES - 1;
        let error = log.writer("a").unwrap().publish(&big(family, largest + 1)).unwrap_err();
        assert!(matches!(&error, Error::TooLarge { max, .. } if *max == family.topic().max_message_bytes), "{error}");
        assert!(read_all(log, &from_start(log, family)).is_empty());
    }
    assert!(read_all(log, &from_start(log, Family::Status)).is_empty());
    assert!(log.states(StateTopic::Positions).unwrap().is_empty());
    for family in [Family::Bars, Family::Documents] {
        let largest = family.topic().max_message_bytes - eventlog::RECORD_OVERHEAD_BYTES - 1;
        log.writer("a").unwrap().publish(&big(family, largest)).unwrap();
        let read = read_all(log, &from_start(log, family));
        assert_eq!(read.len(), 1);
        assert!(read[0].value == Some(noise(largest)), "{} bytes came back altered", largest);
    }
}

fn keys_and_values_may_be_empty(home: Home) {
    let log = home.log();
    publish(log, "a", vec![records(Family::Trades, &[("", ""), ("", "v"), ("k", "")])], Vec::new());
    let mut read: Vec<(i32, Option<Bytes>, Option<Bytes>)> =
        read_all(log, &from_start(log, Family::Trades)).into_iter().map(|event| (event.partition, event.key, event.value)).collect();
    read.sort();
    let some = |text: &'static str| Some(Bytes::from(text));
    let empty = murmur2::partition(b"", 8);
    let mut wanted = vec![(empty, some(""), some("")), (empty, some(""), some("v")), (murmur2::partition(b"k", 8), some("k"), some(""))];
    wanted.sort();
    assert_eq!(read, wanted);
    log.writer("a").unwrap().publish(&Batch::default()).unwrap();
}

fn a_replayed_record_keeps_partition_nulls_and_headers(home: Home) {
    let log = home.log();
    let bytes = |text: &'static str| Some(Bytes::from(text));
    let headers = vec![("a".to_string(), bytes("x")), ("a".to_string(), None), (String::new(), bytes(""))];
    let wholes = vec![
        Whole { partition: 5, key: None, value: bytes("v"), headers: headers.clone() },
        Whole { partition: 2, key: bytes("k"), value: None, headers: vec![] },
        Whole { partition: 5, key: bytes(""), value: bytes(""), headers: vec![] },
    ];
    let batch = Batch {
        records: vec![records(Family::Trades, &[("d/1", "plain")])],
        wholes: vec![(Family::Trades, wholes.clone()), (Family::Status, vec![Whole { partition: 0, ..wholes[0].clone() }])],
        states: vec![state(StateTopic::State, "replay/1", Some("3"))],
    };
    let before = now_ms();
    log.writer("replay").unwrap().publish(&batch).unwrap();
    let read = read_all(log, &from_start(log, Family::Trades));
    assert_eq!(read.len(), 4);
    let mut replayed =
        by_partition(&read.into_iter().filter(|event| text(&event.value.clone().or(bytes("null"))) != "plain").collect::<Vec<_>>());
    for (partition, of) in [(5, vec![0, 2]), (2, vec![1])] {
        let events = replayed.remove(&partition).unwrap();
        let expected: Vec<_> =
            of.iter().map(|at: &usize| (wholes[*at].key.clone(), wholes[*at].value.clone(), wholes[*at].headers.clone())).collect();
        assert_eq!(
            events.iter().map(|event| (event.key.clone(), event.value.clone(), event.headers.clone())).collect::<Vec<_>>(),
            expected
        );
        assert!(events.iter().all(|event| event.ts_type == TimestampType::LogAppend && event.ts_ms >= before - 1000), "the log's own time");
    }
    assert_eq!(read_all(log, &from_start(log, Family::Status))[0].headers, headers);
    assert_eq!(log.states(StateTopic::State).unwrap()["replay/1"], Bytes::from("3"));
}

fn all_is_there_after_reopening(mut home: Home) {
    publish(home.log(), "a", vec![numbered(Family::Trades, 0..50)], vec![state(StateTopic::Positions, "p", Some("50"))]);
    let before = read_all(home.log(), &from_start(home.log(), Family::Trades));
    let ids = |home: &Home| (home.log().cluster_id().unwrap(), home.log().topic(Family::Trades).unwrap());
    let known = ids(&home);
    home.reopen();
    assert_eq!(ids(&home), known);
    assert_eq!(home.log().states(StateTopic::Positions).unwrap()["p"], Bytes::from("50"));
    publish(home.log(), "a", vec![numbered(Family::Trades, 50..60)], Vec::new());
    let after = read_all(home.log(), &from_start(home.log(), Family::Trades));
    assert_eq!(after.len(), 60);
    for (partition, events) in by_partition(&before) {
        let again = &by_partition(&after)[&partition][..events.len()];
        assert_eq!(format!("{again:?}"), format!("{events:?}"), "partition {partition} is as it was");
    }
}

fn writers_at_a_time_lose_and_double_nothing(home: Home) {
    const WRITERS: usize = 4;
    const BATCHES: usize = 20;
    let log = home.log();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                let mut own = log.writer(&format!("w{writer}")).unwrap();
                for n in 0..BATCHES {
                    let numbers = (writer * BATCHES + n) * 10;
                    let states = vec![state(StateTopic::Positions, &format!("w{writer}"), Some(&n.to_string()))];
                    own.publish(&Batch { records: vec![numbered(Family::Trades, numbers..numbers + 10)], states, ..Batch::default() })
                        .unwrap();
                }
            });
        }
        let mut reader = log.reader(&from_start(log, Family::Trades)).unwrap();
        let all = poll_until(reader.as_mut(), |polled| polled.events.len() >= WRITERS * BATCHES * 10).events;
        let mut numbers: Vec<usize> = all.iter().map(|event| text(&event.value).parse().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..WRITERS * BATCHES * 10).collect::<Vec<_>>());
    });
    let positions = log.states(StateTopic::Positions).unwrap();
    assert!((0..WRITERS).all(|writer| positions[&format!("w{writer}")] == (BATCHES - 1).to_string()));
}

fn a_waiting_reader_wakes_on_publish(home: Home) {
    let log = home.log();
    let mut reader = log.reader(&from_start(log, Family::Status)).unwrap();
    poll_until(reader.as_mut(), |polled| !polled.at_end.is_empty());
    let mut writer = log.writer("a").unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let polled = reader.poll(DEADLINE, 10).unwrap();
            (polled.events.len(), Instant::now())
        });
        std::thread::sleep(Duration::from_millis(200));
        let began = Instant::now();
        writer.publish(&Batch { records: vec![numbered(Family::Status, 0..1)], ..Batch::default() }).unwrap();
        let (events, woken) = waiting.join().unwrap();
        assert_eq!(events, 1);
        assert!(woken.saturating_duration_since(began) < Duration::from_secs(20), "it slept on after the publish");
    });
}

fn an_offset_beyond_the_end_is_an_error(home: Home) {
    let log = home.log();
    publish(log, "a", vec![numbered(Family::Status, 0..1)], Vec::new());
    let start = Start { family: Family::Status, partition: 0, offset: 1000 };
    let error = first_error(log, &start);
    assert!(matches!(&error, Error::Failed { why, .. } if why.contains("the log ends at")), "{error}");
    let error = first_error(log, &Start { partition: 1, ..start });
    assert!(error.to_string().contains("no partition 1"), "{error}");
}

fn few_events_at_a_time_starve_no_partition(home: Home) {
    let log = home.log();
    publish(log, "a", vec![numbered(Family::Trades, 0..100), numbered(Family::Status, 0..100)], Vec::new());
    let starts = [from_start(log, Family::Trades), from_start(log, Family::Status)].concat();
    let mut reader = log.reader(&starts).unwrap();
    let began = Instant::now();
    let mut read = 0;
    let mut ended = Vec::new();
    while ended.len() < starts.len() {
        assert!(began.elapsed() < DEADLINE);
        let polled = reader.poll(Duration::from_secs(1), 3).unwrap();
        assert!(polled.events.len() <= 3);
        read += polled.events.len();
        ended.extend(polled.at_end);
        ended.sort_unstable();
        ended.dedup();
    }
    assert_eq!(read, 200);
}

fn topics_are_reported_fit_and_have_ids(home: Home) {
    let log = home.log();
    let reports = log.check_topics().unwrap();
    assert_eq!(reports.len(), Family::ALL.len() + StateTopic::ALL.len());
    assert!(reports.iter().all(|report| report.problems.is_empty() && !report.created), "{reports:?}");
    let trades = log.topic(Family::Trades).unwrap();
    assert_eq!((trades.name.as_str(), trades.partitions), (format!("{}trades", home.prefix).as_str(), 8));
    assert!(trades.id.len() > 20 && trades.id != log.topic(Family::Quotes).unwrap().id, "{trades:?}");
    assert!(!log.cluster_id().unwrap().is_empty() && !log.describe().is_empty());
    assert_eq!(log.watermarks(Family::Trades).unwrap(), vec![Watermarks { low: 0, high: 0 }; 8]);
    publish(log, "a", vec![numbered(Family::Status, 0..10)], Vec::new());
    let status = log.watermarks(Family::Status).unwrap()[0];
    assert!(status.low == 0 && (10..=11).contains(&status.high), "{status:?}");
    log.stored(Family::Status, 0, 10).unwrap();
}

/// What a reader from `start` says, when it is made or when it is first polled.
fn first_error(log: &dyn EventLog, start: &Start) -> Error {
    let mut reader = match log.reader(&[*start]) {
        Ok(reader) => reader,
        Err(e) => return e,
    };
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < DEADLINE, "no error came");
        match reader.poll(Duration::from_secs(1), 10) {
            Ok(polled) => assert!(polled.events.is_empty(), "it jumped to offset {}", polled.events[0].offset),
            Err(e) => return e,
        }
    }
}

fn by_partition(events: &[Event]) -> BTreeMap<i32, Vec<Event>> {
    let mut partitions: BTreeMap<i32, Vec<Event>> = BTreeMap::new();
    events.iter().for_each(|event| partitions.entry(event.partition).or_default().push(event.clone()));
    partitions
}

fn offsets(events: &[Event]) -> Vec<i64> {
    events.iter().map(|event| event.offset).collect()
}

fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64
}

/// Bytes that no compression makes smaller.
fn noise(bytes: usize) -> Bytes {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        noise.extend_from_slice(&seed.to_le_bytes());
    }
    noise.truncate(bytes);
    Bytes::from(noise)
}
