//! What a plan reads, sorts and groups by, and that the answer is the same as by any other plan.

use crate::fixture::{self, Fixture, Row, T0, count, csv, explain, options, ts};
use crate::trade;
use query::Error;
use schemas::Family;

#[tokio::test]
async fn filters_prune_files_by_partition_and_row_groups_by_time() {
    let mut fixture = Fixture::new();
    let day = 86_400_000_000_000;
    for d in 0..3 {
        let rows: Vec<Row> = (0..4000).map(|i| trade("GPU1V6", T0 + d * day + i * 1_000_000_000, 2_810_000_000, 1)).collect();
        fixture.write(Family::Trades, &rows);
    }
    let undated = Row::of(Family::Trades).text("dataset", "SYN.XNYM").text("symbol", "UNDATED");
    fixture.write(Family::Trades, &[undated]);
    let engine = fixture.engine().await;

    let one_day = explain(&engine, "EXPLAIN SELECT max(price) FROM trades WHERE date = '2026-10-06'").await;
    assert_eq!(one_day.matches(".parquet").count(), 1, "{one_day}");
    assert!(one_day.contains("date=2026-10-06"), "{one_day}");
    assert!(!one_day.contains("FilterExec"), "a filter on the partition needs no second look: {one_day}");
    assert_eq!(csv(&engine, "SELECT symbol FROM trades WHERE date IS NULL").await, "symbol\nUNDATED\n");
    assert_eq!(count(&engine, "SELECT count(*) FROM trades WHERE date >= '2026-10-06'").await, 8000);
    assert_eq!(count(&engine, "SELECT count(*) FROM trades WHERE dataset = 'OTHER'").await, 0);
    assert_eq!(count(&engine, "SELECT count(*) FROM trades WHERE dataset <> 'OTHER' OR symbol = 'x'").await, 12001);

    let last_day = ts(T0 + 2 * day);
    let by_time = explain(&engine, &format!("EXPLAIN SELECT max(price) FROM trades WHERE ts_event >= '{last_day}'")).await;
    assert_eq!(by_time.matches(".parquet").count(), 1, "the log states the times of each file: {by_time}");
    let by_symbol = explain(&engine, "EXPLAIN SELECT max(price) FROM trades WHERE symbol = 'UNDATED'").await;
    assert_eq!(by_symbol.matches(".parquet").count(), 1, "the log states the symbols of each file: {by_symbol}");
    assert_eq!(csv(&engine, "SELECT symbol FROM trades WHERE ts_event IS NULL").await, "symbol\nUNDATED\n");

    // Row groups hold 1000 rows: four of each day, so one second touches one of twelve.
    let from = ts(T0 + 2 * day + 2_500_000_000_000);
    let sql = format!(
        "EXPLAIN ANALYZE SELECT max(price) FROM trades WHERE ts_event >= '{from}' AND ts_event < '{from}'::timestamp + interval '1 second'"
    );
    let analyzed = explain(&engine, &sql).await;
    let files = fixture::metric(&analyzed, "files_ranges_pruned_statistics");
    let groups = fixture::metric(&analyzed, "row_groups_pruned_statistics");
    assert!(analyzed.contains("ts_event_max"), "no pruning predicate on the time: {analyzed}");
    assert_eq!(groups.1, 1, "row groups read: {groups:?} files {files:?} in {analyzed}");
    assert_eq!(count(&engine, &format!("SELECT count(*) FROM trades WHERE ts_event = '{from}'")).await, 1);
}

