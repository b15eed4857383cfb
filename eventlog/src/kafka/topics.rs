//! The topics tokentape needs, made where missing, and every difference named with the command that mends it.

use super::{ASK_WAIT, Kafka, RETRY, Shared};
use crate::origin::Origin;
use crate::topic_id::Described;
use crate::{Error, EventLog, STATE_BYTES_MAX, Start, StateTopic, TopicReport};
use futures::executor::block_on;
use rdkafka::admin::{AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use schemas::Family;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// How long a new topic may take until every question about it is answered.
const CREATE_WAIT: Duration = Duration::from_secs(30);
/// Records of `sources` that are looked at together.
const EVENTS_AT_ONCE: usize = 1000;

/// A topic as it has to be.
struct Wanted {
    name: String,
    partitions: i32,
    replication_factor: i32,
    settings: Vec<Setting>,
}

struct Setting {
    name: &'static str,
    value: String,
    rule: Rule,
}

#[derive(Clone, Copy, PartialEq)]
enum Rule {
    /// Exactly this.
    Is,
    /// This or more.
    AtLeast,
}

/// Makes the missing topics, then checks all.
pub(super) fn create(kafka: &Kafka) -> Result<Vec<TopicReport>, Error> {
    let wanted = wanted(&kafka.shared);
    let names: Vec<String> = wanted.iter().map(|topic| topic.name.clone()).collect();
    let described = kafka.describe_topics(&names, "describing topics")?;
    let missing: Vec<&Wanted> = wanted.iter().zip(&described).filter(|(_, described)| unknown(described)).map(|(topic, _)| topic).collect();
    refuse_forgotten(kafka, &missing)?;
    let created = request(kafka, &missing)?;
    wait_until_known(kafka, &created)?;
    check(kafka, &created)
}

/// The compacted topics say what was published. Made anew beside records they would say that nothing was, and all of it would be published again.
fn refuse_forgotten(kafka: &Kafka, missing: &[&Wanted]) -> Result<(), Error> {
    let is_missing = |name: &str| missing.iter().any(|topic| topic.name == name);
    for topic in StateTopic::ALL {
        let state = kafka.shared.state_name(topic);
        let doing = format!("making topic {state}");
        if !is_missing(&state) {
            refuse_lost(kafka, topic, kafka.ends(kafka.admin.inner(), &state, 0)?)?;
            continue;
        }
        for family in Family::ALL.into_iter().filter(|family| !is_missing(kafka.shared.name(*family))) {
            if EventLog::watermarks(kafka, family)?.iter().any(|watermarks| watermarks.high > 0) {
                return Err(forgotten(&doing, &format!("it is missing, and {} has records", kafka.shared.name(family))));
            }
        }
    }
    Ok(())
}

/// Refuses a compacted topic that has lost records: what it says of the others is not all that was published. Compaction leaves a topic's beginning
/// where it is; only somebody who deletes records, or a time without `cleanup.policy=compact`, moves it.
pub(super) fn refuse_lost(kafka: &Kafka, topic: StateTopic, ends: (i64, i64)) -> Result<(), Error> {
    let doing = format!("reading {}", kafka.shared.state_name(topic));
    match ends {
        (low, _) if low > 0 => Err(forgotten(&doing, &format!("it begins at offset {low}: records before it were deleted"))),
        // Every source that was published has a position; what else there is, feeds and replays, has none.
        (0, 0) if topic == StateTopic::Positions && was_published(kafka)? => {
            let sources = kafka.shared.name(Family::Sources);
            Err(forgotten(&doing, &format!("it is empty, and {sources} has what `tape ingest` published")))
        }
        _ => Ok(()),
    }
}

/// Has the topic `sources` a record that was not replayed?
fn was_published(kafka: &Kafka) -> Result<bool, Error> {
    let ends = match EventLog::watermarks(kafka, Family::Sources) {
        Err(Error::TopicMissing { .. }) => return Ok(false),
        ends => ends?,
    };
    let starts: Vec<Start> = (0..)
        .zip(ends)
        .filter(|(_, ends)| ends.high > ends.low)
        .map(|(partition, ends)| Start { family: Family::Sources, partition, offset: ends.low })
        .collect();
    if starts.is_empty() {
        return Ok(false);
    }
    let mut reader = EventLog::reader(kafka, &starts)?;
    let mut at_end = HashSet::new();
    let mut heard = Instant::now();
    while at_end.len() < starts.len() {
        let polled = reader.poll(RETRY, EVENTS_AT_ONCE)?;
        if polled.events.iter().any(|event| Origin::of(&event.headers).is_none()) {
            return Ok(true);
        }
        if !polled.events.is_empty() || !polled.at_end.is_empty() {
            heard = Instant::now();
        }
        if heard.elapsed() > CREATE_WAIT {
            let doing = format!("reading {}", kafka.shared.name(Family::Sources));
            return Err(kafka.error(&doing, KafkaError::Global(Code::OperationTimedOut)));
        }
        at_end.extend(polled.at_end);
    }
    Ok(false)
}

fn forgotten(doing: &str, found: &str) -> Error {
    let why = format!(
        "{found}: what was published is no longer known, and would be published again; delete it and bring it back from a copy, or begin with another prefix"
    );
    Error::Failed { doing: doing.to_string(), why }
}

/// Checks all topics; those in `created` are reported as new.
pub(super) fn check(kafka: &Kafka, created: &[String]) -> Result<Vec<TopicReport>, Error> {
    let wanted = wanted(&kafka.shared);
    let names: Vec<String> = wanted.iter().map(|topic| topic.name.clone()).collect();
    let described = kafka.describe_topics(&names, "describing topics")?;
    let existing: Vec<&str> = names.iter().zip(&described).filter(|(_, topic)| !unknown(topic)).map(|(name, _)| name.as_str()).collect();
    let settings = settings(kafka, &existing)?;
    let created: HashSet<&String> = created.iter().collect();
    let mut reports = Vec::with_capacity(wanted.len());
    for (topic, described) in wanted.iter().zip(described) {
        let problems = match described {
            Err(_) if unknown(&described) => vec!["it does not exist: run `tape topics` to create it".to_string()],
            Err(code) => return Err(kafka.error(&format!("describing topic {}", topic.name), KafkaError::Global(code))),
            Ok(described) => problems(topic, &described, &settings[topic.name.as_str()], &kafka.shared.options.brokers),
        };
        reports.push(TopicReport { name: topic.name.clone(), created: created.contains(&topic.name), problems });
    }
    Ok(reports)
}

fn wanted(shared: &Shared) -> Vec<Wanted> {
    let options = &shared.options;
    let topic = |name: String, partitions, bytes_max: usize, cleanup: &str, retention_ms: i64| {
        let mut settings = vec![
            Setting { name: "cleanup.policy", value: cleanup.to_string(), rule: Rule::Is },
            Setting { name: "message.timestamp.type", value: "LogAppendTime".to_string(), rule: Rule::Is },
            Setting { name: "retention.ms", value: retention_ms.to_string(), rule: Rule::Is },
            Setting { name: "retention.bytes", value: "-1".to_string(), rule: Rule::Is },
            Setting { name: "max.message.bytes", value: bytes_max.to_string(), rule: Rule::AtLeast },
            Setting { name: "unclean.leader.election.enable", value: "false".to_string(), rule: Rule::Is },
        ];
        if options.replication_factor > 1 {
            // What a publish returned must outlive one broker.
            let in_sync = (options.replication_factor - 1).max(2);
            settings.push(Setting { name: "min.insync.replicas", value: in_sync.to_string(), rule: Rule::AtLeast });
        }
        Wanted { name, partitions, replication_factor: options.replication_factor, settings }
    };
    let families = Family::ALL.iter().map(|family| {
        let declared = family.topic();
        topic(shared.name(*family).to_string(), declared.partitions, declared.max_message_bytes, "delete", options.retention_ms)
    });
    let states = StateTopic::ALL.iter().map(|state| topic(shared.state_name(*state), 1, STATE_BYTES_MAX, "compact", -1));
    families.chain(states).collect()
}

fn unknown(described: &Result<Described, Code>) -> bool {
    matches!(described, Err(Code::UnknownTopicOrPartition | Code::UnknownTopic))
}

/// Asks for the topics; gives the names of those that this call made.
fn request(kafka: &Kafka, missing: &[&Wanted]) -> Result<Vec<String>, Error> {
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let new: Vec<NewTopic<'_>> = missing
        .iter()
        .map(|topic| {
            let new = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(topic.replication_factor));
            topic.settings.iter().fold(new, |new, setting| new.set(setting.name, &setting.value))
        })
        .collect();
    let options = AdminOptions::new().request_timeout(Some(CREATE_WAIT)).operation_timeout(Some(CREATE_WAIT));
    let results = block_on(kafka.admin.create_topics(&new, &options)).map_err(|e| kafka.error("creating topics", e))?;
    let mut created = Vec::new();
    for result in results {
        match result {
            Ok(name) => created.push(name),
            // Somebody else made it at the same moment.
            Err((_, Code::TopicAlreadyExists)) => {}
            Err((name, code)) => return Err(kafka.error(&format!("creating topic {name}"), KafkaError::AdminOp(code))),
        }
    }
    Ok(created)
}

