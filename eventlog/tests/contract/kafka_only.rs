//! What only Kafka has: aborted and open transactions, topics that somebody else has set up, brokers that do not answer.

use crate::homes::{DEADLINE, Home, Kind, brokers, from_start, kafka, poll_until, read_all};
use crate::{first_error, publish, records, state, text};
use eventlog::kafka::{Kafka, KafkaOptions};
use eventlog::{Batch, Error, EventLog, Held, Member, Partitions, Share, Start, StateTopic, TimestampType};
use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use schemas::Family;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn config() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers().unwrap());
    config
}

fn admin() -> AdminClient<DefaultClientContext> {
    config().create().unwrap()
}

fn raw_writer(id: &str) -> BaseProducer {
    let producer: BaseProducer = config().set("transactional.id", id).set("transaction.timeout.ms", "10000").create().unwrap();
    producer.init_transactions(DEADLINE).unwrap();
    producer.begin_transaction().unwrap();
    producer
}

fn send(producer: &BaseProducer, topic: &str, value: &str) {
    producer.send(BaseRecord::to(topic).key("k").payload(value)).unwrap();
    producer.flush(DEADLINE).unwrap();
}

#[test]
fn an_aborted_transaction_leaves_nothing_and_hides_nothing() {
    let Some(home) = Home::new(Kind::Kafka) else { return };
    let log = home.log();
    let (status, positions) = (format!("{}status", home.prefix), format!("{}positions", home.prefix));
    publish(log, "a", vec![records(Family::Status, &[("k", "0")])], vec![state(StateTopic::Positions, "k", Some("0"))]);
    let raw = raw_writer(&home.prefix);
    send(&raw, &status, "aborted");
    send(&raw, &positions, "aborted");
    raw.abort_transaction(DEADLINE).unwrap();
    let values = |log: &dyn EventLog| -> Vec<String> {
        read_all(log, &from_start(log, Family::Status)).iter().map(|event| text(&event.value).to_string()).collect()
    };
    assert_eq!(values(log), ["0"], "behind the last record there are only markers and what was aborted");
    assert_eq!(log.states(StateTopic::Positions).unwrap()["k"], "0");
    publish(log, "a", vec![records(Family::Status, &[("k", "1")])], Vec::new());
    assert_eq!(values(log), ["0", "1"]);
}

#[test]
fn what_is_behind_an_open_transaction_waits_and_states_wait_for_it() {
    let Some(home) = Home::new(Kind::Kafka) else { return };
    let log = home.log();
    let (status, positions) = (format!("{}status", home.prefix), format!("{}positions", home.prefix));
    let raw = raw_writer(&home.prefix);
    send(&raw, &status, "open");
    send(&raw, &positions, "open");
    let publishing = vec![state(StateTopic::Positions, "ours", Some("1"))];
    publish(log, "a", vec![records(Family::Status, &[("k", "behind")])], publishing);
    assert_eq!(log.watermarks(Family::Status).unwrap()[0].high, 0, "nothing is visible behind an open transaction");
    let held = log.held().unwrap();
    let [Held { family: Family::Status, partition: 0, from: 0, to, since_ms: Some(since) }] = held[..] else { panic!("{held:?}") };
    assert!(to >= 2 && since > 1_700_000_000_000, "{held:?}");
    let mut reader = log.reader(&from_start(log, Family::Status)).unwrap();
    assert_eq!(poll_until(reader.as_mut(), |polled| !polled.at_end.is_empty()).events.len(), 0);
    let states = std::thread::scope(|scope| {
        let states = scope.spawn(|| log.states(StateTopic::Positions).unwrap());
        std::thread::sleep(Duration::from_millis(500));
        assert!(!states.is_finished(), "it did not wait for what stands before our own position");
        raw.commit_transaction(DEADLINE).unwrap();
        states.join().unwrap()
    });
    assert_eq!((states["ours"].as_ref(), states["k"].as_ref()), (&b"1"[..], &b"open"[..]));
    assert_eq!(log.held().unwrap(), [], "it has ended");
    let visible = poll_until(reader.as_mut(), |polled| polled.events.len() >= 2);
    assert_eq!(visible.events.iter().map(|event| text(&event.value)).collect::<Vec<_>>(), ["open", "behind"]);
}

