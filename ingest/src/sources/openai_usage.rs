//! OpenAI organization usage: `input` never contains cached or cache-write tokens, and no token is counted under two rows of a result.
//!
//! OpenAI has published two meanings of the same field names (API reference, "Usage"):
//! - pages without a text breakdown (until 2026): `input_tokens` (cached ones included), `input_cached_tokens` and `output_tokens` count *text*;
//!   `input_audio_tokens` and `output_audio_tokens` stand beside them (a real bucket has 822 output and 3,103 output audio tokens);
//! - pages with `input_text_tokens`, `input_uncached_tokens` or `output_text_tokens`: `input_tokens` counts all modalities, cached and
//!   cache-write tokens included; `input_<modality>_tokens` count what is neither cached nor written to the cache.

use crate::source::Format;
use crate::sources::page::{Fault, Scalar, count, excerpt, last, scalar, text};
use crate::sources::sniff::{first_byte, holds};
use crate::sources::usage::{Figure, Figures, Group, Members, Period, Provider, beyond, read};
use schemas::exact;

const PROVIDER: Provider = Provider { dataset: "OPENAI.USAGE", name: "OpenAI", period, figures };

/// Usage pages of OpenAI's organization API: a page, a list of pages, or its buckets alone.
pub fn format() -> Format {
    Format {
        parser: "openai-usage/1",
        recognise: |head, _| is_usage(head),
        open: |input, given| Ok(Box::new(read(input, given, &PROVIDER)?)),
    }
}

/// A page of buckets; one whose buckets are all empty has no result to name it, a page of costs names another one.
fn is_usage(head: &[u8]) -> bool {
    let json = matches!(first_byte(head), Some(b'{' | b'['));
    let buckets = holds(head, "\"start_time\"") && holds(head, "\"end_time\"") && holds(head, "\"bucket\"");
    json && buckets && !holds(head, "\"organization.costs.") && (holds(head, "\"organization.usage.") || holds(head, "\"results\""))
}

fn period(bucket: &Members) -> Result<Period, Fault> {
    Ok(Period { start: seconds(bucket, "start_time")?, end: seconds(bucket, "end_time")? })
}

fn seconds(bucket: &Members, name: &str) -> Result<i64, Fault> {
    let expected = "expected Unix seconds";
    let value = last(bucket, name).ok_or_else(|| Fault::of(name, format!("the bucket has none, {expected}")))?;
    let Ok(Scalar::Number(number)) = scalar(value) else {
        return Err(Fault::of(name, format!("{} is not a number, {expected}", excerpt(value))));
    };
    let ns = exact::parse(number, 19, 0, 9).map_err(|e| Fault::of(name, format!("{e}, {expected}")))?;
    i64::try_from(ns).map_err(|_| Fault::of(name, format!("{number} is beyond the year 2262, {expected}")))
}

/// The members of a result that [`figures`] reads.
const KNOWN: &[&str] = &[
    "object",
    "model",
    "project_id",
    "user_id",
    "api_key_id",
    "service_tier",
    "batch",
    "num_model_requests",
    "input_tokens",
    "input_uncached_tokens",
    "input_cached_tokens",
    "input_cache_write_tokens",
    "input_text_tokens",
    "input_audio_tokens",
    "input_image_tokens",
    "input_cached_text_tokens",
    "input_cached_audio_tokens",
    "input_cached_image_tokens",
    "output_tokens",
    "output_text_tokens",
    "output_audio_tokens",
    "output_image_tokens",
];

