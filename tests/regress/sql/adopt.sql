-- Adoption of logs that the original store made, of any age: what arrives, what is refused, and what a second run does.
CREATE EXTENSION mana_sync;
SELECT mana_sync.grant_access('regress_app') \g /dev/null
CREATE ROLE regress_keeper;
SELECT mana_sync.grant_maintenance('regress_keeper') \g /dev/null
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE SCHEMA old;

-- The statement of the original that creates its table.
CREATE TABLE old.sync_changes (
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
    actor JSONB,
    space_id TEXT
);
CREATE INDEX idx_sync_changes_user_app ON old.sync_changes (user_id, app_id, created_at);
CREATE INDEX idx_sync_changes_user_space_app_since ON old.sync_changes (user_id, space_id, app_id, created_at) WHERE space_id IS NOT NULL;
ALTER TABLE old.sync_changes ENABLE ROW LEVEL SECURITY;
ALTER TABLE old.sync_changes FORCE ROW LEVEL SECURITY;
CREATE POLICY sync_changes_user_isolation ON old.sync_changes
    USING (user_id = current_setting('app.current_user_id', true)) WITH CHECK (user_id = current_setting('app.current_user_id', true));

-- The columns of both logs, in one form.
CREATE FUNCTION columns_of(source regclass) RETURNS TABLE (change jsonb) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT to_jsonb(s) - ''{epoch,xact,seq}''::text[] FROM %s AS s', source);
END $$;
-- The position in the log follows (created_at, id); one line for each transaction.
CREATE VIEW in_order AS
    SELECT count(*) AS changes, bool_and(position = age) AS in_order FROM (
        SELECT xact, row_number() OVER (ORDER BY epoch, xact, seq) AS position, row_number() OVER (ORDER BY created_at, id) AS age
        FROM mana_sync.sync_changes) AS c GROUP BY xact ORDER BY xact;

-- What the latest run has refused.
CREATE VIEW refused AS
    SELECT right(r.id::text, 2) AS row, r.reason FROM mana_sync.adoption_refusals AS r
    WHERE r.adoption = (SELECT id FROM mana_sync.adoptions WHERE NOT dry_run ORDER BY started_at DESC LIMIT 1) ORDER BY r.id;

-- == A log of the original as it is today
INSERT INTO old.sync_changes (app_id, table_name, record_id, user_id, space_id, op, data, field_timestamps, client_id, schema_version, actor, created_at)
    SELECT 'todo', CASE n % 3 WHEN 0 THEN 'notes' ELSE 'items' END, 'r' || n % 7, CASE n % 2 WHEN 0 THEN 'ada' ELSE 'ben' END,
           CASE WHEN n % 4 = 0 THEN 'home' END, CASE WHEN n < 8 THEN 'insert' WHEN n % 9 = 0 THEN 'delete' ELSE 'update' END,
           jsonb_build_object('a', n, 'title', 'Item ' || n), jsonb_build_object('a', '2025-03-01T12:00:00Z'), 'phone',
           1 + n % 2, CASE WHEN n % 5 = 0 THEN '{"kind": "ai"}'::jsonb END,
           -- Some have one time: then the id decides. The order of the table is not the order of time.
           '2025-03-01T12:00:00Z'::timestamptz + (n * 7 % 25) / 2 * interval '1 minute'
    FROM generate_series(1, 25) AS n;
-- A dry run adds nothing to the log.
CALL mana_sync.adopt('old.sync_changes', dry_run => true);
SELECT count(*) FROM mana_sync.sync_changes;
CALL mana_sync.adopt('old.sync_changes', batch_size => 10);
TABLE in_order;
SELECT count(*) AS different FROM (
    (SELECT change || '{"origin": null}' FROM columns_of('old.sync_changes') EXCEPT SELECT * FROM columns_of('mana_sync.sync_changes'))
    UNION ALL
    (SELECT * FROM columns_of('mana_sync.sync_changes') EXCEPT SELECT change || '{"origin": null}' FROM columns_of('old.sync_changes'))) AS d;
