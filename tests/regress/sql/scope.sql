-- The scope: who is asking, and for which spaces.
CREATE EXTENSION mana_sync;
SELECT mana_sync.grant_access('regress_app') \g /dev/null

-- What the scope is: two settings. NULL is one that was never set.
CREATE FUNCTION scope(OUT "user" text, OUT spaces text) LANGUAGE sql AS $$
    SELECT current_setting('app.current_user_id', true), current_setting('app.current_user_space_ids', true)
$$;
-- What plain SQL sees under it.
CREATE FUNCTION seen() RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(string_agg(user_id || '/' || coalesce(space_id, 'private'), ' ' ORDER BY user_id, space_id), 'nothing')
    FROM mana_sync.sync_changes
$$;
\pset null NULL

SET ROLE regress_app;
SELECT count(mana_sync.record_change('todo', 'items', 'r', u, s, 'insert', 'phone', space_ids => ARRAY[s]))
    FROM (VALUES ('ada', NULL), ('ada', 'home'), ('ben', NULL), ('ben', 'home'), ('ben', 'work')) AS v (u, s);

-- == It lasts for the transaction, and no longer
SELECT * FROM scope();
SELECT seen();
BEGIN;
SELECT mana_sync.with_scope('ada', '{home}');
SELECT * FROM scope();
SELECT seen();
SELECT record_id, user_id, space_id FROM mana_sync.changes_since(app_id => 'todo');
COMMIT;
SELECT * FROM scope();
SELECT seen();

BEGIN;
SELECT mana_sync.with_scope('ben', '{work,home}');
SELECT seen();
ROLLBACK;
SELECT * FROM scope();
SELECT seen();

-- Without a transaction block it lasts for its own statement.
SELECT mana_sync.with_scope('ada', '{home}');
SELECT seen();

-- Calling it again replaces the scope, spaces and all.
BEGIN;
SELECT mana_sync.with_scope('ada', '{home}');
SELECT mana_sync.with_scope('ben');
SELECT * FROM scope();
SELECT seen();
COMMIT;

-- Spaces are in the setting once each, in bytewise order, of whatever length: these are alike in many bytes, and some begin
-- another.
CREATE TEMP TABLE ids AS
    SELECT DISTINCT repeat(c, n) || behind AS id
    FROM unnest(ARRAY['a', 'h', U&'\00e9', '/']) AS c, generate_series(1, 10) AS n, unnest(ARRAY['', 'a', 'b', U&'\00e9', E'\x01']) AS behind;
BEGIN;
SELECT mana_sync.with_scope('ada', (SELECT array_agg(id ORDER BY md5(id || i)) FROM ids, generate_series(1, 2) AS i));
SELECT spaces = (SELECT string_agg(id, ',' ORDER BY id COLLATE "C") FROM ids) AS each_once_in_order, count(*) AS ids
FROM scope(), ids GROUP BY spaces;
COMMIT;
DROP TABLE ids;

-- A savepoint that is rolled back takes its scope with it; one that is released leaves it.
BEGIN;
SELECT mana_sync.with_scope('ada', '{home}');
SAVEPOINT s;
SELECT mana_sync.with_scope('ben', '{work}');
ROLLBACK TO s;
SELECT * FROM scope();
SAVEPOINT t;
SELECT mana_sync.with_scope('ben', '{work}');
RELEASE t;
SELECT * FROM scope();
COMMIT;

-- == Its arguments
-- NULL and empty space ids are dropped, each is named once; a comma is refused: one id would become two.
BEGIN;
SELECT mana_sync.with_scope('ada', ARRAY['work', NULL, '', 'home', 'work']);
SELECT * FROM scope();
SELECT * FROM outcome($$ SELECT mana_sync.with_scope('ada', '{"home,work"}') $$) \gx
SELECT * FROM scope();
COMMIT;

-- NULL user: that of the scope. NULL spaces: those of the scope, if it is the same user's.
BEGIN;
SELECT mana_sync.with_scope('ada', '{home}');
SELECT mana_sync.with_scope(NULL, NULL);
SELECT * FROM scope();
SELECT mana_sync.with_scope(NULL, '{work}');
SELECT * FROM scope();
SELECT mana_sync.with_scope('ada', NULL);
SELECT * FROM scope();
SELECT mana_sync.with_scope('ben', NULL);
SELECT * FROM scope();
COMMIT;
SELECT * FROM outcome('SELECT mana_sync.with_scope(NULL)') \gx
SELECT * FROM outcome($$ SELECT mana_sync.with_scope('') $$) \gx

