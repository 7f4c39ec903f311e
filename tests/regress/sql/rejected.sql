-- Changesets that are not atomic: what can be recorded is, and the rest is rejected, with a code and a message for each change.
CREATE EXTENSION mana_sync;
SELECT mana_sync.grant_access('regress_app') \g /dev/null
-- The records of an app in the order of the log, and whether the rows were inserted without a subtransaction.
CREATE FUNCTION recorded(app text) RETURNS TABLE (records text, whole boolean) LANGUAGE sql SECURITY DEFINER AS $$
    SELECT string_agg(record_id, ' ' ORDER BY epoch, xact, seq), bool_and(xmin = xact::xid) FROM mana_sync.sync_changes WHERE app_id = app
$$;
-- What push answers for a changeset of inserts, by the ids of their records.
CREATE FUNCTION push(app text, ids text[], spaces text[] DEFAULT NULL) RETURNS TABLE (counts text, rejected text) LANGUAGE sql AS $$
    SELECT concat_ws(' ', body ->> 'inserted', body ->> 'duplicates', body ->> 'skipped'),
           (SELECT string_agg(concat_ws(' ', r ->> 'index', r ->> 'id', r ->> 'code', r ->> 'error'), E'\n' ORDER BY n)
                FROM json_array_elements(body -> 'rejected') WITH ORDINALITY AS r (r, n))
    FROM mana_sync.push('ada', app, jsonb_build_object('atomic', false, 'changes',
        (SELECT jsonb_agg(jsonb_build_object('table', 't', 'id', id, 'op', 'insert', 'data', jsonb '{}',
                                             'eventId', md5(app || id)::uuid) ORDER BY n)
             FROM unnest(ids) WITH ORDINALITY AS i (id, n))), space_ids => spaces) AS body
$$;
SET ROLE regress_app;
\pset tuples_only on
\pset format unaligned

-- == What the extension refuses
SELECT mana_sync.push('ada', 'own', $$ {"atomic": false, "changes": [
    {"table": "t", "id": "a", "op": "insert", "data": {"n": 1}, "eventId": "0190f5fe-7c00-7000-8000-000000000001"},
    "no object", {"table": "t"}, {"table": "t", "id": "b", "op": "upsert"}, {"table": "t", "id": "c", "op": "insert"},
    {"table": "t", "id": "d", "op": "update", "fields": {"n": {"value": 1, "at": "noon"}}},
    {"table": "t", "id": "e", "op": "delete", "spaceId": "attic"},
    {"table": "t", "id": "f", "op": "delete", "spaceId": "a,b"},
    {"table": "t", "id": "g", "op": "insert", "data": {"n": 1e5000}},
    {"table": "t", "id": "h", "op": "delete", "eventId": "7"},
    {"table": "t", "id": "j", "op": "delete", "eventId": "0190f5fe-7c00-7000-8000-000000000002"}]} $$, space_ids => '{home}');
SELECT * FROM recorded('own');
-- The same again: nothing is inserted, and the same is rejected.
SELECT mana_sync.push('ada', 'own', $$ {"atomic": false, "changes": [
    {"table": "t", "id": "a", "op": "insert", "data": {"n": 1}, "eventId": "0190f5fe-7c00-7000-8000-000000000001"},
    {"table": "t", "id": "b", "op": "upsert"},
    {"table": "t", "id": "j", "op": "delete", "eventId": "0190f5fe-7c00-7000-8000-000000000002"}]} $$, space_ids => '{home}');
-- An eventId that is another change's, one with other content, one of another user's row, one twice in a changeset.
SELECT mana_sync.push('ben', 'own', '{"changes": [{"table": "t", "id": "x", "op": "delete", "eventId": "0190f5fe-7c00-7000-8000-000000000009"}]}');
SELECT mana_sync.push('ada', 'own', $$ {"atomic": false, "changes": [
    {"table": "t", "id": "k", "op": "delete", "eventId": "0190f5fe-7c00-7000-8000-000000000001"},
    {"table": "t", "id": "a", "op": "insert", "data": {"n": 2}, "eventId": "0190f5fe-7c00-7000-8000-000000000001"},
    {"table": "t", "id": "x", "op": "delete", "eventId": "0190f5fe-7c00-7000-8000-000000000009"},
    {"table": "t", "id": "l", "op": "delete", "eventId": "0190f5fe-7c00-7000-8000-00000000000a"},
    {"table": "t", "id": "m", "op": "delete", "eventId": "0190f5fe-7c00-7000-8000-00000000000a"}]} $$);
