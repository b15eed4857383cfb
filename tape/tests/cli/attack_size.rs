//! A11, A12: text that is deep, long or wide, and calls that make much of little. A clean error or an answer, in the same process, at little memory.

use crate::attacks::Target;

/// A shape of text: what it is called, how many of a thing it is tried with, and the text of so many.
type Shape = (&'static str, Vec<usize>, fn(usize) -> String);

/// A11: shapes of text, by how many of a thing they have.
fn shapes() -> Vec<Shape> {
    vec![
        ("1+1+…", vec![500, 2_000, 32_000, 200_000], |n| format!("SELECT {} AS n", vec!["1"; n].join("+"))),
        ("…OR…", vec![500, 2_000, 20_000], |n| format!("SELECT count(*) FROM trades WHERE {}", vec!["size=1"; n].join(" OR "))),
        ("…AND…", vec![2_000, 20_000], |n| format!("SELECT count(*) FROM trades WHERE {}", vec!["size=1"; n].join(" AND "))),
        ("…||…", vec![500, 2_000, 20_000], |n| format!("SELECT {} AS s", vec!["'a'"; n].join("||"))),
        ("((((…", vec![40, 5_000], |n| format!("SELECT {}1{} AS n", "(".repeat(n), ")".repeat(n))),
        ("FROM ((((…", vec![20, 5_000], |n| format!("SELECT * FROM {}trades{} LIMIT 1", "(".repeat(n), ")".repeat(n))),
        ("unclosed ((((…", vec![49, 5_000, 60_000], |n| format!("SELECT {}", "(".repeat(n))),
        ("unclosed FROM ((((…", vec![49, 5_000], |n| format!("SELECT * FROM {}", "(".repeat(n))),
        ("unclosed IN ((((…", vec![49, 5_000], |n| format!("SELECT 1 IN {}", "(".repeat(n))),
        ("CASE in CASE", vec![20, 3_000], |n| format!("SELECT {}1{} AS n", "CASE WHEN true THEN ".repeat(n), " END".repeat(n))),
        ("CASE of many", vec![400, 1_500, 6_000], |n| format!("SELECT CASE size {} END FROM trades", "WHEN 1 THEN 2 ".repeat(n))),
        ("subquery in subquery", vec![15, 2_000], |n| format!("{}trades{}", "SELECT * FROM (".repeat(n), ")".repeat(n))),
        ("scalar subqueries", vec![8, 15, 2_000], |n| format!("SELECT {}1{} AS n", "(SELECT ".repeat(n), ")".repeat(n))),
        ("EXISTS in EXISTS", vec![8, 10, 2_000], |n| {
            format!("SELECT 1 WHERE {}true{}", "EXISTS (SELECT 1 WHERE ".repeat(n), ")".repeat(n))
        }),
        ("WITH chain", vec![60, 400, 1_500], |n| {
            let level = |i: usize| format!(", c{i} AS (SELECT * FROM c{})", i - 1);
            format!("WITH c0 AS (SELECT 1 AS x){} SELECT * FROM c{}", (1..n).map(level).collect::<String>(), n - 1)
        }),
        ("WITH doubled", vec![6, 30], |n| {
            let level = |i: usize| format!(", c{i} AS (SELECT a.x FROM c{0} a, c{0} b)", i - 1);
            format!("WITH c0 AS (SELECT 1 AS x){} SELECT * FROM c{}", (1..n).map(level).collect::<String>(), n - 1)
        }),
        ("arrays", vec![40, 5_000, 30_000], |n| format!("SELECT {}1{} AS a", "[".repeat(n), "]".repeat(n))),
        ("array of many", vec![1_000, 15_000, 30_000], |n| format!("SELECT cardinality([{}]) AS n", vec!["1"; n].join(","))),
        ("NOT NOT …", vec![40, 1_000, 10_000], |n| format!("SELECT {}true AS b", "NOT ".repeat(n))),
        ("- - - …", vec![40, 1_000, 10_000], |n| format!("SELECT {}1 AS n", "- ".repeat(n))),
        ("a.b.c.…", vec![100, 20_000], |n| format!("SELECT {}", vec!["a"; n].join("."))),
        ("x::int::int…", vec![40, 1_000, 8_000], |n| format!("SELECT 1{} AS n", "::int".repeat(n))),
        ("x[1][1]…", vec![40, 1_000, 15_000], |n| format!("SELECT [1]{} AS n", "[1]".repeat(n))),
        ("abs(abs(…", vec![40, 10_000], |n| format!("SELECT {}1{} AS n", "abs(".repeat(n), ")".repeat(n))),
        ("IN (…)", vec![5_000, 5_001, 30_000], |n| format!("SELECT count(*) FROM trades WHERE size IN ({})", vec!["1"; n].join(","))),
        ("VALUES", vec![5_000, 15_000], |n| format!("SELECT count(*) FROM (VALUES {}) AS t(v)", vec!["(1)"; n].join(","))),
        ("UNION ALL", vec![100, 501, 4_000], |n| vec!["SELECT 1"; n].join(" UNION ALL ")),
        ("JOIN", vec![20, 101, 2_000], |n| {
            format!("SELECT 1 FROM {}", (0..n).map(|i| format!("trades t{i}")).collect::<Vec<_>>().join(" NATURAL JOIN "))
        }),
        ("columns", vec![2_000, 15_000, 30_000], |n| format!("SELECT {} FROM trades LIMIT 1", vec!["1"; n].join(","))),
        ("ORDER BY of many", vec![500, 30_000], |n| format!("SELECT 1 FROM trades ORDER BY {} LIMIT 1", vec!["size"; n].join(","))),
        ("GROUP BY CUBE", vec![6, 7, 40], |n| format!("SELECT count(*) FROM trades GROUP BY CUBE({})", vec!["size"; n].join(","))),
        ("/* /* …", vec![100, 20_000], |n| format!("{} SELECT 1", "/*".repeat(n))),
        ("one long name", vec![60_000], |n| format!("SELECT {}", "a".repeat(n))),
        ("one long number", vec![1_000, 60_000], |n| format!("SELECT {} AS n", "9".repeat(n))),
        ("one long text", vec![60_000, 70_000], |n| format!("SELECT octet_length('{}') AS n", "x".repeat(n))),
        ("INSERT of 1+1+…", vec![32_000], |n| format!("INSERT INTO trades SELECT {}", vec!["1"; n].join("+"))),
        ("EXPLAIN 1+1+…", vec![500, 20_000], |n| format!("EXPLAIN SELECT {} AS n", vec!["1"; n].join("+"))),
    ]
}

#[test]
fn a11_no_shape_of_text_ends_the_process() {
    let target = Target::start(1_000, "", &["--timeout", "20"]);
    println!("| shape | of | answer | ms |");
    for (name, counts, shape) in shapes() {
        for n in counts {
            let outcome = target.ask(&shape(n));
            let answer: String =
                outcome.said.split("\r\n").find(|line| line.len() > 4 || outcome.status != 200).unwrap_or("").chars().take(90).collect();
            println!("| {name} | {n} | {} {} | {} |", outcome.status, answer.trim().replace('\n', " "), outcome.took.as_millis());
            assert!(matches!(outcome.status, 200 | 400 | 413) && outcome.whole, "{name} {n}: {} {}", outcome.status, outcome.said);
            assert!(!outcome.said.contains("fault of the program"), "{name} {n}: {}", outcome.said);
            target.goes_on();
        }
    }
    println!("the process held {} MiB at most", target.peak());
    assert!(target.peak() < 1_500, "{} MiB", target.peak());
}

/// A12: calls of a few bytes that would take gigabytes. Those with an answer are within the limit.
const MUCH_OF_LITTLE: &[&str] = &[
    "SELECT repeat('a', 10000000000)",
    "SELECT repeat('a', 9223372036854775807)",
    "SELECT octet_length(repeat(symbol, 1000000000)) FROM trades",
    "SELECT repeat(repeat('a', 30000000), 1000)",
    "SELECT generate_series(1, 9000000000000000000)",
    "SELECT range(1, 9000000000000000000)",
    "SELECT range(0, 9223372036854775807, 1)",
    "SELECT generate_series(DATE '0001-01-01', DATE '9999-01-01', INTERVAL '1 second')",
    "SELECT array_repeat(1, 10000000000)",
    "SELECT array_repeat(array_repeat(1, 1000000), 1000000)",
    "SELECT array_resize([1], 2000000000, 7)",
    "SELECT lpad('a', 2000000000, 'b')",
    "SELECT rpad(symbol, 2000000000) FROM trades",
    "SELECT replace(repeat('a', 1000000), 'a', repeat('b', 1000000))",
    "SELECT regexp_replace(repeat('a', 1000000), 'a', repeat('b', 1000000), 'g')",
    "SELECT array_to_string(range(1, 100000), repeat('b', 1000000))",
    "SELECT concat(repeat(symbol, 1000000), repeat(symbol, 1000000)) FROM trades",
    "SELECT octet_length(s || s || s || s) FROM (SELECT repeat(symbol, 7000) AS s FROM trades)",
    "SELECT array_agg(symbol) OVER () FROM trades",
    "SELECT string_agg(symbol, ',') OVER (ORDER BY ts_event) FROM trades",
];

#[test]
fn a12_little_text_does_not_make_much() {
    let target = Target::start(1_000, "", &["--timeout", "20"]);
    for sql in MUCH_OF_LITTLE {
        let outcome = target.is_refused(sql, &["may make", "and may only", "cannot be answered"]);
        assert!(!outcome.said.contains("fault of the program"), "{sql}: {}", outcome.said);
    }
    println!("the process held {} MiB at most", target.peak());
    assert!(target.peak() < 1_000, "{} MiB", target.peak());
    // As a table it is a stream of rows, and takes none.
    let rows = target.ask("SELECT value FROM generate_series(1, 9000000000000000000) LIMIT 3");
    assert!(rows.status == 200 && rows.whole, "{}", rows.said);
    let gathered = target.ask("SELECT octet_length(string_agg(CAST(value AS VARCHAR), ',')) AS n FROM generate_series(1, 1000000)");
    assert!(gathered.said.contains("6888895"), "{}", gathered.said);
    target.goes_on();
}
