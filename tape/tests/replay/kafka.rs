//! Replays to a real Kafka: everything as it was, once, however often the replay is killed; who stores the copy knows when the origin knew.

use crate::feed::{self, Random};
use crate::run::{self, Home, text};
use crate::{FAMILIES, RECORDS, done, lines, odd_home, replayed, running};
use eventlog::kafka::{Kafka, KafkaOptions};
use eventlog::origin::Origin;
use eventlog::{Event, EventLog, Start};
use schemas::Family;
use serde_json::Value;
use std::collections::HashMap;
use std::time::{Duration, Instant};

const KILLS: usize = 3;
const TRADES: u64 = 250_000;

/// The target as the flags say it, and a connection.
fn target(home: &Home, broker: &str) -> (Vec<String>, Kafka) {
    let topic = home.topic("");
    let flags = ["--to-brokers", broker, "--to-prefix", &topic].map(String::from).to_vec();
    let log = Kafka::connect(KafkaOptions { prefix: topic, ..KafkaOptions::new(broker) }).expect("the broker answers");
    (flags, log)
}

fn read(log: &Kafka, family: Family) -> Vec<Event> {
    let mut events = Vec::new();
    for (partition, watermarks) in (0..).zip(log.watermarks(family).expect("they are known")) {
        let mut reader = log.reader(&[Start { family, partition, offset: watermarks.low }]).expect("a reader");
        let began = Instant::now();
        loop {
            let polled = reader.poll(Duration::from_secs(1), 1 << 20).expect("it can be read");
            events.extend(polled.events);
            if !polled.at_end.is_empty() {
                break;
            }
            assert!(began.elapsed() < running::DEADLINE, "the end of {family:?}[{partition}] does not come");
        }
    }
    events
}

/// A line without what the copy has of its own: its place, its topic's name, and the headers that say where it stood first.
fn content(mut line: Value, prefix: &str) -> (String, Value) {
    let map = line.as_object_mut().expect("an object");
    for own in ["offset", "_headers"] {
        map.remove(own);
    }
    for topic in ["topic", "origin_topic"] {
        if let Some(name) = map.get(topic).and_then(Value::as_str).and_then(|name| name.strip_prefix(prefix)) {
            let name = Value::from(format!("tape.{name}"));
            map.insert(topic.into(), name);
        }
    }
    // What the store wrote has no schema.
    if map["table"] == "quarantine" && map["_schema"].is_null() {
        map.remove("origin_offset");
    }
    (map["topic"].to_string(), line)
}