-- Readers get them: a user its own and those of its spaces.
SELECT (SELECT count(*) FROM mana_sync.changes_since('ada', 'todo')) AS ada,
       (SELECT count(*) FROM mana_sync.changes_since('ben', 'todo', space_ids => '{home}')) AS ben;
-- A device of the original goes on from its timestamp.
SELECT (SELECT count(*) FROM mana_sync.changes_since('ada', 'todo', since => '2025-03-01T12:05:00Z'))
     = (SELECT count(*) FROM old.sync_changes WHERE user_id = 'ada' AND created_at > '2025-03-01T12:05:00Z') AS goes_on;

-- == A second run takes what is new: also a row that was committed late, with an earlier time
CALL mana_sync.adopt('old.sync_changes');
INSERT INTO old.sync_changes (id, app_id, table_name, record_id, user_id, op, data, client_id, created_at) VALUES
    ('00000000-0000-4000-8000-000000000001', 'todo', 'items', 'late', 'ada', 'insert', '{"a": 1}', 'phone', '2025-03-01T12:03:00Z'),
    ('00000000-0000-4000-8000-000000000002', 'todo', 'items', 'new', 'ada', 'insert', '{"a": 1}', 'phone', '2025-03-02');
CALL mana_sync.adopt('old.sync_changes');
SELECT record_id, created_at FROM mana_sync.sync_changes ORDER BY epoch, xact DESC, seq LIMIT 2;
-- What maintenance has removed from the log since does not come back.
SELECT mana_sync.forget_user('ben') > 0 AS forgotten;
CALL mana_sync.adopt('old.sync_changes');
-- The log begins with the oldest of them: so a device with a timestamp from that time holds something. Here it holds the first insert of a
-- record, which a compaction removes. Then a purge removes the rest. The device has to begin again, and one that holds nothing has not.
SELECT number, min(opened_at) FROM mana_sync.epochs GROUP BY number;
INSERT INTO old.sync_changes (app_id, table_name, record_id, user_id, op, data, client_id, created_at) VALUES
    ('todo', 'items', 'gone', 'ada', 'insert', '{"a": 1}', 'phone', '2025-02-01T12:00:00Z'),
    ('todo', 'items', 'gone', 'ada', 'insert', '{"a": 2}', 'phone', '2025-04-01T12:00:00Z'),
    ('todo', 'items', 'gone', 'ada', 'delete', NULL, 'phone', '2025-05-01T12:00:00Z');
CALL mana_sync.adopt('old.sync_changes');
DELETE FROM mana_sync.sync_changes WHERE record_id <> 'gone';
CALL mana_sync.compact('todo', older_than => '0');
SELECT * FROM mana_sync.purge_deleted('0');
SELECT since, mana_sync.pull('ada', 'todo', since => since)::jsonb -> 'resyncRequired' AS resync
    FROM unnest('{1970-01-01T00:00:00Z,2025-01-31T12:00:00Z,2025-02-02T12:00:00Z,2025-05-02T12:00:00Z}'::text[]) AS since;

-- == The oldest logs: without schema_version, actor and space_id
CREATE TABLE old.oldest (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(), app_id TEXT NOT NULL, table_name TEXT NOT NULL, record_id TEXT NOT NULL,
    user_id TEXT NOT NULL, op TEXT NOT NULL, data JSONB, field_timestamps JSONB DEFAULT '{}', client_id TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now());
TRUNCATE mana_sync.sync_changes;
-- The original stores the JSON value null where it has no data or no times.
INSERT INTO old.oldest (app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at) VALUES
    ('todo', 'items', 'milk', 'ada', 'insert', '{"title": "Milk"}', 'null', 'phone', '2024-01-01T12:00:00.123456Z'),
    ('todo', 'items', 'milk', 'ada', 'update', '{"title": null}', '{"title": "2024-01-01T12:01:00Z"}', '', '2024-01-01T12:01:00Z'),
    ('todo', 'items', 'milk', 'ada', 'delete', 'null', NULL, 'phone', '2024-01-01T12:02:00Z');
