//! A path to unpacked streams: gz, zst and zip are read through, each zip member is a source of its own.

use crate::Error;
use crate::source::Given;
use flate2::Crc;
use flate2::read::{DeflateDecoder, MultiGzDecoder};
use sha2::{Digest, Sha256};
use std::fs::{File, TryLockError};
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// How deep packings may lie in one another (a gz in a zip is two).
const DEPTH_MAX: usize = 4;
/// How soon an ingest that waits for a file goes on or stops.
const LOCK_CHECK: Duration = Duration::from_millis(50);
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const ZIP: &[u8] = b"PK\x03\x04";
const EMPTY_ZIP: &[u8] = b"PK\x05\x06";

/// One unpacked input: a plain file, or a member of an archive.
pub struct Input {
    /// What is known of it before it is read.
    pub given: Given,
    /// Length of the file as received (of the member's packed bytes, in an archive).
    pub bytes: u64,
    opener: Opener,
    /// Packed bytes read since it was opened last.
    read: Arc<AtomicU64>,
}

/// An input that is being read: one file, whatever else takes its name meanwhile. No other ingest on this machine reads it while this lives,
/// where the file system knows locks.
pub struct Held<'a> {
    input: &'a Input,
    file: Arc<File>,
    /// The file when it was opened.
    was: Stamp,
}

/// What tells that a file was written to. The time of its last change is the system's own: nobody sets it, as a copying program does the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Stamp> {
        let metadata = file.metadata()?;
        Ok(Stamp { bytes: metadata.len(), modified: metadata.modified().ok(), changed: (metadata.ctime(), metadata.ctime_nsec()) })
    }
}

enum Opener {
    Whole(std::path::PathBuf),
    Member { path: std::path::PathBuf, archive: Stamp, offset: u64, packed: u64, deflated: bool, crc: u32 },
}

impl Input {
    /// Opens the file, and keeps other ingests on this machine off it while it is read: two that met a growing file at different lengths would
    /// take it for two sources. Waits for the one that has it, whichever log that one writes to; `None` when told to stop while waiting. A file
    /// system without locks is read without one.
    pub fn hold(&self, stop: &AtomicBool) -> Result<Option<Held<'_>>, Error> {
        let fault = |why: io::Error| refusal(&self.given.label(), &why);
        let (Opener::Whole(path) | Opener::Member { path, .. }) = &self.opener;
        let file = File::open(path).map_err(fault)?;
        let mut waiting = false;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(why)) => {
                    tracing::debug!(file = self.given.label(), %why, "the file system knows no locks");
                    break;
                }
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if !waiting {
                tracing::warn!(file = self.given.label(), "waiting: another process is ingesting this file");
                waiting = true;
            }
            std::thread::sleep(LOCK_CHECK);
        }
        let was = Stamp::of(&file).map_err(fault)?;
        match &self.opener {
            Opener::Member { archive, .. } if *archive != was => Err(Error::Input {
                file: self.given.label(),
                what: "lies in an archive that was written to since its members were listed".into(),
                todo: "nothing of it was published; ingest the archive again when it is whole".into(),
            }),
            _ => Ok(Some(Held { input: self, file: Arc::new(file), was })),
        }
    }
}

