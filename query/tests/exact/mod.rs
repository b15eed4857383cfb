//! A number in a result is right to the last digit, or there is no result: what DataFusion alone would wrap in silence.

use crate::fixture::{self, Fixture, Row, T0, csv};
use crate::trade;
use proptest::prelude::*;
use query::{Engine, Error};
use schemas::Family;
use std::sync::{Arc, LazyLock};
use tokio::runtime::Runtime;

/// The largest number of 38 digits.
const DECIMAL_MAX: i128 = 10i128.pow(38) - 1;

async fn refused(engine: &Engine, sql: &str) -> String {
    match fixture::run(engine, sql).await {
        Err(Error::Inexact(why)) => why.to_string(),
        other => panic!("{sql}: {other:?}"),
    }
}

#[tokio::test]
async fn sums_of_integers_are_exact_at_any_size() {
    let mut fixture = Fixture::new();
    let rows: Vec<Row> = (0..3000).map(|i| trade(if i % 2 == 0 { "A" } else { "B" }, T0 + i, 1, i64::MAX)).collect();
    fixture.write(Family::Trades, &rows);
    let engine = fixture.engine().await;
    let whole = i128::from(i64::MAX) * 3000;
    assert_eq!(
        csv(&engine, "SELECT sum(size) AS s, arrow_typeof(sum(size)) AS t FROM trades").await,
        format!("s,t\n{whole},\"Decimal128(38, 0)\"\n")
    );
    let half = whole / 2;
    assert_eq!(
        csv(&engine, "SELECT symbol, sum(size) AS s FROM trades GROUP BY symbol ORDER BY symbol").await,
        format!("symbol,s\nA,{half}\nB,{half}\n")
    );
    // Aggregation that gives up on grouping early hands every row on as a sum of its own.
    assert_eq!(
        csv(&engine, "SELECT sum(s) AS s, count(*) AS n FROM (SELECT ts_event, sum(size) AS s FROM trades GROUP BY ts_event)").await,
        format!("s,n\n{whole},3000\n")
    );
    assert_eq!(
        csv(&engine, "SELECT sum(size) FILTER (WHERE symbol = 'A') AS a, sum(size) FILTER (WHERE symbol = 'C') AS c FROM trades").await,
        format!("a,c\n{half},\n")
    );
    assert_eq!(csv(&engine, "SELECT sum(DISTINCT size) AS s, sum(size) AS w FROM trades").await, format!("s,w\n{},{whole}\n", i64::MAX));
    assert_eq!(
        csv(&engine, "SELECT sum(DISTINCT size) AS s, sum(DISTINCT length(symbol)) AS l FROM trades").await,
        format!("s,l\n{},1\n", i64::MAX)
    );
    assert_eq!(
        csv(&engine, "SELECT max(s) AS s FROM (SELECT sum(size) OVER (ORDER BY ts_event) AS s FROM trades)").await,
        format!("s\n{whole}\n")
    );
    let window = "sum(size) OVER (ORDER BY ts_event ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)";
    assert_eq!(
        csv(&engine, &format!("SELECT max(s) AS s FROM (SELECT {window} AS s FROM trades)")).await,
        format!("s\n{}\n", i128::from(i64::MAX) * 3)
    );
    assert_eq!(csv(&engine, "SELECT sum(size) AS s FROM trades WHERE symbol = 'C'").await, "s\n\n");
}

#[tokio::test]
async fn every_width_of_integer_has_an_exact_sum() {
    let engine = Fixture::new().engine().await;
    for (kind, max) in [
        ("tinyint", i128::from(i8::MAX)),
        ("smallint", i128::from(i16::MAX)),
        ("int", i128::from(i32::MAX)),
        ("bigint", i128::from(i64::MAX)),
        ("bigint unsigned", i128::from(u64::MAX)),
    ] {
        let got = csv(&engine, &format!("SELECT sum(CAST({max} AS {kind})) AS s FROM generate_series(1, 1000)")).await;
        assert_eq!(got, format!("s\n{}\n", max * 1000), "{kind}");
    }
    assert_eq!(csv(&engine, "SELECT sum(CAST('1.5' AS double)) AS f").await, "f\n1.5\n");
}

