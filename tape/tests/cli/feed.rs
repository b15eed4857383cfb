//! Generated inputs: trades as CSV and as DBN, whole and damaged, plain and packed.

use dbn::encode::EncodeRecord;
use dbn::encode::dbn::Encoder;
use dbn::{MappingInterval, Metadata, RecordHeader, SType, Schema, SymbolMapping, TradeMsg, rtype};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The header of trades in our own columns.
pub const HEADER: &str = "dataset,symbol,ts_event,price,size\n";
/// One good row of them, without its line end.
pub const GOOD: &str = "T.DATA,TOK1,2026-10-05T14:30:00Z,2.81,7";

/// 2026-10-05T14:30:00Z.
const BEGIN_NS: u64 = 1_791_210_600_000_000_000;

/// Splitmix64: a seeded stream of numbers.
pub struct Random(u64);

impl Random {
    /// From `TAPE_SEED`, else from the clock; says which.
    pub fn new(what: &str) -> Random {
        let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
        let seed = std::env::var("TAPE_SEED").ok().map_or_else(clock, |text| text.parse().expect("TAPE_SEED is a number"));
        println!("{what}: TAPE_SEED={seed}");
        Random(seed)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// The price of trade number `n` in units of 1e-9, and its size.
pub fn trade(n: u64) -> (i64, u32) {
    ((n as i64 % 9_973 + 1) * 10_000_000, (n % 50) as u32 + 1)
}

/// Trades number `from` to `to` as lines of CSV.
pub fn csv(from: u64, to: u64) -> Vec<u8> {
    let mut text = String::new();
    for n in from..to {
        let (price, size) = trade(n);
        let ms = n % 1000;
        let second = n / 1000;
        writeln!(
            text,
            "T.DATA,TOK{},2026-10-05T{:02}:{:02}:{:02}.{ms:03}Z,{}.{:02},{size}",
            n % 7,
            second / 3600,
            second / 60 % 60,
            second % 60,
            price / 1_000_000_000,
            price % 1_000_000_000 / 10_000_000
        )
        .expect("writing to a String cannot fail");
    }
    text.into_bytes()
}

/// A DBN file of the trades number 0 to `to`. Files of different datasets are not each other's beginning.
pub fn dbn(dataset: &str, to: u64) -> Vec<u8> {
    let day = |day| time::Date::from_calendar_date(2026, time::Month::October, day).expect("October has this day");
    let mappings = (0..7)
        .map(|n| SymbolMapping {
            raw_symbol: format!("TOK{n}"),
            intervals: vec![MappingInterval { start_date: day(5), end_date: day(6), symbol: (n + 1).to_string() }],
        })
        .collect();
    let metadata = Metadata::builder()
        .dataset(dataset.to_string())
        .schema(Some(Schema::Trades))
        .start(BEGIN_NS)
        .stype_in(Some(SType::RawSymbol))
        .stype_out(SType::InstrumentId)
        .symbols((0..7).map(|n| format!("TOK{n}")).collect())
        .mappings(mappings)
        .build();
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, &metadata).expect("memory takes every header");
    (0..to).for_each(|n| encoder.encode_record(&trade_record(n)).expect("memory takes every record"));
    bytes
}

/// The records number `from` to `to` alone.
pub fn dbn_records(from: u64, to: u64) -> Vec<u8> {
    (from..to).flat_map(|n| AsRef::<[u8]>::as_ref(&trade_record(n)).to_vec()).collect()
}

/// Bytes of one record.
pub const RECORD_BYTES: usize = size_of::<TradeMsg>();

fn trade_record(n: u64) -> TradeMsg {
    let (price, size) = trade(n);
    TradeMsg {
        hd: RecordHeader::new::<TradeMsg>(rtype::MBP_0, 1, (n % 7) as u32 + 1, BEGIN_NS + n),
        price,
        size,
        action: b'T' as std::ffi::c_char,
        side: b'B' as std::ffi::c_char,
        flags: dbn::FlagSet::empty(),
        depth: 0,
        ts_recv: BEGIN_NS + n,
        ts_in_delta: 0,
        sequence: n as u32,
    }
}

pub fn gz(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).expect("memory");
    encoder.finish().expect("memory")
}

pub fn zst(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).expect("memory")
}

pub fn zip(member: &str, content: &[u8]) -> Vec<u8> {
    archive(member, content, zip::CompressionMethod::Deflated)
}

/// An archive that holds its member's bytes as they are.
pub fn zip_stored(member: &str, content: &[u8]) -> Vec<u8> {
    archive(member, content, zip::CompressionMethod::Stored)
}

fn archive(member: &str, content: &[u8], method: zip::CompressionMethod) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    archive.start_file(member, options).expect("begun");
    archive.write_all(content).expect("written");
    archive.finish().expect("finished").into_inner()
}

/// Writes a file that nobody has touched for an hour, so that it is not taken for one that is growing.
pub fn write(path: &Path, content: &[u8]) {
    std::fs::write(path, content).expect("written");
    let file = std::fs::File::options().write(true).open(path).expect("opened");
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).expect("its time can be set");
}
