//! Who an input is and what is to be done next about it, given the positions as they were last read; and what follows an error. Pure, but
//! that the content is read where its beginning fits a known source.

use crate::Error;
use crate::position::{self, Known, Position, Sought, SourceId};
use std::collections::HashMap;
use std::io::Read;

/// What the transactional id begins with under which every new source is let in: one at a time.
const DOOR: &str = "ingest.new.";
/// How often a source is taken up again after the log failed in the middle of it.
const ATTEMPTS: u32 = 3;
/// How often a new source comes back to the door after another one was let in before it.
const DOOR_ATTEMPTS: u32 = 20;

/// An input that asks to be let in.
pub struct Asking<'a> {
    /// How it is looked up.
    pub sought: Sought<'a>,
    /// It is a page of which only what changed is published: one run per dataset at a time.
    pub is_page: bool,
    /// Its dataset.
    pub dataset: &'a str,
    /// Records before its first position.
    pub first_records: i64,
    /// Hash of the bytes before its first position; of a document, of all of it.
    pub first_sha256: [u8; 32],
}

impl Asking<'_> {
    /// Who it is. An input of which that cannot be told is refused.
    pub fn who<R: Read>(
        &self,
        positions: &HashMap<SourceId, Position>,
        content: impl FnOnce() -> Result<R, Error>,
    ) -> Result<(SourceId, Known), Error> {
        let Sought { parser, path_facts, name, grows, is_own, .. } = self.sought;
        let known = match position::find(positions, &self.sought, content)? {
            // A page or document does not grow: a longer one is another one, unless it is this one, of which not all parts are published.
            Known::Source { grown: true, id, .. } if !grows && id != position::source_id(parser, path_facts, &self.first_sha256) => {
                Known::New { same_name: false, whole_sha256: None }
            }
            // Its records cannot be told from those that were published: the user says that they may stand beside them.
            Known::Source { grown: true, position, .. } if is_own && position.open_quote => {
                Known::New { same_name: false, whole_sha256: None }
            }
            // A source without records can double none: an empty answer to the query that a fuller one began with.
            Known::Shorter { .. } if self.first_records == 0 => Known::New { same_name: false, whole_sha256: None },
            known => known,
        };
        let id = match &known {
            Known::Source { position, grown: true, .. } if position.open_quote => return Err(open_quote(name)),
            Known::Source { id, .. } => *id,
            Known::Shorter { name: source } => return Err(shorter(name, source)),
            Known::New { whole_sha256, .. } => {
                let whole = whole_sha256.unwrap_or(self.first_sha256);
                position::free_id(parser, path_facts, self.first_sha256, whole, |id| positions.contains_key(id))
            }
        };
        Ok((id, known))
    }

    /// Who may publish it at one time.
    pub fn transactional_id(&self, id: &SourceId) -> String {
        transactional_id(self.sought.parser, self.is_page.then_some(self.dataset), id)
    }

    /// The door for new sources that may be the same one: whether two copies of different length are one source can be told only when the
    /// first of them has a position, so they are let in one after the other. Who comes to the door turns away the one that stands in it.
    fn door(&self) -> String {
        format!("{DOOR}{}", hex::encode(position::source_id(self.sought.parser, self.sought.path_facts, &[0; 32])))
    }
}

/// Who may publish at one time: one run per source, and of pages that are compared with each other one per dataset.
pub fn transactional_id(parser: &str, page_of: Option<&str>, id: &SourceId) -> String {
    match page_of {
        Some(dataset) => format!("ingest.{parser}.{dataset}"),
        None => format!("ingest.{}", hex::encode(id)),
    }
}

/// What is to be done next about an input.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// All of it is published.
    Known(Box<Position>),
    /// Become the only writer under this id, which settles what a predecessor left open; then read the positions again and ask again.
    TakeWriter {
        /// Under which transactional id.
        transactional_id: String,
        /// It is the door's: it publishes the first chunk, and the source's own writer the others.
        at_door: bool,
    },
    /// Publish with the writer that was taken last.
    Publish {
        /// Go on behind this; `None` begins a new source.
        position: Option<Box<Position>>,
        /// A source of the same name and kind has other content.
        same_name: bool,
    },
}

/// An input on its way to its writer: what it was when the writer was taken must be what it is after the positions were read again.
#[derive(Debug, Default)]
pub struct Admission {
    /// Who it was, and whether it was new, when the last writer was taken.
    taken_as: Option<(SourceId, bool)>,
}

