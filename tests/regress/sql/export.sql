-- export_changes: everything that a user wrote, in the order of the log, streamed.
CREATE EXTENSION mana_sync;
SELECT mana_sync.grant_access('regress_app') \g /dev/null
SET timezone = 'UTC';
SET datestyle = 'ISO';
\pset null NULL
CALL put('milk', 'insert', '{"n": 1.50}', '{"n": "2025-03-01T08:00:00Z"}');
CALL put('milk', 'update', '{"n": null}', '{}', space => 'home', client => 'laptop');
CALL put('order', 'insert', '[1]', NULL, app => 'shop', tab => 'orders');
CALL put('milk', 'insert', '{"n": 2}', who => 'ben', space => 'home');
CALL put('milk', 'insert', '{"n": 3}', who => 'ben');
CALL put('milk', 'delete', space => 'work');
CALL put('atlas', 'insert', app => 'a', tab => '');
-- What does not fit into a row of the table is stored beside it.
CALL put('large', 'insert', who => 'cyd');
UPDATE mana_sync.sync_changes SET data = (SELECT jsonb_build_object('text', string_agg(md5(n::text), '')) FROM generate_series(1, 3000) AS n) WHERE user_id = 'cyd';
UPDATE mana_sync.sync_changes SET actor = '{"name": "Ada"}', schema_version = 3 WHERE app_id = 'shop';

-- == All apps in the order of the log, what was written in spaces included, and what others wrote not
SET ROLE regress_app;
SELECT app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at, schema_version, space_id, actor FROM mana_sync.export_changes('ada');
SELECT app_id, record_id, op, space_id, data FROM mana_sync.export_changes('ben');
SELECT count(*) FROM mana_sync.export_changes('eve');
SELECT length(data ->> 'text'), md5(data ->> 'text') = (SELECT md5(string_agg(md5(n::text), '')) FROM generate_series(1, 3000) AS n) AS same
    FROM mana_sync.export_changes('cyd');
-- It is plain SQL to the rest of a query.
SELECT app_id, count(*) FROM mana_sync.export_changes('ada') GROUP BY app_id ORDER BY app_id;
SELECT op FROM mana_sync.export_changes('ada') WHERE app_id = 'todo' AND op <> 'update';
SELECT u.id, e.app_id FROM (VALUES ('ada'), ('eve'), ('ben')) AS u (id), mana_sync.export_changes(u.id) AS e;
COPY (SELECT app_id, record_id, op, data FROM mana_sync.export_changes('ada')) TO stdout;
RESET ROLE;
-- The columns are those of the log, but for its order; every value is the log's.
SELECT count(*) AS rows FROM (
    SELECT id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at, schema_version, space_id, actor
        FROM mana_sync.export_changes('ada')
    INTERSECT
    SELECT id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at, schema_version, space_id, actor
        FROM mana_sync.sync_changes) AS same;

-- == It streams: the planner puts its body in its place. A function scan would hold all rows before the first one goes on.
EXPLAIN (COSTS OFF) SELECT * FROM mana_sync.export_changes('ada');
CREATE FUNCTION plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN (COSTS OFF) ' || query; END $$;
SET ROLE regress_app;
SELECT count(*) FILTER (WHERE p LIKE '%ProjectSet%') AS project_set, count(*) FILTER (WHERE p LIKE '%Function Scan%') AS function_scan
    FROM unnest(ARRAY[$q$SELECT op FROM mana_sync.export_changes('ada') WHERE app_id = 'todo' LIMIT 1$q$,
                      $q$SELECT * FROM mana_sync.export_changes()$q$,
                      $q$SELECT * FROM mana_sync.export_changes(current_setting('app.current_user_id', true))$q$]) AS q (query), plan(q.query) AS p;
SELECT record_id FROM mana_sync.export_changes('ada') LIMIT 1;
SELECT record_id FROM mana_sync.export_changes('ada') LIMIT 2 OFFSET 2;
-- As a cursor, which has the rows of when it was opened.
BEGIN;
DECLARE c CURSOR FOR SELECT app_id, record_id, op FROM mana_sync.export_changes('ada');
FETCH 2 FROM c;
SELECT count(mana_sync.record_change('todo', 'items', 'late', 'ada', NULL, 'insert', 'phone'));
-- The transaction may do other things meanwhile, for other users too.
SELECT count(*) FROM mana_sync.changes_since('ben', 'todo');
FETCH 10 FROM c;
FETCH 10 FROM c;
CLOSE c;
-- Two at once; one is not read to its end.
DECLARE c CURSOR FOR SELECT record_id FROM mana_sync.export_changes('ada');
DECLARE d CURSOR FOR SELECT record_id FROM mana_sync.export_changes('ben');
FETCH c;
FETCH d;
FETCH c;
FETCH d;
COMMIT;
BEGIN;
DECLARE h CURSOR WITH HOLD FOR SELECT app_id, op FROM mana_sync.export_changes('ben');
COMMIT;
FETCH ALL FROM h;
CLOSE h;

