//! One DBN record of a known layout to one row of its family, field by field as the layout says; sentinels become NULL.

use super::layout::{HEADER_LEN, Layout, OHLCV_OLD_RTYPE, TS_OUT_LEN, Wire, is_gateway_message, layout, rtypes};
use super::symbols::Symbols;
use dbn::{RType, SType, Schema, rtype};
use schemas::{Family, Rows};
use sha2::{Digest, Sha256};
use std::borrow::Cow;

const DAY_NS: i64 = 86_400_000_000_000;
/// `DECIMAL(18,9)` holds less than this, unscaled.
const PRICE_END: u64 = 1_000_000_000_000_000_000;
/// Whole quantities become `DECIMAL(38,9)`.
const AMOUNT_ONE: i128 = 1_000_000_000;
/// Media type of a gateway's message in `documents`: the record's own bytes.
pub(super) const RECORD_MEDIA_TYPE: &str = "application/vnd.databento.dbn-record";

/// Why a record is no row: the field at fault, what is wrong, what was expected.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) field: &'static str,
    pub(super) reason: String,
}

/// What the file says of all its records.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileFacts {
    /// DBN version, 1 to 3.
    pub(super) version: u8,
    /// The schema that the file claims; `None` = mixed.
    pub(super) schema: Option<Schema>,
    /// Whether every record ends in a send time.
    pub(super) ts_out: bool,
}

/// How the records of one type in one file become rows: the layout with its columns looked up once.
#[derive(Debug)]
pub(super) struct Plan {
    /// Family of the rows.
    pub(super) family: Family,
    /// Length of a record.
    pub(super) size: usize,
    /// Value of column `schema`.
    pub(super) schema: &'static str,
    /// True when the file claims a schema that has no such records.
    pub(super) contradicts: bool,
    rtype: u8,
    version: u8,
    steps: Vec<Step>,
    common: Common,
    ts_recv: Option<usize>,
    ts_out: Option<(usize, usize)>,
    rtype_column: Option<usize>,
    dbn_version_column: Option<usize>,
    special: Special,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    name: &'static str,
    column: usize,
    offset: usize,
    wire: Wire,
}

/// Positions of the columns that every family begins with.
#[derive(Debug)]
struct Common {
    symbol: usize,
    publisher_id: usize,
    instrument_id: usize,
    schema: usize,
    ts_event: usize,
    date: usize,
    source_record: usize,
    source_byte: usize,
}

/// What a record type needs beside its fields.
#[derive(Debug)]
enum Special {
    None,
    /// A bar's end: column and length in nanoseconds.
    Bar {
        ts_end: usize,
        length: i64,
    },
    Definition(Box<Settled>),
    Mapping {
        kind: usize,
    },
    Message {
        media_type: usize,
        body: usize,
        sha256: usize,
        part: usize,
        parts: usize,
    },
}

/// Where a definition's settled columns are, and what they are filled from.
#[derive(Debug)]
struct Settled {
    /// Text of a field to a column, where it is not empty: (offset, length, column).
    texts: Vec<(usize, usize, usize)>,
    /// Decimal of a field to a column: (offset, column).
    decimals: Vec<(usize, usize)>,
    raw_symbol: (usize, usize),
    instrument_class: usize,
    expiration: usize,
    maturity_year: usize,
    maturity_month: usize,
    kind: usize,
    expiry: usize,
    expiry_month: usize,
    valid_from: usize,
}

/// The plans of a file, by record type.
pub(super) fn plans(file: FileFacts) -> Vec<Option<Plan>> {
    (0..=u8::MAX).map(|rtype| layout(file.version, rtype).map(|layout| Plan::new(layout, rtype, file))).collect()
}

impl Plan {
    fn new(layout: &'static Layout, rtype: u8, file: FileFacts) -> Plan {
        let topic = layout.family.topic();
        let claimed = file.schema.filter(|schema| rtypes(*schema).contains(&rtype));
        let size = layout.size();
        let steps = layout.columns().map(|(name, offset, wire)| Step { name, column: topic.column(name), offset, wire }).collect();
        Plan {
            family: layout.family,
            size: size + if file.ts_out { TS_OUT_LEN } else { 0 },
            schema: claimed.map_or(layout.schema, |schema| schema.as_str()),
            contradicts: file.schema.is_some() && claimed.is_none() && !is_gateway_message(rtype),
            rtype,
            version: file.version,
            steps,
            common: Common {
                symbol: topic.column("symbol"),
                publisher_id: topic.column("publisher_id"),
                instrument_id: topic.column("instrument_id"),
                schema: topic.column("schema"),
                ts_event: topic.column("ts_event"),
                date: topic.column("date"),
                source_record: topic.column("source_record"),
                source_byte: topic.column("source_byte"),
            },
            ts_recv: layout.offset("ts_recv"),
            ts_out: topic.find_column("ts_out").filter(|_| file.ts_out).map(|column| (column, size)),
            rtype_column: topic.find_column("rtype"),
            dbn_version_column: topic.find_column("dbn_version"),
            special: Special::new(layout, rtype, claimed),
        }
    }

