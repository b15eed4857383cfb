//! Every row of every table to the hash of the record that it was, on all cores: files are fetched one after the other, their row groups are
//! decoded, written back as records and hashed by as many threads as there are cores.

use super::claims::Claims;
use super::complete::{self, Number, Numbers};
use super::rows::{self, Fault, Known};
use super::sequences::{self, Source, Sources, UNFOLLOWED, Within};
use super::{Finding, TOLD_MAX, Verified};
use crate::Error;
use crate::proof::{self, Hash, Hasher};
use crate::spool::Spool;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use lake::{GroupRows, Lake, Table};
use schemas::Family;
use schemas::record::{self, Record};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

/// Offsets of one partition that are put in order at a time, as a power of two.
const BUCKET_BITS: u32 = 20;
/// Threads that are used at most: what they make is put into files by one.
const THREADS_MAX: usize = 16;
/// Batches that wait to be put into files.
const PIECES_WAITING: usize = 4;

/// Bytes of a leaf that waits for its order.
pub(super) const LEAF_BYTES: usize = 64;
/// Leaves by family, partition and bucket of offsets.
pub(super) type Leaves = Spool<(Family, i32, i64), LEAF_BYTES>;
/// The records' own bytes, by a hash of them; then where each stood: family, partition, offset. Equal ones come together.
pub(super) type Doubles = Spool<u8, 29>;

/// A record of the tables as it waits for its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) offset: i64,
    pub(super) hash: Hash,
    pub(super) source: Source,
    /// Number of the record in its source.
    pub(super) record: i64,
    /// What the venue's sequence counts within, hashed, and the sequence.
    pub(super) series: u32,
    pub(super) sequence: Option<i64>,
}

impl Leaf {
    /// Offset first: the order of bytes is that of offsets, which are never negative.
    fn bytes(&self) -> [u8; LEAF_BYTES] {
        let mut bytes = [0; LEAF_BYTES];
        bytes[..8].copy_from_slice(&self.offset.to_be_bytes());
        bytes[8..40].copy_from_slice(&self.hash);
        bytes[40..44].copy_from_slice(&self.source.to_be_bytes());
        bytes[44..52].copy_from_slice(&self.record.to_be_bytes());
        bytes[52..56].copy_from_slice(&self.series.to_be_bytes());
        bytes[56..].copy_from_slice(&self.sequence.unwrap_or(i64::MIN).to_be_bytes());
        bytes
    }

    /// It is in `quarantine`, not in its family's table.
    pub(super) fn is_poison(&self) -> bool {
        self.series == POISON && self.sequence.is_none()
    }

    pub(super) fn of(bytes: &[u8; LEAF_BYTES]) -> Leaf {
        let long = |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let int = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        Leaf {
            offset: long(0),
            hash: bytes[8..40].try_into().expect("32 bytes"),
            source: int(40),
            record: long(44),
            series: int(52),
            sequence: Some(long(56)).filter(|sequence| *sequence != i64::MIN),
        }
    }
}

/// The series of what is in `quarantine`: records without a sequence have 0.
const POISON: u32 = u32::MAX;

/// What waits to be put in order.
pub(super) struct Spools {
    pub(super) leaves: Leaves,
    pub(super) doubles: Doubles,
    pub(super) numbers: Numbers,
}

impl Spools {
    pub(super) fn new() -> Result<Spools, Error> {
        Ok(Spools { leaves: Spool::new()?, doubles: Spool::new()?, numbers: Spool::new()? })
    }
}

/// What was read beside the leaves.
#[derive(Default)]
pub(super) struct Read {
    /// Ids of the schemas that rows name, and a file that has such rows.
    pub(super) schema_ids: BTreeMap<(Family, i32), String>,
    /// Offsets that `gaps` notes as lost: topic, partition, first and last.
    pub(super) lost: BTreeSet<(String, i32, i64, i64)>,
    /// The highest offset of each partition that is in `quarantine`.
    pub(super) quarantined: BTreeMap<(Family, i32), i64>,
    pub(super) sources: Arc<Sources>,
}

