-- Maintenance: what makes the log smaller. For the owner of the extension, and roles named by grant_maintenance.
--
-- What changes rows acts as the owner (SECURITY DEFINER), because nobody is granted UPDATE and DELETE on the log. It reads
-- with row_security = off, so that it fails, instead of overlooking rows, where the owner is subject to row security
-- (FORCE, and the owner is neither a superuser nor has BYPASSRLS). Each function does one thing, which its COMMENT says.
--
-- One of them works at a time: each first locks mana_sync.compactions, which readers and writers of the log never touch.

-- Runs of compact, and how far they have come. Not marked for pg_dump: a restored log has no run under way.
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
    'Runs of mana_sync.compact, with the place that each has come to. Shown by mana_sync.compaction_progress.';
COMMENT ON COLUMN mana_sync.compactions.id IS 'Of the run.';
COMMENT ON COLUMN mana_sync.compactions.app_id IS 'Only this app; NULL for all.';
COMMENT ON COLUMN mana_sync.compactions.table_name IS 'Only this table; NULL for all.';
COMMENT ON COLUMN mana_sync.compactions.user_id IS 'Only this user''s changes; NULL for all.';
COMMENT ON COLUMN mana_sync.compactions.created_before IS 'Only changes recorded before this.';
COMMENT ON COLUMN mana_sync.compactions.dry_run IS 'Whether it only counts.';
COMMENT ON COLUMN mana_sync.compactions.pid IS 'Process that runs it, or last ran it.';
COMMENT ON COLUMN mana_sync.compactions.started_at IS 'When it began.';
COMMENT ON COLUMN mana_sync.compactions.updated_at IS 'When its last batch ended.';
COMMENT ON COLUMN mana_sync.compactions.finished_at IS 'When it had seen everything; NULL before.';
COMMENT ON COLUMN mana_sync.compactions.changes_total IS 'Changes in the log when it began, as the planner estimates; NULL where it does not know.';
COMMENT ON COLUMN mana_sync.compactions.changes_read IS 'Changes that it has looked at.';
COMMENT ON COLUMN mana_sync.compactions.changes_removed IS 'Changes that it has removed (dry run: would remove).';
COMMENT ON COLUMN mana_sync.compactions.changes_trimmed IS 'Changes of which it has removed fields (dry run: would remove).';
COMMENT ON COLUMN mana_sync.compactions.after_app IS 'Where it goes on: behind this app,';
COMMENT ON COLUMN mana_sync.compactions.after_record IS 'this record,';
COMMENT ON COLUMN mana_sync.compactions.after_space IS 'this space ('''' for none),';
COMMENT ON COLUMN mana_sync.compactions.after_user IS 'this user';
COMMENT ON COLUMN mana_sync.compactions.after_table IS 'and this table.';
COMMENT ON CONSTRAINT compactions_pkey ON mana_sync.compactions IS 'A run.';

CREATE VIEW mana_sync.compaction_progress AS
    SELECT c.id, c.app_id, c.table_name, c.user_id, c.created_before, c.dry_run, c.started_at, c.updated_at, c.finished_at,
           c.finished_at IS NULL AND EXISTS (
               SELECT FROM pg_catalog.pg_stat_activity AS a WHERE a.pid OPERATOR(pg_catalog.=) c.pid) AS running,
           c.pid, c.changes_total, c.changes_read, c.changes_removed, c.changes_trimmed
    FROM mana_sync.compactions AS c;
COMMENT ON VIEW mana_sync.compaction_progress IS
    'Runs of mana_sync.compact: what they are for, how far they have come, what they removed. One that is neither running nor finished was interrupted; the next call for the same goes on with it.';

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
COMMENT ON TABLE mana_sync.purges IS 'Purges of deletes. Cursors carry the mark of the latest one.';
COMMENT ON COLUMN mana_sync.purges.number IS 'From 1, in the order of the purges.';
COMMENT ON COLUMN mana_sync.purges.mark IS 'Random; tells this purge from every other, on servers that went on separately too.';
COMMENT ON COLUMN mana_sync.purges.purged_until IS 'Latest created_at of a delete that this or an earlier purge removed.';
COMMENT ON COLUMN mana_sync.purges.purged_from IS 'Earliest created_at of a change that this or an earlier purge removed.';
COMMENT ON COLUMN mana_sync.purges.older_than IS 'What was asked for.';
COMMENT ON COLUMN mana_sync.purges.purged_at IS 'When.';
COMMENT ON COLUMN mana_sync.purges.snapshot IS 'What was visible to it; for people.';
COMMENT ON COLUMN mana_sync.purges.deletes IS 'Deletes that it removed.';
COMMENT ON COLUMN mana_sync.purges.changes IS 'Changes that it removed, deletes included.';
COMMENT ON CONSTRAINT purges_pkey ON mana_sync.purges IS 'Finds the latest purge.';

CREATE TABLE mana_sync.purged_transactions (
    epoch int  NOT NULL,
    xact  xid8 NOT NULL,
    CONSTRAINT purged_transactions_pkey PRIMARY KEY (epoch, xact)
);
COMMENT ON TABLE mana_sync.purged_transactions IS
    'Transactions that wrote deletes which have been purged: a cursor that has not seen one of them has to begin again.';
COMMENT ON COLUMN mana_sync.purged_transactions.epoch IS 'As in mana_sync.sync_changes.';
COMMENT ON COLUMN mana_sync.purged_transactions.xact IS 'As in mana_sync.sync_changes.';
COMMENT ON CONSTRAINT purged_transactions_pkey ON mana_sync.purged_transactions IS 'Finds those that a cursor has not seen.';

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
    -- One that was interrupted: nobody runs it any more.
    UPDATE mana_sync.compactions AS c
        SET pid = pg_backend_pid(), created_before = now() - older_than, updated_at = clock_timestamp()
        WHERE c.id = (
            SELECT o.id FROM mana_sync.compactions AS o
            WHERE o.finished_at IS NULL AND NOT o.dry_run AND NOT dry_run
              AND ROW(o.app_id, o.table_name, o.user_id) IS NOT DISTINCT FROM
                  ROW(NULLIF(app_id, ''), NULLIF(table_name, ''), NULLIF(user_id, ''))
              AND (o.pid = pg_backend_pid() OR NOT EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.pid = o.pid))
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
    'Part of mana_sync.compact: notes a run, or finds the one that was interrupted.';

CREATE FUNCTION mana_sync.compact_batch(
    run uuid, batch_size int,
    OUT done boolean, OUT changes_read bigint, OUT changes_removed bigint, OUT changes_trimmed bigint
)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
    AS 'MODULE_PATHNAME', 'mana_sync_compact_batch';
COMMENT ON FUNCTION mana_sync.compact_batch(uuid, int) IS
    'Part of mana_sync.compact: removes dead changes of about batch_size changes, in one transaction; returns what the run has done so far.';

-- Runs as the caller: a procedure that commits can neither be SECURITY DEFINER nor have settings. Hence the qualified names.
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
    'Removes changes, and fields of changes, that a later change of the same user to the same record in the same space overwrote: no reader can tell. In batches that commit on their own.';

CREATE FUNCTION mana_sync.purge_deleted(older_than interval, OUT deletes bigint, OUT changes bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
    AS 'MODULE_PATHNAME', 'mana_sync_purge_deleted';
COMMENT ON FUNCTION mana_sync.purge_deleted(interval) IS
    'Removes deletes older than that, and what they deleted, where no reader''s records depend on them. Cursors that have not seen them have to begin again (55000).';

CREATE FUNCTION mana_sync.forget_user(user_id text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off
    AS 'MODULE_PATHNAME', 'mana_sync_forget_user';
COMMENT ON FUNCTION mana_sync.forget_user(text) IS
    'Erases every change of a user, and returns how many there were. Devices of others keep what they have; what the user had deleted in shared spaces stays deleted, by a change that names nobody.';

CREATE FUNCTION mana_sync.begin_epoch() RETURNS int
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'mana_sync_begin_epoch';
COMMENT ON FUNCTION mana_sync.begin_epoch() IS
    'Begins a new epoch: no cursor from before has seen anything that is written from now on. For a server that went back in time without the log being able to tell.';
