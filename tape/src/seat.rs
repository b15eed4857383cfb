//! The name under which a store takes its place among those that share a log: a file of the home, held as long as the process lives. Who comes
//! back after a crash finds the same one free, and has its partitions again at once.

use crate::home;
use anyhow::{Context, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use uuid::Uuid;

/// Stores of one home; more of them than a log has partitions have nothing to do.
const SEATS_MAX: usize = 256;

/// A seat that is taken; dropping it frees it.
pub struct Seat {
    /// Unlike that of any other store of the log.
    pub name: String,
    _held: File,
}

/// Takes the first free seat of the home.
pub fn take(home: &Path) -> Result<Seat> {
    let folder = home.join("stores");
    home::private_folder(&folder)?;
    for number in 0..SEATS_MAX {
        let path = folder.join(number.to_string());
        if let Some(seat) = try_take(&path).with_context(|| format!("taking a place among the stores: {}", path.display()))? {
            return Ok(seat);
        }
    }
    anyhow::bail!("{SEATS_MAX} stores run in this home already: more of them than a log has partitions help nothing")
}

fn try_take(path: &Path) -> Result<Option<Seat>> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(why)) => return Err(why.into()),
    }
    let mut name = String::new();
    file.read_to_string(&mut name)?;
    // A crash may have come before the name was written.
    if Uuid::parse_str(&name).is_err() {
        name = Uuid::new_v4().to_string();
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(name.as_bytes())?;
    }
    Ok(Some(Seat { name, _held: file }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_one_processs_and_keeps_its_name() {
        let home = tempfile::tempdir().expect("temp dir");
        let (one, two) = (take(home.path()).expect("free"), take(home.path()).expect("free"));
        assert_ne!(one.name, two.name);
        let before = one.name.clone();
        drop(one);
        assert_eq!(take(home.path()).expect("free again").name, before);
        std::fs::write(home.path().join("stores/0"), "half").expect("written");
        assert!(Uuid::parse_str(&take(home.path()).expect("free").name).is_ok(), "half a name is none");
    }
}
