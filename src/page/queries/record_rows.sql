-- The changes that user $1 with the spaces $5 sees of some records of app $2: the tables are $3, the ids $4. Returns the number of the
-- record, from 1, and a row of the log. The rows of a record follow one another.
--
-- By sync_changes_record_idx. The private rows of others with the same record id stand between the user's private rows and all rows in
-- spaces, and are not read: so the user's own rows are read in two parts.
SELECT r.place, c.*
FROM ROWS FROM (
         pg_catalog.unnest($3::pg_catalog._text), pg_catalog.unnest($4::pg_catalog._text)
     ) WITH ORDINALITY AS r (table_name, record_id, place)
CROSS JOIN LATERAL (
    SELECT c.*
    FROM mana_sync.sync_changes AS c
    WHERE c.app_id OPERATOR(pg_catalog.=) $2
      AND c.record_id OPERATOR(pg_catalog.=) r.record_id
      AND CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END OPERATOR(pg_catalog.=) ''
      AND c.user_id COLLATE pg_catalog."POSIX" OPERATOR(pg_catalog.=) $1
      AND c.table_name OPERATOR(pg_catalog.=) r.table_name
    UNION ALL
    SELECT c.*
    FROM mana_sync.sync_changes AS c
    WHERE c.app_id OPERATOR(pg_catalog.=) $2
      AND c.record_id OPERATOR(pg_catalog.=) r.record_id
      AND CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END OPERATOR(pg_catalog.>) ''
      AND c.user_id COLLATE pg_catalog."POSIX" OPERATOR(pg_catalog.=) $1
      AND c.table_name OPERATOR(pg_catalog.=) r.table_name
    UNION ALL
    SELECT c.*
    FROM pg_catalog.unnest($5::pg_catalog._text) AS part (space_id)
    CROSS JOIN LATERAL (
        SELECT c.*
        FROM mana_sync.sync_changes AS c
        WHERE c.app_id OPERATOR(pg_catalog.=) $2
          AND c.record_id OPERATOR(pg_catalog.=) r.record_id
          AND CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END OPERATOR(pg_catalog.=) part.space_id
          AND c.user_id COLLATE pg_catalog."POSIX" OPERATOR(pg_catalog.<>) $1
          AND c.table_name OPERATOR(pg_catalog.=) r.table_name
        OFFSET 0 -- a scan of the index for each space; PostgreSQL would read the record in all spaces for = ANY
    ) AS c
) AS c
