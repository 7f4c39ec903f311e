-- push, pull and sync: whole bodies of requests and responses, in the wire format.
CREATE EXTENSION mana_sync;
SELECT mana_sync.grant_access('regress_app') \g /dev/null
-- A response, without the cursor; psql shows what else a client would get.
CREATE FUNCTION response(body json) RETURNS TABLE (response text) LANGUAGE sql AS $$
    SELECT jsonb_pretty(jsonb_set(body::jsonb - 'syncedUntil', '{serverChanges}',
        (SELECT coalesce(jsonb_agg(steady(change) ORDER BY n), '[]')
            FROM jsonb_array_elements(body::jsonb -> 'serverChanges') WITH ORDINALITY AS c (change, n))))
$$;
-- The ids that a device is sent, page by page, and its cursor then.
CREATE FUNCTION pages(who text, device text, spaces text[], since text DEFAULT NULL, OUT pages text, OUT next text)
    LANGUAGE plpgsql AS $$
DECLARE
    body json;
BEGIN
    next := since;
    LOOP
        body := mana_sync.pull(who, 'todo', since => next, client_id => device, page_size => 2, space_ids => spaces);
        pages := concat_ws(' | ', pages, coalesce((SELECT string_agg(change ->> 'id', ' ' ORDER BY n)
            FROM json_array_elements(body -> 'serverChanges') WITH ORDINALITY AS c (change, n)), '-'));
        next := body ->> 'syncedUntil';
        EXIT WHEN body ->> 'hasMore' = 'false';
    END LOOP;
END
$$;
SET ROLE regress_app;
\pset tuples_only on
\pset format unaligned

-- == A push, and the same push again, as a client does that got no answer
SELECT mana_sync.push('ada', 'todo', '{
    "clientId": "phone", "since": "", "changes": [
      {"eventId": "0190f5fe-7c00-7000-8000-000000000001", "table": "items", "id": "milk", "op": "insert",
       "data": {"title": "Milk", "price": 1.10, "tags": ["a", {"b": null}], "spaceId": "home"}},
      {"eventId": "0190f5fe-7c00-7000-8000-000000000002", "table": "items", "id": "milk", "op": "update", "spaceId": "home",
       "fields": {"title": {"value": "Oat milk", "at": "2026-01-01T10:00:00.5Z"},
                  "price": {"value": 12345678901234567890.10, "updatedAt": "2026-01-01T10:00:00Z"},
                  "done": {"value": null}},
       "actor": {"kind": "person", "n": 1e3}},
      {"eventId": "0190f5fe-7c00-7000-8000-000000000003", "table": "items", "id": "bread", "op": "delete",
       "deletedAt": "2026-01-01T11:00:00Z", "schemaVersion": 0}]}', space_ids => '{home}');
SELECT mana_sync.push('ada', 'todo', '{
    "clientId": "phone", "changes": [
      {"eventId": "0190f5fe-7c00-7000-8000-000000000003", "table": "items", "id": "bread", "op": "delete"},
      {"eventId": "0190f5fe-7c00-7000-8000-000000000004", "table": "items", "id": "jam", "op": "insert", "data": {}},
      {"eventId": "0190f5fe-7c00-7000-8000-000000000004", "table": "items", "id": "jam", "op": "insert", "data": {}}]}');
SELECT mana_sync.push('ada', 'todo', '{"changes": []}');

-- == What was stored
SELECT table_name, record_id, op, space_id, client_id, schema_version, data, field_timestamps, actor
    FROM mana_sync.changes_since('ada', 'todo', space_ids => '{home}');

-- == A pull: a device from the beginning gets everything, its own changes too
SELECT * FROM response(mana_sync.pull('ada', 'todo', client_id => 'phone', space_ids => '{home}'));
-- A member, who is not the author; a stranger.
SELECT json_array_length(mana_sync.pull('ben', 'todo', space_ids => '{home}') -> 'serverChanges');
SELECT * FROM response(mana_sync.pull('cyd', 'todo'));

-- == Pages
SELECT mana_sync.pull('ada', 'todo', page_size => 3) AS page \gset
SELECT :'page'::json ->> 'hasMore' AS more, json_array_length(:'page'::json -> 'serverChanges') AS changes;
SELECT :'page'::json ->> 'syncedUntil' AS p_since \gset
SELECT * FROM response(mana_sync.pull('ada', 'todo', since => :'p_since', page_size => 3));

-- == A pull that returns nothing moves the cursor, and is not sent what its client wrote
SELECT mana_sync.pull('ada', 'todo', client_id => 'phone', space_ids => '{home}') ->> 'syncedUntil' AS first \gset
SELECT mana_sync.push('ada', 'todo', '{"clientId": "phone", "changes": [
    {"table": "items", "id": "tea", "op": "insert", "data": {"title": "Tea"}}]}');
