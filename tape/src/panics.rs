//! What is said about a panic on a worker of the runtime: its task ends, and whoever waits for the task gets an error. A panic anywhere else is
//! told as Rust tells it.

use std::panic::PanicHookInfo;

/// For a command whose workers do nothing but answer its query: the error of the query says it all.
pub fn become_errors_of_their_query() {
    on_workers(|panic| tracing::debug!("{panic}"));
}

/// For a service: one record in its log.
pub fn go_to_the_log() {
    on_workers(|panic| tracing::error!("{panic}"));
}

/// Threads of the runtime, as tokio names them, and those that plan.
const WORKERS: [&str; 2] = ["tokio-", query::planner::THREAD];

fn on_workers(tell: fn(&str)) {
    let elsewhere = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
        match std::thread::current().name().is_some_and(|name| WORKERS.iter().any(|worker| name.starts_with(worker))) {
            true => tell(&panic.to_string().replace('\n', " ")),
            false => elsewhere(panic),
        }
    }));
}
