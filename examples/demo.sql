-- Two people, three devices, one shared space. `make demo` plays this file in psql.
--
-- An HTTP front end would make these calls, connected as a plain role: it knows who its user is and
-- which spaces the user is in, and says so with each call.

--# Lines like this one are not printed, nor are those with demo.expect, which stop the demo if a
--# step gave something else than it should. Both are for `make demo`.

-- == The DBA, once: the extension, and a plain role for the application server.

CREATE EXTENSION mana_sync;
CREATE ROLE app LOGIN;
SELECT mana_sync.grant_access('app');
\connect - app

-- What the devices have received. Each keeps the cursor that came with the last row of a page.
CREATE TEMPORARY TABLE received AS
    SELECT ''::text AS device, c.* FROM mana_sync.changes_since('nobody', 'todo') AS c WITH NO DATA;
ALTER TABLE received ADD COLUMN n serial;

-- == Ada has a phone and a laptop. Both were offline, and she wrote on both.
--
-- The phone is back first and pushes two changes, one into the space that she calls home, one
-- private, in one transaction. with_scope says who is asking until the transaction ends.

BEGIN;
SELECT mana_sync.with_scope('ada', ARRAY['home']);
SELECT mana_sync.record_change('todo', 'items', 'milk', 'ada', 'home', 'insert', 'phone',
           '{"title": "Milk", "done": false}');
SELECT mana_sync.record_change('todo', 'items', 'gift', 'ada', NULL, 'insert', 'phone',
           '{"title": "Gift for Ben"}');
COMMIT;

-- Then the laptop. A call can name the scope itself; it then holds for that call.

SELECT mana_sync.record_change('todo', 'items', 'bread', 'ada', 'home', 'insert', 'laptop',
           '{"title": "Bread", "done": false}', space_ids => '{home}');

-- == Each pulls what it has not seen, without what it wrote itself. No cursor yet: from the beginning.

INSERT INTO received
    SELECT 'phone', c.*
        FROM mana_sync.changes_since('ada', 'todo', exclude_client_id => 'phone', space_ids => '{home}') AS c
    RETURNING record_id, op, client_id, data, left(cursor, 12) || '…' AS cursor;
SELECT demo.expect(:ROW_COUNT, 1) \g /dev/null
SELECT cursor AS phone FROM received WHERE device = 'phone' AND cursor IS NOT NULL ORDER BY n DESC LIMIT 1 \gset

INSERT INTO received
    SELECT 'laptop', c.*
        FROM mana_sync.changes_since('ada', 'todo', exclude_client_id => 'laptop', space_ids => '{home}') AS c
    RETURNING record_id, op, client_id, data, left(cursor, 12) || '…' AS cursor;
SELECT demo.expect(:ROW_COUNT, 2) \g /dev/null
SELECT cursor AS laptop FROM received WHERE device = 'laptop' AND cursor IS NOT NULL ORDER BY n DESC LIMIT 1 \gset

-- == Offline again, she edits the same record on both: two fields, each with the time she wrote it.

SELECT mana_sync.record_change('todo', 'items', 'milk', 'ada', 'home', 'update', 'laptop',
           '{"title": "Milk, 2 litres"}', '{"title": "2026-03-01T08:15:00Z"}', space_ids => '{home}');
SELECT mana_sync.record_change('todo', 'items', 'milk', 'ada', 'home', 'update', 'phone',
           '{"done": true}', '{"done": "2026-03-01T08:20:00Z"}', space_ids => '{home}');

-- With its cursor, each gets the other's edit and nothing twice.

INSERT INTO received
    SELECT 'phone', c.*
        FROM mana_sync.changes_since('ada', 'todo', since => :'phone', exclude_client_id => 'phone', space_ids => '{home}') AS c
    RETURNING record_id, op, client_id, data, field_timestamps;
SELECT demo.expect(:ROW_COUNT, 1) \g /dev/null
SELECT cursor AS phone FROM received WHERE device = 'phone' AND cursor IS NOT NULL ORDER BY n DESC LIMIT 1 \gset

INSERT INTO received
    SELECT 'laptop', c.*
        FROM mana_sync.changes_since('ada', 'todo', since => :'laptop', exclude_client_id => 'laptop', space_ids => '{home}') AS c
    RETURNING record_id, op, client_id, data, field_timestamps;
SELECT demo.expect(:ROW_COUNT, 1) \g /dev/null
SELECT cursor AS laptop FROM received WHERE device = 'laptop' AND cursor IS NOT NULL ORDER BY n DESC LIMIT 1 \gset

-- Nothing happened since, so there is nothing to get.

SELECT record_id, op, data
    FROM mana_sync.changes_since('ada', 'todo', since => :'phone', exclude_client_id => 'phone', space_ids => '{home}');
