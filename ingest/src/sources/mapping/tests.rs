//! Mappings: the shipped ones against the facts of the real files, the user's own ones against their mistakes, and every parser against broken bytes.

use super::*;
use crate::source::End;
use crate::sources::trial::{self, Trial, data, expected, given, members, nano, read_by, unpacked};
use proptest::prelude::*;
use schemas::Family::{
    Bars, Conversions, Documents, IndexInputs, IndexValues, Instruments, PriceList, Requests, Statistics, TokenUsage, Trades,
};
use serde_json::Value as Json;

fn mapping_error(toml: &str) -> String {
    Mapping::parse("m.toml", toml).expect_err("a mistake is refused").to_string()
}

fn refused(text: &str, name: &str) -> String {
    match read_by(text.as_bytes(), &given(name), 99) {
        Some(Err(error)) => error.to_string(),
        Some(Ok(t)) => panic!("{name} was read as {}", t.parser),
        None => panic!("{name} was not recognised"),
    }
}

// --- mapping files

#[test]
fn every_shipped_mapping_is_sound() {
    assert_eq!(SHIPPED.len() + CTP_BARS.len(), 26);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 26, "a mapping file is not shipped");
}

#[test]
fn mistakes_in_a_mapping_are_named() {
    let with = |more: &str| format!("family = \"trades\"\nfields = [\"a\", \"b\"]\nignored = [\"b\"]\n{more}");
    let column = |spec: &str| with(&format!("[columns]\nprice = {spec}"));
    for (toml, says) in [
        ("familly = \"trades\"".to_string(), "unknown field `familly`"),
        ("family = \"tades\"".into(), "family \"tades\" does not exist; there are instruments, trades"),
        (with("[columns]\nprise = { from = \"a\" }"), "family trades has no column \"prise\"; it has dataset"),
        (with("[columns]\nsource_id = { from = \"a\" }"), "filled by ingest"),
        (with("[columns]\n_offset = { from = \"a\" }"), "no column \"_offset\""),
        (column("{ from = \"c\" }"), "takes \"c\", which is not among the fields"),
        (column("{ form = \"a\" }"), "unknown field `form`"),
        (column("{ from = \"a\", text = \"1\" }"), "either `from`"),
        (column("{ from = \"a\", clock = \"julian\" }"), "clock \"julian\" is not known"),
        (column("{ from = \"a\", clock = \"%Y%m%d %H\" }"), "is not known"),
        (column("{ from = \"a\", clock = \"%Y%m%d %H%M%S.%f\" }"), "write %.f"),
        (column("{ from = \"a\", clock = \"ms_of_day\" }"), "needs `day`"),
        (column("{ from = \"a\", shift = 99 }"), "powers of ten"),
        (column("{ text = \"{nothing}\" }"), "names \"nothing\""),
        (column("{ text = \"{a:lower}\" }"), "filter \"lower\""),
        (with(""), "no column takes a"),
        (with("delimiter = \"→\""), "delimiter"),
        (with("sequence_complete = \"yes\"\n[columns]\nsequence = { from = \"a\" }"), "neither \"source\" nor \"symbol\""),
        (with("sequence_complete = \"source\"\n[columns]\nprice = { from = \"a\" }"), "needs the column sequence"),
        (with("sequence_complete = \"symbol\"\n[columns]\nsequence = { from = \"a\" }"), "needs the column symbol"),
        (with("[recognise]\npath = ['(']"), "recognise.path"),
        ("family = \"trades\"".into(), "fields names no column"),
    ] {
        let error = mapping_error(&toml);
        assert!(error.contains(says) && error.starts_with("m.toml: "), "{toml}\n{error}");
    }
}

