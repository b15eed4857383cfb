//! Is a frame what `frame::encode` would write for the row that it was decoded to? Mostly its length says so, without encoding.
//!
//! Avro lets a writer spell one value in several ways: a variable-length integer (a number, a length, a union's branch) may carry needless
//! bytes, a decimal needless sign bytes. Each such spelling is longer than ours, so a frame of our length is ours, byte for byte. Two
//! spellings are not longer: a decimal zero of no bytes at all, and a `true` that is not 1. Rows with such a value are encoded and compared.

use crate::field::Kind;
use crate::topic::Family;
use crate::{Error, frame};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Date32Type, Decimal128Type, Int32Type, Int64Type};

/// The rows of `batch` (in the family's wire schema) that `frame::encode` would write otherwise than `frames`, one frame per row.
pub fn spelled_otherwise(family: Family, batch: &RecordBatch, frames: &[&[u8]]) -> Result<Vec<usize>, Error> {
    let lengths = Lengths::of(family, batch);
    let mut otherwise = Vec::new();
    let mut unsure = Vec::new();
    for (row, frame) in frames.iter().enumerate() {
        if lengths.bytes[row] != frame.len() {
            otherwise.push(row);
        } else if lengths.unsure.get(row) == Some(&true) {
            unsure.push(row);
        }
    }
    if unsure.is_empty() {
        return Ok(otherwise);
    }
    let rows = UInt64Array::from_iter_values(unsure.iter().map(|row| *row as u64));
    let taken = take_record_batch(batch, &rows).map_err(|e| Error::Encode { topic: family.topic().name, why: e.to_string() })?;
    let ours = frame::encode(family, &taken)?;
    otherwise.extend(unsure.into_iter().zip(ours).filter(|(row, ours)| ours[..] != *frames[*row]).map(|(row, _)| row));
    otherwise.sort_unstable();
    Ok(otherwise)
}

/// What every row would be encoded to, by length.
struct Lengths {
    bytes: Vec<usize>,
    /// Rows whose length alone does not tell; empty where none is.
    unsure: Vec<bool>,
}

impl Lengths {
    fn of(family: Family, batch: &RecordBatch) -> Lengths {
        let topic = family.topic();
        // The branch of a union is one byte, whether a value follows or not.
        let unions = topic.fields.iter().filter(|field| !field.required).count();
        let mut lengths = Lengths { bytes: vec![frame::PREFIX_LEN + unions; batch.num_rows()], unsure: Vec::new() };
        for (field, column) in topic.fields.iter().zip(batch.columns()) {
            if column.null_count() < column.len() {
                lengths.add(field.kind, column);
            }
        }
        lengths
    }

    fn add(&mut self, kind: Kind, column: &ArrayRef) {
        match kind {
            Kind::Text => {
                let text = column.as_string::<i32>();
                self.each(column, |row| counted(text.value_length(row)));
            }
            Kind::Bytes => {
                let bytes = column.as_binary::<i32>();
                self.each(column, |row| counted(bytes.value_length(row)));
            }
            Kind::I32 => {
                let values = column.as_primitive::<Int32Type>().values();
                self.each(column, |row| varint(i64::from(values[row])));
            }
            Kind::Date => {
                let values = column.as_primitive::<Date32Type>().values();
                self.each(column, |row| varint(i64::from(values[row])));
            }
            Kind::I64 | Kind::Time => {
                let values = column.as_primitive::<Int64Type>().values();
                self.each(column, |row| varint(values[row]));
            }
            Kind::Bool => {
                let values = column.as_boolean();
                self.each(column, |_| 1);
                self.doubt(column, |row| values.value(row));
            }
            Kind::U64 | Kind::Price | Kind::Tokens | Kind::Amount | Kind::Factor => {
                let values = column.as_primitive::<Decimal128Type>().values();
                self.each(column, |row| decimal(values[row]));
                self.doubt(column, |row| values[row] == 0);
            }
        }
    }

    fn each(&mut self, column: &ArrayRef, length: impl Fn(usize) -> usize) {
        match column.nulls() {
            None => self.bytes.iter_mut().enumerate().for_each(|(row, bytes)| *bytes += length(row)),
            Some(nulls) => nulls.valid_indices().for_each(|row| self.bytes[row] += length(row)),
        }
    }

    fn doubt(&mut self, column: &ArrayRef, doubtful: impl Fn(usize) -> bool) {
        for row in (0..column.len()).filter(|row| column.is_valid(*row) && doubtful(*row)) {
            self.unsure.resize(self.bytes.len(), false);
            self.unsure[row] = true;
        }
    }
}

