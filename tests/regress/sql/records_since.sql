-- records_since, and pull and sync as records: the records that the rows of a walk changed, with their state now.
CREATE EXTENSION mana_sync;
SELECT mana_sync.grant_access('regress_app') \g /dev/null
-- What a page of records tells: records with a value, deleted ones in brackets; and where to go on.
CREATE FUNCTION page(who text, spaces text[], since text DEFAULT NULL, page int DEFAULT 1000, OUT records text, OUT next text)
    LANGUAGE sql AS $$
    SELECT coalesce(string_agg(CASE WHEN deleted_at IS NULL THEN record_id || '=' || (data ->> 'n') ELSE '(' || record_id || ')' END
                               || coalesce('@' || space_id, ''), ' ' ORDER BY n), '-'), coalesce(max(cursor), since)
    FROM mana_sync.records_since(who, 'todo', since => since, page_size => page, space_ids => spaces) WITH ORDINALITY
         AS r (table_name, record_id, space_id, data, field_timestamps, deleted_at, updated_at, cursor, n)
$$;
-- All pages of a walk, between bars.
CREATE FUNCTION pages(who text, spaces text[], since text, page int, OUT records text, OUT next text) LANGUAGE plpgsql AS $$
DECLARE
    step record;
BEGIN
    next := since;
    LOOP
        step := page(who, spaces, next, page);
        EXIT WHEN step.records = '-';
        records := concat_ws(' | ', records, step.records);
        next := step.next;
    END LOOP;
END
$$;
-- A change: a value for n, or a delete.
CREATE FUNCTION change(who text, record text, n int, space text DEFAULT NULL, op text DEFAULT 'update', device text DEFAULT 'phone')
    RETURNS uuid LANGUAGE sql AS $$
    SELECT mana_sync.record_change('todo', 'items', record, who, space, op, device, CASE WHEN op <> 'delete' THEN jsonb_build_object('n', n) END,
                                   space_ids => CASE WHEN space IS NULL THEN NULL ELSE ARRAY[space] END)
$$;
-- An answer without what differs from run to run.
CREATE FUNCTION answer(body json) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_set(body::jsonb - 'syncedUntil' - 'conflicts', '{records}',
        (SELECT coalesce(jsonb_agg(record - 'updatedAt' - 'deletedAt' - 'fieldTimestamps'
                                   || CASE WHEN record ? 'deletedAt' THEN jsonb '{"deleted": true}'
                                           ELSE jsonb_build_object('at', record -> 'fieldTimestamps' ->> 'n' = record ->> 'updatedAt') END ORDER BY n), '[]')
            FROM jsonb_array_elements(body::jsonb -> 'records') WITH ORDINALITY AS r (record, n)))
$$;
SET ROLE regress_app;

-- == A first sync is the state, and not the history: each record once, deleted ones not at all
SELECT change('ada', 'milk', 1, NULL, 'insert'), change('ada', 'bread', 1, NULL, 'insert'), change('ada', 'milk', 2), change('ada', 'jam', 1, NULL, 'insert') \g /dev/null
SELECT change('ada', 'milk', 3), change('ada', 'jam', 0, NULL, 'delete'), change('ada', 'bread', 2) \g /dev/null
SELECT records, next AS first FROM page('ada', '{}') \gset
SELECT :'records' AS records;
SELECT table_name, record_id, space_id, data, (field_timestamps ->> 'n')::timestamptz = updated_at AS time, deleted_at, cursor IS NOT NULL AS cursor
    FROM mana_sync.records_since('ada', 'todo');
-- The columns are those of records.
SELECT count(*) AS differing FROM (
    (SELECT table_name, record_id, space_id, data, field_timestamps, deleted_at, updated_at FROM mana_sync.records_since('ada', 'todo')
     EXCEPT SELECT * FROM mana_sync.records('ada', 'todo'))
    UNION ALL
    (SELECT * FROM mana_sync.records('ada', 'todo')
     EXCEPT SELECT table_name, record_id, space_id, data, field_timestamps, deleted_at, updated_at FROM mana_sync.records_since('ada', 'todo'))) AS d;
