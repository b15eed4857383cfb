//! Snapshots through the cursor: what it publishes, folded, is the last snapshot.

use super::*;
use crate::source::Given;
use crate::sources::prices;
use crate::sources::testing::{data, decimal, drain, family, int, open_with, read, text};
use proptest::prelude::*;
use schemas::Family::{PriceList, TokenUsage};
use std::collections::BTreeMap;

/// A log in small: every row that was published, and the compacted states.
#[derive(Default)]
struct Log {
    batches: Vec<RecordBatch>,
    states: HashMap<String, Bytes>,
}

impl Log {
    fn take(&mut self, family: Family, rows: &RecordBatch, bad: &[Bad]) -> Result<Decision, Error> {
        let decision = decide(family, rows, bad, &self.states, "list.json")?;
        self.batches.push(decision.batch.clone());
        self.states.extend(decision.states.iter().cloned());
        Ok(decision)
    }

    /// What stands: per business key the values of the highest revision, unless it is a cancel.
    fn standing(&self, family: Family) -> BTreeMap<String, Vec<Value>> {
        let mut standing: BTreeMap<String, (i32, Option<Vec<Value>>)> = BTreeMap::new();
        for batch in &self.batches {
            for (row, (key, values)) in cells(family, batch).into_iter().enumerate() {
                let revision = batch.column(family.topic().column("revision")).as_primitive::<Int32Type>().value(row);
                let previous = standing.get(&key).map(|(revision, _)| *revision);
                assert_eq!(revision, previous.map_or(0, |previous| previous + 1), "revisions of {key} have no hole");
                let supersedes = batch.column(family.topic().column("supersedes"));
                assert_eq!(cell(supersedes, row).as_i64(), previous.map(i64::from));
                let gone = text(batch, family, "change", row).as_deref() == Some("cancel");
                standing.insert(key, (revision, (!gone).then_some(values)));
            }
        }
        standing.into_iter().filter_map(|(key, (_, values))| Some((key, values?))).collect()
    }
}

/// Business key and values of every row.
fn cells(family: Family, batch: &RecordBatch) -> Vec<(String, Vec<Value>)> {
    let (topic, rules) = (family.topic(), rules(family).unwrap());
    let row_of = |names: &[&str], row| -> Vec<Value> { names.iter().map(|name| cell(batch.column(topic.column(name)), row)).collect() };
    let values = |row| row_of(&[rules.values, rules.words].concat(), row);
    (0..batch.num_rows()).map(|row| (Value::from(row_of(topic.business_key, row)).to_string(), values(row))).collect()
}

const DAY: i64 = 86_400_000_000_000;

/// A price map of one day, in JSON text, as rows.
fn prices(day: i64, body: &str) -> (RecordBatch, Vec<Bad>) {
    let name = format!("{}.json", DateTime::from_timestamp_nanos(day * DAY).format("%Y-%m-%d"));
    let chunk = drain(open_with(&prices::litellm(), &Given { name, ..Given::default() }, body.into()).unwrap()).remove(0);
    let bad = chunk.bad.clone();
    (family(chunk, PriceList), bad)
}

/// Change, price, and the days of the interval.
type Change = (String, Option<i128>, Option<i64>, Option<i64>);

fn changes(batch: &RecordBatch) -> Vec<Change> {
    (0..batch.num_rows())
        .map(|row| {
            let day = |name| int(batch, PriceList, name, row).map(|ns| ns / DAY);
            let change = text(batch, PriceList, "change", row).unwrap();
            (change, decimal(batch, PriceList, "price", row), day("effective_after"), day("effective_by"))
        })
        .collect()
}

