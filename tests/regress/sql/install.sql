-- CREATE EXTENSION and DROP EXTENSION: what there is afterwards, and what there is not.
SET client_min_messages = warning;

-- How many objects the database has, before. (The first temporary table makes a schema.)
CREATE TEMPORARY TABLE ledger (version text, object text);
CREATE TABLE census (taken text, catalog text, objects bigint);
CREATE FUNCTION take_census(taken text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO census
              SELECT $1, 'pg_class',        count(*) FROM pg_class
    UNION ALL SELECT $1, 'pg_type',         count(*) FROM pg_type
    UNION ALL SELECT $1, 'pg_proc',         count(*) FROM pg_proc
    UNION ALL SELECT $1, 'pg_namespace',    count(*) FROM pg_namespace
    UNION ALL SELECT $1, 'pg_constraint',   count(*) FROM pg_constraint
    UNION ALL SELECT $1, 'pg_policy',       count(*) FROM pg_policy
    UNION ALL SELECT $1, 'pg_attrdef',      count(*) FROM pg_attrdef
    UNION ALL SELECT $1, 'pg_description',  count(*) FROM pg_description
    UNION ALL SELECT $1, 'pg_init_privs',   count(*) FROM pg_init_privs
    UNION ALL SELECT $1, 'pg_depend',       count(*) FROM pg_depend
    UNION ALL SELECT $1, 'pg_extension',    count(*) FROM pg_extension
$$;
SELECT take_census('before');

-- A schema of that name that is somebody else's is not installed into: its owner could have planted
-- objects there.
CREATE SCHEMA mana_sync;
SELECT code, message FROM outcome('CREATE EXTENSION mana_sync');
SELECT count(*) AS installed FROM pg_extension WHERE extname = 'mana_sync';
DROP SCHEMA mana_sync;

-- It cannot be put into another schema either.
SELECT code, message FROM outcome('CREATE EXTENSION mana_sync SCHEMA public');

CREATE EXTENSION mana_sync;
SELECT code, message FROM outcome('ALTER EXTENSION mana_sync SET SCHEMA public');

-- == The ledger
-- Nothing becomes public by accident: every object, with the version that it appeared in. These lines
-- and tests/members.txt are the same (tests/regress/check.sh compares them).
COPY ledger FROM stdin (DELIMITER E'\t');
0.1.0	column actor of table mana_sync.sync_changes
0.1.0	column adoption of table mana_sync.adopted_ids
0.1.0	column adoption of table mana_sync.adoption_refusals
0.1.0	column after_app of table mana_sync.compactions
0.1.0	column after_record of table mana_sync.compactions
0.1.0	column after_space of table mana_sync.compactions
0.1.0	column after_table of table mana_sync.compactions
0.1.0	column after_user of table mana_sync.compactions
0.1.0	column app_id of table mana_sync.compactions
0.1.0	column app_id of table mana_sync.sync_changes
0.1.0	column changes of table mana_sync.purges
0.1.0	column changes_read of table mana_sync.compactions
0.1.0	column changes_removed of table mana_sync.compactions
0.1.0	column changes_total of table mana_sync.compactions
0.1.0	column changes_trimmed of table mana_sync.compactions
0.1.0	column client_id of table mana_sync.sync_changes
0.1.0	column created_at of table mana_sync.sync_changes
0.1.0	column created_before of table mana_sync.compactions
0.1.0	column data of table mana_sync.sync_changes
0.1.0	column database of table mana_sync.epochs
0.1.0	column deletes of table mana_sync.purges
0.1.0	column dry_run of table mana_sync.adoptions
0.1.0	column dry_run of table mana_sync.compactions
0.1.0	column epoch of table mana_sync.purged_transactions
0.1.0	column epoch of table mana_sync.sync_changes
0.1.0	column field_timestamps of table mana_sync.sync_changes
0.1.0	column fingerprint of table mana_sync.epochs
0.1.0	column finished_at of table mana_sync.adoptions
0.1.0	column finished_at of table mana_sync.compactions
0.1.0	column id of table mana_sync.adoption_refusals
0.1.0	column id of table mana_sync.adoptions
0.1.0	column id of table mana_sync.compactions
0.1.0	column id of table mana_sync.sync_changes
0.1.0	column ids of table mana_sync.adopted_ids
0.1.0	column key of table mana_sync.channel_key
0.1.0	column mark of table mana_sync.purges
0.1.0	column next_xact of table mana_sync.epochs
0.1.0	column number of table mana_sync.epochs
0.1.0	column number of table mana_sync.purges
0.1.0	column older_than of table mana_sync.purges
0.1.0	column op of table mana_sync.sync_changes
0.1.0	column opened_at of table mana_sync.epochs
0.1.0	column origin of table mana_sync.sync_changes
0.1.0	column pid of table mana_sync.adoptions
0.1.0	column pid of table mana_sync.compactions
0.1.0	column purged_at of table mana_sync.purges
0.1.0	column purged_from of table mana_sync.purges
0.1.0	column purged_until of table mana_sync.purges
0.1.0	column reason of table mana_sync.adoption_refusals
0.1.0	column record_id of table mana_sync.sync_changes
0.1.0	column rows_adopted of table mana_sync.adoptions
0.1.0	column rows_present of table mana_sync.adoptions
0.1.0	column rows_read of table mana_sync.adoptions
0.1.0	column rows_refused of table mana_sync.adoptions
0.1.0	column rows_total of table mana_sync.adoptions
0.1.0	column schema_version of table mana_sync.sync_changes
0.1.0	column secret of table mana_sync.epochs
0.1.0	column seq of table mana_sync.sync_changes
0.1.0	column snapshot of table mana_sync.purges
0.1.0	column source of table mana_sync.adopted_ids
0.1.0	column source of table mana_sync.adoptions
0.1.0	column source_name of table mana_sync.adoptions
0.1.0	column space_id of table mana_sync.sync_changes
0.1.0	column started_at of table mana_sync.adoptions
0.1.0	column started_at of table mana_sync.compactions
0.1.0	column switched_at of table mana_sync.epochs
0.1.0	column system_identifier of table mana_sync.epochs
0.1.0	column table_name of table mana_sync.compactions
0.1.0	column table_name of table mana_sync.sync_changes
0.1.0	column timeline of table mana_sync.epochs
0.1.0	column updated_at of table mana_sync.adoptions
0.1.0	column updated_at of table mana_sync.compactions
0.1.0	column user_id of table mana_sync.compactions
0.1.0	column user_id of table mana_sync.sync_changes
0.1.0	column xact of table mana_sync.purged_transactions
0.1.0	column xact of table mana_sync.sync_changes
0.1.0	constraint adoption_refusals_pkey on table mana_sync.adoption_refusals
0.1.0	constraint adoptions_pkey on table mana_sync.adoptions
0.1.0	constraint compactions_pkey on table mana_sync.compactions
0.1.0	constraint epochs_number_check on table mana_sync.epochs
0.1.0	constraint purged_transactions_pkey on table mana_sync.purged_transactions
0.1.0	constraint purges_pkey on table mana_sync.purges
0.1.0	constraint sync_changes_op_and_user_id_check on table mana_sync.sync_changes
0.1.0	constraint sync_changes_pkey on table mana_sync.sync_changes
0.1.0	function mana_sync.adopt(regclass,text[],integer,interval,boolean,bigint,bigint,bigint,bigint)
0.1.0	function mana_sync.adopt_batch(uuid,regclass,text[],uuid[],tid[],timestamp with time zone,boolean)
0.1.0	function mana_sync.adopt_carefully(text,uuid[],boolean)
0.1.0	function mana_sync.adoption_source(regclass,text[])
0.1.0	function mana_sync.adoption_statements(text)
0.1.0	function mana_sync.begin_adoption(regclass,text,boolean)
0.1.0	function mana_sync.begin_compaction(text,text,text,interval,boolean)
0.1.0	function mana_sync.begin_epoch()
0.1.0	function mana_sync.changes_since(text,text,text,text,text,integer,text[])
0.1.0	function mana_sync.close_gate(regrole)
0.1.0	function mana_sync.compact(text,text,text,interval,integer,interval,boolean,bigint,bigint,bigint)
0.1.0	function mana_sync.compact_batch(uuid,integer)
0.1.0	function mana_sync.current_epoch()
0.1.0	function mana_sync.end_adoption_batch(uuid,bigint,uuid[],uuid[],uuid[],text[],timestamp with time zone,boolean)
0.1.0	function mana_sync.everyone_channel()
0.1.0	function mana_sync.export_changes(text)
0.1.0	function mana_sync.export_rows(text)
0.1.0	function mana_sync.fault_of_change(uuid,timestamp with time zone,text,text,text,text,text,text,text,jsonb,jsonb,jsonb,text)
0.1.0	function mana_sync.forget_user(text)
0.1.0	function mana_sync.grant_access(regrole)
0.1.0	function mana_sync.grant_maintenance(regrole)
0.1.0	function mana_sync.ids_in_log(uuid[])
0.1.0	function mana_sync.is_change(text,text)
0.1.0	function mana_sync.is_in_log(mana_sync.adopted_changes)
0.1.0	function mana_sync.is_refusal(text,text)
0.1.0	function mana_sync.maintenance_routines()
0.1.0	function mana_sync.may_write(text,text)
0.1.0	function mana_sync.merge_change(internal,text,jsonb,jsonb,timestamp with time zone,integer,xid8,bigint,text)
0.1.0	function mana_sync.merge_changes(text,jsonb,jsonb,timestamp with time zone,integer,xid8,bigint,text)
0.1.0	function mana_sync.merge_combine(internal,internal)
0.1.0	function mana_sync.merge_deserialize(bytea,internal)
0.1.0	function mana_sync.merge_result(internal)
0.1.0	function mana_sync.merge_serialize(internal)
0.1.0	function mana_sync.note_change()
0.1.0	function mana_sync.open_epoch()
0.1.0	function mana_sync.pull(text,text,text,text,text,integer,text[],boolean,boolean)
0.1.0	function mana_sync.purge_deleted(interval)
0.1.0	function mana_sync.push(text,text,jsonb,text,text[])
0.1.0	function mana_sync.record_change(text,text,text,text,text,text,text,jsonb,jsonb,integer,jsonb,uuid,text[],text)
0.1.0	function mana_sync.record_history(text,text,text,text,text[])
0.1.0	function mana_sync.records(text,text,text,text,boolean,text[])
0.1.0	function mana_sync.records_since(text,text,text,text,text,integer,text[])
0.1.0	function mana_sync.require_owner(text,regrole)
0.1.0	function mana_sync.revoke_access(regrole)
0.1.0	function mana_sync.revoke_maintenance(regrole)
0.1.0	function mana_sync.space_channel(text)
0.1.0	function mana_sync.sync(text,text,jsonb,text,text[])
0.1.0	function mana_sync.times_of_fields(jsonb,text[])
0.1.0	function mana_sync.user_channel(text)
0.1.0	function mana_sync.uuidv7()
0.1.0	function mana_sync.with_scope(text,text[])
0.1.0	function mana_sync.within_bounds(text,text,text,text,text,jsonb,jsonb,jsonb,text)
0.1.0	function mana_sync.without_ids(uuid[],uuid[])
0.1.0	index mana_sync.sync_changes_own_idx
0.1.0	index mana_sync.sync_changes_record_idx
0.1.0	index mana_sync.sync_changes_space_idx
0.1.0	policy sync_changes_space_member_read on table mana_sync.sync_changes
0.1.0	policy sync_changes_user_isolation on table mana_sync.sync_changes
0.1.0	schema mana_sync
0.1.0	sequence mana_sync.sync_changes_seq
0.1.0	setting mana_sync.max_change_size
0.1.0	setting mana_sync.max_page_bytes
0.1.0	setting mana_sync.max_schema_version
0.1.0	setting mana_sync.space_of_record
0.1.0	setting mana_sync.strict_spaces
0.1.0	setting mana_sync.wakeup_databases
0.1.0	setting mana_sync.wakeup_interval
0.1.0	table mana_sync.adopted_ids
0.1.0	table mana_sync.adoption_refusals
0.1.0	table mana_sync.adoptions
0.1.0	table mana_sync.channel_key
0.1.0	table mana_sync.compactions
0.1.0	table mana_sync.epochs
0.1.0	table mana_sync.purged_transactions
0.1.0	table mana_sync.purges
0.1.0	table mana_sync.sync_changes
0.1.0	view mana_sync.adopted_changes
0.1.0	view mana_sync.adoption_progress
0.1.0	view mana_sync.compaction_progress
\.

-- Members, what belongs to them, and settings. (PostgreSQL 18 has constraints for NOT NULL.)
CREATE TEMPORARY VIEW members AS
    WITH member AS (
        SELECT classid, objid, objsubid FROM pg_depend
        WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
          AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'mana_sync')
          -- Row types of tables, and their arrays, are members of their own since PostgreSQL 18.
          AND classid <> 'pg_type'::regclass
    ), object AS (
        SELECT * FROM member
        UNION ALL
        SELECT 'pg_class'::regclass, a.attrelid, a.attnum
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
        WHERE a.attrelid IN (SELECT objid FROM member WHERE classid = 'pg_class'::regclass)
          AND c.relkind = 'r' AND a.attnum > 0
        UNION ALL
        SELECT 'pg_class'::regclass, indexrelid, 0 FROM pg_index
        WHERE indrelid IN (SELECT objid FROM member WHERE classid = 'pg_class'::regclass)
          AND indexrelid NOT IN (SELECT conindid FROM pg_constraint)
        UNION ALL
        SELECT 'pg_constraint'::regclass, oid, 0 FROM pg_constraint
        WHERE conrelid IN (SELECT objid FROM member WHERE classid = 'pg_class'::regclass) AND contype <> 'n'
        UNION ALL
        SELECT 'pg_policy'::regclass, oid, 0 FROM pg_policy
        WHERE polrelid IN (SELECT objid FROM member WHERE classid = 'pg_class'::regclass)
    )
    SELECT pg_describe_object(classid, objid, objsubid) AS object, classid, objid, objsubid FROM object;

