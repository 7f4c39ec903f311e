-- record_change: one change, appended.
CREATE EXTENSION mana_sync;
SELECT mana_sync.grant_access('regress_app') \g /dev/null
SET ROLE regress_app;

-- Positional and by name. Seven arguments are needed, the others have defaults.
SELECT mana_sync.record_change('todo', 'items', 'short', 'ada', NULL, 'insert', 'phone') IS NOT NULL AS recorded;
SELECT mana_sync.record_change(
           app_id => 'todo', table_name => 'items', record_id => 'full', user_id => 'ada', space_id => 'home',
           op => 'update', client_id => 'phone', data => '{"title": "Milk"}',
           field_timestamps => '{"title": "2026-03-01T08:15:00Z"}', schema_version => 3, actor => '{"agent": "import"}',
           id => '0190f5fe-7c00-7000-8000-000000000001', space_ids => '{home}');
\x on
SELECT record_id, app_id, table_name, user_id, space_id, op, client_id, data, field_timestamps, schema_version, actor,
       created_at <= now() AS created, id = '0190f5fe-7c00-7000-8000-000000000001' AS given_id
    FROM mana_sync.changes_since('ada', 'todo');
\x off

-- What is handled, and not refused: an empty space is a private record, a schema_version that is NULL or
-- not positive is 1, NULL field_timestamps are {}, a NULL client_id is ''.
SELECT count(mana_sync.record_change('edge', 'items', 'empty space', 'ada', '', 'insert', 'phone'));
SELECT count(mana_sync.record_change('edge', 'items', 'version 0', 'ada', NULL, 'insert', 'phone', schema_version => 0));
SELECT count(mana_sync.record_change('edge', 'items', 'version -7', 'ada', NULL, 'insert', 'phone', schema_version => -7));
SELECT count(mana_sync.record_change('edge', 'items', 'version 2147483647', 'ada', NULL, 'insert', 'phone', schema_version => 2147483647));
SELECT count(mana_sync.record_change('edge', 'items', 'NULLs', 'ada', NULL, 'insert', NULL, NULL, NULL, NULL, NULL, NULL, NULL));
SELECT count(mana_sync.record_change('edge', 'items', 'empty client', 'ada', NULL, 'delete', ''));
SELECT record_id, space_id IS NULL AS private, schema_version, field_timestamps, client_id = '' AS no_client, op
    FROM mana_sync.changes_since('ada', 'edge');

-- Whichever of the columns with a default have a value: it is in its place, and the others have their default.
SELECT count(mana_sync.record_change('sets', 'items', s::text, 'ada', CASE WHEN s & 1 > 0 THEN 'home' END, 'update', 'phone', '{"a": 1}',
                 CASE WHEN s & 2 > 0 THEN '{"a": "2026-03-01T08:15:00Z"}'::jsonb END, CASE WHEN s & 4 > 0 THEN 7 END,
                 CASE WHEN s & 8 > 0 THEN '{"agent": "import"}'::jsonb END))
    FROM generate_series(0, 15) AS s;
SELECT count(*) AS sets,
       count(*) FILTER (WHERE space_id IS NOT DISTINCT FROM CASE WHEN s & 1 > 0 THEN 'home' END
           AND field_timestamps = CASE WHEN s & 2 > 0 THEN '{"a": "2026-03-01T08:15:00Z"}' ELSE '{}' END::jsonb
           AND schema_version = CASE WHEN s & 4 > 0 THEN 7 ELSE 1 END
           AND actor IS NOT DISTINCT FROM CASE WHEN s & 8 > 0 THEN '{"agent": "import"}'::jsonb END) AS as_given
    FROM mana_sync.changes_since('ada', 'sets') CROSS JOIN LATERAL (SELECT record_id::int) AS given (s);

