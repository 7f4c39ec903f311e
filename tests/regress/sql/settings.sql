-- What a session does to itself changes nothing of what the functions do, and opens nothing.
CREATE EXTENSION mana_sync;
SELECT mana_sync.grant_access('regress_app') \g /dev/null
CREATE SCHEMA evil AUTHORIZATION regress_app;
SET ROLE regress_app;
SELECT count(mana_sync.record_change('todo', 'items', 'secret', 'ben', 'work', 'insert', 'phone'));

-- == search_path: operators and functions of the caller's come first, and are not used.
CREATE FUNCTION evil.yes(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.yes);
CREATE OPERATOR evil.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.yes);
CREATE FUNCTION evil.no(int, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'used'; END $$;
CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.no);
CREATE OPERATOR evil.>= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.no);
CREATE FUNCTION evil.unnest(anyarray) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'used'; END $$;
CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'ben' $$;
CREATE FUNCTION evil.nextval(regclass) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';
CREATE FUNCTION evil.max(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';
CREATE TEMPORARY TABLE sync_changes (x int);
CREATE TEMPORARY TABLE epochs (x int);
-- A new session, which has prepared nothing yet.
RESET ROLE;
ALTER ROLE regress_app LOGIN;
\set me :USER
\connect - regress_app
SET search_path = evil, pg_temp, pg_catalog;
SELECT pg_catalog.count(mana_sync.record_change('todo', 'items', 'one', 'ada', 'home', 'insert', 'phone'));
SELECT record_id FROM mana_sync.changes_since('ada', 'todo', space_ids => '{home,garden}');
SELECT record_id FROM mana_sync.changes_since('cyd', 'todo');
BEGIN;
SELECT mana_sync.with_scope('ada');
SELECT record_id FROM mana_sync.sync_changes ORDER BY 1;
COMMIT;
SELECT record_id FROM mana_sync.sync_changes ORDER BY 1;
\connect - :me
ALTER ROLE regress_app NOLOGIN;
SET search_path = evil, pg_temp, pg_catalog;
SELECT mana_sync.revoke_access('regress_app') \g /dev/null
SELECT mana_sync.grant_access('regress_app') \g /dev/null
RESET search_path;
SET search_path = '';
SELECT record_id FROM mana_sync.changes_since('ada', 'todo');
RESET search_path;

-- == row_security = off is PostgreSQL's way to ask for an error instead of fewer rows.
SET ROLE regress_app;
SET row_security = off;
SELECT record_id FROM mana_sync.changes_since('ada', 'todo');
SELECT mana_sync.record_change('todo', 'items', 'two', 'ada', NULL, 'insert', 'phone');
SELECT count(*) FROM mana_sync.sync_changes;
RESET row_security;

-- == Plans and memory
-- (The setting that forces parallel queries was renamed in version 16.)
SELECT count(mana_sync.record_change('big', 'items', n::text, 'ada', 'home', 'insert', 'phone', jsonb_build_object('blob', repeat(md5(n::text), 30))))
    FROM generate_series(1, 500) AS n;
SET work_mem = '64kB';
SET plan_cache_mode = force_custom_plan;
SELECT count(*), count(DISTINCT record_id), sum(length(data ->> 'blob')), count(cursor) FROM mana_sync.changes_since('ben', 'big', space_ids => '{home,work}');
SET plan_cache_mode = force_generic_plan;
SELECT count(*), count(DISTINCT record_id), sum(length(data ->> 'blob')), count(cursor) FROM mana_sync.changes_since('ben', 'big', space_ids => '{home,work}');
SET enable_indexscan = off;
SET enable_indexonlyscan = off;
SELECT bool_and(n::text = record_id) AS in_order FROM mana_sync.changes_since('ada', 'big') WITH ORDINALITY
    AS c (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at, schema_version, space_id, actor, cursor, n);
SELECT count(set_config(name, 'on', false)) AS forced FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SELECT count(*) FROM mana_sync.changes_since('ben', 'big', space_ids => '{home,work}');
SELECT count(mana_sync.record_change('big', 'items', 'last', 'ada', 'home', 'insert', 'phone'));
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SELECT count(DISTINCT mana_sync.user_channel(relname)) = count(DISTINCT relname) AS channels FROM pg_class;
SELECT count(DISTINCT mana_sync.space_channel(relname) || mana_sync.everyone_channel()) = count(DISTINCT relname) AS channels FROM pg_class;
-- They are as they were.
SELECT name, setting FROM pg_settings
    WHERE name IN ('enable_indexscan', 'enable_sort', 'enable_seqscan', 'enable_bitmapscan') ORDER BY name COLLATE "C";
RESET ALL;
SELECT name, setting FROM pg_settings
    WHERE name IN ('enable_indexscan', 'enable_sort', 'enable_seqscan', 'enable_bitmapscan') ORDER BY name COLLATE "C";

-- == A statement that is cancelled leaves the scope and the settings as it found them.
BEGIN;
SELECT mana_sync.with_scope('ada', '{home}');
SAVEPOINT s;
SET LOCAL statement_timeout = '1ms';
SELECT count(*) FROM pg_sleep(0.1), mana_sync.changes_since('ada', 'big', space_ids => '{home,work}');
ROLLBACK TO s;
SELECT current_setting('app.current_user_id') AS "user", current_setting('app.current_user_space_ids') AS spaces,
       current_setting('enable_seqscan') AS enable_seqscan;
SELECT count(*) FROM mana_sync.changes_since(app_id => 'big');
COMMIT;

-- == Times and formats
SET timezone = 'Asia/Kathmandu';
SET datestyle = 'SQL, DMY';
SELECT count(*) FROM mana_sync.changes_since('ada', 'big', since => '2020-01-02T00:00:00Z');
RESET ALL;

RESET ROLE;
SELECT mana_sync.revoke_access('regress_app') \g /dev/null
SET client_min_messages = warning;
DROP SCHEMA evil CASCADE;
DROP EXTENSION mana_sync;
