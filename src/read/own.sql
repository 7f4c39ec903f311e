-- A stretch of the rows that user $1 wrote in app $2, in the order of the log: an ordered scan of
-- sync_changes_own_idx. The first four columns are what the caller merges by.
SELECT c.epoch, c.xact, c.seq, 1::bigint AS part,
       c.id, c.app_id, c.table_name, c.record_id, c.user_id, c.op, c.data, c.field_timestamps, c.client_id,
       c.created_at, c.schema_version, c.space_id, c.actor
FROM mana_sync.sync_changes AS c
WHERE c.user_id OPERATOR(pg_catalog.=) $1
  AND c.app_id OPERATOR(pg_catalog.=) $2
  AND ROW(c.epoch, c.xact, c.seq) OPERATOR(pg_catalog.>=) ROW($6, $7, $8)
  AND ROW(c.epoch, c.xact, c.seq) OPERATOR(pg_catalog.<) ROW($9, $10, $11)
  AND ($3 IS NULL OR c.table_name OPERATOR(pg_catalog.=) $3)
  AND ($4 IS NULL OR c.client_id OPERATOR(pg_catalog.<>) $4)
  AND ($5 IS NULL OR c.created_at OPERATOR(pg_catalog.>) $5)
  -- The rows in these spaces are read with the spaces.
  AND ($12 IS NULL OR c.space_id IS NULL
       OR NOT c.space_id OPERATOR(pg_catalog.=) ANY (SELECT pg_catalog.unnest($12)))
ORDER BY c.epoch, c.xact, c.seq
LIMIT $13