#[test]
fn a_users_mapping_reads_what_no_shipped_one_knows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.toml");
    let toml = "family = \"trades\"\ndataset = \"X.Y\"\nzone = \"America/Chicago\"\nheader = false\ndelimiter = \";\"\nabsent = [\"-\"]\nfields = [\"t\", \"p\", \"q\", \"junk\"]\nignored = [\"junk\"]\n\
        [recognise]\npath = ['(?<root>[a-z]+)_\\d+\\.txt$']\n[columns]\nsymbol = { text = \"{root:upper}\" }\nts_event = { from = \"t\", clock = \"%d.%m.%Y %H:%M:%S%.f\" }\nprice = { from = \"p\", shift = -2 }\nsize = { from = \"q\" }\n";
    std::fs::write(&path, toml).unwrap();
    let with = |mapping: &std::path::Path| Given { mapping: Some(mapping.into()), ..given("d/gpu_1.txt") };
    let t = read_by(b"11.10.2026 17:00:00.25;285;3;x\n11.10.2026 17:00:01;-;4;x\n", &with(&path), 9).unwrap().unwrap();
    assert_eq!((t.rows(Trades), t.dataset.as_str(), t.text(Trades, "symbol").as_deref()), (2, "X.Y", Some("GPU")));
    assert_eq!(t.decimals(Trades, "price"), [Some(nano("2.85")), None]);
    assert_eq!(t.integers(Trades, "ts_event")[0], Some(1_791_756_000_250_000_000));
    assert_eq!(t.facts["root"], "gpu");
    let Some(Err(error)) = read_by(b"1;2\n", &with(&path), 9) else { panic!() };
    assert!(error.to_string().contains("has 2 fields, expected 4 (t, p, q, junk)"), "{error}");
    let Some(Err(error)) = read_by(b"", &with(&dir.path().join("none.toml")), 9) else { panic!() };
    assert!(error.to_string().contains("none.toml"), "{error}");
}

// --- who a source is

/// What an archive's folder adds says whose data it is; the records of a member are the same without it.
#[test]
fn a_member_is_the_same_source_when_it_is_unpacked() {
    let path = |text: &str| SHIPPED.iter().find_map(|mapping| mapping.facts(text).map(|facts| mapping.facts_of_records(facts)));
    let member = "20131007_es_minute_trade_201312.csv";
    let packed = path(&format!("/x/future/cme/minute/es/20131007_trade.zip/{member}")).expect("a shipped mapping");
    for folder in ["/y/", "", "future/cme/minute/es/", "/x/future/cme/minute/es/20131007_trade/"] {
        assert_eq!(path(&format!("{folder}{member}")), Some(packed.clone()), "{folder}");
    }
    for fact in ["date", "root", "expiry"] {
        assert!(packed.contains_key(fact), "{fact} is part of the records: {packed:?}");
    }
    assert!(!packed.contains_key("market"), "{packed:?}");
}

// --- tokentape's own columns

#[test]
fn a_word_that_is_none_of_a_closed_list_is_a_bad_record() {
    let header = "dataset,series_id,direction,stat,period_start,period_end,tokens,qualifier\n";
    let row = |direction: &str, stat: &str, qualifier: &str| format!("A.B,s,{direction},{stat},2026-03-01,2026-04-01,14,{qualifier}\n");
    let rows =
        [row("total", "daily_average", "eq"), row("totl", "daily_average", "eq"), row("total", "mean", "eq"), row("", "cumulative", "<")];
    let t = read_by(format!("{header}{}", rows.concat()).as_bytes(), &given("u.csv"), 99).expect("known").expect("readable");
    let bad: Vec<_> = t.bad.iter().map(|bad| (bad.record, bad.field.as_deref().unwrap_or_default(), bad.reason.as_str())).collect();
    assert_eq!(
        bad,
        [
            (1, "direction", "\"totl\" is none of input, cached_input, cache_write, output, total"),
            (2, "stat", "\"mean\" is none of daily_average, period_total, cumulative"),
            (3, "qualifier", "\"<\" is none of eq, lower_bound, upper_bound, about"),
        ]
    );
}

#[test]
fn own_columns_find_their_family() {
    for (csv, family) in [
        ("index_id,ts_event,value,unit,status,dataset\nOCPI.H100,2026-10-20T20:00:00Z,2.81,USD/gpu_hour,final,ORNN.OCPI\n", IndexValues),
        ("dataset,fixing_id,index_id,evidence,price,weight,included\nORNN.OCPI,f1,OCPI,trade,2.79,0.25,true\n", IndexInputs),
        (
            "dataset,from_unit,to_unit,model,scenario,mid,valid_from,source\nA.B,gpu_hour,token,llama,offline,11156710.5,2026-01-01,MLPerf\n",
            Conversions,
        ),
        ("dataset,kind,symbol,root,currency,price_unit,valid_from\nA.B,future,GPU1V26,GPU1,USD,gpu_hour,2026-10-01\n", Instruments),
        ("dataset,symbol,ts_event,price,size\nA.B,GPU1V26,2026-10-09T13:00:00.000000001Z,2.85,4\n", Trades),
        ("dataset,stat_type,symbol,ts_event,ts_ref,price\nA.B,3,GPU1V26,2026-10-09T20:00Z,2026-10-09,2.86\n", Statistics),
        ("dataset,provider,model,direction,price,price_unit,currency,effective_by\nA.B,x,m,input,0.15,mtok,USD,2026-01-01\n", PriceList),
    ] {
        let t = trial::read(csv.as_bytes(), "own.csv");
        assert_eq!((t.rows(family), t.bad.len(), t.parser), (1, 0, "csv/1"), "{csv} {:?}", t.bad);
    }
}