// Given the eleven real snapshots in order, the standing prices are the last snapshot's; an older one is refused; the last one again is nothing.
#[test]
fn the_real_price_history() {
    let Some(data) = data() else { return };
    let mut log = Log::default();
    let (mut last, mut published, mut listed) = (None, 0, 0);
    for name in prices::tests::snapshots(&data) {
        let chunk = prices::tests::open_list(&name, read(&data, &name)).unwrap();
        let rows = family(chunk, PriceList);
        let decision = log.take(PriceList, &rows, &[]).unwrap();
        assert_eq!(decision.batch.num_rows() - decision.cancelled + decision.unchanged, rows.num_rows());
        published += decision.batch.num_rows();
        listed += rows.num_rows();
        let standing = log.standing(PriceList);
        assert!(standing == cells(PriceList, &rows).into_iter().collect(), "{name}");
        last = Some((rows, standing));
    }
    assert!(published < listed / 2, "{published} of {listed} rows are changes");
    let (rows, standing) = last.unwrap();
    let again = log.take(PriceList, &rows, &[]).unwrap();
    assert_eq!((again.batch.num_rows(), again.states.len(), again.unchanged), (0, 0, rows.num_rows()));
    let old = prices::tests::snapshots(&data).remove(3);
    let old = family(prices::tests::open_list(&old, read(&data, &old)).unwrap(), PriceList);
    let error = log.take(PriceList, &old, &[]).unwrap_err().to_string();
    assert!(error.contains("it is of 2024-06-30T00:00:00Z, but LITELLM.PRICES is known as of 2025-09-01T00:00:00Z"), "{error}");
    assert!(log.standing(PriceList) == standing);
}

