-- Adoption: mana_sync.adopt takes over a log that the original store made. The owner of the extension and the roles of
-- grant_maintenance may call it.
--
-- The source is read with the caller's rights, and no code of the source runs as the owner of the extension: mana_sync.adopt and
-- the functions that read the source are SECURITY INVOKER. Rows reach the log through the view mana_sync.adopted_changes, into which
-- maintenance may INSERT. An INSERT through a view needs the privileges of the view's owner on the log, and runs its defaults and
-- triggers as the caller. So one INSERT ... SELECT reads with the rights of the caller and writes with those of the owner, row by row.
--
-- A run first sorts the ids of the source by (created_at, id), without those that it has taken over before, into portions of
-- batch_size ids. PostgreSQL keeps this list in a temporary file. Each portion is then a transaction of its own. The ids that were
-- taken over are in mana_sync.adopted_ids, one row for each transaction. So a run that was stopped goes on, and a later run takes what
-- is new, whatever its created_at. Ids that compact or forget_user have removed from the log meanwhile do not come back.

-- This table is not marked for pg_dump, because a restored log has no run in progress.
CREATE TABLE mana_sync.adoptions (
    id           uuid        NOT NULL DEFAULT mana_sync.uuidv7() CONSTRAINT adoptions_pkey PRIMARY KEY,
    source       oid         NOT NULL,
    source_name  text        NOT NULL,
    dry_run      boolean     NOT NULL,
    pid          int         NOT NULL DEFAULT pg_catalog.pg_backend_pid(),
    started_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    finished_at  timestamptz,
    rows_total   bigint,
    rows_read    bigint      NOT NULL DEFAULT 0,
    rows_adopted bigint      NOT NULL DEFAULT 0,
    rows_present bigint      NOT NULL DEFAULT 0,
    rows_refused bigint      NOT NULL DEFAULT 0
);
COMMENT ON TABLE mana_sync.adoptions IS
    'Runs of mana_sync.adopt and what each has done so far. mana_sync.adoption_progress shows them.';
COMMENT ON COLUMN mana_sync.adoptions.id IS 'Id of the run.';
COMMENT ON COLUMN mana_sync.adoptions.source IS 'OID of the table that the run takes over.';
COMMENT ON COLUMN mana_sync.adoptions.source_name IS 'Name of the table that the run takes over, as it was when the run started.';
COMMENT ON COLUMN mana_sync.adoptions.dry_run IS 'True if the run only counts and lists.';
COMMENT ON COLUMN mana_sync.adoptions.pid IS
    'Process id of the backend that executes the run, or that executed it last.';
COMMENT ON COLUMN mana_sync.adoptions.started_at IS 'Time at which the run started.';
COMMENT ON COLUMN mana_sync.adoptions.updated_at IS
    'Time at which the last batch of the run ended, or at which the run began or was resumed.';
COMMENT ON COLUMN mana_sync.adoptions.finished_at IS
    'Time at which the run finished; NULL: the run has not finished.';
COMMENT ON COLUMN mana_sync.adoptions.rows_total IS
    'Number of rows in the source when the run started, as estimated by the planner; NULL: unknown.';
COMMENT ON COLUMN mana_sync.adoptions.rows_read IS
    'Number of rows that the run has read. It is the sum of rows_adopted, rows_present and rows_refused. Rows that an '
    'earlier run took over are not read.';
COMMENT ON COLUMN mana_sync.adoptions.rows_adopted IS
    'Number of rows that the run has added to the log, or would have added in a dry run.';
COMMENT ON COLUMN mana_sync.adoptions.rows_present IS
    'Number of rows that were in the log already, with the same content.';
COMMENT ON COLUMN mana_sync.adoptions.rows_refused IS
    'Number of rows that the run did not add to the log, because the log cannot take them. They are listed in '
    'mana_sync.adoption_refusals.';
COMMENT ON CONSTRAINT adoptions_pkey ON mana_sync.adoptions IS 'Each run has one row.';

CREATE VIEW mana_sync.adoption_progress AS
    SELECT a.id, a.source_name, a.dry_run, a.started_at, a.updated_at, a.finished_at,
           -- The backend that asks executes no run. A backend that started later has the process id of one that has ended.
           a.finished_at IS NULL AND a.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid() AND EXISTS (
               SELECT FROM pg_catalog.pg_stat_activity AS s
               WHERE s.pid OPERATOR(pg_catalog.=) a.pid
                 AND COALESCE(s.backend_start OPERATOR(pg_catalog.<=) a.updated_at, true)
                 AND COALESCE(s.state OPERATOR(pg_catalog.!~~) 'idle%', true)) AS running,
           a.pid, a.rows_total, a.rows_read, a.rows_adopted, a.rows_present, a.rows_refused
    FROM mana_sync.adoptions AS a;
COMMENT ON VIEW mana_sync.adoption_progress IS
    'Runs of mana_sync.adopt: what each takes over and how far it has come. A run that is neither running nor finished '
    'was interrupted. The next call for the same source resumes it, unless the run or the call is a dry run.';

-- Arrays and not a row for each id: an index on the ids would make adoption noticeably slower, and a later run reads all of them
-- anyway. The ids are random, so that compressing them is in vain.
CREATE TABLE mana_sync.adopted_ids (
    source   oid    NOT NULL,
    adoption uuid   NOT NULL,
    ids      uuid[] NOT NULL
);
ALTER TABLE mana_sync.adopted_ids ALTER COLUMN ids SET STORAGE EXTERNAL;
COMMENT ON TABLE mana_sync.adopted_ids IS
    'Ids that mana_sync.adopt has taken over or found in the log, one row for each batch. A later run for the same source '
    'leaves them out.';
