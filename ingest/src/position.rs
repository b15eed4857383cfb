//! How far each source was published, and whether an input is a source that is already known: the same bytes are the same source whatever
//! their name or packing, a file that begins with the consumed bytes of a known source is that source grown.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};

/// Name of a source: first 16 bytes of the SHA-256 over parser, path facts and the bytes of the first position.
pub type SourceId = [u8; 16];

/// How many bytes of the beginning tell whether a full comparison is worth it.
const HEAD_BYTES: usize = 1024;
/// Earlier positions that are kept: the first one and the latest.
const ENDS_MAX: usize = 1000;

/// The last published position of a source: a value of the compacted topic `positions`, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Parser with its version.
    pub parser: String,
    /// What the path adds to the content.
    pub path_facts: BTreeMap<String, String>,
    /// Name under which the source was last read, for messages.
    pub name: String,
    /// Records consumed, good and bad.
    pub records: i64,
    /// Unpacked bytes consumed, up to a record boundary.
    pub bytes: u64,
    /// SHA-256 of these bytes, in hex.
    pub sha256: String,
    /// The first of these bytes, at most 1 KiB, in hex.
    pub head: String,
    /// Where earlier positions stood: an older copy of the source ends at one of them.
    pub ends: Vec<(u64, String)>,
    /// Dataset of the records.
    pub dataset: String,
    /// Rows written to `sources` so far.
    pub reads: i32,
    /// SHA-256 of the mapping of the user's that it was read by, in hex.
    #[serde(default)]
    pub mapping: Option<String>,
    /// Revision of the last record: above 0 where its line went on after it was first published.
    #[serde(default)]
    pub last_revision: i32,
    /// The source ended inside a quoted field, whose lines were taken for records: where it goes on, its records are other ones.
    #[serde(default)]
    pub open_quote: bool,
}

/// Names a source by its first position.
pub fn source_id(parser: &str, path_facts: &BTreeMap<String, String>, first_position_sha256: &[u8; 32]) -> SourceId {
    let mut sha = Sha256::new();
    sha.update((parser.len() as u64).to_be_bytes());
    sha.update(parser);
    for (name, value) in path_facts {
        for text in [name, value] {
            sha.update((text.len() as u64).to_be_bytes());
            sha.update(text);
        }
    }
    sha.update(first_position_sha256);
    let digest: [u8; 32] = sha.finalize().into();
    digest[..16].try_into().expect("a digest has more than 16 bytes")
}

/// The name of a new source. Where another one has the same first position all of the content tells the two apart, and where that is taken
/// too, as it is when a shorter copy was said to be a source of its own, the next hash of it that is free.
pub fn free_id(
    parser: &str,
    path_facts: &BTreeMap<String, String>,
    first_sha256: [u8; 32],
    whole_sha256: [u8; 32],
    is_taken: impl Fn(&SourceId) -> bool,
) -> SourceId {
    let mut id = source_id(parser, path_facts, &first_sha256);
    let mut content = whole_sha256;
    while is_taken(&id) {
        id = source_id(parser, path_facts, &content);
        content = Sha256::digest(content).into();
    }
    id
}

/// The head of `consumed` bytes of which `content` is the beginning.
pub fn head(content: &[u8], consumed: u64) -> String {
    let length = usize::try_from(consumed).unwrap_or(usize::MAX).min(HEAD_BYTES).min(content.len());
    hex::encode(&content[..length])
}

/// Earlier positions with one more.
pub fn ends_with(mut ends: Vec<(u64, String)>, bytes: u64, sha256: &str) -> Vec<(u64, String)> {
    if ends.last().is_none_or(|(last, _)| *last < bytes) {
        ends.push((bytes, sha256.to_string()));
    }
    if ends.len() > ENDS_MAX {
        ends.remove(1);
    }
    ends
}

