//! A13 to A15, and leaving: statements without end, patterns that explode, a disk that is full, clients that go. Each ends by itself or at its time,
//! and the service answers the next one.

use crate::attacks::Target;
use crate::counted;
use crate::feed;
use crate::run::Home;
use crate::running::until;
use crate::served::{Served, WHOLE, request, with_trades};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// Time limit of the service here.
const LIMIT: Duration = Duration::from_secs(3);

/// A13: what would take hours.
const ENDLESS: &[&str] = &[
    "SELECT max(a.size + b.size + c.size) FROM trades a, trades b, trades c",
    "SELECT count(*) FROM trades a JOIN (SELECT a.size FROM trades a, trades b) b ON a.size < b.size",
    "SELECT max(a.value + b.value) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b",
    "SELECT count(*) FROM generate_series(1, 1000000) a JOIN generate_series(1, 1000000) b ON a.value < b.value",
    "SELECT count(*) FROM trades a JOIN trades b ON a.dataset = b.dataset JOIN trades c ON b.dataset = c.dataset JOIN trades d ON c.dataset = d.dataset WHERE a.size + b.size + c.size = d.size * 7",
    "WITH RECURSIVE n AS (SELECT 1 AS v UNION ALL SELECT v + 1 FROM n) SELECT max(v) FROM n",
    "WITH RECURSIVE n AS (SELECT 1 AS v UNION ALL SELECT v FROM n) SELECT count(*) FROM n",
    "SELECT sum(value) OVER (ORDER BY value ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) FROM generate_series(1, 100000000)",
    "SELECT median(value) OVER (ORDER BY value ROWS BETWEEN 100000 PRECEDING AND CURRENT ROW) FROM generate_series(1, 10000000)",
    "SELECT value FROM generate_series(1, 100000000) ORDER BY random()",
    "SELECT count(DISTINCT md5(CAST(value AS VARCHAR))) FROM generate_series(1, 1000000000)",
    "SELECT max(value) FROM generate_series(1, 9000000000000000000)",
    "SELECT max(levenshtein(repeat(symbol, 30000), repeat('b', 30000))) FROM (SELECT symbol FROM trades LIMIT 20)",
    "SELECT levenshtein(repeat('a', 300000), repeat('b', 300000))",
    "SELECT levenshtein(repeat('a', 300000), repeat('b', 300000)) + 1",
    "SELECT symbol, max(levenshtein(repeat(symbol, 30000), repeat('b', 30000))) FROM (SELECT symbol FROM trades LIMIT 20) GROUP BY symbol",
];

#[test]
fn a13_what_would_take_hours_ends_at_its_time_and_the_next_is_answered() {
    let target = Target::start(3_000, "", &["--timeout", &LIMIT.as_secs().to_string()]);
    println!("| statement | answer | after | another answered after |");
    for sql in ENDLESS {
        let outcome = target.ask(sql);
        let asked = Instant::now();
        until("another answer", || target.ask("SELECT max(symbol) AS s FROM trades").said.contains("TOK"));
        let answer: String = outcome.said.chars().take(110).collect();
        println!(
            "| {sql} | {} {} | {:.2} s | {:.2} s |",
            outcome.status,
            answer.trim(),
            outcome.took.as_secs_f64(),
            asked.elapsed().as_secs_f64()
        );
        let cut = outcome.status == 200 && !outcome.whole;
        let told = ["the time limit of a query", "would compare", "more memory is needed"].iter().any(|told| outcome.said.contains(told));
        assert!(cut || (outcome.status == 400 && told), "{sql}: {} {}", outcome.status, outcome.said);
    }
    let said = target.served.running.said();
    println!("begun again {} times", said.matches("answers again").count());
    assert!(!said.contains("SIG"), "{said}");
    let (status, said) = target.served.running.signal("TERM");
    assert_eq!(status.code(), Some(0), "{said}");
}

