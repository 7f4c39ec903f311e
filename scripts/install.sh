#!/usr/bin/env bash
# Builds the extension and installs it into the private copy of the server.
# PROFILE=release for an optimised build.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
"$here/setup.sh"
# shellcheck source=scripts/env.sh
. "$here/env.sh"

cd "$MANA_SYNC_ROOT"
say "Building mana_sync for PostgreSQL $PG (the first time takes 2 to 4 minutes)"
profile=()
if [ "${PROFILE:-debug}" = release ]; then profile=(--release); fi
log=$MANA_SYNC_STATE/install.log
cargo pgrx install --package mana_sync --pg-config "$PG_CONFIG" --no-default-features --features "pg$PG" "${profile[@]}" >"$log" || {
    cat "$log" >&2
    die 'the extension does not build'
}
