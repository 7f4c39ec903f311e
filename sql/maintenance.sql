-- Maintenance: functions that remove rows from the log, and begin_epoch. The owner of the extension and the roles of
-- grant_maintenance may call them.
--
-- Functions that change rows are SECURITY DEFINER, because no role is granted UPDATE or DELETE on the log. They run with
-- row_security = off: if the owner is subject to row-level security (FORCE, and the owner is neither a superuser nor has
-- BYPASSRLS), they raise an error instead of overlooking rows.
--
-- Functions that remove rows run one at a time: each first locks mana_sync.compactions, which readers and writers of the log do
-- not use.

-- This table is not marked for pg_dump, because a restored log has no run in progress.
CREATE TABLE mana_sync.compactions (
    id              uuid        NOT NULL DEFAULT mana_sync.uuidv7() CONSTRAINT compactions_pkey PRIMARY KEY,
    app_id          text,
    table_name      text,
    user_id         text,
    created_before  timestamptz NOT NULL,
    dry_run         boolean     NOT NULL,
    pid             int         NOT NULL DEFAULT pg_catalog.pg_backend_pid(),
    started_at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    updated_at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    finished_at     timestamptz,
    changes_total   bigint,
    changes_read    bigint      NOT NULL DEFAULT 0,
    changes_removed bigint      NOT NULL DEFAULT 0,
    changes_trimmed bigint      NOT NULL DEFAULT 0,
    after_app       text        NOT NULL DEFAULT '',
    after_record    text        NOT NULL DEFAULT '',
    after_space     text        NOT NULL DEFAULT '',
    after_user      text        NOT NULL DEFAULT '',
    after_table     text        NOT NULL DEFAULT ''
);
COMMENT ON TABLE mana_sync.compactions IS
    'Runs of mana_sync.compact, and how far each run has come. The view mana_sync.compaction_progress shows them.';
COMMENT ON COLUMN mana_sync.compactions.id IS 'Id of the run.';
COMMENT ON COLUMN mana_sync.compactions.app_id IS 'App whose changes the run compacts; NULL: all apps.';
COMMENT ON COLUMN mana_sync.compactions.table_name IS 'Table whose changes the run compacts; NULL: all tables.';
COMMENT ON COLUMN mana_sync.compactions.user_id IS 'User whose changes the run compacts; NULL: all users.';
COMMENT ON COLUMN mana_sync.compactions.created_before IS
    'The run compacts only changes whose created_at is before this time.';
COMMENT ON COLUMN mana_sync.compactions.dry_run IS 'True if the run only counts what it would change.';
COMMENT ON COLUMN mana_sync.compactions.pid IS
    'Process id of the backend that executes the run, or that executed it last.';
COMMENT ON COLUMN mana_sync.compactions.started_at IS 'Time at which the run started.';
COMMENT ON COLUMN mana_sync.compactions.updated_at IS
    'Time at which the last batch of the run ended, or at which the run began or was resumed.';
COMMENT ON COLUMN mana_sync.compactions.finished_at IS
    'Time at which the run finished; NULL: the run has not finished.';
COMMENT ON COLUMN mana_sync.compactions.changes_total IS
    'Estimated number of changes in the whole log when the run started (pg_class.reltuples); NULL: unknown.';
COMMENT ON COLUMN mana_sync.compactions.changes_read IS 'Number of changes that the run has read.';
COMMENT ON COLUMN mana_sync.compactions.changes_removed IS
    'Number of changes that the run has removed, or would have removed in a dry run.';
COMMENT ON COLUMN mana_sync.compactions.changes_trimmed IS
    'Number of changes from which the run has removed some fields, or would have in a dry run.';
COMMENT ON COLUMN mana_sync.compactions.after_app IS
    'Progress of the run: app_id of the last group of changes that the run has finished. A group is all changes to '
    'one record by one user in one space. The five columns after_... name it.';
COMMENT ON COLUMN mana_sync.compactions.after_record IS
    'Progress of the run: record_id of the last group of changes that the run has finished.';