-- == Calls in a scope
-- user_id NULL means the user of the scope, for reads and for writes.
BEGIN;
SELECT mana_sync.with_scope('ada');
SELECT count(mana_sync.record_change('calls', 'items', 'r1', NULL, NULL, 'insert', 'phone'));
SELECT count(mana_sync.record_change('calls', 'items', 'r2', 'ada', NULL, 'insert', 'phone'));
SELECT user_id, record_id FROM mana_sync.changes_since(NULL, 'calls');
-- Another user is refused.
SELECT * FROM outcome($$ SELECT * FROM mana_sync.changes_since('ben', 'todo') $$) \gx
SELECT * FROM outcome($$ SELECT mana_sync.record_change('calls', 'items', 'r3', 'ben', NULL, 'insert', 'phone') $$) \gx
SELECT * FROM scope();
COMMIT;
-- No user and no scope either.
SELECT * FROM outcome($$ SELECT * FROM mana_sync.changes_since(NULL, 'todo') $$) \gx
SELECT * FROM outcome($$ SELECT mana_sync.record_change('calls', 'items', 'r3', NULL, NULL, 'insert', 'phone') $$) \gx

-- space_ids of a call are its own; NULL means the scope's; {} means none.
BEGIN;
SELECT mana_sync.with_scope('ada', '{home}');
SELECT count(*) AS "home, own" FROM mana_sync.changes_since('ada', 'todo');
SELECT count(*) AS "own" FROM mana_sync.changes_since('ada', 'todo', space_ids => '{}');
SELECT count(*) AS "home, work, own" FROM mana_sync.changes_since('ada', 'todo', space_ids => '{home,work}');
SELECT * FROM scope();
COMMIT;
-- With no scope, NULL is none, and NULL or empty ids are dropped.
SELECT count(*) AS "own" FROM mana_sync.changes_since('ada', 'todo');
SELECT count(*) AS "own" FROM mana_sync.changes_since('ada', 'todo', space_ids => ARRAY[NULL, '']);

-- == A call that names its user runs under that user's scope and leaves the transaction's as it was
-- … where there was none:
BEGIN;
SELECT user_id, space_id FROM mana_sync.changes_since('ben', 'todo', space_ids => '{work}') ORDER BY space_id;
SELECT user_id, space_id FROM mana_sync.changes_since('ada', 'todo', space_ids => '{work}') ORDER BY user_id, space_id;
SELECT coalesce("user", '') = '' AS no_user, coalesce(spaces, '') = '' AS no_spaces FROM scope();
SELECT seen();
-- … after an error too, that a savepoint or an exception block caught:
SAVEPOINT s;
SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', 'work', 'insert', 'phone', space_ids => '{home}');
ROLLBACK TO s;
SELECT * FROM outcome($$ SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', NULL, 'insert', 'phone',
    id => (SELECT id FROM mana_sync.changes_since('ada', 'todo') LIMIT 1)) $$);
SELECT coalesce("user", '') = '' AS no_user, coalesce(spaces, '') = '' AS no_spaces FROM scope();
SELECT seen();
COMMIT;
-- … and where there was one:
BEGIN;
SELECT mana_sync.with_scope('ada', '{home}');
SELECT count(mana_sync.record_change('calls', 'items', 'r4', 'ada', 'work', 'insert', 'phone', space_ids => '{work}'));
SELECT * FROM scope();
SAVEPOINT s;
SELECT mana_sync.record_change('calls', 'items', 'r5', 'ada', 'other', 'insert', 'phone', space_ids => '{work}');
ROLLBACK TO s;
SELECT * FROM scope();
SELECT code FROM outcome($$ SELECT mana_sync.record_change('calls', 'items', 'r5', 'ada', NULL, 'insert', 'phone',
    id => (SELECT id FROM mana_sync.changes_since('ada', 'calls') LIMIT 1), space_ids => '{work}') $$);
SELECT * FROM scope();
SELECT seen();
COMMIT;

