//! `--captured` is kept to the millisecond, or is wrong use (exit code 2) that says why.

use crate::run::{Home, text};

#[test]
fn a_capture_time_that_cannot_be_kept_is_wrong_use() {
    let home = Home::embedded();
    for (captured, says) in [
        ("2300-01-01T00:00:00Z", "1678 to 2261"),
        ("1600-01-01T00:00:00Z", "1678 to 2261"),
        ("2026-10-05T14:30:00.0005Z", "at most three digits"),
        ("2026-12-31T23:59:60Z", "leap second"),
    ] {
        let output = home.run(&["ingest", "--captured", captured, "a.json"], "");
        assert_eq!(output.status.code(), Some(2), "{captured}: {}", text(&output));
        assert!(text(&output).contains(says), "{captured}: {}", text(&output));
    }
}
