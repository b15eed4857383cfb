//! What only the embedded log has: an owner, a socket, a retention of its own.

use crate::homes::{from_start, open_embedded, read_all};
use crate::{first_error, publish, records, state};
use bytes::Bytes;
use eventlog::embedded::{Embedded, Identity, Options};
use eventlog::home::{open_home, socket_path};
use eventlog::socket::{Socket, serve};
use eventlog::{Error, EventLog, Start, StateTopic, TimestampType, TopicInfo, Watermarks};
use schemas::Family;
use schemas::record::Record;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_second_owner_is_told_the_firsts_process_id() {
    let dir = tempfile::tempdir().unwrap();
    let first = open_embedded(dir.path());
    let error = Embedded::open(dir.path(), &Options::default()).err().unwrap();
    assert!(matches!(&error, Error::Owned { pid, .. } if *pid == std::process::id().to_string()), "{error}");
    let error = open_home(dir.path(), &Options::default()).err().unwrap();
    assert!(matches!(&error, Error::Owned { .. }), "{error}");
    drop(first);
    open_embedded(dir.path());
}

#[test]
fn what_a_dead_process_left_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("owner.pid"), "999999999").unwrap();
    drop(UnixListener::bind(socket_path(dir.path())).unwrap());
    let log = Arc::new(open_embedded(dir.path()));
    let server = serve(log, &socket_path(dir.path())).unwrap();
    Socket::connect(&socket_path(dir.path())).unwrap();
    server.stop();
    assert!(!socket_path(dir.path()).exists());
}

#[test]
fn a_home_is_reached_through_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let owner = Arc::new(open_embedded(dir.path()));
    let server = serve(owner.clone(), &socket_path(dir.path())).unwrap();
    assert_eq!(std::fs::metadata(socket_path(dir.path())).unwrap().permissions().mode() & 0o777, 0o600);
    let guest = open_home(dir.path(), &Options::default()).unwrap();
    assert!(guest.describe().contains("socket"), "{}", guest.describe());
    publish(guest.as_ref(), "g", vec![records(Family::Status, &[("k", "v")])], vec![state(StateTopic::State, "k", Some("v"))]);
    assert_eq!(read_all(owner.as_ref(), &from_start(owner.as_ref(), Family::Status)).len(), 1);
    // A writer is fenced across processes.
    let mut here = owner.writer("g").unwrap();
    let _there = guest.writer("g").unwrap();
    let batch = eventlog::Batch { records: vec![records(Family::Status, &[("k", "w")])], ..eventlog::Batch::default() };
    assert!(matches!(here.publish(&batch), Err(Error::Fenced { .. })));
    server.stop();
    let error = guest.states(StateTopic::State).unwrap_err();
    assert!(matches!(&error, Error::Unreachable { .. }), "{error}");
    drop((here, owner));
    assert!(!open_home(dir.path(), &Options::default()).unwrap().describe().contains("socket"));
}

#[test]
fn a_socket_in_a_deep_directory_works() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a-directory-with-a-long-name-".repeat(6));
    let owner: Arc<dyn EventLog> = Arc::new(open_embedded(&deep));
    let _server = serve(owner.clone(), &socket_path(&deep)).unwrap();
    assert_eq!(Socket::connect(&socket_path(&deep)).unwrap().cluster_id().unwrap(), owner.cluster_id().unwrap());
}

#[test]
fn another_version_and_a_stranger_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.sock");
    for (greeting, word) in [(&b"tapelog\0\0\0\0\x63"[..], "version 99"), (&b"HTTP/1.1 200"[..], "not tokentape")] {
        let listener = UnixListener::bind(&path).unwrap();
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(greeting).unwrap();
            let _ = stream.read(&mut [0; 64]);
        });
        let error = Socket::connect(&path).err().unwrap();
        assert!(error.to_string().contains(word), "{error}");
        answering.join().unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn nonsense_at_the_socket_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = socket_path(dir.path());
    let _server = serve(Arc::new(open_embedded(dir.path())), &path).unwrap();
    for nonsense in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"tapelog\0\0\0\0\x01\xff\xff\xff\xff\xff\xff\xff\xff",
        b"tapelog\0\0\0\0\x01\0\0\0\x01\0\0\0\x01x",
    ] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(nonsense).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    Socket::connect(&path).unwrap().cluster_id().unwrap();
}

