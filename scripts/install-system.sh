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
package=$MANA_SYNC_ROOT/target/package/pg$PG
say "Building mana_sync for release, for the PostgreSQL $PG of $target"
rm -rf "$package"
cargo pgrx package --package mana_sync --pg-config "$target" --out-dir "$package" --no-default-features --features "pg$PG"

say 'Installing'
as_root=()
if [ ! -w "$("$target" --pkglibdir)" ] || [ ! -w "$("$target" --sharedir)/extension" ]; then as_root=(sudo); fi
# install(1) puts a new file in the place of the old one, which servers that run go on using.
find "$package" -type f -printf '/%P\n' | while read -r file; do
    mode=644
    case $file in *.so) mode=755 ;; esac
    note "$file"
    "${as_root[@]}" install -D -m "$mode" "$package$file" "$file" </dev/null
done
note 'Then, in a database, as a superuser: CREATE EXTENSION mana_sync;'
