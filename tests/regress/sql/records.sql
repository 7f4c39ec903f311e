-- records, record_history and the aggregate merge_changes: what a record looks like after its changes, and how it came to it.
CREATE EXTENSION mana_sync;
SELECT mana_sync.grant_access('regress_app') \g /dev/null
SET timezone = 'UTC';
SET datestyle = 'ISO';
\pset null NULL

-- A record of ada's as a plain role sees it.
CREATE FUNCTION show(record text, spaces text[] DEFAULT '{}', OUT space_id text, OUT data jsonb, OUT field_timestamps jsonb,
                     OUT deleted_at timestamptz, OUT updated_at timestamptz)
    RETURNS SETOF record LANGUAGE sql AS $$
    SELECT space_id, data, field_timestamps, deleted_at, updated_at
    FROM mana_sync.records('ada', 'todo', 'items', record, true, spaces)
$$;

-- == The latest write of each field wins, in whatever order they were recorded
CALL put('milk', 'insert', '{"title": "Milk", "done": false, "createdAt": "2025-03-01T08:00:00Z"}');
CALL put('milk', 'update', '{"title": "Oat milk"}', '{"title": "2025-03-01T09:00:00Z"}');
CALL put('milk', 'update', '{"title": "Soy milk", "done": true}', '{"title": "2025-03-01T08:30:00Z", "done": "2025-03-01T08:30:00Z"}');
SET ROLE regress_app;
SELECT * FROM show('milk');
SELECT table_name, record_id, data FROM mana_sync.records('ada', 'todo');
RESET ROLE;

-- == Ties: of two writes of one time, the later in the log
CALL put('tie', 'insert', '{"a": 1, "b": 1}');
CALL put('tie', 'update', '{"a": 2}', '{"a": "2025-03-01T12:00:00Z"}');
CALL put('tie', 'update', '{"a": 3}', '{"a": "2025-03-01T13:00:00+01:00"}');
-- A delete of that time kills what is before it in the log, and nothing behind it.
CALL put('tie2', 'insert', '{"a": 1}');
CALL put('tie2', 'delete');
CALL put('tie2', 'insert', '{"b": 2}');
CALL put('tie3', 'insert', '{"a": 1}');
CALL put('tie3', 'delete');
SELECT * FROM show('tie');
SELECT * FROM show('tie2');
SELECT * FROM show('tie3');

-- == Clocks: instants, not strings
CALL put('clock', 'insert', '{"a": 1, "b": 1, "c": 1, "updatedAt": "2025-03-01T08:00:05.500Z"}');
-- Half a second earlier, although the text sorts behind the other.
CALL put('clock', 'update', '{"a": 2}', '{"a": "2025-03-01T08:00:05Z"}');
-- The same in another zone; and nanoseconds count.
CALL put('clock', 'update', '{"b": 2}', '{"b": "2025-03-01T09:00:05.6+01:00"}');
CALL put('clock', 'update', '{"c": 2}', '{"c": "2025-03-01T08:00:06.000000002Z"}');
CALL put('clock', 'update', '{"c": 3}', '{"c": "2025-03-01T08:00:06.000000001Z"}');
SELECT * FROM show('clock');
-- What cannot be read falls to the next rule: of an insert, updatedAt, createdAt, the time of recording; of a field, the insert's;
-- of an update, that of recording.
CALL put('rule1', 'insert', '{"updatedAt": "yesterday", "createdAt": "2025-03-01T08:00:00Z"}');
CALL put('rule2', 'insert', '{"updatedAt": 1740816000, "createdAt": null}');
CALL put('rule3', 'insert', '{"a": 1, "b": 2, "createdAt": "2025-03-01T08:00:00Z"}', '{"a": "2025-03-01 09:00", "b": "2025-03-01T07:00:00Z", "x": "2025-03-01T11:00:00Z"}');
CALL put('rule4', 'update', '{"a": 1, "updatedAt": "2025-03-01T08:00:00Z"}', '{"a": 7}');
CALL put('rule5', 'update', '{"a": 1}', '["a"]');
CALL put('rule6', 'update', '{"a": 1}', NULL);
CALL put('rule7', 'insert', '{"a": 1}');
CALL put('rule7', 'delete', '{"deletedAt": "soon"}');
CALL put('rule8', 'insert', '{"a": 1}');
CALL put('rule8', 'delete', '{"deletedAt": "2025-03-01T11:00:00Z", "updatedAt": "2025-03-01T12:01:00Z"}');
SELECT s.* FROM generate_series(1, 8) AS n, show('rule' || n) AS s ORDER BY n;

