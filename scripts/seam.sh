#!/usr/bin/env bash
# Asks a query service without pause for SECONDS on each log, while ingest, store, upkeep and the service itself go on and die, and compares every
# answer with what was published. The seed is printed; TAPE_SEED replays it.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds="${1:-600}"

broker="$(mktemp -d)"
stop() {
    scripts/kafka.sh stop "$broker" || true
    rm -rf "$broker"
}
trap stop EXIT

eval "$(scripts/kafka.sh start "$broker" | grep '^BROKERS=')"
export TAPE_TEST_KAFKA="$BROKERS" TAPE_REQUIRE_KAFKA=1 TAPE_SEAM_SECONDS="$seconds"
cargo test --workspace --locked --test cli seam -- --nocapture
