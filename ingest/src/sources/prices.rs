//! A price list becomes one row per model and price, exact to the digit as listed; the list itself goes whole to `documents`.
//!
//! Units: a price per token is stored per million tokens (`mtok`), so are characters (`mchar`) and pixels (`mpixel`), of which single ones
//! cost less than the ninth digit holds (3.125e-07, 6.539e-08); everything else as listed. `above_128k_tokens` is more than 128,000 tokens: k is 1,000, as in LiteLLM.

use crate::Error;
use crate::source::{Bad, Format, Header};
use crate::sources::clock::date_of;
use crate::sources::document::document_rows;
use crate::sources::page::{Content, Fault, Member, Page, PageParser, Scalar, elements, excerpt, last, members, scalar, text};
use crate::sources::sniff::{first_byte, holds};
use chrono::NaiveDate;
use schemas::{Family, Rows, exact};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashSet};

/// LiteLLM-shaped price maps: one JSON object, model → its prices and properties. The snapshot's date is in the file name.
pub fn litellm() -> Format {
    Format {
        parser: "litellm-prices/1",
        recognise: |head, _| is_price_map(head),
        open: |input, given| Ok(Box::new(read_price_map(Page::read(input, given)?)?)),
    }
}

/// OpenRouter's models page. It says nothing of its own time: the capture time dates it, else the day in the file's name.
pub fn openrouter() -> Format {
    Format {
        parser: "openrouter/1",
        recognise: |head, _| is_models_page(head),
        open: |input, given| Ok(Box::new(read_models_page(Page::read(input, given)?)?)),
    }
}

fn is_price_map(head: &[u8]) -> bool {
    let names = ["\"litellm_provider\"", "\"input_cost_per_", "\"output_cost_per_"];
    first_byte(head) == Some(b'{') && names.iter().any(|name| holds(head, name))
}

fn is_models_page(head: &[u8]) -> bool {
    first_byte(head) == Some(b'{') && ["\"data\"", "\"pricing\"", "\"prompt\"", "\"completion\""].iter().all(|name| holds(head, name))
}

/// The models whose prices are not all known because a record of theirs is bad: their absence from the rows means nothing.
pub fn withheld(bad: &[Bad]) -> HashSet<String> {
    bad.iter().filter_map(|bad| model_of(&bad.raw)).collect()
}

/// The model of a bad record: the name of a price map's member, or the `id` of a models page's element.
fn model_of(raw: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(raw).ok()?;
    let member = format!("{{{text}}}");
    if let Ok(value) = serde_json::from_str::<&RawValue>(&member) {
        return members(value).ok()?.into_iter().next().map(|(name, _)| name);
    }
    let element: &RawValue = serde_json::from_str(text).ok()?;
    crate::sources::page::text(&members(element).ok()?, "id").ok()?
}

// ---------------------------------------------------------------------------------------------------------------- what a key means

/// What a list's own price key means.
#[derive(Debug, Clone, PartialEq)]
struct Meaning {
    direction: String,
    modality: Option<&'static str>,
    unit: Option<&'static str>,
    tier: Option<&'static str>,
    context_min: Option<i64>,
    context_max: Option<i64>,
    currency: Option<&'static str>,
    /// Another spelling of a meaning that has a usual one: it gives way where both stand.
    alias: bool,
}

/// Powers of ten between a list's price and the stored one.
fn shift(unit: Option<&str>) -> i32 {
    match unit {
        Some("mtok" | "mpixel" | "mchar") => 6,
        _ => 0,
    }
}

