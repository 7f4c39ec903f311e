#!/usr/bin/env bash
# Counts the instructions of one call in the server, and where they go, with callgrind: unlike times they are the same on a
# busy machine. Needs valgrind.
#
#   scripts/profile.sh record_change   a change, by the application's role      (beside: insert)
#   scripts/profile.sh insert          the same row, a prepared INSERT of the owner
#   scripts/profile.sh changes_since   a page of 1,000 rows                     (beside: scan)
#   scripts/profile.sh scan            the bare index scan of the same rows
#   scripts/profile.sh pull            a page of 1,000 rows as JSON
#   scripts/profile.sh push            a push of 1,000 changes, each with its space
#   scripts/profile.sh push_unnamed    the same without their spaces, which are looked up
#   scripts/profile.sh empty N         an empty pull of N spaces
#   scripts/profile.sh probe N         the same when others have written since
#
# ROWS=n sets the size of the log (500,000), LINES=n how many functions are shown (60).
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" && exit 2; }
what=${1:-} spaces=${2:-100}
# How many calls: the difference of two runs is that many calls, without what comes before them.
case $what in
    record_change | insert) calls=(100 600) ;;
    changes_since | scan | pull) calls=(5 25) ;;
    push | push_unnamed) calls=(2 10) ;;
    empty | probe) calls=(20 120) ;;
    *) usage ;;
esac
"$here/setup.sh"
# shellcheck source=scripts/cluster.sh
. "$here/cluster.sh"
cd "$MANA_SYNC_ROOT"
command -v valgrind >/dev/null || die 'valgrind is not installed'
PROFILE=release "$here/install.sh"

# shellcheck disable=SC2119
cluster_start
psql() { "$MANA_SYNC_PG_BIN/psql" -XqAt -d postgres -v ON_ERROR_STOP=1 "$@"; }
say 'Writing a log'
psql -c 'CREATE EXTENSION mana_sync; CREATE ROLE app LOGIN' -c "SELECT mana_sync.grant_access('app')" \
    -f bench/original.sql -f bench/log.sql >/dev/null
psql -c 'SET synchronous_commit = off' -c "CALL bench.fill('others', 0, ${ROWS:-500000} - 1, 1000)"
psql -c 'SET synchronous_commit = off' -c "CALL bench.fill('walks', 0, 9999, 1)"
psql -c 'VACUUM (ANALYZE)' -c 'ALTER SYSTEM SET autovacuum = off'

if [[ $what = push* ]]; then
    # Two updates and an insert of records that the user has in one of three spaces.
    space=", \"spaceId\": \"team' || i % 3 || '\""
    [ "$what" = push ] || space=
    psql -c "CREATE TABLE bench.body AS SELECT pg_catalog.jsonb_build_object('changes', jsonb_agg((CASE i % 3
                 WHEN 0 THEN '{\"table\": \"notes\", \"id\": \"' || md5(i::text) || '\", \"op\": \"insert\"$space, \"data\": {\"title\": \"Item\", \"done\": false, \"updatedAt\": \"2026-01-01T10:00:00Z\"}}'
                 ELSE '{\"table\": \"notes\", \"id\": \"' || md5(i::text) || '\", \"op\": \"update\"$space, \"fields\": {\"done\": {\"value\": true, \"at\": \"2026-01-01T10:00:00Z\"}, \"rank\": {\"value\": 17, \"at\": \"2026-01-01T10:00:00Z\"}}}'
             END)::jsonb)) AS body FROM generate_series(1, 1000) AS i" -c 'GRANT USAGE ON SCHEMA bench TO app' -c 'GRANT SELECT ON bench.body TO app'
    psql -c "INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, space_id, op, data, client_id)
                 SELECT 'app', 'notes', md5(i::text), 'ann', 'team' || i % 3, 'insert', '{}', 'phone' FROM generate_series(1, 1000) AS i" \
        -c 'VACUUM (ANALYZE) mana_sync.sync_changes'
