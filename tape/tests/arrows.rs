//! The arrows between crates point one way, and heavy crates stay right: `schemas ← {eventlog, lake} ← {ingest, store, query} ← tape`.

use cargo_metadata::{DependencyKind, MetadataCommand};
use std::collections::{BTreeMap, BTreeSet};

/// What each crate may use of ours.
const ALLOWED: [(&str, &[&str]); 8] = [
    ("killpoint", &[]),
    ("schemas", &[]),
    ("eventlog", &["killpoint", "schemas"]),
    ("lake", &["killpoint", "schemas"]),
    ("ingest", &["killpoint", "schemas", "eventlog"]),
    ("store", &["killpoint", "schemas", "eventlog", "lake"]),
    ("query", &["schemas", "eventlog", "lake"]),
    ("tape", &["schemas", "eventlog", "lake", "ingest", "store", "query"]),
];

/// What measures and tries the house stands beside it.
const BESIDE: [&str; 2] = ["bench", "sim"];

/// Crates that build without the query engine, and what only one crate may name.
const WITHOUT_DATAFUSION: [&str; 5] = ["schemas", "eventlog", "lake", "ingest", "store"];
const ONLY_IN: [(&str, &str); 4] = [("rdkafka", "eventlog"), ("fjall", "eventlog"), ("deltalake-core", "lake"), ("dbn", "ingest")];

#[test]
fn crates_use_only_what_lies_to_their_left() {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata runs in the workspace");
    let ours: BTreeMap<&str, BTreeSet<&str>> = metadata
        .packages
        .iter()
        .map(|package| {
            let uses = package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development).map(|d| d.name.as_str()).collect();
            (package.name.as_str(), uses)
        })
        .collect();
    let names: BTreeSet<&str> = ours.keys().copied().filter(|name| !BESIDE.contains(name)).collect();
    assert_eq!(names, ALLOWED.iter().map(|(name, _)| *name).collect(), "a new crate says here what it may use");
    for (name, allowed) in ALLOWED {
        let uses: BTreeSet<&str> = ours[name].iter().copied().filter(|used| names.contains(used)).collect();
        let allowed = allowed.iter().copied().collect::<BTreeSet<_>>();
        assert!(uses.is_subset(&allowed), "{name} uses {:?}", uses.difference(&allowed));
    }
    for (library, home) in ONLY_IN {
        let users: Vec<_> = names.iter().filter(|name| **name != home && ours[**name].contains(library)).collect();
        assert!(users.is_empty(), "{library} is named by {users:?}, only {home} may");
    }
}

#[test]
fn all_but_query_and_tape_build_without_datafusion() {
    let metadata = MetadataCommand::new().exec().expect("cargo metadata runs in the workspace");
    let resolve = metadata.resolve.expect("metadata was asked for with dependencies");
    let nodes: BTreeMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    for package in metadata.packages.iter().filter(|package| WITHOUT_DATAFUSION.contains(&package.name.as_str())) {
        let mut seen = BTreeSet::new();
        let mut open = vec![&package.id];
        while let Some(id) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            let normal = |dep: &&cargo_metadata::NodeDep| dep.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development);
            open.extend(nodes[id].deps.iter().filter(normal).map(|dep| &dep.pkg));
        }
        let heavy: Vec<_> = seen.iter().map(|id| id.repr.as_str()).filter(|id| id.contains("datafusion")).collect();
        assert!(heavy.is_empty(), "{} reaches {heavy:?}", package.name);
    }
}
