//! What is wrong around the files: rights, disks, brokers, topics, tables. The message says what to do, and once it is done nothing is lost.

use crate::feed::{self, GOOD, HEADER};
use crate::run::{self, Home, text};
use crate::{broker, running};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

fn ingest(home: &Home, path: &Path) -> Output {
    home.run(&["ingest", path.to_str().expect("UTF-8")], "")
}

/// The exit code, and every part of the message.
fn expect(output: &Output, code: i32, says: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    says.iter().for_each(|part| assert!(said.contains(part), "no {part:?} in {said}"));
}

fn trades(home: &Home) -> serde_json::Value {
    let places = "SELECT sum(n) AS n, count(*) AS places FROM (SELECT count(*) AS n FROM trades GROUP BY source_id, source_record)";
    crate::counted(home, places)
}

fn expect_trades(home: &Home, n: u64) {
    let row = trades(home);
    assert_eq!((row["n"].as_u64(), row["places"].as_u64()), (Some(n), Some(n)), "every trade once");
}

fn table(rows: u64) -> Vec<u8> {
    [HEADER.as_bytes(), &feed::csv(0, rows)].concat()
}

#[test]
fn a_folder_stands_for_its_files_and_an_empty_one_is_said() {
    let home = Home::embedded();
    let folder = home.path("in");
    std::fs::create_dir_all(folder.join("deep/er")).expect("created");
    expect(&ingest(&home, &folder), 0, &["in: holds no files: there is nothing to ingest", "0 sources"]);
    feed::write(&folder.join("a.csv"), &table(10));
    feed::write(&folder.join("deep/er/b.csv"), format!("{HEADER}{GOOD}\n").as_bytes());
    expect(&ingest(&home, &folder), 0, &["2 sources", "11 records published"]);
    expect(&ingest(&home, &home.path("gone.csv")), 2, &["gone.csv", "cannot be opened", "check the path"]);
    home.store();
    expect_trades(&home, 11);
}

#[test]
fn a_file_that_grows_keeps_its_unfinished_line_for_later() {
    let home = Home::embedded();
    let path = home.path("growing.csv");
    let whole = table(20);
    let cut = whole.len() - 10;
    let touch = |age: Duration| {
        std::fs::File::options().write(true).open(&path).and_then(|f| f.set_modified(SystemTime::now() - age)).expect("its time is set");
    };
    std::fs::write(&path, &whole[..cut]).expect("written");
    let done = AtomicBool::new(false);
    let said = std::thread::scope(|scope| {
        // A writer that does not rest: the file never becomes old.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                touch(Duration::ZERO);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let said = ingest(&home, &path);
        done.store(true, Ordering::Relaxed);
        said
    });
    expect(&said, 0, &["19 records published"]);
    std::fs::write(&path, &whole).expect("written");
    touch(Duration::from_secs(60));
    expect(&ingest(&home, &path), 0, &["1 records published, 19 known before"]);
    expect(&ingest(&home, &path), 0, &["0 records published, 20 known before"]);
    home.store();
    expect_trades(&home, 20);
    assert_eq!(crate::counted(&home, "SELECT count(DISTINCT source_id) AS n FROM trades")["n"], 1, "grown, not new");
}

#[test]
fn no_permission() {
    let nobody = Command::new("setpriv").args(["--reuid", "65534", "--clear-groups", "true"]).status();
    if !nobody.is_ok_and(|status| status.success()) {
        println!("skipped: no permission: setpriv and root are needed to become another user");
        return;
    }
    // A place that another user can reach, unlike the temporary folder of a test.
    let dir = tempfile::tempdir().expect("temp dir");
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("its rights are set");
    let binary = dir.path().join("tape");
    std::fs::copy(env!("CARGO_BIN_EXE_tape"), &binary).expect("copied");
    let path = dir.path().join("secret.csv");
    feed::write(&path, &table(3));
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("its rights are set");
    let home = dir.path().join("home");
    let as_nobody = |args: &[&Path], home: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--clear-groups"]).arg(&binary).args(args).arg("--home").arg(home);
        command.env_remove("TAPE_HOME").output().expect("setpriv runs")
    };
    let unreadable = as_nobody(&[Path::new("ingest"), &path], &home);
    expect(&unreadable, 3, &["secret.csv", "Permission denied", "give this user the right to read it"]);
    let closed = dir.path().join("closed");
    std::fs::create_dir(&closed).expect("created");
    let unwritable = as_nobody(&[Path::new("ingest"), &path], &closed.join("home"));
    expect(&unwritable, 3, &["Permission denied", "give this user the right to write there, or name another --home"]);
}

