#!/usr/bin/env bash
# rustfmt and clippy; a warning is an error.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
"$here/setup.sh"
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cd "$MANA_SYNC_ROOT"

say 'rustfmt'
cargo fmt --all -- --check
say "clippy, for PostgreSQL $PG"
cargo clippy --workspace --no-default-features --features "mana_sync/pg$PG" -- -D warnings
# Once more with the tests, those that run in the server included, and with the benchmarks that do.
cargo clippy --workspace --all-targets --no-default-features \
    --features "mana_sync/pg$PG mana_sync/pg_test mana_sync/pg_bench" -- -D warnings
if command -v shellcheck >/dev/null; then
    say 'shellcheck'
    shellcheck -x scripts/*.sh .ci/run
fi