#[test]
fn a_record_of_somebody_else_is_read_as_it_is() {
    let Some(home) = Home::new(Kind::Kafka) else { return };
    let topic = format!("{}status", home.prefix);
    let producer: BaseProducer = config().create().unwrap();
    let headers = OwnedHeaders::new().insert(Header { key: "a", value: Some("1") }).insert(Header::<&str> { key: "a", value: None });
    producer.send(BaseRecord::<(), str>::to(&topic).payload("no key").headers(headers)).unwrap();
    producer.send(BaseRecord::<str, ()>::to(&topic).key("no value")).unwrap();
    producer.flush(DEADLINE).unwrap();
    let read = read_all(home.log(), &from_start(home.log(), Family::Status));
    assert_eq!((read[0].key.as_deref(), text(&read[0].value)), (None, "no key"));
    assert_eq!(read[0].headers, [("a".to_string(), Some("1".into())), ("a".to_string(), None)]);
    assert_eq!((text(&read[1].key), read[1].value.as_deref()), ("no value", None));
    assert!(read.iter().all(|event| event.ts_type == TimestampType::LogAppend));
}

#[test]
fn an_offset_that_was_deleted_is_gone() {
    let Some(home) = Home::new(Kind::Kafka) else { return };
    let log = home.log();
    publish(log, "a", vec![records(Family::Status, &[("k", "0"), ("k", "1"), ("k", "2")])], Vec::new());
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(&format!("{}status", home.prefix), 0, Offset::Offset(2)).unwrap();
    block_on(admin().delete_records(&offsets, &AdminOptions::new())).unwrap();
    let error = first_error(log, &Start { family: Family::Status, partition: 0, offset: 1 });
    assert!(matches!(&error, Error::OffsetGone { offset: 1, low: 2, .. }), "{error}");
    assert_eq!(read_all(log, &[Start { family: Family::Status, partition: 0, offset: 2 }]).len(), 1);
}

fn delete_records(topic: &str, before: i64) {
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, 0, Offset::Offset(before)).unwrap();
    let deleted = block_on(admin().delete_records(&offsets, &AdminOptions::new())).unwrap();
    assert!(deleted.elements()[0].error().is_ok());
}

fn set_cleanup(log: &dyn EventLog, topic: &str, policy: &str) {
    let alter = AlterConfig::new(ResourceSpecifier::Topic(topic))
        .set("cleanup.policy", policy)
        .set("retention.ms", "-1")
        .set("message.timestamp.type", "LogAppendTime")
        .set("max.message.bytes", "99999999");
    block_on(admin().alter_configs([&alter], &AdminOptions::new())).unwrap();
    let began = Instant::now();
    let fits = || log.check_topics().unwrap().iter().all(|report| report.problems.iter().all(|why| !why.contains("cleanup.policy is")));
    while fits() != (policy == "compact") {
        assert!(began.elapsed() < DEADLINE);
    }
}

#[test]
fn what_was_published_is_not_known_again_when_records_of_the_topic_were_deleted() {
    let Some(home) = Home::new(Kind::Kafka) else { return };
    let log = home.log();
    for (topic, name) in [(StateTopic::Positions, "positions"), (StateTopic::State, "state")] {
        let full = format!("{}{name}", home.prefix);
        for number in ["0", "1"] {
            publish(log, "a", vec![records(Family::Status, &[("k", number)])], vec![state(topic, "k", Some(number))]);
        }
        assert_eq!(log.states(topic).unwrap()["k"], "1");
        set_cleanup(log, &full, "delete");
        delete_records(&full, 1);
        set_cleanup(log, &full, "compact");
        // One that has read it before, one that has not.
        for log in [log, &kafka(&home.prefix) as &dyn EventLog] {
            let error = log.states(topic).unwrap_err().to_string();
            assert!(error.contains(&full) && error.contains("it begins at offset 1"), "{error}");
            assert!(error.contains("bring it back from a copy") && error.contains("another prefix"), "{error}");
            let reports = log.check_topics().unwrap();
            assert_eq!(reports.iter().flat_map(|report| &report.problems).next(), None, "the store needs none of it and goes on");
            let error = log.create_topics().unwrap_err().to_string();
            assert!(error.contains("it begins at offset 1"), "{error}");
        }
    }
}

