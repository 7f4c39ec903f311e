-- What the devices of the original service send, which cannot be changed any more; each was refused, lost or misread once.
CREATE EXTENSION mana_sync;
SELECT mana_sync.grant_access('regress_app') \g /dev/null
SET ROLE regress_app;
\pset tuples_only on
\pset format unaligned

-- == A cursor is smaller than the time now, and greater than the time of a device that never synced
SELECT body ->> 'syncedUntil' > '1970-01-01T00:00:00.000Z' COLLATE "C" AS after_the_beginning,
       body ->> 'syncedUntil' < to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') COLLATE "C" AS before_now
    FROM mana_sync.pull('ada', 'todo') AS body;

-- == What an op does not use is ignored, and a field without a value is null
SELECT mana_sync.push('ada', 'todo', '{"changes": [
    {"table": "t", "id": "a", "op": "insert", "data": {"n": 1}, "fields": {"n": {"value": 2}}, "deletedAt": 7},
    {"table": "t", "id": "a", "op": "update", "data": {"n": 3}, "deletedAt": "x", "at": 5,
     "fields": {"n": {"at": "2026-01-01T10:00:00Z"}, "m": {"value": 4, "at": null}}},
    {"table": "t", "id": "a", "op": "delete", "deletedAt": "2026-01-01T11:00:00Z", "data": [], "at": false,
     "fields": {"deletedAt": {"value": "2026-01-01T11:00:00Z", "at": "2026-01-01T11:00:00Z"}}}]}');
SELECT op, data, field_timestamps FROM mana_sync.changes_since('ada', 'todo', 't');
SELECT steady(change::jsonb) - 'eventId' FROM json_array_elements(mana_sync.pull('ada', 'todo', 't') -> 'serverChanges') AS change;

-- == A schemaVersion is an integer, however it is spelled
SELECT mana_sync.push('ada', 'todo', '{"schemaVersion": 1.0, "changes": [{"table": "v", "id": "a", "op": "delete", "schemaVersion": 1e0},
    {"table": "v", "id": "b", "op": "delete", "schemaVersion": -1e300}]}');

-- == An update without a space stays in the space of its record
SELECT mana_sync.push('ada', 'todo', '{"changes": [
    {"table": "s", "id": "milk", "op": "insert", "data": {"spaceId": "home"}},
    {"table": "s", "id": "milk", "op": "update", "fields": {"n": {"value": 1}}},
    {"table": "s", "id": "diary", "op": "insert", "data": {}}]}', space_ids => '{home,work}');
SELECT mana_sync.push('ada', 'todo', '{"changes": [
    {"table": "s", "id": "milk", "op": "update", "fields": {"n": {"value": 2}}},
    {"table": "s", "id": "diary", "op": "update", "fields": {"n": {"value": 2}}},
    {"table": "other", "id": "milk", "op": "update", "fields": {"n": {"value": 2}}}]}', space_ids => '{home,work}');
-- Where the memberships are not known, too.
SELECT mana_sync.push('ada', 'todo', '{"changes": [{"table": "s", "id": "milk", "op": "update", "fields": {"n": {"value": 3}}}]}');
SELECT table_name, record_id, data ->> 'n' AS n, space_id FROM mana_sync.changes_since('ada', 'todo') WHERE table_name IN ('s', 'other');
-- A record that was moved is where it was moved to last; an empty space is none, and what follows is private too.
SELECT mana_sync.push('ada', 'todo', '{"changes": [{"table": "m", "id": "r", "op": "insert", "data": {"n": 1}, "spaceId": "work"}]}', space_ids => '{home,work}');
SELECT mana_sync.push('ada', 'todo', '{"changes": [{"table": "m", "id": "r", "op": "update", "fields": {"n": {"value": 2}}, "spaceId": "home"}]}', space_ids => '{home,work}');
SELECT mana_sync.push('ada', 'todo', '{"changes": [{"table": "m", "id": "r", "op": "update", "fields": {"n": {"value": 3}}}]}', space_ids => '{home,work}');
SELECT mana_sync.push('ada', 'todo', '{"changes": [
    {"table": "m", "id": "r", "op": "update", "fields": {"n": {"value": 4}}},
    {"table": "m", "id": "r", "op": "update", "fields": {"n": {"value": 5}, "spaceId": {"value": "work"}}},
    {"table": "m", "id": "r", "op": "update", "fields": {"n": {"value": 6}}},
    {"table": "m", "id": "r", "op": "update", "fields": {"n": {"value": 7}}, "spaceId": ""},
    {"table": "m", "id": "r", "op": "update", "fields": {"n": {"value": 8}}}]}', space_ids => '{home,work}');
