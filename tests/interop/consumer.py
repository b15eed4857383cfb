"""A stock Avro consumer reads our topics through our schema routes: every record once, every value exact, the keys as declared."""

import contextlib
import datetime
import decimal
import os
import re
import time

import confluent_kafka
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

import questions
from tape import Tape, typed

FEEDS = ["syn-ifus.trades.dbn.zst", "syn-xnym.trades.dbn.zst", "cn-nda-usage.csv", "syn-usage.csv"]
TOPICS = ["trades", "token_usage"]
# The column that the key ends with (schemas/src/topic.rs).
KEYS = {"trades": "symbol", "token_usage": "series_id"}
READ_SECONDS_MAX = 120
# Columns of the log, not of the record.
LOG_COLUMNS = {"_partition", "_offset", "_log_ts", "_schema", "_key", "_headers", "_ts_type", "_raw"}
# What the registry's interface calls "not found".
SCHEMA_NOT_FOUND, SUBJECT_NOT_FOUND, VERSION_NOT_FOUND, READ_ONLY = 40403, 40401, 40402, 42205


def check(binary, samples, brokers, folder, results):
    """The sample feeds of the home `samples` once more, over Kafka; what it has in its tables is what must be read."""
    prefix = f"interop{os.getpid()}."
    tape = Tape(binary, os.path.join(folder, "kafka"), brokers, prefix)
    tape.run("topics")
    tape.run("ingest", *(os.path.join(samples.home, "samples", name) for name in FEEDS))
    with registry(tape) as url:
        client = SchemaRegistryClient({"url": url})
        routes(client, tape, prefix, results)
        for topic in TOPICS:
            results.settle(*read(client, brokers, samples, prefix, topic))


@contextlib.contextmanager
def registry(tape):
    """`tape schema --listen` on a port of its own, ended by the signal that ends a service."""
    process = tape.start("schema", "--listen", "127.0.0.1:0")
    try:
        line = process.stdout.readline()
        address = re.search(r"http://\S+", line)
        if not address:
            raise RuntimeError(f"tape schema --listen said {line!r}")
        yield address[0]
    finally:
        process.terminate()
        process.wait(timeout=30)


def routes(client, tape, prefix, results):
    """What the client asks of a registry beside a schema by its id."""
    subject = f"{prefix}trades-value"
    latest = client.get_latest_version(subject)
    text = tape.run("schema", "trades", "--avro").strip()
    found = {
        "subjects": subject in client.get_subjects(),
        "latest version": (latest.version, latest.subject, latest.schema.schema_str) == (1, subject, text),
        "versions": client.get_versions(subject) == [1],
        "version 1": client.get_version(subject, 1).schema_id == latest.schema_id,
        "schema by id": client.get_schema(latest.schema_id).schema_str == text,
        "look-up of our schema": client.lookup_schema(subject, Schema(text, "AVRO")).schema_id == latest.schema_id,
        "compatibility": client.get_compatibility() == "FULL_TRANSITIVE",
        "unknown id": code_of(lambda: client.get_schema(999_999)) == (404, SCHEMA_NOT_FOUND),
        "unknown subject": code_of(lambda: client.get_versions("nobody-value")) == (404, SUBJECT_NOT_FOUND),
        "unknown version": code_of(lambda: client.get_version(subject, 7)) == (404, VERSION_NOT_FOUND),
        "look-up of another schema": code_of(lambda: client.lookup_schema(subject, Schema('"string"', "AVRO"))) == (404, SCHEMA_NOT_FOUND),
        "registering is refused": code_of(lambda: client.register_schema(subject, Schema('"string"', "AVRO"))) == (422, READ_ONLY),
    }
    results.settle(f"schema routes: {len(found)} questions of SchemaRegistryClient", [name for name, good in found.items() if not good])


def code_of(ask):
    try:
        return "answered", ask()
    except SchemaRegistryError as why:
        return why.http_status_code, why.error_code


def read(client, brokers, samples, prefix, topic):
    """A topic from its beginning to its end, beside the same records in the tables of `samples`. Gives (what was checked, differences)."""
    columns = {name: sql_type for name, sql_type in samples.columns()[topic].items() if name not in LOG_COLUMNS}
    asked = ", ".join(f'"{name}"' for name in columns)
    rows = samples.ask(f"SELECT {asked} FROM {topic}")
    expected = {(bytes.fromhex(row["source_id"]), row["source_record"], place(row)): row for row in rows}
    deserialize = AvroDeserializer(client)
    differences, seen, began = [], set(), time.monotonic()
    for message in messages(brokers, prefix + topic):
        value = deserialize(message.value(), SerializationContext(prefix + topic, MessageField.VALUE))
        identity = (value["source_id"], value["source_record"], place(value))
        if identity in seen or identity not in expected:
            differences.append(f"offset {message.offset()}: {'a second time' if identity in seen else 'not in the tables'}: {identity}")
            continue
        seen.add(identity)
        differences += differing(topic, columns, expected[identity], value, message)
    if len(rows) != len(expected) or len(seen) != len(rows):
        differences.insert(0, f"{len(rows)} rows in the tables, {len(seen)} records read")
    what = f"AvroDeserializer {confluent_kafka.__version__}: {len(seen)} records of {topic}, {len(columns)} columns"
    return f"{what}, {time.monotonic() - began:.1f} s", differences


def place(row):
    """What tells two records of one source record apart (a usage row has several directions)."""
    return row.get("direction")


def differing(topic, columns, row, value, message):
    where = f"{topic} partition {message.partition()}, offset {message.offset()}"
    if set(value) != set(columns):
        return [f"{where}: columns {sorted(set(value) ^ set(columns))} are on one side only"]
    key = f"{row['dataset']}/{row[KEYS[topic]]}".encode()
    differences = [] if message.key() == key else [f"{where}: key {message.key()!r}, not {key!r}"]
    for name, sql_type in columns.items():
        ours, theirs = typed(row[name], sql_type), value[name]
        if questions.is_filled(topic, name) and theirs is None:
            continue
        if ours != theirs or not of_type(theirs, sql_type):
            differences.append(f"{where}: {name}: tape sql {ours!r}, the consumer {theirs!r}")
    return differences


def of_type(value, sql_type):
    """A price is a decimal.Decimal, a time is an integer, nothing is a float."""
    if value is None:
        return True
    if sql_type.startswith("DECIMAL"):
        return type(value) is decimal.Decimal
    if sql_type.startswith("TIMESTAMP") or sql_type in ("BIGINT", "INTEGER"):
        return type(value) is int
    return isinstance(value, {"VARCHAR": str, "BYTEA": bytes, "DATE": datetime.date, "BOOLEAN": bool}[sql_type])


def messages(brokers, topic):
    """Every committed message, from the beginning of every partition to its end."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": f"{topic}interop",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=READ_SECONDS_MAX).topics[topic].partitions
        consumer.assign([confluent_kafka.TopicPartition(topic, p, confluent_kafka.OFFSET_BEGINNING) for p in partitions])
        open_partitions, deadline = set(partitions), time.monotonic() + READ_SECONDS_MAX
        while open_partitions:
            message = consumer.poll(1.0)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic}: partitions {sorted(open_partitions)} did not end within {READ_SECONDS_MAX} s")
            if message is None:
                continue
            if message.error() and message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF:
                open_partitions.discard(message.partition())
            elif message.error():
                raise RuntimeError(f"{topic}: {message.error()}")
            else:
                yield message
    finally:
        consumer.close()
