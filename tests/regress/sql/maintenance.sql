-- Maintenance: compact, purge_deleted and forget_user, what they do to devices, and who may call them.
CREATE EXTENSION mana_sync;
SELECT mana_sync.grant_access('regress_app') \g /dev/null
CREATE ROLE regress_keeper;
SET timezone = 'UTC';
SET datestyle = 'ISO';
-- The log, and what every reader's records look like: the users with the spaces that they may be members of.
CREATE VIEW log AS
    SELECT app_id, record_id, table_name, user_id, space_id, op, data, field_timestamps FROM mana_sync.sync_changes ORDER BY epoch, xact, seq;
CREATE VIEW everybody AS
    SELECT a.app, v.who, s.spaces, r.*
    FROM (SELECT DISTINCT app_id AS app FROM mana_sync.sync_changes) AS a,
         (VALUES ('ada'), ('ben'), ('eve')) AS v (who), (VALUES ('{}'::text[]), ('{home}'), ('{home,work}')) AS s (spaces),
         LATERAL mana_sync.records(v.who, a.app, include_deleted => true, space_ids => s.spaces) AS r;

-- == compact: what was overwritten goes, from whole changes and from parts of them
CALL put('milk', 'insert', '{"title": "Milk", "done": false, "createdAt": "2025-03-01T08:00:00Z"}');
CALL put('milk', 'update', '{"title": "Oat milk"}', '{"title": "2025-03-01T09:00:00Z"}');
CALL put('milk', 'update', '{"title": "Soy milk", "note": "2 l"}', '{"title": "2025-03-01T10:00:00Z", "note": "2025-03-01T10:00:00Z"}');
CALL put('milk', 'update', '{"note": "3 l", "done": true}', '{"note": "2025-03-01T11:00:00Z"}');
-- A write that came late has lost already.
CALL put('milk', 'update', '{"note": "1 l"}', '{"note": "2025-03-01T09:00:00Z"}');
-- The latest insert stays, with the key that its time is from, though that was overwritten too.
CALL put('salt', 'insert', '{"a": 1, "updatedAt": "2025-03-01T08:00:00Z", "createdAt": "2025-03-01T07:00:00Z"}');
CALL put('salt', 'update', '{"a": 2, "updatedAt": "2025-03-01T09:00:00Z", "createdAt": null}');
CALL put('tea', 'insert', '{"a": 1}');
CALL put('tea', 'insert', '{"a": 2}');
CALL put('bread', 'insert', '{"a": 1, "b": 1}');
CALL put('bread', 'insert', '{"a": 2}');
-- Deletes overwrite nothing; and stay.
CALL put('gone', 'insert', '{"a": 1}');
CALL put('gone', 'delete');
CALL put('gone', 'delete');
-- What no merge looks at stays.
CALL put('odd', 'insert', '"text"');
CALL put('odd', 'update', '{}');
CALL put('odd', 'insert', '{"a": 1}');
-- Another user, another space, another table: somebody may see the one and not the other.
CALL put('mixed', 'insert', '{"a": 1}', space => 'home');
CALL put('mixed', 'update', '{"a": 2}', space => 'home', who => 'ben');
CALL put('mixed', 'update', '{"a": 3}', space => 'work');
CALL put('mixed', 'update', '{"a": 4}');
CALL put('mixed', 'update', '{"a": 5}', tab => 'notes');
CALL put('mixed', 'update', '{"a": 6}', who => 'ben');
CALL put('mixed', 'update', '{"a": 7}', space => 'home', who => 'ben');
-- Young ones: what is younger than older_than is not touched, whatever has become of it; but it overwrites.
CALL put('young', 'insert', '{"a": 1, "b": 1}');
CALL put('young', 'update', '{"a": 2}', recorded => now());
CALL put('young', 'update', '{"a": 3}', recorded => now());
CREATE TABLE before AS SELECT * FROM log;
CREATE TABLE records_before AS SELECT * FROM everybody;

-- The same in three more apps.
INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, space_id, op, client_id, data, field_timestamps, created_at)
    SELECT a.app, table_name, record_id, user_id, space_id, op, client_id, data, field_timestamps, created_at
    FROM unnest('{one,two,three}'::text[]) AS a (app), mana_sync.sync_changes ORDER BY a.app, epoch, xact, seq;

