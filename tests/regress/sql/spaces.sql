-- Spaces: who reads what, who may write where, and what joining and leaving do to a cursor.
CREATE EXTENSION mana_sync;
SELECT mana_sync.grant_access('regress_app') \g /dev/null
CREATE FUNCTION write(who text, space text, record text) RETURNS bigint LANGUAGE sql AS $$
    SELECT count(mana_sync.record_change('todo', 'items', record, who, space, 'insert', 'phone', space_ids => ARRAY[space]))
$$;
-- What a pull brings, and where to go on: no row, no cursor, so the last one stays.
CREATE FUNCTION pull(who text, spaces text[], since text DEFAULT NULL, page int DEFAULT 5000, OUT records text, OUT next text)
    LANGUAGE sql AS $$
    SELECT coalesce(string_agg(record_id, ' ' ORDER BY n), '-'), coalesce(max(cursor), since)
    FROM mana_sync.changes_since(who, 'todo', since => since, page_size => page, space_ids => spaces) WITH ORDINALITY
         AS c (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at,
               schema_version, space_id, actor, cursor, n)
$$;
SET ROLE regress_app;

-- == Reading
SELECT write('ada', NULL, 'ada-private'), write('ada', 'home', 'ada-home'), write('ada', 'work', 'ada-work');
SELECT write('ben', NULL, 'ben-private'), write('ben', 'home', 'ben-home');
-- One's own rows, wherever they are; others' rows in the spaces of the call; each once, in the order of the log.
SELECT records FROM pull('ada', NULL);
SELECT records FROM pull('ada', '{}');
SELECT records FROM pull('ada', '{home}');
SELECT records FROM pull('ada', '{home,work}');
SELECT records FROM pull('ben', '{home}');
SELECT records FROM pull('ben', '{work,home}');
SELECT records FROM pull('ben', ARRAY['work', 'home', 'work', NULL, '']);
SELECT records FROM pull('cyd', '{home,work,nowhere}');
SELECT records FROM pull('cyd', '{}');

-- == Joining brings the whole history
SELECT write('cyd', NULL, 'cyd-private');
SELECT records, next AS cyd FROM pull('cyd', '{}') \gset
SELECT :'records' AS records;
-- Cyd joins home: what is older than the cursor comes too, and with it nothing that was there.
SELECT * FROM pull('cyd', '{home}', :'cyd') \gset
SELECT :'records' AS records;
\set home :next
SELECT records FROM pull('cyd', '{home}', :'home');
SELECT write('ben', 'home', 'ben-home-2');
SELECT * FROM pull('cyd', '{home}', :'home') \gset
SELECT :'records' AS records;

-- == Leaving stops it; what was delivered stays with the device
SELECT write('ben', 'home', 'ben-home-3'), write('cyd', NULL, 'cyd-private-2');
SELECT * FROM pull('cyd', '{}', :'next') \gset
SELECT :'records' AS records;

-- == Rejoining brings all again
SELECT * FROM pull('cyd', '{home}', :'next') \gset
SELECT :'records' AS records;
SELECT records FROM pull('cyd', '{home}', :'next');

-- One's own rows in a space come again with the join: the device may have removed them when it left.
SELECT write('cyd', 'home', 'cyd-home');
SELECT * FROM pull('cyd', '{home}', :'next') \gset
SELECT :'records' AS records;
SELECT write('cyd', NULL, 'cyd-private-3');
SELECT * FROM pull('cyd', '{}', :'next') \gset
SELECT :'records' AS records;
SELECT * FROM pull('cyd', '{home}', :'next') \gset
SELECT :'records' AS records;

-- A page without rows has no cursor: the one that the device holds is from before it left, and goes on
-- where it was. A device that removed the space's records meanwhile asks from the beginning.
SELECT write('ben', 'home', 'ben-home-4');
SELECT * FROM pull('cyd', '{}', :'next') \gset
SELECT :'records' AS records;
SELECT records FROM pull('cyd', '{home}', :'next');
SELECT records FROM pull('cyd', '{home}');
-- A second space while in the first: the history of the second, and nothing of the first.
SELECT * FROM pull('cyd', '{home}', :'next') \gset
SELECT * FROM pull('cyd', '{home,work}', :'next') \gset
SELECT :'records' AS records;
SELECT records FROM pull('cyd', '{work,home}', :'next');