/// Keys of LiteLLM's map without tier and context: direction, modality, unit, whether it is another spelling.
const LITELLM_KEYS: &[(&str, &str, Option<&str>, &str, bool)] = &[
    ("input_cost_per_token", "input", None, "mtok", false),
    ("output_cost_per_token", "output", None, "mtok", false),
    ("cache_read_input_token_cost", "cached_input", None, "mtok", false),
    ("input_cost_per_token_cache_hit", "cached_input", None, "mtok", true),
    ("cache_creation_input_token_cost", "cache_write", None, "mtok", false),
    ("input_cost_per_audio_token", "input", Some("audio"), "mtok", false),
    ("output_cost_per_audio_token", "output", Some("audio"), "mtok", false),
    ("cache_read_input_audio_token_cost", "cached_input", Some("audio"), "mtok", false),
    ("cache_creation_input_audio_token_cost", "cache_write", Some("audio"), "mtok", false),
    ("input_cost_per_image_token", "input", Some("image"), "mtok", false),
    ("output_cost_per_image_token", "output", Some("image"), "mtok", false),
    ("cache_read_input_image_token_cost", "cached_input", Some("image"), "mtok", false),
    ("output_cost_per_reasoning_token", "reasoning", None, "mtok", false),
    ("citation_cost_per_token", "citation", None, "mtok", false),
    ("input_cost_per_character", "input", None, "mchar", false),
    ("output_cost_per_character", "output", None, "mchar", false),
    ("input_cost_per_second", "input", None, "second", false),
    ("output_cost_per_second", "output", None, "second", false),
    ("input_cost_per_audio_per_second", "input", Some("audio"), "second", false),
    ("output_cost_per_audio_per_second", "output", Some("audio"), "second", false),
    ("input_cost_per_video_per_second", "input", Some("video"), "second", false),
    ("output_cost_per_video_per_second", "output", Some("video"), "second", false),
    ("input_cost_per_image", "input", Some("image"), "image", false),
    ("output_cost_per_image", "output", Some("image"), "image", false),
    ("input_cost_per_pixel", "input", Some("image"), "mpixel", false),
    ("output_cost_per_pixel", "output", Some("image"), "mpixel", false),
    ("input_cost_per_request", "input", None, "request", false),
    ("input_cost_per_query", "input", None, "query", false),
];

const TIERS: &[(&str, &str)] = &[("_priority", "priority"), ("_flex", "flex"), ("_batches", "batch"), ("_batch_requests", "batch")];

/// The meaning of a LiteLLM key; `None` when it is no price.
fn litellm_meaning(key: &str) -> Option<Meaning> {
    let (stem, tier, context_min) = strip_suffixes(key);
    if let Some((_, direction, modality, unit, alias)) = LITELLM_KEYS.iter().find(|(known, ..)| *known == stem) {
        return Some(Meaning {
            direction: direction.to_string(),
            modality: *modality,
            unit: Some(unit),
            tier: Some(tier.unwrap_or("standard")),
            context_min,
            context_max: None,
            currency: Some("USD"),
            alias: *alias || key.ends_with("_batch_requests"),
        });
    }
    key.contains("cost").then(|| own_word(key))
}

/// `input_cost_per_token_above_200k_tokens_priority` → (`input_cost_per_token`, priority, 200,000).
fn strip_suffixes(key: &str) -> (&str, Option<&'static str>, Option<i64>) {
    let (mut stem, mut tier, mut context_min) = (key, None, None);
    loop {
        if let (None, Some((rest, name))) = (tier, TIERS.iter().find_map(|(suffix, name)| Some((stem.strip_suffix(suffix)?, *name)))) {
            (stem, tier) = (rest, Some(name));
        } else if let (None, Some((rest, tokens))) = (context_min, above(stem)) {
            (stem, context_min) = (rest, Some(tokens));
        } else {
            return (stem, tier, context_min);
        }
    }
}

fn above(stem: &str) -> Option<(&str, i64)> {
    let (rest, bracket) = stem.strip_suffix("k_tokens")?.rsplit_once("_above_")?;
    let thousands: i64 = if bracket.bytes().all(|b| b.is_ascii_digit()) { bracket.parse().ok()? } else { return None };
    Some((rest, thousands.checked_mul(1000)?))
}

/// A price that has no settled name keeps the list's own word as its direction. Databricks units (`dbu`) are not dollars.
fn own_word(key: &str) -> Meaning {
    const UNITS: &[(&str, &str)] = &[
        ("per_token", "mtok"),
        ("token_cost", "mtok"),
        ("per_1k_calls", "1k_calls"),
        ("per_pixel", "mpixel"),
        ("per_second", "second"),
        ("per_image", "image"),
        ("per_character", "mchar"),
        ("per_request", "request"),
        ("per_query", "query"),
        ("per_page", "page"),
        ("per_session", "session"),
    ];
    let in_dollars = !(key.contains("dbu_cost") || key.contains("db_cost"));
    Meaning {
        direction: key.to_string(),
        modality: None,
        unit: UNITS.iter().find(|(word, _)| key.contains(word)).map(|(_, unit)| *unit),
        tier: None,
        context_min: None,
        context_max: None,
        currency: in_dollars.then_some("USD"),
        alias: true,
    }
}

