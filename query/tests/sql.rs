//! SQL over Parquet files as the store lays them out: values, clocks, pruning, limits, refusals and result formats.

mod exact;
mod filters;
mod fixture;
mod plans;

use fixture::{Fixture, Row, T0, count, csv, explain, options, ts};
use futures::TryStreamExt;
use query::{Engine, Error, Principal};
use schemas::about::shown_fields;
use schemas::{Family, Kind};
use std::time::Duration;

#[tokio::test]
async fn every_family_reads_back_as_it_was_written() {
    let mut fixture = Fixture::new();
    for family in Family::ALL {
        fixture.write(family, &[Row::sample(family, 0), Row::sample(family, 1), Row::nulls(family)]);
    }
    let engine = fixture.engine().await;
    for family in Family::ALL {
        let topic = family.topic();
        let order = "revision DESC, source_record";
        let csv = csv(&engine, &format!("SELECT * FROM {} ORDER BY {order}", topic.name)).await;
        let lines: Vec<&str> = csv.lines().collect();
        let names: Vec<String> = shown_fields(family).iter().map(|f| f.name.to_string()).collect();
        assert_eq!(lines[0], names.join(","), "{}", topic.name);
        for (i, line) in lines[1..3].iter().enumerate() {
            let expected: Vec<String> = topic.stored_fields().iter().map(|f| fixture::sample_text(f, i)).collect();
            // What explains a row stands behind it.
            let line: Vec<&str> = line.split(',').take(expected.len()).collect();
            assert_eq!(line, expected, "{}", topic.name);
        }
        assert_eq!(count(&engine, &format!("SELECT count(*) FROM tape.{}", topic.name)).await, 3);
        let times = shown_fields(family).iter().filter(|f| f.kind == Kind::Time).count();
        let shown = count(
            &engine,
            &format!(
                "SELECT count(*) FROM information_schema.columns WHERE table_name = '{}' AND data_type = 'Timestamp(ns, \"UTC\")'",
                topic.name
            ),
        )
        .await;
        assert_eq!(shown, times as u64, "{}", topic.name);
    }
}

#[tokio::test]
async fn a_family_without_a_table_is_an_empty_one() {
    let engine = Fixture::new().engine().await;
    for family in Family::ALL {
        assert_eq!(count(&engine, &format!("SELECT count(*) FROM {}", family.topic().name)).await, 0);
    }
    assert_eq!(csv(&engine, "SELECT sum(price) AS s, max(ts_event) AS t FROM trades").await, "s,t\n,\n");
}

#[tokio::test]
async fn a_file_that_lacks_newer_columns_gives_null_in_them() {
    let mut fixture = Fixture::new();
    fixture.write_without(Family::Trades, &[Row::sample(Family::Trades, 0)], &["trade_id", "currency", "_raw", "ts_out"]);
    fixture.write(Family::Trades, &[Row::sample(Family::Trades, 1)]);
    let engine = fixture.engine().await;
    let got = csv(&engine, "SELECT trade_id, ts_out, currency FROM trades ORDER BY source_record").await;
    assert_eq!(got, "trade_id,ts_out,currency\n,,\ntrade_id 1,2026-10-05T14:30:01.000000001Z,currency 1\n");
}

fn trade(symbol: &str, ts: i64, price: i128, size: i64) -> Row {
    Row::of(Family::Trades)
        .text("dataset", "SYN.XNYM")
        .date("date", (ts / 86_400_000_000_000) as i32)
        .text("symbol", symbol)
        .i64("ts_event", ts)
        .decimal("price", price)
        .i64("size", size)
}

#[tokio::test]
async fn times_are_exact_to_the_nanosecond_and_compare_with_text_and_literals() {
    let mut fixture = Fixture::new();
    fixture.write(Family::Trades, &[trade("A", T0, 1, 1), trade("B", T0 + 1, 1, 1), trade("C", T0 + 999_999_999, 1, 1)]);
    let engine = fixture.engine().await;
    let symbols = |filter: &str| {
        let sql = format!("SELECT string_agg(symbol, '' ORDER BY symbol) AS s FROM trades WHERE {filter}");
        let engine = engine.clone();
        async move { csv(&engine, &sql).await.lines().nth(1).unwrap().to_string() }
    };
    assert_eq!(symbols("ts_event >= '2026-10-05T14:30:00Z'").await, "ABC");
    assert_eq!(symbols("ts_event > '2026-10-05T14:30:00Z'").await, "BC");
    assert_eq!(symbols("ts_event = '2026-10-05T14:30:00.000000001Z'").await, "B");
    assert_eq!(symbols("ts_event > timestamp '2026-10-05 14:30:00.000000001'").await, "C");
    assert_eq!(symbols("ts_event < timestamp '2026-10-05T14:30:00.999999999Z'").await, "AB");
    assert_eq!(symbols("ts_event <= '2026-10-05T16:30:00.000000001+02:00'").await, "AB");
    assert_eq!(symbols("ts_event >= '2026-10-05' AND ts_event < '2026-10-06'").await, "ABC");
    assert_eq!(symbols("date = '2026-10-05'").await, "ABC");
    assert_eq!(symbols("date = date '2026-10-06'").await, "");
    assert_eq!(symbols("date_trunc('minute', ts_event) = '2026-10-05T14:30:00Z'").await, "ABC");
    assert_eq!(symbols("ts_event - interval '1 second' < '2026-10-05T14:29:59.000000001Z'").await, "A");
    let got = csv(&engine, "SELECT symbol, ts_event, cast(ts_event AS bigint) AS n FROM trades ORDER BY ts_event LIMIT 2").await;
    assert_eq!(got, format!("symbol,ts_event,n\nA,2026-10-05T14:30:00.000000000Z,{T0}\nB,2026-10-05T14:30:00.000000001Z,{}\n", T0 + 1));
}

