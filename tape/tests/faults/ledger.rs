//! What was published, record by record, and whether the tables have exactly that.

use crate::feed;
use crate::run::{Home, text};
use crate::running::{self, Running};
use serde_json::Value;
use std::time::{Duration, Instant};

/// So often one file is given to `tape ingest` again, as whoever supervises it would.
const TRIES: usize = 20;
/// Longest time that a story waits for the stores: some wait for time-outs of the broker first.
const PATIENCE: Duration = Duration::from_secs(240);

/// Trades by number, all below `to`.
#[derive(Default)]
pub struct Ledger {
    to: u64,
    files: u64,
    /// Ingests that ended with a fault, and were repeated.
    pub repeated: usize,
}

impl Ledger {
    /// Publishes the next trades as a file of their own.
    pub fn publish(&mut self, home: &Home, trades: u64) {
        let path = home.path(&format!("trades-{}.csv", self.to));
        feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(self.to, self.to + trades)].concat());
        for _ in 0..TRIES {
            let output = home.run(&["ingest", path.to_str().expect("UTF-8")], "");
            match output.status.code() {
                Some(0) => {
                    self.to += trades;
                    self.files += 1;
                    return;
                }
                // A fault: nothing or only part was done, and it says what to do.
                Some(3) => {
                    self.repeated += 1;
                    println!("ingest: {}", String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default());
                }
                _ => panic!("tape ingest: {}", text(&output)),
            }
        }
        panic!("{TRIES} ingests of one file, and it is not published");
    }

    pub fn records(&self) -> u64 {
        self.to
    }

    /// Waits until the running stores have stored all of it.
    pub fn wait_stored(&self, home: &Home, stores: &[&Running]) {
        let began = Instant::now();
        loop {
            let stored = stored(home);
            if stored == self.to {
                return;
            }
            let said: Vec<String> = stores.iter().map(|store| store.said()).collect();
            assert!(began.elapsed() < PATIENCE, "{stored} of {} trades are stored; the stores said {said:#?}", self.to);
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Every record is there once, every commit's proof holds, and nothing is told of that was not so.
    pub fn check(&self, home: &Home) {
        let output = home.run(&["verify"], "");
        assert!(output.status.success(), "tape verify: {}", text(&output));
        let row = one(
            home,
            "SELECT sum(n) AS n, count(*) AS places, count(DISTINCT source_id) AS sources, CAST(sum(price) AS VARCHAR) AS price, sum(size) AS size \
             FROM (SELECT source_id, source_record, count(*) AS n, sum(price) AS price, sum(size) AS size FROM trades GROUP BY 1, 2)",
        );
        let sum = |(price, size): (i128, u64), trade: (i64, u32)| (price + i128::from(trade.0), size + u64::from(trade.1));
        let (price, size) = (0..self.to).map(feed::trade).fold((0, 0), sum);
        assert_eq!((number(&row["n"]), number(&row["places"])), (self.to as i64, self.to as i64), "every record once");
        assert_eq!(number(&row["sources"]), self.files as i64);
        assert_eq!(row["price"], format!("{}.{:09}", price / 1_000_000_000, price % 1_000_000_000));
        assert_eq!(number(&row["size"]), size as i64);
        let strange = one(home, "SELECT (SELECT count(*) FROM gaps) + (SELECT count(*) FROM quarantine) AS n");
        assert_eq!(number(&strange["n"]), 0, "nothing in gaps or quarantine");
    }
}

/// Rows of `trades`, in the tables or still in the log.
pub fn trades(home: &Home) -> u64 {
    number(&one(home, "SELECT count(*) AS n FROM trades")["n"]) as u64
}

/// Records that the commits of `trades` answer for, its quarantine among them: a count of rows would have those of the log, too.
pub fn stored(home: &Home) -> u64 {
    number(&one(home, "SELECT coalesce(sum(records), 0) AS n FROM tape.intervals WHERE table_name = 'trades'")["n"]) as u64
}

/// The one row of a question.
pub fn one(home: &Home, sql: &str) -> Value {
    let answers = home.ask(&[sql.to_string()]);
    answers[0][0].clone()
}

/// A number as the JSON of `tape sql` has it.
pub fn number(value: &Value) -> i64 {
    value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_else(|| panic!("{value} is no number"))
}

/// `tape store` as a service, ready when it has said how many partitions it has.
pub fn start_store(home: &Home, name: &str) -> Running {
    let mut store = running::start_as(home, name, &["store", "--json"], &[]);
    running::until(&format!("the partitions of {name}"), || {
        assert!(!store.ended(), "{}", store.said());
        partitions(&store).is_some()
    });
    store
}

/// How many partitions a store has by its last word.
pub fn partitions(store: &Running) -> Option<u64> {
    let said = store.said();
    let last = said.lines().rev().find_map(|line| line.strip_prefix("this store has "))?;
    last.split(' ').next()?.parse().ok()
}

/// Ends a store with SIGTERM; what it reports.
pub fn stop_store(store: Running) -> Value {
    let (status, said) = store.signal("TERM");
    assert!(status.success(), "{status}: {said}");
    report(&said)
}

/// The report in what a store said.
pub fn report(said: &str) -> Value {
    let json = said.lines().rev().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("no report in {said}"));
    serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {json}"))
}

/// Settings of the stores of a home.
pub fn settings(home: &Home, store: &str) {
    std::fs::write(home.path("tape.toml"), format!("[store]\n{store}\n")).expect("written");
}
