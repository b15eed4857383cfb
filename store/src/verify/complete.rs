//! Sources that declare their sequence complete: the numbers that are missing between the first and the last of them.
//!
//! A mapping declares it, `sources.path_facts` carries it (`{"sequence_complete":"source"}`, or `"symbol"`: numbers count up by one within the source, or
//! within each symbol of it). What is declared is checked over all partitions, whatever the order of the records: one that was requeued later fills its
//! hole. Of any other source nothing is asked: a DBN file may be filtered by symbol.

use super::sequences::{Source, Sources, Within};
use super::{Finding, TOLD_MAX};
use crate::Error;
use crate::spool::Spool;
use arrow::array::{Array, AsArray, RecordBatch};
use lake::{Lake, Table};
use schemas::{Family, SEQUENCE_COMPLETE};
use std::collections::HashMap;

/// Numbers of one series that are put in order at a time, as a power of two.
const BUCKET_BITS: u32 = 20;
const ENTRY_BYTES: usize = 29;

/// Numbers by source, series and bucket: the number, then where its record stands. The number comes first, so they come in its order.
pub(super) type Numbers = Spool<Bucket, ENTRY_BYTES>;
pub(super) type Bucket = (Source, u32, i64);

/// A number and the record that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) sequence: i64,
    pub(super) family: Family,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) record: i64,
}

impl Number {
    pub(super) fn bucket(&self, source: Source, series: u32) -> Bucket {
        (source, series, self.sequence >> BUCKET_BITS)
    }

    pub(super) fn bytes(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        // The order of bytes is that of the numbers, negative ones first.
        bytes[..8].copy_from_slice(&(self.sequence ^ i64::MIN).to_be_bytes());
        bytes[8] = Family::ALL.iter().position(|known| *known == self.family).unwrap_or_default() as u8;
        bytes[9..13].copy_from_slice(&self.partition.to_be_bytes());
        bytes[13..21].copy_from_slice(&self.offset.to_be_bytes());
        bytes[21..].copy_from_slice(&self.record.to_be_bytes());
        bytes
    }

    fn of(bytes: &[u8; ENTRY_BYTES]) -> Number {
        let long = |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Number {
            sequence: long(0) ^ i64::MIN,
            family: Family::ALL[usize::from(bytes[8])],
            partition: i32::from_be_bytes(bytes[9..13].try_into().expect("four bytes")),
            offset: long(13),
            record: long(21),
        }
    }
}

/// Notes which sources declare it. A file of `sources` that cannot be read is a finding of whoever reads all files.
pub(super) async fn declared(lake: &Lake, tables: &[Table], sources: &Sources) {
    let Some(table) = tables.iter().find(|table| table.family() == Family::Sources) else { return };
    for file in table.snapshot().files() {
        let (lake, file) = (lake.clone(), file.clone());
        // A task of its own: a panic of the reader ends it alone.
        let read = tokio::spawn(async move {
            let batches = lake.read(Family::Sources, &file).await?;
            batches.into_iter().collect::<Result<Vec<_>, _>>()
        });
        for rows in read.await.ok().and_then(Result::ok).into_iter().flatten() {
            declare(&rows, sources);
        }
    }
}

fn declare(rows: &RecordBatch, sources: &Sources) {
    let topic = Family::Sources.topic();
    let ids = rows.column(topic.column("source_id")).as_binary::<i32>();
    let facts = rows.column(topic.column("path_facts")).as_string::<i32>();
    for row in (0..rows.num_rows()).filter(|row| facts.is_valid(*row)) {
        let facts: HashMap<String, String> = serde_json::from_str(facts.value(row)).unwrap_or_default();
        match facts.get(SEQUENCE_COMPLETE).map(String::as_str) {
            Some("source") => sources.declare(ids.value(row), Within::Source),
            Some("symbol") => sources.declare(ids.value(row), Within::Symbol),
            _ => {}
        }
    }
}

/// The holes, each behind the record before it.
pub(super) fn holes(numbers: &mut Numbers, sources: &Sources) -> Result<Vec<Finding>, Error> {
    let (mut findings, mut told) = (Vec::new(), HashMap::new());
    for (source, series) in sources.series() {
        let mut entries = numbers.take((source, series, i64::MIN)..=(source, series, i64::MAX));
        let mut before: Option<Number> = None;
        while let Some(entry) = entries.next()? {
            let number = Number::of(&entry);
            if let Some(before) = before.filter(|before| number.sequence.checked_sub(before.sequence).is_none_or(|step| step > 1)) {
                let told: &mut usize = told.entry(source).or_default();
                *told += 1;
                if *told <= TOLD_MAX {
                    findings.push(hole(&before, &number, &sources.told_series(source, series)));
                }
            }
            before = Some(number);
        }
    }
    for (source, more) in told.into_iter().filter(|(_, told)| *told > TOLD_MAX) {
        let what = format!("and {} more holes of {}", more - TOLD_MAX, sources.told(source));
        findings.push(Finding::of_table(Family::Sources, "incomplete", what));
    }
    Ok(findings)
}

fn hole(before: &Number, behind: &Number, of: &str) -> Finding {
    let missing = match (before.sequence + 1, behind.sequence - 1) {
        (from, to) if from == to => format!("{from}: it is"),
        (from, to) => format!("{from} to {to}: they are"),
    };
    Finding {
        table: before.family.topic().name,
        partition: Some(before.partition),
        offsets: Some((before.offset, before.offset)),
        kind: "incomplete",
        what: format!("{of} declares its sequence complete, and has no {missing} missing behind its record {}", before.record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(sequence: i64) -> Number {
        Number { sequence, family: Family::Trades, partition: 3, offset: sequence.wrapping_mul(2), record: sequence.wrapping_sub(1) }
    }

    #[test]
    fn holes_are_told_once_between_neighbours_in_any_order() {
        let sources = Sources::default();
        sources.declare(&[7; 16], Within::Symbol);
        let source = sources.number(&[7; 16]);
        sources.name(&[7; 16], "feed.csv");
        let (a, b) = (sources.series_of(source, "A"), sources.series_of(source, "B"));
        assert_eq!((sources.series_of(source, "A"), sources.within(source)), (a, Some(Within::Symbol)));
        let mut numbers = Numbers::new().unwrap();
        // A has 5 twice and lacks 6 and 7; B is whole across the end of a bucket, and begins below zero.
        let bucket = 1 << BUCKET_BITS;
        for (series, sequence) in
            [(a, 8), (a, 4), (a, 5), (a, 5), (b, bucket), (b, bucket - 1)].into_iter().chain((-2..bucket - 1).map(|n| (b, n)))
        {
            let number = number(sequence);
            numbers.push(number.bucket(source, series), &number.bytes()).unwrap();
        }
        let found = holes(&mut numbers, &sources).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].table, found[0].partition, found[0].offsets, found[0].kind),
            ("trades", Some(3), Some((10, 10)), "incomplete")
        );
        assert_eq!(
            found[0].what,
            "feed.csv, symbol A declares its sequence complete, and has no 6 to 7: they are missing behind its record 4"
        );
    }

    #[test]
    fn a_number_is_told_again_and_orders_by_its_bytes() {
        let all = [i64::MIN, -1, 0, 1, i64::MAX].map(number);
        assert!(all.windows(2).all(|two| two[0].bytes() < two[1].bytes()));
        assert!(all.iter().all(|number| Number::of(&number.bytes()) == *number));
    }
}
