//! The gate in front of the engine: what is refused before it begins, and what is not told.

mod fixture;

use fixture::{Fixture, Row, T0, csv, explain};
use query::Error;
use schemas::Family;

fn trades(count: i64) -> Fixture {
    let mut fixture = Fixture::new();
    let row = |i: i64| Row::of(Family::Trades).text("dataset", "SYN.XNYM").text("symbol", "A").i64("ts_event", T0 + i).i64("size", i);
    fixture.write(Family::Trades, &(0..count).map(row).collect::<Vec<_>>());
    fixture
}

/// Every row beside every other is refused when there are too many, told how many; with an equality, narrowed, or only explained it is not.
#[tokio::test]
async fn joins_of_all_with_all_are_refused_by_their_cost() {
    let fixture = trades(2_000);
    let engine = fixture.engine().await;
    for sql in [
        "SELECT max(a.size + b.size + c.size) FROM trades a, trades b, trades c",
        "SELECT count(*) FROM trades a CROSS JOIN trades b CROSS JOIN trades c WHERE a.size + b.size < c.size",
        "SELECT count(*) FROM trades a JOIN (SELECT a.size FROM trades a, trades b) b ON a.size < b.size",
        "SELECT count(*) FROM trades a LEFT JOIN (SELECT a.size FROM trades a, trades b) b ON a.size < b.size OR a.symbol = 'B'",
        "EXPLAIN ANALYZE SELECT max(a.size + b.size + c.size) FROM trades a, trades b, trades c",
    ] {
        match fixture::run(&engine, sql).await {
            Err(why @ Error::TooLarge(_)) => {
                let said = why.to_string();
                assert!(said.contains("would compare") && said.contains("2000") && said.contains("join on columns"), "{sql}: {said}");
            }
            other => panic!("{sql}: {other:?}"),
        }
    }
    assert_eq!(csv(&engine, "SELECT count(*) AS n FROM trades a, trades b").await, "n\n4000000\n");
    assert_eq!(
        csv(&engine, "SELECT count(*) AS n FROM trades a JOIN trades b ON a.size = b.size JOIN trades c ON b.size = c.size").await,
        "n\n2000\n"
    );
    let plan = explain(&engine, "EXPLAIN SELECT max(a.size + b.size + c.size) FROM trades a, trades b, trades c").await;
    assert!(plan.contains("CrossJoinExec"), "{plan}");
}

/// A plan names a file as the table's log does, and no function tells more.
#[tokio::test]
async fn nobody_is_told_where_the_tables_lie() {
    let mut fixture = trades(10);
    fixture.lie_in_one_store();
    let engine = fixture.engine().await;
    let folder = fixture.folder();
    for kind in
        ["EXPLAIN", "EXPLAIN VERBOSE", "EXPLAIN ANALYZE", "EXPLAIN ANALYZE VERBOSE", "EXPLAIN FORMAT GRAPHVIZ", "EXPLAIN FORMAT PGJSON"]
    {
        let plan = csv(&engine, &format!("{kind} SELECT symbol, max(price) FROM trades WHERE size > 3 GROUP BY symbol")).await;
        assert!(!plan.contains(&folder) && !plan.contains("file:"), "{kind}: {plan}");
        if !plan.contains("graph") && !kind.contains("PGJSON") {
            assert!(plan.contains("trades/dataset=SYN.XNYM/date="), "{kind}: {plan}");
        }
    }
    let refused = fixture::run(&engine, "SELECT input_file_name() FROM trades").await.unwrap_err().to_string();
    assert!(refused.contains("no function input_file_name"), "{refused}");
}

/// The list of functions is what there is, but for those that were left out: whoever brings a newer DataFusion looks at what it adds.
#[tokio::test]
async fn functions_are_those_of_the_list() {
    let fixture = trades(1);
    let engine = fixture.engine().await;
    let there = csv(&engine, "SELECT DISTINCT routine_name FROM information_schema.routines ORDER BY 1").await;
    let there: Vec<&str> = there.lines().skip(1).collect();
    let listed: Vec<&str> = include_str!("../src/functions.txt").lines().collect();
    assert_eq!(there, listed);
    let all = datafusion::prelude::SessionContext::new().state();
    let mut left_out: Vec<&String> = all.scalar_functions().keys().filter(|name| !listed.contains(&name.as_str())).collect();
    left_out.extend(
        all.aggregate_functions()
            .keys()
            .chain(all.window_functions().keys())
            .chain(all.table_functions().keys())
            .filter(|name| !listed.contains(&name.as_str())),
    );
    assert_eq!(left_out, ["input_file_name"]);
}

/// What makes much of little says so, whichever way it is asked for.
#[tokio::test]
async fn text_is_not_multiplied() {
    let fixture = trades(100);
    let engine = fixture.engine().await;
    let big = "repeat('a', 1000000)";
    for expression in [
        format!("octet_length(replace({big}, 'a', {big}))"),
        format!("octet_length(replace(repeat(symbol, 100000), 'A', {big}))"),
        format!("octet_length(regexp_replace({big}, 'a', {big}, 'g'))"),
        format!("octet_length(regexp_replace({big}, '', {big}, 'g'))"),
        format!("octet_length(array_to_string(range(1, 1000000), {big}))"),
        format!("octet_length(array_join(range(1, 1000000), {big}))"),
        format!("octet_length(concat({}))", vec![big; 40].join(", ")),
        format!("octet_length(concat_ws({big}, {}))", vec!["'x'"; 40].join(", ")),
        format!("octet_length({})", vec![big; 40].join(" || ")),
    ] {
        match fixture::run(&engine, &format!("SELECT {expression} FROM trades")).await {
            Err(why @ (Error::Plan(_) | Error::TooLarge(_))) => assert!(why.to_string().contains("may make"), "{expression}: {why}"),
            other => panic!("{expression}: {other:?}"),
        }
    }
    for (expression, answer) in [
        ("replace('abcabc', 'b', 'xyz')", "axyzcaxyzc"),
        ("regexp_replace('abc', 'b|c', 'xyz', 'g')", "axyzxyz"),
        ("array_to_string([1, 2, 3], ', ')", "\"1, 2, 3\""),
        ("concat('a', NULL, 'b', 3)", "ab3"),
        ("concat_ws('-', 'a', 'b')", "a-b"),
        ("'a' || 'b' || 3", "ab3"),
        ("'a' || NULL", ""),
    ] {
        assert_eq!(csv(&engine, &format!("SELECT {expression} AS x")).await, format!("x\n{answer}\n"), "{expression}");
    }
}
