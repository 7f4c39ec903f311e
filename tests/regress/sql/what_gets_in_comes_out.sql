-- One small change could once block everybody who shared its space, and every dump: a number of 8 bytes prints as 131 kB. What
-- is refused, by each way in; and that what is there all the same can be read.
CREATE EXTENSION mana_sync;
SELECT mana_sync.grant_access('regress_app') \g /dev/null
SET ROLE regress_app;

-- == Refused by push, sync, record_change and INSERT alike
CREATE FUNCTION pg_temp.deep(depth int) RETURNS text LANGUAGE sql AS $$ SELECT repeat('[', depth) || repeat(']', depth) $$;
CREATE FUNCTION pg_temp.outcomes(data jsonb, space text DEFAULT NULL, client text DEFAULT 'phone', times jsonb DEFAULT '{}', actor jsonb DEFAULT NULL,
                                 OUT push text, OUT sync text, OUT record_change text, OUT insert text) LANGUAGE plpgsql AS $function$
DECLARE
    changeset jsonb := jsonb_build_object('clientId', client, 'changes', jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
        'table', 't', 'id', 'r', 'op', 'insert', 'data', jsonb_build_object('n', data), 'spaceId', space, 'actor', actor))));
BEGIN
    SELECT concat_ws(' ', o.code, o.message) INTO push FROM public.outcome(format('SELECT mana_sync.push(%L, %L, %L)', 'ada', 'todo', changeset)) AS o;
    SELECT concat_ws(' ', o.code, o.message) INTO sync FROM public.outcome(format('SELECT mana_sync.sync(%L, %L, %L)', 'ada', 'todo', changeset)) AS o;
    SELECT concat_ws(' ', o.code, o.message) INTO record_change FROM public.outcome(format('SELECT mana_sync.record_change(%L, %L, %L, %L, %L, %L, %L, %L, %L, 1, %L)',
        'todo', 't', 'r', 'ada', space, 'insert', client, data, times, actor)) AS o;
    PERFORM set_config('app.current_user_id', 'ada', true);
    SELECT concat_ws(' ', o.code, o.message) INTO insert FROM public.outcome(format(
        'INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, space_id, op, client_id, data, field_timestamps, actor) VALUES (%L, %L, %L, %L, %L, %L, %L, %L, %L, %L)',
        'todo', 't', 'r', 'ada', space, 'insert', client, data, times, actor)) AS o;
    PERFORM set_config('app.current_user_id', '', true);
END
$function$;
\x on
SELECT name, o.*
    FROM (VALUES
        ('a long number', '[1, 1e1000]'::jsonb, NULL, 'phone', '{}'::jsonb, NULL::jsonb),
        ('a small number', '{"a": {"b": [1e-999]}}', NULL, 'phone', '{}', NULL),
        ('a long number in actor', '1', NULL, 'phone', '{}', '{"n": -1e131071}'),
        ('nested too deep', pg_temp.deep(1001)::jsonb, NULL, 'phone', '{}', NULL),
        ('too large', to_jsonb(repeat('x', 8388607)), NULL, 'phone', '{}', NULL),
        ('too large as text', to_jsonb(repeat(E'\x01', 1400000)), NULL, 'phone', '{}', NULL),
        ('too large in all', to_jsonb(repeat('x', 5000000)), NULL, 'phone', '{}', to_jsonb(repeat('x', 5000000))),
        ('a comma in the space', '1', 'x,y', 'phone', '{}', NULL),
        ('a long space', '1', repeat('x', 513), 'phone', '{}', NULL),
        ('a long client', '1', NULL, repeat('x', 513), '{}', NULL)
    ) AS bad (name, data, space, client, times, actor)
    CROSS JOIN LATERAL pg_temp.outcomes(data, space, client, times, actor) AS o;
