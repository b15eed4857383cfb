//! GPU-hour futures as DBN files: definitions, trades and daily statistics of NYMEX GPU1, GPU2 and ICE HPR.

use super::{Random, utc_ns};
use dbn::encode::EncodeRecord;
use dbn::encode::dbn::Encoder;
use dbn::{InstrumentDefMsg, MappingInterval, Metadata, RecordHeader, SType, Schema, StatMsg, StatType, SymbolMapping, TradeMsg, rtype};
use std::ffi::c_char;

/// A venue's conventions.
pub struct Venue {
    dataset: &'static str,
    mic: &'static str,
    publisher_id: u16,
    /// Root, first instrument number, price of the front month in units of 1e-9, tick.
    products: &'static [Product],
    /// Contract months from October 2026 on.
    months: usize,
}

struct Product {
    root: &'static str,
    first_id: u32,
    front: i64,
    tick: i64,
    /// Change from one month to the next, in ticks.
    slope: i64,
}

const CENT: i64 = 10_000_000;

/// NYMEX GPU1 (H100) and GPU2 (B200): 730 GPU-hours, tick 0.01 USD (exchange filing of 2026-08-11).
pub const NYMEX: Venue = Venue {
    dataset: "SYN.XNYM",
    mic: "XNYM",
    publisher_id: 0,
    products: &[
        Product { root: "GPU1", first_id: 101, front: 281 * CENT, tick: CENT, slope: -4 },
        Product { root: "GPU2", first_id: 201, front: 587 * CENT, tick: CENT, slope: -7 },
    ],
    months: 9,
};

/// ICE HPR (H100): as many GPU-hours as the contract month has hours, tick 0.001 USD (product page).
pub const ICE: Venue = Venue {
    dataset: "SYN.IFUS",
    mic: "IFUS",
    publisher_id: 0,
    products: &[Product { root: "HPR", first_id: 301, front: 2_785_000_000, tick: 1_000_000, slope: -31 }],
    months: 6,
};

/// What the rule books say of each contract and the feed does not: what a price buys, as rows for the sample's instruments file.
pub fn rule_book(venue: &Venue) -> Vec<String> {
    let row = |contract: &Contract| {
        let hours = contract_hours(venue, contract);
        format!(
            "{},{},future,{},{},{}T21:00:00Z,gpu_hour,{hours},{hours},USD,gpu_hour,{},{},{}",
            venue.dataset,
            contract.symbol,
            venue.mic,
            contract.product.root,
            chrono::DateTime::from_timestamp_nanos(last_trading_ns(contract.year, contract.month)).format("%Y-%m-%d"),
            if venue.mic == "IFUS" { "0.001" } else { "0.01" },
            venue.mic,
            if contract.product.root == "GPU2" { "B200 rental index" } else { "H100 rental index" },
        )
    };
    contracts(venue).iter().map(row).collect()
}

/// Month letters of futures, January to December.
const MONTH_LETTERS: [char; 12] = ['F', 'G', 'H', 'J', 'K', 'M', 'N', 'Q', 'U', 'V', 'X', 'Z'];
/// The trading week of the sample: 5 to 9 October 2026.
const FIRST_DAY: u32 = 5;
const DAYS: u32 = 5;
const TRADES_PER_DAY: u64 = 240;

struct Contract<'a> {
    product: &'a Product,
    id: u32,
    symbol: String,
    year: i32,
    month: u32,
    /// Months after the front.
    distance: i64,
}

/// The venue's three files, zstd-packed as Databento delivers them.
pub fn files(venue: &Venue, seed: u64) -> Vec<(String, Vec<u8>)> {
    let contracts = contracts(venue);
    let name = |schema: &str| format!("{}.{schema}.dbn.zst", venue.dataset.to_lowercase().replace('.', "-"));
    vec![
        (
            name("definition"),
            pack(venue, Schema::Definition, &contracts, |encoder| {
                contracts
                    .iter()
                    .for_each(|contract| encoder.encode_record(&definition(venue, contract)).expect("memory takes every record"));
            }),
        ),
        (
            name("trades"),
            pack(venue, Schema::Trades, &contracts, |encoder| {
                for trade in trades(venue, &contracts, seed) {
                    encoder.encode_record(&trade).expect("memory takes every record");
                }
            }),
        ),
        (
            name("statistics"),
            pack(venue, Schema::Statistics, &contracts, |encoder| {
                for statistic in statistics(venue, &contracts, seed) {
                    encoder.encode_record(&statistic).expect("memory takes every record");
                }
            }),
        ),
    ]
}

