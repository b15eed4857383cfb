//! The formats that tokentape knows, in the order in which they are tried.

pub mod clock;
pub mod ctp;
pub mod mapping;
pub mod products;
pub mod records;
pub mod table;
#[cfg(test)]
pub(crate) mod trial;

use crate::source::Format;

/// Every format; the first one that recognises a file reads it.
pub fn all() -> Vec<Format> {
    vec![ctp::format(), mapping::ctp_bars(), mapping::csv()]
}