#[test]
fn empty_positions_beside_sources_that_were_published_are_refused() {
    let Some(home) = Home::new(Kind::Kafka) else { return };
    let log = home.log();
    let positions = format!("{}positions", home.prefix);
    let empty = || log.states(StateTopic::Positions).map(|states| states.len());
    let made_again = || {
        block_on(admin().delete_topics(&[&positions], &AdminOptions::new().operation_timeout(Some(DEADLINE)))).unwrap();
        let began = Instant::now();
        while kafka(&home.prefix).states(StateTopic::Positions).is_ok() {
            assert!(began.elapsed() < DEADLINE);
        }
        let made = NewTopic::new(&positions, 1, TopicReplication::Fixed(1)).set("cleanup.policy", "compact");
        block_on(admin().create_topics([&made], &AdminOptions::new())).unwrap();
    };
    // What was begun and given up, and what came from elsewhere, is nothing that ingest has published.
    let raw = raw_writer(&home.prefix);
    send(&raw, &format!("{}sources", home.prefix), "aborted");
    raw.abort_transaction(DEADLINE).unwrap();
    publish(log, "feed", vec![records(Family::Status, &[("k", "0")])], Vec::new());
    let origin = eventlog::origin::Origin {
        topic: "tape.sources".into(),
        topic_id: "t".into(),
        partition: 0,
        offset: 0,
        ts_ms: 0,
        ts_type: TimestampType::LogAppend,
    };
    let mut headers = OwnedHeaders::new();
    for (key, value) in origin.headers() {
        headers = headers.insert(Header { key: &key, value: value.as_deref() });
    }
    let replayed: BaseProducer = config().create().unwrap();
    let topic = format!("{}sources", home.prefix);
    replayed.send(BaseRecord::<str, str>::to(&topic).key("k").payload("replayed").headers(headers)).unwrap();
    replayed.flush(DEADLINE).unwrap();
    assert_eq!(empty().unwrap(), 0);
    publish(log, "a", vec![records(Family::Sources, &[("k", "0")])], vec![state(StateTopic::Positions, "k", Some("0"))]);
    assert_eq!(empty().unwrap(), 1);
    made_again();
    let began = Instant::now();
    // The broker knows of the new topic a moment later.
    let error = loop {
        match kafka(&home.prefix).states(StateTopic::Positions) {
            Err(e) if e.to_string().contains("it is empty") => break e.to_string(),
            other => assert!(began.elapsed() < DEADLINE, "{other:?}"),
        }
    };
    assert!(error.contains(&positions) && error.contains("bring it back from a copy"), "{error}");
}

