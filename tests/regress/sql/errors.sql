-- Bad calls, what each gets, and that none of them wrote anything.
CREATE EXTENSION mana_sync;
SELECT mana_sync.grant_access('regress_app') \g /dev/null
CREATE TABLE bad (n serial, call text, scope text);
GRANT SELECT ON bad TO regress_app;
INSERT INTO bad (call, scope) VALUES
    ($$SELECT mana_sync.record_change(NULL, 'items', 'r', 'ada', NULL, 'insert', 'phone')$$, NULL),
    ($$SELECT mana_sync.record_change('', 'items', 'r', 'ada', NULL, 'insert', 'phone')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', NULL, 'r', 'ada', NULL, 'insert', 'phone')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', '', 'r', 'ada', NULL, 'insert', 'phone')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', 'items', NULL, 'ada', NULL, 'insert', 'phone')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', 'items', '', 'ada', NULL, 'insert', 'phone')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', 'items', 'r', '', NULL, 'insert', 'phone')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', 'items', 'r', NULL, NULL, 'insert', 'phone')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', NULL, NULL, 'phone')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', NULL, '', 'phone')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', NULL, 'upsert', 'phone')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', NULL, 'INSERT', 'phone')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', NULL, 'insert ', 'phone')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', 'home', 'insert', 'phone', space_ids => '{work}')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', 'a,b', 'insert', 'phone', space_ids => '{"a,b"}')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', NULL, 'insert', 'phone', id => '0190f5fe-7c00-7000-8000-000000000001')$$, NULL),
    ($$SELECT mana_sync.record_change(repeat('x', 513), 'items', 'r', 'ada', NULL, 'insert', 'phone')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', repeat('x', 513), 'r', 'ada', NULL, 'insert', 'phone')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', 'items', repeat('x', 513), 'ada', NULL, 'insert', 'phone')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', 'items', 'r', repeat('x', 513), NULL, 'insert', 'phone')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', repeat('x', 513), 'insert', 'phone')$$, NULL),
    ($$SELECT mana_sync.record_change('todo', 'items', 'r', 'ben', NULL, 'insert', 'phone')$$, 'ada'),
    ($$SELECT * FROM mana_sync.changes_since()$$, NULL),
    ($$SELECT * FROM mana_sync.changes_since('ada')$$, NULL),
    ($$SELECT * FROM mana_sync.changes_since('ada', '')$$, NULL),
    ($$SELECT * FROM mana_sync.changes_since('', 'todo')$$, NULL),
    ($$SELECT * FROM mana_sync.changes_since(NULL, 'todo')$$, NULL),
    ($$SELECT * FROM mana_sync.changes_since('ben', 'todo')$$, 'ada'),
    ($$SELECT * FROM mana_sync.changes_since('ada', 'todo', page_size => 0)$$, NULL),
    ($$SELECT * FROM mana_sync.changes_since('ada', 'todo', page_size => -2147483648)$$, NULL),
    ($$SELECT * FROM mana_sync.changes_since('ada', 'todo', space_ids => '{"a,b"}')$$, NULL),
    ($$SELECT * FROM mana_sync.changes_since('ada', 'todo', since => '1a1')$$, NULL),
    ($$SELECT * FROM mana_sync.changes_since('ada', 'todo', since => '1a1 and more')$$, NULL),
    ($$SELECT * FROM mana_sync.changes_since('ada', 'todo', since => '1a2')$$, NULL),
    ($$SELECT mana_sync.with_scope(NULL)$$, NULL),
    ($$SELECT mana_sync.with_scope('')$$, NULL),
    ($$SELECT mana_sync.with_scope('ada', '{"a,b"}')$$, NULL),
    ($$INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id) VALUES ('todo', 'items', 'r', 'ben', 'insert', 'phone')$$, 'ada'),
    ($$INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id) VALUES ('todo', 'items', 'r', 'ada', 'insert', 'phone')$$, NULL),
    ($$INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id) VALUES ('todo', 'items', 'r', 'ada', 'upsert', 'phone')$$, 'ada'),
    ($$INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id) VALUES (NULL, 'items', 'r', 'ada', 'insert', 'phone')$$, 'ada'),
    ($$INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, xact) VALUES ('todo', 'items', 'r', 'ada', 'insert', 'phone', '1')$$, 'ada'),
    ($$UPDATE mana_sync.sync_changes SET op = 'delete'$$, 'ada'),
    ($$DELETE FROM mana_sync.sync_changes$$, 'ada');

SET ROLE regress_app;
SELECT mana_sync.record_change('todo', 'items', 'good', 'ada', NULL, 'insert', 'phone', id => '0190f5fe-7c00-7000-8000-000000000001');

\x on
BEGIN;
SELECT b.n, b.scope, b.call, o.*
    FROM bad AS b,
         LATERAL (SELECT set_config('app.current_user_id', coalesce(b.scope, ''), true)) AS s,
         LATERAL outcome(b.call) AS o
    ORDER BY b.n;
COMMIT;
\x off

-- PostgreSQL's own parsers refuse these before the function is called. Their messages are PostgreSQL's.
SELECT code FROM outcome($$SELECT mana_sync.record_change('todo', 'items', 'r', 'ada')$$);
SELECT code FROM outcome($$SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', NULL, 'insert', 'phone', id => 'no uuid')$$);
SELECT code FROM outcome($$SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', NULL, 'insert', 'phone', '{"title": ')$$);
SELECT code FROM outcome($$SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', NULL, 'insert', 'phone', '"\u0000"')$$);
SELECT code FROM outcome($$SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', NULL, 'insert', 'phone', '{"n": 1e999999}')$$);
SELECT code FROM outcome($$SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', NULL, 'insert', 'phone', repeat('[', 100000)::jsonb)$$);

-- Nothing was written by any of them, for anybody.
RESET ROLE;
SELECT record_id, user_id FROM mana_sync.sync_changes;

-- The settings of the extension's prefix are its own: another name is refused. PostgreSQL 14 accepts it.
SELECT code = CASE WHEN current_setting('server_version_num')::int < 150000 THEN '00000' ELSE '42602' END AS as_expected
    FROM outcome('SET mana_sync.strict_space = on');

DROP TABLE bad;
SELECT mana_sync.revoke_access('regress_app') \g /dev/null
DROP EXTENSION mana_sync;
