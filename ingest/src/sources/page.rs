//! A page is read whole and never larger than one document part; every value in it keeps its own text and its place in the bytes.

use crate::Error;
use crate::source::{Bad, Chunk, End, Given, Header, Parser};
use crate::sources::document;
use schemas::{Rows, exact};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Read;

/// The largest page that is read: it must fit one record of `documents`.
pub(crate) const PAGE_BYTES_MAX: usize = document::PART_BYTES_MAX;
/// The most records of a page: a whole page is held in memory, and the largest known one has some ten thousand.
const PAGE_RECORDS_MAX: i64 = 500_000;
/// The most members of an object and elements of a list, for the same reason.
const CHILDREN_MAX: usize = 500_000;

/// A page as it came, with what was known before it was read.
pub(crate) struct Page {
    /// The unpacked bytes, a byte order mark included.
    pub(crate) body: Vec<u8>,
    /// What was known of the input.
    pub(crate) given: Given,
    /// The last byte whose line was asked for, and its line: pages are read forward.
    line: Cell<(usize, u64)>,
}

impl Page {
    fn new(body: Vec<u8>, given: Given) -> Page {
        Page { body, given, line: Cell::new((0, 1)) }
    }

    /// Reads the input to its end.
    pub(crate) fn read(mut input: Box<dyn Read + Send>, given: &Given) -> Result<Page, Error> {
        let mut body = Vec::new();
        let read = input.by_ref().take(PAGE_BYTES_MAX as u64 + 1).read_to_end(&mut body);
        read.map_err(|why| Error::Read { file: given.label(), byte: body.len() as u64, why })?;
        let page = Page::new(body, given.clone());
        if page.body.len() > PAGE_BYTES_MAX {
            return Err(page.error(
                format!("the page is larger than {PAGE_BYTES_MAX} bytes, more than one page of a usage report or a price list has"),
                "split it into the pages that were published",
            ));
        }
        Ok(page)
    }

    /// The page as one JSON value.
    pub(crate) fn json(&self) -> Result<&RawValue, Error> {
        let text = std::str::from_utf8(&self.body).map_err(|e| {
            self.error(format!("byte {} is not UTF-8, expected a JSON page", e.valid_up_to()), "fetch the page again, as UTF-8")
        })?;
        serde_json::from_str(text.strip_prefix('\u{feff}').unwrap_or(text)).map_err(|e| {
            let todo = match (e.is_eof(), self.given.growing) {
                (true, true) => "it is still being written: ingest it again when it is complete",
                (true, false) => "the page ends early: fetch it again",
                (false, _) => "fetch the page again, or correct it there",
            };
            self.error(format!("line {}, column {}: {}, expected one JSON value", e.line(), e.column(), short(&e)), todo)
        })
    }

    /// Where a value of this page begins.
    pub(crate) fn offset(&self, value: &RawValue) -> usize {
        (value.get().as_ptr() as usize).saturating_sub(self.body.as_ptr() as usize)
    }

    /// Where the member that a value of an object belongs to begins: the quote that opens its name.
    pub(crate) fn member_offset(&self, value: &RawValue) -> usize {
        let at = self.offset(value);
        let quote = |before: usize| self.body[..before].iter().rposition(|byte| *byte == b'"');
        let Some(mut open) = quote(at).and_then(quote) else { return at };
        // Inside a name every quote stands behind an odd number of backslashes.
        while self.body[..open].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1 {
            match quote(open) {
                Some(earlier) => open = earlier,
                None => return at,
            }
        }
        open
    }

    /// The bytes from `start` to the end of a value.
    pub(crate) fn slice(&self, start: usize, value: &RawValue) -> &[u8] {
        &self.body[start..self.offset(value) + value.get().len()]
    }

    /// The line of a byte, from 1.
    pub(crate) fn line(&self, byte: usize) -> u64 {
        let (from, line) = if byte >= self.line.get().0 { self.line.get() } else { (0, 1) };
        let line = line + self.body[from..byte].iter().filter(|b| **b == b'\n').count() as u64;
        self.line.set((byte, line));
        line
    }

    /// A record of this page that cannot be stored, whole.
    pub(crate) fn bad(&self, record: i64, start: usize, value: &RawValue, fault: Fault) -> Bad {
        Bad {
            record,
            byte: start as i64,
            line: Some(self.line(start)),
            field: fault.field,
            reason: fault.reason,
            raw: self.slice(start, value).to_vec(),
        }
    }

