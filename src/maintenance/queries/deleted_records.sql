-- The records with a delete that was recorded before $1.
SELECT DISTINCT c.app_id, c.record_id, c.table_name
FROM mana_sync.sync_changes AS c
WHERE c.op OPERATOR(pg_catalog.=) 'delete' AND c.created_at OPERATOR(pg_catalog.<) $1
