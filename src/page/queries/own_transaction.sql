-- The greatest seq of the rows that transaction $4 of epoch $3 wrote, among those that user $1 with the spaces $5 sees in app $2. NULL
-- where there is none.
SELECT pg_catalog.max(last.seq)
FROM (
    (SELECT c.seq
     FROM mana_sync.sync_changes AS c
     WHERE c.user_id OPERATOR(pg_catalog.=) $1 AND c.app_id OPERATOR(pg_catalog.=) $2
       AND c.epoch OPERATOR(pg_catalog.=) $3 AND c.xact OPERATOR(pg_catalog.=) $4
     ORDER BY c.seq DESC
     LIMIT 1)
    UNION ALL
    (SELECT c.seq
     FROM pg_catalog.unnest($5::pg_catalog._text) AS part (space_id)
     CROSS JOIN LATERAL (
         SELECT c.seq
         FROM mana_sync.sync_changes AS c
         WHERE c.space_id OPERATOR(pg_catalog.=) part.space_id AND c.app_id OPERATOR(pg_catalog.=) $2
           AND c.epoch OPERATOR(pg_catalog.=) $3 AND c.xact OPERATOR(pg_catalog.=) $4
         ORDER BY c.seq DESC
         LIMIT 1) AS c)
) AS last
