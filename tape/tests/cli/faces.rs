//! What a command shows, to a person and to a script, and how wrong use is refused.

use crate::feed;
use crate::run::{Home, text};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn parsed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(output)))
}

fn with_trades() -> Home {
    let home = Home::embedded();
    let path = home.path("trades.csv");
    feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(0, 3)].concat());
    assert_eq!(home.ingest(&path, &[]).code, 0);
    home
}

#[test]
fn every_json_output_is_json() {
    let home = with_trades();
    let stored = parsed(&home.run(&["store", "--once", "--json"], ""));
    assert_eq!(stored["rows"], json!({ "trades": 3, "sources": 1 }));
    let topics = parsed(&home.run(&["topics", "--json"], ""));
    let names: Vec<_> = topics["topics"].as_array().expect("topics").iter().map(|topic| topic["name"].as_str().expect("a name")).collect();
    assert!(names.contains(&"tape.trades") && names.contains(&"tape.positions"), "{names:?}");
    let doctor = home.run(&["doctor", "--json"], "");
    assert_eq!(doctor.status.code(), Some(0), "{}", text(&doctor));
    assert_eq!(parsed(&doctor)["ok"], true);
    let schema = parsed(&home.run(&["schema", "trades", "--json"], ""));
    assert_eq!(schema[0]["table"], "trades");
    let missing = home.run(&["ingest", "--json", "/gone.csv"], "");
    assert_eq!(missing.status.code(), Some(2));
    assert_eq!(parsed(&missing)["files"][0]["outcome"], "failed");
}

#[test]
fn what_a_person_reads() {
    let home = with_trades();
    for (args, says) in [
        (&["doctor"][..], "ok   log"),
        (&["topics"], "tape.trades"),
        (&["schema"], "token_usage"),
        (&["schema", "trades"], "DECIMAL(18,9)"),
        (&["schema", "trades", "--avro"], "\"type\":\"record\""),
        (&["schema", "--markdown"], "ts_publish"),
        (&["--help"], "Exit codes"),
    ] {
        let output = home.run(args, "");
        assert!(output.status.success() && text(&output).contains(says), "tape {args:?}: no {says:?} in {}", text(&output));
    }
}

#[test]
fn wrong_use_is_exit_code_2_and_says_what_is_right() {
    let home = Home::embedded();
    let mistake = home.path("mistake.toml");
    std::fs::write(&mistake, "nonsense = 1\n").expect("written");
    let mistake = mistake.to_str().expect("UTF-8");
    for (args, says) in [
        (&["ingest"][..], "FILE"),
        (&["ingest", "--no-such-flag", "a"], "--no-such-flag"),
        (&["no-such-command"], "no-such-command"),
        (&["schema", "no_such_table"], "there are "),
        (&["ingest", "--dataset", "A.CODE.THAT.IS.TOO.LONG", "a"], "1 to 15 visible ASCII characters"),
        (&["ingest", "--captured", "yesterday", "a"], "2026-10-05T14:30:00Z"),
        (&["sql", "--format", "xml", "SELECT 1"], "table"),
        (&["sql", "--json", "--format", "csv", "SELECT 1"], "--json is --format json"),
        (&["up", "--listen", "nonsense"], "HOST:PORT"),
        (&["query", "--listen", "127.0.0.1:port"], "HOST:PORT"),
        (&["up", "--brokers", "127.0.0.1:1"], "embedded log"),
        (&["ingest", "/gone.csv"], "/gone.csv: cannot be opened"),
        (&["ingest", "--mapping", "/gone.toml", "a.csv"], "/gone.toml: the mapping cannot be read"),
        (&["ingest", "--mapping", mistake, "a.csv"], "mistake.toml"),
        (&["sql", "SELEC 1"], "not understood as SQL"),
        (&["sql", "SELECT 1; SELECT 2"], "more than one statement"),
        (&["sql", "SELECT sqrt(v) FROM (VALUES (1.5)) AS t(v)"], "is computed in floats"),
        (&["sql", "--format", "csv", "SELECT nothing FROM trades"], "no column nothing"),
        (&["sql", "SELECT CAST('x' AS INT)"], "TRY_CAST"),
        (&["sql", "SELECT symbol FROM trades WHERE ts_event < DATE '9999-01-01'"], "from 1677-09-22 to 2262-04-11"),
        (&["sql", "SELECT symbol FROM trades WHERE ts_event < '9999-01-01'"], "from 1677-09-22 to 2262-04-11"),
        (&["sql", "SELECT symbol FROM trades WHERE ts_event < TIMESTAMP '9999-01-01'"], "from 1677-09-22 to 2262-04-11"),
        (&["sql", "--timeout", "0", "SELECT 1"], "--timeout"),
        (&["query", "--timeout", "0"], "--timeout"),
        (&["query", "--tables", "s3://bucket/tables"], "s3://bucket/tables"),
        (&["sql", "--tables", "s3://bucket/tables", "SELECT 1"], "s3://bucket/tables"),
    ] {
        let output = home.run(args, "");
        assert_eq!(output.status.code(), Some(2), "tape {args:?}: {}", text(&output));
        assert!(text(&output).contains(says), "tape {args:?}: no {says:?} in {}", text(&output));
    }
}