#[tokio::test]
async fn a_sum_that_does_not_fit_38_digits_is_refused() {
    let engine = Fixture::new().engine().await;
    let tokens = format!("(VALUES (1, CAST('{DECIMAL_MAX}' AS decimal(38,0))), (2, 1)) AS t(g, tokens)");
    let said = refused(&engine, &format!("SELECT sum(tokens) FROM {tokens}")).await;
    assert_eq!(said, "sum(t.tokens) does not fit DECIMAL(38,0): take fewer rows or smaller numbers at once");
    // Two that are together more than 128 bits hold.
    refused(&engine, &format!("SELECT sum(a) FROM (SELECT tokens AS a FROM {tokens} UNION ALL SELECT tokens FROM {tokens})")).await;
    refused(&engine, &format!("SELECT sum(DISTINCT tokens) FROM {tokens}")).await;
    refused(&engine, &format!("SELECT sum(tokens) OVER (ORDER BY g) FROM {tokens}")).await;
    refused(&engine, &format!("SELECT g % 1, sum(tokens) FROM {tokens} GROUP BY 1")).await;
    let said =
        refused(&engine, "SELECT sum(p) FROM (VALUES (CAST('99999999999999999999.999999999999999999' AS decimal(38,18))), (1)) t(p)").await;
    assert!(said.contains("does not fit DECIMAL(38,18): keep fewer digits after the point, for example CAST("), "{said}");
    // One that fits is right, and what does not wrap before the end does not matter.
    assert_eq!(
        csv(&engine, &format!("SELECT sum(tokens) AS s FROM (SELECT tokens FROM {tokens} UNION ALL SELECT -1)")).await,
        format!("s\n{DECIMAL_MAX}\n")
    );
}

#[tokio::test]
async fn integers_that_outgrow_their_type_are_refused() {
    let mut fixture = Fixture::new();
    fixture.write(Family::Trades, &[trade("A", T0, 1, i64::MAX), trade("B", T0, 1, i64::MIN), trade("C", T0, 1, 3)]);
    let engine = fixture.engine().await;
    let said = refused(&engine, "SELECT size + 1 FROM trades").await;
    assert_eq!(said, "trades.size + 1 does not fit BIGINT: compute in decimals, for example CAST(… AS DECIMAL(38,0)) of one side");
    let said = refused(&engine, "SELECT 2 * (size - 1) FROM trades WHERE symbol = 'A'").await;
    assert!(said.starts_with("2 * (trades.size - 1) does not fit BIGINT: "), "{said}");
    for sql in [
        "SELECT size - 1 FROM trades",
        "SELECT size * 2 FROM trades",
        "SELECT size * size FROM trades WHERE symbol = 'A'",
        "SELECT -size FROM trades",
        "SELECT size / -1 FROM trades",
        "SELECT 9223372036854775807 + 1",
        "SELECT CAST(2147483647 AS int) * CAST(2 AS int)",
        "SELECT sum(size + 1) FROM trades",
        "SELECT count(*) FROM trades WHERE size + 1 > 0",
        "SELECT symbol FROM trades ORDER BY size * 2",
        "SELECT size * 2, count(*) FROM trades GROUP BY 1",
        "SELECT max(size) + max(size) FROM trades",
        "SELECT sum(size * 2) OVER () FROM trades",
        "SELECT (SELECT max(size) + 1 FROM trades) FROM trades",
        "SELECT a.symbol FROM trades a JOIN trades b ON a.size = b.size + 1",
        "SELECT symbol FROM trades WHERE size IN (SELECT size + 1 FROM trades)",
        "SELECT CASE WHEN symbol = 'A' THEN size + size ELSE 0 END FROM trades",
        "WITH x AS (SELECT size * 3 AS y FROM trades) SELECT y FROM x",
    ] {
        refused(&engine, sql).await;
    }
    let said = refused(&engine, "SELECT size / (size - size) FROM trades").await;
    assert!(said.ends_with("divides by zero: leave such rows out, or divide by NULLIF(…, 0) to get NULL"), "{said}");
    assert_eq!(
        csv(&engine, "SELECT CAST(size AS decimal(38,0)) + 1 AS n, size / 2, -(size / 2) AS m FROM trades WHERE symbol = 'A'").await,
        "n,trades.size / Int64(2),m\n9223372036854775808,4611686018427387903,-4611686018427387903\n"
    );
    assert_eq!(
        csv(&engine, "SELECT size * 2 + 1 AS n, size % 2 AS m, NULL + size AS z FROM trades WHERE symbol = 'C'").await,
        "n,m,z\n7,1,\n"
    );
    // Clocks keep their own arithmetic.
    assert_eq!(csv(&engine, "SELECT date '2026-10-05' - date '2026-10-01' AS d, date '2026-10-05' + 1 AS n").await, "d,n\n4,2026-10-06\n");
}

