#!/usr/bin/env bash
# Measures a release build beside the store that it replaces and beside plain PostgreSQL, on private
# servers; see bench/. ROUNDS=n sets the number of rounds, ROWS=n the size of the largest log; arguments
# (single, push, pull, growth, disk, records, wakeups, memory) choose what is measured. `pages` writes the
# README's table and docs/benchmarks.md from the results of the last run.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
"$here/setup.sh"
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cd "$MANA_SYNC_ROOT"
if [ "${1:-}" = pages ]; then exec cargo run -q --release -p mana_sync_bench -- pages; fi
PROFILE=release "$here/install.sh"
say 'Measuring (a quarter of an hour with ROUNDS=3)'
cargo run -q --release -p mana_sync_bench -- "$@"
