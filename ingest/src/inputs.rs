//! Paths as typed to inputs: a folder stands for its files, a zip archive for its members.

use crate::Error;
use crate::source::Given;
use crate::unpack::{self, Input};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// A file that was written to this lately may still grow.
const GROWING: Duration = Duration::from_secs(2);
/// Bytes that tell text from what has no lines.
const TEXT_BYTES: usize = 64;
/// How often the age of a young file is looked at.
const AGE_CHECK: Duration = Duration::from_millis(50);

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
    // What is wrong with the file is said when it is opened to be read.
    let growing = is_growing(file, now).unwrap_or(false);
    let given = Given { name: file.display().to_string(), growing, ..given.clone() };
    match unpack::inputs(file, &given) {
        Ok(inputs) => inputs,
        Err(why) => vec![Err(why)],
    }
}

/// May the last line of the file be unfinished? Only where it has no end and somebody keeps writing: a file that was written just now is given
/// the time to become old. A packing is whole, or is cut short and says so.
fn is_growing(path: &Path, now: SystemTime) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let age = |file: &File, now: SystemTime| Ok::<_, io::Error>(now.duration_since(file.metadata()?.modified()?).unwrap_or(GROWING));
    if age(&file, now)? >= GROWING {
        return Ok(false);
    }
    let head = unpack::head_of(&mut file, TEXT_BYTES)?;
    if unpack::is_packed(&head) || head.contains(&0) || ends_in_line_end(&mut file)? {
        return Ok(false);
    }
    let began = Instant::now();
    while age(&file, SystemTime::now())? < GROWING {
        if began.elapsed() > GROWING {
            return Ok(true);
        }
        std::thread::sleep(AGE_CHECK);
    }
    Ok(false)
}

fn ends_in_line_end(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    Ok(unpack::head_of(file, 1)? == b"\n")
}
