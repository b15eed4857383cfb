//! Statements that attack the service, against the service as it runs: what it answers, how long that took, what it held, and that it goes on.

use crate::run::Home;
use crate::running::{peak, resident, until};
use crate::served::{Served, WHOLE, request, with_trades};
use std::time::{Duration, Instant};

/// A service over some trades, and the process that answers.
pub struct Target {
    pub home: Home,
    pub served: Served,
    pub process: u32,
}

/// What became of a statement.
pub struct Outcome {
    pub status: u32,
    /// The text of an error, or the beginning of a result; whole or not.
    pub said: String,
    pub whole: bool,
    pub took: Duration,
}

impl Target {
    pub fn start(trades: u64, settings: &str, flags: &[&str]) -> Target {
        let home = with_trades(trades);
        std::fs::write(home.path("tape.toml"), settings).expect("written");
        let served = Served::start(&home, &[&["query", "--listen", "127.0.0.1:0"], flags].concat());
        until("the first answer", || served.try_send(&request("text/csv", "SELECT 1 AS n")).is_ok_and(|answer| answer.ends_with(WHOLE)));
        let process = served.running.child();
        Target { home, served, process }
    }

    pub fn ask(&self, sql: &str) -> Outcome {
        let begun = Instant::now();
        let answer = self.served.try_send(&request("text/csv", sql)).unwrap_or_default();
        let took = begun.elapsed();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let whole = answer.ends_with(WHOLE) || (status != 200 && status != 0);
        Outcome { status, said: body.chars().take(400).collect(), whole, took }
    }

    /// The statement is answered with an error that says one of these, and the process goes on.
    pub fn is_refused(&self, sql: &str, says: &[&str]) -> Outcome {
        let before = resident(self.process);
        let outcome = self.ask(sql);
        let shown: String = sql.chars().take(120).collect();
        assert_eq!(outcome.status, 400, "{shown}: {}", outcome.said);
        assert!(says.iter().any(|text| outcome.said.contains(text)), "{shown}: none of {says:?} in {}", outcome.said);
        self.goes_on();
        let grown = resident(self.process).saturating_sub(before) >> 20;
        println!("{:>8.1} ms, {grown:>4} MiB more: {} ← {shown}", outcome.took.as_secs_f64() * 1e3, outcome.said.trim());
        outcome
    }

    /// The same process answers.
    pub fn goes_on(&self) {
        assert_eq!(self.served.running.child(), self.process, "{}", self.served.running.said());
        assert!(self.served.is_healthy());
    }

    /// Most that the process has held, in MiB.
    pub fn peak(&self) -> u64 {
        peak(self.process) >> 20
    }
}
