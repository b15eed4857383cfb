//! The yardsticks: what librdkafka and the dbn crate alone can do with the same bytes on the same machine.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use dbn::decode::{DbnMetadata, DecodeRecordRef, dbn::Decoder};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(60);
/// Rows of one decoded batch.
const BATCH_ROWS: usize = 1 << 14;

/// Keys and values of one transaction.
pub type Frames = Vec<(Bytes, Bytes)>;

/// Publishes the frames, each element in one transaction, with the settings that `eventlog` has.
pub fn produce(brokers: &str, topic: &str, batches: &[Frames]) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", topic)
        .set("partitioner", "murmur2_random")
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .set("batch.size", "1000000")
        .set("batch.num.messages", "100000")
        .set("queue.buffering.max.messages", "1000000")
        .set("queue.buffering.max.kbytes", "131072")
        .set("delivery.report.only.error", "true")
        .create()?;
    producer.init_transactions(WAIT)?;
    for batch in batches {
        producer.begin_transaction()?;
        for (key, value) in batch {
            send(&producer, BaseRecord::to(topic).key(&key[..]).payload(&value[..]))?;
        }
        while producer.in_flight_count() > 0 {
            producer.poll(Duration::from_millis(1));
        }
        producer.commit_transaction(WAIT)?;
    }
    Ok(())
}

fn send(producer: &BaseProducer, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<(), KafkaError> {
    while let Err((why, back)) = producer.send(record) {
        if why != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
            return Err(why);
        }
        producer.poll(Duration::from_millis(1));
        record = back;
    }
    Ok(())
}

/// Reads so many committed records of a topic from its beginning and looks at nothing but their length. Returns the bytes seen.
pub fn consume(brokers: &str, topic: &str, partitions: i32, records: u64) -> Result<u64> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bench")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("check.crcs", "true")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.queue.backoff.ms", "20")
        .set("max.partition.fetch.bytes", "8388608")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut bytes = 0;
    for read in 0..records {
        let message = consumer.poll(WAIT).with_context(|| format!("nothing came after {read} of {records} records of {topic}"))??;
        bytes += (message.key_len() + message.payload_len()) as u64;
    }
    Ok(bytes)
}

/// Removes topics, so that the broker does not carry what was measured.
pub fn remove_topics(brokers: &str, topics: &[String]) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    for removed in runtime.block_on(admin.delete_topics(&topics, &AdminOptions::new()))? {
        if let Err((topic, why)) = removed {
            bail!("removing topic {topic}: {why}");
        }
    }
    Ok(())
}

/// Reads every record of a DBN file with the dbn crate and looks at one field of each. Returns their number.
pub fn decode(path: &Path) -> Result<u64> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut decoder = Decoder::new(zstd::Decoder::new(file).context("starting zstd")?).context("reading the header")?;
    let (mut records, mut last) = (0, decoder.metadata().start);
    while let Some(record) = decoder.decode_record_ref().context("reading a record")? {
        let ts_event = record.header().ts_event;
        if ts_event < last {
            bail!("record {records} goes back in time");
        }
        (records, last) = (records + 1, ts_event);
    }
    Ok(records)
}

/// Rows that the Parquet reader decodes to Arrow from these files, all columns of them, on this thread alone.
pub fn decode_parquet(files: &[PathBuf]) -> Result<u64> {
    let mut rows = 0;
    for file in files {
        let file = File::open(file).with_context(|| format!("opening {}", file.display()))?;
        for batch in ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(BATCH_ROWS).build()? {
            rows += batch?.num_rows() as u64;
        }
    }
    Ok(rows)
}
