#!/usr/bin/env bash
# Builds for release and installs into the PostgreSQL that PG_CONFIG names, or PG, or else the first
# pg_config in PATH: for those who want to use the extension, not to work on it.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
if [ -z "${PG_CONFIG:-}${PG:-}" ] && command -v pg_config >/dev/null; then
    export PG_CONFIG=pg_config
fi
"$here/setup.sh"
# shellcheck source=scripts/env.sh
. "$here/env.sh"
cd "$MANA_SYNC_ROOT"

# The environment names the private copy; this is about the installation that it is a copy of.
target=$MANA_SYNC_SOURCE
sudo=()
if [ ! -w "$("$target" --pkglibdir)" ] || [ ! -w "$("$target" --sharedir)/extension" ]; then sudo=(--sudo); fi
say "Building mana_sync for release, installing it into the PostgreSQL $PG of $target"
cargo pgrx install --package mana_sync --release --pg-config "$target" --no-default-features --features "pg$PG" "${sudo[@]}"
note 'Then, in a database, as a superuser: CREATE EXTENSION mana_sync;'