-- A dry run removes nothing, and says what the run does then.
CALL mana_sync.compact('todo', dry_run => true);
SELECT count(*) AS different FROM before AS b FULL JOIN (SELECT * FROM log WHERE app_id = 'todo') AS l ON b = l WHERE b IS NULL OR l IS NULL;
CALL mana_sync.compact('todo');
SELECT record_id, user_id, space_id, op, data, field_timestamps FROM log WHERE app_id = 'todo';
-- Nobody's records have changed.
SELECT count(*) AS different FROM (TABLE records_before EXCEPT (SELECT * FROM everybody WHERE app = 'todo')) AS d;
SELECT count(*) AS different FROM ((SELECT * FROM everybody WHERE app = 'todo') EXCEPT TABLE records_before) AS d;
-- There is nothing left to do, nor was anything done in another app.
CALL mana_sync.compact('todo');
SELECT count(*) AS touched FROM unnest('{one,two,three}'::text[]) AS a (app), before AS b
    WHERE NOT EXISTS (SELECT FROM log AS l WHERE l.app_id = a.app AND ROW(l.record_id, l.user_id, l.space_id, l.op, l.data, l.field_timestamps)
                      IS NOT DISTINCT FROM ROW(b.record_id, b.user_id, b.space_id, b.op, b.data, b.field_timestamps));

-- A batch for each change comes to the same.
CALL mana_sync.compact('one', batch_size => 1);
CREATE VIEW differs_from_todo AS
    SELECT app_id AS app, count(*) AS different FROM (
        SELECT DISTINCT a.app_id, l.record_id, l.table_name, l.user_id, l.space_id, l.op, l.data, l.field_timestamps
            FROM log AS a, log AS l WHERE l.app_id = 'todo' AND a.app_id <> 'todo'
        EXCEPT SELECT * FROM log
    ) AS missing GROUP BY app_id
    UNION ALL
    SELECT app_id, count(*) - (SELECT count(*) FROM log WHERE app_id = 'todo') FROM log GROUP BY app_id;
SELECT * FROM differs_from_todo WHERE app = 'one';
-- So does a run that was interrupted: here in a pause, which is between two transactions. The next call for the same
-- goes on where it was, and says so with a NOTICE (which has a time in it).
\set VERBOSITY sqlstate
SET statement_timeout = '1s';
CALL mana_sync.compact('two', batch_size => 5, pause => '1 minute');
RESET statement_timeout;
SELECT app_id, changes_read BETWEEN 5 AND 12 AS read, finished_at IS NULL AS unfinished, pid = pg_backend_pid() AS mine
    FROM mana_sync.compaction_progress WHERE app_id = 'two';
-- (Not one for something else.)
SELECT mana_sync.begin_compaction('two', 'items', NULL, '30 days', false) AS run \gset
SELECT mana_sync.begin_compaction('two', NULL, 'ada', '30 days', false) AS run \gset
CALL mana_sync.compact('two', dry_run => true);
CALL mana_sync.compact('two');
\set VERBOSITY default
SELECT * FROM differs_from_todo WHERE app = 'two';
-- By hand: a run and its batches.
SELECT mana_sync.begin_compaction('three', '', '', '30 days', false) AS run \gset
SELECT b.* FROM mana_sync.compact_batch(:'run', 5) AS b;
SELECT b.* FROM mana_sync.compact_batch(:'run', 10) AS b;
\set VERBOSITY sqlstate
CALL mana_sync.compact('three', batch_size => 7);
\set VERBOSITY default
SELECT * FROM differs_from_todo WHERE app = 'three';
SELECT * FROM outcome(format('SELECT mana_sync.compact_batch(%L, 1)', :'run'));

-- == What of the log: app, table, user, age
TRUNCATE mana_sync.sync_changes, mana_sync.compactions;
DO $$
DECLARE app text; tab text; who text; n int;
BEGIN
    FOREACH app IN ARRAY '{todo,todo2,shop}'::text[] LOOP FOREACH tab IN ARRAY '{items,notes}'::text[] LOOP FOREACH who IN ARRAY '{ada,ben}'::text[] LOOP
        FOR n IN 1..3 LOOP
            CALL put('r', 'update', jsonb_build_object('a', n), recorded => now() - n * interval '40 days', who => who, tab => tab, app => app);
        END LOOP;
    END LOOP; END LOOP; END LOOP;