CALL mana_sync.adopt('old.oldest');
SELECT created_at, op, client_id, data, field_timestamps, schema_version, actor, space_id, origin FROM mana_sync.sync_changes ORDER BY epoch, xact, seq;

-- == The newest logs: origin, and field_meta with objects
CREATE TABLE old.newest (LIKE old.sync_changes INCLUDING DEFAULTS INCLUDING INDEXES);
ALTER TABLE old.newest RENAME field_timestamps TO field_meta;
ALTER TABLE old.newest ADD origin TEXT, ADD "Region" TEXT, ADD tenant INT;
TRUNCATE mana_sync.sync_changes;
INSERT INTO old.newest (app_id, table_name, record_id, user_id, op, data, field_meta, client_id, origin, space_id, created_at) VALUES
    ('todo', 'items', 'milk', 'ada', 'update', '{"a": 1, "b": 2}', '{"a": {"at": "2024-01-01T12:00:00Z"}, "b": "2024-01-01T12:00:01Z"}', 'phone', 'agent', 'home', '2024-01-01T12:00:00Z'),
    -- An empty space is none. What is not a time stays as it is.
    ('todo', 'items', 'milk', 'ada', 'update', '{"a": 1}', '{"a": {"at": 1}, "b": {}, "c": null, "d": []}', 'phone', NULL, '', '2024-01-01T12:01:00Z'),
    ('todo', 'items', 'milk', 'ada', 'update', '{"a": 1}', '{"a": {"at": "2024-01-01T12:02:00Z", "by": "ada", "device": 7}}', 'phone', 'user', NULL, '2024-01-01T12:02:00Z');
-- A column that the log has not is refused by name, and so is a misspelt name of a column to leave behind.
\pset format unaligned
SELECT * FROM outcome($$ CALL mana_sync.adopt('old.newest') $$);
SELECT * FROM outcome($$ CALL mana_sync.adopt('old.newest', drop_columns => '{region,tenant}') $$);
\pset format aligned
CALL mana_sync.adopt('old.newest', drop_columns => '{Region,tenant}');
SELECT reason FROM refused;
CALL mana_sync.adopt('old.newest', drop_columns => '{Region,tenant,field_meta.by,field_meta.device}');
SELECT field_timestamps, origin, space_id FROM mana_sync.sync_changes ORDER BY epoch, xact, seq;
SELECT count(*) AS refused FROM mana_sync.adoption_refusals;

-- == Rows that the log cannot take are listed and left, each with its reason
CREATE TABLE old.odd (LIKE old.sync_changes INCLUDING DEFAULTS INCLUDING INDEXES);
ALTER TABLE old.odd ALTER user_id DROP NOT NULL, ALTER op DROP NOT NULL, ALTER client_id DROP NOT NULL, ALTER created_at DROP NOT NULL;
TRUNCATE mana_sync.sync_changes;
INSERT INTO old.odd (id, app_id, table_name, record_id, user_id, op, data, client_id, created_at)
    SELECT ('00000000-0000-4000-8000-0000000000' || n)::uuid, 'todo', 'items', 'r', 'ada', 'insert', '{"a": 1}', 'phone', '2024-01-01'::timestamptz + n * interval '1 minute'
    FROM generate_series(10, 39) AS n;
