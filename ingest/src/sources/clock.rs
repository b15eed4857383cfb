//! Time texts of the sources to nanoseconds UTC: exact, or refused with the reason.

mod pattern;

use chrono::{NaiveDate, TimeZone, offset::LocalResult};
use pattern::Pattern;

const NS_PER_S: i64 = 1_000_000_000;
const S_PER_DAY: i64 = 86_400;

/// Nanoseconds of a day.
pub const NS_PER_DAY: i64 = S_PER_DAY * NS_PER_S;

/// How a source writes times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clock {
    /// ISO 8601: a date, or date and time with up to nine fraction digits, with `Z`, an offset, or nothing (then in the source's zone).
    Iso,
    /// Milliseconds since midnight of a day that the path names, on the zone's wall clock.
    MsOfDay,
    /// Seconds, milliseconds or nanoseconds since 1970 UTC: how many nanoseconds one is.
    Unix(i64),
    /// A date and time by a pattern of `chrono`'s, for example `%Y%m%d %H:%M`.
    Pattern(Pattern),
}

impl Clock {
    /// The clock that a mapping names, or what is wrong with the name.
    pub fn named(name: &str) -> Result<Clock, String> {
        Ok(match name {
            "iso" => Clock::Iso,
            "ms_of_day" => Clock::MsOfDay,
            "unix_s" => Clock::Unix(NS_PER_S),
            "unix_ms" => Clock::Unix(1_000_000),
            "unix_us" => Clock::Unix(1_000),
            "unix_ns" => Clock::Unix(1),
            pattern if pattern.contains('%') => {
                Clock::Pattern(Pattern::new(pattern).map_err(|why| format!("clock {name:?} is not known: {why}"))?)
            }
            _ => return Err(format!("clock {name:?} is not known; there are {}", Clock::NAMES)),
        })
    }

    /// The names that [`Clock::named`] knows, for messages.
    pub const NAMES: &str = "iso, ms_of_day, unix_s, unix_ms, unix_us, unix_ns, or a pattern such as %Y%m%d %H:%M";

    /// Nanoseconds UTC of a text. `day` is the day of [`Clock::MsOfDay`].
    pub fn parse(&self, text: &str, zone: Zone, day: Option<NaiveDate>) -> Result<i64, String> {
        match self {
            Clock::Iso => iso(text, zone),
            Clock::MsOfDay => {
                let day = day.ok_or("is a time of day, and no part of the path names the day")?;
                let ms: i64 = text.parse().map_err(|_| not_a_time(text, "milliseconds since midnight"))?;
                if !(0..=S_PER_DAY * 1000).contains(&ms) {
                    return Err(format!("{text} milliseconds are not in a day"));
                }
                zone.to_utc(seconds(day) + ms / 1000, (ms % 1000) * 1_000_000)
            }
            Clock::Unix(ns) => {
                let units: i64 = text.parse().map_err(|_| not_a_time(text, "a count since 1970"))?;
                units.checked_mul(*ns).ok_or_else(|| out_of_range(text))
            }
            Clock::Pattern(pattern) => pattern.parse(text, zone),
        }
    }
}

/// The zone of times that do not state one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// Always so many seconds ahead of UTC.
    Fixed(i64),
    /// A zone of the tz database.
    Tz(chrono_tz::Tz),
}

/// UTC.
pub const UTC: Zone = Zone::Fixed(0);

/// Shanghai since 1992: UTC+8 without daylight saving (tz database). For the parsers of exchanges that began later; of any other time
/// `Zone::named("Asia/Shanghai")` knows.
pub const SHANGHAI: Zone = Zone::Fixed(8 * 3600);

impl Zone {
    /// The zone with this name in the tz database.
    pub fn named(name: &str) -> Option<Zone> {
        match name {
            "UTC" => Some(UTC),
            _ => name.parse().ok().map(Zone::Tz),
        }
    }

    /// Nanoseconds UTC of a wall-clock time, given as if it were UTC.
    fn to_utc(self, local_s: i64, ns: i64) -> Result<i64, String> {
        let utc_s = match self {
            Zone::Fixed(ahead) => local_s - ahead,
            Zone::Tz(tz) => {
                let local = chrono::DateTime::from_timestamp(local_s, 0).ok_or_else(|| out_of_range("the time"))?.naive_utc();
                match tz.from_local_datetime(&local) {
                    LocalResult::Single(time) => time.timestamp(),
                    LocalResult::None => return Err(format!("{local} does not exist in {tz}: the clock was set forward")),
                    LocalResult::Ambiguous(..) => return Err(format!("{local} exists twice in {tz}: the clock was set back")),
                }
            }
        };
        utc_s.checked_mul(NS_PER_S).and_then(|time| time.checked_add(ns)).ok_or_else(|| out_of_range("the time"))
    }
}

/// Days since 1970 of a nanosecond time.
pub fn date_of(ns: i64) -> i32 {
    i32::try_from(ns.div_euclid(NS_PER_DAY)).expect("an i64 of nanoseconds spans fewer days than an i32 holds")
}