COMMENT ON COLUMN mana_sync.compactions.after_space IS
    'Progress of the run: space_id of the last group of changes that the run has finished; empty if the group is '
    'private.';
COMMENT ON COLUMN mana_sync.compactions.after_user IS
    'Progress of the run: user_id of the last group of changes that the run has finished.';
COMMENT ON COLUMN mana_sync.compactions.after_table IS
    'Progress of the run: table_name of the last group of changes that the run has finished.';
COMMENT ON CONSTRAINT compactions_pkey ON mana_sync.compactions IS 'Each run has one row.';

CREATE VIEW mana_sync.compaction_progress AS
    SELECT c.id, c.app_id, c.table_name, c.user_id, c.created_before, c.dry_run, c.started_at, c.updated_at, c.finished_at,
           -- The backend that asks executes no run. A backend that started later has the process id of one that has ended.
           c.finished_at IS NULL AND c.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid() AND EXISTS (
               SELECT FROM pg_catalog.pg_stat_activity AS s
               WHERE s.pid OPERATOR(pg_catalog.=) c.pid
                 AND COALESCE(s.backend_start OPERATOR(pg_catalog.<=) c.updated_at, true)
                 AND COALESCE(s.state OPERATOR(pg_catalog.!~~) 'idle%', true)) AS running,
           c.pid, c.changes_total, c.changes_read, c.changes_removed, c.changes_trimmed
    FROM mana_sync.compactions AS c;
COMMENT ON VIEW mana_sync.compaction_progress IS
    'Runs of mana_sync.compact: what each run compacts, how far it has come and what it has removed. A run that is '
    'neither running nor finished was interrupted. The next call for the same app, table and user resumes it, unless '
    'the run or the call is a dry run.';

CREATE TABLE mana_sync.purges (
    number       bigint      NOT NULL CONSTRAINT purges_pkey PRIMARY KEY,
    mark         bigint      NOT NULL,
    purged_until timestamptz NOT NULL,
    purged_from  timestamptz NOT NULL,
    older_than   interval    NOT NULL,
    purged_at    timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    snapshot     pg_snapshot NOT NULL DEFAULT pg_catalog.pg_current_snapshot(),
    deletes      bigint      NOT NULL,
    changes      bigint      NOT NULL
);
COMMENT ON TABLE mana_sync.purges IS
    'Calls of mana_sync.purge_deleted that removed deletes, one row for each. A cursor contains the mark of the '
    'latest purge.';
COMMENT ON COLUMN mana_sync.purges.number IS 'Number of the purge; the first is 1.';
COMMENT ON COLUMN mana_sync.purges.mark IS
    'Random number that identifies the purge. Copies of one server that purge separately get different marks.';
COMMENT ON COLUMN mana_sync.purges.purged_until IS
    'Latest created_at among the deletes that this purge and earlier ones removed.';
COMMENT ON COLUMN mana_sync.purges.purged_from IS
    'Earliest created_at among the changes that this purge and earlier ones removed.';
COMMENT ON COLUMN mana_sync.purges.older_than IS
    'Argument older_than of the call of mana_sync.purge_deleted that made the purge.';
COMMENT ON COLUMN mana_sync.purges.purged_at IS 'Time at which the purge was recorded.';
COMMENT ON COLUMN mana_sync.purges.snapshot IS
    'Snapshot of the statement that recorded the purge. It is for administrators; no function reads it.';
COMMENT ON COLUMN mana_sync.purges.deletes IS 'Number of deletes that the purge removed.';
COMMENT ON COLUMN mana_sync.purges.changes IS 'Number of changes that the purge removed, deletes included.';
COMMENT ON CONSTRAINT purges_pkey ON mana_sync.purges IS
    'Each purge has a number of its own. The index serves the search for the latest purge.';

