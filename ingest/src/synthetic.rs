//! The sample feeds: a seeded synthetic market in the file formats of the real venues, by the conventions of the real contracts. Every
//! dataset begins with `SYN.`: nothing here was ever traded.
//!
//! The same seed gives the same bytes on every machine, so that feeds that were ingested before are known again.

mod cme;
mod shfe;
mod text;

use std::io;
use std::path::{Path, PathBuf};

/// A file of the sample feeds.
#[derive(Debug, Clone)]
pub struct Feed {
    /// Where it was written.
    pub path: PathBuf,
    /// Dataset, where its format does not carry one.
    pub dataset: Option<&'static str>,
}

/// The official token-usage figures with their sources: facts, in tokentape's own format.
const OFFICIAL_USAGE: &str = include_str!("../samples/cn-nda-usage.csv");

/// Writes the sample feeds into `dir` and lists them in the order in which they are to be ingested.
pub fn write(dir: &Path, seed: u64) -> io::Result<Vec<Feed>> {
    std::fs::create_dir_all(dir)?;
    let mut files: Vec<(String, Vec<u8>, Option<&'static str>)> = Vec::new();
    for venue in [cme::NYMEX, cme::ICE] {
        for (name, bytes) in cme::files(&venue, seed) {
            files.push((name, bytes, None));
        }
    }
    files.extend(shfe::files(seed).into_iter().map(|(name, text)| (name, text.into_bytes(), Some("SYN.XSGE"))));
    files.extend(text::files(seed).into_iter().map(|(name, text, dataset)| (name, text.into_bytes(), dataset)));
    files.push(("cn-nda-usage.csv".into(), OFFICIAL_USAGE.as_bytes().to_vec(), None));
    files
        .into_iter()
        .map(|(name, bytes, dataset)| {
            let path = dir.join(name);
            // Written aside and moved: a run that is stopped leaves no half file behind.
            let aside = dir.join(".writing");
            std::fs::write(&aside, bytes)?;
            std::fs::rename(&aside, &path)?;
            Ok(Feed { path, dataset })
        })
        .collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014): three lines whose output can never change with a library's version.
struct Random(u64);

impl Random {
    /// An independent stream for each name.
    fn new(seed: u64, name: &str) -> Random {
        let named = name.bytes().fold(seed, |state, byte| Random(state ^ u64::from(byte)).next());
        Random(named)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`. The bias of the remainder is below 2^-40 for the small bounds used here.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A number in `-reach..=reach`.
    fn step(&mut self, reach: i64) -> i64 {
        self.below(2 * reach as u64 + 1) as i64 - reach
    }
}

/// Nanoseconds UTC of a UTC date and second of the day.
fn utc_ns(year: i32, month: u32, day: u32, second: i64) -> i64 {
    let days = chrono::NaiveDate::from_ymd_opt(year, month, day).expect("the sample calendar holds real days");
    let epoch = chrono::NaiveDate::default();
    ((days - epoch).num_days() * 86_400 + second) * 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let dirs = [tempfile::tempdir().expect("temp dir"), tempfile::tempdir().expect("temp dir")];
        let feeds: Vec<_> = dirs.iter().map(|dir| write(dir.path(), 7).expect("written")).collect();
        assert!(feeds[0].len() > 10);
        for (a, b) in feeds[0].iter().zip(&feeds[1]) {
            assert_eq!(a.path.file_name(), b.path.file_name());
            assert!(std::fs::read(&a.path).expect("a") == std::fs::read(&b.path).expect("b"), "{}", a.path.display());
        }
    }

    #[test]
    fn splitmix_is_splitmix() {
        // First outputs for seed 1234567, as published with the reference implementation.
        let mut random = Random(1_234_567);
        assert_eq!([random.next(), random.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }
}
