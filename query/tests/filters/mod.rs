//! A filter that the scan takes on keeps the rows that the same filter keeps of the same rows in memory, whatever NULL makes of it.

use crate::fixture::{self, Fixture, Row, T0, count, csv, ts};
use proptest::prelude::*;
use query::Engine;
use schemas::Family;
use std::sync::{Arc, LazyLock};
use tokio::runtime::Runtime;

const DAY: i32 = 20_731;

/// Dataset, day, symbol, size, and seconds after T0.
type Trade = (&'static str, Option<i32>, Option<&'static str>, Option<i64>, Option<i64>);

fn rows() -> Vec<Trade> {
    let mut rows = Vec::new();
    for dataset in ["A.A", "B.B", "C.C"] {
        for day in [Some(DAY), Some(DAY + 1), None] {
            for (symbol, size, second) in
                [(Some("x"), Some(1), Some(0)), (Some("y"), None, Some(2)), (None, Some(3), Some(1)), (Some("y"), Some(3), None)]
            {
                rows.push((dataset, day, symbol, size, second));
            }
        }
    }
    rows
}

/// The rows as a table, and a FROM with the same rows in memory.
fn both() -> (Fixture, String) {
    let mut fixture = Fixture::new();
    let mut stored = Vec::new();
    let mut copy = Vec::new();
    for (n, (dataset, day, symbol, size, second)) in rows().into_iter().enumerate() {
        let mut row = Row::of(Family::Trades).text("dataset", dataset).i64("source_record", n as i64);
        row = second.map_or(row.clone(), |second| row.i64("ts_event", T0 + second * 1_000_000_000));
        row = day.map_or(row.clone(), |day| row.date("date", day));
        row = symbol.map_or(row.clone(), |symbol| row.text("symbol", symbol));
        row = size.map_or(row.clone(), |size| row.i64("size", size));
        stored.push(row);
        let day = day.map_or("CAST(NULL AS date)".into(), |day| format!("CAST('2026-10-{:02}' AS date)", day - DAY + 5));
        let text = |of: Option<&str>| of.map_or("NULL".into(), |of| format!("'{of}'"));
        let size = size.map_or("CAST(NULL AS bigint)".into(), |size| size.to_string());
        let time = second.map_or("NULL".into(), |second| format!("'{}'", ts(T0 + second * 1_000_000_000)));
        let time = format!("arrow_cast({time}, 'Timestamp(Nanosecond, Some(\"UTC\"))')");
        copy.push(format!("({n}, '{dataset}', {day}, {}, {size}, {time})", text(symbol)));
    }
    fixture.write(Family::Trades, &stored);
    (fixture, format!("(VALUES {}) AS t(source_record, dataset, date, symbol, size, ts_event)", copy.join(", ")))
}

#[tokio::test]
async fn a_null_in_a_filter_on_the_partition_keeps_nothing() {
    let (fixture, _) = both();
    let engine = fixture.engine().await;
    for filter in [
        "dataset NOT IN ('A.A', NULL)",
        "NOT (dataset IN ('A.A', NULL))",
        "date NOT IN (DATE '2026-10-05', NULL)",
        "dataset <> NULL",
        "dataset NOT IN ('A.A', NULL) AND symbol = 'x'",
        "symbol = 'x' AND dataset NOT IN ('A.A', NULL) AND date = '2026-10-05'",
        "NOT (dataset = 'A.A' OR NULL)",
        "dataset = 'A.A' AND NULL",
        "dataset BETWEEN NULL AND 'A.A'",
        "dataset LIKE NULL",
        "NULL",
        "1 = 2",
    ] {
        assert_eq!(count(&engine, &format!("SELECT count(*) FROM trades WHERE {filter}")).await, 0, "{filter}");
        let cross = format!("SELECT count(*) FROM trades JOIN (VALUES (1)) AS v(n) ON {filter}");
        assert_eq!(count(&engine, &cross).await, 0, "{filter}");
        let outer = format!("SELECT count(source_record) FROM (VALUES (1)) AS v(n) LEFT JOIN trades ON {filter}");
        assert_eq!(count(&engine, &outer).await, 0, "{filter}");
    }
    assert_eq!(count(&engine, "SELECT count(*) FROM trades WHERE dataset IN ('A.A', NULL)").await, 12);
    assert_eq!(count(&engine, "SELECT count(*) FROM trades WHERE (dataset NOT IN ('A.A', NULL)) IS NULL").await, 24);
}