SELECT object AS "installed, not in the ledger"
    FROM (SELECT object FROM members
          UNION ALL SELECT 'setting ' || name FROM pg_settings WHERE name LIKE 'mana\_sync.%') AS o
    WHERE object NOT IN (SELECT object FROM ledger);
SELECT object AS "in the ledger, not installed"
    FROM ledger
    WHERE object NOT IN (SELECT object FROM members
                         UNION ALL SELECT 'setting ' || name FROM pg_settings WHERE name LIKE 'mana\_sync.%');

-- Everything else that is in the schema belongs to one of them.
SELECT pg_describe_object(classid, objid, objsubid) AS stray
    FROM pg_depend
    WHERE refclassid = 'pg_namespace'::regclass AND refobjid = 'mana_sync'::regnamespace
      AND (classid, objid) NOT IN (SELECT classid, objid FROM members)
      AND NOT (classid = 'pg_type'::regclass AND objid IN (SELECT reltype FROM pg_class WHERE relnamespace = 'mana_sync'::regnamespace));

-- Every object has a comment.
SELECT object AS "without a comment" FROM members
    WHERE NOT EXISTS (SELECT FROM pg_description AS d
                      WHERE d.classoid = classid AND d.objoid = objid AND d.objsubid = members.objsubid
                        AND d.description <> '');

