//! The formats that tokentape knows, in the order in which they are tried.

pub mod anthropic_usage;
pub mod clock;
pub mod ctp;
pub mod dbn;
pub mod document;
pub mod mapping;
pub mod openai_usage;
pub(crate) mod page;
pub mod prices;
pub mod products;
pub mod records;
pub mod requests;
pub(crate) mod sniff;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod trial;
pub(crate) mod usage;

use crate::source::Format;

/// Every format; the first one that recognises a file reads it.
pub fn all() -> Vec<Format> {
    vec![
        dbn::FORMAT,
        ctp::format(),
        mapping::ctp_bars(),
        mapping::csv(),
        openai_usage::format(),
        anthropic_usage::format(),
        prices::openrouter(),
        prices::litellm(),
        requests::format(),
        document::format(), // recognises everything: last
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Given, HEAD_BYTES};

    fn reader(name: &str, body: &[u8]) -> &'static str {
        let given = Given { name: name.into(), ..Given::default() };
        let head = &body[..body.len().min(HEAD_BYTES)];
        all().into_iter().find(|format| (format.recognise)(head, &given)).map_or("nothing", |format| format.parser)
    }

    // Content decides, not the name: every shape finds its own parser, and what looks like none of them is a document.
    #[test]
    fn every_page_finds_its_parser() {
        let page = |results: &str| {
            format!(r#"{{"object":"page","data":[{{"object":"bucket","start_time":1,"end_time":2,"results":[{results}]}}]}}"#)
        };
        assert_eq!(reader("a.txt", page("").as_bytes()), "openai-usage/1");
        assert_eq!(reader("a", page(r#"{"object":"organization.usage.embeddings.result"}"#).as_bytes()), "openai-usage/1");
        assert_eq!(reader("a", page(r#"{"object":"organization.costs.result"}"#).as_bytes()), "document/1");
        assert_eq!(reader("a", br#"{"data":[{"starting_at":"","ending_at":"","results":[]}]}"#), "anthropic-usage/1");
        assert_eq!(reader("a", br#"{"data":[{"id":"m","pricing":{"prompt":"0","completion":"0"}}]}"#), "openrouter/1");
        assert_eq!(reader("a", br#"{"m":{"input_cost_per_token":0}}"#), "litellm-prices/1");
        assert_eq!(reader("a", br#"{"timestamp":0,"input_length":1,"output_length":2}"#), "mooncake/1");
        assert_eq!(reader("signal.json", br#"{"entry":2710,"stop":2650,"target":2800}"#), "document/1");
        assert_eq!(reader("a.json", br#"{"price":1}"#), "document/1");
        assert_eq!(reader("a", b"\x00\xff"), "document/1");
    }

    #[test]
    fn every_real_page_finds_its_parser() {
        let Some(data) = testing::data() else { return };
        for (kind, parser) in
            [("openai-usage-json", "openai-usage/1"), ("price-list-json", "litellm-prices/1"), ("llm-trace-jsonl", "mooncake/1")]
        {
            let files = testing::files(&data, kind);
            assert!(!files.is_empty(), "{kind}");
            files.iter().for_each(|file| assert_eq!(reader("x", &testing::read(&data, file)), parser, "{file}"));
        }
    }
}
