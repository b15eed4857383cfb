//! What a statement may be, take and hold: every limit of the engine, once. docs/http.md states them for those who ask (a test compares).

use std::time::Duration;

/// Most bytes of a statement.
pub const STATEMENT_BYTES: usize = 64 << 10;
/// Most parts of a statement: expressions, relations, queries.
pub const NODES: usize = 20_000;
/// Most parentheses and subqueries inside each other: what the engine's own parser allows.
pub const NESTED: usize = 50;
/// Most brackets of any kind inside each other: of some (`CAST(CAST(…`, `ARRAY[ARRAY[…`) the time to parse doubles with each.
pub const BRACKETS: usize = 40;
/// Longest text that says a type or how a time is written.
pub const PATTERN_BYTES: usize = 100;
/// Most centroids of an approximate percentile: each takes memory before the first row comes.
pub const CENTROIDS: u64 = 10_000;
/// Most operators of a chain or levels of an expression: the time to plan them grows with the square of their number.
pub const CHAIN: usize = 500;
/// Most subqueries of expressions (scalar, IN, EXISTS) inside each other: the time to plan them doubles with each.
pub const SUBQUERIES: usize = 8;
/// Most values of an IN list.
pub const IN_LIST: usize = 5_000;
/// Most relations of a statement. Each takes milliseconds to plan.
pub const RELATIONS: u64 = 500;
/// Most relations that one FROM joins: the time to plan them grows with the third power of their number.
pub const JOINED: u64 = 32;
/// Most WITH queries of which each names the one before it.
pub const WITH_LEVELS: u64 = 64;
/// Most sets that one GROUP BY groups by: every row is grouped once for each.
pub const GROUPING_SETS: u64 = 64;
/// Most rows before or after that a window may gather for each of its rows.
pub const GATHERED: u64 = 1_000;
/// Most columns that one value is computed of when everything between is written out.
pub const TERMS: u64 = 10_000;
/// Most pairs of rows that a join without an equality may compare, as the plan estimates them.
pub const PAIRS: u64 = 1_000_000_000;
/// Most bytes that one call of a function that makes much of little makes, for all rows of a batch.
pub const MADE_BYTES: u64 = 32 << 20;
/// The same for one value of constants: it becomes a part of the plan.
pub const CONSTANT_BYTES: u64 = 1 << 20;

/// Statements that run at once, from before they are planned until their last row is taken: what each holds besides the pool's memory, however
/// slowly its reader reads, is held at most so many times.
pub const PLACES: usize = 32;
/// Statements of one principal that run at once, unless somebody says otherwise: others find a place, whatever one asks.
pub const PRINCIPAL_PLACES: usize = 24;
/// Statements that are planned at once. Most take milliseconds; one that does not cannot be stopped from outside and holds its place to its end.
pub const PLANNING_PLACES: usize = 8;
/// How long a statement waits for a place of either kind. Where none comes free in this time, all are held by statements that do not end.
pub const PLACE_WAIT: Duration = Duration::from_secs(5);

/// How long a function may compute on after its statement has ended before that is more than its last step.
pub const STUCK_AFTER: Duration = Duration::from_secs(2);
/// So many that compute on are too many, whoever else is served; fewer only while nobody is.
pub const STUCK: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/http.md` says what holds.
    #[test]
    fn the_page_for_who_asks_states_these_limits() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/http.md")).expect("the page");
        let table = page.split_once("## Limits").expect("its part about limits").1;
        let thousands = |n: u64| match (n / 1_000_000_000, n / 1_000) {
            (1.., _) => format!("{},{:03},{:03},{:03}", n / 1_000_000_000, n / 1_000_000 % 1000, n / 1000 % 1000, n % 1000),
            (0, 1..) => format!("{},{:03}", n / 1000, n % 1000),
            _ => n.to_string(),
        };
        for (what, limit) in [
            ("a statement |", format!("{} KiB", STATEMENT_BYTES >> 10)),
            ("its parts", thousands(NODES as u64)),
            ("parentheses and subqueries", NESTED.to_string()),
            ("brackets", BRACKETS.to_string()),
            ("centroids", thousands(CENTROIDS)),
            ("how a time is written", PATTERN_BYTES.to_string()),
            ("operators in one chain", CHAIN.to_string()),
            ("subqueries of expressions", SUBQUERIES.to_string()),
            ("of constants alone", format!("{} MiB", CONSTANT_BYTES >> 20)),
            ("values of an IN list", thousands(IN_LIST as u64)),
            ("its relations", format!("{RELATIONS}; {JOINED} joined")),
            ("WITH queries", WITH_LEVELS.to_string()),
            ("sets of one GROUP BY", GROUPING_SETS.to_string()),
            ("over a window", thousands(GATHERED)),
            ("columns that one value", thousands(TERMS)),
            ("pairs of rows", thousands(PAIRS)),
            ("makes, over a batch", format!("{} MiB", MADE_BYTES >> 20)),
            ("statements that run at once", format!("{PLACES}; a place is waited for {} s", PLACE_WAIT.as_secs())),
            ("of one principal", PRINCIPAL_PLACES.to_string()),
            ("planned at once", format!("{PLANNING_PLACES}; a place is waited for {} s", PLACE_WAIT.as_secs())),
        ] {
            let stated = table.lines().any(|line| line.starts_with('|') && line.contains(what) && line.contains(&limit));
            assert!(stated, "docs/http.md has no line of its limits with {what:?} and {limit:?}");
        }
    }
}