/// A row group to read.
struct Job {
    family: Family,
    rows: GroupRows,
}

/// What became of a batch of rows.
#[derive(Default)]
struct Piece {
    family: Option<Family>,
    rows: u64,
    /// Leaves of each bucket, one after the other.
    leaves: Vec<((Family, i32, i64), Vec<u8>)>,
    /// The same of records' own bytes, by the first byte of their hash.
    doubles: Vec<Vec<u8>>,
    /// The numbers of sources that declare their sequence complete.
    numbers: BTreeMap<complete::Bucket, Vec<u8>>,
    schema_ids: BTreeSet<i32>,
    file: String,
    lost: Vec<(String, i32, i64, i64)>,
    quarantined: Vec<((Family, i32), i64)>,
    fault: Option<String>,
    /// Rows that are not what they must be, and bounds that are not what is stated.
    found: Vec<Fault>,
}

impl Piece {
    /// Neighbours are mostly of one bucket, and a batch is of few.
    fn push(&mut self, bucket: (Family, i32, i64), leaf: &[u8]) {
        match self.leaves.iter_mut().rev().find(|(known, _)| *known == bucket) {
            Some((_, leaves)) => leaves.extend_from_slice(leaf),
            None => self.leaves.push((bucket, leaf.to_vec())),
        }
    }
}

/// Reads the tables whole.
pub(super) async fn read(
    lake: &Lake,
    tables: &mut [Table],
    claims: &Arc<HashMap<Family, Claims>>,
    spools: &mut Spools,
    verified: &mut Verified,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Read, Error> {
    let mut read = Read::default();
    complete::declared(lake, tables, &read.sources).await;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let (jobs, queue) = mpsc::channel::<Job>(1);
    let (pieces, made) = mpsc::channel::<Piece>(PIECES_WAITING);
    let queue = Arc::new(Mutex::new(queue));
    let seed = RandomState::new().hash_one(0);
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let mut worker = Worker::new(claims.clone(), read.sources.clone(), seed);
            let (queue, pieces) = (queue.clone(), pieces.clone());
            tokio::task::spawn_blocking(move || worker.run(&queue, &pieces))
        })
        .collect();
    // Whoever feeds is told when no worker is left.
    drop(queue);
    let feed = async {
        let mut files = Vec::new();
        for table in tables {
            let family = table.family();
            let unnamed = match table.columns().await {
                Ok(unnamed) => Arc::new(unnamed),
                Err(why) => {
                    let found = vec![broken("the table's log", why.to_string())];
                    drop(pieces.send(Piece { family: Some(family), found, ..Piece::default() }).await);
                    Arc::default()
                }
            };
            for file in table.snapshot().files() {
                files.push((family, 1));
                let fault = |what: String| Piece { family: Some(family), fault: Some(what), ..Piece::default() };
                let (lake, file, unnamed) = (lake.clone(), file.clone(), unnamed.clone());
                // A task of its own: a panic of the reader ends it alone.
                let groups = match tokio::spawn(async move { lake.row_groups(family, &file, &unnamed).await }).await {
                    Ok(groups) => groups.map_err(|e| e.to_string()),
                    Err(panic) => Err(gave_up(panic.into_panic())),
                };
                // A queue that is closed means that the other side has failed, which says more.
                match groups {
                    Ok(groups) => {
                        for rows in groups {
                            if jobs.send(Job { family, rows }).await.is_err() {
                                return files;
                            }
                        }
                    }
                    Err(why) => drop(pieces.send(fault(why)).await),
                }
            }
        }
        drop((jobs, pieces));
        files
    };
    let take = async {
        // Dropped at an error: whoever still sends is told that nobody listens.
        let mut made = made;
        let mut told = Told::default();
        while let Some(piece) = made.recv().await {
            let family = piece.family.expect("every piece is of a family");
            let looked = verified.tables.entry(family.topic().name).or_default();
            looked.rows += piece.rows;
            progress(piece.rows);
            for (bucket, leaves) in &piece.leaves {
                spools.leaves.push(*bucket, leaves)?;
            }
            for (bucket, doubles) in (0..=u8::MAX).zip(&piece.doubles).filter(|(_, doubles)| !doubles.is_empty()) {
                spools.doubles.push(bucket, doubles)?;
            }
            for (bucket, numbers) in &piece.numbers {
                spools.numbers.push(*bucket, numbers)?;
            }
            for id in piece.schema_ids {
                read.schema_ids.entry((family, id)).or_insert_with(|| piece.file.clone());
            }
            read.lost.extend(piece.lost);
            for (place, offset) in piece.quarantined {
                let highest = read.quarantined.entry(place).or_insert(offset);
                *highest = offset.max(*highest);
            }
            verified.findings.extend(piece.fault.map(|what| Finding::of_table(family, "unreadable", what)));
            piece.found.into_iter().for_each(|fault| told.add(family, fault));
        }
        verified.findings.extend(told.findings());
        Ok::<_, Error>(())
    };
    let (files, taken) = tokio::join!(feed, take);
    taken?;
    for (family, count) in files {
        verified.tables.entry(family.topic().name).or_default().files += count;
    }
    for worker in workers {
        worker.await.map_err(|e| Error::Ended { part: "verification", why: e.to_string() })?;
    }
    Ok(read)
}