fn instrument(symbol: &str, valid_from: Option<i64>, currency: Option<&str>, price_unit: Option<&str>) -> Row {
    let mut row = Row::of(Family::Instruments).text("dataset", "SYN.XNYM").text("symbol", symbol).text("kind", "future");
    if let Some(at) = valid_from {
        row = row.i64("valid_from", at);
    }
    if let Some(currency) = currency {
        row = row.text("currency", currency);
    }
    match price_unit {
        Some(unit) => row.text("price_unit", unit),
        None => row,
    }
}

#[tokio::test]
async fn currency_and_unit_come_from_the_row_else_from_the_instrument_valid_then() {
    let mut fixture = Fixture::new();
    fixture.write(
        Family::Instruments,
        &[
            instrument("A", None, Some("USD"), Some("gpu_hour")),
            instrument("A", Some(T0 + 100), Some("CNY"), None),
            instrument("A", Some(T0 + 50), Some("EUR"), Some("mtok")).text("kind", "mapping"),
        ],
    );
    let stated = trade("A", T0 + 1, 1, 1).text("currency", "KRW");
    fixture.write(Family::Trades, &[trade("A", T0, 1, 1), stated, trade("A", T0 + 100, 1, 1), trade("B", T0, 1, 1)]);
    let engine = fixture.engine().await;
    let got = csv(&engine, "SELECT symbol, currency, price_unit FROM trades ORDER BY symbol, ts_event").await;
    assert_eq!(got, "symbol,currency,price_unit\nA,USD,gpu_hour\nA,KRW,gpu_hour\nA,CNY,gpu_hour\nB,,\n");
    assert_eq!(count(&engine, "SELECT count(*) FROM trades WHERE currency = 'USD'").await, 1);
    assert_eq!(count(&engine, "SELECT count(*) FROM trades WHERE currency IS NULL").await, 1);
    assert_eq!(
        csv(&engine, "SELECT currency, count(*) AS n FROM trades WHERE symbol IN (SELECT symbol FROM trades WHERE currency = 'CNY') GROUP BY 1 ORDER BY 1").await,
        "currency,n\nCNY,1\nKRW,1\nUSD,1\n"
    );
    let plan = explain(&engine, "EXPLAIN SELECT price FROM trades").await;
    assert!(!plan.contains("instrument_currency"), "{plan}");
}

/// TAPE-A of docs: the worked numbers of the bars and averages.
const TAPE_A: [(i64, i64, i64); 12] = [
    (0, 280, 10),
    (12_500, 281, 5),
    (31_000, 280, 20),
    (59_999, 279, 15),
    (60_000, 281, 8),
    (75_250, 282, 12),
    (75_250, 283, 3),
    (119_000, 281, 30),
    (240_000, 285, 6),
    (251_000, 284, 9),
    (290_000, 286, 11),
    (299_000, 285, 7),
];

#[tokio::test]
async fn volume_weighted_prices_are_exact() {
    let mut fixture = Fixture::new();
    let rows: Vec<Row> =
        TAPE_A.iter().map(|(ms, cents, lots)| trade("GPU1V6", T0 + ms * 1_000_000, i128::from(*cents) * 10_000_000, *lots)).collect();
    fixture.write(Family::Trades, &rows);
    let engine = fixture.engine().await;
    let got = csv(
        &engine,
        "SELECT sum(price * size) AS pq, sum(size) AS q, sum(price * size) / sum(size) AS vwap, \
         arrow_typeof(sum(price * size)) AS t, arrow_typeof(sum(price * size) / sum(size)) AS u, arrow_typeof(avg(price)) AS v FROM trades",
    )
    .await;
    assert_eq!(
        got,
        "pq,q,vwap,t,u,v\n383.080000000,136,2.8167647058824,\"Decimal128(38, 9)\",\"Decimal128(38, 13)\",\"Decimal128(22, 13)\"\n"
    );
    let bars = csv(
        &engine,
        "SELECT date_bin(interval '1 minute', ts_event) AS t, first_value(price ORDER BY ts_event) AS o, max(price) AS h, min(price) AS l, \
         last_value(price ORDER BY ts_event) AS c, sum(size) AS v FROM trades GROUP BY 1 ORDER BY 1",
    )
    .await;
    assert_eq!(
        bars,
        "t,o,h,l,c,v\n\
         2026-10-05T14:30:00.000000000Z,2.800000000,2.810000000,2.790000000,2.790000000,50\n\
         2026-10-05T14:31:00.000000000Z,2.810000000,2.830000000,2.810000000,2.810000000,53\n\
         2026-10-05T14:34:00.000000000Z,2.850000000,2.860000000,2.840000000,2.850000000,33\n"
    );
}

