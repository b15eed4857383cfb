//! What `gaps` says of losses against what its own commits noted, what the others claim, and where the log begins: a loss stays known. Pure, but
//! for the reading of the commits.
//!
//! A note of a loss moves the transaction that `gaps` has of the partition to the offset behind it. So each row ends where one of its commits did,
//! and before each such end all that no commit claims is covered by rows.

use super::Finding;
use super::claims::Claims;
use super::judge::holes;
use super::leaves::Read;
use crate::commits::{self, Noted};
use lake::Table;
use schemas::Family;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A partition of a topic, by the topic's name.
type Place = (String, i32);

/// The offsets behind the losses that commits of `gaps` noted; `None` where its log cannot be read, which is told elsewhere.
pub(super) async fn noted(tables: &[Table]) -> Option<BTreeMap<Place, BTreeSet<i64>>> {
    let mut noted: BTreeMap<Place, BTreeSet<i64>> = BTreeMap::new();
    let Some(table) = tables.iter().find(|table| table.family() == Family::Gaps) else { return Some(noted) };
    let mut commits = commits::of(table);
    while let Some(commit) = commits.next().await.ok()? {
        for Noted { topic, partition, last, .. } in commits::noted(&commit) {
            noted.entry((topic, partition)).or_default().insert(last.saturating_add(1));
        }
    }
    Some(noted)
}

/// Rows that nothing noted, notes that no row tells, and rows about what is stored.
pub(super) fn findings(noted: &BTreeMap<Place, BTreeSet<i64>>, read: &Read, claims: &HashMap<Family, Claims>) -> Vec<Finding> {
    let finding = |kind, what| Finding::of_table(Family::Gaps, kind, what);
    let nothing = BTreeSet::new();
    let mut findings = Vec::new();
    for (topic, partition, from, to) in &read.lost {
        let row = format!("a row says that offsets {from} to {to} of {topic}[{partition}] were lost");
        if !to.checked_add(1).is_some_and(|next| noted.get(&(topic.clone(), *partition)).unwrap_or(&nothing).contains(&next)) {
            findings.push(finding("unclaimed", format!("{row}, which no commit of gaps noted")));
        }
        if let Some((version, first, last)) = claimed(claims, topic, *partition).find(|(_, first, last)| first <= to && from <= last) {
            findings.push(finding("overlap", format!("{row}, and version {version} claims {first} to {last}")));
        }
    }
    for ((topic, partition), ends) in noted {
        let rows = lost(read, topic, *partition);
        // Notes that follow each other tell of the same hole.
        let mut untold = BTreeSet::new();
        for end in ends {
            let begin = claimed(claims, topic, *partition).map(|(.., last)| last + 1).filter(|begin| begin <= end).max().unwrap_or(0);
            untold.extend(holes(begin.min(end - 1), end - 1, &rows));
        }
        findings.extend(untold.into_iter().map(|(first, last)| {
            let what = format!("its commits noted that offsets {first} to {last} of {topic}[{partition}] were lost, and no row says so");
            finding("missing", what)
        }));
    }
    findings
}

/// What the log no longer had when the verification began, of a partition of which so much is stored, and which no row tells.
pub(super) fn unnoted(
    family: Family,
    topic: &str,
    partition: i32,
    low: i64,
    read: &Read,
    claims: &HashMap<Family, Claims>,
) -> Vec<Finding> {
    let end = claimed(claims, topic, partition).map(|(.., last)| last + 1).max().unwrap_or(0);
    let untold = holes(end, low - 1, &lost(read, topic, partition));
    let what = "the log no longer has these offsets; no commit claims them, and no row of gaps says that they were lost";
    let finding = |offsets| Finding {
        table: family.topic().name,
        partition: Some(partition),
        offsets: Some(offsets),
        kind: "gap",
        what: what.into(),
    };
    untold.into_iter().map(finding).collect()
}

/// What rows of `gaps` say of a partition, in the order of offsets.
pub(super) fn lost(read: &Read, topic: &str, partition: i32) -> Vec<(i64, i64)> {
    let of_it = read.lost.range((topic.to_string(), partition, i64::MIN, i64::MIN)..=(topic.to_string(), partition, i64::MAX, i64::MAX));
    of_it.map(|(.., from, to)| (*from, *to)).collect()
}

/// Version, first and last offset of every interval that is claimed of a partition.
fn claimed<'a>(claims: &'a HashMap<Family, Claims>, topic: &'a str, partition: i32) -> impl Iterator<Item = (u64, i64, i64)> + 'a {
    let of_topic = claims.values().filter(move |of| of.topic.name == topic);
    let intervals = of_topic.filter_map(move |of| of.partitions.get(&partition)).flatten();
    intervals.map(|claim| (claim.version, claim.from + 1, claim.to))
}
