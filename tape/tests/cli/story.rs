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

/// Ingests all of them into one home, stores, and asks for each.
pub fn tell(stories: Vec<Story>) {
    let home = Home::embedded();
    let folder = home.path("in");
    std::fs::create_dir(&folder).expect("created");
    for story in &stories {
        let path = folder.join(story.file);
        feed::write(&path, &story.content);
        let output = home.run(&["ingest", path.to_str().expect("UTF-8")], "");
        let said = text(&output);
        assert_eq!(output.status.code(), Some(story.code), "{}: {said}", story.file);
        for part in story.says.iter().map(String::as_str).chain((story.code != 0).then_some(story.file)) {
            assert!(said.contains(part), "{}: no {part:?} in {said}", story.file);
        }
    }
    home.store();
    let of = |story: &Story| format!("source_id IN (SELECT source_id FROM sources WHERE name LIKE '%/{}')", story.file);
    let questions: Vec<String> = stories
        .iter()
        .flat_map(|story| {
            [
                format!("SELECT CAST(size AS BIGINT) AS v FROM trades WHERE {} ORDER BY source_record", of(story)),
                format!("SELECT encode(raw, 'hex') AS v FROM quarantine WHERE {} ORDER BY source_record", of(story)),
            ]
        })
        .collect();
    let answers = home.ask(&questions);
    for (story, answers) in stories.iter().zip(answers.chunks(2)) {
        let column = |rows: &[Value]| rows.iter().map(|row| row["v"].clone()).collect::<Vec<_>>();
        let kept: Vec<i64> = answers[0].iter().map(|row| number(&row["v"]).expect("a size")).collect();
        assert_eq!(kept, story.kept, "good rows of {}", story.file);
        let raw: Vec<String> = story.quarantined.iter().map(hex::encode).collect();
        assert_eq!(column(&answers[1]), raw, "quarantine of {}", story.file);
    }
}
