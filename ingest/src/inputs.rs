//! Paths as typed to inputs: a folder stands for its files, a zip archive for its members.

use crate::Error;
use crate::source::Given;
use crate::unpack::{self, Input};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A file that was written to this lately may still grow.
const GROWING: Duration = Duration::from_secs(2);

/// The inputs of one path, in the order of their names; with each that cannot be opened, why.
pub fn of(path: &Path, given: &Given, now: SystemTime) -> Vec<Result<Input, Error>> {
    let mut files = Vec::new();
    if let Err(why) = walk(path, &mut files) {
        return vec![Err(Error::Input {
            file: path.display().to_string(),
            what: format!("cannot be opened: {why}"),
            todo: "check the path and the right to read it".into(),
        })];
    }
    if files.is_empty() {
        return vec![Err(Error::Input {
            file: path.display().to_string(),
            what: "is a folder without files".into(),
            todo: "name a file".into(),
        })];
    }
    files.into_iter().flat_map(|file| inputs_of(&file, given, now)).collect()
}

fn walk(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !std::fs::metadata(path)?.is_dir() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(path)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    entries.sort();
    entries.iter().try_for_each(|entry| walk(entry, files))
}

fn inputs_of(file: &Path, given: &Given, now: SystemTime) -> Vec<Result<Input, Error>> {
    let modified = std::fs::metadata(file).and_then(|metadata| metadata.modified());
    let growing = modified.is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age < GROWING));
    let given = Given { name: file.display().to_string(), growing, ..given.clone() };
    match unpack::inputs(file, &given) {
        Ok(inputs) => inputs.into_iter().map(Ok).collect(),
        Err(why) => vec![Err(why)],
    }
}
