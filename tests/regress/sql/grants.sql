-- grant_access and revoke_access: what a role may do, in the catalog and as the role itself.
CREATE EXTENSION mana_sync;
CREATE ROLE regress_other;
CREATE ROLE "regress Odd Näme""";
CREATE ROLE regress_bypass BYPASSRLS;
CREATE ROLE regress_super SUPERUSER;

-- What a role has on the extension's objects, in a line.
CREATE FUNCTION privileges(grantee regrole) RETURNS TABLE (object text, privileges text) LANGUAGE sql AS $$
    SELECT o.object, string_agg(o.privilege_type, ', ' ORDER BY o.privilege_type COLLATE "C") FROM (
        SELECT 'schema' AS object, x.* FROM pg_namespace, aclexplode(nspacl) AS x WHERE nspname = 'mana_sync'
        UNION ALL
        SELECT relname, x.* FROM pg_class, aclexplode(relacl) AS x WHERE relnamespace = 'mana_sync'::regnamespace
        UNION ALL
        SELECT relname || '.' || attname, x.* FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid, aclexplode(attacl) AS x
            WHERE relnamespace = 'mana_sync'::regnamespace
        UNION ALL
        SELECT proname, x.* FROM pg_proc, aclexplode(proacl) AS x WHERE pronamespace = 'mana_sync'::regnamespace
    ) AS o WHERE o.grantee = privileges.grantee GROUP BY o.object ORDER BY o.object COLLATE "C"
$$;

-- == A role that was granted nothing
SET ROLE regress_app;
SELECT * FROM outcome($$ SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', NULL, 'insert', 'phone') $$);
SELECT * FROM outcome($$ SELECT * FROM mana_sync.changes_since('ada', 'todo') $$);
SELECT * FROM outcome($$ SELECT mana_sync.with_scope('ada') $$);
SELECT * FROM outcome('SELECT * FROM mana_sync.sync_changes');
RESET ROLE;

-- == grant_access
SELECT mana_sync.grant_access('regress_app');
SELECT * FROM privileges('regress_app');
-- Granting twice is granting once, and another role has nothing from it.
SELECT mana_sync.grant_access('regress_app');
SELECT count(*) FROM privileges('regress_app');
SELECT count(*) FROM privileges('regress_other');
-- Any name will do.
SELECT mana_sync.grant_access('"regress Odd Näme"""');
SELECT count(*) FROM privileges('"regress Odd Näme"""');
SELECT mana_sync.revoke_access('"regress Odd Näme"""');
SELECT count(*) FROM privileges('"regress Odd Näme"""');

-- == What the role can do
SET ROLE regress_app;
SELECT count(mana_sync.record_change('todo', 'items', 'r1', 'ada', NULL, 'insert', 'phone'));
SELECT count(mana_sync.record_change('todo', 'items', 'r2', 'ben', 'home', 'insert', 'phone'));
SELECT record_id FROM mana_sync.changes_since('ada', 'todo');
BEGIN;
SELECT mana_sync.with_scope('ada', '{home}');
SELECT record_id FROM mana_sync.sync_changes ORDER BY record_id;
INSERT INTO mana_sync.sync_changes (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, schema_version, actor, space_id)
    VALUES ('0190f5fe-7c00-7000-8000-000000000001', 'todo', 'items', 'r3', 'ada', 'insert', '{}', '{}', 'phone', 2, '{}', 'home') RETURNING record_id;
COPY (SELECT record_id FROM mana_sync.sync_changes ORDER BY record_id) TO stdout;
COPY mana_sync.sync_changes (record_id, user_id) TO stdout;
-- What INSERT can do without naming them: the columns that order the log have the right values.
SELECT record_id, xact = pg_current_xact_id() AS xact, epoch, created_at BETWEEN now() AND clock_timestamp() AS created_at FROM mana_sync.sync_changes WHERE record_id = 'r3';
COMMIT;

-- == What it cannot do
BEGIN;
SELECT mana_sync.with_scope('ada', '{home}');
\pset format unaligned
SELECT o.* FROM unnest(ARRAY[
    $$INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, created_at) VALUES ('todo', 'items', 'x', 'ada', 'insert', 'phone', now())$$,
    $$INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, epoch) VALUES ('todo', 'items', 'x', 'ada', 'insert', 'phone', 1)$$,
    $$INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, xact) VALUES ('todo', 'items', 'x', 'ada', 'insert', 'phone', '1')$$,
    $$INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id, seq) VALUES ('todo', 'items', 'x', 'ada', 'insert', 'phone', 1)$$,
    $$INSERT INTO mana_sync.sync_changes SELECT * FROM mana_sync.sync_changes$$,
    $$INSERT INTO mana_sync.sync_changes (id, app_id, table_name, record_id, user_id, op, client_id) VALUES ('0190f5fe-7c00-7000-8000-000000000001', 'todo', 'items', 'x', 'ada', 'insert', 'phone') ON CONFLICT (id) DO UPDATE SET data = '{}'$$,
    $$UPDATE mana_sync.sync_changes SET data = '{}'$$,
    $$DELETE FROM mana_sync.sync_changes$$,
    $$TRUNCATE mana_sync.sync_changes$$,
    $$SELECT * FROM mana_sync.sync_changes FOR UPDATE$$,
    $$SELECT * FROM mana_sync.epochs$$,
    $$SELECT secret FROM mana_sync.epochs$$,
    $$INSERT INTO mana_sync.epochs VALUES (9, 9, '\x00', 9, 9, 9, '0/0')$$,
    $$SELECT setval('mana_sync.sync_changes_seq', 1)$$,
    $$SELECT last_value FROM mana_sync.sync_changes_seq$$,
    $$SELECT * FROM mana_sync.channel_key$$,
    $$CREATE TEMPORARY TABLE mine (a int); CREATE TRIGGER t BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION mana_sync.note_change()$$,
    $$CREATE TABLE mana_sync.mine ()$$,
    $$CREATE TRIGGER t BEFORE INSERT ON mana_sync.sync_changes FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()$$,
    $$ALTER TABLE mana_sync.sync_changes DISABLE ROW LEVEL SECURITY$$,
    $$DROP POLICY sync_changes_user_isolation ON mana_sync.sync_changes$$,
    $$ALTER EXTENSION mana_sync UPDATE$$,
    $$DROP EXTENSION mana_sync$$,
    $$SELECT mana_sync.grant_access('regress_other')$$,
    $$SELECT mana_sync.revoke_access('regress_app')$$
    ]) WITH ORDINALITY AS bad (call, n), LATERAL (SELECT code, message, bad.call FROM outcome(bad.call)) AS o ORDER BY bad.n;
