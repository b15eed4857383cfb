#!/usr/bin/env bash
# Proves that what others use reads us right: DuckDB and Polars the Delta tables, a stock Avro consumer a topic through our schema routes.
#
# TAPE names the binary (default: the development build, built when absent), TAPE_DATA a folder of real files, TAPE_CACHE where the Python
# environments are kept. The last line is "N passed, 0 failed"; TAPE_SKIP_INTEROP=1 skips all of it and says so.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "${TAPE_SKIP_INTEROP:-}" ]; then
    echo "skipped: scripts/interop.sh, because TAPE_SKIP_INTEROP is set"
    exit 0
fi
# Where cargo was told nothing else, its own word decides where the binary lies.
if [ -z "${TAPE:-}" ]; then
    cargo build --locked --workspace
    target=$(cargo metadata --locked --no-deps --format-version 1 | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
    TAPE="$target/debug/tape"
fi
if [ -z "${TAPE_DATA:-}" ] && [ -d ../shared/data ]; then
    TAPE_DATA="$(cd ../shared/data && pwd)"
fi
export TAPE_DATA="${TAPE_DATA:-}"

python=$(scripts/python.sh venv-interop tests/interop/requirements.txt)
delta=$(scripts/python.sh venv-interop-delta tests/interop/requirements-delta.txt)

scripts/with-kafka.sh "$python" -B tests/interop/run.py "$TAPE" "$delta"