#[tokio::test]
async fn rows_in_the_order_of_their_files_are_not_sorted_again() {
    let mut fixture = Fixture::new();
    let day = 86_400_000_000_000;
    for d in 0..3 {
        let placed = |i: i64| {
            let symbol = ["GPU1V6", "HPRZ6", "TOKF7"][(i % 3) as usize];
            trade(symbol, T0 + d * day + i * 1_000_000_000, i128::from(i), 1).i32("_partition", (i % 3) as i32).i64("_offset", d * 3000 + i)
        };
        fixture.write(Family::Trades, &(0..3000).map(placed).collect::<Vec<_>>());
    }
    let engine = fixture.engine().await;
    let sorted = |plan: &str| plan.contains("SortExec");
    let by_symbol = "SELECT symbol, ts_event, price FROM trades ORDER BY symbol, ts_event";
    let lagged = "SELECT symbol, ts_event, price - lag(price) OVER (PARTITION BY symbol ORDER BY ts_event) AS step FROM trades";
    for sql in [by_symbol, lagged] {
        let plan = explain(&engine, &format!("EXPLAIN {sql}")).await;
        assert!(!sorted(&plan) && plan.contains("output_ordering"), "{sql}: {plan}");
    }
    let rows = csv(&engine, by_symbol).await;
    let mut lines: Vec<&str> = rows.lines().skip(1).collect();
    assert_eq!(lines.len(), 9000);
    let as_given = lines.clone();
    lines.sort_by_key(|line| line.split(',').take(2).map(String::from).collect::<Vec<_>>());
    assert_eq!(lines, as_given);
    assert_eq!(count(&engine, &format!("SELECT count(*) FROM ({lagged}) WHERE step = 0.000000003")).await, 3 * (3000 - 3));

    // Nobody wants the order here: as many streams as cores, whatever the number of files.
    for sql in ["SELECT sum(price) AS s FROM trades WHERE size > 0", "SELECT symbol FROM trades ORDER BY ts_recv DESC LIMIT 3"] {
        let plan = explain(&engine, &format!("EXPLAIN {sql}")).await;
        assert!(!plan.contains("output_ordering") && plan.contains("file_groups={2 groups"), "{sql}: {plan}");
    }

    // Files with a NULL in the order are in order only for those who want NULL first.
    fixture.write(Family::Trades, &[Row::of(Family::Trades).text("dataset", "SYN.XNYM")]);
    let engine = fixture.engine().await;
    let last = csv(&engine, "SELECT symbol FROM trades ORDER BY symbol, ts_event").await;
    assert!(last.ends_with("TOKF7\n\n"), "NULL comes last: {:?}", &last[last.len() - 20..]);
    assert!(!sorted(&explain(&engine, "EXPLAIN SELECT symbol FROM trades ORDER BY symbol NULLS FIRST, ts_event NULLS FIRST").await));
}

/// Rows that come sorted are grouped by their runs; the groups are those of the same rows in any other order.
#[tokio::test]
async fn groups_of_sorted_rows_are_those_of_any_rows() {
    let mut fixture = Fixture::new();
    let day = 86_400_000_000_000;
    for d in 0..3 {
        // Runs of very different lengths, over the ends of batches and row groups, and symbols that are not there every day.
        let symbol = |i: i64| match i % 100 {
            0..=69 => Some("A"),
            70..=89 if d != 1 => Some("B"),
            90..=98 => Some("C"),
            99 if i % 1000 == 999 => None,
            _ => Some("D"),
        };
        let row = |i: i64| {
            let row = trade("", T0 + d * day + i * 250_000_000, i128::from((i * 7919) % 10_007), i % 17).i64("_offset", d * 20_000 + i);
            let row = row.i32("_partition", 0);
            symbol(i).map_or_else(|| row.clone().without("symbol"), |symbol| row.clone().text("symbol", symbol))
        };
        fixture.write(Family::Trades, &(0..20_000).map(row).collect::<Vec<_>>());
    }
    let engine = fixture.engine().await;
    let what = "count(*) AS n, count(price) AS c, sum(price) AS s, min(price) AS low, max(price) AS high, avg(price) AS mean, sum(size) AS lots, \
                last_value(price ORDER BY ts_event) AS last, first_value(size ORDER BY ts_event) AS first";
    let in_order = ["symbol", "date, symbol", "symbol, date_bin(interval '1 minute', ts_event)", "symbol, ts_event"];
    for by in in_order.into_iter().chain(["symbol, side", "symbol, size"]) {
        let sorted = format!("SELECT {by}, {what} FROM trades GROUP BY {by} ORDER BY {by}");
        // Whoever sorts by time first knows nothing of runs of symbols.
        let mixed =
            format!("SELECT {by}, {what} FROM (SELECT * FROM trades ORDER BY ts_event DESC LIMIT 1000000) GROUP BY {by} ORDER BY {by}");
        let (runs, plain) = (explain(&engine, &format!("EXPLAIN {sorted}")).await, explain(&engine, &format!("EXPLAIN {mixed}")).await);
        assert_eq!(runs.contains("RunsExec"), in_order.contains(&by), "{by}: {runs}");
        assert!(!plain.contains("RunsExec"), "{by}: {plain}");
        assert_eq!(csv(&engine, &sorted).await, csv(&engine, &mixed).await, "{by}");
    }
    // Groups of which nothing else is asked are groups.
    for (sorted, rows) in [
        ("SELECT DISTINCT symbol FROM trades", 5),
        ("SELECT symbol FROM trades GROUP BY symbol", 5),
        ("SELECT DISTINCT date, symbol FROM trades", 5 + 4 + 5),
        ("SELECT symbol FROM trades UNION SELECT symbol FROM trades", 5),
    ] {
        let plan = explain(&engine, &format!("EXPLAIN {sorted}")).await;
        assert!(plan.contains("RunsExec"), "{sorted}: {plan}");
        assert_eq!(count(&engine, &format!("SELECT count(*) FROM ({sorted})")).await, rows, "{sorted}");
    }
    assert_eq!(count(&engine, "SELECT count(DISTINCT symbol) FROM trades").await, 4, "NULL is not counted");
    let filtered =
        "SELECT symbol, sum(size) FILTER (WHERE price > 0.000005) AS some FROM trades WHERE size > 3 GROUP BY symbol ORDER BY symbol";
    let rows = csv(&engine, filtered).await;
    assert_eq!(rows.lines().count(), 1 + 5, "{rows}");
    assert_eq!(csv(&engine, "SELECT symbol, count(*) AS n FROM trades WHERE size = 99 GROUP BY symbol").await, "symbol,n\n");
}

