//! When to commit, and which families. Pure: what is pending and the time come in, a decision goes out.

use schemas::Family;
use std::time::{Duration, Instant};

/// What makes a family's pending rows due.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Rows of one commit: a full row group compresses best.
    pub rows_max: usize,
    /// Bytes in memory of one family's pending rows.
    pub bytes_max: usize,
    /// Bytes in memory of everything pending and being committed.
    pub bytes_total_max: usize,
    /// Holes that one commit has to name, which keeps its log entry small.
    pub holes_max: usize,
    /// How long a row may wait; `None` waits for the other limits or the end.
    pub age_max: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            rows_max: 1 << 20,
            bytes_max: 128 << 20,
            bytes_total_max: 128 << 20,
            holes_max: 10_000,
            age_max: Some(Duration::from_secs(5)),
        }
    }
}

/// What is pending of one family.
#[derive(Debug, Clone, Copy)]
pub struct Pending {
    /// Which family.
    pub family: Family,
    /// Rows, bad ones included.
    pub rows: usize,
    /// Bytes in memory.
    pub bytes: usize,
    /// Holes among its offsets.
    pub holes: usize,
    /// When its oldest row came.
    pub since: Instant,
}

/// The family to commit now, if any: the one over a limit that has waited longest; else, where all together are too large, the largest.
pub fn due(pending: &[Pending], now: Instant, limits: &Limits) -> Option<Family> {
    let over = |p: &&Pending| {
        p.rows >= limits.rows_max
            || p.bytes >= limits.bytes_max
            || p.holes >= limits.holes_max
            || limits.age_max.is_some_and(|age| now.duration_since(p.since) >= age)
    };
    if let Some(oldest) = pending.iter().filter(over).min_by_key(|p| p.since) {
        return Some(oldest.family);
    }
    let total: usize = pending.iter().map(|p| p.bytes).sum();
    pending.iter().max_by_key(|p| p.bytes).filter(|_| total >= limits.bytes_total_max).map(|p| p.family)
}

/// The family to commit next, if any: what is due; once nothing more is read, the one that has waited longest.
pub fn next(pending: &[Pending], draining: bool, now: Instant, limits: &Limits) -> Option<Family> {
    match draining {
        true => pending.iter().min_by_key(|p| p.since).map(|p| p.family),
        false => due(pending, now, limits),
    }
}

/// When the next row becomes too old, if rows age.
pub fn next_due(pending: &[Pending], limits: &Limits) -> Option<Instant> {
    let age = limits.age_max?;
    pending.iter().map(|p| p.since + age).min()
}

/// True while more may be read: what is pending and what is being committed leave room.
pub fn has_room(pending_bytes: usize, committing_bytes: usize, limits: &Limits) -> bool {
    pending_bytes + committing_bytes < limits.bytes_total_max
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(family: Family, rows: usize, bytes: usize, since: Instant) -> Pending {
        Pending { family, rows, bytes, holes: 0, since }
    }

    #[test]
    fn rows_bytes_holes_and_age_make_a_family_due() {
        let start = Instant::now();
        let limits = Limits { rows_max: 10, bytes_max: 100, bytes_total_max: 150, holes_max: 3, age_max: Some(Duration::from_secs(5)) };
        let (trades, quotes) = (Family::Trades, Family::Quotes);
        assert_eq!(due(&[pending(trades, 9, 99, start)], start, &limits), None);
        assert_eq!(due(&[pending(trades, 10, 1, start)], start, &limits), Some(trades));
        assert_eq!(due(&[pending(trades, 1, 100, start)], start, &limits), Some(trades));
        assert_eq!(due(&[Pending { holes: 3, ..pending(trades, 1, 1, start) }], start, &limits), Some(trades));
        assert_eq!(due(&[pending(trades, 1, 1, start)], start + Duration::from_secs(5), &limits), Some(trades));
        let late = start + Duration::from_secs(1);
        assert_eq!(due(&[pending(trades, 10, 1, late), pending(quotes, 10, 1, start)], late, &limits), Some(quotes), "the oldest first");
        assert_eq!(due(&[pending(trades, 1, 80, start), pending(quotes, 1, 70, start)], start, &limits), Some(trades), "the largest");
        assert_eq!(next_due(&[pending(trades, 1, 1, late), pending(quotes, 1, 1, start)], &limits), Some(start + Duration::from_secs(5)));
    }

    #[test]
    fn without_an_age_rows_wait_for_the_end() {
        let start = Instant::now();
        let limits = Limits { age_max: None, ..Limits::default() };
        assert_eq!(due(&[pending(Family::Trades, 1, 1, start)], start + Duration::from_secs(3600), &limits), None);
        assert_eq!(next_due(&[pending(Family::Trades, 1, 1, start)], &limits), None);
        assert_eq!(due(&[], start, &limits), None);
        assert_eq!(next(&[pending(Family::Trades, 1, 1, start)], true, start, &limits), Some(Family::Trades), "the end");
        assert_eq!(next(&[], true, start, &limits), None);
    }
}