END $$;
CREATE VIEW counts AS SELECT app_id, table_name, user_id, count(*) FROM mana_sync.sync_changes GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
-- The rows of each are 40, 80 and 120 days old, and the first has won.
CALL mana_sync.compact('todo', 'notes', 'ben', '100 days');
CALL mana_sync.compact('todo', 'notes', 'ben');
CALL mana_sync.compact('todo', 'notes');
CALL mana_sync.compact('shop', user_id => 'ada');
TABLE counts;
CALL mana_sync.compact(table_name => 'items', older_than => '100 days');
CALL mana_sync.compact('no such app');
-- Empty texts are no filter, as NULL is; nor is any age.
CALL mana_sync.compact('', '', '', '0');
SELECT count(*), min(data::text), max(data::text) FROM mana_sync.sync_changes;
SELECT app_id, table_name, user_id, dry_run, running, finished_at >= started_at AS finished, changes_read, changes_removed, changes_trimmed
    FROM mana_sync.compaction_progress ORDER BY started_at;
SELECT count(DISTINCT created_before) AS ages, bool_and(pid = pg_backend_pid()) AS mine FROM mana_sync.compaction_progress;

-- == Bad calls
\pset format unaligned
SELECT o.*, call FROM unnest(ARRAY[
    $$CALL mana_sync.compact(older_than => NULL)$$,
    $$CALL mana_sync.compact(older_than => '-1 day')$$,
    $$CALL mana_sync.compact(batch_size => 0)$$,
    $$CALL mana_sync.compact(batch_size => NULL)$$,
    $$CALL mana_sync.compact(dry_run => NULL)$$,
    -- Within a function, or a transaction block, it cannot commit.
    $$CALL mana_sync.compact()$$,
    $$SELECT mana_sync.compact_batch(NULL, 1)$$,
    $$SELECT mana_sync.compact_batch('0190f5fe-7c00-7000-8000-000000000001', 1)$$,
    $$SELECT mana_sync.compact_batch('0190f5fe-7c00-7000-8000-000000000001', 0)$$,
    $$SELECT mana_sync.compact_batch('0190f5fe-7c00-7000-8000-000000000001', NULL)$$,
    $$SELECT mana_sync.purge_deleted(NULL)$$,
    $$SELECT mana_sync.purge_deleted('-1 day')$$,
    $$SELECT mana_sync.forget_user(NULL)$$,
    $$SELECT mana_sync.forget_user('')$$]) WITH ORDINALITY AS bad (call, n),
    LATERAL outcome(bad.call) AS o ORDER BY n;
\pset format aligned
\set VERBOSITY terse
BEGIN;
CALL mana_sync.compact();
ROLLBACK;
\set VERBOSITY default
SELECT count(*) AS unfinished FROM mana_sync.compaction_progress WHERE finished_at IS NULL;

-- == purge_deleted: a delete, and what it deleted, where no reader depends on it
TRUNCATE mana_sync.sync_changes, mana_sync.compactions;
CREATE PROCEDURE at(hour int, record text, op text, who text DEFAULT 'ada', space text DEFAULT NULL, app text DEFAULT 'todo') LANGUAGE plpgsql AS $$
BEGIN
    CALL put(record, op, CASE op WHEN 'delete' THEN NULL ELSE jsonb_build_object('a', hour, 'by', who) END, recorded => '2025-03-01T00:00:00Z'::timestamptz + hour * interval '1 hour', who => who, space => space, app => app);
