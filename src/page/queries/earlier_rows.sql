-- For some rows of app $1, a few of the changes of the same record in the same space that user $2 sees between two positions: the tables
-- are $3, the ids of the records $4, the spaces $5, where '' stands for the user's private rows. The first position is epoch $6, xact $7
-- and seq $8, the last one epoch $9, xact $10 and seq $11. $12: without the rows of this client; NULL for none. Returns the number of the
-- row, from 1, the position of the change, whether it is the user's, its space and its time.
--
-- By sync_changes_record_idx. Four changes are enough: they decide whether a record was shown before, and a record may be shown once
-- more. For the same reason the other spaces of the record are not searched.
SELECT r.place, c.epoch, c.xact, c.seq, c.is_own, c.space_id, c.created_at
FROM ROWS FROM (
         pg_catalog.unnest($3::pg_catalog._text), pg_catalog.unnest($4::pg_catalog._text), pg_catalog.unnest($5::pg_catalog._text)
     ) WITH ORDINALITY AS r (table_name, record_id, space_id, place)
CROSS JOIN LATERAL (
    (SELECT c.epoch, c.xact, c.seq, true AS is_own, c.space_id, c.created_at
     FROM mana_sync.sync_changes AS c
     WHERE r.space_id OPERATOR(pg_catalog.=) ''
       AND c.app_id OPERATOR(pg_catalog.=) $1
       AND c.record_id OPERATOR(pg_catalog.=) r.record_id
       AND CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END OPERATOR(pg_catalog.=) ''
       AND c.user_id COLLATE pg_catalog."POSIX" OPERATOR(pg_catalog.=) $2
       AND c.table_name OPERATOR(pg_catalog.=) r.table_name
       AND ROW(c.epoch, c.xact, c.seq) OPERATOR(pg_catalog.>=) ROW($6, $7, $8)
       AND ROW(c.epoch, c.xact, c.seq) OPERATOR(pg_catalog.<=) ROW($9, $10, $11)
       AND ($12::pg_catalog.text IS NULL OR c.client_id OPERATOR(pg_catalog.<>) $12)
     LIMIT 4)
    UNION ALL
    (SELECT c.epoch, c.xact, c.seq, c.user_id OPERATOR(pg_catalog.=) $2, c.space_id, c.created_at
     FROM mana_sync.sync_changes AS c
     WHERE r.space_id OPERATOR(pg_catalog.<>) ''
       AND c.app_id OPERATOR(pg_catalog.=) $1
       AND c.record_id OPERATOR(pg_catalog.=) r.record_id
       AND CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END OPERATOR(pg_catalog.=) r.space_id
       AND c.table_name OPERATOR(pg_catalog.=) r.table_name
       AND ROW(c.epoch, c.xact, c.seq) OPERATOR(pg_catalog.>=) ROW($6, $7, $8)
       AND ROW(c.epoch, c.xact, c.seq) OPERATOR(pg_catalog.<=) ROW($9, $10, $11)
       AND ($12::pg_catalog.text IS NULL OR c.client_id OPERATOR(pg_catalog.<>) $12)
     LIMIT 4)
) AS c