/// Connections that never say what they are give their places back.
#[test]
fn silent_connections_do_not_keep_others_out_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let path = socket_path(dir.path());
    let server = serve(Arc::new(open_embedded(dir.path())), &path).unwrap();
    let silent: Vec<UnixStream> = (0..300).filter_map(|_| UnixStream::connect(&path).ok()).collect();
    assert!(silent.len() > 128, "more than there are places");
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    let answer = loop {
        match Socket::connect(&path).and_then(|log| log.cluster_id()) {
            Err(_) if std::time::Instant::now() < deadline => {}
            answer => break answer,
        }
    };
    answer.expect("a place within half a minute");
    server.stop();
}

#[test]
fn only_what_is_old_and_stored_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let open = |retention: Option<Duration>| Embedded::open(dir.path(), &Options { retention, ..Options::default() }).unwrap();
    let two = |text| vec![records(Family::Status, &[("k", text), ("k", text)])];
    let watermarks = |log: &Embedded| log.watermarks(Family::Status).unwrap()[0];
    {
        let log = open(None);
        ["0", "2", "4"].iter().for_each(|text| publish(&log, "a", two(text), Vec::new()));
        log.stored(Family::Status, 0, 6).unwrap();
        assert_eq!(watermarks(&log), Watermarks { low: 0, high: 6 }, "without a retention everything stays");
        log.stored(Family::Status, 0, 0).unwrap();
    }
    std::thread::sleep(Duration::from_millis(5));
    {
        let log = open(Some(Duration::from_secs(3600)));
        log.stored(Family::Status, 0, 6).unwrap();
        assert_eq!(watermarks(&log), Watermarks { low: 0, high: 6 }, "what is young stays");
        log.stored(Family::Status, 0, 3).unwrap();
    }
    let log = open(Some(Duration::ZERO));
    assert_eq!(watermarks(&log), Watermarks { low: 2, high: 6 }, "old and stored: dropped, a batch at a time");
    let error = first_error(&log, &Start { family: Family::Status, partition: 0, offset: 1 });
    assert!(matches!(error, Error::OffsetGone { offset: 1, low: 2, .. }), "{error}");
    let rest = read_all(&log, &[Start { family: Family::Status, partition: 0, offset: 3 }]);
    assert_eq!(rest.iter().map(|event| event.offset).collect::<Vec<_>>(), [3, 4, 5]);
    // A reader that is on its way is told, too.
    let mut reader = log.reader(&[Start { family: Family::Status, partition: 0, offset: 2 }]).unwrap();
    log.stored(Family::Status, 0, 6).unwrap();
    assert!(matches!(reader.poll(Duration::ZERO, 1), Err(Error::OffsetGone { offset: 2, low: 6, .. })));
    assert!(log.stored(Family::Status, 0, 7).is_err(), "what is not there cannot be stored");
    drop((reader, log));
    let log = open(Some(Duration::ZERO));
    assert_eq!(watermarks(&log), Watermarks { low: 6, high: 6 }, "offsets go on where they were");
    publish(&log, "a", two("6"), Vec::new());
    assert_eq!(read_all(&log, &[Start { family: Family::Status, partition: 0, offset: 6 }])[0].value, Some(Bytes::from("6")));
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let error = Embedded::open(&dir.path().join("file/log"), &Options::default()).err().unwrap();
    assert!(error.to_string().contains("file/log"), "{error}");
}

/// Whose log is restored in these tests: a Kafka, by its ids.
fn kafkas() -> Identity {
    let topic = |family: Family| TopicInfo { name: format!("tape.{}", family.topic().name), id: format!("id-{family:?}"), partitions: 8 };
    Identity { cluster_id: "MkU3OEVBNTcwNTJENDM2Qg".into(), topics: vec![(Family::Trades, topic(Family::Trades))] }
}

