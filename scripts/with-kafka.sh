#!/usr/bin/env bash
# Runs a command beside a Kafka broker that is started for it and stopped behind it: TAPE_TEST_KAFKA says where it is.
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
"$@"
