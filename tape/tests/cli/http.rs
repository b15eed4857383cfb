//! SQL over HTTP: an answer comes whole, or it is seen that it did not.

use crate::running::{resident, until};
use crate::served::{WHOLE, served, served_with};
use std::io::{Read, Write};

#[test]
fn results_come_in_pieces_and_a_broken_one_is_never_taken_for_whole() {
    let (_home, served) = served();
    for (accept, says) in [
        ("text/csv", "symbol,size\nTOK0,"),
        ("application/x-ndjson", "{\"symbol\":\"TOK0\","),
        ("*/*", "[\n{\"symbol\":"),
        ("text/plain", "3 rows"),
        ("text/html, application/xhtml+xml;q=0.9, */*;q=0.8", "[\n{\"symbol\":"),
        ("application/json;q=0.5, Text/CSV;header=present", "symbol,size\nTOK0,"),
    ] {
        let whole = served.ask(accept, "SELECT symbol, size FROM trades ORDER BY symbol");
        assert!(whole.starts_with("HTTP/1.1 200") && whole.contains("transfer-encoding: chunked"), "{whole}");
        assert!(whole.contains(says) && whole.ends_with(WHOLE), "{accept}: {whole}");
    }
    let none = served.ask("text/csv", "SELECT symbol FROM trades WHERE symbol = 'X'");
    assert!(none.contains("symbol\n") && none.ends_with(WHOLE), "{none}");

    let at_once = served.ask("text/csv", "SELECT size + 9223372036854775807 FROM trades");
    assert!(at_once.starts_with("HTTP/1.1 400") && at_once.contains("does not fit BIGINT"), "{at_once}");

    // Overflows in row 100,001: by then the first rows are on their way.
    let later = "SELECT value + 9223372036854675807 AS n FROM generate_series(1, 200000)";
    for accept in ["text/csv", "*/*", "application/x-ndjson"] {
        let broken = served.ask(accept, later);
        assert!(broken.starts_with("HTTP/1.1 200") && broken.len() > 10_000, "{}", broken.len());
        assert!(!broken.ends_with(WHOLE), "{accept}: {}", &broken[broken.len() - 100..]);
    }
    // Packed, too.
    let request = format!(
        "POST /v1/sql HTTP/1.1\r\nHost: t\r\nConnection: close\r\nAccept-Encoding: gzip\r\nContent-Length: {}\r\n\r\n{later}",
        later.len()
    );
    let broken = served.try_send_bytes(&request).expect("an end");
    assert!(broken.starts_with(b"HTTP/1.1 200") && !broken.ends_with(WHOLE.as_bytes()), "{} bytes", broken.len());
    assert!(
        served.running.said().contains("was broken off: generate_series().value + 9223372036854675807 does not fit BIGINT"),
        "{}",
        served.running.said()
    );
    // The next query is none the worse for it.
    assert!(served.ask("text/csv", "SELECT 1 AS n").contains("n\n1\n"));
    let (status, said) = served.running.signal("TERM");
    assert!(status.success(), "{said}");
}

/// Two strings whose distance takes an hour and no memory: of constants it is computed while the statement is planned, of a column while it runs.
fn endless(of: &str) -> String {
    format!("levenshtein(repeat({of}, 300000), repeat('b', 300000))")
}

#[test]
fn statements_that_do_not_end_hold_nobody_up() {
    let (_home, served) = served_with(&["--timeout", "2"]);
    let statements = [format!("SELECT {} AS n", endless("'a'")), format!("SELECT {} AS n FROM trades", endless("symbol"))];
    std::thread::scope(|scope| {
        for statement in statements.iter().cycle().take(4) {
            scope.spawn(|| {
                let answer = served.ask("text/csv", statement);
                assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("the time limit of a query"), "{answer}");
            });
        }
        assert!(served.is_healthy());
    });
    assert!(served.is_healthy());
    // On a busy machine the first may take longer than this server's two seconds.
    until("another statement's answer", || served.ask("text/csv", "SELECT max(symbol) AS s FROM trades").contains("s\nTOK2\n"));
    let (status, said) = served.running.signal("TERM");
    assert_eq!(status.code(), Some(0), "{said}");
}

#[test]
fn a_statement_far_larger_than_its_text_is_refused_at_once() {
    let (_home, served) = served();
    let level = |i: usize| format!(", c{i} AS (SELECT a.* FROM c{} a JOIN c{} b ON a.symbol = b.symbol)", i - 1, i - 1);
    let levels: String = (1..30).map(level).collect();
    let answer = served.ask("text/csv", &format!("WITH c0 AS (SELECT * FROM trades){levels} SELECT count(*) FROM c29"));
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("too large to be planned: one FROM joins 64 relations"), "{answer}");
    let levels: String = (1..40).map(|i| format!(", c{i} AS (SELECT x + x AS x FROM c{})", i - 1)).collect();
    let answer = served.ask("text/csv", &format!("WITH c0 AS (SELECT size AS x FROM trades){levels} SELECT x FROM c39 WHERE x > 0"));
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("too large to be planned: a column is computed of 16384"), "{answer}");
    let long = served.ask("text/csv", &format!("SELECT {} AS n", vec!["1"; 4000].join("+")));
    assert!(long.starts_with("HTTP/1.1 400") && long.contains("operators in a chain"), "{long}");
}