UPDATE old.odd SET user_id = '' WHERE id::text LIKE '%10';
UPDATE old.odd SET user_id = NULL WHERE id::text LIKE '%11';
UPDATE old.odd SET user_id = repeat('u', 513) WHERE id::text LIKE '%12';
UPDATE old.odd SET app_id = '' WHERE id::text LIKE '%13';
UPDATE old.odd SET table_name = repeat('t', 513) WHERE id::text LIKE '%14';
UPDATE old.odd SET record_id = repeat('r', 513) WHERE id::text LIKE '%15';
UPDATE old.odd SET op = 'upsert' WHERE id::text LIKE '%16';
UPDATE old.odd SET op = NULL WHERE id::text LIKE '%17';
UPDATE old.odd SET client_id = NULL WHERE id::text LIKE '%18';
UPDATE old.odd SET client_id = repeat('c', 513) WHERE id::text LIKE '%19';
UPDATE old.odd SET space_id = 'a,b' WHERE id::text LIKE '%20';
UPDATE old.odd SET space_id = repeat('s', 513) WHERE id::text LIKE '%21';
UPDATE old.odd SET data = '{"a": 1e2000}' WHERE id::text LIKE '%22';
UPDATE old.odd SET data = (repeat('[', 1001) || repeat(']', 1001))::jsonb WHERE id::text LIKE '%23';
UPDATE old.odd SET field_timestamps = (repeat('[', 1001) || repeat(']', 1001))::jsonb WHERE id::text LIKE '%24';
UPDATE old.odd SET field_timestamps = jsonb_build_object('a', (repeat('{"a":', 2000) || '1' || repeat('}', 2000))::jsonb) WHERE id::text LIKE '%25';
UPDATE old.odd SET actor = jsonb_build_object('a', repeat('x', 2000)) WHERE id::text LIKE '%26';
UPDATE old.odd SET created_at = NULL WHERE id::text LIKE '%27';
UPDATE old.odd SET created_at = 'infinity' WHERE id::text LIKE '%28';
UPDATE old.odd SET created_at = '-infinity' WHERE id::text LIKE '%29';
UPDATE old.odd SET created_at = '1970-01-01T00:00:00Z' WHERE id::text LIKE '%30';
UPDATE old.odd SET created_at = '10000-01-01T00:00:00Z' WHERE id::text LIKE '%31';
-- These are at the limits.
UPDATE old.odd SET user_id = repeat('u', 512), record_id = repeat('r', 512), space_id = repeat('s', 512), client_id = '' WHERE id::text LIKE '%32';
UPDATE old.odd SET created_at = '1970-01-01T00:00:00.000001Z', schema_version = 0 WHERE id::text LIKE '%33';
UPDATE old.odd SET created_at = '9999-12-31T23:59:59.999999Z' WHERE id::text LIKE '%34';
-- The limit of the size is that of the caller, as for every writer.
SET mana_sync.max_change_size = 1024;
CALL mana_sync.adopt('old.odd', dry_run => true);
CALL mana_sync.adopt('old.odd', batch_size => 7);
RESET mana_sync.max_change_size;
SELECT * FROM refused;
SELECT right(id::text, 2) AS row, schema_version, client_id FROM mana_sync.sync_changes ORDER BY epoch, xact, seq;
-- A later run reads them again, and lists what is left.
UPDATE old.odd SET user_id = 'ada' WHERE user_id = '' OR user_id IS NULL;
CALL mana_sync.adopt('old.odd');
SELECT count(*) FROM refused;
-- The view through which adopt writes is no way around the limits, and shows nothing.
SET ROLE regress_keeper;
SELECT code, message FROM outcome($$ INSERT INTO mana_sync.adopted_changes (user_id, app_id, table_name, record_id, op, client_id) VALUES ('', 'todo', 'items', 'r', 'insert', '') $$);
SELECT code, message FROM outcome($$ INSERT INTO mana_sync.adopted_changes (user_id, app_id, table_name, record_id, op, client_id, data) VALUES ('ada', 'todo', 'items', 'r', 'insert', '', '1e2000') $$);
SELECT code, message FROM outcome($$ INSERT INTO mana_sync.adopted_changes (seq) VALUES (1) $$);
SELECT code, message FROM outcome($$ TABLE mana_sync.adopted_changes $$);
SELECT code, message FROM outcome($$ UPDATE mana_sync.adopted_changes SET user_id = 'eve' $$);
RESET ROLE;

-- == An id that the log has already
TRUNCATE mana_sync.sync_changes;
CREATE TABLE old.known (LIKE old.sync_changes INCLUDING DEFAULTS INCLUDING INDEXES);
INSERT INTO old.known (id, app_id, table_name, record_id, user_id, op, data, client_id, created_at)
    SELECT ('00000000-0000-4000-8000-0000000000' || n)::uuid, 'todo', 'items', 'r', 'ada', 'insert', '{"a": 1}', 'phone', '2024-01-01'::timestamptz + n * interval '1 minute'
    FROM generate_series(10, 19) AS n;