#[test]
fn own_columns_that_are_not_ours_are_named() {
    let error = refused("index_id,ts_event,valu,unit,status,dataset\n", "own.csv");
    assert!(error.contains("missing value; extra valu"), "{error}");
    let error = refused("dataset,symbol,ts_event,price,size,date\n", "own.csv");
    assert!(error.contains("extra date"), "{error}");
}

#[test]
fn a_row_names_its_dataset_or_the_user_does() {
    let csv = "symbol,ts_event,price,size\nGPU1V26,2026-10-09,2.85,4\n";
    assert!(refused(csv, "own.csv").contains("--dataset"));
    let t = read_by(csv.as_bytes(), &Given { dataset: Some("A.B".into()), ..given("own.csv") }, 9).unwrap().unwrap();
    assert_eq!(t.text(Trades, "dataset").as_deref(), Some("A.B"));
    let t = trial::read(
        b"dataset,symbol,ts_event,price,size\nA.B,x,2026-10-09,1,1\na code too long,x,2026-10-09,1,1\n,x,2026-10-09,1,1\n",
        "own.csv",
    );
    assert_eq!((t.rows(Trades), t.bad.len()), (1, 2));
}

// Found by mutating a feed: one empty revision beside others failed the whole file.
#[test]
fn a_row_that_says_no_change_or_revision_is_new_beside_rows_that_do() {
    let csv = "dataset,symbol,ts_event,price,size,change,revision\nA.B,x,2026-10-09,1,1,correct,1\nA.B,x,2026-10-09,1,1,,\n";
    let t = trial::read(csv.as_bytes(), "own.csv");
    assert_eq!((t.rows(Trades), t.bad.len()), (2, 0), "{:?}", t.bad);
    assert_eq!(t.texts(Trades, "change"), [Some("correct".to_string()), Some("new".to_string())]);
}

#[test]
fn own_values_that_no_column_holds_are_bad_and_named() {
    for (field, row) in [
        ("price", "A.B,x,2026-10-09,inf,1"),
        ("price", "A.B,x,2026-10-09,1000000000,1"),
        ("price", "A.B,x,2026-10-09,0.0000000001,1"),
        ("size", "A.B,x,2026-10-09,1,99999999999999999999"),
        ("size", "A.B,x,2026-10-09,1,1.5"),
        ("ts_event", "A.B,x,09/10/2026,1,1"),
        ("ts_event", "A.B,x,,1,1"),
    ] {
        let csv = format!("dataset,symbol,ts_event,price,size\nA.B,x,2026-10-09,1,1\n{row}\nA.B,x,2026-10-09,1,1\n");
        let t = trial::read(csv.as_bytes(), "own.csv");
        assert_eq!((t.rows(Trades), t.bad.len()), (2, 1), "{row}");
        assert_eq!((t.bad[0].field.as_deref(), t.bad[0].line), (Some(field), Some(3)), "{}", t.bad[0].reason);
    }
}

#[test]
fn the_official_figures_ship_with_their_sources() {
    let csv = std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/cn-nda-usage.csv")).unwrap();
    let t = trial::read(&csv, "cn-nda-usage.csv");
    assert_eq!((t.rows(TokenUsage), t.bad.len(), t.dataset.as_str()), (6, 0, "CN.NDA.USAGE"));
    let official = t.texts(TokenUsage, "series_id").iter().filter(|id| id.as_deref() == Some("cn.tokens.daily")).count();
    assert_eq!(official, 4);
    let tokens: Vec<i128> = t.decimals(TokenUsage, "tokens").into_iter().flatten().take(4).collect();
    assert_eq!(tokens, [100_000_000_000, 30_000_000_000_000, 100_000_000_000_000, 140_000_000_000_000]);
    assert_eq!(t.integers(TokenUsage, "ts_event"), t.integers(TokenUsage, "period_end"));
    let ends: Vec<i64> = t.integers(TokenUsage, "period_end").into_iter().flatten().take(4).collect();
    let days: Vec<i64> = ends.windows(2).map(|w| (w[1] - w[0]) / NS_PER_DAY).collect();
    assert_eq!(days, [546, 184, 90], "the intervals of the domain notes");
    assert!(t.texts(TokenUsage, "uri").iter().take(4).all(Option::is_some));
}