/// The meaning of a key of OpenRouter's `pricing`; `None` when it is no price.
fn openrouter_meaning(key: &str) -> Option<Meaning> {
    let (direction, modality, unit) = match key {
        "prompt" => ("input", None, Some("mtok")),
        "completion" => ("output", None, Some("mtok")),
        "input_cache_read" => ("cached_input", None, Some("mtok")),
        "input_cache_write" => ("cache_write", None, Some("mtok")),
        "input_cache_write_1h" => ("input_cache_write_1h", None, Some("mtok")),
        "internal_reasoning" => ("reasoning", None, Some("mtok")),
        "audio" => ("input", Some("audio"), Some("mtok")),
        "audio_output" => ("output", Some("audio"), Some("mtok")),
        "input_audio_cache" => ("cached_input", Some("audio"), Some("mtok")),
        "image" => ("input", Some("image"), Some("image")),
        "image_output" => ("output", Some("image"), Some("image")),
        "image_token" => ("image_token", Some("image"), Some("mtok")),
        "request" => ("request", None, Some("request")),
        "web_search" => ("web_search", None, Some("query")),
        "discount" => return None, // a fraction
        own => (own, None, None),
    };
    let direction = direction.to_string();
    Some(Meaning { direction, modality, unit, tier: None, context_min: None, context_max: None, currency: Some("USD"), alias: false })
}

// ------------------------------------------------------------------------------------------------------------------ reading a list

/// One price of a model, as the list has it.
struct Price<'a> {
    key: String,
    meaning: Meaning,
    listed: String,
    value: &'a RawValue,
}

/// One model's prices, good and bad.
#[derive(Default)]
struct Entry<'a> {
    prices: Vec<Price<'a>>,
    faults: Vec<Fault>,
    repeated: usize,
    variable: usize,
}

/// Rows under construction, and what they all share.
struct Table<'a> {
    page: &'a Page,
    dataset: &'a str,
    sha256: [u8; 32],
    ts_publish: Option<i64>,
    effective_by: i64,
    rows: Rows,
    content: Content,
}

fn read_price_map(page: Page) -> Result<PageParser, Error> {
    let (day, path_facts) = day_of(&page);
    let effective_by = day.or_else(|| page.given.captured_ns()).ok_or_else(|| undated(&page))?;
    let models = members(page.json()?).map_err(|why| page.error(format!("{why}, expected an object of models"), "fetch the list again"))?;
    parse(&page, "LITELLM.PRICES", path_facts, day, effective_by, |table| {
        let (models, repeated) = last_of_each(models);
        let mut repeated = repeated;
        for (name, value) in models {
            if name == "sample_spec" {
                table.content.notes.push("sample_spec describes the list and is no model: it is in documents only".into());
                continue;
            }
            repeated += table.litellm_model(&name, value);
        }
        if repeated > 0 {
            table.content.notes.push(format!("{repeated} names stand twice in the list: the last of each counts"));
        }
        Ok(())
    })
}

fn read_models_page(page: Page) -> Result<PageParser, Error> {
    let (day, path_facts) = day_of(&page);
    let effective_by = page.given.captured_ns().or(day).ok_or_else(|| undated(&page))?;
    let whole = members(page.json()?).map_err(|why| page.error(format!("{why}, expected a page of models"), "fetch the page again"))?;
    let models = last(&whole, "data").map_or(Ok(vec![]), elements);
    let models = models.map_err(|why| page.error(format!("data: {why}, expected a list of models"), "fetch the page again"))?;
    parse(&page, "OPENROUTER.LIST", path_facts, None, effective_by, |table| {
        let (mut last_of_id, mut variable) = (BTreeMap::new(), 0);
        for (position, value) in models.iter().enumerate() {
            match openrouter_id(value) {
                Ok(id) => drop(last_of_id.insert(id, position)),
                Err(fault) => table.refuse(table.page.offset(value), value, fault),
            }
        }
        let repeated = models.len() - last_of_id.len() - table.content.bad.len();
        let mut positions: Vec<(usize, String)> = last_of_id.into_iter().map(|(id, position)| (position, id)).collect();
        positions.sort();
        for (position, id) in positions {
            variable += table.openrouter_model(&id, models[position]);
        }
        if repeated > 0 {
            table.content.notes.push(format!("{repeated} ids stand twice in the page: the last of each counts"));
        }
        if variable > 0 {
            table.content.notes.push(format!("{variable} prices are negative, which means variable: no price is stored for them"));
        }
        Ok(())
    })
}

