#!/usr/bin/env bash
# Kills ingest, store and upkeep ROUNDS times, at random moments and at named points, on the embedded log and on a Kafka started for it, and
# counts what is lost and what is doubled. The seed is printed; TAPE_SEED replays it.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds="${1:-500}"

broker="$(mktemp -d)"
stop() {
    scripts/kafka.sh stop "$broker" || true
    rm -rf "$broker"
}
trap stop EXIT

eval "$(scripts/kafka.sh start "$broker" | grep '^BROKERS=')"
export TAPE_TEST_KAFKA="$BROKERS" TAPE_REQUIRE_KAFKA=1 TAPE_SOAK_ROUNDS="$rounds"
cargo test --workspace --locked --test cli soak -- --ignored --nocapture