END $$;
CALL at(8, 'private', 'insert');
CALL at(9, 'private', 'update');
CALL at(10, 'private', 'delete');
CALL at(8, 'again', 'insert');
CALL at(9, 'again', 'delete');
CALL at(10, 'again', 'insert');
CALL at(11, 'again', 'update');
CALL at(8, 'only a delete', 'delete');
CALL at(8, 'twice', 'insert', space => 'home');
CALL at(9, 'twice', 'delete', space => 'home');
CALL at(10, 'twice', 'delete', space => 'home');
-- Private ones of two users: nobody sees both.
CALL at(8, 'two', 'insert');
CALL at(10, 'two', 'delete');
CALL at(9, 'two', 'insert', who => 'ben');
-- Another user's insert after it lives with and without it.
CALL at(8, 'taken over', 'insert', space => 'home');
CALL at(9, 'taken over', 'delete', space => 'home');
CALL at(10, 'taken over', 'insert', who => 'ben', space => 'home');
-- These stay: what another user wrote before would come back,
CALL at(8, 'stays 1', 'insert', who => 'ben', space => 'home');
CALL at(9, 'stays 1', 'delete', space => 'home');
-- in another space too: somebody may be a member of both,
CALL at(8, 'stays 2', 'insert', who => 'ben', space => 'work');
CALL at(9, 'stays 2', 'delete', space => 'home');
-- or privately, where the other is a member of the space;
CALL at(8, 'stays 3', 'insert', who => 'ben');
CALL at(9, 'stays 3', 'delete', space => 'home');
CALL at(8, 'stays 4', 'insert', who => 'ben', space => 'home');
CALL at(9, 'stays 4', 'delete');
-- an update without an insert would be a record;
CALL at(8, 'stays 5', 'insert', space => 'home');
CALL at(9, 'stays 5', 'delete', space => 'home');
CALL at(10, 'stays 5', 'update', who => 'ben', space => 'home');
CALL at(8, 'stays 6', 'insert');
CALL at(9, 'stays 6', 'delete');
CALL at(10, 'stays 6', 'update');
-- of a change that was half deleted, the other half would come back.
CALL at(9, 'stays 7', 'delete');
CALL put('stays 7', 'insert', '{"a": 1, "b": 1}', '{"a": "2025-03-01T08:00:00Z", "b": "2025-03-01T10:00:00Z"}');
CALL put('stays 8', 'insert', '{"a": 1}');
CALL put('stays 8', 'delete', recorded => now() - interval '89 days');
CREATE TABLE everybody_before AS SELECT * FROM everybody WHERE deleted_at IS NULL;
SELECT * FROM mana_sync.purge_deleted('90 days');
SELECT record_id, user_id, space_id, op, data->>'a' AS hour FROM log;
SELECT count(*) AS different FROM (TABLE everybody_before EXCEPT (SELECT * FROM everybody WHERE deleted_at IS NULL)) AS d;
SELECT count(*) AS different FROM ((SELECT * FROM everybody WHERE deleted_at IS NULL) EXCEPT TABLE everybody_before) AS d;
SELECT number, purged_until, older_than, purged_at > now() - interval '1 hour' AS recently, deletes, changes FROM mana_sync.purges;
SELECT count(*) AS transactions FROM mana_sync.purged_transactions;
-- Nothing to purge is no purge.
SELECT * FROM mana_sync.purge_deleted('90 days');
SELECT * FROM mana_sync.purge_deleted('88 days');
SELECT number, deletes, changes FROM mana_sync.purges ORDER BY number;

-- == Cursors that are older than a purge
TRUNCATE mana_sync.sync_changes, mana_sync.purges, mana_sync.purged_transactions;
-- What a pull brings, as records and ops; and where to go on.
CREATE FUNCTION pull(since text, page int DEFAULT 1000, spaces text[] DEFAULT '{home}', who text DEFAULT 'ben', OUT records text, OUT next text, OUT more boolean, OUT resync boolean) LANGUAGE sql AS $$
    SELECT coalesce((SELECT string_agg(concat(c->>'op', ' ', c->>'id'), ', ' ORDER BY n)
                     FROM json_array_elements(body->'serverChanges') WITH ORDINALITY AS c (c, n)), '-'),
           body->>'syncedUntil', (body->>'hasMore')::boolean, (body->>'resyncRequired')::boolean
    FROM mana_sync.pull(who, 'todo', since => since, page_size => page, space_ids => spaces) AS body
