//! Token futures as CTP snapshots: product `tk`, five levels, night and day session. Shanghai has published no contract, so product, size
//! and tick are assumptions of the sample and stand in its instruments file, not in the code that reads it.

use super::Random;
use std::fmt::Write;

/// Contract months of the sample.
const MONTHS: [&str; 4] = ["2612", "2703", "2706", "2709"];
/// Lots of one million tokens times this.
const MULTIPLIER: i64 = 1_000;
/// Price step in CNY per million tokens, in units of 1e-4 CNY.
const TICK: i64 = 50;
/// Seconds between the sample's snapshots (the venue sends two a second).
const EVERY: i64 = 30;

const HEADER: &str = "TradingDay,InstrumentID,ExchangeID,ExchangeInstID,LastPrice,PreSettlementPrice,PreClosePrice,PreOpenInterest,OpenPrice,\
HighestPrice,LowestPrice,Volume,Turnover,OpenInterest,ClosePrice,SettlementPrice,UpperLimitPrice,LowerLimitPrice,PreDelta,CurrDelta,\
UpdateTime,UpdateMillisec,BidPrice1,BidVolume1,AskPrice1,AskVolume1,BidPrice2,BidVolume2,AskPrice2,AskVolume2,BidPrice3,BidVolume3,\
AskPrice3,AskVolume3,BidPrice4,BidVolume4,AskPrice4,AskVolume4,BidPrice5,BidVolume5,AskPrice5,AskVolume5,AveragePrice,ActionDay";

/// Sessions of trading day 2026-10-12, a Monday: Friday's night session belongs to it (09-30 to 10-08 was a holiday).
const SESSIONS: [(&str, i64, i64); 4] = [
    ("20261009", 21 * 3600, 23 * 3600),
    ("20261012", 9 * 3600, 10 * 3600 + 900),
    ("20261012", 10 * 3600 + 1800, 11 * 3600 + 1800),
    ("20261012", 13 * 3600 + 1800, 15 * 3600),
];
const TRADING_DAY: &str = "20261012";

/// One file per contract.
pub fn files(seed: u64) -> Vec<(String, String)> {
    MONTHS
        .iter()
        .enumerate()
        .map(|(distance, month)| {
            let symbol = format!("tk{month}");
            (format!("syn-xsge.{symbol}.tick-ctp.csv"), snapshots(&symbol, distance as i64, seed))
        })
        .collect()
}

fn snapshots(symbol: &str, distance: i64, seed: u64) -> String {
    let mut random = Random::new(seed, symbol);
    let previous = 120_000 - distance * 30 * TICK;
    let (mut last, mut volume, mut turnover, mut open_interest) = (previous, 0i64, 0i64, 40_000 / (1 + distance));
    let (open, mut high, mut low) = (previous + random.step(4) * TICK, i64::MIN, i64::MAX);
    let mut text = format!("{}\n", HEADER.split(',').map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(","));
    for (action_day, begin, end) in SESSIONS {
        for second in (begin..end).step_by(EVERY as usize) {
            last = if volume == 0 { open } else { (last + random.step(2) * TICK).max(TICK) };
            let lots = 1 + random.below(30) as i64;
            volume += lots;
            turnover += lots * last * MULTIPLIER;
            open_interest += random.step(5);
            (high, low) = (high.max(last), low.min(last));
            let clock = format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
            let millisecond = if random.below(2) == 0 { 0 } else { 500 };
            let mut cells = vec![TRADING_DAY.to_string(), symbol.to_string(), String::new(), String::new()];
            cells.extend([last, previous, previous].map(price));
            cells.push(format!("{}.0000", 40_000 / (1 + distance)));
            cells.extend([open, high, low].map(price));
            cells.extend([volume.to_string(), price(turnover), format!("{open_interest}.0000"), "N/A".into(), "N/A".into()]);
            cells.extend([price(previous * 106 / 100 / TICK * TICK), price(previous * 94 / 100 / TICK * TICK), "N/A".into(), "N/A".into()]);
            cells.extend([clock, format!("{millisecond:03}")]);
            for level in 0..5 {
                cells.extend([price(last - (level + 1) * TICK), (1 + random.below(80)).to_string()]);
                cells.extend([price(last + level * TICK), (1 + random.below(80)).to_string()]);
            }
            cells.extend([price(turnover / volume), action_day.to_string()]);
            let line = cells.iter().map(|cell| format!("\"{cell}\"")).collect::<Vec<_>>().join(",");
            writeln!(text, "{line}").expect("writing to a String cannot fail");
        }
    }
    text
}

/// Units of 1e-4 as the recorder writes them.
fn price(value: i64) -> String {
    format!("{}.{:04}", value / 10_000, value % 10_000)
}