#[tokio::test]
async fn decimals_that_outgrow_38_digits_are_refused() {
    let engine = Fixture::new().engine().await;
    let one = |digits: &str, scale: u8| format!("CAST('{digits}' AS decimal(38,{scale}))");
    let most = one(&"9".repeat(38), 0);
    for sql in [
        format!("SELECT {most} + 1"),
        format!("SELECT {most} * 2"),
        format!("SELECT -{most} - {most}"),
        format!("SELECT {} * {}", one("12345678901234567890.5", 18), one("12345678901234567890.5", 18)),
        // 39 digits that 128 bits do hold.
        format!("SELECT {} + {}", one(&format!("6{}", "0".repeat(37)), 0), one(&format!("6{}", "0".repeat(37)), 0)),
        format!("SELECT v + v FROM (VALUES ({most}), (1)) t(v)"),
        format!("SELECT avg(v) FROM (VALUES ({most}), ({most})) t(v)"),
    ] {
        let said = fixture::run(&engine, &sql).await.unwrap_err().to_string();
        assert!(said.contains("does not fit DECIMAL") || said.to_lowercase().contains("overflow"), "{sql}: {said}");
    }
}

#[tokio::test]
async fn averages_do_not_wrap() {
    let engine = Fixture::new().engine().await;
    // Of decimals: exact, four digits more than they have. Of integers: in f64, right to 15 digits.
    let got = csv(
        &engine,
        "SELECT avg(CAST(9223372036854775807 AS decimal(20,0))) AS d, avg(9223372036854775806) AS f, arrow_typeof(avg(value)) AS t, \
         avg(999999999.999999999) AS p FROM generate_series(1, 1000)",
    )
    .await;
    assert_eq!(got, "d,f,t,p\n9223372036854775807.0000,9.223372036854776e18,Float64,999999999.9999999990000\n");
}

#[tokio::test]
async fn a_literal_with_an_exponent_is_its_whole_number() {
    let engine = Fixture::new().engine().await;
    assert_eq!(
        csv(&engine, "SELECT avg(1e3) AS a, 1e3 * 2 AS b, median(1e3) AS m, sum(1.5e2) AS s").await,
        "a,b,m,s\n1000.0000,2000,1000.0,150\n"
    );
    assert_eq!(csv(&engine, "SELECT avg(v) AS a FROM (VALUES (1e3), (2e3), (2.5e1)) AS t(v)").await, "a\n1008.3333\n");
    assert_eq!(csv(&engine, "SELECT avg(CAST(500 AS decimal(5,-2))) AS a, 1e3 AS b").await, "a,b\n500.0000,1000\n");
}