$$;
CREATE FUNCTION quoted(since text) RETURNS text LANGUAGE sql AS $$ SELECT format('SELECT * FROM mana_sync.changes_since(%L, %L, since => %L, space_ids => %L)', 'ben', 'todo', since, '{home}') $$;
CALL put('milk', 'insert', '{"a": 1}', space => 'home');
CALL put('tea', 'insert', '{"a": 1}', space => 'home');
CALL put('bread', 'insert', '{"a": 1}', who => 'ben');
SET ROLE regress_app;
SELECT records, next AS unaware FROM pull(NULL) \gset
SELECT :'records' AS records;
SELECT records, next AS walking, more FROM pull(NULL, 2) \gset
SELECT :'records' AS records, :'more' AS more;
-- Somebody who has been a member of nothing, and is about to join.
SELECT next AS alone FROM pull(NULL, spaces => '{}') \gset
SELECT records, next AS joining, more FROM pull(:'alone', 1) \gset
SELECT :'records' AS records, :'more' AS more;
RESET ROLE;
CALL put('milk', 'delete', recorded => '2025-03-02T12:00:00Z', space => 'home');
SET ROLE regress_app;
SELECT records, next AS aware FROM pull(:'unaware') \gset
SELECT :'records' AS records;
RESET ROLE;
SELECT * FROM mana_sync.purge_deleted('90 days');
SET ROLE regress_app;
-- Who has the record, and has not been told of the delete, has to begin again.
SELECT * FROM outcome(quoted(:'unaware'));
SELECT records, next <> :'unaware' AS new, more, resync FROM pull(:'unaware');
SELECT r.records, r.resync FROM pull(:'unaware') AS p, pull(p.next) AS r;
-- With what the device wrote itself, too.
SELECT r->'serverChanges'->1->'id' AS own FROM pull(:'unaware') AS p, mana_sync.pull('ben', 'todo', since => p.next, client_id => 'phone', space_ids => '{home}') AS r;
SELECT mana_sync.pull('ben', 'todo', since => :'unaware', space_ids => '{home}')::jsonb - 'syncedUntil' AS answer;
-- A sync stores nothing.
SELECT mana_sync.sync('ben', 'todo', jsonb_build_object('since', :'unaware', 'changes', jsonb '[{"table": "items", "id": "jam", "op": "insert", "data": {}}]'),
                      space_ids => '{home}')::jsonb - 'syncedUntil' AS answer;
SELECT records FROM pull(NULL);
-- One who was told goes on, and so does one whose cursor is from after the purge.
SELECT count(*) FROM mana_sync.changes_since('ben', 'todo', since => :'aware', space_ids => '{home}');
SELECT records, resync FROM pull(:'aware');
SELECT answer->'resyncRequired' AS resync, answer->'serverChanges'->0->'id' AS id
    FROM mana_sync.sync('ben', 'todo', jsonb_build_object('since', :'aware', 'changes', jsonb '[{"table": "items", "id": "jam", "op": "insert", "data": {}}]'),
                        space_ids => '{home}') AS answer;
SELECT records, next AS fresh FROM pull(NULL) \gset
SELECT :'records' AS records;
SELECT records, resync FROM pull(:'fresh');
-- A first sync under way, and a space that is being joined, are of the log as it was: they begin again.
SELECT code, message FROM outcome(quoted(:'walking'));
SELECT records, resync FROM pull(:'walking', 2);
SELECT records, resync FROM pull(:'joining', 1);
-- The log remembers which transactions wrote the deletes, not who could see them: a cursor from before them is too old for everybody.
SELECT records, resync FROM pull(:'alone', spaces => '{}');
-- A timestamp stands for all that was recorded up to then: the latest delete that was purged is among it, or not.
SELECT * FROM outcome(quoted('2025-03-02T12:00:00Z'));
SELECT * FROM outcome(quoted('2025-03-01T12:00:00+01:00'));
SELECT records, resync FROM pull('2025-03-02T11:59:59Z');
SELECT code FROM outcome(quoted('2025-03-02T12:00:00.000001Z'));
SELECT records, resync FROM pull('2025-03-02T12:00:00.000001Z');
-- The beginning is the beginning.
SELECT code FROM outcome(quoted(NULL));
SELECT code FROM outcome(quoted(''));
RESET ROLE;
-- A purge that is rolled back is none.
CALL put('tea', 'delete', recorded => '2025-03-03T12:00:00Z', space => 'home');
BEGIN;
SELECT * FROM mana_sync.purge_deleted('90 days');
SELECT records, resync FROM pull(:'fresh');
ROLLBACK;
SELECT records, resync FROM pull(:'fresh');
SELECT * FROM mana_sync.purge_deleted('90 days');
SELECT resync FROM pull(:'fresh');
SELECT number, purged_until, deletes, changes FROM mana_sync.purges ORDER BY number;
SELECT count(DISTINCT mark) AS marks, bool_and(mark > 0) AS positive FROM mana_sync.purges;

