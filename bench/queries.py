"""The queries of bench/src/queries.rs as DuckDB and Polars answer them, timed: one JSON object on standard output.

    queries.py SETTING.json     {"runs", "ms", "threads", "day", "symbol", "from_ns", "to_ns", "part", "files": {"plain"|"ours": {"trades": [...], "quotes": [...]}}}

"plain" files have a column ts_event of type TIMESTAMP(ns); in "ours" it is the Int64 of nanoseconds that Delta knows. Each query runs once
unmeasured, then `runs` times and for `ms` in all; what is timed is the whole answer as an Arrow table. Only those are asked that have `part` in their name.
"""

import datetime
import json
import statistics
import sys
import time

import duckdb
import polars as pl

setting = json.load(open(sys.argv[1]))
day, symbol = setting["day"], setting["symbol"]
MINUTE = 60_000_000_000


def timed(answer):
    rows = answer()
    times = []
    while len(times) < setting["runs"] or sum(times) < setting["ms"]:
        began = time.perf_counter_ns()
        answer()
        times.append((time.perf_counter_ns() - began) / 1e6)
    return {"rows": rows, "ms": statistics.median(times), "all": times}


def duck(files):
    con = duckdb.connect()
    con.execute(f"SET threads = {setting['threads']}")
    con.execute("SET parquet_metadata_cache = true")
    trades, quotes = (f"read_parquet({files[name]!r}, hive_partitioning = true)" for name in ("trades", "quotes"))
    ns = "ts_event" if setting["kind"] == "ours" else "epoch_ns(ts_event)"
    at = (lambda t: str(t)) if setting["kind"] == "ours" else (lambda t: f"make_timestamp_ns({t})")
    queries = {
        "one symbol, one day": f"SELECT count(*), sum(size), min(price), max(price) FROM {trades} WHERE symbol = '{symbol}' AND date = DATE '{day}'",
        "one symbol, whole history": f"SELECT sum(price * size) / sum(size) FROM {trades} WHERE symbol = '{symbol}'",
        "VWAP per symbol": f"SELECT symbol, sum(price * size) / sum(size), count(*) FROM {trades} GROUP BY symbol",
        "minute bars, one day": f"SELECT symbol, {ns} // {MINUTE} AS m, arg_min(price, ts_event), max(price), min(price), arg_max(price, ts_event), sum(size)"
        f" FROM {trades} WHERE date = DATE '{day}' GROUP BY symbol, m",
        "last trade per symbol": f"SELECT symbol, max(ts_event), arg_max(price, ts_event) FROM {trades} GROUP BY symbol",
        "latest 10 trades": f"SELECT symbol, ts_event, price, size FROM {trades} ORDER BY ts_event DESC LIMIT 10",
        "one hour by time": f"SELECT symbol, ts_event, price, size FROM {trades}"
        f" WHERE date = DATE '{day}' AND ts_event >= {at(setting['from_ns'])} AND ts_event < {at(setting['to_ns'])} ORDER BY ts_event",
        "high bid and spread per day": f"SELECT date, symbol, max(bid_px_00), avg(ask_px_00 - bid_px_00) FROM {quotes} GROUP BY date, symbol",
    }
    return {name: timed(lambda sql=sql: con.execute(sql).to_arrow_table().num_rows) for name, sql in queries.items() if setting["part"] in name}


def polars(files):
    scan = lambda name: pl.scan_parquet(files[name], hive_partitioning=True, try_parse_hive_dates=True)
    trades, quotes = scan("trades"), scan("quotes")
    date = pl.lit(datetime.date.fromisoformat(day))
    ours = setting["kind"] == "ours"
    at = (lambda t: pl.lit(t, dtype=pl.Int64)) if ours else (lambda t: pl.lit(t, dtype=pl.Int64).cast(pl.Datetime("ns")))
    ns = pl.col("ts_event") if ours else pl.col("ts_event").cast(pl.Int64)
    price, size, ts = pl.col("price"), pl.col("size"), pl.col("ts_event")
    vwap = (price * size.cast(pl.Decimal(38, 0))).sum() / size.sum().cast(pl.Decimal(38, 0))
    of_day = trades.filter(pl.col("date") == date)
    few = [pl.col("symbol"), ts, price, size]
    queries = {
        "one symbol, one day": of_day.filter(pl.col("symbol") == symbol).select(pl.len(), size.sum(), price.min().alias("low"), price.max().alias("high")),
        "one symbol, whole history": trades.filter(pl.col("symbol") == symbol).select(vwap),
        "VWAP per symbol": trades.group_by("symbol").agg(vwap, pl.len()),
        "minute bars, one day": of_day.group_by("symbol", (ns // MINUTE).alias("m")).agg(
            price.sort_by(ts).first().alias("open"), price.max().alias("high"), price.min().alias("low"), price.sort_by(ts).last().alias("close"), size.sum()
        ),
        "last trade per symbol": trades.group_by("symbol").agg(ts.max(), price.get(ts.arg_max())),
        "latest 10 trades": trades.select(few).top_k(10, by="ts_event"),
        "one hour by time": of_day.filter((ts >= at(setting["from_ns"])) & (ts < at(setting["to_ns"]))).select(few).sort("ts_event"),
        "high bid and spread per day": quotes.group_by("date", "symbol").agg(pl.col("bid_px_00").max(), (pl.col("ask_px_00") - pl.col("bid_px_00")).mean().alias("spread")),
    }
    return {name: timed(lambda query=query: query.collect().height) for name, query in queries.items() if setting["part"] in name}


answers = {}
for kind, files in setting["files"].items():
    setting["kind"] = kind
    for engine, ask in (("DuckDB " + duckdb.__version__, duck), ("Polars " + pl.__version__, polars)):
        for query, answer in ask(files).items():
            answers.setdefault(query, {})[f"{engine}, {kind} files"] = answer
json.dump(answers, sys.stdout)