fn contracts(venue: &Venue) -> Vec<Contract<'_>> {
    let of = |product| {
        (0..venue.months).map(move |distance| {
            let month0 = 9 + distance;
            let (year, month) = (2026 + (month0 / 12) as i32, (month0 % 12) as u32 + 1);
            Contract {
                product,
                id: product.first_id + distance as u32,
                symbol: format!("{}{}{}", product.root, MONTH_LETTERS[month as usize - 1], year % 10),
                year,
                month,
                distance: distance as i64,
            }
        })
    };
    venue.products.iter().flat_map(of).collect()
}

fn pack(venue: &Venue, schema: Schema, contracts: &[Contract], records: impl FnOnce(&mut Encoder<&mut Vec<u8>>)) -> Vec<u8> {
    let day = |day| time::Date::from_calendar_date(2026, time::Month::October, day).expect("October has this day");
    let mappings = contracts
        .iter()
        .map(|contract| SymbolMapping {
            raw_symbol: contract.symbol.clone(),
            intervals: vec![MappingInterval {
                start_date: day(FIRST_DAY as u8),
                end_date: day((FIRST_DAY + DAYS) as u8),
                symbol: contract.id.to_string(),
            }],
        })
        .collect();
    let metadata = Metadata::builder()
        .dataset(venue.dataset.to_string())
        .schema(Some(schema))
        .start(utc_ns(2026, 10, FIRST_DAY, 0) as u64)
        .end(std::num::NonZeroU64::new(utc_ns(2026, 10, FIRST_DAY + DAYS, 0) as u64))
        .stype_in(Some(SType::RawSymbol))
        .stype_out(SType::InstrumentId)
        .symbols(contracts.iter().map(|contract| contract.symbol.clone()).collect())
        .mappings(mappings)
        .build();
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, &metadata).expect("memory takes the header");
    records(&mut encoder);
    zstd::encode_all(&bytes[..], 3).expect("memory takes the packed bytes")
}

/// GPU-hours of one contract: 730 at NYMEX, the hours of its month at ICE.
fn contract_hours(venue: &Venue, contract: &Contract) -> i64 {
    if venue.mic == "IFUS" { hours_of(contract.year, contract.month) } else { 730 }
}

/// Hours of a month in UTC: which clock the rule uses is not public, so the multiplier is data.
fn hours_of(year: i32, month: u32) -> i64 {
    let next = if month == 12 { utc_ns(year + 1, 1, 1, 0) } else { utc_ns(year, month + 1, 1, 0) };
    (next - utc_ns(year, month, 1, 0)) / 3_600_000_000_000
}

/// The last day of the month that is no Saturday or Sunday, at 21:00 UTC (16:00 in Chicago in winter).
fn last_trading_ns(year: i32, month: u32) -> i64 {
    let next = if month == 12 { utc_ns(year + 1, 1, 1, 0) } else { utc_ns(year, month + 1, 1, 0) };
    let day = |back: i64| next / 86_400_000_000_000 - back;
    // 1970-01-01 was a Thursday.
    let weekend = |day: i64| matches!((day + 4).rem_euclid(7), 0 | 6);
    let last = (1..).map(day).find(|day| !weekend(*day)).expect("every week has a Monday");
    (last * 86_400 + 21 * 3_600) * 1_000_000_000
}

fn definition(venue: &Venue, contract: &Contract) -> InstrumentDefMsg {
    let ts = utc_ns(2026, 10, FIRST_DAY, 0) as u64;
    let hours = contract_hours(venue, contract);
    InstrumentDefMsg {
        hd: RecordHeader::new::<InstrumentDefMsg>(rtype::INSTRUMENT_DEF, venue.publisher_id, contract.id, ts),
        ts_recv: ts,
        min_price_increment: contract.product.tick,
        display_factor: 1_000_000_000,
        expiration: last_trading_ns(contract.year, contract.month) as u64,
        activation: ts,
        unit_of_measure_qty: hours * 1_000_000_000,
        min_price_increment_amount: contract.product.tick * hours,
        raw_instrument_id: u64::from(contract.id),
        maturity_year: contract.year as u16,
        maturity_month: contract.month as u8,
        currency: text("USD"),
        settl_currency: text("USD"),
        raw_symbol: text(&contract.symbol),
        exchange: text(venue.mic),
        asset: text(contract.product.root),
        cfi: text("FXXXXX"),
        security_type: text("FUT"),
        unit_of_measure: text("gpu_hour"),
        instrument_class: b'F' as c_char,
        match_algorithm: b'F' as c_char,
        security_update_action: b'A' as c_char,
        ..InstrumentDefMsg::default()
    }
}