-- == forget_user
TRUNCATE mana_sync.sync_changes, mana_sync.compactions, mana_sync.purges, mana_sync.purged_transactions;
CALL at(8, 'note', 'insert');
CALL at(9, 'note', 'delete');
CALL at(8, 'note', 'insert', app => 'shop');
CALL at(8, 'deleted by ada', 'insert', who => 'ben', space => 'home');
CALL put('deleted by ada', 'delete', '{"deletedAt": "2025-03-01T10:00:00Z", "reason": "Ada does not like it"}', '{"ada": "was here"}', space => 'home', client => 'adas-phone');
CALL at(8, 'of ada', 'insert', space => 'home');
CALL at(8, 'of both', 'insert', who => 'ben', space => 'home');
CALL at(9, 'of both', 'update', space => 'home');
CALL at(9, 'of ben', 'insert', who => 'ben');
CALL at(9, 'deleted by ben', 'insert', space => 'work');
CALL at(10, 'deleted by ben', 'delete', who => 'ben', space => 'work');
-- What is no time is nobody's business either.
CALL put('gone 1', 'delete', '{"deletedAt": {"by": "Ada"}}', space => 'home');
CALL put('gone 2', 'delete', '{"deletedAt": "when Ada was here"}', space => 'home');
CALL put('gone 3', 'delete', '["deletedAt", "Ada"]', space => 'home');
UPDATE mana_sync.sync_changes SET actor = '{"name": "Ada"}', origin = 'adas-agent' WHERE user_id = 'ada';
CREATE TABLE kept AS SELECT c.*, c.xmin AS version FROM mana_sync.sync_changes AS c WHERE user_id = 'ben';
CREATE TABLE seen AS SELECT * FROM everybody WHERE who IN ('ben', 'eve') AND record_id IN ('deleted by ada', 'deleted by ben', 'of ben');
SET ROLE regress_app;
SELECT records, next AS ben FROM pull(NULL) \gset
SELECT :'records' AS records;
RESET ROLE;
CALL mana_sync.compact(user_id => 'ada', older_than => '0');
CALL mana_sync.compact(app_id => 'shop', older_than => '0');
SELECT mana_sync.forget_user('ada');
SELECT user_id LIKE 'forgotten:________-____-____-____-____________' AS forgotten, app_id, record_id, space_id, op, data, field_timestamps, client_id, actor
    FROM mana_sync.sync_changes WHERE user_id <> 'ben';
SELECT count(*) AS changed FROM kept AS k WHERE NOT EXISTS (SELECT FROM mana_sync.sync_changes AS c WHERE c.id = k.id AND c.xmin = k.version);
SELECT count(*) AS rows FROM mana_sync.sync_changes;
SELECT count(*) AS named FROM mana_sync.sync_changes AS c
    WHERE (to_jsonb(c) - '{id,record_id,user_id}'::text[])::text ~* 'ada' OR regexp_replace(c.user_id, '^forgotten:[0-9a-f-]{36}$', '') ~* 'ada';
-- (Of compactions there is the one of all users, without its last place.)
SELECT user_id, after_app, after_record, after_user FROM mana_sync.compactions;
-- What others see looks the same, but for what ada wrote.
SELECT count(*) AS different FROM (TABLE seen EXCEPT TABLE everybody) AS d;
SELECT record_id, data, deleted_at IS NOT NULL AS deleted FROM mana_sync.records('ben', 'todo', include_deleted => true, space_ids => '{home}') ORDER BY record_id;
-- No cursor is too old for it, and nothing is sent.
SET ROLE regress_app;
SELECT records, resync FROM pull(:'ben');
-- Who joins the space is told what was deleted there.
SELECT records FROM pull(NULL, who => 'eve');
SELECT count(*) FROM mana_sync.changes_since('ada', 'todo');
SELECT count(*) FROM mana_sync.changes_since('ada', 'shop');
RESET ROLE;
-- Nobody twice; and nobody else's records by a name that looks like it.
SELECT mana_sync.forget_user('ada');
SELECT mana_sync.forget_user('be%');
-- A compaction whose place was at one of the user's records goes on all the same.
TRUNCATE mana_sync.sync_changes, mana_sync.compactions;
CALL at(8, 'a', 'update');
CALL at(9, 'a', 'update');
CALL at(8, 'b', 'update', who => 'ben');
CALL at(9, 'b', 'update', who => 'ben');
SELECT mana_sync.begin_compaction(NULL, NULL, NULL, '0', false) AS run \gset
SELECT b.* FROM mana_sync.compact_batch(:'run', 1) AS b;
SELECT after_record, after_user FROM mana_sync.compactions;
SELECT mana_sync.forget_user('ada');
SELECT b.* FROM mana_sync.compact_batch(:'run', 10) AS b;
SELECT count(*) AS rows FROM mana_sync.sync_changes;

