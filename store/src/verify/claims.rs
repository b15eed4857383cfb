//! What the commits of a table claim of themselves: intervals of the log, holes in them and why, roots, and the schemas of their records.

use super::{Finding, Looked};
use crate::commits::{self, Interval};
use crate::info;
use eventlog::TopicInfo;
use lake::Table;
use schemas::Family;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// An interval (from, to] of a partition that a commit says it holds.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) version: u64,
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) records: u64,
    /// Offsets in it that hold no record, as first and last.
    pub(super) absent: Vec<(i64, i64)>,
    pub(super) root: Option<String>,
}

/// What the commits of one table claim.
pub(super) struct Claims {
    pub(super) cluster: String,
    pub(super) topic: TopicInfo,
    pub(super) partitions: BTreeMap<i32, Vec<Claim>>,
    /// Ids of the schemas that a commit names with their SHA-256.
    pub(super) schema_ids: BTreeSet<u32>,
}

/// Reads the table's log. `None` where no commit claims anything.
pub(super) async fn read(table: &Table, looked: &mut Looked, findings: &mut Vec<Finding>) -> Option<Claims> {
    let family = table.family();
    let mut claims: Option<Claims> = None;
    let mut commits = commits::of(table);
    let mut strange: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        let commit = match commits.next().await {
            Ok(Some(commit)) => commit,
            Ok(None) => break,
            Err(why) => {
                findings.push(Finding::of_table(family, "unreadable", format!("{why}: what its commits claim is not known")));
                return None;
            }
        };
        let Some(said) = commit.own() else { continue };
        let of = claims.get_or_insert_with(|| Claims {
            cluster: said.cluster.clone(),
            topic: TopicInfo { name: said.topic.clone(), id: said.topic_id.clone(), partitions: 0 },
            partitions: BTreeMap::new(),
            schema_ids: BTreeSet::new(),
        });
        looked.commits += u64::from(!said.intervals.is_empty());
        for part in &said.intervals {
            for (first, last, reason) in &part.absent {
                *looked.absent.entry(reason.clone()).or_default() += (last - first).unsigned_abs() + 1;
            }
            of.partitions.entry(part.partition).or_default().push(Claim::of(commit.entry.version, part));
        }
        for schema in &said.schemas {
            match schema_fault(schema) {
                None => of.schema_ids.extend(schema["id"].as_u64().and_then(|id| u32::try_from(id).ok())),
                Some(why) => *strange.entry(why).or_default() += 1,
            }
        }
    }
    let strange =
        strange.into_iter().map(|(why, commits)| Finding::of_table(family, "schema", format!("{why} ({commits} commits say so)")));
    findings.extend(strange);
    for (reason, offsets) in looked.absent.iter().filter(|(reason, _)| !info::ABSENT_REASONS.contains(&reason.as_str())) {
        let what = format!("{offsets} offsets hold no record, and the reason that their commits give is {reason:?}: none that explains it");
        findings.push(Finding::of_table(family, "unexplained", what));
    }
    claims
}

impl Claim {
    fn of(version: u64, part: &Interval) -> Claim {
        let absent = part.absent.iter().map(|(first, last, _)| (*first, *last)).collect();
        Claim { version, from: part.from, to: part.to, records: part.records, absent, root: part.root.clone() }
    }
}

/// Why a schema that a commit names is not the one that this version knows under that id: an id never changes its meaning.
fn schema_fault(said: &Value) -> Option<String> {
    let topic = Family::ALL.iter().map(|family| family.topic()).find(|topic| Some(u64::from(topic.schema_id)) == said["id"].as_u64());
    let Some(topic) = topic else {
        return Some(format!("its records are of schema {}, which this version of tape does not know", said["id"]));
    };
    let known = hex::encode(Sha256::digest(topic.avro()));
    match said["sha256"].as_str() {
        Some(sha256) if sha256 == known => None,
        Some(sha256) => Some(format!(
            "schema {} had SHA-256 {sha256} when it was stored; this version of tape has {known} under that id",
            topic.schema_id
        )),
        None => Some(format!("schema {} is named without its SHA-256", topic.schema_id)),
    }
}

/// The schema of every row is one that the table's commits name. `found`: which ids the rows of which file have.
pub(super) fn check_schemas(claims: &HashMap<Family, Claims>, found: &BTreeMap<(Family, i32), String>, findings: &mut Vec<Finding>) {
    for ((family, id), file) in found {
        let known = claims.get(family).is_some_and(|claims| u32::try_from(*id).is_ok_and(|id| claims.schema_ids.contains(&id)));
        if !known && claims.contains_key(family) {
            let what = format!("rows of {file} say that schema {id} wrote them, which no commit of the table names");
            findings.push(Finding::of_table(*family, "schema", what));
        }
    }
}