/// Bytes of a length and of what it counts.
fn counted(length: i32) -> usize {
    varint(i64::from(length)) + length.unsigned_abs() as usize
}

/// Bytes of a number: zigzag, seven bits a byte (Avro 1.11 specification, "Binary encoding").
fn varint(value: i64) -> usize {
    let zigzag = (value << 1) ^ (value >> 63);
    let bits = 64 - (zigzag | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Bytes of a decimal: its length, then two's complement without needless sign bytes.
fn decimal(unscaled: i128) -> usize {
    let magnitude_bits = 128 - (unscaled ^ (unscaled >> 127)).leading_zeros() as usize;
    1 + (magnitude_bits + 1).div_ceil(8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Rows, frame};

    /// A trade whose price and time have the given values.
    fn trade(price: i128, ts_event: i64, suspicious: Option<bool>) -> RecordBatch {
        let mut rows = Rows::new(Family::Trades);
        let topic = rows.topic();
        rows.text(topic.column("dataset"), "SYN.XSGE");
        rows.text(topic.column("change"), "new");
        rows.i32(topic.column("revision"), 0);
        rows.bytes(topic.column("source_id"), &[7; 16]);
        rows.i64(topic.column("source_record"), 0);
        rows.i64(topic.column("source_byte"), 0);
        rows.decimal(topic.column("price"), price);
        rows.i64(topic.column("ts_event"), ts_event);
        if let Some(suspicious) = suspicious {
            rows.bool(topic.column("suspicious"), suspicious);
        }
        rows.end_row();
        rows.finish().expect("the row is complete")
    }

    fn otherwise(batch: &RecordBatch, frame: &[u8]) -> bool {
        !spelled_otherwise(Family::Trades, batch, &[frame]).expect("rows encode").is_empty()
    }

    #[test]
    fn every_length_is_that_of_the_frame() {
        let edges = (0..127).flat_map(|bit| [1i128 << bit, (1 << bit) - 1, -(1i128 << bit), -(1 << bit) - 1]);
        let prices = edges.filter(|price| price.unsigned_abs() < 1_000_000_000_000_000_000);
        for price in prices {
            let ts_event = i64::try_from(price).expect("18 digits fit").wrapping_mul(9);
            let batch = trade(price, ts_event, Some(price > 0));
            let frame = &frame::encode(Family::Trades, &batch).expect("the row encodes")[0];
            assert_eq!(Lengths::of(Family::Trades, &batch).bytes, [frame.len()], "price {price}, time {ts_event}");
            assert!(!otherwise(&batch, frame));
        }
        for ts_event in [i64::MIN, i64::MIN + 1, -(1 << 62) - 1, 1 << 62, i64::MAX] {
            let batch = trade(1, ts_event, None);
            assert_eq!(
                Lengths::of(Family::Trades, &batch).bytes,
                [frame::encode(Family::Trades, &batch).expect("the row encodes")[0].len()]
            );
        }
    }

    #[test]
    fn a_zero_of_no_bytes_beside_a_number_with_a_needless_byte_is_found_out() {
        let batch = trade(0, 64, None);
        let ours = frame::encode(Family::Trades, &batch).expect("the row encodes")[0].to_vec();
        // The zero: branch 1, length 1, the byte 0. The time 64: branch 1, zigzag 128 in two bytes.
        let time = ours.windows(3).position(|bytes| bytes == [2, 0x80, 0x01]).expect("the time is there");
        let zero = ours.windows(3).rposition(|bytes| bytes == [2, 2, 0]).expect("the price is there");
        let mut theirs = ours.clone();
        theirs.splice(zero..zero + 3, [2, 0]);
        theirs.splice(time..time + 3, [2, 0x80, 0x81, 0x00]);
        assert_eq!(theirs.len(), ours.len());
        let decoded = frame::decode(Family::Trades, &[&theirs]).expect("it is a frame");
        assert_eq!(decoded.batch, batch, "both spellings say the same");
        assert!(otherwise(&batch, &theirs));
    }

    #[test]
    fn a_true_that_is_not_one_is_found_out() {
        let batch = trade(5, 64, Some(true));
        let ours = frame::encode(Family::Trades, &batch).expect("the row encodes")[0].to_vec();
        let at = ours.windows(2).rposition(|bytes| bytes == [2, 1]).expect("the flag is there");
        let mut theirs = ours.clone();
        theirs[at + 1] = 3;
        let decoded = frame::decode(Family::Trades, &[&theirs]).expect("it is a frame");
        assert_eq!(decoded.batch, batch, "both spellings say the same");
        assert!(otherwise(&batch, &theirs));
        assert!(!otherwise(&batch, &ours));
    }
}