/// A slip in the name of the home is not made into one, with an empty log.
#[test]
fn a_store_without_a_home_is_refused() {
    let home = Home::embedded();
    std::fs::remove_dir(home.path("")).expect("it was empty");
    for args in [&["store", "--once"][..], &["store"]] {
        let output = home.run(args, "");
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains("there is no home"), "{}", text(&output));
        assert!(!home.path("").exists());
    }
}

#[test]
fn an_address_in_use_is_said_before_any_work() {
    let home = Home::embedded();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let output = home.run(&["up", "--listen", &address], "");
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains(&format!("listening on {address}; another address: --listen")), "{}", text(&output));
    assert!(output.stdout.is_empty() && !home.path("samples").exists(), "{}", text(&output));
}

#[test]
fn unknown_settings_are_refused() {
    for (toml, says) in [
        ("brokerz = \"a\"", "brokerz"),
        ("[store]\nrows = 5", "rows_max"),
        ("[query]\nmemory_mib = \"much\"", "memory_mib"),
        ("[query]\nmemory_mib = 0", "memory_mib = 0: must be from 16 to 1048576"),
        ("[query]\nmemory_mib = 2147483648", "must be from 16 to 1048576"),
        ("[store]\nrows_max = 0", "rows_max = 0: must be from 1 to 100000000"),
        ("[kafka]\nx = [1]", "librdkafka property"),
        ("[kafka", "tape.toml"),
    ] {
        let home = Home::embedded();
        std::fs::write(home.path("tape.toml"), toml).expect("written");
        let output = home.run(&["doctor"], "");
        assert_eq!(output.status.code(), Some(2), "{toml}: {}", text(&output));
        assert!(text(&output).contains(says) && text(&output).contains("tape.toml"), "{toml}: {}", text(&output));
    }
    let home = Home::embedded();
    let output = home.run(&["doctor", "--config", "/gone/tape.toml"], "");
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

#[test]
fn every_format_of_sql() {
    let home = with_trades();
    home.store();
    let sql = "SELECT symbol, price, size, ts_event FROM trades ORDER BY ts_event";
    let answer = |format: &str| {
        let output = home.run(&["sql", "--format", format, sql], "");
        assert!(output.status.success(), "{}", text(&output));
        output.stdout
    };
    let csv = String::from_utf8(answer("csv")).expect("UTF-8");
    assert_eq!(csv.lines().next(), Some("symbol,price,size,ts_event"));
    assert_eq!(csv.lines().count(), 4, "{csv}");
    assert!(csv.contains("TOK1,0.020000000,2,2026-10-05T00:00:00.001"), "{csv}");
    assert_eq!(home.run(&["sql", "--json", sql], "").stdout, answer("json"));
    let rows: Vec<Value> = serde_json::from_slice(&answer("json")).expect("JSON");
    let lines: Vec<Value> = serde_json::Deserializer::from_slice(&answer("jsonl")).into_iter().map(|v| v.expect("JSON")).collect();
    assert_eq!(rows, lines);
    assert_eq!(rows[0]["symbol"], "TOK0");
    let batches: Vec<_> = arrow::ipc::reader::StreamReader::try_new(&answer("arrow")[..], None)
        .expect("a stream")
        .collect::<Result<_, _>>()
        .expect("batches");
    assert_eq!(batches.iter().map(arrow::array::RecordBatch::num_rows).sum::<usize>(), 3);
    assert!(String::from_utf8(answer("table")).expect("UTF-8").contains("3 rows"));
    let wrong = home.run(&["sql", "SELECT prise FROM trades"], "");
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong));
    assert!(text(&wrong).contains("prise"), "{}", text(&wrong));
    let writes = home.run(&["sql", "DELETE FROM trades"], "");
    assert_eq!(writes.status.code(), Some(2), "{}", text(&writes));
}

