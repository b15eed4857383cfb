//! Usage pages of a provider become `token_usage` rows whose directions add up; the page itself goes whole to `documents`.
//!
//! A member of a result that its provider's parser does not know is one of two things:
//! - an unknown *figure*: a number whose name begins with `num_` or has, as its first or last word, one of [`FIGURE_WORDS`]
//!   (`new_kind_tokens`, `amount`), or an object of nothing else. It gives no row and is said in a note: it is in `documents` only;
//! - a *grouping*: everything else, be it text, number, boolean or nested. It is part of the series, so that two groups never share a key.
//!
//! Two results of a page that have the same key and other figures contradict each other: the second one is quarantined.

use crate::Error;
use crate::source::{Given, Header};
use crate::sources::clock::date_of;
use crate::sources::document::document_rows;
use crate::sources::page::{Content, Fault, Member, Page, PageParser, Scalar, elements, last, members, scalar};
use schemas::{Family, Rows};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};

/// The members of a JSON object.
pub(crate) type Members<'a> = [Member<'a>];

/// What differs between providers.
pub(crate) struct Provider {
    /// Dataset code.
    pub(crate) dataset: &'static str,
    /// Who publishes, and whose service it is.
    pub(crate) name: &'static str,
    /// The period of a bucket.
    pub(crate) period: fn(bucket: &Members) -> Result<Period, Fault>,
    /// The figures of one result of a bucket.
    pub(crate) figures: fn(result: &Members) -> Result<Figures, Fault>,
}

/// When a bucket's figures were counted, ns UTC.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Period {
    pub(crate) start: i64,
    pub(crate) end: i64,
}

/// What one result says.
#[derive(Default)]
pub(crate) struct Figures {
    /// Whose figures they are.
    pub(crate) group: Group,
    /// The figures, each a row.
    pub(crate) figures: Vec<Figure>,
    /// What the user should be told of this kind of result.
    pub(crate) notes: Vec<String>,
}

/// The grouping columns of a result; `None` = not grouped.
#[derive(Default, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Group {
    pub(crate) series_id: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) project_id: Option<String>,
    pub(crate) user_id: Option<String>,
    pub(crate) api_key_id: Option<String>,
    pub(crate) service_tier: Option<String>,
    pub(crate) context_window: Option<String>,
    pub(crate) batch: Option<bool>,
}

/// One figure.
#[derive(Default, Debug, Clone, PartialEq)]
pub(crate) struct Figure {
    pub(crate) direction: &'static str,
    pub(crate) modality: Option<&'static str>,
    pub(crate) tokens: Option<i128>,
    pub(crate) requests: Option<i128>,
    pub(crate) input_reported: Option<i128>,
    pub(crate) note: Option<String>,
}

/// Reads a page and makes it ready for the pipeline.
pub(crate) fn parse(page: Page, provider: &Provider) -> Result<PageParser, Error> {
    let dataset = page.given.dataset.clone().unwrap_or_else(|| provider.dataset.into());
    let (document, sha256) = document_rows(&dataset, &page.given, "application/json", &page.body);
    let mut table = Table {
        provider,
        dataset: &dataset,
        page: &page,
        sha256,
        rows: Rows::new(Family::TokenUsage),
        seen: HashMap::new(),
        content: Content::default(),
    };
    table.read(page.json()?)?;
    let Table { rows, mut content, .. } = table;
    content = content.checked(&page)?;
    content.rows = vec![document];
    if !rows.is_empty() {
        content.rows.push(rows);
    }
    Ok(PageParser { dataset, header: Header::default(), path_facts: BTreeMap::new(), bytes: page.body.len() as u64, content })
}

struct Table<'a> {
    provider: &'a Provider,
    dataset: &'a str,
    page: &'a Page,
    sha256: [u8; 32],
    rows: Rows,
    /// The figures of the page so far, by whose they are and when.
    seen: HashMap<(Group, Period), Vec<Figure>>,
    content: Content,
}