-- Nothing since: no rows, no cursor.
SELECT records FROM page('ada', '{}', :'first');

-- == What changed since comes once, with its state now; a delete as a tombstone without data
SELECT change('ada', 'milk', 4), change('ada', 'milk', 5), change('ada', 'bread', 0, NULL, 'delete') \g /dev/null
SELECT records, next AS second FROM page('ada', '{}', :'first') \gset
SELECT :'records' AS records;
SELECT record_id, data, field_timestamps IS NOT NULL AS times, deleted_at IS NOT NULL AS deleted FROM mana_sync.records_since('ada', 'todo', since => :'first');
-- A record that was inserted again lives.
SELECT change('ada', 'bread', 7, NULL, 'insert') \g /dev/null
SELECT records FROM page('ada', '{}', :'second');

-- == Pages of any size: each record once a walk, whatever lies between its changes
SELECT count(change('eve', 'e' || n % 7, n)) FROM generate_series(1, 100) AS n;
SELECT page, records FROM unnest('{1,2,3,6,7,50}'::int[]) AS page, pages('eve', '{}', NULL, page);
-- Written to between two pages: the walk goes on to its target, and what came since comes with the next walk.
SELECT records, next FROM page('eve', '{}', NULL, 3) \gset
SELECT :'records' AS records;
SELECT change('eve', 'e1', 1000), change('eve', 'e6', 1000), change('eve', 'e9', 1000) \g /dev/null
SELECT records FROM pages('eve', '{}', :'next', 3);
-- A page ends at the bytes of text of a setting too, and has at least one record.
SELECT count(mana_sync.record_change('todo', 'items', 't' || n % 20, 'pat', NULL, 'update', 'phone', jsonb_build_object('n', n, 'text', repeat('x', 300))))
    FROM generate_series(0, 39) AS n;
SET mana_sync.max_page_bytes = 1;
SELECT records FROM pages('pat', '{}', NULL, 50);
SELECT json_array_length(answer -> 'records') AS records, answer -> 'hasMore' AS more FROM mana_sync.pull('pat', 'todo', as_records => true) AS answer;
SET mana_sync.max_page_bytes = 1750;
SELECT records FROM pages('pat', '{}', NULL, 50);
SELECT json_array_length(answer -> 'records') AS records, answer -> 'hasMore' AS more FROM mana_sync.pull('pat', 'todo', as_records => true) AS answer;
RESET mana_sync.max_page_bytes;
-- A page that passes over 50,000 changes of records that it need not show ends, and the next one goes on. A page of records_since has
-- its cursor in a record, and so does not end without one.
RESET ROLE;
INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, data)
    SELECT 'todo', 'items', 'busy', who, 'update', 'phone', jsonb_build_object('n', n) FROM unnest('{quin,rob}'::text[]) AS who, generate_series(1, 50100) AS n;
SET ROLE regress_app;
SELECT change('quin', 'calm', 1), change('rob', 'busy', 0, NULL, 'delete'), change('rob', 'calm', 1) \g /dev/null
SELECT records FROM pages('quin', '{}', NULL, 50);
SELECT records FROM pages('rob', '{}', NULL, 50);
SELECT who, first -> 'hasMore' AS more, json_array_length(first -> 'records') AS first, second -> 'hasMore' AS more, json_array_length(second -> 'records') AS second
    FROM unnest('{quin,rob}'::text[]) AS who, mana_sync.pull(who, 'todo', as_records => true) AS first,
         mana_sync.pull(who, 'todo', since => first ->> 'syncedUntil', as_records => true) AS second;
-- The last change of a record may be gone before its page: the record comes all the same.
SELECT count(change('fay', 'f' || n % 4, n)) FROM generate_series(1, 40) AS n;
SELECT records, next FROM page('fay', '{}', NULL, 2) \gset
RESET ROLE;
DELETE FROM mana_sync.sync_changes WHERE user_id = 'fay' AND (data ->> 'n')::int > 20;
SET ROLE regress_app;
SELECT :'records' AS first, records FROM pages('fay', '{}', :'next', 2);
-- The first change of a record that a page has shown is gone, and the record is deleted before the next page: the delete is told.
SELECT change('gus', 'g1', 1), change('gus', 'g2', 1), change('gus', 'g1', 2), change('gus', 'g3', 1) \g /dev/null
SELECT records, next FROM page('gus', '{}', NULL, 1) \gset
RESET ROLE;
DELETE FROM mana_sync.sync_changes WHERE user_id = 'gus' AND record_id = 'g1' AND data ->> 'n' = '1';
SET ROLE regress_app;
SELECT change('gus', 'g1', 0, NULL, 'delete') \g /dev/null
SELECT :'records' AS first, records FROM pages('gus', '{}', :'next', 10);