fn figures(result: &Members) -> Result<Figures, Fault> {
    let object = text(result, "object")?;
    let report = object.as_deref().map(|name| name.trim_start_matches("organization.usage.").trim_end_matches(".result"));
    let beyond = beyond(report, result, KNOWN)?;
    let group = Group {
        series_id: beyond.series_id,
        model: text(result, "model")?,
        project_id: text(result, "project_id")?,
        user_id: text(result, "user_id")?,
        api_key_id: text(result, "api_key_id")?,
        service_tier: text(result, "service_tier")?,
        context_window: None,
        batch: flag(result, "batch")?,
    };
    let split = ["input_text_tokens", "input_uncached_tokens", "output_text_tokens"].iter().any(|name| last(result, name).is_some());
    let mut figures = if split { by_modality(result)? } else { beside_audio(result, report == Some("completions"))? };
    let mut notes = Vec::from_iter(beyond.note);
    if let Some(requests) = count(result, "num_model_requests")? {
        // Requests stand on an output row only; a result without output tokens gets one that says nothing of tokens.
        match figures.iter_mut().find(|figure| figure.direction == "output") {
            Some(output) => output.requests = Some(requests),
            None => figures.push(Figure { direction: "output", requests: Some(requests), ..Figure::default() }),
        }
    }
    if figures.iter().all(|figure| figure.tokens.is_none()) {
        notes.push(format!("results of {} count no tokens: their figures are in documents only", report.unwrap_or("an unnamed report")));
    }
    Ok(Figures { group, figures, notes })
}

fn flag(result: &Members, name: &str) -> Result<Option<bool>, Fault> {
    let Some(value) = last(result, name) else { return Ok(None) };
    match scalar(value).map_err(|why| Fault::of(name, why))? {
        Scalar::Null => Ok(None),
        Scalar::Bool(flag) => Ok(Some(flag)),
        _ => Err(Fault::of(name, format!("{} is neither true nor false", excerpt(value)))),
    }
}

/// The earlier meaning: what has no modality in its name is text (completions), audio stands beside it.
fn beside_audio(result: &Members, completions: bool) -> Result<Vec<Figure>, Fault> {
    let modality = completions.then_some("text");
    let (input, cached) = (count(result, "input_tokens")?, count(result, "input_cached_tokens")?);
    let mut figures = Vec::new();
    if let Some(input) = input {
        let tokens = input.checked_sub(cached.unwrap_or(0)).filter(|rest| *rest >= 0).ok_or_else(|| {
            Fault::of("input_cached_tokens", format!("{} is more than input_tokens {input}, which include it", cached.unwrap_or(0)))
        })?;
        figures.push(Figure { direction: "input", modality, tokens: Some(tokens), input_reported: Some(input), ..Figure::default() });
    }
    let others = [
        ("cached_input", modality, cached),
        ("output", modality, count(result, "output_tokens")?),
        ("input", Some("audio"), count(result, "input_audio_tokens")?),
        ("output", Some("audio"), count(result, "output_audio_tokens")?),
    ];
    figures.extend(rows(&others));
    Ok(figures)
}

/// The later meaning: the whole and its parts, of which the parts are taken where they are given.
fn by_modality(result: &Members) -> Result<Vec<Figure>, Fault> {
    let reported = count(result, "input_tokens")?;
    let (cached, written) = (count(result, "input_cached_tokens")?, count(result, "input_cache_write_tokens")?);
    let mut uncached = split(result, "input", ["input_text_tokens", "input_audio_tokens", "input_image_tokens"])?;
    if uncached.is_empty() {
        let rest = reported.and_then(|all| all.checked_sub(cached.unwrap_or(0))?.checked_sub(written.unwrap_or(0)));
        let tokens = count(result, "input_uncached_tokens")?.or(rest);
        if let Some(negative) = tokens.filter(|tokens| *tokens < 0) {
            return Err(Fault::of("input_tokens", format!("less than cached and cache-write tokens together, by {}", -negative)));
        }
        uncached = rows(&[("input", None, tokens)]);
    }
    if let Some(first) = uncached.first_mut() {
        first.input_reported = reported;
    }
    let mut kept = split(result, "cached_input", ["input_cached_text_tokens", "input_cached_audio_tokens", "input_cached_image_tokens"])?;
    if kept.is_empty() {
        kept = rows(&[("cached_input", None, cached)]);
    }
    let mut output = split(result, "output", ["output_text_tokens", "output_audio_tokens", "output_image_tokens"])?;
    if output.is_empty() {
        output = rows(&[("output", None, count(result, "output_tokens")?)]);
    }
    Ok([uncached, kept, rows(&[("cache_write", None, written)]), output].into_iter().flatten().collect())
}

