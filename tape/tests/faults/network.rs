//! The broker dies, freezes, or cannot be reached, while records are published and stored: what is published afterwards is there once.

use crate::broker::{self, Own};
use crate::ledger::{Ledger, settings, start_store, stop_store, stored};
use crate::proxy::Weather;
use crate::run::Home;
use crate::running::until;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longer than the group waits for a member.
const LONG: Duration = Duration::from_secs(8);

/// A store at work, an ingest that does not rest, and a fault in the middle of both.
fn story(own: &Own, name: &str, fault: impl FnOnce(&Own)) {
    let home = Home::kafka(&own.brokers());
    settings(&home, "rows_max = 5000\nage_max_seconds = 1");
    let mut ledger = Ledger::default();
    let store = start_store(&home, "store");
    let done = AtomicBool::new(false);
    let healed = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                ledger.publish(&home, 10_000);
            }
        });
        until("the first rows", || stored(&home) > 0);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fault(own)));
        own.proxy.set(Weather::Fair);
        done.store(true, Ordering::Relaxed);
        let healed = Instant::now();
        publisher.join().expect("publishing");
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        healed
    });
    ledger.wait_stored(&home, &[&store]);
    let after = healed.elapsed();
    let report = stop_store(store);
    println!(
        "{name}: {} trades, all stored {after:?} after the fault; ingest repeated {} times; {report}",
        ledger.records(),
        ledger.repeated
    );
    ledger.check(&home);
}

/// How long a fault lasts that may be long.
fn long() -> Duration {
    if crate::soak() { Duration::from_secs(120) } else { LONG }
}

/// F11: `kill -9`, and SIGTERM.
#[test]
fn a_broker_that_is_killed_and_one_that_is_stopped_and_started_again() {
    let Some(own) = broker::own() else { return };
    story(&own, "broker killed and stopped", |own| {
        for signal in ["KILL", "TERM"] {
            own.end(signal);
            if crate::soak() {
                std::thread::sleep(Duration::from_secs(30));
            }
            own.again();
        }
    });
}

/// F8.
#[test]
fn a_broker_that_freezes_and_goes_on() {
    let Some(own) = broker::own() else { return };
    story(&own, "broker frozen", |own| {
        own.signal("STOP");
        std::thread::sleep(long());
        own.signal("CONT");
    });
}

/// F20: slow, cut, half closed, down, silent one way and then the other.
#[test]
fn a_network_in_every_weather() {
    let Some(own) = broker::own() else { return };
    story(&own, "network", |own| {
        own.proxy.set(Weather::Slow { delay: Duration::from_millis(15), bytes_per_second: 1 << 20 });
        std::thread::sleep(long() / 2);
        own.proxy.set(Weather::Fair);
        for round in 0..if crate::soak() { 100 } else { 6 } {
            if round % 2 == 0 {
                own.proxy.cut()
            } else {
                own.proxy.close_half()
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        for weather in [Weather::Down, Weather::SilentUp, Weather::SilentDown] {
            own.proxy.set(weather);
            std::thread::sleep(long());
            own.proxy.set(Weather::Fair);
            std::thread::sleep(Duration::from_secs(1));
        }
    });
}