// --- the real files

#[test]
fn azure_requests() {
    let Some(data) = data() else { return };
    for (path, facts) in expected(&data, "llm-trace-csv") {
        let bytes = unpacked(&data, &path);
        let t = trial::read(&bytes, &path);
        assert_eq!((t.rows(Requests) as u64, t.bad.len(), t.dataset.as_str()), (facts["rows"].as_u64().unwrap(), 0, "AZURE.TRACE"));
        assert_eq!(t.sum(Requests, "input_tokens"), facts["context_tokens_sum"].as_i64().unwrap() as i128);
        assert_eq!(t.sum(Requests, "output_tokens"), facts["generated_tokens_sum"].as_i64().unwrap() as i128);
        let times: Vec<i64> = t.integers(Requests, "ts_event").into_iter().flatten().collect();
        let iso = |name: &str| clock::Clock::Iso.parse(facts[name].as_str().unwrap(), clock::UTC, None).unwrap();
        assert_eq!((*times.iter().min().unwrap(), *times.iter().max().unwrap()), (iso("min_timestamp"), iso("max_timestamp")));
        assert_eq!(t.header.columns.unwrap().len(), 3);
        assert_eq!((t.header.schema.as_deref(), t.header.licence.as_deref()), (Some("request"), Some("CC-BY-4.0")));
        assert_eq!(t.bytes, bytes.len() as u64);
    }
}

#[test]
fn epoch_reports_give_their_figures_and_stay_whole() {
    let Some(data) = data() else { return };
    for (path, facts) in expected(&data, "csv") {
        let bytes = unpacked(&data, &path);
        let Some(figures) = facts["daily_token_rows"].as_array() else {
            assert!(read_by(&bytes, &given(&path), 9).is_none(), "{path} has no family");
            continue;
        };
        let t = trial::read(&bytes, &path);
        assert_eq!((t.rows(TokenUsage), t.bad.len(), t.records), (figures.len(), 0, facts["rows"].as_i64().unwrap()));
        assert_eq!(t.sum(TokenUsage, "tokens"), facts["daily_tokens_sum"].as_i64().unwrap() as i128);
        for (row, figure) in figures.iter().enumerate() {
            assert_eq!(t.texts(TokenUsage, "publisher")[row].as_deref(), figure["company"].as_str());
            let series = format!("{}/{}", figure["company"].as_str().unwrap(), figure["product"].as_str().unwrap());
            assert_eq!(t.texts(TokenUsage, "series_id")[row].as_ref(), Some(&series));
            let day = clock::Clock::Iso.parse(figure["date"].as_str().unwrap(), clock::UTC, None).unwrap();
            assert_eq!(t.integers(TokenUsage, "period_start")[row], Some(day));
            assert_eq!(t.integers(TokenUsage, "ts_event")[row], Some(day + NS_PER_DAY));
        }
        assert!(t.notes.iter().any(|note| note.contains("35 records have no \"Daily tokens\"")), "{:?}", t.notes);
        use arrow::array::AsArray;
        assert_eq!(t.column(Documents, "body").as_binary::<i32>().value(0), bytes);
        let sha256 = hex::encode(t.column(Documents, "sha256").as_binary::<i32>().value(0));
        assert_eq!(Some(sha256.as_str()), facts["sha256"].as_str());
        assert_eq!(t.integers(Documents, "bytes"), [facts["bytes"].as_i64()]);
        assert_eq!(
            t.column(TokenUsage, "doc_sha256").as_binary::<i32>().value(0),
            t.column(Documents, "sha256").as_binary::<i32>().value(0)
        );
    }
}

