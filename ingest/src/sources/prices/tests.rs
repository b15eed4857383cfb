//! Price lists, read back: real snapshots against independent facts, and lists made to be awkward.

use super::*;
use crate::source::{Chunk, Given};
use crate::sources::testing::{column, data, decimal, drain, expected, family, int, open_with, read, text};
use arrow::array::{AsArray, RecordBatch};
use proptest::prelude::*;
use schemas::Family::{Documents, PriceList};

/// The snapshots of the real price history, oldest first.
pub(crate) fn snapshots(data: &std::path::Path) -> Vec<String> {
    let folder = std::fs::read_dir(data.join("tokencost-prices")).expect("the folder can be read");
    let names = folder.map(|entry| entry.expect("an entry").file_name().into_string().expect("a UTF-8 name"));
    let mut names: Vec<String> =
        names.filter(|name| name.contains("model_prices.json")).map(|name| format!("tokencost-prices/{name}")).collect();
    names.sort();
    names
}

pub(crate) fn open_list(name: &str, body: Vec<u8>) -> Result<Chunk, Error> {
    let given = Given { name: name.into(), ..Given::default() };
    open_with(&litellm(), &given, body).map(|parser| drain(parser).remove(0))
}

fn list(body: &str) -> Chunk {
    open_list("2025-01-02.json", body.into()).expect("a readable list")
}

fn page(body: &str) -> Result<Chunk, Error> {
    let given = Given { name: "models".into(), captured_ms: Some(1_780_000_000_123), ..Given::default() };
    open_with(&openrouter(), &given, body.into()).map(|parser| drain(parser).remove(0))
}

/// Every row in short: model, direction, modality, tier, context, unit, price.
fn shown(batch: &RecordBatch) -> Vec<String> {
    (0..batch.num_rows())
        .map(|row| {
            let word = |name| text(batch, PriceList, name, row).unwrap_or_else(|| "-".into());
            let context = int(batch, PriceList, "context_min", row).map_or("-".into(), |tokens| tokens.to_string());
            let price = decimal(batch, PriceList, "price", row).map_or("-".into(), |price| exact::print(price, 9));
            format!(
                "{} {} {} {} {context} {} {price}",
                word("model"),
                word("direction"),
                word("modality"),
                word("tier"),
                word("price_unit")
            )
        })
        .collect()
}

#[test]
fn every_real_snapshot_is_exact() {
    let Some(data) = data() else { return };
    let names = snapshots(&data);
    assert_eq!(names.len(), 11);
    for name in names {
        let (facts, body) = (expected(&data, &name), read(&data, &name));
        assert!(is_price_map(&body[..body.len().min(crate::source::HEAD_BYTES)]), "{name}");
        let chunk = open_list(&name, body).unwrap();
        assert!(chunk.bad.is_empty(), "{name}: {:?}", chunk.bad.iter().map(|bad| &bad.reason).collect::<Vec<_>>());
        assert!(chunk.notes.is_empty(), "{name}: {:?}", chunk.notes);
        let batch = family(chunk, PriceList);
        let rows = || 0..batch.num_rows();
        let is = |row: usize, name: &str, wanted: Option<&str>| text(&batch, PriceList, name, row).as_deref() == wanted;
        let per_token = |row: usize, direction: &str| {
            is(row, "direction", Some(direction))
                && is(row, "modality", None)
                && is(row, "tier", Some("standard"))
                && is(row, "price_unit", Some("mtok"))
                && int(&batch, PriceList, "context_min", row).is_none()
        };
        let input: Vec<i128> =
            rows().filter(|row| per_token(*row, "input")).map(|row| decimal(&batch, PriceList, "price", row).unwrap()).collect();
        assert_eq!(input.len() as u64, facts["with_input_cost_per_token"].as_u64().unwrap());
        assert_eq!(input.iter().filter(|price| **price == 0).count() as u64, facts["with_zero_input_cost"].as_u64().unwrap());
        let per_token_sum = exact::parse(facts["sum_input_cost_per_token_exact"].as_str().unwrap(), 38, 15, 0).unwrap();
        assert_eq!(input.iter().sum::<i128>(), per_token_sum, "{name}");
        let distinct = |column: &str| rows().map(|row| text(&batch, PriceList, column, row)).collect::<HashSet<_>>();
        assert_eq!(distinct("model").len() as u64, facts["models_excluding_sample_spec"].as_u64().unwrap());
        assert_eq!(distinct("provider").len() as u64, facts["providers"].as_u64().unwrap());
        for (model, prices) in facts["usd_per_million_tokens"].as_object().unwrap() {
            for (direction, wanted) in ["input", "output"].iter().zip(prices.as_array().unwrap()) {
                let found: Vec<_> = rows().filter(|row| is(*row, "model", Some(model)) && per_token(*row, direction)).collect();
                assert_eq!(found.len(), 1, "{name} {model} {direction}");
                let wanted = exact::parse(wanted.as_str().unwrap(), 18, 9, 0).unwrap();
                assert_eq!(decimal(&batch, PriceList, "price", found[0]), Some(wanted), "{name} {model} {direction}");
            }
        }
        let mut modes: BTreeMap<String, HashSet<String>> = BTreeMap::new();
        for row in rows() {
            let mode = text(&batch, PriceList, "mode", row).unwrap_or_else(|| "None".into());
            modes.entry(mode).or_default().insert(text(&batch, PriceList, "model", row).unwrap());
        }
        let modes: BTreeMap<String, u64> = modes.into_iter().map(|(mode, models)| (mode, models.len() as u64)).collect();
        assert_eq!(serde_json::to_value(modes).unwrap(), facts["modes"], "{name}");
    }
}