/// Midnight UTC of the day in the file's name, and that day as a path fact.
fn day_of(page: &Page) -> (Option<i64>, BTreeMap<String, String>) {
    let day =
        date_in_name(page.given.inner_name()).and_then(|date| Some((date, date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_nanos_opt()?)));
    let facts = day.map(|(date, _)| ("snapshot".to_string(), date.to_string())).into_iter().collect();
    (day.map(|(_, midnight)| midnight), facts)
}

fn undated(page: &Page) -> Error {
    page.error(
        "a price list does not say of which day it is: its name has no date, and its capture time is not known".into(),
        "name the file like 2024-01-30.model_prices.json, with the day of the list",
    )
}

fn openrouter_id(value: &RawValue) -> Result<String, Fault> {
    let model = members(value).map_err(|why| Fault::whole(format!("{why}, expected a model")))?;
    text(&model, "id")?.ok_or_else(|| Fault::of("id", "the model has none"))
}

/// What both lists have in common: the document, the rows, and that an empty list is none.
fn parse(
    page: &Page,
    dataset: &str,
    path_facts: BTreeMap<String, String>,
    ts_publish: Option<i64>,
    effective_by: i64,
    read: impl FnOnce(&mut Table) -> Result<(), Error>,
) -> Result<PageParser, Error> {
    let dataset = page.given.dataset.clone().unwrap_or_else(|| dataset.into());
    let (document, sha256) = document_rows(&dataset, &page.given, "application/json", &page.body);
    let rows = Rows::new(Family::PriceList);
    let mut table = Table { page, dataset: &dataset, sha256, ts_publish, effective_by, rows, content: Content::default() };
    read(&mut table)?;
    let Table { rows, mut content, .. } = table;
    if content.records == 0 {
        return Err(page.error("the list names no model: it would withdraw every price".into(), "fetch the list again"));
    }
    content = content.checked(page)?;
    content.rows = vec![document];
    if !rows.is_empty() {
        content.rows.push(rows);
    }
    Ok(PageParser { dataset, header: Header::default(), path_facts, bytes: page.body.len() as u64, content })
}

/// The day of a snapshot, from a name like `2024-01-30.model_prices.json` or `prices_20240130.json`; folders do not count.
fn date_in_name(name: &str) -> Option<NaiveDate> {
    let name = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let dates = |length: usize, format: &'static str| {
        let digit = |at: usize| name.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
        (0..name.len()).filter(move |at| (*at == 0 || !digit(at - 1)) && !digit(at + length)).find_map(move |at| {
            let text = name.get(at..at + length).filter(|text| text.bytes().all(|b| b.is_ascii_digit() || b == b'-'))?;
            NaiveDate::parse_from_str(text, format).ok().filter(|date| date.format(format).to_string() == text)
        })
    };
    dates(10, "%Y-%m-%d").or_else(|| dates(8, "%Y%m%d"))
}

/// The last member of each name, in the order of the list, and how many were repeated.
fn last_of_each(members: Vec<Member>) -> (Vec<Member>, usize) {
    let all = members.len();
    let mut seen = HashSet::new();
    let mut kept: Vec<_> = members.into_iter().rev().filter(|(name, _)| seen.insert(name.clone())).collect();
    kept.reverse();
    let repeated = all - kept.len();
    (kept, repeated)
}

