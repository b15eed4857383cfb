//! Facts of text files: CTP ticks and bars, Lean's zips and lists, the Azure trace, Epoch's tables.

use super::facts::{Check, Scale};
use serde_json::{Value, json};

/// CTP's columns and ours, as far as facts name them.
const CTP: [(&str, &str); 14] = [
    ("ClosePrice", "close"),
    ("SettlementPrice", "settlement_price"),
    ("PreDelta", "prev_delta"),
    ("CurrDelta", "curr_delta"),
    ("BidPrice2", "bid_px_01"),
    ("AskPrice2", "ask_px_01"),
    ("BidPrice3", "bid_px_02"),
    ("AskPrice3", "ask_px_02"),
    ("BidPrice4", "bid_px_03"),
    ("AskPrice4", "ask_px_03"),
    ("BidPrice5", "bid_px_04"),
    ("AskPrice5", "ask_px_04"),
    ("ExchangeID", "exchange_id"),
    ("ExchangeInstID", "exchange_inst_id"),
];

const MS: Scale = Scale::Milliseconds;
const SNAPSHOTS: &str = "snapshots WHERE $rows";
const BARS: &str = "bars WHERE $rows";

fn column(ctp: &str) -> &'static str {
    CTP.iter().find(|(name, _)| *name == ctp).unwrap_or_else(|| panic!("a fact names {ctp}")).1
}

pub fn ctp(facts: &Value) -> Vec<Check> {
    let scalar = |name: &str, expr: &str| Check::scalar(name, SNAPSHOTS, expr);
    let ms = |name: &str, expr: &str| Check::scaled(name, SNAPSHOTS, expr, MS);
    let mut checks = vec![
        Check::value(
            "columns",
            "sources WHERE $rows",
            "CAST(cardinality(string_to_array(min(columns), ',')) AS BIGINT)",
            facts["columns"].clone(),
        ),
        scalar("instrument", "min(symbol)"),
        scalar("rows", "count(*)"),
        ms("min_time_utc_ms", "CAST(min(ts_event) AS BIGINT)"),
        ms("max_time_utc_ms", "CAST(max(ts_event) AS BIGINT)"),
        scalar("distinct_times", "count(DISTINCT ts_event)"),
        scalar("last_price_sum", "sum(last_price)"),
        scalar("last_price_min", "min(last_price)"),
        scalar("last_price_max", "max(last_price)"),
        scalar("bid_volume1_sum", "sum(bid_sz_00)"),
        scalar("ask_volume1_sum", "sum(ask_sz_00)"),
        scalar("rows_without_bid", "count(*) - count(bid_px_00)"),
        scalar("rows_without_ask", "count(*) - count(ask_px_00)"),
        scalar("average_price_sum", "sum(average_price)"),
        nondecreasing(SNAPSHOTS),
        Check::map(
            "by_action_hour_shanghai",
            &format!(
                "SELECT to_char(date_trunc('hour', ts_event + INTERVAL '8 hours'), '%Y-%m-%dT%H') AS k, count(*) AS v FROM {SNAPSHOTS} GROUP BY 1"
            ),
        ),
        trading_days(facts),
    ];
    for (name, count) in facts["na_counts"].as_object().expect("by column") {
        checks.push(Check::value(&format!("na_counts {name}"), SNAPSHOTS, &format!("count(*) - count({})", column(name)), count.clone()));
    }
    for (name, count) in facts["empty_counts"].as_object().expect("by column") {
        let empty = format!("count(*) FILTER (WHERE {} = '')", column(name));
        checks.push(Check::value(&format!("empty_counts {name}"), SNAPSHOTS, &empty, count.clone()));
    }
    checks.extend(["na_counts", "empty_counts"].map(|name| Check::excluded(name, "checked column by column")));
    checks
}

fn nondecreasing(rows: &str) -> Check {
    let steps = format!("(SELECT ts_event, lag(ts_event) OVER (ORDER BY source_record) AS before FROM {rows})");
    Check::scalar("time_nondecreasing", &steps, "coalesce(bool_and(ts_event >= before), TRUE)")
}