-- == Spaces: a space that joins brings its records, without those that are deleted; a delete is told where the reader may hold the record
SELECT change('gil', 'tent', 1, 'home', 'insert'), change('gil', 'rope', 1, 'home', 'insert'), change('gil', 'rope', 0, 'home', 'delete'),
       change('hal', 'own', 1, NULL, 'insert') \g /dev/null
SELECT records, next FROM page('hal', '{}') \gset
SELECT :'records' AS records;
SELECT records, next FROM page('hal', '{home}', :'next') \gset
SELECT :'records' AS records;
SELECT change('gil', 'tent', 0, 'home', 'delete') \g /dev/null
SELECT records, next FROM page('hal', '{home}', :'next') \gset
SELECT :'records' AS records;
-- A private record of the same id is the same record for its reader: its delete in a space that joins is told.
SELECT change('hal', 'both', 1, NULL, 'insert') \g /dev/null
SELECT records, next FROM page('hal', '{home}', :'next') \gset
SELECT :'records' AS records;
SELECT change('gil', 'both', 2, 'work', 'insert'), change('gil', 'both', 0, 'work', 'delete') \g /dev/null
SELECT records FROM page('hal', '{home,work}', :'next');
-- From the beginning too, because without the space the record lives.
SELECT records FROM page('hal', '{home,work}');
SELECT records FROM page('hal', '{home}');
-- A space joins in the middle of a walk. A record that the walk shows without the space comes again with it, on the next page.
SELECT change('ned', 'n1', 1), change('ned', 'n2', 1), change('ola', 'n2', 2, 'club') \g /dev/null
SELECT records, next FROM page('ned', '{}', NULL, 1) \gset
SELECT :'records' AS first, records FROM pages('ned', '{club}', :'next', 10);

-- == Who sees what: a stranger nothing, another app nothing, one table alone
SELECT records FROM page('ivy', '{}');
SELECT count(*) FROM mana_sync.records_since('hal', 'mail', space_ids => '{home}');
SELECT mana_sync.record_change('todo', 'notes', 'n', 'hal', NULL, 'insert', 'phone', '{"n": 1}') IS NOT NULL AS recorded;
SELECT string_agg(record_id, ' ') FROM mana_sync.records_since('hal', 'todo', 'notes');
SELECT string_agg(record_id, ' ') FROM mana_sync.records_since('hal', 'todo', 'items');
-- exclude_client_id is literal: the changes of that client do not count.
SELECT change('hal', 'lamp', 1, NULL, 'insert', 'laptop') \g /dev/null
SELECT string_agg(record_id, ' ') FROM mana_sync.records_since('hal', 'todo', exclude_client_id => 'phone');
-- Another client in the middle of a walk: the walk goes back to its start.
SELECT change('sue', 's1', 1), change('sue', 's2', 1, device => 'laptop'), change('sue', 's3', 1), change('sue', 's4', 1, device => 'laptop') \g /dev/null
SELECT record_id, cursor AS page FROM mana_sync.records_since('sue', 'todo', exclude_client_id => 'laptop', page_size => 1) \gset
SELECT :'record_id' AS first, (SELECT string_agg(record_id, ' ') FROM mana_sync.records_since('sue', 'todo', since => :'page', exclude_client_id => client)) AS next
    FROM unnest('{laptop,phone,NULL}'::text[]) AS client;
-- A timestamp: the records that changed after it.
SELECT string_agg(record_id, ' ') FROM mana_sync.records_since('hal', 'todo', since => '2999-01-01T00:00:00Z');

