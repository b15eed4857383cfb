//! A time by a pattern of `chrono`'s, and no other text: what is read is written back, and must be what was read.
//!
//! Chrono takes more than a pattern says (`20201120 13000` under `%Y%m%d %H%M%S` is 13:00:00 to it). Free is only what cannot change the time:
//! leading zeros and white space of a number that stands alone, the case of names, how much white space there is where there is some, zeros at
//! the end of a fraction, and how an offset is spelt.

use super::{NS_PER_S, UTC, Zone, not_a_time, shortened};
use chrono::format::{Fixed, Item, Numeric, Parsed, StrftimeItems, parse};
use chrono::{DateTime, FixedOffset, NaiveTime};
use std::fmt::Write;

/// A pattern that can read what it writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    items: Vec<Item<'static>>,
    states: States,
    /// It has no time of day, and tells midnight.
    only_date: bool,
}

/// How a time says where it stands to UTC; one that states nothing is in the mapping's zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum States {
    Nothing,
    Offset,
    Since1970,
}

/// Two times that tell numbers which run together apart: 11 January could be 1 November.
const SAMPLES: [i64; 2] = [1_357_862_400, 1_357_866_660];

impl Pattern {
    /// Parses a pattern. One with the abbreviation of a zone is none: what it means depends on who reads it. Nor is one that cannot read what it
    /// writes, as an hour without minutes or a day without a year.
    pub(super) fn new(text: &str) -> Result<Pattern, String> {
        let unknown = || format!("pattern {text:?} is not one that can read what it writes");
        let items = StrftimeItems::new(text).parse_to_owned().map_err(|_| unknown())?;
        let any = |wanted: fn(&Item) -> bool| items.iter().any(wanted);
        if any(|item| matches!(item, Item::Numeric(Numeric::Nanosecond, _))) {
            return Err("%f counts nanoseconds, and would read .5 as 5 of them: write %.f, which takes the point too".into());
        }
        if any(|item| matches!(item, Item::Fixed(Fixed::TimezoneName))) {
            return Err(
                "%Z is the abbreviation of a zone, which can mean several: name the mapping's zone, or write %z for an offset".into()
            );
        }
        let states = match (any(is_offset), any(|item| matches!(item, Item::Numeric(Numeric::Timestamp, _)))) {
            (true, _) => States::Offset,
            (false, true) => States::Since1970,
            (false, false) => States::Nothing,
        };
        let pattern = Pattern { text: text.into(), only_date: !any(is_time), items, states };
        let reads_back = |seconds: &i64| {
            let sample = DateTime::from_timestamp(*seconds, 0)?.fixed_offset();
            let read = pattern.parse(&pattern.write(&sample)?.concat(), UTC).ok()?;
            Some(read == seconds * NS_PER_S || (pattern.only_date && read == SAMPLES[0] * NS_PER_S))
        };
        if SAMPLES.iter().all(|sample| reads_back(sample) == Some(true)) { Ok(pattern) } else { Err(unknown()) }
    }

    /// Nanoseconds UTC of a text.
    pub(super) fn parse(&self, text: &str, zone: Zone) -> Result<i64, String> {
        let time = self.read(text).ok_or_else(|| not_a_time(text, &self.text))?;
        // Chrono tells a leap second by a fraction of a second and more; the other clocks have none.
        let ns = i64::from(time.timestamp_subsec_nanos());
        if ns >= NS_PER_S {
            return Err(format!("{:?} is a leap second, which no clock here can say", shortened(text)));
        }
        if !self.writes(&time, text) && !self.write(&time).is_some_and(|written| self.is_written(text, &written, ns)) {
            return Err(not_a_time(text, &self.text));
        }
        let zone = if self.states == States::Nothing { zone } else { UTC };
        zone.to_utc(time.timestamp(), ns)
    }