\x off
-- Times are what record_change and INSERT are given. (push and sync are given none here, and store the change.)
SELECT o.record_change, o.insert FROM pg_temp.outcomes('1', times => '{"a": 1e1000}') AS o;
-- And the ids of a plain INSERT.
SELECT set_config('app.current_user_id', 'ada', false) IS NOT NULL AS scope;
SELECT o.code, o.message
    FROM (VALUES ('', 't', 'r'), ('todo', '', 'r'), ('todo', 't', ''), (repeat('a', 513), 't', 'r'), ('todo', repeat('t', 513), 'r'),
                 ('todo', 't', repeat('r', 513))) AS bad (app, tab, record)
    CROSS JOIN LATERAL outcome(format(
        'INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id) VALUES (%L, %L, %L, %L, %L, %L)',
        app, tab, record, 'ada', 'insert', 'phone')) AS o;
SELECT set_config('app.current_user_id', repeat('u', 513), false) IS NOT NULL AS scope;
SELECT code, message FROM outcome(format('INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id) VALUES (%L, %L, %L, %L, %L, %L)',
    'todo', 't', 'r', repeat('u', 513), 'insert', 'phone'));
RESET app.current_user_id;
SELECT count(*) AS stored FROM mana_sync.changes_since('ada', 'todo');

-- == What is just within the bounds is taken by all of them
SELECT o.*
    FROM (VALUES ('[1e999, -1e998, 1e-998]'::jsonb), (pg_temp.deep(999)::jsonb), (to_jsonb(repeat('x', 8388590))), (to_jsonb(repeat(E'\n', 4194290)))) AS good (data)
    CROSS JOIN LATERAL pg_temp.outcomes(data, client => repeat('x', 512)) AS o;
-- Pages end by their bytes: the large ones have one each.
CREATE FUNCTION pg_temp.pages(OUT pages bigint, OUT rows bigint, OUT longest int) LANGUAGE plpgsql AS $function$
DECLARE
    since text;
    body json;
BEGIN
    pages := 0; rows := 0; longest := 0;
    LOOP
        body := mana_sync.pull('ada', 'todo', since => since);
        pages := pages + 1;
        rows := rows + json_array_length(body -> 'serverChanges');
        longest := greatest(longest, length(body::text));
        since := body ->> 'syncedUntil';
        EXIT WHEN body ->> 'hasMore' = 'false';
    END LOOP;
END
$function$;
SELECT pages, rows, longest < 8400000 AS longest FROM pg_temp.pages();
SET mana_sync.max_page_bytes = '100MB';
SELECT pages, rows FROM pg_temp.pages();
RESET mana_sync.max_page_bytes;
-- changes_since too, whose last row has the cursor, and where a page of one row is larger than what a page may be.
SELECT count(*), count(cursor) FROM mana_sync.changes_since('ada', 'todo');
SET mana_sync.max_page_bytes = 1;
SELECT count(*), count(cursor) FROM mana_sync.changes_since('ada', 'todo');
RESET mana_sync.max_page_bytes;
-- A number of ten bytes is a thousand characters of text. It counts as such, though it is stored in place.
SELECT count(mana_sync.record_change('todo', 'numbers', 'n' || i, 'bea', NULL, 'insert', 'phone', data)) AS changes,
       max(pg_column_size(data)) < 2000 AS "in place"
    FROM generate_series(1, 100) AS i,
         (SELECT jsonb_object_agg('f' || j, '1e998'::jsonb) FROM generate_series(1, 10) AS j) AS numbers (data);
SET mana_sync.max_page_bytes = '100kB';
SELECT count(*) AS rows, count(cursor) FROM mana_sync.changes_since('bea', 'todo');
RESET mana_sync.max_page_bytes;
-- sync takes a limit, and ends by bytes as pull does.
SELECT json_array_length(body -> 'serverChanges') AS changes, body ->> 'hasMore' AS more
    FROM unnest('{1,3,1000}'::int[]) AS n,
         mana_sync.sync('ada', 'todo', jsonb_build_object('changes', jsonb '[]', 'limit', n)) AS body;