    /// Adds the record as a row, or says why it is none; then the row is left abandoned. `record` is `size` bytes long.
    pub(super) fn push(
        &self,
        rows: &mut Rows,
        symbols: &mut Symbols,
        record: &[u8],
        source_record: i64,
        source_byte: u64,
    ) -> Result<(), Fault> {
        let filled = self.fill(rows, symbols, record);
        match filled {
            Ok(()) => {
                rows.i64(self.common.source_record, source_record);
                rows.i64(self.common.source_byte, source_byte as i64);
                rows.end_row();
            }
            Err(_) => rows.abandon_row(),
        }
        filled
    }

    fn fill(&self, rows: &mut Rows, symbols: &mut Symbols, record: &[u8]) -> Result<(), Fault> {
        let common = &self.common;
        let instrument_id = u32_at(record, 4);
        rows.i32(common.publisher_id, i32::from(u16_at(record, 2)));
        rows.i64(common.instrument_id, i64::from(instrument_id));
        rows.text(common.schema, self.schema);
        let ts_event = time_at(record, 8, "ts_event")?;
        if let Some(ts_event) = ts_event {
            rows.i64(common.ts_event, ts_event);
        }
        let ts_recv = self.ts_recv.map(|offset| time_at(record, offset, "ts_recv")).transpose()?.flatten();
        let day = ts_recv.or(ts_event).map(|ts| (ts / DAY_NS) as i32);
        if let Some(day) = day {
            rows.date(common.date, day);
        }
        if let Some(column) = self.rtype_column {
            rows.i32(column, i32::from(self.rtype));
        }
        if let Some(column) = self.dbn_version_column {
            rows.i32(column, i32::from(self.version));
        }
        if let Some((column, offset)) = self.ts_out
            && let Some(ts_out) = time_at(record, offset, "ts_out")?
        {
            rows.i64(column, ts_out);
        }
        for step in &self.steps {
            step.fill(rows, record)?;
        }
        match &self.special {
            Special::None => set_symbol(rows, common.symbol, symbols, instrument_id, day),
            Special::Bar { ts_end, length } => {
                set_symbol(rows, common.symbol, symbols, instrument_id, day);
                if let Some(end) = ts_event.and_then(|start| start.checked_add(*length)) {
                    rows.i64(*ts_end, end);
                }
            }
            Special::Definition(settled) => {
                let (offset, len) = settled.raw_symbol;
                match &*text(&record[offset..offset + len]) {
                    "" => set_symbol(rows, common.symbol, symbols, instrument_id, day),
                    raw_symbol => rows.text(common.symbol, raw_symbol),
                }
                settled.fill(rows, record, ts_recv.or(ts_event));
            }
            Special::Mapping { kind } => {
                rows.text(*kind, "mapping");
                if let Some(name) = raw_symbol_of_mapping(self.version, record) {
                    symbols.map_live(instrument_id, &name);
                }
            }
            Special::Message { media_type, body, sha256, part, parts } => {
                rows.text(*media_type, RECORD_MEDIA_TYPE);
                rows.bytes(*body, record);
                rows.bytes(*sha256, &Sha256::digest(record));
                rows.i32(*part, 0);
                rows.i32(*parts, 1);
            }
        }
        Ok(())
    }
}

fn set_symbol(rows: &mut Rows, column: usize, symbols: &mut Symbols, instrument_id: u32, day: Option<i32>) {
    if let Some(symbol) = day.and_then(|day| symbols.find(instrument_id, day)) {
        rows.text(column, symbol);
    }
}

impl Special {
    fn new(layout: &'static Layout, rtype: u8, claimed: Option<Schema>) -> Special {
        let topic = layout.family.topic();
        match layout.family {
            Family::Bars => match bar_length_ns(rtype, claimed) {
                Some(length) => Special::Bar { ts_end: topic.column("ts_end"), length },
                None => Special::None,
            },
            Family::Instruments if rtype == rtype::INSTRUMENT_DEF => Special::Definition(Box::new(Settled::new(layout))),
            Family::Instruments => Special::Mapping { kind: topic.column("kind") },
            Family::Documents => Special::Message {
                media_type: topic.column("media_type"),
                body: topic.column("body"),
                sha256: topic.column("sha256"),
                part: topic.column("part"),
                parts: topic.column("parts"),
            },
            _ => Special::None,
        }
    }
}

