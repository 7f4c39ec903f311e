-- All changes of record $2 in table $3 of app $1, group by group, the private ones last.
SELECT c.*
FROM mana_sync.sync_changes AS c
WHERE c.app_id OPERATOR(pg_catalog.=) $1
  AND c.record_id OPERATOR(pg_catalog.=) $2
  AND c.table_name OPERATOR(pg_catalog.=) $3
ORDER BY CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END DESC, c.user_id COLLATE pg_catalog."POSIX" DESC
