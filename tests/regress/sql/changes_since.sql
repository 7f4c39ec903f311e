-- changes_since: a page of what the reader has not seen.
CREATE EXTENSION mana_sync;
SELECT mana_sync.grant_access('regress_app') \g /dev/null

-- A row at a time, for the statements below.
CREATE FUNCTION write(who text, record text, tab text DEFAULT 'items', client text DEFAULT 'phone', app text DEFAULT 'todo')
    RETURNS bigint LANGUAGE sql AS $$ SELECT count(mana_sync.record_change(app, tab, record, who, NULL, 'insert', client)) $$;
SET ROLE regress_app;

-- == The first write of a log, rolled back
-- Its cursor is of a transaction that never was, and of an epoch that has yet to begin: it loses nothing.
BEGIN;
SELECT write('eve', 'never');
SELECT cursor FROM mana_sync.changes_since('eve', 'todo') \gset
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT write('eve', 'never');
ROLLBACK TO s;
SELECT write('eve', 'one');
COMMIT;
SELECT write('eve', 'two');
SELECT record_id FROM mana_sync.changes_since('eve', 'todo', since => :'cursor');
SELECT cursor FROM mana_sync.changes_since('eve', 'todo', since => :'cursor') OFFSET 1 \gset
SELECT record_id FROM mana_sync.changes_since('eve', 'todo', since => :'cursor');

-- == Pages
SELECT sum(write('ada', 'r' || n)) FROM generate_series(1, 5) AS n;
-- The cursor is on the last row of a page, and on no other.
SELECT record_id, cursor IS NOT NULL AS has_cursor FROM mana_sync.changes_since('ada', 'todo', page_size => 2);
SELECT record_id, cursor AS page_1 FROM mana_sync.changes_since('ada', 'todo', page_size => 2) OFFSET 1 \gset
SELECT record_id, cursor IS NOT NULL AS has_cursor
    FROM mana_sync.changes_since('ada', 'todo', since => :'page_1', page_size => 2);
SELECT cursor AS page_2 FROM mana_sync.changes_since('ada', 'todo', since => :'page_1', page_size => 2) OFFSET 1 \gset
SELECT record_id, cursor IS NOT NULL AS has_cursor
    FROM mana_sync.changes_since('ada', 'todo', since => :'page_2', page_size => 2);
SELECT cursor AS page_3 FROM mana_sync.changes_since('ada', 'todo', since => :'page_2', page_size => 2) \gset
SELECT count(*) FROM mana_sync.changes_since('ada', 'todo', since => :'page_3', page_size => 2);
-- A cursor can be used again, and with another page size.
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('ada', 'todo', since => :'page_1');
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('ada', 'todo', since => :'page_1', page_size => 1);
-- What is written during the walk over the pages comes after it.
SELECT write('ada', 'r6');
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('ada', 'todo', since => :'page_1', page_size => 4);
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('ada', 'todo', since => :'page_3', page_size => 4);

-- page_size: from 1 on; NULL is the default of 5000.
SELECT count(*) FROM mana_sync.changes_since('ada', 'todo', page_size => 1);
SELECT count(*) FROM mana_sync.changes_since('ada', 'todo', page_size => 2147483647);
SELECT count(*) FROM mana_sync.changes_since('ada', 'todo', page_size => NULL);
SELECT code, message, detail FROM outcome($$ SELECT * FROM mana_sync.changes_since('ada', 'todo', page_size => 0) $$);
SELECT code, message, detail FROM outcome($$ SELECT * FROM mana_sync.changes_since('ada', 'todo', page_size => -1) $$);
SELECT sum(write('many', n::text)) FROM generate_series(1, 5001) AS n;
SELECT count(*), count(cursor) FROM mana_sync.changes_since('many', 'todo');
-- Following the cursor gives everything, once, in order.
CREATE TEMPORARY TABLE got (n serial, record text);
DO $$
DECLARE
    cursor_ text;
    page record;
    rows int;
