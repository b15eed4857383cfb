//! Anthropic usage reports: four directions that add up, as published; a period is the bucket's own.

use crate::source::Format;
use crate::sources::page::{Fault, count, last, members, text};
use crate::sources::sniff::{first_byte, holds};
use crate::sources::usage::{Figure, Figures, Group, Members, Period, Provider, beyond, read};
use chrono::DateTime;

const PROVIDER: Provider = Provider { dataset: "ANTHROPIC.USAGE", name: "Anthropic", period, figures };

/// Pages of Anthropic's `usage_report/messages`.
pub fn format() -> Format {
    Format {
        parser: "anthropic-usage/1",
        recognise: |head, _| is_usage(head),
        open: |input, given| Ok(Box::new(read(input, given, &PROVIDER)?)),
    }
}

/// A page of buckets; one whose buckets are all empty has no figure to name it, a cost report names an amount.
fn is_usage(head: &[u8]) -> bool {
    let json = matches!(first_byte(head), Some(b'{' | b'['));
    let buckets = holds(head, "\"starting_at\"") && holds(head, "\"ending_at\"") && holds(head, "\"results\"");
    json && buckets && (holds(head, "\"uncached_input_tokens\"") || !holds(head, "\"amount\""))
}

fn period(bucket: &Members) -> Result<Period, Fault> {
    Ok(Period { start: time(bucket, "starting_at")?, end: time(bucket, "ending_at")? })
}

fn time(bucket: &Members, name: &str) -> Result<i64, Fault> {
    let expected = "expected a time like 2025-08-01T00:00:00Z";
    let text = text(bucket, name)?.ok_or_else(|| Fault::of(name, format!("the bucket has none, {expected}")))?;
    let time = DateTime::parse_from_rfc3339(&text).map_err(|e| Fault::of(name, format!("{text:?}: {e}, {expected}")))?;
    time.timestamp_nanos_opt().ok_or_else(|| Fault::of(name, format!("{text:?} is not between 1678 and 2262, {expected}")))
}

/// The members of a result that [`figures`] reads.
const KNOWN: &[&str] = &[
    "model",
    "workspace_id",
    "api_key_id",
    "service_tier",
    "context_window",
    "account_id",
    "uncached_input_tokens",
    "cache_read_input_tokens",
    "cache_creation",
    "output_tokens",
    "server_tool_use",
];

fn figures(result: &Members) -> Result<Figures, Fault> {
    let beyond = beyond(Some("messages"), result, KNOWN)?;
    let group = Group {
        series_id: beyond.series_id,
        model: text(result, "model")?,
        project_id: text(result, "workspace_id")?,
        user_id: text(result, "account_id")?,
        api_key_id: text(result, "api_key_id")?,
        service_tier: text(result, "service_tier")?,
        context_window: text(result, "context_window")?,
        batch: None,
    };
    let (written, written_note) = cache_write(result)?;
    let figures = [
        ("input", count(result, "uncached_input_tokens")?, None),
        ("cached_input", count(result, "cache_read_input_tokens")?, None),
        ("cache_write", written, written_note),
        ("output", count(result, "output_tokens")?, last(result, "server_tool_use").map(|value| value.get().to_string())),
    ];
    let stated = figures.into_iter().filter(|(_, tokens, _)| tokens.is_some());
    let figures: Vec<Figure> = stated.map(|(direction, tokens, note)| Figure { direction, tokens, note, ..Figure::default() }).collect();
    if figures.is_empty() {
        return Err(Fault::whole("the result has no token count, expected uncached_input_tokens, cache_read_input_tokens, output_tokens"));
    }
    Ok(Figures { group, figures, notes: Vec::from_iter(beyond.note) })
}

