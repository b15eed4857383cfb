//! CTP depth snapshots in CSV to `snapshots`: one row each, all 44 columns kept so that they can be told again.

use super::clock::{self, date_of};
use super::products;
use super::records::{Fields, Records, Shape};
use super::table::{Fault, Made, RowMaker, Table, first_line, header_line, is_dataset, positions};
use crate::Error;
use crate::source::{Format, Given, Header, Parser};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Date32Type, Decimal128Type, Int64Type};
use chrono::NaiveDate;
use schemas::{Family, Rows, exact};
use std::collections::BTreeMap;
use std::io::Read;

/// The format.
pub fn format() -> Format {
    Format { parser: "ctp/1", recognise, open }
}

const SCHEMA: &str = "ctp";
const SHAPE: Shape = Shape { delimiter: b',', multiline: false, growing: false };
/// So many of the 44 column names make a file a CTP one; which of them are wrong is then an error that names them.
const COLUMNS_ENOUGH: usize = 30;
const ASK_FOR_DATASET: &str = "say whose snapshots these are with --dataset CODE, for example --dataset XSGE.CTP";

/// What a CTP column is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    TradingDay,
    ActionDay,
    UpdateTime,
    UpdateMillisec,
    Symbol,
    Text,
    /// A double that is a price, a limit or a delta: an exchange may write 0 where it has none.
    Quote,
    /// A double for which 0 is a value.
    Number,
    /// An integer.
    Size,
}

/// CTP's columns in the recorder's order, the column of `snapshots` that holds each, and its kind. The three clock columns become `ts_event` and `action_day`.
///
/// Which value is "none" depends on kind and exchange:
///
/// | | `N/A` and DBL_MAX | zero |
/// |---|---|---|
/// | `Quote` at CZCE | none | none (the spelling is `0.00`) |
/// | `Quote` elsewhere, `Number` everywhere | none (the spelling is `N/A`) | a value |
/// | `Size` | refused | a value, also beside an absent price |
const COLUMNS: [(&str, &str, Kind); 44] = [
    ("TradingDay", "trade_date", Kind::TradingDay),
    ("InstrumentID", "symbol", Kind::Symbol),
    ("ExchangeID", "exchange_id", Kind::Text),
    ("ExchangeInstID", "exchange_inst_id", Kind::Text),
    ("LastPrice", "last_price", Kind::Quote),
    ("PreSettlementPrice", "prev_settlement_price", Kind::Quote),
    ("PreClosePrice", "prev_close", Kind::Quote),
    ("PreOpenInterest", "prev_open_interest", Kind::Number),
    ("OpenPrice", "open", Kind::Quote),
    ("HighestPrice", "high", Kind::Quote),
    ("LowestPrice", "low", Kind::Quote),
    ("Volume", "volume", Kind::Number),
    ("Turnover", "turnover", Kind::Number),
    ("OpenInterest", "open_interest", Kind::Number),
    ("ClosePrice", "close", Kind::Quote),
    // CZCE writes N/A here, and 0.00 in every other price: a settlement price of zero is not its "none".
    ("SettlementPrice", "settlement_price", Kind::Number),
    ("UpperLimitPrice", "upper_limit", Kind::Quote),
    ("LowerLimitPrice", "lower_limit", Kind::Quote),
    ("PreDelta", "prev_delta", Kind::Quote),
    ("CurrDelta", "curr_delta", Kind::Quote),
    ("UpdateTime", "ts_event", Kind::UpdateTime),
    ("UpdateMillisec", "ts_event", Kind::UpdateMillisec),
    ("BidPrice1", "bid_px_00", Kind::Quote),
    ("BidVolume1", "bid_sz_00", Kind::Size),
    ("AskPrice1", "ask_px_00", Kind::Quote),
    ("AskVolume1", "ask_sz_00", Kind::Size),
    ("BidPrice2", "bid_px_01", Kind::Quote),
    ("BidVolume2", "bid_sz_01", Kind::Size),
    ("AskPrice2", "ask_px_01", Kind::Quote),
    ("AskVolume2", "ask_sz_01", Kind::Size),
    ("BidPrice3", "bid_px_02", Kind::Quote),
    ("BidVolume3", "bid_sz_02", Kind::Size),
    ("AskPrice3", "ask_px_02", Kind::Quote),
    ("AskVolume3", "ask_sz_02", Kind::Size),
    ("BidPrice4", "bid_px_03", Kind::Quote),
    ("BidVolume4", "bid_sz_03", Kind::Size),
    ("AskPrice4", "ask_px_03", Kind::Quote),
    ("AskVolume4", "ask_sz_03", Kind::Size),
    ("BidPrice5", "bid_px_04", Kind::Quote),
    ("BidVolume5", "bid_sz_04", Kind::Size),
    ("AskPrice5", "ask_px_04", Kind::Quote),
    ("AskVolume5", "ask_sz_04", Kind::Size),
    ("AveragePrice", "average_price", Kind::Quote),
    ("ActionDay", "action_day", Kind::ActionDay),
];

