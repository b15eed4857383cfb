//! The broker dies, freezes, or cannot be reached, while records are published and stored: what is published afterwards is there once.

use crate::broker::{self, Own};
use crate::ledger::{Ledger, settings, start_store, stop_store};
use crate::proxy::Weather;
use crate::run::Home;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longer than the group waits for a member.
const LONG: Duration = Duration::from_secs(8);

/// What is done to the broker, or to the way to it.
type Fault = fn(&Own);

/// How long a fault lasts that may be long.
fn long() -> Duration {
    if crate::soak() { Duration::from_secs(120) } else { LONG }
}

/// F8, F11, F20: a store at work and an ingest that does not rest, through every fault in turn. After each of them all that was published is stored
/// before the next one comes; one story, since it is one broker that suffers it.
#[test]
fn a_broker_and_a_network_with_every_fault() {
    let Some(own) = broker::own() else { return };
    let home = Home::kafka(&own.brokers());
    settings(&home, "rows_max = 5000\nage_max_seconds = 1");
    let mut ledger = Ledger::default();
    let mut store = start_store(&home, "store");
    ledger.publish(&home, 10_000);
    ledger.wait_stored(&home, &[&store]);
    let faults: [(&str, Fault); 8] = [
        ("broker frozen", frozen),
        ("broker killed", |own| restarted(own, "KILL")),
        ("broker stopped in order", |own| restarted(own, "TERM")),
        ("network slow", slow),
        ("connections cut and half closed", cut),
        ("network down", |own| held(own, Weather::Down)),
        ("silent to the broker", |own| held(own, Weather::SilentUp)),
        ("silent from the broker", |own| held(own, Weather::SilentDown)),
    ];
    for (name, fault) in faults {
        let (records, repeated) = (ledger.records(), ledger.repeated);
        let healed = under(&own, &home, &mut ledger, fault);
        assert!(!store.ended(), "{name}: the store ended: {}", store.said());
        ledger.wait_stored(&home, &[&store]);
        println!(
            "{name}: {} trades, all stored {:?} after the fault; ingest was repeated {} times",
            ledger.records() - records,
            healed.elapsed(),
            ledger.repeated - repeated
        );
    }
    println!("{}", stop_store(store));
    ledger.check(&home);
}

/// Lets a fault come while files are published one after the other; gives the moment when it was over.
fn under(own: &Own, home: &Home, ledger: &mut Ledger, fault: Fault) -> Instant {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                ledger.publish(home, 10_000);
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fault(own)));
        own.proxy.set(Weather::Fair);
        done.store(true, Ordering::Relaxed);
        let healed = Instant::now();
        publisher.join().expect("publishing");
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        healed
    })
}

fn frozen(own: &Own) {
    own.signal("STOP");
    std::thread::sleep(long());
    own.signal("CONT");
}

fn restarted(own: &Own, signal: &str) {
    own.end(signal);
    if crate::soak() {
        std::thread::sleep(Duration::from_secs(30));
    }
    own.again();
}

fn slow(own: &Own) {
    held(own, Weather::Slow { delay: Duration::from_millis(15), bytes_per_second: 1 << 20 });
}

fn held(own: &Own, weather: Weather) {
    own.proxy.set(weather);
    std::thread::sleep(long());
}

fn cut(own: &Own) {
    for round in 0..if crate::soak() { 100 } else { 6 } {
        if round % 2 == 0 {
            own.proxy.cut()
        } else {
            own.proxy.close_half()
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}
