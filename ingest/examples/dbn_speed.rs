//! Prints how many DBN trades per second go from a zstd file in memory to Arrow batches, on one core.
//!
//! `cargo run --release -p ingest --example dbn_speed`. A measurement, not a test: machines differ.

use ingest::source::{End, Given};
use ingest::sources::dbn::FORMAT;
use std::io::Cursor;
use std::time::Instant;

const TRADES: u64 = 2_000_000;
const RUNS: usize = 5;

fn main() {
    let packed = packed_trades();
    let given = Given { name: "generated.dbn.zst".into(), ..Given::default() };
    println!("{TRADES} trades, {} bytes packed, {RUNS} runs, million records/s:", packed.len());
    let runs: Vec<(f64, Option<f64>)> = (0..RUNS).map(|_| rate(&packed, &given)).collect();
    print_rates("by the clock", runs.iter().map(|(clock, _)| *clock).collect());
    print_rates("by time on the processor", runs.iter().filter_map(|(_, processor)| *processor).collect());
}

fn print_rates(axis: &str, mut rates: Vec<f64>) {
    rates.sort_by(f64::total_cmp);
    if let (Some(median), Some(best)) = (rates.get(rates.len() / 2), rates.last()) {
        println!("{axis}: median {:.2}, best {:.2}", median / 1e6, best / 1e6);
    }
}

/// Nanoseconds that this thread was on a processor, where Linux tells: what others do at the same time does not count.
fn processor_ns() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}

fn rate(packed: &[u8], given: &Given) -> (f64, Option<f64>) {
    let (began, processor_began) = (Instant::now(), processor_ns());
    let unpacked = zstd::Decoder::new(Cursor::new(packed.to_vec())).expect("a zstd decoder can be made");
    let mut parser = (FORMAT.open)(Box::new(unpacked), given).expect("the file was just written");
    let mut records = 0;
    loop {
        let chunk = parser.next(65_536).expect("the file was just written");
        for mut rows in chunk.rows {
            let topic = rows.topic();
            rows.default_text(topic.column("change"), "new");
            rows.default_i32(topic.column("revision"), 0);
            rows.default_bytes(topic.column("source_id"), &[7; 16]);
            let batch = rows.finish().expect("every required column is set");
            records += if topic.name == "trades" { batch.num_rows() as u64 } else { 0 };
        }
        if chunk.end != End::More {
            break;
        }
    }
    assert_eq!(records, TRADES);
    let processor = processor_began.zip(processor_ns()).map(|(from, to)| TRADES as f64 * 1e9 / (to - from) as f64);
    (TRADES as f64 / began.elapsed().as_secs_f64(), processor)
}

/// Trades of twenty contracts with prices that walk, packed as Databento does (zstd level 3).
fn packed_trades() -> Vec<u8> {
    use dbn::encode::{EncodeRecord, dbn::Encoder};
    let day = |ts: u64| dbn::record::ts_to_dt(ts).expect("a day of this century").date();
    let start = 1_709_208_000_000_000_000u64;
    let mappings = (0..20).map(|i| dbn::SymbolMapping {
        raw_symbol: format!("GPU1{i:02}"),
        intervals: vec![dbn::MappingInterval {
            start_date: day(start - 86_400_000_000_000),
            end_date: day(start + 9 * 86_400_000_000_000),
            symbol: (1000 + i).to_string(),
        }],
    });
    let metadata = dbn::Metadata::builder()
        .dataset("SYN.XNYM")
        .schema(Some(dbn::Schema::Trades))
        .start(start)
        .stype_in(Some(dbn::SType::RawSymbol))
        .stype_out(dbn::SType::InstrumentId)
        .mappings(mappings.collect())
        .build();
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, &metadata).expect("memory can be written");
    let mut seed = 1u64;
    let (mut ts, mut price) = (start, 2_810_000_000i64);
    for sequence in 0..TRADES {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = seed >> 33;
        ts += random % 90_000;
        price += (random % 7) as i64 * 1_000_000 - 3_000_000;
        let trade = dbn::TradeMsg {
            hd: dbn::RecordHeader::new::<dbn::TradeMsg>(dbn::rtype::MBP_0, 1, 1000 + (random >> 8) as u32 % 20, ts),
            price,
            size: 1 + (random % 40) as u32,
            action: b'T' as _,
            side: if random & 64 == 0 { b'A' as _ } else { b'B' as _ },
            ts_recv: ts + 20_000 + random % 5000,
            ts_in_delta: 11_000 + (random % 3000) as i32,
            sequence: sequence as u32,
            ..Default::default()
        };
        encoder.encode_record(&trade).expect("memory can be written");
    }
    zstd::encode_all(&bytes[..], 3).expect("memory can be packed")
}