SELECT demo.expect(:ROW_COUNT, 0) \g /dev/null

-- == Ben has a tablet. He is in no space yet, and sees his own.

SELECT mana_sync.record_change('todo', 'items', 'strings', 'ben', NULL, 'insert', 'tablet',
           '{"title": "Guitar strings"}');

INSERT INTO received
    SELECT 'tablet', c.*
        FROM mana_sync.changes_since('ben', 'todo') AS c
    RETURNING user_id, record_id, op, data, left(cursor, 12) || '…' AS cursor;
SELECT demo.expect(:ROW_COUNT, 1) \g /dev/null
SELECT cursor AS tablet FROM received WHERE device = 'tablet' AND cursor IS NOT NULL ORDER BY n DESC LIMIT 1 \gset

-- == Ben joins the space. His next pull has the old cursor, and brings the space's whole history:
-- what is older than the cursor too. Not Ada's private gift.

INSERT INTO received
    SELECT 'tablet', c.*
        FROM mana_sync.changes_since('ben', 'todo', since => :'tablet', space_ids => '{home}') AS c
    RETURNING user_id, record_id, op, data, left(cursor, 12) || '…' AS cursor;
SELECT demo.expect(:ROW_COUNT, 4) \g /dev/null
SELECT demo.expect(count(*), 0) FROM received WHERE device = 'tablet' AND record_id = 'gift' \g /dev/null
SELECT cursor AS tablet FROM received WHERE device = 'tablet' AND cursor IS NOT NULL ORDER BY n DESC LIMIT 1 \gset

-- He has bought the bread. Ada's phone hears of it.

SELECT mana_sync.record_change('todo', 'items', 'bread', 'ben', 'home', 'update', 'tablet',
           '{"done": true}', '{"done": "2026-03-01T09:02:00Z"}', space_ids => '{home}');

INSERT INTO received
    SELECT 'phone', c.*
        FROM mana_sync.changes_since('ada', 'todo', since => :'phone', exclude_client_id => 'phone', space_ids => '{home}') AS c
    RETURNING user_id, record_id, op, client_id, data;
SELECT demo.expect(count(*), 1) FROM received WHERE device = 'phone' AND user_id = 'ben' \g /dev/null
SELECT cursor AS phone FROM received WHERE device = 'phone' AND cursor IS NOT NULL ORDER BY n DESC LIMIT 1 \gset

-- == Eve is not in the space. She gets nothing, and cannot write into it: that is an error.

SELECT record_id, op, data
    FROM mana_sync.changes_since('eve', 'todo');
SELECT demo.expect(:ROW_COUNT, 0) \g /dev/null

\set ON_ERROR_STOP off
SELECT mana_sync.record_change('todo', 'items', 'milk', 'eve', 'home', 'delete', 'eves-phone', space_ids => '{}');
\set ON_ERROR_STOP on
SELECT demo.expect(:'SQLSTATE', '42501') \g /dev/null

-- Row-level security says the same in plain SQL: to Eve, and to those who do not say who they are.

BEGIN;
SELECT mana_sync.with_scope('eve');
SELECT count(*) FROM mana_sync.sync_changes;
SELECT demo.expect(count(*), 0) FROM mana_sync.sync_changes \g /dev/null
COMMIT;
SELECT count(*) FROM mana_sync.sync_changes;
SELECT demo.expect(count(*), 0) FROM mana_sync.sync_changes \g /dev/null

-- == Ben leaves the space. What happens there from now on is not his.

SELECT mana_sync.record_change('todo', 'items', 'eggs', 'ada', 'home', 'insert', 'phone',
           '{"title": "Eggs"}', space_ids => '{home}');

SELECT record_id, op, data
    FROM mana_sync.changes_since('ben', 'todo', since => :'tablet', exclude_client_id => 'tablet');
SELECT demo.expect(:ROW_COUNT, 0) \g /dev/null

-- Ada's laptop, which was away, gets both: Ben's bread and the eggs.

INSERT INTO received
    SELECT 'laptop', c.*
        FROM mana_sync.changes_since('ada', 'todo', since => :'laptop', exclude_client_id => 'laptop', space_ids => '{home}') AS c
    RETURNING user_id, record_id, op, client_id, data;
SELECT demo.expect(:ROW_COUNT, 2) \g /dev/null

-- == A developer reads the history of a record in plain SQL, as Ada sees it.

BEGIN;
SELECT mana_sync.with_scope('ada', ARRAY['home']);
SELECT user_id, client_id, op, data, field_timestamps
    FROM mana_sync.sync_changes
    WHERE app_id = 'todo' AND table_name = 'items' AND record_id = 'milk'
    ORDER BY epoch, xact, seq;
SELECT demo.expect(:ROW_COUNT, 3) \g /dev/null
COMMIT;
