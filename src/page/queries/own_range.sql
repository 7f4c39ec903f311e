-- As own_ranges.sql, for one range, as most pulls have it: starting the function scans would take longer than reading the range.
-- $6 to $11 are the values of the range.
SELECT 1::pg_catalog.int8 AS place, c.*
FROM mana_sync.sync_changes AS c
WHERE c.user_id OPERATOR(pg_catalog.=) $1
  AND c.app_id OPERATOR(pg_catalog.=) $2
  AND c.epoch OPERATOR(pg_catalog.=) $6
  AND ROW(c.xact, c.seq) OPERATOR(pg_catalog.>=) ROW($7, $8)
  -- Not a ROW: the scan ends at the first row of a greater xact.
  AND c.xact OPERATOR(pg_catalog.<) $9
  AND ($11 OR (
           ($3::pg_catalog.text IS NULL OR c.table_name OPERATOR(pg_catalog.=) $3)
       AND ($4::pg_catalog.text IS NULL OR c.client_id OPERATOR(pg_catalog.<>) $4)
       AND ($5::pg_catalog.timestamptz IS NULL OR c.created_at OPERATOR(pg_catalog.>) $5)
       -- The rows in these spaces are read with the spaces.
       AND ($12::pg_catalog._text IS NULL OR c.space_id IS NULL
            OR NOT c.space_id OPERATOR(pg_catalog.=) ANY (SELECT pg_catalog.unnest($12)))))
ORDER BY c.xact, c.seq
LIMIT $10
