//! What a commit says of itself, for auditors: which part of the log it holds, and which schemas wrote it. And, read back: which log that was.

use crate::Error;
use crate::ledger::Span;
use crate::proof::Tree;
use crate::tail::{self, Tail};
use eventlog::TopicInfo;
use lake::Table;
use schemas::Family;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Our part of a commitInfo.
pub(crate) const KEY: &str = "tokentape";
/// Why an offset holds no record that a consumer can see: the marker that ends a transaction, or a record of one that was aborted. Which of the
/// two, a consumer cannot tell. What retention took before it was stored is never in an interval: it has a row in `gaps`.
const CONTROL_OR_ABORTED: &str = "control_or_aborted";
/// The same where the log was restored from tables: those had no record there, and why not is not known any more.
const UNKNOWN: &str = "unknown";
/// Reasons that explain why an offset of an interval holds no record. `compacted` is for a log that somebody compacts; ours never is.
pub(crate) const ABSENT_REASONS: [&str; 3] = [CONTROL_OR_ABORTED, "compacted", UNKNOWN];

/// Versions of a table that are looked at for the newest tails: each costs a request.
const LOOK_BACK_MAX: usize = 200;

/// What a commit holds of the log.
pub struct Held<'a> {
    /// The offsets of each partition.
    pub spans: &'a BTreeMap<i32, Span>,
    /// How many of its records went to `quarantine`.
    pub quarantined: &'a BTreeMap<i32, u64>,
    /// The tree over its records.
    pub trees: &'a BTreeMap<i32, Tree>,
    /// The last record that is stored, of every partition of the topic.
    pub tails: &'a BTreeMap<i32, Tail>,
    /// The schemas that the records were written by.
    pub schema_ids: &'a BTreeSet<u32>,
    /// The log has markers of transactions, which explain its holes.
    pub has_markers: bool,
}

/// The commitInfo of one commit: cluster and topic; per partition the offsets in (`from`, `to`], those of them that hold no record and why,
/// how many records there are and how many went to `quarantine`, and the RFC 6962 root over all of them (proof.rs).
pub fn commit_info(cluster_id: &str, topic: &TopicInfo, family: Family, held: &Held) -> Map<String, Value> {
    let why = if held.has_markers { CONTROL_OR_ABORTED } else { UNKNOWN };
    let partition = |(partition, span): (&i32, &Span)| {
        json!({
            "partition": partition,
            "from": span.from - 1,
            "to": span.next - 1,
            "records": span.records,
            "quarantined": held.quarantined.get(partition).copied().unwrap_or(0),
            "absent": span.absent.iter().map(|(first, last)| json!([first, last, why])).collect::<Vec<_>>(),
            "root": held.trees.get(partition).map(|tree| hex::encode(tree.root())),
        })
    };
    let schemas: Vec<Value> = held.schema_ids.iter().map(|id| json!({ "id": id, "sha256": schema_sha256(family, *id) })).collect();
    let log = json!({
        "cluster": cluster_id,
        "table": family.topic().name,
        "topic": topic.name,
        "topicId": topic.id,
        "writer": concat!("tokentape ", env!("CARGO_PKG_VERSION")),
        "partitions": held.spans.iter().map(partition).collect::<Vec<_>>(),
        "tails": tail::to_json(held.tails),
        "schemas": schemas,
    });
    Map::from_iter([(KEY.to_string(), log)])
}

/// Refuses a table that was stored from another log than this one: what both hold would be rows twice.
///
/// The newest commit decides. `quarantine` and `gaps` hold rows about every topic of their log, the others those of their own topic only.
pub async fn refuse_other_log(table: &Table, cluster_id: &str, topics: &HashMap<Family, TopicInfo>) -> Result<(), Error> {
    let Some(said) = table.latest_info(KEY).await? else { return Ok(()) };
    let text = |key: &str| said[key].as_str().unwrap_or("unknown").to_string();
    let (cluster, topic_id) = (text("cluster"), text("topicId"));
    let family = table.family();
    let of_all = matches!(family, Family::Quarantine | Family::Gaps);
    let known = match of_all {
        true => topics.values().any(|topic| topic.id == topic_id),
        false => topics[&family].id == topic_id,
    };
    if known && cluster == cluster_id {
        return Ok(());
    }
    let topic = text("topic");
    let ours = topics.values().find(|ours| ours.name == topic).unwrap_or(&topics[&family]);
    Err(Error::OtherLog {
        table: family.topic().name,
        stored: format!("topic {topic}, id {topic_id}, cluster {cluster}"),
        given: format!("topic {}, id {}, cluster {cluster_id}", ours.name, ours.id),
    })
}