/// A hash that can be written to.
struct Hashing(Sha256);

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Held<'_> {
    /// Bytes read of [`Input::bytes`] since the last `open`, for progress.
    pub fn bytes_read(&self) -> u64 {
        self.input.read.load(Ordering::Relaxed)
    }

    /// True unless what was read may be of no version of the file: where it was written to since it was opened, its first `consumed` unpacked
    /// bytes are read again, and must have the hash that they had. Growing does no harm.
    pub fn is_as_it_was(&self, consumed: u64, sha256: &[u8; 32]) -> Result<bool, Error> {
        let unread = |why| Error::Read { file: self.input.given.label(), byte: 0, why };
        if Stamp::of(&self.file).map_err(unread)? == self.was {
            return Ok(true);
        }
        let mut content = self.open()?.take(consumed);
        let mut sha = Hashing(Sha256::new());
        match io::copy(&mut content, &mut sha) {
            Ok(_) => Ok(sha.0.finalize()[..] == sha256[..]),
            Err(why) if matches!(why.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => {
                Ok(false)
            }
            Err(why) => Err(unread(why)),
        }
    }

    /// Reads a packed file to its end, before anything of it is published: its checksums come last, and what a damaged packing unpacks to
    /// would be published as records that the whole file does not have. One that is cut short is not damaged. A stop ends the reading.
    pub fn verify(&self, stop: &AtomicBool) -> Result<(), Error> {
        if !self.is_packed()? {
            return Ok(());
        }
        let mut content = self.open()?;
        let mut buffer = vec![0; 1 << 17];
        let mut done = 0u64;
        while !stop.load(Ordering::Relaxed) {
            match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => done += count as u64,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(why) => {
                    return Err(Error::Input {
                        file: self.input.given.label(),
                        what: format!("is damaged: behind byte {done} of the unpacked content: {why}"),
                        todo: "nothing of it was published; fetch it again".into(),
                    });
                }
            }
        }
        Ok(())
    }

    fn is_packed(&self) -> Result<bool, Error> {
        match &self.input.opener {
            Opener::Member { .. } => Ok(true),
            Opener::Whole(_) => {
                let head = head_of(&mut self.packed(0), 4).map_err(|why| refusal(&self.input.given.label(), &why))?;
                Ok(is_packed(&head))
            }
        }
    }

    /// A new reader of the unpacked content from its beginning.
    pub fn open(&self) -> Result<Box<dyn Read + Send>, Error> {
        self.input.read.store(0, Ordering::Relaxed);
        let packed: Box<dyn Read + Send> = match &self.input.opener {
            Opener::Whole(_) => Box::new(self.packed(0)),
            Opener::Member { offset, packed, deflated, crc, .. } => {
                let raw = BufReader::new(self.packed(*offset).take(*packed));
                let plain: Box<dyn Read + Send> = if *deflated { Box::new(DeflateDecoder::new(raw)) } else { Box::new(raw) };
                Box::new(Checked { inner: plain, crc: Crc::new(), expected: *crc })
            }
        };
        through(packed, &self.input.given.label(), DEPTH_MAX)
    }

    fn packed(&self, at: u64) -> Counted {
        Counted { file: self.file.clone(), at, read: self.input.read.clone() }
    }
}

/// True for the first four bytes of a packed file.
pub fn is_packed(head: &[u8]) -> bool {
    [GZIP, ZSTD, ZIP, EMPTY_ZIP].iter().any(|packing| head.starts_with(packing))
}

/// The inputs of one path: the file itself, or every member of a zip archive, each that cannot be read with its reason.
pub fn inputs(path: &Path, given: &Given) -> Result<Vec<Result<Input, Error>>, Error> {
    let fault = |why: io::Error| refusal(&given.name, &why);
    let mut file = File::open(path).map_err(fault)?;
    let metadata = file.metadata().map_err(fault)?;
    let head = head_of(&mut file, 4).map_err(fault)?;
    if !head.starts_with(ZIP) && !head.starts_with(EMPTY_ZIP) {
        return Ok(vec![Ok(Input {
            given: given.clone(),
            bytes: metadata.len(),
            opener: Opener::Whole(path.to_path_buf()),
            read: Arc::default(),
        })]);
    }
    file.seek(SeekFrom::Start(0)).map_err(fault)?;
    let stamp = Stamp::of(&file).map_err(fault)?;
    let broken = |why: zip::result::ZipError| Error::Input {
        file: given.name.clone(),
        what: format!("is a zip archive that cannot be read: {why}"),
        todo: "check that it was copied whole".into(),
    };
    let mut archive = zip::ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    Ok((0..archive.len()).filter_map(|index| member(&mut archive, stamp, index, path, given).transpose()).collect())
}

