# tokentape: the commands of the README. Everything that is built or fetched lies in $(CACHE), outside the clone.
SHELL := /bin/bash
.DEFAULT_GOAL := help
CACHE ?= $(or $(TAPE_CACHE),$(HOME)/.cache/tokentape)
export TAPE_CACHE := $(CACHE)
export CARGO_TARGET_DIR ?= $(CACHE)/target
export PATH := $(PATH):$(HOME)/.cargo/bin
# The home of `make up`, and what else it is told: make up ONCE=1, make up LISTEN=127.0.0.1:9000
TAPE_HOME ?= $(CURDIR)/tape-home
LISTEN ?= 127.0.0.1:8642
ONCE ?=
RUNS ?=
# Seconds that `make fuzz` gives each parser.
SECONDS_EACH ?= 60
# Length of `make seam` on each log.
SECONDS_LONG ?= 600
# Deaths of `make soak`.
ROUNDS ?= 500

.PHONY: help setup setup-test check test up bench fuzz soak seam sim

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup:
	@scripts/setup.sh build

setup-test:
	@scripts/setup.sh test

check: setup ## format, lints and documentation, as CI holds them
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet

test: setup-test check ## all tests, with a real Kafka started for them
	scripts/test.sh

up: setup ## run everything on this machine with sample feeds; ONCE=1 exits after the answers
	cargo build --locked --workspace
	@exec $(CARGO_TARGET_DIR)/debug/tape up --home "$(TAPE_HOME)" --listen "$(LISTEN)" $(if $(ONCE),--once)

bench: setup-test ## measure against yardsticks in the same run (release build, about half an hour cold)
	bench/run.sh

fuzz: setup ## mutate inputs of every parser, SECONDS_EACH=60 each
	TAPE_FUZZ_SECONDS=$(SECONDS_EACH) cargo test --locked --package ingest --test mutations -- --nocapture

soak: setup-test ## kill ingest, store and upkeep ROUNDS=500 times on both logs, count what is lost or doubled (half an hour)
	scripts/soak.sh $(ROUNDS)

seam: setup-test ## ask without pause while ingest, store, upkeep and the asked service go on and die: SECONDS_LONG=600 each log
	scripts/seam.sh $(SECONDS_LONG)

sim: setup ## RUNS=1000000 simulated histories of sources, log, stores and tables; TAPE_SEED replays one
	cargo build --locked --workspace --bin sim
	$(CARGO_TARGET_DIR)/debug/sim $(or $(RUNS),1000000)
