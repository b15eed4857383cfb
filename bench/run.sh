#!/usr/bin/env bash
# Builds the release binaries, starts one Kafka broker, measures, and ends the broker.
#
#   bench/run.sh [--quick] [--json] [--only parse,publish,store,whole,verify,replay,size,memory,upkeep,proof,queries,history,freshness,layout] [--runs N] [--days DIR] [--question PART]
#
# --days keeps the days that queries are asked of in a folder, and takes those that lie there.
# DuckDB and Polars, beside which queries are measured, are those that the tests use; TAPE_BENCH_PYTHON names another Python that has them.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${TAPE_CACHE:-$HOME/.cache/tokentape}/target}"
cargo build --release --workspace --locked >&2

place="$(mktemp -d)"
stop() {
    scripts/kafka.sh stop "$place/kafka" >&2 || true
    rm -rf "$place"
}
trap stop EXIT

python="${TAPE_BENCH_PYTHON:-$(scripts/python.sh venv-interop tests/interop/requirements.txt)}"
eval "$(scripts/kafka.sh start "$place/kafka" | grep '^BROKERS=')"
"$CARGO_TARGET_DIR/release/bench" --brokers "$BROKERS" --python "$python" --dir "$place" "$@"