/// What the positions say of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// No position is a beginning of it.
    New {
        /// A source of the same name and kind with other content.
        same_name: bool,
        /// SHA-256 of all of it, where another source begins alike: it tells the two apart.
        whole_sha256: Option<[u8; 32]>,
    },
    /// It is this source, up to its position, or an older copy of it.
    Source {
        /// Its name.
        id: SourceId,
        /// How far it was published.
        position: Box<Position>,
        /// Whether there is content behind the position.
        grown: bool,
    },
    /// It begins like this source and ends before it, at no point where the source is known to have ended: an older copy that was never read,
    /// or a cut one, or another source. Which one cannot be told.
    Shorter {
        /// The source's name.
        name: String,
    },
}

/// An input as it is looked up.
pub struct Sought<'a> {
    /// Parser with its version.
    pub parser: &'a str,
    /// What the path adds to the content.
    pub path_facts: &'a BTreeMap<String, String>,
    /// Name, for messages.
    pub name: &'a str,
    /// Its first bytes; all of it, where it is shorter than a sniffed head.
    pub head: &'a [u8],
    /// It only ever grows: a page or document does not, it is another one when a byte is different.
    pub grows: bool,
    /// The user says that it is no copy of a source that begins like it and goes on.
    pub is_own: bool,
}

/// Finds the source that an input is. `content` gives the unpacked content anew; it is read only where the first bytes fit a position.
pub fn find<R: Read>(
    positions: &HashMap<SourceId, Position>,
    sought: &Sought,
    content: impl FnOnce() -> Result<R, crate::Error>,
) -> Result<Known, crate::Error> {
    let same_kind =
        || positions.iter().filter(|(_, position)| position.parser == sought.parser && position.path_facts == *sought.path_facts);
    let same_name = same_kind().any(|(_, position)| position.name == sought.name);
    let mut alike: Vec<(&SourceId, &Position)> = same_kind().filter(|(_, position)| begin_alike(position, sought.head)).collect();
    if alike.is_empty() {
        return Ok(Known::New { same_name, whole_sha256: None });
    }
    alike.sort_by_key(|(_, position)| std::cmp::Reverse(position.bytes));
    let mut lengths: Vec<u64> = alike.iter().flat_map(|(_, position)| marks(position)).map(|(bytes, _)| *bytes).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let hashes = hash_prefixes(content()?, &lengths).map_err(|(byte, why)| crate::Error::Read { file: sought.name.into(), byte, why })?;
    let may_be_copy = sought.grows && !sought.is_own;
    let begins = |position: &Position| {
        marks(position).filter(|(bytes, _)| **bytes <= hashes.length).all(|(bytes, sha256)| hashes.at.get(bytes) == Some(sha256))
    };
    for (id, position) in &alike {
        // A position before the first record says nothing of what follows: it is only ever the same content again.
        let says_something = position.records > 0 || position.bytes == hashes.length;
        if says_something && hashes.at.get(&position.bytes) == Some(&position.sha256) {
            let grown = hashes.length > position.bytes;
            // It may be that source grown, or a cut copy of one that begins like it and reaches further.
            let further = |other: &&(&SourceId, &Position)| other.1.bytes > hashes.length && other.1.records > 0 && begins(other.1);
            if let Some((_, other)) = alike.iter().find(further).filter(|_| grown && may_be_copy) {
                return Ok(Known::Shorter { name: other.name.clone() });
            }
            return Ok(Known::Source { id: **id, position: Box::new((*position).clone()), grown });
        }
    }
    for (id, position) in alike.iter().filter(|(_, position)| may_be_copy && position.records > 0 && position.bytes > hashes.length) {
        let agree = begins(position);
        let is_an_end = marks(position).any(|(bytes, _)| *bytes == hashes.length);
        if agree && is_an_end {
            return Ok(Known::Source { id: **id, position: Box::new((*position).clone()), grown: false });
        }
        if agree {
            return Ok(Known::Shorter { name: position.name.clone() });
        }
    }
    Ok(Known::New { same_name, whole_sha256: Some(hashes.whole) })
}