/// Quotient and average have the digits that they have, and the last one is rounded, half away from zero: as `round` and CAST do it.
#[tokio::test]
async fn the_last_digit_of_a_quotient_and_of_an_average_is_rounded() {
    let mut fixture = Fixture::new();
    let prices = [1_000_000_001i128, 1_000_000_002, 1_000_000_002];
    let rows: Vec<Row> = prices.iter().enumerate().map(|(i, price)| trade("A", T0 + i as i64, *price, 2)).collect();
    fixture.write(Family::Trades, &rows);
    let engine = fixture.engine().await;
    for (expression, answer) in [
        ("2/3.0", "0.6667"),
        ("-2/3.0", "-0.6667"),
        ("2/-3.0", "-0.6667"),
        ("-2.0/-3.0", "0.66667"),
        ("1/3.0", "0.3333"),
        ("0.00001/2", "0.000005000"),
        ("1/20000.0", "0.0001"),
        ("-1/20000.0", "-0.0001"),
        ("1/20001.0", "0.0000"),
        ("CAST('2' AS decimal(50,0))/CAST('3' AS decimal(50,0))", "0.6667"),
    ] {
        assert_eq!(csv(&engine, &format!("SELECT {expression} AS x")).await, format!("x\n{answer}\n"), "{expression}");
    }
    assert_eq!(
        csv(&engine, "SELECT sum(price * size) / sum(size) AS vwap, avg(price) AS a, avg(-price) AS b FROM trades").await,
        "vwap,a,b\n1.0000000016667,1.0000000016667,-1.0000000016667\n"
    );
    assert_eq!(csv(&engine, "SELECT symbol, avg(price) AS a FROM trades GROUP BY symbol").await, "symbol,a\nA,1.0000000016667\n");
    assert_eq!(
        csv(&engine, "SELECT avg(DISTINCT price) AS a, mean(price) AS m FROM trades").await,
        "a,m\n1.0000000015000,1.0000000016667\n"
    );
    assert_eq!(
        csv(&engine, "SELECT avg(price) FILTER (WHERE symbol = 'B') AS a, avg(price) AS b FROM trades WHERE symbol = 'B'").await,
        "a,b\n,\n"
    );
    assert_eq!(
        csv(&engine, "SELECT avg(price) OVER (ORDER BY ts_event ROWS 1 PRECEDING) AS a FROM trades ORDER BY ts_event").await,
        "a\n1.0000000010000\n1.0000000015000\n1.0000000020000\n"
    );
    assert_eq!(
        csv(&engine, "SELECT max(a) AS a FROM (SELECT avg(price) AS a FROM trades GROUP BY ts_event)").await,
        "a\n1.0000000020000\n"
    );
    let wide = format!("SELECT avg(v) FROM (VALUES (CAST('{DECIMAL_MAX}' AS decimal(38,0)))) AS t(v)");
    assert!(refused(&engine, &wide).await.contains("does not fit DECIMAL(38,4)"));
}

#[tokio::test]
async fn a_shift_that_leaves_its_type_is_refused() {
    let engine = Fixture::new().engine().await;
    for (expression, answer) in
        [("5 << 2", "20"), ("1 << 62", "4611686018427387904"), ("-8 >> 1", "-4"), ("5 >> 70", "0"), ("0 << 70", "0")]
    {
        assert_eq!(csv(&engine, &format!("SELECT {expression} AS x")).await, format!("x\n{answer}\n"), "{expression}");
    }
    for expression in ["5 << 70", "1 << 64", "1 << 63", "1 << -1", "v << 64 FROM (VALUES (1), (2)) AS t(v)"] {
        assert!(refused(&engine, &format!("SELECT {expression}")).await.contains("does not fit BIGINT"), "{expression}");
    }
}