fn trading_days(facts: &Value) -> Check {
    let expected = facts["by_trading_day"].as_array().expect("a list").iter().map(|day| {
        let mut day = day.clone();
        let object = day.as_object_mut().expect("an object");
        for name in ["first_utc_ms", "last_utc_ms"] {
            object[name] = json!(object[name].as_i64().expect("a number") * 1_000_000);
        }
        object["action_days"] = json!(
            object["action_days"].as_array().expect("a list").iter().map(|day| day.as_str().expect("text")).collect::<Vec<_>>().join(",")
        );
        day
    });
    let first = |column: &str| format!("first_value({column} ORDER BY source_record)");
    let last = |column: &str| format!("last_value({column} ORDER BY source_record)");
    let sql = format!(
        "SELECT to_char(trade_date, '%Y%m%d') AS trading_day, string_agg(DISTINCT to_char(action_day, '%Y%m%d'), ',' ORDER BY to_char(action_day, '%Y%m%d')) AS action_days, \
         count(*) AS rows, CAST({} AS BIGINT) AS first_utc_ms, CAST({} AS BIGINT) AS last_utc_ms, {} AS open, max(last_price) AS high, \
         min(last_price) AS low, {} AS close, {} AS cum_volume_first, {} AS cum_volume_last, {} AS turnover_last, {} AS open_interest_last, \
         {} AS settlement_last, {} AS pre_settlement FROM {SNAPSHOTS} GROUP BY trade_date ORDER BY trade_date",
        first("ts_event"),
        last("ts_event"),
        first("last_price"),
        last("last_price"),
        first("volume"),
        last("volume"),
        last("turnover"),
        last("open_interest"),
        last("settlement_price"),
        last("prev_settlement_price"),
    );
    Check::Rows { name: "by_trading_day".into(), sql, expected: expected.collect() }
}

pub fn minute_bars(facts: &Value) -> Vec<Check> {
    let scalar = |name: &str, expr: &str| Check::scalar(name, BARS, expr);
    let local = |expr: &str| format!("to_char({expr} + INTERVAL '8 hours', '%Y-%m-%d %H:%M:%S')");
    let columns = serde_json::to_string(&facts["columns"]).expect("a list of texts is JSON");
    vec![
        scalar("rows", "count(*)"),
        Check::value("columns", "sources WHERE $rows", "min(columns)", json!(columns)),
        scalar("first_begin_local", &local("first_value(ts_event ORDER BY source_record)")),
        scalar("last_end_local", &local("last_value(ts_end ORDER BY source_record)")),
        scalar("volume_sum", "sum(volume)"),
        scalar("amount_sum", "sum(turnover)"),
        scalar("high_max", "max(high)"),
        scalar("low_min", "min(low)"),
        scalar("close_last", "last_value(close ORDER BY source_record)"),
        scalar("end_volume_last", "last_value(end_volume ORDER BY source_record)"),
        scalar("end_open_interest_last", "last_value(open_interest ORDER BY source_record)"),
        Check::scalar(
            "bars_where_high_low_are_session_running",
            "(SELECT high, low, lag(high) OVER (ORDER BY source_record) AS before_high, lag(low) OVER (ORDER BY source_record) AS before_low FROM bars WHERE $rows)",
            "coalesce(bool_and(high >= before_high AND low <= before_low), TRUE)",
        ),
    ]
}

pub fn day_bars(facts: &Value) -> Vec<Check> {
    let columns = serde_json::to_string(&facts["columns"]).expect("a list of texts is JSON");
    vec![
        Check::scalar("rows", BARS, "count(*)"),
        Check::value("columns", "sources WHERE $rows", "min(columns)", json!(columns)),
        Check::scalar("member", "sources WHERE $rows", "min(member)"),
        Check::scalar("first", BARS, "to_char(min(trade_date), '%Y%m%d')"),
        Check::scalar("last", BARS, "to_char(max(trade_date), '%Y%m%d')"),
        Check::scalar("volume_sum", BARS, "sum(volume)"),
        Check::scalar("close_sum", BARS, "sum(close)"),
    ]
}

