#!/usr/bin/env bash
# Removes the build, and from the state directory everything that the scripts put there.
set -euo pipefail
# shellcheck source=scripts/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$MANA_SYNC_ROOT"
cargo clean
cd "$MANA_SYNC_STATE"
rm -rf pg1[0-9] pg1[0-9].new pg1[0-9].old pg1[0-9]-benches pgbouncer pgbouncer.new pgrx cargo cargo-target log results ./*.log ./*.lock lock default-pg
cd /
rmdir "$MANA_SYNC_STATE" 2>/dev/null || true