SELECT * FROM recorded('own');
-- A fault of the whole changeset is an error, as ever. Default is all or nothing, and says nothing of rejected changes.
SELECT mana_sync.push('ada', 'own', '{"atomic": false}');
SELECT mana_sync.push('ada', 'own', '{"atomic": 0, "changes": []}');
SELECT mana_sync.push('ada', 'own', '{"atomic": false, "clientId": 7, "changes": []}');
SELECT mana_sync.push('ada', 'own', '{"atomic": false, "changes": []}');
SELECT mana_sync.push('ada', 'own', '{"atomic": true, "changes": [{"table": "t", "id": "y", "op": "upsert"}]}');
-- A change of a later schema is not rejected: the device keeps it, and the server may know its schema later.
SELECT mana_sync.push('ada', 'own', '{"atomic": false, "changes": [{"table": "t", "id": "i", "op": "delete", "schemaVersion": 2}, {"table": "t", "id": "y", "op": "upsert"}]}');
-- sync tells it too.
SELECT body -> 'rejected' AS rejected, json_array_length(body -> 'serverChanges') AS changes
    FROM mana_sync.sync('ada', 'sync', '{"atomic": false, "changes": [{"table": "t", "id": "y", "op": "upsert"}, {"table": "t", "id": "z", "op": "delete"}]}') AS body;
SELECT mana_sync.sync('ada', 'sync', '{"changes": []}') -> 'rejected';

-- == What a trigger of the application refuses
RESET ROLE;
CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    CASE
        WHEN NEW.record_id LIKE 'bad%' THEN RAISE EXCEPTION 'no % here', NEW.record_id;
        WHEN NEW.record_id LIKE 'own code%' THEN RAISE EXCEPTION 'payment required' USING ERRCODE = 'PT402', DETAIL = 'Not for devices.';
        WHEN NEW.record_id LIKE 'check%' THEN RAISE check_violation USING MESSAGE = 'checked';
        WHEN NEW.record_id LIKE 'left out%' THEN RETURN NULL;
        WHEN NEW.record_id = 'locked' THEN RAISE lock_not_available USING MESSAGE = 'try again later';
        WHEN NEW.record_id = 'faulty' THEN PERFORM 1 FROM nowhere;
        WHEN NEW.record_id = 'denied' THEN PERFORM 1 FROM mana_sync.epochs;
        WHEN NEW.record_id = 'writes' THEN
            INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, op, client_id)
                SELECT 'audit', 't', 'of ' || NEW.record_id || n, NEW.user_id, 'insert', '' FROM generate_series(1, 5) AS n;
        ELSE NULL;
    END CASE;
    RETURN NEW;
END
$$;
CREATE TRIGGER judge BEFORE INSERT ON mana_sync.sync_changes FOR EACH ROW EXECUTE FUNCTION judge();
SET ROLE regress_app;
SELECT * FROM push('good', '{a,b,c}');
SELECT * FROM push('first', '{bad 1,b,c}');
SELECT * FROM push('last', '{a,b,bad 3}');
SELECT * FROM push('only', '{bad}');
SELECT * FROM push('kinds', '{a,bad 1,b,own code,c,check,d}');
SELECT records FROM recorded('kinds');
SELECT * FROM push('kinds', '{a,bad 1,b,own code,c,check,d}');
SELECT records FROM recorded('kinds');
SELECT * FROM push('all', ARRAY(SELECT 'bad ' || n FROM generate_series(1, 5) AS n));
-- One in a thousand, wherever it is.
SELECT place, counts, rejected FROM unnest('{1,2,500,999,1000}'::int[]) AS place,
    push('at ' || place, ARRAY(SELECT CASE n WHEN place THEN 'bad ' ELSE '' END || n FROM generate_series(1, 1000) AS n));