#[test]
fn a_price_has_the_interval_in_which_it_changed() {
    let mut log = Log::default();
    let mut publish = |day, body: &str| {
        let (rows, bad) = prices(day, body);
        changes(&log.take(PriceList, &rows, &bad).unwrap().batch)
    };
    let (two, three) = (Some(2_000_000_000), Some(3_000_000_000));
    let other = r#""x":{"input_cost_per_token":1}"#;
    let list = |price: &str| format!(r#"{{{other},"m":{{"mode":"chat","input_cost_per_token":{price}}}}}"#);
    assert_eq!(publish(10, &list("2e-6"))[1], ("new".into(), two, None, Some(10)));
    assert_eq!(publish(11, &list("0.0000020")), []);
    assert_eq!(publish(13, &list("3e-6")), [("new".into(), three, Some(11), Some(13))]);
    // The same day again with another price: the interval is still the one before that day.
    assert_eq!(publish(13, &list("2e-6")), [("new".into(), two, Some(11), Some(13))]);
    // Other words about the same price are a restatement with the price's own interval.
    assert_eq!(publish(14, &list("2e-6").replace("chat", "completion")), [("restate".into(), two, Some(11), Some(13))]);
    assert_eq!(publish(15, &format!("{{{other}}}")), [("cancel".into(), None, Some(14), Some(15))]);
    assert_eq!(publish(16, &format!("{{{other}}}")), []);
    assert_eq!(publish(17, &list("2e-6")), [("new".into(), two, Some(16), Some(17))]);
    let m = log.batches.last().unwrap();
    assert_eq!(cell(m.column(PriceList.topic().column("revision")), 0), Value::from(5));
}

// A bad price has not vanished: it stands until a list shows it or lacks it, and the interval begins where it was last seen.
#[test]
fn a_price_behind_a_bad_record_is_not_cancelled() {
    let mut log = Log::default();
    let mut publish = |day, price: &str| {
        let (rows, bad) = prices(day, &format!(r#"{{"x":{{"input_cost_per_token":1}},"m":{{"input_cost_per_token":{price}}}}}"#));
        changes(&log.take(PriceList, &rows, &bad).unwrap().batch)
    };
    publish(10, "2e-6");
    assert_eq!(publish(11, "2e-60"), []);
    assert_eq!(publish(12, "2e-60"), []);
    assert_eq!(publish(13, "4e-6"), [("new".into(), Some(4_000_000_000), Some(10), Some(13))]);
    assert_eq!(publish(14, "2e-60"), []);
    assert_eq!(publish(15, "4e-6"), []);
    assert_eq!(publish(16, "5e-6"), [("new".into(), Some(5_000_000_000), Some(15), Some(16))]);
}

/// A usage page of one bucket per figure.
fn usage(captured_ms: Option<i64>, figures: &[(i64, i64)]) -> RecordBatch {
    let buckets: Vec<String> = figures
        .iter()
        .map(|(day, tokens)| {
            let (start, end) = (day * 86_400, (day + 1) * 86_400);
            format!(r#"{{"object":"bucket","start_time":{start},"end_time":{end},"results":[{{"output_tokens":{tokens}}}]}}"#)
        })
        .collect();
    let given = Given { name: "usage.json".into(), captured_ms, ..Given::default() };
    let body = format!("[{}]", buckets.join(",")).into_bytes();
    family(drain(open_with(&crate::sources::openai_usage::format(), &given, body).unwrap()).remove(0), TokenUsage)
}

#[test]
fn usage_is_restated_and_other_periods_stay() {
    let mut log = Log::default();
    let mut publish = |captured, figures: &[(i64, i64)]| -> Result<Vec<Option<String>>, Error> {
        let batch = log.take(TokenUsage, &usage(captured, figures), &[])?.batch;
        Ok((0..batch.num_rows()).map(|row| text(&batch, TokenUsage, "change", row)).collect())
    };
    let (new, restate) = (Some("new".to_string()), Some("restate".to_string()));
    assert_eq!(publish(Some(1000), &[(1, 10), (2, 20)]).unwrap(), [new.clone(), new.clone()]);
    assert_eq!(publish(Some(2000), &[(2, 25), (3, 30)]).unwrap(), [restate.clone(), new]);
    assert_eq!(publish(Some(3000), &[(1, 10), (2, 25)]).unwrap(), []);
    // An older page that says the same is no harm, one that says otherwise is refused whole.
    assert_eq!(publish(Some(1000), &[(1, 10)]).unwrap(), []);
    let error = publish(Some(2500), &[(4, 1), (2, 20)]).unwrap_err().to_string();
    assert!(error.contains("it is of 1970-01-01T00:00:02.500Z, but token_usage/OPENAI.USAGE/["), "{error}");
    assert_eq!(publish(None, &[(2, 21)]).unwrap(), [restate]);
    assert_eq!(log.standing(TokenUsage).len(), 3);
}

#[test]
fn a_damaged_state_is_an_error_that_names_its_key() {
    let mut log = Log::default();
    let (rows, _) = prices(10, r#"{"m":{"input_cost_per_token":1}}"#);
    log.take(PriceList, &rows, &[]).unwrap();
    let key = log.states.keys().find(|key| key.contains('[')).unwrap().clone();
    log.states.insert(key.clone(), Bytes::from_static(b"{"));
    let error = log.take(PriceList, &rows, &[]).unwrap_err().to_string();
    assert!(error.contains(&key), "{error}");
}

#[test]
fn families_that_are_not_compared_pass() {
    let mut rows = Rows::new(Family::Requests);
    rows.text(Family::Requests.topic().column("dataset"), "D");
    rows.i64(Family::Requests.topic().column("source_record"), 0);
    rows.i64(Family::Requests.topic().column("source_byte"), 0);
    rows.end_row();
    let rows = crate::sources::testing::finish(rows);
    let decision = decide(Family::Requests, &rows, &[], &HashMap::new(), "f").unwrap();
    assert_eq!(decision.batch, rows);
}

proptest! {
    // Any history of snapshots, folded, is its last snapshot: models come, go and return, prices and modes change.
    #[test]
    fn a_folded_history_is_its_last_snapshot(history in prop::collection::vec((0i64..3, prop::collection::btree_map(0u8..6, (0u8..4, 0u8..2, 0u8..3), 1..6)), 1..8)) {
        let mut log = Log::default();
        let mut day = 100;
        for (step, models) in history {
            day += step;
            let models: Vec<String> = models
                .iter()
                .map(|(model, (price, mode, provider))| {
                    let price = if *price == 3 { String::new() } else { format!(r#","input_cost_per_token":{price}e-6,"output_cost_per_image":0.{price}"#) };
                    format!(r#""m{model}":{{"mode":"k{mode}","litellm_provider":"p{provider}"{price}}}"#)
                })
                .collect();
            let (rows, bad) = prices(day, &format!("{{{}}}", models.join(",")));
            prop_assert!(bad.is_empty());
            log.take(PriceList, &rows, &bad).unwrap();
            prop_assert_eq!(log.standing(PriceList), cells(PriceList, &rows).into_iter().collect::<BTreeMap<_, _>>());
            let again = decide(PriceList, &rows, &bad, &log.states, "f").unwrap();
            prop_assert_eq!((again.batch.num_rows(), again.states.len()), (0, 0));
        }
    }
}