#[test]
fn a_copy_on_kafka_is_stored_with_the_origins_time() {
    let Some(broker) = run::broker() else { return };
    let home = odd_home(&mut Random::new("a_copy_on_kafka_is_stored_with_the_origins_time"));
    done(&home, &["store", "--once"], 1);
    let copy = Home::kafka(&broker);
    let (flags, log) = target(&copy, &broker);
    let flags: Vec<&str> = ["replay"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    // 1: what retention had taken is not in the copy.
    let said = text(&done(&home, &flags, 1));
    assert!(said.contains("1,000 records to Kafka") && said.contains("were lost to retention"), "{said}");
    // Once more: all of it is there.
    let said = text(&done(&home, &flags, 1));
    assert!(said.contains("0 records to Kafka") && said.contains("1,000 were there before"), "{said}");

    let origin: HashMap<(Family, i32, i64), Event> =
        crate::events(&home.path("log")).into_iter().map(|event| ((event.family, event.partition, event.offset), event)).collect();
    for family in FAMILIES {
        let copies = read(&log, family);
        assert_eq!(copies.len(), RECORDS, "{family:?}");
        let mut last = HashMap::new();
        for copy in copies {
            let said = Origin::of(&copy.headers).expect("each says where it stood");
            let first = &origin[&(family, said.partition, said.offset)];
            assert_eq!(
                (said.topic, said.topic_id),
                (format!("tape.{}", family.topic().name), format!("kafka-{}", family.topic().schema_id))
            );
            assert_eq!((said.ts_ms, said.ts_type), (first.ts_ms, first.ts_type));
            assert_eq!((copy.partition, &copy.key, &copy.value), (first.partition, &first.key, &first.value));
            assert_eq!(copy.headers[..first.headers.len()], first.headers, "its own headers come first, as they were");
            let before = last.insert(copy.partition, said.offset);
            assert!(before < Some(said.offset), "in the order of the origin");
        }
    }

    // 1: what was no good there is none here.
    done(&copy, &["store", "--once", "--replayed"], 1);
    done(&copy, &["verify", "--against-log", "--replayed"], 0);
    // Headers alone change no time: whoever does not ask for the origin's is told, and has this log's.
    let forgotten = text(&done(&copy, &["store", "--once"], 3));
    assert!(forgotten.contains("--replayed") && forgotten.contains("is not the one that was stored"), "{forgotten}");
    let own = copy.path("own").display().to_string();
    let said = text(&done(&copy, &["store", "--once", "--tables", &own], 1));
    assert_eq!(said.matches("says that it was replayed").count(), 1, "{said}");
    let times = |tables: &[&str]| {
        let answer = done(&copy, &[&["sql", "--format", "csv", "SELECT min(_log_ts), max(_log_ts) FROM bars"], tables].concat(), 0);
        String::from_utf8(answer.stdout).expect("UTF-8").lines().nth(1).expect("a row").split(',').map(String::from).collect::<Vec<_>>()
    };
    let (origins, own) = (times(&[]), times(&["--tables", &own]));
    assert!(origins[1] < own[0], "the origin's records were there before the copy's: {origins:?}, {own:?}");
    let ours: Vec<_> =
        lines(&replayed(&home, &[])).into_iter().filter(|line| !line["offset"].is_null()).map(|line| content(line, "tape.")).collect();
    let prefix = copy.topic("");
    let theirs: Vec<_> = lines(&replayed(&copy, &[])).into_iter().map(|line| content(line, &prefix)).collect();
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    // Another replay into the same topics would double what overlaps.
    let other = text(&done(&home, &[&flags[..], &["--family", "bars"]].concat(), 2));
    assert!(other.contains("--beside"), "{other}");
    // The copy's own topics are not replayed to.
    let refused = text(&done(&copy, &flags, 2));
    assert!(refused.contains("is the one that these tables were stored from"), "{refused}");
    // A copy of the copy says where its records stood first.
    let third = Home::kafka(&broker);
    let (flags, log) = target(&third, &broker);
    done(&copy, &["replay"].into_iter().chain(flags.iter().map(String::as_str)).chain(["--family", "bars"]).collect::<Vec<_>>(), 0);
    let bars = read(&log, Family::Bars);
    assert_eq!(bars.len(), RECORDS);
    assert!(bars.iter().all(|event| Origin::of(&event.headers).is_some_and(|origin| origin.topic == "tape.bars")));
}

/// Given a replay that is killed at random moments while the tables grow, then the copy has what there was when it was begun, each once.
#[test]
fn a_replay_that_is_killed_goes_on() {
    let Some(broker) = run::broker() else { return };
    let mut random = Random::new("a_replay_that_is_killed_goes_on");
    let home = Home::embedded();
    let path = home.path("trades.csv");
    let name = path.to_str().expect("UTF-8");
    feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(0, TRADES)].concat());
    done(&home, &["ingest", name], 0);
    home.store();
    let copy = Home::kafka(&broker);
    let (flags, log) = target(&copy, &broker);
    let args: Vec<&str> = ["replay", "--family", "trades"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    // The first transaction says what is replayed; then the tables grow.
    let mut running = running::start(&home, &args);
    running::until("the first transaction", || {
        running.ended() || log.watermarks(Family::Trades).is_ok_and(|ends| ends.iter().any(|end| end.high > 0))
    });
    let mut killed = usize::from(running.kill());
    feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(0, TRADES + 1_000)].concat());
    done(&home, &["ingest", name], 0);
    home.store();
    for _ in 1..KILLS {
        let delay = Duration::from_millis(500 + random.below(4_000));
        let mut running = running::start(&home, &args);
        let began = Instant::now();
        while began.elapsed() < delay && !running.ended() {
            std::thread::sleep(Duration::from_millis(5));
        }
        killed += usize::from(running.kill());
    }
    println!("killed {killed} times");
    done(&home, &args, 0);
    let mut origins: Vec<(i32, i64)> = read(&log, Family::Trades)
        .iter()
        .map(|event| Origin::of(&event.headers).map(|origin| (origin.partition, origin.offset)).expect("it was replayed"))
        .collect();
    assert!(origins.chunk_by(|a, b| a.0 == b.0).all(|of| of.is_sorted_by(|a, b| a.1 < b.1)), "in order, none twice");
    origins.sort_unstable();
    origins.dedup();
    assert_eq!(origins.len() as u64, TRADES, "what there was when it was begun");
}

/// Given two runs of one replay at once, then the one that came second goes on, and the first says that it was taken over; each record is there once.
#[test]
fn of_two_equal_replays_at_once_one_goes_on_and_the_other_says_so() {
    let Some(broker) = run::broker() else { return };
    let home = Home::embedded();
    let path = home.path("trades.csv");
    feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(0, TRADES)].concat());
    done(&home, &["ingest", path.to_str().expect("UTF-8")], 0);
    home.store();
    let copy = Home::kafka(&broker);
    let (flags, log) = target(&copy, &broker);
    let args: Vec<&str> = ["replay", "--family", "trades"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    let mut first = running::start(&home, &args);
    running::until("the first transaction", || log.watermarks(Family::Trades).is_ok_and(|ends| ends.iter().any(|end| end.high > 0)));
    first.send("STOP");
    assert!(!first.ended(), "it has four transactions to go: {}", first.said());
    let published = lines(&done(&home, &[&args[..], &["--json"]].concat(), 0).stdout).remove(0)["records"].as_u64();
    assert!(published.is_some_and(|records| 0 < records && records < TRADES), "the second goes on: {published:?}");
    let (status, said) = first.signal("CONT");
    println!("{said}");
    assert_eq!(status.code(), Some(3), "{said}");
    // Where it was stopped in a transaction for longer than one may take, it cannot tell who ended that.
    assert!(said.contains("another process has begun the same replay") || said.contains("the broker ended it"), "{said}");
    let events = read(&log, Family::Trades);
    assert_eq!(events.len() as u64, TRADES, "each once");
}
