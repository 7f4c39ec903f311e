#!/usr/bin/env bash
# Measures a release build beside the store that it replaces and beside plain PostgreSQL, on private
# servers; see bench/. ROUNDS=n sets the number of rounds, ROWS=n the size of the largest log; arguments
# (single, push, pull, growth, disk, records, wakeups, memory) choose what is measured. `pages` writes the
# README's table and docs/benchmarks.md from the results of the last run. `in-process` measures the hot Rust
# code in a backend (src/benches.rs) instead, and compares with the last time; arguments behind it are parts of
# names.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
"$here/setup.sh"
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cd "$MANA_SYNC_ROOT"
if [ "${1:-}" = pages ]; then exec cargo run -q --release -p mana_sync_bench -- pages; fi
if [ "${1:-}" = in-process ]; then
    # Into a copy of the server of its own: no other script finds benchmarks in the extension.
    copy=$MANA_SYNC_STATE/pg$PG
    rm -rf "$copy-benches"
    cp -a "$copy" "$copy-benches"
    MANA_SYNC_PG_BIN=$copy-benches${MANA_SYNC_PG_BIN#"$copy"}
    say 'Building mana_sync with its benchmarks (the first time takes 2 to 4 minutes)'
    log=$MANA_SYNC_STATE/install-benches.log
    cargo pgrx install --package mana_sync --pg-config "$MANA_SYNC_PG_BIN/pg_config" --no-default-features \
        --features "pg$PG pg_bench" --release >"$log" || {
        cat "$log" >&2
        die 'the extension does not build'
    }
    say 'Measuring (10 seconds each)'
    exec cargo run -q --release -p mana_sync_bench -- "$@"
fi
PROFILE=release "$here/install.sh"
say 'Measuring (20 minutes with ROUNDS=5)'
cargo run -q --release -p mana_sync_bench -- "$@"
