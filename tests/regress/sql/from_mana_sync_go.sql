-- The steps of docs/from-mana-sync-go.md, from the statements of the original service to devices that go on at the new one. The page has
-- these statements and what they give (tests/regress/check.sh compares them).
SET client_min_messages = warning;
-- The service's role, which owns its table and is subject to the table's row security, as `Migrate` of the original makes it.
CREATE ROLE syncer;
CREATE SCHEMA service AUTHORIZATION syncer;
SET ROLE syncer;
SET search_path = service;
CREATE TABLE IF NOT EXISTS sync_changes (
id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
app_id TEXT NOT NULL,
table_name TEXT NOT NULL,
record_id TEXT NOT NULL,
user_id TEXT NOT NULL,
op TEXT NOT NULL CHECK (op IN ('insert', 'update', 'delete')),
data JSONB,
field_timestamps JSONB DEFAULT '{}',
client_id TEXT NOT NULL,
created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
schema_version INT NOT NULL DEFAULT 1,
actor JSONB
);
ALTER TABLE sync_changes
ADD COLUMN IF NOT EXISTS schema_version INT NOT NULL DEFAULT 1;
ALTER TABLE sync_changes
ADD COLUMN IF NOT EXISTS actor JSONB;
ALTER TABLE sync_changes
ADD COLUMN IF NOT EXISTS space_id TEXT;
CREATE INDEX IF NOT EXISTS idx_sync_changes_user_app
ON sync_changes (user_id, app_id, created_at);
CREATE INDEX IF NOT EXISTS idx_sync_changes_table_record
ON sync_changes (table_name, record_id, created_at);
CREATE INDEX IF NOT EXISTS idx_sync_changes_since
ON sync_changes (user_id, app_id, table_name, created_at);
CREATE INDEX IF NOT EXISTS idx_sync_changes_user_space_app_since
ON sync_changes (user_id, space_id, app_id, created_at)
WHERE space_id IS NOT NULL;
ALTER TABLE sync_changes ENABLE ROW LEVEL SECURITY;
ALTER TABLE sync_changes FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS sync_changes_user_isolation ON sync_changes;
CREATE POLICY sync_changes_user_isolation ON sync_changes
USING (user_id = current_setting('app.current_user_id', true))
WITH CHECK (user_id = current_setting('app.current_user_id', true));
DROP POLICY IF EXISTS sync_changes_space_member_read ON sync_changes;
CREATE POLICY sync_changes_space_member_read ON sync_changes
FOR SELECT
USING (
space_id IS NOT NULL
AND space_id = ANY(
string_to_array(
coalesce(current_setting('app.current_user_space_ids', true), ''),
','
)
)
);
-- `RecordChange` and `GetChangesSince` of the original, in the transaction of `withUserAndMemberships`.
PREPARE record AS
INSERT INTO sync_changes (app_id, table_name, record_id, user_id, space_id, op, data, field_timestamps, client_id, schema_version, actor)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);
PREPARE changes_since (text, text, text, timestamptz, text, int, text[]) AS
SELECT id, table_name, record_id, op, data, field_timestamps, client_id, created_at, schema_version, space_id, actor
FROM sync_changes
WHERE (user_id = $1 OR space_id = ANY($7)) AND app_id = $2 AND table_name = $3
AND created_at > $4 AND client_id != $5
ORDER BY created_at ASC
LIMIT $6;
CREATE PROCEDURE push(change text, data jsonb, times jsonb, op text DEFAULT 'update', space text DEFAULT NULL, who text DEFAULT 'ada')
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.current_user_id', who, true);
    PERFORM set_config('app.current_user_space_ids', '', true);
    EXECUTE format('EXECUTE record(%L, %L, %L, %L, %L, %L, %L, %L, %L, 1, NULL)', 'todo', 'items', change, who, space, op, data, times, 'phone');
    COMMIT;