COMMENT ON COLUMN mana_sync.adopted_ids.source IS 'OID of the table that the ids are from.';
COMMENT ON COLUMN mana_sync.adopted_ids.adoption IS 'Id of the run (mana_sync.adoptions.id).';
COMMENT ON COLUMN mana_sync.adopted_ids.ids IS 'Ids of the rows of one batch.';

CREATE TABLE mana_sync.adoption_refusals (
    adoption uuid NOT NULL,
    id       uuid NOT NULL,
    reason   text NOT NULL,
    CONSTRAINT adoption_refusals_pkey PRIMARY KEY (adoption, id)
);
COMMENT ON TABLE mana_sync.adoption_refusals IS
    'Rows of the source that the latest run of mana_sync.adopt did not add to the log, with the reason. The next run for '
    'the same source reads them again.';
COMMENT ON COLUMN mana_sync.adoption_refusals.adoption IS 'Id of the run (mana_sync.adoptions.id).';
COMMENT ON COLUMN mana_sync.adoption_refusals.id IS 'Id of the row in the source.';
COMMENT ON COLUMN mana_sync.adoption_refusals.reason IS 'Why the log does not take the row.';
COMMENT ON CONSTRAINT adoption_refusals_pkey ON mana_sync.adoption_refusals IS 'A run lists each row once.';

CREATE FUNCTION mana_sync.fault_of_change(
    id uuid, created_at timestamptz, user_id text, app_id text, table_name text, record_id text, op text, client_id text,
    space_id text, data jsonb, field_timestamps jsonb, actor jsonb, origin text
) RETURNS text
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mana_sync_fault_of_change';
COMMENT ON FUNCTION mana_sync.fault_of_change(uuid, timestamptz, text, text, text, text, text, text, text, jsonb, jsonb, jsonb, text) IS
    'Returns why the log cannot take a change with these columns, or NULL if it can. The limits are those of '
    'mana_sync.within_bounds and of the columns of the log, and created_at must be between 1970 and 9999.';

CREATE FUNCTION mana_sync.times_of_fields(times jsonb, dropped_keys text[]) RETURNS jsonb
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mana_sync_times_of_fields';
COMMENT ON FUNCTION mana_sync.times_of_fields(jsonb, text[]) IS
    'Returns field times of the original store in the form of the log: {field: timestamp}. A value that is an object with a '
    'string under the key at becomes that string, if dropped_keys contains each of its other keys.';

-- The columns that the view leaves out get the defaults of the log. The check holds for direct INSERTs of maintenance too.
CREATE VIEW mana_sync.adopted_changes AS
    SELECT c.id, c.created_at, c.schema_version, c.user_id, c.app_id, c.table_name, c.record_id, c.op, c.client_id, c.space_id,
           c.data, c.field_timestamps, c.actor, c.origin
    FROM mana_sync.sync_changes AS c
    WHERE mana_sync.fault_of_change(c.id, c.created_at, c.user_id, c.app_id, c.table_name, c.record_id, c.op, c.client_id,
              c.space_id, c.data, c.field_timestamps, c.actor, c.origin) IS NULL
    WITH CASCADED CHECK OPTION;
COMMENT ON VIEW mana_sync.adopted_changes IS
    'Changes as mana_sync.adopt inserts them: with the id and created_at of the source, and a position of their own. '
    'Maintenance may INSERT and not SELECT. A change for which mana_sync.fault_of_change returns a reason is refused.';

-- Locks the source and checks it, and returns what the statements that read it are made of. A name is only resolved to another table
-- than the one that was checked if the table is renamed; the lock prevents that for the rest of the transaction.
CREATE FUNCTION mana_sync.adoption_source(source regclass, drop_columns text[], OUT relation text, OUT by_place text, OUT by_id text)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    required CONSTANT text[] := '{id,created_at,app_id,table_name,record_id,user_id,op,data,client_id}';
    optional CONSTANT text[] := '{schema_version,actor,space_id,origin}';
    table_row pg_class;
    kept text[];
    times text;
    faults text;
    columns text;