-- == A clock that is more than five minutes ahead of the server's counts as the time of recording
CALL put('ahead', 'insert', '{"a": 1, "b": 1, "updatedAt": "2025-03-01T11:00:00Z"}');
CALL put('ahead', 'update', '{"a": "five minutes ahead", "b": "more"}', '{"a": "2025-03-01T12:05:00Z", "b": "2025-03-01T12:05:00.001Z"}');
CALL put('ahead', 'update', '{"a": "next minute", "b": "next minute"}', '{"a": "2025-03-01T12:01:00Z", "b": "2025-03-01T12:01:00Z"}', '2025-03-01T12:01:00Z');
CALL put('ahead2', 'insert', '{"updatedAt": "2099-01-01T00:00:00Z", "createdAt": "2025-03-01T08:00:00Z"}');
CALL put('ahead3', 'insert', '{"a": 1}', '{}', '2025-03-01T12:00:01Z');
CALL put('ahead3', 'delete', '{"deletedAt": "2099-01-01T00:00:00Z"}');
SELECT * FROM show('ahead');
SELECT * FROM show('ahead2');
SELECT * FROM show('ahead3');

-- == Deletes: what is not later than the latest one is dead
CALL put('gone', 'insert', '{"a": 1, "b": 1}', '{}', '2025-03-01T08:00:00Z');
CALL put('gone', 'delete', '{"deletedAt": "2025-03-01T10:00:00Z"}');
SELECT * FROM show('gone');
-- A delete that comes late is not the latest one; an update after a delete does not bring the record back,
CALL put('gone', 'delete', '{"deletedAt": "2025-03-01T09:00:00Z"}');
CALL put('gone', 'update', '{"b": 2}', '{"b": "2025-03-01T11:00:00Z"}');
SELECT * FROM show('gone');
-- an insert does, with the writes after the delete and none from before it.
CALL put('gone', 'insert', '{"c": 3, "createdAt": "2025-03-01T10:30:00Z"}');
SELECT * FROM show('gone');
-- An insert later than the delete whose fields are all earlier: the record lives, with nothing in it.
CALL put('empty', 'delete', '{"deletedAt": "2025-03-01T10:00:00Z"}');
CALL put('empty', 'insert', '{"a": 1}', '{"a": "2025-03-01T09:00:00Z"}', '2025-03-01T10:00:01Z');
SELECT * FROM show('empty');
-- A record of which nothing is known but its delete.
CALL put('never', 'delete', '{"deletedAt": "2025-03-01T10:00:00Z"}');
SELECT * FROM show('never');
-- Updates without an insert are a record: the insert may be another reader's. Without a field they are nothing.
CALL put('update', 'update', '{"a": 1}', '{"a": "2025-03-01T10:00:00Z"}');
CALL put('nothing', 'update', '{}', '{"a": "2025-03-01T10:00:00Z"}');
CALL put('nothing', 'update');
SELECT * FROM show('update');
SELECT * FROM show('nothing');

-- == Data that is no object has no fields; null is a value
CALL put('odd1', 'insert', NULL);
CALL put('odd2', 'insert', '"text"');
CALL put('odd3', 'insert', '[{"a": 1}]');
CALL put('odd4', 'insert', 'null');
CALL put('odd5', 'update', '[1]');
CALL put('odd6', 'update', '7');
CALL put('odd7', 'insert', '{"a": null, "": {"b": [1.50, null]}}');
CALL put('odd8', 'insert', '{"a": 1}');
CALL put('odd8', 'update', '{"a": null}');
CALL put('odd8', 'insert', '"text"');
SELECT n, s.data, s.field_timestamps, s.deleted_at FROM generate_series(1, 8) AS n LEFT JOIN LATERAL show('odd' || n) AS s ON true ORDER BY n;

