//! The record families: for each its name (Kafka topic, Delta table and SQL table share it), key, sort key, business key, partitions and
//! schema id. This is the one place where a family is declared; everything else derives from it.

use crate::family;
use crate::field::{Field, Kind};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, OnceLock};

/// A record family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Dated definitions of contracts and series, and symbol mappings.
    Instruments,
    /// Trades as published.
    Trades,
    /// Best bid and offer, with the event that made it.
    Quotes,
    /// Book records of up to ten levels.
    Depth,
    /// Order events.
    Orders,
    /// A venue's periodic market snapshots.
    Snapshots,
    /// OHLCV bars as published.
    Bars,
    /// Settlement, open interest, limits, cleared volume in long form.
    Statistics,
    /// Trading status.
    Status,
    /// Auction imbalances.
    Imbalances,
    /// Token-usage statistics for a period.
    TokenUsage,
    /// Single inference requests.
    Requests,
    /// AI-service list prices.
    PriceList,
    /// Index fixings.
    IndexValues,
    /// The observations that index fixings were made of.
    IndexInputs,
    /// Dated, sourced conversions between units.
    Conversions,
    /// Raw pages and files.
    Documents,
    /// Sources that were seen.
    Sources,
    /// Holes in a source's sequence or in the log.
    Gaps,
    /// What could not be decoded, whole.
    Quarantine,
}

impl Family {
    /// Every family, in the order of the data dictionary.
    pub const ALL: [Family; 20] = [
        Family::Instruments,
        Family::Trades,
        Family::Quotes,
        Family::Depth,
        Family::Orders,
        Family::Snapshots,
        Family::Bars,
        Family::Statistics,
        Family::Status,
        Family::Imbalances,
        Family::TokenUsage,
        Family::Requests,
        Family::PriceList,
        Family::IndexValues,
        Family::IndexInputs,
        Family::Conversions,
        Family::Documents,
        Family::Sources,
        Family::Gaps,
        Family::Quarantine,
    ];

    /// The family's declaration.
    pub fn topic(self) -> &'static Topic {
        &TOPICS[self as usize]
    }

    /// The family with this topic and table name.
    pub fn named(name: &str) -> Option<Family> {
        Family::ALL.into_iter().find(|family| family.topic().name == name)
    }
}

/// What is declared of a family.
#[derive(Debug)]
pub struct Topic {
    /// Which family.
    pub family: Family,
    /// Name of the topic (with the installation's prefix), of the Delta table and of the SQL table.
    pub name: &'static str,
    /// What a row is.
    pub doc: &'static str,
    /// Id of the current wire schema; an id never changes its meaning.
    pub schema_id: u32,
    /// Key in the log after `dataset/`: the first alternative whose first column has a value; its columns are joined by `/`.
    pub key: &'static [&'static [&'static str]],
    /// Columns within which revisions count; empty where the source's own id or nothing identifies a record.
    pub business_key: &'static [&'static str],
    /// Order of rows in a file, NULLs first.
    pub sort_key: &'static [&'static str],
    /// Partitions of a new topic; fixed for life.
    pub partitions: i32,
    /// Partition columns of the Delta table.
    pub partition_by: &'static [&'static str],
    /// Largest record in bytes.
    pub max_message_bytes: usize,
    /// Columns of a frame, in order.
    pub fields: Vec<Field>,
    wire: SchemaRef,
    stored: SchemaRef,
    index: HashMap<String, usize>,
    stored_avro: OnceLock<String>,
}

/// Largest record of most topics.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Largest record of `documents` and `quarantine`, which hold raw bytes.
pub const RAW_MESSAGE_BYTES_MAX: usize = 64 << 20;

impl Topic {
    /// Arrow schema of a frame and of a parsed batch.
    pub fn wire_schema(&self) -> &SchemaRef {
        &self.wire
    }

    /// Arrow schema of a stored row: the frame's columns and the log's.
    pub fn stored_schema(&self) -> &SchemaRef {
        &self.stored
    }

    /// All columns of a stored row with their meaning, in order.
    pub fn stored_fields(&self) -> Vec<Field> {
        self.fields.iter().cloned().chain(family::log_columns()).collect()
    }

    /// Position of a column that the code names.
    ///
    /// # Panics
    /// When the family has no such column: a mistake in the code, not in the data.
    pub fn column(&self, name: &str) -> usize {
        *self.index.get(name).unwrap_or_else(|| panic!("family {} has no column {name}", self.name))
    }