-- == Isolation, and a last page that was exactly full
TRUNCATE mana_sync.sync_changes, mana_sync.compactions, mana_sync.purges, mana_sync.purged_transactions;
SELECT mana_sync.record_change('full', 'items', 'tea', 'ada', NULL, 'insert', 'phone', '{"a": 1}') IS NOT NULL AS recorded;
SELECT mana_sync.record_change('full', 'items', 'tea', 'ada', NULL, 'delete', 'phone') IS NOT NULL AS recorded;
SELECT mana_sync.record_change('full', 'items', 'milk', 'ada', NULL, 'insert', 'phone', '{"a": 1}') IS NOT NULL AS recorded;
SELECT cursor AS whole FROM mana_sync.changes_since('ada', 'full', page_size => 3) WHERE cursor IS NOT NULL \gset
SELECT cursor AS part FROM mana_sync.changes_since('ada', 'full', page_size => 1) WHERE cursor IS NOT NULL \gset
-- A transaction that does not see what was committed since could remove a delete, and not what that deleted.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT call, o.code, o.message FROM unnest(ARRAY[
        $q$SELECT mana_sync.purge_deleted('0')$q$,
        $q$SELECT mana_sync.forget_user('ada')$q$,
        $q$SELECT mana_sync.compact_batch(mana_sync.uuidv7(), 1)$q$]) AS call, LATERAL outcome(call) AS o;
ROLLBACK;
SELECT * FROM mana_sync.purge_deleted('0');
-- The device has come past the delete; there was no later cursor for it. The other one has got the record, and not its delete.
SELECT count(*) FROM mana_sync.changes_since('ada', 'full', since => :'whole');
SELECT code FROM outcome(format($$ SELECT * FROM mana_sync.changes_since('ada', 'full', since => %L) $$, :'part'));
TRUNCATE mana_sync.purges, mana_sync.purged_transactions;

-- == Who may
TRUNCATE mana_sync.sync_changes, mana_sync.compactions;
CALL at(8, 'a', 'update');
CALL at(9, 'a', 'update');
CALL at(8, 'b', 'insert');
CALL at(9, 'b', 'delete');
CREATE FUNCTION may(OUT object text, OUT code text, OUT message text) RETURNS SETOF record LANGUAGE sql AS $$
    SELECT call, o.code, o.message FROM unnest(ARRAY[
        $q$CALL mana_sync.compact(batch_size => 1)$q$,
        $q$SELECT mana_sync.begin_compaction(NULL, NULL, NULL, '0', true)$q$,
        $q$SELECT mana_sync.compact_batch(NULL, 1)$q$,
        $q$SELECT mana_sync.purge_deleted('900 years')$q$,
        $q$SELECT mana_sync.forget_user('nobody')$q$,
        $q$SELECT * FROM mana_sync.compaction_progress$q$,
        $q$SELECT * FROM mana_sync.purges$q$,
        $q$SELECT * FROM mana_sync.compactions$q$,
        $q$SELECT * FROM mana_sync.purged_transactions$q$,
        $q$SELECT * FROM mana_sync.sync_changes$q$,
        $q$DELETE FROM mana_sync.sync_changes$q$,
        $q$SELECT * FROM mana_sync.changes_since('ada', 'todo')$q$,
        $q$SELECT * FROM mana_sync.records('ada', 'todo')$q$,
        $q$SELECT * FROM mana_sync.export_changes('ada')$q$,
        $q$SELECT mana_sync.record_change('todo', 'items', 'c', 'ada', NULL, 'insert', 'phone')$q$,
        $q$SELECT mana_sync.grant_maintenance('regress_keeper')$q$,
        $q$SELECT mana_sync.revoke_maintenance('regress_keeper')$q$]) WITH ORDINALITY AS c (call, n),
        LATERAL outcome(c.call) AS o ORDER BY n