-- Two are the same, and were copied by hand; two are other changes.
INSERT INTO mana_sync.sync_changes (id, app_id, table_name, record_id, user_id, op, data, client_id, created_at)
    SELECT id, app_id, table_name, record_id, user_id, op, data, client_id, created_at FROM old.known WHERE id::text ~ '(12|15)$';
INSERT INTO mana_sync.sync_changes (id, app_id, table_name, record_id, user_id, op, data, client_id, created_at)
    SELECT id, app_id, table_name, record_id, user_id, op, '{"a": 2}', client_id, created_at FROM old.known WHERE id::text ~ '(13)$';
INSERT INTO mana_sync.sync_changes (id, app_id, table_name, record_id, user_id, op, data, client_id)
    SELECT id, app_id, table_name, record_id, user_id, op, data, client_id FROM old.known WHERE id::text ~ '(18)$';
CALL mana_sync.adopt('old.known', dry_run => true);
CALL mana_sync.adopt('old.known', batch_size => 4);
SELECT * FROM refused;
SELECT count(*), count(*) FILTER (WHERE data = '{"a": 2}') AS of_ours FROM mana_sync.sync_changes;
-- A log that was restored from a dump does not know what was adopted before. It compares the content.
TRUNCATE mana_sync.adopted_ids;
CALL mana_sync.adopt('old.known');

-- == Triggers and constraints of the application hold for adopted rows. What they refuse is listed
TRUNCATE mana_sync.sync_changes;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    CASE NEW.record_id
        WHEN 'raise' THEN RAISE EXCEPTION 'not this one';
        WHEN 'privilege' THEN RAISE EXCEPTION 'not for you' USING ERRCODE = '42501';
        WHEN 'quota' THEN RAISE EXCEPTION 'the quota is used up' USING ERRCODE = 'QUOTA';
        WHEN 'skip' THEN RETURN NULL;
        WHEN 'spoil' THEN NEW.data := '1e2000';
        WHEN 'fault' THEN PERFORM 1 / 0;
        WHEN 'missing' THEN PERFORM * FROM missing_table;
        WHEN 'forbidden' THEN SET LOCAL ROLE regress_app; PERFORM * FROM old.odd;
        ELSE NULL;
    END CASE;
    RETURN NEW;
END $$;
CREATE TRIGGER app_refuse BEFORE INSERT ON mana_sync.sync_changes FOR EACH ROW EXECUTE FUNCTION refuse();
ALTER TABLE mana_sync.sync_changes ADD CONSTRAINT app_check CHECK (record_id <> 'check');
CREATE TABLE old.judged (LIKE old.sync_changes INCLUDING DEFAULTS INCLUDING INDEXES);
INSERT INTO old.judged (id, app_id, table_name, record_id, user_id, op, data, client_id, created_at)
    SELECT ('00000000-0000-4000-8000-0000000000' || n)::uuid, 'todo', 'items',
           CASE n WHEN 12 THEN 'raise' WHEN 20 THEN 'privilege' WHEN 21 THEN 'quota' WHEN 33 THEN 'skip' WHEN 34 THEN 'fault' WHEN 50 THEN 'check' WHEN 51 THEN 'spoil' ELSE 'r' END,
           'ada', 'insert', '{"a": 1}', 'phone', '2024-01-01'::timestamptz + n * interval '1 minute'
    FROM generate_series(10, 59) AS n;