BEGIN
    LOOP
        rows := 0;
        FOR page IN SELECT * FROM mana_sync.changes_since('many', 'todo', since => cursor_, page_size => 617) LOOP
            rows := rows + 1;
            cursor_ := page.cursor;
            INSERT INTO got (record) VALUES (page.record_id);
        END LOOP;
        EXIT WHEN rows = 0;
    END LOOP;
END
$$;
SELECT count(*), count(DISTINCT record), bool_and(n::text = record) AS in_order FROM got;

-- == Filters
SELECT write('cyd', 'a', 'items'), write('cyd', 'b', 'lists'), write('cyd', 'c', 'items', 'laptop'), write('cyd', 'd', 'items', 'phone', 'other');
SELECT write('cyd', 'e', 'items', '');
-- The app is required; NULL and '' for the table mean all, for the client none.
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('cyd', 'todo');
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('cyd', 'other');
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('cyd', 'todo', 'items');
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('cyd', 'todo', '');
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('cyd', 'todo', 'nothing');
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('cyd', 'todo', exclude_client_id => 'phone');
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('cyd', 'todo', exclude_client_id => '');
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('cyd', 'todo', 'items', exclude_client_id => 'laptop');
-- A filter comes before the page: a page is full as long as there are rows.
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('cyd', 'todo', 'items', page_size => 2);
-- The cursor of one table's last page is good for another table, whose older rows it then leaves out:
-- keep a cursor for each table that is pulled by itself.
SELECT cursor FROM mana_sync.changes_since('cyd', 'todo', 'lists') \gset
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('cyd', 'todo', 'items', since => :'cursor');
-- One from the middle of a walk goes back to where that walk began: repeats, and no loss.
SELECT cursor FROM mana_sync.changes_since('cyd', 'todo', 'items', page_size => 1) \gset
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('cyd', 'todo', 'lists', since => :'cursor');

-- == since
-- NULL and '' are the beginning.
SELECT count(*) FROM mana_sync.changes_since('ada', 'todo', since => NULL);
SELECT count(*) FROM mana_sync.changes_since('ada', 'todo', since => '');

-- A timestamp of RFC 3339 means created_at after it. (An administrator can set created_at.)
RESET ROLE;
INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, created_at)
    SELECT 'times', 'items', t, 'ada', 'insert', 'phone', t::timestamptz
    FROM unnest(ARRAY['2026-03-01T12:00:00Z', '2026-03-01T12:00:00.5Z', '2026-03-01T12:00:00.500001Z', '2026-03-01T12:00:01Z']) AS t;
SET ROLE regress_app;
SELECT since, array_agg(substr(record_id, 12))
    FROM unnest(ARRAY[
        '2026-03-01T11:59:59Z',
        '2026-03-01T12:00:00Z',
        '2026-03-01T12:00:00.5Z',
        '2026-03-01T12:00:00.500000999Z',
        '2026-03-01T13:00:00.5+01:00',
        '2026-03-01T06:30:00.5-05:30',
        '2026-03-01t12:00:00.5z',
        '0001-01-01T00:00:00Z',
        '1969-12-31T23:59:59.9Z']) AS since,
        LATERAL mana_sync.changes_since('ada', 'times', since => since) AS c
    GROUP BY since ORDER BY since COLLATE "C" \gx
SELECT count(*) FROM mana_sync.changes_since('ada', 'times', since => '2026-03-01T12:00:01Z');
SELECT count(*) FROM mana_sync.changes_since('ada', 'times', since => '9999-12-31T23:59:59Z');
-- It leads to a cursor like any other first page, and pages go on from there.
SELECT cursor FROM mana_sync.changes_since('ada', 'times', since => '2026-03-01T12:00:00Z', page_size => 1) \gset
SELECT substr(record_id, 12) AS record_id FROM mana_sync.changes_since('ada', 'times', since => :'cursor');