-- == The scope
SELECT * FROM outcome('SELECT * FROM mana_sync.export_changes()');
SELECT * FROM outcome('SELECT * FROM mana_sync.export_changes(NULL)');
SELECT * FROM outcome($$ SELECT * FROM mana_sync.export_changes('') $$);
BEGIN;
SELECT mana_sync.with_scope('ada', '{home}') \g /dev/null
-- The same user, with spaces: still only what the user wrote.
SELECT count(*), count(*) FILTER (WHERE user_id <> 'ada') AS others FROM mana_sync.export_changes();
SELECT count(*) FROM mana_sync.export_changes('ada');
SELECT * FROM outcome($$ SELECT * FROM mana_sync.export_changes('ben') $$);
SELECT code FROM outcome($$ SELECT * FROM mana_sync.export_changes('') $$);
SELECT code FROM outcome($$ SELECT 1 / (count(*) - count(*)) FROM mana_sync.export_changes() $$);
SELECT current_setting('app.current_user_id') AS "user", current_setting('app.current_user_space_ids') AS spaces;
SELECT count(*) FROM mana_sync.export_changes() WHERE id IN (SELECT id FROM mana_sync.sync_changes);
COMMIT;
SELECT count(*) FROM mana_sync.export_changes('ada');
SELECT current_setting('app.current_user_id') AS "user", current_setting('app.current_user_space_ids') AS spaces;
SELECT count(*) FROM mana_sync.sync_changes;
RESET ROLE;
-- A role that passes by row security gets one user's rows too.
SELECT count(*), count(*) FILTER (WHERE user_id <> 'ben') AS others FROM mana_sync.export_changes('ben');

-- == More rows than it reads at once, of apps that take turns, and of several transactions and epochs
TRUNCATE mana_sync.sync_changes;
CREATE PROCEDURE many(rows int, apps text[]) LANGUAGE sql AS $$
    INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data, space_id)
        SELECT apps[1 + n * 7 % array_length(apps, 1)], 'items', n, CASE WHEN n % 10 = 0 THEN 'ben' ELSE 'ada' END, 'insert', 'phone', jsonb_build_object('n', n, 'text', repeat('x', n % 100)),
               CASE WHEN n % 3 = 0 THEN 'home' END
        FROM generate_series(1, rows) AS n ORDER BY n
$$;
CALL many(700, '{b}');
CALL many(1000, '{a,b,c}');
CALL many(1, '{d}');
INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, epoch, xact, seq)
    SELECT 'c', 'items', 'of another epoch ' || n, 'ada', 'insert', 'phone', 1000 * n, '3', -n FROM generate_series(1, 2) AS n;
CALL many(1000, '{c,b,a,e}');
-- (The application has no position to compare; a row's place is compared by its id.)
CREATE TABLE expected AS
    SELECT row_number() OVER (ORDER BY epoch, xact, seq) AS n, id FROM mana_sync.sync_changes WHERE user_id = 'ada';
GRANT SELECT ON expected TO regress_app;
SET ROLE regress_app;
CREATE TEMPORARY VIEW exported AS
    SELECT * FROM mana_sync.export_changes('ada');
SELECT count(*) AS rows, count(*) FILTER (WHERE e.id IS DISTINCT FROM x.id) AS different
    FROM (SELECT row_number() OVER () AS n, id FROM exported) AS e FULL JOIN expected AS x USING (n);
SELECT count(*) AS rows, sum(length(data::text)) = (SELECT sum(length(e.data::text)) FROM exported AS e) AS same FROM exported;
-- A row at a time by a cursor.
DO $$
DECLARE
    change record;
    place bigint := 0;
    wrong bigint := 0;
BEGIN
    FOR change IN SELECT id FROM mana_sync.export_changes('ada') LOOP
        place := place + 1;
        wrong := wrong + (change.id IS DISTINCT FROM (SELECT x.id FROM expected AS x WHERE x.n = place))::int;
    END LOOP;
    RAISE NOTICE '% of % in another place', wrong, place;
END $$;
-- Not to its end, but over several portions.
SELECT count(*) FROM (SELECT * FROM mana_sync.export_changes('ada') LIMIT 600) AS first;
-- It is of one moment: what is written while it is being read does not come, in a later portion either.
BEGIN;
SELECT count(*) AS before FROM mana_sync.export_changes('ada') \gset
DO $$
DECLARE change record; read int := 0;
BEGIN
    FOR change IN SELECT * FROM mana_sync.export_changes('ada') LOOP
        read := read + 1;
        IF read = 3 THEN
            PERFORM mana_sync.record_change(app, 'items', 'meanwhile', 'ada', NULL, 'insert', 'phone') FROM unnest('{a,b,c}'::text[]) AS app;
        END IF;
    END LOOP;
    PERFORM set_config('test.read', read::text, true);
END $$;
SELECT current_setting('test.read')::int = :before AS one_moment, (SELECT count(*) FROM mana_sync.export_changes('ada')) - :before AS afterwards;
ROLLBACK;
-- Each portion is read under the scope of the user: the scope of another one ends the export.
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM mana_sync.export_changes('ada');
MOVE 3 FROM c;
SELECT mana_sync.with_scope('ada', '{home}') \g /dev/null
MOVE 1000 FROM c;
SELECT mana_sync.with_scope('ben') \g /dev/null
\set VERBOSITY terse
MOVE 1000 FROM c;
\set VERBOSITY default
ROLLBACK;
SELECT count(*) FROM mana_sync.export_changes('ada');
RESET ROLE;
DROP FUNCTION plan;
DROP VIEW exported;
DROP TABLE expected;
DROP PROCEDURE many;
SELECT mana_sync.revoke_access('regress_app') \g /dev/null
DROP EXTENSION mana_sync;