/// A topic that was made is not known to every broker at once.
fn wait_until_known(kafka: &Kafka, created: &[String]) -> Result<(), Error> {
    let deadline = Instant::now() + CREATE_WAIT;
    loop {
        let described = kafka.describe_topics(created, "describing new topics")?;
        let Some(at) = described.iter().position(Result::is_err) else { return Ok(()) };
        if Instant::now() >= deadline {
            return Err(Error::TopicMissing { name: created[at].clone() });
        }
        std::thread::sleep(RETRY);
    }
}

fn settings(kafka: &Kafka, names: &[&str]) -> Result<HashMap<String, HashMap<String, String>>, Error> {
    if names.is_empty() {
        return Ok(HashMap::new());
    }
    let asked: Vec<ResourceSpecifier<'_>> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let options = AdminOptions::new().request_timeout(Some(ASK_WAIT));
    let doing = "reading the topics' settings";
    let described = block_on(kafka.admin.describe_configs(&asked, &options)).map_err(|e| kafka.error(doing, e))?;
    let mut settings = HashMap::new();
    for (name, resource) in names.iter().zip(described) {
        let resource = resource.map_err(|code| kafka.error(&format!("reading the settings of topic {name}"), KafkaError::AdminOp(code)))?;
        settings.insert((*name).to_string(), values(resource));
    }
    Ok(settings)
}

