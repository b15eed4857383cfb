//! Is the archive complete and unaltered? Answered from the tables alone: every interval that a commit claims is recomputed from its rows.
//!
//! ```text
//! commitInfo of every version ──► claims: partition, (from, to], absent, root ─┐
//! every row of every file ──► record as it stood in the log ──► leaf hash ─────┴─► per partition, in the order of offsets: finding or nothing
//! ```
//!
//! Memory is bounded: the leaves wait in files, a million offsets of one partition at a time are held and put in order.

use crate::ledger::app_id;
use crate::proof::{Hash, Hasher, Tree};
use crate::record::{self, Record};
use crate::spool::{Sorted, Spool};
use crate::{Error, info};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use eventlog::TopicInfo;
use lake::{Lake, Table};
use schemas::Family;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Offsets of one partition that are put in order at a time, as a power of two.
const BUCKET_BITS: u32 = 20;
/// Leaves that wait for their order: the offset, then the hash.
type Leaves = Spool<(Family, i32, i64), 40>;
/// The records' own bytes, by a hash of them; then where each stood: family, partition, offset. Equal ones come together.
type Doubles = Spool<u8, 29>;
/// Findings of one kind and partition that are told one by one.
const TOLD_MAX: usize = 20;

/// Something that is not as the commits say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Table.
    pub table: &'static str,
    /// Partition of its topic; absent where it is not about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    /// First and last offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offsets: Option<(i64, i64)>,
    /// What kind of thing it is, one word: `missing`, `repeated`, `doubled`, `unclaimed`, `altered`, `gap`, `overlap`, `transaction`, `unreadable`, `unproven`, `lost`.
    pub kind: &'static str,
    /// In words.
    pub what: String,
}

/// What was looked at in one table.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Looked {
    /// Version of the table.
    pub version: u64,
    /// Data files read.
    pub files: u64,
    /// Rows in them.
    pub rows: u64,
    /// Commits that claim intervals.
    pub commits: u64,
    /// Intervals whose root was recomputed.
    pub intervals: u64,
}

/// What a verification found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verified {
    /// By table.
    pub tables: BTreeMap<&'static str, Looked>,
    /// Everything that is not as it should be.
    pub findings: Vec<Finding>,
}

/// An interval (from, to] of a partition that a commit says it holds.
#[derive(Debug, Clone)]
struct Claim {
    version: u64,
    from: i64,
    to: i64,
    records: u64,
    absent: Vec<(i64, i64)>,
    root: Option<String>,
}

/// What the commits of one table claim.
struct Claims {
    cluster: String,
    topic: TopicInfo,
    partitions: BTreeMap<i32, Vec<Claim>>,
}

/// Reads every table whole. `progress` is told of the rows read.
pub async fn verify(lake: &Lake, progress: &mut (dyn FnMut(u64) + Send)) -> Result<Verified, Error> {
    let mut verified = Verified::default();
    let mut tables = Vec::new();
    for family in Family::ALL {
        if let Some(table) = lake.find(family).await? {
            tables.push(table);
        }
    }
    let mut claims: HashMap<Family, Claims> = HashMap::new();
    for table in &tables {
        let name = table.family().topic().name;
        let looked = verified.tables.entry(name).or_default();
        looked.version = table.version();
        match read_claims(table, looked).await? {
            Some(found) => drop(claims.insert(table.family(), found)),
            None if table.snapshot().files().is_empty() => {}
            // The tables that the store alone writes to hold no interval of their own.
            None if matches!(table.family(), Family::Quarantine | Family::Gaps) => {}
            None => verified.findings.push(Finding {
                table: name,
                partition: None,
                offsets: None,
                kind: "unproven",
                what: "no commit says which records it holds: it was written by a version without proofs".into(),
            }),
        }
    }
    let mut spools = Spools { leaves: Spool::new()?, doubles: Spool::new()?, seeds: [RandomState::new(), RandomState::new()] };
    let mut lost: BTreeSet<(String, i32, i64, i64)> = BTreeSet::new();
    for table in &tables {
        read_rows(lake, table, &claims, &mut spools, &mut lost, &mut verified, progress).await?;
    }
    for table in &mut tables {
        let Some(claimed) = claims.get(&table.family()) else { continue };
        for (partition, intervals) in &claimed.partitions {
            let lost: Vec<(i64, i64)> =
                lost.iter().filter(|(topic, p, ..)| *topic == claimed.topic.name && p == partition).map(|(.., a, b)| (*a, *b)).collect();
            let mut partition = Partition { family: table.family(), partition: *partition, findings: &mut verified.findings };
            partition.contiguous(intervals, &lost);
            let txn = table.txn_version(&app_id(table.family().topic().name, &claimed.topic.id, partition.partition)).await?;
            partition.transaction(intervals, txn);
            let count = partition.intervals(intervals, &mut spools.leaves)?;
            verified.tables.entry(table.family().topic().name).or_default().intervals += count;
        }
    }
    doubles(&mut spools.doubles, &mut verified)?;
    Ok(verified)
}

