//! What is kept in `meta`: the format, the ids of the log and its topics, the ends of partitions, and how many publishes there were.

use super::aside::Aside;
use super::{End, Identity, Topic, advice, corrupt, failed};
use crate::Error;
use fjall::{Database, Keyspace, PersistMode};
use schemas::Family;
use uuid::Uuid;

/// Layout of the directory; a larger number was written by a newer tokentape.
const FORMAT: u32 = 1;
/// The key under which each keyspace counts publishes: all three are one state, or one of them has lost something.
pub(super) const PUBLISHES: &str = "publishes";

pub(super) fn check_format(meta: &Keyspace, opening: &dyn Fn() -> String) -> Result<(), Error> {
    match read_number(meta, "format", opening)? {
        None => meta.insert("format", u64::from(FORMAT).to_be_bytes()).map_err(|e| failed(opening(), e)),
        Some(format) if format <= u64::from(FORMAT) => Ok(()),
        Some(format) => Err(Error::Failed {
            doing: opening(),
            why: format!("it was written by a newer tokentape (format {format}, this one knows {FORMAT}): use that one"),
        }),
    }
}

/// How many publishes the database has; a log of an older tokentape has counted none. Refuses one that opening has cut otherwise than at its
/// end: its positions, say, are not those of its records.
pub(super) fn count_publishes(keyspaces: &[&Keyspace; 3], journal: &Aside, opening: &dyn Fn() -> String) -> Result<u64, Error> {
    let was_cut = journal.was_cut().map_err(|e| Error::Failed { doing: opening(), why: advice(&e) })?;
    let mut counts = [0; 3];
    for (count, keyspace) in counts.iter_mut().zip(keyspaces) {
        *count = read_number(keyspace, PUBLISHES, opening)?.unwrap_or(0);
    }
    match counts {
        [meta, chunks, states] if meta == chunks && chunks == states && !was_cut => Ok(meta),
        _ => {
            journal.keep();
            Err(corrupt(opening(), "the journal", &format!("what is left of it ends at publishes {counts:?} and is not whole before")))
        }
    }
}

/// Says that the log was restored, and whether wholly: 0 while it is not.
const RESTORED: &str = "restored";

/// Who a log is.
pub(super) struct Identities {
    pub(super) cluster_id: String,
    pub(super) topics: Vec<Topic>,
    /// Its records and ids are those of another log.
    pub(super) restored: bool,
}

/// The log is restored wholly.
pub(super) fn end_restore(meta: &Keyspace) -> Result<(), fjall::Error> {
    meta.insert(RESTORED, 1u64.to_be_bytes())
}