/// Faults of rows as findings: of each kind in a partition some one by one, then how many more.
#[derive(Default)]
struct Told {
    counts: BTreeMap<(&'static str, Option<i32>, &'static str), usize>,
    findings: Vec<Finding>,
}

impl Told {
    fn add(&mut self, family: Family, fault: Fault) {
        let Fault { kind, partition, offset, what } = fault;
        let table = family.topic().name;
        let count = self.counts.entry((table, partition, kind)).or_default();
        *count += 1;
        if *count <= TOLD_MAX {
            self.findings.push(Finding { table, partition, offsets: offset.map(|offset| (offset, offset)), kind, what });
        }
    }

    fn findings(self) -> Vec<Finding> {
        let more = self.counts.into_iter().filter(|(_, told)| *told > TOLD_MAX).map(|((table, partition, kind), told)| {
            let what = format!("and {} more like this", told - TOLD_MAX);
            Finding { table, partition, offsets: None, kind, what }
        });
        self.findings.into_iter().chain(more).collect()
    }
}

fn broken(file: &str, what: String) -> Fault {
    Fault { kind: "misstated", partition: None, offset: None, what: format!("{file}: {what}") }
}

/// The error, or the panic, in words: a file that was tampered with may make its reader panic, and that is a finding like any other.
fn caught<T, E: std::fmt::Display>(work: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|e| e.to_string()),
        Err(panic) => Err(gave_up(panic)),
    }
}

fn gave_up(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("its reader gave up: {}", text.unwrap_or("without a word"))
}

/// One thread's part of the work.
struct Worker {
    claims: Arc<HashMap<Family, Claims>>,
    by_topic: HashMap<String, Family>,
    hashers: HashMap<(Family, i32), Hasher>,
    sources: Arc<Sources>,
    /// The number of each source, and whether it declares its sequence complete.
    known: HashMap<[u8; 16], (Source, Option<Within>)>,
    /// Of the hash of a record's own bytes: nobody can make two that collide without knowing it.
    seed: u64,
}

impl Worker {
    fn new(claims: Arc<HashMap<Family, Claims>>, sources: Arc<Sources>, seed: u64) -> Worker {
        let by_topic = claims.iter().map(|(family, claims)| (claims.topic.name.clone(), *family)).collect();
        Worker { claims, by_topic, hashers: HashMap::new(), sources, known: HashMap::new(), seed }
    }