BEGIN
    SELECT c.* INTO table_row FROM pg_class AS c WHERE c.oid = source;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'source must be the name of a table' USING ERRCODE = '22023', DETAIL = 'Argument: source.';
    END IF;
    SELECT format('%I.%I', n.nspname, table_row.relname) INTO relation FROM pg_namespace AS n WHERE n.oid = table_row.relnamespace;
    IF table_row.relkind <> 'r' OR source = 'mana_sync.sync_changes'::regclass
        OR EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhparent = source) THEN
        RAISE EXCEPTION '% is not a table that can be adopted', relation
            USING ERRCODE = '42809',
                DETAIL = 'Argument: source. It must be an ordinary table without partitions and child tables, and not the log itself.',
                HINT = 'Copy the rows into a table, and adopt that.';
    END IF;
    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS SHARE MODE', relation);
    IF to_regclass(relation) IS DISTINCT FROM source THEN
        RAISE EXCEPTION '% has been renamed meanwhile', relation USING ERRCODE = '40001', HINT = 'Call mana_sync.adopt again.';
    END IF;
    IF row_security_active(source) THEN
        RAISE EXCEPTION 'row-level security of % hides rows from role %', relation, current_user
            USING ERRCODE = '42501', DETAIL = 'Argument: source. Rows that are hidden would be missing in the log.',
                HINT = 'Call mana_sync.adopt as a superuser or as a role with BYPASSRLS.';
    END IF;
    -- The planner evaluates the conditions of indexes and constraints, and so their functions, as the role that reads the table.
    SELECT string_agg(DISTINCT pg_describe_object(d.refclassid, d.refobjid, 0), ', ') INTO faults
    FROM pg_depend AS d
    WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
      AND (d.classid = 'pg_class'::regclass AND d.objid IN (SELECT i.indexrelid FROM pg_index AS i WHERE i.indrelid = source)
           OR d.classid = 'pg_constraint'::regclass AND d.objid IN (SELECT c.oid FROM pg_constraint AS c WHERE c.conrelid = source)
           OR d.classid = 'pg_statistic_ext'::regclass AND d.objid IN (SELECT e.oid FROM pg_statistic_ext AS e WHERE e.stxrelid = source));
    IF faults IS NOT NULL THEN
        RAISE EXCEPTION 'an index, a constraint or the statistics of % call functions of this database: %', relation, faults
            USING ERRCODE = '42501', DETAIL = 'Argument: source. To read the table may run these functions as the role that reads.',
                HINT = 'Drop the index, the constraint or the statistics, or copy the rows into a table without them.';
    END IF;
    SELECT array_agg(a.attname::text) INTO kept
    FROM pg_attribute AS a
    WHERE a.attrelid = source AND a.attnum > 0 AND NOT a.attisdropped;
    -- A name with a dot is a key of the times: 'field_meta.actor'.
    SELECT string_agg(COALESCE(quote_ident(d.name), 'NULL'), ', ') INTO faults
    FROM unnest(drop_columns) AS d (name)
    WHERE d.name IS NULL OR NOT (d.name = ANY (kept) OR d.name ~ '^field_(timestamps|meta)[.]');
    IF faults IS NOT NULL THEN
        RAISE EXCEPTION 'drop_columns has names that are not columns of %: %', relation, faults
            USING ERRCODE = '22023', DETAIL = 'Argument: drop_columns.';
    END IF;
    kept := ARRAY(SELECT k.name FROM unnest(kept) AS k (name) WHERE k.name <> ALL (COALESCE(drop_columns, '{}')));
    SELECT string_agg(r.name, ', ') INTO faults FROM unnest(required) AS r (name) WHERE r.name <> ALL (kept);
    IF faults IS NOT NULL OR NOT kept && '{field_timestamps,field_meta}' THEN
        RAISE EXCEPTION '% is not a log of the original store: it lacks %', relation, COALESCE(faults, 'field_timestamps')
            USING ERRCODE = '22023', DETAIL = 'Argument: source. Of the columns of the log, only schema_version, actor, space_id and origin may be missing.';
    END IF;
    IF '{field_timestamps,field_meta}' <@ kept THEN
        RAISE EXCEPTION '% has both field_timestamps and field_meta', relation
            USING ERRCODE = '22023', DETAIL = 'Argument: source. The log has one column for the times of fields.',
                HINT = 'Name the one to leave behind in drop_columns.';
    END IF;
    times := CASE WHEN 'field_meta' = ANY (kept) THEN 'field_meta' ELSE 'field_timestamps' END;
    SELECT string_agg(quote_ident(k.name), ', ') INTO faults
    FROM unnest(kept) AS k (name)
    WHERE k.name <> ALL (required || optional || times);
    IF faults IS NOT NULL THEN
        RAISE EXCEPTION '% has columns that the log has not: %', relation, faults
            USING ERRCODE = '22023', DETAIL = 'Argument: source. Nothing was adopted.',
                HINT = 'Name a column in drop_columns to leave it behind.';
    END IF;
    SELECT string_agg(format('%s is %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ') INTO faults
    FROM pg_attribute AS a
    WHERE a.attrelid = source AND a.attname = ANY (kept) AND NOT a.attisdropped
      AND (a.attgenerated = 'v' OR a.atttypid <> ALL (CASE
          WHEN a.attname = 'id' THEN '{uuid}'
          WHEN a.attname = 'created_at' THEN '{timestamptz}'
          WHEN a.attname = 'schema_version' THEN '{int4,int2}'
          WHEN a.attname IN ('data', 'actor', times) THEN '{jsonb}'
          ELSE '{text,varchar}' END::regtype[]));
    IF faults IS NOT NULL THEN
        RAISE EXCEPTION '% has columns of other types than the original store: %', relation, faults
            USING ERRCODE = '42804', DETAIL = 'Argument: source. id is a uuid, created_at a timestamptz, schema_version an int, JSON is jsonb, and everything else is text.',
                HINT = 'ALTER TABLE ... ALTER COLUMN ... TYPE changes the type.';
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = source AND a.attname = 'id' AND a.attnotnull AND i.indisunique AND i.indisvalid AND i.indimmediate
          AND i.indnkeyatts = 1 AND i.indpred IS NULL
    ) THEN
        RAISE EXCEPTION '% has no unique index on id', relation
            USING ERRCODE = '22023', DETAIL = 'Argument: source. The original store has a primary key on id.',
                HINT = 'ALTER TABLE ... ADD PRIMARY KEY (id)';
    END IF;
    -- What record_change does to the same values: an empty space is none, and a version below 1 is 1. The original stores the JSON
    -- value null where it has no data.
    columns := concat_ws(', ', 's.id', 's.created_at',
        CASE WHEN 'schema_version' = ANY (kept) THEN 'GREATEST(s.schema_version, 1)' ELSE '1' END || '::pg_catalog.int4 AS schema_version',
        's.user_id::pg_catalog.text', 's.app_id::pg_catalog.text', 's.table_name::pg_catalog.text', 's.record_id::pg_catalog.text',
        's.op::pg_catalog.text', 's.client_id::pg_catalog.text',
        CASE WHEN 'space_id' = ANY (kept) THEN 'CASE WHEN s.space_id OPERATOR(pg_catalog.<>) '''' THEN s.space_id END' ELSE 'NULL' END
            || '::pg_catalog.text AS space_id',
        'CASE WHEN s.data OPERATOR(pg_catalog.<>) ''null''::pg_catalog.jsonb THEN s.data END AS data',
        format('mana_sync.times_of_fields(s.%I, %L::pg_catalog._text) AS field_timestamps', times,
            ARRAY(SELECT substr(d.name, length(times) + 2) FROM unnest(drop_columns) AS d (name) WHERE starts_with(d.name, times || '.'))),
        CASE WHEN 'actor' = ANY (kept) THEN 'CASE WHEN s.actor OPERATOR(pg_catalog.<>) ''null''::pg_catalog.jsonb THEN s.actor END'
            ELSE 'NULL::pg_catalog.jsonb' END || ' AS actor',
        CASE WHEN 'origin' = ANY (kept) THEN 's.origin' ELSE 'NULL' END || '::pg_catalog.text AS origin');
    -- OFFSET 0 keeps the planner from evaluating an expression once for each of its uses.
    by_place := format(
        'SELECT %s FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog._tid), pg_catalog.unnest($2::pg_catalog._uuid)) AS w (tid, id) '
        'JOIN ONLY %s AS s ON s.ctid OPERATOR(pg_catalog.=) w.tid AND s.id OPERATOR(pg_catalog.=) w.id OFFSET 0', columns, relation);
    by_id := format('SELECT %s FROM ONLY %s AS s WHERE s.id OPERATOR(pg_catalog.=) ANY ($1::pg_catalog._uuid) OFFSET 0', columns, relation);
END
$function$;
COMMENT ON FUNCTION mana_sync.adoption_source(regclass, text[]) IS
    'Internal function of mana_sync.adopt. Locks the source against changes of its definition until the end of the transaction, '
    'raises an error if it cannot be adopted completely, and returns its name and two queries that read rows as changes: by their '
    'places ($1) and ids ($2), and by their ids ($1).';

-- SECURITY DEFINER, because maintenance has no privilege to write to the tables of runs.
CREATE FUNCTION mana_sync.begin_adoption(source regclass, source_name text, dry_run boolean) RETURNS uuid
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
AS $function$
#variable_conflict use_variable
DECLARE
    run mana_sync.adoptions;
    other int;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'maintenance runs at isolation level READ COMMITTED only'
            USING ERRCODE = '25001', DETAIL = 'The transaction does not see what has been committed since it began.',
                HINT = 'SET TRANSACTION ISOLATION LEVEL READ COMMITTED';
    END IF;
    IF row_security_active('mana_sync.sync_changes') THEN
        RAISE EXCEPTION 'the owner of mana_sync.sync_changes is subject to its row-level security'
            USING ERRCODE = '42501', DETAIL = 'Maintenance acts as the owner, and would overlook the rows that are hidden from it.',
                HINT = 'Let a superuser own the table, or give its owner BYPASSRLS.';
    END IF;
    LOCK TABLE mana_sync.adoptions IN SHARE ROW EXCLUSIVE MODE;
    SELECT p.pid INTO other
    FROM mana_sync.adoption_progress AS p JOIN mana_sync.adoptions AS o ON o.id = p.id
    WHERE o.source = source AND p.running
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% is being adopted by process %', source_name, other
            USING ERRCODE = '55006', HINT = 'Wait for it, or stop it with pg_cancel_backend.';
    END IF;
    UPDATE mana_sync.adoptions AS c
        SET pid = pg_backend_pid(), updated_at = clock_timestamp()
        WHERE c.id = (
            SELECT o.id FROM mana_sync.adoptions AS o
            WHERE o.source = source AND o.finished_at IS NULL AND NOT o.dry_run AND NOT dry_run
            ORDER BY o.started_at DESC
            LIMIT 1)
        RETURNING * INTO run;
    IF FOUND THEN
        RAISE NOTICE 'going on with the adoption that began at %, behind % rows', run.started_at, run.rows_read;
        RETURN run.id;
    END IF;
    DELETE FROM mana_sync.adoption_refusals AS r
        USING mana_sync.adoptions AS o WHERE o.id = r.adoption AND o.source = source AND (o.dry_run OR o.finished_at IS NOT NULL);
    INSERT INTO mana_sync.adoptions AS c (source, source_name, dry_run, rows_total)
        SELECT source, source_name, dry_run, NULLIF(GREATEST(l.reltuples, 0), 0)
        FROM pg_class AS l WHERE l.oid = source
        RETURNING * INTO run;
    RETURN run.id;
END
$function$;
COMMENT ON FUNCTION mana_sync.begin_adoption(regclass, text, boolean) IS
    'Internal function of mana_sync.adopt. Returns the id of an interrupted run for the same source, or of a new run.';

-- SECURITY DEFINER, because maintenance cannot read the log. It tells only whether an id is there.
CREATE FUNCTION mana_sync.ids_in_log(ids uuid[]) RETURNS uuid[]
    LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
AS $function$
    SELECT COALESCE(array_agg(c.id), '{}') FROM mana_sync.sync_changes AS c WHERE c.id = ANY (ids)
$function$;
COMMENT ON FUNCTION mana_sync.ids_in_log(uuid[]) IS
    'Internal function of mana_sync.adopt. Returns those of the given ids that are in the log.';

-- SECURITY DEFINER, because maintenance cannot read the log. It tells only whether the log has what the caller knows.
CREATE FUNCTION mana_sync.is_in_log(change mana_sync.adopted_changes) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
AS $function$
    SELECT EXISTS (
        SELECT FROM mana_sync.sync_changes AS c
        WHERE c.id = change.id
          AND ROW(c.created_at, c.schema_version, c.user_id, c.app_id, c.table_name, c.record_id, c.op, c.client_id, c.space_id,
                  c.data, c.field_timestamps, c.actor, c.origin)
              IS NOT DISTINCT FROM
              ROW(change.created_at, change.schema_version, change.user_id, change.app_id, change.table_name, change.record_id,
                  change.op, change.client_id, change.space_id, change.data, change.field_timestamps, change.actor, change.origin))
$function$;
COMMENT ON FUNCTION mana_sync.is_in_log(mana_sync.adopted_changes) IS
    'Internal function of mana_sync.adopt. Returns true if the log has a change with this id and the same values in all columns.';

-- SECURITY DEFINER, because maintenance has no privilege to write to these tables. The first change of the log becomes as old as the
-- oldest adopted one by another row for the first epoch, and not by an UPDATE: mana_sync.epochs has no key by which logical
-- replication could replicate an UPDATE.
CREATE FUNCTION mana_sync.end_adoption_batch(
    run uuid, rows_read bigint, adopted uuid[], present uuid[], refused uuid[], reasons text[], oldest timestamptz,
    INOUT done boolean, OUT total_read bigint, OUT total_adopted bigint, OUT total_present bigint, OUT total_refused bigint
)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
AS $function$
#variable_conflict use_variable
DECLARE
    state mana_sync.adoptions;
    first_change timestamptz;
BEGIN
    IF rows_read IS DISTINCT FROM cardinality(adopted) + cardinality(present) + cardinality(refused)
        OR cardinality(refused) <> cardinality(reasons) THEN
        RAISE EXCEPTION 'a batch of % rows adopted %, found % and listed %', rows_read, cardinality(adopted), cardinality(present),
            cardinality(refused)
            USING ERRCODE = 'XX000', DETAIL = 'The batch is rolled back.', HINT = 'Please report this.';
    END IF;
    UPDATE mana_sync.adoptions AS c
        SET rows_read = c.rows_read + rows_read,
            rows_adopted = c.rows_adopted + cardinality(adopted),
            rows_present = c.rows_present + cardinality(present),
            rows_refused = c.rows_refused + cardinality(refused),
            pid = pg_backend_pid(), updated_at = clock_timestamp(), finished_at = CASE WHEN done THEN clock_timestamp() END
        WHERE c.id = run AND c.finished_at IS NULL
        RETURNING * INTO state;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'run is not an adoption that is under way' USING ERRCODE = '22023', DETAIL = 'Argument: run.';
    END IF;
    INSERT INTO mana_sync.adoption_refusals (adoption, id, reason)
        SELECT run, r.id, r.reason FROM unnest(refused, reasons) AS r (id, reason);
    IF NOT state.dry_run AND cardinality(adopted || present) > 0 THEN
        INSERT INTO mana_sync.adopted_ids (source, adoption, ids) VALUES (state.source, run, adopted || present);
        IF oldest < (SELECT min(e.opened_at) FROM mana_sync.epochs AS e) THEN
            SELECT min(c.created_at) INTO first_change FROM mana_sync.sync_changes AS c WHERE c.id = ANY (adopted);
            INSERT INTO mana_sync.epochs
                (number, fingerprint, secret, system_identifier, database, timeline, switched_at, next_xact, opened_at)
                SELECT e.number, e.fingerprint, e.secret, e.system_identifier, e.database, e.timeline, e.switched_at, e.next_xact,
                       first_change
                FROM mana_sync.epochs AS e
                WHERE first_change < (SELECT min(o.opened_at) FROM mana_sync.epochs AS o)
                ORDER BY e.number, e.opened_at
                LIMIT 1;
        END IF;
    END IF;
    total_read := state.rows_read;
    total_adopted := state.rows_adopted;
    total_present := state.rows_present;
    total_refused := state.rows_refused;
END
$function$;
COMMENT ON FUNCTION mana_sync.end_adoption_batch(uuid, bigint, uuid[], uuid[], uuid[], text[], timestamptz, boolean) IS
    'Internal function of mana_sync.adopt. Notes what a batch has done, in the transaction of the batch, and returns the counts of '
    'the run so far. Raises an error if the counts of the batch do not add up.';

-- The classes of errors that refuse one row: push makes the same distinction (is_refusal in src/api/push/batch.rs). Class 44 is of
-- the view: a trigger has changed a row into one that the log cannot take. A lack of a privilege is a fault of the whole run, unless a
-- trigger raised it.
CREATE FUNCTION mana_sync.is_refusal(code text, context text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT left(code, 2) IN ('22', '23', '44') OR code = 'P0001'
        OR code = '42501' AND split_part(context, E'\n', 1) ~ ' RAISE$'
        OR code ~ '^[5-9I-Z]' AND left(code, 2) <> ALL ('{53,54,55,57,58,72,P0,XX}')
$function$;
COMMENT ON FUNCTION mana_sync.is_refusal(text, text) IS
    'Internal function of mana_sync.adopt. Returns true if an error with this SQLSTATE and context refuses a row, and false if it '
    'is a fault of the server or of the application.';

CREATE FUNCTION mana_sync.adoption_statements(rows text, OUT insert_sound text, OUT select_faults text)
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    fault CONSTANT text :=
        'mana_sync.fault_of_change(c.id, c.created_at, c.user_id, c.app_id, c.table_name, c.record_id, c.op, c.client_id, '
        'c.space_id, c.data, c.field_timestamps, c.actor, c.origin)';
BEGIN
    -- The order of the rows is the order in which they get their numbers (seq).
    insert_sound := format(
        'INSERT INTO mana_sync.adopted_changes (id, created_at, schema_version, user_id, app_id, table_name, record_id, op, client_id, '
        'space_id, data, field_timestamps, actor, origin) '
        'SELECT c.id, c.created_at, c.schema_version, c.user_id, c.app_id, c.table_name, c.record_id, c.op, c.client_id, '
        'c.space_id, c.data, c.field_timestamps, c.actor, c.origin FROM (%s) AS c WHERE %s IS NULL ORDER BY c.created_at, c.id',
        rows, fault);
    select_faults := format(
        'SELECT COALESCE(pg_catalog.array_agg(f.id), ''{}''), COALESCE(pg_catalog.array_agg(f.fault), ''{}'') '
        'FROM (SELECT c.id, %s AS fault FROM (%s) AS c OFFSET 0) AS f WHERE f.fault IS NOT NULL', fault, rows);
END
$function$;
COMMENT ON FUNCTION mana_sync.adoption_statements(text) IS
    'Internal function of mana_sync.adopt. Returns two statements about the rows of a query: insert_sound adds to the log '
    'the rows that it can take, and select_faults returns the ids and the faults of all others.';

CREATE FUNCTION mana_sync.without_ids(ids uuid[], others uuid[]) RETURNS uuid[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT ARRAY(SELECT i.id FROM unnest(ids) AS i (id) WHERE NOT EXISTS (SELECT FROM unnest(others) AS o (id) WHERE o.id = i.id))
$function$;
COMMENT ON FUNCTION mana_sync.without_ids(uuid[], uuid[]) IS
    'Internal function of mana_sync.adopt. Returns those ids that are not among the others.';

-- This function and the next one are SECURITY INVOKER and have no SET clause, because they run the triggers of the application on the
-- log, with the settings of the caller. So all names in their bodies are schema-qualified.
CREATE FUNCTION mana_sync.adopt_carefully(
    by_id text, ids uuid[], dry_run boolean,
    OUT rows_read bigint, OUT adopted uuid[], OUT present uuid[], OUT refused uuid[], OUT reasons text[]
)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $function$
DECLARE
    taken CONSTANT pg_catalog.text := 'the log has another change with this id';
    is_same CONSTANT pg_catalog.text :=
        pg_catalog.format('SELECT c.id, mana_sync.is_in_log(c::mana_sync.adopted_changes) AS same FROM (%s) AS c', by_id);
    insert_sound pg_catalog.text;
    select_faults pg_catalog.text;
    in_log pg_catalog._uuid := mana_sync.ids_in_log(ids);
    rest pg_catalog._uuid;
    part pg_catalog._uuid;
    change pg_catalog.record;
    -- The ranges of "rest" that are still to be tried, the next one last.
    begins pg_catalog._int4 := '{}';
    ends pg_catalog._int4 := '{}';
    top pg_catalog.int4 := 0;
    first pg_catalog.int4;
    middle pg_catalog.int4;
    last pg_catalog.int4;
    inserted pg_catalog.int8;
    code pg_catalog.text;
    message pg_catalog.text;
    context pg_catalog.text;
BEGIN
    adopted := '{}';
    present := '{}';
    SELECT s.insert_sound, s.select_faults INTO insert_sound, select_faults FROM mana_sync.adoption_statements(by_id) AS s;
    -- Rows that the log cannot take.
    EXECUTE select_faults INTO refused, reasons USING mana_sync.without_ids(ids, in_log);
    -- Rows whose ids are in the log.
    FOR change IN EXECUTE is_same USING in_log LOOP
        IF change.same THEN
            present := pg_catalog.array_append(present, change.id);
        ELSE
            refused := pg_catalog.array_append(refused, change.id);
            reasons := pg_catalog.array_append(reasons, taken);
        END IF;
    END LOOP;
    -- All others in their order.
    EXECUTE pg_catalog.format('SELECT COALESCE(pg_catalog.array_agg(c.id ORDER BY c.created_at, c.id), ''{}'') FROM (%s) AS c', by_id)
        INTO rest USING mana_sync.without_ids(ids, present OPERATOR(pg_catalog.||) refused);
    IF dry_run THEN
        adopted := rest;
    ELSIF pg_catalog.cardinality(rest) OPERATOR(pg_catalog.>) 0 THEN
        begins := ARRAY[1];
        ends := ARRAY[pg_catalog.cardinality(rest)];
        top := 1;
    END IF;
    WHILE top OPERATOR(pg_catalog.>) 0 LOOP
        first := begins[top];
        last := ends[top];
        top := top OPERATOR(pg_catalog.-) 1;
        part := rest[first : last];
        BEGIN
            EXECUTE insert_sound USING part;
            GET DIAGNOSTICS inserted = ROW_COUNT;
            IF inserted OPERATOR(pg_catalog.<>) pg_catalog.cardinality(part) THEN
                RAISE EXCEPTION 'a trigger of mana_sync.sync_changes left the row out' USING ERRCODE = 'P0001';
            END IF;
            adopted := adopted OPERATOR(pg_catalog.||) part;
            CONTINUE;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, context = PG_EXCEPTION_CONTEXT;
            IF NOT mana_sync.is_refusal(code, context) THEN
                RAISE;
            END IF;
        END;
        IF first OPERATOR(pg_catalog.<) last THEN
            middle := (first OPERATOR(pg_catalog.+) last) OPERATOR(pg_catalog./) 2;
            begins[top OPERATOR(pg_catalog.+) 1] := middle OPERATOR(pg_catalog.+) 1;
            ends[top OPERATOR(pg_catalog.+) 1] := last;
            begins[top OPERATOR(pg_catalog.+) 2] := first;
            ends[top OPERATOR(pg_catalog.+) 2] := middle;
            top := top OPERATOR(pg_catalog.+) 2;
            CONTINUE;
        END IF;
        -- Somebody else may have added the row to the log, or removed it from the source, which finds no row here.
        FOR change IN EXECUTE is_same USING part LOOP
            IF change.same THEN
                present := present OPERATOR(pg_catalog.||) part;
            ELSE
                refused := refused OPERATOR(pg_catalog.||) part;
                reasons := pg_catalog.array_append(reasons, CASE WHEN code OPERATOR(pg_catalog.=) '23505' THEN taken ELSE message END);
            END IF;
        END LOOP;
    END LOOP;
    -- Each row of the batch has one outcome, unless it has been removed from the source.
    rest := mana_sync.without_ids(ids, adopted OPERATOR(pg_catalog.||) present OPERATOR(pg_catalog.||) refused);
    EXECUTE pg_catalog.format('SELECT pg_catalog.count(*) FROM (%s) AS c', by_id) INTO inserted USING rest;
    rows_read := pg_catalog.cardinality(ids) OPERATOR(pg_catalog.-) pg_catalog.cardinality(rest) OPERATOR(pg_catalog.+) inserted;
END
$function$;
COMMENT ON FUNCTION mana_sync.adopt_carefully(text, uuid[], boolean) IS
    'Internal function of mana_sync.adopt. Adds the rows of a batch to the log, and returns the ids of the rows that it '
    'added, of those that were there already, and of those that the log refuses. If an INSERT fails, it tries each half '
    'of the rows. In a dry run it adds nothing.';

CREATE FUNCTION mana_sync.adopt_batch(
    run uuid, source regclass, drop_columns text[], ids uuid[], places tid[], oldest timestamptz, dry_run boolean,
    OUT rows_read bigint, OUT rows_adopted bigint, OUT rows_present bigint, OUT rows_refused bigint
)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $function$
DECLARE
    by_place pg_catalog.text;
    by_id pg_catalog.text;
    insert_sound pg_catalog.text;
    select_faults pg_catalog.text;
    is_done pg_catalog.bool := false;
    found pg_catalog.int8;
    adopted pg_catalog._uuid;
    present pg_catalog._uuid := '{}';
    refused pg_catalog._uuid := '{}';
    reasons pg_catalog._text := '{}';
    code pg_catalog.text;
    context pg_catalog.text;
BEGIN
    SELECT s.by_place, s.by_id INTO by_place, by_id FROM mana_sync.adoption_source(source, drop_columns) AS s;
    -- Until the end of the transaction: the source is not read from its beginning to its end for every batch.
    PERFORM pg_catalog.set_config('enable_seqscan', 'off', true);
    IF NOT dry_run THEN
        SELECT s.insert_sound, s.select_faults INTO insert_sound, select_faults FROM mana_sync.adoption_statements(by_place) AS s;
        BEGIN
            EXECUTE insert_sound USING places, ids;
            GET DIAGNOSTICS found = ROW_COUNT;
            IF found OPERATOR(pg_catalog.<) pg_catalog.cardinality(ids) THEN
                EXECUTE select_faults INTO refused, reasons USING places, ids;
            END IF;
            IF (found OPERATOR(pg_catalog.+) pg_catalog.cardinality(refused)) OPERATOR(pg_catalog.<>) pg_catalog.cardinality(ids) THEN
                RAISE EXCEPTION 'rows have moved, or were left out by a trigger' USING ERRCODE = 'P0001';
            END IF;
            adopted := mana_sync.without_ids(ids, refused);
            rows_read := pg_catalog.cardinality(ids);
            is_done := true;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, context = PG_EXCEPTION_CONTEXT;
            IF NOT mana_sync.is_refusal(code, context) THEN
                RAISE;
            END IF;
        END;
    END IF;
    IF NOT is_done THEN
        SELECT c.rows_read, c.adopted, c.present, c.refused, c.reasons INTO rows_read, adopted, present, refused, reasons
            FROM mana_sync.adopt_carefully(by_id, ids, dry_run) AS c;
    END IF;
    SELECT e.total_read, e.total_adopted, e.total_present, e.total_refused INTO rows_read, rows_adopted, rows_present, rows_refused
        FROM mana_sync.end_adoption_batch(run, rows_read, adopted, present, refused, reasons, oldest, false) AS e;
END
$function$;
COMMENT ON FUNCTION mana_sync.adopt_batch(uuid, regclass, text[], uuid[], tid[], timestamptz, boolean) IS
    'Internal function of mana_sync.adopt. Takes over the rows of the source with these ids, which were at these places, in one '
    'transaction, and returns the counts of the run so far.';

-- The procedure is SECURITY INVOKER and has no SET clause: a procedure that is SECURITY DEFINER or has a SET clause cannot COMMIT.
-- All names in the body are therefore schema-qualified.
CREATE PROCEDURE mana_sync.adopt(
    source             regclass,
    drop_columns       text[]   DEFAULT '{}',
    batch_size         int      DEFAULT 10000,
    pause              interval DEFAULT '0',
    dry_run            boolean  DEFAULT false,
    INOUT rows_read    bigint   DEFAULT NULL,
    INOUT rows_adopted bigint   DEFAULT NULL,
    INOUT rows_present bigint   DEFAULT NULL,
    INOUT rows_refused bigint   DEFAULT NULL
)
    LANGUAGE plpgsql
AS $procedure$
DECLARE
    run pg_catalog.uuid;
    relation pg_catalog.text;
    batch pg_catalog.record;
    told pg_catalog.timestamptz := pg_catalog.clock_timestamp();
BEGIN
    IF batch_size IS NULL OR batch_size OPERATOR(pg_catalog.<) 1 THEN
        RAISE EXCEPTION 'batch_size must be at least 1' USING ERRCODE = '22023', DETAIL = 'Argument: batch_size.';
    END IF;
    IF dry_run IS NULL THEN
        RAISE EXCEPTION 'dry_run must not be NULL' USING ERRCODE = '22023', DETAIL = 'Argument: dry_run.';
    END IF;
    relation := (SELECT s.relation FROM mana_sync.adoption_source(source, drop_columns) AS s);
    run := mana_sync.begin_adoption(source, relation, dry_run);
    COMMIT;
    -- The list may have any number of ids. A hash table of all of them would have to fit into memory; a sort need not.
    PERFORM pg_catalog.set_config('enable_hashagg', 'off', true);
    PERFORM pg_catalog.set_config('work_mem', pg_catalog.current_setting('maintenance_work_mem'), true);
    relation := (SELECT s.relation FROM mana_sync.adoption_source(source, drop_columns) AS s);
    FOR batch IN EXECUTE pg_catalog.format(
        'SELECT pg_catalog.array_agg(l.id) AS ids, pg_catalog.array_agg(l.place) AS places, pg_catalog.min(l.created_at) AS oldest '
        'FROM (SELECT s.id, s.ctid AS place, s.created_at, '
        '             (pg_catalog.row_number() OVER (ORDER BY s.created_at, s.id) OPERATOR(pg_catalog.-) 1) OPERATOR(pg_catalog./) $3 AS batch '
        '      FROM ONLY %s AS s '
        '      WHERE NOT EXISTS (SELECT FROM mana_sync.adopted_ids AS a, pg_catalog.unnest(a.ids) AS known (id) '
        '                        WHERE a.source OPERATOR(pg_catalog.=) $1 AND known.id OPERATOR(pg_catalog.=) s.id) '
        '        AND NOT EXISTS (SELECT FROM mana_sync.adoption_refusals AS r '
        '                        WHERE r.adoption OPERATOR(pg_catalog.=) $2 AND r.id OPERATOR(pg_catalog.=) s.id)) AS l '
        'GROUP BY l.batch ORDER BY l.batch', relation)
        USING source::pg_catalog.oid, run, batch_size
    LOOP
        SELECT b.rows_read, b.rows_adopted, b.rows_present, b.rows_refused INTO rows_read, rows_adopted, rows_present, rows_refused
            FROM mana_sync.adopt_batch(run, source, drop_columns, batch.ids, batch.places, batch.oldest, dry_run) AS b;
        COMMIT;
        IF pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>) (told OPERATOR(pg_catalog.+) '5 seconds'::pg_catalog.interval) THEN
            RAISE NOTICE '% rows read, % adopted, % in the log before, % refused', rows_read, rows_adopted, rows_present, rows_refused;
            told := pg_catalog.clock_timestamp();
        END IF;
        PERFORM pg_catalog.pg_sleep_for(pause);
    END LOOP;
    SELECT e.total_read, e.total_adopted, e.total_present, e.total_refused INTO rows_read, rows_adopted, rows_present, rows_refused
        FROM mana_sync.end_adoption_batch(run, 0, '{}', '{}', '{}', '{}', NULL, true) AS e;
    RAISE NOTICE '%: % rows read, % adopted, % in the log before, % refused', CASE WHEN dry_run THEN 'dry run' ELSE 'done' END,
        rows_read, rows_adopted, rows_present, rows_refused;
END
$procedure$;
COMMENT ON PROCEDURE mana_sync.adopt(regclass, text[], int, interval, boolean, bigint, bigint, bigint, bigint) IS
    'Takes over a log that the original store made: every row with its id and created_at, in the order of (created_at, id), '
    'after the changes that the log already has. Each batch commits on its own. A later call takes what is new. Rows that the log cannot take '
    'are listed in mana_sync.adoption_refusals.';