CALL mana_sync.adopt('old.judged', batch_size => 30);
SELECT * FROM refused;
TABLE in_order;
-- A fault of the application, or a privilege that is lacking, is no refusal. It stops the run.
UPDATE old.judged SET record_id = 'missing' WHERE id::text ~ '33$';
\set VERBOSITY sqlstate
CALL mana_sync.adopt('old.judged');
UPDATE old.judged SET record_id = 'forbidden' WHERE id::text ~ '33$';
CALL mana_sync.adopt('old.judged');
\set VERBOSITY default
SELECT count(*) FROM mana_sync.sync_changes;
DROP TRIGGER app_refuse ON mana_sync.sync_changes;
DROP FUNCTION refuse;
ALTER TABLE mana_sync.sync_changes DROP CONSTRAINT app_check;
-- The next call resumes the run, and says so with a NOTICE (which has a time in it).
\set VERBOSITY sqlstate
CALL mana_sync.adopt('old.judged');
\set VERBOSITY default
SELECT count(*) FROM mana_sync.sync_changes;

-- == A run that was stopped goes on: here in a pause, which is between two transactions
TRUNCATE mana_sync.sync_changes;
CREATE TABLE old.stopped (LIKE old.sync_changes INCLUDING DEFAULTS INCLUDING INDEXES);
INSERT INTO old.stopped (app_id, table_name, record_id, user_id, op, data, client_id, created_at)
    SELECT 'todo', 'items', 'r' || n, CASE WHEN n <> 3 THEN 'ada' ELSE '' END, 'insert', '{"a": 1}', 'phone', '2024-01-01'::timestamptz + n * interval '1 minute'
    FROM generate_series(1, 25) AS n;
\set VERBOSITY sqlstate
SET statement_timeout = '1s';
CALL mana_sync.adopt('old.stopped', batch_size => 10, pause => '1 minute');
RESET statement_timeout;
SELECT source_name, dry_run, running, finished_at IS NULL AS unfinished, pid = pg_backend_pid() AS mine, rows_read, rows_adopted, rows_refused
    FROM mana_sync.adoption_progress ORDER BY started_at DESC LIMIT 1;
-- Rows that move in the table meanwhile are found by their ids.
UPDATE old.stopped SET actor = '{}' WHERE record_id > 'r2';
CALL mana_sync.adopt('old.stopped', batch_size => 10, dry_run => true);
CALL mana_sync.adopt('old.stopped', batch_size => 10);
\set VERBOSITY default
SELECT source_name, finished_at > started_at AS finished, rows_read, rows_adopted, rows_refused
    FROM mana_sync.adoption_progress WHERE NOT dry_run ORDER BY started_at DESC LIMIT 1;
TABLE in_order;
SELECT reason FROM refused;
-- By hand: places that are wrong, and an id that is not in the source any more.
TRUNCATE mana_sync.sync_changes, mana_sync.adopted_ids;
SELECT mana_sync.begin_adoption('old.stopped', 'old.stopped', false) AS run \gset
SELECT b.* FROM (SELECT array_agg(id ORDER BY id) AS ids FROM old.stopped) AS s,
    mana_sync.adopt_batch(:'run', 'old.stopped', '{}', ids || '{00000000-0000-4000-8000-000000000099}'::uuid[], array_fill('(0,1)'::tid, ARRAY[26]), '2024-01-01', false) AS b;
SELECT count(*) FROM mana_sync.sync_changes;
-- A batch whose counts do not add up is rolled back.
SELECT code, message FROM outcome(format('SELECT mana_sync.end_adoption_batch(%L, 3, ''{00000000-0000-4000-8000-000000000099}'', ''{}'', ''{}'', ''{}'', NULL, false)', :'run'));
SELECT mana_sync.end_adoption_batch(:'run', 0, '{}', '{}', '{}', '{}', NULL, true) IS NOT NULL AS ended;
SELECT code, message FROM outcome(format('SELECT mana_sync.end_adoption_batch(%L, 0, ''{}'', ''{}'', ''{}'', ''{}'', NULL, true)', :'run'));