static BOTH: LazyLock<(Runtime, Fixture, Arc<Engine>, String)> = LazyLock::new(|| {
    let runtime = Runtime::new().unwrap();
    let (fixture, copy) = both();
    let engine = runtime.block_on(fixture.engine());
    (runtime, fixture, engine, copy)
});

/// Comparisons of a column with literals, of which some are NULL.
fn comparison() -> impl Strategy<Value = String> {
    let literals = [
        ("dataset", vec!["'A.A'", "'B.B'", "'Z'", "NULL"]),
        ("date", vec!["DATE '2026-10-05'", "DATE '2026-10-06'", "'2026-10-05'", "NULL"]),
        // Twice: these are the ones that the scan takes on alone.
        ("dataset", vec!["'A.A'", "NULL"]),
        ("date", vec!["DATE '2026-10-05'", "NULL"]),
        ("symbol", vec!["'x'", "'y'", "NULL"]),
        ("ts_event", vec!["'2026-10-05T14:30:00Z'", "'2026-10-05T14:30:01Z'", "TIMESTAMP '2026-10-05T14:30:02Z'", "NULL"]),
        ("size", vec!["1", "3", "NULL"]),
    ];
    let shape = prop::sample::select(vec![
        "# = ?",
        "# <> ?",
        "# < ?",
        "# >= ?",
        "# IN (?, ?)",
        "# NOT IN (?, ?)",
        "# NOT IN (?, ?)",
        "NOT (# IN (?, ?, ?))",
        "# IN (?, ?, ?, ?, ?)",
        "# NOT IN (?, ?, ?, ?, ?)",
        "# BETWEEN ? AND ?",
        "# NOT BETWEEN ? AND ?",
        "# IS NULL",
        "# IS NOT NULL",
        "# IS DISTINCT FROM ?",
        "# IS NOT DISTINCT FROM ?",
        "coalesce(#, ?) = ?",
        "CASE WHEN # = ? THEN NULL ELSE # <> ? END",
        "nullif(#, ?) = ?",
        "# = #",
        "NULL",
        "? = ?",
    ]);
    (prop::sample::select(literals.to_vec()), shape, prop::collection::vec(any::<prop::sample::Index>(), 5)).prop_map(
        |((column, literals), shape, picks)| {
            let mut text = shape.replace('#', column);
            for pick in picks {
                text = text.replacen('?', literals[pick.index(literals.len())], 1);
            }
            text
        },
    )
}

fn filter() -> impl Strategy<Value = String> {
    comparison().prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) AND ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) OR ({b})")),
            inner.clone().prop_map(|a| format!("NOT ({a})")),
            inner.clone().prop_map(|a| format!("({a}) IS NOT TRUE")),
            inner.prop_map(|a| format!("({a}) IS NULL")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_filter_keeps_of_a_table_what_it_keeps_of_a_copy_in_memory(filter in prop_oneof![comparison(), filter()]) {
        let (runtime, _fixture, engine, copy) = &*BOTH;
        runtime.block_on(async {
            let kept = |from: &str| format!("SELECT source_record FROM {from} WHERE {filter} ORDER BY source_record");
            let expected = match fixture::run(engine, &kept(copy)).await {
                Ok(_) => csv(engine, &kept(copy)).await,
                // What the engine cannot answer of the copy, it need not of the table.
                Err(why) => {eprintln!("{why}: {filter}"); return Ok(())},
            };
            prop_assert_eq!(csv(engine, &kept("trades")).await, expected.clone(), "{}", filter);
            let joined = format!(
                "SELECT source_record FROM trades JOIN (VALUES (1)) AS v(n) ON {filter} ORDER BY source_record"
            );
            prop_assert_eq!(csv(engine, &joined).await, expected, "ON {}", filter);
            Ok(())
        })?;
    }
}