#[tokio::test]
async fn sums_at_the_largest_prices_stay_exact() {
    let mut fixture = Fixture::new();
    let largest = 999_999_999_999_999_999;
    let rows: Vec<Row> = (0..1000).map(|i| trade("X", T0 + i, largest, 1_000_000_000)).collect();
    fixture.write(Family::Trades, &rows);
    let engine = fixture.engine().await;
    let got = csv(&engine, "SELECT sum(price * size) AS pq, sum(price * size) / sum(size) AS vwap FROM trades").await;
    assert_eq!(got, "pq,vwap\n999999999999999999000.000000000,999999999.9999999990000\n");
}

#[tokio::test]
async fn snapshot_averages_are_exact_in_the_documented_form() {
    let mut fixture = Fixture::new();
    let snapshot = |i: i64, price: i128, volume: i128| {
        Row::of(Family::Snapshots)
            .text("dataset", "XSGE.CTP")
            .text("symbol", "ru2101")
            .i64("ts_event", T0 + i)
            .decimal("last_price", price * 1_000_000_000)
            .decimal("volume", volume * 1_000_000_000)
            .decimal("turnover", price * volume * 10 * 1_000_000_000)
    };
    fixture.write(Family::Snapshots, &[snapshot(0, 12_870, 1_000_000), snapshot(1, 12_900, 3_000_000)]);
    let engine = fixture.engine().await;
    let got = csv(
        &engine,
        "SELECT sum(last_price * cast(volume AS decimal(20,0))) / sum(cast(volume AS decimal(20,0))) AS vwap, \
         max(turnover) / cast(max(volume) AS decimal(20,0)) AS average FROM snapshots",
    )
    .await;
    assert_eq!(got, "vwap,average\n12892.5000000000000,129000.0000000000000\n");
    // Without the casts the quotient needs more than 38 digits: refused, never a wrong number.
    let refused = fixture::run(&engine, "SELECT sum(last_price * volume) / sum(volume) FROM snapshots").await.unwrap_err().to_string();
    assert!(refused.contains("does not fit DECIMAL(38,"), "{refused}");
}

#[tokio::test]
async fn number_literals_are_decimals() {
    let mut fixture = Fixture::new();
    fixture.write(Family::Trades, &[trade("A", T0, 300_000_000, 3), trade("B", T0, 100_000_001, 1)]);
    let engine = fixture.engine().await;
    assert_eq!(csv(&engine, "SELECT symbol FROM trades WHERE price = 0.3").await, "symbol\nA\n");
    assert_eq!(csv(&engine, "SELECT symbol FROM trades WHERE price > 0.1 AND price < 0.1000000011").await, "symbol\nB\n");
    assert_eq!(
        csv(&engine, "SELECT 0.1 + 0.2 AS n, 1e-6 * price AS m FROM trades WHERE symbol = 'A'").await,
        "n,m\n0.3,0.000000300000000\n"
    );
    assert_eq!(csv(&engine, "SELECT approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY size) AS m FROM trades").await.lines().count(), 2);
    assert_eq!(csv(&engine, "SELECT median(price) AS m FROM trades").await, "m\n0.2000000005\n");
}

#[tokio::test]
async fn token_usage_as_published_by_a_date() {
    let mut fixture = Fixture::new();
    let row = |revision: i32, published: i64, tokens: i128| {
        let row = Row::of(Family::TokenUsage).text("dataset", "SYN.USAGE").text("series_id", "daily").text("stat", "daily_average");
        row.i32("revision", revision).i64("ts_publish", published).i64("period_start", T0).decimal("tokens", tokens)
    };
    fixture.write(Family::TokenUsage, &[row(0, T0, 140_000_000_000_001), row(1, T0 + 1_000, 141_000_000_000_000)]);
    let engine = fixture.engine().await;
    let as_of = |at: i64| {
        format!(
            "SELECT tokens FROM (SELECT *, row_number() OVER (PARTITION BY series_id, period_start ORDER BY revision DESC) AS r \
             FROM token_usage WHERE ts_publish <= '{}') WHERE r = 1 AND change <> 'cancel'",
            ts(at)
        )
    };
    assert_eq!(csv(&engine, &as_of(T0 + 999)).await, "tokens\n140000000000001\n");
    assert_eq!(csv(&engine, &as_of(T0 + 1_000)).await, "tokens\n141000000000000\n");
    assert_eq!(csv(&engine, "SELECT sum(tokens) AS s FROM token_usage").await, "s\n281000000000001\n");
}

