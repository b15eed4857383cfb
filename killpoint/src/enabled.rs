//! Dies at the place, and at the time, that `TAPE_KILL_AT` names.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

struct Wanted {
    name: String,
    /// How often the place must be reached.
    times: u64,
    reached: AtomicU64,
}

static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();

/// Says that the place was reached, and does not return from the one that was asked for.
pub fn reached(name: &'static str) {
    let wanted = WANTED.get_or_init(|| std::env::var("TAPE_KILL_AT").ok().map(|text| parse(&text)));
    let Some(wanted) = wanted.as_ref().filter(|wanted| wanted.name == name) else { return };
    if wanted.reached.fetch_add(1, Ordering::SeqCst) + 1 == wanted.times {
        eprintln!("TAPE_KILL_AT: dies at {name}, reached {} times", wanted.times);
        std::process::abort();
    }
}

fn parse(text: &str) -> Wanted {
    let (name, times) = match text.rsplit_once(':') {
        Some((name, times)) => (name, times.parse().expect("TAPE_KILL_AT is NAME or NAME:TIMES")),
        None => (text, 1),
    };
    Wanted { name: name.to_string(), times, reached: AtomicU64::new(0) }
}