SELECT mana_sync.push('ada', 'todo', '{"changes": [{"table": "m", "id": "r", "op": "delete"}]}', space_ids => '{home,work}');
SELECT op, data ->> 'n' AS n, space_id FROM mana_sync.changes_since('ada', 'todo', 'm');
-- Nobody is drawn into a space by what others wrote into it, nor into one that was left.
SELECT mana_sync.push('ben', 'todo', '{"changes": [{"table": "s", "id": "milk", "op": "insert", "data": {"n": 1}}]}', space_ids => '{home}');
SELECT mana_sync.push('ada', 'todo', '{"changes": [{"table": "s", "id": "milk", "op": "update", "fields": {"n": {"value": 4}}}]}', space_ids => '{work}');
SELECT user_id, data ->> 'n' AS n, space_id FROM mana_sync.changes_since('ada', 'todo', 's', space_ids => '{home}') WHERE record_id = 'milk' AND data ->> 'n' = '4';
SELECT user_id, data ->> 'n' AS n, space_id FROM mana_sync.changes_since('ben', 'todo', 's') WHERE record_id = 'milk';
-- record_change stores the space that it is given.
SELECT mana_sync.record_change('todo', 's', 'milk', 'ada', NULL, 'update', 'phone', '{"n": 5}', space_ids => '{home}') IS NOT NULL;
SELECT space_id FROM mana_sync.changes_since('ada', 'todo', 's') WHERE data ->> 'n' = '5';

-- == The time of an insert: what it says, else the record's, and never later than an edit that was pushed behind it
SELECT mana_sync.push('ada', 'todo', '{"changes": [
    {"table": "w", "id": "said", "op": "insert", "data": {"n": 1, "updatedAt": "2026-01-01T09:00:00Z"}, "at": "2026-01-01T08:00:00Z"},
    {"table": "w", "id": "said", "op": "update", "fields": {"n": {"value": 2, "at": "2026-01-01T08:30:00Z"}}},
    {"table": "w", "id": "record", "op": "insert", "data": {"n": 1, "createdAt": "2026-01-01T08:00:00Z"}},
    {"table": "w", "id": "record", "op": "update", "fields": {"n": {"value": 2, "at": "2026-01-01T08:30:00Z"}}},
    {"table": "w", "id": "bounded", "op": "insert", "data": {"n": 1, "m": 1}},
    {"table": "w", "id": "bounded", "op": "update", "fields": {"m": {"value": 2}, "k": {"value": 2, "at": "2026-01-01T10:00:00Z"}}},
    {"table": "w", "id": "bounded", "op": "update", "fields": {"n": {"value": 3, "at": "2026-01-01T08:30:00Z"}}},
    {"table": "w", "id": "bounded", "op": "update", "fields": {"m": {"value": 3, "at": "2026-01-01T08:31:00Z"}}},
    {"table": "w", "id": "again", "op": "delete"},
    {"table": "w", "id": "again", "op": "insert", "data": {"n": 2}, "at": "2026-01-01T08:30:00Z"},
    {"table": "w", "id": "future", "op": "insert", "data": {"n": 1}},
    {"table": "w", "id": "future", "op": "update", "fields": {"n": {"value": 2, "at": "2099-01-01T00:00:00Z"}}}]}');
SELECT record_id, op, data, field_timestamps FROM mana_sync.changes_since('ada', 'todo', 'w');
SELECT record_id, data, deleted_at FROM mana_sync.records('ada', 'todo', 'w') ORDER BY record_id;
-- It comes back, and is what history tells.
SELECT steady(change::jsonb) ->> 'at' FROM json_array_elements(mana_sync.pull('ada', 'todo', 'w') -> 'serverChanges') AS change WHERE change ->> 'op' = 'insert';
SELECT changed_at, op, field FROM mana_sync.record_history('todo', 'w', 'said', 'ada');