/// Records whose own bytes are there twice, at two offsets: those bytes name source, record and revision, so one of them was published twice.
fn doubles(spool: &mut Doubles, verified: &mut Verified) -> Result<(), Error> {
    let mut told: HashMap<&'static str, usize> = HashMap::new();
    let mut entries = spool.take(0..=u8::MAX)?;
    let mut before: Option<[u8; 29]> = None;
    while let Some(entry) = entries.next()? {
        let family = Family::ALL[usize::from(entry[16])];
        let place = |entry: &[u8; 29]| {
            let partition = i32::from_be_bytes(entry[17..21].try_into().expect("four bytes"));
            (partition, i64::from_be_bytes(entry[21..].try_into().expect("eight bytes")))
        };
        if let Some(first) = before.filter(|first| first[..17] == entry[..17] && place(first) != place(&entry)) {
            let told = told.entry(family.topic().name).or_default();
            *told += 1;
            if *told <= TOLD_MAX {
                let ((first_partition, first_offset), (partition, offset)) = (place(&first), place(&entry));
                verified.findings.push(Finding {
                    table: family.topic().name,
                    partition: Some(partition),
                    offsets: Some((offset, offset)),
                    kind: "doubled",
                    what: format!("the same record of the same source as partition {first_partition}, offset {first_offset}"),
                });
            }
        }
        before = Some(entry);
    }
    for (table, more) in told.into_iter().filter(|(_, told)| *told > TOLD_MAX) {
        let what = format!("and {} more of this table", more - TOLD_MAX);
        verified.findings.push(Finding { table, partition: None, offsets: None, kind: "doubled", what });
    }
    Ok(())
}

async fn read_claims(table: &Table, looked: &mut Looked) -> Result<Option<Claims>, Error> {
    let name = table.family().topic().name;
    let mut claims: Option<Claims> = None;
    for (version, said) in table.infos(info::KEY).await? {
        // `quarantine` and `gaps` also have commits about other topics.
        if said["table"] != name {
            continue;
        }
        let text = |key: &str| said[key].as_str().unwrap_or_default().to_string();
        let of = claims.get_or_insert_with(|| Claims {
            cluster: text("cluster"),
            topic: TopicInfo { name: text("topic"), id: text("topicId"), partitions: 0 },
            partitions: BTreeMap::new(),
        });
        let partitions = said["partitions"].as_array().map(Vec::as_slice).unwrap_or_default();
        looked.commits += u64::from(!partitions.is_empty());
        for partition in partitions {
            let claim = claim(version, partition).ok_or_else(|| Error::Rows {
                table: name,
                why: format!("version {version} of its log has a commitInfo that tokentape did not write: {partition}"),
            })?;
            of.partitions.entry(claim.0).or_default().push(claim.1);
        }
    }
    Ok(claims)
}

fn claim(version: u64, said: &Value) -> Option<(i32, Claim)> {
    let pair = |pair: &Value| Some((pair[0].as_i64()?, pair[1].as_i64()?));
    let claim = Claim {
        version,
        from: said["from"].as_i64()?,
        to: said["to"].as_i64()?,
        records: said["records"].as_u64()?,
        absent: said["absent"].as_array()?.iter().map(pair).collect::<Option<_>>()?,
        root: said["root"].as_str().map(String::from),
    };
    Some((i32::try_from(said["partition"].as_i64()?).ok()?, claim))
}

