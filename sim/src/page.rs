//! The pages of one price list in the simulation: what `ingest::cursor` says is new in each of them, and what the log must then say stands.

use crate::dice::Dice;
use crate::log::{Log, PARTITIONS, Record};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Decimal128Type, Int32Type};
use bytes::Bytes;
use ingest::Error;
use ingest::cursor::{self, Decision};
use schemas::{Family, Rows};
use std::collections::HashMap;

/// Their parser: one whose pages are compared.
pub const PARSER: &str = cursor::SNAPSHOT_PARSERS[2];
/// Their dataset.
pub const DATASET: &str = "PAGES";
/// Models that a page may list.
const MODELS: usize = 3;
/// The source of a model's prices; those of files come before.
const PRICES: u32 = 1_000;
/// The name of a page as a source, by its number; its records have the sources of [`PRICES`].
const NAMES: u32 = 2_000;
/// Prices are below it, so that a record's number holds a revision and a price.
const PRICE_END: u32 = 256;
const SECOND: i64 = 1_000_000_000;

/// The prices of all models at a time, whole; `None` = not listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Unlike that of any other page.
    second: i64,
    prices: [Option<u32>; MODELS],
}

impl Page {
    /// A page that lists at least one model.
    pub fn roll(dice: &mut Dice, second: i64) -> Page {
        let mut prices = std::array::from_fn(|_| dice.chance(700).then(|| 1 + dice.below(3) as u32));
        prices[dice.index(MODELS)].get_or_insert(1);
        Page { second, prices }
    }

    /// Its bytes.
    pub fn content(&self) -> Vec<u8> {
        format!("{self:?}").into_bytes()
    }

    /// Rows that it lists.
    pub fn listed(&self) -> i64 {
        self.prices.iter().flatten().count() as i64
    }

    /// What is new in it, given what the log says is known.
    pub fn decide(&self, known: &HashMap<String, Bytes>, name: &str) -> Result<Decision, Error> {
        cursor::decide(Family::PriceList, &self.rows()?, &[], known, name)
    }

    fn rows(&self) -> Result<RecordBatch, Error> {
        let column = |name| Family::PriceList.topic().column(name);
        let mut rows = Rows::new(Family::PriceList);
        for (number, (model, price)) in (0i64..).zip(self.prices.iter().enumerate().filter_map(|(model, price)| Some((model, (*price)?)))) {
            rows.text(column("model"), &model.to_string());
            rows.decimal(column("price"), price.into());
            rows.i64(column("effective_by"), self.second * SECOND);
            rows.i64(column("source_record"), number);
            rows.i64(column("source_byte"), 0);
            rows.end_row();
        }
        rows.default_text(column("dataset"), DATASET);
        rows.default_text(column("change"), "new");
        rows.default_i32(column("revision"), 0);
        rows.default_bytes(column("source_id"), &[0; 16]);
        Ok(rows.finish()?)
    }
}

/// The source that stands for page `number` as a whole.
pub fn source(number: usize) -> u32 {
    NAMES + number as u32
}

/// The published rows as records: the model is the source, revision and price its number. A price of 0 is a cancel.
pub fn records(rows: &RecordBatch) -> Vec<Record> {
    let column = |name| rows.column(Family::PriceList.topic().column(name));
    let (models, changes) = (column("model").as_string::<i32>(), column("change").as_string::<i32>());
    let (revisions, prices) = (column("revision").as_primitive::<Int32Type>(), column("price").as_primitive::<Decimal128Type>());
    let record = |row| {
        let model: u32 = models.value(row).parse().expect("models are numbers here");
        let price = if changes.value(row) == "cancel" { 0 } else { prices.value(row) as u32 };
        assert!(prices.is_null(row) == (price == 0), "a cancel has no price, and nothing else has none");
        Record { source: PRICES + model, number: revisions.value(row) as u32 * PRICE_END + price, bad: false }
    };
    (0..rows.num_rows()).map(record).collect()
}

/// The partition of a model's prices; `None` = no price.
pub fn partition(record: Record) -> Option<usize> {
    (PRICES..NAMES).contains(&record.source).then_some((record.source % 2) as usize)
}

/// The revisions of each model have no hole, each says something that the one before it did not, and the last ones are those of the newest page.
pub fn check<'a>(log: &Log, pages: impl Iterator<Item = &'a Page>) -> Result<(), String> {
    let mut standing: HashMap<u32, (u32, u32)> = HashMap::new();
    for at in 0..PARTITIONS.len() {
        for record in (0..log.end_of(at)).filter_map(|offset| log.committed(at, offset)).filter(|record| partition(*record).is_some()) {
            let (revision, price) = (record.number / PRICE_END, record.number % PRICE_END);
            let before = standing.insert(record.source - PRICES, (revision, price));
            let model = record.source - PRICES;
            if before.map_or(0, |(revision, _)| revision + 1) != revision {
                return Err(format!("revision {revision} of model {model} stands behind {before:?}"));
            }
            if before.map_or(0, |(_, price)| price) == price {
                return Err(format!("revision {revision} of model {model} says nothing new: {price}"));
            }
        }
    }
    let Some(newest) = pages.max_by_key(|page| page.second) else { return Ok(()) };
    for (model, price) in (0..).zip(newest.prices) {
        let stands = standing.get(&model).map_or(0, |(_, price)| *price);
        if stands != price.unwrap_or(0) {
            return Err(format!("the price of model {model} stands at {stands}, and the newest page has {price:?}"));
        }
    }
    Ok(())
}
