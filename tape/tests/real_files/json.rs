//! Facts of JSON files: the Mooncake trace, the usage report, price maps.

use super::facts::{Check, Scale};
use serde_json::{Value, json};

pub fn mooncake(_facts: &Value) -> Vec<Check> {
    const REQUESTS: &str = "requests WHERE $rows";
    let scalar = |name: &str, expr: &str| Check::scalar(name, REQUESTS, expr);
    let steps = "(SELECT ts_offset_ns, lag(ts_offset_ns) OVER (ORDER BY source_record) AS before FROM requests WHERE $rows)";
    vec![
        scalar("rows", "count(*)"),
        scalar("input_length_sum", "sum(input_tokens)"),
        scalar("output_length_sum", "sum(output_tokens)"),
        scalar("input_length_max", "max(input_tokens)"),
        Check::scaled("min_timestamp_ms", REQUESTS, "min(ts_offset_ns)", Scale::Milliseconds),
        Check::scaled("max_timestamp_ms", REQUESTS, "max(ts_offset_ns)", Scale::Milliseconds),
        // The number of ids over all requests: a list of n ids has n - 1 commas, and no list is empty.
        scalar(
            "hash_ids_sum",
            "sum(CASE WHEN hash_ids IN ('[]', '') THEN 0 ELSE length(hash_ids) - length(replace(hash_ids, ',', '')) + 1 END)",
        ),
        Check::scalar("time_nondecreasing", steps, "coalesce(bool_and(ts_offset_ns >= before), TRUE)"),
    ]
}

pub fn openai(_facts: &Value) -> Vec<Check> {
    const USAGE: &str = "token_usage WHERE $rows";
    let sum = |name: &str, what: &str| Check::scalar(name, USAGE, &format!("coalesce(sum(tokens) FILTER (WHERE {what}), 0)"));
    vec![
        Check::scalar("input_tokens_sum", USAGE, "sum(input_reported)"),
        sum("output_tokens_sum", "direction = 'output' AND modality = 'text'"),
        sum("input_cached_tokens_sum", "direction = 'cached_input'"),
        sum("input_audio_tokens_sum", "direction = 'input' AND modality = 'audio'"),
        sum("output_audio_tokens_sum", "direction = 'output' AND modality = 'audio'"),
        Check::scalar("num_model_requests_sum", USAGE, "sum(requests)"),
        Check::excluded("buckets", "an empty bucket is no figure; the page is whole in documents"),
        Check::excluded("empty_buckets", "an empty bucket is no figure"),
        Check::excluded("min_start", "the first bucket may be empty"),
        Check::excluded("max_end", "the last bucket may be empty"),
        Check::excluded("short_buckets", "a bucket's length is its period"),
    ]
}

pub fn prices(facts: &Value) -> Vec<Check> {
    const PRICES: &str = "price_list WHERE $rows";
    // What the list calls input_cost_per_token, without tiers and brackets.
    const INPUT: &str = "direction = 'input' AND price_unit = 'mtok' AND tier = 'standard' AND context_min IS NULL AND (modality IS NULL OR modality = 'text') AND price IS NOT NULL";
    let mut checks = vec![
        Check::scalar("models_excluding_sample_spec", PRICES, "count(DISTINCT model)"),
        Check::scalar("with_input_cost_per_token", PRICES, &format!("count(DISTINCT model) FILTER (WHERE {INPUT})")),
        Check::scalar("with_zero_input_cost", PRICES, &format!("count(DISTINCT model) FILTER (WHERE {INPUT} AND price = 0)")),
        Check::scaled("sum_input_cost_per_token_exact", PRICES, &format!("sum(price) FILTER (WHERE {INPUT})"), Scale::Up(6)),
        Check::excluded("models", "sample_spec is no model"),
        Check::excluded("duplicate_keys", "told in the summary"),
        Check::excluded("providers", "models without a provider count as one there"),
        Check::excluded("modes", "the list's word, counted by model"),
        Check::excluded("usd_per_million_tokens", "checked model by model"),
    ];
    for (model, prices) in facts["usd_per_million_tokens"].as_object().expect("by model") {
        for (direction, price) in ["input", "output"].into_iter().zip(prices.as_array().expect("input and output")) {
            let one = INPUT.replace("direction = 'input'", &format!("direction = '{direction}'"));
            let expr = format!("max(price) FILTER (WHERE {one} AND model = '{}')", model.replace('\'', "''"));
            checks.push(Check::value(&format!("{model} {direction}"), PRICES, &expr, json!(price)));
        }
    }
    checks
}
