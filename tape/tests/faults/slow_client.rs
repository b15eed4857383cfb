//! A client that reads its answer slowly while the store works, and a query process that is killed under its client.

use crate::ledger::{Ledger, settings, start_store, stop_store};
use crate::run::{self, Home};
use crate::running::{self, peak, until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

/// The mark after the last piece of a transfer.
const WHOLE: &[u8] = b"\r\n0\r\n\r\n";
/// Far less than the answer: what a slow client has not read is not held for it.
const GROWTH_MAX: u64 = 256 << 20;

fn ask(address: &str, sql: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(running::DEADLINE)).expect("a limit");
    let length = sql.len();
    let request =
        format!("POST /v1/sql HTTP/1.1\r\nHost: t\r\nConnection: close\r\nAccept: text/csv\r\nContent-Length: {length}\r\n\r\n{sql}");
    stream.write_all(request.as_bytes()).expect("sent");
    stream
}

/// F32, F36.
#[test]
fn a_slow_client_and_a_killed_query_do_not_touch_the_store() {
    let Some(broker) = run::broker() else { return };
    let home = Home::kafka(&broker);
    settings(&home, "age_max_seconds = 1");
    let mut ledger = Ledger::default();
    ledger.publish(&home, 20_000);
    let store = start_store(&home, "store");
    ledger.wait_stored(&home, &[&store]);
    let mut query = running::start(&home, &["query", "--listen", "127.0.0.1:0"]);
    let address = || Some(query.said().split_once("http://")?.1.split_once('/')?.0.to_string());
    until("the address", || address().is_some());
    let address = address().expect("just seen");
    // A warm-up: what the first statement makes is not the slow one's.
    let mut answer = Vec::new();
    ask(&address, "SELECT count(*) FROM trades").read_to_end(&mut answer).expect("an end");
    let before = peak(query.child());
    // A hundred million rows, several gigabytes of text.
    let mut slow =
        ask(&address, "SELECT a.symbol, a.price, b.size, a.source_record FROM trades a CROSS JOIN (SELECT size FROM trades LIMIT 5000) b");
    let mut piece = [0; 4096];
    let mut read = 0;
    for _ in 0..4 {
        read += slow.read(&mut piece).expect("rows");
        ledger.publish(&home, 5_000);
        ledger.wait_stored(&home, &[&store]);
    }
    let grown = peak(query.child()) - before;
    println!("the client has read {read} bytes; the query process has grown by {} MiB", grown >> 20);
    assert!(grown < GROWTH_MAX, "the query process has grown by {grown} bytes");
    let killed = Instant::now();
    assert!(query.kill(), "it was at work");
    let mut rest = Vec::new();
    // An end or an error; either way the client sees that its answer is not whole.
    let ended = slow.read_to_end(&mut rest);
    println!("after the kill the client had {} bytes more and {ended:?} within {:?}", rest.len(), killed.elapsed());
    assert!(!rest.ends_with(WHOLE), "nobody takes it for whole");
    ledger.publish(&home, 5_000);
    ledger.wait_stored(&home, &[&store]);
    let report = stop_store(store);
    println!("{report}");
    ledger.check(&home);
}
