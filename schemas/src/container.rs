//! Stored rows as an Avro object container file: a head, then blocks. The same rows give the same bytes: the sync marker follows from the
//! schema instead of chance. Pure.
//!
//! Columns are those of a stored row: of the frame, and where it stood in the log. Times are `long` nanoseconds, as in frames.

use crate::Error;
use crate::topic::{Family, Topic};
use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow_avro::compression::CompressionCodec;
use arrow_avro::errors::AvroError;
use arrow_avro::schema::SCHEMA_METADATA_KEY;
use arrow_avro::writer::format::AvroFormat;
use arrow_avro::writer::{Writer, WriterBuilder};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::Write;

const MAGIC: &[u8] = b"Obj\x01";

/// What a file of this family begins with.
pub fn head(family: Family) -> Vec<u8> {
    let topic = family.topic();
    let mut head = MAGIC.to_vec();
    put_long(&mut head, 2);
    for (key, value) in [("avro.schema", topic.stored_avro()), ("avro.codec", "null")] {
        put_long(&mut head, key.len() as u64);
        head.extend_from_slice(key.as_bytes());
        put_long(&mut head, value.len() as u64);
        head.extend_from_slice(value.as_bytes());
    }
    put_long(&mut head, 0);
    head.extend_from_slice(&sync(topic.stored_avro()));
    head
}

/// The block of some rows, in the family's stored schema.
pub fn block(family: Family, rows: &RecordBatch) -> Result<Vec<u8>, Error> {
    let topic = family.topic();
    let fault = |e: AvroError| Error::Encode { topic: topic.name, why: e.to_string() };
    let mut writer: Writer<Vec<u8>, Block> = WriterBuilder::new(arrow_schema(topic)).build(Vec::new()).map_err(fault)?;
    let rows = RecordBatch::try_new(std::sync::Arc::new(arrow_schema(topic)), rows.columns().to_vec());
    let rows = rows.map_err(|e| Error::Encode { topic: topic.name, why: e.to_string() })?;
    writer.write(&rows).map_err(fault)?;
    Ok(writer.into_inner())
}

fn arrow_schema(topic: &Topic) -> Schema {
    let metadata = HashMap::from([(SCHEMA_METADATA_KEY.to_string(), topic.stored_avro().to_string())]);
    topic.stored_schema().as_ref().clone().with_metadata(metadata)
}

/// Stands between blocks; readers look for it behind damage.
fn sync(avro: &str) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::digest(avro).into();
    digest[..16].try_into().expect("a digest has more than 16 bytes")
}

/// A zig-zag number of Avro's that is not negative.
fn put_long(out: &mut Vec<u8>, number: u64) {
    let mut rest = number << 1;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Blocks of a file whose head was written before.
#[derive(Debug, Default)]
struct Block {
    sync: [u8; 16],
}

impl AvroFormat for Block {
    const NEEDS_PREFIX: bool = false;

    fn start_stream<W: Write>(&mut self, _: &mut W, schema: &Schema, _: Option<CompressionCodec>) -> Result<(), AvroError> {
        self.sync = sync(&schema.metadata()[SCHEMA_METADATA_KEY]);
        Ok(())
    }

    fn sync_marker(&self) -> Option<&[u8; 16]> {
        Some(&self.sync)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, Int64Array, new_null_array};
    use arrow_avro::reader::ReaderBuilder;
    use std::sync::Arc;

    /// A reader that knows nothing of us reads every family's file, in all columns.
    #[test]
    fn any_reader_reads_it() {
        for family in Family::ALL {
            let topic = family.topic();
            let mut rows = crate::Rows::new(family);
            for n in 0..3 {
                rows.text(topic.column("dataset"), "GLBX.MDP3");
                rows.text(topic.column("change"), "new");
                rows.i32(topic.column("revision"), n);
                rows.bytes(topic.column("source_id"), &[7; 16]);
                rows.i64(topic.column("source_record"), n.into());
                rows.i64(topic.column("source_byte"), 0);
                rows.i64(topic.column("ts_event"), i64::MAX - i64::from(n));
                rows.end_row();
            }
            let wire = rows.finish().unwrap();
            let log = topic.stored_schema().fields().iter().skip(wire.num_columns()).map(|field| match field.name().as_str() {
                "_offset" => Arc::new(Int64Array::from(vec![Some(5), None, Some(7)])) as _,
                _ => new_null_array(field.data_type(), 3),
            });
            let columns = wire.columns().iter().cloned().chain(log).collect();
            let stored = RecordBatch::try_new(topic.stored_schema().clone(), columns).unwrap();
            let file = [head(family), block(family, &stored).unwrap(), block(family, &stored.slice(1, 2)).unwrap()].concat();
            assert_eq!(file, [head(family), block(family, &stored).unwrap(), block(family, &stored.slice(1, 2)).unwrap()].concat());
            let reader = ReaderBuilder::new().build(std::io::Cursor::new(file)).unwrap();
            let read: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
            let read = arrow::compute::concat_batches(&read[0].schema(), &read).unwrap();
            assert_eq!(read.num_rows(), 5);
            for (at, column) in stored.columns().iter().enumerate() {
                assert_eq!(read.column(at).slice(0, 3).to_data(), column.to_data(), "{} {}", topic.name, stored.schema().field(at).name());
            }
        }
    }
}
