//! Which of several media types a client takes best, by its `Accept` header (RFC 9110, 12.5.1).

/// The position in `offered` of what `accept` weighs highest, the first of equals; `None` where it takes none. An empty header takes all.
/// Of an offered type with a parameter (`text/plain; charset=utf-8`) the name alone counts.
pub fn preferred(accept: &str, offered: &[&str]) -> Option<usize> {
    let ranges: Vec<Range> = accept.split(',').filter_map(Range::parse).collect();
    if ranges.is_empty() {
        return Some(0);
    }
    let weighed = offered.iter().enumerate().map(|(at, name)| (at, weight(&ranges, name)));
    weighed.filter(|(_, weight)| *weight > 0).reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(at, _)| at)
}

/// One member of the list.
struct Range {
    /// In small letters, without parameters.
    name: String,
    /// Thousandths.
    weight: u16,
}

impl Range {
    fn parse(text: &str) -> Option<Range> {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?.to_ascii_lowercase();
        let given = parts.find_map(|part| part.split_once('=').filter(|(key, _)| key.trim().eq_ignore_ascii_case("q")));
        let weight = given.map_or(Some(1000), |(_, weight)| thousandths(weight.trim()));
        // A weight that is none takes its member out, not the whole header.
        Some(Range { name, weight: weight? })
    }

    /// How precisely it names this type: exactly, by its first half, or as anything; `None` where it does not.
    fn precision(&self, name: &str) -> Option<u8> {
        let half = self.name.strip_suffix("/*");
        match half {
            Some("*") => Some(0),
            Some(half) => name.split_once('/').is_some_and(|(first, _)| first == half).then_some(1),
            None => (self.name == name).then_some(2),
        }
    }
}

/// The weight of the range that names the type most precisely.
fn weight(ranges: &[Range], offered: &str) -> u16 {
    let name = offered.split(';').next().unwrap_or(offered).trim();
    let named = ranges.iter().filter_map(|range| Some((range.precision(name)?, range.weight)));
    named.max().map_or(0, |(_, weight)| weight)
}

/// `1`, `0.8`, `0.333`: at most three digits after the point.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let fits = matches!(whole, "0" | "1") && part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit());
    let weight: u16 = format!("{whole}{part:0<3}").parse().ok().filter(|_| fits)?;
    (weight <= 1000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_a_usual_client_is_understood() {
        let offered = ["application/json", "text/csv", "text/plain; charset=utf-8"];
        for (accept, best) in [
            ("", Some(0)),
            ("*/*", Some(0)),
            ("text/csv", Some(1)),
            ("Text/CSV; header=present", Some(1)),
            ("text/csv;q=0.5, application/json;q=0.4", Some(1)),
            ("application/json, text/csv", Some(0)),
            ("text/csv, application/json", Some(0)),
            ("text/html, application/xhtml+xml, text/plain;q=0.9, */*;q=0.8", Some(2)),
            ("text/*", Some(1)),
            ("text/*;q=0.5, text/csv;q=0.1", Some(2)),
            ("*/*, application/json;q=0", Some(1)),
            ("text/csv;q=0", None),
            ("image/png", None),
            ("text/csv;q=2, text/plain;q=0.001", Some(2)),
            (" , text/csv ; Q=1.000 ,", Some(1)),
        ] {
            assert_eq!(preferred(accept, &offered), best, "{accept:?}");
        }
    }
}