    /// Position of a column that somebody else names, or `None`.
    pub fn find_column(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// The Avro schema of a stored row: the frame's columns and the log's.
    pub fn stored_avro(&self) -> &str {
        self.stored_avro.get_or_init(|| avro_schema(self.name, self.doc, &self.stored_fields()))
    }

    /// The Avro schema of a frame, as registered and as written to `avro/<name>.avsc`.
    pub fn avro(&self) -> &str {
        &self.wire.metadata()[arrow_avro::schema::SCHEMA_METADATA_KEY]
    }
}

/// The column of a kind `Time`?
pub fn is_time(family: Family, column: &str) -> bool {
    family.topic().stored_fields().iter().any(|field| field.name == column && field.kind == Kind::Time)
}

const DAILY: &[&str] = &["dataset", "date"];
const WHOLE: &[&str] = &["dataset"];
const BY_SYMBOL: &[&[&str]] = &[&["symbol"], &["instrument_id"]];
const BY_SOURCE: &[&[&str]] = &[&["source_id"]];
const TICK_ORDER: &[&str] = &["symbol", "ts_event", "_partition", "_offset"];
const LOG_ORDER: &[&str] = &["_partition", "_offset"];
const TICK_PARTITIONS: i32 = 8;

static TOPICS: LazyLock<Vec<Topic>> = LazyLock::new(|| {
    Family::ALL
        .into_iter()
        .map(|family| {
            let own = |fields: Vec<Field>| [family::common(), fields].concat();
            let base = |name, schema_id, doc, fields| Declared {
                family,
                name,
                schema_id,
                doc,
                key: BY_SYMBOL,
                business_key: &[],
                sort_key: TICK_ORDER,
                partitions: 1,
                partition_by: DAILY,
                fields: own(fields),
            };
            match family {
                Family::Instruments => Declared {
                    business_key: &["kind", "symbol", "valid_from"],
                    sort_key: &["symbol", "valid_from", "_partition", "_offset"],
                    partition_by: WHOLE,
                    ..base(
                        "instruments",
                        1001,
                        "a dated definition of a contract or series, or a dated symbol mapping",
                        family::instruments(),
                    )
                },
                Family::Trades => {
                    Declared { partitions: TICK_PARTITIONS, ..base("trades", 1002, "a trade as published", family::trades()) }
                }
                Family::Quotes => Declared {
                    partitions: TICK_PARTITIONS,
                    ..base("quotes", 1003, "a best-bid-and-offer record, with the event that made it", family::quotes())
                },
                Family::Depth => Declared {
                    partitions: TICK_PARTITIONS,
                    ..base("depth", 1004, "a book record of up to ten levels", family::depth_family())
                },
                Family::Orders => Declared { partitions: TICK_PARTITIONS, ..base("orders", 1005, "an order event", family::orders()) },
                Family::Snapshots => Declared {
                    partitions: TICK_PARTITIONS,
                    ..base("snapshots", 1006, "a venue's periodic market snapshot: one row as sent", family::snapshots())
                },
                Family::Bars => Declared {
                    business_key: &["schema", "symbol", "ts_event"],
                    ..base("bars", 1007, "an OHLCV bar as published; the interval is in schema", family::bars())
                },
                Family::Statistics => Declared {
                    business_key: &["stat_type", "symbol", "ts_ref"],
                    ..base("statistics", 1008, "a venue's statistic in DBN's long form", family::statistics())
                },
                Family::Status => base("status", 1009, "a change of trading status", family::status()),
                Family::Imbalances => base("imbalances", 1010, "an auction imbalance", family::imbalances()),
                Family::TokenUsage => Declared {
                    key: &[&["series_id"], &["publisher", "provider", "model", "project_id", "user_id", "api_key_id", "service_tier"]],
                    business_key: &[
                        "series_id",
                        "provider",
                        "model",
                        "project_id",
                        "user_id",
                        "api_key_id",
                        "batch",
                        "service_tier",
                        "context_window",
                        "direction",
                        "modality",
                        "stat",
                        "period_start",
                        "period_end",
                    ],
                    sort_key: &["series_id", "period_start", "_partition", "_offset"],
                    partition_by: WHOLE,
                    ..base("token_usage", 1011, "a token-usage statistic for a period", family::token_usage())
                },
                Family::Requests => Declared {
                    key: BY_SOURCE,
                    sort_key: &["ts_event", "_partition", "_offset"],
                    ..base("requests", 1012, "one inference request", family::requests())
                },
                Family::PriceList => Declared {
                    key: &[&["provider", "model"], &["model"]],
                    business_key: &["provider", "model", "direction", "modality", "tier", "context_min", "context_max", "price_unit"],
                    sort_key: &["model", "effective_by", "_partition", "_offset"],
                    partition_by: WHOLE,
                    ..base(
                        "price_list",
                        1013,
                        "a list price of an AI service, with the interval in which it took effect",
                        family::price_list(),
                    )
                },
                Family::IndexValues => Declared {
                    key: &[&["index_id"]],
                    business_key: &["index_id", "ts_event"],
                    sort_key: &["index_id", "ts_event", "_partition", "_offset"],
                    partition_by: WHOLE,
                    ..base("index_values", 1014, "an index fixing", family::index_values())
                },
                Family::IndexInputs => Declared {
                    key: &[&["fixing_id"]],
                    business_key: &["fixing_id", "observation_id"],
                    sort_key: &["fixing_id", "ts_event", "_partition", "_offset"],
                    partition_by: WHOLE,
                    ..base("index_inputs", 1015, "an observation that an index fixing was made of", family::index_inputs())
                },
                Family::Conversions => Declared {
                    key: &[&["from_unit", "to_unit", "model"]],
                    business_key: &["from_unit", "to_unit", "model", "hardware", "scenario", "valid_from"],
                    sort_key: &["from_unit", "to_unit", "valid_from", "_partition", "_offset"],
                    partition_by: WHOLE,
                    ..base("conversions", 1016, "a dated, sourced conversion between units", family::conversions())
                },
                Family::Documents => Declared {
                    key: BY_SOURCE,
                    sort_key: LOG_ORDER,
                    partition_by: WHOLE,
                    ..base("documents", 1017, "a raw page or file, or one part of it", family::documents())
                },
                Family::Sources => Declared {
                    key: BY_SOURCE,
                    sort_key: LOG_ORDER,
                    partition_by: WHOLE,
                    ..base("sources", 1018, "a source that was seen", family::sources())
                },
                Family::Gaps => Declared {
                    key: BY_SOURCE,
                    sort_key: LOG_ORDER,
                    partition_by: WHOLE,
                    ..base("gaps", 1019, "a hole in a source's sequence, or an unexplained hole in the log", family::gaps())
                },
                Family::Quarantine => Declared {
                    key: BY_SOURCE,
                    sort_key: LOG_ORDER,
                    partition_by: WHOLE,
                    ..base("quarantine", 1020, "what could not be decoded, whole", family::quarantine())
                },
            }
            .build()
        })
        .collect()
});

/// A family as declared, before what follows from it is computed.
struct Declared {
    family: Family,
    name: &'static str,
    schema_id: u32,
    doc: &'static str,
    key: &'static [&'static [&'static str]],
    business_key: &'static [&'static str],
    sort_key: &'static [&'static str],
    partitions: i32,
    partition_by: &'static [&'static str],
    fields: Vec<Field>,
}