fn member(
    archive: &mut zip::ZipArchive<BufReader<File>>,
    stamp: Stamp,
    index: usize,
    path: &Path,
    given: &Given,
) -> Result<Option<Input>, Error> {
    let refuse = |name: &str, what: String, todo: &str| Error::Input { file: format!("{}:{name}", given.name), what, todo: todo.into() };
    let member = archive.by_index_raw(index).map_err(|why| refuse(&format!("member {index}"), why.to_string(), "check the archive"))?;
    if member.is_dir() {
        return Ok(None);
    }
    let name = match member.name() {
        Ok(name) => name.into_owned(),
        Err(_) => String::from_utf8_lossy(member.name_raw()).into_owned(),
    };
    if member.encrypted() {
        return Err(refuse(&name, "is encrypted".into(), "unpack it first"));
    }
    let deflated = match member.compression() {
        zip::CompressionMethod::Stored => false,
        zip::CompressionMethod::Deflated => true,
        other => {
            return Err(refuse(&name, format!("is packed with {other}, only stored and deflate are read"), "pack it again with deflate"));
        }
    };
    let offset = member.data_start().ok_or_else(|| refuse(&name, "has no data in the archive".into(), "check the archive"))?;
    let opener = Opener::Member {
        path: path.to_path_buf(),
        archive: stamp,
        offset,
        packed: member.compressed_size(),
        deflated,
        crc: member.crc32(),
    };
    let bytes = member.compressed_size();
    Ok(Some(Input { given: Given { member: Some(name), ..given.clone() }, bytes, opener, read: Arc::default() }))
}

/// Reads through packings until the content is plain.
fn through(mut packed: Box<dyn Read + Send>, label: &str, depth: usize) -> Result<Box<dyn Read + Send>, Error> {
    let head = head_of(&mut packed, 4).map_err(|why| Error::Read { file: label.into(), byte: 0, why })?;
    let whole: Box<dyn Read + Send> = Box::new(Cursor::new(head.clone()).chain(packed));
    if depth == 0 {
        return Err(Error::Input {
            file: label.into(),
            what: format!("is packed more than {DEPTH_MAX} times"),
            todo: "unpack it first".into(),
        });
    }
    if head.starts_with(GZIP) {
        return through(Box::new(MultiGzDecoder::new(BufReader::with_capacity(1 << 16, whole))), label, depth - 1);
    }
    if head.starts_with(ZSTD) {
        let decoder = zstd::Decoder::new(whole).map_err(|why| Error::Read { file: label.into(), byte: 0, why })?;
        return through(Box::new(decoder), label, depth - 1);
    }
    Ok(whole)
}

/// Up to `count` bytes from where the reader stands; fewer only at its end.
pub fn head_of(reader: &mut impl Read, count: usize) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(count.min(1 << 16));
    reader.take(count as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// The first bytes, and the content from its beginning; an error met in the first bytes comes again where it was.
pub fn sniff(mut content: Box<dyn Read + Send>, head_bytes: usize) -> (Vec<u8>, Box<dyn Read + Send>) {
    let mut head = Vec::new();
    let mut fault = None;
    let mut buffer = vec![0; 8192];
    while head.len() < head_bytes {
        let want = buffer.len().min(head_bytes - head.len());
        match content.read(&mut buffer[..want]) {
            Ok(0) => break,
            Ok(count) => head.extend_from_slice(&buffer[..count]),
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => {
                fault = Some(why);
                break;
            }
        }
    }
    let whole: Box<dyn Read + Send> = match fault {
        None => Box::new(Cursor::new(head.clone()).chain(content)),
        Some(why) => Box::new(Cursor::new(head.clone()).chain(Broken(Some(why)))),
    };
    (head, whole)
}

/// A reader that fails as an earlier one did.
struct Broken(Option<io::Error>);

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(self.0.take().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()))
    }
}

fn refusal(file: &str, why: &io::Error) -> Error {
    let todo = match why.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "give this user the right to read it",
        _ => "check the file and its disk",
    };
    Error::Input { file: file.into(), what: format!("cannot be opened: {why}"), todo: todo.into() }
}