-- == Which records
CALL put('note', 'insert', '{"text": "Hi"}', tab => 'notes');
CALL put('milk', 'insert', '{"text": "of another table"}', tab => 'notes');
CALL put('milk', 'insert', '{"text": "of another app"}', app => 'shop');
SET ROLE regress_app;
SELECT table_name, record_id, data FROM mana_sync.records('ada', 'todo', 'notes') ORDER BY record_id;
SELECT table_name, record_id, data FROM mana_sync.records('ada', 'todo', record_id => 'milk') ORDER BY table_name;
SELECT table_name, record_id, data FROM mana_sync.records('ada', 'shop');
SELECT count(*) FROM mana_sync.records('ada', 'todo', 'no such table');
SELECT count(*) FROM mana_sync.records('ada', 'todo', 'items', 'no such record');
-- Empty texts are no filter, as NULL is.
SELECT count(*) = (SELECT count(*) FROM mana_sync.records('ada', 'todo')) AS same FROM mana_sync.records('ada', 'todo', '', '');
SELECT count(*) = (SELECT count(*) FROM mana_sync.records('ada', 'todo')) AS same FROM mana_sync.records('ada', 'todo', NULL, NULL, NULL);
-- Deleted ones only if asked for.
SELECT record_id, deleted_at FROM mana_sync.records('ada', 'todo', include_deleted => true) WHERE deleted_at IS NOT NULL ORDER BY record_id COLLATE "C";
SELECT count(*) FROM mana_sync.records('ada', 'todo') WHERE deleted_at IS NOT NULL;
SELECT record_id, deleted_at FROM mana_sync.records('ada', 'todo', 'items', 'never');
-- One record is the same as it is among all.
SELECT count(*) AS different
    FROM mana_sync.records('ada', 'todo', include_deleted => true) AS r
    WHERE r IS DISTINCT FROM (SELECT o FROM mana_sync.records('ada', 'todo', r.table_name, r.record_id, true) AS o);
RESET ROLE;

-- == Spaces: own rows wherever they are, those of others in the spaces of the call
CALL put('shared', 'insert', '{"title": "ben private"}', '{}', '2025-03-01T08:00:00Z', 'ben');
CALL put('shared', 'insert', '{"title": "ada private", "a": 1}', '{}', '2025-03-01T09:00:00Z', 'ada');
CALL put('shared', 'insert', '{"title": "ben home", "b": 1}', '{}', '2025-03-01T10:00:00Z', 'ben', 'home');
CALL put('shared', 'insert', '{"title": "cyd work", "c": 1}', '{}', '2025-03-01T11:00:00Z', 'cyd', 'work');
CALL put('shared', 'update', '{"a": 2}', '{"a": "2025-03-01T10:30:00Z"}', '2025-03-01T12:00:00Z', 'ada', 'home');
SET ROLE regress_app;
CREATE TEMPORARY VIEW readers AS
    SELECT * FROM (VALUES ('ada', '{}'::text[]), ('ada', '{home}'), ('ada', '{work,home}'), ('ben', '{}'), ('ben', '{home}'), ('cyd', '{home}'), ('eve', '{}'),
                          ('eve', '{home,work}'), ('eve', ARRAY['work', 'work', NULL, ''])) AS v (who, spaces);
SELECT v.who, v.spaces, r.space_id, r.data
    FROM readers AS v LEFT JOIN LATERAL mana_sync.records(v.who, 'todo', 'items', 'shared', space_ids => v.spaces) AS r ON true;
SELECT count(*) AS different FROM readers AS v
    WHERE (SELECT r FROM mana_sync.records(v.who, 'todo', 'items', 'shared', space_ids => v.spaces) AS r)
        IS DISTINCT FROM (SELECT r FROM mana_sync.records(v.who, 'todo', space_ids => v.spaces) AS r WHERE r.record_id = 'shared');