/// What is not to be mended by typing something else is a fault; of several statements the worst counts.
#[test]
fn a_script_ends_as_its_worst_statement() {
    let home = Home::embedded();
    let hour = "SELECT levenshtein(repeat('a', 300000), repeat('b', 300000))";
    for (script, code) in
        [("SELECT 1; SELECT 2".to_string(), 0), ("SELECT nothing; SELECT 2".into(), 2), (format!("SELECT nothing; {hour}; SELECT 2"), 3)]
    {
        let output = home.run(&["sql", "--timeout", "1"], &script);
        assert_eq!(output.status.code(), Some(code), "{script}: {}", text(&output));
    }
    let late = home.run(&["sql", "--timeout", "1", hour], "");
    assert_eq!(late.status.code(), Some(3), "{}", text(&late));
}

/// A name that was mistyped is no empty archive, and whoever only looks makes nothing.
#[test]
fn a_home_that_does_not_exist_is_said_and_not_made() {
    let home = Home::embedded();
    let (typo, nowhere) = (home.path("typo"), home.path("no-tables"));
    let (typo, nowhere) = (typo.to_str().expect("UTF-8"), nowhere.to_str().expect("UTF-8"));
    for (args, code, says) in [
        (&["sql", "--home", typo, "SELECT 1"][..], 2, format!("there is no home {typo}:")),
        (&["sql", "--tables", nowhere, "SELECT 1"], 2, format!("there is no folder {nowhere}:")),
        (
            &["query", "--listen", "127.0.0.1:0", "--home", typo],
            2,
            format!("there is no home {typo}: name another --home, or make this one"),
        ),
        (&["query", "--listen", "127.0.0.1:0", "--tables", nowhere], 2, format!("there is no folder {nowhere}:")),
        (&["topics", "--check", "--home", typo], 2, format!("there is no home {typo}:")),
        (&["doctor", "--home", typo], 1, format!("BAD  home           there is no home {typo}:")),
        (&["doctor", "--tables", nowhere], 1, format!("BAD  tables         there is no folder {nowhere}:")),
    ] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_tape")).args(args).env("TAPE_HOME", home.path("")).env_remove("TAPE_BROKERS").output();
        let output = output.expect("the binary runs");
        assert_eq!(output.status.code(), Some(code), "tape {args:?}: {}", text(&output));
        assert!(text(&output).contains(&says), "tape {args:?}: no {says:?} in {}", text(&output));
        assert!(!Path::new(typo).exists() && !Path::new(nowhere).exists(), "tape {args:?} made it");
    }
    let empty = home.run(&["sql", "--format", "csv", "SELECT count(*) AS n FROM trades"], "");
    assert!(empty.status.success() && empty.stdout == b"n\n0\n", "{}", text(&empty));
}

fn parquet_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let here = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    here.chain(folders.iter().flat_map(|folder| parquet_files(folder))).collect()
}

// A file that is deleted behind the table's back: count(*) comes from the Delta log and cannot know, the doctor does.
#[test]
fn the_doctor_finds_lost_files() {
    let home = with_trades();
    home.store();
    let doctor = || home.run(&["doctor"], "");
    let well = doctor();
    assert!(well.status.success() && text(&well).contains("ok   files          all 2 of the tables are there"), "{}", text(&well));
    let file = parquet_files(&home.path("tables/trades")).pop().expect("a file of trades");
    let name = file.file_name().expect("a name").to_str().expect("UTF-8").to_string();
    let content = std::fs::read(&file).expect("read");
    std::fs::write(&file, &content[1..]).expect("written");
    let cut = doctor();
    assert_eq!(cut.status.code(), Some(1), "{}", text(&cut));
    assert!(text(&cut).contains("BAD  files          1 of 2 are not as they were stored"), "{}", text(&cut));
    assert!(text(&cut).contains(&format!("{name} has {} bytes, the log states {}", content.len() - 1, content.len())), "{}", text(&cut));
    std::fs::remove_file(&file).expect("removed");
    let gone = home.run(&["doctor", "--json"], "");
    assert_eq!(gone.status.code(), Some(1), "{}", text(&gone));
    let checks = parsed(&gone);
    let files = checks["checks"].as_array().expect("checks").iter().find(|check| check["check"] == "files").expect("files").clone();
    assert_eq!(files["ok"], false);
    assert!(files["says"].as_str().expect("text").contains(&format!("{name} is missing")), "{files}");
    assert_eq!(crate::counted(&home, "SELECT count(*) AS n FROM trades")["n"], 3);
    let read = home.run(&["sql", "SELECT max(price) FROM trades"], "");
    assert_eq!(read.status.code(), Some(3), "{}", text(&read));
    std::fs::write(&file, &content).expect("written");
    assert!(doctor().status.success());
}