#[tokio::test]
async fn only_reading_is_let_through() {
    let mut fixture = Fixture::new();
    fixture.write(Family::Trades, &[trade("A", T0, 1, 1)]);
    let file = fixture.any_file();
    let engine = fixture.engine().await;
    for sql in [
        "CREATE TABLE x (a int)",
        "CREATE TABLE x AS SELECT * FROM trades",
        "CREATE VIEW x AS SELECT 1",
        "CREATE SCHEMA x",
        "CREATE DATABASE x",
        "CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION '/etc/passwd'",
        "CREATE FUNCTION f(int) RETURNS int RETURN $1",
        "INSERT INTO trades SELECT * FROM trades",
        "UPDATE trades SET price = 1",
        "DELETE FROM trades",
        "TRUNCATE TABLE trades",
        "DROP TABLE trades",
        "DROP SCHEMA tape CASCADE",
        "ALTER TABLE trades RENAME TO x",
        "COPY trades TO '/tmp/x.parquet'",
        "COPY (SELECT 1) TO '/tmp/x.csv'",
        "SET datafusion.execution.batch_size = 1",
        "SET datafusion.runtime.memory_limit = '100G'",
        "RESET datafusion.execution.batch_size",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "DEALLOCATE p",
        "BEGIN",
        "COMMIT",
        "SELECT * INTO x FROM trades",
        "EXPLAIN CREATE TABLE x (a int)",
        "EXPLAIN ANALYZE INSERT INTO trades SELECT * FROM trades",
        "EXPLAIN COPY trades TO '/tmp/x.parquet'",
        "WITH x AS (SELECT 1) INSERT INTO trades SELECT * FROM x",
    ] {
        let refused = fixture::run(&engine, sql).await.unwrap_err();
        assert!(matches!(refused, Error::Refused { .. } | Error::Syntax(_)), "{sql}: {refused:?}");
    }
    for sql in [format!("SELECT * FROM '{file}'"), format!("SELECT * FROM \"{file}\""), "SELECT * FROM 'https://example.org/x.csv'".into()]
    {
        let refused = fixture::run(&engine, &sql).await.unwrap_err();
        assert!(matches!(refused, Error::NoTable { .. } | Error::Syntax(_) | Error::Plan(_)), "{sql}: {refused:?}");
    }
    assert!(matches!(fixture::run(&engine, "SELECT 1; SELECT 2").await, Err(Error::NotOneStatement(_))));
    assert!(matches!(fixture::run(&engine, " -- nothing\n").await, Err(Error::NotOneStatement(_))));
    for sql in [
        "SELECT 1;",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT count(*) FROM trades",
        "SHOW TABLES",
        "DESCRIBE trades",
        "SHOW COLUMNS FROM trades",
        "SHOW datafusion.execution.batch_size",
        "WITH t AS (SELECT 1 AS a) SELECT * FROM t",
        "VALUES (1), (2)",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM generate_series(1, 3)",
    ] {
        fixture::run(&engine, sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
}

#[tokio::test]
async fn mistakes_are_answered_with_what_to_do() {
    let engine = Fixture::new().engine().await;
    let said = |sql: &'static str| {
        let engine = engine.clone();
        async move { fixture::run(&engine, sql).await.unwrap_err().to_string() }
    };
    assert_eq!(said("SELECT * FROM trade").await, "no table trade; did you mean trades?; SHOW TABLES (in the shell: \\d) lists all");
    assert_eq!(
        said("SELECT pric FROM trades").await,
        "no column pric; did you mean price?; DESCRIBE trades (in the shell: \\d trades) lists its columns"
    );
    assert_eq!(
        said("SELECT t.price FROM trades").await,
        "cannot be answered: t.price: the query's FROM has no table or alias t; it has trades"
    );
    assert_eq!(
        said("SELECT price FROM trades a JOIN quotes b ON a.symbol = b.symbol").await,
        "cannot be answered: price is a column of more than one table: write the table's name or alias before it, as in a.price"
    );
    assert_eq!(
        said("SELECT symbol, sum(size) FROM trades").await,
        "cannot be answered: column trades.symbol must be in GROUP BY or inside an aggregate function"
    );
    assert_eq!(
        said("SELECT summ(size) FROM trades").await,
        "cannot be answered: no function summ; did you mean sum?; SHOW FUNCTIONS lists all"
    );
    assert_eq!(
        said("SELECT sum(symbol) FROM trades").await,
        "cannot be answered: no function sum(Utf8): CAST the arguments to what there is: sum(Decimal), sum(UInt64), sum(Int64), sum(Float64), \
         sum(Duration), sum(Interval)"
    );
    assert_eq!(
        said("SELECT CAST('abc' AS int)").await,
        "cannot be answered: Cannot cast string 'abc' to value of Int32 type; TRY_CAST gives NULL instead"
    );
    assert!(said("SELEC 1").await.starts_with("not understood as SQL: "));
    assert!(said("SELECT (").await.starts_with("not understood as SQL: "));
    let deep = said_deep(&engine).await;
    assert!(deep.contains("too deep inside each other"), "{deep}");
}

async fn said_deep(engine: &Engine) -> String {
    let sql = format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000));
    fixture::run(engine, &sql).await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_ends_at_its_limits() {
    let mut slow = options();
    slow.timeout = Duration::from_millis(300);
    let engine = Fixture::new().engine_with(slow).await;
    let endless = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 10000000) b WHERE a.value * b.value % 7 = 3";
    let begun = std::time::Instant::now();
    assert!(matches!(fixture::run(&engine, endless).await, Err(Error::TimedOut(_))));
    let explained = fixture::run(&engine, &format!("EXPLAIN ANALYZE {endless}")).await;
    assert!(matches!(explained, Err(Error::TimedOut(_))), "{explained:?}");
    assert!(begun.elapsed() < Duration::from_secs(30), "an answer at the limit, not when the join is done");

    let mut small = options();
    small.memory_limit = 1 << 20;
    small.temp_limit = 1 << 20;
    let engine = Fixture::new().engine_with(small).await;
    let greedy = "SELECT array_agg(value || 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx') FROM generate_series(1, 1000000)";
    let refused = fixture::run(&engine, greedy).await;
    assert!(matches!(refused, Err(Error::Memory(_))), "{refused:?}");
}