    fn run(&mut self, queue: &Mutex<mpsc::Receiver<Job>>, pieces: &mpsc::Sender<Piece>) {
        loop {
            let job = queue.lock().expect("nothing that holds the queue can panic").blocking_recv();
            let Some(Job { family, mut rows }) = job else { return };
            loop {
                let mut piece = Piece { family: Some(family), file: rows.path().to_string(), ..Piece::default() };
                let go_on = match caught(|| rows.next().transpose()) {
                    Ok(None) => {
                        piece.found.extend(rows.broken().into_iter().map(|what| broken(&piece.file, what)));
                        false
                    }
                    Ok(Some(batch)) => {
                        piece.rows = batch.num_rows() as u64;
                        let bounds = rows.broken().into_iter().map(|what| broken(&piece.file, what));
                        piece.found.extend(bounds);
                        match caught(|| self.batch(family, &batch, &mut piece)) {
                            Ok(()) => true,
                            Err(why) => {
                                piece.fault = Some(format!("{}: {why}", piece.file));
                                false
                            }
                        }
                    }
                    Err(why) => {
                        piece.fault = Some(why);
                        false
                    }
                };
                if pieces.blocking_send(piece).is_err() {
                    return;
                }
                if !go_on {
                    break;
                }
            }
        }
    }

    /// Rows that the store wrote of its own have no leaf, but in `quarantine` that of what they hold.
    fn batch(&mut self, family: Family, rows: &RecordBatch, piece: &mut Piece) -> Result<(), Error> {
        let topic = family.topic();
        piece.found.extend(rows::faults(family, rows, &Known { claims: &self.claims, topics: &self.by_topic })?);
        let partition = rows.column(topic.column("_partition")).as_primitive::<Int32Type>();
        let offset = rows.column(topic.column("_offset")).as_primitive::<Int64Type>();
        if partition.null_count() < rows.num_rows() {
            let records = record::rebuild(family, rows)?;
            let followed = self.followed(family, rows);
            self.numbers(family, rows, piece);
            piece.doubles = vec![Vec::new(); 1 << 8];
            let placed: Vec<usize> = (0..rows.num_rows()).filter(|row| partition.is_valid(*row) && offset.is_valid(*row)).collect();
            for run in placed.chunk_by(|one, next| partition.value(*one) == partition.value(*next)) {
                let partition = partition.value(run[0]);
                let of_run = || run.iter().map(|row| (offset.value(*row), &records[*row], followed[*row]));
                self.leaves(family, partition, of_run(), piece);
                for (offset, record, _) in of_run() {
                    let double = double(family, partition, offset, record, self.seed);
                    piece.doubles[usize::from(double[0])].extend_from_slice(&double);
                }
            }
        }
        match family {
            Family::Quarantine => {
                for (topic, partition, offset, record) in record::rebuild_quarantined(rows)? {
                    if let Some(family) = self.by_topic.get(topic.as_str()).copied() {
                        self.leaves(family, partition, std::iter::once((offset, &record, Followed::NOT)), piece);
                        piece.quarantined.push(((family, partition), offset));
                    }
                }
            }
            Family::Gaps => piece.lost = lost_ranges(rows),
            Family::Sources => self.names(rows),
            _ => {}
        }
        let ids = rows.column(topic.column("_schema")).as_primitive::<Int32Type>();
        let mut last = None;
        for id in ids.iter().flatten() {
            if last.replace(id) != Some(id) {
                piece.schema_ids.insert(id);
            }
        }
        Ok(())
    }