#[test]
fn recorder_minute_bars() {
    let Some(data) = data() else { return };
    let files = expected(&data, "minute-bar-csv");
    assert_eq!(files.len(), 22);
    for (path, facts) in files {
        let t = trial::read(&unpacked(&data, &path), &path);
        assert_eq!((t.parser, t.dataset.as_str(), t.bad.len()), ("ctp-bars/1", "XSGE.CTP", 0), "{path}");
        assert_eq!(t.rows(Bars) as u64, facts["rows"].as_u64().unwrap());
        assert_eq!(t.text(Bars, "symbol").as_deref(), Some("ru1901"));
        let local = |name: &str| clock::Clock::Iso.parse(facts[name].as_str().unwrap(), clock::SHANGHAI, None).unwrap();
        assert_eq!(t.integers(Bars, "ts_event")[0], Some(local("first_begin_local")));
        assert_eq!(*t.integers(Bars, "ts_end").last().unwrap(), Some(local("last_end_local")));
        assert_eq!(t.sum(Bars, "volume"), nano(&facts["volume_sum"].to_string()));
        assert_eq!(t.sum(Bars, "turnover"), nano(facts["amount_sum"].as_str().unwrap()));
        let whole = |name: &str| nano(facts[name].to_string().trim_end_matches(".0"));
        assert_eq!(t.decimals(Bars, "high").into_iter().max().unwrap(), Some(whole("high_max")));
        assert_eq!(t.decimals(Bars, "low").into_iter().min().unwrap(), Some(whole("low_min")));
        for (column, fact) in [("close", "close_last"), ("end_volume", "end_volume_last"), ("open_interest", "end_open_interest_last")] {
            assert_eq!(*t.decimals(Bars, column).last().unwrap(), Some(whole(fact)), "{path} {column}");
        }
        let day = path.rsplit('/').next().unwrap()[..8].to_string();
        assert!(t.dates(Bars, "trade_date").iter().all(|date| date.as_ref() == Some(&day)), "{path}");
        assert_eq!((t.facts["symbol"].as_str(), t.facts["trade_date"].as_str()), ("ru1901", day.as_str()));
    }
}

#[test]
fn recorder_day_bars() {
    let Some(data) = data() else { return };
    for (path, facts) in expected(&data, "day-bar-zip") {
        let (member, bytes) = members(&data, &path).remove(0);
        assert_eq!(Some(member.as_str()), facts["member"].as_str());
        let t = trial::read(&bytes, &format!("{path}:{member}"));
        assert_eq!((t.rows(Bars) as u64, t.bad.len()), (facts["rows"].as_u64().unwrap(), 0));
        assert_eq!((t.text(Bars, "symbol").as_deref(), t.text(Bars, "schema").as_deref()), (Some("ru1901"), Some("ohlcv-1d")));
        let days = t.dates(Bars, "trade_date");
        assert_eq!((days[0].as_deref(), days.last().unwrap().as_deref()), (facts["first"].as_str(), facts["last"].as_str()));
        assert_eq!(t.nulls(Bars, "ts_event"), t.rows(Bars));
        assert_eq!(t.sum(Bars, "volume"), nano(&facts["volume_sum"].to_string()));
        assert_eq!(t.sum(Bars, "close"), nano(facts["close_sum"].as_str().unwrap()));

        // The same bytes where no folder names the contract.
        assert!(matches!(read_by(&bytes, &given("tmp/day.csv"), 9), Some(Err(e)) if e.to_string().contains("--dataset")));
        let named = Given { dataset: Some("XSGE.CTP".into()), ..given("tmp/day.csv") };
        let t = read_by(&bytes, &named, 9).unwrap().unwrap();
        assert_eq!(t.nulls(Bars, "symbol"), t.rows(Bars));
        assert!(t.notes[0].contains("symbol stays empty"), "{:?}", t.notes);
    }
}

