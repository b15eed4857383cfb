//! What one column is: its name, its kind (Arrow, Avro and Delta type in one word), its unit, its clock, and when it is NULL.

use arrow::datatypes::{DataType, Field as ArrowField};
use std::borrow::Cow;
use std::collections::HashMap;

/// The type of a column. One word settles the Arrow type in memory, the Avro type on the wire and the Delta type at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8 text.
    Text,
    /// Signed 32-bit integer: also carries the unsigned 8- and 16-bit numbers of the sources.
    I32,
    /// Signed 64-bit integer: also carries unsigned 32-bit numbers.
    I64,
    /// Unsigned 64-bit integer, as `DECIMAL(20,0)`.
    U64,
    /// A price in the row's `currency` per `price_unit`, as `DECIMAL(18,9)`.
    Price,
    /// A count of tokens, as `DECIMAL(38,0)`.
    Tokens,
    /// A volume, an open interest, a turnover or an index level, as `DECIMAL(38,9)`.
    Amount,
    /// A factor or an exchange rate, as `DECIMAL(38,18)`.
    Factor,
    /// Nanoseconds since 1970-01-01T00:00:00Z. Int64 in files and frames, `TIMESTAMP(ns, UTC)` in SQL.
    Time,
    /// A calendar date.
    Date,
    /// True or false.
    Bool,
    /// Bytes as they came.
    Bytes,
}

impl Kind {
    /// Arrow type in memory, in frames and in files.
    pub fn arrow(self) -> DataType {
        match self {
            Kind::Text => DataType::Utf8,
            Kind::I32 => DataType::Int32,
            Kind::I64 | Kind::Time => DataType::Int64,
            Kind::Date => DataType::Date32,
            Kind::Bool => DataType::Boolean,
            Kind::Bytes => DataType::Binary,
            Kind::U64 | Kind::Price | Kind::Tokens | Kind::Amount | Kind::Factor => {
                let (precision, scale) = self.decimal().expect("these five kinds are decimals");
                DataType::Decimal128(precision, scale)
            }
        }
    }

    /// Precision and scale, where the kind is a decimal.
    pub fn decimal(self) -> Option<(u8, i8)> {
        match self {
            Kind::U64 => Some((20, 0)),
            Kind::Price => Some((18, 9)),
            Kind::Tokens => Some((38, 0)),
            Kind::Amount => Some((38, 9)),
            Kind::Factor => Some((38, 18)),
            Kind::Text | Kind::I32 | Kind::I64 | Kind::Time | Kind::Date | Kind::Bool | Kind::Bytes => None,
        }
    }

    /// The type as SQL shows it.
    pub fn sql(self) -> String {
        match self {
            Kind::Text => "VARCHAR".into(),
            Kind::I32 => "INTEGER".into(),
            Kind::I64 => "BIGINT".into(),
            Kind::Time => "TIMESTAMP(ns, UTC)".into(),
            Kind::Date => "DATE".into(),
            Kind::Bool => "BOOLEAN".into(),
            Kind::Bytes => "BYTEA".into(),
            Kind::U64 | Kind::Price | Kind::Tokens | Kind::Amount | Kind::Factor => {
                let (precision, scale) = self.decimal().expect("these five kinds are decimals");
                format!("DECIMAL({precision},{scale})")
            }
        }
    }
}

/// One column of a record family.
#[derive(Debug, Clone)]
pub struct Field {
    /// Column name, the same on the wire, at rest and in SQL.
    pub name: Cow<'static, str>,
    /// Type.
    pub kind: Kind,
    /// True when every row has a value.
    pub required: bool,
    /// Unit of the value; empty for names, codes and times.
    pub unit: &'static str,
    /// Meaning, who fills it, and when it is NULL.
    pub doc: Cow<'static, str>,
    /// The words that the column may hold, where the list is closed; empty where it is not.
    pub words: &'static [&'static str],
}

impl Field {
    /// The column with a closed list of words.
    pub(crate) fn one_of(self, words: &'static [&'static str]) -> Field {
        Field { words, ..self }
    }

    /// The Arrow field, with the meaning as `avro.doc` metadata so that it reaches the Avro schema.
    pub fn arrow(&self) -> ArrowField {
        let doc = match self.unit {
            "" => self.doc.to_string(),
            unit => format!("{} [{unit}]", self.doc),
        };
        let mut metadata = HashMap::from([(arrow_avro::schema::AVRO_DOC_METADATA_KEY.to_string(), doc)]);
        if !self.required {
            // A default lets readers of a later schema read records that were written without the column.
            metadata.insert(arrow_avro::schema::AVRO_FIELD_DEFAULT_METADATA_KEY.to_string(), "null".to_string());
        }
        ArrowField::new(self.name.as_ref(), self.kind.arrow(), !self.required).with_metadata(metadata)
    }
}

/// A column that may be NULL.
pub(crate) fn opt(name: &'static str, kind: Kind, unit: &'static str, doc: &'static str) -> Field {
    Field { name: name.into(), kind, required: false, unit, doc: doc.into(), words: &[] }
}

/// A column that every row fills.
pub(crate) fn req(name: &'static str, kind: Kind, unit: &'static str, doc: &'static str) -> Field {
    Field { name: name.into(), kind, required: true, unit, doc: doc.into(), words: &[] }
}