/// Of a file, the row groups and then the pages are read that may hold what is asked for.
#[tokio::test]
async fn a_filter_reads_its_pages_alone() {
    let mut fixture = Fixture::new();
    let row = |i: i64| trade(["A", "B"][usize::from(i >= 2_000)], T0 + i * 1_000_000_000, i128::from(i), 1).i64("_offset", i);
    fixture.write(Family::Trades, &(0..4_000).map(row).collect::<Vec<_>>());
    let engine = fixture.engine().await;
    let (from, to) = (ts(T0 + 1_300 * 1_000_000_000), ts(T0 + 1_400 * 1_000_000_000));
    let sql = format!("SELECT price FROM trades WHERE ts_event >= '{from}' AND ts_event < '{to}'");
    let analyzed = explain(&engine, &format!("EXPLAIN ANALYZE {sql}")).await;
    assert_eq!(fixture::metric(&analyzed, "row_groups_pruned_statistics"), (4, 1), "{analyzed}");
    assert_eq!(fixture::metric(&analyzed, "page_index_pages_pruned"), (4, 1), "{analyzed}");
    assert_eq!(csv(&engine, &sql).await.lines().count(), 101);
}

/// A comparison of what files are sorted by with literals is made while they are read; what computes could fail there, without words of ours, and
/// rows that lie apart are picked faster later.
#[tokio::test]
async fn rows_are_filtered_where_they_are_read() {
    let mut fixture = Fixture::new();
    let row = |i: i64| trade(["A", "B"][usize::from(i % 5 == 0)], T0 + i * 1_000_000_000, i128::from(i), i).i64("_offset", i);
    fixture.write(Family::Trades, &(0..1_000).map(row).collect::<Vec<_>>());
    let engine = fixture.engine().await;
    let time = ts(T0 + 500 * 1_000_000_000);
    for (filter, rows, in_the_scan) in [
        (format!("symbol = 'B' AND ts_event >= '{time}'"), 100, true),
        ("symbol BETWEEN 'B' AND 'C' OR symbol IS NULL".into(), 200, true),
        ("symbol IN ('B', 'C') AND NOT (size < 900)".into(), 20, false),
        ("size BETWEEN 10 AND 19".into(), 10, false),
        (format!("symbol = 'B' AND date = '{}'", &time[..10]), 200, true),
        ("size + 1 > 991".into(), 9, false),
        ("symbol = 'B' AND upper(symbol) = 'B'".into(), 200, false),
        ("symbol = 'B' AND currency IS NULL".into(), 200, true),
    ] {
        let sql = format!("SELECT price FROM trades WHERE {filter}");
        let plan = explain(&engine, &format!("EXPLAIN {sql}")).await;
        assert_eq!(!plan.contains("FilterExec"), in_the_scan, "{filter}: {plan}");
        assert_eq!(csv(&engine, &sql).await.lines().count(), rows + 1, "{filter}");
    }
}