    /// What chrono takes the text for; a time that states no offset as if it were UTC, a date as its midnight.
    fn read(&self, text: &str) -> Option<DateTime<FixedOffset>> {
        let mut parsed = Parsed::new();
        parse(&mut parsed, text, self.items.iter()).ok()?;
        if self.states == States::Offset {
            return parsed.to_datetime().ok();
        }
        let time = if self.only_date {
            parsed.to_naive_date().ok()?.and_time(NaiveTime::MIN)
        } else {
            parsed.to_naive_datetime_with_offset(0).ok()?
        };
        Some(time.and_utc().fixed_offset())
    }

    /// Whether a text is the time to the letter, as most are.
    fn writes(&self, time: &DateTime<FixedOffset>, text: &str) -> bool {
        let mut written = String::with_capacity(text.len());
        write!(written, "{}", time.format_with_items(self.items.iter())).is_ok() && written == text
    }

    /// The time as each item of the pattern writes it; `None` where one cannot.
    fn write(&self, time: &DateTime<FixedOffset>) -> Option<Vec<String>> {
        let one = |item| {
            let mut text = String::new();
            write!(text, "{}", time.format_with_items(std::iter::once(item))).ok().map(|()| text)
        };
        self.items.iter().map(one).collect()
    }

    /// Whether a text is what was written, but for what is free.
    fn is_written(&self, text: &str, written: &[String], ns: i64) -> bool {
        let mut rest = text;
        for (at, item) in self.items.iter().enumerate() {
            let is_digit = |c: char| c.is_ascii_digit();
            let before = at.checked_sub(1).is_some_and(|at| written[at].ends_with(is_digit));
            let stands_alone = !before && !written.get(at + 1).is_some_and(|next| next.starts_with(is_digit));
            let written = written[at].as_str();
            let left = match item {
                Item::Space(_) | Item::OwnedSpace(_) => white_space(rest),
                Item::Numeric(..) if stands_alone => number(rest, written),
                Item::Fixed(Fixed::Nanosecond | Fixed::Nanosecond3 | Fixed::Nanosecond6 | Fixed::Nanosecond9) => fraction(rest, ns),
                // Chrono passes over what a fraction has beyond nine digits; nothing else has so many.
                Item::Fixed(Fixed::RFC3339) => rest.split(|c| !is_digit(c)).all(|run| run.len() <= 9).then_some(""),
                Item::Fixed(Fixed::LongMonthName | Fixed::LongWeekdayName) => {
                    strip_name(rest, written).or_else(|| strip_name(rest, &written[..3]))
                }
                offset if is_offset(offset) => Some(offset_end(rest)),
                Item::Fixed(_) => strip_name(rest, written),
                _ => rest.strip_prefix(written),
            };
            let Some(left) = left else { return false };
            rest = left;
        }
        rest.is_empty()
    }
}

fn is_offset(item: &Item) -> bool {
    use Fixed::{RFC2822, RFC3339, TimezoneOffset, TimezoneOffsetColon, TimezoneOffsetColonZ, TimezoneOffsetZ};
    use Fixed::{TimezoneOffsetDoubleColon, TimezoneOffsetTripleColon};
    matches!(
        item,
        Item::Fixed(
            RFC2822
                | RFC3339
                | TimezoneOffset
                | TimezoneOffsetColon
                | TimezoneOffsetColonZ
                | TimezoneOffsetZ
                | TimezoneOffsetDoubleColon
                | TimezoneOffsetTripleColon
        )
    )
}

fn is_time(item: &Item) -> bool {
    use Numeric::{Hour, Hour12, Minute, Nanosecond, Second, Timestamp};
    match item {
        Item::Numeric(number, _) => matches!(number, Hour | Hour12 | Minute | Second | Nanosecond | Timestamp),
        Item::Fixed(word) => {
            !matches!(word, Fixed::ShortMonthName | Fixed::LongMonthName | Fixed::ShortWeekdayName | Fixed::LongWeekdayName)
        }
        _ => false,
    }
}

// Each of these gives what is left behind what it takes, or `None` where something else stands.

fn white_space(text: &str) -> Option<&str> {
    Some(text.trim_start()).filter(|rest| rest.len() < text.len())
}

