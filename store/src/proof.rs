//! What proves the records of a commit: the canonical bytes of each (CER v1), and the RFC 6962 root over those of one partition in the order
//! of their offsets. Pure.
//!
//! All that a consumer can see of a record is in its bytes. Integers are big-endian; null and empty differ:
//!
//! ```text
//! u8 1 | 16 bytes: SHA-256 of the cluster id, its first half | 16 bytes: topic id | u16 length, topic | i32 partition | i64 offset
//! | i8 who set the time (0 the producer, 1 the broker, −1 nobody) | i64 ms since 1970 | key | value
//! | u16 number of headers | of each: u16 length, name, value
//! key and value: u8 0 where there is none, else u8 1, u32 length, bytes
//! a length or number of 65,535 and more: ffff, u32
//! ```

use crate::record::Record;
pub use crate::sha256::Hash;
use crate::sha256::{of_one, of_two, pad};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use eventlog::{Event, TimestampType, TopicInfo};
use sha2::{Digest, Sha256};

/// RFC 6962 tells leaves and nodes apart by their first byte.
const LEAF: u8 = 0;
const NODE: u8 = 1;
/// Version of the canonical bytes.
const CER: u8 = 1;

/// What the canonical bytes of one partition's records begin with.
#[derive(Debug, Clone)]
pub struct Hasher {
    prefix: Vec<u8>,
}

impl Hasher {
    /// Of a partition of a topic.
    pub fn new(cluster_id: &str, topic: &TopicInfo, partition: i32) -> Hasher {
        let mut prefix = vec![LEAF, CER];
        prefix.extend_from_slice(&half_hash(cluster_id));
        prefix.extend_from_slice(&id_bytes(&topic.id));
        push_short(&mut prefix, topic.name.as_bytes());
        prefix.extend_from_slice(&partition.to_be_bytes());
        Hasher { prefix }
    }
}

/// Hashes records, of any partitions, two at a time; the hashes come in the order of the records.
#[derive(Debug, Default)]
pub struct Leaves {
    hashes: Vec<Hash>,
    /// The bytes of a record that waits for another one.
    waiting: Vec<u8>,
    /// Room for the bytes of that one.
    bytes: Vec<u8>,
}

impl Leaves {
    /// Adds an event as it was read.
    pub fn event(&mut self, of: &Hasher, event: &Event) {
        self.add(of, event.offset, event.ts_type, event.ts_ms, event.key.as_deref(), event.value.as_deref(), &event.headers);
    }

    /// Adds a record as it was made again from its row.
    pub fn record(&mut self, of: &Hasher, offset: i64, record: &Record) {
        self.add(of, offset, record.ts_type, record.ts_ms, record.key.as_deref(), record.value.as_deref(), &record.headers);
    }

    /// The hash of every record that was added.
    pub fn hashes(mut self) -> Vec<Hash> {
        if !self.waiting.is_empty() {
            self.hashes.push(of_one(&self.waiting));
        }
        self.hashes
    }

    #[expect(clippy::too_many_arguments, reason = "what the canonical bytes hold, in their order")]
    fn add(
        &mut self,
        of: &Hasher,
        offset: i64,
        ts_type: TimestampType,
        ts_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(String, Option<bytes::Bytes>)],
    ) {
        let bytes = &mut self.bytes;
        bytes.clear();
        bytes.extend_from_slice(&of.prefix);
        let mut fixed = [0; 17];
        fixed[..8].copy_from_slice(&offset.to_be_bytes());
        fixed[8] = match ts_type {
            TimestampType::Create => 0,
            TimestampType::LogAppend => 1,
            TimestampType::None => 0xff,
        };
        fixed[9..].copy_from_slice(&ts_ms.to_be_bytes());
        bytes.extend_from_slice(&fixed);
        push(bytes, key);
        push(bytes, value);
        push_count(bytes, headers.len());
        for (name, value) in headers {
            push_short(bytes, name.as_bytes());
            push(bytes, value.as_deref());
        }
        pad(bytes);
        if self.waiting.is_empty() {
            std::mem::swap(&mut self.waiting, &mut self.bytes);
        } else {
            self.hashes.extend(of_two(&self.waiting, &self.bytes));
            self.waiting.clear();
        }
    }
}

/// Leaves of which whole subtrees are made together: as many as a power of two.
const TOGETHER: usize = 64;

/// The tree over the records of one interval of a partition, as far as it has grown.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    grown: Subtrees,
    /// The last leaves, fewer than are taken together.
    waiting: Vec<Hash>,
}

impl Tree {
    /// Adds the record that follows.
    pub fn push(&mut self, leaf: Hash) {
        self.waiting.push(leaf);
        if self.waiting.len() == TOGETHER {
            let mut level = std::mem::take(&mut self.waiting);
            while level.len() > 1 {
                level_above(&mut level);
            }
            self.grown.push(level[0], TOGETHER as u64);
            level.clear();
            self.waiting = level;
        }
    }

    /// Number of records.
    pub fn len(&self) -> u64 {
        self.grown.leaves + self.waiting.len() as u64
    }