/// A14: patterns.
fn patterns() -> Vec<(&'static str, String)> {
    let x = "repeat(symbol, 1000)";
    vec![
        ("nested repetition", format!("SELECT count(*) FROM trades WHERE regexp_like({x}, '(a{{1,1000}}){{1,1000}}')")),
        ("nested repetition, thrice", format!("SELECT count(*) FROM trades WHERE regexp_like({x}, '((a{{1,100}}){{1,100}}){{1,100}}')")),
        ("backtracking", format!("SELECT count(*) FROM trades WHERE regexp_like({x}, '^(a+)+$')")),
        ("backtracking, replace", format!("SELECT max(octet_length(regexp_replace({x}, '(T*)*X', ''))) FROM trades")),
        ("60 KB of pattern", format!("SELECT count(*) FROM trades WHERE regexp_like({x}, '{}')", "(a|b)?".repeat(10_000))),
        ("60 KB of alternatives", format!("SELECT count(*) FROM trades WHERE regexp_like({x}, '{}')", "TOK|".repeat(15_000))),
        ("classes of all letters", format!("SELECT count(*) FROM trades WHERE regexp_like({x}, '{}')", "\\pL{1,50}".repeat(20))),
        ("open groups", format!("SELECT count(*) FROM trades WHERE regexp_like({x}, '{}')", "(".repeat(30_000))),
        (
            "a pattern for each row",
            "SELECT count(*) FROM trades WHERE regexp_like(symbol, concat('(', symbol, '{1,500}){1,', size, '}'))".into(),
        ),
        ("LIKE with many %", format!("SELECT count(*) FROM trades WHERE {x} LIKE '{}'", "%a".repeat(10_000))),
        ("LIKE with many % and _", format!("SELECT count(*) FROM trades WHERE {x} LIKE '{}X'", "%_".repeat(10_000))),
        ("SIMILAR TO", format!("SELECT count(*) FROM trades WHERE {x} SIMILAR TO '{}'", "(a|b)*".repeat(5_000))),
        ("regexp_count", format!("SELECT max(regexp_count({x}, '(T|O|K)*?')) FROM trades")),
        ("replaced by much", format!("SELECT max(octet_length(regexp_replace({x}, '', {x}, 'g'))) FROM trades")),
    ]
}

#[test]
fn a14_patterns_are_refused_or_end_at_their_time() {
    let target = Target::start(3_000, "", &["--timeout", "20"]);
    println!("| pattern | answer | after |");
    for (name, sql) in patterns() {
        let outcome = target.ask(&sql);
        let answer: String = outcome.said.chars().filter(|c| !c.is_control()).take(110).collect();
        println!("| {name} | {} {} | {:.2} s |", outcome.status, answer, outcome.took.as_secs_f64());
        assert!(matches!(outcome.status, 200 | 400) && outcome.whole, "{name}: {} {}", outcome.status, outcome.said);
        until("another answer", || target.ask("SELECT max(symbol) AS s FROM trades").said.contains("TOK"));
    }
    println!("the process held {} MiB at most", target.peak());
    assert!(target.peak() < 2_000, "{} MiB", target.peak());
}

/// A15: what does not fit into memory fills its part of the disk: an error for that statement, its files go, and ingest and store see nothing of it.
#[test]
fn a15_a_full_place_for_what_does_not_fit_is_an_error_of_its_statement() {
    let home = with_trades(1_000);
    std::fs::write(home.path("tape.toml"), "[query]\nmemory_mib = 32\nspill_mib = 40\n").expect("written");
    let served = Served::start(&home, &["up", "--no-samples", "--listen", "127.0.0.1:0"]);
    let process = served.running.child();
    until("the first answer", || served.try_send(&request("text/csv", "SELECT 1 AS n")).is_ok_and(|answer| answer.ends_with(WHOLE)));
    let much = "SELECT value, md5(CAST(value AS VARCHAR)) AS h FROM generate_series(1, 3000000) ORDER BY h";
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| served.ask("text/csv", much));
        for batch in 1..4 {
            let path = home.path(&format!("more-{batch}.csv"));
            feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(batch * 1_000, batch * 1_000 + 1_000)].concat());
            assert_eq!(home.ingest(&path, &[]).code, 0);
        }
        let answer = asked.join().expect("an answer");
        println!("{}", answer.split("\r\n\r\n").nth(1).unwrap_or_default());
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("have put 40.0 MB aside on disk"), "{answer}");
    });
    until("what was published to be visible", || served.ask("text/csv", "SELECT count(*) AS n FROM trades").contains("n\n4000\n"));
    let small = served
        .ask("text/csv", "SELECT count(DISTINCT h) AS n FROM (SELECT md5(CAST(value AS VARCHAR)) AS h FROM generate_series(1, 1000))");
    assert!(small.contains("n\n1000\n"), "{small}");
    assert_eq!(served.running.child(), process);
    let (status, said) = served.running.signal("TERM");
    assert_eq!(status.code(), Some(0), "{said}");
    assert_eq!(counted(&home, "SELECT count(*) AS n FROM trades")["n"], 4_000);
}