/// A table whose log is spoilt fails whoever asks for it, in one line, and nobody else.
#[test]
fn a_table_that_cannot_be_read_keeps_no_other_from_being_asked() {
    let home = with_trades();
    home.store();
    let log = home.path("tables/quotes/_delta_log");
    std::fs::create_dir_all(&log).expect("made");
    std::fs::write(log.join("00000000000000000000.json"), "garbage\n").expect("written");
    assert_eq!(crate::counted(&home, "SELECT count(*) AS n FROM trades")["n"], 3);
    let spoilt = home.run(&["sql", "SELECT count(*) FROM quotes"], "");
    assert_eq!(spoilt.status.code(), Some(3), "{}", text(&spoilt));
    assert!(
        text(&spoilt).contains("table quotes") && String::from_utf8_lossy(&spoilt.stderr).trim().lines().count() == 1,
        "{}",
        text(&spoilt)
    );
    let doctor = home.run(&["doctor"], "");
    assert_eq!(doctor.status.code(), Some(1), "{}", text(&doctor));
    assert!(text(&doctor).contains("BAD  tables") && text(&doctor).contains("table quotes"), "{}", text(&doctor));
}

/// A script that reads only the exit code is not left with a part.
#[test]
fn a_table_that_is_cut_is_exit_code_1() {
    let home = Home::embedded();
    let many = "SELECT value FROM generate_series(1, 10001)";
    let cut = home.run(&["sql", many], "");
    assert_eq!(cut.status.code(), Some(1), "{}", text(&cut));
    assert_eq!(String::from_utf8_lossy(&cut.stderr), "tape: cut after 10000 rows: all of them with --format csv, json, jsonl or arrow\n");
    for whole in [&["sql", "--format", "csv", many][..], &["sql", "SELECT value FROM generate_series(1, 10000)"]] {
        let output = home.run(whole, "");
        assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output));
    }
    let script = home.run(&["sql"], many);
    assert!(script.status.success(), "{}", text(&script));
}

// Planned on the main thread's stack of 8 MiB this ended the process.
#[test]
fn a_long_chain_of_operators_is_planned() {
    let sql = format!("SELECT {} AS n", vec!["1"; 500].join("+"));
    let output = Home::embedded().run(&["sql", "--format", "csv", &sql], "");
    assert!(output.status.success() && output.stdout == b"n\n500\n", "{}", text(&output));
}

#[test]
fn commands_of_the_shell_work_as_the_argument() {
    let home = with_trades();
    home.store();
    for (command, says) in [
        ("\\d", "a trade as published"),
        ("\\d trades", "currency per price_unit"),
        (" \\? ", "SELECT …;"),
        ("help", "SELECT …;"),
        ("quit;", ""),
    ] {
        let output = home.run(&["sql", command], "");
        assert!(output.status.success() && text(&output).contains(says), "{command}: no {says:?} in {}", text(&output));
    }
    let tables = parsed(&home.run(&["sql", "--json", "\\d"], ""));
    let trades = tables.as_array().expect("tables").iter().find(|table| table["table"] == "trades").expect("trades").clone();
    assert_eq!((trades["rows"].as_u64(), trades["a row is"].as_str()), (Some(3), Some("a trade as published")), "{trades}");
    let columns = home.run(&["sql", "--format", "csv", "\\d trades"], "").stdout;
    assert!(String::from_utf8_lossy(&columns).starts_with("column,type,unit,meaning\ndataset,"), "{}", String::from_utf8_lossy(&columns));
    for (command, says) in [("\\nonsense", "no command \\nonsense"), ("\\d nothing", "no table nothing")] {
        let output = home.run(&["sql", command], "");
        assert_eq!(output.status.code(), Some(2), "{command}: {}", text(&output));
        assert!(text(&output).contains(says), "{command}: no {says:?} in {}", text(&output));
    }
}