\pset format aligned
-- It cannot pass on what it has: PostgreSQL's GRANT says so with a WARNING, and grants nothing.
GRANT SELECT ON mana_sync.sync_changes TO regress_other;
-- COPY FROM is not for tables with row security; PostgreSQL says so itself. Use INSERT.
-- (Not with rows below it: what psql does with them after the error depends on its minor version.)
\copy mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id) from '/dev/null'
ROLLBACK;
-- open_epoch acts as the owner. It can be called by all who can write, and has nothing left to do.
SELECT mana_sync.open_epoch() = mana_sync.current_epoch() AS same;
SELECT * FROM outcome($$ SELECT mana_sync.require_owner('grant_access', 'regress_app') $$);
RESET ROLE;
SELECT record_id, user_id FROM mana_sync.sync_changes ORDER BY record_id;
SELECT count(*) AS epochs FROM mana_sync.epochs;
SELECT count(*) FROM privileges('regress_other');

-- == A role that is member of a granted one has what that one has
GRANT regress_app TO regress_other;
SET ROLE regress_other;
SELECT record_id FROM mana_sync.changes_since('ada', 'todo');
RESET ROLE;
REVOKE regress_app FROM regress_other;

-- == Roles that pass by row security get a WARNING with it
SELECT mana_sync.grant_access('regress_bypass');
SELECT mana_sync.grant_access('regress_super');
-- It is true: without any scope, they see the rows of all.
SET ROLE regress_bypass;
SELECT count(*) FROM mana_sync.sync_changes;
-- changes_since gives a user's rows also to them.
SELECT record_id FROM mana_sync.changes_since('ada', 'todo');
RESET ROLE;

-- == Bad arguments
SELECT * FROM outcome('SELECT mana_sync.grant_access(NULL)');
SELECT * FROM outcome('SELECT mana_sync.revoke_access(NULL)');
SELECT * FROM outcome($$ SELECT mana_sync.grant_access('-') $$);
-- A number is a role's name to PostgreSQL, also where there is no such role.
SELECT * FROM outcome($$ SELECT mana_sync.grant_access('4242424242'::oid::regrole) $$);
SELECT * FROM outcome($$ SELECT mana_sync.grant_access('no_such_role') $$);
SELECT * FROM outcome($$ SELECT mana_sync.grant_access('0'::regrole) $$);

-- == revoke_access
SELECT mana_sync.revoke_access('regress_bypass');
SELECT mana_sync.revoke_access('regress_super');
SELECT mana_sync.revoke_access('regress_app');
SELECT count(*) FROM privileges('regress_app');
SELECT has_schema_privilege('regress_app', 'mana_sync', 'USAGE') AS schema,
       has_table_privilege('regress_app', 'mana_sync.sync_changes', 'SELECT') AS "select",
       has_any_column_privilege('regress_app', 'mana_sync.sync_changes', 'INSERT') AS "insert",
       has_sequence_privilege('regress_app', 'mana_sync.sync_changes_seq', 'USAGE') AS sequence;
SET ROLE regress_app;
SELECT code, message FROM outcome($$ SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', NULL, 'insert', 'phone') $$);
SELECT code, message FROM outcome($$ SELECT * FROM mana_sync.changes_since('ada', 'todo') $$);
RESET ROLE;
-- Revoking what was not granted is no error.
SELECT mana_sync.revoke_access('regress_app');
-- A role without anything can be dropped.
DROP ROLE regress_other, regress_bypass, regress_super, "regress Odd Näme""";

-- DROP EXTENSION needs no revoking before it.
SELECT mana_sync.grant_access('regress_app');
DROP EXTENSION mana_sync;
CREATE EXTENSION mana_sync;
SELECT count(*) FROM privileges('regress_app');
DROP FUNCTION privileges;
DROP EXTENSION mana_sync;
