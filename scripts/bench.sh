#!/usr/bin/env bash
# Measures a release build beside the store that it replaces and beside plain PostgreSQL, on private
# servers; see bench/. ROUNDS=n sets the number of rounds; arguments (push, wakeups, records, memory)
# choose what is measured.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
"$here/setup.sh"
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cd "$MANA_SYNC_ROOT"
PROFILE=release "$here/install.sh"
say 'Measuring (about four minutes)'
cargo run -q --release -p mana_sync_bench -- "$@"