-- == A change that is sent again is the same change; with other content it is an error, and not a duplicate in silence
SELECT mana_sync.push('ada', 'todo', '{"changes": [
    {"eventId": "0190f5fe-7c00-7000-8000-0000000000e1", "table": "e", "id": "r", "op": "insert", "data": {"n": 1}},
    {"eventId": "0190f5fe-7c00-7000-8000-0000000000e2", "table": "e", "id": "r", "op": "update", "fields": {"n": {"value": 2.0, "at": "2026-01-01T10:00:00Z"}}},
    {"eventId": "0190f5fe-7c00-7000-8000-0000000000e3", "table": "e", "id": "q", "op": "insert", "data": {}, "spaceId": "home"},
    {"eventId": "0190f5fe-7c00-7000-8000-0000000000e4", "table": "e", "id": "q", "op": "delete"}]}', space_ids => '{home}');
-- One by one: the insert had got its time from the update behind it, and the delete its space from the insert before it.
SELECT mana_sync.push('ada', 'todo', jsonb_build_object('changes', jsonb_build_array(change)), space_ids => '{home}')
    FROM (VALUES
        ('{"eventId": "0190f5fe-7c00-7000-8000-0000000000e1", "table": "e", "id": "r", "op": "insert", "data": {"n": 1}}'::jsonb),
        ('{"eventId": "0190f5fe-7c00-7000-8000-0000000000e2", "table": "e", "id": "r", "op": "update", "fields": {"n": {"value": 2, "at": "2026-01-01T10:00:00Z"}}}'),
        ('{"eventId": "0190f5fe-7c00-7000-8000-0000000000e3", "table": "e", "id": "q", "op": "insert", "data": {}, "spaceId": "home", "schemaVersion": 0, "actor": {"a": 1}}'),
        ('{"eventId": "0190f5fe-7c00-7000-8000-0000000000e4", "table": "e", "id": "q", "op": "delete"}')) AS c (change);
\pset format aligned
\pset tuples_only off
SELECT o.code, o.message, o.detail, o.hint
    FROM (VALUES
        ('"0190f5fe-7c00-7000-8000-0000000000e1", "table": "e", "id": "r", "op": "insert", "data": {"n": 1, "m": 1}'),
        ('"0190f5fe-7c00-7000-8000-0000000000e1", "table": "e", "id": "r", "op": "insert", "data": {"n": 1}, "at": "2026-01-01T09:00:00Z"'),
        ('"0190f5fe-7c00-7000-8000-0000000000e2", "table": "e", "id": "r", "op": "update", "fields": {"n": {"value": 2, "at": "2026-01-01T10:00:01Z"}}'),
        ('"0190f5fe-7c00-7000-8000-0000000000e2", "table": "e", "id": "r", "op": "update", "fields": {"n": {"value": 3, "at": "2026-01-01T10:00:00Z"}}'),
        ('"0190f5fe-7c00-7000-8000-0000000000e3", "table": "e", "id": "q", "op": "insert", "data": {}, "spaceId": ""'),
        ('"0190f5fe-7c00-7000-8000-0000000000e4", "table": "e", "id": "q", "op": "delete", "deletedAt": "2026-01-01T10:00:00Z"'),
        ('"0190f5fe-7c00-7000-8000-0000000000e4", "table": "e", "id": "other", "op": "delete"')
    ) AS c (change)
    CROSS JOIN LATERAL outcome(format('SELECT mana_sync.push(%L, %L, %L, space_ids => %L)', 'ada', 'todo',
        format('{"changes": [{"table": "e", "id": "new", "op": "delete"}, {"eventId": %s}]}', change), '{home}')) AS o;