fn record(n: i64) -> Record {
    let ts_type = if n % 5 == 0 { TimestampType::Create } else { TimestampType::LogAppend };
    let headers = if n % 7 == 0 { vec![("n".to_string(), Some(Bytes::from(n.to_string()))), ("none".to_string(), None)] } else { vec![] };
    Record {
        key: (n % 4 > 0).then(|| format!("k{n}").into()),
        value: (n % 6 > 0).then(|| format!("v{n}").into()),
        headers,
        ts_ms: 1_000 + n / 10,
        ts_type,
    }
}

/// Offsets, times, nulls, headers and holes are those of the log that was lost, and reading begins anywhere, in a hole too.
#[test]
fn a_restored_log_reads_as_the_one_that_was_lost() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("log");
    let mut restorer = Embedded::restore(&dir, &Options::default(), &kafkas()).unwrap();
    let there = |offset: &i64| !(20..30).contains(offset) && offset % 13 > 0;
    let offsets: Vec<i64> = (5..100).filter(there).collect();
    for partition in [3, 1] {
        restorer.begin(Family::Trades, partition, 5).unwrap();
        for offset in &offsets {
            restorer.push(*offset, &record(*offset)).unwrap();
        }
        assert!(restorer.push(50, &record(50)).is_err(), "an offset that was passed");
        restorer.skip_to(110);
    }
    assert!(restorer.begin(Family::Trades, 3, 0).is_err(), "a partition once more");
    assert!(restorer.begin(Family::Trades, 8, 0).is_err(), "a partition that there is not");
    restorer.finish().unwrap();

    let log = open_embedded(&dir);
    assert_eq!(log.cluster_id().unwrap(), kafkas().cluster_id);
    assert_eq!(log.topic(Family::Trades).unwrap(), kafkas().topics[0].1);
    let watermarks = log.watermarks(Family::Trades).unwrap();
    assert_eq!((watermarks[3], watermarks[0]), (Watermarks { low: 5, high: 110 }, Watermarks { low: 0, high: 0 }));
    for first in 5..110 {
        let read = read_all(&log, &[Start { family: Family::Trades, partition: 3, offset: first }]);
        let expected: Vec<(i64, Record)> =
            offsets.iter().filter(|offset| **offset >= first).map(|offset| (*offset, record(*offset))).collect();
        let read: Vec<(i64, Record)> = read
            .into_iter()
            .map(|e| (e.offset, Record { key: e.key, value: e.value, headers: e.headers, ts_ms: e.ts_ms, ts_type: e.ts_type }))
            .collect();
        assert_eq!(read, expected, "from {first}");
    }
    let error = log.reader(&[Start { family: Family::Trades, partition: 3, offset: 4 }]).err().unwrap();
    assert!(matches!(error, Error::OffsetGone { low: 5, .. }), "{error}");
    // How far its sources were published is not known: nobody goes on with them.
    let error = log.writer("ingest.x").err().unwrap();
    assert!(matches!(&error, Error::Restored { .. }) && error.to_string().contains("another home"), "{error}");
}

#[test]
fn a_log_is_restored_only_where_there_is_none_and_only_wholly() {
    let home = tempfile::tempdir().unwrap();
    let taken = home.path().join("taken");
    drop(open_embedded(&taken));
    let error = Embedded::restore(&taken, &Options::default(), &kafkas()).err().unwrap();
    assert!(error.to_string().contains("name a new directory"), "{error}");
    let half = home.path().join("half");
    let mut restorer = Embedded::restore(&half, &Options::default(), &kafkas()).unwrap();
    restorer.begin(Family::Trades, 0, 0).unwrap();
    restorer.push(0, &record(0)).unwrap();
    drop(restorer);
    let error = Embedded::open(&half, &Options::default()).err().unwrap();
    assert!(error.to_string().contains("not restored to its end"), "{error}");
}
