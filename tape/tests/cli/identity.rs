//! A file is what it contains: name and packing add nothing, growth adds its new rows, other bytes are another source.

use crate::counted;
use crate::feed;
use crate::run::{Home, text};
use serde_json::json;

fn content(rows: u64) -> Vec<u8> {
    [feed::HEADER.as_bytes(), &feed::csv(0, rows)].concat()
}

#[test]
fn the_same_bytes_under_any_name_and_packing_are_stored_once() {
    let home = Home::embedded();
    let plain = content(1_000);
    let forms = [
        ("a.csv", plain.clone()),
        ("b.txt", plain.clone()),
        ("c.csv.gz", feed::gz(&plain)),
        ("d.csv.zst", feed::zst(&plain)),
        ("e.csv.gz.zst", feed::zst(&feed::gz(&plain))),
        ("f.zip", feed::zip("inner.csv", &plain)),
        ("no-suffix", feed::gz(&plain)),
    ];
    let mut ids = Vec::new();
    for (at, (name, bytes)) in forms.iter().enumerate() {
        feed::write(&home.path(name), bytes);
        let ingested = home.ingest(&home.path(name), &[]);
        assert_eq!(ingested.code, 0, "{name}: {}", ingested.report);
        assert_eq!(ingested.published(), if at == 0 { 1_000 } else { 0 }, "{name}: {}", ingested.report);
        assert_eq!(ingested.report["files"][0]["outcome"], if at == 0 { "done" } else { "known" }, "{name}");
        ids.extend(ingested.source_ids());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    home.store();
    let question = "SELECT (SELECT count(*) FROM trades) AS trades, (SELECT count(*) FROM sources) AS sources";
    assert_eq!(counted(&home, question), json!({ "trades": 1_000, "sources": 1 }));
}

#[test]
fn a_grown_file_yields_its_new_rows_in_any_packing() {
    let home = Home::embedded();
    for (at, (rows, name)) in [(100, "t.csv"), (250, "t.csv"), (70_000, "t.csv.gz"), (140_000, "other.zip")].into_iter().enumerate() {
        let plain = content(rows);
        let bytes = match name {
            "t.csv" => plain,
            "t.csv.gz" => feed::gz(&plain),
            _ => feed::zip("t.csv", &plain),
        };
        feed::write(&home.path(name), &bytes);
        let ingested = home.ingest(&home.path(name), &[]);
        let before = [0, 100, 250, 70_000][at];
        assert_eq!(ingested.published(), rows - before, "{name}: {}", ingested.report);
        assert_eq!(ingested.report["files"][0]["known"], before);
    }
    home.store();
    let question = "SELECT count(*) AS n, count(DISTINCT source_record) AS places, count(DISTINCT source_id) AS sources FROM trades";
    assert_eq!(counted(&home, question), json!({ "n": 140_000, "places": 140_000, "sources": 1 }));
}

#[test]
fn other_bytes_under_the_same_name_are_a_new_source_and_it_is_said() {
    let home = Home::embedded();
    let path = home.path("daily.csv");
    feed::write(&path, &content(10));
    home.ingest(&path, &[]);
    feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(10, 15)].concat());
    let output = home.run(&["ingest", path.to_str().expect("UTF-8")], "");
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        text(&output).contains("daily.csv: a source of this name was read before with other content: this is a new source"),
        "{}",
        text(&output)
    );
    home.store();
    let question = "SELECT count(*) AS n, count(DISTINCT source_id) AS sources FROM trades";
    assert_eq!(counted(&home, question), json!({ "n": 15, "sources": 2 }));
}

/// A source that ends inside the part that another run has read: it might be a cut copy, so it is refused until it is said to be none.
#[test]
fn a_shorter_source_is_refused_until_it_is_said_to_be_another() {
    let home = Home::embedded();
    let (long, short) = (home.path("long.csv"), home.path("short.csv"));
    // Both have the first chunk in common, so that all of the content must tell them apart.
    feed::write(&long, &content(70_000));
    feed::write(&short, &content(68_000));
    assert_eq!(home.ingest(&long, &[]).published(), 70_000);
    let refused = home.run(&["ingest", short.to_str().expect("UTF-8")], "");
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("an older or a cut copy") && text(&refused).contains("--another-source"), "{}", text(&refused));
    assert_eq!(home.ingest(&short, &["--another-source"]).published(), 68_000);
    for flags in [&["--another-source"][..], &[]] {
        let again = home.ingest(&short, flags);
        assert_eq!((again.code, again.published()), (0, 0), "{}", again.report);
    }
    feed::write(&short, &content(69_000));
    assert_eq!(home.ingest(&short, &[]).published(), 1_000, "it grows like any other");
    home.store();
    let question = "SELECT count(*) AS n, count(DISTINCT source_id) AS sources FROM trades";
    assert_eq!(counted(&home, question), json!({ "n": 139_000, "sources": 2 }));
}
