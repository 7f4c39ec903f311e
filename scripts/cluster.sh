#!/usr/bin/env bash
# A private cluster in a temporary directory: reached through a socket only, run by
# $MANA_SYNC_RUN_AS, gone afterwards.
#
#   scripts/cluster.sh run COMMAND…   runs COMMAND with PGHOST and PGUSER set, then removes the cluster
#   scripts/cluster.sh start          prints the cluster's directory, which is its PGHOST too
#   scripts/cluster.sh stop DIR       stops it and removes DIR
#
# Other scripts source this file and call cluster_start and cluster_stop; cluster_start arranges for
# the cluster to be removed when the script ends, however it ends.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then set -euo pipefail; fi
# shellcheck source=scripts/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

cluster_dir=

# shellcheck disable=SC2120 # arguments are for scripts that source this one
# Sets cluster_dir, PGHOST, PGPORT and PGUSER. Arguments are further lines for postgresql.conf.
cluster_start() {
    trap cluster_stop EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    cluster_dir=$(server_tmpdir)
    # --no-locale: the same order and messages everywhere.
    as_server_user "$MANA_SYNC_PG_BIN/initdb" --pgdata "$cluster_dir/data" --auth trust --username postgres \
        --encoding UTF8 --no-locale --no-sync >"$MANA_SYNC_STATE/initdb.log" 2>&1 || {
        cat "$MANA_SYNC_STATE/initdb.log" >&2
        die 'initdb failed'
    }
    as_server_user tee -a "$cluster_dir/data/postgresql.conf" >/dev/null <<CONF
listen_addresses = ''
unix_socket_directories = '$cluster_dir'
unix_socket_permissions = 0777
port = 5432
fsync = off
wal_level = replica
max_prepared_transactions = 20
autovacuum_naptime = 10s
log_line_prefix = '%m [%p] %a '
$(printf '%s\n' "$@")
CONF
    chmod 755 "$cluster_dir"
    # setsid: ^C is for the script, which then stops the server. With RUST_BACKTRACE in its environment, the
    # server would show one in the DETAIL of each error that passes through Rust.
    if ! as_server_user env -u RUST_BACKTRACE -u RUST_LIB_BACKTRACE setsid "$MANA_SYNC_PG_BIN/pg_ctl" start --pgdata "$cluster_dir/data" --wait --timeout 60 \
        --log "$cluster_dir/log" >/dev/null 2>&1; then
        cat "$cluster_dir/log" >&2
        die 'the private cluster did not start'
    fi
    export PGHOST=$cluster_dir PGPORT=5432 PGUSER=postgres PGSSLMODE=disable
}

cluster_stop() {
    [ -n "$cluster_dir" ] || return 0
    local dir=$cluster_dir pid_file
    cluster_dir=
    # cargo pgrx test puts its data directory one level deeper.
    for pid_file in "$dir"/data/postmaster.pid "$dir"/data/*/postmaster.pid; do
        [ ! -e "$pid_file" ] ||
            as_server_user "$MANA_SYNC_PG_BIN/pg_ctl" stop --pgdata "${pid_file%/*}" --mode immediate --wait >/dev/null 2>&1 || true
    done
    rm -rf "$dir"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    command=${1:-}
    [ $# = 0 ] || shift
    case $command in
        run)
            "$MANA_SYNC_ROOT/scripts/setup.sh"
            # shellcheck disable=SC2119
            cluster_start
            PATH=$MANA_SYNC_PG_BIN:$PATH "$@"
            ;;
        start)
            "$MANA_SYNC_ROOT/scripts/setup.sh"
            # shellcheck disable=SC2119
            cluster_start
            trap - EXIT
            echo "$cluster_dir"
            ;;
        stop)
            cluster_dir=${1:?the directory that start printed}
            [ -d "$cluster_dir/data" ] || die "$cluster_dir is no cluster"
            cluster_stop
            ;;
        *)
            sed -n '2,/^if/{/^if/d;s/^# \{0,1\}//p}' "$0"
            exit 2
            ;;
    esac
fi