RESET ROLE;
-- The space is that of the latest living write; a private one moves the record back.
CALL put('moves', 'insert', '{"a": 1}', '{}', '2025-03-01T08:00:00Z');
CALL put('moves', 'update', '{"b": 1}', '{}', '2025-03-01T09:00:00Z', space => 'home');
SELECT * FROM show('moves');
CALL put('moves', 'update', '{"b": 2}', '{"b": "2025-03-01T08:30:00Z"}', space => 'work');
SELECT space_id, data FROM show('moves');
CALL put('moves', 'delete', '{"deletedAt": "2025-03-01T10:00:00Z"}', space => 'work');
SELECT space_id, data, deleted_at FROM show('moves');
CALL put('moves', 'insert', '{"c": 1, "createdAt": "2025-03-01T11:00:00Z"}');
SELECT * FROM show('moves');

-- == The scope
SET ROLE regress_app;
SELECT count(*) FROM mana_sync.sync_changes;
SELECT * FROM outcome('SELECT * FROM mana_sync.records()');
SELECT * FROM outcome($$ SELECT * FROM mana_sync.records(NULL, 'todo') $$);
SELECT * FROM outcome($$ SELECT * FROM mana_sync.records('', 'todo') $$);
SELECT * FROM outcome($$ SELECT * FROM mana_sync.records('ada') $$);
SELECT * FROM outcome($$ SELECT * FROM mana_sync.records('ada', '') $$);
SELECT * FROM outcome($$ SELECT * FROM mana_sync.records('ada', 'todo', space_ids => '{"a,b"}') $$);
SELECT * FROM outcome($$ SELECT mana_sync.record_history(NULL, 'items', 'milk', 'ada') $$);
SELECT * FROM outcome($$ SELECT mana_sync.record_history('todo', '', 'milk', 'ada') $$);
SELECT * FROM outcome($$ SELECT mana_sync.record_history('todo', 'items', NULL, 'ada') $$);
SELECT * FROM outcome($$ SELECT mana_sync.record_history('todo', 'items', 'milk', '') $$);
SELECT * FROM outcome($$ SELECT mana_sync.record_history('todo', 'items', 'milk') $$);
BEGIN;
SELECT mana_sync.with_scope('ada', '{home}') \g /dev/null
SELECT data FROM mana_sync.records(app_id => 'todo', record_id => 'shared');
SELECT data FROM mana_sync.records('ada', 'todo', record_id => 'shared', space_ids => '{}');
SELECT count(*) FROM mana_sync.record_history('todo', 'items', 'shared');
SELECT count(*) FROM mana_sync.record_history('todo', 'items', 'shared', 'ada', '{}');
SELECT * FROM outcome($$ SELECT * FROM mana_sync.records('ben', 'todo') $$);
SELECT * FROM outcome($$ SELECT mana_sync.record_history('todo', 'items', 'milk', 'ben') $$);
SELECT * FROM outcome($$ SELECT * FROM mana_sync.records('', 'todo') $$);
SELECT code FROM outcome($$ SELECT * FROM mana_sync.records('ada') $$);
-- An error after the scope was entered.
SELECT code FROM outcome($$ SELECT 1 / (count(*) - count(*)) FROM mana_sync.records('ada', 'todo', space_ids => '{work}') $$);
SELECT current_setting('app.current_user_id') AS "user", current_setting('app.current_user_space_ids') AS spaces;
COMMIT;
SELECT count(*) AS rows, current_setting('app.current_user_id') AS "user" FROM mana_sync.sync_changes;
SELECT count(*) > 10 AS ada FROM mana_sync.records('ada', 'todo');
SELECT current_setting('app.current_user_id') AS "user", current_setting('app.current_user_space_ids') AS spaces;
RESET ROLE;
-- A role that passes by row security gets one user's records too.
SELECT data FROM mana_sync.records('eve', 'todo', record_id => 'shared', space_ids => '{work}');
SELECT count(*) FROM mana_sync.records('eve', 'todo');