#[tokio::test]
async fn integers_stay_integers_and_seconds_of_the_epoch_are_no_float() {
    let mut fixture = Fixture::new();
    fixture.write(Family::Trades, &[trade("A", T0, 1, 9_007_199_254_740_993)]);
    let engine = fixture.engine().await;
    for expression in ["ceil(size)", "floor(size)", "trunc(size)", "round(size)"] {
        assert_eq!(csv(&engine, &format!("SELECT {expression} AS x FROM trades")).await, "x\n9007199254740993\n", "{expression}");
    }
    for expression in ["extract(epoch from ts_event)", "date_part('EPOCH', ts_event)"] {
        let said = refused(&engine, &format!("SELECT {expression} FROM trades")).await;
        assert!(said.contains("CAST(… AS BIGINT)") && said.contains("nanoseconds"), "{said}");
    }
    let meant = "CAST(extract(epoch from ts_event) AS double) - 1791210600 AS x, extract(minute from ts_event) AS m";
    assert_eq!(csv(&engine, &format!("SELECT {meant} FROM trades")).await, "x,m\n0.0,30\n");
    for expression in ["power(size, 2)", "power(3, 39)", "pow(size, size)"] {
        assert!(refused(&engine, &format!("SELECT {expression} FROM trades")).await.contains("CAST(… AS DOUBLE)"), "{expression}");
    }
    for (expression, answer) in [
        ("ceil(9.99)", "10.00"),
        ("floor(-99.9)", "-100.0"),
        ("floor(99.9)", "99.0"),
        ("ceil(-0.5)", "0.0"),
        ("ceil(0.000000001)", "1.000000000"),
    ] {
        assert_eq!(csv(&engine, &format!("SELECT {expression} AS x")).await, format!("x\n{answer}\n"), "{expression}");
    }
}

#[tokio::test]
async fn a_median_keeps_the_half() {
    let engine = Fixture::new().engine().await;
    for (values, median) in [
        ("CAST('0.300000000' AS decimal(18,9))), (CAST('0.100000001' AS decimal(18,9))", "0.2000000005"),
        ("CAST('-0.000000001' AS decimal(18,9))), (CAST('0' AS decimal(18,9))", "-0.0000000005"),
        ("9007199254740993), (9007199254740992", "9007199254740992.5"),
        ("3), (1), (2", "2.0"),
        (
            "CAST('140000000000000000000001' AS decimal(38,0))), (CAST('140000000000000000000002' AS decimal(38,0))",
            "140000000000000000000001.5",
        ),
    ] {
        let from = format!("FROM (VALUES ({values})) AS t(v)");
        assert_eq!(csv(&engine, &format!("SELECT median(v) AS m {from}")).await, format!("m\n{median}\n"), "{values}");
        assert_eq!(csv(&engine, &format!("SELECT max(m) + 0 AS m FROM (SELECT median(v) AS m {from})")).await, format!("m\n{median}\n"));
        let window = format!("SELECT DISTINCT median(v) OVER () AS m {from}");
        assert_eq!(csv(&engine, &window).await, format!("m\n{median}\n"));
    }
    let wide = format!("SELECT median(v) FROM (VALUES (CAST('{DECIMAL_MAX}' AS decimal(38,0)))) AS t(v)");
    assert!(fixture::run(&engine, &wide).await.is_err());
}