-- == Functions
-- The contract: names, arguments and defaults, in their order, and results.
\pset format unaligned
\pset tuples_only on
SELECT p.proname || E'\n  ' || coalesce(nullif(replace(pg_get_function_arguments(p.oid), ', ', E'\n  '), ''), '-')
       || E'\n  → ' || replace(pg_get_function_result(p.oid), ', ', E'\n    ')
    FROM pg_proc AS p WHERE p.pronamespace = 'mana_sync'::regnamespace ORDER BY p.proname COLLATE "C";
\pset tuples_only off
\pset format aligned

-- Which act as their owner, and what is fixed for them: every function whose body is not compiled has
-- its search_path fixed, but for export_changes, which the planner inlines only so, compact and adopt, which commit, and adopt_batch and
-- adopt_carefully, which run triggers of the application (every name in these five is qualified).
SELECT p.proname, l.lanname AS language, p.prosecdef AS security_definer, p.proisstrict AS strict, p.proconfig AS settings
    FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
    WHERE p.pronamespace = 'mana_sync'::regnamespace
    ORDER BY p.prosecdef DESC, p.proname COLLATE "C";

-- == Privileges
-- PUBLIC has nothing but the EXECUTE that PostgreSQL gives it on every function; without USAGE on the
-- schema it is of no use.
SELECT a.kind, a.privilege_type, count(*)
    FROM (
        SELECT 'schema' AS kind, x.* FROM pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) AS x
            WHERE nspname = 'mana_sync'
        UNION ALL
        SELECT 'relation', x.* FROM pg_class,
                aclexplode(coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner))) AS x
            WHERE relnamespace = 'mana_sync'::regnamespace AND relkind <> 'i'
        UNION ALL
        SELECT 'column', x.* FROM pg_attribute AS c JOIN pg_class AS r ON r.oid = c.attrelid, aclexplode(c.attacl) AS x
            WHERE r.relnamespace = 'mana_sync'::regnamespace
        UNION ALL
        SELECT 'function', x.* FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) AS x
            WHERE pronamespace = 'mana_sync'::regnamespace
    ) AS a
    WHERE a.grantee = 0
    GROUP BY a.kind, a.privilege_type;