#[tokio::test]
async fn a_running_query_keeps_its_versions_and_the_next_sees_the_new_ones() {
    let mut fixture = Fixture::new();
    fixture.write(Family::Trades, &[trade("A", T0, 1, 1)]);
    let engine = fixture.engine().await;
    let (schema, running) = engine.run(&Principal::local(), "SELECT symbol FROM trades").await.unwrap();
    assert!(!engine.refresh().await.unwrap());
    fixture.write(Family::Trades, &[trade("B", T0, 1, 1)]);
    assert!(engine.refresh().await.unwrap());
    assert_eq!(schema.field(0).name(), "symbol");
    assert_eq!(fixture::csv_of(running).await, "symbol\nA\n");
    assert_eq!(count(&engine, "SELECT count(*) FROM trades").await, 2);
    assert_eq!(engine.catalog().version(Family::Trades), Some(1));
}

#[tokio::test]
async fn the_table_of_schemas_holds_the_text_of_each_id() {
    let engine = Fixture::new().engine().await;
    let got =
        csv(&engine, "SELECT id, topic, encode(digest(text, 'sha256'), 'hex') = sha256 AS same FROM tape.schemas ORDER BY id LIMIT 2")
            .await;
    assert_eq!(got, "id,topic,same\n1001,instruments,true\n1002,trades,true\n");
    assert_eq!(count(&engine, "SELECT count(*) FROM schemas").await, 20);
}

#[tokio::test]
async fn a_file_list_that_cannot_be_right_is_named() {
    let mut fixture = Fixture::new();
    fixture.write(Family::Trades, &[trade("A", T0, 1, 1)]);
    fixture.spoil(Family::Trades, |file| file.partition_values[1].1 = Some("yesterday".into()));
    let error = fixture.try_engine(options()).await.err().expect("a date that is none").to_string();
    assert!(error.contains("table trades version 0") && error.contains("date = \"yesterday\""), "{error}");
}

#[tokio::test]
async fn bytes_have_a_length_as_text_has() {
    let mut fixture = Fixture::new();
    fixture.write(Family::Documents, &[Row::of(Family::Documents), Row::sample(Family::Documents, 0)]);
    let engine = fixture.engine().await;
    let got = csv(&engine, "SELECT octet_length(body) AS n, octet_length(uri) AS t FROM documents ORDER BY source_record DESC, uri").await;
    assert!(got.contains("\n3,5\n"), "bytes 00 ff 00 and the text 'uri 0': {got}");
    let got = csv(
        &engine,
        "SELECT octet_length(X'00ff') AS b, octet_length('é') AS t, octet_length(NULL) AS z, octet_length(arrow_cast(X'ff', 'LargeBinary')) AS l, \
         octet_length(arrow_cast(X'ffff', 'BinaryView')) AS v, octet_length(arrow_cast(X'ffff', 'FixedSizeBinary(2)')) AS f, \
         sum(octet_length(body)) AS s FROM documents",
    )
    .await;
    assert_eq!(got, "b,t,z,l,v,f,s\n2,2,,1,2,2,3\n");
}

