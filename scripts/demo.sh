#!/usr/bin/env bash
# Plays examples/demo.sql in a private cluster, and then examples/http, the HTTP front end, with curl. It
# checks itself: demo.expect() after a step fails unless the step gave what it should, and psql stops
# at the first error; the answers of the front end are searched for what must be in them.
# With --prompt, plays the SQL silently and then gives a prompt in its database.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
"$here/install.sh"
# shellcheck source=scripts/cluster.sh
. "$here/cluster.sh"
log=$MANA_SYNC_STATE/demo.log

psql() { PGCLIENTENCODING=UTF8 "$MANA_SYNC_PG_BIN/psql" "$@"; }

if [ "${1:-}" != --prompt ]; then
    say 'Building the HTTP front end, examples/http (the first time takes 1 to 3 minutes)'
    cargo build -q --manifest-path "$MANA_SYNC_ROOT/Cargo.toml" -p mana_sync_http
fi

say 'Starting a private cluster'
cluster_start "shared_preload_libraries = 'mana_sync'" "mana_sync.wakeup_databases = 'demo'"
psql -X -q -v ON_ERROR_STOP=1 -d postgres <<'SQL'
CREATE DATABASE demo;
\connect demo
CREATE SCHEMA demo;
GRANT USAGE ON SCHEMA demo TO PUBLIC;
CREATE FUNCTION demo.expect(got text, wanted text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF got IS DISTINCT FROM wanted THEN
        RAISE EXCEPTION 'the demo got %, and should have got %', got, wanted;
    END IF;
END
$$;
CREATE FUNCTION demo.expect(got bigint, wanted bigint) RETURNS void LANGUAGE sql AS 'SELECT demo.expect($1::text, $2::text)';
SQL

# As it would be typed: psql prints its input (-a) between the results. The checks are left out, and
# the blank lines before comments, which psql drops, are put back.
play() {
    local bold='' plain=''
    if [ -t 1 ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
    psql -X -a -P pager=off -v ON_ERROR_STOP=1 -d demo -f "$MANA_SYNC_ROOT/examples/demo.sql" 2>&1 |
        awk -v bold="$bold" -v plain="$plain" '
            /^SELECT demo\.expect/ || /^\\set ON_ERROR_STOP/ || /^--#/ { next }
            { comment = /^--( |$)/; sub(/^psql:[^ ]*: /, "") }
            (/^-- ==/ || (comment && !after_comment)) && !after_blank { print "" }
            /^-- ==/ { $0 = bold $0 plain }
            { print; fflush(); after_comment = comment; after_blank = /^$/ }'
}

# ---- the HTTP front end --------------------------------------------------------------------------------

base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }

# A token for a user, as an identity provider would sign it: a JWT, HS256.
token() {
    local text
    text=$(printf '{"alg":"HS256"}' | base64url).$(printf '{"sub":"%s","exp":%d}' "$1" $(($(date +%s) + 600)) | base64url)
    printf '%s.%s' "$text" "$(printf %s "$text" | openssl dgst -sha256 -hmac "$JWT_HS256_SECRET" -binary | base64url)"
}

# expect FILE TEXT…: each must be in it within five seconds.
expect() {
    local file=$1 text tries
    shift
    for text in "$@"; do
        for tries in $(seq 50); do
            if grep -qF -- "$text" "$file"; then continue 2; fi
            sleep 0.1
        done
        cat "$file" "$work/front-end.log" >&2
        die "the answer has no $text after $tries tries"
    done
}

# request USER DEVICE CURL-ARGUMENT…: shows the command, runs it, and leaves the answer in $work/answer.
request() {
    local user=$1 device=$2
    shift 2
    printf '\n$ curl'
    printf " '%s'" "$@"
    # shellcheck disable=SC2016 # as one would type it
    printf ' \\\n      -H "Authorization: Bearer $(token %s)" -H "X-Client-Id: %s"\n' "$user" "$device"
    curl -sS --max-time 20 -H "Authorization: Bearer $(token "$user")" -H "X-Client-Id: $device" "$@" >"$work/answer"
    cat "$work/answer"
    echo
}

live() {
    export JWT_HS256_SECRET BIND url DATABASE_URL
    work=$cluster_dir/http
    mkdir "$work"
    JWT_HS256_SECRET=$(openssl rand -hex 32)
    DATABASE_URL="host=$PGHOST user=app dbname=demo"
    psql -X -q -d demo -c 'SET client_min_messages = warning' -f "$MANA_SYNC_ROOT/examples/http/schema.sql" >/dev/null
    psql -X -q -d demo -c "INSERT INTO memberships VALUES ('ada', 'home'), ('ben', 'home') ON CONFLICT DO NOTHING"
    local target=${CARGO_TARGET_DIR:-$MANA_SYNC_ROOT/target} port tries
    # A free port: one that nobody answers on, and that the front end then gets.
    for tries in $(seq 20); do
        port=$((20000 + RANDOM % 20000))
        BIND=127.0.0.1:$port
        url=http://$BIND/sync/todo
        "$target/debug/mana_sync_http" >"$work/front-end.log" 2>&1 &
        front_end=$!
        for _ in $(seq 50); do
            if curl -sf --max-time 2 "http://$BIND/health" >"$work/answer" && kill -0 "$front_end" 2>/dev/null; then break 2; fi
            kill -0 "$front_end" 2>/dev/null || break
            sleep 0.1
        done
        kill "$front_end" 2>/dev/null || true
        [ "$tries" -lt 20 ] || { cat "$work/front-end.log" >&2; die 'the front end did not start'; }
    done
    # The stream ends with the demo.
    trap 'kill $(jobs -p) 2>/dev/null || true; cluster_stop' EXIT

    echo "Ben's laptop is new. It waits on a stream, on which the history of the space comes first."
    : >"$work/ben"
    printf '\n$ curl -N "%s/stream?since=" … >ben.stream &\n' "$url"
    curl -sSN -H "Authorization: Bearer $(token ben)" -H 'X-Client-Id: laptop' "$url/stream?since=" >"$work/ben" &
    expect "$work/ben" '"id":"milk"'

    echo "Ada's phone pushes a change and gets what she has not seen, in one request."
    request ada phone -d '{"since": "", "changes": [
    {"eventId": "0190f5fe-7c00-7000-8000-00000000000a", "table": "items", "id": "tea", "op": "insert",
     "data": {"title": "Tea"}, "spaceId": "home"}]}' "$url"
    expect "$work/answer" '"syncedUntil":"1a' '"hasMore":false'
    echo
    echo "Ben's laptop has it already:"
    expect "$work/ben" '"id":"tea"'
    grep -F '"tea"' "$work/ben" | tail -1

    echo
    echo "The phone got no answer, say, and sends the same again: it is stored once, for her tablet too."
    request ada phone -o /dev/null -d '{"since": "", "changes": [
    {"eventId": "0190f5fe-7c00-7000-8000-00000000000a", "table": "items", "id": "tea", "op": "insert",
     "data": {"title": "Tea"}, "spaceId": "home"}]}' "$url"
    request ada tablet "$url/pull?collection=items&since="
    expect "$work/answer" '"id":"tea"'
    [ "$(grep -o '"id":"tea"' "$work/answer" | wc -l)" = 1 ] || die 'tea is there more than once'

    echo
    echo "Eve is in no space, and may not write there. Nor does anybody who has no token."
    request eve phone -w ' %{http_code}' -d '{"changes": [
    {"table": "items", "id": "tea", "op": "delete", "spaceId": "home"}]}' "$url"
    expect "$work/answer" ' 403'
    printf '\n$ curl "%s/pull"\n' "$url"
    curl -sS -w ' %{http_code}\n' "$url/pull" >"$work/answer"
    cat "$work/answer"
    expect "$work/answer" ' 401'
}

if [ "${1:-}" != --prompt ]; then
    say 'examples/demo.sql'
    play
    say 'examples/http'
    live
    say 'Every step gave what it should. The cluster is removed; make psql gives a prompt in its database.'
    exit
fi

say 'Playing examples/demo.sql'
play >"$log" || {
    cat "$log" >&2
    die 'the demo failed'
}
psql -X -q -d demo -c 'SET client_min_messages = warning' -c 'DROP SCHEMA demo CASCADE'
cat >&2 <<'TEXT'

You are the plain role app in the database of the demo, which goes when you leave (\q). Try

  SELECT * FROM mana_sync.changes_since('ada', 'todo', space_ids => '{home}');

  BEGIN;
  SELECT mana_sync.with_scope('ben', '{home}');
  SELECT * FROM mana_sync.sync_changes ORDER BY epoch, xact, seq;
  COMMIT;

  \df mana_sync.*          the functions
  \connect - postgres      to be the superuser, whom row-level security does not hold back

TEXT
psql -d demo -U app -v PROMPT1='%n@%/%R%x%# '