SELECT mana_sync.push('ada', 'todo', '{"clientId": "body", "changes": [
    {"eventId": "0190f5fe-7c00-7000-8000-000000000005", "table": "items", "id": "cake", "op": "insert", "data": {"title": "Cake"}}]}', client_id => 'tablet');
SELECT body ->> 'syncedUntil' > :'first' COLLATE "C" AS moved, body -> 'serverChanges' -> 0 ->> 'id' AS id,
       json_array_length(body -> 'serverChanges') AS changes
    FROM mana_sync.pull('ada', 'todo', since => :'first', client_id => 'phone', space_ids => '{home}') AS body;
-- In a space that is new to the device, its own changes come: it may have lost them with the space.
SELECT string_agg(change ->> 'id', ' ')
    FROM json_array_elements(mana_sync.pull('ada', 'todo', since => :'first', client_id => 'phone', space_ids => '{home,work}') -> 'serverChanges') AS change;
SELECT mana_sync.push('ada', 'todo', '{"clientId": "phone", "changes": [
    {"table": "items", "id": "report", "op": "insert", "data": {}, "spaceId": "work"}]}', space_ids => '{work}');
SELECT string_agg(change ->> 'id', ' ')
    FROM json_array_elements(mana_sync.pull('ada', 'todo', since => :'first', client_id => 'phone', space_ids => '{home,work}') -> 'serverChanges') AS change;
-- Another user's client of the same name is another client.
SELECT mana_sync.push('ben', 'todo', '{"clientId": "phone", "changes": [
    {"eventId": "0190f5fe-7c00-7000-8000-000000000006", "table": "items", "id": "beer", "op": "insert", "data": {}, "spaceId": "home"}]}', space_ids => '{home}');
SELECT string_agg(change ->> 'id', ' ')
    FROM json_array_elements(mana_sync.pull('ada', 'todo', since => :'first', client_id => 'phone', space_ids => '{home}') -> 'serverChanges') AS change;

-- Page after page of a walk that began without a cursor, a device is sent its own changes too; after it, it is not.
SELECT pages, next FROM pages('ada', 'phone', '{home}') \gset walk_
SELECT :'walk_pages';
SELECT mana_sync.push('ada', 'todo', '{"clientId": "phone", "changes": [
    {"eventId": "0190f5fe-7c00-7000-8000-000000000007", "table": "items", "id": "own", "op": "insert", "data": {}},
    {"eventId": "0190f5fe-7c00-7000-8000-000000000008", "table": "items", "id": "own", "op": "delete"},
    {"table": "items", "id": "own", "op": "delete"}]}');
SELECT pages FROM pages('ada', 'phone', '{home}', :'walk_next');
SELECT pages FROM pages('ada', 'tablet', '{home}', :'walk_next');
-- Leaving a space is noticed by a pull that returns nothing; rejoining it brings all of it again.
SELECT pages, next FROM pages('ben', 'laptop', '{home}') \gset ben_
SELECT :'ben_pages';
SELECT pages, next FROM pages('ben', 'laptop', '{}', :'ben_next') \gset ben_
SELECT :'ben_pages';
SELECT pages FROM pages('ben', 'laptop', '{home}', :'ben_next');

-- == Sync: a push and a pull
SELECT mana_sync.sync('ada', 'todo', jsonb_build_object('clientId', 'phone', 'since', :'first', 'changes', jsonb '[
    {"eventId": "0190f5fe-7c00-7000-8000-000000000009", "table": "items", "id": "salt", "op": "insert", "data": {}}]'),
    space_ids => '{home}') AS body \gset
SELECT * FROM response(:'body');
SELECT :'body'::json ->> 'syncedUntil' AS since \gset
-- The retry brings nothing more, and stores nothing more.
SELECT * FROM response(mana_sync.sync('ada', 'todo', jsonb_build_object('clientId', 'phone', 'since', :'since', 'changes', jsonb '[
    {"eventId": "0190f5fe-7c00-7000-8000-000000000009", "table": "items", "id": "salt", "op": "insert", "data": {}}]'),
    space_ids => '{home}'));
SELECT count(*) FROM mana_sync.changes_since('ada', 'todo') WHERE record_id = 'salt';