/// What a Lean archive holds, by its name.
fn lean_table(name: &str) -> &'static str {
    match (name.contains("openinterest"), name.contains("/tick/"), name.contains("quote")) {
        (true, ..) => "statistics",
        (_, true, true) => "quotes",
        (_, true, false) => "trades",
        _ => "bars",
    }
}

pub fn lean_zip(name: &str, facts: &Value) -> Vec<Check> {
    let table = lean_table(name);
    let rows = format!("{table} WHERE $rows");
    let size = if table == "trades" { "size" } else { "volume" };
    let mut checks = vec![Check::scalar("rows", &rows, "count(*)"), members(name, table, facts)];
    if facts.get("volume_sum").is_some() {
        checks.push(Check::scalar("volume_sum", &rows, &format!("sum({size})")));
    }
    checks
}

/// One row per member, with what its facts name.
fn members(name: &str, table: &str, facts: &Value) -> Check {
    // Eurex files are in Frankfurt's time; the sample is of June 2024, two hours before UTC.
    let local = if name.contains("eurex") { "t.ts_event + INTERVAL '2 hours'" } else { "t.ts_event" };
    let time = if name.contains("/daily/") {
        format!("to_char({}, '%Y%m%d') || ' 00:00'", if table == "statistics" { "t.ts_ref" } else { "t.trade_date" })
    } else if name.contains("/hour/") {
        format!("to_char({local}, '%Y%m%d %H:%M')")
    } else {
        format!("CAST((CAST({local} AS BIGINT) / 1000000) % 86400000 AS VARCHAR)")
    };
    let size = if table == "trades" { "t.size" } else { "t.volume" };
    let expression = |fact: &str| match fact {
        "rows" => "count(*)".into(),
        "first_time" => format!("first_value({time} ORDER BY t.source_record)"),
        "last_time" => format!("last_value({time} ORDER BY t.source_record)"),
        "volume_sum" => format!("sum({size})"),
        "close_sum" => "sum(t.close)".into(),
        "price_sum" => "sum(t.price)".into(),
        "zero_size_rows" => format!("count(*) FILTER (WHERE {size} = 0)"),
        "bid_close_sum" => "coalesce(sum(t.bid_close), 0)".into(),
        "ask_close_sum" => "coalesce(sum(t.ask_close), 0)".into(),
        "bid_price_sum" => "coalesce(sum(t.bid_px_00), 0)".into(),
        "ask_price_sum" => "coalesce(sum(t.ask_px_00), 0)".into(),
        "empty_bid_rows" if table == "quotes" => "count(*) - count(t.bid_px_00)".into(),
        "empty_bid_rows" => "count(*) - count(t.bid_close)".into(),
        "last_open_interest" => "last_value(t.quantity ORDER BY t.source_record)".into(),
        "distinct_values" => "count(DISTINCT t.quantity)".into(),
        other => panic!("{name}: a member has the fact {other}"),
    };
    // Columns and line ends are the file's form.
    let of_form = |fact: &str| fact == "columns" || fact == "crlf";
    let members = facts["members"].as_object().expect("by member");
    let mut names: Vec<&String> =
        members.values().flat_map(|member| member.as_object().expect("an object").keys()).filter(|fact| !of_form(fact)).collect();
    names.sort();
    names.dedup();
    let columns: Vec<String> = names.iter().map(|fact| format!("{} AS {fact}", expression(fact))).collect();
    let sql = format!(
        "SELECT s.member AS member, {} FROM (SELECT * FROM {table} WHERE $rows) t JOIN (SELECT source_id AS id, member FROM sources) s ON s.id = t.source_id \
         GROUP BY s.member ORDER BY s.member",
        columns.join(", ")
    );
    let mut expected: Vec<(String, Value)> = members
        .iter()
        .filter(|(_, member)| member["rows"] != 0)
        .map(|(name, member)| {
            let mut row: serde_json::Map<_, _> = member
                .as_object()
                .expect("an object")
                .iter()
                .filter(|(fact, _)| !of_form(fact))
                .map(|(fact, value)| (fact.clone(), value.clone()))
                .collect();
            row.insert("member".into(), json!(name));
            (name.clone(), Value::Object(row))
        })
        .collect();
    expected.sort_by(|(a, _), (b, _)| a.cmp(b));
    Check::Rows { name: "members".into(), sql, expected: expected.into_iter().map(|(_, row)| row).collect() }
}