fn number<'a>(text: &'a str, written: &str) -> Option<&'a str> {
    let text = text.trim_start();
    let sign = usize::from(text.starts_with(['+', '-']));
    let end = text[sign..].find(|c: char| !c.is_ascii_digit()).map_or(text.len(), |end| sign + end);
    let same = text[..end].parse::<i64>().ok()? == written.trim().parse::<i64>().ok()?;
    same.then(|| &text[end..])
}

fn fraction(text: &str, ns: i64) -> Option<&str> {
    let Some(digits) = text.strip_prefix('.') else { return (ns == 0).then_some(text) };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    (digits[..end].trim_end_matches('0') == format!("{ns:09}").trim_end_matches('0')).then(|| &digits[end..])
}

fn strip_name<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.get(..name.len()).filter(|start| start.eq_ignore_ascii_case(name)).map(|_| &text[name.len()..])
}

/// Behind an offset, which chrono has read: its spelling changes nothing.
fn offset_end(text: &str) -> &str {
    let text = text.trim_start();
    let hours = text.char_indices().nth(3).map_or("", |(at, _)| &text[at..]);
    let minutes = hours.trim_start().strip_prefix(':').unwrap_or(hours).trim_start();
    if minutes.len() >= 2 && minutes.as_bytes()[..2].iter().all(u8::is_ascii_digit) { &minutes[2..] } else { hours }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::clock::{Clock, iso};
    use proptest::prelude::*;

    fn read(pattern: &str, text: &str) -> Result<i64, String> {
        Pattern::new(pattern).expect("a pattern").parse(text, UTC)
    }

    #[test]
    fn what_is_free_changes_no_time() {
        let time = |text| iso(text, UTC);
        for (pattern, text, is) in [
            ("%m/%d/%Y", "1/5/2024", "2024-01-05"),
            ("%m/%d/%Y", "01/05/2024", "2024-01-05"),
            ("%m/%d/%Y", " 1/ 5/2024", "2024-01-05"),
            ("%b %e %Y", "oct  6 2013", "2013-10-06"),
            ("%B %d, %Y", "Oct 6, 2013", "2013-10-06"),
            ("%A, %B %d, %Y", "sunday, OCTOBER 06,   2013", "2013-10-06"),
            ("%Y%m%d %H%M%S", "20201120   130000", "2020-11-20 13:00"),
            ("%Y-%m-%d %H:%M:%S%.f", "2020-11-20 13:00:01.5", "2020-11-20 13:00:01.5"),
            ("%Y-%m-%d %H:%M:%S%.f", "2020-11-20 13:00:01.50000000000", "2020-11-20 13:00:01.5"),
            ("%Y-%m-%d %H:%M:%S%.3f", "2020-11-20 13:00:01", "2020-11-20 13:00:01"),
            ("%Y%m%d%H%M%S%3f", "20201120130001050", "2020-11-20 13:00:01.05"),
            ("%d.%m.%Y %I:%M %p", "6.10.2013 1:05 pm", "2013-10-06 13:05"),
            ("%Y-%m-%d %H:%M %z", "2013-10-06 13:05 +08:00", "2013-10-06 05:05"),
            ("%Y-%m-%d %H:%M%:z", "2013-10-06 13:05+0800", "2013-10-06 05:05"),
            ("%+", "2013-10-06T13:05:00.25+08:00", "2013-10-06 05:05:00.25"),
            ("%Y%m%e", "201310 6", "2013-10-06"),
        ] {
            assert_eq!(read(pattern, text), time(is), "{pattern} {text}");
        }
    }

    #[test]
    fn what_a_pattern_does_not_say_is_no_time() {
        for (pattern, text) in [
            ("%Y%m%d %H%M%S", "20201120 13000"),
            ("%Y%m%d %H%M%S", "20201120130000"),
            ("%Y%m%d %H%M%S", "20201120 00005"),
            ("%Y%m%d", "2013116"),
            ("%Y%m%d", "201311 6"),
            ("%Y%m%d", "2013 1106"),
            ("%Y%m%e", "2013106"),
            ("%Y-%m-%d %H:%M:%S%.f", "2020-11-20 13:00:01.1234567891"),
            ("%+", "2020-11-20T13:00:01.1234567891Z"),
            ("%Y-%m-%d %H:%M:%S", "2016-12-31 23:59:60"),
        ] {
            assert!(read(pattern, text).is_err(), "{pattern} {text} {:?}", read(pattern, text));
        }
    }

    #[test]
    fn a_pattern_that_cannot_be_trusted_is_refused() {
        let refused = |pattern: &str| Pattern::new(pattern).expect_err("no pattern");
        for pattern in ["%Y-%m-%d %H:%M:%S.%f", "%Y%m%d%H%M%S%f"] {
            assert!(refused(pattern).contains("write %.f"), "{}", refused(pattern));
        }
        assert!(refused("%Y-%m-%d %H:%M %Z").contains("%Z"));
        // 11 January or 1 November, 1:11 or 11:1; an offset that cannot be written; half a time.
        for pattern in ["%Y%-m%-d", "%Y-%m-%d %-H%M", "%Y-%m-%d %H:%M:%S%#z", "%Y%m%d %H", "%d %b", "%Q"] {
            refused(pattern);
        }
    }

    #[test]
    fn a_literal_percent_sign_is_no_item() {
        let shanghai = Zone::named("Asia/Shanghai").expect("a zone");
        for pattern in ["%Y-%m-%d %%s", "%Y-%m-%d %%z", "%Y-%m-%d %%Z", "%Y-%m-%d %%f"] {
            let clock = Clock::named(pattern).expect("a pattern");
            let text = pattern.replace("%Y-%m-%d", "2026-03-01").replace("%%", "%");
            assert_eq!(clock.parse(&text, shanghai, None), iso("2026-02-28 16:00Z", UTC), "{pattern}");
        }
    }

    const PATTERNS: [&str; 8] =
        ["%Y%m%d %H%M%S", "%Y%m%d%H%M%S%3f", "%m/%d/%Y %H:%M:%S%.f", "%d-%b-%y %I:%M:%S %p", "%Y-%m-%dT%H:%M:%S%.f%z", "%+", "%s", "%Y-%j"];

    proptest! {
        /// Whatever is accepted is the same time when it is written by the pattern and read again.
        #[test]
        fn what_is_accepted_reads_back(at in 0..PATTERNS.len(), ns in 0i64..4_000_000_000_000_000_000, cuts in prop::collection::vec((any::<prop::sample::Index>(), "[0-9 .:Z+-]{0,2}"), 0..3)) {
            let pattern = Pattern::new(PATTERNS[at]).expect("a pattern");
            let mut text = pattern.write(&DateTime::from_timestamp_nanos(ns).fixed_offset()).expect("writes").concat();
            for (at, put) in cuts {
                let at = at.index(text.len());
                text.replace_range(at..=at, &put);
            }
            if let Ok(time) = pattern.parse(&text, UTC) {
                let again = pattern.write(&DateTime::from_timestamp_nanos(time).fixed_offset()).expect("writes").concat();
                prop_assert_eq!(pattern.parse(&again, UTC), Ok(time), "{} then {}", text, again);
            }
        }

        #[test]
        fn digits_that_run_together_have_one_length(digits in "[0-9]{1,16}", space in 0usize..16) {
            let mut text = digits.clone();
            if space < text.len() {
                text.insert(space, ' ');
            }
            for (pattern, len) in [("%Y%m%d", 8), ("%Y%m%d%H%M", 12), ("%y%m%d", 6)] {
                prop_assert!(read(pattern, &text).is_err() || (text.trim() == digits && digits.len() == len && text == digits), "{} {}", pattern, text);
            }
        }

        #[test]
        fn no_text_panics(at in 0..PATTERNS.len(), text in "\\PC{0,40}") {
            let _ = read(PATTERNS[at], &text);
            let _ = Pattern::new(&text);
        }
    }
}
