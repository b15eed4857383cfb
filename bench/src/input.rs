//! A day or more of trades as DBN (zstd level 3, as Databento packs it): seeded, so that every machine measures the same bytes.
//!
//! Fifty contracts of skewed activity; an aggressor's order trades in one or more fills that share their event; prices walk on a tick grid;
//! times are nanoseconds that come in bursts; sequence numbers leave out what was no trade; latency has a floor and a tail.

use anyhow::{Context, Result};
use dbn::encode::EncodeRecord;
use dbn::encode::dbn::Encoder;
use dbn::{FlagSet, MappingInterval, Metadata, RecordHeader, SType, Schema, SymbolMapping, TradeMsg, rtype};
use std::ffi::c_char;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// The seed of every input.
pub const SEED: u64 = 20_261_005;
/// Dataset of the input: synthetic, as its first letters say.
const DATASET: &str = "SYN.BENCH";
const SYMBOLS: u32 = 50;
const FIRST_ID: u32 = 4_000;
/// 2026-10-05 00:00 UTC.
const START: u64 = 1_791_158_400_000_000_000;
const DAY_NS: u64 = 86_400_000_000_000;
/// Trades of one day; the input goes on into the next one after so many.
const TRADES_PER_DAY: u64 = 2_200_000;
const TICKS: [i64; 4] = [1_000_000, 5_000_000, 10_000_000, 250_000_000];
const ZSTD_LEVEL: i32 = 3;

/// Writes `trades` trades to `path`.
pub fn write(path: &Path, trades: u64, seed: u64) -> Result<()> {
    let file = BufWriter::new(File::create(path).with_context(|| format!("making {}", path.display()))?);
    let mut packed = zstd::Encoder::new(file, ZSTD_LEVEL).context("starting zstd")?;
    let mut encoder = Encoder::new(&mut packed, &metadata(trades)).context("writing the DBN header")?;
    let mut market = Market::new(seed);
    for _ in 0..trades {
        encoder.encode_record(&market.next()).context("writing a trade")?;
    }
    packed.finish().and_then(|mut file| file.flush()).with_context(|| format!("writing {}", path.display()))
}

fn metadata(trades: u64) -> Metadata {
    let date = |day: u64| time::OffsetDateTime::from_unix_timestamp(((START + day * DAY_NS) / 1_000_000_000) as i64).map(|t| t.date());
    let days = 2 + trades / TRADES_PER_DAY;
    let (start_date, end_date) = (date(0).expect("a day of this century"), date(days).expect("a day of this century"));
    let mapping = |i: u32| SymbolMapping {
        raw_symbol: symbol(i),
        intervals: vec![MappingInterval { start_date, end_date, symbol: (FIRST_ID + i).to_string() }],
    };
    Metadata::builder()
        .dataset(DATASET.to_string())
        .schema(Some(Schema::Trades))
        .start(START)
        .stype_in(Some(SType::RawSymbol))
        .stype_out(SType::InstrumentId)
        .symbols((0..SYMBOLS).map(symbol).collect())
        .mappings((0..SYMBOLS).map(mapping).collect())
        .build()
}

fn symbol(i: u32) -> String {
    let month = char::from(b"FGHJKMNQUVXZ"[(i % 12) as usize]);
    format!("{}{month}{}", ["GPU1", "GPU2", "HPR", "TOK", "MTK"][(i / 12) as usize], 6 + i % 3)
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True in so many of a hundred cases.
    fn percent(&mut self, of_hundred: u64) -> bool {
        self.below(100) < of_hundred
    }

    /// A waiting time of about this mean: the negative logarithm of a random number, in whole numbers so that it is the same everywhere.
    fn wait(&mut self, mean: u64) -> u64 {
        let random = self.next() | 1;
        let zeros = u64::from(random.leading_zeros());
        // log2 between two powers of two by a straight line; 1.44 of its units are a mean.
        let part = 1023 - ((random << zeros >> 53) & 1023);
        mean * (zeros * 1024 + part) / 1477
    }
}

struct Contract {
    price: i64,
    tick: i64,
    buys: bool,
}

struct Market {
    random: Random,
    contracts: Vec<Contract>,
    /// Upper ends of the contracts' shares of all events.
    shares: Vec<u64>,
    ts_event: u64,
    ts_recv: u64,
    sequence: u32,
    /// The event under way, and how many of its fills are still to come.
    event: TradeMsg,
    contract: usize,
    fills: u64,
}

