//! A broken input, what the user is told, and what is in the tables afterwards.

use crate::feed;
use crate::number;
use crate::run::{Home, text};
use serde_json::Value;

/// One input and what must become of it.
pub struct Story {
    /// File name; every message names it.
    pub file: &'static str,
    pub content: Vec<u8>,
    /// Exit code of ingest.
    pub code: i32,
    /// What the summary must say: byte or line, field, what was expected, what to do.
    pub says: Vec<String>,
    /// Sizes of the trades that are stored, in the order of the file.
    pub kept: Vec<i64>,
    /// The bytes in quarantine.
    pub quarantined: Vec<Vec<u8>>,
}

/// Tells every story in a home of its own: in one home a file that is the beginning of another would be an older copy of it.
pub fn tell(stories: Vec<Story>) {
    stories.iter().for_each(tell_one);
}

fn tell_one(story: &Story) {
    let home = Home::embedded();
    let folder = home.path("in");
    std::fs::create_dir(&folder).expect("created");
    let path = folder.join(story.file);
    feed::write(&path, &story.content);
    let output = home.run(&["ingest", path.to_str().expect("UTF-8")], "");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(story.code), "{}: {said}", story.file);
    for part in story.says.iter().map(String::as_str).chain((story.code != 0).then_some(story.file)) {
        assert!(said.contains(part), "{}: no {part:?} in {said}", story.file);
    }
    home.store();
    let questions = [
        "SELECT CAST(size AS BIGINT) AS v FROM trades ORDER BY source_record".to_string(),
        "SELECT encode(raw, 'hex') AS v FROM quarantine ORDER BY source_record".to_string(),
    ];
    let answers = home.ask(&questions);
    let kept: Vec<i64> = answers[0].iter().map(|row| number(&row["v"]).expect("a size")).collect();
    assert_eq!(kept, story.kept, "good rows of {}", story.file);
    let raw: Vec<String> = story.quarantined.iter().map(hex::encode).collect();
    let found: Vec<Value> = answers[1].iter().map(|row| row["v"].clone()).collect();
    assert_eq!(found, raw, "quarantine of {}", story.file);
}