const NOT_AVAILABLE: &str = "N/A";

fn recognise(head: &[u8], given: &Given) -> bool {
    given.mapping.is_none() && {
        let names = first_line(head, b',');
        COLUMNS.iter().filter(|(name, ..)| names.iter().any(|n| n == name)).count() >= COLUMNS_ENOUGH
    }
}

fn open(input: Box<dyn Read + Send>, given: &Given) -> Result<Box<dyn Parser>, Error> {
    let file = given.label();
    if let Some(code) = given.dataset.as_ref().filter(|code| !is_dataset(code)) {
        let what = format!("{code:?} is not a dataset code (at most 15 letters, digits, dots)");
        return Err(Error::Input { file, what, todo: ASK_FOR_DATASET.into() });
    }
    let mut records = Records::new(input, file.clone(), Shape { growing: given.growing, ..SHAPE });
    let expected: Vec<String> = COLUMNS.iter().map(|(name, ..)| (*name).to_string()).collect();
    let header = header_line(&mut records, &file, "the 44 columns of a CTP depth snapshot, TradingDay to ActionDay")?;
    let at = positions(&file, &header, &expected)?;
    let facts = Header { columns: Some(header), schema: Some(SCHEMA.into()), ..Header::default() };
    let maker = Snapshots::new(at, given.dataset.clone());
    Ok(Box::new(Table::new(file, records, maker, facts, BTreeMap::new())))
}

/// One column to read: where it stands in the file, and where it goes.
struct Column {
    name: &'static str,
    at: usize,
    kind: Kind,
    target: usize,
}

struct Snapshots {
    columns: Vec<Column>,
    given: Option<String>,
    /// The dataset of the first row.
    first: Option<String>,
    dataset: usize,
    schema: usize,
    ts_event: usize,
    date: usize,
}

/// The clock columns of a record.
#[derive(Default)]
struct Stamp<'a> {
    day: Option<NaiveDate>,
    time: &'a str,
    ms: i64,
}

impl Snapshots {
    fn new(at: Vec<usize>, given: Option<String>) -> Snapshots {
        let topic = Family::Snapshots.topic();
        let columns =
            COLUMNS.iter().zip(at).map(|((name, target, kind), at)| Column { name, at, kind: *kind, target: topic.column(target) });
        Snapshots {
            columns: columns.collect(),
            given,
            first: None,
            dataset: topic.column("dataset"),
            schema: topic.column("schema"),
            ts_event: topic.column("ts_event"),
            date: topic.column("date"),
        }
    }

    fn dataset_of<'a>(&'a self, symbol: &str) -> Result<&'a str, Fault> {
        let known = self.given.as_deref().or_else(|| products::exchange(symbol).map(|exchange| exchange.dataset));
        known.ok_or_else(|| Fault {
            field: Some("InstrumentID".into()),
            reason: format!("{:?} begins with no product that is known here", clock::shortened(symbol)),
            file: Some(ASK_FOR_DATASET),
        })
    }
}

impl RowMaker for Snapshots {
    fn family(&self) -> Family {
        Family::Snapshots
    }

    fn width(&self) -> usize {
        COLUMNS.len()
    }

    fn expected(&self) -> String {
        "TradingDay to ActionDay".into()
    }

    fn make(&mut self, fields: &Fields, rows: &mut Rows) -> Result<Made, Fault> {
        let symbol = fields.get(self.columns[1].at);
        let dataset = self.dataset_of(symbol)?;
        let zero_is_absent = zero_is_absent(dataset, symbol);
        let mut stamp = Stamp::default();
        for column in &self.columns {
            set(rows, column, fields.get(column.at), zero_is_absent, &mut stamp).map_err(|reason| Fault::value(column.name, reason))?;
        }
        let day = stamp.day.ok_or_else(|| Fault::value("ActionDay", "is absent"))?;
        let ts = clock::shanghai(day, stamp.time, stamp.ms).map_err(|reason| Fault::value("UpdateTime", reason))?;
        rows.i64(self.ts_event, ts);
        rows.date(self.date, date_of(ts));
        rows.text(self.schema, SCHEMA);
        rows.text(self.dataset, dataset);
        if self.first.is_none() {
            self.first = Some(dataset.to_string());
        }
        Ok(Made::Row)
    }

    fn dataset(&self) -> String {
        self.first.clone().or_else(|| self.given.clone()).unwrap_or_default()
    }
}

