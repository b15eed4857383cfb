#!/usr/bin/env bash
# Asks a query service without pause for SECONDS on each log, while ingest, store, upkeep and the service itself go on and die, and compares every
# answer with what was published. The seed is printed; TAPE_SEED replays it.
set -euo pipefail
export TAPE_SEAM_SECONDS="${1:-600}"
exec "$(dirname "$0")/with-kafka.sh" cargo test --workspace --locked --test cli seam -- --nocapture
