#!/usr/bin/env bash
# Plays examples/demo.sql in a private cluster. It checks itself: demo.expect() after a step fails
# unless the step gave what it should, and psql stops at the first error.
# With --prompt, plays it silently and then gives a prompt in its database.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
"$here/install.sh"
# shellcheck source=scripts/cluster.sh
. "$here/cluster.sh"
log=$MANA_SYNC_STATE/demo.log

psql() { PGCLIENTENCODING=UTF8 "$MANA_SYNC_PG_BIN/psql" "$@"; }

say 'Starting a private cluster'
cluster_start
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

if [ "${1:-}" != --prompt ]; then
    say 'examples/demo.sql'
    play
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
