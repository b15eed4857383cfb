//! CSV files with wrong columns, values, encodings and line ends: a bad row costs no good one, and the message names line, byte and field.

use crate::feed::{GOOD, HEADER};
use crate::story::{Story, tell};

/// A file of these lines between two good rows of size 1 and 2; `bad` lines go to quarantine.
fn between(file: &'static str, middle: &[u8], says: &[&str]) -> Story {
    let content = [HEADER.as_bytes(), row(1).as_bytes(), b"\n", middle, b"\n", row(2).as_bytes(), b"\n"].concat();
    let at = HEADER.len() + row(1).len() + 1;
    let mut says: Vec<String> = says.iter().map(|s| (*s).to_string()).collect();
    says.push(format!("{file} line 3, byte {at}"));
    says.push("correct these records alone".into());
    Story { file, content, code: 1, says, kept: vec![1, 2], quarantined: vec![middle.to_vec()] }
}

fn row(size: u64) -> String {
    GOOD.replace(",7", &format!(",{size}"))
}

fn bad(file: &'static str, from: &str, to: &str, says: &[&str]) -> Story {
    let line = row(9);
    assert!(line.contains(from), "{from} is in {line}");
    between(file, line.replacen(from, to, 1).as_bytes(), says)
}

fn refused(file: &'static str, header: &str, says: &[&str]) -> Story {
    let content = format!("{header}\n{}\n", row(1)).into_bytes();
    Story { file, content, code: 3, says: says.iter().map(|s| (*s).to_string()).collect(), kept: vec![], quarantined: vec![] }
}

fn good(file: &'static str, content: Vec<u8>, kept: &[i64]) -> Story {
    Story { file, content, code: 0, says: vec![], kept: kept.to_vec(), quarantined: vec![] }
}

#[test]
fn broken_values() {
    tell(vec![
        bad("number.csv", "2.81", "abc", &["price: not a number: \"abc\"", "expected digits such as 2.81"]),
        bad("inf.csv", "2.81", "inf", &["price: not a number: \"inf\""]),
        bad("nan.csv", "2.81", "NaN", &["price: not a number: \"NaN\""]),
        bad("date.csv", "2026-10-05", "2026-13-05", &["ts_event: \"2026-13-05T14:30:00Z\" is not a time, expected YYYY-MM-DD"]),
        bad("feb30.csv", "2026-10-05", "2026-02-30", &["ts_event", "is not a time"]),
        bad("i64.csv", ",9", ",9223372036854775808", &["size: 9223372036854775808 is beyond a 64-bit integer"]),
        bad("price.csv", "2.81", "1000000000", &["price: 1000000000 is beyond the range of DECIMAL(18,9)"]),
        bad("minus.csv", "2.81", "-1000000000.5", &["price", "beyond the range"]),
        bad("fine.csv", "2.81", "1.0000000001", &["price", "digits beyond the 9 that the column keeps"]),
        bad("absent.csv", "2.81", "", &["price"]),
        bad("few.csv", ",9", "", &["has 4 fields, expected 5"]),
        bad("many.csv", ",9", ",9,9", &["has 6 fields, expected 5"]),
        bad("dataset.csv", "T.DATA", "A.DATASET.OF.TOO.MANY", &["dataset"]),
    ]);
}

#[test]
fn broken_columns() {
    let expected = "expected symbol, ts_event, price, size and any other columns of trades (tape schema trades)";
    tell(vec![
        refused("missing.csv", "dataset,symbol,ts_event,size", &["missing price", expected]),
        refused("extra.csv", "dataset,symbol,ts_event,price,size,mood", &["extra mood", expected]),
        refused("renamed.csv", "dataset,symbol,ts_event,prise,size", &["missing price", "extra prise", expected]),
        refused("twice.csv", "dataset,symbol,ts_event,price,size,size", &["twice size", expected]),
    ]);
}

#[test]
fn encodings_lines_and_ends() {
    let lines = |end: &str, last: &str| format!("{}{end}{}{end}{}{last}", HEADER.trim_end(), row(1), row(2)).into_bytes();
    // TOK1 replaced: by 螺纹 as GBK and as UTF-8, and by quotes.
    let with = |symbol: &[u8], size: u64| {
        let mut line = row(size).into_bytes();
        line.splice(7..11, symbol.iter().copied());
        line
    };
    let in_gbk = with(b"\xc2\xdd\xce\xc6", 1);
    let in_utf8 = with("螺纹".as_bytes(), 9);
    let mixed = [HEADER.as_bytes(), &in_gbk, b"\n", &in_utf8, b"\n", row(2).as_bytes(), b"\n"].concat();
    // A line of UTF-8 that lost a byte, and Latin-1: neither says that the lines after them are GBK.
    let damaged = with(&"螺纹".as_bytes()[..5], 9);
    let then_utf8 = [HEADER.as_bytes(), &damaged, b"\n", &with("螺纹".as_bytes(), 1), b"\n", row(2).as_bytes(), b"\n"].concat();
    let latin1 = with(b"Gr\xf6\xdfe", 9);
    let then_more = [HEADER.as_bytes(), &latin1, b"\n", &with("螺纹".as_bytes(), 1), b"\n", row(2).as_bytes(), b"\n"].concat();
    let quoted = [HEADER.as_bytes(), &with(b"\"TOK\n1\"", 1), b"\n", row(2).as_bytes(), b"\n"].concat();
    let unclosed = [HEADER.as_bytes(), row(1).as_bytes(), b"\n", &with(b"\"TOK1", 9), b"\n", row(2).as_bytes(), b"\n"].concat();
    tell(vec![
        good("lf.csv", lines("\n", "\n"), &[1, 2]),
        good("crlf.csv", lines("\r\n", "\r\n"), &[1, 2]),
        good("no-last-end.csv", lines("\n", ""), &[1, 2]),
        good("bom.csv", [b"\xef\xbb\xbf", &lines("\n", "\n")[..]].concat(), &[1, 2]),
        good("line-in-field.csv", quoted, &[1, 2]),
        good("header-only.csv", HEADER.as_bytes().to_vec(), &[]),
        Story {
            code: 1,
            says: vec![
                "line 2".into(),
                "the file is read as GBK".into(),
                "is UTF-8 in a file that is GBK before it".into(),
                "line 3".into(),
            ],
            quarantined: vec![in_utf8],
            ..good("mixed.csv", mixed, &[1, 2])
        },
        Story {
            code: 1,
            says: vec!["is neither UTF-8".into(), "nor GBK".into(), "line 2".into()],
            quarantined: vec![damaged],
            ..good("damaged.csv", then_utf8, &[1, 2])
        },
        Story {
            code: 1,
            says: vec!["is neither UTF-8".into(), "line 2".into()],
            quarantined: vec![latin1],
            ..good("latin1.csv", then_more, &[1, 2])
        },
        Story {
            code: 1,
            says: vec!["a quote is opened and never closed".into(), "line 3".into()],
            quarantined: vec![with(b"\"TOK1", 9)],
            ..good("unclosed.csv", unclosed, &[1, 2])
        },
        Story { code: 3, says: vec!["the file is empty (0 bytes)".into()], ..good("empty.csv", vec![], &[]) },
    ]);
}
