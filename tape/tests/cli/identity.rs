//! A file is what it contains: name and packing add nothing, growth adds its new rows, other bytes are another source.

use crate::counted;
use crate::feed;
use crate::run::{self, Home, text};
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
    let refused = home.run(&["ingest", short.to_str().expect("UTF-8")], "");
    assert_eq!(refused.status.code(), Some(3), "it may be a cut copy of the long one still: {}", text(&refused));
    assert_eq!(home.ingest(&short, &["--another-source"]).published(), 1_000, "it grows like any other");
    home.store();
    let question = "SELECT count(*) AS n, count(DISTINCT source_id) AS sources FROM trades";
    assert_eq!(counted(&home, question), json!({ "n": 139_000, "sources": 2 }));
}

/// Told by hand what it is, an old copy of a grown source is a source of its own, and moves the position of no other.
#[test]
fn an_old_copy_that_is_said_to_be_another_source_has_a_name_of_its_own() {
    let home = Home::embedded();
    let (live, old) = (home.path("live.csv"), home.path("old.csv"));
    feed::write(&old, &content(100));
    feed::write(&live, &content(100));
    assert_eq!(home.ingest(&live, &[]).published(), 100);
    feed::write(&live, &content(150));
    assert_eq!(home.ingest(&live, &[]).published(), 50);
    feed::write(&old, &content(120));
    assert_eq!(home.ingest(&old, &["--another-source"]).published(), 120);
    assert_eq!(home.ingest(&live, &[]).published(), 0);
    home.store();
    let question = "SELECT count(*) AS n, count(DISTINCT source_id) AS sources FROM trades";
    assert_eq!(counted(&home, question), json!({ "n": 270, "sources": 2 }));
}

/// A last line without its end is a record, until it turns out to go on: then what it says at last corrects what it said.
#[test]
fn a_line_that_went_on_after_it_was_read_is_corrected() {
    let whole = content(10);
    let size_at = whole.iter().rposition(|byte| *byte == b',').expect("the size is the last field");
    // Cut behind the size or before it, so that the part is a record, or none.
    for (cut, parts_published, in_quarantine) in [(whole.len() - 1, 10, 0), (size_at - 20, 9, 1)] {
        let home = Home::embedded();
        let path = home.path("t.csv");
        feed::write(&path, &whole[..cut]);
        assert_eq!(home.ingest(&path, &[]).published(), parts_published + in_quarantine, "cut at byte {cut}");
        let mut grown = whole[..whole.len() - 1].to_vec();
        // One digit more for the size, and one row more.
        grown.extend_from_slice(&[b"7\n", &feed::csv(10, 11)[..]].concat());
        feed::write(&path, &grown);
        let again = home.ingest(&path, &[]);
        assert_eq!(again.published(), 2, "{}", again.report);
        home.store();
        let question = "SELECT count(*) AS n, count(DISTINCT source_record) AS records, sum(CASE WHEN change = 'correct' THEN 1 ELSE 0 END) AS corrected \
                        FROM trades";
        assert_eq!(counted(&home, question), json!({ "n": parts_published + 2, "records": 11, "corrected": 1 }));
        let question = "SELECT revision, supersedes FROM trades WHERE change = 'correct'";
        assert_eq!(counted(&home, question), json!({ "revision": 1, "supersedes": 0 }));
        let question = "SELECT sum(size) AS n FROM (SELECT size, row_number() OVER (PARTITION BY source_record ORDER BY revision DESC) AS newest FROM trades) \
                        WHERE newest = 1";
        let sizes: u64 = (0..11).map(|n| u64::from(feed::trade(n).1)).sum();
        let last = u64::from(feed::trade(9).1);
        assert_eq!(counted(&home, question), json!({ "n": sizes - last + last * 10 + 7 }));
    }
}

#[test]
fn a_damaged_copy_of_what_is_known_is_said_to_be_damaged() {
    let home = Home::embedded();
    let (whole, cut) = (home.path("whole.csv.zst"), home.path("cut.csv.zst"));
    let packed = feed::zst(&content(5_000));
    feed::write(&whole, &packed);
    feed::write(&cut, &packed[..packed.len() / 2]);
    assert_eq!(home.ingest(&whole, &[]).published(), 5_000);
    let damaged = home.run(&["ingest", cut.to_str().expect("UTF-8")], "");
    assert_ne!(damaged.status.code(), Some(0), "{}", text(&damaged));
    home.store();
    assert_eq!(counted(&home, "SELECT count(*) AS n FROM trades"), json!({ "n": 5_000 }));
}