/// How long a bar lasts: its record type says it, for the old type the file's schema. A session (`ohlcv-eod`) has no fixed length.
fn bar_length_ns(rtype: u8, claimed: Option<Schema>) -> Option<i64> {
    let rtype = match (rtype, claimed) {
        (OHLCV_OLD_RTYPE, Some(schema)) => RType::from(schema) as u8,
        (rtype, _) => rtype,
    };
    match rtype {
        rtype::OHLCV_1S => Some(1_000_000_000),
        rtype::OHLCV_1M => Some(60_000_000_000),
        rtype::OHLCV_1H => Some(3_600_000_000_000),
        rtype::OHLCV_1D => Some(DAY_NS),
        _ => None,
    }
}

impl Settled {
    fn new(layout: &'static Layout) -> Settled {
        let topic = layout.family.topic();
        let at = |name: &str| layout.offset(name).unwrap_or_else(|| panic!("every version's definition has {name}"));
        let text_at = |name: &str| {
            let (_, offset, wire) =
                layout.columns().find(|(field, _, _)| *field == name).unwrap_or_else(|| panic!("every version's definition has {name}"));
            (offset, wire.width())
        };
        let text = |from: &str, to: &str| {
            let (offset, len) = text_at(from);
            (offset, len, topic.column(to))
        };
        Settled {
            texts: vec![
                text("exchange", "mic"),
                text("asset", "root"),
                text("unit_of_measure", "unit"),
                text("dbn_currency", "currency"),
                text("dbn_underlying", "underlying"),
            ],
            decimals: vec![(at("unit_of_measure_qty"), topic.column("unit_qty")), (at("min_price_increment"), topic.column("tick_size"))],
            raw_symbol: text_at("raw_symbol"),
            instrument_class: at("instrument_class"),
            expiration: at("expiration"),
            maturity_year: at("maturity_year"),
            maturity_month: at("maturity_month"),
            kind: topic.column("kind"),
            expiry: topic.column("expiry"),
            expiry_month: topic.column("expiry_month"),
            valid_from: topic.column("valid_from"),
        }
    }

    /// The fields were filled before, so no value here is out of range.
    fn fill(&self, rows: &mut Rows, record: &[u8], valid_from: Option<i64>) {
        for (offset, len, column) in &self.texts {
            let value = text(&record[*offset..offset + len]);
            if !value.is_empty() {
                rows.text(*column, &value);
            }
        }
        for (offset, column) in &self.decimals {
            let value = i64_at(record, *offset);
            if value != dbn::UNDEF_PRICE {
                rows.decimal(*column, i128::from(value));
            }
        }
        if let Some(kind) = kind_of(record[self.instrument_class]) {
            rows.text(self.kind, kind);
        }
        let expiration = u64_at(record, self.expiration);
        if expiration != dbn::UNDEF_TIMESTAMP {
            rows.i64(self.expiry, expiration as i64);
        }
        let (year, month) = (u16_at(record, self.maturity_year), record[self.maturity_month]);
        if (1..=9999).contains(&year) && (1..=12).contains(&month) {
            rows.text(self.expiry_month, &format!("{year:04}-{month:02}"));
        }
        if let Some(valid_from) = valid_from {
            rows.i64(self.valid_from, valid_from);
        }
    }
}

/// What a DBN instrument class is called in column `kind`; `None` = not stated, or not known to us (the letter stays in `instrument_class`).
fn kind_of(instrument_class: u8) -> Option<&'static str> {
    Some(match instrument_class {
        b'F' => "future",
        b'C' | b'P' => "option",
        b'S' | b'T' | b'M' => "spread",
        b'K' => "stock",
        b'B' => "bond",
        b'I' => "index",
        b'X' => "fx_spot",
        b'Y' => "commodity_spot",
        _ => return None,
    })
}

/// What a live mapping says the number stands for: the outgoing symbol is the raw one, unless it is the number again; then the incoming one
/// is, if its type says so.
fn raw_symbol_of_mapping(version: u8, record: &[u8]) -> Option<Cow<'_, str>> {
    let layout = layout(version, rtype::SYMBOL_MAPPING)?;
    let field = |name: &str| {
        let (_, offset, wire) = layout.columns().find(|(field, _, _)| *field == name)?;
        Some(&record[offset..offset + wire.width()])
    };
    let stype_is = |name: &str, stype: SType| field(name).is_some_and(|number| number[0] == stype as u8);
    let out = text(field("mapped_symbol")?);
    if !stype_is("stype_out", SType::InstrumentId) && !out.is_empty() && out.parse::<u32>().is_err() {
        return Some(out);
    }
    let asked = text(field("symbol")?);
    if stype_is("stype_in", SType::RawSymbol) && !asked.is_empty() { Some(asked) } else { None }
}

