//! Several stores of one log: they share the partitions while they come, go, die and freeze, and no record is stored twice.

use crate::feed::Random;
use crate::ledger::{Ledger, number, one, partitions, report, settings, start_store, stop_store, stored};
use crate::run::{self, Home};
use crate::running::{Running, until};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Partitions of all families.
fn all_partitions() -> u64 {
    schemas::Family::ALL.iter().map(|family| family.topic().partitions as u64).sum()
}

fn trades(report: &Value) -> u64 {
    report["rows"]["trades"].as_u64().unwrap_or(0)
}

/// Publishes files of `trades` records until `work` is done.
fn publishing<T>(home: &Home, ledger: &mut Ledger, trades: u64, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                ledger.publish(home, trades);
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        publisher.join().expect("publishing");
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn wait_shared(stores: &[&Running]) {
    until(&format!("{} stores to share all partitions", stores.len()), || {
        let shares: Vec<u64> = stores.iter().filter_map(|store| partitions(store)).collect();
        shares.len() == stores.len() && shares.iter().sum::<u64>() == all_partitions()
    });
}

/// F10: one store, then three, then two, while records come all the time. Each record is stored by one of them.
#[test]
fn one_store_becomes_three_and_then_two_in_mid_batch() {
    let Some(broker) = run::broker() else { return };
    let home = Home::kafka(&broker);
    settings(&home, "rows_max = 4000\nage_max_seconds = 1");
    let mut ledger = Ledger::default();
    let first = start_store(&home, "first");
    assert_eq!(partitions(&first), Some(all_partitions()), "alone it has all");
    let (second, reports) = publishing(&home, &mut ledger, 12_000, || {
        until("the first rows", || stored(&home) > 0);
        let (second, third) = (start_store(&home, "second"), start_store(&home, "third"));
        wait_shared(&[&first, &second, &third]);
        // Two files and more, with records of every partition.
        let before = stored(&home);
        until("rows of three", || stored(&home) >= before + 24_000);
        let third = stop_store(third);
        wait_shared(&[&first, &second]);
        (second, third)
    });
    ledger.wait_stored(&home, &[&first, &second]);
    let reports = [stop_store(first), stop_store(second), reports];
    println!("{} trades; {}", ledger.records(), reports.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"));
    ledger.check(&home);
    assert_eq!(reports.iter().map(trades).sum::<u64>(), ledger.records(), "each by one of them");
    assert!(reports.iter().all(|report| trades(report) > 0), "each has its part of the work");
    assert!(reports[0]["rebalances"].as_u64() >= Some(2), "it shared with two, and then with one: {}", reports[0]);
}

/// F10: other stores come and go, now told to and now killed, each under a name that the group has not heard. The first one goes on storing.
#[test]
fn a_rebalance_storm_stores_each_record_once() {
    let Some(broker) = run::broker() else { return };
    let home = Home::kafka(&broker);
    settings(&home, "rows_max = 5000\nage_max_seconds = 1");
    let mut ledger = Ledger::default();
    let mut random = Random::new("rebalance storm");
    let steady = start_store(&home, "steady");
    let rounds = if crate::soak() { 50 } else { 3 };
    let began = Instant::now();
    publishing(&home, &mut ledger, 8_000, || {
        for round in 0..rounds {
            // Under the name of the last one it would have that one's partitions, and nobody would be asked for any.
            let _ = std::fs::remove_file(home.path("stores/1"));
            let mut guest = start_store(&home, "guest");
            std::thread::sleep(Duration::from_millis(random.below(2000)));
            match random.below(2) {
                0 => assert!(guest.kill(), "round {round}: it had ended: {}", guest.said()),
                _ => drop(stop_store(guest)),
            }
        }
    });
    let published = began.elapsed();
    ledger.wait_stored(&home, &[&steady]);
    let report = stop_store(steady);
    println!("{} trades, published in {published:?}, all stored after {:?}: {report}", ledger.records(), began.elapsed());
    ledger.check(&home);
    assert!(number(&report["rebalances"]) >= rounds, "each guest was a rebalance: {report}");
}

/// F8: a store is frozen for longer than the group waits, another one takes its partitions, and it wakes up with rows that are stored by now.
#[test]
fn a_store_that_was_frozen_doubles_nothing() {
    let Some(broker) = run::broker() else { return };
    let home = Home::kafka(&broker);
    // What it has read is due when it wakes up, not before it is frozen.
    settings(&home, "age_max_seconds = 4");
    let mut ledger = Ledger::default();
    ledger.publish(&home, 5_000);
    let zombie = start_store(&home, "zombie");
    ledger.wait_stored(&home, &[&zombie]);
    ledger.publish(&home, 20_000);
    zombie.send("STOP");
    let other = start_store(&home, "other");
    until("the other one to have all", || partitions(&other) == Some(all_partitions()));
    ledger.wait_stored(&home, &[&other]);
    zombie.send("CONT");
    wait_shared(&[&zombie, &other]);
    ledger.publish(&home, 5_000);
    ledger.wait_stored(&home, &[&zombie, &other]);
    let said = zombie.said();
    let (zombie, other) = (stop_store(zombie), stop_store(other));
    println!("zombie {zombie}\nother {other}\n{said}");
    ledger.check(&home);
    assert_eq!(trades(&zombie) + trades(&other), ledger.records());
    assert!(number(&zombie["taken"]) + number(&zombie["fenced"]) >= 1, "it is told: {zombie}");
    assert!(said.contains("has not heard of this store for too long") || said.contains("was first"), "{said}");
}

/// F9: a store that shares nothing is let loose on the partitions of another one, round after round.
#[test]
fn two_stores_on_the_same_partitions_store_each_record_once() {
    let Some(broker) = run::broker() else { return };
    let home = Home::kafka(&broker);
    settings(&home, "age_max_seconds = 1");
    let mut ledger = Ledger::default();
    let service = start_store(&home, "service");
    let mut once = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(if crate::soak() { 600 } else { 12 });
    publishing(&home, &mut ledger, 6_000, || {
        while Instant::now() < deadline || !service.said().contains("was first") {
            let output = home.run(&["store", "--once", "--json"], "");
            assert!(output.status.success(), "{}", run::text(&output));
            once.push(report(&String::from_utf8_lossy(&output.stdout)));
        }
    });
    ledger.wait_stored(&home, &[&service]);
    let service = stop_store(service);
    let fences: i64 = once.iter().map(|report| number(&report["fenced"])).sum();
    println!(
        "{} trades; the service was fenced {} times, {} runs of --once {fences} times",
        ledger.records(),
        service["fenced"],
        once.len()
    );
    ledger.check(&home);
    assert_eq!(once.iter().map(trades).sum::<u64>() + trades(&service), ledger.records(), "each by one of them");
    let versions = one(&home, "SELECT count(DISTINCT _partition) AS n FROM trades");
    assert!(number(&versions["n"]) > 1);
}
