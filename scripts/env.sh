# shellcheck shell=bash
# Sourced by the other scripts, and by anyone who wants cargo to build against the same server:
#
#   . scripts/env.sh
#
# Sets and exports
#   PG                the major version (15 unless PG or PG_CONFIG says otherwise, see choose_pg)
#   PG_CONFIG         pg_config of the private copy of that server, see scripts/setup.sh
#   MANA_SYNC_PG_BIN  its programs
#   MANA_SYNC_STATE   where everything is kept that is not the checkout's: copies, logs, pgrx's files
#   MANA_SYNC_RUN_AS  the user that servers run as, or nothing: whoever calls (root may not)
#   MANA_SYNC_PGBOUNCER  PgBouncer for one test, or nothing where there is none
#   PGRX_HOME         pgrx's own directory, so that ~/.pgrx is left alone
# and nothing else happens: it installs nothing and writes only the state directory itself.

MANA_SYNC_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
export MANA_SYNC_ROOT
export MANA_SYNC_STATE=${MANA_SYNC_STATE:-/var/tmp/mana_sync-$(id -u)}
export PGRX_HOME=$MANA_SYNC_STATE/pgrx
export MANA_SYNC_PGRX_VERSION=0.18.1

say() {
    if [ -t 2 ]; then printf '\n\033[1m==> %s\033[0m\n' "$*" >&2; else printf '\n==> %s\n' "$*" >&2; fi
}
note() { printf '    %s\n' "$*" >&2; }
die() {
    printf '\nmana_sync: %s\n' "$*" >&2
    exit 1
}

# The caller's choice of server would be inherited by every client that the scripts start.
unset PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGPASSWORD PGPASSFILE PGSERVICE PGSERVICEFILE \
    PGOPTIONS PGAPPNAME PGSSLMODE PGCLIENTENCODING PGDATA PGDATESTYLE PGTZ PSQLRC

if [ -L "$MANA_SYNC_STATE" ] || { [ -e "$MANA_SYNC_STATE" ] && [ ! -O "$MANA_SYNC_STATE" ]; }; then
    die "$MANA_SYNC_STATE belongs to somebody else; set MANA_SYNC_STATE to a directory of your own"
fi
# Servers run as another user when root calls, and must be able to read what is built.
umask 022
mkdir -p "$MANA_SYNC_STATE" || die "cannot create $MANA_SYNC_STATE"

# A cargo-pgrx that setup.sh installed because the user's own is another version.
case :$PATH: in
    *":$MANA_SYNC_STATE/cargo/bin:"*) ;;
    *) export PATH=$MANA_SYNC_STATE/cargo/bin:$PATH ;;
esac
# rustup's own place, for shells that were not told about it.
if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
    export PATH=$HOME/.cargo/bin:$PATH
fi

# ---- which server ----------------------------------------------------------------------------------

# A complete server with its development files, as far as a pg_config tells.
is_server() {
    [ -x "$1" ] && [ -x "$("$1" --bindir)/postgres" ] && [ -e "$("$1" --includedir-server)/postgres.h" ] &&
        [ -e "$("$1" --pgxs)" ]
}

