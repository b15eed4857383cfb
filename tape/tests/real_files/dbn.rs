//! Facts of DBN files.

use super::facts::{Check, Scale};
use serde_json::{Value, json};

/// The table of a DBN schema.
fn table(schema: &str) -> &'static str {
    match schema {
        "trades" => "trades",
        "mbp-1" | "tbbo" | "bbo-1s" | "bbo-1m" | "cmbp-1" | "cbbo-1s" | "cbbo-1m" | "tcbbo" => "quotes",
        "mbp-10" => "depth",
        "mbo" => "orders",
        "ohlcv-1s" | "ohlcv-1m" | "ohlcv-1h" | "ohlcv-1d" => "bars",
        "definition" => "instruments",
        "statistics" => "statistics",
        "status" => "status",
        "imbalance" => "imbalances",
        other => panic!("schema {other} has no table here"),
    }
}

/// A fragment without a header: only its records say anything.
pub fn fragment(facts: &Value) -> Vec<Check> {
    vec![Check::value("walk", "instruments WHERE source_record >= 0 AND $rows", "count(*)", facts["walk"]["records"].clone())]
}

pub fn checks(facts: &Value) -> Vec<Check> {
    let table = table(facts["schema"].as_str().expect("a schema"));
    let from = format!("{table} WHERE source_record >= 0 AND $rows");
    let scalar = |name: &str, expr: &str| Check::scalar(name, &from, expr);
    let raw = |name: &str, expr: &str| Check::scaled(name, &from, expr, Scale::Down(9));
    let ns = |column: &str| format!("CAST({column} AS BIGINT)");
    let has = |name: &str| facts.get(name).is_some();
    let mut checks = header(facts);
    checks.push(scalar("records", "count(*)"));
    checks.push(scalar("n_instrument_ids", "count(DISTINCT instrument_id)"));
    checks.push(Check::list("instrument_ids", &format!("SELECT DISTINCT instrument_id AS v FROM {from} ORDER BY 1")));
    checks.push(Check::list("publisher_ids", &format!("SELECT DISTINCT publisher_id AS v FROM {from} ORDER BY 1")));
    for clock in ["ts_event", "ts_recv"] {
        if has(&format!("min_{clock}_ns")) {
            checks.push(scalar(&format!("min_{clock}_ns"), &ns(&format!("min({clock})"))));
            checks.push(scalar(&format!("max_{clock}_ns"), &ns(&format!("max({clock})"))));
            let steps = format!("(SELECT {clock}, lag({clock}) OVER (ORDER BY source_record) AS before FROM {from})");
            checks.push(Check::scalar(&format!("{clock}_nondecreasing"), &steps, &format!("coalesce(bool_and({clock} >= before), TRUE)")));
        }
    }
    if has("sides") {
        checks.push(Check::map("sides", &format!("SELECT side AS k, count(*) AS v FROM {from} GROUP BY side")));
    }
    if has("actions") {
        checks.push(Check::map("actions", &format!("SELECT CAST(action AS VARCHAR) AS k, count(*) AS v FROM {from} GROUP BY action")));
    }
    if has("price_raw_sum") {
        checks.push(raw("price_raw_sum", "coalesce(sum(price), 0)"));
        checks.push(raw("price_raw_min", "min(price)"));
        checks.push(raw("price_raw_max", "max(price)"));
        checks.push(scalar("price_defined", "count(price)"));
        checks.push(scalar("price_undefined_i64max", "count(*) - count(price)"));
    }
    if has("size_sum") {
        checks.push(scalar("size_sum", "sum(size)"));
    }
    if has("volume_sum") {
        checks.push(scalar("volume_sum", "sum(volume)"));
        checks.push(raw("open_first_raw", "first_value(open ORDER BY source_record)"));
        checks.push(raw("high_max_raw", "max(high)"));
        checks.push(raw("low_min_raw", "min(low)"));
        checks.push(raw("close_last_raw", "last_value(close ORDER BY source_record)"));
    }
    if has("stat_types") {
        checks.push(Check::map(
            "stat_types",
            &format!("SELECT CAST(stat_type AS VARCHAR) AS k, count(*) AS v FROM {from} GROUP BY stat_type"),
        ));
        checks.push(statistics(facts, &from));
    }
    if has("undefined_level_prices") {
        let levels = if table == "depth" { 10 } else { 1 };
        let absent: Vec<String> = (0..levels)
            .flat_map(|level| ["bid", "ask"].map(|side| format!("sum(CASE WHEN {side}_px_{level:02} IS NULL THEN 1 ELSE 0 END)")))
            .collect();
        checks.push(scalar("undefined_level_prices", &absent.join(" + ")));
    }
    if has("first_definitions") {
        checks.push(definitions(facts, &from));
    }
    checks
}