/// Tokens written to the cache, of all lifetimes together; how they divide stays in the note as it came.
fn cache_write(result: &Members) -> Result<(Option<i128>, Option<String>), Fault> {
    let Some(value) = last(result, "cache_creation").filter(|value| value.get() != "null") else { return Ok((None, None)) };
    let lifetimes = members(value).map_err(|why| Fault::of("cache_creation", why))?;
    let mut sum = None;
    for (name, _) in &lifetimes {
        let tokens = count(&lifetimes, name)?;
        sum = match (sum, tokens) {
            (sum, None) => sum,
            (None, tokens) => tokens,
            (Some(sum), Some(tokens)) => Some(
                i128::checked_add(sum, tokens)
                    .filter(|sum| schemas::exact::fits(*sum, 38))
                    .ok_or_else(|| Fault::of("cache_creation", "the lifetimes together are beyond the range of DECIMAL(38,0)"))?,
            ),
        };
    }
    Ok((sum, Some(value.get().to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Chunk, Given};
    use crate::sources::testing::{decimal, drain, family, int, open_with, text};
    use proptest::prelude::*;
    use schemas::Family::TokenUsage;

    fn open(body: Vec<u8>) -> Result<Chunk, crate::Error> {
        open_with(&format(), &Given { name: "page.json".into(), ..Given::default() }, body).map(|parser| drain(parser).remove(0))
    }

    const PAGE: &str = r#"{"data":[{"starting_at":"2025-08-01T00:00:00Z","ending_at":"2025-08-02T00:00:00Z","results":[
        {"uncached_input_tokens":1500,"cache_creation":{"ephemeral_1h_input_tokens":1000,"ephemeral_5m_input_tokens":500},
         "cache_read_input_tokens":200,"output_tokens":500,"server_tool_use":{"web_search_requests":10},"api_key_id":"k","workspace_id":"w",
         "model":"m","service_tier":"standard","context_window":"0-200k","inference_geo":"us"}]},
        {"starting_at":"2025-08-02T00:00:00Z","ending_at":"2025-08-03T00:00:00Z","results":[]}],"has_more":false,"next_page":null}"#;

    #[test]
    fn four_directions_as_published() {
        assert!(is_usage(PAGE.as_bytes()));
        let batch = family(open(PAGE.into()).unwrap(), TokenUsage);
        let shown: Vec<_> = (0..batch.num_rows())
            .map(|row| (text(&batch, TokenUsage, "direction", row).unwrap(), decimal(&batch, TokenUsage, "tokens", row).unwrap()))
            .collect();
        let wanted = [("input", 1500), ("cached_input", 200), ("cache_write", 1500), ("output", 500)];
        assert_eq!(shown, wanted.map(|(direction, tokens)| (direction.to_string(), tokens)));
        assert_eq!(text(&batch, TokenUsage, "project_id", 0).as_deref(), Some("w"));
        assert_eq!(text(&batch, TokenUsage, "series_id", 0).as_deref(), Some("messages?inference_geo=us"));
        assert_eq!(text(&batch, TokenUsage, "note", 3).as_deref(), Some(r#"{"web_search_requests":10}"#));
        assert_eq!(int(&batch, TokenUsage, "period_start", 0), Some(1_754_006_400_000_000_000));
        assert_eq!(decimal(&batch, TokenUsage, "input_reported", 0), None);
    }

    #[test]
    fn workspaces_that_differ_in_a_number_are_two_series() {
        let result = |more: &str| format!(r#"{{"uncached_input_tokens":5,"output_tokens":1,{more}}}"#);
        let bucket = r#"{"data":[{"starting_at":"2025-08-01T00:00:00Z","ending_at":"2025-08-02T00:00:00Z","results":["#;
        let page =
            format!("{bucket}{},{}]}}]}}", result(r#""workspace_no":1"#), result(r#""workspace_no":2,"thinking":{"output_tokens":9}"#));
        let chunk = open(page.into()).unwrap();
        assert_eq!(chunk.notes, ["figures of a kind that is not known are in documents only: thinking"]);
        let batch = family(chunk, TokenUsage);
        let series: Vec<_> = (0..4).map(|row| text(&batch, TokenUsage, "series_id", row).unwrap()).collect();
        assert_eq!(series, ["1", "1", "2", "2"].map(|no| format!("messages?workspace_no={no}")));
    }

    #[test]
    fn a_bad_time_names_the_field() {
        let chunk = open(PAGE.replace("2025-08-02T00:00:00Z", "2025-08-32").into()).unwrap();
        assert_eq!(chunk.bad.len(), 2);
        assert_eq!(chunk.bad[0].field.as_deref(), Some("ending_at"));
    }

    #[test]
    fn a_cost_report_is_not_usage() {
        assert!(!is_usage(br#"{"data":[{"starting_at":"a","ending_at":"b","results":[{"currency":"USD","amount":"1"}]}]}"#));
    }

    proptest! {
        #[test]
        fn no_mutation_panics(at in 0usize..700, byte in any::<u8>(), cut in 0usize..30) {
            let mut body = PAGE.as_bytes().to_vec();
            let at = at % body.len();
            body[at] = byte;
            body.truncate(body.len() - cut.saturating_sub(20));
            if let Ok(chunk) = open(body) {
                let records = chunk.records - chunk.bad.len() as i64;
                prop_assert_eq!(family(chunk, TokenUsage).num_rows() as i64, records);
            }
        }
    }
}