$$;
-- The application's role: none of it.
SET ROLE regress_app;
SELECT * FROM may();
RESET ROLE;
SET ROLE regress_keeper;
SELECT DISTINCT code, message FROM may();
RESET ROLE;
-- A role for maintenance: all of it, and no row of the log.
SELECT mana_sync.grant_maintenance('regress_keeper');
SELECT mana_sync.grant_maintenance('regress_keeper');
SET ROLE regress_keeper;
-- (2D000: compact may be called, but not from within a function.)
SELECT * FROM may();
CALL mana_sync.compact();
SELECT * FROM mana_sync.purge_deleted('0');
SELECT app_id, changes_read, changes_removed, running FROM mana_sync.compaction_progress WHERE NOT dry_run;
SELECT number, deletes, changes FROM mana_sync.purges;
SELECT mana_sync.forget_user('ada');
RESET ROLE;
SELECT count(*) FROM mana_sync.sync_changes;
-- Access and maintenance are two things: each is taken back without the other.
SELECT mana_sync.grant_access('regress_keeper');
SELECT mana_sync.revoke_maintenance('regress_keeper');
SET ROLE regress_keeper;
SELECT object, code FROM may() WHERE code <> '00000';
RESET ROLE;
SELECT mana_sync.grant_maintenance('regress_keeper');
SELECT mana_sync.revoke_access('regress_keeper');
SET ROLE regress_keeper;
SELECT object, code FROM may() WHERE code <> '00000';
RESET ROLE;
SELECT mana_sync.revoke_maintenance('regress_keeper');
SELECT has_schema_privilege('regress_keeper', 'mana_sync', 'USAGE') AS schema;
SELECT mana_sync.revoke_maintenance('regress_keeper');
SELECT * FROM outcome('SELECT mana_sync.grant_maintenance(NULL)');
SELECT * FROM outcome($$ SELECT mana_sync.grant_maintenance('-') $$);
SELECT code FROM outcome($$ SELECT mana_sync.revoke_maintenance('no_such_role') $$);

-- == An owner who is subject to row security: an error, instead of nothing found
TRUNCATE mana_sync.sync_changes, mana_sync.compactions, mana_sync.purges, mana_sync.purged_transactions;
CALL at(8, 'a', 'update');
CALL at(9, 'a', 'update');
CALL at(8, 'b', 'insert');
CALL at(9, 'b', 'delete');
CREATE ROLE regress_owner;
SELECT mana_sync.grant_maintenance('regress_keeper');
GRANT USAGE, CREATE ON SCHEMA mana_sync TO regress_owner;
ALTER TABLE mana_sync.sync_changes OWNER TO regress_owner;
ALTER TABLE mana_sync.compactions OWNER TO regress_owner;
ALTER VIEW mana_sync.compaction_progress OWNER TO regress_owner;
ALTER TABLE mana_sync.purges OWNER TO regress_owner;
ALTER TABLE mana_sync.purged_transactions OWNER TO regress_owner;
ALTER FUNCTION mana_sync.begin_compaction OWNER TO regress_owner;
ALTER FUNCTION mana_sync.compact_batch OWNER TO regress_owner;
ALTER FUNCTION mana_sync.purge_deleted OWNER TO regress_owner;
ALTER FUNCTION mana_sync.forget_user OWNER TO regress_owner;
SET ROLE regress_keeper;
\set VERBOSITY terse
CALL mana_sync.compact();
\set VERBOSITY default
SELECT * FROM outcome($$ SELECT mana_sync.purge_deleted('0') $$);
SELECT * FROM outcome($$ SELECT mana_sync.forget_user('ada') $$);
RESET ROLE;
-- Whoever calls: the functions act as their owner.
SELECT code FROM outcome($$ SELECT mana_sync.purge_deleted('0') $$);
SELECT count(*) FROM mana_sync.sync_changes;
-- As the HINT says.
ALTER ROLE regress_owner BYPASSRLS;
SET ROLE regress_keeper;
\set VERBOSITY sqlstate
CALL mana_sync.compact();
\set VERBOSITY default
SELECT * FROM mana_sync.purge_deleted('0');
SELECT mana_sync.forget_user('ada');
RESET ROLE;
SELECT count(*) FROM mana_sync.sync_changes;

DROP VIEW log, everybody, counts, differs_from_todo;
DROP TABLE before, records_before, everybody_before, kept, seen;
DROP PROCEDURE at;
DROP FUNCTION pull, quoted, may;
SELECT mana_sync.revoke_access('regress_app') \g /dev/null
-- An epoch that is begun is like no other, also where the same number is given again: a machine may be put back twice.
BEGIN;
SELECT mana_sync.begin_epoch() AS first \gset
SELECT fingerprint AS one, secret AS one_secret FROM mana_sync.epochs WHERE number = :first \gset
ROLLBACK;
BEGIN;
SELECT mana_sync.begin_epoch() = :first AS same_number;
SELECT fingerprint <> :one AS another, secret <> :'one_secret' AS another_secret FROM mana_sync.epochs WHERE number = :first;
ROLLBACK;

DROP EXTENSION mana_sync;
DROP ROLE regress_keeper, regress_owner;
