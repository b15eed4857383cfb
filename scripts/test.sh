#!/usr/bin/env bash
# Runs every test of the workspace beside one real Kafka broker, and the tests of other tools behind them.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${TAPE_DATA:-}" ] && [ -d ../shared/data ]; then
    TAPE_DATA="$(cd ../shared/data && pwd)"
    export TAPE_DATA
fi
[ -n "${TAPE_DATA:-}" ] || echo "note: no real files here (TAPE_DATA or ../shared/data): the tests over them are skipped"
scripts/with-kafka.sh cargo test --workspace --locked --no-fail-fast
scripts/interop.sh