-- data, field_timestamps and actor are stored as they come. JSON's null is not SQL's.
SELECT count(mana_sync.record_change('json', 'items', 'JSON null', 'ada', NULL, 'insert', 'phone', 'null', 'null', 1, 'null'));
SELECT count(mana_sync.record_change('json', 'items', 'SQL NULL', 'ada', NULL, 'insert', 'phone', NULL));
SELECT count(mana_sync.record_change('json', 'items', 'array', 'ada', NULL, 'insert', 'phone', '[1, "two", [3]]'));
SELECT count(mana_sync.record_change('json', 'items', 'numbers', 'ada', NULL, 'insert', 'phone',
    '{"big": 12345678901234567890.123456789012345678901, "tiny": 1e-30, "zeros": 1.500, "int64": 9223372036854775808}'));
SELECT record_id, data, field_timestamps, actor, data IS NULL AS is_null FROM mana_sync.changes_since('ada', 'json');
SELECT count(mana_sync.record_change('exact', 'items', literal, 'ada', NULL, 'insert', 'phone', literal::jsonb))
    FROM unnest(ARRAY['0.1000000000000000055511151231257827', '12345678901234567890', '1e400', '-1e-400', '1.10', '-0']) AS literal;
SELECT record_id, data::text = record_id::jsonb::text AS exact FROM mana_sync.changes_since('ada', 'exact');

-- Text of any script is an id, quotes and backslashes too, and long ones.
SELECT count(mana_sync.record_change('ünï', 'таблица', '牛乳 🥛', 'аda''s \ "x"', 'größe', 'insert', '電話',
    '{"ключ": "значение 🎉", "escape": "\u00e9 \ud83e\udd5b \n"}', space_ids => '{größe}'));
-- psql before version 15 has other widths for some characters, which the unaligned form does not show.
\pset format unaligned
SELECT app_id, table_name, record_id, user_id, space_id, client_id, data
    FROM mana_sync.changes_since('аda''s \ "x"', 'ünï');
\pset format aligned
SELECT count(mana_sync.record_change('long', 'items', repeat('r', 200), repeat('u', 200), repeat('s', 200), 'insert', 'phone',
    jsonb_build_object('blob', repeat('0123456789', 200000)), space_ids => ARRAY[repeat('s', 200)]));
SELECT length(record_id), length(user_id), length(space_id), length(data ->> 'blob')
    FROM mana_sync.changes_since(repeat('u', 200), 'long');

-- An id is stored once. Ids that the extension makes are UUIDs of version 7, in order.
SELECT * FROM outcome($$ SELECT mana_sync.record_change('todo', 'items', 'again', 'ada', NULL, 'insert', 'phone',
    id => '0190f5fe-7c00-7000-8000-000000000001') $$) \gx
SELECT count(*), bool_and(substr(id::text, 15, 1) = '7') AS version_7, bool_and(substr(id::text, 20, 1) IN ('8', '9', 'a', 'b')) AS variant
    FROM mana_sync.changes_since('ada', 'edge');
SELECT bool_and(id > before) AS ascending
    FROM (SELECT id, lag(id) OVER (ORDER BY n) AS before
          FROM (SELECT n, mana_sync.record_change('ids', 'items', n::text, 'ada', NULL, 'insert', 'phone') AS id
                FROM generate_series(1, 1000) AS n) AS written) AS pairs;

-- The result is the id of the row.
SELECT mana_sync.record_change('ret', 'items', 'one', 'ada', NULL, 'insert', 'phone') AS id \gset
SELECT id = :'id' AS same FROM mana_sync.changes_since('ada', 'ret');

-- The order of the log is the order of the calls, within a transaction too.
BEGIN;
SELECT count(mana_sync.record_change('order', 'items', n::text, 'ada', NULL, 'insert', 'phone')) FROM generate_series(1, 5) AS n;
SELECT count(mana_sync.record_change('order', 'items', n::text, 'ada', NULL, 'update', 'phone')) FROM generate_series(5, 1, -1) AS n;
COMMIT;
SELECT string_agg(op || ' ' || record_id, ', ') AS log
    FROM mana_sync.changes_since('ada', 'order');