major_of() { "$1" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/'; }

# The one among the server's programs: the one in PATH may be a wrapper, of one version today and of
# another tomorrow.
own_pg_config() {
    if [ -x "$("$1" --bindir)/pg_config" ]; then echo "$("$1" --bindir)/pg_config"; else echo "$1"; fi
}

# The pg_config of an installed major version: one that was named before, or Debian's.
installed_pg_config() {
    local remembered=$MANA_SYNC_STATE/pg$1/source
    if [ -s "$remembered" ] && is_server "$(cat "$remembered")"; then
        cat "$remembered"
    elif is_server "/usr/lib/postgresql/$1/bin/pg_config"; then
        echo "/usr/lib/postgresql/$1/bin/pg_config"
    elif command -v pg_config >/dev/null && [ "$(major_of pg_config)" = "$1" ] && is_server "$(command -v pg_config)"; then
        own_pg_config "$(command -v pg_config)"
    fi
}

# PG_CONFIG, when the caller gives it, names a server and with it the version.
if [ -n "${PG_CONFIG:-}" ] && [[ $PG_CONFIG != "$MANA_SYNC_STATE"/* ]]; then
    MANA_SYNC_SOURCE=$(command -v "$PG_CONFIG") || die "PG_CONFIG=$PG_CONFIG is not a program"
    is_server "$MANA_SYNC_SOURCE" || die "$MANA_SYNC_SOURCE does not belong to a server with its development files"
    if [ -n "${PG:-}" ] && [ "$PG" != "$(major_of "$MANA_SYNC_SOURCE")" ]; then
        die "PG=$PG, but $MANA_SYNC_SOURCE is version $(major_of "$MANA_SYNC_SOURCE")"
    fi
    MANA_SYNC_SOURCE=$(own_pg_config "$MANA_SYNC_SOURCE")
    PG=$(major_of "$MANA_SYNC_SOURCE")
else
    # 15, or what setup.sh chose where there is no 15, or the newest that is installed.
    if [ -z "${PG:-}" ] && [ -n "$(installed_pg_config 15)" ]; then
        PG=15
    elif [ -z "${PG:-}" ] && [ -s "$MANA_SYNC_STATE/default-pg" ]; then
        PG=$(cat "$MANA_SYNC_STATE/default-pg")
    fi
    PG=${PG:-}
    MANA_SYNC_SOURCE=${PG:+$(installed_pg_config "$PG")}
fi
case $PG in
    '' | 13 | 14 | 15 | 16 | 17 | 18) ;;
    *) die "PG=$PG: PostgreSQL 13 to 18 are supported" ;;
esac
export PG MANA_SYNC_SOURCE

# The private copy has the source's absolute paths below it, so that the programs find their files
# by the same relative paths.
if [ -n "$MANA_SYNC_SOURCE" ]; then
    MANA_SYNC_PG_BIN=$MANA_SYNC_STATE/pg$PG/root$("$MANA_SYNC_SOURCE" --bindir)
    PG_CONFIG=$MANA_SYNC_PG_BIN/pg_config
    export MANA_SYNC_PG_BIN PG_CONFIG
else
    unset MANA_SYNC_PG_BIN PG_CONFIG
fi

# One that is installed, or else the one that setup.sh unpacked.
MANA_SYNC_PGBOUNCER=$(command -v pgbouncer || true)
if [ -z "$MANA_SYNC_PGBOUNCER" ] && [ -x "$MANA_SYNC_STATE/pgbouncer/pgbouncer" ]; then
    MANA_SYNC_PGBOUNCER=$MANA_SYNC_STATE/pgbouncer/pgbouncer
fi
export MANA_SYNC_PGBOUNCER

# ---- who runs servers ------------------------------------------------------------------------------

if [ "$(id -u)" != 0 ]; then
    MANA_SYNC_RUN_AS=
elif id -u postgres >/dev/null 2>&1; then
    MANA_SYNC_RUN_AS=postgres
else
    MANA_SYNC_RUN_AS=nobody
fi
export MANA_SYNC_RUN_AS

# Runs a command as the user that servers run as, away from directories that it may not enter.
as_server_user() {
    if [ -n "$MANA_SYNC_RUN_AS" ]; then
        (cd / && HOME=/nonexistent exec runuser -u "$MANA_SYNC_RUN_AS" -- "$@")
    else
        "$@"
    fi
}

# A new empty directory of that user's, with a path short enough for a socket (107 bytes in all).
server_tmpdir() {
    local base=${TMPDIR:-/tmp}
    if [ ${#base} -gt 60 ]; then base=/tmp; fi
    local dir
    dir=$(mktemp -d "$base/mana_sync.XXXXXX") || return
    if [ -n "$MANA_SYNC_RUN_AS" ]; then
        chown "$MANA_SYNC_RUN_AS" "$dir"
        if ! as_server_user test -x "$dir"; then
            rmdir "$dir"
            dir=$(mktemp -d /tmp/mana_sync.XXXXXX) && chown "$MANA_SYNC_RUN_AS" "$dir"
        fi
    fi
    echo "$dir"
}