mod formats {
    use super::*;
    use arrow::array::RecordBatchReader;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use query::output::{Format, TableStyle};

    const ODD: &str = "SELECT * FROM (VALUES \
        (1, 'plain', 1.50, true, arrow_cast(0, 'Timestamp(ns, \"UTC\")'), arrow_cast(X'00ff', 'Binary'), 9223372036854775807, CAST(0.1 AS double)), \
        (2, 'a,\"b\"\nc', -0.01, false, arrow_cast(1791210600123456789, 'Timestamp(ns, \"UTC\")'), NULL, -1, CAST('NaN' AS double)), \
        (3, '', NULL, NULL, NULL, NULL, NULL, NULL)) AS t(i, s, d, b, t, x, n, f) ORDER BY i";

    #[tokio::test]
    async fn csv_is_exact_and_tells_null_from_empty() {
        let engine = Fixture::new().engine().await;
        assert_eq!(
            csv(&engine, ODD).await,
            "i,s,d,b,t,x,n,f\n\
             1,plain,1.50,true,1970-01-01T00:00:00.000000000Z,00ff,9223372036854775807,0.1\n\
             2,\"a,\"\"b\"\"\nc\",-0.01,false,2026-10-05T14:30:00.123456789Z,,-1,NaN\n\
             3,\"\",,,,,,\n"
        );
    }

    #[tokio::test]
    async fn json_keeps_every_digit() {
        let engine = Fixture::new().engine().await;
        let got = fixture::written(&engine, ODD, Format::Json, &TableStyle::default()).await;
        let expected = r#"[
{"i":1,"s":"plain","d":1.50,"b":true,"t":"1970-01-01T00:00:00.000000000Z","x":"00ff","n":9223372036854775807,"f":0.1},
{"i":2,"s":"a,\"b\"\nc","d":-0.01,"b":false,"t":"2026-10-05T14:30:00.123456789Z","x":null,"n":-1,"f":"NaN"},
{"i":3,"s":"","d":null,"b":null,"t":null,"x":null,"n":null,"f":null}
]
"#;
        assert_eq!(got, expected);
        serde_json::from_str::<serde_json::Value>(&got).unwrap();
        let nested =
            "SELECT [1, NULL, 3] AS l, named_struct('p', 2.810000000, 't', arrow_cast(1, 'Timestamp(ns, \"UTC\")')) AS o, 1 AS l_1";
        let got = fixture::written(&engine, nested, Format::JsonLines, &TableStyle::default()).await;
        assert_eq!(got, "{\"l\":[1,null,3],\"o\":{\"p\":2.810000000,\"t\":\"1970-01-01T00:00:00.000000001Z\"},\"l_1\":1}\n");
        let twice = "SELECT * FROM (SELECT 1 AS a) x CROSS JOIN (SELECT 2 AS a) y";
        assert_eq!(fixture::written(&engine, twice, Format::JsonLines, &TableStyle::default()).await, "{\"a\":1,\"a_1\":2}\n");
        let none = "SELECT 1 AS a WHERE false";
        assert_eq!(fixture::written(&engine, none, Format::Json, &TableStyle::default()).await, "[]\n");
        assert_eq!(fixture::written(&engine, none, Format::JsonLines, &TableStyle::default()).await, "");
    }

    #[tokio::test]
    async fn tables_show_the_same_text() {
        let engine = Fixture::new().engine().await;
        let style = TableStyle { timing: false, ..TableStyle::default() };
        let got = fixture::written(&engine, ODD, Format::Table, &style).await;
        let expected = "\
┌───┬──────────┬───────┬───────┬────────────────────────────────┬──────┬─────────────────────┬──────┐
│ i │ s        │ d     │ b     │ t                              │ x    │ n                   │ f    │
├───┼──────────┼───────┼───────┼────────────────────────────────┼──────┼─────────────────────┼──────┤
│ 1 │ plain    │  1.50 │ true  │ 1970-01-01T00:00:00.000000000Z │ 00ff │ 9223372036854775807 │  0.1 │
│ 2 │ a,\"b\"\\nc │ -0.01 │ false │ 2026-10-05T14:30:00.123456789Z │ NULL │                  -1 │  NaN │
│ 3 │          │  NULL │ NULL  │ NULL                           │ NULL │                NULL │ NULL │
└───┴──────────┴───────┴───────┴────────────────────────────────┴──────┴─────────────────────┴──────┘
3 rows
";
        assert_eq!(got, expected);
        let short = TableStyle { rows_max: 2, ..style };
        let got = fixture::written(&engine, "SELECT * FROM generate_series(1, 100000)", Format::Table, &short).await;
        assert!(got.ends_with("the first 2 rows of more (all of them: --format csv, json or arrow)\n"), "{got}");
        let got = fixture::written(&engine, "SELECT * FROM generate_series(1, 2)", Format::Table, &short).await;
        assert!(got.ends_with("\n2 rows\n"), "{got}");
    }

    #[tokio::test]
    async fn arrow_streams_read_back() {
        let engine = Fixture::new().engine().await;
        let bytes = fixture::bytes(&engine, ODD, Format::Arrow, &TableStyle::default()).await;
        let reader = arrow::ipc::reader::StreamReader::try_new(bytes.as_slice(), None).unwrap();
        assert_eq!(reader.schema().field(4).data_type().to_string(), "Timestamp(ns, \"UTC\")");
        assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 3);
    }

    #[tokio::test]
    async fn parquet_files_read_back() {
        let engine = Fixture::new().engine().await;
        let read = |bytes: Vec<u8>| ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap().build().unwrap();
        let arrow = fixture::bytes(&engine, ODD, Format::Arrow, &TableStyle::default()).await;
        let expected = arrow::ipc::reader::StreamReader::try_new(arrow.as_slice(), None).unwrap().next().unwrap().unwrap();
        let got = read(fixture::bytes(&engine, ODD, Format::Parquet, &TableStyle::default()).await).next().unwrap().unwrap();
        assert_eq!(got.columns(), expected.columns());
        let many = "SELECT value, 'text ' || value AS text FROM generate_series(1, 300000)";
        let bytes = fixture::bytes(&engine, many, Format::Parquet, &TableStyle::default()).await;
        assert_eq!(read(bytes).map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 300_000);
        let twice = "SELECT * FROM (SELECT 1 AS a) x CROSS JOIN (SELECT 2 AS a) y WHERE false";
        let none = read(fixture::bytes(&engine, twice, Format::Parquet, &TableStyle::default()).await);
        assert_eq!(none.schema().fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["a", "a_1"]);
    }
}

