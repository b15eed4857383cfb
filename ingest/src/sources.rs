//! The formats that tokentape knows, in the order in which they are tried.

pub mod dbn;

use crate::source::Format;

/// Every format; the first one that recognises a file reads it.
pub fn all() -> Vec<Format> {
    vec![dbn::FORMAT]
}