/// What is in a home may be licensed: nobody else can look into it, whatever the umask, and tables that were asked for elsewhere follow it.
#[test]
fn a_home_is_for_its_user_alone() {
    let dir = Home::embedded();
    let path = dir.path("trades.csv");
    feed::write(&path, &table(5));
    let home = dir.path("deep/home");
    let elsewhere = dir.path("shared-tables");
    let run = |args: &[&str]| {
        let script = "umask 022; exec \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_tape")]).args(args).arg("--home").arg(&home).env_remove("TAPE_HOME");
        expect(&command.output().expect("sh is everywhere"), 0, &[]);
    };
    let mode = |path: &Path| std::os::unix::fs::PermissionsExt::mode(&path.metadata().expect("it was made").permissions()) & 0o777;
    run(&["ingest", path.to_str().expect("UTF-8")]);
    run(&["store", "--once"]);
    run(&["doctor"]);
    run(&["up", "--once"]);
    for private in [home.clone(), home.join("log"), home.join("tables"), home.join("samples")] {
        assert_eq!(mode(&private), 0o700, "{}", private.display());
    }
    run(&["store", "--once", "--tables", elsewhere.to_str().expect("UTF-8")]);
    assert_eq!(mode(&elsewhere), 0o755);
}

/// A small disk, mounted for one test.
struct Disk {
    at: std::path::PathBuf,
}

impl Disk {
    /// `None`, said aloud, where mounting is not allowed.
    fn mount(at: &Path, size: &str) -> Option<Disk> {
        std::fs::create_dir_all(at).expect("created");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(at).output();
        if done.is_ok_and(|output| output.status.success()) {
            return Some(Disk { at: at.to_path_buf() });
        }
        println!("skipped: disk full: this user may not mount a small disk");
        None
    }

