-- The first $6 rows that user $1 wrote in app $2, behind the position with epoch $3, xact $4 and seq $5, in the order of the log.
SELECT c.*
FROM mana_sync.sync_changes AS c
WHERE c.user_id OPERATOR(pg_catalog.=) $1
  AND c.app_id OPERATOR(pg_catalog.=) $2
  AND ROW(c.epoch, c.xact, c.seq) OPERATOR(pg_catalog.>) ROW($3, $4, $5)
ORDER BY c.epoch, c.xact, c.seq
LIMIT $6