-- == Who may adopt what: the source is read with the rights of the caller
SET ROLE regress_app;
SELECT code, message FROM outcome($$ CALL mana_sync.adopt('mana_sync.sync_changes') $$);
SELECT code, message FROM outcome($$ SELECT mana_sync.ids_in_log('{}') $$);
SET ROLE regress_keeper;
SELECT code, message FROM outcome($$ SELECT * FROM mana_sync.adoption_source('old.oldest', '{}') $$);
RESET ROLE;
GRANT USAGE ON SCHEMA old TO regress_keeper;
GRANT CREATE ON SCHEMA old TO regress_keeper;
SET ROLE regress_keeper;
SELECT code, message FROM outcome($$ CALL mana_sync.adopt('old.oldest') $$);
RESET ROLE;
GRANT SELECT ON old.oldest, old.sync_changes TO regress_keeper;
TRUNCATE mana_sync.sync_changes, mana_sync.adopted_ids;
\pset format unaligned
SET ROLE regress_keeper;
-- Row security would hide rows. (Calls in a function that get so far as to commit fail with 2D000.)
SELECT * FROM outcome($$ CALL mana_sync.adopt('old.sync_changes') $$);
-- The owner of a table that is adopted runs no code of its own as the one who adopts: no view, no function in an index, a constraint or
-- statistics, which the planner would evaluate.
CREATE FUNCTION old.evil() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE WARNING 'evil runs as %', current_user; RETURN true; END $$;
CREATE VIEW old.a_view AS SELECT * FROM old.oldest;
CREATE TABLE old.evil_index (LIKE old.oldest INCLUDING INDEXES);
CREATE INDEX by_app ON old.evil_index (app_id) WHERE old.evil();
CREATE TABLE old.evil_check (LIKE old.oldest INCLUDING INDEXES, CHECK (old.evil()));
CREATE TABLE old.evil_statistics (LIKE old.oldest INCLUDING INDEXES);
CREATE STATISTICS old.evil_statistics ON (old.evil()), app_id FROM old.evil_statistics;
CREATE TABLE old.evil_policy (LIKE old.oldest INCLUDING INDEXES);
ALTER TABLE old.evil_policy ENABLE ROW LEVEL SECURITY;
CREATE POLICY evil ON old.evil_policy USING (old.evil());
CREATE TABLE old.parent (LIKE old.oldest INCLUDING INDEXES);
CREATE TABLE old.child () INHERITS (old.parent);
CREATE TABLE old.partitioned (LIKE old.oldest) PARTITION BY LIST (app_id);
RESET ROLE;
SELECT o.*, name FROM unnest('{a_view,evil_index,evil_check,evil_statistics,parent,partitioned}'::text[]) WITH ORDINALITY AS bad (name, n),
    LATERAL outcome(format('CALL mana_sync.adopt(%L)', 'old.' || name)) AS o ORDER BY n;
\pset format aligned
-- The superuser is not subject to a policy, which is not evaluated.
CALL mana_sync.adopt('old.evil_policy');
-- A role with maintenance adopts what it may read. It still reads nothing of the log.
SET ROLE regress_keeper;
CALL mana_sync.adopt('old.oldest');
SELECT rows_adopted, running FROM mana_sync.adoption_progress WHERE source_name = 'old.oldest' ORDER BY started_at DESC LIMIT 1;
SELECT code, message FROM outcome('TABLE mana_sync.sync_changes');
RESET ROLE;
SELECT count(*) FROM mana_sync.sync_changes;
-- A role that also has access keeps it without maintenance, and the other way round.
SELECT mana_sync.grant_access('regress_keeper'), mana_sync.revoke_maintenance('regress_keeper') \g /dev/null
SET ROLE regress_keeper;
SELECT mana_sync.record_change('todo', 'items', 'r', 'ada', NULL, 'insert', '') IS NOT NULL AS recorded;
SELECT code, message FROM outcome($$ CALL mana_sync.adopt('old.oldest') $$);
SELECT code, message FROM outcome($$ INSERT INTO mana_sync.adopted_changes (user_id, app_id, table_name, record_id, op, client_id) VALUES ('ada', 'todo', 'items', 'r', 'insert', '') $$);
RESET ROLE;
SELECT mana_sync.grant_maintenance('regress_keeper'), mana_sync.revoke_access('regress_keeper') \g /dev/null
INSERT INTO old.oldest (app_id, table_name, record_id, user_id, op, client_id) VALUES ('todo', 'items', 'r', 'ada', 'insert', '');
SET ROLE regress_keeper;
CALL mana_sync.adopt('old.oldest');
RESET ROLE;
SELECT mana_sync.revoke_maintenance('regress_keeper') \g /dev/null
SELECT has_schema_privilege('regress_keeper', 'mana_sync', 'USAGE') AS schema, has_sequence_privilege('regress_keeper', 'mana_sync.sync_changes_seq', 'USAGE') AS sequence;

