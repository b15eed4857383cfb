//! The commands, one file each, and what their exit codes mean.

mod doctor;
mod ingest;
mod query;
mod query_process;
mod replay;
mod requeue;
mod schema;
pub mod sql;
pub mod store;
mod topics;
mod up;
mod upkeep;
mod verify;

use crate::args::Command;
use crate::settings::Settings;
use anyhow::Result;

/// Exit codes (design: how it feels to use).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Fine.
    Fine = 0,
    /// Done, but something was found, cut short or quarantined.
    Found = 1,
    /// Wrong use: what was typed must change (a flag, a statement, a name of something that is not there, a setting, a mapping).
    WrongUse = 2,
    /// A fault: nothing or only part could be done.
    Fault = 3,
}

impl Code {
    /// What a process of this program ended with.
    fn of_child(code: i32) -> Code {
        [Code::Fine, Code::Found, Code::WrongUse].into_iter().find(|known| *known as i32 == code).unwrap_or(Code::Fault)
    }
}

/// Runs one command.
pub fn run(command: &Command, settings: &Settings) -> Result<Code> {
    match command {
        Command::Up(args) => up::run(args, settings),
        Command::Ingest(args) => ingest::run(args, settings),
        Command::Store(args) => store::run(args, settings),
        Command::Sql(args) => sql::run(args, settings),
        Command::Query(args) => query::run(args, settings),
        Command::QueryProcess(args) => query_process::run(args, settings),
        Command::Schema(args) => schema::run(args, settings),
        Command::Topics(args) => topics::run(args, settings),
        Command::Upkeep(args) => upkeep::run(args, settings),
        Command::Verify(args) => verify::run(args, settings),
        Command::Requeue(args) => requeue::run(args, settings),
        Command::Replay(args) => replay::run(args, settings),
        Command::Doctor => doctor::run(settings),
    }
}
