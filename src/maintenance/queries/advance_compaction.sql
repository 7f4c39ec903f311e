-- Adds a batch to the compaction $1: changes read ($2), removed ($3) and trimmed ($4), the last group that is finished ($5 to $9: app,
-- record, space, user, table), and whether the compaction is finished ($10).
UPDATE mana_sync.compactions AS c
SET changes_read = c.changes_read OPERATOR(pg_catalog.+) $2::pg_catalog.int8,
    changes_removed = c.changes_removed OPERATOR(pg_catalog.+) $3::pg_catalog.int8,
    changes_trimmed = c.changes_trimmed OPERATOR(pg_catalog.+) $4::pg_catalog.int8,
    after_app = $5, after_record = $6, after_space = $7, after_user = $8, after_table = $9,
    pid = pg_catalog.pg_backend_pid(),
    updated_at = pg_catalog.clock_timestamp(),
    finished_at = CASE WHEN $10 THEN pg_catalog.clock_timestamp() END
WHERE c.id OPERATOR(pg_catalog.=) $1