fi
list=$(seq -s, -f 'space%g' 0 $((spaces - 1)))
pull="mana_sync.changes_since('user5', 'app', page_size => 5000, space_ids => '{$list}', since"
cursor=
if [ "$what" = empty ] || [ "$what" = probe ]; then
    while next=$(psql -U app -c "SELECT cursor FROM $pull => nullif('$cursor', '')) WHERE cursor IS NOT NULL") && [ "$next" ]; do
        cursor=$next
    done
    [ "$cursor" ] || die 'the reader has no row'
fi
if [ "$what" = probe ]; then psql -c 'SELECT pg_current_xact_id()' >/dev/null; fi
as_server_user "$MANA_SYNC_PG_BIN/pg_ctl" stop --pgdata "$cluster_dir/data" --mode fast --wait >/dev/null

# On one line: so wants a server without a postmaster.
prepare() { echo "PREPARE call (text, jsonb) AS $1" | tr -s '\n ' ' ' && echo; }
script() {
    [ "$what" = insert ] || [ "$what" = scan ] || echo 'SET ROLE app'
    local columns='id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at, schema_version,
        space_id, actor'
    case $what in
        record_change)
            prepare "SELECT mana_sync.record_change('app', 'notes', \$1, 'ann', NULL, 'insert', 'phone', \$2)" ;;
        insert)
            prepare "INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, space_id, op, data,
                field_timestamps, client_id, schema_version, actor)
                VALUES ('app', 'notes', \$1, 'ann', NULL, 'insert', \$2, '{}', 'phone', 1, NULL)" ;;
        changes_since) prepare "SELECT count(client_id) FROM mana_sync.changes_since('own1', 'app', page_size => 1000)" ;;
        scan)
            printf 'SET enable_%s = off\n' seqscan bitmapscan sort
            prepare "SELECT count(client_id) FROM (SELECT $columns FROM mana_sync.sync_changes
                WHERE user_id = 'own1' AND app_id = 'app' AND epoch = 1 AND (xact, seq) > ('0'::xid8, 0)
                ORDER BY xact, seq LIMIT 1000) AS page" ;;
        push | push_unnamed) prepare "SELECT mana_sync.push('ann', 'app', body, space_ids => '{team0,team1,team2}') FROM bench.body" ;;
        pull) prepare "SELECT length(mana_sync.pull('own1', 'app', page_size => 1000)::text)" ;;
        empty | probe) prepare "SELECT count(client_id) FROM $pull => '$cursor')" ;;
    esac
    local text data
    text=$(printf '0123456789%.0s' {1..10})
    data="{\"title\": \"Item\", \"done\": false, \"rank\": 17, \"text\": \"$text\"}"
    for i in $(seq "$1"); do echo "EXECUTE call('$((i * 7919 % 100003))', '$data')"; done
}

for count in "${calls[@]}"; do
    say "$count calls under callgrind"
    script "$count" | as_server_user valgrind --tool=callgrind --callgrind-out-file="$cluster_dir/callgrind.$count" \
        "$MANA_SYNC_PG_BIN/postgres" --single -D "$cluster_dir/data" -c fsync=off -c synchronous_commit=off postgres \
        >"$cluster_dir/output.$count" 2>&1 || die "$(tail -5 "$cluster_dir/output.$count")"
    if grep -E 'ERROR|FATAL' "$cluster_dir/output.$count" >&2; then die 'the call failed'; fi
    callgrind_annotate --inclusive=yes --threshold=100 "$cluster_dir/callgrind.$count" >"$cluster_dir/functions.$count"
done
echo "Instructions of one call, with those of the functions that it calls:"
awk -v calls=$((calls[1] - calls[0])) '
    match($0, /^ *[0-9,]+ \(/) {
        count = $1; gsub(",", "", count)
        name = $0; sub(/^ *[0-9,]+ \([^)]*\) +/, "", name); sub(/ \[.*/, "", name); sub(/^\?\?\?:/, "", name)
        if (FNR == NR) before[name] += count; else after[name] += count
    }
    # What calls itself is counted twice under a name of its own.
    END { for (name in after) if (name !~ /\x272$/) printf "%12.0f  %s\n", (after[name] - before[name]) / calls, name }
' "$cluster_dir/functions.${calls[0]}" "$cluster_dir/functions.${calls[1]}" | sort -rn | head -n "${LINES:-60}"
