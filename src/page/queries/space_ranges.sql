-- Ranges of the rows of spaces in app $2, each in the order of the log. A range is an ordered scan of sync_changes_space_idx. Returns
-- the number of the range, from 1, and a row of the log.
--
-- $3: only this table; NULL for all. $4: without the rows of this client; NULL for none. $5: only rows with created_at after it; NULL
-- for all. $1: the user.
-- The parameters from $6 to $13 have an element for each range: its epoch, the first xact and seq, the xact after it, the most rows,
-- whether it is a probe, to which the other conditions do not apply, its space, and whether the user's own rows are wanted too.
SELECT part.place, c.*
FROM ROWS FROM (
         pg_catalog.unnest($6::pg_catalog._int4), pg_catalog.unnest($7::pg_catalog._xid8),
         pg_catalog.unnest($8::pg_catalog._int8), pg_catalog.unnest($9::pg_catalog._xid8),
         pg_catalog.unnest($10::pg_catalog._int8), pg_catalog.unnest($11::pg_catalog._bool),
         pg_catalog.unnest($12::pg_catalog._text), pg_catalog.unnest($13::pg_catalog._bool)
     ) WITH ORDINALITY AS part (epoch, from_xact, from_seq, to_xact, row_limit, probe, space_id, with_own, place)
CROSS JOIN LATERAL (
    SELECT c.*
    FROM mana_sync.sync_changes AS c
    WHERE c.space_id OPERATOR(pg_catalog.=) part.space_id
      AND c.app_id OPERATOR(pg_catalog.=) $2
      AND c.epoch OPERATOR(pg_catalog.=) part.epoch
      AND ROW(c.xact, c.seq) OPERATOR(pg_catalog.>=) ROW(part.from_xact, part.from_seq)
      -- Not a ROW: the scan ends at the first row of a greater xact.
      AND c.xact OPERATOR(pg_catalog.<) part.to_xact
      AND (part.probe OR (
               (part.with_own OR c.user_id OPERATOR(pg_catalog.<>) $1)
           AND ($3::pg_catalog.text IS NULL OR c.table_name OPERATOR(pg_catalog.=) $3)
           AND ($4::pg_catalog.text IS NULL OR c.client_id OPERATOR(pg_catalog.<>) $4)
           AND ($5::pg_catalog.timestamptz IS NULL OR c.created_at OPERATOR(pg_catalog.>) $5)))
    ORDER BY c.xact, c.seq
    LIMIT part.row_limit
) AS c