/// Reads the files of one table; each row's leaf goes to the spool of the partition that it stood in.
async fn read_rows(
    lake: &Lake,
    table: &Table,
    claims: &HashMap<Family, Claims>,
    spools: &mut Spools,
    lost: &mut BTreeSet<(String, i32, i64, i64)>,
    verified: &mut Verified,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<(), Error> {
    let family = table.family();
    let name = family.topic().name;
    let mut hashers = Hashers::new(claims);
    for file in table.snapshot().files() {
        let looked = verified.tables.entry(name).or_default();
        looked.files += 1;
        let unreadable = |what: String| Finding { table: name, partition: None, offsets: None, kind: "unreadable", what };
        let bytes = match lake.fetch(family, file).await {
            Ok(bytes) => bytes,
            Err(why) => {
                verified.findings.push(unreadable(why.to_string()));
                continue;
            }
        };
        // A file that was tampered with may make its reader panic: that is a finding like any other.
        let mut rows = match caught(|| lake.rows(family, file, bytes)) {
            Ok(rows) => rows,
            Err(why) => {
                verified.findings.push(unreadable(why));
                continue;
            }
        };
        loop {
            let batch = match caught(|| rows.next().transpose()) {
                Ok(None) => break,
                Ok(Some(batch)) => batch,
                Err(why) => {
                    verified.findings.push(unreadable(why));
                    break;
                }
            };
            looked.rows += batch.num_rows() as u64;
            progress(batch.num_rows() as u64);
            if family == Family::Gaps {
                lost.extend(lost_ranges(&batch));
            }
            let leaves = match caught(|| hashers.leaves(family, &batch, &spools.seeds)) {
                Ok(leaves) => leaves,
                Err(why) => {
                    verified.findings.push(unreadable(format!("{}: {why}", file.path)));
                    break;
                }
            };
            for leaf in leaves {
                spools.push(&leaf)?;
            }
        }
    }
    Ok(())
}

/// The error, or the panic, in words.
fn caught<T, E: std::fmt::Display>(work: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|e| e.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("its reader gave up: {}", text.unwrap_or("without a word")))
        }
    }
}

/// Offsets that the store noted as lost to retention: topic, partition, first and last.
fn lost_ranges(gaps: &RecordBatch) -> Vec<(String, i32, i64, i64)> {
    let topic = Family::Gaps.topic();
    let text = gaps.column(topic.column("origin_topic")).as_string::<i32>();
    let partition = gaps.column(topic.column("origin_partition")).as_primitive::<Int32Type>();
    let long = |name: &str| gaps.column(topic.column(name)).as_primitive::<Int64Type>().clone();
    let (from, to) = (long("from_seq"), long("to_seq"));
    let noted = |row: &usize| text.is_valid(*row) && partition.is_valid(*row) && from.is_valid(*row) && to.is_valid(*row);
    let range = |row: usize| (text.value(row).to_string(), partition.value(row), from.value(row), to.value(row));
    (0..gaps.num_rows()).filter(noted).map(range).collect()
}

/// The hashers of every partition that is claimed.
struct Hashers<'a> {
    claims: &'a HashMap<Family, Claims>,
    by_topic: HashMap<&'a str, Family>,
    made: HashMap<(Family, i32), Hasher>,
}