    /// The page as a whole cannot be read.
    pub(crate) fn error(&self, what: String, todo: &str) -> Error {
        Error::Input { file: self.given.label(), what, todo: todo.to_string() }
    }
}

fn short(e: &serde_json::Error) -> String {
    let text = e.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_string()
}

/// What is wrong with one record, and where in it.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) field: Option<String>,
    pub(crate) reason: String,
}

impl Fault {
    /// A fault of one field.
    pub(crate) fn of(field: &str, reason: impl Into<String>) -> Fault {
        Fault { field: Some(field.to_string()), reason: reason.into() }
    }

    /// A fault of the whole record.
    pub(crate) fn whole(reason: impl Into<String>) -> Fault {
        Fault { field: None, reason: reason.into() }
    }
}

/// A member of an object: its name and its value.
pub(crate) type Member<'a> = (String, &'a RawValue);

/// The members of an object in their order, repeated names included; an error says what stands there instead.
pub(crate) fn members(value: &RawValue) -> Result<Vec<Member<'_>>, String> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<Member<'de>>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
                within_limit::<A::Error>(members.len())?;
            }
            Ok(members)
        }
    }
    serde_json::Deserializer::from_str(value.get()).deserialize_map(Members).map_err(|e| short(&e))
}

/// The elements of a list; an error says what stands there instead.
pub(crate) fn elements(value: &RawValue) -> Result<Vec<&RawValue>, String> {
    struct Elements;
    impl<'de> Visitor<'de> for Elements {
        type Value = Vec<&'de RawValue>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut elements = Vec::new();
            while let Some(element) = list.next_element()? {
                elements.push(element);
                within_limit::<A::Error>(elements.len())?;
            }
            Ok(elements)
        }
    }
    serde_json::Deserializer::from_str(value.get()).deserialize_seq(Elements).map_err(|e| short(&e))
}

fn within_limit<E: serde::de::Error>(children: usize) -> Result<(), E> {
    if children <= CHILDREN_MAX { Ok(()) } else { Err(E::custom(format_args!("more than {CHILDREN_MAX} values in one object or list"))) }
}

/// The last member of a name, as JSON parsers take it.
pub(crate) fn last<'a>(members: &[Member<'a>], name: &str) -> Option<&'a RawValue> {
    members.iter().rev().find(|(key, _)| key == name).map(|(_, value)| *value)
}

/// A JSON value without a number ever becoming a float.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scalar<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as its digits.
    Number(&'a str),
    /// A string.
    Text(String),
    /// An object or a list.
    Nested,
}

/// What kind of value this is; an error where a string is not text.
pub(crate) fn scalar(value: &RawValue) -> Result<Scalar<'_>, String> {
    let text = value.get();
    Ok(match text.as_bytes().first() {
        Some(b'n') => Scalar::Null,
        Some(b't') => Scalar::Bool(true),
        Some(b'f') => Scalar::Bool(false),
        Some(b'"') => Scalar::Text(serde_json::from_str(text).map_err(|e| short(&e))?),
        Some(b'{' | b'[') => Scalar::Nested,
        _ => Scalar::Number(text),
    })
}

/// The text of a member; `None` where it is absent or null.
pub(crate) fn text(members: &[Member], name: &str) -> Result<Option<String>, Fault> {
    let Some(value) = last(members, name) else { return Ok(None) };
    match scalar(value).map_err(|why| Fault::of(name, why))? {
        Scalar::Null => Ok(None),
        Scalar::Text(text) => Ok(Some(text)),
        _ => Err(Fault::of(name, format!("{} is not text", excerpt(value)))),
    }
}

/// A count of a member, exact and not negative; `None` where it is absent or null.
pub(crate) fn count(members: &[Member], name: &str) -> Result<Option<i128>, Fault> {
    let Some(value) = last(members, name) else { return Ok(None) };
    let number = match scalar(value).map_err(|why| Fault::of(name, why))? {
        Scalar::Null => return Ok(None),
        Scalar::Number(number) => exact::parse(number, 38, 0, 0).map_err(|e| Fault::of(name, e.to_string()))?,
        _ => return Err(Fault::of(name, format!("{} is not a number", excerpt(value)))),
    };
    if number < 0 {
        return Err(Fault::of(name, format!("{number} is negative, expected a count")));
    }
    Ok(Some(number))
}

/// The beginning of a value, for messages.
pub(crate) fn excerpt(value: &RawValue) -> String {
    value.get().chars().take(64).collect()
}