fn values(resource: ConfigResource) -> HashMap<String, String> {
    resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect()
}

/// What is wrong with a topic, in words, each with what to do.
fn problems(wanted: &Wanted, described: &Described, settings: &HashMap<String, String>, brokers: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if described.partitions != wanted.partitions {
        problems.push(format!(
            "it has {} partitions instead of {}: partitions are fixed for life, so choose another prefix, or, if nothing in it is needed, \
             kafka-topics.sh --bootstrap-server {brokers} --delete --topic {} and run `tape topics`",
            described.partitions, wanted.partitions, wanted.name
        ));
    }
    if described.replicas < wanted.replication_factor {
        problems.push(format!(
            "a partition has {} replicas instead of {}: add some with kafka-reassign-partitions.sh --bootstrap-server {brokers}",
            described.replicas, wanted.replication_factor
        ));
    }
    for setting in &wanted.settings {
        let found = settings.get(setting.name).map_or("", String::as_str);
        if !setting.holds(found) {
            problems.push(format!(
                "{} is {found} instead of {}: kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics --entity-name {} \
                 --add-config {}={}",
                setting.name, setting.value, wanted.name, setting.name, setting.value
            ));
        }
    }
    problems
}

impl Setting {
    fn holds(&self, found: &str) -> bool {
        match (self.rule, found.parse::<i64>(), self.value.parse::<i64>()) {
            (Rule::AtLeast, Ok(found), Ok(wanted)) => found >= wanted,
            _ => found == self.value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_named_with_its_remedy() {
        let settings = vec![
            Setting { name: "retention.ms", value: "-1".to_string(), rule: Rule::Is },
            Setting { name: "max.message.bytes", value: "1000".to_string(), rule: Rule::AtLeast },
        ];
        let wanted = Wanted { name: "tape.trades".to_string(), partitions: 8, replication_factor: 3, settings };
        let fit = Described { id: String::new(), partitions: 8, replicas: 3 };
        let found = |retention: &str, bytes: &str| {
            HashMap::from([("retention.ms".to_string(), retention.to_string()), ("max.message.bytes".to_string(), bytes.to_string())])
        };
        assert_eq!(problems(&wanted, &fit, &found("-1", "2000"), "b:1"), Vec::<String>::new());
        let unfit = Described { partitions: 1, replicas: 1, ..fit };
        let named = problems(&wanted, &unfit, &found("604800000", "999"), "b:1");
        assert_eq!(named.len(), 4, "{named:?}");
        assert!(named[2].ends_with("--entity-name tape.trades --add-config retention.ms=-1"), "{}", named[2]);
    }
}