    /// Adds the leaves of records of one partition.
    fn leaves<'a>(
        &mut self,
        family: Family,
        partition: i32,
        records: impl Iterator<Item = (i64, &'a Record, Followed)> + Clone,
        piece: &mut Piece,
    ) {
        let Some(claims) = self.claims.get(&family) else { return };
        let make = || Hasher::new(&claims.cluster, &claims.topic, partition);
        let hasher = self.hashers.entry((family, partition)).or_insert_with(make);
        let mut leaves = proof::Leaves::default();
        records.clone().for_each(|(offset, record, _)| leaves.record(hasher, offset, record));
        for ((offset, _, followed), hash) in records.zip(leaves.hashes()) {
            let Followed { source, record, series, sequence } = followed;
            let leaf = Leaf { offset, hash, source, record, series, sequence };
            piece.push((family, partition, offset >> BUCKET_BITS), &leaf.bytes());
        }
    }

    /// Whose record each row is. Flags are counted on the way.
    fn followed(&mut self, family: Family, rows: &RecordBatch) -> Vec<Followed> {
        let topic = family.topic();
        let ids = rows.column(topic.column("source_id")).as_binary::<i32>();
        let numbers = rows.column(topic.column("source_record")).as_primitive::<Int64Type>();
        let sequences = rows.column(topic.column("sequence")).as_primitive::<Int64Type>();
        let symbols = rows.column(topic.column("symbol")).as_string::<i32>();
        let headers = rows.column(topic.column("_headers"));
        let flags = topic.find_column("flags").map(|at| rows.column(at).as_primitive::<Int32Type>());
        let mut flagged: BTreeMap<Source, (u64, u64)> = BTreeMap::new();
        let mut last: Option<(&[u8], Source)> = None;
        let mut last_symbol: Option<(&str, u32)> = None;
        let followed = (0..rows.num_rows()).map(|row| {
            let id = ids.value(row);
            let source = match last {
                Some((before, source)) if before == id => source,
                _ => self.number(id).0,
            };
            last = Some((id, source));
            if let Some(flags) = flags.filter(|flags| flags.is_valid(row)) {
                let (bad_book, bad_ts_recv) = sequences::flagged(flags.value(row));
                if bad_book || bad_ts_recv {
                    let counts = flagged.entry(source).or_default();
                    counts.0 += u64::from(bad_book);
                    counts.1 += u64::from(bad_ts_recv);
                }
            }
            let sequence = sequences.is_valid(row).then(|| sequences.value(row));
            let series = match last_symbol {
                _ if sequence.is_none() => 0,
                Some((before, series)) if before == symbols.value(row) => series,
                _ => xxh3_64(symbols.value(row).as_bytes()) as u32,
            };
            last_symbol = Some((symbols.value(row), series)).filter(|_| sequence.is_some());
            // What has headers was not published by ingest in the order of its source: it was requeued, or replayed.
            let source = if headers.is_valid(row) { UNFOLLOWED } else { source };
            Followed { source, record: numbers.value(row), series, sequence }
        });
        let followed = followed.collect();
        for (source, (bad_book, bad_ts_recv)) in flagged {
            self.sources.flags(source, bad_book, bad_ts_recv);
        }
        followed
    }

    fn number(&mut self, id: &[u8]) -> (Source, Option<Within>) {
        let Ok(key) = <[u8; 16]>::try_from(id) else { return (UNFOLLOWED, None) };
        let ask = || {
            let number = self.sources.number(id);
            (number, self.sources.within(number))
        };
        *self.known.entry(key).or_insert_with(ask)
    }