SELECT count(*) FROM mana_sync.changes_since('ada', 'todo', 'e');
RESET ROLE;
-- What a compaction has removed of it makes it no other change.
SELECT mana_sync.push('ada', 'todo', '{"changes": [
    {"eventId": "0190f5fe-7c00-7000-8000-0000000000f1", "table": "c", "id": "r", "op": "update", "fields": {
     "a": {"value": 1, "at": "2026-01-01T10:00:00Z"}, "b": {"value": 1, "at": "2026-01-01T10:00:00Z"}}},
    {"table": "c", "id": "r", "op": "update", "fields": {"a": {"value": 2, "at": "2026-01-01T11:00:00Z"}}}]}');
CALL mana_sync.compact('todo', 'c', older_than => '0');
SELECT data FROM mana_sync.changes_since('ada', 'todo', 'c');
SELECT mana_sync.push('ada', 'todo', '{"changes": [
    {"eventId": "0190f5fe-7c00-7000-8000-0000000000f1", "table": "c", "id": "r", "op": "update", "fields": {
     "a": {"value": 1, "at": "2026-01-01T10:00:00Z"}, "b": {"value": 1, "at": "2026-01-01T10:00:00Z"}}}]}');
SELECT code, message FROM outcome($$ SELECT mana_sync.push('ada', 'todo', '{"changes": [
    {"eventId": "0190f5fe-7c00-7000-8000-0000000000f1", "table": "c", "id": "r", "op": "update", "fields": {
     "a": {"value": 1, "at": "2026-01-01T10:00:00Z"}, "b": {"value": 1, "at": "2026-01-01T10:00:01Z"}}}]}') $$);

-- == A timestamp from before the log's first change is the beginning, after a purge too
DO $$
BEGIN
    PERFORM mana_sync.push('cyd', 'todo', '{"changes": [{"table": "p", "id": "r", "op": "insert", "data": {}}, {"table": "p", "id": "r", "op": "delete"}]}');
END
$$;
SELECT (mana_sync.purge_deleted('0')).deletes > 0 AS purged;
SELECT json_array_length(body -> 'serverChanges') > 0 AS rows, body ->> 'resyncRequired' AS resync
    FROM mana_sync.pull('ada', 'todo', since => '1970-01-01T00:00:00.000Z') AS body;
SELECT json_array_length(body -> 'serverChanges') > 0 AS rows, body ->> 'resyncRequired' AS resync
    FROM mana_sync.sync('ada', 'todo', '{"since": "1970-01-01T00:00:00.000Z", "changes": [{"table": "p", "id": "new", "op": "delete"}]}') AS body;
-- One from between the first change and the purge may have what was purged.
SELECT body ->> 'resyncRequired' AS resync
    FROM (SELECT min(created_at) AS first FROM mana_sync.sync_changes) AS log,
         mana_sync.pull('ada', 'todo', since => to_char(first AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')) AS body;
-- The rows that were put in by hand are older than the log; and so is what a purge removes of them.
TRUNCATE mana_sync.sync_changes, mana_sync.purges, mana_sync.purged_transactions;
CALL put('milk', 'insert', '{}');
CALL put('milk', 'delete', recorded => '2025-03-02T12:00:00Z');
CALL put('tea', 'insert', '{}', recorded => '2025-03-03T12:00:00Z');
SELECT deletes FROM mana_sync.purge_deleted('0');
SELECT purged_from, purged_until FROM mana_sync.purges;
SELECT since, body ->> 'resyncRequired' AS resync, json_array_length(body -> 'serverChanges') AS rows
    FROM unnest('{2025-03-01T11:59:59Z,2025-03-01T12:00:00Z,2025-03-02T12:00:00Z}'::text[]) AS since,
         mana_sync.pull('ada', 'todo', since => since) AS body;

-- == A write in a transaction that was open for long is judged by the clock, and not by when that began
BEGIN;
SELECT mana_sync.push('eve', 'todo', '{"changes": [{"table": "o", "id": "r", "op": "delete"}]}') IS NOT NULL AS first;
SELECT pg_sleep(0.01);
SELECT mana_sync.push('eve', 'todo', '{"changes": [{"table": "o", "id": "r", "op": "delete"}]}') IS NOT NULL AS second;
SELECT bool_and(created_at > now()) AS later, max(created_at) - min(created_at) >= '10 ms' AS by_the_clock
    FROM mana_sync.changes_since('eve', 'todo');
COMMIT;
DROP EXTENSION mana_sync;
