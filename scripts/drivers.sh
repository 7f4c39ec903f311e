#!/usr/bin/env bash
# Installs the drivers that docs/drivers.md has programs for, for their test: into the state directory, once for each
# list of versions. Where one cannot be had, its test says that it was skipped. Prints what tests/servers/tests/drivers.rs reads:
#
#   MANA_SYNC_PYTHON         a Python with psycopg and asyncpg, or nothing
#   MANA_SYNC_NODE_MODULES   a directory with pg and postgres, or nothing
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
lists=$MANA_SYNC_ROOT/tests/servers/drivers

# install NAME FILE… COMMAND: runs a function with a new directory, unless it was tried with these files before.
install() {
    local name=$1 command=$2 dir=$MANA_SYNC_STATE/drivers/$1 sum
    shift 2
    sum=$(cat "$@" | cksum)
    if [ "$(cat "$dir/sum" 2>/dev/null)" = "$sum" ]; then return; fi
    say "Installing drivers for $name (tests/servers/drivers)"
    rm -rf "$dir"
    mkdir -p "$dir"
    if ! "$command" "$dir" >"$MANA_SYNC_STATE/drivers-$name.log" 2>&1; then
        note "they cannot be had, and their tests will be skipped; see $MANA_SYNC_STATE/drivers-$name.log"
        rm -rf "${dir:?}"/*
    fi
    echo "$sum" >"$dir/sum"
}

python_drivers() {
    python3 -m venv "$1/venv" && "$1/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$lists/requirements.txt"
}

node_drivers() {
    node --version && cp "$lists/package.json" "$lists/package-lock.json" "$1/" &&
        (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
}

install python python_drivers "$lists/requirements.txt"
install node node_drivers "$lists/package.json" "$lists/package-lock.json"
path() { if [ -e "$1" ]; then echo "$1"; fi; }
echo "export MANA_SYNC_PYTHON=$(path "$MANA_SYNC_STATE/drivers/python/venv/bin/python")"
echo "export MANA_SYNC_NODE_MODULES=$(path "$MANA_SYNC_STATE/drivers/node/node_modules")"