/// The same on a disk that is full in truth: a small file system for temporary files, where this user may make one.
#[test]
fn a15_a_full_disk_for_what_does_not_fit_is_an_error_of_its_statement() {
    let home: Home = with_trades(1_000);
    let place = home.path("small");
    std::fs::create_dir(&place).expect("made");
    let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(&place).output();
    if !mounted.as_ref().is_ok_and(|done| done.status.success()) {
        println!("not tried: this user may mount nothing ({mounted:?})");
        return;
    }
    std::fs::write(home.path("tape.toml"), "[query]\nmemory_mib = 32\n").expect("written");
    let mut served = Served::start_with(&home, &["query", "--listen", "127.0.0.1:0"], &[("TMPDIR", place.to_str().expect("UTF-8"))]);
    until("the first answer", || served.try_send(&request("text/csv", "SELECT 1 AS n")).is_ok_and(|answer| answer.ends_with(WHOLE)));
    let answer = served.ask("text/csv", "SELECT value, md5(CAST(value AS VARCHAR)) AS h FROM generate_series(1, 3000000) ORDER BY h");
    println!("{}", answer.split("\r\n\r\n").nth(1).unwrap_or_default());
    let next = served.ask("text/csv", "SELECT count(*) AS n FROM trades");
    let ended = served.running.ended();
    drop(served);
    until("the small file system to be free", || {
        std::process::Command::new("umount").arg(&place).status().is_ok_and(|status| status.success())
    });
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("the disk that takes what does not fit into memory is full"), "{answer}");
    assert!(next.contains("n\n1000\n") && !ended, "{next}");
}

/// Given a client that leaves, while its statement computes and while its rows come, then the statement ends as cancelled, and its place is free.
#[test]
fn a_client_that_leaves_takes_its_statement_with_it() {
    let target = Target::start(1_000, "", &["--timeout", "600"]);
    let computing = "SELECT max(a.value + b.value) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b";
    let giving = "SELECT value, repeat('x', 1000) AS x FROM generate_series(1, 100000000)";
    let states = |state: &str| {
        let sql = format!(
            "SELECT count(*) AS n FROM tape.queries WHERE sql LIKE 'SELECT %generate_series%' AND sql NOT LIKE '%tape.queries%' AND state = '{state}'"
        );
        target.ask(&sql).said
    };
    let mut clients: Vec<_> = [computing, giving]
        .iter()
        .map(|sql| {
            let mut client = target.served.connect();
            client.write_all(request("text/csv", sql).as_bytes()).expect("sent");
            client
        })
        .collect();
    let mut piece = [0; 100_000];
    clients[1].read_exact(&mut piece).expect("rows come");
    until("both to run", || states("running").contains("n\r\n2") || states("running").contains("n\n2"));
    let left = Instant::now();
    drop(clients);
    until("both to be cancelled", || states("cancelled").contains("n\n2"));
    println!("both were cancelled within {:?} of their clients' leaving", left.elapsed());
    let shown =
        target.ask("SELECT state, rows > 0 AS gave, elapsed > 0 AS took FROM tape.queries WHERE state = 'cancelled' ORDER BY id").said;
    assert!(shown.contains("cancelled,false,true") && shown.contains("cancelled,true,true"), "{shown}");
    target.goes_on();
}