// A reader that has seen enough closes the pipe: that is no fault.
#[test]
fn a_closed_pipe_is_no_panic() {
    let home = Home::embedded();
    let mut child = home
        .command(&["schema", "--markdown"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{}", text(&output));
    assert!(output.stderr.is_empty(), "{}", text(&output));
}

/// What does not fit into memory is put aside for the time of a command, and not longer.
#[test]
fn nothing_stays_in_the_temporary_folder() {
    let home = Home::embedded();
    let temporary = home.path("tmp");
    std::fs::create_dir(&temporary).expect("created");
    for args in [&["sql", "SELECT count(*) FROM trades"][..], &["sql", "SELECT nothing"], &["doctor"]] {
        home.command(args).env("TMPDIR", &temporary).output().expect("the binary runs");
        let left: Vec<_> = std::fs::read_dir(&temporary).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
        assert!(left.is_empty(), "{args:?} left {left:?}");
    }
}

/// Given a name that no record has, or a time or offsets beyond all records, then a replay says so, with what there is, and its exit code is 1.
#[test]
fn a_replay_of_what_is_not_there_says_so() {
    let home = with_trades();
    home.store();
    for (args, code, says) in [
        (&["--symbol", "NOBODY"][..], 1, "--symbol NOBODY: no record has it"),
        (&["--symbol", "NOBODY,it's"], 1, "--symbol it's: no record has it"),
        (&["--family", "trades", "--dataset", "NO.DATA"], 1, "--dataset NO.DATA: no record of trades has it"),
        (&["--source", "00112233445566778899aabbccddeeff"], 1, "--source 00112233445566778899aabbccddeeff: no record has it"),
        (&["--family", "bars", "--since", "2001-01-01"], 1, "there is no record of bars in the tables"),
        (&["--until", "2001-01-01"], 1, "--since and --until: the records have _log_ts from 20"),
        (&["--family", "trades", "--partition", "0", "--from-offset", "1000000"], 1, "partition 0"),
        (
            &["--family", "trades", "--since", "yesterday"],
            2,
            "--since yesterday: is no time that is taken here: write a date, which is its midnight UTC (2026-10-05)",
        ),
        (&["--family", "trades", "--since", "2001-01-01"], 0, ""),
        (&[], 0, ""),
    ] {
        let output = home.run(&[&["replay"], args].concat(), "");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "tape replay {args:?}: {}", text(&output));
        assert!(said.contains(says), "tape replay {args:?}: no {says:?} in {said}");
        assert_eq!(output.stdout.is_empty(), code != 0, "tape replay {args:?}");
    }
    let empty = home.run(&["replay", "--family", "bars"], "");
    assert!(empty.status.success() && text(&empty).contains("there is no record of bars in the tables"), "{}", text(&empty));
    let told = home.run(&["replay", "--symbol", "NOBODY", "--to", home.path("none.jsonl").to_str().expect("UTF-8"), "--json"], "");
    assert_eq!(parsed(&told)["unmatched"], json!(["--symbol NOBODY: no record has it"]));
}

/// Two replays to one file at once: the second is told of the first, and the first one's file is whole.
#[test]
fn a_file_that_another_replay_writes_is_left_to_it() {
    let home = with_trades();
    home.store();
    let to = home.path("out.jsonl");
    let part = home.path("out.jsonl.part");
    let first = std::fs::File::create(&part).expect("made");
    first.lock().expect("nobody has it");
    let args = ["replay", "--family", "trades", "--to", to.to_str().expect("UTF-8")];
    let second = home.run(&args, "");
    assert_eq!(second.status.code(), Some(2), "{}", text(&second));
    assert!(text(&second).contains("another replay is writing"), "{}", text(&second));
    // What a broken replay left is begun anew.
    drop(first);
    std::fs::write(&part, "half a li").expect("written");
    let again = home.run(&args, "");
    assert!(again.status.success() && text(&again).contains("3 records to"), "{}", text(&again));
    assert_eq!(std::fs::read_to_string(&to).expect("whole").lines().count(), 3);
}

#[test]
fn examples_are_in_the_long_help() {
    let home = Home::embedded();
    for command in ["replay", "requeue", "upkeep", "verify"] {
        let output = home.run(&[command, "--help"], "");
        assert!(output.status.success() && text(&output).contains(&format!("Examples:\n  tape {command} --home H")), "{}", text(&output));
    }
}

/// A table's log without one of its entries, and an embedded log without one of its files, are named with what to do.
#[test]
fn a_missing_entry_and_a_missing_file_are_named() {
    let home = with_trades();
    home.store();
    for number in 1..4 {
        let path = home.path(&format!("more{number}.csv"));
        feed::write(&path, &[feed::HEADER.as_bytes(), &feed::csv(number * 100, number * 100 + 3)].concat());
        assert_eq!(home.ingest(&path, &[]).code, 0);
        home.store();
    }
    let entry = home.path("tables/trades/_delta_log/00000000000000000002.json");
    let kept = std::fs::read(&entry).expect("it is there");
    std::fs::remove_file(&entry).expect("it was there");
    let says = "its log has no version 2, though later ones are there: _delta_log/00000000000000000002.json is gone";
    for (args, code) in [(&["sql", "SELECT count(*) FROM trades"][..], 3), (&["verify"], 1), (&["store", "--once"], 3), (&["doctor"], 1)] {
        let output = home.run(args, "");
        assert_eq!(output.status.code(), Some(code), "tape {args:?}: {}", text(&output));
        assert!(text(&output).contains(says) && !text(&output).contains("ParsedLogPath"), "tape {args:?}: {}", text(&output));
    }
    std::fs::write(&entry, kept).expect("brought back");
    assert!(home.run(&["verify"], "").status.success());
    let keyspace = home.path("log/log/keyspaces/0");
    let version = std::fs::read_dir(&keyspace).expect("it is there").map(|entry| entry.expect("an entry").path());
    let version =
        version.into_iter().find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('v'))).expect("a version");
    std::fs::remove_file(version).expect("it was there");
    let output = home.run(&["topics"], "");
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("one of its files is missing") && text(&output).contains("from a copy"), "{}", text(&output));
}