#[test]
fn a_form_that_there_is_not_is_said() {
    let (_home, served) = served();
    let answer = served.ask("image/png", "SELECT 1 AS n");
    assert!(answer.starts_with("HTTP/1.1 406") && answer.contains("application/x-ndjson"), "{answer}");
}

/// Whoever asks in another way is told what there is.
#[test]
fn what_is_no_statement_is_a_problem() {
    let (_home, served) = served();
    let request = |line: &str, head: &str, body: &str| {
        served.send(&format!("{line} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{head}Content-Length: {}\r\n\r\n{body}", body.len()))
    };
    for (line, head, status, says) in [
        ("GET /nothing", "", "404", "no such path: POST /v1/sql takes a statement"),
        ("GET /v1/sql", "", "405", "not this method: POST /v1/sql takes a statement"),
        ("POST /v1/sql", "Content-Encoding: gzip\r\n", "415", "not in Content-Encoding \\\"gzip\\\""),
    ] {
        let answer = request(line, head, "SELECT 1 AS n");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(says), "{line}: {answer}");
        assert!(answer.contains("content-type: application/problem+json") && answer.contains(&format!("\"status\":{status}")), "{answer}");
    }
    assert!(request("POST /v1/sql", "Accept: text/csv\r\n", "\u{feff}SELECT 1 AS n").contains("n\n1\n"));
}

/// What a program asks first: which tables there are, and what their columns mean.
#[test]
fn tables_are_listed_with_their_columns() {
    let (_home, served) = served();
    let get = |path: &str, head: &str| {
        served.try_send_bytes(&format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{head}\r\n")).expect("an end")
    };
    let plain = String::from_utf8(get("/v1/tables", "")).expect("text");
    assert!(plain.contains("\"table\":\"trades\"") && plain.contains("\"table\":\"intervals\""), "{plain}");
    let one = String::from_utf8(get("/v1/tables/trades", "")).expect("text");
    assert!(one.contains("\"name\":\"price\"") && !one.contains("bid_px_00"), "{one}");
    let none = String::from_utf8(get("/v1/tables/trade", "")).expect("text");
    assert!(none.starts_with("HTTP/1.1 404") && none.contains("there is no table trade; there are"), "{none}");
    for packed in ["gzip", "zstd"] {
        let answer = get("/v1/tables", &format!("Accept-Encoding: {packed}\r\n"));
        assert!(String::from_utf8_lossy(&answer).contains(&format!("content-encoding: {packed}")), "{packed}");
        assert!(answer.len() * 3 < plain.len(), "{packed}: {} of {} bytes", answer.len(), plain.len());
    }
}

/// Clients that ask for much and read nothing hold no more than their pieces; the others are answered or told to wait.
#[test]
fn clients_that_do_not_read_keep_few_places() {
    let (_home, served) = served();
    let sql = "SELECT value, repeat('x', 1000) AS x FROM generate_series(1, 1000000)";
    let request = format!("POST /v1/sql HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{sql}", sql.len());
    let deaf: Vec<_> = (0..40)
        .map(|_| {
            let mut stream = served.connect();
            stream.write_all(request.as_bytes()).expect("sent");
            stream
        })
        .collect();
    until("no place is left", || served.ask("text/csv", "SELECT 1 AS n").starts_with("HTTP/1.1 503"));
    assert!(served.is_healthy());
    let held = resident(served.running.child());
    assert!(held < 1500 << 20, "{} MiB", held >> 20);
    drop(deaf);
    until("another statement's answer", || served.ask("text/csv", "SELECT 1 AS n").contains("n\n1\n"));
}

/// More connections than the server holds, all with half a request: they are let go, and whoever asks after them is answered.
#[test]
fn half_open_connections_keep_nobody_out_for_long() {
    let (_home, served) = served();
    let half = |request: &str| {
        let mut stream = served.connect();
        stream.write_all(request.as_bytes()).expect("sent");
        stream
    };
    let mut heads: Vec<_> = (0..300).map(|_| half("GET /healthz HTTP/1.1\r\nHost:")).collect();
    assert!(served.is_healthy());
    let mut rest = Vec::new();
    heads[0].read_to_end(&mut rest).expect("the server ends it");
    let answer = served.send("POST /v1/sql HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\nSELECT 1");
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("the body did not come within"), "{answer}");
    let long = served.ask("*/*", &"-".repeat(70_000));
    assert!(long.starts_with("HTTP/1.1 413") && long.contains("at most 65536 bytes, this one has 70000"), "{long}");
    let _silent = half("GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n");
    let (status, said) = served.running.signal("TERM");
    assert_eq!(status.code(), Some(0), "{said}");
}