-- Anything else is the beginning too, with a WARNING.
SELECT count(*) FROM mana_sync.changes_since('ada', 'times', since => 'yesterday');
SELECT count(*) FROM mana_sync.changes_since('ada', 'times', since => '2026-03-01');
SELECT count(*) FROM mana_sync.changes_since('ada', 'times', since => '2026-03-01T12:00:00');
SELECT count(*) FROM mana_sync.changes_since('ada', 'times', since => '2026-02-30T12:00:00Z');
SELECT count(*) FROM mana_sync.changes_since('ada', 'times', since => ' 2026-03-01T12:00:00Z ');
SELECT count(*) FROM mana_sync.changes_since('ada', 'times', since => '1772366400000');

-- A cursor that was cut or changed is an error.
SELECT cursor AS good FROM mana_sync.changes_since('ada', 'todo') OFFSET 5 \gset
SELECT * FROM outcome(format('SELECT * FROM mana_sync.changes_since(%L, %L, since => %L)', 'ada', 'todo', left(:'good', -1))) \gx
SELECT code FROM outcome(format('SELECT * FROM mana_sync.changes_since(%L, %L, since => %L)', 'ada', 'todo', :'good' || '0'));
SELECT code FROM outcome(format('SELECT * FROM mana_sync.changes_since(%L, %L, since => %L)', 'ada', 'todo', left(:'good', 3) || upper(substr(:'good', 4))));
SELECT code FROM outcome(format('SELECT * FROM mana_sync.changes_since(%L, %L, since => %L)', 'ada', 'todo', left(:'good', 4)));
SELECT code FROM outcome(format('SELECT * FROM mana_sync.changes_since(%L, %L, since => %L)', 'ada', 'todo', :'good' || repeat('x', 100000)));

-- Another user's cursor, or another app's, is the beginning: nothing is skipped.
SELECT count(*) AS "seen by its own user" FROM mana_sync.changes_since('ada', 'todo', since => :'good');
SELECT count(*) AS "by another" FROM mana_sync.changes_since('cyd', 'todo', since => :'good');
SELECT count(*) AS "in another app" FROM mana_sync.changes_since('ada', 'times', since => :'good');

-- == The text of a cursor
-- URL-safe; in the order of bytes after 1970 and before every timestamp of this century; a newer one is never before an older one.
SELECT write('ada', 'r7');
SELECT cursor AS newer FROM mana_sync.changes_since('ada', 'todo', since => :'good') \gset
SELECT :'good' ~ '^[A-Za-z0-9_.~-]+$' AS url_safe, length(:'good') < 200 AS short,
       :'good' COLLATE "C" > '1970-01-01T00:00:00.000Z' AND :'good' COLLATE "C" < '2000-01-01T00:00:00Z' AS between_timestamps,
       :'newer' COLLATE "C" > :'good' AS ascending;

-- == Transactions
-- A reader sees what its own transaction wrote, once, and later what it wrote afterwards.
BEGIN;
SELECT write('dan', 'one');
SELECT record_id, cursor IS NOT NULL AS has_cursor FROM mana_sync.changes_since('dan', 'todo');
SELECT cursor FROM mana_sync.changes_since('dan', 'todo') \gset
SELECT write('dan', 'two');
SELECT record_id FROM mana_sync.changes_since('dan', 'todo', since => :'cursor');
SELECT cursor FROM mana_sync.changes_since('dan', 'todo', since => :'cursor') \gset
SELECT count(*) FROM mana_sync.changes_since('dan', 'todo', since => :'cursor');
SELECT write('dan', 'three');
COMMIT;
SELECT record_id FROM mana_sync.changes_since('dan', 'todo', since => :'cursor');
SELECT cursor FROM mana_sync.changes_since('dan', 'todo', since => :'cursor') \gset
SELECT count(*) FROM mana_sync.changes_since('dan', 'todo', since => :'cursor');

-- A cursor taken in a transaction that is rolled back loses nothing either.
BEGIN;
SELECT write('dan', 'never');
SELECT cursor FROM mana_sync.changes_since('dan', 'todo', since => :'cursor') \gset
ROLLBACK;
SELECT write('dan', 'four');
SELECT record_id FROM mana_sync.changes_since('dan', 'todo', since => :'cursor');
SELECT cursor FROM mana_sync.changes_since('dan', 'todo', since => :'cursor') \gset

