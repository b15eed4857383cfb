//! The gate in front of the engine: what is refused before it begins, what is not told, what is noted, and who waits for whom.

mod fixture;

use fixture::{Fixture, Row, T0, csv, explain, options};
use futures::StreamExt;
use query::{Engine, Error, Principal};
use schemas::Family;
use std::time::{Duration, Instant};

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

/// The planner leaves these out without a word: the answer would be that of another question.
#[tokio::test]
async fn words_that_would_be_left_out_are_refused() {
    let engine = trades(10).engine().await;
    for (sql, word) in [
        ("SELECT count(*) FROM trades PREWHERE size > 3", "PREWHERE"),
        ("SELECT count(*) FROM trades TABLESAMPLE (10 PERCENT)", "SAMPLE"),
        ("SELECT * FROM (SELECT * FROM trades) TABLESAMPLE (10 ROWS)", "SAMPLE"),
        ("SELECT symbol, count(*) FROM trades GROUP BY symbol WITH ROLLUP", "GROUP BY"),
        ("SELECT symbol, count(*) FROM trades GROUP BY symbol WITH TOTALS", "GROUP BY"),
        ("SELECT 1 WHERE EXISTS (SELECT 1 FROM trades PREWHERE size > 3)", "PREWHERE"),
        ("WITH w AS (SELECT symbol FROM trades GROUP BY symbol WITH CUBE) SELECT * FROM w", "GROUP BY"),
        ("EXPLAIN SELECT count(*) FROM trades PREWHERE size > 3", "PREWHERE"),
        ("SELECT * FROM trades PARTITION (p0)", "PARTITION"),
        ("SELECT * FROM generate_series(1, 3) WITH ORDINALITY", "ORDINALITY"),
        ("SELECT sum(3)(size) FROM trades", "second list"),
        ("SELECT * FROM trades FOR JSON AUTO", "FOR JSON"),
        ("SELECT * FROM trades SETTINGS max_threads = 1", "SETTINGS"),
        ("SELECT * FROM trades FOR UPDATE", "FOR UPDATE"),
        ("SELECT * FROM trades WHERE symbol SIMILAR TO 'T%'", "SIMILAR TO"),
        ("FROM trades", "FROM without SELECT"),
    ] {
        let refused = fixture::run(&engine, sql).await.expect_err(sql);
        assert!(refused.to_string().contains(word) && refused.is_wrong_use(), "{sql}: {refused}");
    }
}

/// A few bytes that would take gigabytes, or minutes, before the first row.
#[tokio::test]
async fn little_that_asks_for_much_is_refused_at_once() {
    let fixture = trades(10);
    let engine = fixture.engine().await;
    let nested = |open: &str, close: &str, times: usize| format!("SELECT {}1{}", open.repeat(times), close.repeat(times));
    for (sql, word) in [
        ("SELECT approx_percentile_cont(0.5, 1000000000) WITHIN GROUP (ORDER BY size) FROM trades".to_string(), "centroids"),
        ("SELECT approx_percentile_cont(0.5, 1000 * 1000 * 1000) WITHIN GROUP (ORDER BY size) FROM trades".to_string(), "centroids"),
        (format!("SELECT arrow_cast(1, '{}Int64{}')", "List(".repeat(1000), ")".repeat(1000)), "100 bytes"),
        ("SELECT arrow_cast(1, 'List(List(List(List(List(List(List(List(List(Int64)))))))))')".to_string(), "8 types"),
        ("SELECT arrow_cast([1], 'FixedSizeList(2147483647 x Int64)')".to_string(), "9999"),
        ("SELECT arrow_cast(1, concat('Int', '64'))".to_string(), "written out"),
        ("SELECT max(length(to_char(ts_event, repeat('%Y', 10000)))) FROM trades".to_string(), "written out"),
        (nested("ARRAY[", "]", 48), "brackets"),
        (nested("CAST(", " AS INT)", 48), "brackets"),
    ] {
        let refused = fixture::run(&engine, &sql).await.expect_err(&sql);
        assert!(refused.to_string().contains(word) && refused.is_wrong_use(), "{sql}: {refused}");
    }
    for sql in [
        "SELECT approx_percentile_cont(0.5, 1000) WITHIN GROUP (ORDER BY size) FROM trades",
        "SELECT to_char(ts_event, '%Y-%m') FROM trades",
        "SELECT arrow_cast('2026-01-01', 'Timestamp(ns, \"UTC\")')",
        "SELECT '((((((((((((((((((((((((((((((((((((((((((((((((((((('",
    ] {
        fixture::run(&engine, sql).await.expect(sql);
    }
}

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
    let fixture = trades(10);
    let engine = fixture.engine().await;
    // Ten megabytes in ten rows.
    let big = "repeat(symbol, 1000000)";
    for expression in [
        format!("octet_length(replace({big}, 'A', {big}))"),
        format!("octet_length(replace({big}, 'A', 'BBBB'))"),
        format!("octet_length(regexp_replace({big}, 'A', {big}, 'g'))"),
        format!("octet_length(regexp_replace({big}, '', 'BBBB', 'g'))"),
        format!("octet_length(array_to_string(range(1, 1000), {big}))"),
        format!("octet_length(array_join(range(1, 1000), {big}))"),
        format!("octet_length(concat({big}, {big}, {big}, {big}))"),
        format!("octet_length(concat_ws({big}, 'x', 'x', 'x', 'x', 'x'))"),
        format!("octet_length({big} || {big} || {big} || {big})"),
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

/// A join that takes hours, and pauses as it should.
const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 10000000) b WHERE a.value * b.value % 7 = 3";

