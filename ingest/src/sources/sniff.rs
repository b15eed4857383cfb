//! A first look at a content that is text: what it begins with, what it holds.

/// The first byte of a head that is not white space or a byte order mark.
pub(crate) fn first_byte(head: &[u8]) -> Option<u8> {
    head.strip_prefix("\u{feff}".as_bytes()).unwrap_or(head).iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

/// True when the head holds the text.
pub(crate) fn holds(head: &[u8], text: &str) -> bool {
    head.windows(text.len()).any(|window| window == text.as_bytes())
}
