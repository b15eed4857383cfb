//! `tape`: reads what was typed, settles what it means, runs one command, answers with an exit code.

mod about;
mod accept;
mod args;
mod background;
mod commands;
mod follow;
mod held;
mod home;
mod http;
mod panics;
mod problem;
mod registry;
mod say;
mod seat;
mod serve;
mod settings;
mod shown;
mod signals;
mod summary;
mod supervisor;
mod tables;

use clap::Parser;
use std::io::IsTerminal;
use std::process::ExitCode;

/// What is logged unless TAPE_LOG says otherwise. The storage engines of the embedded log and of the tables, and the client of Kafka, are not: their
/// faults come as our own errors, which say what to do.
const LOGGED: &str = "warn,rdkafka=off,fjall=off,lsm_tree=off,buoyant_kernel=off,delta_kernel=off,deltalake_core=off";

/// glibc keeps what threads that have ended leave behind: the store held much more with it (docs/benchmarks.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let args = args::Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("TAPE_LOG").unwrap_or_else(|_| LOGGED.into()))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let done = settings::settle(&args.common).and_then(|settings| commands::run(&args.command, &settings));
    tables::remove_spilled();
    match done {
        Ok(code) => ExitCode::from(code as u8),
        Err(fault) => {
            eprintln!("tape: {fault:#}");
            ExitCode::from(fault.downcast_ref::<settings::WrongUse>().map_or(commands::Code::Fault, |_| commands::Code::WrongUse) as u8)
        }
    }
}
