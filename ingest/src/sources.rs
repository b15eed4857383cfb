//! The formats that tokentape knows, in the order in which they are tried.

use crate::source::Format;

pub mod anthropic_usage;
pub mod document;
pub mod openai_usage;
pub(crate) mod page;
pub mod prices;
pub mod requests;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod usage;

/// Every format; the first one that recognises a file reads it.
pub fn all() -> Vec<Format> {
    vec![
        openai_usage::format(),
        anthropic_usage::format(),
        prices::openrouter(),
        prices::litellm(),
        requests::format(),
        document::format(), // recognises everything: last
    ]
}
