//! Bytes of a text file to its records: fields as UTF-8 text, with the byte and line where each record begins, in bounded memory.

use crate::Error;
use csv_core::{Reader, ReaderBuilder, Terminator};
use std::borrow::Cow;
use std::io::{ErrorKind, Read};

/// Longest record in bytes. Nothing that is a table has longer ones; without a limit one lost quote could fill the memory.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// How much is read at a time.
const READ_BYTES: usize = 64 << 10;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// How a text file is cut into records.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// The character between fields; ASCII.
    pub delimiter: u8,
    /// Quoted fields may hold line ends. Where a format has none, every line is a record, and a lost quote harms only its line.
    pub multiline: bool,
    /// A last line without line end is unfinished, and is left unread.
    pub growing: bool,
}

/// The fields of one record.
#[derive(Debug, Default)]
pub struct Fields {
    text: String,
    ends: Vec<usize>,
}

impl Fields {
    /// Number of fields.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True for a record without fields, which no file has.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The field at a position that the record's width was checked for.
    pub fn get(&self, at: usize) -> &str {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.text[start..self.ends[at]]
    }

    /// All fields in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|at| self.get(at))
    }
}

/// What the next record is.
#[derive(Debug)]
pub enum Step {
    /// A record; [`Records::fields`] holds it.
    Record(Place),
    /// Bytes that are no record, and why.
    Bad(Place, String),
    /// The file ended where a record ended.
    Finished,
    /// The file is still being written: its last line has no end yet and is left for the next time.
    Unfinished,
    /// The rest cannot be read: where, and why.
    CutShort(String),
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its first byte in the unpacked file.
    pub byte: u64,
    /// Its first line, from 1.
    pub line: u64,
    /// Its length without the line end.
    len: usize,
    /// Where it begins in the buffer; valid until the next step.
    at: usize,
}

/// What is known of the file's encoding so far. The first record that only fits one of them decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Undecided,
    Utf8,
    Gbk,
}

/// Cuts a text file into records.
pub struct Records {
    file: String,
    input: Box<dyn Read + Send>,
    shape: Shape,
    /// Read bytes; those before `start` are done with.
    buffer: Vec<u8>,
    start: usize,
    /// Position of `buffer[0]` in the file.
    base: u64,
    line: u64,
    eof: bool,
    broken: Option<String>,
    encoding: Encoding,
    splitter: Reader,
    fields: Fields,
    notes: Vec<String>,
    ended_in_quote: bool,
}

impl Records {
    /// Begins a file; a byte order mark is passed over.
    pub fn new(input: Box<dyn Read + Send>, file: String, shape: Shape) -> Records {
        let mut records = Records {
            file,
            input,
            shape,
            buffer: Vec::new(),
            start: 0,
            base: 0,
            line: 1,
            eof: false,
            broken: None,
            encoding: Encoding::Undecided,
            // Line ends are cut off before; what is left of them stands in a quoted field.
            splitter: ReaderBuilder::new().delimiter(shape.delimiter).terminator(Terminator::Any(b'\n')).build(),
            fields: Fields::default(),
            notes: Vec::new(),
            ended_in_quote: false,
        };
        while records.buffer.len() < BOM.len() && records.fill() {}
        if records.buffer.starts_with(BOM) {
            records.start = BOM.len();
            records.encoding = Encoding::Utf8;
        }
        records
    }

    /// The fields of the record that the last step gave.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The bytes of the record that the last step gave, without its line end.
    pub fn raw(&self, place: Place) -> &[u8] {
        &self.buffer[place.at..place.at + place.len]
    }

    /// Bytes consumed so far, up to a record boundary.
    pub fn consumed(&self) -> u64 {
        self.base + self.start as u64
    }

    /// True once the file ended inside a quoted field that may hold line ends.
    pub fn ended_in_quote(&self) -> bool {
        self.ended_in_quote
    }

    /// What was found out about the file since this was last asked.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// The next record. An error means that no record can be found from here on.
    pub fn step(&mut self) -> Result<Step, Error> {
        self.skip_blank_lines();
        let Some(found) = self.find_end()? else { return Ok(self.ended()) };
        let place = Place { byte: self.consumed(), line: self.line, len: found.len, at: self.start };
        self.line += self.raw(place).iter().filter(|byte| **byte == b'\n').count() as u64 + u64::from(found.terminator > 0);
        self.start += found.len + found.terminator;
        if !found.quotes_closed {
            return Ok(Step::Bad(place, "a quote is opened and never closed".into()));
        }
        Ok(match self.split(place) {
            Ok(()) => Step::Record(place),
            Err(reason) => Step::Bad(place, reason),
        })
    }