/// A calendar date, as `20181009` or `2018-10-09`.
pub fn date(text: &str) -> Result<NaiveDate, String> {
    let fail = || format!("{:?} is not a date, expected YYYYMMDD or YYYY-MM-DD", shortened(text));
    let b = text.as_bytes();
    let (month_at, day_at) = match b {
        [_, _, _, _, b'-', _, _, b'-', _, _] => (5, 8),
        [_, _, _, _, _, _, _, _] => (4, 6),
        _ => return Err(fail()),
    };
    let part = |from: usize, len: usize| digits(&b[from..from + len]);
    let ymd = part(0, 4).zip(part(month_at, 2)).zip(part(day_at, 2));
    ymd.and_then(|((y, m), d)| NaiveDate::from_ymd_opt(y as i32, m as u32, d as u32)).ok_or_else(fail)
}

/// Days since 1970 of a date.
pub fn days(date: NaiveDate) -> i32 {
    use chrono::Datelike;
    date.num_days_from_ce() - 719_163
}

fn seconds(date: NaiveDate) -> i64 {
    i64::from(days(date)) * S_PER_DAY
}

/// Nanoseconds UTC of a day's wall-clock time `HH:MM:SS` and milliseconds in Shanghai.
pub fn shanghai(day: NaiveDate, time: &str, ms: i64) -> Result<i64, String> {
    let s = time_of_day(time.as_bytes()).ok_or_else(|| not_a_time(time, "HH:MM:SS"))?;
    SHANGHAI.to_utc(seconds(day) + s, ms * 1_000_000)
}

fn time_of_day(b: &[u8]) -> Option<i64> {
    let (h, m, s) = match b {
        [_, _, b':', _, _, b':', _, _] => (digits(&b[..2])?, digits(&b[3..5])?, digits(&b[6..8])?),
        [_, _, b':', _, _] => (digits(&b[..2])?, digits(&b[3..5])?, 0),
        _ => return None,
    };
    (h < 24 && m < 60 && s < 60).then_some(h * 3600 + m * 60 + s)
}