impl Table<'_> {
    /// A page, a list of pages, a list of buckets, or one bucket.
    fn read(&mut self, whole: &RawValue) -> Result<(), Error> {
        let unknown =
            |why: String| self.page.error(format!("{why}, expected a usage page or a list of its buckets"), "fetch the page again");
        let parts = if whole.get().starts_with('[') { elements(whole).map_err(unknown)? } else { vec![whole] };
        for part in parts {
            let data = members(part).ok().and_then(|page| last(&page, "data"));
            match data.map(elements) {
                Some(Ok(buckets)) => buckets.into_iter().for_each(|bucket| self.bucket(bucket)),
                Some(Err(why)) => self.refuse(part, Fault::of("data", format!("{why}, expected a list of buckets"))),
                None => self.bucket(part),
            }
        }
        Ok(())
    }

    fn bucket(&mut self, bucket: &RawValue) {
        let read = || -> Result<(Period, Vec<&RawValue>), Fault> {
            let members = members(bucket).map_err(|why| Fault::whole(format!("{why}, expected a bucket")))?;
            // OpenAI's API description says `result`, its pages say `results`.
            let results = last(&members, "results").or_else(|| last(&members, "result"));
            let results =
                results.ok_or_else(|| Fault::of("results", "the bucket has no results, expected a list (empty where nothing was used)"))?;
            let period = (self.provider.period)(&members)?;
            if period.start >= period.end {
                return Err(Fault::whole("the bucket ends before it begins"));
            }
            Ok((period, elements(results).map_err(|why| Fault::of("results", why))?))
        };
        match read() {
            Ok((period, results)) => results.into_iter().for_each(|result| self.result(&period, result)),
            Err(fault) => self.refuse(bucket, fault),
        }
    }

    fn result(&mut self, period: &Period, result: &RawValue) {
        let read = || (self.provider.figures)(&members(result).map_err(|why| Fault::whole(format!("{why}, expected a result")))?);
        match read().and_then(|figures| self.remember(period, &figures).map(|()| figures)) {
            Ok(figures) => {
                figures.figures.iter().for_each(|figure| self.push(period, &figures.group, figure, self.page.offset(result)));
                figures.notes.into_iter().for_each(|note| self.note(note));
            }
            Err(fault) => self.refuse(result, fault),
        }
    }

    /// Refuses a result that contradicts an earlier one of this page; one that repeats it says nothing wrong.
    fn remember(&mut self, period: &Period, result: &Figures) -> Result<(), Fault> {
        let seen = self.seen.entry((result.group.clone(), period.clone())).or_default();
        for figure in &result.figures {
            let known = seen.iter().find(|known| (known.direction, known.modality) == (figure.direction, figure.modality));
            if known.is_some_and(|known| known != figure) {
                let what = format!("an earlier result of this page has other {} figures for the same group and period", figure.direction);
                return Err(Fault::whole(format!(
                    "{what}; if the page holds two captures, ingest each as a file of its own, in their order"
                )));
            }
        }
        seen.extend(result.figures.iter().cloned());
        Ok(())
    }

    fn note(&mut self, note: String) {
        if !self.content.notes.contains(&note) {
            self.content.notes.push(note);
        }
    }

    fn refuse(&mut self, value: &RawValue, fault: Fault) {
        let record = self.content.records;
        if self.content.admit() {
            self.content.bad.push(self.page.bad(record, self.page.offset(value), value, fault));
        }
    }

    fn push(&mut self, period: &Period, group: &Group, figure: &Figure, byte: usize) {
        let record = self.content.records;
        if !self.content.admit() {
            return;
        }
        let column = |name| Family::TokenUsage.topic().column(name);
        let ts_recv = self.page.given.captured_ns();
        let rows = &mut self.rows;
        let texts = [
            ("dataset", Some(self.dataset)),
            ("publisher", Some(self.provider.name)),
            ("provider", Some(self.provider.name)),
            ("series_id", group.series_id.as_deref()),
            ("model", group.model.as_deref()),
            ("project_id", group.project_id.as_deref()),
            ("user_id", group.user_id.as_deref()),
            ("api_key_id", group.api_key_id.as_deref()),
            ("service_tier", group.service_tier.as_deref()),
            ("context_window", group.context_window.as_deref()),
            ("direction", Some(figure.direction)),
            ("modality", figure.modality),
            ("stat", Some("period_total")),
            ("qualifier", Some("eq")),
            ("note", figure.note.as_deref()),
        ];
        texts.into_iter().for_each(|(name, text)| text.into_iter().for_each(|text| rows.text(column(name), text)));
        let numbers = [("tokens", figure.tokens), ("requests", figure.requests), ("input_reported", figure.input_reported)];
        numbers.into_iter().for_each(|(name, number)| number.into_iter().for_each(|number| rows.decimal(column(name), number)));
        let times =
            [("ts_event", Some(period.end)), ("period_start", Some(period.start)), ("period_end", Some(period.end)), ("ts_recv", ts_recv)];
        times.into_iter().for_each(|(name, time)| time.into_iter().for_each(|time| rows.i64(column(name), time)));
        rows.date(column("date"), date_of(ts_recv.unwrap_or(period.end)));
        group.batch.into_iter().for_each(|batch| rows.bool(column("batch"), batch));
        rows.bytes(column("doc_sha256"), &self.sha256);
        rows.i64(column("source_record"), record);
        rows.i64(column("source_byte"), byte as i64);
        rows.end_row();
    }
}

