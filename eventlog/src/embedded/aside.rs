//! The journal as it was before the database was opened, until the log is known to be whole.
//!
//! fjall cuts its journals where they are broken, as soon as it opens them. What stood behind is worth something to whoever has no other copy,
//! so they lie aside while the log is opened (128 MiB at most, copied in milliseconds). The copy also tells whether a sealed journal was cut,
//! which none is that is whole: a crash can break off only the last one.

use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

/// The copy while the log is opened. One that is there is older than the last cut: the log was not opened whole since it was made.
const NAME: &str = "journal.aside";
/// A copy that is not finished.
const PART: &str = "journal.aside.part";
/// The copy of a log that was cut otherwise than at its end, which is refused from then on: fjall goes on without what is gone, and a second
/// opening could not see it any more. Nothing here removes it.
const DAMAGED: &str = "journal.damaged";
/// What is copied at a time.
const PIECE_BYTES: usize = 1 << 20;
static ZEROS: [u8; PIECE_BYTES] = [0; PIECE_BYTES];

/// The copy of a log that is being opened.
pub(super) struct Aside {
    dir: PathBuf,
    sealed: Vec<Sealed>,
}

/// A journal that is not the last one.
struct Sealed {
    copy: PathBuf,
    /// As it is in the database; open, because fjall may remove it.
    file: File,
}

impl Aside {
    /// Copies the journals of the log in `dir`. A log is opened without a copy, too: where there is no room for one, say.
    pub(super) fn take(dir: &Path) -> Aside {
        let sealed = copy(dir).and_then(|()| sealed(dir)).unwrap_or_else(|e| {
            tracing::warn!(dir = %dir.display(), error = %e, "no copy of the journal was made before it is opened");
            Vec::new()
        });
        Aside { dir: dir.to_path_buf(), sealed }
    }

    /// Where the journals of the log in `dir` are, if it was found damaged for good.
    pub(super) fn kept(dir: &Path) -> Option<PathBuf> {
        Some(dir.join(DAMAGED)).filter(|kept| kept.exists())
    }

    /// Where the copy is, if one could be made.
    pub(super) fn path(&self) -> Option<PathBuf> {
        Some(self.dir.join(NAME)).filter(|path| path.exists())
    }

    /// True when opening has cut something off a sealed journal.
    pub(super) fn was_cut(&self) -> Result<bool> {
        for Sealed { copy, file } in &self.sealed {
            if file.metadata()?.len() < data_end(copy)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The log is whole.
    pub(super) fn remove(self) {
        match std::fs::remove_dir_all(self.dir.join(NAME)) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                tracing::warn!(dir = %self.dir.display(), error = %e, "the copy of the journal cannot be removed");
            }
            _ => {}
        }
    }

    /// The log is damaged for good.
    pub(super) fn keep(&self) {
        if let Err(e) = std::fs::rename(self.dir.join(NAME), self.dir.join(DAMAGED)) {
            tracing::warn!(dir = %self.dir.display(), error = %e, "the copy of the journal cannot be kept");
        }
    }
}

fn copy(dir: &Path) -> Result<()> {
    let (aside, part) = (dir.join(NAME), dir.join(PART));
    let journals = journals(&dir.join("log"))?;
    if journals.is_empty() || aside.exists() {
        return Ok(());
    }
    if part.exists() {
        std::fs::remove_dir_all(&part)?;
    }
    DirBuilder::new().mode(0o700).create(&part)?;
    for journal in &journals {
        copy_file(journal, &part.join(journal.file_name().expect("a journal has a name")))?;
    }
    std::fs::rename(part, aside)
}

/// Copies a file without writing the zeros that fjall makes room with.
fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (File::open(from)?, File::create_new(to)?);
    let (mut piece, mut at) = (vec![0; PIECE_BYTES], 0);
    loop {
        let length = from.read_at(&mut piece, at)?;
        if length == 0 {
            return to.set_len(at);
        }
        if piece[..length] != ZEROS[..length] {
            to.write_all_at(&piece[..length], at)?;
        }
        at += length as u64;
    }
}

fn sealed(dir: &Path) -> Result<Vec<Sealed>> {
    let mut sealed = Vec::new();
    for copy in sorted(journals(&dir.join(NAME))?).into_iter().rev().skip(1) {
        match File::open(dir.join("log").join(copy.file_name().expect("a journal has a name"))) {
            Ok(file) => sealed.push(Sealed { copy, file }),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(sealed)
}

/// By their numbers.
fn sorted(mut journals: Vec<PathBuf>) -> Vec<PathBuf> {
    journals.sort_by_key(|path| path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok()));
    journals
}

/// Where a journal ends and the zeros begin that fjall makes room with.
fn data_end(journal: &Path) -> Result<u64> {
    let file = File::open(journal)?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut end = file.metadata()?.len();
    while end > 0 {
        let begin = end.saturating_sub(PIECE_BYTES as u64);
        let piece = &mut piece[..(end - begin) as usize];
        file.read_exact_at(piece, begin)?;
        if let Some(last) = piece.iter().rposition(|byte| *byte != 0) {
            return Ok(begin + last as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

fn journals(database: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(database) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).collect())
}
