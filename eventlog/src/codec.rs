//! Keys and values in a row of bytes and back, without copying on the way back: the embedded log's values and the socket's messages.

use bytes::{Buf, Bytes};
use schemas::record::Headers;

/// What bytes are not: where they broke off and what was expected there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken(pub &'static str);

/// Appends an unsigned number, seven bits per byte, lowest first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends bytes that may be absent: absent and empty are different.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => put_varint(out, 0),
        Some(bytes) => {
            put_varint(out, bytes.len() as u64 + 1);
            out.extend_from_slice(bytes);
        }
    }
}

/// Takes a number off the front.
pub(crate) fn take_varint(from: &mut Bytes) -> Result<u64, Broken> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        if from.is_empty() {
            return Err(Broken("a number ends too early"));
        }
        let byte = from.get_u8();
        if shift == 63 && byte > 1 {
            break;
        }
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Broken("a number has more than 64 bits"))
}

/// Takes bytes off the front; what is returned shares `from`'s memory.
pub(crate) fn take_bytes(from: &mut Bytes) -> Result<Option<Bytes>, Broken> {
    let length = take_varint(from)?;
    let Some(length) = length.checked_sub(1) else { return Ok(None) };
    match usize::try_from(length) {
        Ok(length) if length <= from.len() => Ok(Some(from.split_to(length))),
        _ => Err(Broken("bytes end before their stated length")),
    }
}

/// Appends headers, after their number.
pub(crate) fn put_headers(out: &mut Vec<u8>, headers: &Headers) {
    put_varint(out, headers.len() as u64);
    for (name, value) in headers {
        put_bytes(out, Some(name.as_bytes()));
        put_bytes(out, value.as_deref());
    }
}

/// Takes headers off the front.
pub(crate) fn take_headers(from: &mut Bytes) -> Result<Headers, Broken> {
    let mut headers = Headers::new();
    for _ in 0..take_varint(from)? {
        let name = take_bytes(from)?.unwrap_or_default();
        let name = String::from_utf8(name.to_vec()).map_err(|_| Broken("a header's name is not UTF-8"))?;
        headers.push((name, take_bytes(from)?));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_put_is_taken(numbers: Vec<u64>, texts: Vec<Option<Vec<u8>>>) {
            let mut out = Vec::new();
            numbers.iter().for_each(|number| put_varint(&mut out, *number));
            texts.iter().for_each(|text| put_bytes(&mut out, text.as_deref()));
            let mut from = Bytes::from(out);
            for number in &numbers {
                prop_assert_eq!(take_varint(&mut from), Ok(*number));
            }
            for text in &texts {
                let taken = take_bytes(&mut from).map(|bytes| bytes.map(|bytes| bytes.to_vec()));
                prop_assert_eq!(taken.as_ref(), Ok(text));
            }
            prop_assert!(from.is_empty());
        }

        #[test]
        fn any_bytes_end_in_an_answer(bytes: Vec<u8>) {
            let mut from = Bytes::from(bytes);
            while !from.is_empty() && take_bytes(&mut from).is_ok() {}
        }
    }
}