impl Step {
    #[inline]
    fn fill(&self, rows: &mut Rows, record: &[u8]) -> Result<(), Fault> {
        let (column, offset) = (self.column, self.offset);
        match self.wire {
            Wire::Price => {
                let value = i64_at(record, offset);
                if value != dbn::UNDEF_PRICE {
                    if value.unsigned_abs() >= PRICE_END {
                        return Err(self.price_fault(value));
                    }
                    rows.decimal(column, i128::from(value));
                }
            }
            Wire::Time => {
                if let Some(value) = time_at(record, offset, self.name)? {
                    rows.i64(column, value);
                }
            }
            Wire::U64 => rows.decimal(column, i128::from(u64_at(record, offset))),
            Wire::U32Wide => rows.decimal(column, i128::from(u32_at(record, offset))),
            Wire::Volume => rows.decimal(column, i128::from(u64_at(record, offset)) * AMOUNT_ONE),
            Wire::Quantity64 => match i64_at(record, offset) {
                i64::MAX => {}
                value => rows.decimal(column, i128::from(value) * AMOUNT_ONE),
            },
            Wire::Quantity32 => match i32_at(record, offset) {
                i32::MAX => {}
                value => rows.decimal(column, i128::from(value) * AMOUNT_ONE),
            },
            Wire::Size => match u32_at(record, offset) {
                u32::MAX => {}
                value => rows.i64(column, i64::from(value)),
            },
            Wire::U32 => rows.i64(column, i64::from(u32_at(record, offset))),
            Wire::I32 => rows.i32(column, i32_at(record, offset)),
            Wire::I32Opt => match i32_at(record, offset) {
                i32::MAX => {}
                value => rows.i32(column, value),
            },
            Wire::U16 => rows.i32(column, i32::from(u16_at(record, offset))),
            Wire::U16Opt => match u16_at(record, offset) {
                u16::MAX => {}
                value => rows.i32(column, i32::from(value)),
            },
            Wire::I16Opt => match u16_at(record, offset).cast_signed() {
                i16::MAX => {}
                value => rows.i32(column, i32::from(value)),
            },
            Wire::U8 => rows.i32(column, i32::from(record[offset])),
            Wire::U8Opt => match record[offset] {
                u8::MAX => {}
                value => rows.i32(column, i32::from(value)),
            },
            Wire::I8Opt => match record[offset].cast_signed() {
                i8::MAX => {}
                value => rows.i32(column, i32::from(value)),
            },
            Wire::Char => match record[offset] {
                0 => {}
                byte => rows.text(column, char::from(byte).encode_utf8(&mut [0; 4])),
            },
            Wire::Text(len) => rows.text(column, &text(&record[offset..offset + len])),
            Wire::SType => match record[offset] {
                u8::MAX => {}
                number => match SType::try_from(number) {
                    Ok(stype) => rows.text(column, stype.as_str()),
                    Err(_) => rows.text(column, &number.to_string()),
                },
            },
            Wire::Reserved(_) => {}
        }
        Ok(())
    }

    #[cold]
    fn price_fault(&self, value: i64) -> Fault {
        Fault {
            field: self.name,
            reason: format!(
                "{} is {}, beyond the range of DECIMAL(18,9), ±999999999.999999999",
                self.name,
                schemas::exact::print(i128::from(value), 9)
            ),
        }
    }
}

/// A time, or `None` where the source says that there is none.
#[inline]
fn time_at(record: &[u8], offset: usize, name: &'static str) -> Result<Option<i64>, Fault> {
    match u64_at(record, offset) {
        dbn::UNDEF_TIMESTAMP => Ok(None),
        value => match i64::try_from(value) {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Fault {
                field: name,
                reason: format!("{name} is {value} ns since 1970, beyond 2262-04-11, the last day that 64 bits hold"),
            }),
        },
    }
}

/// Text up to its first 0 byte: UTF-8, or what the same bytes say in Latin-1 where they are not.
pub(super) fn text(field: &[u8]) -> Cow<'_, str> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    match std::str::from_utf8(&field[..end]) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(field[..end].iter().map(|byte| char::from(*byte)).collect()),
    }
}

macro_rules! number_at {
    ($name:ident, $number:ty) => {
        #[inline]
        fn $name(record: &[u8], offset: usize) -> $number {
            let bytes = record[offset..offset + size_of::<$number>()].try_into().expect("the slice is as long as the number");
            <$number>::from_le_bytes(bytes)
        }
    };
}

number_at!(u16_at, u16);
number_at!(u32_at, u32);
number_at!(i32_at, i32);
number_at!(u64_at, u64);
number_at!(i64_at, i64);

const _: () = assert!(HEADER_LEN == 16, "the offsets 2, 4 and 8 of the header are written out above");