/// What a page gives: its records, what is wrong with others, what to tell the user.
#[derive(Default)]
pub(crate) struct Content {
    /// Good records.
    pub(crate) rows: Vec<Rows>,
    /// Bad ones.
    pub(crate) bad: Vec<Bad>,
    /// Notes for the user.
    pub(crate) notes: Vec<String>,
    /// Records of the page, good and bad.
    pub(crate) records: i64,
}

impl Content {
    /// Counts a record in; false = the page has too many, and this one is not taken.
    pub(crate) fn admit(&mut self) -> bool {
        self.records += 1;
        self.records <= PAGE_RECORDS_MAX
    }

    /// An error where records were not taken.
    pub(crate) fn checked(self, page: &Page) -> Result<Content, Error> {
        if self.records <= PAGE_RECORDS_MAX {
            return Ok(self);
        }
        let what = format!("{} records, more than the {PAGE_RECORDS_MAX} that one page may have", self.records);
        Err(page.error(what, "split it into the pages that were published"))
    }
}

/// A parsed page on its way to the pipeline, as one chunk.
pub(crate) struct PageParser {
    /// The dataset of its records.
    pub(crate) dataset: String,
    /// Header facts.
    pub(crate) header: Header,
    /// Path facts.
    pub(crate) path_facts: BTreeMap<String, String>,
    /// Length of the page.
    pub(crate) bytes: u64,
    /// What it gives; empty after it was given.
    pub(crate) content: Content,
}

impl Parser for PageParser {
    fn dataset(&self) -> String {
        self.dataset.clone()
    }

    fn header(&self) -> Header {
        self.header.clone()
    }

    fn path_facts(&self) -> BTreeMap<String, String> {
        self.path_facts.clone()
    }

    /// The whole page: what is compared with the page before must be seen at once.
    fn next(&mut self, _records_max: usize) -> Result<Chunk, Error> {
        let content = std::mem::take(&mut self.content);
        Ok(Chunk {
            rows: content.rows,
            bad: content.bad,
            notes: content.notes,
            records: content.records,
            bytes: self.bytes,
            end: End::Finished,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page(text: &str) -> Page {
        Page::new(text.as_bytes().to_vec(), Given { name: "a.json".into(), ..Given::default() })
    }

    #[test]
    fn members_keep_their_text_place_and_repetitions() {
        let page = page("\u{feff}{\"a\\\"b\" : 1.50e-07,\n \"c\":{\"d\":\"e\"}, \"c\": null}");
        let members = members(page.json().unwrap()).unwrap();
        assert_eq!(
            members.iter().map(|(name, value)| (name.as_str(), value.get())).collect::<Vec<_>>(),
            [("a\"b", "1.50e-07"), ("c", "{\"d\":\"e\"}"), ("c", "null")]
        );
        let start = page.member_offset(members[0].1);
        assert_eq!(page.slice(start, members[0].1), b"\"a\\\"b\" : 1.50e-07");
        assert_eq!(page.line(page.member_offset(members[1].1)), 2);
        assert_eq!(page.line(0), 1);
        assert_eq!(last(&members, "c").map(RawValue::get), Some("null"));
    }

    #[test]
    fn a_page_that_ends_early_says_where_and_what_to_do() {
        let error = page("{\"a\": [1,\n2").json().unwrap_err().to_string();
        assert!(error.contains("a.json: line 2, column 1") && error.contains("fetch it again"), "{error}");
        let error = Page::new(b"{\"a\": \"\xff\"}".to_vec(), Given::default()).json().unwrap_err().to_string();
        assert!(error.contains("byte 7 is not UTF-8"), "{error}");
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        let page = page(&deep);
        assert_eq!(elements(page.json().unwrap()).unwrap().len(), 1);
    }

    // Thirty million numbers fit a page: they must not become thirty million values in memory.
    #[test]
    fn a_list_of_too_many_values_is_refused() {
        let page = page(&format!("[{}1]", "1,".repeat(CHILDREN_MAX)));
        assert!(elements(page.json().unwrap()).unwrap_err().contains("more than 500000 values"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[\\[\\]{}\",:\\\\ a0n.e-]{0,60}") {
            let page = page(&text);
            if let Ok(value) = page.json() {
                let _ = scalar(value);
                for (_, value) in members(value).unwrap_or_default() {
                    let start = page.member_offset(value);
                    let _ = page.slice(start, value);
                }
            }
        }
    }
}