impl Table<'_> {
    /// One model of a price map; how many names stood twice in it.
    fn litellm_model(&mut self, name: &str, value: &RawValue) -> usize {
        let start = self.page.member_offset(value);
        let read = || -> Result<_, Fault> {
            let properties = members(value).map_err(|why| Fault::whole(format!("model {name}: {why}, expected an object of prices")))?;
            let (properties, repeated) = last_of_each(properties);
            let (provider, mode) = (text(&properties, "litellm_provider")?, text(&properties, "mode")?);
            Ok((properties, repeated, provider, mode))
        };
        match read() {
            Ok((properties, repeated, provider, mode)) => {
                let mut entry = Entry { repeated, ..Entry::default() };
                properties.iter().for_each(|(key, value)| litellm_prices(&mut entry, key, value));
                self.entry(name, provider.as_deref(), mode.as_deref(), start, value, entry)
            }
            Err(fault) => {
                self.refuse(start, value, fault);
                0
            }
        }
    }

    /// One model of OpenRouter's page; how many of its prices are variable.
    fn openrouter_model(&mut self, id: &str, value: &RawValue) -> usize {
        let start = self.page.offset(value);
        let read = || -> Result<Entry<'_>, Fault> {
            let model = members(value).map_err(Fault::whole)?;
            let pricing = last(&model, "pricing").ok_or_else(|| Fault::of("pricing", format!("model {id}: there is none")))?;
            let pricing = members(pricing).map_err(|why| Fault::of("pricing", format!("model {id}: {why}")))?;
            let mut entry = Entry::default();
            for (key, value) in last_of_each(pricing).0 {
                let Some(meaning) = openrouter_meaning(&key) else { continue };
                let variable =
                    matches!(scalar(value), Ok(Scalar::Text(text)) if text.trim_start().starts_with('-')) || value.get().starts_with('-');
                match variable {
                    true => entry.variable += 1,
                    false => price(&mut entry, &key, meaning, value),
                }
            }
            Ok(entry)
        };
        match read() {
            Ok(entry) => {
                let variable = entry.variable;
                self.entry(id, Some("openrouter"), None, start, value, entry);
                variable
            }
            Err(fault) => {
                self.refuse(start, value, fault);
                0
            }
        }
    }

    /// Stores what an entry gives; how many names stood twice in it.
    fn entry(&mut self, model: &str, provider: Option<&str>, mode: Option<&str>, start: usize, value: &RawValue, entry: Entry) -> usize {
        let mut faults = entry.faults;
        let stated = !entry.prices.is_empty() || !faults.is_empty() || entry.variable > 0;
        for price in distinct(entry.prices) {
            match exact_price(&price) {
                Ok(exact) => self.push(model, provider, mode, Some((&price, exact)), self.page.offset(price.value)),
                Err(fault) => faults.push(fault),
            }
        }
        if let Some(fault) = together(model, faults) {
            self.refuse(start, value, fault);
        }
        if !stated {
            self.push(model, provider, mode, None, start);
        }
        entry.repeated
    }

    fn refuse(&mut self, start: usize, value: &RawValue, fault: Fault) {
        let record = self.content.records;
        if self.content.admit() {
            self.content.bad.push(self.page.bad(record, start, value, fault));
        }
    }

    fn push(&mut self, model: &str, provider: Option<&str>, mode: Option<&str>, price: Option<(&Price, i128)>, byte: usize) {
        let record = self.content.records;
        if !self.content.admit() {
            return;
        }
        let column = |name| Family::PriceList.topic().column(name);
        let ts_recv = self.page.given.captured_ns();
        let rows = &mut self.rows;
        let meaning = price.map(|(price, _)| &price.meaning);
        let texts = [
            ("dataset", Some(self.dataset)),
            ("provider", provider),
            ("model", Some(model)),
            ("mode", mode),
            ("direction", meaning.map(|m| m.direction.as_str())),
            ("modality", meaning.and_then(|m| m.modality)),
            ("tier", meaning.and_then(|m| m.tier)),
            ("currency", meaning.and_then(|m| m.currency)),
            ("price_unit", meaning.and_then(|m| m.unit)),
            ("listed", price.map(|(price, _)| price.listed.as_str())),
            ("reason", price.is_none().then_some("listed without a price")),
        ];
        texts.into_iter().for_each(|(name, text)| text.into_iter().for_each(|text| rows.text(column(name), text)));
        let numbers = [
            ("ts_publish", self.ts_publish),
            ("ts_recv", ts_recv),
            ("effective_by", Some(self.effective_by)),
            ("context_min", meaning.and_then(|m| m.context_min)),
            ("context_max", meaning.and_then(|m| m.context_max)),
            ("source_record", Some(record)),
            ("source_byte", Some(byte as i64)),
        ];
        numbers.into_iter().for_each(|(name, number)| number.into_iter().for_each(|number| rows.i64(column(name), number)));
        price.into_iter().for_each(|(_, exact)| rows.decimal(column("price"), exact));
        ts_recv.into_iter().for_each(|ts_recv| rows.date(column("date"), date_of(ts_recv)));
        rows.bytes(column("doc_sha256"), &self.sha256);
        rows.end_row();
    }
}

/// The prices of one property: usually one, several where the property is an object of prices or a list of context brackets.
fn litellm_prices<'a>(entry: &mut Entry<'a>, key: &str, value: &'a RawValue) {
    if key == "tiered_pricing" {
        return tiered_prices(entry, value);
    }
    let Some(meaning) = litellm_meaning(key) else { return };
    if !value.get().starts_with('{') {
        return price(entry, key, meaning, value);
    }
    match members(value) {
        Ok(members) => last_of_each(members).0.into_iter().for_each(|(name, value)| {
            let key = format!("{key}.{name}");
            price(entry, &key, own_word(&key), value);
        }),
        Err(why) => entry.faults.push(Fault::of(key, format!("{key}: {why}, expected prices"))),
    }
}

