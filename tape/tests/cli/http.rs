//! SQL over HTTP: an answer comes whole, or it is seen that it did not.

use crate::feed;
use crate::run::Home;
use crate::running::{Running, start, until};
use std::io::{Read, Write};
use std::net::TcpStream;

/// A query service.
pub struct Served {
    pub running: Running,
    address: String,
}

fn served() -> (Home, Served) {
    served_with(&[])
}

fn served_with(flags: &[&str]) -> (Home, Served) {
    let home = Home::embedded();
    let path = home.path("trades.csv");
    feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(0, 3)].concat());
    assert_eq!(home.ingest(&path, &[]).code, 0);
    home.store();
    let running = start(&home, &[&["query", "--listen", "127.0.0.1:0"], flags].concat());
    (home, Served::over(running))
}

impl Served {
    /// The service that was just started, when it says where it is.
    pub fn over(running: Running) -> Served {
        let address = || Some(running.said().split_once("http://")?.1.split_once('/')?.0.to_string());
        until("the address", || address().is_some());
        let address = address().expect("just seen");
        Served { running, address }
    }

    /// The whole answer to a question about numbers, row by row; `None` where it was cut, or nobody answered.
    pub fn rows(&self, sql: &str) -> Option<Vec<Vec<i64>>> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(crate::running::DEADLINE)).expect("a limit");
        stream.write_all(request("text/csv", sql).as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let (head, pieces) = std::str::from_utf8(&answer).ok()?.split_once("\r\n\r\n")?;
        assert!(head.starts_with("HTTP/1.1 200"), "{head} {pieces}");
        let body = whole(pieces)?;
        let cell = |cell: &str| cell.parse().unwrap_or_else(|_| panic!("a number: {body}"));
        Some(body.lines().skip(1).map(|line| line.split(',').map(cell).collect()).collect())
    }

    /// Everything that comes back, to the end of the connection.
    fn ask(&self, accept: &str, sql: &str) -> String {
        self.send(&request(accept, sql))
    }

    /// What comes back to these bytes, to the end of the connection.
    fn send(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an end");
        String::from_utf8(answer).expect("UTF-8")
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(crate::running::DEADLINE)).expect("a limit");
        stream
    }

    fn is_healthy(&self) -> bool {
        self.send("GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").ends_with("ok\n")
    }
}

fn request(accept: &str, sql: &str) -> String {
    let length = sql.len();
    format!("POST /v1/sql HTTP/1.1\r\nHost: t\r\nConnection: close\r\nAccept: {accept}\r\nContent-Length: {length}\r\n\r\n{sql}")
}

/// The pieces of a transfer as one; `None` where the last is missing.
fn whole(mut pieces: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (length, rest) = pieces.split_once("\r\n")?;
        match usize::from_str_radix(length, 16).ok()? {
            0 => return Some(body),
            length => {
                body += rest.get(..length)?;
                pieces = rest.get(length + 2..)?;
            }
        }
    }
}

/// The mark after the last piece of a transfer: without it every client knows that something is missing.
const WHOLE: &str = "\r\n0\r\n\r\n";

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
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("too large to be planned: one FROM joins 128 relations"), "{answer}");
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

/// Whoever asks in another way is told in a line what there is.
#[test]
fn what_is_no_statement_is_answered_in_a_line() {
    let (_home, served) = served();
    let request = |line: &str, head: &str, body: &str| {
        served.send(&format!("{line} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{head}Content-Length: {}\r\n\r\n{body}", body.len()))
    };
    for (line, head, status, says) in [
        ("GET /nothing", "", "404", "no such path: POST /v1/sql takes a statement"),
        ("GET /v1/sql", "", "405", "not this method: POST /v1/sql takes a statement"),
        ("POST /v1/sql", "Content-Encoding: gzip\r\n", "415", "not in Content-Encoding \"gzip\""),
    ] {
        let answer = request(line, head, "SELECT 1 AS n");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(says), "{line}: {answer}");
    }
    assert!(request("POST /v1/sql", "Accept: text/csv\r\n", "\u{feff}SELECT 1 AS n").contains("n\n1\n"));
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
    let memory = std::fs::read_to_string(format!("/proc/{}/statm", served.running.pid())).expect("it runs");
    let pages: u64 = memory.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    assert!(pages * 4096 < 1500 << 20, "{} MiB", (pages * 4096) >> 20);
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
    let long = served.ask("*/*", &"-".repeat(20_000));
    assert!(long.starts_with("HTTP/1.1 413") && long.contains("at most 16384 bytes, this one has 20000"), "{long}");
    let _silent = half("GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n");
    let (status, said) = served.running.signal("TERM");
    assert_eq!(status.code(), Some(0), "{said}");
}