pub fn lean_csv(name: &str, facts: &Value) -> Vec<Check> {
    if facts.get("expiries").is_none() {
        // Map, factor and margin files have no family: whole in documents.
        return [document(facts).as_slice(), &[Check::excluded("rows", "a document's lines are not records")]].concat();
    }
    let root = name.split('/').nth_back(1).expect("a list lies in its product's folder").to_uppercase();
    vec![
        Check::scalar("rows", BARS, "count(*)"),
        Check::list("expiries", &format!("SELECT replace(symbol, '{root} ', '') AS v FROM {BARS} ORDER BY source_record")),
        Check::scalar("volume_sum", BARS, "sum(volume)"),
        Check::scalar("open_interest_sum", BARS, "sum(open_interest)"),
    ]
}

/// What goes to `documents` is checked by bytes and SHA-256.
fn document(facts: &Value) -> Vec<Check> {
    vec![
        Check::value("document bytes", "documents WHERE $rows", "sum(octet_length(body))", facts["bytes"].clone()),
        Check::value("document sha256", "documents WHERE $rows", "min(encode(sha256, 'hex'))", facts["sha256"].clone()),
        Check::value("document body", "documents WHERE $rows", "min(encode(digest(body, 'sha256'), 'hex'))", facts["sha256"].clone()),
    ]
}

pub fn azure(facts: &Value) -> Vec<Check> {
    const REQUESTS: &str = "requests WHERE $rows";
    let scalar = |name: &str, expr: &str| Check::scalar(name, REQUESTS, expr);
    let instant = |expr: &str| format!("left(to_char({expr}, '%Y-%m-%d %H:%M:%S.%9f'), 27)");
    let minutes = format!(
        "SELECT to_char(date_trunc('minute', ts_event), '%Y-%m-%d %H:%M') AS minute, count(*) AS n, sum(input_tokens) AS input, sum(output_tokens) AS output \
         FROM {REQUESTS} GROUP BY 1 ORDER BY 1 LIMIT 5"
    );
    let first = facts["by_minute_first5"].as_array().expect("a list").iter();
    let expected = first.map(|row| json!({ "minute": row[0], "n": row[1], "input": row[2], "output": row[3] })).collect();
    vec![
        scalar("rows", "count(*)"),
        scalar("context_tokens_sum", "sum(input_tokens)"),
        scalar("generated_tokens_sum", "sum(output_tokens)"),
        scalar("context_max", "max(input_tokens)"),
        scalar("context_min", "min(input_tokens)"),
        scalar("generated_max", "max(output_tokens)"),
        scalar("generated_min", "min(output_tokens)"),
        scalar("min_timestamp", &instant("min(ts_event)")),
        scalar("max_timestamp", &instant("max(ts_event)")),
        scalar("minutes", "count(DISTINCT date_trunc('minute', ts_event))"),
        nondecreasing(REQUESTS),
        Check::Rows { name: "by_minute_first5".into(), sql: minutes, expected },
    ]
}

pub fn epoch(name: &str, facts: &Value) -> Vec<Check> {
    let mut checks = document(facts);
    // Cell statistics of tables without a family: the bytes are there, the cells are not columns.
    for fact in facts.as_object().expect("facts by name").keys() {
        if !fact.starts_with("daily_token") {
            checks.push(Check::excluded(fact, "of a table that has no family"));
        }
    }
    if name.ends_with("ai_companies_usage_reports.csv") {
        let rows = facts["daily_token_rows"].as_array().expect("a list").clone();
        let sql = "SELECT publisher AS company, substr(series_id, length(publisher) + 2) AS product, to_char(period_start, '%Y-%m-%d') AS date, tokens AS daily_tokens \
                   FROM token_usage WHERE $rows ORDER BY source_record";
        checks.push(Check::Rows { name: "daily_token_rows".into(), sql: sql.into(), expected: rows });
        checks.push(Check::scalar("daily_tokens_sum", "token_usage WHERE $rows", "sum(tokens)"));
    }
    checks
}