/// Facts of one member of a Lean zip.
fn lean_member(path: &str, member: &str, bytes: &[u8], facts: &Json) -> Trial {
    let name = format!("{path}:{member}");
    let t = trial::read(bytes, &name);
    assert!(t.bad.is_empty(), "{name}: {:?}", t.bad.first());
    let (family, family_rows) = t.batches.iter().map(|(f, b)| (*f, b.num_rows())).next().unwrap();
    assert_eq!(family_rows as u64, facts["rows"].as_u64().unwrap(), "{name}");
    let market = path.split('/').nth(2).unwrap().to_uppercase();
    assert_eq!(t.dataset, format!("{market}.LEAN"));
    let stem = member.trim_end_matches(".csv");
    let parts: Vec<&str> = stem.split('_').collect();
    let root = if parts[0].starts_with("20") { parts[1] } else { parts[0] };
    let expiry = parts.last().filter(|part| part.starts_with("20"));
    let symbol = expiry.map_or(root.to_uppercase(), |expiry| format!("{} {expiry}", root.to_uppercase()));
    assert_eq!(t.text(family, "symbol"), Some(symbol), "{name}");
    let sum = |fact: &str, column: &str| {
        if let Some(sum) = facts[fact].as_str() {
            assert_eq!(t.sum(family, column), nano(sum), "{name} {column}");
        }
    };
    for (fact, column) in [("close_sum", "close"), ("bid_close_sum", "bid_close"), ("ask_close_sum", "ask_close"), ("price_sum", "price")] {
        sum(fact, column);
    }
    match family {
        Trades => {
            let sizes: Vec<i64> = t.integers(Trades, "size").into_iter().flatten().collect();
            assert_eq!(sizes.iter().sum::<i64>().to_string(), facts["volume_sum"].as_str().unwrap(), "{name}");
            assert_eq!(sizes.iter().filter(|size| **size == 0).count() as u64, facts["zero_size_rows"].as_u64().unwrap(), "{name}");
        }
        Statistics => {
            let quantities = t.decimals(Statistics, "quantity");
            assert_eq!(*quantities.last().unwrap(), Some(nano(facts["last_open_interest"].as_str().unwrap())), "{name}");
            let distinct = quantities.iter().collect::<std::collections::HashSet<_>>().len();
            assert_eq!(distinct as u64, facts["distinct_values"].as_u64().unwrap(), "{name}");
            assert!(t.small(Statistics, "stat_type").iter().all(|kind| *kind == Some(9)));
        }
        _ => sum("volume_sum", "volume"),
    }
    if let Some(empty) = facts["empty_bid_rows"].as_u64() {
        assert_eq!(t.nulls(Bars, "bid_close") as u64, empty, "{name}");
    }
    lean_times(&name, &t, family, facts, path.contains("/eurex/"));
    t
}

fn lean_times(name: &str, t: &Trial, family: schemas::Family, facts: &Json, frankfurt: bool) {
    let zone = if frankfurt { clock::Zone::named("Europe/Berlin").unwrap() } else { clock::UTC };
    for (fact, last) in [("first_time", false), ("last_time", true)] {
        let text = facts[fact].as_str().unwrap();
        let pick = |times: Vec<Option<i64>>| if last { *times.last().unwrap() } else { times[0] };
        if name.contains("/daily/") {
            let days = t.dates(family, "trade_date");
            let day = if last { days.last().unwrap() } else { &days[0] };
            assert_eq!(day.as_deref(), Some(&text[..8]), "{name}");
            assert_eq!(t.nulls(family, "ts_event"), t.rows(family));
            continue;
        }
        let expected = match t.facts.get("date") {
            Some(day) => clock::Clock::MsOfDay.parse(text, zone, Some(clock::date(day).unwrap())),
            None => clock::Clock::named("%Y%m%d %H:%M").unwrap().parse(text, zone, None),
        };
        assert_eq!(pick(t.integers(family, "ts_event")), Some(expected.unwrap()), "{name}");
    }
}

#[test]
fn lean_zips() {
    let Some(data) = data() else { return };
    let files = expected(&data, "lean-zip");
    assert_eq!(files.len(), 36);
    for (path, facts) in files {
        let mut rows = 0;
        let mut volume = 0;
        for (member, bytes) in members(&data, &path) {
            let t = lean_member(&path, &member, &bytes, &facts["members"][&member]);
            rows += t.batches.values().map(|batch| batch.num_rows()).sum::<usize>();
            volume += match t.batches.keys().next().unwrap() {
                Trades => t.integers(Trades, "size").into_iter().flatten().map(|size| i128::from(size) * 1_000_000_000).sum(),
                Bars if t.text(Bars, "kind").as_deref() == Some("trade") => t.sum(Bars, "volume"),
                _ => 0,
            };
        }
        assert_eq!(rows as u64, facts["rows"].as_u64().unwrap(), "{path}");
        if let Some(sum) = facts["volume_sum"].as_str() {
            assert_eq!(volume, nano(sum), "{path}");
        }
    }
}

#[test]
fn lean_eurex_bars_are_on_frankfurts_clock() {
    let Some(data) = data() else { return };
    let path = "quantconnect-lean/future/eurex/minute/fesx/20240603_trade.zip";
    let (member, bytes) = members(&data, path).into_iter().find(|(name, _)| name.contains("202406")).unwrap();
    let t = trial::read(&bytes, &format!("{path}:{member}"));
    let times = t.integers(Bars, "ts_event");
    let utc = |text: &str| clock::Clock::Iso.parse(text, clock::UTC, None).unwrap();
    assert_eq!((times[0], *times.last().unwrap()), (Some(utc("2024-06-03 00:15")), Some(utc("2024-06-03 20:00"))));
}