impl<'a> Hashers<'a> {
    fn new(claims: &'a HashMap<Family, Claims>) -> Hashers<'a> {
        let by_topic = claims.iter().map(|(family, claims)| (claims.topic.name.as_str(), *family)).collect();
        Hashers { claims, by_topic, made: HashMap::new() }
    }

    fn of(&mut self, family: Family, partition: i32) -> Option<&mut Hasher> {
        let claims = self.claims.get(&family)?;
        let make = || Hasher::new(&claims.cluster, &claims.topic, partition);
        Some(self.made.entry((family, partition)).or_insert_with(make))
    }

    /// Where each row of a batch stood, and its leaf. Rows that the store wrote of its own have none, but in `quarantine` that of what they hold.
    fn leaves(&mut self, family: Family, rows: &RecordBatch, seeds: &[RandomState; 2]) -> Result<Vec<Leaf>, Error> {
        let topic = family.topic();
        let partition = rows.column(topic.column("_partition")).as_primitive::<Int32Type>();
        let offset = rows.column(topic.column("_offset")).as_primitive::<Int64Type>();
        let mut leaves = Vec::with_capacity(rows.num_rows());
        let mut add = |hashers: &mut Hashers, family: Family, partition: i32, offset: i64, record: &Record, bytes: Option<[u64; 2]>| {
            if let Some(hasher) = hashers.of(family, partition) {
                leaves.push(Leaf { family, partition, offset, hash: hasher.record(offset, record), bytes });
            }
        };
        let of_log = partition.null_count() < rows.num_rows();
        let records = if of_log { record::rebuild(family, rows)? } else { Vec::new() };
        for (row, record) in records.iter().enumerate().filter(|(row, _)| partition.is_valid(*row) && offset.is_valid(*row)) {
            let bytes = seeds.each_ref().map(|seed| seed.hash_one(record.value.as_deref()));
            add(self, family, partition.value(row), offset.value(row), record, Some(bytes));
        }
        if family == Family::Quarantine {
            for (topic, partition, offset, record) in record::rebuild_quarantined(rows)? {
                if let Some(family) = self.by_topic.get(topic.as_str()).copied() {
                    add(self, family, partition, offset, &record, None);
                }
            }
        }
        Ok(leaves)
    }
}

/// A record of the tables: where it stood in the log, its hash with all that the log says of it, and a hash of its own bytes.
struct Leaf {
    family: Family,
    partition: i32,
    offset: i64,
    hash: Hash,
    /// `None` for what is no record of a family: poison may well come twice.
    bytes: Option<[u64; 2]>,
}

/// What waits to be put in order.
struct Spools {
    leaves: Leaves,
    doubles: Doubles,
    /// Of the hash of a record's own bytes.
    seeds: [RandomState; 2],
}

impl Spools {
    fn push(&mut self, leaf: &Leaf) -> Result<(), Error> {
        let mut entry = [0; 40];
        entry[..8].copy_from_slice(&leaf.offset.to_be_bytes());
        entry[8..].copy_from_slice(&leaf.hash);
        self.leaves.push((leaf.family, leaf.partition, leaf.offset >> BUCKET_BITS), &entry)?;
        let Some(bytes) = leaf.bytes else { return Ok(()) };
        let mut entry = [0; 29];
        entry[..8].copy_from_slice(&bytes[0].to_be_bytes());
        entry[8..16].copy_from_slice(&bytes[1].to_be_bytes());
        entry[16] = Family::ALL.iter().position(|family| *family == leaf.family).unwrap_or_default() as u8;
        entry[17..21].copy_from_slice(&leaf.partition.to_be_bytes());
        entry[21..].copy_from_slice(&leaf.offset.to_be_bytes());
        self.doubles.push(entry[0], &entry)
    }
}

/// The leaves of one partition in the order of their offsets.
fn next_leaf(leaves: &mut Sorted<40>) -> Result<Option<(i64, Hash)>, Error> {
    let Some(entry) = leaves.next()? else { return Ok(None) };
    let (offset, hash) = entry.split_at(8);
    Ok(Some((i64::from_be_bytes(offset.try_into().expect("eight bytes")), hash.try_into().expect("32 bytes"))))
}

/// Compares one partition with what is claimed of it.
struct Partition<'a> {
    family: Family,
    partition: i32,
    findings: &'a mut Vec<Finding>,
}