/// Random tables: several datasets, days that overlap, symbols that end early, NULLs among symbols and times, and equal times.
#[tokio::test]
async fn the_ends_of_runs_say_what_all_rows_say() {
    for seed in 0..6u64 {
        let mut random = seed;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut fixture = Fixture::new();
        let null_times = next(2) == 1;
        for file in 0..1 + next(6) as i64 {
            let begins = T0 + (file - next(3) as i64) * 3_600_000_000_000;
            let symbols = 1 + next(5);
            let row = |i: i64, next: &mut dyn FnMut(u64) -> u64| {
                // A price is that of its symbol and time: of equal times any may come last.
                let (symbol, ts) = (next(symbols), begins + next(4_000) as i64 * 1_000_000_000);
                let symbol = (symbol > 0 || file % 2 == 0).then(|| format!("S{symbol}"));
                let price = ts / 1_000_000_000 % 100_000 + symbol.as_ref().map_or(0, |symbol| i64::from(symbol.as_bytes()[1])) * 1_000_000;
                let row = trade("", ts, i128::from(price), 1)
                    .text("dataset", ["SYN.A", "SYN.B"][next(2) as usize])
                    .i64("_offset", file * 10_000 + i);
                let row = if null_times && next(50) == 0 { row.without("ts_event").decimal("price", 7) } else { row };
                symbol.map_or_else(|| row.clone().without("symbol"), |symbol| row.clone().text("symbol", &symbol))
            };
            let rows: Vec<Row> = (0..50 + next(2_500) as i64).map(|i| row(i, &mut next)).collect();
            fixture.write(Family::Trades, &rows);
        }
        let engine = fixture.engine().await;
        let last = "max(ts_event) AS ts, last_value(price ORDER BY ts_event) AS price, first_value(price ORDER BY ts_event DESC) AS again";
        let plain = "(SELECT * FROM trades ORDER BY _offset LIMIT 1000000)";
        let select = |of: &str, rest: &str| (format!("SELECT {of} FROM trades {rest}"), format!("SELECT {of} FROM {plain} {rest}"));
        let ends = [
            select(&format!("symbol, {last}"), "GROUP BY symbol ORDER BY symbol"),
            select(&format!("dataset, symbol, {last}"), "GROUP BY dataset, symbol ORDER BY dataset, symbol"),
            select(&format!("symbol, {last}"), "WHERE symbol <> 'S1' GROUP BY symbol ORDER BY symbol"),
            select("ts_event", "ORDER BY ts_event DESC LIMIT 1"),
            select("ts_event, price", "ORDER BY ts_event DESC NULLS LAST LIMIT 25"),
            select("ts_event, price", "WHERE symbol = 'S2' ORDER BY ts_event DESC LIMIT 10"),
            select("ts_event", "WHERE symbol = 'none' ORDER BY ts_event DESC LIMIT 10"),
        ];
        for (ends, plain) in ends {
            let plan = explain(&engine, &format!("EXPLAIN {ends}")).await;
            assert!(plan.contains("EndsExec") || plan.contains("EmptyExec"), "seed {seed}, {ends}: {plan}");
            let (mut ends_say, mut plain_says) = (csv(&engine, &ends).await, csv(&engine, &plain).await);
            if ends.contains("LIMIT") {
                // Of equal times, any of the same symbol or another may be among the latest.
                let times = |said: &str| said.lines().map(|line| line.split(',').next().unwrap().to_string() + "\n").collect::<String>();
                (ends_say, plain_says) = (times(&ends_say), times(&plain_says));
            }
            if !null_times || !ends.contains("last_value") {
                assert_eq!(ends_say, plain_says, "seed {seed}: {ends}");
            }
            // Once more, with what was learned.
            let again = csv(&engine, &ends).await;
            assert_eq!(again.lines().count(), ends_say.lines().count(), "seed {seed}: {ends}");
        }
        for rest in ["WHERE size > 0 GROUP BY symbol", "WHERE ts_event > '2026-01-01' GROUP BY symbol", "GROUP BY symbol, side"] {
            let plan = explain(&engine, &format!("EXPLAIN SELECT symbol, {last} FROM trades {rest}")).await;
            assert!(!plan.contains("EndsExec"), "{rest}: {plan}");
        }
        for by in ["ts_recv DESC LIMIT 5", "ts_event LIMIT 5", "ts_event DESC, price LIMIT 5"] {
            let plan = explain(&engine, &format!("EXPLAIN SELECT * FROM trades ORDER BY {by}")).await;
            assert!(!plan.contains("EndsExec"), "{by}: {plan}");
        }
    }
}

/// Of twenty days, the ends of the last one's runs are read.
#[tokio::test]
async fn the_last_of_each_symbol_is_read_from_the_newest_day() {
    let mut fixture = Fixture::new();
    let day = 86_400_000_000_000;
    for d in 0..20 {
        let row =
            |i: i64| trade(["A", "B", "C"][(i % 3) as usize], T0 + d * day + i, i128::from(d * 3_000 + i), 1).i64("_offset", d * 3_000 + i);
        fixture.write(Family::Trades, &(0..3_000).map(row).collect::<Vec<_>>());
    }
    let engine = fixture.engine().await;
    for sql in [
        "SELECT symbol, max(ts_event), last_value(price ORDER BY ts_event) FROM trades GROUP BY symbol",
        "SELECT symbol, price FROM trades ORDER BY ts_event DESC LIMIT 3",
    ] {
        let analyzed = explain(&engine, &format!("EXPLAIN ANALYZE {sql}")).await;
        for said in ["files_total=20,", "files_with_ends=1,", "rows_at_ends=", "files_opened=1,"] {
            assert!(analyzed.contains(said), "{said}: {analyzed}");
        }
        assert_eq!(csv(&engine, sql).await.lines().count(), 4);
    }
}