#[test]
fn a_missing_topic_and_a_wrongly_set_one_are_named_with_the_remedy() {
    let Some(brokers) = brokers() else { return };
    let prefix = format!("t{}.", uuid::Uuid::new_v4().simple());
    let log = kafka(&prefix);
    let admin = admin();
    // trades: one partition only, time-based retention, the producer's clock; the rest is missing.
    let trades = format!("{prefix}trades");
    let wrong = NewTopic::new(&trades, 1, TopicReplication::Fixed(1)).set("retention.ms", "604800000");
    block_on(admin.create_topics([&wrong], &AdminOptions::new())).unwrap();
    let began = Instant::now();
    while log.topic(Family::Trades).is_err() {
        assert!(began.elapsed() < DEADLINE);
    }
    assert!(matches!(log.topic(Family::Quotes), Err(Error::TopicMissing { name }) if name == format!("{prefix}quotes")));
    let start = Start { family: Family::Quotes, partition: 0, offset: 0 };
    assert!(matches!(log.reader(&[start]), Err(Error::TopicMissing { .. })));
    assert!(matches!(log.states(StateTopic::State), Err(Error::TopicMissing { .. })));
    let batch = Batch { records: vec![records(Family::Quotes, &[("k", "v")])], ..Batch::default() };
    assert!(matches!(log.writer(&prefix).unwrap().publish(&batch), Err(Error::TopicMissing { .. })));
    let missing = log.check_topics().unwrap().into_iter().filter(|report| report.problems.iter().any(|why| why.contains("does not exist")));
    assert_eq!(missing.count(), 21);
    let reports = log.create_topics().unwrap();
    assert_eq!(reports.iter().filter(|report| report.created).count(), 21);
    let named = &reports.iter().find(|report| report.name == trades).unwrap().problems;
    let remedy = format!("kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics --entity-name {trades} --add-config ");
    let has = |text: &str| named.iter().any(|problem| problem.contains(text));
    assert!(has("1 partitions instead of 8"), "{named:?}");
    assert!(has(&format!("retention.ms is 604800000 instead of -1: {remedy}retention.ms=-1")), "{named:?}");
    assert!(has(&format!("message.timestamp.type is CreateTime instead of LogAppendTime: {remedy}")), "{named:?}");
    assert!(has("max.message.bytes is "), "{named:?}");
    let alter = AlterConfig::new(ResourceSpecifier::Topic(&trades))
        .set("retention.ms", "-1")
        .set("message.timestamp.type", "LogAppendTime")
        .set("max.message.bytes", "99999999");
    block_on(admin.alter_configs([&alter], &AdminOptions::new())).unwrap();
    let began = Instant::now();
    while log.check_topics().unwrap().iter().map(|report| report.problems.len()).sum::<usize>() != 1 {
        assert!(began.elapsed() < DEADLINE);
    }
}

#[test]
fn a_topic_made_again_has_another_id() {
    let Some(home) = Home::new(Kind::Kafka) else { return };
    let before = home.log().topic(Family::Status).unwrap();
    block_on(admin().delete_topics(&[&before.name], &AdminOptions::new().operation_timeout(Some(DEADLINE)))).unwrap();
    let began = Instant::now();
    while home.log().topic(Family::Status).is_ok() {
        assert!(began.elapsed() < DEADLINE);
    }
    home.log().create_topics().unwrap();
    let after = home.log().topic(Family::Status).unwrap();
    assert_eq!(after.name, before.name);
    assert_ne!(after.id, before.id);
}