impl Admission {
    /// Decides, by what the positions said last.
    pub fn next(&mut self, asking: &Asking, id: SourceId, known: Known) -> Next {
        let is_new = matches!(known, Known::New { .. });
        let taken = self.taken_as == Some((id, is_new));
        match known {
            Known::Source { position, grown: false, .. } => Next::Known(position),
            Known::Source { position, .. } if taken => Next::Publish { position: Some(position), same_name: false },
            Known::New { same_name, .. } if taken => Next::Publish { position: None, same_name },
            Known::Shorter { .. } => unreachable!("refused when it was looked up"),
            Known::Source { .. } | Known::New { .. } => {
                self.taken_as = Some((id, is_new));
                let at_door = is_new && !asking.is_page;
                let transactional_id = if at_door { asking.door() } else { asking.transactional_id(&id) };
                Next::TakeWriter { transactional_id, at_door }
            }
        }
    }
}

/// Whether a source that was let in may go on by its own writer behind record `published`: `Err` says up to which record another run of it
/// has come, which was faster.
pub fn goes_on(positions: &HashMap<SourceId, Position>, id: &SourceId, published: i64) -> Result<(), i64> {
    match positions.get(id).map_or(0, |position| position.records) {
        records if records == published => Ok(()),
        records => Err(records),
    }
}

/// What follows an error of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Another source was let in meanwhile, and nothing of this one was published: wait, and ask again who this one is.
    Return {
        /// How often it was turned away.
        times: u32,
    },
    /// Nothing is known of the transaction: begin again from the position that the log has.
    Again {
        /// How often it was tried.
        attempt: u32,
    },
    /// End with the error.
    End,
}

/// The attempts at one input.
#[derive(Debug, Default)]
pub struct Attempts {
    failed: u32,
    turned_away: u32,
}

impl Attempts {
    /// Decides what follows an error.
    pub fn after(&mut self, error: &Error) -> Then {
        match error {
            Error::Log(eventlog::Error::Fenced { id }) if id.starts_with(DOOR) && self.turned_away < DOOR_ATTEMPTS => {
                self.turned_away += 1;
                Then::Return { times: self.turned_away }
            }
            Error::Log(eventlog::Error::Failed { .. }) if self.failed + self.turned_away + 1 < ATTEMPTS => {
                self.failed += 1;
                Then::Again { attempt: self.failed + self.turned_away }
            }
            _ => Then::End,
        }
    }
}

fn shorter(file: &str, source: &str) -> Error {
    Error::Input {
        file: file.into(),
        what: format!("begins like the source {source}, which was published further than this file reaches: an older or a cut copy of it"),
        todo: "nothing was published; ingest the whole file, or say --another-source if it is a source of its own".into(),
    }
}

fn open_quote(file: &str) -> Error {
    Error::Input {
        file: file.into(),
        what: "has grown since it was read to its end inside a quoted field: the lines of that field were taken for records of their own, and \
               what came behind the quote cannot be told from what was published"
            .into(),
        todo: "nothing more was published; say --another-source to publish the whole file beside what is there".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn asking<'a>(head: &'a [u8], facts: &'a BTreeMap<String, String>) -> Asking<'a> {
        let sought = Sought { parser: "csv/1", path_facts: facts, name: "a.csv", head, grows: true, is_own: false };
        Asking { sought, is_page: false, dataset: "A.B", first_records: 1, first_sha256: [3; 32] }
    }

    #[test]
    fn a_new_source_takes_the_door_and_looks_again_before_it_publishes() {
        let facts = BTreeMap::new();
        let asking = asking(b"1,2\n", &facts);
        let positions = HashMap::new();
        let (id, known) = asking.who(&positions, || Ok(&b"1,2\n"[..])).expect("memory");
        let mut admission = Admission::default();
        let taken = admission.next(&asking, id, known.clone());
        assert!(matches!(&taken, Next::TakeWriter { transactional_id, at_door: true } if transactional_id.starts_with(DOOR)), "{taken:?}");
        assert_eq!(admission.next(&asking, [9; 16], known.clone()), taken, "it is another one now: the door again");
        assert_eq!(admission.next(&asking, [9; 16], known), Next::Publish { position: None, same_name: false });
    }

    #[test]
    fn errors_are_met_as_often_as_they_may_pass() {
        let fenced = |id: &str| Error::Log(eventlog::Error::Fenced { id: id.into() });
        let failed = || Error::Log(eventlog::Error::Failed { doing: "publishing".into(), why: "no answer".into() });
        let mut attempts = Attempts::default();
        assert_eq!(attempts.after(&fenced("ingest.ab")), Then::End, "somebody else publishes the same source");
        assert_eq!(attempts.after(&fenced("ingest.new.ab")), Then::Return { times: 1 });
        assert_eq!(attempts.after(&failed()), Then::Again { attempt: 2 });
        assert_eq!(attempts.after(&failed()), Then::End);
        let mut attempts = Attempts::default();
        let turned_away = (0..30).filter(|_| matches!(attempts.after(&fenced("ingest.new.ab")), Then::Return { .. })).count();
        assert_eq!(turned_away, 20);
    }
}
