"""Runs the checks of scripts/interop.sh: python run.py BINARY PYTHON_WITH_DELTA, with the broker TAPE_TEST_KAFKA"""

import decimal
import os
import sys
import tempfile
import time

import consumer
import readers
import tables
from results import Results
from tape import Tape

# Real files, a handful of every kind; under TAPE_DATA.
REAL_FILES = [
    "shfe-ctp-ticks/ru1901/20181008.tick-ctp.csv.gz",
    "shfe-ctp-ticks/ru1901/day.zip",
    "shfe-ctp-ticks/ru1901/min1/20181008.min1.csv.gz",
    "shfe-ctp-ticks/AP101/20200807.tick-ctp.csv.gz",
    "nautilus-databento/esh4-glbx-mdp3-20231224.mbo.dbn.zst",
    "nautilus-databento/futures_settlement",
    "databento-python/GLBX.MDP3",
    "databento-python/XNAS.ITCH/test_data.imbalance.dbn.zst",
    "azure-llm-trace/AzureLLMInferenceTrace_code.csv",
    "mooncake-trace/conversation_trace.jsonl.gz",
    "openai-usage/usage_completions_buckets_01-18.json",
    "tokencost-prices/2024-01-30.model_prices.json.gz",
    "tokencost-prices/2024-03-25.model_prices.json.gz",
    "epoch-ai/ai_companies_usage_reports.csv",
    "quantconnect-lean/future/comex/tick/gc/20131007_trade.zip",
    "quantconnect-lean/future/comex/minute/gc/20131007_quote.zip",
    "quantconnect-lean/future/cme/daily/es_openinterest.zip",
    "quantconnect-lean/future/cme/daily/es_trade.zip",
]
# Beside the samples: text that is not ASCII, day bars (they have no date), a row that cannot be read, and a page that no table has a family for.
ODD_FILES = {
    "trace.jsonl": '{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}\n'
    '{"timestamp": 3000, "input_length": 7322, "output_length": 490, "hash_ids": [0]}\n'
    '{"timestamp": "half past", "input_length": 1, "output_length": 1, "hash_ids": []}\n',
    "tk2612.day.csv": '"Date","Open","High","Low","Close","Volume","Amount","BeginOpenInt","EndOpenInt","Subscription Price Factor"\n'
    '"20261009","11.935","12.005","11.900","11.985","7438","89012345.67","152","4596",\n'
    '"20261012","11.985","11.990","-1","11.935","3622","43210987.65","4596","6644",\n',
    "词元 – notes.html": "<html><body>日均词元调用量 140 万亿 · “naïve” 🂡</body></html>\n",
}
# A file that was read with something to tell ends `ingest` with 1; both are stored.
INGESTED = (0, 1)


def main(binary, delta_python, brokers):
    began = time.monotonic()
    results = Results()
    with tempfile.TemporaryDirectory(prefix="tape-interop-") as folder:
        tape = sample_home(binary, os.path.join(folder, "samples"))
        others = [readers.DuckDbFiles(), readers.DuckDbDelta(delta_python), readers.Polars()]
        rows, filled, undated = tables.compare(tape, "samples", others, results)
        results.settle(f"samples: {rows} rows in {len(filled)} tables; without a date: {undated}", [] if undated else ["no rows without a date"])
        real_files(binary, folder, others, results)
        consumer.check(binary, tape, brokers, folder, results)
    print(f"interop: {time.monotonic() - began:.0f} s")
    print(results.last_line())
    return 1 if results.failed_count else 0


def sample_home(binary, home):
    tape = Tape(binary, home)
    tape.run("up", "--once", "--listen", "127.0.0.1:0")
    odd = os.path.join(home, "odd")
    os.mkdir(odd)
    for name, text in ODD_FILES.items():
        with open(os.path.join(odd, name), "w", encoding="utf-8") as file:
            file.write(text)
    tape.run("ingest", odd, "--dataset", "SYN.ODD", codes=INGESTED)
    tape.run("store", "--once", codes=INGESTED)
    return tape


def real_files(binary, folder, others, results):
    data = os.environ.get("TAPE_DATA")
    if not data:
        print("skipped: real files (neither TAPE_DATA nor ../shared/data is there)")
        return
    tape = Tape(binary, os.path.join(folder, "real"))
    tape.run("ingest", *(os.path.join(data, name) for name in REAL_FILES), codes=INGESTED)
    tape.run("store", "--once", codes=INGESTED)
    rows, filled, undated = tables.compare(tape, "real files", others, results)
    results.settle(f"real files: {rows} rows in {len(filled)} tables; without a date: {undated}", [] if undated else ["no rows without a date"])


if __name__ == "__main__":
    decimal.getcontext().prec = 60
    sys.exit(main(sys.argv[1], sys.argv[2], os.environ["TAPE_TEST_KAFKA"]))