-- == In a transaction: what is rolled back is not there, what is written later comes later, and each comes once
BEGIN ISOLATION LEVEL REPEATABLE READ;
SAVEPOINT s;
SELECT mana_sync.sync('tom', 'todo', '{"changes": [{"table": "items", "id": "gone", "op": "delete"}]}') ->> 'syncedUntil' AS gone \gset
ROLLBACK TO s;
SELECT mana_sync.sync('tom', 'todo', '{"changes": [{"table": "items", "id": "kept", "op": "delete"}]}') ->> 'syncedUntil' AS kept \gset
SELECT count(mana_sync.push('tom', 'todo', '{"changes": [{"table": "items", "id": "later", "op": "delete"}]}'));
COMMIT;
SELECT pages FROM pages('tom', 'phone', '{}', :'gone');
SELECT pages FROM pages('tom', 'phone', '{}', :'kept');
SELECT pages FROM pages('tom', 'phone', '{}');
-- A cursor from a transaction that was rolled back as a whole.
BEGIN;
SELECT mana_sync.sync('tom', 'todo', '{"changes": [{"table": "items", "id": "gone", "op": "delete"}]}') ->> 'syncedUntil' AS gone \gset
ROLLBACK;
SELECT count(mana_sync.push('tom', 'todo', '{"changes": [{"table": "items", "id": "after", "op": "delete"}]}'));
SELECT pages FROM pages('tom', 'phone', '{}', :'gone') AS again;

-- == In a scope: no user is the scope's, and another one is an error; a call's user is its own for the call
BEGIN;
SELECT mana_sync.with_scope('tom', '{club}');
SELECT mana_sync.push(NULL, 'todo', '{"changes": [{"table": "items", "id": "ours", "op": "delete", "spaceId": "club"}]}');
SELECT mana_sync.sync(NULL, 'todo', '{"changes": []}') -> 'serverChanges' -> -1 ->> 'spaceId';
SELECT code, message FROM outcome($$ SELECT mana_sync.push('ada', 'todo', '{"changes": []}') $$);
SELECT code, message FROM outcome($$ SELECT mana_sync.pull('ada', 'todo') $$);
SELECT code, message FROM outcome($$ SELECT mana_sync.push(NULL, 'todo', '{"changes": [{"table": "items", "id": "x", "op": "delete", "spaceId": "home"}]}') $$);
SELECT current_setting('app.current_user_id'), current_setting('app.current_user_space_ids');
COMMIT;
SELECT count(*) FROM mana_sync.sync_changes;
-- Memberships that are not known: author integrity alone, unless strict_spaces is on.
SELECT mana_sync.push('tom', 'todo', '{"changes": [{"table": "items", "id": "guest", "op": "delete", "spaceId": "home"}]}');
RESET ROLE;
SET mana_sync.strict_spaces = on;
SET ROLE regress_app;
SELECT code, message FROM outcome($$ SELECT mana_sync.push('tom', 'todo', '{"changes": [{"table": "items", "id": "guest", "op": "delete", "spaceId": "home"}]}') $$);
RESET ROLE;
RESET mana_sync.strict_spaces;
SET ROLE regress_app;

-- == What was recorded without a changeset comes in the wire format too
SELECT count(mana_sync.record_change('todo', 'items', 'r', 'rob', NULL, op, 'c', d, t))
    FROM (VALUES ('update', NULL, NULL), ('update', '{"a": 1}', '{"a": "2026-01-01T00:00:00Z"}'), ('insert', NULL, NULL),
                 ('delete', NULL, NULL)) AS c (op, data, at),
         LATERAL (SELECT c.data::jsonb, c.at::jsonb) AS j (d, t);
SELECT jsonb_pretty(steady(change::jsonb) - 'eventId') FROM json_array_elements(mana_sync.pull('rob', 'todo') -> 'serverChanges') AS change;

