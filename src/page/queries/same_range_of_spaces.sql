-- As space_ranges.sql, for the same range of each space in $12. The other parameters from $6 to $13 are the values of the range.
SELECT part.place, c.*
FROM pg_catalog.unnest($12::pg_catalog._text) WITH ORDINALITY AS part (space_id, place)
CROSS JOIN LATERAL (
    SELECT c.*
    FROM mana_sync.sync_changes AS c
    WHERE c.space_id OPERATOR(pg_catalog.=) part.space_id
      AND c.app_id OPERATOR(pg_catalog.=) $2
      AND c.epoch OPERATOR(pg_catalog.=) $6
      AND ROW(c.xact, c.seq) OPERATOR(pg_catalog.>=) ROW($7, $8)
      -- Not a ROW: the scan ends at the first row of a greater xact.
      AND c.xact OPERATOR(pg_catalog.<) $9
      AND ($11 OR (
               ($13 OR c.user_id OPERATOR(pg_catalog.<>) $1)
           AND ($3::pg_catalog.text IS NULL OR c.table_name OPERATOR(pg_catalog.=) $3)
           AND ($4::pg_catalog.text IS NULL OR c.client_id OPERATOR(pg_catalog.<>) $4)
           AND ($5::pg_catalog.timestamptz IS NULL OR c.created_at OPERATOR(pg_catalog.>) $5)))
    ORDER BY c.xact, c.seq
    LIMIT $10
) AS c
