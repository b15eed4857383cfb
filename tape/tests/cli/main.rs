//! The binary end to end on generated input: crashes, broken files, full disks, owners, names and packings. Each test has its own home; on
//! Kafka its own topics. A seed that decides anything is printed, and `TAPE_SEED` replays it.

mod attack_reach;
mod attack_size;
mod attack_time;
mod attacks;
mod audit;
mod bad_dbn;
mod bad_text;
mod bad_world;
mod broker;
mod captured;
mod complete;
mod durable;
mod faces;
mod feed;
mod http;
mod identity;
mod killed;
mod owner;
#[allow(dead_code, reason = "the other test binaries use the rest of it")]
#[path = "../real_files/run.rs"]
mod run;
mod running;
mod seam;
mod served;
mod service;
mod soak;
mod story;
mod trial;
mod upkeep;

/// The binary under test.
fn tape() -> run::Tape {
    run::Tape::new(env!("CARGO_BIN_EXE_tape"))
}

/// The one row of a question about numbers. `tape sql` writes 64-bit integers as text, so that no reader rounds them: here they are numbers again.
fn counted(home: &run::Home, sql: &str) -> serde_json::Value {
    let answers = home.ask(&[sql.to_string()]);
    let row = answers[0][0].as_object().expect("a row");
    row.iter().map(|(name, value)| (name.clone(), number(value).map_or(value.clone(), serde_json::Value::from))).collect()
}

fn number(value: &serde_json::Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}