#[test]
fn a_broker_that_is_not_there_and_a_property_that_is_not_one_are_named() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let began = Instant::now();
    let error = Kafka::connect(KafkaOptions::new(&free.to_string())).err().unwrap();
    assert!(matches!(&error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&free.to_string()) && error.to_string().contains("refused"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(40), "it took {:?}", began.elapsed());
    for (name, value, word) in [("enable.idempotence", "false", "sets enable.idempotence itself"), ("no.such", "1", "no.such")] {
        let mut options = KafkaOptions::new("127.0.0.1:1");
        options.properties.insert(name.to_string(), value.to_string());
        let error = Kafka::connect(options).err().unwrap();
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn installations_with_other_prefixes_do_not_fence_each_other() {
    let (Some(one), Some(two)) = (Home::new(Kind::Kafka), Home::new(Kind::Kafka)) else { return };
    let batch = Batch { records: vec![records(Family::Status, &[("k", "v")])], ..Batch::default() };
    let mut first = one.log().writer("same source").unwrap();
    let mut second = two.log().writer("same source").unwrap();
    first.publish(&batch).unwrap();
    second.publish(&batch).unwrap();
}

#[test]
fn stored_offsets_show_as_the_lag_of_a_group() {
    let Some(home) = Home::new(Kind::Kafka) else { return };
    publish(home.log(), "a", vec![records(Family::Status, &[("k", "0"), ("k", "1")])], Vec::new());
    home.log().stored(Family::Status, 0, 2).unwrap();
    use rdkafka::consumer::{BaseConsumer, Consumer};
    let consumer: BaseConsumer = config().set("group.id", format!("{}store", home.prefix)).create().unwrap();
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition(&format!("{}status", home.prefix), 0);
    let committed = consumer.committed_offsets(offsets, DEADLINE).unwrap();
    assert_eq!(committed.elements()[0].offset(), Offset::Offset(2));
}

/// Two stores of one log, one of which is asked for half of its partitions, and gets them back when the other has gone.
#[test]
fn members_share_the_partitions_and_each_waits_for_what_the_other_gives() {
    let Some(home) = Home::new(Kind::Kafka) else { return };
    let all: BTreeSet<(Family, i32)> =
        Family::ALL.into_iter().flat_map(|family| (0..family.topic().partitions).map(move |partition| (family, partition))).collect();
    let count = |share: &Share| match &share.partitions {
        Partitions::Some(these) => these.len(),
        Partitions::All => panic!("a member has a list"),
    };
    let mut one = home.log().join("one").unwrap();
    let share = poll_share(one.as_mut(), |share| !share.partitions.is_empty());
    assert_eq!(share.partitions, Partitions::Some(all.clone()), "alone: everything");

    let other = kafka(&home.prefix);
    let mut two = other.join("two").unwrap();
    let began = Instant::now();
    let mut asked = one.poll(Duration::from_millis(20)).unwrap();
    while !asked.asked_back {
        assert!(began.elapsed() < DEADLINE && two.poll(Duration::from_millis(20)).unwrap().partitions.is_empty(), "nothing was given yet");
        asked = one.poll(Duration::from_millis(20)).unwrap();
    }
    assert_eq!(count(&asked), all.len(), "what is asked back is kept until it is released");
    one.release().unwrap();
    let (mut first, mut second) = (one.poll(Duration::ZERO).unwrap(), Share::none());
    while count(&first) + count(&second) < all.len() || second.partitions.is_empty() {
        assert!(began.elapsed() < DEADLINE, "{} and {} of {}", count(&first), count(&second), all.len());
        (first, second) = (one.poll(Duration::from_millis(20)).unwrap(), two.poll(Duration::from_millis(20)).unwrap());
    }
    assert!(all.iter().all(|(family, partition)| first.partitions.has(*family, *partition) != second.partitions.has(*family, *partition)));
    let trades = |share: &Share| (0..8).filter(|partition| share.partitions.has(Family::Trades, *partition)).count();
    assert_eq!((trades(&first), trades(&second)), (4, 4), "each family's work is shared");

    // Offsets for lag displays are the group's while it has members.
    home.log().stored(Family::Status, 0, 0).unwrap();
    drop(two);
    poll_share(one.as_mut(), |share| share.asked_back);
    one.release().unwrap();
    let share = poll_share(one.as_mut(), |share| count(share) == all.len());
    assert_eq!((share.asked_back, share.losses), (false, 0), "nobody took anything from it");

    // Who comes back under its name has its partitions at once: the group has not missed it.
    drop(one);
    let mut back = home.log().join("one").unwrap();
    assert_eq!(count(&poll_share(back.as_mut(), |share| !share.partitions.is_empty())), all.len());
}

/// A home that was copied: two processes under one name. The one that was there first is told, and nobody is left without a word.
#[test]
fn a_member_whose_name_was_taken_is_told() {
    let Some(home) = Home::new(Kind::Kafka) else { return };
    let mut first = home.log().join("same").unwrap();
    poll_share(first.as_mut(), |share| !share.partitions.is_empty());
    let copy = kafka(&home.prefix);
    let mut second = copy.join("same").unwrap();
    poll_share(second.as_mut(), |share| !share.partitions.is_empty());
    let began = Instant::now();
    let error = loop {
        match first.poll(Duration::from_millis(20)) {
            Err(error) => break error,
            Ok(share) => assert!(began.elapsed() < DEADLINE, "{share:?}"),
        }
    };
    assert!(matches!(&error, Error::MemberTaken { name, .. } if name == "same"), "{error}");
}

fn poll_share(member: &mut dyn Member, enough: impl Fn(&Share) -> bool) -> Share {
    let began = Instant::now();
    loop {
        let share = member.poll(Duration::from_millis(20)).unwrap();
        if enough(&share) {
            return share;
        }
        assert!(began.elapsed() < DEADLINE, "{share:?}");
    }
}
