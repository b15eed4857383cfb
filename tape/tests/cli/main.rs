//! The binary end to end on generated input: crashes, broken files, full disks, owners, names and packings. Each test has its own home; on
//! Kafka its own topics. A seed that decides anything is printed, and `TAPE_SEED` replays it.

mod bad_dbn;
mod bad_text;
mod bad_world;
mod broker;
mod faces;
mod feed;
mod identity;
mod killed;
mod owner;
#[allow(dead_code, reason = "the other test binaries use the rest of it")]
#[path = "../real_files/run.rs"]
mod run;
mod running;
mod story;

/// The binary under test.
fn tape() -> run::Tape {
    run::Tape::new(env!("CARGO_BIN_EXE_tape"))
}