    /// Reads on; false when there is nothing more to be had.
    fn fill(&mut self) -> bool {
        if self.eof {
            return false;
        }
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.base += self.start as u64;
            self.start = 0;
        }
        let filled = self.buffer.len();
        self.buffer.resize(filled + READ_BYTES, 0);
        let read = loop {
            match self.input.read(&mut self.buffer[filled..]) {
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let read = read.unwrap_or_else(|why| {
            self.broken = Some(why.to_string());
            0
        });
        self.buffer.truncate(filled + read);
        self.eof = read == 0;
        read > 0
    }

    fn skip_blank_lines(&mut self) {
        loop {
            match self.buffer.get(self.start).copied() {
                Some(b'\n') => self.line += 1,
                Some(b'\r') => {}
                Some(_) => return,
                None if self.fill() => continue,
                None => return,
            }
            self.start += 1;
        }
    }

    /// Where the record that begins at `start` ends, or `None` when no whole record is left.
    fn find_end(&mut self) -> Result<Option<Found>, Error> {
        let mut scanned = 0;
        let mut quoted = false;
        loop {
            for (at, byte) in self.buffer[self.start + scanned..].iter().enumerate() {
                match byte {
                    b'"' => quoted = !quoted,
                    b'\n' if !(quoted && self.shape.multiline) => {
                        return Ok(Some(Found::line(&self.buffer[self.start..][..=scanned + at], !quoted)));
                    }
                    _ => {}
                }
            }
            scanned = self.buffer.len() - self.start;
            if scanned > RECORD_BYTES_MAX {
                return self.first_line_only().map(Some).ok_or_else(|| self.too_long());
            }
            if !self.fill() {
                break;
            }
        }
        if scanned == 0 || self.broken.is_some() || self.shape.growing {
            return Ok(None);
        }
        if quoted {
            self.ended_in_quote = self.shape.multiline;
            // The quote may have swallowed good lines: only its own is given up.
            return Ok(Some(self.first_line_only().unwrap_or(Found { len: scanned, terminator: 0, quotes_closed: false })));
        }
        let trailing_return = usize::from(self.buffer.ends_with(b"\r"));
        Ok(Some(Found { len: scanned - trailing_return, terminator: trailing_return, quotes_closed: true }))
    }

    /// The physical line at `start`, as a record whose quotes do not close.
    fn first_line_only(&self) -> Option<Found> {
        let rest = &self.buffer[self.start..];
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        Some(Found { quotes_closed: false, ..Found::line(&rest[..=end], false) })
    }

    fn too_long(&self) -> Error {
        Error::Input {
            file: self.file.clone(),
            what: format!("line {} (byte {}) is longer than {} MiB", self.line, self.consumed(), RECORD_BYTES_MAX >> 20),
            todo: "check that this is a text file with line ends".into(),
        }
    }

    fn ended(&self) -> Step {
        let rest = self.buffer.len() - self.start;
        match &self.broken {
            Some(why) => Step::CutShort(format!("byte {} of the unpacked content: {why}", self.base + self.buffer.len() as u64)),
            None if rest > 0 => Step::Unfinished,
            None => Step::Finished,
        }
    }

    /// Decodes the record and cuts it into fields.
    fn split(&mut self, place: Place) -> Result<(), String> {
        let raw = &self.buffer[place.at..place.at + place.len];
        let (text, encoding) = decode(raw, self.encoding)?;
        if encoding == Encoding::Gbk && self.encoding != Encoding::Gbk {
            self.notes.push(format!("line {} (byte {}) is not UTF-8 but GBK: the file is read as GBK", place.line, place.byte));
        }
        self.encoding = encoding;
        if has_text_behind_quote(text.as_bytes(), self.shape.delimiter) {
            return Err("has text behind a closing quote".into());
        }
        split_fields(&mut self.splitter, text.as_bytes(), &mut self.fields)
    }
}

/// The end of a record.
struct Found {
    len: usize,
    terminator: usize,
    quotes_closed: bool,
}

impl Found {
    /// A line with its `\n`, and `\r` before it where there is one.
    fn line(line: &[u8], quotes_closed: bool) -> Found {
        let terminator = if line.ends_with(b"\r\n") { 2 } else { 1 };
        Found { len: line.len() - terminator, terminator, quotes_closed }
    }
}

/// Text of a record, and what is known of the file's encoding after it.
///
/// Short GBK text can be valid UTF-8 of two-byte characters by accident, so such a record decides nothing and follows what was decided; a
/// character of three bytes or more is hardly an accident.
fn decode(raw: &[u8], known: Encoding) -> Result<(Cow<'_, str>, Encoding), String> {
    let utf8 = std::str::from_utf8(raw);
    match (known, utf8) {
        (Encoding::Gbk, Ok(text)) if text.is_ascii() => Ok((text.into(), known)),
        (Encoding::Gbk, Ok(text)) if text.chars().any(|c| c.len_utf8() > 2) => Err("is UTF-8 in a file that is GBK before it".into()),
        (Encoding::Gbk, _) => {
            gbk(raw).map(|text| (text, known)).ok_or_else(|| "is neither GBK, as the file is before it, nor ASCII".into())
        }
        (_, Ok(text)) if text.chars().any(|c| c.len_utf8() > 2) => Ok((text.into(), Encoding::Utf8)),
        (_, Ok(text)) => Ok((text.into(), known)),
        (Encoding::Utf8, Err(e)) => Err(format!("is not UTF-8 at its byte {}, as the file is before it", e.valid_up_to())),
        (Encoding::Undecided, Err(e)) => gbk(raw)
            .filter(|_| decides_gbk(raw))
            .map(|text| (text, Encoding::Gbk))
            .ok_or_else(|| format!("is neither UTF-8 (see its byte {}) nor GBK", e.valid_up_to())),
    }
}

/// Whether text that is no UTF-8 and fits GBK is Chinese: one of its characters is a common one (GB2312 level 1), which two accented letters of
/// Latin-1 (`Größe`) hardly make, and it is no damaged UTF-8. Common characters alone are never that: UTF-8 of Chinese has lead bytes of rare ones.
fn decides_gbk(raw: &[u8]) -> bool {
    let (mut common, mut others) = (0, 0);
    let mut bytes = raw.iter();
    while let Some(lead) = bytes.next() {
        // A lead byte takes the next one with it.
        if *lead >= 0x80 {
            match bytes.next() {
                Some(trail) if (0xb0..=0xd7).contains(lead) && *trail >= 0xa1 => common += 1,
                _ => others += 1,
            }
        }
    }
    common > 0 && (others == 0 || !is_damaged_utf8(raw))
}

/// Whether half or more of what is not ASCII stands in characters of three bytes or more that are whole.
fn is_damaged_utf8(raw: &[u8]) -> bool {
    let whole: usize = raw.utf8_chunks().flat_map(|chunk| chunk.valid().chars()).map(char::len_utf8).filter(|len| *len > 2).sum();
    2 * whole >= raw.iter().filter(|byte| !byte.is_ascii()).count()
}

fn gbk(raw: &[u8]) -> Option<Cow<'_, str>> {
    encoding_rs::GBK.decode_without_bom_handling_and_without_replacement(raw)
}

