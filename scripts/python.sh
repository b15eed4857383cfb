#!/usr/bin/env bash
# A Python environment with exactly what a requirements file says, made anew when the file changes. Prints its python.
#
#   scripts/python.sh NAME REQUIREMENTS
set -euo pipefail
cd "$(dirname "$0")/.."

folder="${TAPE_CACHE:-$HOME/.cache/tokentape}/$1"
wanted=$(sha256sum <"$2")
if [ "$(cat "$folder/made-from" 2>/dev/null)" != "$wanted" ]; then
    echo "python.sh: installing $2 into $folder" >&2
    mkdir -p "$(dirname "$folder")"
    if ! python3 -m venv --clear "$folder" >&2; then
        echo "python.sh: python3 cannot make an environment: apt install python3-venv" >&2
        exit 3
    fi
    if ! "$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$2" >&2; then
        echo "python.sh: pip could not install $2: check the network or the mirror (PIP_INDEX_URL)," \
            "then run this again; TAPE_SKIP_INTEROP=1 leaves these checks out" >&2
        exit 3
    fi
    echo "$wanted" >"$folder/made-from"
fi
echo "$folder/bin/python"