#[test]
fn lean_lists() {
    let Some(data) = data() else { return };
    let files = expected(&data, "lean-csv");
    assert_eq!(files.len(), 27);
    for (path, facts) in files {
        let bytes = unpacked(&data, &path);
        let Some(expiries) = facts["expiries"].as_array() else {
            assert!(read_by(&bytes, &given(&path), 9).is_none(), "{path} has no family");
            continue;
        };
        let t = trial::read(&bytes, &path);
        assert_eq!((t.rows(Bars), t.bad.len()), (expiries.len(), 0), "{path}");
        let root = path.split('/').nth(4).unwrap().to_uppercase();
        let symbols: Vec<Option<String>> = expiries.iter().map(|expiry| Some(format!("{root} {expiry}"))).collect();
        assert_eq!(t.texts(Bars, "symbol"), symbols);
        assert_eq!(t.sum(Bars, "volume"), nano(&facts["volume_sum"].to_string()), "{path}");
        assert_eq!(t.sum(Bars, "open_interest"), nano(&facts["open_interest_sum"].to_string()), "{path}");
        let day = path.rsplit('/').next().unwrap()[..8].to_string();
        assert!(t.dates(Bars, "trade_date").iter().all(|date| date.as_ref() == Some(&day)));
    }
}

#[test]
fn the_path_settles_what_a_headerless_file_is() {
    let t = trial::read(b"0,1,1,1,1,9\n", "future/cme/minute/es/20131007_trade/20131007_es_minute_trade_201312.csv");
    assert_eq!((t.text(Bars, "symbol").as_deref(), t.dataset.as_str()), (Some("ES 201312"), "CME.LEAN"));
    assert!(read_by(b"0,1,1,1,1,9\n", &given("equity/usa/minute/spy/20131007_trade.zip:20131007_spy_minute_trade.csv"), 9).is_none());
    assert!(read_by(b"0,1,1,1,1,9\n", &given("x.csv"), 9).is_none());
}

/// Away from its folder nobody knows whose clock a file shows; `--dataset` says nothing of it. A day has no clock.
#[test]
fn a_zone_that_the_path_does_not_say_is_asked_for() {
    let eurex = |name: &str| Given { dataset: Some("EUREX.LEAN".into()), ..given(name) };
    let bars = b"8100000,1,1,1,1,9\n";
    for name in [
        "20240603_trade.zip:20240603_fesx_minute_trade_202406.csv",
        "elsewhere/20240603_fesx_minute_trade_202406.csv",
        "future/data/20240603_fesx_minute_trade_202406.csv",
        "x/hour/fesx_trade_202406.csv",
    ] {
        let Some(Err(error)) = read_by(bars, &eurex(name), 9) else { panic!("{name} was read") };
        assert!(error.to_string().contains("does not say market") && error.to_string().contains("future/<market>/…"), "{error}");
    }
    let at_two = clock::Clock::Iso.parse("2024-06-03 00:15", clock::UTC, None).unwrap();
    for name in [
        "future/eurex/minute/fesx/20240603_trade.zip:20240603_fesx_minute_trade_202406.csv",
        "future/eurex/minute/fesx/20240603_fesx_minute_trade_202406.csv",
        "/d/future/eurex/minute/fesx/20240603_trade/20240603_fesx_minute_trade_202406.csv",
    ] {
        assert_eq!(trial::read(bars, name).integers(Bars, "ts_event"), [Some(at_two)], "{name}");
    }
    let hour = b"20240603 02:00,1,1,1,1,9\n";
    let at_midnight = clock::Clock::Iso.parse("2024-06-03", clock::UTC, None).unwrap();
    for name in ["future/eurex/hour/fesx_trade_202406.csv", "future/eurex/hour/fesx_trade/fesx_trade_202406.csv"] {
        assert_eq!(trial::read(hour, name).integers(Bars, "ts_event"), [Some(at_midnight)], "{name}");
    }
    let t = read_by(b"20240603 00:00,1,1,1,1,9\n", &eurex("daily/fesx_trade_202406.csv"), 9).unwrap().unwrap();
    assert_eq!(t.rows(Bars), 1);
}

// --- encodings and broken bytes

