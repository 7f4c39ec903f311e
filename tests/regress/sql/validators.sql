-- Validators: triggers of an application on the log. The recipes of docs/validators.md are these statements and what they give
-- (tests/regress/check.sh compares them).
CREATE EXTENSION mana_sync;
CREATE ROLE app;
SELECT mana_sync.grant_access('app') \g /dev/null
CREATE SCHEMA todo;
-- == begin
-- == quota
CREATE TABLE todo.quotas (
    user_id text COLLATE "C" PRIMARY KEY,
    used bigint NOT NULL DEFAULT 0,                -- bytes of JSON text
    allowed bigint NOT NULL DEFAULT 100000000);
CREATE FUNCTION todo.count_bytes() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    bytes bigint := octet_length(NEW.data::text);
    quota todo.quotas;
BEGIN
    -- This locks the user's row too: the pushes of one user count one after the other.
    INSERT INTO todo.quotas AS q (user_id, used) VALUES (NEW.user_id, bytes)
        ON CONFLICT (user_id) DO UPDATE SET used = q.used + bytes
        RETURNING * INTO quota;
    IF EXISTS (SELECT FROM mana_sync.sync_changes WHERE id = NEW.id AND user_id = NEW.user_id) THEN
        -- The change was sent again. It does not count twice. push finds that it is a duplicate.
        UPDATE todo.quotas SET used = used - bytes WHERE user_id = NEW.user_id;
    ELSIF quota.used > quota.allowed THEN
        RAISE EXCEPTION 'the quota of % bytes is used up', quota.allowed USING ERRCODE = 'QUOTA';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER app_30_count_bytes BEFORE INSERT ON mana_sync.sync_changes
    FOR EACH ROW WHEN (NEW.op <> 'delete' AND NEW.data IS NOT NULL)
    EXECUTE FUNCTION todo.count_bytes();
-- == quota not atomic
INSERT INTO todo.quotas (user_id, allowed) VALUES ('ada', 40);
SET ROLE app;
PREPARE push_items AS
    SELECT jsonb_pretty(mana_sync.push('ada', 'todo', '{"clientId": "phone", "atomic": false, "changes": [
        {"eventId": "0190f5fe-7c00-7000-8000-000000000001", "table": "items", "id": "milk", "op": "insert",
         "at": "2026-03-01T08:00:00Z", "data": {"title": "Milk"}},
        {"eventId": "0190f5fe-7c00-7000-8000-000000000002", "table": "items", "id": "rice", "op": "insert",
         "at": "2026-03-01T08:01:00Z", "data": {"title": "Rice, and much of it"}},
        {"eventId": "0190f5fe-7c00-7000-8000-000000000003", "table": "items", "id": "tea", "op": "insert",
         "at": "2026-03-01T08:02:00Z", "data": {"title": "Tea"}}]}')::jsonb) AS push;
EXECUTE push_items;
-- == quota again
EXECUTE push_items;
RESET ROLE;
SELECT * FROM todo.quotas;
-- == quota atomic
SET ROLE app;
SELECT mana_sync.push('ada', 'todo', '{"changes": [
    {"table": "items", "id": "jam", "op": "insert", "data": {"n": 1}},
    {"table": "items", "id": "rice", "op": "insert", "data": {"title": "Rice, and much of it"}}]}');
-- == viewers
RESET ROLE;
CREATE TABLE todo.members (
    space_id text COLLATE "C",
    user_id text COLLATE "C",
    role text NOT NULL CHECK (role IN ('viewer', 'editor')),
    PRIMARY KEY (space_id, user_id));
CREATE FUNCTION todo.require_editor() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM todo.members
                   WHERE space_id = NEW.space_id AND user_id = NEW.user_id AND role = 'editor') THEN
        -- A change that was recorded while the user was an editor may be sent again: it is a duplicate.
        IF NOT EXISTS (SELECT FROM mana_sync.sync_changes WHERE id = NEW.id AND user_id = NEW.user_id) THEN
            RAISE EXCEPTION 'the user may only read in space %', NEW.space_id USING ERRCODE = '42501';
        END IF;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER app_20_require_editor BEFORE INSERT ON mana_sync.sync_changes
    FOR EACH ROW WHEN (NEW.space_id IS NOT NULL)
    EXECUTE FUNCTION todo.require_editor();
-- == viewers not atomic
INSERT INTO todo.members VALUES ('home', 'ben', 'editor'), ('work', 'ben', 'viewer');
SET ROLE app;
PREPARE push_furniture AS
    SELECT jsonb_pretty(mana_sync.push('ben', 'todo', '{"clientId": "laptop", "atomic": false, "changes": [
        {"eventId": "0190f5fe-7c00-7000-8000-000000000004", "table": "items", "id": "desk", "op": "insert",
         "at": "2026-03-01T08:00:00Z", "data": {"title": "Desk"}, "spaceId": "work"},
        {"eventId": "0190f5fe-7c00-7000-8000-000000000005", "table": "items", "id": "lamp", "op": "insert",
         "at": "2026-03-01T08:01:00Z", "data": {"title": "Lamp"}, "spaceId": "home"}]}',
        space_ids => '{home,work}')::jsonb) AS push;
EXECUTE push_furniture;
-- == viewers again
RESET ROLE;
UPDATE todo.members SET role = 'viewer' WHERE space_id = 'home';
SET ROLE app;
EXECUTE push_furniture;
-- == viewers everywhere
SELECT mana_sync.record_change('todo', 'items', 'lamp', 'ben', 'home', 'delete', 'laptop', space_ids => '{home}');
BEGIN;
SELECT mana_sync.with_scope('ben', '{home}');
INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, space_id, op)
    VALUES ('todo', 'items', 'lamp', 'ben', 'home', 'delete');