fn set<'a>(rows: &mut Rows, column: &Column, text: &'a str, zero_is_absent: bool, stamp: &mut Stamp<'a>) -> Result<(), String> {
    let target = column.target;
    match column.kind {
        Kind::TradingDay => rows.date(target, clock::days(clock::date(text)?)),
        Kind::ActionDay => {
            let day = clock::date(text)?;
            stamp.day = Some(day);
            rows.date(target, clock::days(day));
        }
        Kind::UpdateTime => stamp.time = text,
        Kind::UpdateMillisec => stamp.ms = milliseconds(text)?,
        Kind::Symbol | Kind::Text => rows.text(target, text),
        Kind::Size => {
            let size = exact::parse(text, 19, 0, 0).map_err(|e| e.to_string())?;
            rows.i64(target, i64::try_from(size).map_err(|_| format!("{text} is beyond a 64-bit integer"))?);
        }
        Kind::Quote | Kind::Number => {
            if is_none(text) {
                return Ok(());
            }
            let (precision, scale) = rows.topic().fields[target].kind.decimal().expect("quotes and numbers go to decimal columns");
            let value = exact::parse(text, precision, scale as u32, 0).map_err(|e| format!("{e}; expected a number or N/A"))?;
            if !(value == 0 && zero_is_absent && column.kind == Kind::Quote) {
                rows.decimal(target, value);
            }
        }
    }
    Ok(())
}

fn milliseconds(text: &str) -> Result<i64, String> {
    let fail = || format!("{:?} is not a number of milliseconds from 0 to 999", clock::shortened(text));
    let ms = exact::parse(text, 18, 0, 0).map_err(|_| fail())?;
    i64::try_from(ms).ok().filter(|ms| (0..1000).contains(ms)).ok_or_else(fail)
}

/// The API's "none": a recorder writes `N/A` for it, or the largest double as C prints it, with or without exponent.
fn is_none(text: &str) -> bool {
    text == NOT_AVAILABLE
        || (text.starts_with("1.79769")
            && (text.ends_with("e+308") || text.ends_with("E+308") || text.ends_with("e308") || text.ends_with("E308")))
        || (text.len() >= 309 && text.starts_with("17976931348623"))
}

/// Whether zero is "none" in the prices of this row. A constant of the exchange; a dataset that the user named follows its symbols' exchange.
fn zero_is_absent(dataset: &str, symbol: &str) -> bool {
    match products::exchange(symbol) {
        Some(exchange) => exchange.zero_is_absent,
        None => products::EXCHANGES.iter().any(|exchange| exchange.dataset == dataset && exchange.zero_is_absent),
    }
}

/// The 44 columns of a row of `snapshots` as the recorder writes them, in [`column_names`]' order. Values are those of the file; how many zeros end a number
/// is not kept, and an absent value is told in its exchange's one spelling (DBL_MAX as `N/A`).
///
/// # Panics
/// When `batch` is not in the family's wire (or stored) schema.
pub fn columns_of(batch: &RecordBatch, row: usize) -> Vec<String> {
    let topic = Family::Snapshots.topic();
    let array = |name: &str| batch.column(topic.column(name));
    let text = |name: &str| array(name).as_string::<i32>().value(row);
    let zero_is_absent = zero_is_absent(text("dataset"), text("symbol"));
    let local = |format: &str| {
        let ns = array("ts_event").as_primitive::<Int64Type>().value(row) + 8 * 3600 * 1_000_000_000;
        chrono::DateTime::from_timestamp_nanos(ns).format(format).to_string()
    };
    COLUMNS
        .iter()
        .map(|(_, target, kind)| match kind {
            Kind::TradingDay | Kind::ActionDay => {
                let days = array(target).as_primitive::<Date32Type>().value(row);
                NaiveDate::from_num_days_from_ce_opt(days + 719_163).map(|day| day.format("%Y%m%d").to_string()).unwrap_or_default()
            }
            Kind::UpdateTime => local("%H:%M:%S"),
            Kind::UpdateMillisec => local("%3f"),
            Kind::Symbol | Kind::Text => text(target).to_string(),
            Kind::Size => array(target).as_primitive::<Int64Type>().value(row).to_string(),
            Kind::Quote | Kind::Number if array(target).is_valid(row) => number(array(target).as_primitive::<Decimal128Type>().value(row)),
            Kind::Quote if zero_is_absent => "0.00".into(),
            Kind::Quote | Kind::Number => NOT_AVAILABLE.into(),
        })
        .collect()
}

/// The names of the columns that [`columns_of`] gives.
pub fn column_names() -> [&'static str; 44] {
    COLUMNS.map(|(name, ..)| name)
}

/// A decimal of scale 9 without the zeros at its end.
fn number(value: i128) -> String {
    exact::print(value, 9).trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
#[path = "ctp/tests.rs"]
mod tests;