-- == Joining in the middle of a walk over pages
-- The walk goes on, and the space's history comes as well; nothing is lost.
SELECT sum(write('dan', NULL, 'dan-' || n)) FROM generate_series(1, 3) AS n;
SELECT * FROM pull('dan', '{}', NULL, 2) \gset
SELECT :'records' AS records;
CREATE TEMPORARY TABLE got (record text);
DO $$
DECLARE
    step record;
BEGIN
    INSERT INTO got VALUES ('dan-1'), ('dan-2');
    step := pull('dan', '{}', NULL, 2);
    LOOP
        step := pull('dan', '{home}', step.next, 2);
        EXIT WHEN step.records = '-';
        INSERT INTO got SELECT unnest(string_to_array(step.records, ' '));
    END LOOP;
END
$$;
SELECT string_agg(DISTINCT record, ' ' ORDER BY record) AS got FROM got;

-- == Many spaces, pages of any size: everything once, in order within each space.
SELECT sum(write('eve', 's' || n % 40, 'eve-' || n)) FROM generate_series(1, 400) AS n;
CREATE TEMPORARY TABLE many (page int, n serial, record text);
DO $$
DECLARE
    spaces text[] := (SELECT array_agg('s' || n) FROM generate_series(0, 39) AS n);
    step record;
BEGIN
    FOR page IN 1..3 LOOP
        step := pull('fay', spaces, NULL, page * 31);
        WHILE step.records <> '-' LOOP
            INSERT INTO many (page, record) SELECT page, unnest(string_to_array(step.records, ' '));
            step := pull('fay', spaces, step.next, page * 31);
        END LOOP;
    END LOOP;
END
$$;
SELECT page, count(*), count(DISTINCT record), bool_and(n > before OR before IS NULL) AS in_order
    FROM (SELECT page, record, substr(record, 5)::int AS n, lag(substr(record, 5)::int) OVER (PARTITION BY page ORDER BY n) AS before FROM many) AS m
    GROUP BY page ORDER BY page;

-- A cursor is short: each space adds about 8 characters.
SELECT write('eve', NULL, 'eve-private');
SELECT length(none) < 200 AS short, round((length(forty) - length(none)) / 40.0) AS "for a space"
    FROM (SELECT (pull('eve', '{}')).next AS none,
                 (pull('eve', (SELECT array_agg('s' || n) FROM generate_series(0, 39) AS n))).next AS forty) AS cursors;
