//! What is longer than the terminal goes through a pager: the person's own (`PAGER`), or `less`.

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

/// What is run where the person has named none.
const PAGER: &str = "less";

/// A pager, and when it is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Pager {
    command: Vec<String>,
    /// Lines of the terminal.
    pub(crate) height: usize,
    pub(crate) on: bool,
}

impl Pager {
    /// By the environment; an empty `PAGER` is none.
    pub(crate) fn of_environment() -> Pager {
        let command = std::env::var("PAGER").unwrap_or_else(|_| PAGER.into());
        let command: Vec<String> = command.split_whitespace().map(String::from).collect();
        Pager { on: !command.is_empty(), command, height: usize::MAX }
    }

    /// Shows a text that is longer than the terminal; false where it is not, or where there is no pager.
    pub(crate) fn shows(&self, text: &[u8]) -> std::io::Result<bool> {
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        let Some((program, args)) = self.command.split_first().filter(|_| self.on && lines >= self.height) else { return Ok(false) };
        // As git does: colours are shown, long lines are not wrapped, and the picture stays.
        let less = std::env::var("LESS").unwrap_or_else(|_| "RSX".into());
        let mut running = match Command::new(program).args(args).env("LESS", less).stdin(Stdio::piped()).spawn() {
            Err(why) if why.kind() == ErrorKind::NotFound => return Ok(false),
            running => running?,
        };
        match running.stdin.take().expect("it is piped").write_all(text) {
            // Left before its end was read.
            Err(why) if why.kind() == ErrorKind::BrokenPipe => {}
            written => written?,
        }
        running.wait()?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_longer_than_the_terminal_is_paged() {
        let folder = tempfile::tempdir().expect("temp dir");
        let paged = folder.path().join("paged");
        let command = ["tee", paged.to_str().expect("UTF-8")].map(String::from).to_vec();
        let pager = Pager { command, height: 3, on: true };
        assert!(!pager.shows(b"a\nb\n").expect("not run"));
        assert!(!Pager { on: false, ..pager.clone() }.shows(b"a\nb\nc\n").expect("not run"));
        assert!(!Pager { command: vec!["no-such-pager".into()], ..pager.clone() }.shows(b"a\nb\nc\n").expect("none there"));
        assert!(!paged.exists());
        assert!(pager.shows(b"a\nb\nc\n").expect("run"));
        assert_eq!(std::fs::read(paged).expect("written"), b"a\nb\nc\n");
    }
}