    /// Collects the numbers of sources that declare their sequence complete.
    fn numbers(&mut self, family: Family, rows: &RecordBatch, piece: &mut Piece) {
        let topic = family.topic();
        let sequences = rows.column(topic.column("sequence")).as_primitive::<Int64Type>();
        if sequences.null_count() == rows.num_rows() {
            return;
        }
        let ids = rows.column(topic.column("source_id")).as_binary::<i32>();
        let symbols = rows.column(topic.column("symbol")).as_string::<i32>();
        let long = |name: &str| rows.column(topic.column(name)).as_primitive::<Int64Type>();
        let (records, offsets) = (long("source_record"), long("_offset"));
        let partitions = rows.column(topic.column("_partition")).as_primitive::<Int32Type>();
        let mut last: Option<(&[u8], &str, u32)> = None;
        for row in (0..rows.num_rows()).filter(|row| sequences.is_valid(*row) && partitions.is_valid(*row) && offsets.is_valid(*row)) {
            let id = ids.value(row);
            let (source, Some(within)) = self.number(id) else { continue };
            let symbol = match within {
                Within::Source => "",
                Within::Symbol => symbols.value(row),
            };
            let series = match last {
                Some((before, of, series)) if before == id && of == symbol => series,
                _ => self.sources.series_of(source, symbol),
            };
            last = Some((id, symbol, series));
            let (partition, offset) = (partitions.value(row), offsets.value(row));
            let number = Number { sequence: sequences.value(row), family, partition, offset, record: records.value(row) };
            piece.numbers.entry(number.bucket(source, series)).or_default().extend_from_slice(&number.bytes());
        }
    }

    fn names(&self, rows: &RecordBatch) {
        let topic = Family::Sources.topic();
        let ids = rows.column(topic.column("source_id")).as_binary::<i32>();
        let names = rows.column(topic.column("name")).as_string::<i32>();
        for row in (0..rows.num_rows()).filter(|row| names.is_valid(*row)) {
            self.sources.name(ids.value(row), names.value(row));
        }
    }
}

/// Whose record a row is: what its source says of it.
#[derive(Debug, Clone, Copy)]
struct Followed {
    source: Source,
    record: i64,
    series: u32,
    sequence: Option<i64>,
}

impl Followed {
    /// Poison: it may well name no source.
    const NOT: Followed = Followed { source: UNFOLLOWED, record: 0, series: POISON, sequence: None };
}

/// A hash of a record's own bytes, then where it stood.
fn double(family: Family, partition: i32, offset: i64, record: &Record, seed: u64) -> [u8; 29] {
    let mut entry = [0; 29];
    let hash = xxh3_128_with_seed(record.value.as_deref().unwrap_or_default(), seed);
    entry[..16].copy_from_slice(&hash.to_be_bytes());
    entry[16] = Family::ALL.iter().position(|known| *known == family).unwrap_or_default() as u8;
    entry[17..21].copy_from_slice(&partition.to_be_bytes());
    entry[21..].copy_from_slice(&offset.to_be_bytes());
    entry
}

/// Offsets that the store noted as lost to retention: topic, partition, first and last. What a source published of its own gaps is not of the log.
fn lost_ranges(gaps: &RecordBatch) -> Vec<(String, i32, i64, i64)> {
    let topic = Family::Gaps.topic();
    let text = gaps.column(topic.column("origin_topic")).as_string::<i32>();
    let partition = gaps.column(topic.column("origin_partition")).as_primitive::<Int32Type>();
    let long = |name: &str| gaps.column(topic.column(name)).as_primitive::<Int64Type>().clone();
    let (from, to) = (long("from_seq"), long("to_seq"));
    let published = gaps.column(topic.column("_partition"));
    let noted = |row: &usize| {
        published.is_null(*row) && text.is_valid(*row) && partition.is_valid(*row) && from.is_valid(*row) && to.is_valid(*row)
    };
    let range = |row: usize| (text.value(row).to_string(), partition.value(row), from.value(row), to.value(row));
    (0..gaps.num_rows()).filter(noted).map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_leaf_comes_back_and_lies_in_the_order_of_offsets(
            offsets in (0..i64::MAX, 0..i64::MAX), hash: [u8; 32], source: u32, record: i64, series: u32, sequence in proptest::option::of(-5i64..i64::MAX)
        ) {
            let leaf = |offset| Leaf { offset, hash, source, record, series, sequence };
            let (one, other) = (leaf(offsets.0), leaf(offsets.1));
            prop_assert_eq!(Leaf::of(&one.bytes()), one);
            prop_assert_eq!(one.bytes().cmp(&other.bytes()), offsets.0.cmp(&offsets.1));
        }
    }
}
