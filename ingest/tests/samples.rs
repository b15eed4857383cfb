//! The sample feeds are read by the parsers of the real formats, whole and without fault.

use ingest::source::{End, Given, HEAD_BYTES};
use ingest::{sources, synthetic, unpack};
use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::sync::atomic::AtomicBool;

#[test]
fn every_sample_feed_is_read_without_fault() {
    let dir = tempfile::tempdir().expect("temp dir");
    let feeds = synthetic::write(dir.path(), 1).expect("written");
    let mut families: BTreeMap<&str, usize> = BTreeMap::new();
    for feed in feeds {
        let given = Given { name: feed.path.display().to_string(), dataset: feed.dataset.map(String::from), ..Given::default() };
        for input in unpack::inputs(&feed.path, &given).expect("opens") {
            let input = input.expect("it can be read");
            let mut content = Vec::new();
            input
                .hold(&AtomicBool::new(false))
                .expect("opens")
                .expect("nobody says stop")
                .open()
                .expect("opens")
                .read_to_end(&mut content)
                .expect("reads");
            let head = &content[..content.len().min(HEAD_BYTES)];
            let format = sources::all().into_iter().find(|format| (format.recognise)(head, &input.given)).expect("a format");
            assert_ne!(format.parser, "document/1", "{} is read for what it is", given.name);
            let mut parser = (format.open)(Box::new(Cursor::new(content.clone())), &input.given).unwrap_or_else(|e| panic!("{e}"));
            loop {
                let chunk = parser.next(65_536).unwrap_or_else(|e| panic!("{e}"));
                assert!(chunk.bad.is_empty(), "{}: {:?}", given.name, chunk.bad);
                chunk.rows.iter().for_each(|rows| *families.entry(rows.topic().name).or_default() += rows.len());
                match chunk.end {
                    End::More => {}
                    End::Finished => break,
                    End::OpenQuote => panic!("{}: ends inside a quote", given.name),
                    End::CutShort(why) | End::Unlike(why) => panic!("{}: {why}", given.name),
                }
            }
            assert!(parser.dataset().starts_with("SYN.") || parser.dataset() == "CN.NDA.USAGE", "{} of {}", parser.dataset(), given.name);
        }
    }
    for family in
        ["instruments", "trades", "statistics", "snapshots", "index_values", "index_inputs", "conversions", "price_list", "token_usage"]
    {
        assert!(families.get(family).is_some_and(|rows| *rows > 0), "no {family} among {families:?}");
    }
}
