//! DBN files that are cut, of another version or kind, or broken inside: what is whole is kept, and the message says where and what to do.

use crate::feed::{self, RECORD_BYTES};
use crate::story::{Story, tell};
use std::io::Read;

fn sizes(numbers: std::ops::Range<u64>) -> Vec<i64> {
    numbers.map(|n| i64::from(feed::trade(n).1)).collect()
}

fn story(file: &'static str, content: Vec<u8>, code: i32, says: &[&str]) -> Story {
    Story { file, content, code, says: says.iter().map(|s| (*s).to_string()).collect(), kept: vec![], quarantined: vec![] }
}

#[test]
fn broken_dbn_files() {
    let whole = feed::dbn("T.DATA", 10);
    let header = whole.len() - 10 * RECORD_BYTES;
    let of_version = |version| {
        let mut bytes = whole.clone();
        bytes[3] = version;
        bytes
    };
    let mut wrong_magic = whole.clone();
    wrong_magic[2] = b'X';
    let mut odd_record = feed::dbn("T.ODD", 10);
    let fourth = header + 3 * RECORD_BYTES;
    odd_record[fourth + 1] = 0xee;
    let legacy = [&0x184D_2A50u32.to_le_bytes()[..], &12u32.to_le_bytes(), b"DBZ\x01", &[0; 8]].concat();
    let packed = feed::zst(&feed::dbn("T.FRAME", 20_000));
    let half = packed[..packed.len() / 2].to_vec();
    let mut unpacked = Vec::new();
    // What comes out before the cut is found by unpacking until it fails.
    let _ = zstd::Decoder::new(&half[..]).expect("a frame").read_to_end(&mut unpacked);
    let whole_records = ((unpacked.len() - header) / RECORD_BYTES) as u64;
    assert!((1_000..19_000).contains(&whole_records), "{whole_records} records before the cut");

    tell(vec![
        story("in-magic.dbn", whole[..2].to_vec(), 1, &["WRONG CONTENT", "kept whole in documents"]),
        story(
            "in-header.dbn",
            whole[..60].to_vec(),
            3,
            &["header ends at byte 60", &format!("should be {header}"), "fetch the file again"],
        ),
        Story {
            kept: sizes(0..9),
            ..story(
                "in-record.dbn",
                whole[..whole.len() - 5].to_vec(),
                1,
                &[
                    "cut short",
                    &format!("record 9 at byte {} should be 48 bytes long, 43 are there", header + 9 * RECORD_BYTES),
                    "what was complete is published",
                ],
            )
        },
        Story { kept: sizes(0..whole_records), ..story("in-frame.dbn.zst", half, 1, &["cut short", "cannot be read on"]) },
        story("in-first-block.dbn.zst", packed[..40].to_vec(), 3, &["at byte 0", "incomplete frame", "copy or fetch it again"]),
        story(
            "magic.dbn",
            wrong_magic,
            1,
            &[
                "WRONG CONTENT",
                "named like DBN but does not start with `DBN`",
                "at byte 0 stands 44425803",
                "expected the magic 44424e",
                "kept whole in documents",
                "--dbn-version",
            ],
        ),
        story("v0.dbn", of_version(0), 3, &["DBN version 0 ", "1, 2 and 3"]),
        story("v4.dbn", of_version(4), 3, &["DBN version 4 ", "1, 2 and 3"]),
        story("v9.dbn", of_version(9), 3, &["DBN version 9 ", "1, 2 and 3"]),
        story("legacy.dbz", legacy, 3, &["legacy DBZ", "expected DBN version 1, 2 or 3", "dbn FILE.dbz -o FILE.dbn.zst"]),
        story("header-only.dbn", whole[..header].to_vec(), 0, &[]),
        Story {
            kept: [sizes(0..3), sizes(4..10)].concat(),
            quarantined: vec![odd_record[fourth..fourth + RECORD_BYTES].to_vec()],
            ..story(
                "odd.dbn",
                odd_record.clone(),
                1,
                &[&format!("record 3 at byte {fourth}"), "record type 0xee is not known", "quarantine"],
            )
        },
        Story { kept: sizes(0..10), ..story("whole.dbn", feed::dbn("T.WHOLE", 10), 0, &[]) },
    ]);
}