/// True when one of head and input's beginning is the beginning of the other. An empty one says nothing, unless both are.
fn begin_alike(position: &Position, head: &[u8]) -> bool {
    let known = hex::decode(&position.head).unwrap_or_default();
    if known.is_empty() || head.is_empty() {
        return known.is_empty() && head.is_empty();
    }
    let both = known.len().min(head.len());
    known[..both] == head[..both]
}

/// Every length at which the hash of the source is known.
fn marks(position: &Position) -> impl Iterator<Item = (&u64, &String)> {
    position.ends.iter().map(|(bytes, sha256)| (bytes, sha256)).chain([(&position.bytes, &position.sha256)])
}

struct Prefixes {
    /// Hash of the content up to each length that it reaches.
    at: HashMap<u64, String>,
    /// Length of the content.
    length: u64,
    /// Hash of all of it.
    whole: [u8; 32],
}

/// `lengths` in ascending order.
fn hash_prefixes(mut content: impl Read, lengths: &[u64]) -> Result<Prefixes, (u64, io::Error)> {
    let mut sha = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let (mut done, mut at) = (0u64, HashMap::new());
    for length in lengths.iter().copied().chain([u64::MAX]) {
        while done < length {
            let want = usize::try_from(length - done).unwrap_or(usize::MAX).min(buffer.len());
            match content.read(&mut buffer[..want]) {
                Ok(0) => break,
                Ok(count) => {
                    sha.update(&buffer[..count]);
                    done += count as u64;
                }
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                // A source that is cut short in its packing still is what it is up to there.
                Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(why) => return Err((done, why)),
            }
        }
        if done == length {
            at.insert(length, hex::encode(sha.clone().finalize()));
        }
    }
    Ok(Prefixes { at, length: done, whole: sha.finalize().into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(date: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("date".to_string(), date.to_string())])
    }

    fn position(content: &[u8], records: i64, path_facts: BTreeMap<String, String>) -> (SourceId, Position) {
        let sha: [u8; 32] = Sha256::digest(content).into();
        let position = Position {
            parser: "csv/1".into(),
            path_facts: path_facts.clone(),
            name: "a.csv".into(),
            records,
            bytes: content.len() as u64,
            sha256: hex::encode(sha),
            head: head(content, content.len() as u64),
            ends: vec![],
            dataset: "A.B".into(),
            reads: 1,
            mapping: None,
            last_revision: 0,
            open_quote: false,
        };
        (source_id("csv/1", &path_facts, &sha), position)
    }

    fn look(known: &[(SourceId, Position)], content: &[u8], path_facts: &BTreeMap<String, String>) -> Known {
        look_own(known, content, path_facts, false)
    }

    fn look_own(known: &[(SourceId, Position)], content: &[u8], path_facts: &BTreeMap<String, String>, is_own: bool) -> Known {
        let head = &content[..content.len().min(65_536)];
        let sought = Sought { parser: "csv/1", path_facts, name: "a.csv", head, grows: true, is_own };
        find(&known.iter().cloned().collect(), &sought, || Ok(content)).expect("memory")
    }

    fn same((id, position): &(SourceId, Position), grown: bool) -> Known {
        Known::Source { id: *id, position: Box::new(position.clone()), grown }
    }

    #[test]
    fn a_file_is_what_it_contains() {
        let long: Vec<u8> = (0..20_000u32).flat_map(|i| format!("{i}\n").into_bytes()).collect();
        let (id, first) = position(&long[..10_000], 500, facts("1"));
        let known = [(id, first)];
        assert_eq!(look(&known, &long[..10_000], &facts("1")), same(&known[0], false));
        assert_eq!(look(&known, &long, &facts("1")), same(&known[0], true));
        assert_eq!(look(&known, &long[..9_999], &facts("1")), Known::Shorter { name: "a.csv".into() });
        assert_eq!(look(&known, &long, &facts("2")), Known::New { same_name: false, whole_sha256: None }, "other path facts");
        let mut other = long.clone();
        other[8_000] = b'x';
        assert!(matches!(look(&known, &other, &facts("1")), Known::New { same_name: true, whole_sha256: Some(_) }), "other bytes");
    }

    #[test]
    fn the_longest_known_beginning_wins() {
        let long: Vec<u8> = (0..20_000u32).flat_map(|i| format!("{i}\n").into_bytes()).collect();
        let (_, mut first) = position(&long[..10_000], 500, facts("1"));
        first.name = "old.csv".into();
        let longer = position(&long[..12_000], 600, facts("1"));
        let known = [([1; 16], first), longer.clone()];
        assert_eq!(look(&known, &long, &facts("1")), same(&longer, true));
    }

    #[test]
    fn an_older_copy_is_known() {
        let long: Vec<u8> = (0..20_000u32).flat_map(|i| format!("{i}\n").into_bytes()).collect();
        let (id, mut grown) = position(&long[..30_000], 900, facts("1"));
        grown.ends = ends_with(vec![], 10_000, &hex::encode(Sha256::digest(&long[..10_000])));
        let known = [(id, grown)];
        assert_eq!(look(&known, &long[..10_000], &facts("1")), same(&known[0], false), "an earlier end");
        assert!(matches!(look(&known, &long[..20_000], &facts("1")), Known::Shorter { .. }), "an end that was never seen");
        let mut other = long[..20_000].to_vec();
        other[9_000] = b'x';
        assert!(matches!(look(&known, &other, &facts("1")), Known::New { .. }), "another source");
    }

    #[test]
    fn what_is_said_to_be_another_source_is_one_unless_it_is_the_very_same_or_grown() {
        let long: Vec<u8> = (0..20_000u32).flat_map(|i| format!("{i}\n").into_bytes()).collect();
        let (id, mut grown) = position(&long[..30_000], 900, facts("1"));
        grown.ends = ends_with(vec![], 10_000, &hex::encode(Sha256::digest(&long[..10_000])));
        let known = [(id, grown)];
        for length in [100, 10_000, 20_000] {
            let whole: [u8; 32] = Sha256::digest(&long[..length]).into();
            let own = look_own(&known, &long[..length], &facts("1"), true);
            assert_eq!(own, Known::New { same_name: true, whole_sha256: Some(whole) }, "{length}");
        }
        assert_eq!(look_own(&known, &long[..30_000], &facts("1"), true), same(&known[0], false), "the very same");
        assert_eq!(look_own(&known, &long, &facts("1"), true), same(&known[0], true), "grown");
    }

    #[test]
    fn a_header_alone_matches_nothing_but_itself() {
        let header = position(b"a,b\n", 0, facts("1"));
        assert_eq!(look(std::slice::from_ref(&header), b"a,b\n", &facts("1")), same(&header, false));
        assert!(matches!(look(&[header], b"a,b\n1,2\n", &facts("1")), Known::New { same_name: true, .. }));
        let empty = position(b"", 0, facts("1"));
        assert_eq!(look(std::slice::from_ref(&empty), b"", &facts("1")), same(&empty, false));
        assert!(matches!(look(&[empty], b"1,2\n", &facts("1")), Known::New { same_name: true, .. }));
    }

    #[test]
    fn parser_and_path_facts_cannot_be_mixed_up() {
        let sha = [7; 32];
        let a = BTreeMap::from([("a".to_string(), "bc".to_string())]);
        let b = BTreeMap::from([("ab".to_string(), "c".to_string())]);
        assert_ne!(source_id("p", &a, &sha), source_id("p", &b, &sha));
        assert_ne!(source_id("p/1", &a, &sha), source_id("p/2", &a, &sha));
    }
}