/// The parts of a direction by modality, where the text part is given: without it the parts are not known to be all.
fn split(result: &Members, direction: &'static str, names: [&str; 3]) -> Result<Vec<Figure>, Fault> {
    let [text, audio, image] = names;
    let Some(text) = count(result, text)? else { return Ok(vec![]) };
    Ok(rows(&[
        (direction, Some("text"), Some(text)),
        (direction, Some("audio"), count(result, audio)?),
        (direction, Some("image"), count(result, image)?),
    ]))
}

fn rows(figures: &[(&'static str, Option<&'static str>, Option<i128>)]) -> Vec<Figure> {
    let stated = figures.iter().filter(|(_, _, tokens)| tokens.is_some());
    stated.map(|(direction, modality, tokens)| Figure { direction, modality: *modality, tokens: *tokens, ..Figure::default() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Chunk, Given};
    use crate::sources::testing::{column, data, decimal, drain, expected, family, int, open_with, read, text};
    use arrow::array::{Array, AsArray, RecordBatch};
    use proptest::prelude::*;
    use schemas::Family::{Documents, TokenUsage};

    fn chunk(body: &str) -> Chunk {
        open(body.as_bytes().to_vec()).expect("a readable page")
    }

    fn open(body: Vec<u8>) -> Result<Chunk, crate::Error> {
        let given = Given { name: "page.json".into(), captured_ms: Some(1_780_000_000_000), ..Given::default() };
        open_with(&format(), &given, body).map(|parser| drain(parser).remove(0))
    }

    fn sum(batch: &RecordBatch, name: &str, direction: &str, modality: Option<&str>) -> i128 {
        (0..batch.num_rows())
            .filter(|row| text(batch, TokenUsage, "direction", *row).as_deref() == Some(direction))
            .filter(|row| text(batch, TokenUsage, "modality", *row).as_deref() == modality)
            .filter_map(|row| decimal(batch, TokenUsage, name, row))
            .sum()
    }

    const BUCKET: &str = r#"{"object":"bucket","start_time":1736616660,"end_time":1736640000,"results":["#;

    #[test]
    fn the_real_month_adds_up() {
        let Some(data) = data() else { return };
        let file = "openai-usage/usage_completions_buckets_01-18.json";
        let (facts, body) = (expected(&data, file), read(&data, file));
        assert!(is_usage(&body));
        let chunk = open(body.clone()).unwrap();
        assert!(chunk.bad.is_empty() && chunk.notes.is_empty(), "{:?}", chunk.bad);
        let documents = chunk.rows.len();
        assert_eq!(documents, 2);
        let batch = family(open(body).unwrap(), TokenUsage);
        let fact = |name: &str| i128::from(facts[name].as_i64().expect("a number"));
        let text_input = sum(&batch, "tokens", "input", Some("text"));
        let text_cached = sum(&batch, "tokens", "cached_input", Some("text"));
        assert_eq!(text_cached, fact("input_cached_tokens_sum"));
        assert_eq!(text_input + text_cached, fact("input_tokens_sum"));
        assert_eq!(sum(&batch, "input_reported", "input", Some("text")), fact("input_tokens_sum"));
        assert_eq!(sum(&batch, "tokens", "output", Some("text")), fact("output_tokens_sum"));
        assert_eq!(sum(&batch, "requests", "output", Some("text")), fact("num_model_requests_sum"));
        assert_eq!(sum(&batch, "tokens", "input", Some("audio")), fact("input_audio_tokens_sum"));
        assert_eq!(sum(&batch, "tokens", "output", Some("audio")), fact("output_audio_tokens_sum"));
        let starts: Vec<i64> = (0..batch.num_rows()).filter_map(|row| int(&batch, TokenUsage, "period_start", row)).collect();
        let mut buckets = starts.clone();
        buckets.dedup();
        assert_eq!(buckets.len() as i128, fact("buckets") - fact("empty_buckets"));
        assert_eq!(i128::from(*starts.iter().min().unwrap()), fact("min_start") * 1_000_000_000);
        let last_end = (0..batch.num_rows()).filter_map(|row| int(&batch, TokenUsage, "period_end", row)).max().unwrap();
        assert_eq!(i128::from(last_end), fact("max_end") * 1_000_000_000);
        assert_eq!(chunk.records, batch.num_rows() as i64);
    }

    #[test]
    fn a_page_of_pages_and_an_empty_bucket() {
        let page = format!(
            r#"[{{"object":"page","data":[{BUCKET}]}}]}},{{"object":"page","data":[{BUCKET}{{"object":"organization.usage.completions.result","input_tokens":10,"input_cached_tokens":4,"output_tokens":3,"num_model_requests":2,"model":"m","batch":true}}]}}]}}]"#
        );
        assert!(is_usage(page.as_bytes()));
        let batch = family(chunk(&page), TokenUsage);
        let shown: Vec<_> = (0..batch.num_rows())
            .map(|row| (text(&batch, TokenUsage, "direction", row).unwrap(), decimal(&batch, TokenUsage, "tokens", row)))
            .collect();
        assert_eq!(shown, [("input".into(), Some(6)), ("cached_input".into(), Some(4)), ("output".into(), Some(3))]);
        assert_eq!(decimal(&batch, TokenUsage, "requests", 2), Some(2));
        assert_eq!(text(&batch, TokenUsage, "series_id", 0).as_deref(), Some("completions"));
        assert!(column(&batch, TokenUsage, "batch").as_boolean().value(0));
        let stored = family(chunk(&page), Documents);
        assert_eq!(column(&stored, Documents, "body").as_binary::<i32>().value(0), page.as_bytes());
        let link = column(&batch, TokenUsage, "doc_sha256").as_binary::<i32>().value(0).to_vec();
        assert_eq!(column(&stored, Documents, "sha256").as_binary::<i32>().value(0), link);
    }

    #[test]
    fn the_later_shape_is_taken_by_its_parts() {
        let result = r#"{"object":"organization.usage.completions.result","input_tokens":100,"input_uncached_tokens":60,"input_cached_tokens":30,
            "input_cache_write_tokens":10,"input_text_tokens":50,"input_audio_tokens":7,"input_image_tokens":3,"input_cached_text_tokens":30,
            "output_tokens":9,"output_text_tokens":8,"output_audio_tokens":1,"num_model_requests":1,"api_source":"responses"}"#;
        let batch = family(chunk(&format!("[{BUCKET}{result}]}}]")), TokenUsage);
        let of = |direction| ["text", "audio", "image"].iter().map(|m| sum(&batch, "tokens", direction, Some(m))).sum::<i128>();
        assert_eq!(of("input") + of("cached_input") + sum(&batch, "tokens", "cache_write", None), 100);
        assert_eq!(of("output"), 9);
        assert_eq!(text(&batch, TokenUsage, "series_id", 0).as_deref(), Some("completions?api_source=responses"));
    }

    #[test]
    fn requests_without_output_stand_on_an_output_row() {
        let result = r#"{"object":"organization.usage.embeddings.result","input_tokens":16,"num_model_requests":2}"#;
        let batch = family(chunk(&format!("[{BUCKET}{result}]}}]")), TokenUsage);
        assert_eq!(text(&batch, TokenUsage, "modality", 0), None);
        assert_eq!(decimal(&batch, TokenUsage, "tokens", 1), None);
        assert_eq!((sum(&batch, "tokens", "input", None), sum(&batch, "requests", "output", None)), (16, 2));
        assert!(column(&batch, TokenUsage, "requests").is_null(0));
    }

    #[test]
    fn a_bad_result_never_costs_a_good_one() {
        let good = r#"{"input_tokens":1,"output_tokens":1}"#;
        let bad = r#"{"input_tokens":1,"input_cached_tokens":2}"#;
        let chunk = chunk(&format!("[{BUCKET}{good},{bad},{good}]}},\n{{\"start_time\":\"x\",\"end_time\":2,\"results\":[]}}]"));
        assert_eq!(chunk.bad.len(), 2);
        assert_eq!((chunk.bad[0].field.as_deref(), &chunk.bad[0].raw[..]), (Some("input_cached_tokens"), bad.as_bytes()));
        assert_eq!((chunk.bad[1].field.as_deref(), chunk.bad[1].line), (Some("start_time"), Some(2)));
        assert!(chunk.bad[1].reason.contains("expected Unix seconds"), "{}", chunk.bad[1].reason);
        assert_eq!(chunk.records, 6);
        assert_eq!(family(chunk, TokenUsage).num_rows(), 4);
    }

    /// The rows of a page with these results, and its notes.
    fn page_of(results: &[&str]) -> (RecordBatch, Vec<String>, Vec<crate::source::Bad>) {
        let chunk = chunk(&format!("[{BUCKET}{}]}}]", results.join(",")));
        let (notes, bad) = (chunk.notes.clone(), chunk.bad.clone());
        (family(chunk, TokenUsage), notes, bad)
    }

    #[test]
    fn results_that_differ_in_any_unknown_grouping_are_series_of_their_own() {
        let (batch, _, bad) = page_of(&[r#"{"input_tokens":7,"a":"1&b=2"}"#, r#"{"input_tokens":8,"a":"1","b":"2"}"#]);
        assert_eq!((text(&batch, TokenUsage, "series_id", 0).as_deref(), bad.len()), (Some("?a=1%26b%3D2"), 0));
        for values in [["1", "2", "3"], ["true", "false", "null"], [r#"{"a": [1, "x  y"]}"#, r#"{"a": [2]}"#, "1.5"]] {
            let results = values.map(|value| format!(r#"{{"input_tokens":7,"region_id":{value}}}"#));
            let (batch, notes, bad) = page_of(&results.each_ref().map(String::as_str));
            let series: std::collections::HashSet<_> = (0..3).map(|row| text(&batch, TokenUsage, "series_id", row)).collect();
            assert_eq!((series.len(), notes.len(), bad.len()), (3, 0, 0), "{series:?}");
        }
        let (batch, ..) = page_of(&[r#"{"input_tokens":7,"place": {"no": 1, "name": "a \\\" b"}}"#]);
        assert_eq!(text(&batch, TokenUsage, "series_id", 0).as_deref(), Some(r#"?place={"no":1,"name":"a \\\" b"}"#));
    }

    #[test]
    fn an_unknown_figure_is_no_grouping_and_is_said() {
        for figure in [r#""new_kind_tokens":5"#, r#""num_things":5"#, r#""details":{"reasoning_tokens":5}"#, r#""amount":0.5"#] {
            let (batch, notes, _) = page_of(&[&format!(r#"{{"input_tokens":7,{figure}}}"#)]);
            assert_eq!(text(&batch, TokenUsage, "series_id", 0), None, "{figure}");
            assert!(notes[0].contains("documents only"), "{notes:?}");
        }
    }

    #[test]
    fn a_result_that_contradicts_an_earlier_one_of_the_page_is_quarantined() {
        let other = r#"{"input_tokens":8,"num_model_requests":2}"#;
        let (batch, _, bad) = page_of(&[r#"{"input_tokens":7,"num_model_requests":2}"#, other, r#"{"input_tokens":9,"user_id":"u"}"#]);
        assert_eq!((batch.num_rows(), bad.len(), &bad[0].raw[..]), (3, 1, other.as_bytes()));
        assert!(bad[0].reason.contains("other input figures"), "{}", bad[0].reason);
    }

    #[test]
    fn a_page_of_costs_is_not_usage() {
        assert!(!is_usage(br#"{"object":"page","data":[{"object":"bucket","start_time":1,"end_time":2,"results":[{"object":"organization.costs.result"}]}]}"#));
    }

    proptest! {
        #[test]
        fn no_mutation_panics(at in 0usize..400, byte in any::<u8>(), cut in 0usize..400) {
            let mut body = format!(r#"[{BUCKET}{{"object":"organization.usage.completions.result","input_tokens":10,"input_cached_tokens":4,"output_tokens":3,"model":"m","batch":true}}]}}]"#).into_bytes();
            let at = at % body.len();
            body[at] = byte;
            body.truncate(body.len().saturating_sub(cut / 20));
            let _ = is_usage(&body);
            if let Ok(chunk) = open(body) {
                let records = chunk.records - chunk.bad.len() as i64;
                prop_assert_eq!(family(chunk, TokenUsage).num_rows() as i64, records);
            }
        }
    }
}
