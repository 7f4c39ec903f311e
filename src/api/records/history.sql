-- The changes of record $5 in table $3 of app $2 that user $1 with the spaces $4 sees.
SELECT c.*
FROM mana_sync.sync_changes AS c
WHERE c.app_id OPERATOR(pg_catalog.=) $2
  AND c.record_id OPERATOR(pg_catalog.=) $5
  AND c.table_name OPERATOR(pg_catalog.=) $3
  AND c.user_id COLLATE pg_catalog."POSIX" OPERATOR(pg_catalog.=) $1
UNION ALL
SELECT c.*
FROM pg_catalog.unnest($4::pg_catalog._text) AS part (space_id)
CROSS JOIN LATERAL (
    SELECT c.*
    FROM mana_sync.sync_changes AS c
    WHERE c.app_id OPERATOR(pg_catalog.=) $2
      AND c.record_id OPERATOR(pg_catalog.=) $5
      AND CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END OPERATOR(pg_catalog.=) part.space_id
      AND c.table_name OPERATOR(pg_catalog.=) $3
      AND c.user_id COLLATE pg_catalog."POSIX" OPERATOR(pg_catalog.<>) $1
    OFFSET 0 -- a scan of the index for each space, not a join with all
) AS c