/// Header facts come from `sources`.
fn header(facts: &Value) -> Vec<Check> {
    let mut checks = vec![
        Check::scalar("dataset", "sources", "min(dataset)"),
        Check::scalar("schema", "sources", "min(schema)"),
        Check::scalar("version_in_file", "sources", "min(version)"),
        Check::scalar("start_ns", "sources", "CAST(min(start) AS BIGINT)"),
        Check::scalar("limit", "sources", "min(\"limit\")"),
        Check::scalar("stype_in", "sources", "min(stype_in)"),
        Check::scalar("stype_out", "sources", "min(stype_out)"),
        Check::scalar("ts_out", "sources", "bool_or(ts_out)"),
        Check::scalar("n_symbols", "sources", "min(n_symbols)"),
        Check::scalar("n_mappings", "sources", "min(n_mappings)"),
        Check::scalar("end_ns", "sources", "CAST(min(\"end\") AS BIGINT)"),
    ];
    let symbols = serde_json::to_string(&facts["symbols"]).expect("a list of texts is JSON");
    checks.push(Check::value("symbols", "sources", "min(symbols)", json!(symbols)));
    checks
}

fn statistics(facts: &Value, from: &str) -> Check {
    let expected = facts["stats"].as_array().expect("a list");
    let absent = |value: &Value| {
        if value.as_i64() == Some(i64::MAX) || value.as_i64() == Some(i64::from(i32::MAX)) { Value::Null } else { value.clone() }
    };
    let rows = expected
        .iter()
        .map(|stat| {
            json!({
                "stat_type": stat["stat_type"],
                "ts_event": stat["ts_event"],
                "ts_ref": stat["ts_ref"],
                "price": raw_price(&stat["price_raw"]),
                "quantity": absent(&stat["quantity_raw"]),
            })
        })
        .collect();
    let sql = format!(
        "SELECT stat_type, CAST(ts_event AS BIGINT) AS ts_event, CAST(ts_ref AS BIGINT) AS ts_ref, price, quantity FROM {from} \
         ORDER BY source_record LIMIT {}",
        expected.len()
    );
    Check::Rows { name: "stats".into(), sql, expected: rows }
}

fn raw_price(value: &Value) -> Value {
    match value.as_i64() {
        Some(raw) if raw != i64::MAX => json!(schemas::exact::print(i128::from(raw), 9)),
        _ => Value::Null,
    }
}

/// Numbers that mean "undefined" in a definition.
fn defined(value: &Value) -> Value {
    const UNDEFINED: [u64; 5] = [u64::MAX, i64::MAX as u64, i32::MAX as u64, u16::MAX as u64, u8::MAX as u64];
    match value.as_u64() {
        Some(number) if UNDEFINED.contains(&number) => Value::Null,
        _ => value.clone(),
    }
}

fn definitions(facts: &Value, from: &str) -> Check {
    const PRICES: [&str; 6] =
        ["min_price_increment", "display_factor", "high_limit_price", "low_limit_price", "unit_of_measure_qty", "strike_price"];
    let expected: Vec<Value> = facts["first_definitions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|definition| {
            let fields = definition.as_object().expect("an object").iter().map(|(name, value)| {
                let value = if PRICES.contains(&name.as_str()) { raw_price(value) } else { defined(value) };
                (name.clone(), value)
            });
            Value::Object(fields.collect())
        })
        .collect();
    let columns: Vec<String> = expected
        .first()
        .and_then(Value::as_object)
        .expect("at least one definition")
        .keys()
        .map(|name| match name.as_str() {
            "expiration" | "activation" => format!("CAST({name} AS BIGINT) AS {name}"),
            "currency" | "underlying" => format!("dbn_{name} AS {name}"),
            name => name.to_string(),
        })
        .collect();
    let sql = format!("SELECT {} FROM {from} ORDER BY source_record LIMIT {}", columns.join(", "), expected.len());
    Check::Rows { name: "first_definitions".into(), sql, expected }
}