END
$$;
CALL push('milk', '{"title": "Milk", "createdAt": "2026-03-01T07:00:00Z"}', 'null', 'insert', 'home');
CALL push('milk', '{"title": "Oat milk"}', '{"title": "2026-03-01T08:00:00Z"}', 'update', 'home');
CALL push('bread', '{"title": "Bread", "createdAt": "2026-03-01T07:00:00Z"}', 'null', 'insert');
CALL push('tea', '{"title": "Tea", "createdAt": "2026-03-01T07:00:00Z"}', 'null', 'insert', 'home', 'ben');
CALL push('tea', 'null', 'null', 'delete', 'home', 'ben');
CALL push('offers', '{"price": 1e1500}', 'null', 'insert');
-- A device of ada pulls now, and remembers the time of the last change that it was given.
SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS device_time FROM (
    SELECT set_config('app.current_user_id', 'ada', false)) AS scope, LATERAL (
    SELECT max(created_at) AS created_at FROM sync_changes WHERE user_id = 'ada') AS last \gset
RESET app.current_user_id;
RESET ROLE;
RESET search_path;
CREATE ROLE app;
RESET client_min_messages;
-- == begin
-- == install
CREATE EXTENSION mana_sync;
SELECT mana_sync.grant_access('app');
-- == rehearse
CALL mana_sync.adopt('service.sync_changes', dry_run => true);
SELECT r.reason, o.user_id, o.record_id
    FROM mana_sync.adoption_refusals AS r JOIN service.sync_changes AS o USING (id);
-- == mend
UPDATE service.sync_changes SET data = '{"price": null}' WHERE record_id = 'offers';
-- == adopt
CALL mana_sync.adopt('service.sync_changes', pause => '100 ms');
-- == progress
SELECT source_name, running, rows_read, rows_adopted, rows_present, rows_refused
    FROM mana_sync.adoption_progress WHERE NOT dry_run ORDER BY started_at DESC LIMIT 1;
-- == end
-- The service goes on meanwhile.
SET client_min_messages = warning;
SET ROLE syncer;
SET search_path = service;
CALL push('bread', '{"title": "Rye bread"}', '{"title": "2026-03-01T09:00:00Z"}');
RESET ROLE;
RESET search_path;
RESET client_min_messages;
-- == begin
-- == close
REVOKE INSERT, UPDATE, DELETE ON service.sync_changes FROM syncer;
CALL mana_sync.adopt('service.sync_changes');
-- == check
SELECT count(*) AS rows,
       count(*) FILTER (WHERE c.id IS NULL AND r.id IS NULL) AS missing,
       count(r.id) AS refused
    FROM service.sync_changes AS o
        LEFT JOIN mana_sync.sync_changes AS c ON c.id = o.id
        LEFT JOIN mana_sync.adoption_refusals AS r ON r.id = o.id
            AND r.adoption = (SELECT id FROM mana_sync.adoptions WHERE NOT dry_run ORDER BY started_at DESC LIMIT 1);
-- == records
SELECT record_id, space_id, data ->> 'title' AS title, deleted_at IS NOT NULL AS deleted
    FROM mana_sync.records('ada', 'todo', include_deleted => true, space_ids => '{home}') ORDER BY record_id;
-- == end
-- The device of before, with its timestamp.
SELECT :'device_time' AS device_time \gset
-- == begin
-- == devices
SET ROLE app;
SELECT record_id, op, data, left(cursor, 2) AS cursor
    FROM mana_sync.changes_since('ada', 'todo', since => :'device_time', space_ids => '{home}');
-- == resync
RESET ROLE;
CREATE FUNCTION service.since(since text, client_id text, percent int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    -- A cursor begins with 1, and the timestamps of the original with 2.
    SELECT CASE WHEN since ~ '^2' AND (hashtext(client_id) & 65535) % 100 < percent THEN NULL ELSE since END
$$;
GRANT USAGE ON SCHEMA service TO app;
SET ROLE app;
SELECT percent, (SELECT count(*)
        FROM mana_sync.changes_since('ada', 'todo', since => service.since(:'device_time', 'phone', percent), space_ids => '{home}')) AS changes
    FROM (VALUES (0), (100)) AS v (percent);
-- == afterwards
RESET ROLE;
DROP TABLE service.sync_changes;
-- == end
SET client_min_messages = warning;
DROP EXTENSION mana_sync;
DROP SCHEMA service CASCADE;
DROP ROLE app, syncer;
