    AS part (epoch, from_xact, from_seq, to_xact, row_limit, scout, place)
-- Ranges of the rows that user $1 wrote in app $2, each in the order of the log: an ordered scan of
-- sync_changes_own_idx for each.
CROSS JOIN LATERAL (
    SELECT c.*
    FROM mana_sync.sync_changes AS c
    WHERE c.user_id OPERATOR(pg_catalog.=) $1
      AND c.app_id OPERATOR(pg_catalog.=) $2
      AND c.epoch OPERATOR(pg_catalog.=) part.epoch
      AND ROW(c.xact, c.seq) OPERATOR(pg_catalog.>=) ROW(part.from_xact, part.from_seq)
      -- Not a ROW: the scan ends at the first row of a greater xact.
      AND c.xact OPERATOR(pg_catalog.<) part.to_xact
      AND (part.scout OR (
               ($3 IS NULL OR c.table_name OPERATOR(pg_catalog.=) $3)
           AND ($4 IS NULL OR c.client_id OPERATOR(pg_catalog.<>) $4)
           AND ($5 IS NULL OR c.created_at OPERATOR(pg_catalog.>) $5)
           -- The rows in these spaces are read with the spaces.
           AND ($12 IS NULL OR c.space_id IS NULL
                OR NOT c.space_id OPERATOR(pg_catalog.=) ANY (SELECT pg_catalog.unnest($12)))))
    ORDER BY c.xact, c.seq
    LIMIT part.row_limit
) AS c