-- A plain INSERT by the role gets the same defaults, under its scope.
BEGIN;
SELECT mana_sync.with_scope('ada');
INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id)
    VALUES ('plain', 'items', 'one', 'ada', 'insert', 'phone'), ('plain', 'items', 'two', 'ada', 'insert', 'phone');
SELECT record_id, field_timestamps, schema_version, substr(id::text, 15, 1) AS uuid_version, created_at BETWEEN now() AND clock_timestamp() AS now,
       xact = pg_current_xact_id() AS xact, epoch, seq > lag(seq, 1, 0::bigint) OVER () AS seq
    FROM mana_sync.sync_changes WHERE app_id = 'plain' ORDER BY epoch, xact, seq;
COMMIT;
SELECT record_id FROM mana_sync.changes_since('ada', 'plain');

-- What is rolled back was never there.
BEGIN;
SELECT count(mana_sync.record_change('undo', 'items', 'one', 'ada', NULL, 'insert', 'phone'));
SAVEPOINT s;
SELECT count(mana_sync.record_change('undo', 'items', 'two', 'ada', NULL, 'insert', 'phone'));
ROLLBACK TO s;
SELECT count(mana_sync.record_change('undo', 'items', 'three', 'ada', NULL, 'insert', 'phone'));
COMMIT;
BEGIN;
SELECT count(mana_sync.record_change('undo', 'items', 'four', 'ada', NULL, 'insert', 'phone'));
ROLLBACK;
SELECT record_id FROM mana_sync.changes_since('ada', 'undo');

-- Prepared, as a driver calls it: the plan outlives a change of the table.
PREPARE push (text, jsonb) AS
    SELECT count(mana_sync.record_change('prep', 'items', $1, 'ada', NULL, 'insert', 'phone', $2));
EXECUTE push ('one', '{}');
RESET ROLE;
CREATE INDEX sync_changes_extra ON mana_sync.sync_changes (client_id);
SET ROLE regress_app;
EXECUTE push ('two', '{}');
RESET ROLE;
DROP INDEX mana_sync.sync_changes_extra;
SET ROLE regress_app;
EXECUTE push ('three', '{}');
SELECT record_id FROM mana_sync.changes_since('ada', 'prep');
DEALLOCATE push;

-- The longest keys fit into every index at once, also where they cannot be compressed.
CREATE FUNCTION pg_temp.long(n int) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(md5((1000 * n + i)::text), '') FROM generate_series(1, 16) AS i
$$;
SELECT count(mana_sync.record_change(pg_temp.long(1), pg_temp.long(2), pg_temp.long(3), pg_temp.long(4), pg_temp.long(5),
                                     'insert', pg_temp.long(6), space_ids => ARRAY[pg_temp.long(5)])) AS recorded,
       length(pg_temp.long(1)) AS bytes;
SELECT length(record_id) FROM mana_sync.changes_since(pg_temp.long(7), pg_temp.long(1), space_ids => ARRAY[pg_temp.long(5)]);

-- Nothing is written where nothing may be.
BEGIN READ ONLY;
SELECT * FROM outcome($$ SELECT mana_sync.record_change('todo', 'items', 'ro', 'ada', NULL, 'insert', 'phone') $$) \gx
ROLLBACK;

RESET ROLE;
-- A superuser, whom row security does not hold, writes no row that is no change either.
SELECT o.code, o.message FROM (VALUES ('', 'insert'), ('ada', 'upsert'), ('ada', '')) AS row (author, op),
    outcome(format('INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id) VALUES (%L, %L, %L, %L, %L, %L)',
                   'todo', 'items', 'r', row.author, row.op, 'phone')) AS o;
SELECT mana_sync.revoke_access('regress_app') \g /dev/null
DROP EXTENSION mana_sync;
