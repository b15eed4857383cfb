//! A1 to A3: statements that would change something, reach outside the tables, or loosen a limit. Nothing is written, nothing outside is opened.

use crate::attacks::Target;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::{Command, Stdio};

/// A1: whatever would write, in every place where a statement can stand.
const WRITES: &[&str] = &[
    "COPY trades TO '/tmp/tape-attack.parquet'",
    "COPY (SELECT * FROM trades) TO '/tmp/tape-attack.csv' STORED AS CSV",
    "COPY trades TO 's3://bucket/x.parquet'",
    "COPY trades FROM '/etc/passwd'",
    "COPY trades TO STDOUT",
    "INSERT INTO trades SELECT * FROM trades",
    "INSERT INTO trades VALUES (1)",
    "INSERT OVERWRITE TABLE trades SELECT * FROM trades",
    "REPLACE INTO trades VALUES (1)",
    "UPDATE trades SET price = 1",
    "DELETE FROM trades",
    "DELETE FROM trades WHERE true",
    "MERGE INTO trades USING quotes ON true WHEN MATCHED THEN DELETE",
    "TRUNCATE TABLE trades",
    "CREATE TABLE x (a int)",
    "CREATE TABLE x AS SELECT * FROM trades",
    "CREATE TABLE IF NOT EXISTS trades AS SELECT 1",
    "CREATE OR REPLACE TABLE trades AS SELECT 1",
    "CREATE TEMPORARY TABLE x AS SELECT 1",
    "CREATE UNBOUNDED EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
    "CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION '/etc/passwd'",
    "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION 'http://169.254.169.254/latest'",
    "CREATE VIEW x AS SELECT 1",
    "CREATE OR REPLACE VIEW trades AS SELECT 1",
    "CREATE MATERIALIZED VIEW x AS SELECT 1",
    "CREATE SCHEMA x",
    "CREATE DATABASE x",
    "CREATE INDEX i ON trades (symbol)",
    "CREATE FUNCTION f(int) RETURNS int RETURN $1",
    "CREATE FUNCTION f AS 'x' USING JAR '/tmp/x.jar'",
    "CREATE ROLE r",
    "CREATE SEQUENCE s",
    "CREATE TRIGGER t AFTER INSERT ON trades EXECUTE FUNCTION f()",
    "DROP TABLE trades",
    "DROP TABLE IF EXISTS trades",
    "DROP VIEW trades",
    "DROP SCHEMA tape CASCADE",
    "DROP FUNCTION sum",
    "DROP DATABASE tokentape",
    "ALTER TABLE trades RENAME TO x",
    "ALTER TABLE trades ADD COLUMN x int",
    "GRANT ALL ON trades TO public",
    "REVOKE ALL ON trades FROM public",
    "PREPARE p AS INSERT INTO trades SELECT * FROM trades",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "BEGIN",
    "START TRANSACTION",
    "COMMIT",
    "ROLLBACK",
    "LOCK TABLE trades",
    "VACUUM trades",
    "ANALYZE TABLE trades COMPUTE STATISTICS",
    "CALL f()",
    "LOAD DATA INPATH '/tmp/x' INTO TABLE trades",
    "SELECT * INTO x FROM trades",
    "EXPLAIN CREATE TABLE x (a int)",
    "EXPLAIN INSERT INTO trades SELECT * FROM trades",
    "EXPLAIN ANALYZE INSERT INTO trades SELECT * FROM trades",
    "EXPLAIN ANALYZE COPY trades TO '/tmp/tape-attack.parquet'",
    "EXPLAIN COPY trades TO '/tmp/tape-attack.parquet'",
    "EXPLAIN EXPLAIN DROP TABLE trades",
    "WITH x AS (SELECT 1) INSERT INTO trades SELECT * FROM x",
    "WITH x AS (INSERT INTO trades SELECT * FROM trades RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM trades RETURNING *) SELECT * FROM x",
    "SELECT * FROM (DELETE FROM trades RETURNING *) x",
    "SELECT 1; DROP TABLE trades",
    "SELECT 1; SELECT 2",
    "SELECT 1;;DROP TABLE trades;",
    "/* SELECT */ DROP TABLE trades",
    "-- SELECT\nDROP TABLE trades",
];

/// A2: files, addresses and what reads them.
const OUTSIDE: &[&str] = &[
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM \"/etc/passwd\"",
    "SELECT * FROM `/etc/passwd`",
    "SELECT * FROM 'file:///etc/passwd'",
    "SELECT * FROM \"file:///etc/passwd\"",
    "SELECT * FROM 's3://bucket/x.parquet'",
    "SELECT * FROM 'http://169.254.169.254/latest/meta-data'",
    "SELECT * FROM \"http://169.254.169.254/latest/meta-data\"",
    "SELECT * FROM '../../etc/passwd'",
    "SELECT * FROM \"../trades\"",
    "SELECT * FROM tokentape.\"..\".trades",
    "SELECT * FROM \"trades/../../../etc/passwd\"",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_parquet('/etc/passwd')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM parquet_scan('/etc/passwd')",
    "SELECT * FROM parquet_metadata('/etc/passwd')",
    "SELECT * FROM csv('/etc/passwd')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM metadata_cache()",
    "SELECT * FROM statistics_cache()",
    "SELECT * FROM list_files_cache()",
    "SELECT read_file('/etc/passwd')",
    "SELECT load_file('/etc/passwd')",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT getenv('HOME')",
    "SELECT current_setting('data_directory')",
    "SELECT input_file_name() FROM trades",
    "SELECT * FROM pg_catalog.pg_authid",
    "SELECT * FROM other.tape.trades",
    "DESCRIBE '/etc/passwd'",
    "SHOW COLUMNS FROM '/etc/passwd'",
    "EXPLAIN SELECT * FROM '/etc/passwd'",
];

