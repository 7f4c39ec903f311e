-- The changes of the group with app $1, record $2, space $3 ('' for none), user $4 and table $5.
SELECT c.*
FROM mana_sync.sync_changes AS c
WHERE c.app_id OPERATOR(pg_catalog.=) $1
  AND c.record_id OPERATOR(pg_catalog.=) $2
  AND CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END OPERATOR(pg_catalog.=) $3
  AND c.user_id COLLATE pg_catalog."POSIX" OPERATOR(pg_catalog.=) $4
  AND c.table_name OPERATOR(pg_catalog.=) $5
