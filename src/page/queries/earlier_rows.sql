-- For some records of app $2, a few of the changes that user $1 with the spaces $5 sees between two positions: the tables are $3, the ids
-- $4, the first position is epoch $6, xact $7 and seq $8, the last one epoch $9, xact $10 and seq $11. $12: without the rows of this
-- client; NULL for none. Returns the number of the record, from 1, the position, whether the row is the user's, its space and its time.
--
-- By sync_changes_record_idx, in the parts that record_rows.sql explains. Four rows of each part are enough: they decide whether a
-- record was shown before, and a record may be shown once more.
SELECT r.place, c.epoch, c.xact, c.seq, c.is_own, c.space_id, c.created_at
FROM ROWS FROM (
         pg_catalog.unnest($3::pg_catalog._text), pg_catalog.unnest($4::pg_catalog._text)
     ) WITH ORDINALITY AS r (table_name, record_id, place)
CROSS JOIN LATERAL (
    (SELECT c.epoch, c.xact, c.seq, true AS is_own, c.space_id, c.created_at
     FROM mana_sync.sync_changes AS c
     WHERE c.app_id OPERATOR(pg_catalog.=) $2
       AND c.record_id OPERATOR(pg_catalog.=) r.record_id
       AND CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END OPERATOR(pg_catalog.=) ''
       AND c.user_id COLLATE pg_catalog."POSIX" OPERATOR(pg_catalog.=) $1
       AND c.table_name OPERATOR(pg_catalog.=) r.table_name
       AND ROW(c.epoch, c.xact, c.seq) OPERATOR(pg_catalog.>=) ROW($6, $7, $8)
       AND ROW(c.epoch, c.xact, c.seq) OPERATOR(pg_catalog.<=) ROW($9, $10, $11)
       AND ($12::pg_catalog.text IS NULL OR c.client_id OPERATOR(pg_catalog.<>) $12)
     LIMIT 4)
    UNION ALL
    (SELECT c.epoch, c.xact, c.seq, true, c.space_id, c.created_at
     FROM mana_sync.sync_changes AS c
     WHERE c.app_id OPERATOR(pg_catalog.=) $2
       AND c.record_id OPERATOR(pg_catalog.=) r.record_id
       AND CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END OPERATOR(pg_catalog.>) ''
       AND c.user_id COLLATE pg_catalog."POSIX" OPERATOR(pg_catalog.=) $1
       AND c.table_name OPERATOR(pg_catalog.=) r.table_name
       AND ROW(c.epoch, c.xact, c.seq) OPERATOR(pg_catalog.>=) ROW($6, $7, $8)
       AND ROW(c.epoch, c.xact, c.seq) OPERATOR(pg_catalog.<=) ROW($9, $10, $11)
       AND ($12::pg_catalog.text IS NULL OR c.client_id OPERATOR(pg_catalog.<>) $12)
     LIMIT 4)
    UNION ALL
    (SELECT c.epoch, c.xact, c.seq, false, c.space_id, c.created_at
     FROM mana_sync.sync_changes AS c
     WHERE c.app_id OPERATOR(pg_catalog.=) $2
       AND c.record_id OPERATOR(pg_catalog.=) r.record_id
       AND CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END OPERATOR(pg_catalog.=) ANY ($5::pg_catalog._text)
       AND c.user_id COLLATE pg_catalog."POSIX" OPERATOR(pg_catalog.<>) $1
       AND c.table_name OPERATOR(pg_catalog.=) r.table_name
       AND ROW(c.epoch, c.xact, c.seq) OPERATOR(pg_catalog.>=) ROW($6, $7, $8)
       AND ROW(c.epoch, c.xact, c.seq) OPERATOR(pg_catalog.<=) ROW($9, $10, $11)
       AND ($12::pg_catalog.text IS NULL OR c.client_id OPERATOR(pg_catalog.<>) $12)
     LIMIT 4)
) AS c