/// A quoted field ends its field: what follows would be taken for a part of it.
fn has_text_behind_quote(record: &[u8], delimiter: u8) -> bool {
    if !record.contains(&b'"') {
        return false;
    }
    let mut bytes = record.iter().copied().peekable();
    loop {
        if bytes.next_if_eq(&b'"').is_some() {
            loop {
                match bytes.next() {
                    None => return false,
                    Some(b'"') if bytes.next_if_eq(&b'"').is_none() => break,
                    Some(_) => {}
                }
            }
            if bytes.peek().is_some_and(|byte| *byte != delimiter) {
                return true;
            }
        }
        if !bytes.any(|byte| byte == delimiter) {
            return false;
        }
    }
}

fn split_fields(splitter: &mut Reader, record: &[u8], fields: &mut Fields) -> Result<(), String> {
    let mut out = std::mem::take(&mut fields.text).into_bytes();
    // Fields are never longer than the record they were cut from, nor more than its delimiters plus one.
    out.resize(record.len() + 1, 0);
    fields.ends.resize(record.len() + 2, 0);
    splitter.reset();
    let (_, consumed, written, ended) = splitter.read_record(record, &mut out, &mut fields.ends);
    if consumed < record.len() {
        return Err("has a line end outside quotes: a quote stands in the middle of a field".into());
    }
    // The record came without its line end: the end of input ends it.
    let (_, _, more, last) = splitter.read_record(&[], &mut out[written..], &mut fields.ends[ended..]);
    out.truncate(written + more);
    fields.ends.truncate(ended + last);
    fields.text = String::from_utf8(out).expect("valid UTF-8 stays valid when ASCII delimiters and quotes are cut out of it");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINES: Shape = Shape { delimiter: b',', multiline: false, growing: false };
    const QUOTED: Shape = Shape { multiline: true, ..LINES };

    fn records(bytes: &[u8], shape: Shape) -> Records {
        Records::new(Box::new(std::io::Cursor::new(bytes.to_vec())), "t.csv".into(), shape)
    }

    /// Byte, line and fields of a record.
    type Row = (u64, u64, Vec<String>);

    /// Every record, bad ones as byte and reason, and how the file ended.
    fn read(bytes: &[u8], shape: Shape) -> (Vec<Row>, Vec<(u64, String)>, String) {
        let mut records = records(bytes, shape);
        let (mut good, mut bad) = (vec![], vec![]);
        loop {
            match records.step().unwrap() {
                Step::Record(p) => good.push((p.byte, p.line, records.fields().iter().map(String::from).collect())),
                Step::Bad(p, why) => bad.push((p.byte, why)),
                end => return (good, bad, format!("{end:?}")),
            }
        }
    }

    fn row(byte: u64, line: u64, fields: &[&str]) -> Row {
        (byte, line, fields.iter().map(|s| s.to_string()).collect())
    }

    #[test]
    fn bytes_and_lines_are_those_of_the_record() {
        let (good, bad, end) = read(b"a,b\r\n\r\n1,\"x\"\"y\"\n\n2,", LINES);
        assert_eq!(good, [row(0, 1, &["a", "b"]), row(7, 3, &["1", "x\"y"]), row(17, 5, &["2", ""])]);
        assert!(bad.is_empty());
        assert_eq!(end, "Finished");
    }

    #[test]
    fn text_behind_a_closing_quote_is_no_part_of_a_number() {
        let (good, bad, _) = read(b"\"1\"5,2\n\"a\"\"b\",\"\"\n1,\"2\"3\n\"c,d\",4\n", LINES);
        assert_eq!(good, [row(7, 2, &["a\"b", ""]), row(24, 4, &["c,d", "4"])]);
        assert_eq!(bad.iter().map(|(byte, _)| *byte).collect::<Vec<_>>(), [0, 17]);
    }

    #[test]
    fn a_byte_order_mark_is_not_part_of_the_first_field() {
        assert_eq!(read(b"\xEF\xBB\xBFa\n", LINES).0, [row(3, 1, &["a"])]);
    }

    #[test]
    fn quoted_fields_may_hold_line_ends() {
        let (good, ..) = read(b"a,\"1\n2\"\nb,c\n", QUOTED);
        assert_eq!(good, [row(0, 1, &["a", "1\n2"]), row(8, 3, &["b", "c"])]);
    }

    #[test]
    fn a_lost_quote_harms_only_its_line() {
        for shape in [LINES, QUOTED] {
            let (good, bad, _) = read(b"a,b\n\"c,d\ne,f\n", shape);
            assert_eq!(good, [row(0, 1, &["a", "b"]), row(9, 3, &["e", "f"])], "{shape:?}");
            assert_eq!(bad, [(4, "a quote is opened and never closed".to_string())]);
        }
    }

    #[test]
    fn the_last_line_of_a_growing_file_is_left() {
        let mut records = records(b"a\nb", Shape { growing: true, ..LINES });
        assert!(matches!(records.step().unwrap(), Step::Record(_)));
        assert!(matches!(records.step().unwrap(), Step::Unfinished));
        assert_eq!(records.consumed(), 2);
    }

    #[test]
    fn gbk_is_recognised_and_a_mixed_record_is_bad() {
        let gbk = encoding_rs::GBK.encode("沪铜,1\n橡胶,2\n").0.into_owned();
        let mixed = [b"x,0\n".to_vec(), gbk, "词元,3\n".as_bytes().to_vec(), b"y,4\n".to_vec()].concat();
        let (good, bad, _) = read(&mixed, LINES);
        assert_eq!(good.iter().map(|r| r.2[0].clone()).collect::<Vec<_>>(), ["x", "沪铜", "橡胶", "y"]);
        assert_eq!(bad.len(), 1);
        assert!(bad[0].1.contains("is UTF-8 in a file that is GBK"), "{}", bad[0].1);

        let (good, bad, _) = read(&[b"\xe8\xaf\x8d,1\n".to_vec(), vec![0xff, 0xff, b'\n'], b"z,2\n".to_vec()].concat(), LINES);
        assert_eq!(good.len(), 2);
        assert!(bad[0].1.contains("not UTF-8"), "{}", bad[0].1);

        // Latin-1 whose accented letters each swallow the letter behind them, or stand side by side.
        let (good, bad, _) =
            read("cafés,1\nélan,2\nGröße,3\nZürich,4\nplain,5\n".chars().map(|c| c as u8).collect::<Vec<_>>().as_slice(), LINES);
        assert_eq!((good.len(), bad.len()), (1, 4), "{bad:?}");
        assert!(bad.iter().all(|(_, why)| why.contains("is neither UTF-8") && why.contains("nor GBK")), "{bad:?}");
    }

    /// Whichever byte is lost or spoilt: the line is bad, and the good ones after it are read.
    #[test]
    fn damaged_utf8_is_not_taken_for_gbk() {
        let text = "上海期货交易所铜价上涨".as_bytes();
        for at in 0..text.len() {
            let lost = [&text[..at], &text[at + 1..]].concat();
            let spoilt = [&text[..at], b"\xff", &text[at + 1..]].concat();
            let cut = text[..at].to_vec();
            for damaged in [lost, spoilt, cut].iter().filter(|bytes| std::str::from_utf8(bytes).is_err()) {
                let (good, bad, _) = read(&[b"a,0\n", &damaged[..], b",1\n", text, b",2\n", text, b",3\n"].concat(), LINES);
                assert_eq!((good.len(), bad.len()), (3, 1), "byte {at}: {bad:?}");
                assert_eq!(good[1].2[0].as_bytes(), text);
            }
        }
    }

    #[test]
    fn chinese_text_in_gbk_decides_with_its_first_line() {
        for text in ["沪铜", "螺纹钢", "超过", "上海期货交易所", "动力煤 2405", "焦炭", "橡胶", "词元数", "豆粕"]
        {
            let bytes = encoding_rs::GBK.encode(text).0.into_owned();
            let (good, bad, _) = read(&[&bytes[..], b",1\n"].concat(), LINES);
            assert_eq!((good.len(), bad.len()), (1, 0), "{text}: {bad:?}");
            assert_eq!(good[0].2[0], text);
        }
    }

    #[test]
    fn a_line_without_end_is_an_error_and_memory_stays_bounded() {
        let mut records = Records::new(Box::new(std::io::repeat(b'x')), "endless".into(), LINES);
        let error = records.step().unwrap_err().to_string();
        assert!(error.contains("longer than 16 MiB"), "{error}");
        assert!(records.buffer.len() <= RECORD_BYTES_MAX + READ_BYTES);
    }

    #[test]
    fn a_reader_that_breaks_keeps_what_was_whole() {
        struct Breaks(&'static [u8]);
        impl Read for Breaks {
            fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
                match self.0.len() {
                    0 => Err(std::io::Error::other("corrupt deflate stream")),
                    _ => self.0.read(to),
                }
            }
        }
        let mut records = Records::new(Box::new(Breaks(b"a\nb\nc")), "t".into(), LINES);
        assert!(matches!(records.step().unwrap(), Step::Record(_)));
        assert!(matches!(records.step().unwrap(), Step::Record(_)));
        let Step::CutShort(why) = records.step().unwrap() else { panic!() };
        assert_eq!(why, "byte 5 of the unpacked content: corrupt deflate stream");
        assert_eq!(records.consumed(), 4);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_positions_cover_the_file(bytes in prop::collection::vec(
            prop_oneof![Just(b','), Just(b'"'), Just(b'\n'), Just(b'\r'), any::<u8>()], 0..400), multiline: bool, growing: bool) {
            let shape = Shape { delimiter: b',', multiline, growing };
            let mut records = records(&bytes, shape);
            let mut at = 0;
            while let Step::Record(p) | Step::Bad(p, _) = records.step().unwrap() {
                prop_assert!(p.byte >= at);
                prop_assert_eq!(records.raw(p), &bytes[p.byte as usize..p.byte as usize + p.len]);
                prop_assert!(records.consumed() > p.byte || p.len == 0);
                at = records.consumed();
            }
            prop_assert!(growing || records.consumed() == bytes.len() as u64);
        }
    }
}