/// A3: settings that are limits.
const SETTINGS: &[&str] = &[
    "SET datafusion.execution.batch_size = 1",
    "SET datafusion.execution.target_partitions = 10000",
    "SET datafusion.runtime.memory_limit = '100G'",
    "SET datafusion.runtime.temp_directory = '/'",
    "SET datafusion.runtime.max_temp_directory_size = '1000G'",
    "SET datafusion.execution.enable_url_table = true",
    "SET datafusion.catalog.information_schema = false",
    "SET datafusion.catalog.location = '/etc'",
    "SET datafusion.sql_parser.recursion_limit = 1000000",
    "SET statement_timeout = 0",
    "SET SESSION statement_timeout = 0",
    "SET LOCAL statement_timeout = 0",
    "SET memory_limit = '100G'",
    "SET search_path TO pg_catalog",
    "SET ROLE postgres",
    "SET TIME ZONE 'UTC'",
    "RESET datafusion.runtime.memory_limit",
    "RESET ALL",
    "USE x",
    "EXPLAIN SET datafusion.execution.batch_size = 1",
];

const REFUSALS: &[&str] = &["is refused", "not understood as SQL", "cannot be answered", "no table", "more than one statement"];

/// All files below a folder, with their content.
fn fingerprint(folder: &Path) -> String {
    let mut files: Vec<_> = walk(folder);
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.display().to_string().as_bytes());
        hash.update(std::fs::read(&file).expect("a file"));
    }
    hex::encode(hash.finalize())
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn a1_what_would_write_is_refused_and_nothing_is_written() {
    let target = Target::start(1_000, "", &[]);
    let before = fingerprint(&target.home.path("tables"));
    let settings = target.ask("SELECT count(*) AS n, max(value) FROM information_schema.df_settings").said;
    for sql in WRITES {
        target.is_refused(sql, REFUSALS);
    }
    assert_eq!(fingerprint(&target.home.path("tables")), before);
    assert!(!Path::new("/tmp/tape-attack.parquet").exists() && !Path::new("/tmp/tape-attack.csv").exists());
    for sql in SETTINGS {
        target.is_refused(sql, REFUSALS);
    }
    assert_eq!(
        target.ask("SELECT count(*) AS n, max(value) FROM information_schema.df_settings").said,
        settings,
        "A3: a setting has changed"
    );
    assert!(target.ask("SELECT count(*) AS n FROM trades").said.contains("1000"));
    let queries = target.ask("SELECT count(*) AS n FROM tape.queries WHERE state IN ('refused', 'failed')").said;
    assert!(queries.contains(&(WRITES.len() + SETTINGS.len()).to_string()), "{queries}");
}

/// What the process opens while it is asked, as `strace` sees it: of the list nothing but its tables, its temporary files and what Linux tells of
/// itself.
#[test]
fn a2_nothing_outside_of_the_tables_is_opened() {
    let target = Target::start(1_000, "", &[]);
    let trace = target.home.path("trace");
    let traced = ["-f", "-q", "-e", "trace=open,openat,openat2,connect,execve", "-o", trace.to_str().expect("UTF-8"), "-p"];
    let strace = Command::new("strace").args(traced).arg(target.process.to_string()).stderr(Stdio::null()).spawn();
    let Ok(mut strace) = strace else {
        println!("not traced: there is no strace here");
        OUTSIDE.iter().for_each(|sql| drop(target.is_refused(sql, &[REFUSALS, &["no column"]].concat())));
        return;
    };
    let opened = || std::fs::read_to_string(&trace).unwrap_or_default();
    crate::running::until("strace to see its tables opened", || {
        assert!(strace.try_wait().expect("our child").is_none(), "strace cannot attach here");
        target.ask("SELECT max(price) AS p FROM trades");
        opened().contains("tables/trades")
    });
    OUTSIDE.iter().for_each(|sql| drop(target.is_refused(sql, &[REFUSALS, &["no column"]].concat())));
    let stopped = Command::new("kill").args(["-INT", &strace.id().to_string()]).status().expect("kill is everywhere");
    assert!(stopped.success() && strace.wait().is_ok());
    let own = [target.home.path("").display().to_string(), "/proc/self/".into(), "/sys/fs/cgroup".into(), "/proc/".into()];
    let opened = opened();
    let paths = opened.lines().filter_map(|line| Some((line, line.split_once('"')?.1.split_once('"')?.0)));
    let outside: Vec<&str> =
        paths.filter(|(_, path)| !own.iter().any(|own| path.starts_with(own.as_str()))).map(|(line, _)| line).collect();
    println!("{} calls seen, {} statements", opened.lines().count(), OUTSIDE.len());
    assert!(outside.is_empty(), "{outside:#?}");
    assert!(!opened.contains("execve(") && !opened.contains("169.254"), "{opened}");
}