impl Market {
    fn new(seed: u64) -> Market {
        let mut random = Random(seed);
        let contracts = (0..SYMBOLS as usize)
            .map(|i| {
                let tick = TICKS[i % TICKS.len()];
                Contract { price: tick * (2_000 + random.below(3_000) as i64), tick, buys: true }
            })
            .collect();
        let mut sum = 0;
        let share = |i: u32| {
            // The first contract has a fifth of all events, the last one half a percent.
            sum += 1_000_000 / u64::from(i + 1);
            sum
        };
        let shares = (0..SYMBOLS).map(share).collect();
        let (ts_event, ts_recv) = (START, START);
        Market { random, contracts, shares, ts_event, ts_recv, sequence: 1, event: TradeMsg::default(), contract: 0, fills: 0 }
    }

    fn next(&mut self) -> TradeMsg {
        if self.fills == 0 {
            self.begin_event();
        }
        self.fills -= 1;
        let contract = &mut self.contracts[self.contract];
        if self.random.percent(15) {
            contract.price = (contract.price + if contract.buys { contract.tick } else { -contract.tick }).max(contract.tick);
        }
        let mut trade = self.event.clone();
        trade.price = contract.price;
        trade.size = self.size();
        trade.flags = FlagSet::new(if self.fills == 0 { dbn::flags::LAST } else { 0 });
        trade
    }

    /// Mostly a lot or a few, sometimes a round number.
    fn size(&mut self) -> u32 {
        match self.random.below(20) {
            0..=9 => 1,
            10..=12 => 2,
            13..=17 => 1 + self.random.below(12) as u32,
            18 => 10 * (1 + self.random.below(5) as u32),
            _ => 1 + self.random.wait(40) as u32,
        }
    }

    fn begin_event(&mut self) {
        let mean = DAY_NS / TRADES_PER_DAY * 17 / 10;
        // Four of five events follow in a burst, the fifth after a pause.
        let mean = if self.random.percent(80) { mean / 10 } else { mean * 46 / 10 };
        self.ts_event += 100 + self.random.wait(mean);
        let latency = 25_000 + self.random.wait(12_000) + if self.random.percent(2) { self.random.wait(400_000) } else { 0 };
        self.ts_recv = (self.ts_recv + 40).max(self.ts_event + latency);
        self.sequence += 1 + self.random.wait(14) as u32;
        let pick = self.random.below(*self.shares.last().expect("there are contracts"));
        self.contract = self.shares.partition_point(|end| *end <= pick);
        self.fills = 1 + self.random.wait(1).min(3) + if self.random.percent(4) { self.random.wait(6) } else { 0 };
        let contract = &mut self.contracts[self.contract];
        if self.random.percent(35) {
            contract.buys = !contract.buys;
        }
        let header = RecordHeader::new::<TradeMsg>(rtype::MBP_0, 1, FIRST_ID + self.contract as u32, self.ts_event);
        self.event = TradeMsg {
            hd: header,
            action: b'T' as c_char,
            side: if contract.buys { b'B' } else { b'A' } as c_char,
            ts_recv: self.ts_recv,
            ts_in_delta: (12_000 + self.random.wait(3_000)) as i32,
            sequence: self.sequence,
            ..TradeMsg::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_market_is_plausible_and_the_same_every_time() {
        let trades = |n: usize| {
            let mut market = Market::new(SEED);
            (0..n).map(|_| market.next()).collect::<Vec<_>>()
        };
        let (a, b) = (trades(100_000), trades(100_000));
        assert!(a == b);
        assert!(a.windows(2).all(|two| two[0].ts_recv <= two[1].ts_recv && two[0].hd.ts_event <= two[1].hd.ts_event));
        assert!(a.iter().all(|trade| trade.ts_recv > trade.hd.ts_event && trade.price > 0 && trade.size > 0));
        let first = a.iter().filter(|trade| trade.hd.instrument_id == FIRST_ID).count();
        assert!((15_000..30_000).contains(&first), "{first} of 100000 in the busiest contract");
        let events = a.windows(2).filter(|two| two[0].sequence != two[1].sequence).count();
        assert!((40_000..80_000).contains(&events), "{events} events of 100000 trades");
    }

    #[test]
    fn a_wait_has_its_mean() {
        let mut random = Random(7);
        let sum: u64 = (0..1_000_000).map(|_| random.wait(1_000)).sum();
        assert!((950..1_050).contains(&(sum / 1_000_000)), "{}", sum / 1_000_000);
    }
}