/// More files than are read side by side: their groups are found in runs as well.
#[tokio::test]
async fn many_files_are_grouped_by_runs_too() {
    let mut fixture = Fixture::new();
    for d in 0..40 {
        let row = |i: i64| {
            trade(["A", "B", "C"][(i % 3) as usize], T0 + d * 86_400_000_000_000 + i * 1_000_000_000, i128::from(d + i), i % 7)
                .i64("_offset", d * 300 + i)
        };
        fixture.write(Family::Trades, &(0..300).map(row).collect::<Vec<_>>());
    }
    let engine = fixture.engine().await;
    let what = "count(*) AS n, sum(price) AS s, max(price) AS high, last_value(price ORDER BY ts_event) AS last";
    for (by, runs) in [("symbol", true), ("date, symbol", true), ("symbol, date_bin(interval '1 minute', ts_event)", true), ("size", false)]
    {
        let grouped = format!("SELECT {by}, {what} FROM trades GROUP BY {by} ORDER BY {by}");
        let plain = format!("SELECT {by}, {what} FROM (SELECT * FROM trades ORDER BY _offset LIMIT 1000000) GROUP BY {by} ORDER BY {by}");
        let plan = explain(&engine, &format!("EXPLAIN {grouped}")).await;
        assert!(plan.contains("RunsExec") == runs && !plan.contains("output_ordering"), "{by}: {plan}");
        assert_eq!(csv(&engine, &grouped).await.lines().count(), csv(&engine, &plain).await.lines().count(), "{by}");
        if runs {
            assert_eq!(csv(&engine, &grouped).await, csv(&engine, &plain).await, "{by}");
        }
    }
}

/// A run may be the whole table, and a group all of its values: they count as what any other group holds.
#[tokio::test]
async fn a_group_of_sorted_rows_holds_no_more_than_it_may() {
    let mut fixture = Fixture::new();
    let placed = |i: i64| trade("A", T0 + i, i128::from(i), i).i32("_partition", 0).i64("_offset", i);
    fixture.write(Family::Trades, &(0..60_000).map(placed).collect::<Vec<_>>());
    let sql = "SELECT symbol, array_agg(ts_event) AS times FROM trades GROUP BY symbol";
    let mut small = options();
    // Less than the rows that each of two streams has.
    small.memory_limit = 128 << 10;
    let engine = fixture.engine_with(small).await;
    let plan = explain(&engine, &format!("EXPLAIN {sql}")).await;
    assert!(plan.contains("RunsExec"), "{plan}");
    let refused = fixture::run(&engine, sql).await;
    assert!(matches!(&refused, Err(Error::Memory(why)) if why.contains("RunsExec")), "{refused:?}");
    assert_eq!(count(fixture.engine().await.as_ref(), &format!("SELECT CAST(cardinality(times) AS bigint) FROM ({sql})")).await, 60_000);
}

#[tokio::test]
async fn counting_all_rows_reads_no_file() {
    let mut fixture = Fixture::new();
    fixture.write(Family::Trades, &[trade("A", T0, 1, 1), trade("B", T0, 1, 1), trade("C", T0 + 86_400_000_000_000, 1, 1)]);
    let engine = fixture.engine().await;
    let plan = explain(&engine, "EXPLAIN SELECT count(*) FROM trades").await;
    assert!(!plan.contains(".parquet"), "{plan}");
    assert_eq!(count(&engine, "SELECT count(*) FROM trades").await, 3);
    assert_eq!(count(&engine, "SELECT count(*) FROM trades WHERE date = '2026-10-05'").await, 2);
    assert_eq!(count(&engine, "SELECT count(*) FROM trades WHERE symbol = 'A'").await, 1);
    assert_eq!(count(&engine, "SELECT count(*) FROM (SELECT * FROM trades LIMIT 2)").await, 2);
    assert_eq!(count(&engine, "SELECT count(*) FROM (SELECT * FROM trades LIMIT 2 OFFSET 2)").await, 1);
}
