-- The compaction $1, if it is not finished.
SELECT c.app_id, c.table_name, c.user_id, c.created_before, c.dry_run,
       c.after_app, c.after_record, c.after_space, c.after_user, c.after_table
FROM mana_sync.compactions AS c
WHERE c.id OPERATOR(pg_catalog.=) $1 AND c.finished_at IS NULL
