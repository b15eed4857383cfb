//! The shell driven through a pipe: what a script prints, what fails, and what Ctrl-C stops.

mod fixture;

use fixture::{Fixture, Row, T0};
use futures::FutureExt;
use query::Principal;
use query::output::{Format, TableStyle};
use query::shell::{Interrupt, Shell, Went, Writers};
use schemas::Family;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

fn never() -> Interrupt {
    Arc::new(|| futures::future::pending().boxed())
}

struct Said {
    out: String,
    err: String,
    worst: Went,
}

fn say(fixture: &Fixture, input: &str, interrupt: Interrupt) -> Said {
    let runtime = Runtime::new().unwrap();
    let engine = runtime.block_on(fixture.engine());
    let style = TableStyle { timing: false, ..TableStyle::default() };
    let mut shell = Shell::new(engine, Principal::local(), runtime.handle().clone(), interrupt, Format::Table, style);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let worst = shell.script(&mut input.as_bytes(), &mut Writers { out: &mut out, err: &mut err }).unwrap();
    runtime.shutdown_background();
    Said { out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap(), worst }
}

fn one_trade() -> Fixture {
    let mut fixture = Fixture::new();
    let row = Row::of(Family::Trades).text("symbol", "GPU1V6").i64("ts_event", T0).decimal("price", 2_810_000_000).i64("size", 5);
    fixture.write(Family::Trades, &[row]);
    fixture
}

#[test]
fn a_script_prints_results_and_goes_on_after_errors() {
    let said = say(
        &one_trade(),
        "SELECT symbol,\n  price -- in USD; per hour\nFROM trades;\nSELECT nope FROM trades; SELECT 1 AS n;\n\\x\nSELECT symbol, size FROM trades",
        never(),
    );
    let expected = "\
┌────────┬─────────────┐
│ symbol │ price       │
├────────┼─────────────┤
│ GPU1V6 │ 2.810000000 │
└────────┴─────────────┘
1 row
┌───┐
│ n │
├───┤
│ 1 │
└───┘
1 row
expanded display is on
── row 1 ──
symbol │ GPU1V6
size   │ 5
1 row
";
    assert_eq!(said.out, expected);
    assert_eq!(said.worst, Went::Misused);
    assert!(said.err.starts_with("error: no column nope"), "{}", said.err);
}

#[test]
fn commands_describe_the_tables() {
    let said = say(&one_trade(), "\\d\n\\d tape.trades\n\\d schemas\n\\timing\n\\?\n\\nonsense\n\\d nothing\n\\q\nSELECT 1;", never());
    assert!(said.out.contains("│ trades       │    1 │ a trade as published"), "{}", said.out);
    assert!(said.out.contains("│ token_usage  │    0 │"), "{}", said.out);
    assert!(said.out.contains("│ ts_event      │ TIMESTAMP(ns, UTC) │ ns UTC"), "{}", said.out);
    assert!(said.out.contains("│ price         │ DECIMAL(18,9)      │ currency per price_unit"), "{}", said.out);
    assert!(said.out.contains("sha256"), "{}", said.out);
    assert!(said.out.contains("timing is on"), "{}", said.out);
    assert!(said.out.ends_with("SQL words.\n"), "\\q ends the script: {}", said.out);
    assert!(said.err.contains("no command \\nonsense") && said.err.contains("no table nothing"), "{}", said.err);
    assert_eq!(said.worst, Went::Misused);
}

#[test]
fn an_interrupt_stops_the_statement_and_not_the_shell() {
    let endless = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 10000000) b WHERE a.value * b.value % 7 = 3;";
    let begun = Instant::now();
    let after_a_moment: Interrupt = Arc::new(|| tokio::time::sleep(Duration::from_secs(2)).boxed());
    let said = say(&one_trade(), &format!("{endless}\nSELECT 1 AS n;"), after_a_moment);
    assert_eq!(said.err, "error: cancelled\n");
    assert!(said.out.contains("│ 1 │"), "{}", said.out);
    assert_eq!(said.worst, Went::Failed);
    assert!(begun.elapsed() < Duration::from_secs(60));
}