/// A checksum comes last: what a damaged packing unpacks to is not published, or the whole file would be another source beside it.
#[test]
fn a_damaged_packing_is_refused_and_its_good_copy_is_stored_once() {
    let plain = content(5_000);
    let stored = feed::zip_stored("t.csv", &plain);
    let at = stored.windows(4).position(|bytes| bytes == b"2.01").expect("a price");
    let mut damaged_zip = stored.clone();
    damaged_zip[at] = b'3';
    // The member's packed bytes end early, though all of them are there.
    let mut endless_zip = feed::zip("t.csv", &plain);
    let middle = endless_zip.len() / 2;
    endless_zip[middle..middle + 200].fill(0xaa);
    let mut damaged_gz = feed::gz(&plain);
    let checksum_at = damaged_gz.len() - 8;
    damaged_gz[checksum_at] ^= 1;
    let good_zip = feed::zip("t.csv", &plain);
    let cases = [("t.zip", damaged_zip, stored), ("t.csv.gz", damaged_gz, feed::gz(&plain)), ("t.zip", endless_zip, good_zip)];
    for (name, damaged, good) in cases {
        let home = Home::embedded();
        let path = home.path(name);
        feed::write(&path, &damaged);
        let refused = home.run(&["ingest", path.to_str().expect("UTF-8")], "");
        assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
        assert!(text(&refused).contains("is damaged") && text(&refused).contains("nothing of it was published"), "{}", text(&refused));
        feed::write(&path, &good);
        assert_eq!(home.ingest(&path, &[]).published(), 5_000);
        home.store();
        assert_eq!(counted(&home, "SELECT count(*) AS n FROM trades"), json!({ "n": 5_000 }), "{name}");
    }
}

/// The folder of an archive says whose data its members are, and by whose clock; unpacked below it they are what they were, elsewhere they are not
/// guessed at.
#[test]
fn a_member_is_the_same_source_when_it_is_unpacked() {
    let home = Home::embedded();
    let bars = b"0,36150,36175,36125,36150,12\n60000,36150,36200,36150,36175,7\n";
    let member = "20131007_es_minute_trade_201312.csv";
    let folder = home.path("future/cme/minute/es");
    std::fs::create_dir_all(&folder).expect("a folder");
    feed::write(&folder.join("20131007_trade.zip"), &feed::zip(member, bars));
    let (below, elsewhere) = (folder.join("20131007_trade").join(member), home.path(member));
    std::fs::create_dir_all(below.parent().expect("a folder")).expect("a folder");
    feed::write(&below, bars);
    feed::write(&elsewhere, bars);
    let packed = home.ingest(&folder.join("20131007_trade.zip"), &[]);
    assert_eq!(packed.published(), 2, "{}", packed.report);
    let unpacked = home.ingest(&below, &[]);
    assert_eq!((unpacked.published(), &unpacked.source_ids()), (0, &packed.source_ids()), "{}", unpacked.report);
    let refused = home.run(&["ingest", elsewhere.to_str().expect("UTF-8"), "--dataset", "CME.LEAN"], "");
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("type the path from the folder") && text(&refused).contains("future/<market>/…"), "{}", text(&refused));
}

/// Where a file ends inside a quoted field that may hold line ends, how many records it has depends on what follows.
#[test]
fn a_file_that_ended_inside_a_quote_and_goes_on_is_refused() {
    let home = Home::embedded();
    let path = home.path("usage.csv");
    let header = "dataset,series_id,stat,period_start,period_end,tokens,qualifier,note\n";
    let row = |tokens: u32, note: &str| format!("A.B,s{tokens},daily_average,2026-03-01,2026-04-01,{tokens},eq,{note}\n");
    let begun = format!("{header}{}{}", row(1, "one"), row(2, "\"two"));
    feed::write(&path, begun.as_bytes());
    let first = home.run(&["ingest", path.to_str().expect("UTF-8")], "");
    assert_eq!(first.status.code(), Some(1), "the line is in quarantine: {}", text(&first));
    feed::write(&path, format!("{begun}lines\"\n{}", row(3, "three")).as_bytes());
    let refused = home.run(&["ingest", path.to_str().expect("UTF-8")], "");
    assert_ne!(refused.status.code(), Some(0), "{}", text(&refused));
    assert!(text(&refused).contains("inside a quoted field") && text(&refused).contains("--another-source"), "{}", text(&refused));
    home.store();
    assert_eq!(counted(&home, "SELECT count(*) AS n FROM token_usage"), json!({ "n": 1 }));
    assert_eq!(home.ingest(&path, &["--another-source"]).published(), 3, "what the message says works");
    for flags in [&["--another-source"][..], &[]] {
        assert_eq!(home.ingest(&path, flags).published(), 0, "and does so once");
    }
}