/// First or last words of the names of figures.
const FIGURE_WORDS: &[&str] = &["tokens", "requests", "calls", "count", "sessions", "images", "seconds", "characters", "bytes", "amount"];

/// What a result says beyond the members that its provider's parser knows.
pub(crate) struct Beyond {
    /// The report's own word, and every grouping that has no column of its own, so that two groups never share a key.
    pub(crate) series_id: Option<String>,
    /// Says which figures give no row.
    pub(crate) note: Option<String>,
}

/// Sorts the members that are not `known`; of a repeated name the last one counts.
pub(crate) fn beyond(report: Option<&str>, result: &Members, known: &[&str]) -> Result<Beyond, Fault> {
    let unknown: BTreeMap<&str, &RawValue> =
        result.iter().filter(|(name, _)| !known.contains(&name.as_str())).map(|(name, value)| (name.as_str(), *value)).collect();
    let (mut groups, mut figures) = (vec![], vec![]);
    for (name, value) in unknown {
        match scalar(value).map_err(|why| Fault::of(name, why))? {
            Scalar::Null => {}
            Scalar::Number(_) | Scalar::Nested if is_figure(name, value) => figures.push(name),
            Scalar::Text(text) => groups.push(format!("{}={}", escaped(name), escaped(&text))),
            Scalar::Bool(_) | Scalar::Number(_) | Scalar::Nested => {
                groups.push(format!("{}={}", escaped(name), escaped(&compact(value.get()))));
            }
        }
    }
    let series_id = match (report, groups.is_empty()) {
        (report, true) => report.map(str::to_string),
        (report, false) => Some(format!("{}?{}", report.unwrap_or(""), groups.join("&"))),
    };
    let note = (!figures.is_empty()).then(|| format!("figures of a kind that is not known are in documents only: {}", figures.join(", ")));
    Ok(Beyond { series_id, note })
}

/// A text in which nothing joins groupings.
fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('&', "%26").replace('=', "%3D")
}

/// A number with the name of a figure, or an object of nothing but such numbers.
fn is_figure(name: &str, value: &RawValue) -> bool {
    let number = |name: &str, value: &RawValue| matches!(scalar(value), Ok(Scalar::Number(_))) && names_a_figure(name);
    let nested = || members(value).is_ok_and(|parts| !parts.is_empty() && parts.iter().all(|(name, part)| number(name, part)));
    number(name, value) || nested()
}

fn names_a_figure(name: &str) -> bool {
    let is_word = |word: Option<&str>| word.is_some_and(|word| FIGURE_WORDS.contains(&word));
    name.starts_with("num_") || is_word(name.split('_').next()) || is_word(name.rsplit('_').next())
}

/// JSON without the white space between its tokens, its numbers as they stand.
fn compact(json: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let kept = json.chars().filter(|c| {
        quoted ^= *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        quoted || !c.is_ascii_whitespace()
    });
    kept.collect()
}

/// What a provider's page is read from.
pub(crate) fn read(input: Box<dyn std::io::Read + Send>, given: &Given, provider: &Provider) -> Result<PageParser, Error> {
    parse(Page::read(input, given)?, provider)
}
