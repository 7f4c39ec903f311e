-- The examples of docs/reference/*.md: these statements and what they give. tests/regress/check.sh compares each section with the
-- marks of its name there.
CREATE EXTENSION mana_sync;
CREATE ROLE app;
CREATE ROLE keeper;
SET timezone = 'UTC';
SET datestyle = 'ISO';
-- == begin
-- == grant_access
SELECT mana_sync.grant_access('app');
SELECT has_table_privilege('app', 'mana_sync.sync_changes', 'SELECT') AS "select",
       has_column_privilege('app', 'mana_sync.sync_changes', 'data', 'INSERT') AS "insert",
       has_table_privilege('app', 'mana_sync.sync_changes', 'UPDATE') AS "update",
       has_table_privilege('app', 'mana_sync.sync_changes', 'DELETE') AS "delete";
SET ROLE app;
-- == record_change
SELECT mana_sync.record_change(
           app_id => 'todo', table_name => 'items', record_id => 'milk', user_id => 'ada',
           space_id => 'home', op => 'insert', client_id => 'phone',
           data => '{"title": "Milk", "done": false}', space_ids => '{home}',
           id => '0190f5fe-7c00-7000-8000-000000000001');
SELECT mana_sync.record_change('todo', 'items', 'milk', 'ada', 'home', 'update', 'phone',
           '{"done": true}', '{"done": "2026-03-01T08:20:00Z"}',
           id => '0190f5fe-7c00-7000-8000-000000000002');
-- == record_change error
SELECT mana_sync.record_change('todo', 'items', 'milk', 'eve', 'home', 'delete', 'tablet',
           space_ids => '{}');
-- == with_scope
BEGIN;
SELECT mana_sync.with_scope('ben', '{home,work}');
SELECT current_setting('app.current_user_id') AS user_id,
       current_setting('app.current_user_space_ids') AS space_ids;
SELECT record_id, user_id, op, data FROM mana_sync.sync_changes ORDER BY epoch, xact, seq;
COMMIT;
SELECT record_id, user_id, op, data FROM mana_sync.sync_changes ORDER BY epoch, xact, seq;
-- == changes_since
SELECT record_id, op, client_id, data, cursor IS NOT NULL AS has_cursor
    FROM mana_sync.changes_since('ada', 'todo', 'items', space_ids => '{home}');
SELECT cursor FROM mana_sync.changes_since('ada', 'todo', 'items', space_ids => '{home}')
    WHERE cursor IS NOT NULL \gset
SELECT count(*) FROM mana_sync.changes_since('ada', 'todo', 'items', since => :'cursor', space_ids => '{home}');
-- == changes_since junk
SELECT count(*) FROM mana_sync.changes_since('ada', 'todo', since => 'last week');
SELECT count(*) FROM mana_sync.changes_since('ada', 'todo', since => left(:'cursor', 20));
-- == push
SELECT mana_sync.push('ada', 'todo', '{
    "clientId": "phone", "changes": [
      {"eventId": "0190f5fe-7c00-7000-8000-000000000003", "table": "items", "id": "tea", "op": "insert",
       "data": {"title": "Tea", "createdAt": "2026-03-01T08:25:00Z"}, "spaceId": "home"},
      {"eventId": "0190f5fe-7c00-7000-8000-000000000004", "table": "items", "id": "milk", "op": "update",
       "fields": {"title": {"value": "Oat milk", "at": "2026-03-01T08:30:00Z"}}, "spaceId": "home"}]}',
    space_ids => '{home}');
-- == push again
SELECT mana_sync.push('ada', 'todo', '{
    "clientId": "phone", "changes": [
      {"eventId": "0190f5fe-7c00-7000-8000-000000000003", "table": "items", "id": "tea", "op": "insert",
       "data": {"title": "Tea", "createdAt": "2026-03-01T08:25:00Z"}, "spaceId": "home"},
      {"eventId": "0190f5fe-7c00-7000-8000-000000000005", "table": "items", "id": "tea", "op": "delete",
       "deletedAt": "2026-03-01T09:00:00Z", "spaceId": "home"}]}',
    space_ids => '{home}');
-- == push error
SELECT mana_sync.push('ada', 'todo', '{"changes": [
    {"table": "items", "id": "jam", "op": "insert", "data": {"title": "Jam"}},
    {"table": "items", "id": "milk", "op": "update", "fields": {"done": {"value": true, "at": "8:30"}}}]}');
-- == pull
SELECT body ->> 'hasMore' AS more, body ->> 'syncedUntil' <> '' AS cursor,
       jsonb_pretty((body::jsonb -> 'serverChanges' -> 3) - 'recordedAt' - 'position') AS fourth
    FROM mana_sync.pull('ada', 'todo', space_ids => '{home}') AS body;
-- == sync
SELECT body ->> 'syncedUntil' AS cursor FROM mana_sync.pull('ada', 'todo', client_id => 'phone', space_ids => '{home}') AS body \gset
SELECT mana_sync.sync('ben', 'todo', '{"clientId": "laptop", "changes": [
    {"table": "items", "id": "milk", "op": "update", "spaceId": "home", "eventId": "0190f5fe-7c00-7000-8000-000000000006",
     "fields": {"done": {"value": false, "at": "2026-03-01T10:00:00Z"}}}]}', space_ids => '{home}') -> 'hasMore' AS more;
SELECT body ->> 'syncedUntil' > :'cursor' COLLATE "C" AS moved,
       jsonb_pretty((body::jsonb -> 'serverChanges' -> 0) - 'recordedAt' - 'position') AS change
    FROM mana_sync.sync('ada', 'todo', jsonb_build_object('clientId', 'phone', 'since', :'cursor', 'changes', jsonb '[]'),
                        space_ids => '{home}') AS body;
-- == records
SELECT mana_sync.push('ada', 'todo', '{"clientId": "phone", "changes": [
    {"table": "notes", "id": "trip", "op": "insert", "spaceId": "home",
     "data": {"title": "Trip", "seats": 2, "createdAt": "2026-03-02T08:00:00Z"}},
    {"table": "notes", "id": "trip", "op": "update", "spaceId": "home", "fields": {"seats": {"value": 3, "at": "2026-03-02T08:10:00Z"}}},
    {"table": "notes", "id": "trip", "op": "update", "spaceId": "home", "fields": {"seats": {"value": 5, "at": "2026-03-02T08:30:00Z"}}}]}');
SELECT mana_sync.push('ben', 'todo', '{"clientId": "laptop", "changes": [
    {"table": "notes", "id": "trip", "op": "update", "spaceId": "home", "fields": {
        "title": {"value": "Trip to Rome", "at": "2026-03-02T08:20:00Z"}, "seats": {"value": 4, "at": "2026-03-02T08:20:00Z"}}}]}');
SELECT record_id, space_id, jsonb_pretty(data) AS data, jsonb_pretty(field_timestamps) AS field_timestamps, updated_at
    FROM mana_sync.records('ada', 'todo', 'notes', space_ids => '{home}');
SELECT table_name, record_id, deleted_at
    FROM mana_sync.records('ada', 'todo', include_deleted => true, space_ids => '{home}') ORDER BY table_name, record_id;
-- == records_since
SELECT record_id, data, deleted_at, cursor IS NOT NULL AS has_cursor FROM mana_sync.records_since('ben', 'todo', space_ids => '{home}');
SELECT cursor FROM mana_sync.records_since('ben', 'todo', space_ids => '{home}') WHERE cursor IS NOT NULL \gset
SELECT mana_sync.push('ada', 'todo', '{"changes": [{"table": "items", "id": "milk", "op": "delete"}]}', space_ids => '{home}');
SELECT record_id, data, deleted_at IS NOT NULL AS deleted FROM mana_sync.records_since('ben', 'todo', since => :'cursor', space_ids => '{home}');
-- == record_history
SELECT changed_at, op, field, old_value, new_value, user_id, client_id
    FROM mana_sync.record_history('todo', 'notes', 'trip', 'ada', '{home}');
-- == merge_changes
BEGIN;
SELECT mana_sync.with_scope('ada', '{home}');
SELECT record_id, (record).data, (record).updated_at
    FROM (SELECT record_id, mana_sync.merge_changes(op, data, field_timestamps, created_at, epoch, xact, seq, space_id)
                     FILTER (WHERE user_id = 'ada') AS record
          FROM mana_sync.sync_changes WHERE app_id = 'todo' AND table_name = 'notes' GROUP BY record_id) AS merged
    WHERE (record).updated_at IS NOT NULL AND (record).deleted_at IS NULL;
COMMIT;
-- == export_changes
SELECT app_id, table_name, record_id, op, data FROM mana_sync.export_changes('ben');
-- == channels
SELECT mana_sync.user_channel('ada') ~ '^mana_sync_[0-9a-f]{32}$' AS named,
       mana_sync.user_channel('home') <> mana_sync.space_channel('home') AS kept_apart;
-- == grant_maintenance
RESET ROLE;
SELECT mana_sync.grant_maintenance('keeper');
SET ROLE keeper;
-- == compact
CALL mana_sync.compact('todo', 'notes', older_than => '0', dry_run => true);
CALL mana_sync.compact('todo', 'notes', older_than => '0');
SELECT app_id, table_name, dry_run, running, changes_read, changes_removed, changes_trimmed
    FROM mana_sync.compaction_progress ORDER BY started_at;
-- == purge_deleted
SET ROLE app;
SELECT body ->> 'syncedUntil' AS early FROM mana_sync.pull('ada', 'todo', page_size => 1, space_ids => '{home}') AS body \gset
SET ROLE keeper;
SELECT * FROM mana_sync.purge_deleted('0');
SET ROLE app;
SELECT mana_sync.pull('ada', 'todo', since => :'early', space_ids => '{home}')::jsonb - 'syncedUntil' AS answer;
SELECT count(*) FROM mana_sync.changes_since('ada', 'todo', since => :'early', space_ids => '{home}');
-- == forget_user
SET ROLE keeper;
SELECT mana_sync.forget_user('ben');
-- == begin_epoch
SELECT mana_sync.begin_epoch() > 1 AS later;
-- == adopt
RESET ROLE;
CREATE TABLE old_log (
    id uuid PRIMARY KEY, app_id text NOT NULL, table_name text NOT NULL, record_id text NOT NULL, user_id text NOT NULL, op text NOT NULL,
    data jsonb, field_meta jsonb, client_id text NOT NULL, created_at timestamptz NOT NULL, region text);
INSERT INTO old_log VALUES
    ('0190f5fe-7c00-7000-8000-0000000000c1', 'todo', 'notes', 'plan', 'cyd', 'insert', '{"a": 1}', NULL, 'phone', '2024-03-01T08:00:00Z', 'eu'),
    ('0190f5fe-7c00-7000-8000-0000000000c2', 'todo', 'notes', 'plan', 'cyd', 'update', '{"a": 2}', '{"a": {"at": "2024-03-01T09:00:00Z"}}', 'phone', '2024-03-01T09:00:01Z', 'eu'),
    ('0190f5fe-7c00-7000-8000-0000000000c3', 'todo', 'notes', 'plan', '', 'update', '{"a": 3}', NULL, 'phone', '2024-03-01T10:00:00Z', 'eu');
GRANT SELECT ON old_log TO keeper;
SET ROLE keeper;
CALL mana_sync.adopt('old_log', drop_columns => '{region}');
SELECT id, reason FROM mana_sync.adoption_refusals;
SELECT source_name, dry_run, running, rows_read, rows_adopted, rows_present, rows_refused FROM mana_sync.adoption_progress;
RESET ROLE;
SELECT created_at AT TIME ZONE 'UTC' AS created_at, op, data, field_timestamps FROM mana_sync.sync_changes WHERE user_id = 'cyd' ORDER BY epoch, xact, seq;
-- == revoke_maintenance
RESET ROLE;
SELECT mana_sync.revoke_maintenance('keeper');
-- == revoke_access
SELECT mana_sync.revoke_access('app');
DROP ROLE app;
-- == end
DROP EXTENSION mana_sync;
DROP TABLE old_log;
DROP ROLE keeper;
