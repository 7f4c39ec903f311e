-- The tour of docs/tour.md and its beginning in README.md: these statements and what they give (tests/regress/check.sh compares them).
-- == begin
-- == install
CREATE EXTENSION mana_sync;
CREATE ROLE app LOGIN;
SELECT mana_sync.grant_access('app');
SET ROLE app;  -- an application server connects as this role
-- == write
SELECT mana_sync.record_change('todo', 'items', 'milk', 'ada', 'home', 'insert', 'phone',
           '{"title": "Milk", "done": false}', id => '0190f5fe-7c00-7000-8000-000000000001',
           space_ids => '{home}');
-- == batch
SELECT count(mana_sync.record_change('todo', 'items', item, 'ada', space, 'insert', 'phone', data,
                                     space_ids => '{home}')) AS recorded
    FROM (VALUES ('bread', 'home', '{"title": "Bread"}'::jsonb),
                 ('gift',  NULL,   '{"title": "Gift for Ben"}')) AS batch (item, space, data);
-- == page 1
SELECT record_id, space_id, op, data, cursor IS NOT NULL AS cursor
    FROM mana_sync.changes_since('ada', 'todo', page_size => 2, space_ids => '{home}');
-- == cursor
SELECT cursor
    FROM mana_sync.changes_since('ada', 'todo', page_size => 2, space_ids => '{home}')
    WHERE cursor IS NOT NULL \gset
SELECT record_id, space_id, op, data, cursor IS NOT NULL AS cursor
    FROM mana_sync.changes_since('ada', 'todo', since => :'cursor', page_size => 2, space_ids => '{home}');
SELECT cursor
    FROM mana_sync.changes_since('ada', 'todo', since => :'cursor', page_size => 2, space_ids => '{home}')
    WHERE cursor IS NOT NULL \gset
-- == update
SELECT count(mana_sync.record_change('todo', 'items', 'milk', 'ada', 'home', 'update', 'laptop',
                 '{"done": true}', '{"done": "2026-03-01T08:20:00Z"}', space_ids => '{home}')) AS recorded;
SELECT record_id, op, client_id, data, field_timestamps
    FROM mana_sync.changes_since('ada', 'todo', since => :'cursor', space_ids => '{home}');
-- == join
SELECT user_id, record_id, op FROM mana_sync.changes_since('ben', 'todo');
SELECT user_id, record_id, op FROM mana_sync.changes_since('ben', 'todo', space_ids => '{home}');
-- == scope
BEGIN;
SELECT mana_sync.with_scope('ben', '{home}');
SELECT user_id, op, data
    FROM mana_sync.sync_changes
    WHERE app_id = 'todo' AND table_name = 'items' AND record_id = 'milk'
    ORDER BY epoch, xact, seq;
SELECT mana_sync.record_change('todo', 'items', 'milk', 'ada', 'home', 'delete', 'phone');
ROLLBACK;
SELECT count(*) FROM mana_sync.sync_changes;
-- == end
RESET ROLE;
SELECT mana_sync.revoke_access('app');
DROP ROLE app;
DROP EXTENSION mana_sync;
