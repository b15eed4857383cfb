//! Text to exact decimal and back: no float ever stands between a source's digits and a stored number.

/// Why a text is not a number that the column can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotExact {
    /// Not a decimal number.
    #[error("not a number: {0:?}, expected digits such as 2.81")]
    NotANumber(String),
    /// More digits after the point than the column keeps.
    #[error("{0} has digits beyond the {1} that the column keeps")]
    TooFine(String, u32),
    /// Larger than the column's range.
    #[error("{0} is beyond the range of DECIMAL({1},{2})")]
    OutOfRange(String, u8, u32),
}

/// Parses `text` (optional sign, digits, point, exponent) as the unscaled value of `DECIMAL(precision, scale)`, or says why it is not one.
/// `shift` multiplies by a power of ten on the way: 6 turns a price per token into a price per million tokens.
///
/// ```
/// # use schemas::exact::parse;
/// assert_eq!(parse("2.81", 18, 9, 0), Ok(2_810_000_000));
/// assert_eq!(parse("1.5e-7", 18, 9, 6), Ok(150_000_000)); // 0.15 per million
/// ```
pub fn parse(text: &str, precision: u8, scale: u32, shift: i32) -> Result<i128, NotExact> {
    let not_a_number = || NotExact::NotANumber(text.chars().take(64).collect());
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i32>().map_err(|_| not_a_number())?),
        None => (text, 0),
    };
    let (negative, unsigned) = match mantissa.as_bytes().first() {
        Some(b'-') => (true, &mantissa[1..]),
        Some(b'+') => (false, &mantissa[1..]),
        _ => (false, mantissa),
    };
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    if (whole.is_empty() && fraction.is_empty()) || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return Err(not_a_number());
    }
    let out_of_range = || NotExact::OutOfRange(text.chars().take(64).collect(), precision, scale);
    // The value is digits × 10^power; the column holds it as an integer × 10^-scale.
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').skip_while(|d| *d == 0).collect();
    if digits.is_empty() {
        return Ok(0);
    }
    let power = i64::from(exponent) + i64::from(shift) + i64::from(scale) - fraction.len() as i64;
    let kept = match usize::try_from(-power) {
        Ok(cut) if cut > 0 => {
            let keep = digits.len().saturating_sub(cut);
            if digits[keep..].iter().any(|d| *d != 0) || cut > digits.len() {
                return Err(NotExact::TooFine(text.chars().take(64).collect(), scale));
            }
            &digits[..keep]
        }
        _ => &digits[..],
    };
    let zeros = power.max(0);
    if kept.len() as i64 + zeros > i64::from(precision) {
        return Err(out_of_range());
    }
    let value = kept.iter().fold(0i128, |sum, d| sum * 10 + i128::from(*d)) * 10i128.pow(zeros as u32);
    Ok(if negative { -value } else { value })
}

/// The unscaled value as text with `scale` digits after the point: `2810000000` at 9 is `2.810000000`.
pub fn print(value: i128, scale: u32) -> String {
    let digits = format!("{:0width$}", value.unsigned_abs(), width = scale as usize + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
    let sign = if value < 0 { "-" } else { "" };
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// True when the unscaled value fits the precision.
pub fn fits(value: i128, precision: u8) -> bool {
    value.unsigned_abs() < 10u128.pow(u32::from(precision))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn exact_numbers_and_their_refusals() {
        assert_eq!(parse("12870.0000", 18, 9, 0), Ok(12_870_000_000_000));
        assert_eq!(parse("-0.5", 18, 9, 0), Ok(-500_000_000));
        assert_eq!(parse(".5", 18, 9, 0), Ok(500_000_000));
        assert_eq!(parse("1e-06", 18, 9, 6), Ok(1_000_000_000));
        assert_eq!(parse("3e-05", 18, 9, 6), Ok(30_000_000_000));
        assert_eq!(parse("140000000000001", 38, 0, 0), Ok(140_000_000_000_001));
        assert_eq!(parse("0.0000000000", 18, 9, 0), Ok(0));
        assert!(matches!(parse("0.0000000001", 18, 9, 0), Err(NotExact::TooFine(..))));
        assert!(matches!(parse("1e-40", 18, 9, 0), Err(NotExact::TooFine(..))));
        assert!(matches!(parse("1000000000", 18, 9, 0), Err(NotExact::OutOfRange(..))));
        assert!(matches!(parse("1e400", 18, 9, 0), Err(NotExact::OutOfRange(..))));
        for bad in ["", "-", ".", "inf", "NaN", "1,5", "1.2.3", "0x10", "1e", "１", " 1"] {
            assert!(matches!(parse(bad, 18, 9, 0), Err(NotExact::NotANumber(_))), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_back(value in -999_999_999_999_999_999i128..=999_999_999_999_999_999) {
            prop_assert_eq!(parse(&print(value, 9), 18, 9, 0), Ok(value));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = parse(&text, 38, 18, 6);
        }

        #[test]
        fn no_number_shaped_text_panics(text in "[-+0-9.eE]{0,30}") {
            let _ = parse(&text, 38, 9, -3);
        }
    }
}