    /// True without records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// RFC 6962's Merkle tree hash of the records so far.
    pub fn root(&self) -> Hash {
        let mut all = self.grown.clone();
        self.waiting.iter().for_each(|leaf| all.push(*leaf, 1));
        let mut roots = all.roots.iter().rev();
        let Some(smallest) = roots.next() else { return Sha256::digest([]).into() };
        roots.fold(*smallest, |right, left| of_one(&node(left, &right)))
    }
}

/// The roots of a tree's whole subtrees, the largest first.
#[derive(Debug, Clone, Default)]
struct Subtrees {
    leaves: u64,
    roots: Vec<Hash>,
}

impl Subtrees {
    /// Adds a whole subtree of `leaves` leaves, a power of two that divides the number of those before it.
    fn push(&mut self, mut root: Hash, leaves: u64) {
        for _ in 0..(self.leaves / leaves).trailing_ones() {
            root = of_one(&node(&self.roots.pop().expect("one subtree for each bit of the count"), &root));
        }
        self.roots.push(root);
        self.leaves += leaves;
    }
}

/// Puts in the place of each two nodes the one above them. There is an even number of nodes.
fn level_above(level: &mut Vec<Hash>) {
    let above = level.len() / 2;
    let pair = |level: &[Hash], at: usize| node(&level[2 * at], &level[2 * at + 1]);
    let mut at = 0;
    while at + 1 < above {
        let [one, other] = of_two(&pair(level, at), &pair(level, at + 1));
        (level[at], level[at + 1]) = (one, other);
        at += 2;
    }
    if at < above {
        level[at] = of_one(&pair(level, at));
    }
    level.truncate(above);
}

/// The bytes of the node above two others, padded for its hash.
fn node(left: &Hash, right: &Hash) -> [u8; 128] {
    const BITS: [u8; 2] = (65u16 * 8).to_be_bytes();
    let mut bytes = [0; 128];
    bytes[0] = NODE;
    bytes[1..33].copy_from_slice(left);
    bytes[33..65].copy_from_slice(right);
    bytes[65] = 0x80;
    bytes[126..].copy_from_slice(&BITS);
    bytes
}

/// Kafka writes a topic's id in base64, the embedded log as a UUID: both are 16 bytes. An id of another kind is hashed.
fn id_bytes(id: &str) -> [u8; 16] {
    let from_base64 = || URL_SAFE_NO_PAD.decode(id).ok()?.try_into().ok();
    uuid::Uuid::parse_str(id).ok().map(uuid::Uuid::into_bytes).or_else(from_base64).unwrap_or_else(|| half_hash(id))
}

fn half_hash(text: &str) -> [u8; 16] {
    let hash: Hash = Sha256::digest(text).into();
    hash[..16].try_into().expect("a hash has more than 16 bytes")
}

fn push(bytes: &mut Vec<u8>, text: Option<&[u8]>) {
    let Some(text) = text else { return bytes.push(0) };
    let [a, b, c, d] = u32::try_from(text.len()).expect("a record has at most 64 MiB").to_be_bytes();
    bytes.extend_from_slice(&[1, a, b, c, d]);
    bytes.extend_from_slice(text);
}

fn push_short(bytes: &mut Vec<u8>, text: &[u8]) {
    push_count(bytes, text.len());
    bytes.extend_from_slice(text);
}

/// What a hostile producer may make longer than two bytes count is told by four.
fn push_count(bytes: &mut Vec<u8>, count: usize) {
    match u16::try_from(count) {
        Ok(short) if short < u16::MAX => bytes.extend_from_slice(&short.to_be_bytes()),
        _ => {
            bytes.extend_from_slice(&u16::MAX.to_be_bytes());
            bytes.extend_from_slice(&u32::try_from(count).expect("a record has at most 64 MiB").to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 6962, section 2.1, as it is written there.
    fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [leaf] => *leaf,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                let node = [&[NODE][..], &by_definition(&leaves[..split]), &by_definition(&leaves[split..])].concat();
                Sha256::digest(node).into()
            }
        }
    }

    proptest! {
        // Each tree is made again for every number of its leaves.
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn a_tree_that_grows_is_the_tree_of_the_definition(leaves in proptest::collection::vec(any::<Hash>(), 0..300)) {
            let mut tree = Tree::default();
            for (count, leaf) in leaves.iter().enumerate() {
                prop_assert_eq!(tree.root(), by_definition(&leaves[..count]));
                tree.push(*leaf);
            }
            prop_assert_eq!(tree.root(), by_definition(&leaves));
            prop_assert_eq!(tree.len(), leaves.len() as u64);
        }
    }

    /// The roots of certificate transparency's reference tests: leaves of these bytes, hashed with RFC 6962's prefix.
    #[test]
    fn the_roots_that_other_libraries_compute() {
        let leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Tree::default();
        for (leaf, root) in leaves.iter().zip(roots) {
            let bytes = [&[LEAF][..], &hex::decode(leaf).unwrap()].concat();
            tree.push(Sha256::digest(bytes).into());
            assert_eq!(hex::encode(tree.root()), root);
        }
    }
}