#[test]
fn keys_mean_direction_modality_tier_context_and_unit() {
    let chunk = list(
        r#"{"m":{"litellm_provider":"p","mode":"chat","input_cost_per_token":1.5e-07,"cache_read_input_token_cost_priority":2e-6,
        "output_cost_per_token_above_200k_tokens_flex":0.000003,"input_cost_per_audio_token":1e-5,"input_cost_per_token_batches":0,
        "input_cost_per_pixel":0.00000006539,"input_dbu_cost_per_token":7.143e-06,"new_cost_per_wish":3,
        "search_context_cost_per_query":{"search_context_size_low":0.01},"max_tokens":9,"cost_note":"text",
        "output_cost_per_second":null,
        "tiered_pricing":[{"range":[0,32000],"input_cost_per_token":1e-6},{"range":[32000.0,1e6],"input_cost_per_token":2e-6}]}}"#,
    );
    assert!(chunk.bad.is_empty(), "{:?}", chunk.bad);
    let batch = family(chunk, PriceList);
    assert_eq!(
        shown(&batch),
        [
            "m input - standard - mtok 0.150000000",
            "m cached_input - priority - mtok 2.000000000",
            "m output - flex 200000 mtok 3.000000000",
            "m input audio standard - mtok 10.000000000",
            "m input - batch - mtok 0.000000000",
            "m input image standard - mpixel 0.065390000",
            "m input_dbu_cost_per_token - - - mtok 7.143000000",
            "m new_cost_per_wish - - - - 3.000000000",
            "m search_context_cost_per_query.search_context_size_low - - - query 0.010000000",
            "m input - standard 0 mtok 1.000000000",
            "m input - standard 32000 mtok 2.000000000",
        ]
    );
    assert_eq!(text(&batch, PriceList, "currency", 6), None);
    assert_eq!(text(&batch, PriceList, "listed", 0).as_deref(), Some("1.5e-07"));
    assert_eq!(int(&batch, PriceList, "ts_publish", 0), Some(1_735_776_000_000_000_000));
    assert_eq!(int(&batch, PriceList, "effective_by", 0), Some(1_735_776_000_000_000_000));
    assert_eq!(int(&batch, PriceList, "context_max", 10), Some(1_000_000));
}