/// Statements of a few bytes that would take gigabytes in one step, which no memory pool sees.
#[tokio::test]
async fn little_text_does_not_become_much_memory() {
    let mut fixture = Fixture::new();
    fixture.write(Family::Trades, &(0..100).map(|i| trade("A", T0 + i, 1, 400_000_000)).collect::<Vec<_>>());
    let engine = fixture.engine().await;
    for expression in [
        "octet_length(repeat('x', 1500000000))",
        "octet_length(repeat(symbol, size))",
        "octet_length(lpad('x', 1500000000, 'y'))",
        "octet_length(rpad(symbol, size))",
        "cardinality(array_repeat(1, 400000000))",
        "cardinality(array_repeat(repeat('x', 1000000), 400))",
        "cardinality(range(1, 400000000))",
        "cardinality(range(size))",
        "cardinality(generate_series(1, 400000000))",
        "cardinality(generate_series(TIMESTAMP '2026-01-01', TIMESTAMP '2026-01-02', INTERVAL '1 microsecond'))",
        "cardinality(array_resize([1], 400000000, 0))",
        "max(length(s)) FROM (SELECT string_agg(symbol, ',') OVER (ORDER BY ts_event) AS s FROM trades) --",
        "max(cardinality(s)) FROM (SELECT array_agg(symbol) OVER () AS s FROM trades) --",
        "count(*) FROM (SELECT 1 AS a, 2 AS b, 3 AS c, 4 AS d, 5 AS e, 6 AS f, 7 AS g) GROUP BY CUBE(a, b, c, d, e, f, g) --",
        "count(*) FROM (SELECT 1 AS a, 2 AS b, 3 AS c, 4 AS d, 5 AS e, 6 AS f, 7 AS g) GROUP BY CUBE(a, b, c, d), CUBE(e, f, g) --",
    ] {
        match fixture::run(&engine, &format!("SELECT {expression} FROM trades")).await {
            Err(why @ (Error::Plan(_) | Error::TooLarge(_))) => assert!(why.to_string().contains("may "), "{expression}: {why}"),
            other => panic!("{expression}: {other:?}"),
        }
    }
    for (expression, answer) in [
        ("octet_length(repeat('xy', 1000))", "2000"),
        ("lpad('x', 3, 'y')", "yyx"),
        ("cardinality(range(1, 1000))", "999"),
        ("cardinality(range(DATE '2026-01-01', DATE '2026-02-01', INTERVAL '1 day'))", "31"),
        ("cardinality(array_repeat('a', 1000))", "1000"),
        ("max(cardinality(s)) AS x FROM (SELECT array_agg(symbol) OVER (ORDER BY ts_event ROWS 2 PRECEDING) AS s FROM trades) --", "3"),
        ("count(*) AS x FROM (SELECT a FROM (SELECT 1 AS a, 2 AS b, 3 AS c) GROUP BY CUBE(a, b), ROLLUP(c)) --", "8"),
    ] {
        assert_eq!(csv(&engine, &format!("SELECT {expression} AS x LIMIT 1")).await, format!("x\n{answer}\n"), "{expression}");
    }
}