/// On a broker, where each ingest is a process of its own: whichever comes first, every record is published once.
#[test]
fn copies_of_different_length_that_come_together_are_one_source() {
    let Some(broker) = run::broker() else { return };
    let home = Home::kafka(&broker);
    for round in 0..3u64 {
        let lengths = [800, 66_000, 2_000 + round];
        let copies: Vec<_> = lengths
            .iter()
            .map(|rows| {
                let path = home.path(&format!("{round}-{rows}.csv"));
                feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(round * 100, round * 100 + rows)].concat());
                path
            })
            .collect();
        let ingest = |path: &std::path::PathBuf| text(&home.run(&["ingest", path.to_str().expect("UTF-8")], ""));
        let said: Vec<String> = std::thread::scope(|scope| {
            let runs: Vec<_> = copies.iter().map(|path| scope.spawn(|| ingest(path))).collect();
            runs.into_iter().map(|run| run.join().expect("no panic")).collect()
        });
        // One that another overtook while it published has stopped, and says so: it is complete when it is ingested again, or an older copy.
        for (path, _) in copies.iter().zip(&said).filter(|(_, said)| said.contains("another process publishes the same source")) {
            ingest(path);
        }
        home.store();
        let question = "SELECT count(*) AS n, count(DISTINCT source_id) AS sources FROM trades";
        let (n, sources) = ((round + 1) * 66_000, round + 1);
        assert_eq!(counted(&home, question), json!({ "n": n, "sources": sources }), "round {round}: {said:#?}");
    }
}

/// A shorter copy is refused however small it is: it may be a correction.
#[test]
fn a_shorter_correction_of_a_small_file_is_not_taken_for_an_old_copy() {
    let home = Home::embedded();
    let (first, shorter) = (home.path("p1.csv"), home.path("p2.csv"));
    feed::write(&first, format!("{}{}00", feed::HEADER, feed::GOOD).as_bytes());
    feed::write(&shorter, format!("{}{}", feed::HEADER, feed::GOOD).as_bytes());
    assert_eq!(home.ingest(&first, &[]).published(), 1);
    let refused = home.run(&["ingest", shorter.to_str().expect("UTF-8")], "");
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("--another-source"), "{}", text(&refused));
}

/// A mapping may keep the whole file as a document, beside the records: a file that grew is kept as it is now.
#[test]
fn a_file_that_is_a_document_too_is_kept_as_it_grew() {
    let home = Home::embedded();
    let mapping = home.path("m.toml");
    let lines = "family = \"token_usage\"\ndataset = \"T.USAGE\"\ndocument = true\nfields = [\"day\", \"tokens\"]\nskip_without = \"tokens\"\n\
                 [columns]\nperiod_start = { from = \"day\" }\ntokens = { from = \"tokens\" }\nschema = { text = \"usage\" }\n";
    std::fs::write(&mapping, lines).expect("written");
    let path = home.path("usage.csv");
    let flags = ["--mapping", mapping.to_str().expect("UTF-8")];
    let first = "day,tokens\n2026-10-05,7\n";
    for (content, figures) in [(first.to_string(), 1), (format!("{first}2026-10-06,\n2026-10-07,9\n"), 1)] {
        feed::write(&path, content.as_bytes());
        let ingested = home.ingest(&path, &flags);
        assert_eq!((ingested.code, ingested.published()), (0, figures + 1), "{}", ingested.report);
        home.store();
        let question =
            "SELECT count(*) AS n FROM documents d JOIN (SELECT DISTINCT doc_sha256 FROM token_usage) u ON d.sha256 = u.doc_sha256 \
                        WHERE octet_length(d.body) = "
                .to_string()
                + &content.len().to_string();
        assert_eq!(counted(&home, &question), json!({ "n": 1 }));
    }
    let question = "SELECT count(*) AS n, max(revision) AS revision, max(supersedes) AS supersedes FROM documents";
    assert_eq!(counted(&home, question), json!({ "n": 2, "revision": 1, "supersedes": 0 }));
}

/// A file that was written this moment and has no line end behind its last line: it is given the time to become old, and is read whole.
#[test]
fn the_last_line_of_a_file_that_was_just_written_is_read() {
    let home = Home::embedded();
    let path = home.path("fresh.csv");
    std::fs::write(&path, format!("{}{}", feed::HEADER, feed::GOOD)).expect("written");
    assert_eq!(home.ingest(&path, &[]).published(), 1);
}