fn trades(venue: &Venue, contracts: &[Contract], seed: u64) -> Vec<TradeMsg> {
    let mut trades: Vec<TradeMsg> = contracts
        .iter()
        .flat_map(|contract| {
            let mut random = Random::new(seed, &contract.symbol);
            let mut price = first_price(contract);
            (0..DAYS).flat_map(move |day| {
                let count = TRADES_PER_DAY / (1 + contract.distance as u64);
                let mut seconds: Vec<u64> = (0..count).map(|_| random.below(21 * 3_600 * 1_000_000_000)).collect();
                seconds.sort_unstable();
                let mut of_day = Vec::with_capacity(seconds.len());
                for ns in seconds {
                    price = (price + random.step(2) * contract.product.tick).max(contract.product.tick);
                    let ts = utc_ns(2026, 10, FIRST_DAY + day, 0) as u64 + ns;
                    of_day.push(TradeMsg {
                        hd: RecordHeader::new::<TradeMsg>(rtype::MBP_0, venue.publisher_id, contract.id, ts),
                        price,
                        size: 1 + random.below(20) as u32,
                        action: b'T' as c_char,
                        side: if random.below(2) == 0 { b'A' } else { b'B' } as c_char,
                        ts_recv: ts + 150_000 + random.below(100_000),
                        ts_in_delta: 20_000 + random.below(10_000) as i32,
                        ..TradeMsg::default()
                    });
                }
                of_day
            })
        })
        .collect();
    trades.sort_by_key(|trade| (trade.ts_recv, trade.hd.instrument_id));
    for (sequence, trade) in trades.iter_mut().enumerate() {
        trade.sequence = sequence as u32 + 1;
    }
    trades
}

fn first_price(contract: &Contract) -> i64 {
    contract.product.front + contract.distance * contract.product.slope * contract.product.tick
}

/// Settlement (the last trade of the day, else the day's first price) and open interest, after the close of every day.
fn statistics(venue: &Venue, contracts: &[Contract], seed: u64) -> Vec<StatMsg> {
    let trades = trades(venue, contracts, seed);
    let mut statistics = Vec::new();
    for day in 0..DAYS {
        let (begin, close) = (utc_ns(2026, 10, FIRST_DAY + day, 0) as u64, utc_ns(2026, 10, FIRST_DAY + day, 21 * 3_600 + 1_800) as u64);
        for contract in contracts {
            let mut random = Random::new(seed, &format!("{} open interest {day}", contract.symbol));
            let last = trades.iter().rev().find(|trade| trade.hd.instrument_id == contract.id && trade.hd.ts_event < close);
            let base = |stat_type: StatType| StatMsg {
                hd: RecordHeader::new::<StatMsg>(rtype::STATISTICS, venue.publisher_id, contract.id, close),
                ts_recv: close + 250_000,
                ts_ref: begin,
                stat_type: stat_type as u16,
                update_action: 1,
                ..StatMsg::default()
            };
            statistics.push(StatMsg {
                price: last.map_or_else(|| first_price(contract), |trade| trade.price),
                stat_flags: 1,
                ..base(StatType::SettlementPrice)
            });
            let open_interest = (2_000 / (1 + contract.distance)) + i64::from(day) * 25 + random.step(20);
            statistics.push(StatMsg { quantity: open_interest.max(0), ..base(StatType::OpenInterest) });
        }
    }
    for (sequence, statistic) in statistics.iter_mut().enumerate() {
        statistic.sequence = sequence as u32 + 1;
    }
    statistics
}

fn text<const N: usize>(value: &str) -> [c_char; N] {
    let mut field = [0; N];
    assert!(value.len() < N, "{value} fits its field with the end mark");
    value.bytes().zip(&mut field).for_each(|(byte, place)| *place = byte as c_char);
    field
}