impl Declared {
    fn build(self) -> Topic {
        let plain = |field: &Field| arrow::datatypes::Field::new(field.name.as_ref(), field.kind.arrow(), !field.required);
        let avro = avro_schema(self.name, self.doc, &self.fields);
        let wire = Schema::new(self.fields.iter().map(plain).collect::<Vec<_>>())
            .with_metadata(HashMap::from([(arrow_avro::schema::SCHEMA_METADATA_KEY.to_string(), avro)]));
        let stored = Schema::new(self.fields.iter().chain(&family::log_columns()).map(plain).collect::<Vec<_>>());
        let max_message_bytes = match self.family {
            Family::Documents | Family::Quarantine => RAW_MESSAGE_BYTES_MAX,
            _ => MESSAGE_BYTES_MAX,
        };
        Topic {
            index: stored.fields().iter().enumerate().map(|(i, field)| (field.name().clone(), i)).collect(),
            stored_avro: OnceLock::new(),
            wire: Arc::new(wire),
            stored: Arc::new(stored),
            family: self.family,
            name: self.name,
            doc: self.doc,
            schema_id: self.schema_id,
            key: self.key,
            business_key: self.business_key,
            sort_key: self.sort_key,
            partitions: self.partitions,
            partition_by: self.partition_by,
            max_message_bytes,
            fields: self.fields,
        }
    }
}

/// The Avro text of a frame, made by arrow-avro from the Arrow schema.
fn avro_schema(name: &str, doc: &str, fields: &[Field]) -> String {
    use arrow_avro::schema::{AVRO_DOC_METADATA_KEY, AVRO_NAME_METADATA_KEY, AVRO_NAMESPACE_METADATA_KEY, AvroSchema};
    let schema = Schema::new(fields.iter().map(Field::arrow).collect::<Vec<_>>()).with_metadata(HashMap::from([
        (AVRO_NAME_METADATA_KEY.to_string(), name.to_string()),
        (AVRO_NAMESPACE_METADATA_KEY.to_string(), "tokentape".to_string()),
        (AVRO_DOC_METADATA_KEY.to_string(), doc.to_string()),
    ]));
    let text = AvroSchema::try_from(&schema).expect("every kind has an Avro type").json_string;
    let value = serde_json::from_str(&text).expect("arrow-avro writes JSON");
    in_order(value).to_string()
}

/// Order of the attributes in an Avro text. Arrow keeps metadata in a hash map, so arrow-avro's own order changes from run to run, and with
/// it would change the SHA-256 by which a commit names the schema.
const ATTRIBUTES: [&str; 9] = ["type", "name", "namespace", "logicalType", "precision", "scale", "doc", "default", "fields"];

fn in_order(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(in_order).collect(),
        Value::Object(attributes) => {
            let mut attributes: Vec<(String, Value)> = attributes.into_iter().map(|(name, value)| (name, in_order(value))).collect();
            let rank = |name: &str| ATTRIBUTES.iter().position(|known| *known == name).unwrap_or(ATTRIBUTES.len());
            attributes.sort_by(|(a, _), (b, _)| (rank(a), a).cmp(&(rank(b), b)));
            Value::Object(attributes.into_iter().collect())
        }
        plain => plain,
    }
}

/// True when the column holds a decimal of the given Arrow type.
pub fn is_decimal(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Decimal128(..))
}
