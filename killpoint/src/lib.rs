//! Named places between two steps at which a test can let the process die, as `kill -9` would: nothing is flushed, nothing is closed.
//!
//! ```text
//! TAPE_KILL_AT=store.committed      dies where store.committed is reached first
//! TAPE_KILL_AT=lake.put.unsynced:3  dies where lake.put.unsynced is reached for the third time
//! ```
//!
//! Promise: only builds with debug assertions have them. In a release build [`here`] is nothing at all, and no name is in the binary.
//!
//! ```
//! fn publish() {
//!     // … the records are on disk …
//!     killpoint::here!("log.embedded.unmarked");
//!     // … the mark is written …
//! }
//! publish();
//! ```

#[cfg(debug_assertions)]
mod enabled;

#[cfg(debug_assertions)]
pub use enabled::reached;

/// A place where a test can let the process die.
#[cfg(debug_assertions)]
#[macro_export]
macro_rules! here {
    ($name:literal) => {
        $crate::reached($name)
    };
}

/// A place where a test can let the process die: nothing, in this build.
#[cfg(not(debug_assertions))]
#[macro_export]
macro_rules! here {
    ($name:literal) => {};
}
