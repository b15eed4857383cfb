//! Paths as typed to inputs: a folder stands for its files, a zip archive for its members.

use crate::Error;
use crate::source::Given;
use crate::unpack::{self, Input};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A file that was written to this lately may still grow.
const GROWING: Duration = Duration::from_secs(2);

/// The inputs of one path, in the order of their names; with each that cannot be opened, why. A folder without files has none.
pub fn of(path: &Path, given: &Given, now: SystemTime) -> Vec<Result<Input, Error>> {
    let mut files = Vec::new();
    walk(path, &mut files);
    files.into_iter().flat_map(|file| file.map_or_else(|why| vec![Err(why)], |file| inputs_of(&file, given, now))).collect()
}

/// Every file below, and for every entry that is none why: what cannot be opened does not keep the others back.
fn walk(path: &Path, files: &mut Vec<Result<PathBuf, Error>>) {
    match std::fs::metadata(path) {
        Err(why) => files.push(Err(refusal(path, &format!("cannot be opened: {why}"), "check the path and the right to read it"))),
        Ok(metadata) if metadata.is_file() => files.push(Ok(path.to_path_buf())),
        Ok(metadata) if !metadata.is_dir() => {
            files.push(Err(refusal(path, "is neither a file nor a folder", "write what it gives into a file first")));
        }
        Ok(_) => {
            match std::fs::read_dir(path).and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()) {
                Err(why) => files.push(Err(refusal(path, &format!("cannot be listed: {why}"), "check the right to read it"))),
                Ok(mut entries) => {
                    entries.sort();
                    entries.iter().for_each(|entry| walk(entry, files));
                }
            }
        }
    }
}

fn refusal(path: &Path, what: &str, todo: &str) -> Error {
    Error::Input { file: path.display().to_string(), what: what.into(), todo: todo.into() }
}

fn inputs_of(file: &Path, given: &Given, now: SystemTime) -> Vec<Result<Input, Error>> {
    let modified = std::fs::metadata(file).and_then(|metadata| metadata.modified());
    let growing = modified.is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age < GROWING));
    let given = Given { name: file.display().to_string(), growing, ..given.clone() };
    match unpack::inputs(file, &given) {
        Ok(inputs) => inputs,
        Err(why) => vec![Err(why)],
    }
}