#[tokio::test]
async fn what_is_computed_in_floats_is_said_in_the_statement() {
    let mut fixture = Fixture::new();
    fixture.write(Family::Trades, &[trade("A", T0, 4_000_000_000, 3), trade("B", T0, 4_000_000_000, 5)]);
    let engine = fixture.engine().await;
    let said = refused(&engine, "SELECT stddev(price) FROM trades").await;
    assert!(said.starts_with("stddev(trades.price) is computed in floats") && said.contains("CAST(… AS DOUBLE)"), "{said}");
    let said = refused(&engine, "SELECT array_sum(array_agg(price)) FROM trades").await;
    assert!(said.ends_with("; exact is SELECT sum(v) FROM (SELECT unnest(…) AS v)"), "{said}");
    let said = refused(&engine, "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY price) FROM trades").await;
    assert!(said.ends_with("; median(…) is exact"), "{said}");
    for expression in [
        "var_pop(price)",
        "corr(price, size)",
        "approx_median(price)",
        "approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY price)",
        "regr_slope(price, size)",
        "stddev(price) OVER ()",
        "sqrt(price)",
        "power(price, 2)",
        "ln(price)",
        "array_sum([9007199254740993, 1])",
        "array_avg([price])",
        "array_product([size])",
        "array_add([price], [price])",
        "round(sqrt(price), 2)",
    ] {
        refused(&engine, &format!("SELECT {expression} FROM trades")).await;
    }
    refused(&engine, "SELECT symbol FROM trades WHERE sqrt(price) > 1").await;
    refused(&engine, "SELECT symbol FROM trades GROUP BY symbol HAVING stddev(price) > 1").await;
    for (expression, answer) in [
        ("max(sqrt(CAST(price AS double)))", "2.0"),
        ("stddev(CAST(price AS double))", "0.0"),
        ("percentile_cont(0.5) WITHIN GROUP (ORDER BY CAST(price AS double))", "4.0"),
        ("approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY size)", "4.0"),
        ("max(power(CAST(price AS double), 0.5))", "2.0"),
        ("array_sum(CAST([1, 2] AS double[]))", "3.0"),
        ("max(round(price, 2))", "4.00"),
        ("max(abs(-price))", "4.000000000"),
        ("sum(v) FROM (SELECT unnest([9007199254740993, 1]) AS v)", "9007199254740994"),
        ("sqrt(2.25)", "1.5"),
    ] {
        let from = if expression.contains("FROM") { "" } else { " FROM trades" };
        let expression = expression.replace(" FROM", " AS x FROM");
        let alias = if from.is_empty() { "" } else { " AS x" };
        let limited = format!("SELECT {expression}{alias}{from} LIMIT 1");
        assert_eq!(csv(&engine, &limited).await, format!("x\n{answer}\n"), "{expression}");
    }
}

/// One engine for all cases of the properties.
static ENGINE: LazyLock<(Runtime, Arc<Engine>)> = LazyLock::new(|| {
    let runtime = Runtime::new().unwrap();
    let engine = runtime.block_on(Fixture::new().engine());
    (runtime, engine)
});

fn answer(sql: &str) -> Result<String, String> {
    let (runtime, engine) = &*ENGINE;
    runtime.block_on(async {
        match fixture::run(engine, sql).await {
            Ok(_) => Ok(csv(engine, sql).await.lines().skip(1).collect::<Vec<_>>().join("\n")),
            Err(Error::Inexact(why)) => Err(why.to_string()),
            Err(other) => panic!("{sql}: {other}"),
        }
    })
}

/// Numbers near the ends of their type, and small ones.
fn integers() -> impl Strategy<Value = i64> {
    prop_oneof![Just(i64::MIN + 1), Just(i64::MAX), any::<i64>().prop_map(|n| n.max(i64::MIN + 1)), -5i64..5]
}

fn decimals() -> impl Strategy<Value = i128> {
    prop_oneof![Just(DECIMAL_MAX), Just(-DECIMAL_MAX), -DECIMAL_MAX..DECIMAL_MAX, -5i128..5]
}