fn digits(b: &[u8]) -> Option<i64> {
    b.iter().try_fold(0i64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

fn iso(text: &str, zone: Zone) -> Result<i64, String> {
    let fail = || not_a_time(text, "YYYY-MM-DD[ HH:MM[:SS[.fraction]]][Z or +HH:MM]");
    let split = text.find(['T', ' ']).unwrap_or(text.len());
    let day = date(&text[..split]).map_err(|_| fail())?;
    if split == text.len() {
        return zone.to_utc(seconds(day), 0);
    }
    let (clock, zone) = zone_suffix(&text[split + 1..], zone).ok_or_else(fail)?;
    let (clock, fraction) = match clock.split_once('.') {
        // To ISO 8601 `09:30.5` is 09:30:30, to others 09:30:00.5.
        Some((clock, _)) if clock.len() < "HH:MM:SS".len() => {
            return Err(format!("{:?} has a fraction without seconds, expected HH:MM:SS.fraction", shortened(text)));
        }
        split => split.unwrap_or((clock, "0")),
    };
    let s = time_of_day(clock.as_bytes()).ok_or_else(fail)?;
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err(format!("{:?} is finer than a nanosecond", shortened(text)));
    }
    let ns = digits(fraction.as_bytes()).ok_or_else(fail)? * 10i64.pow(9 - fraction.len() as u32);
    zone.to_utc(seconds(day) + s, ns)
}

/// Cuts off `Z` or an offset, where there is one.
fn zone_suffix(clock: &str, zone: Zone) -> Option<(&str, Zone)> {
    if let Some(clock) = clock.strip_suffix('Z').or_else(|| clock.strip_suffix(" UTC")) {
        return Some((clock, UTC));
    }
    let Some(at) = clock.rfind(['+', '-']) else { return Some((clock, zone)) };
    let b = &clock.as_bytes()[at + 1..];
    let (h, m) = match b {
        [_, _, b':', _, _] => (digits(&b[..2])?, digits(&b[3..])?),
        [_, _, _, _] => (digits(&b[..2])?, digits(&b[2..])?),
        [_, _] => (digits(b)?, 0),
        _ => return None,
    };
    let ahead = (h * 60 + m) * 60;
    let ahead = if clock.as_bytes()[at] == b'-' { -ahead } else { ahead };
    (h < 24 && m < 60).then_some((clock[..at].trim_end(), Zone::Fixed(ahead)))
}

fn not_a_time(text: &str, expected: &str) -> String {
    format!("{:?} is not a time, expected {expected}", shortened(text))
}

fn out_of_range(text: &str) -> String {
    format!("{} is beyond the years 1678 to 2261 that nanoseconds reach", shortened(text))
}

/// Enough of a value to recognise it in a message.
pub fn shortened(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_worked_times_of_the_domain_notes() {
        let day = |text| date(text).unwrap();
        let iso_utc = |text| iso(text, UTC).unwrap();
        assert_eq!(shanghai(day("20261009"), "21:00:00", 0), Ok(iso_utc("2026-10-09T13:00:00Z")));
        assert_eq!(shanghai(day("20261012"), "15:00:00", 0), Ok(iso_utc("2026-10-12T07:00")));
        let chicago = Zone::named("America/Chicago").unwrap();
        assert_eq!(iso("2026-10-11 17:00", chicago), Ok(iso_utc("2026-10-11 22:00")));
        assert_eq!(iso("2026-11-01 17:00", chicago), Ok(iso_utc("2026-11-01 23:00")));
        assert_eq!(
            Clock::MsOfDay.parse("8100000", Zone::named("Europe/Berlin").unwrap(), Some(day("20240603"))),
            Ok(iso_utc("2024-06-03 00:15"))
        );
    }

    #[test]
    fn fractions_offsets_and_dates() {
        assert_eq!(iso("2023-11-16 18:17:03.9799600", UTC), Ok(1_700_158_623_979_960_000));
        assert_eq!(iso("2024-05-10 00:00:00.009930+00:00", UTC), Ok(1_715_299_200_009_930_000));
        assert_eq!(iso("2026-03-01", SHANGHAI), iso("2026-03-01T00:00:00+08:00", UTC));
        assert_eq!(iso("2026-03-01", SHANGHAI), iso("2026-02-28 16:00Z", UTC));
        assert_eq!(iso("1969-12-31T23:59:59.999999999Z", UTC), Ok(-1));
        assert_eq!(date_of(-1), -1);
        assert_eq!(Clock::named("%Y%m%d %H:%M").unwrap().parse("20131006 22:00", UTC, None), iso("2013-10-06 22:00", UTC));
        assert_eq!(Clock::named("%d.%m.%Y").unwrap().parse("06.10.2013", SHANGHAI, None), iso("2013-10-05 16:00", UTC));
        assert_eq!(Clock::named("%b %d, %Y").unwrap().parse("Oct 06, 2013", UTC, None), iso("2013-10-06", UTC));
        assert_eq!(Clock::named("unix_ms").unwrap().parse("1538960400500", UTC, None), Ok(1_538_960_400_500_000_000));
    }

    #[test]
    fn shanghai_had_daylight_saving() {
        let shanghai = Zone::named("Asia/Shanghai").unwrap();
        assert_eq!(iso("1988-07-01 10:00:00", shanghai), iso("1988-07-01 01:00Z", UTC));
        assert_eq!(iso("1988-01-01 10:00:00", shanghai), iso("1988-01-01 02:00Z", UTC));
        for text in ["1992-07-01 10:00", "2026-07-01 10:00"] {
            assert_eq!(iso(text, shanghai), iso(text, SHANGHAI), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2026-13-01",
            "2026-02-30",
            "2026-01-01 24:00",
            "2026-01-01 10:60",
            "20260101x",
            "2026-01-01T10:00:00.0000000001",
            "9999-01-01",
            "2026-01-01 10:00+99:00",
            "2026-01-01 09:30.5",
            "2026-01-01T09:30.5Z",
            "2026-01-01 09:30.",
        ] {
            assert!(iso(text, UTC).is_err(), "{text}");
        }
        let new_york = Zone::named("America/New_York").unwrap();
        assert!(iso("2026-03-08 02:30", new_york).unwrap_err().contains("does not exist"));
        assert!(iso("2026-11-01 01:30", new_york).unwrap_err().contains("exists twice"));
        assert!(Clock::MsOfDay.parse("1", UTC, None).is_err());
        assert!(Clock::named("yesterday").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}", shaped in "[-0-9T :.Z+]{0,36}") {
            let berlin = Zone::named("Europe/Berlin").unwrap();
            for text in [text, shaped] {
                for clock in [Clock::Iso, Clock::MsOfDay, Clock::Unix(NS_PER_S), Clock::named("%Y%m%d %H:%M").unwrap()] {
                    let _ = clock.parse(&text, berlin, NaiveDate::from_ymd_opt(2024, 6, 3));
                }
                let _ = date(&text);
            }
        }
    }

    #[test]
    fn a_pattern_honours_the_offset_that_a_time_states() {
        let clock = Clock::named("%Y-%m-%dT%H:%M:%S%z").expect("a pattern");
        let ns = |text: &str| clock.parse(text, SHANGHAI, None);
        assert_eq!(ns("2026-01-02T08:00:00+0800"), ns("2026-01-02T00:00:00+0000"));
        assert_eq!(ns("2026-01-02T00:00:00+0000"), Clock::Iso.parse("2026-01-02T00:00:00Z", SHANGHAI, None));
        assert!(ns("2026-01-02T00:00:00").is_err(), "no offset");
        assert!(ns("2026-06-30T23:59:60+0000").is_err(), "a leap second");
        let seconds = Clock::named("%s").expect("a pattern");
        assert_eq!(seconds.parse("1795188600", SHANGHAI, None), Ok(1_795_188_600 * NS_PER_S));
    }
}