#[test]
fn two_spellings_of_one_price_do_not_share_a_row() {
    let both = list(r#"{"m":{"input_cost_per_token_cache_hit":1e-7,"cache_read_input_token_cost":2e-7}}"#);
    assert_eq!(
        shown(&family(both, PriceList)),
        ["m input_cost_per_token_cache_hit - - - mtok 0.100000000", "m cached_input - standard - mtok 0.200000000"]
    );
    let alone = list(r#"{"m":{"input_cost_per_token_cache_hit":1e-7}}"#);
    assert_eq!(shown(&family(alone, PriceList)), ["m cached_input - standard - mtok 0.100000000"]);
}

#[test]
fn a_bad_price_names_model_and_key_and_costs_no_other() {
    let chunk = list(
        "{\"a\":{\"input_cost_per_token\":1e-6},\n\"m/x\":{\"input_cost_per_token\":1e-30,\"output_cost_per_token\":2e-6,\"input_cost_per_image\":-1},\n\"z\":7}",
    );
    let told: Vec<_> = chunk.bad.iter().map(|bad| (bad.line, bad.field.as_deref())).collect();
    assert_eq!(told, [(Some(2), Some("input_cost_per_token")), (Some(3), None)]);
    assert!(chunk.bad[0].reason.starts_with("model m/x: input_cost_per_token: 1e-30 has digits beyond"), "{}", chunk.bad[0].reason);
    assert!(chunk.bad[0].reason.contains("; input_cost_per_image: -1 is negative"), "{}", chunk.bad[0].reason);
    assert!(chunk.bad[0].raw.starts_with(b"\"m/x\":{"));
    assert_eq!(withheld(&chunk.bad), HashSet::from(["m/x".to_string(), "z".to_string()]));
    assert_eq!(chunk.records, 4);
    assert_eq!(shown(&family(chunk, PriceList)).len(), 2);
}

#[test]
fn repeated_names_sample_spec_and_models_without_a_price_are_told() {
    let chunk =
        list(r#"{"sample_spec":{"input_cost_per_token":"text"},"a":{"input_cost_per_token":1},"b":{},"a":{"mode":"chat","mode":"x"}}"#);
    assert_eq!(chunk.notes.len(), 2);
    assert!(chunk.notes[1].starts_with("2 names stand twice"), "{:?}", chunk.notes);
    let batch = family(chunk, PriceList);
    assert_eq!(shown(&batch), ["b - - - - - -", "a - - - - - -"]);
    assert_eq!(text(&batch, PriceList, "reason", 0).as_deref(), Some("listed without a price"));
    assert_eq!(text(&batch, PriceList, "mode", 1).as_deref(), Some("x"));
}

#[test]
fn the_day_of_a_list_is_in_its_name_or_asked_for() {
    let day = |name: &str| date_in_name(name).map(|date| date.to_string());
    assert_eq!(day("/2020-01-01/2024-01-30.model_prices.json").as_deref(), Some("2024-01-30"));
    assert_eq!(day("prices_20240130.json").as_deref(), Some("2024-01-30"));
    assert_eq!(day("model_prices.json"), None);
    assert_eq!(day("2024-13-30.json"), None);
    assert_eq!(day("1202401301.json"), None);
    let error = open_list("model_prices.json", br#"{"m":{"input_cost_per_token":1}}"#.to_vec()).unwrap_err().to_string();
    assert!(error.contains("name the file like 2024-01-30"), "{error}");
}

#[test]
fn an_empty_or_broken_list_withdraws_nothing() {
    for body in ["{}", r#"{"m":{"input_cost_per_token":1}"#, "[]", ""] {
        assert!(open_list("2024-01-30.json", body.into()).is_err(), "{body}");
    }
    assert!(page(r#"{"data":[]}"#).is_err());
}

#[test]
fn openrouter_prices_are_text_and_negative_ones_are_none() {
    let chunk = page(
        r#"{"data":[{"id":"openai/gpt-4o","pricing":{"prompt":"0.0000025","completion":"0.00001","request":"0","image":"0.003613",
        "web_search":"0","internal_reasoning":"0","input_cache_read":"0.00000125","discount":0}},
        {"id":"openrouter/auto","pricing":{"prompt":"-1","completion":"-1"}},{"id":"bad","pricing":{"prompt":"x","completion":"1"}},{"name":"no id"}]}"#,
    )
    .unwrap();
    assert_eq!(chunk.notes, ["2 prices are negative, which means variable: no price is stored for them"]);
    assert_eq!(chunk.bad.len(), 2);
    assert_eq!(withheld(&chunk.bad), HashSet::from(["bad".to_string()]));
    let stored: Vec<_> = chunk.rows.iter().map(|rows| rows.family()).collect();
    assert_eq!(stored, [Documents, PriceList]);
    let batch = family(chunk, PriceList);
    assert_eq!(
        shown(&batch)[..3],
        [
            "openai/gpt-4o input - - - mtok 2.500000000",
            "openai/gpt-4o output - - - mtok 10.000000000",
            "openai/gpt-4o request - - - request 0.000000000"
        ]
    );
    assert_eq!(batch.num_rows(), 8);
    assert_eq!(text(&batch, PriceList, "provider", 0).as_deref(), Some("openrouter"));
    assert_eq!(int(&batch, PriceList, "effective_by", 0), Some(1_780_000_000_123_000_000));
    assert_eq!(int(&batch, PriceList, "ts_publish", 0), None);
    assert_eq!(column(&batch, PriceList, "dataset").as_string::<i32>().value(0), "OPENROUTER.LIST");
}

proptest! {
    #[test]
    fn no_mutation_of_a_list_panics(at in 0usize..300, byte in any::<u8>(), cut in 0usize..20) {
        let mut body = br#"{"m":{"litellm_provider":"p","input_cost_per_token":1.5e-07,"tiered_pricing":[{"range":[0,1],"input_cost_per_token":1}],
            "search_context_cost_per_query":{"a":0.01}},"n\"x":{"output_cost_per_image_above_128k_tokens_batches":"0.1"}}"#.to_vec();
        let at = at % body.len();
        body[at] = byte;
        body.truncate(body.len() - cut.saturating_sub(15));
        if let Ok(chunk) = open_list("2024-01-30.json", body) {
            let _ = withheld(&chunk.bad);
            let good = chunk.records - chunk.bad.len() as i64;
            prop_assert_eq!(family(chunk, PriceList).num_rows() as i64, good);
        }
    }

    #[test]
    fn no_mutation_of_a_models_page_panics(at in 0usize..200, byte in any::<u8>()) {
        let mut body = br#"{"data":[{"id":"a","pricing":{"prompt":"0.0000025","completion":"-1","image":0.1}},{"id":"a","pricing":{}}]}"#.to_vec();
        let at = at % body.len();
        body[at] = byte;
        if let Ok(chunk) = page(&String::from_utf8_lossy(&body)) {
            let _ = withheld(&chunk.bad);
        }
    }

    #[test]
    fn any_name_has_a_date_or_none(name in "\\PC{0,30}", digits in "[0-9-]{0,20}") {
        let _ = (date_in_name(&name), date_in_name(&digits), litellm_meaning(&name), litellm_meaning(&format!("x_cost_above_{digits}k_tokens")));
    }
}