impl Partition<'_> {
    fn found(&mut self, kind: &'static str, offsets: Option<(i64, i64)>, what: String) {
        let table = self.family.topic().name;
        self.findings.push(Finding { table, partition: Some(self.partition), offsets, kind, what });
    }

    /// Each interval begins where the one before it ended; a hole between two must have been noted as lost.
    fn contiguous(&mut self, claims: &[Claim], lost: &[(i64, i64)]) {
        let mut next = 0;
        for claim in claims {
            let first = claim.from + 1;
            if first < next {
                self.found(
                    "overlap",
                    Some((first, next - 1)),
                    format!("version {} claims offsets that an earlier one holds", claim.version),
                );
            }
            if first > next {
                let noted = lost.iter().any(|(from, to)| *from <= next && first - 1 <= *to);
                let kind = if noted { "lost" } else { "gap" };
                let what = match noted {
                    true => "the log had lost these offsets before they were stored (table gaps)".to_string(),
                    false => format!("no commit before version {} claims these offsets, and no row of gaps explains them", claim.version),
                };
                self.found(kind, Some((next, first - 1)), what);
            }
            next = next.max(claim.to + 1);
        }
    }

    /// The partition's transaction is the next offset to read.
    fn transaction(&mut self, claims: &[Claim], txn: Option<i64>) {
        let next = claims.iter().map(|claim| claim.to + 1).max();
        if txn != next {
            let show = |version: Option<i64>| version.map_or("none".to_string(), |version| version.to_string());
            let what = format!("its transaction is {}, by its commits it should be {}", show(txn), show(next));
            self.found("transaction", None, what);
        }
    }

    /// Recomputes the root of every interval. Gives how many.
    fn intervals(&mut self, claims: &[Claim], spool: &mut Leaves) -> Result<u64, Error> {
        let mut claims: Vec<Claim> = claims.to_vec();
        claims.sort_by_key(|claim| claim.from);
        let at = |bucket: i64| (self.family, self.partition, bucket);
        let mut leaves = spool.take(at(i64::MIN)..=at(i64::MAX))?;
        let mut told: HashMap<&'static str, usize> = HashMap::new();
        let mut pending = next_leaf(&mut leaves)?;
        let count = claims.len() as u64;
        for claim in claims {
            let (mut tree, mut expected, mut missing, mut repeated) = (Tree::default(), claim.from + 1, Vec::new(), 0u64);
            let is_absent = |offset: i64| claim.absent.iter().any(|(first, last)| (*first..=*last).contains(&offset));
            while let Some((offset, leaf)) = pending {
                if offset > claim.to {
                    break;
                }
                pending = next_leaf(&mut leaves)?;
                if offset <= claim.from {
                    self.tell(&mut told, "unclaimed", (offset, offset), "a row that no commit claims");
                    continue;
                }
                if offset < expected {
                    repeated += 1;
                    self.tell(&mut told, "repeated", (offset, offset), "more than one row");
                    continue;
                }
                missing.extend(holes(expected, offset - 1, &claim.absent));
                if is_absent(offset) {
                    self.tell(&mut told, "unclaimed", (offset, offset), "a row where the commit says that there is no record");
                }
                tree.push(leaf);
                expected = offset + 1;
            }
            missing.extend(holes(expected, claim.to, &claim.absent));
            for range in &missing {
                self.tell(&mut told, "missing", *range, &format!("no row, though version {} claims them", claim.version));
            }
            let whole = missing.is_empty() && repeated == 0 && tree.len() == claim.records;
            match &claim.root {
                None => self.tell(&mut told, "unproven", (claim.from + 1, claim.to), "the commit states no root"),
                Some(root) if *root != hex::encode(tree.root()) && whole => {
                    let what = format!("a row has other values than version {} stored", claim.version);
                    self.tell(&mut told, "altered", (claim.from + 1, claim.to), &what);
                }
                Some(root) if *root != hex::encode(tree.root()) && missing.is_empty() && repeated == 0 => {
                    let what = format!("{} rows, though version {} claims {}", tree.len(), claim.version, claim.records);
                    self.tell(&mut told, "altered", (claim.from + 1, claim.to), &what);
                }
                Some(_) => {}
            }
        }
        while let Some((offset, _)) = pending {
            self.tell(&mut told, "unclaimed", (offset, offset), "a row that no commit claims");
            pending = next_leaf(&mut leaves)?;
        }
        for (kind, more) in told.into_iter().filter(|(_, told)| *told > TOLD_MAX) {
            self.found(kind, None, format!("and {} more of this partition", more - TOLD_MAX));
        }
        Ok(count)
    }

    fn tell(&mut self, told: &mut HashMap<&'static str, usize>, kind: &'static str, offsets: (i64, i64), what: &str) {
        let told = told.entry(kind).or_default();
        *told += 1;
        if *told <= TOLD_MAX {
            self.found(kind, Some(offsets), what.to_string());
        }
    }
}

/// The offsets from `first` to `last` that are not said to be absent.
fn holes(first: i64, last: i64, absent: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let mut holes = Vec::new();
    let mut next = first;
    for (from, to) in absent.iter().filter(|(from, to)| *to >= first && *from <= last) {
        if *from > next {
            holes.push((next, from - 1));
        }
        next = next.max(to + 1);
    }
    if next <= last {
        holes.push((next, last));
    }
    holes
}