-- == record_history: a row for each field that was written and each delete, by time
CALL put('life', 'insert', '{"title": "Milk", "done": false, "createdAt": "2025-03-01T08:00:00Z"}', space => 'home', client => 'phone');
CALL put('life', 'update', '{"title": "Oat milk"}', '{"title": "2025-03-01T09:00:00Z"}', who => 'ben', space => 'home', client => 'laptop');
CALL put('life', 'delete', '{"deletedAt": "2025-03-01T10:00:00Z"}', space => 'home');
CALL put('life', 'insert', '{"title": "Tea", "createdAt": "2025-03-01T11:00:00Z"}', space => 'home');
-- Late arrivals: one from before the delete, and one from after it.
CALL put('life', 'update', '{"title": "Soy milk", "done": true}', '{"title": "2025-03-01T08:30:00Z", "done": "2025-03-01T09:30:00Z"}', '2025-03-01T13:00:00Z', space => 'home', client => 'tablet');
CALL put('life', 'update', '{}', space => 'home');
CALL put('life', 'insert', '{"title": "ben private"}', who => 'ben');
SET ROLE regress_app;
SELECT changed_at, op, field, old_value, new_value, user_id, client_id, space_id, recorded_at
    FROM mana_sync.record_history('todo', 'items', 'life', 'ada', '{home}');
-- Ada alone, and somebody else.
SELECT op, field, old_value, new_value FROM mana_sync.record_history('todo', 'items', 'life', 'ada', '{}');
SELECT count(*) FROM mana_sync.record_history('todo', 'items', 'life', 'eve');
-- Inserts without fields, and data that is none.
SELECT op, field, new_value FROM mana_sync.record_history('todo', 'items', 'odd1', 'ada');
SELECT op, field, new_value FROM mana_sync.record_history('todo', 'items', 'odd5', 'ada');
SELECT op, field, old_value, new_value FROM mana_sync.record_history('todo', 'items', 'odd8', 'ada');
-- The ids are those of the changes, and the last write of a field is what the record has.
BEGIN;
SELECT mana_sync.with_scope('ada', '{home}') \g /dev/null
SELECT count(*) AS unknown FROM mana_sync.record_history('todo', 'items', 'life') AS h
    WHERE NOT EXISTS (SELECT FROM mana_sync.sync_changes AS c WHERE c.id = h.change_id AND c.actor IS NOT DISTINCT FROM h.actor);
SELECT r.data = (SELECT jsonb_object_agg(h.field, h.new_value) FROM mana_sync.record_history('todo', 'items', 'life') AS h WHERE h.changed_at > '2025-03-01T10:00:00Z') AS same
    FROM mana_sync.records(app_id => 'todo', record_id => 'life') AS r;
COMMIT;
RESET ROLE;

-- == merge_changes: the same in plain SQL
SET ROLE regress_app;
BEGIN;
SELECT mana_sync.with_scope('ada', '{home}') \g /dev/null
CREATE TEMPORARY VIEW merged AS
    SELECT table_name, record_id,
           mana_sync.merge_changes(op, data, field_timestamps, created_at, epoch, xact, seq, space_id) AS record
    FROM mana_sync.sync_changes WHERE app_id = 'todo' GROUP BY table_name, record_id;
SELECT (record).* FROM merged WHERE record_id = 'milk' AND table_name = 'items';
SELECT count(*) AS records, count(record) AS not_null FROM merged;
SELECT count(*) AS different
    FROM (SELECT table_name, record_id, (record).* FROM merged WHERE (record).updated_at IS NOT NULL) AS m
    FULL JOIN mana_sync.records(app_id => 'todo', include_deleted => true) AS r USING (table_name, record_id)
    WHERE ROW(m.space_id, m.data, m.field_timestamps, m.deleted_at, m.updated_at)
          IS DISTINCT FROM ROW(r.space_id, r.data, r.field_timestamps, r.deleted_at, r.updated_at);
-- As a window: the record after each of its changes.
SELECT op, (mana_sync.merge_changes(op, data, field_timestamps, created_at, epoch, xact, seq, space_id) OVER (ORDER BY epoch, xact, seq)).data
    FROM mana_sync.sync_changes WHERE app_id = 'todo' AND table_name = 'items' AND record_id = 'life' ORDER BY epoch, xact, seq;
