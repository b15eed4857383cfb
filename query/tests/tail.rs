//! Files and hot tail together answer as files alone do that have everything: wherever the cut is, whatever is asked.

mod fixture;

use fixture::{Fixture, Row, T0, count, csv, explain};
use query::Engine;
use query::tail::{Followed, Tail};
use schemas::Family;
use std::sync::Arc;

const DAY: i64 = 86_400_000_000_000;
const PARTITIONS: i32 = 3;

/// A trade of one of some symbols and days; its offset counts within its partition.
fn trade(i: i64) -> Row {
    let (partition, offset) = (i % i64::from(PARTITIONS), i / i64::from(PARTITIONS));
    let ts = T0 + (i % 4) * DAY + (i * 7_919 % 100_003) * 1_000_000;
    let row = Row::sample(Family::Trades, 0)
        .text("dataset", ["SYN.A", "SYN.B"][(i % 2) as usize])
        .i32("date", (ts / DAY) as i32)
        .i64("ts_event", ts)
        .decimal("price", i128::from(i * 31 % 9_973) * 1_000_000)
        .i64("size", i % 17)
        .i32("_partition", partition as i32)
        .i64("_offset", offset);
    // Of equal times, which comes last is not told: every row has its own.
    match i % 7 {
        0 => row.without("symbol"),
        s => row.text("symbol", &format!("S{s}")),
    }
}

fn followed() -> Followed {
    [(Family::Trades, (0..PARTITIONS).map(|partition| format!("trades/x/{partition}")).collect())].into()
}

/// An engine over files that end at the cuts, and a tail with the rest of these rows.
async fn engine(rows: i64, cuts: [i64; PARTITIONS as usize], overlap: i64) -> (Fixture, Arc<Engine>) {
    let mut fixture = Fixture::new();
    let is_stored = |i: i64| i / i64::from(PARTITIONS) < cuts[(i % i64::from(PARTITIONS)) as usize];
    let stored: Vec<Row> = (0..rows).filter(|i| is_stored(*i)).map(trade).collect();
    let (one, other) = stored.split_at(stored.len() / 2);
    for part in [one, other] {
        if !part.is_empty() {
            fixture.write(Family::Trades, part);
        }
    }
    let engine = fixture.engine().await;
    engine.tail().begin(followed());
    for (partition, cut) in (0..).zip(cuts) {
        // What the files have may still be held.
        let from = (cut - overlap).max(0);
        engine.tail().start((Family::Trades, partition), from, i64::MAX);
        let held: Vec<i64> =
            (0..rows).filter(|i| i % i64::from(PARTITIONS) == i64::from(partition) && i / i64::from(PARTITIONS) >= from).collect();
        for some in held.chunks(97) {
            fill(engine.tail(), partition, some);
        }
        if cut > 0 {
            fixture.cut(Family::Trades, partition, cut);
        }
    }
    assert!(engine.refresh().await.unwrap());
    (fixture, engine)
}

fn fill(tail: &Tail, partition: i32, which: &[i64]) {
    let rows: Vec<Row> = which.iter().copied().map(trade).collect();
    let next = which.last().unwrap() / i64::from(PARTITIONS) + 1;
    tail.append((Family::Trades, partition), next, &fixture::batch(Family::Trades, &rows)).unwrap();
}

const QUESTIONS: [&str; 15] = [
    "SELECT count(*) AS n, count(DISTINCT _offset * 10 + _partition) AS places, sum(price) AS s FROM trades",
    "SELECT * FROM trades ORDER BY _partition, _offset",
    "SELECT _partition, count(*) AS n, min(_offset) AS low, max(_offset) AS high FROM trades GROUP BY 1 ORDER BY 1",
    "SELECT symbol, count(*) AS n, sum(price * size) AS s FROM trades GROUP BY symbol ORDER BY symbol",
    "SELECT symbol, max(ts_event) AS ts, last_value(price ORDER BY ts_event) AS p FROM trades GROUP BY symbol ORDER BY symbol",
    "SELECT dataset, symbol, last_value(size ORDER BY ts_event) AS p FROM trades WHERE symbol > 'S2' GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT ts_event, price FROM trades ORDER BY ts_event DESC LIMIT 10",
    "SELECT ts_event, price FROM trades WHERE symbol = 'S3' ORDER BY ts_event DESC LIMIT 3",
    "SELECT symbol, ts_event FROM trades ORDER BY symbol, ts_event LIMIT 50",
    "SELECT count(*) AS n, sum(price) AS s FROM trades WHERE (symbol IS NULL OR symbol IN ('S1', 'S4')) AND ts_event < '2026-10-07T14:30:30Z'",
    "SELECT count(*) AS n FROM trades WHERE dataset = 'SYN.B'",
    "SELECT count(*) AS n FROM trades WHERE dataset <> NULL",
    "SELECT date, min(price) AS low FROM trades WHERE date >= '2026-10-07' GROUP BY date ORDER BY date",
    "SELECT a.symbol, count(*) AS n FROM trades AS a JOIN trades AS b ON a._partition = b._partition AND a._offset = b._offset GROUP BY 1 ORDER BY 1",
    "SELECT symbol, ts_event, lag(price) OVER (PARTITION BY symbol ORDER BY ts_event) AS before FROM trades ORDER BY symbol, ts_event",
];