/// Given bad records of a source, then requeue tells all reasons of it, and once they are settled with a word of why they are no finding any more,
/// for nobody; settled twice they are settled once.
#[test]
fn bad_records_of_a_source_are_settled_by_whoever_knows_what_became_of_them() {
    let home = with_trades();
    let path = home.path("bad.csv");
    let mut csv = feed::csv(10, 14);
    csv.extend_from_slice(b"nonsense\nnonsense,1\nmore nonsense\n");
    feed::write(&path, &[feed::HEADER.as_bytes(), &csv].concat());
    let ingested = home.ingest(&path, &[]);
    assert_eq!(ingested.code, 1);
    let id = &ingested.source_ids()[0];
    home.run(&["store", "--once"], "");
    let told = home.run(&["requeue"], "");
    let said = text(&told);
    assert_eq!(told.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("  {id} (")) && said.contains("bad.csv): 3 records (number ") && said.contains(" × "), "{said}");
    assert_eq!(home.run(&["doctor"], "").status.code(), Some(1));
    for (args, says) in [
        (&["requeue", "--settle", id][..], "--why"),
        (&["requeue", "--settle", "abc", "--why", "x"], "32 hex digits"),
        (&["requeue", "--settle", &"0".repeat(32), "--why", "x"], "no record of source"),
        (&["requeue", "--settle", id, "--why", " "], "--why is empty"),
    ] {
        let wrong = home.run(args, "");
        assert_eq!(wrong.status.code(), Some(2), "{args:?}: {}", text(&wrong));
        assert!(text(&wrong).contains(says), "{args:?}: {}", text(&wrong));
    }
    let settle = ["requeue", "--settle", id, "--why", "the venue never meant them", "--json"];
    let settled = |args: &[&str]| {
        let output = home.run(args, "");
        assert!(output.status.success(), "{}", text(&output));
        let done = parsed(&output);
        (done["settled"].as_u64(), done["already"].as_u64())
    };
    assert_eq!(settled(&[&settle[..], &["--dry-run"]].concat()), (Some(3), Some(0)));
    assert_eq!(settled(&settle), (Some(3), Some(0)));
    assert_eq!(settled(&settle), (Some(0), Some(3)), "before it is stored, too");
    home.store();
    let none = home.run(&["requeue"], "");
    assert!(none.status.success() && text(&none).contains("nothing of this stands in quarantine"), "{}", text(&none));
    let sql = "SELECT count(*) FILTER (WHERE change = 'new') AS bad, count(requeued_at) AS settled, \
               count(*) FILTER (WHERE reason = 'settled: the venue never meant them') AS told FROM quarantine";
    let row = &home.ask(&[sql.to_string()])[0][0];
    assert_eq!((&row["bad"], &row["settled"], &row["told"]), (&json!("3"), &json!("3"), &json!("3")), "{row}");
    let doctor = home.run(&["doctor"], "");
    assert!(doctor.status.success(), "{}", text(&doctor));
    let verified = home.run(&["verify", "--against-log"], "");
    assert!(verified.status.success(), "{}", text(&verified));
}
