//! Faults on real parts: the real binary, a real broker, a real network between them that is cut, slowed and silenced. Every story ends with
//! `tape verify` and the exact ledger of what was published. `TAPE_SOAK=1` makes the long ones long.

#[allow(dead_code, reason = "the other test binaries use the rest of it")]
#[path = "../cli/broker.rs"]
mod admin;
mod broker;
mod clock;
#[allow(dead_code, reason = "the other test binaries use the rest of it")]
#[path = "../cli/feed.rs"]
mod feed;
mod ledger;
mod log;
mod network;
mod proxy;
#[allow(dead_code, reason = "the other test binaries use the rest of it")]
#[path = "../real_files/run.rs"]
mod run;
#[allow(dead_code, reason = "the other test binaries use the rest of it")]
#[path = "../cli/running.rs"]
mod running;
mod slow_client;
mod stores;
mod tables;

/// The binary under test.
fn tape() -> run::Tape {
    run::Tape::new(env!("CARGO_BIN_EXE_tape"))
}

/// True where the long stories are to be long.
fn soak() -> bool {
    std::env::var_os("TAPE_SOAK").is_some()
}
