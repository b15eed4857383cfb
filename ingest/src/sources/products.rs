//! Which Chinese futures exchange a contract belongs to: the product letters at the beginning of its symbol.

/// An exchange that distributes its market through the CTP interface, and what its records leave out.
#[derive(Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Dataset code of its CTP snapshots.
    pub dataset: &'static str,
    /// Prices, limits and deltas that it writes as zero where it has none.
    pub zero_is_absent: bool,
    /// Products, in the exchange's own spelling.
    pub products: &'static [&'static str],
}

/// Every exchange and its products.
///
/// Common knowledge of the market, not read off the exchanges' pages: `ru` and `AP` are checked against real files, the others by nobody.
/// Codes are ISO 10383 MICs, but GFEX's own. CFFEX's option products (IO, MO, HO) are listed with its futures. A product that is not here asks
/// for `--dataset`, which wins over this table. "Zero is absent" is measured on CZCE files of 2020.
pub const EXCHANGES: [Exchange; 6] = [
    Exchange {
        dataset: "XSGE.CTP",
        zero_is_absent: false,
        products: &["cu", "al", "zn", "pb", "ni", "sn", "au", "ag", "rb", "wr", "hc", "ss", "fu", "bu", "ru", "sp", "ao", "br", "ad", "op"],
    },
    Exchange { dataset: "XINE.CTP", zero_is_absent: false, products: &["sc", "lu", "nr", "bc", "ec"] },
    Exchange {
        dataset: "XZCE.CTP",
        zero_is_absent: true,
        products: &[
            "AP", "CF", "CJ", "CY", "FG", "JR", "LR", "MA", "OI", "PF", "PK", "PL", "PM", "PR", "PX", "RI", "RM", "RS", "SA", "SF", "SH",
            "SM", "SR", "TA", "UR", "WH", "ZC",
        ],
    },
    Exchange {
        dataset: "XDCE.CTP",
        zero_is_absent: false,
        products: &[
            "a", "b", "bb", "bz", "c", "cs", "eb", "eg", "fb", "i", "j", "jd", "jm", "l", "lg", "lh", "m", "p", "pg", "pp", "rr", "v", "y",
        ],
    },
    Exchange { dataset: "CCFX.CTP", zero_is_absent: false, products: &["IF", "IC", "IH", "IM", "T", "TF", "TS", "TL", "IO", "MO", "HO"] },
    Exchange { dataset: "GFEX.CTP", zero_is_absent: false, products: &["si", "lc", "ps"] },
];

/// The exchange of a contract symbol such as `ru1901`, `AP010` or `m2501-C-3000`.
pub fn exchange(symbol: &str) -> Option<&'static Exchange> {
    let letters = symbol.find(|c: char| !c.is_ascii_alphabetic())?;
    symbol.as_bytes()[letters].is_ascii_digit().then_some(())?;
    EXCHANGES.iter().find(|exchange| exchange.products.contains(&&symbol[..letters]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_find_their_exchange_by_spelling() {
        let dataset = |symbol| exchange(symbol).map(|e| e.dataset);
        assert_eq!(dataset("ru1901"), Some("XSGE.CTP"));
        assert_eq!(dataset("AP010"), Some("XZCE.CTP"));
        assert_eq!(dataset("sc2512"), Some("XINE.CTP"));
        assert_eq!(dataset("m2501-C-3000"), Some("XDCE.CTP"));
        assert_eq!(dataset("T2512"), Some("CCFX.CTP"));
        for unknown in ["tk2612", "RU1901", "ru", "", "1901", "橡胶1901", "ru-1901"] {
            assert_eq!(dataset(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn no_product_is_listed_twice_and_no_dataset_is_too_long() {
        let all: Vec<&str> = EXCHANGES.iter().flat_map(|e| e.products.iter().copied()).collect();
        assert!(all.iter().enumerate().all(|(at, product)| !all[..at].contains(product)));
        assert!(EXCHANGES.iter().all(|e| e.dataset.len() <= 15));
    }
}