#[tokio::test]
async fn wherever_the_cut_is_the_answers_are_the_same() {
    const ROWS: i64 = 2_000;
    let whole = i64::MAX;
    let (_all, plain) = engine(ROWS, [whole; 3], 0).await;
    let mut truth = Vec::new();
    for question in QUESTIONS {
        truth.push(csv(&plain, question).await);
    }
    for (cuts, overlap) in [([0, 0, 0], 0), ([0, 300, whole], 0), ([650, 10, 1], 0), ([400, 500, 600], 350), ([666, 666, 665], 1_000)] {
        let (_some, both) = engine(ROWS, cuts, overlap).await;
        for (question, truth) in QUESTIONS.iter().zip(&truth) {
            assert_eq!(&csv(&both, question).await, truth, "cuts {cuts:?}, overlap {overlap}: {question}");
        }
    }
}

/// What files give by their order and their bounds, they give beside a tail.
#[tokio::test]
async fn files_are_asked_as_if_there_were_no_tail() {
    let (_fixture, engine) = engine(30_000, [9_000, 9_000, 9_000], 0).await;
    for (question, node) in [
        ("SELECT symbol, sum(price) FROM trades GROUP BY symbol", "RunsExec"),
        ("SELECT symbol, last_value(price ORDER BY ts_event) FROM trades GROUP BY symbol", "EndsExec"),
        ("SELECT ts_event, price FROM trades ORDER BY ts_event DESC LIMIT 10", "EndsExec"),
    ] {
        let plan = explain(&engine, &format!("EXPLAIN {question}")).await;
        assert!(plan.contains("UnionExec") && plan.contains(node), "{question}: {plan}");
    }
}

/// A statement that began keeps its moment; one that begins later has what came since, stored or not.
#[tokio::test]
async fn what_comes_is_seen_at_once_and_what_is_stored_is_let_go() {
    let (mut fixture, engine) = engine(300, [50, 50, 50], 0).await;
    assert_eq!(count(&engine, "SELECT count(*) FROM trades").await, 300);
    fill(engine.tail(), 0, &[300, 303]);
    assert_eq!(count(&engine, "SELECT count(*) FROM trades").await, 302);
    assert_eq!(engine.rows().iter().find(|(family, _)| *family == Family::Trades), Some(&(Family::Trades, 302)));
    let held = engine.tail().bytes();
    let stored: Vec<Row> = (150..300).chain([300, 303]).map(trade).collect();
    fixture.write(Family::Trades, &stored);
    for partition in 0..PARTITIONS {
        fixture.cut(Family::Trades, partition, 102);
    }
    assert!(engine.refresh().await.unwrap());
    assert_eq!(count(&engine, "SELECT count(*) FROM trades").await, 302);
    assert!(held > 0 && engine.tail().bytes() == 0, "{} bytes are held of {held}", engine.tail().bytes());
}

/// The unit of a price is there as soon as the instrument is, and until the price of another moment is asked for.
#[tokio::test]
async fn units_come_with_instruments_that_are_not_stored_yet() {
    let mut fixture = Fixture::new();
    let row = trade(1).without("currency").without("price_unit");
    fixture.write(Family::Trades, &[row]);
    let engine = fixture.engine().await;
    let mut followed = followed();
    followed.insert(Family::Instruments, vec!["instruments/x/0".into()]);
    engine.tail().begin(followed);
    engine.tail().start((Family::Instruments, 0), 0, 0);
    engine.refresh().await.unwrap();
    let asked = "SELECT currency FROM trades";
    assert_eq!(csv(&engine, asked).await, "currency\n\n");
    let instrument = Row::nulls(Family::Instruments)
        .text("dataset", "SYN.B")
        .text("symbol", "S1")
        .text("kind", "future")
        .text("change", "new")
        .text("currency", "CNY")
        .i64("valid_from", T0 - DAY)
        .i32("_partition", 0)
        .i64("_offset", 0);
    engine.tail().append((Family::Instruments, 0), 1, &fixture::batch(Family::Instruments, &[instrument])).unwrap();
    engine.refresh().await.unwrap();
    assert_eq!(csv(&engine, asked).await, "currency\nCNY\n");
}