-- == The settings are the scope, however they were set
BEGIN;
SELECT set_config('app.current_user_id', 'ben', true), set_config('app.current_user_space_ids', ',,home,,', true);
SELECT seen();
SELECT count(*) FROM mana_sync.changes_since(app_id => 'todo');
COMMIT;
SET app.current_user_id = 'ada';
SELECT seen();
SELECT count(*) FROM mana_sync.changes_since(app_id => 'todo');
SELECT * FROM scope();
-- For a session: with_scope comes over it for a transaction.
BEGIN;
SELECT mana_sync.with_scope('ben');
SELECT seen();
COMMIT;
SELECT seen();
RESET app.current_user_id;
SELECT seen();

-- Spaces without a user are no scope. An empty user is no user and an empty space no space, also for a
-- row that an administrator gave one.
RESET ROLE;
INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, space_id, op, client_id)
    VALUES ('todo', 'items', 'odd', 'cyd', '', 'insert', 'phone');
SET ROLE regress_app;
BEGIN;
SELECT set_config('app.current_user_space_ids', 'home,work', true);
SELECT seen();
SELECT set_config('app.current_user_id', 'ada', true), set_config('app.current_user_space_ids', ',', true);
SELECT seen();
COMMIT;

RESET ROLE;
-- == While a call runs, whatever it runs reads its scope in the settings
CREATE TABLE noted (n int GENERATED ALWAYS AS IDENTITY, place text, "user" text, spaces text);
CREATE FUNCTION of_cyd() RETURNS text LANGUAGE sql SET app.current_user_id = 'cyd' AS $$ SELECT "user" FROM scope() $$;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $body$
DECLARE
    undone text;
BEGIN
    INSERT INTO noted (place, "user", spaces) SELECT NEW.record_id, * FROM scope();
    INSERT INTO noted (place, "user") VALUES ('a function with a SET', of_cyd());
    BEGIN
        PERFORM set_config('app.current_user_id', 'dan', true);
        SELECT "user" INTO undone FROM scope();
        RAISE 'undo it';
    EXCEPTION WHEN raise_exception THEN
        INSERT INTO noted (place, "user") VALUES ('set, and undone', undone);
    END;
    -- By a worker, too.
    EXECUTE $$ SELECT current_setting('app.current_user_id') || '/' || current_setting('app.current_user_space_ids')
               FROM pg_class LIMIT 1 $$ INTO undone;
    INSERT INTO noted (place, "user") VALUES ('in a parallel query', undone);
    IF NEW.record_id = 'outer' THEN
        PERFORM mana_sync.record_change('calls', 'items', 'inner', NULL, 'work', 'insert', 'phone', space_ids => '{work}');
    ELSIF NEW.record_id = 'set' THEN
        FOR i IN 1 .. 4 LOOP
            PERFORM mana_sync.with_scope('ben', ARRAY['wor' || i]);
            INSERT INTO noted (place, "user", spaces) SELECT 'set ' || i, * FROM scope();
        END LOOP;
    END IF;
    INSERT INTO noted (place, "user", spaces) SELECT NEW.record_id, * FROM scope();
    RETURN NEW;
END $body$;
CREATE TRIGGER note BEFORE INSERT ON mana_sync.sync_changes FOR EACH ROW EXECUTE FUNCTION note();
SET ROLE regress_app;
-- It is called debug_parallel_query since PostgreSQL 16.
SELECT set_config(name, 'on', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query') \g /dev/null
BEGIN;
SELECT mana_sync.with_scope('ada', '{garden}');
SELECT count(mana_sync.record_change('calls', 'items', 'outer', 'ada', 'home', 'insert', 'phone', space_ids => '{home}'));
-- What a trigger sets counts until the call ends: the row is judged by it.
SELECT code FROM outcome($$ SELECT mana_sync.record_change('calls', 'items', 'set', 'ada', NULL, 'insert', 'phone',
    space_ids => '{home}') $$);
SELECT * FROM scope();
COMMIT;
SELECT set_config(name, 'off', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query') \g /dev/null
RESET ROLE;
SELECT place, "user", spaces FROM noted ORDER BY n;
DROP TRIGGER note ON mana_sync.sync_changes;
DROP FUNCTION note, of_cyd;
DROP TABLE noted;

DROP FUNCTION scope, seen;
SELECT mana_sync.revoke_access('regress_app') \g /dev/null
DROP EXTENSION mana_sync;