-- And nobody else has anything: all the rest is the owner's.
SELECT count(*) AS others
    FROM pg_class AS c, aclexplode(c.relacl) AS x
    WHERE c.relnamespace = 'mana_sync'::regnamespace AND x.grantee NOT IN (0, c.relowner);

-- Row security holds for the owner too.
SELECT relname, relrowsecurity AS enabled, relforcerowsecurity AS forced
    FROM pg_class WHERE oid = 'mana_sync.sync_changes'::regclass;
SELECT policyname, permissive, roles, cmd, qual IS NOT NULL AS "using", with_check IS NOT NULL AS "with check"
    FROM pg_policies WHERE schemaname = 'mana_sync' ORDER BY policyname COLLATE "C";

-- == An order of text that an operating system may change is nowhere: no index has one.
SELECT i.indexrelid::regclass AS index, c.collname AS collation
    FROM pg_index AS i, unnest(i.indcollation) AS of_column (oid) JOIN pg_collation AS c ON c.oid = of_column.oid
    WHERE i.indexrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'mana_sync'::regnamespace)
      AND c.collname NOT IN ('C', 'POSIX');

-- == What pg_dump takes: the tables that are the log's, and the sequence, whole.
SELECT c.oid::regclass AS dumped, x.condition = '' AS whole
    FROM pg_extension AS e, unnest(e.extconfig, e.extcondition) AS x (relation, condition)
    JOIN pg_class AS c ON c.oid = x.relation
    WHERE e.extname = 'mana_sync'
    ORDER BY c.relname COLLATE "C";