fn rows<T: std::fmt::Display>(values: &[T], kind: &str) -> String {
    let rows: Vec<String> = values.iter().enumerate().map(|(i, v)| format!("({i}, CAST('{v}' AS {kind}))")).collect();
    format!("(VALUES {}) AS t(i, v)", rows.join(", "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn sums_of_integers_are_those_of_i128(values in prop::collection::vec(integers(), 1..12)) {
        let from = rows(&values, "bigint");
        let wide: Vec<i128> = values.iter().map(|v| i128::from(*v)).collect();
        prop_assert_eq!(answer(&format!("SELECT sum(v) FROM {from}")), Ok(wide.iter().sum::<i128>().to_string()));
        let mut different = wide.clone();
        different.sort_unstable();
        different.dedup();
        prop_assert_eq!(answer(&format!("SELECT sum(DISTINCT v), count(DISTINCT i) FROM {from}")), Ok(format!("{},{}", different.iter().sum::<i128>(), wide.len())));
        let even: i128 = wide.iter().step_by(2).sum();
        prop_assert_eq!(answer(&format!("SELECT sum(v) FROM {from} GROUP BY i % 2 ORDER BY i % 2 LIMIT 1")), Ok(even.to_string()));
        let windows: Vec<String> = (0..wide.len()).map(|i| wide[i.saturating_sub(2)..=i].iter().sum::<i128>().to_string()).collect();
        let window = format!("SELECT sum(v) OVER (ORDER BY i ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) FROM {from} ORDER BY i");
        prop_assert_eq!(answer(&window), Ok(windows.join("\n")));
    }

    #[test]
    fn integer_arithmetic_is_that_of_i128_or_refused(a in integers(), b in integers()) {
        for (op, exact) in [("+", i128::from(a) + i128::from(b)), ("-", i128::from(a) - i128::from(b)), ("*", i128::from(a) * i128::from(b))] {
            let fits = i64::try_from(exact).is_ok();
            for sql in [format!("SELECT CAST('{a}' AS bigint) {op} CAST('{b}' AS bigint)"), format!("SELECT v {op} CAST('{b}' AS bigint) FROM {}", rows(&[a], "bigint"))] {
                match answer(&sql) {
                    Ok(got) => prop_assert_eq!(got, exact.to_string(), "{}", sql),
                    Err(why) => prop_assert!(!fits && why.contains("does not fit BIGINT"), "{}: {}", sql, why),
                }
            }
        }
    }

    /// On either side, as columns and as one value for all rows, NULL among them.
    #[test]
    fn products_of_decimals_and_integers_are_those_of_i128_or_refused(decimal in decimals(), integer in integers()) {
        let exact = decimal.checked_mul(integer.into()).filter(|product| product.abs() <= DECIMAL_MAX);
        let (one, other) = (format!("CAST('{decimal}' AS decimal(38,0))"), format!("CAST('{integer}' AS bigint)"));
        let from = format!("(VALUES ({one}, {other}), (NULL, {other}), ({one}, NULL)) AS t(d, i)");
        for product in ["d * i".to_string(), "i * d".into(), format!("d * {other}"), format!("{one} * i"), format!("{one} * CAST(i AS decimal(38,0))")] {
            match answer(&format!("SELECT {product} FROM {from} WHERE d IS NOT NULL AND i IS NOT NULL")) {
                Ok(got) => prop_assert_eq!(Some(got), exact.map(|product| product.to_string()), "{}", product),
                Err(why) => prop_assert!(exact.is_none() && why.contains("does not fit DECIMAL(38,0)"), "{}: {}", product, why),
            }
        }
        if exact.is_some() {
            prop_assert_eq!(answer(&format!("SELECT count(d * i), count(*) FROM {from}")), Ok("1,3".to_string()));
        }
    }

    #[test]
    fn sums_of_decimals_are_those_of_i128_or_refused(values in prop::collection::vec(decimals(), 1..6)) {
        // Five of 38 digits are less than 2^130: two halves hold them.
        let (high, low) = values.iter().fold((0i128, 0i128), |(high, low), v| (high + v / 1_000_000, low + v % 1_000_000));
        let exact = high.checked_mul(1_000_000).and_then(|high| high.checked_add(low)).filter(|sum| sum.abs() <= DECIMAL_MAX);
        match answer(&format!("SELECT sum(v) FROM {}", rows(&values, "decimal(38,0)"))) {
            Ok(got) => prop_assert_eq!(Some(got), exact.map(|sum| sum.to_string())),
            // A sum may also pass the end on its way and be refused.
            Err(why) => prop_assert!(why.contains("does not fit DECIMAL(38,0)"), "{}", why),
        }
    }
}