/// The ids of the log and its topics, made at random when they are first asked for; those of `restored_as` where a log is to be restored.
pub(super) fn identities(
    db: &Database,
    meta: &Keyspace,
    published: u64,
    restored_as: Option<&Identity>,
    opening: &dyn Fn() -> String,
) -> Result<Identities, Error> {
    let refused = |why: &str| Err(Error::Failed { doing: opening(), why: why.into() });
    let restored = read_number(meta, RESTORED, opening)?;
    match (restored_as, restored) {
        (None, Some(0)) => return refused("it was not restored to its end: remove the directory and restore it again"),
        (Some(_), _) if read_uuid(meta, "cluster", opening)?.is_some() => {
            return refused("there is a log already, and one is restored only where there is none: name a new directory");
        }
        _ => {}
    }
    let mut made = db.batch().durability(Some(PersistMode::SyncAll));
    if let Some(identity) = restored_as {
        made.insert(meta, RESTORED, 0u64.to_be_bytes());
        made.insert(meta, "known as/cluster", identity.cluster_id.as_str());
        for (family, topic) in &identity.topics {
            made.insert(meta, format!("known as/{}", family.topic().name), topic.id.as_str());
            made.insert(meta, format!("topic/{}", family.topic().name), *Uuid::new_v4().as_bytes());
            made.insert(meta, format!("partitions/{}", family.topic().name), (topic.partitions as u64).to_be_bytes());
        }
        made.commit().map_err(|e| failed(opening(), e))?;
        made = db.batch().durability(Some(PersistMode::SyncAll));
    }
    let cluster = match read_uuid(meta, "cluster", opening)? {
        Some(id) => id,
        None if published > 0 => return Err(corrupt(opening(), "the log's id", "it is missing")),
        None => {
            let id = Uuid::new_v4();
            made.insert(meta, "cluster", *id.as_bytes());
            id
        }
    };
    let mut topics = Vec::with_capacity(Family::ALL.len());
    for family in Family::ALL {
        let declared = family.topic();
        let (id_key, partitions_key) = (format!("topic/{}", declared.name), format!("partitions/{}", declared.name));
        let known = (read_uuid(meta, &id_key, opening)?, read_number(meta, &partitions_key, opening)?);
        let (id, partitions) = match known {
            (Some(id), Some(partitions)) => (id, partitions as i32),
            _ => {
                let id = Uuid::new_v4();
                made.insert(meta, id_key, *id.as_bytes());
                made.insert(meta, partitions_key, (declared.partitions as u64).to_be_bytes());
                (id, declared.partitions)
            }
        };
        let known_as = read_text(meta, &format!("known as/{}", declared.name), opening)?.unwrap_or_else(|| id.to_string());
        topics.push(Topic { family, id, known_as, partitions });
    }
    made.commit().map_err(|e| failed(opening(), e))?;
    let cluster_id = read_text(meta, "known as/cluster", opening)?.unwrap_or_else(|| cluster.to_string());
    Ok(Identities { cluster_id, topics, restored: restored_as.is_some() || restored.is_some() })
}

pub(super) fn read_ends(meta: &Keyspace, topic: &Topic, opening: &dyn Fn() -> String) -> Result<Vec<End>, Error> {
    (0..topic.partitions)
        .map(|partition| {
            let end = read_numbers::<2>(meta, &partition_key("end", topic.id, partition), opening)?.unwrap_or([0, 0]);
            let low = read_numbers::<1>(meta, &partition_key("low", topic.id, partition), opening)?.unwrap_or([0]);
            Ok(End { low: low[0], next: end[0], ts_ms: end[1] })
        })
        .collect()
}

pub(super) fn partition_key(what: &str, topic: Uuid, partition: i32) -> String {
    format!("{what}/{topic}/{partition}")
}

pub(super) fn numbers(numbers: &[i64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

pub(super) fn read_numbers<const N: usize>(meta: &Keyspace, key: &str, doing: &dyn Fn() -> String) -> Result<Option<[i64; N]>, Error> {
    let Some(value) = meta.get(key).map_err(|e| failed(doing(), e))? else { return Ok(None) };
    if value.len() != N * 8 {
        return Err(corrupt(doing(), key, "it has another length"));
    }
    let mut numbers = [0; N];
    for (number, bytes) in numbers.iter_mut().zip(value.chunks_exact(8)) {
        *number = i64::from_be_bytes(bytes.try_into().expect("a chunk of eight bytes"));
    }
    Ok(Some(numbers))
}

pub(super) fn read_number(meta: &Keyspace, key: &str, doing: &dyn Fn() -> String) -> Result<Option<u64>, Error> {
    Ok(read_numbers::<1>(meta, key, doing)?.map(|[number]| number as u64))
}

fn read_text(meta: &Keyspace, key: &str, doing: &dyn Fn() -> String) -> Result<Option<String>, Error> {
    let Some(value) = meta.get(key).map_err(|e| failed(doing(), e))? else { return Ok(None) };
    String::from_utf8(value.to_vec()).map(Some).map_err(|_| corrupt(doing(), key, "it is not text"))
}

fn read_uuid(meta: &Keyspace, key: &str, doing: &dyn Fn() -> String) -> Result<Option<Uuid>, Error> {
    let Some(value) = meta.get(key).map_err(|e| failed(doing(), e))? else { return Ok(None) };
    Uuid::from_slice(&value).map(Some).map_err(|_| corrupt(doing(), key, "it is not an id"))
}
