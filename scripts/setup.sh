#!/usr/bin/env bash
# Makes sure that what building (and, with `test`, testing) needs is there: installs what is missing where root or sudo allows, else names
# the command to type. Usage: setup.sh build|test
set -euo pipefail

RUST_MIN="1.95"
PURPOSE="${1:?build or test}"

missing=()
need() { # command, package
    command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}
need cc gcc
need c++ g++
need make make
need perl perl
need pkg-config pkg-config
if ! command -v cargo >/dev/null 2>&1; then need curl curl; fi
if [ "$PURPOSE" = test ]; then
    need java openjdk-17-jre-headless
    need mvn maven
    need python3 python3
    # For scripts/interop.sh; Debian ships Python without it.
    python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
fi

if [ "${#missing[@]}" -gt 0 ]; then
    install="apt-get install -y --no-install-recommends ca-certificates ${missing[*]}"
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "setup: missing: ${missing[*]}; install them with this system's package manager, then run make again" >&2
        exit 1
    elif [ "$(id -u)" = 0 ]; then
        echo "setup: installing ${missing[*]}"
        apt-get update -q && DEBIAN_FRONTEND=noninteractive $install
    elif sudo -n true 2>/dev/null; then
        echo "setup: installing ${missing[*]} with sudo"
        sudo apt-get update -q && sudo DEBIAN_FRONTEND=noninteractive $install
    else
        echo "setup: missing: ${missing[*]}. Type: sudo apt-get update && sudo $install" >&2
        exit 1
    fi
fi

# True when the first version is at least the second.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }
rust_version() { cargo --version 2>/dev/null | cut -d' ' -f2; }

if ! command -v cargo >/dev/null 2>&1 || ! at_least "$(rust_version)" "$RUST_MIN"; then
    echo "setup: cargo $RUST_MIN or later is needed$(command -v cargo >/dev/null 2>&1 && echo ", this is $(rust_version)"): installing the stable toolchain with rustup into ~/.cargo"
    if command -v rustup >/dev/null 2>&1; then
        rustup toolchain install stable --profile default
        rustup default stable
    else
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile default --no-modify-path
    fi
    hash -r
    if ! at_least "$(PATH="$HOME/.cargo/bin:$PATH" rust_version)" "$RUST_MIN"; then
        echo "setup: cargo is still older than $RUST_MIN: see https://rustup.rs, then run make again" >&2
        exit 1
    fi
fi
