-- The apps that user $1 has written in: one probe of sync_changes_own_idx for each.
WITH RECURSIVE app (id) AS (
    (SELECT c.app_id FROM mana_sync.sync_changes AS c
     WHERE c.user_id OPERATOR(pg_catalog.=) $1
     ORDER BY c.app_id LIMIT 1)
    UNION ALL
    SELECT (SELECT c.app_id FROM mana_sync.sync_changes AS c
            WHERE c.user_id OPERATOR(pg_catalog.=) $1 AND c.app_id OPERATOR(pg_catalog.>) app.id
            ORDER BY c.app_id LIMIT 1)
    FROM app WHERE app.id IS NOT NULL
)
SELECT app.id FROM app WHERE app.id IS NOT NULL