CREATE TABLE mana_sync.purged_transactions (
    epoch int  NOT NULL,
    xact  xid8 NOT NULL,
    CONSTRAINT purged_transactions_pkey PRIMARY KEY (epoch, xact)
);
COMMENT ON TABLE mana_sync.purged_transactions IS
    'Transactions that wrote deletes which mana_sync.purge_deleted has removed. A cursor that does not cover one of '
    'these transactions is refused: its reader must resync from the beginning.';
COMMENT ON COLUMN mana_sync.purged_transactions.epoch IS
    'Number of the epoch that the transaction belongs to, as in mana_sync.sync_changes.epoch.';
COMMENT ON COLUMN mana_sync.purged_transactions.xact IS
    '64-bit id of the transaction, as in mana_sync.sync_changes.xact.';
COMMENT ON CONSTRAINT purged_transactions_pkey ON mana_sync.purged_transactions IS
    'Each transaction has one row. The index serves the search for transactions that a cursor does not cover.';

SELECT pg_catalog.pg_extension_config_dump('mana_sync.purges', '');
SELECT pg_catalog.pg_extension_config_dump('mana_sync.purged_transactions', '');

CREATE FUNCTION mana_sync.begin_compaction(
    app_id text, table_name text, user_id text, older_than interval, dry_run boolean
) RETURNS uuid
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_variable
DECLARE
    run mana_sync.compactions;
BEGIN
    IF older_than IS NULL OR older_than < '0' THEN
        RAISE EXCEPTION 'older_than must be an interval of 0 or more' USING ERRCODE = '22023', DETAIL = 'Argument: older_than.';
    END IF;
    IF dry_run IS NULL THEN
        RAISE EXCEPTION 'dry_run must not be NULL' USING ERRCODE = '22023', DETAIL = 'Argument: dry_run.';
    END IF;
    LOCK TABLE mana_sync.compactions IN SHARE ROW EXCLUSIVE MODE;
    -- An interrupted run: it is neither finished nor running.
    UPDATE mana_sync.compactions AS c
        SET pid = pg_backend_pid(), created_before = now() - older_than, updated_at = clock_timestamp()
        WHERE c.id = (
            SELECT o.id FROM mana_sync.compactions AS o
            WHERE o.finished_at IS NULL AND NOT o.dry_run AND NOT dry_run
              AND ROW(o.app_id, o.table_name, o.user_id) IS NOT DISTINCT FROM
                  ROW(NULLIF(app_id, ''), NULLIF(table_name, ''), NULLIF(user_id, ''))
              AND NOT EXISTS (SELECT FROM mana_sync.compaction_progress AS p WHERE p.id = o.id AND p.running)
            ORDER BY o.started_at DESC
            LIMIT 1)
        RETURNING * INTO run;
    IF FOUND THEN
        RAISE NOTICE 'going on with the compaction that began at %, behind % changes', run.started_at, run.changes_read;
        RETURN run.id;
    END IF;
    INSERT INTO mana_sync.compactions AS c (app_id, table_name, user_id, created_before, dry_run, changes_total, after_app)
        SELECT NULLIF(app_id, ''), NULLIF(table_name, ''), NULLIF(user_id, ''), now() - older_than, dry_run,
               NULLIF(GREATEST(l.reltuples, 0), 0), COALESCE(app_id, '')
        FROM pg_class AS l WHERE l.oid = 'mana_sync.sync_changes'::regclass
        RETURNING * INTO run;
    RETURN run.id;
END
$function$;
COMMENT ON FUNCTION mana_sync.begin_compaction(text, text, text, interval, boolean) IS
    'Internal function of mana_sync.compact. Resumes an interrupted run for the same app, table and user, or starts a '
    'new run. Returns the id of the run.';

CREATE FUNCTION mana_sync.compact_batch(
    run uuid, batch_size int,
    OUT done boolean, OUT changes_read bigint, OUT changes_removed bigint, OUT changes_trimmed bigint
)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
    AS 'MODULE_PATHNAME', 'mana_sync_compact_batch';
COMMENT ON FUNCTION mana_sync.compact_batch(uuid, int) IS
    'Internal function of mana_sync.compact. Compacts the next groups of changes, until it has read batch_size '
    'changes or more, in one transaction. Returns the counts of the whole run so far.';