-- == Who may set the bounds: the size of a change a superuser, for it protects others; the size of a page everybody
SELECT code, message FROM outcome('SET mana_sync.max_change_size = 2000');
RESET ROLE;
SET mana_sync.max_change_size = 2000;
SET ROLE regress_app;
\x on
SELECT o.* FROM pg_temp.outcomes(to_jsonb(repeat('x', 2000))) AS o;
\x off
RESET ROLE;
RESET mana_sync.max_change_size;

-- == What a superuser has put in by hand can be read all the same
TRUNCATE mana_sync.sync_changes;
CALL put('bomb', 'insert', format('{"n": [%s1]}', repeat('1e131071,', 9000))::jsonb, space => 'home');
CALL put('small', 'update', '{"n": 1e-16383}', '{"n": "2025-01-01T00:00:00Z"}', space => 'home');
CALL put('deep', 'insert', format('{"a": %s, "b": 1}', pg_temp.deep(6000))::jsonb, space => 'home');
CALL put('deep', 'update', '{"b": 2}', space => 'home');
CALL put('huge', 'insert', jsonb_build_object('n', repeat(E'\x01', 60000000)), space => 'home');
CALL put('last', 'insert', '{"n": 1}', space => 'home');
SET ROLE regress_app;
CREATE TEMP TABLE pulled AS
    WITH RECURSIVE pages AS (
        SELECT mana_sync.pull('ben', 'todo', space_ids => '{home}') AS body
        UNION ALL
        SELECT mana_sync.pull('ben', 'todo', since => body ->> 'syncedUntil', space_ids => '{home}') FROM pages WHERE body ->> 'hasMore' = 'true')
    SELECT change FROM pages, json_array_elements(body -> 'serverChanges') AS change;
SELECT change ->> 'id' AS id, change ->> 'valuesOmitted' AS omitted, length(change::text) - length(change ->> 'position') AS length, left(change -> 'data' ->> 'n', 10) AS n,
       change -> 'fields' ->> 'n' AS field
    FROM pulled;
-- changes_since has no other form for a number: a row that is longer as text than a server can send comes without its JSON.
WITH RECURSIVE pages (record_id, data, cursor) AS (
        SELECT record_id, data, cursor FROM mana_sync.changes_since('ben', 'todo', page_size => 1, space_ids => '{home}')
        UNION ALL
        SELECT c.record_id, c.data, c.cursor FROM pages AS p, mana_sync.changes_since('ben', 'todo', since => p.cursor, page_size => 1, space_ids => '{home}') AS c)
    SELECT record_id, data IS NULL AS omitted, length(CASE WHEN record_id <> 'huge' THEN data::text END) AS length FROM pages;
RESET ROLE;
-- A record that its changes have made larger than a value can be does not hide the others.
TRUNCATE mana_sync.sync_changes;
CALL put('large', 'insert', jsonb_build_object('a', repeat('x', 110000000), 'n', 1), space => 'home');
CALL put('large', 'update', jsonb_build_object('b', repeat('x', 120000000), 'm', 2), space => 'home');
CALL put('other', 'insert', '{"n": 1}', space => 'home');
SET ROLE regress_app;
SELECT record_id, (SELECT string_agg(field, ' ' ORDER BY field) FROM jsonb_object_keys(data) AS field) AS fields
    FROM mana_sync.records('ben', 'todo', space_ids => '{home}') ORDER BY record_id;
RESET ROLE;
TRUNCATE mana_sync.sync_changes;
-- A compaction leaves alone what it cannot rebuild, and passes on.
CALL put('deep', 'insert', format('{"a": %s, "b": 1}', pg_temp.deep(6000))::jsonb, space => 'home');
CALL put('deep', 'update', '{"b": 2}', space => 'home');
CALL mana_sync.compact('todo', older_than => '0');
SELECT record_id, op, length(data::text) AS length FROM mana_sync.sync_changes WHERE record_id = 'deep' ORDER BY seq;
DROP EXTENSION mana_sync;
