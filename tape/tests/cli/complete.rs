//! Sources that declare their sequence complete: what is missing of them is found from the tables alone, and of no other source anything is asked.

use crate::feed::{self, RECORD_BYTES};
use crate::run::{Home, text};
use serde_json::Value;

/// Five symbols, so that a source's numbers lie in several partitions.
fn line(number: u64, symbol: u64) -> String {
    format!("{number},TOK{symbol},2026-10-05T14:30:00Z,2.81,{}\n", number % 7 + 1)
}

fn mapping(within: &str) -> String {
    let head = "family = \"trades\"\ndataset = \"T.FEED\"\nfields = [\"number\", \"contract\", \"time\", \"price\", \"lots\"]\n";
    let columns = "schema = { text = \"trades\" }\nsequence = { from = \"number\" }\nsymbol = { from = \"contract\" }\n\
         ts_event = { from = \"time\" }\nprice = { from = \"price\" }\nsize = { from = \"lots\" }\n";
    format!("{head}sequence_complete = \"{within}\"\n[columns]\n{columns}")
}

/// A home that has stored these lines under a mapping; what verification says of it, and its exit code.
fn verified(within: &str, lines: impl Iterator<Item = String>) -> (Option<i32>, Value) {
    let home = Home::embedded();
    let (feed, map) = (home.path("feed.csv"), home.path("feed.toml"));
    std::fs::write(&map, mapping(within)).expect("written");
    feed::write(&feed, &[b"number,contract,time,price,lots\n", lines.collect::<String>().as_bytes()].concat());
    home.ingest(&feed, &["--mapping", map.to_str().expect("UTF-8")]);
    store_and_verify(&home)
}

fn store_and_verify(home: &Home) -> (Option<i32>, Value) {
    let stored = home.run(&["store", "--once"], "");
    assert!(stored.status.success(), "{}", text(&stored));
    let output = home.run(&["verify", "--json"], "");
    let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
    (output.status.code(), said)
}

fn told(verified: &Value) -> Vec<(&str, &str)> {
    let findings = verified["findings"].as_array().expect("findings");
    findings.iter().map(|finding| (finding["kind"].as_str().expect("a kind"), finding["what"].as_str().expect("words"))).collect()
}

/// Given a feed that counts its records, when three of them are not in its file, then verification says which, and behind which record.
#[test]
fn a_hole_in_a_declared_sequence_is_found() {
    let (code, whole) = verified("source", (1..=200).map(|n| line(n, n % 5)));
    assert_eq!((code, told(&whole)), (Some(0), vec![]));
    let (code, holed) = verified("source", (1..=200).filter(|n| !(57..=59).contains(n)).map(|n| line(n, n % 5)));
    let [("incomplete", what)] = told(&holed)[..] else { panic!("{holed}") };
    assert!(what.contains("feed.csv") && what.contains("has no 57 to 59") && what.ends_with("behind its record 55"), "{what}");
    assert_eq!((code, holed["findings"][0]["table"].as_str()), (Some(1), Some("trades")));
}

/// Given a feed that counts the records of each symbol, then each symbol is looked at for itself.
#[test]
fn a_sequence_may_be_complete_within_each_symbol() {
    let counted = || (1..=40).flat_map(|n| (0..5).map(move |symbol| (n, symbol)));
    let (code, whole) = verified("symbol", counted().map(|(n, symbol)| line(n, symbol)));
    assert_eq!((code, told(&whole)), (Some(0), vec![]));
    let (code, holed) = verified("symbol", counted().filter(|at| *at != (8, 3)).map(|(n, symbol)| line(n, symbol)));
    let [("incomplete", what)] = told(&holed)[..] else { panic!("{holed}") };
    assert!(code == Some(1) && what.contains("symbol TOK3") && what.contains("has no 8: it is missing"), "{what}");
}

/// Given a DBN file from which records were filtered, and a CSV with holes that declares nothing, then nothing is asked of their sequences.
#[test]
fn a_source_that_declares_nothing_is_not_accused() {
    let home = Home::embedded();
    let whole = feed::dbn("T.DATA", 30);
    let (header, records) = whole.split_at(whole.len() - 30 * RECORD_BYTES);
    let odd: Vec<u8> = records.chunks(RECORD_BYTES).step_by(2).flatten().copied().collect();
    feed::write(&home.path("filtered.dbn"), &[header, &odd].concat());
    home.ingest(&home.path("filtered.dbn"), &[]);
    let rows = "dataset,symbol,ts_event,price,size,sequence\nT.DATA,TOK1,2026-10-05T14:30:00Z,2.81,7,1\nT.DATA,TOK1,2026-10-05T14:30:01Z,2.81,7,9\n";
    feed::write(&home.path("own.csv"), rows.as_bytes());
    home.ingest(&home.path("own.csv"), &[]);
    let (code, verified) = store_and_verify(&home);
    assert_eq!((code, told(&verified)), (Some(0), vec![]));
}

/// Given a mapping that declares a sequence that no column has, then it is refused with the name of the column.
#[test]
fn a_declared_sequence_needs_its_columns() {
    let home = Home::embedded();
    let map = home.path("own.toml");
    std::fs::write(&map, "family = \"trades\"\ndataset = \"T.FEED\"\nown_columns = true\nsequence_complete = \"symbol\"\n")
        .expect("written");
    feed::write(&home.path("own.csv"), b"symbol,ts_event,price\nTOK1,2026-10-05T14:30:00Z,2.81\n");
    let own = home.path("own.csv");
    let output = home.run(&["ingest", "--mapping", map.to_str().expect("UTF-8"), own.to_str().expect("UTF-8")], "");
    assert!(!output.status.success() && text(&output).contains("it has no column sequence"), "{}", text(&output));
}