-- == Bad input: nothing is stored
SELECT count(*) AS before FROM mana_sync.changes_since('ada', 'todo') \gset
\pset format aligned
\pset tuples_only off
SELECT o.code, o.message, o.detail
    FROM (VALUES
        ('NULL'), ('[]'), ('1'), ('{}'), ('{"changes": null}'), ('{"changes": {}}'), ('{"changes": [1]}'),
        ('{"changes": [], "clientId": 1}'), ('{"changes": [], "limit": 0}'), ('{"changes": [], "limit": 1.5}'), ('{"changes": [], "schemaVersion": 2}'),
        ('{"changes": [], "schemaVersion": "1"}'), ('{"changes": [], "schemaVersion": 1.5}'),
        ('{"changes": [], "schemaVersion": 99999999999999999999}'),
        ('{"changes": [{"table": "t", "id": "r", "op": "insert", "data": {}}, {"id": "r", "op": "insert"}]}'),
        ('{"changes": [{"table": 5, "id": "r", "op": "insert"}]}'),
        ('{"changes": [{"table": "t", "id": "", "op": "insert"}]}'),
        ('{"changes": [{"table": "t", "id": "r", "op": "upsert"}]}'),
        ('{"changes": [{"table": "t", "id": "r"}]}'),
        ('{"changes": [{"table": "t", "id": "r", "op": "insert"}]}'),
        ('{"changes": [{"table": "t", "id": "r", "op": "insert", "data": []}]}'),
        ('{"changes": [{"table": "t", "id": "r", "op": "update", "fields": {"a": 1}}]}'),
        ('{"changes": [{"table": "t", "id": "r", "op": "update", "fields": {"a": {"value": 1, "at": 5}}}]}'),
        ('{"changes": [{"table": "t", "id": "r", "op": "update"}]}'),
        ('{"changes": [{"table": "t", "id": "r", "op": "update", "data": {"a": 1}}]}'),
        ('{"changes": [{"table": "t", "id": "r", "op": "delete", "deletedAt": 5}]}'),
        ('{"changes": [{"table": "t", "id": "r", "op": "delete", "eventId": "x"}]}'),
        ('{"changes": [{"table": "t", "id": "r", "op": "delete", "spaceId": 7}]}'),
        ('{"changes": [{"table": "t", "id": "r", "op": "delete", "schemaVersion": 7}]}'),
        ('{"changes": [{"table": "t", "id": "r", "op": "delete", "spaceId": "work"}]}'),
        ('{"changes": [{"table": "t", "id": "r", "op": "delete"}, {"eventId": "0190f5fe-7c00-7000-8000-000000000003", "table": "items", "id": "milk", "op": "delete"}]}')
    ) AS bad (changeset)
    CROSS JOIN LATERAL outcome(format('SELECT mana_sync.push(%L, %L, %L, space_ids => %L)',
        'ada', 'todo', nullif(changeset, 'NULL'), '{home}')) AS o;
SELECT o.code, o.message, o.detail
    FROM (VALUES
        ($$mana_sync.push('', 'todo', '{"changes": []}')$$), ($$mana_sync.push('ada', '', '{"changes": []}')$$),
        ($$mana_sync.push(NULL, 'todo', '{"changes": []}')$$),
        (format($$mana_sync.push('ada', 'todo', '{"changes": [{"table": "t", "id": "%s", "op": "delete"}]}')$$, repeat('x', 513))),
        (format($$mana_sync.push('ada', '%s', '{"changes": []}')$$, repeat('x', 513))),
        ($$mana_sync.push('ben', 'todo', '{"changes": [{"eventId": "0190f5fe-7c00-7000-8000-000000000003", "table": "items", "id": "bread", "op": "delete"}]}')$$),
        ($$mana_sync.pull('ada', NULL)$$), ($$mana_sync.pull('ada', 'todo', page_size => 0)$$),
        ($$mana_sync.pull('ada', 'todo', since => '1a1broken')$$), ($$mana_sync.pull(NULL, 'todo')$$),
        ($$mana_sync.sync('ada', 'todo', '{"since": "1a1broken", "changes": [{"table": "t", "id": "r", "op": "delete"}]}')$$),
        ($$mana_sync.sync('ada', 'todo', '{"since": 5, "changes": []}')$$)
    ) AS bad (call)
    CROSS JOIN LATERAL outcome('SELECT ' || call) AS o;
SELECT count(*) - :before AS stored FROM mana_sync.changes_since('ada', 'todo');

-- == A later version, where readers understand it
SET mana_sync.max_schema_version = 3;
SELECT mana_sync.push('ada', 'todo', '{"schemaVersion": 2, "changes": [
    {"table": "v", "id": "a", "op": "delete"}, {"table": "v", "id": "b", "op": "delete", "schemaVersion": 3}]}');
SELECT record_id, schema_version FROM mana_sync.changes_since('ada', 'todo', 'v');
RESET mana_sync.max_schema_version;

RESET ROLE;

-- == The trigger function of the log is for the log only: on another table it would take its columns for the log's
CREATE TABLE other (a int);
CREATE TABLE sync_changes (a int, b int, c int, d int, e int, f int, g int, h int, i int, j int, k int, l int);
CREATE TRIGGER t BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION mana_sync.note_change();
CREATE TRIGGER t BEFORE INSERT ON sync_changes FOR EACH ROW EXECUTE FUNCTION mana_sync.note_change();
CREATE TRIGGER u AFTER UPDATE ON other FOR EACH STATEMENT EXECUTE FUNCTION mana_sync.note_change();
SELECT o.code, o.message
    FROM (VALUES ('INSERT INTO other VALUES (1)'), ('UPDATE other SET a = 1'), ('SELECT mana_sync.note_change()'),
                 ('INSERT INTO sync_changes VALUES (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)')) AS bad (call)
    CROSS JOIN LATERAL outcome(call) AS o;
DROP TABLE other, sync_changes;

DROP FUNCTION response, pages;
DROP EXTENSION mana_sync;