-- The order of the changes is that of the changeset all the same.
SELECT app, records = (SELECT string_agg(n::text, ' ' ORDER BY n) FROM generate_series(1, 1000) AS n WHERE 'at ' || n <> app) AS in_order
    FROM unnest('{at 1,at 2,at 500,at 999,at 1000}'::text[]) AS app, recorded(app);
-- A trigger that leaves a change out, or that writes to the log by itself: no other change is taken for it.
SELECT * FROM push('left out', '{a,left out 1,bad,left out 2,b}');
SELECT records FROM recorded('left out');
SELECT mana_sync.push('ada', 'left out', '{"changes": [{"table": "t", "id": "left out 3", "op": "delete"}, {"table": "t", "id": "c", "op": "delete"}]}');
SELECT * FROM push('writes', '{a,writes,b,bad,c,d,e,f,g,h}');
SELECT records FROM recorded('writes');
-- A change that has its space from a refused change is private.
SELECT mana_sync.push('ada', 'spaces', '{"atomic": false, "changes": [
    {"table": "t", "id": "a", "op": "insert", "data": {}},
    {"table": "t", "id": "bad", "op": "insert", "data": {}, "spaceId": "home"}, {"table": "t", "id": "a", "op": "update", "fields": {"n": {"value": 1}}},
    {"table": "t", "id": "c", "op": "insert", "data": {}, "spaceId": "home"}, {"table": "t", "id": "c", "op": "update", "fields": {"n": {"value": 1}}}]}', space_ids => '{home}') ->> 'inserted';
RESET ROLE;
CREATE FUNCTION no_home() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.op = 'insert' AND NEW.space_id = 'home' THEN
        BEGIN
            RAISE check_violation USING MESSAGE = 'inner';
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'no inserts here';
            RAISE;
        END;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER no_home BEFORE INSERT ON mana_sync.sync_changes FOR EACH ROW EXECUTE FUNCTION no_home();
SET ROLE regress_app;
SET client_min_messages = error;
SELECT mana_sync.push('ada', 'spaces', '{"atomic": false, "changes": [
    {"table": "t", "id": "d", "op": "insert", "data": {}, "spaceId": "home"}, {"table": "t", "id": "d", "op": "update", "fields": {"n": {"value": 1}}}]}', space_ids => '{home}');
RESET client_min_messages;
SELECT record_id, op, space_id FROM mana_sync.changes_since('ada', 'spaces', space_ids => '{home}');
RESET ROLE;
DROP TRIGGER no_home ON mana_sync.sync_changes;
-- A trigger that changes a row: the change is recorded, and not rejected as another. Sent again, it is another.
CREATE FUNCTION edit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.data := NEW.data || '{"edited": true}'; RETURN NEW; END $$;
CREATE TRIGGER edit BEFORE INSERT ON mana_sync.sync_changes FOR EACH ROW WHEN (NEW.app_id = 'edited') EXECUTE FUNCTION edit();
SET ROLE regress_app;
SELECT * FROM push('edited', '{a}');
SELECT * FROM push('edited', '{b,left out,c}');
SELECT * FROM push('edited', '{a,d,left out}');
RESET ROLE;
DROP TRIGGER edit ON mana_sync.sync_changes;
SET ROLE regress_app;
-- What is no refusal ends the call, and nothing of it is recorded: a lock, a fault of the trigger, a missing privilege.
SELECT * FROM push('ended', '{a,bad,locked,b}');
SELECT code, message FROM outcome($$ SELECT push('ended', '{a,faulty,b}') $$);
SELECT code, message FROM outcome($$ SELECT push('ended', '{a,denied,b}') $$);
SELECT * FROM recorded('ended');
RESET ROLE;
CREATE ROLE regress_reader;
SELECT mana_sync.grant_access('regress_reader') \g /dev/null
REVOKE INSERT ON mana_sync.sync_changes FROM regress_reader;
REVOKE INSERT (id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, schema_version, actor, space_id, origin)
    ON mana_sync.sync_changes FROM regress_reader;