-- The procedure is SECURITY INVOKER and has no SET clause: a procedure that is SECURITY DEFINER or has a SET clause
-- cannot COMMIT. All names in the body are therefore schema-qualified.
CREATE PROCEDURE mana_sync.compact(
    app_id          text     DEFAULT NULL,
    table_name      text     DEFAULT NULL,
    user_id         text     DEFAULT NULL,
    older_than      interval DEFAULT '30 days',
    batch_size      int      DEFAULT 10000,
    pause           interval DEFAULT '0',
    dry_run         boolean  DEFAULT false,
    INOUT changes_read    bigint DEFAULT NULL,
    INOUT changes_removed bigint DEFAULT NULL,
    INOUT changes_trimmed bigint DEFAULT NULL
)
    LANGUAGE plpgsql
AS $procedure$
DECLARE
    run pg_catalog.uuid;
    done pg_catalog.bool;
    told pg_catalog.timestamptz := pg_catalog.clock_timestamp();
BEGIN
    IF batch_size IS NULL OR batch_size OPERATOR(pg_catalog.<) 1 THEN
        RAISE EXCEPTION 'batch_size must be at least 1' USING ERRCODE = '22023', DETAIL = 'Argument: batch_size.';
    END IF;
    run := mana_sync.begin_compaction(app_id, table_name, user_id, older_than, dry_run);
    COMMIT;
    LOOP
        SELECT b.done, b.changes_read, b.changes_removed, b.changes_trimmed
            INTO done, changes_read, changes_removed, changes_trimmed
            FROM mana_sync.compact_batch(run, batch_size) AS b;
        COMMIT;
        EXIT WHEN done;
        IF pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>) (told OPERATOR(pg_catalog.+) '5 seconds'::pg_catalog.interval) THEN
            RAISE NOTICE '% changes read, % removed, % trimmed', changes_read, changes_removed, changes_trimmed;
            told := pg_catalog.clock_timestamp();
        END IF;
        PERFORM pg_catalog.pg_sleep_for(pause);
    END LOOP;
    RAISE NOTICE '%: % changes read, % removed, % trimmed', CASE WHEN dry_run THEN 'dry run' ELSE 'done' END,
        changes_read, changes_removed, changes_trimmed;
END
$procedure$;
COMMENT ON PROCEDURE mana_sync.compact(text, text, text, interval, int, interval, boolean, bigint, bigint, bigint) IS
    'Removes changes, and fields of changes, that a later change of the same user to the same record in the same '
    'space has overwritten. The records that readers see do not change. Each batch is a transaction of its own.';

CREATE FUNCTION mana_sync.purge_deleted(older_than interval, OUT deletes bigint, OUT changes bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
    AS 'MODULE_PATHNAME', 'mana_sync_purge_deleted';
COMMENT ON FUNCTION mana_sync.purge_deleted(interval) IS
    'Removes deletes older than older_than, together with the changes that they deleted. A delete is kept if some '
    'reader would see the record differently without it. A cursor that does not cover a removed delete is refused '
    '(error 55000, or resyncRequired in mana_sync.pull): its reader must resync from the beginning.';

CREATE FUNCTION mana_sync.forget_user(user_id text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
    AS 'MODULE_PATHNAME', 'mana_sync_forget_user';
COMMENT ON FUNCTION mana_sync.forget_user(text) IS
    'Erases every change of a user and returns the number of these changes. Devices keep the changes that they have '
    'received. Deletes in shared spaces stay in the log under a placeholder user, so that deleted records of other '
    'users do not come back.';

CREATE FUNCTION mana_sync.begin_epoch() RETURNS int
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'mana_sync_begin_epoch';
COMMENT ON FUNCTION mana_sync.begin_epoch() IS
    'Begins a new epoch and returns its number. Every existing cursor then treats rows that are written later as '
    'unseen. Call this function after a data directory was restored from a file copy, which the server cannot detect '
    'by itself.';
