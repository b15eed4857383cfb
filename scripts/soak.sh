#!/usr/bin/env bash
# Kills ingest, store and upkeep ROUNDS times, at random moments and at named points, on the embedded log and on a Kafka started for it, and
# counts what is lost and what is doubled. The seed is printed; TAPE_SEED replays it.
set -euo pipefail
export TAPE_SOAK_ROUNDS="${1:-500}"
exec "$(dirname "$0")/with-kafka.sh" cargo test --workspace --locked --test cli soak -- --ignored --nocapture
