//! SQL over HTTP of a home with three trades, and a client that shows every byte of an answer.

use crate::feed;
use crate::run::Home;
use crate::running::{Running, start_as, until};
use std::io::{Read, Write};
use std::net::TcpStream;

/// The mark after the last piece of a transfer: without it every client knows that something is missing.
pub const WHOLE: &str = "\r\n0\r\n\r\n";

/// A command that answers SQL.
pub struct Served {
    pub running: Running,
    pub address: String,
}

/// `tape query` over three trades.
pub fn served() -> (Home, Served) {
    served_with(&[])
}

pub fn served_with(flags: &[&str]) -> (Home, Served) {
    let home = with_trades(3);
    let served = Served::start(&home, &[&["query", "--listen", "127.0.0.1:0"], flags].concat());
    (home, served)
}

/// A home with so many trades in its tables.
pub fn with_trades(count: u64) -> Home {
    let home = Home::embedded();
    let path = home.path("trades.csv");
    feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(0, count)].concat());
    assert_eq!(home.ingest(&path, &[]).code, 0);
    home.store();
    home
}

impl Served {
    /// `tape ARGS`, once it says where it answers.
    pub fn start(home: &Home, args: &[&str]) -> Served {
        Served::start_with(home, args, &[])
    }

    /// The same with variables of its environment.
    pub fn start_with(home: &Home, args: &[&str], env: &[(&str, &str)]) -> Served {
        let mut running = start_as(home, args[0], args, env);
        let mut address = None;
        until("the address", || {
            let said = running.said();
            assert!(!running.ended(), "{said}");
            let rest = said.split_once("http://").map(|(_, rest)| rest);
            address = rest.and_then(|rest| rest.split_once(['/', ' '])).map(|(address, _)| address.to_string());
            address.is_some()
        });
        Served { running, address: address.expect("just seen") }
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
    pub fn ask(&self, accept: &str, sql: &str) -> String {
        self.send(&request(accept, sql))
    }

    /// What comes back to these bytes, to the end of the connection.
    pub fn send(&self, request: &str) -> String {
        self.try_send(request).expect("an end")
    }

    /// The same, where the connection may be broken off.
    pub fn try_send(&self, request: &str) -> std::io::Result<String> {
        Ok(String::from_utf8(self.try_send_bytes(request)?).expect("UTF-8"))
    }

    /// The same, where the answer may be no text.
    pub fn try_send_bytes(&self, request: &str) -> std::io::Result<Vec<u8>> {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(crate::running::DEADLINE)).expect("a limit");
        stream
    }

    pub fn is_healthy(&self) -> bool {
        self.send("GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").ends_with("ok\n")
    }
}

/// A question over a connection of its own.
pub fn request(accept: &str, sql: &str) -> String {
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