SELECT count(*) AS "rows of the extension itself" FROM mana_sync.epochs;

-- == DROP EXTENSION leaves nothing
SELECT mana_sync.record_change('todo', 'items', 'milk', 'ada', NULL, 'insert', 'phone') IS NOT NULL AS recorded;
SELECT record_id FROM mana_sync.changes_since('ada', 'todo');

DROP VIEW members;
DROP EXTENSION mana_sync;
SELECT take_census('after');
SELECT b.catalog, b.objects AS before, a.objects AS after
    FROM census AS b JOIN census AS a USING (catalog)
    WHERE b.taken = 'before' AND a.taken = 'after' AND a.objects <> b.objects;
SELECT code, message FROM outcome($$ SELECT mana_sync.record_change('todo', 'items', 'milk', 'ada', NULL, 'insert', 'phone') $$);

-- The same session goes on with a new installation: an empty one.
CREATE EXTENSION mana_sync;
SELECT count(*) AS "in the new log" FROM mana_sync.changes_since('ada', 'todo');
SELECT mana_sync.record_change('todo', 'items', 'bread', 'ada', NULL, 'insert', 'phone') IS NOT NULL AS recorded;
SELECT record_id, cursor IS NOT NULL AS has_cursor FROM mana_sync.changes_since('ada', 'todo');
SELECT number FROM mana_sync.epochs;

-- A cursor of the dropped log hides nothing of the new one. Here both happen in one transaction.
SELECT cursor FROM mana_sync.changes_since('ada', 'todo') \gset
BEGIN;
DROP EXTENSION mana_sync;
CREATE EXTENSION mana_sync;
SELECT mana_sync.record_change('todo', 'items', 'eggs', 'ada', NULL, 'insert', 'phone') IS NOT NULL AS recorded;
SELECT record_id FROM mana_sync.changes_since('ada', 'todo', since => :'cursor');
ROLLBACK;
SELECT mana_sync.record_change('todo', 'items', 'salt', 'ada', NULL, 'insert', 'phone') IS NOT NULL AS recorded;
SELECT record_id FROM mana_sync.changes_since('ada', 'todo', since => :'cursor');

DROP EXTENSION mana_sync;
DROP FUNCTION take_census;
DROP TABLE census, ledger;