    fn resize(&self, size: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,size={size}")]).arg(&self.at).status();
        assert!(done.expect("mount was there before").success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
    }
}

#[test]
fn a_full_disk_stops_ingest_and_loses_nothing() {
    let home = Home::embedded();
    let Some(disk) = Disk::mount(&home.path("log"), "3m") else { return };
    let path = home.path("trades.dbn");
    feed::write(&path, &feed::dbn("T.DATA", 200_000));
    let full = ingest(&home, &path);
    expect(&full, 3, &["trades.dbn", "embedded log in", "disk full", "mend the disk, start again"]);
    assert!(!text(&full).contains("ERROR"), "the storage engine's own lines say nothing that ours does not: {}", text(&full));
    disk.resize("200m");
    let again = ingest(&home, &path);
    expect(&again, 0, &["known before"]);
    assert!(!text(&again).contains(" 0 known before"), "what was published before the disk was full stays: {}", text(&again));
    home.store();
    expect_trades(&home, 200_000);
}

#[test]
fn a_full_disk_stops_the_store_and_loses_nothing() {
    let home = Home::embedded();
    let Some(disk) = Disk::mount(&home.path("tables"), "1m") else { return };
    std::fs::write(home.path("tape.toml"), "[store]\nrows_max = 20000\n").expect("written");
    let path = home.path("trades.dbn");
    feed::write(&path, &feed::dbn("T.DATA", 150_000));
    expect(&ingest(&home, &path), 0, &[]);
    let full = Command::new("dd").args(["if=/dev/zero", "bs=4096"]).arg(format!("of={}", home.path("tables/filler").display())).output();
    assert!(!full.expect("dd is everywhere").status.success(), "the disk is filled up");
    expect(&home.run(&["store", "--once"], ""), 3, &["no space left", "free space at", "run again"]);
    std::fs::remove_file(home.path("tables/filler")).expect("removed");
    let halfway = home.run(&["store", "--once"], "");
    if !halfway.status.success() {
        expect(&halfway, 3, &["no space left while writing", "nothing was committed", "free space at"]);
    }
    disk.resize("200m");
    home.store();
    expect_trades(&home, 150_000);
}

#[test]
fn a_table_of_a_newer_version_is_refused() {
    let home = Home::embedded();
    let path = home.path("trades.csv");
    feed::write(&path, &table(5));
    expect(&ingest(&home, &path), 0, &[]);
    home.store();
    let log = home.path("tables/trades/_delta_log");
    let next = std::fs::read_dir(&log)
        .expect("the table")
        .filter(|e| e.as_ref().expect("an entry").path().extension().is_some_and(|x| x == "json"))
        .count();
    let commit = log.join(format!("{next:020}.json"));
    std::fs::write(&commit, "{\"protocol\":{\"minReaderVersion\":99,\"minWriterVersion\":99}}\n").expect("written");
    let says = ["table trades", "version 99", "use the version that wrote it, or other tables"];
    feed::write(&path, &table(6));
    expect(&ingest(&home, &path), 0, &[]);
    expect(&home.run(&["store", "--once"], ""), 3, &says);
    expect(&home.run(&["sql", "SELECT count(*) FROM trades"], ""), 3, &says);
    expect(&home.run(&["doctor"], ""), 1, &says);
    std::fs::remove_file(commit).expect("removed");
    home.store();
    expect_trades(&home, 6);
}

/// A log that was brought back from an old copy ends before what was stored from it.
#[test]
fn a_log_from_an_old_copy_is_found_out() {
    let home = Home::embedded();
    let (first, second) = (home.path("first.csv"), home.path("second.csv"));
    feed::write(&first, &[HEADER.as_bytes(), &feed::csv(0, 10)].concat());
    feed::write(&second, &[HEADER.as_bytes(), &feed::csv(500, 700)].concat());
    home.ingest(&first, &[]);
    home.store();
    let copy = |from: &str, to: &str| {
        let done = Command::new("cp").arg("-r").args([home.path(from), home.path(to)]).status().expect("cp is there");
        assert!(done.success(), "copying {from} to {to}");
    };
    copy("log", "old");
    home.ingest(&second, &[]);
    home.store();
    std::fs::remove_dir_all(home.path("log")).expect("the log is a folder");
    copy("old", "log");
    let says = ["but the log ends at", "it was cut or replaced"];
    expect(&home.run(&["doctor"], ""), 1, &says);
    expect(&home.run(&["store", "--once"], ""), 3, &says);
}

#[test]
fn tables_of_another_log_are_refused() {
    let home = Home::embedded();
    let path = home.path("trades.csv");
    feed::write(&path, &table(5));
    expect(&ingest(&home, &path), 0, &[]);
    home.store();
    std::fs::rename(home.path("log"), home.path("old-log")).expect("the log is put away");
    expect(&ingest(&home, &path), 0, &["5 records published"]);
    let says = ["was stored from another log", "topic tape.", "use the log that the tables were made from", "--tables"];
    expect(&home.run(&["store", "--once"], ""), 3, &says);
    expect(&home.run(&["doctor"], ""), 1, &says);
    expect_trades(&home, 5);
    std::fs::remove_dir_all(home.path("log")).and_then(|()| std::fs::rename(home.path("old-log"), home.path("log"))).expect("it is back");
    feed::write(&path, &table(7));
    expect(&ingest(&home, &path), 0, &["2 records published"]);
    home.store();
    expect_trades(&home, 7);
    expect(&home.run(&["doctor"], ""), 0, &["no table was stored from another log"]);
}

#[test]
fn tables_of_another_kafka_prefix_are_refused() {
    let Some(broker) = run::broker() else { return };
    let (one, two) = (Home::kafka(&broker), Home::kafka(&broker));
    let path = one.path("trades.csv");
    feed::write(&path, &table(5));
    expect(&ingest(&one, &path), 0, &[]);
    one.store();
    expect(&ingest(&two, &path), 0, &["5 records published"]);
    let tables = one.path("tables").display().to_string();
    let says = ["was stored from another log", &one.topic(""), &two.topic(""), "--tables"];
    expect(&two.run(&["store", "--once", "--tables", &tables], ""), 3, &says);
    expect_trades(&one, 5);
    two.store();
    expect_trades(&two, 5);
}

#[test]
fn a_bomb_is_refused_before_it_fills_a_disk() {
    let home = Home::embedded();
    std::fs::write(home.path("tape.toml"), "[ingest]\ndocument_mib_max = 80\n").expect("written");
    let bomb = feed::gz(&vec![0; 100 << 20]);
    assert!(bomb.len() < 1 << 20);
    for (name, bytes) in [("bomb.gz", bomb.clone()), ("bomb.gz.zst", feed::zst(&bomb)), ("bomb.zip", feed::zip("in.gz", &bomb))] {
        let path = home.path(name);
        feed::write(&path, &bytes);
        expect(&ingest(&home, &path), 3, &[name, "unpacks to more than 80 MiB", "[ingest]", "document_mib_max"]);
    }
    std::fs::write(home.path("tape.toml"), "[ingest]\ndocument_mib_max = 100\n").expect("written");
    expect(&ingest(&home, &home.path("bomb.gz")), 0, &["2 records published"]);
}

#[test]
fn a_broker_that_is_not_there() {
    let home = Home::without_topics("127.0.0.1:1");
    let path = home.path("trades.csv");
    feed::write(&path, &table(5));
    let says = ["Kafka at 127.0.0.1:1 cannot be reached", "check that the broker runs and that its address is right"];
    std::thread::scope(|scope| {
        scope.spawn(|| expect(&ingest(&home, &path), 3, &says));
        scope.spawn(|| expect(&home.run(&["store", "--once"], ""), 3, &says));
        scope.spawn(|| expect(&home.run(&["doctor"], ""), 1, &says));
    });
}

#[test]
fn topics_that_are_missing_or_differ_or_are_forbidden() {
    let Some(address) = run::broker() else { return };
    let home = Home::without_topics(&address);
    let path = home.path("trades.csv");
    feed::write(&path, &table(5));
    let topic = home.topic("trades");
    let missing = format!("{topic}: it does not exist: run `tape topics` to create it");
    expect(&ingest(&home, &path), 3, &[&missing]);
    expect(&home.run(&["store", "--once"], ""), 3, &[&missing]);
    expect(&home.run(&["topics", "--check"], ""), 1, &["it does not exist"]);
    expect(&home.run(&["topics"], ""), 0, &[&topic, "created"]);
    expect(&ingest(&home, &path), 0, &["5 records published"]);

    broker::alter(&address, &topic, "retention.ms", "3600000");
    let differs = format!("{topic}: retention.ms is 3600000 instead of -1");
    feed::write(&path, &table(7));
    running::until("the setting to be visible", || !home.run(&["topics", "--check"], "").status.success());
    expect(&ingest(&home, &path), 3, &[&differs, "kafka-configs.sh", "--add-config retention.ms=-1"]);
    expect(&home.run(&["store", "--once"], ""), 3, &[&differs]);
    expect(&home.run(&["topics"], ""), 1, &["unfit", "retention.ms is 3600000"]);
    broker::alter(&address, &topic, "retention.ms", "-1");
    running::until("the setting to be visible", || home.run(&["topics", "--check"], "").status.success());
    expect(&ingest(&home, &path), 0, &["2 records published"]);
    home.store();
    expect_trades(&home, 7);

    feed::write(&path, &table(9));
    broker::forbid(&address, &topic, broker::WRITE);
    expect(&ingest(&home, &path), 3, &[&topic, "refuses", "check the user's rights (ACLs)"]);
    broker::forbid(&address, &topic, broker::READ);
    expect(&home.run(&["store", "--once"], ""), 3, &[&topic, "refuses", "check the user's rights (ACLs)"]);
    expect_trades(&home, 7);
}