-- == On the wire
SELECT answer(mana_sync.pull('hal', 'todo', 'items', space_ids => '{home,work}', as_records => true));
SELECT body ->> 'syncedUntil' AS next FROM mana_sync.pull('hal', 'todo', space_ids => '{home,work}', as_records => true) AS body \gset
-- There is no echo filter for records: what a device wrote comes back as what became of it. A write that lost does too.
SELECT answer(mana_sync.sync('hal', 'todo', jsonb_build_object('clientId', 'phone', 'as', 'records', 'since', :'next', 'changes', jsonb '[
    {"table": "items", "id": "lamp", "op": "update", "fields": {"n": {"value": 9, "at": "2020-01-01T00:00:00Z"}}},
    {"table": "items", "id": "vase", "op": "insert", "data": {"n": 1}}]'), space_ids => '{home,work}'));
-- Spaces are told in the first answer, and when they are others than the cursor knows; not where the memberships are not known.
SELECT mana_sync.pull('hal', 'todo', since => :'next', space_ids => '{home,work}', as_records => true) -> 'spaces' AS same,
       mana_sync.pull('hal', 'todo', since => :'next', space_ids => '{home}', as_records => true) -> 'spaces' AS left,
       mana_sync.pull('hal', 'todo', since => :'next', space_ids => '{attic,home,work}', as_records => true) -> 'spaces' AS joined,
       mana_sync.pull('hal', 'todo', since => :'next', space_ids => '{}', as_records => true) -> 'spaces' AS none,
       mana_sync.pull('hal', 'todo', since => :'next', as_records => true) -> 'spaces' AS unknown;
-- On every page of a walk only if they change: pages of one record.
SELECT body ->> 'syncedUntil' AS page, body -> 'spaces' AS spaces FROM mana_sync.pull('hal', 'todo', page_size => 1, space_ids => '{home,work}', as_records => true) AS body \gset
SELECT :'spaces' AS first, mana_sync.pull('hal', 'todo', since => :'page', page_size => 1, space_ids => '{home,work}', as_records => true) -> 'spaces' AS second,
       mana_sync.pull('hal', 'todo', since => :'page', page_size => 1, space_ids => '{home}', as_records => true) -> 'spaces' AS left,
       mana_sync.pull('hal', 'todo', since => :'page', page_size => 1, space_ids => '{attic,home,work}', as_records => true) -> 'spaces' AS joined;
-- A space that joins in the middle of a walk is read after it, and is told with the page that begins to read it. Until then it does not
-- count for the records: if it is left before, the reader need not be told.
SELECT change('gil', 'b1', 1, 'barn', 'insert'), change('gil', 'b2', 1, 'barn', 'insert'), change('gil', 'b3', 1, 'barn', 'insert'),
       change('gil', 'b2', 2, 'dock') \g /dev/null
SELECT body ->> 'syncedUntil' AS page FROM mana_sync.pull('jan', 'todo', page_size => 1, space_ids => '{barn}', as_records => true) AS body \gset
SELECT body -> 'records' -> 0 -> 'id' AS record, body -> 'records' -> 0 -> 'spaceId' AS space, body -> 'spaces' AS spaces
    FROM mana_sync.pull('jan', 'todo', since => :'page', page_size => 1, space_ids => '{barn,dock}', as_records => true) AS body;
SELECT answer(mana_sync.pull('jan', 'todo', since => :'page', space_ids => '{barn,dock}', as_records => true)) AS end_of_walk \gset
SELECT :'end_of_walk'::jsonb -> 'spaces' AS spaces, :'end_of_walk'::jsonb -> 'hasMore' AS more, jsonb_array_length(:'end_of_walk'::jsonb -> 'records') AS records;
SELECT body ->> 'syncedUntil' AS page FROM mana_sync.pull('jan', 'todo', since => :'page', space_ids => '{barn,dock}', as_records => true) AS body \gset
SELECT answer(mana_sync.pull('jan', 'todo', since => :'page', space_ids => '{barn,dock}', as_records => true));
-- A walk of records is not one of changes: asked for the other kind, it begins again.
SELECT json_array_length(mana_sync.pull('hal', 'todo', since => :'page', space_ids => '{home,work}') -> 'serverChanges')
       = json_array_length(mana_sync.pull('hal', 'todo', space_ids => '{home,work}') -> 'serverChanges') AS begins_again;
SELECT mana_sync.sync('hal', 'todo', '{"as": "rows", "changes": []}');
SELECT mana_sync.sync('hal', 'todo', '{"echo": 1, "changes": []}');

-- == Echo: with it a device gets its own changes too
SELECT mana_sync.sync('kim', 'todo', '{"clientId": "phone", "changes": [{"table": "items", "id": "k", "op": "insert", "data": {"n": 1}}]}') ->> 'syncedUntil' AS next \gset
SELECT json_array_length(mana_sync.sync('kim', 'todo', jsonb_build_object('clientId', 'phone', 'since', :'next', 'echo', e, 'changes', jsonb '[
    {"table": "items", "id": "k", "op": "update", "fields": {"n": {"value": 2}}}]')) -> 'serverChanges') AS changes FROM unnest('{f,t}'::boolean[]) AS e;
SELECT json_array_length(mana_sync.pull('kim', 'todo', since => :'next', client_id => 'phone', echo => e) -> 'serverChanges') AS changes
    FROM unnest('{f,t}'::boolean[]) AS e;

-- == A time that does not count is not sent on; the position orders what has the same time
SELECT mana_sync.push('lou', 'todo', '{"changes": [
    {"table": "items", "id": "l", "op": "insert", "data": {"n": 1, "createdAt": "2026-01-01T00:00:00Z"}},
    {"table": "items", "id": "l", "op": "update", "fields": {"n": {"value": 2, "at": "2999-01-01T00:00:00Z"}, "m": {"value": 2, "at": "2026-01-02T00:00:00+02:00"}}},
    {"table": "items", "id": "l", "op": "delete", "deletedAt": "2999-01-01T00:00:00Z"}]}');
SELECT steady(change::jsonb) - 'eventId' FROM json_array_elements(mana_sync.pull('lou', 'todo') -> 'serverChanges') AS change;
SELECT bool_and(later) AS in_order FROM (
    SELECT change ->> 'position' COLLATE "C" > lag(change ->> 'position') OVER (ORDER BY n) COLLATE "C" AS later
    FROM json_array_elements(mana_sync.pull('eve', 'todo') -> 'serverChanges') WITH ORDINALITY AS c (change, n)) AS p;
-- An insert with times of its own fields, which only SQL can record.
SELECT mana_sync.record_change('todo', 'items', 'own times', 'lou', NULL, 'insert', 'phone', '{"n": 1, "m": 2}',
                               '{"": "2026-01-01T00:00:00Z", "m": "2026-01-02T00:00:00Z"}') IS NOT NULL AS recorded;
SELECT change -> 'at' AS at, change -> 'fieldTimestamps' AS times FROM json_array_elements(mana_sync.pull('lou', 'todo') -> 'serverChanges') AS change
    WHERE change ->> 'id' = 'own times';

-- == Origin
SELECT mana_sync.push('max', 'todo', '{"changes": [{"table": "items", "id": "o", "op": "insert", "data": {}, "origin": "agent"},
    {"table": "items", "id": "p", "op": "insert", "data": {}, "origin": ""}]}');
SELECT mana_sync.record_change('todo', 'items', 'q', 'max', NULL, 'insert', 'phone', origin => 'migration') IS NOT NULL AS recorded;
SELECT change ->> 'id' AS id, change ->> 'origin' AS origin FROM json_array_elements(mana_sync.pull('max', 'todo') -> 'serverChanges') AS change;
SELECT record_id, origin FROM mana_sync.export_changes('max');
SELECT origin FROM mana_sync.record_history('todo', 'items', 'o', 'max');
SELECT mana_sync.push('max', 'todo', '{"changes": [{"table": "items", "id": "o", "op": "insert", "data": {}, "origin": 1}]}');
SELECT * FROM outcome(format($$ SELECT mana_sync.push('max', 'todo', '{"changes": [{"table": "items", "id": "o", "op": "insert", "data": {}, "origin": "%s"}]}') $$, repeat('o', 513)));
SELECT * FROM outcome(format($$ SELECT mana_sync.record_change('todo', 'items', 'q', 'max', NULL, 'insert', 'phone', origin => '%s') $$, repeat('o', 513)));
SELECT mana_sync.with_scope('max') \g /dev/null
BEGIN;
SELECT mana_sync.with_scope('max') \g /dev/null
SELECT code, message FROM outcome(format($$ INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, origin)
    VALUES ('todo', 'items', 'q', 'max', 'insert', 'phone', '%s') $$, repeat('o', 513)));
ROLLBACK;

-- == A record is shown once in a walk, also if its row on a later page is an insert
SELECT count(change('pia', 'a', 1, op => op)) FROM unnest('{insert,delete}'::text[]) AS op;
SELECT count(change('pia', record, 2, op => 'insert')) FROM unnest('{b,a,c}'::text[]) AS record;
SELECT records FROM pages('pia', '{}', NULL, 1);
-- An earlier insert of an excluded client does not count: no page was given it.
SELECT count(change('rae', 'a', 1, op => 'insert', device => device)), count(change('rae', 'b', 1, op => 'insert', device => device))
    FROM unnest('{tablet}'::text[]) AS device;
SELECT count(change('rae', record, 1, op => 'insert')) FROM unnest('{c,a}'::text[]) AS record;
SELECT record_id, cursor AS next FROM mana_sync.records_since('rae', 'todo', exclude_client_id => 'tablet', page_size => 1) \gset
SELECT :'record_id' AS first, string_agg(record_id, ' ') AS rest
    FROM mana_sync.records_since('rae', 'todo', since => :'next', exclude_client_id => 'tablet');

-- The same in a space that the cursor covers, and in one that the reader joins.
SELECT count(change('tom', 'a', 1, 'den', op => op)) FROM unnest('{insert,delete}'::text[]) AS op;
SELECT count(change('tom', record, 2, 'den', op => 'insert')) FROM unnest('{b,a,c}'::text[]) AS record;
SELECT records FROM pages('uli', '{den}', NULL, 1);
SELECT count(change('uli', 'own', 1, op => 'insert'));
SELECT next FROM page('uli', '{}') \gset
SELECT records FROM pages('uli', '{den}', :'next', 1);
-- A change from before the time that the walk begins at does not count either.
SELECT count(change('vic', 'a', 1, op => 'insert'));
SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS since \gset
SELECT count(change('vic', record, 2, op => 'insert')) FROM unnest('{b,a,c}'::text[]) AS record;
SELECT records FROM pages('vic', '{}', :'since', 1);

-- == Bad arguments
SELECT * FROM mana_sync.records_since('max', '');
SELECT * FROM mana_sync.records_since('max', 'todo', page_size => 0);
SELECT * FROM mana_sync.records_since(NULL, 'todo');
SELECT * FROM mana_sync.records_since('max', 'todo', since => '1a1damaged');

-- == Reads are reads: they run in a READ ONLY transaction, and are STABLE. pull is not: it would be evaluated once for each reference.
BEGIN READ ONLY;
SELECT count(*) > 0 AS rows FROM mana_sync.changes_since('hal', 'todo');
SELECT count(*) > 0 AS rows FROM mana_sync.records_since('hal', 'todo');
SELECT count(*) > 0 AS rows FROM mana_sync.records('hal', 'todo');
SELECT count(*) > 0 AS rows FROM mana_sync.record_history('todo', 'items', 'lamp', 'hal');
SELECT mana_sync.pull('hal', 'todo') ->> 'hasMore' AS more;
COMMIT;
EXPLAIN (VERBOSE, COSTS OFF) SELECT answer ->> 'hasMore', answer ->> 'syncedUntil' FROM (SELECT mana_sync.pull('hal', 'todo') AS answer) AS pulled;
SELECT proname FROM pg_proc WHERE pronamespace = 'mana_sync'::regnamespace AND provolatile = 's'
    AND proname IN ('changes_since', 'records_since', 'records', 'record_history') ORDER BY proname COLLATE "C";

RESET ROLE;
DROP EXTENSION mana_sync;
