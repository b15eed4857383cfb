//! How frames are spelled: the one way that our encoder writes their values, or another way that says the same. One pass over their bytes.
//!
//! A decoder takes more than an encoder writes: any branch of a union but 0 for a value, numbers and decimals with needless bytes, any byte
//! but 0 for true. A frame of our spelling is what encoding its values gives, so it need not be encoded again to know that. What this pass
//! calls ours is tested against encoding again (tests/families.rs).

use crate::field::Kind;
use crate::frame::PREFIX_LEN;
use crate::topic::Topic;
use std::ops::Range;

/// How a frame is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// As our encoder writes it.
    Ours,
    /// Otherwise, or it is no record at all: whoever decodes it will tell.
    Other,
    /// This column's text is not UTF-8. arrow-avro notices that only when all rows of a batch are there.
    NotText(usize),
}

/// Frames without the columns that are the same in all of them.
pub(crate) struct Differing {
    /// The columns that are left.
    pub(crate) columns: Vec<usize>,
    /// For each of them whether its union is gone too, as every cell has a value.
    pub(crate) never_null: Vec<bool>,
    /// The frames, one after the other.
    pub(crate) frames: Vec<u8>,
}

/// The branch of a union that is NULL: the whole cell.
const NULL: u8 = 0;
/// What is left of most frames is shorter: a guess for the memory of many.
const SHORT_BYTES: usize = 72;

/// The columns of a family as they lie in its frames.
pub(crate) struct Speller {
    columns: Vec<Column>,
}

#[derive(Clone, Copy)]
struct Column {
    shape: Shape,
    required: bool,
}

#[derive(Clone, Copy)]
enum Shape {
    Int,
    Long,
    Bool,
    Text,
    Bytes,
    Decimal,
}

/// Why a cell could not be passed over.
enum Stop {
    /// The frame ends or breaks here.
    Broken,
    NotText,
}

/// A stretch of columns that all frames so far have alike, or one that differs.
enum Stretch<'a> {
    Alike(Range<usize>, &'a [u8]),
    Differs(usize),
}

impl Speller {
    pub(crate) fn new(topic: &Topic) -> Speller {
        let shape = |kind: Kind| match kind {
            Kind::Text => Shape::Text,
            Kind::I32 | Kind::Date => Shape::Int,
            Kind::I64 | Kind::Time => Shape::Long,
            Kind::Bool => Shape::Bool,
            Kind::Bytes => Shape::Bytes,
            Kind::U64 | Kind::Price | Kind::Tokens | Kind::Amount | Kind::Factor => Shape::Decimal,
        };
        Speller { columns: topic.fields.iter().map(|field| Column { shape: shape(field.kind), required: field.required }).collect() }
    }

    /// The spelling of one frame whose prefix is known to be right.
    pub(crate) fn of(&self, frame: &[u8]) -> Spelling {
        let mut cursor = Cursor::after_prefix(frame);
        for (number, column) in self.columns.iter().enumerate() {
            match cursor.cell(*column) {
                Ok(()) => {}
                Err(Stop::Broken) => return Spelling::Other,
                Err(Stop::NotText) => return Spelling::NotText(number),
            }
        }
        if cursor.ours && cursor.rest.is_empty() { Spelling::Ours } else { Spelling::Other }
    }

    /// What is left of the frames without the columns that are the same in all of them; `None` unless every frame is spelled our way. What
    /// the frames have alike is compared, not read: it lies in long stretches.
    pub(crate) fn differing(&self, frames: &[&[u8]]) -> Option<Differing> {
        let (first, others) = frames.split_first()?;
        let cells = self.cells(first)?;
        let mut differs = vec![false; self.columns.len()];
        let mut has_null: Vec<bool> = cells.iter().map(|cell| first[cell.clone()] == [NULL]).collect();
        let mut stretches = stretches(first, &cells, &differs);
        for frame in others {
            let mut cursor = Cursor::after_prefix(frame);
            let mut more = false;
            for stretch in &stretches {
                match stretch {
                    Stretch::Differs(column) => {
                        has_null[*column] |= cursor.rest.first() == Some(&NULL);
                        cursor.cell(self.columns[*column]).ok()?;
                    }
                    Stretch::Alike(_, bytes) if cursor.skip(bytes) => {}
                    Stretch::Alike(columns, _) => {
                        for column in columns.clone() {
                            if !cursor.skip(&first[cells[column].clone()]) {
                                has_null[column] |= cursor.rest.first() == Some(&NULL);
                                cursor.cell(self.columns[column]).ok()?;
                                (differs[column], more) = (true, true);
                            }
                        }
                    }
                }
            }
            if !cursor.ours || !cursor.rest.is_empty() {
                return None;
            }
            if more {
                stretches = self::stretches(first, &cells, &differs);
            }
        }
        let columns: Vec<usize> = (0..differs.len()).filter(|column| differs[*column]).collect();
        let never_null = columns.iter().map(|column| !self.columns[*column].required && !has_null[*column]).collect();
        Some(Differing { frames: self.shortened(frames, &stretches, &has_null)?, columns, never_null })
    }