ROLLBACK;
-- == review
RESET ROLE;
CREATE TABLE todo.held_back (id uuid PRIMARY KEY, change jsonb NOT NULL, since timestamptz NOT NULL DEFAULT now());
CREATE FUNCTION todo.hold_back() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO todo.held_back (id, change) VALUES (NEW.id, to_jsonb(NEW)) ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER app_10_hold_back BEFORE INSERT ON mana_sync.sync_changes
    FOR EACH ROW WHEN (NEW.origin = 'agent')
    EXECUTE FUNCTION todo.hold_back();
SET ROLE app;
PREPARE push_as_agent AS
    SELECT mana_sync.push('ada', 'todo', '{"clientId": "phone", "changes": [
        {"eventId": "0190f5fe-7c00-7000-8000-000000000006", "table": "items", "id": "milk", "op": "update", "origin": "agent",
         "fields": {"title": {"value": "Oat milk", "at": "2026-03-01T09:00:00Z"}}}]}');
EXECUTE push_as_agent;
-- == review again
EXECUTE push_as_agent;
RESET ROLE;
SELECT change ->> 'record_id' AS record_id, change -> 'data' AS data FROM todo.held_back;
-- == end

-- The answer of sync names what was rejected, and says nothing of what was left out. Beside the quota, an eventId of another user is
-- rejected too, and a change that is out of bounds; the rest is recorded.
SET ROLE app;
SELECT jsonb_pretty(mana_sync.sync('ada', 'todo', '{"clientId": "phone", "as": "records", "atomic": false, "changes": [
    {"table": "items", "id": "bill", "op": "update", "origin": "agent", "fields": {"n": {"value": 1}}},
    {"eventId": "0190f5fe-7c00-7000-8000-000000000005", "table": "items", "id": "lamp", "op": "delete"},
    {"table": "items", "id": "rice", "op": "insert", "data": {"title": "Rice, and much of it"}},
    {"table": "items", "id": "many", "op": "destroy"},
    {"table": "items", "id": "milk", "op": "delete", "deletedAt": "2026-03-01T10:00:00Z"}]}')::jsonb -> 'rejected');
-- record_change returns the id of a change that was left out.
SELECT mana_sync.record_change('todo', 'items', 'tea', 'ada', NULL, 'update', 'phone', '{"n": 1}', origin => 'agent') IS NOT NULL AS returned;
-- What is in the log: each change once, and none of those that were refused or left out.
RESET ROLE;
SELECT user_id, record_id, op, space_id FROM mana_sync.sync_changes ORDER BY epoch, xact, seq;
SELECT user_id, used FROM todo.quotas ORDER BY user_id;
-- The triggers fire before the one of the extension, which notes whom a change wakes.
SELECT tgname FROM pg_trigger WHERE tgrelid = 'mana_sync.sync_changes'::regclass AND NOT tgisinternal ORDER BY tgname COLLATE "C";

-- A trigger that changes what the device sent: the change is recorded, but is not known again.
CREATE FUNCTION todo.trim_title() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.data := NEW.data || jsonb_build_object('title', trim(NEW.data ->> 'title'));
    NEW.actor := '{"by": "trim_title"}';
    RETURN NEW;
END
$$;
CREATE TRIGGER app_trim BEFORE INSERT ON mana_sync.sync_changes
    FOR EACH ROW WHEN (NEW.data ? 'title') EXECUTE FUNCTION todo.trim_title();
SET ROLE app;
SELECT mana_sync.push('cyd', 'todo', '{"changes": [{"eventId": "0190f5fe-7c00-7000-8000-000000000007", "table": "items", "id": "salt",
    "op": "insert", "data": {"title": " Salt "}}]}');
SELECT * FROM outcome($$ SELECT mana_sync.push('cyd', 'todo', '{"changes": [{"eventId": "0190f5fe-7c00-7000-8000-000000000007",
    "table": "items", "id": "salt", "op": "insert", "data": {"title": " Salt "}}]}') $$);
SELECT data, actor FROM mana_sync.changes_since('cyd', 'todo');

-- A role for migrations: it owns a function and creates a trigger, and is subject to row-level security itself. A push that is sent again
-- gives the same.
RESET ROLE;
CREATE ROLE migrator;
SELECT mana_sync.grant_access('migrator') \g /dev/null
GRANT TRIGGER ON mana_sync.sync_changes TO migrator;
GRANT USAGE, CREATE ON SCHEMA todo TO migrator;
GRANT SELECT, INSERT, UPDATE ON todo.quotas, todo.members TO migrator;
ALTER FUNCTION todo.count_bytes() OWNER TO migrator;
ALTER FUNCTION todo.require_editor() OWNER TO migrator;
DROP TRIGGER app_20_require_editor ON mana_sync.sync_changes;
SET ROLE migrator;
CREATE TRIGGER app_20_require_editor BEFORE INSERT ON mana_sync.sync_changes
    FOR EACH ROW WHEN (NEW.space_id IS NOT NULL) EXECUTE FUNCTION todo.require_editor();
SET ROLE app;
EXECUTE push_items;
EXECUTE push_furniture;
RESET ROLE;
SELECT user_id, used FROM todo.quotas WHERE user_id IN ('ada', 'ben') ORDER BY user_id;

-- DROP EXTENSION drops the triggers with the log.
DROP EXTENSION mana_sync;
SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'app\_%';
SET client_min_messages = warning;
DROP SCHEMA todo CASCADE;
DROP ROLE app, migrator;
