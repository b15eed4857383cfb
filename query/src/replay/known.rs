//! Which log the tables were stored from: its cluster, its topics, and how far each partition was stored.

use crate::error::Error;
use eventlog::TopicInfo;
use lake::Lake;
use schemas::Family;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

/// Offsets of each partition's next record to be stored.
pub type Stored = BTreeMap<(Family, i32), i64>;

/// The log that the tables belong to, as far as the tables say.
#[derive(Debug, Clone)]
pub struct Known {
    /// Id of the cluster; empty where no table says it.
    pub cluster_id: String,
    prefix: String,
    topics: HashMap<Family, TopicInfo>,
}

impl Known {
    /// Reads it from the object beside the tables, else from the newest commits. `prefix` is that of topics which nobody names.
    pub async fn read(lake: &Lake, prefix: &str) -> Result<Known, Error> {
        let mut known = Known { cluster_id: String::new(), prefix: prefix.to_string(), topics: HashMap::new() };
        if let Some(owner) = lake.owner().await? {
            let said: Value = serde_json::from_slice(&owner).unwrap_or_default();
            known.cluster_id = text(&said["cluster"]);
            for family in Family::ALL {
                let topic = &said["topics"][family.topic().name];
                known.note(family, text(&topic["topic"]), text(&topic["topicId"]));
            }
        }
        for family in Family::ALL.into_iter().filter(|family| !matches!(family, Family::Quarantine | Family::Gaps)) {
            if known.topics.contains_key(&family) {
                continue;
            }
            let Some(table) = lake.find(family).await? else { continue };
            let Some(said) = table.latest_info("tokentape").await? else { continue };
            known.cluster_id = text(&said["cluster"]);
            known.note(family, text(&said["topic"]), text(&said["topicId"]));
        }
        if let Some((family, topic)) = known.topics.iter().next() {
            known.prefix = topic.name.strip_suffix(family.topic().name).unwrap_or(prefix).to_string();
        }
        Ok(known)
    }

    fn note(&mut self, family: Family, name: String, id: String) {
        if !id.is_empty() {
            self.topics.insert(family, TopicInfo { name, id, partitions: family.topic().partitions });
        }
    }

    /// What its topics' names begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Name of a family's topic.
    pub fn topic_name(&self, family: Family) -> String {
        self.topics.get(&family).map_or_else(|| format!("{}{}", self.prefix, family.topic().name), |topic| topic.name.clone())
    }

    /// A family's topic, where the tables say which it is.
    pub fn topic(&self, family: Family) -> Option<&TopicInfo> {
        self.topics.get(&family)
    }

    /// How far each partition was stored.
    pub async fn stored(&self, lake: &Lake) -> Result<Stored, Error> {
        let mut stored = Stored::new();
        for family in Family::ALL {
            let (Some(topic), Some(mut table)) = (self.topic(family), lake.find(family).await?) else { continue };
            for partition in 0..topic.partitions {
                // As the store names its transactions.
                let app_id = format!("{}/{}/{partition}", family.topic().name, topic.id);
                if let Some(next) = table.txn_version(&app_id).await? {
                    stored.insert((family, partition), next);
                }
            }
        }
        Ok(stored)
    }
}

fn text(said: &Value) -> String {
    said.as_str().unwrap_or_default().to_string()
}