-- Any text without a comma is a space id.
SELECT ARRAY[' ', E'a\nb', '"q"', '{x}', E'back\\slash', '''', '%s', 'ünï 🥛', repeat('s', 500)] AS odd \gset
SELECT sum(write('gil', id, 'gil-' || n)) FROM unnest(:'odd'::text[]) WITH ORDINALITY AS s (id, n);
SELECT records FROM pull('hal', :'odd');
SELECT records FROM pull('hal', ARRAY['  ', 'a', 'b', 'q', 'x', 'back', 'ünï']);
-- An array of any shape.
SELECT records FROM pull('hal', '{{home,nowhere},{nothing,home}}');
SELECT records FROM pull('hal', '[7:8]={home,nowhere}');
-- == Writing into a space
-- Where the memberships are known, only into those: by the call …
SELECT * FROM outcome($$ SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', 'work', 'insert', 'phone', space_ids => '{home}') $$) \gx
SELECT code FROM outcome($$ SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', 'work', 'insert', 'phone', space_ids => '{}') $$);
SELECT code FROM outcome($$ SELECT mana_sync.record_change('todo', 'items', 'ok', 'ada', 'work', 'insert', 'phone', space_ids => '{home,work}') $$);
-- … or by the scope, for plain SQL too (the policy's WITH CHECK).
BEGIN;
SELECT mana_sync.with_scope('ada', '{home}');
SELECT code, message FROM outcome($$ SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', 'work', 'insert', 'phone') $$);
SELECT code, message FROM outcome($$ INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, space_id, op, client_id)
    VALUES ('todo', 'items', 'r', 'ada', 'work', 'insert', 'phone') $$);
SELECT code FROM outcome($$ INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, space_id, op, client_id)
    VALUES ('todo', 'items', 'ok', 'ada', 'home', 'insert', 'phone') $$);
-- A part of an id is not the id.
SELECT code FROM outcome($$ SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', 'hom', 'insert', 'phone') $$);
SELECT code FROM outcome($$ SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', 'HOME', 'insert', 'phone') $$);
-- A member reads what others wrote, and writes only under its own name.
SELECT code, message FROM outcome($$ INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, space_id, op, client_id)
    VALUES ('todo', 'items', 'r', 'ben', 'home', 'insert', 'phone') $$);
COMMIT;

-- Where they are not known, anybody may write anywhere, under its own name …
SELECT code FROM outcome($$ SELECT mana_sync.record_change('todo', 'items', 'anywhere', 'ada', 'elsewhere', 'insert', 'phone') $$);
-- … unless mana_sync.strict_spaces is on, which an application role cannot turn off.
SELECT code, message FROM outcome('SET mana_sync.strict_spaces = off');
RESET ROLE;
SET mana_sync.strict_spaces = on;
SET ROLE regress_app;
SELECT * FROM outcome($$ SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', 'elsewhere', 'insert', 'phone') $$) \gx
SELECT code FROM outcome($$ SELECT mana_sync.record_change('todo', 'items', 'ok', 'ada', NULL, 'insert', 'phone') $$);
SELECT code FROM outcome($$ SELECT mana_sync.record_change('todo', 'items', 'ok', 'ada', 'home', 'insert', 'phone', space_ids => '{home}') $$);
BEGIN;
SELECT mana_sync.with_scope('ada');
SELECT code FROM outcome($$ INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, space_id, op, client_id)
    VALUES ('todo', 'items', 'r', 'ada', 'elsewhere', 'insert', 'phone') $$);
COMMIT;
SELECT code FROM outcome('RESET mana_sync.strict_spaces');
RESET ROLE;
RESET mana_sync.strict_spaces;
-- It can be set for a database or a role, and then holds in a new session from the first call on, also if the
-- role tried to turn it off before the library was loaded.
ALTER ROLE regress_app LOGIN;
ALTER ROLE regress_app SET mana_sync.strict_spaces = on;
\set me :USER
\connect - regress_app
SELECT code FROM outcome('ALTER ROLE regress_app SET mana_sync.strict_spaces = off');
SET mana_sync.strict_spaces = off;
SELECT code FROM outcome($$ SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', 'elsewhere', 'insert', 'phone') $$);
SHOW mana_sync.strict_spaces;
\connect - :me
ALTER ROLE regress_app RESET mana_sync.strict_spaces;
ALTER ROLE regress_app NOLOGIN;
-- None of the refused ones is there.
SELECT count(*) FROM mana_sync.sync_changes WHERE record_id = 'r';

-- == Joining after an epoch has begun
-- Both spaces are read from the beginning of that epoch, beta with the reader's own rows and alpha without: those of alpha come
-- as own ones.
SET ROLE regress_app;
SELECT write('lea', 'alpha', 'lea-alpha'), write('kim', NULL, 'kim-private');
SELECT * FROM pull('kim', '{alpha}') \gset
SELECT :'records' AS records;
RESET ROLE;
SELECT mana_sync.begin_epoch() > 1 AS later;
SET ROLE regress_app;
SELECT write('kim', 'alpha', 'kim-alpha'), write('kim', 'beta', 'kim-beta'), write('lea', 'alpha', 'lea-alpha-2'), write('lea', 'beta', 'lea-beta');
SELECT records FROM pull('kim', '{alpha,beta}', :'next');
RESET ROLE;

DROP FUNCTION pull, write;
SELECT mana_sync.revoke_access('regress_app') \g /dev/null
DROP EXTENSION mana_sync;