#[test]
fn gbk_text_is_read_and_said() {
    let csv = "dataset,series_id,stat,period_start,period_end,tokens,qualifier,note\nA.B,s,daily_average,2026-03-01,2026-04-01,140000000000000,lower_bound,超过\n";
    let gbk = encoding_rs::GBK.encode(csv).0.into_owned();
    let t = trial::read(&gbk, "u.csv");
    assert_eq!(t.text(TokenUsage, "note").as_deref(), Some("超过"));
    assert!(t.notes[0].contains("GBK"), "{:?}", t.notes);
    let mixed = [gbk, "A.B,s,daily_average,2026-03-01,2026-04-01,1,eq,词元数\n".into()].concat();
    let t = trial::read(&mixed, "u.csv");
    assert_eq!((t.rows(TokenUsage), t.bad.len(), t.bad[0].line), (1, 1, Some(3)));
}

#[test]
fn renamed_columns_are_errors() {
    let error = refused("TIMESTAMP,ContextTokens,Generated\n", "t.csv");
    assert!(error.contains("missing GeneratedTokens; extra Generated"), "{error}");
    let error = refused(
        "Index,BeginTime,BeginVolume,BeginAmount,BeginOpenInt,EndTime,EndVolume,EndAmount,EndOpenInt,Open,High,Close,Low,Vol,Amount,Avg,MktAvg\n",
        "t.csv",
    );
    assert!(error.contains("missing Volume; extra Vol"), "{error}");
}

const SEEDS: [(&str, &str); 6] = [
    ("t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:17:03.9799600,4808,10\r\n2023-11-16 18:17:04.0319569,3180,8"),
    (
        "future/cme/minute/es/20131007_quote.zip:20131007_es_minute_quote_201312.csv",
        "0,1,1,1,1,5,2,2,2,2,19\n75660000,,,,,0,2.25,2,2,2,3\n",
    ),
    ("future/comex/tick/gc/20131007_trade.zip:20131007_gc_tick_trade_201310.csv", "4933381,1313.8,1,usa,,0\n4933381,1313.8,0,usa,,0\n"),
    (
        "future/cme/universes/es/20131007.csv",
        "#expiry,open,high,low,close,volume,open_interest\n201312,1669,1671.5,1646.5,1646.5,2109007,2723644\n201412,0,0,0,0,0,\n",
    ),
    (
        "ru1901/day.zip:day.csv",
        "\"Date\",\"Open\",\"High\",\"Low\",\"Close\",\"Volume\",\"Amount\",\"BeginOpenInt\",\"EndOpenInt\",\"Subscription Price Factor\"\n\"20180116\",\"16300.00\",\"16725.00\",\"16200.00\",\"16355.00\",\"7438\",\"1227386100.00\",\"152\",\"4596\",\n",
    ),
    (
        "u.csv",
        "dataset,series_id,stat,period_start,period_end,tokens,qualifier,note\nA.B,s,daily_average,2026-03-01,2026-04-01,140000000000000,lower_bound,\"two\nlines\"\nA.B,s,daily_average,2026-03-01,2026-04-01,1e3,eq,\n",
    ),
];

proptest! {
    #[test]
    fn no_mutation_panics_or_loses_a_record(seed in 0..SEEDS.len(), cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5), end: prop::sample::Index, max in 1usize..4, growing: bool) {
        let (name, text) = SEEDS[seed];
        let mut bytes = text.as_bytes().to_vec();
        for (at, byte) in &cuts {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        bytes.truncate(end.index(bytes.len() + 1));
        let given = Given { growing, ..given(name) };
        if let Some(Ok(t)) = read_by(&bytes, &given, max) {
            let rows: usize = t.batches.iter().filter(|(family, _)| **family != Documents).map(|(_, batch)| batch.num_rows()).sum();
            prop_assert_eq!(rows + t.bad.len(), t.records as usize);
            prop_assert!(t.bytes <= bytes.len() as u64);
            prop_assert!(matches!(t.end, End::Finished | End::OpenQuote));
            for bad in &t.bad {
                prop_assert_eq!(&bytes[bad.byte as usize..][..bad.raw.len()], &bad.raw[..]);
            }
        }
    }

    #[test]
    fn no_mapping_text_panics(text in "\\PC{0,120}") {
        let _ = Mapping::parse("m.toml", &text);
        let _ = Mapping::parse("m.toml", &format!("family = \"bars\"\nfields = [\"a\"]\n[columns]\nopen = {{ text = {text:?} }}"));
    }
}
