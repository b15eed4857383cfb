//! How fast a log takes and gives 100-byte records, beside raw librdkafka on the same broker.
//!
//! `TAPE_TEST_KAFKA=host:port cargo run --release -p eventlog --example throughput [RECORDS]`; without a broker only the embedded log.

use bytes::Bytes;
use eventlog::embedded::{Embedded, Options};
use eventlog::kafka::{Kafka, KafkaOptions};
use eventlog::{Batch, EventLog, Records, Start};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use schemas::Family;
use std::time::{Duration, Instant};

const BATCH: usize = 50_000;
const BYTES: usize = 100;
const WAIT: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let records: usize = std::env::args().nth(1).map_or(Ok(1_000_000), |arg| arg.parse())?;
    let batches: Vec<Records> = (0..records / BATCH).map(batch).collect();
    let records = batches.len() * BATCH;
    let dir = tempfile::tempdir()?;
    ours("embedded", &Embedded::open(dir.path(), &Options::default())?, &batches)?;
    let Ok(brokers) = std::env::var("TAPE_TEST_KAFKA") else { return Ok(()) };
    for round in 0..3 {
        let prefix = format!("b{}.", uuid::Uuid::new_v4().simple());
        let log = Kafka::connect(KafkaOptions { prefix: prefix.clone(), ..KafkaOptions::new(&brokers) })?;
        log.create_topics()?;
        println!("round {round}");
        raw(&brokers, &format!("{prefix}quotes"), &batches, records)?;
        ours("kafka", &log, &batches)?;
    }
    Ok(())
}

fn batch(n: usize) -> Records {
    let value = |i: usize| {
        let mut text = format!("{n}/{i}/{}", i.wrapping_mul(2_654_435_761) % 1_000_003);
        text.extend(std::iter::repeat_n('.', BYTES - text.len()));
        Bytes::from(text)
    };
    let keys = (0..BATCH).map(|i| Bytes::from(format!("GLBX.MDP3/S{}", i % 500))).collect();
    Records { family: Family::Trades, keys, values: (0..BATCH).map(value).collect() }
}

fn ours(name: &str, log: &dyn EventLog, batches: &[Records]) -> Result<(), eventlog::Error> {
    let records = batches.len() * BATCH;
    let mut writer = log.writer("throughput")?;
    let began = Instant::now();
    for batch in batches {
        writer.publish(&Batch { records: vec![batch.clone()], ..Batch::default() })?;
    }
    say(name, "publish", records, began);
    let starts: Vec<Start> = (0..8).map(|partition| Start { family: Family::Trades, partition, offset: 0 }).collect();
    let mut reader = log.reader(&starts)?;
    let began = Instant::now();
    let mut read = 0;
    while read < records {
        read += reader.poll(WAIT, 10_000)?.events.len();
    }
    say(name, "poll", records, began);
    Ok(())
}

fn raw(brokers: &str, topic: &str, batches: &[Records], records: usize) -> Result<(), KafkaError> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", topic)
        .set("compression.type", "lz4")
        .set("queue.buffering.max.messages", "1000000")
        .set("batch.num.messages", "100000")
        .set("delivery.report.only.error", "true")
        .create()?;
    producer.init_transactions(WAIT)?;
    let began = Instant::now();
    for batch in batches {
        producer.begin_transaction()?;
        for (key, value) in batch.keys.iter().zip(&batch.values) {
            let mut record = BaseRecord::to(topic).key(&key[..]).payload(&value[..]);
            while let Err((e, back)) = producer.send(record) {
                if e != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                    return Err(e);
                }
                producer.poll(Duration::from_millis(1));
                record = back;
            }
        }
        while producer.in_flight_count() > 0 {
            producer.poll(Duration::from_millis(1));
        }
        producer.commit_transaction(WAIT)?;
    }
    say("raw librdkafka", "produce", records, began);
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", topic).set("fetch.queue.backoff.ms", "20").create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..8 {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let began = Instant::now();
    let mut read = 0;
    while read < records {
        if let Some(message) = consumer.poll(WAIT) {
            message?;
            read += 1;
        }
    }
    say("raw librdkafka", "consume", records, began);
    Ok(())
}

fn say(name: &str, what: &str, records: usize, began: Instant) {
    println!("{name:15} {what:8} {:8.0} records/s", records as f64 / began.elapsed().as_secs_f64());
}
