//! Rows of figures to a table for people or JSON for scripts, with the machine they were taken on.

use crate::Sizes;
use serde_json::json;
use std::time::Duration;

/// Times of both sides, in the order of the runs.
#[derive(Default)]
pub struct Times {
    pub ours: Vec<Duration>,
    pub yardstick: Vec<Duration>,
    /// CPU time of the whole process meanwhile: yardstick, ours.
    pub cpu: Vec<(Duration, Duration)>,
}

/// One line of the result.
#[derive(Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The figure, with its unit.
    pub figure: String,
    /// What it is measured by, with its own figure.
    pub yardstick: String,
    /// Figure to yardstick.
    pub ratio: Option<f64>,
    /// What is to be reached.
    pub reach: String,
    /// Whether it is.
    pub met: bool,
    /// Seconds of each run, yardstick and ours.
    pub runs: Vec<(f64, f64)>,
    /// CPU time per record in microseconds, yardstick and ours, where it was taken.
    pub cpu: Option<(f64, f64)>,
}

/// What is to be reached of a rate.
pub mod reached {
    /// A reach in words, and whether a rate (records/s) and a ratio reach it.
    pub struct Reach {
        pub words: String,
        pub met: Box<dyn Fn(f64, f64) -> bool>,
    }

    /// At least so many records per second.
    pub fn rate(records: u64) -> Reach {
        Reach { words: format!("≥ {} records/s", super::thousands(records)), met: Box::new(move |rate, _| rate >= records as f64) }
    }

    /// At least this part of the yardstick.
    pub fn ratio_at_least(part: f64) -> Reach {
        Reach { words: format!("≥ {part}"), met: Box::new(move |_, ratio| ratio >= part) }
    }
}

/// The row of a rate: medians of both sides; the ratio is the median of the ratios of neighbouring runs, so slow drift cancels out.
pub fn rate(what: &str, yardstick: &str, records: u64, times: &Times, reach: reached::Reach) -> Row {
    let per_second = |took: &Duration| records as f64 / took.as_secs_f64();
    let ours = median(times.ours.iter().map(per_second).collect());
    let raw = median(times.yardstick.iter().map(per_second).collect());
    let pairs = times.yardstick.iter().zip(&times.ours);
    let each = |side: fn(&(Duration, Duration)) -> Duration| {
        median(times.cpu.iter().map(|both| side(both).as_secs_f64() * 1e6 / records as f64).collect())
    };
    let ratio = median(pairs.clone().map(|(yardstick, ours)| yardstick.as_secs_f64() / ours.as_secs_f64()).collect());
    Row {
        what: what.into(),
        figure: format!("{}/s", thousands(ours as u64)),
        yardstick: format!("{}/s ({yardstick})", thousands(raw as u64)),
        ratio: Some(ratio),
        met: (reach.met)(ours, ratio),
        reach: reach.words,
        runs: pairs.map(|(yardstick, ours)| (yardstick.as_secs_f64(), ours.as_secs_f64())).collect(),
        cpu: Some((each(|both| both.0), each(|both| both.1))),
    }
}

/// The row of a rate by CPU time: records per second of one core, whatever number of them was at work.
pub fn per_core(what: &str, yardstick: &str, records: u64, times: &Times, reach: u64) -> Row {
    let per_second = |took: &Duration| records as f64 / took.as_secs_f64();
    let by_cpu = median(times.cpu.iter().map(|(_, ours)| per_second(ours)).collect());
    let ratio = median(times.cpu.iter().map(|(yardstick, ours)| yardstick.as_secs_f64() / ours.as_secs_f64()).collect());
    let row = rate(what, yardstick, records, times, reached::rate(reach));
    Row {
        figure: format!("{}/s per core; {}", thousands(by_cpu as u64), row.figure),
        ratio: Some(ratio),
        met: by_cpu >= reach as f64,
        ..row
    }
}

/// The one in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits are ASCII")).collect();
    groups.join(",")
}

/// All rows, and where they were taken.
pub struct Report {
    sizes: Sizes,
    load_before: String,
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Report {
    /// Nothing measured yet.
    pub fn begin(sizes: Sizes) -> Report {
        Report { sizes, load_before: load(), rows: vec![], notes: vec![] }
    }

    /// Takes in a row, and says on standard error that it is there: a whole run is long.
    pub fn add(&mut self, row: Row) {
        eprintln!("{}: {} against {}", row.what, row.figure, row.yardstick);
        if let Some((yardstick, ours)) = row.cpu {
            self.notes.push(format!("{}: {ours:.2} µs of CPU time per record, yardstick {yardstick:.2} µs", row.what));
        }
        self.rows.push(row);
    }

    /// Something the reader should know.
    pub fn note(&mut self, note: &str) {
        self.notes.push(note.into());
    }

    /// For people.
    pub fn text(&self) -> String {
        let header = ["what", "figure", "yardstick", "ratio", "reach", "met"].map(String::from);
        let lines = self.rows.iter().map(|row| {
            let ratio = row.ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
            let met = if row.met { "yes" } else { "NO" };
            [row.what.clone(), row.figure.clone(), row.yardstick.clone(), ratio, row.reach.clone(), met.into()]
        });
        let lines: Vec<[String; 6]> = std::iter::once(header).chain(lines).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..6).map(width).collect();
        let mut out = format!("{}\n\n", self.machine());
        for line in &lines {
            let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            out += &format!("{}\n", cells.join("  ").trim_end());
        }
        self.notes.iter().for_each(|note| out += &format!("note: {note}\n"));
        out
    }

    /// For scripts.
    pub fn json(&self) -> serde_json::Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "what": row.what, "figure": row.figure, "yardstick": row.yardstick, "ratio": row.ratio, "reach": row.reach, "met": row.met,
                "runs": row.runs.iter().map(|(yardstick, ours)| json!({ "yardstick_s": yardstick, "ours_s": ours })).collect::<Vec<_>>(),
            })
        });
        json!({ "machine": self.machine(), "rows": rows.collect::<Vec<_>>(), "notes": self.notes })
    }

    fn machine(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.to_string()));
        format!(
            "{}, {cores} cores, {} trades, {} runs each; load before {}, after {}",
            model.as_deref().unwrap_or("unknown processor"),
            thousands(self.sizes.speed),
            self.sizes.runs,
            self.load_before,
            load()
        )
    }
}

/// The load of the last minute: above the measured process's own, somebody else was at work.
fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or("unknown").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_neighbours() {
        let seconds = |values: [u64; 3]| values.map(Duration::from_secs).to_vec();
        // The machine slows down by half in the middle; the ratio does not notice.
        let times = Times { yardstick: seconds([2, 4, 4]), ours: seconds([4, 8, 8]), cpu: vec![] };
        let row = rate("x", "y", 8_000_000, &times, reached::ratio_at_least(0.5));
        assert_eq!((row.figure.as_str(), row.yardstick.as_str(), row.met), ("1,000,000/s", "2,000,000/s (y)", true));
        assert_eq!(row.ratio.map(|ratio| format!("{ratio:.2}")).as_deref(), Some("0.50"));
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