/// Reads the packed bytes from where it stands, whoever else reads the same file, and counts them.
struct Counted {
    file: Arc<File>,
    at: u64,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Compares what an archive member unpacks to with the checksum that the archive states.
struct Checked<R> {
    inner: R,
    crc: Crc,
    expected: u32,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer).map_err(|why| match why.kind() {
            // All of its packed bytes are there: it is not cut short.
            io::ErrorKind::UnexpectedEof => io::Error::new(io::ErrorKind::InvalidData, "the archive member's packed bytes do not end it"),
            _ => why,
        })?;
        self.crc.update(&buffer[..count]);
        if count == 0 && !buffer.is_empty() && self.crc.sum() != self.expected {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the archive member does not have the checksum that the archive states",
            ));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn hold(input: &Input) -> Held<'_> {
        input.hold(&AtomicBool::new(false)).expect("opens").expect("nobody says stop")
    }

    fn read(path: &Path) -> Vec<(String, Vec<u8>)> {
        let given = Given { name: path.display().to_string(), ..Given::default() };
        inputs(path, &given)
            .expect("inputs")
            .into_iter()
            .map(|input| {
                let input = input.expect("it can be read");
                let mut content = Vec::new();
                hold(&input).open().expect("opens").read_to_end(&mut content).expect("reads");
                (input.given.inner_name().to_string(), content)
            })
            .collect()
    }

    /// Two homes may be given the same file at the same time: the second one waits, and does not fail.
    #[test]
    fn a_file_that_another_ingest_reads_is_waited_for() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("a.csv");
        std::fs::write(&path, "a\n1\n").expect("writes");
        let input = inputs(&path, &Given::default()).expect("inputs").remove(0).expect("it can be read");
        let stop = AtomicBool::new(false);
        let first = input.hold(&stop).expect("no fault").expect("free");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| input.hold(&stop).expect("no fault").is_some());
            drop(first);
            assert!(second.join().expect("no panic"), "the second one has the file after the first");
        });
        let held = input.hold(&stop).expect("no fault").expect("free again");
        stop.store(true, Ordering::Relaxed);
        assert!(input.hold(&stop).expect("no fault").is_none(), "a stop ends the wait");
        drop(held);
    }

    #[test]
    fn the_same_content_comes_out_of_every_packing() {
        let dir = tempfile::tempdir().expect("temp dir");
        let content = b"a,b\n1,2\n".repeat(10_000);
        let gz = |data: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(data).expect("memory");
            encoder.finish().expect("memory")
        };
        let zst = |data: &[u8]| zstd::encode_all(data, 1).expect("memory");
        let two_frames = [zst(&content[..500]), zst(&content[500..])].concat();
        let two_members = [gz(&content[..500]), gz(&content[500..])].concat();
        for (name, bytes) in [("p", content.clone()), ("p.gz", two_members), ("p.zst", two_frames), ("p.gz.zst", zst(&gz(&content)))] {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            assert!(read(&path)[0].1 == content, "{name}");
        }
        let path = dir.path().join("p.zip");
        let mut archive = zip::ZipWriter::new(File::create(&path).expect("created"));
        for (member, method) in [("x/a.csv", zip::CompressionMethod::Deflated), ("b.csv.gz", zip::CompressionMethod::Stored)] {
            archive.start_file(member, zip::write::SimpleFileOptions::default().compression_method(method)).expect("begun");
            archive.write_all(&if member.ends_with("gz") { gz(&content) } else { content.clone() }).expect("written");
        }
        archive.finish().expect("finished");
        let members = read(&path);
        assert!(members[0].1 == content && members[1].1 == content);
        assert!(members[0].0 == "x/a.csv" && members[1].0 == "b.csv");
    }

    #[test]
    fn a_damaged_member_is_an_error_not_other_data() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("p.zip");
        let mut archive = zip::ZipWriter::new(File::create(&path).expect("created"));
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        archive.start_file("a.csv", options).expect("begun");
        archive.write_all(b"price\n2.81\n").expect("written");
        archive.finish().expect("finished");
        let mut bytes = std::fs::read(&path).expect("read");
        let at = bytes.windows(4).position(|w| w == b"2.81").expect("stored plain");
        bytes[at] = b'9';
        std::fs::write(&path, bytes).expect("written");
        let given = Given { name: "p.zip".into(), ..Given::default() };
        let mut content = Vec::new();
        let input = inputs(&path, &given).expect("the directory is whole").remove(0).expect("a member");
        let result = hold(&input).open().expect("opens").read_to_end(&mut content);
        assert_eq!(result.expect_err("checksum").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_cannot_be_opened_says_what_to_do() {
        let given = Given { name: "gone.csv".into(), ..Given::default() };
        let message = inputs(Path::new("/nonexistent/gone.csv"), &given).err().expect("an error").to_string();
        assert!(message.contains("gone.csv") && message.contains("check the path"), "{message}");
    }
}