/// The last record of each partition of the family's topic that is stored, as the commits say it. One store names those of all partitions in
/// each commit; where several share them, each knows its own, and those of the others as they were when it began: the newest are looked for
/// further back, as long as one is older than its transaction.
pub(crate) async fn tails(table: &Table, topic_id: &str, txns: &BTreeMap<i32, i64>) -> Result<BTreeMap<i32, Tail>, Error> {
    let mut tails: BTreeMap<i32, Tail> = BTreeMap::new();
    let mut version = table.version() + 1;
    for _ in 0..LOOK_BACK_MAX {
        let Some((at, said)) = table.info_before(KEY, version).await? else { break };
        version = at;
        if said["topicId"] != topic_id {
            continue;
        }
        for (partition, tail) in tail::from_json(&said["tails"]) {
            tails.entry(partition).and_modify(|known| *known = if tail.offset > known.offset { tail } else { *known }).or_insert(tail);
        }
        if txns.iter().all(|(partition, next)| tails.get(partition).is_some_and(|tail| tail.offset + 1 == *next)) {
            break;
        }
    }
    Ok(tails)
}

/// The refusal of a topic that is another one than when the tables were opened.
pub(crate) fn other_log(family: Family, cluster_id: &str, opened: &TopicInfo, now: &TopicInfo) -> Error {
    Error::OtherLog {
        table: family.topic().name,
        stored: format!("topic {}, id {}, cluster {cluster_id}", opened.name, opened.id),
        given: format!("topic {}, id {}, cluster {cluster_id}", now.name, now.id),
    }
}

/// Whom tables belong to, as the object beside them says it: the log's cluster, and topic and id of every family.
pub fn owner(cluster_id: &str, topics: &HashMap<Family, TopicInfo>) -> String {
    let topic = |family: &Family| (family.topic().name.to_string(), json!({ "topic": topics[family].name, "topicId": topics[family].id }));
    let topics: Map<String, Value> = Family::ALL.iter().map(topic).collect();
    format!("{:#}\n", json!({ "cluster": cluster_id, "topics": topics }))
}

/// Refuses tables that belong to another log than this one, whichever of them there are. A family that their owner did not know yet is no
/// reason.
pub fn refuse_other_owner(owner: &[u8], cluster_id: &str, topics: &HashMap<Family, TopicInfo>) -> Result<(), Error> {
    let said: Value = serde_json::from_slice(owner).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_string();
    let cluster = text(&said["cluster"]);
    let theirs = |family: Family| &said["topics"][family.topic().name];
    let differs = |family: &Family| theirs(*family).is_object() && theirs(*family)["topicId"] != topics[family].id;
    let family = match Family::ALL.into_iter().find(differs) {
        Some(family) => family,
        None if cluster != cluster_id => Family::ALL[0],
        None => return Ok(()),
    };
    let (theirs, ours) = (theirs(family), &topics[&family]);
    Err(Error::OtherLog {
        table: family.topic().name,
        stored: format!("topic {}, id {}, cluster {cluster}", text(&theirs["topic"]), text(&theirs["topicId"])),
        given: format!("topic {}, id {}, cluster {cluster_id}", ours.name, ours.id),
    })
}

/// SHA-256 of a schema's text; `null` for an id that this version does not know, which no decoded record can have.
fn schema_sha256(family: Family, id: u32) -> Option<String> {
    let topic = family.topic();
    (id == topic.schema_id).then(|| hex::encode(Sha256::digest(topic.avro())))
}