-- With FILTER: as one device knows it; over nothing, and over updates without fields: NULL.
SELECT (mana_sync.merge_changes(op, data, field_timestamps, created_at, epoch, xact, seq, space_id) FILTER (WHERE client_id = 'laptop')).data AS laptop,
       mana_sync.merge_changes(op, data, field_timestamps, created_at, epoch, xact, seq, space_id) FILTER (WHERE false) IS NULL AS none
    FROM mana_sync.sync_changes WHERE app_id = 'todo' AND table_name = 'items' AND record_id = 'life';
SELECT mana_sync.merge_changes(op, data, field_timestamps, created_at, epoch, xact, seq, space_id) IS NULL AS none FROM mana_sync.sync_changes WHERE false;
COMMIT;
-- Values that are no row of the log.
SELECT mana_sync.merge_changes('insert', '{"a": 1}', NULL, '2025-03-01T12:00:00Z', 1, '1', 1, NULL);
SELECT mana_sync.merge_changes('insert', '{"a": 1}', '[]', '2025-03-01T12:00:00Z', 1, '1', 1, '');
SELECT mana_sync.merge_changes('update', '{}', '{}', '2025-03-01T12:00:00Z', 1, '1', 1, NULL);
-- A change without an op is none: an outer join's.
SELECT mana_sync.merge_changes(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT * FROM outcome($$ SELECT mana_sync.merge_changes('insert', NULL, NULL, NULL, 1, '1', 1, NULL) $$);
SELECT * FROM outcome($$ SELECT mana_sync.merge_changes('insert', NULL, NULL, now(), NULL, '1', 1, NULL) $$);
SELECT * FROM outcome($$ SELECT mana_sync.merge_changes('insert', NULL, NULL, now(), 1, NULL, 1, NULL) $$);
SELECT * FROM outcome($$ SELECT mana_sync.merge_changes('insert', NULL, NULL, now(), 1, '1', NULL, NULL) $$);
SELECT * FROM outcome($$ SELECT mana_sync.merge_changes('upsert', NULL, NULL, now(), 1, '1', 1, NULL) $$);
-- The same change twice is the change once; infinite times are before and after all others.
SELECT mana_sync.merge_changes('update', '{"a": 1}', '{}', '2025-03-01T12:00:00Z', 1, '1', 1, NULL) FROM generate_series(1, 2);
SELECT (mana_sync.merge_changes('update', jsonb_build_object('a', n), '{}', t, 1, '1', n, NULL)).*
    FROM (VALUES (1, 'infinity'::timestamptz), (2, '2025-03-01T12:00:00Z'), (3, '-infinity')) AS v (n, t);
-- Nobody calls its parts by hand: SQL has no value of type internal. For PostgreSQL 14 a NULL can be of that type, and is
-- not supported (0A000). For newer versions there is no such function (42883).
\pset format unaligned
SELECT o.code IN ('0A000', '42883') AS refused, call FROM unnest(ARRAY[
    $$SELECT mana_sync.merge_change(NULL, 'insert', '{}', '{}', now(), 1, '1', 1, NULL)$$,
    $$SELECT mana_sync.merge_change('', 'insert', '{}', '{}', now(), 1, '1', 1, NULL)$$,
    $$SELECT mana_sync.merge_combine(NULL, NULL)$$,
    $$SELECT mana_sync.merge_serialize(NULL)$$,
    $$SELECT mana_sync.merge_deserialize('\x00', NULL)$$,
    $$SELECT mana_sync.merge_result(NULL)$$]) WITH ORDINALITY AS bad (call, n),
    LATERAL outcome(bad.call) AS o ORDER BY n;
SELECT o.code, o.message, call FROM unnest(ARRAY[
    $$SELECT mana_sync.merge_result(1::bigint)$$,
    $$CREATE AGGREGATE pg_temp.mine(text, jsonb, jsonb, timestamptz, int, xid8, bigint, text) (SFUNC = mana_sync.merge_change, STYPE = internal)$$]) WITH ORDINALITY AS bad (call, n),
    LATERAL outcome(bad.call) AS o ORDER BY n;
\pset format aligned
RESET ROLE;

-- == Parallel workers give the same
-- Numbers, texts and nested values, in records that several workers see parts of.
CREATE TABLE changes AS
    SELECT CASE WHEN n % 97 = 0 THEN 'delete' WHEN n % 5 = 0 THEN 'insert' ELSE 'update' END AS op,
           jsonb_build_object('f' || n % 7, n / 8.0, 'g' || n % 3, jsonb_build_object('n', n, 't', repeat('x', n % 50)), 'h', CASE WHEN n % 2 = 0 THEN n::text END) AS data,
           jsonb_build_object('h', '2025-03-01T08:' || lpad((n * 37 % 60)::text, 2, '0') || ':00Z') AS field_timestamps,
           timestamptz '2025-03-01T12:00:00Z' + n * 7919 % 10000 * interval '1 second' AS created_at,
           1 AS epoch, (n * 31 % 20000)::text::xid8 AS xact, n::bigint AS seq, CASE n % 4 WHEN 0 THEN 'home' WHEN 1 THEN 'work' END AS space_id, n % 50 AS record
    FROM generate_series(1, 20000) AS n;
SET max_parallel_workers_per_gather = 0;
CREATE TABLE serial AS
    SELECT record, mana_sync.merge_changes(op, data, field_timestamps, created_at, epoch, xact, seq, space_id) AS merged FROM changes GROUP BY record;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 4;
SELECT set_config(name, 'on', false) AS forced
    FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
CREATE FUNCTION plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN (COSTS OFF) ' || query; END $$;
SELECT count(*) FILTER (WHERE p LIKE '%Gather%') > 0 AS gather, count(*) FILTER (WHERE p LIKE '%Partial%Aggregate%') > 0 AS partial
    FROM plan('SELECT record, mana_sync.merge_changes(op, data, field_timestamps, created_at, epoch, xact, seq, space_id) FROM changes GROUP BY record') AS p;
CREATE TABLE parallel AS
    SELECT record, mana_sync.merge_changes(op, data, field_timestamps, created_at, epoch, xact, seq, space_id) AS merged FROM changes GROUP BY record;
SELECT count(*) AS records, count(*) FILTER (WHERE s.merged IS DISTINCT FROM p.merged) AS different FROM serial AS s FULL JOIN parallel AS p USING (record);
-- Sorted instead of hashed; and all of it as one record.
SET enable_hashagg = off;
SELECT count(*) AS different FROM serial AS s
    JOIN (SELECT record, mana_sync.merge_changes(op, data, field_timestamps, created_at, epoch, xact, seq, space_id) AS merged FROM changes GROUP BY record) AS p USING (record)
    WHERE s.merged IS DISTINCT FROM p.merged;
CREATE TABLE one AS
    SELECT mana_sync.merge_changes(op, data, field_timestamps, created_at, epoch, xact, seq, space_id) AS merged FROM changes;
SET max_parallel_workers_per_gather = 0;
SELECT mana_sync.merge_changes(op, data, field_timestamps, created_at, epoch, xact, seq, space_id) = (SELECT merged FROM one) AS same FROM changes;
-- A hash table that does not fit into memory.
RESET enable_hashagg;
SET work_mem = '64kB';
SET enable_sort = off;
SELECT count(*) AS groups, sum((merged).updated_at - timestamptz '2025-03-01T12:00:00Z') AS sum
    FROM (SELECT seq % 5000 AS record, mana_sync.merge_changes(op, data, field_timestamps, created_at, epoch, xact, seq, space_id) AS merged FROM changes GROUP BY 1) AS m;
RESET work_mem;
SELECT count(*) AS groups, sum((merged).updated_at - timestamptz '2025-03-01T12:00:00Z') AS sum
    FROM (SELECT seq % 5000 AS record, mana_sync.merge_changes(op, data, field_timestamps, created_at, epoch, xact, seq, space_id) AS merged FROM changes GROUP BY 1) AS m;
RESET ALL;

DROP TABLE changes, serial, parallel, one;
DROP FUNCTION show, plan;
DROP VIEW merged, readers;
SELECT mana_sync.revoke_access('regress_app') \g /dev/null
DROP EXTENSION mana_sync;