SET ROLE regress_reader;
SELECT code, message FROM outcome($$ SELECT push('ended', '{a,b}') $$);
RESET ROLE;
SELECT mana_sync.revoke_access('regress_reader') \g /dev/null
DROP ROLE regress_reader;
-- The default is all or nothing for a trigger too.
SET ROLE regress_app;
SELECT code, message FROM outcome($$ SELECT mana_sync.push('ada', 'ended', '{"changes": [{"table": "t", "id": "a", "op": "delete"}, {"table": "t", "id": "bad", "op": "delete"}]}') $$);
SELECT * FROM recorded('ended');

-- == AFTER triggers, triggers for each statement, constraints, unique indexes, policies
RESET ROLE;
DROP TRIGGER judge ON mana_sync.sync_changes;
CREATE CONSTRAINT TRIGGER judge AFTER INSERT ON mana_sync.sync_changes FOR EACH ROW EXECUTE FUNCTION judge();
SET ROLE regress_app;
SELECT * FROM push('after', '{a,bad 1,b,c,d,bad 2,e,f,own code,g}');
SELECT records FROM recorded('after');
RESET ROLE;
DROP TRIGGER judge ON mana_sync.sync_changes;
CREATE FUNCTION judge_all() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM new WHERE record_id LIKE 'bad%') THEN RAISE EXCEPTION 'no bad statement'; END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER judge_all AFTER INSERT ON mana_sync.sync_changes REFERENCING NEW TABLE AS new FOR EACH STATEMENT EXECUTE FUNCTION judge_all();
SET ROLE regress_app;
SELECT * FROM push('statement', '{a,bad 1,b,c,d,bad 2,e,f,bad 3}');
SELECT records FROM recorded('statement');
RESET ROLE;
DROP TRIGGER judge_all ON mana_sync.sync_changes;
ALTER TABLE mana_sync.sync_changes ADD CONSTRAINT short CHECK (length(record_id) < 5) NOT VALID;
SET ROLE regress_app;
SELECT * FROM push('constraint', '{a,bad 1,b,bad 2}');
RESET ROLE;
ALTER TABLE mana_sync.sync_changes DROP CONSTRAINT short;
TRUNCATE mana_sync.sync_changes;
ALTER TABLE mana_sync.sync_changes ALTER COLUMN origin SET NOT NULL;
SET ROLE regress_app;
SELECT mana_sync.push('ada', 'not null', '{"atomic": false, "changes": [{"table": "t", "id": "a", "op": "delete", "origin": "user"}, {"table": "t", "id": "b", "op": "delete"}]}')
    ->> 'inserted';
RESET ROLE;
ALTER TABLE mana_sync.sync_changes ALTER COLUMN origin DROP NOT NULL;
CREATE UNIQUE INDEX once ON mana_sync.sync_changes (app_id, record_id) WHERE app_id = 'unique';
SET ROLE regress_app;
SELECT * FROM push('unique', '{a,b}');
SELECT counts, regexp_replace(rejected, '\(.*\)', '') FROM (SELECT mana_sync.push('ada', 'unique', '{"atomic": false, "changes": [
    {"table": "t", "id": "b", "op": "delete"}, {"table": "t", "id": "c", "op": "delete"}]}')) AS p (body),
    LATERAL (SELECT body ->> 'inserted', body ->> 'rejected') AS r (counts, rejected);
RESET ROLE;
DROP INDEX mana_sync.once;
CREATE POLICY no_bad ON mana_sync.sync_changes AS RESTRICTIVE FOR INSERT WITH CHECK (record_id NOT LIKE 'bad%');
SET ROLE regress_app;
SELECT * FROM push('policy', '{a,bad 1,b}');
RESET ROLE;
DROP POLICY no_bad ON mana_sync.sync_changes;

-- == Where nothing can refuse a change there is no subtransaction
SET ROLE regress_app;
SELECT * FROM push('plain', '{a,b,c}');
SELECT * FROM recorded('plain');

RESET ROLE;
DROP EXTENSION mana_sync;
DROP FUNCTION recorded, push, judge, judge_all, no_home, edit;