-- Savepoints: a part that is rolled back was never there, a part that is kept comes in its place.
BEGIN;
SELECT write('dan', 'five');
SAVEPOINT s;
SELECT write('dan', 'six');
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('dan', 'todo', since => :'cursor');
SELECT cursor AS inner FROM mana_sync.changes_since('dan', 'todo', since => :'cursor') OFFSET 1 \gset
ROLLBACK TO s;
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('dan', 'todo', since => :'cursor');
SELECT write('dan', 'seven');
SAVEPOINT t;
SELECT write('dan', 'eight');
RELEASE t;
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('dan', 'todo', since => :'inner');
COMMIT;
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('dan', 'todo', since => :'inner');
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('dan', 'todo', since => :'cursor');
SELECT cursor FROM mana_sync.changes_since('dan', 'todo', since => :'cursor') WHERE cursor IS NOT NULL \gset

-- REPEATABLE READ and SERIALIZABLE: the same, in the transaction's one snapshot.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM mana_sync.changes_since('dan', 'todo', since => :'cursor');
SELECT write('dan', 'nine');
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('dan', 'todo', since => :'cursor');
SELECT cursor FROM mana_sync.changes_since('dan', 'todo', since => :'cursor') \gset
SELECT write('dan', 'ten');
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('dan', 'todo', since => :'cursor');
COMMIT;
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('dan', 'todo', since => :'cursor');
SELECT cursor FROM mana_sync.changes_since('dan', 'todo', since => :'cursor') \gset
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT write('dan', 'eleven');
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('dan', 'todo', since => :'cursor');
COMMIT;

-- READ ONLY, and read only with everything else as well.
BEGIN READ ONLY;
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('dan', 'todo', since => :'cursor');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('dan', 'todo', since => :'cursor');
COMMIT;

-- Rows that the same statement inserts are not there yet for it; they come with the next pull.
BEGIN;
SELECT mana_sync.with_scope('dan');
WITH inserted AS (
    INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id)
    VALUES ('todo', 'items', 'twelve', 'dan', 'insert', 'phone')
    RETURNING record_id)
SELECT i.record_id AS inserted, c.record_id AS read, c.cursor
    FROM inserted AS i, mana_sync.changes_since('dan', 'todo', since => :'cursor') AS c \gset
SELECT :'inserted' AS inserted, :'read' AS read;
COMMIT;
SELECT string_agg(record_id, ' ') FROM mana_sync.changes_since('dan', 'todo', since => :'cursor');

-- == Where it can be called
-- In FROM, with other relations, in the select list, prepared, from an SQL cursor and from PL/pgSQL.
SELECT u.name, count(c.id) FROM (VALUES ('ada'), ('cyd'), ('nobody')) AS u (name)
    LEFT JOIN LATERAL mana_sync.changes_since(u.name, 'todo') AS c ON true GROUP BY u.name ORDER BY u.name COLLATE "C";
SELECT (mana_sync.changes_since('cyd', 'todo', page_size => 1)).record_id;
PREPARE pull (text, text) AS SELECT record_id FROM mana_sync.changes_since($1, 'todo', since => $2, page_size => 2);
EXECUTE pull ('ada', NULL);
EXECUTE pull ('ada', :'page_1');
DEALLOCATE pull;
BEGIN;
DECLARE pages SCROLL CURSOR FOR SELECT record_id FROM mana_sync.changes_since('ada', 'todo');
FETCH 2 FROM pages;
FETCH BACKWARD 1 FROM pages;
FETCH LAST FROM pages;
COMMIT;
-- The planner's settings are the caller's again afterwards.
SET enable_seqscan = on;
SELECT count(*) FROM mana_sync.changes_since('ada', 'todo');
SHOW enable_seqscan;

-- An empty log, and a user who never wrote.
SELECT count(*) FROM mana_sync.changes_since('nobody', 'todo');
SELECT count(*) FROM mana_sync.changes_since('ada', 'no such app');

RESET ROLE;
DROP FUNCTION write;
DROP TABLE got;
SELECT mana_sync.revoke_access('regress_app') \g /dev/null
DROP EXTENSION mana_sync;
