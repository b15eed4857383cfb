//! What follows an error: begin again where the tables say, after a wait, or end. Pure.

use std::time::Duration;

/// Longest wait before trying again.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How often in a row, and with what wait.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Troubles in a row, with nothing stored between, before it gives up.
    pub tries_max: u32,
    /// Wait after the first trouble; doubled after each further one.
    pub backoff: Duration,
}

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Forget everything, wait, and begin where the tables say.
    Again {
        /// How long to wait.
        wait: Duration,
    },
    /// End with the error: trying again cannot help, or nobody wants it any more.
    End,
    /// End: it came too often.
    GiveUp,
}

/// The troubles since something was stored last.
#[derive(Debug, Clone, Copy, Default)]
pub struct Troubles {
    in_a_row: u32,
}

impl Troubles {
    /// Another one came. `stored` says whether anything was stored since the last one, `may_pass` whether the outside was at fault.
    pub fn another(&mut self, stored: bool, may_pass: bool, stopping: bool, patience: &Patience) -> Next {
        self.in_a_row = if stored { 1 } else { self.in_a_row + 1 };
        if !may_pass || stopping {
            return Next::End;
        }
        if self.in_a_row >= patience.tries_max {
            return Next::GiveUp;
        }
        Next::Again { wait: patience.backoff.saturating_mul(1 << (self.in_a_row - 1).min(16)).min(BACKOFF_MAX) }
    }

    /// How many.
    pub fn in_a_row(self) -> u32 {
        self.in_a_row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_what_was_stored_resets_them() {
        let patience = Patience { tries_max: 4, backoff: Duration::from_secs(12) };
        let mut troubles = Troubles::default();
        let waits: Vec<Next> = (0..4).map(|_| troubles.another(false, true, false, &patience)).collect();
        let again = |seconds| Next::Again { wait: Duration::from_secs(seconds) };
        assert_eq!(waits, [again(12), again(24), again(30), Next::GiveUp]);
        assert_eq!(troubles.another(true, true, false, &patience), again(12));
        assert_eq!(troubles.another(false, false, false, &patience), Next::End, "our own fault, or another log");
        assert_eq!(troubles.another(true, true, true, &patience), Next::End, "it was told to stop");
    }
}
