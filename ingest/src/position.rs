//! How far each source was published, and whether an input is a source that is already known: the same bytes are the same source whatever
//! their name or packing, a file that begins with the consumed bytes of a known source is that source grown.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};

/// Name of a source: first 16 bytes of the SHA-256 over parser, path facts and the bytes of the first position.
pub type SourceId = [u8; 16];

/// How many bytes of the beginning tell whether a full comparison is worth it.
const HEAD_BYTES: u64 = 4096;

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
    /// SHA-256 of the first bytes (at most 4 KiB of the consumed ones), in hex.
    pub head_sha256: String,
    /// Rows written to `sources` so far.
    pub reads: i32,
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

/// Hash of the head of `consumed` bytes of which `head` is the beginning.
pub fn head_sha256(head: &[u8], consumed: u64) -> String {
    let length = consumed.min(HEAD_BYTES).min(head.len() as u64) as usize;
    hex::encode(Sha256::digest(&head[..length]))
}

/// What the positions say of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// No position is a beginning of it.
    New {
        /// A source of the same name and kind with other content.
        same_name: bool,
    },
    /// It is this source, up to its position.
    Source {
        /// Its name.
        id: SourceId,
        /// How far it was published.
        position: Position,
        /// Whether there is content behind the position.
        grown: bool,
    },
}

/// Finds the source that an input is. `content` gives the unpacked content anew; it is read only where the first bytes fit a position.
pub fn find<R: Read>(
    positions: &HashMap<SourceId, Position>,
    parser: &str,
    path_facts: &BTreeMap<String, String>,
    name: &str,
    head: &[u8],
    content: impl FnOnce() -> Result<R, crate::Error>,
) -> Result<Known, crate::Error> {
    let same_kind = || positions.iter().filter(|(_, position)| position.parser == parser && position.path_facts == *path_facts);
    let same_name = same_kind().any(|(_, position)| position.name == name);
    let mut candidates: Vec<(&SourceId, &Position)> =
        same_kind().filter(|(_, position)| position.head_sha256 == head_sha256(head, position.bytes)).collect();
    if candidates.is_empty() {
        return Ok(Known::New { same_name });
    }
    candidates.sort_by_key(|(_, position)| position.bytes);
    let hashes = hash_prefixes(content()?, candidates.iter().map(|(_, position)| position.bytes))
        .map_err(|(byte, why)| crate::Error::Read { file: name.into(), byte, why })?;
    let found = candidates.iter().zip(&hashes.at).rev().find(|((_, position), hash)| {
        // A position before the first record says nothing of what follows: it is only ever the same file again.
        let says_something = position.records > 0 || position.bytes == hashes.length;
        says_something && hash.as_deref() == Some(&position.sha256)
    });
    Ok(match found {
        Some(((id, position), _)) => Known::Source { id: **id, position: (*position).clone(), grown: hashes.length > position.bytes },
        None => Known::New { same_name },
    })
}

struct Prefixes {
    /// Hash of the content up to each length, `None` where the content is shorter.
    at: Vec<Option<String>>,
    /// Length of the content as far as it was read: whole, unless it is longer than the longest prefix.
    length: u64,
}

fn hash_prefixes(mut content: impl Read, lengths: impl Iterator<Item = u64>) -> Result<Prefixes, (u64, io::Error)> {
    let mut sha = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let (mut done, mut at) = (0u64, Vec::new());
    for length in lengths {
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
        at.push((done == length).then(|| hex::encode(sha.clone().finalize())));
    }
    let more = matches!(content.read(&mut buffer[..1]), Ok(count) if count > 0);
    Ok(Prefixes { at, length: done + u64::from(more) })
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
            head_sha256: head_sha256(content, content.len() as u64),
            reads: 1,
        };
        (source_id("csv/1", &path_facts, &sha), position)
    }

    fn look(known: &[(SourceId, Position)], content: &[u8], path_facts: &BTreeMap<String, String>) -> Known {
        let head = &content[..content.len().min(65_536)];
        find(&known.iter().cloned().collect(), "csv/1", path_facts, "a.csv", head, || Ok(content)).expect("memory")
    }

    fn same((id, position): &(SourceId, Position), grown: bool) -> Known {
        Known::Source { id: *id, position: position.clone(), grown }
    }

    #[test]
    fn a_file_is_what_it_contains() {
        let long: Vec<u8> = (0..20_000u32).flat_map(|i| format!("{i}\n").into_bytes()).collect();
        let (id, first) = position(&long[..10_000], 500, facts("1"));
        let known = [(id, first)];
        assert_eq!(look(&known, &long[..10_000], &facts("1")), same(&known[0], false));
        assert_eq!(look(&known, &long, &facts("1")), same(&known[0], true));
        assert_eq!(look(&known, &long[..9_999], &facts("1")), Known::New { same_name: true }, "shorter");
        assert_eq!(look(&known, &long, &facts("2")), Known::New { same_name: false }, "other path facts");
        let mut other = long.clone();
        other[8_000] = b'x';
        assert_eq!(look(&known, &other, &facts("1")), Known::New { same_name: true }, "other bytes");
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
    fn a_header_alone_matches_nothing_but_itself() {
        let header = position(b"a,b\n", 0, facts("1"));
        assert_eq!(look(std::slice::from_ref(&header), b"a,b\n", &facts("1")), same(&header, false));
        assert_eq!(look(&[header], b"a,b\n1,2\n", &facts("1")), Known::New { same_name: true });
        let empty = position(b"", 0, facts("1"));
        assert_eq!(look(std::slice::from_ref(&empty), b"", &facts("1")), same(&empty, false));
        assert_eq!(look(&[empty], b"1,2\n", &facts("1")), Known::New { same_name: true });
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