async fn log(engine: &Engine) -> String {
    csv(engine, "SELECT id, principal, state, rows, error FROM tape.queries ORDER BY id").await
}

/// Every statement is in the log with how it went; one whose reader has gone is cancelled, whether it computed or gave rows.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_queries_says_how_each_went() {
    let fixture = trades(10);
    let engine = fixture.engine_with(query::Options { timeout: Duration::from_secs(20), ..options() }).await;
    let me = Principal { name: "me".into() };
    csv(&engine, "SELECT symbol FROM trades").await;
    fixture::run(&engine, "DROP TABLE trades").await.unwrap_err();
    fixture::run(&engine, "SELECT nothing FROM trades").await.unwrap_err();
    fixture::run(&engine, "SELECT size + 9223372036854775807 FROM trades").await.unwrap_err();
    let (_, computing) = engine.run(&me, ENDLESS).await.unwrap();
    let (_, mut giving) = engine.run(&me, "SELECT value FROM generate_series(1, 100000000)").await.unwrap();
    let given = giving.next().await.unwrap().unwrap().num_rows();
    let running = log(&engine).await;
    assert!(running.contains("5,me,running,0,\n") && running.contains(&format!("6,me,running,{given},\n")), "{running}");
    drop((computing, giving));
    let noted = log(&engine).await;
    let expected = [
        "1,local,done,10,",
        "2,local,refused,0,\"DROP TABLE is refused",
        "3,local,failed,0,no column nothing;",
        "4,local,failed,0,",
        "5,me,cancelled,0,",
        "6,me,cancelled,",
        "7,local,done,7,",
        "8,local,running,0,",
    ];
    for (line, expected) in noted.lines().skip(1).zip(expected) {
        assert!(line.starts_with(expected), "{expected}: {noted}");
    }
    assert!(noted.contains("does not fit BIGINT"), "{noted}");
    // Ten letters and eleven offsets of four bytes.
    let whole =
        csv(&engine, "SELECT sql, elapsed > 0 AS took, ended_at >= begun_at AS ended, bytes, memory FROM tape.queries WHERE id = 1").await;
    assert_eq!(whole, "sql,took,ended,bytes,memory\nSELECT symbol FROM trades,true,true,54,0\n");
    csv(&engine, "SELECT size, count(*) FROM trades GROUP BY size ORDER BY 2, 1").await;
    assert_eq!(csv(&engine, "SELECT memory > 0 AS held FROM tape.queries WHERE sql LIKE 'SELECT size, count%'").await, "held\ntrue\n");
}

/// Whoever asks for as much as he may waits for himself; another one is answered at once.
#[tokio::test(flavor = "multi_thread")]
async fn one_principal_keeps_nobody_else_out() {
    let fixture = trades(10);
    let engine = fixture.engine_with(query::Options { principal_places: 3, ..options() }).await;
    let greedy = Principal { name: "greedy".into() };
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(engine.run(&greedy, "SELECT value FROM generate_series(1, 100000000)").await.unwrap());
    }
    let full = engine.run(&greedy, "SELECT 1").await.err().expect("no place");
    assert!(matches!(full, Error::Full(3)), "{full}");
    assert_eq!(csv(&engine, "SELECT count(*) AS n FROM trades").await, "n\n10\n");
    let waits = engine.run(&greedy, "SELECT 1");
    held.pop();
    assert!(waits.await.is_ok(), "a place came free");
}

/// A function that does not pause outlives its statement, and the engine says so; what pauses ends with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_computes_on_for_nobody_is_told() {
    let fixture = trades(10);
    let engine = fixture.engine_with(query::Options { timeout: Duration::from_secs(1), ..options() }).await;
    let ended = fixture::run(&engine, ENDLESS).await;
    assert!(matches!(ended, Err(Error::TimedOut(_))), "{ended:?}");
    let ended = Instant::now();
    while ended.elapsed() < query::limits::STUCK_AFTER * 2 {
        assert_eq!(engine.stuck(), None);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Some ten seconds of one core, not to be stopped.
    let endless = "SELECT levenshtein(repeat(symbol, 20000), repeat('b', 20000)) FROM trades LIMIT 1";
    let ended = fixture::run(&engine, endless).await;
    assert!(matches!(ended, Err(Error::TimedOut(_))), "{ended:?}");
    let (begun, mut told) = (Instant::now(), None);
    while told.is_none() && begun.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        told = engine.stuck();
    }
    println!("told {:?} after its end: {told:?}", begun.elapsed());
    assert!(told.is_some_and(|told| told.contains("compute on")));
}