-- == Bad calls, and tables that are no log of the original
CREATE TABLE old.both (LIKE old.newest INCLUDING INDEXES);
ALTER TABLE old.both ADD field_timestamps jsonb, DROP "Region", DROP tenant;
CREATE TABLE old.no_key (LIKE old.oldest);
CREATE TABLE old.no_actor_or_op (LIKE old.oldest INCLUDING INDEXES);
ALTER TABLE old.no_actor_or_op DROP op, DROP data;
CREATE TABLE old.no_times (LIKE old.oldest INCLUDING INDEXES);
ALTER TABLE old.no_times DROP field_timestamps;
CREATE TABLE old.other_types (LIKE old.oldest INCLUDING INDEXES);
ALTER TABLE old.other_types ALTER id DROP DEFAULT, ALTER id TYPE text, ALTER data TYPE json, ALTER created_at TYPE timestamp;
\pset format unaligned
SELECT o.*, call FROM unnest(ARRAY[
    $$CALL mana_sync.adopt(NULL)$$,
    $$CALL mana_sync.adopt('no_such_table')$$,
    $$CALL mana_sync.adopt(1::oid::regclass)$$,
    $$CALL mana_sync.adopt('mana_sync.sync_changes')$$,
    $$CALL mana_sync.adopt('old.oldest', batch_size => 0)$$,
    $$CALL mana_sync.adopt('old.oldest', batch_size => NULL)$$,
    $$CALL mana_sync.adopt('old.oldest', dry_run => NULL)$$,
    $$CALL mana_sync.adopt('old.oldest', drop_columns => '{NULL}')$$,
    $$CALL mana_sync.adopt('old.oldest', drop_columns => '{op}')$$,
    $$CALL mana_sync.adopt('old.both')$$,
    $$CALL mana_sync.adopt('old.no_key')$$,
    $$CALL mana_sync.adopt('old.no_actor_or_op')$$,
    $$CALL mana_sync.adopt('old.no_times')$$,
    $$CALL mana_sync.adopt('old.other_types')$$,
    -- Within a function, or a transaction block, it cannot commit.
    $$CALL mana_sync.adopt('old.oldest')$$]) WITH ORDINALITY AS bad (call, n),
    LATERAL outcome(bad.call) AS o ORDER BY n;
\pset format aligned
-- NULL drops nothing.
CALL mana_sync.adopt('old.both', drop_columns => '{field_meta}');
CALL mana_sync.adopt('old.oldest', drop_columns => NULL);
\set VERBOSITY terse
BEGIN;
CALL mana_sync.adopt('old.oldest');
ROLLBACK;
\set VERBOSITY default
SET default_transaction_isolation = 'repeatable read';
CALL mana_sync.adopt('old.oldest');
RESET default_transaction_isolation;
-- An owner that is subject to row security would overlook rows.
CREATE ROLE regress_owner;
GRANT USAGE ON SCHEMA mana_sync TO regress_owner;
ALTER FUNCTION mana_sync.begin_adoption(regclass, text, boolean) OWNER TO regress_owner;
SELECT code, message FROM outcome($$ CALL mana_sync.adopt('old.oldest') $$);

SET client_min_messages = warning;
DROP VIEW in_order, refused;
DROP EXTENSION mana_sync;
DROP FUNCTION columns_of;
DROP SCHEMA old CASCADE;
DROP ROLE regress_keeper, regress_owner;
