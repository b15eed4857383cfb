#!/usr/bin/env bash
# Runs every test of the workspace against one real Kafka broker that is started for it and stopped behind it.
set -euo pipefail
cd "$(dirname "$0")/.."

broker="$(mktemp -d)"
stop() {
    scripts/kafka.sh stop "$broker" || true
    rm -rf "$broker"
}
trap stop EXIT

eval "$(scripts/kafka.sh start "$broker" | grep '^BROKERS=')"
export TAPE_TEST_KAFKA="$BROKERS" TAPE_REQUIRE_KAFKA=1
if [ -z "${TAPE_DATA:-}" ] && [ -d ../shared/data ]; then
    TAPE_DATA="$(cd ../shared/data && pwd)"
    export TAPE_DATA
fi
[ -n "${TAPE_DATA:-}" ] || echo "note: no real files here (TAPE_DATA or ../shared/data): the tests over them are skipped"
cargo test --workspace --locked --no-fail-fast
scripts/interop.sh