/// `tiered_pricing`: a list of `{"range": [from, to], <price keys>}`.
fn tiered_prices<'a>(entry: &mut Entry<'a>, value: &'a RawValue) {
    let mut tier = |tier: &'a RawValue| -> Result<(), Fault> {
        let fault = |why: String| Fault::of("tiered_pricing", why);
        let (prices, _) = last_of_each(members(tier).map_err(fault)?);
        let range = last(&prices, "range").map(elements).transpose().map_err(fault)?.unwrap_or_default();
        let bound = |at: usize| range.get(at).map(|bound| tokens(bound)).transpose();
        let (context_min, context_max) = (bound(0)?, bound(1)?);
        for (key, value) in prices.iter().filter(|(key, _)| key != "range") {
            if let Some(meaning) = litellm_meaning(key) {
                price(entry, key, Meaning { context_min, context_max, ..meaning }, value);
            }
        }
        Ok(())
    };
    let tiers = elements(value).map_err(|why| Fault::of("tiered_pricing", why));
    if let Err(fault) = tiers.and_then(|tiers| tiers.into_iter().try_for_each(&mut tier)) {
        entry.faults.push(fault);
    }
}

fn tokens(value: &RawValue) -> Result<i64, Fault> {
    let number = exact::parse(value.get(), 18, 0, 0).map_err(|e| Fault::of("tiered_pricing", format!("range: {e}")))?;
    Ok(i64::try_from(number).expect("18 digits fit i64"))
}

/// Adds a price, if the value is one: null is none; text that is not a number is none under a name that is not settled.
fn price<'a>(entry: &mut Entry<'a>, key: &str, meaning: Meaning, value: &'a RawValue) {
    let settled = meaning.direction != key;
    let listed = match scalar(value) {
        Ok(Scalar::Null) => return,
        Ok(Scalar::Number(number)) => number.to_string(),
        Ok(Scalar::Text(text)) if settled || exact::parse(&text, 38, 18, 0).is_ok() => text,
        Ok(_) if !settled => return,
        Ok(_) => return entry.faults.push(Fault::of(key, format!("{} is not a number, expected a price", excerpt(value)))),
        Err(why) => return entry.faults.push(Fault::of(key, why)),
    };
    entry.prices.push(Price { key: key.to_string(), meaning, listed, value });
}

/// Prices whose meanings differ: where two keys mean the same, the usual spelling has it and the other keeps its own word.
fn distinct(mut prices: Vec<Price>) -> Vec<Price> {
    prices.sort_by(|a, b| (a.meaning.alias, &a.key).cmp(&(b.meaning.alias, &b.key)));
    let mut taken = HashSet::new();
    let place = |m: &Meaning| (m.direction.clone(), m.modality, m.unit, m.tier, m.context_min, m.context_max);
    for price in &mut prices {
        if !taken.insert(place(&price.meaning)) {
            let Meaning { context_min, context_max, .. } = price.meaning;
            price.meaning = Meaning { context_min, context_max, ..own_word(&price.key) };
            taken.insert(place(&price.meaning));
        }
    }
    prices.sort_by_key(|price| price.value.get().as_ptr() as usize);
    prices
}

/// All that is wrong with a model's prices: the model goes to quarantine once, not once per price.
fn together(model: &str, faults: Vec<Fault>) -> Option<Fault> {
    const TOLD: usize = 20;
    let more = faults.len().saturating_sub(TOLD);
    let reasons: Vec<&str> = faults.iter().take(TOLD).map(|fault| fault.reason.as_str()).collect();
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let reason = format!("model {model}: {}{more}", reasons.join("; "));
    faults.into_iter().next().map(|first| Fault { reason, ..first })
}

fn exact_price(price: &Price) -> Result<i128, Fault> {
    let unit = price.meaning.unit.map_or(String::new(), |unit| format!(" per {unit}"));
    let expected = format!("expected a price{unit} that DECIMAL(18,9) holds");
    let exact = exact::parse(&price.listed, 18, 9, shift(price.meaning.unit));
    let exact = exact.map_err(|e| Fault::of(&price.key, format!("{}: {e}, {expected}", price.key)))?;
    if exact < 0 {
        return Err(Fault::of(&price.key, format!("{}: {} is negative, {expected}", price.key, price.listed)));
    }
    Ok(exact)
}

#[cfg(test)]
pub(crate) mod tests;