/// Rows of `quarantine` and `gaps` say where they stood and what their source is called; what was published again says when.
#[tokio::test]
async fn bad_rows_and_gaps_explain_themselves() {
    let mut fixture = Fixture::new();
    let source = |n: i64, name: &str| {
        Row::of(Family::Sources).bytes("source_id", &[7; 16]).text("name", name).i32("_partition", 0).i64("_offset", n)
    };
    fixture.write(Family::Sources, &[source(0, "old.csv"), source(1, "new.csv")]);
    let of_store = |offset: i64| {
        let row = Row::of(Family::Quarantine).bytes("source_id", &[0; 16]).i64("source_record", 0).i64("source_byte", 0);
        row.text("change", "new").text("origin_topic", "tape.trades").i32("origin_partition", 3).i64("origin_offset", offset)
    };
    let of_source =
        Row::of(Family::Quarantine).bytes("source_id", &[7; 16]).i64("source_record", 4).i64("source_byte", 90).text("change", "new");
    let requeued = of_store(17).text("change", "cancel").i64("_log_ts", T0).i32("_partition", 0).i64("_offset", 5);
    fixture.write(Family::Quarantine, &[of_store(17), of_store(18), of_source, requeued]);
    let gap = Row::of(Family::Gaps).bytes("source_id", &[0; 16]).text("origin_topic", "tape.trades").i32("origin_partition", 3);
    fixture.write(Family::Gaps, &[gap.i64("from_seq", 10).i64("to_seq", 19)]);
    let engine = fixture.engine().await;
    let got = csv(&engine, "SELECT stood, source_name, requeued_at FROM tape.quarantine WHERE change = 'new' ORDER BY stood").await;
    let time = ts(T0);
    assert_eq!(
        got,
        format!(
            "stood,source_name,requeued_at\n\"new.csv, record 4, byte 90\",new.csv,\ntape.trades[3] offset 17,,{time}\ntape.trades[3] offset 18,,\n"
        )
    );
    assert_eq!(count(&engine, "SELECT count(*) FROM quarantine").await, 4);
    assert_eq!(count(&engine, "SELECT count(*) FROM quarantine WHERE requeued_at IS NOT NULL").await, 1);
    assert_eq!(csv(&engine, "SELECT stood, missing FROM tape.gaps").await, "stood,missing\ntape.trades[3],10\n");
}

/// What a view shows is asked for when a statement names it; what cannot be had is an error that says why.
#[tokio::test]
async fn views_are_asked_when_they_are_named() {
    use query::{Asked, Cell};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let intervals: query::about::Ask = Arc::new(move |asker| {
        counted.fetch_add(1, Ordering::Relaxed);
        let text = |text: &str| Cell::Text(text.into());
        let row = vec![
            text("trades"),
            Cell::Int(3),
            Cell::Int(T0),
            text("tape.trades"),
            text("id"),
            Cell::Int(7),
            Cell::Int(100),
            Cell::Int(199),
            Cell::Int(99),
            Cell::Int(0),
            Cell::Int(1),
            text("150 control_or_aborted"),
            Cell::Null,
        ];
        Box::pin(async move {
            asker.take(vec![row]).await;
            Ok(())
        })
    });
    let broken: query::about::Ask = Arc::new(|_| Box::pin(async { Err("there is no log in /nowhere".into()) }));
    let views = Asked { commits: intervals.clone(), intervals, lag: broken.clone(), noted: broken };
    let engine = Fixture::new().engine_asking(views).await;
    assert_eq!(count(&engine, "SELECT count(*) FROM trades").await, 0);
    assert_eq!(asked.load(Ordering::Relaxed), 0, "nobody named a view");
    let sql =
        "SELECT partition, to_offset - from_offset + 1 AS offsets, committed_at, root FROM tape.intervals WHERE table_name = 'trades'";
    assert_eq!(csv(&engine, sql).await, format!("partition,offsets,committed_at,root\n7,100,{},\n", ts(T0)));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let refused = |sql: &'static str| {
        let engine = engine.clone();
        async move {
            let (_, rows) = engine.run(&Principal::local(), sql).await.unwrap();
            Error::from_engine("running the query", rows.try_collect::<Vec<_>>().await.unwrap_err()).to_string()
        }
    };
    assert_eq!(refused("SELECT max(behind) FROM tape.lag").await, "tape.lag: there is no log in /nowhere");
    let wrong = refused("SELECT * FROM tape.commits").await;
    assert!(wrong.contains("one cell for each column"), "{wrong}");
}