    /// The frames, one after the other, without what they have alike, and without the branch where a column always has a value.
    fn shortened(&self, frames: &[&[u8]], stretches: &[Stretch<'_>], has_null: &[bool]) -> Option<Vec<u8>> {
        let mut short = Vec::with_capacity(frames.len() * SHORT_BYTES);
        for frame in frames {
            short.extend_from_slice(&frame[..PREFIX_LEN]);
            let mut cursor = Cursor::after_prefix(frame);
            for stretch in stretches {
                match stretch {
                    Stretch::Alike(_, bytes) => drop(cursor.take(bytes.len()).ok()?),
                    Stretch::Differs(column) => {
                        let (cell, branch) = (cursor.rest, !self.columns[*column].required && !has_null[*column]);
                        cursor.cell(self.columns[*column]).ok()?;
                        short.extend_from_slice(&cell[usize::from(branch)..cell.len() - cursor.rest.len()]);
                    }
                }
            }
        }
        Some(short)
    }

    /// Where each cell of a frame lies, if it is spelled our way.
    fn cells(&self, frame: &[u8]) -> Option<Vec<Range<usize>>> {
        let mut cursor = Cursor::after_prefix(frame);
        let mut cells = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            let from = frame.len() - cursor.rest.len();
            cursor.cell(*column).ok()?;
            cells.push(from..frame.len() - cursor.rest.len());
        }
        (cursor.ours && cursor.rest.is_empty()).then_some(cells)
    }
}

fn stretches<'a>(first: &'a [u8], cells: &[Range<usize>], differs: &[bool]) -> Vec<Stretch<'a>> {
    let mut stretches: Vec<Stretch<'a>> = Vec::new();
    for (column, cell) in cells.iter().enumerate() {
        match stretches.last_mut() {
            _ if differs[column] => stretches.push(Stretch::Differs(column)),
            Some(Stretch::Alike(columns, bytes)) => {
                *bytes = &first[cells[columns.start].start..cell.end];
                columns.end = column + 1;
            }
            _ => stretches.push(Stretch::Alike(column..column + 1, &first[cell.clone()])),
        }
    }
    stretches
}

/// What is left of a frame, and whether all before it is spelled our way. It takes whatever arrow-avro takes.
struct Cursor<'a> {
    rest: &'a [u8],
    ours: bool,
}

impl<'a> Cursor<'a> {
    fn after_prefix(frame: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: frame.get(PREFIX_LEN..).unwrap_or_default(), ours: true }
    }

    /// Goes over these bytes, if they come next.
    #[inline]
    fn skip(&mut self, bytes: &[u8]) -> bool {
        self.rest.strip_prefix(bytes).inspect(|rest| self.rest = rest).is_some()
    }

    #[inline]
    fn cell(&mut self, column: Column) -> Result<(), Stop> {
        if !column.required {
            match self.number()? {
                0 => return Ok(()),
                // Branch 1, the value, in zig-zag.
                2 => {}
                _ => self.ours = false,
            }
        }
        match column.shape {
            Shape::Int => u32::try_from(self.number()?).map(drop).map_err(|_| Stop::Broken),
            Shape::Long => self.number().map(drop),
            Shape::Bool => {
                self.ours &= self.take(1)?[0] <= 1;
                Ok(())
            }
            Shape::Text => std::str::from_utf8(self.bytes()?).map(drop).map_err(|_| Stop::NotText),
            Shape::Bytes => self.bytes().map(drop),
            Shape::Decimal => {
                let digits = self.bytes()?;
                self.ours &= is_shortest(digits);
                Ok(())
            }
        }
    }

    /// A number of up to 64 bits, seven to a byte. Its last byte is 0 where a shorter spelling exists.
    #[inline]
    fn number(&mut self) -> Result<u64, Stop> {
        let mut number = 0;
        for (i, byte) in self.rest.iter().take(10).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * i);
            if *byte < 0x80 {
                if i == 9 && *byte > 1 {
                    return Err(Stop::Broken);
                }
                self.ours &= i == 0 || *byte != 0;
                self.rest = &self.rest[i + 1..];
                return Ok(number);
            }
        }
        Err(Stop::Broken)
    }

    #[inline]
    fn bytes(&mut self) -> Result<&'a [u8], Stop> {
        let length = self.number()?;
        // Zig-zag: odd numbers are negative.
        if length % 2 == 1 {
            return Err(Stop::Broken);
        }
        self.take(usize::try_from(length / 2).map_err(|_| Stop::Broken)?)
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], Stop> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Stop::Broken)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// Bytes of the longest decimal.
const DECIMAL_BYTES_MAX: usize = 16;

/// True where no shorter two's complement says the same, and the number is none that arrow-avro refuses.
fn is_shortest(digits: &[u8]) -> bool {
    match digits {
        [] => false,
        _ if digits.len() > DECIMAL_BYTES_MAX => false,
        [_] => true,
        [first, second, ..] => !matches!((first, second >> 7), (0x00, 0) | (0xff, 1)),
    }
}
