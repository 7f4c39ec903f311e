-- The space that user $1 gave to each record of app $2 with its last change of it: the tables are $3, the ids $4. Records that
-- the user's changes have in no space are left out.
--
-- Three descents of sync_changes_record_idx for a record that is in one space, one for a record that is in none: neither the record's
-- history is read, nor the private records of others with the same id, which stand before all that are in a space.
SELECT r.place,
       CASE
           -- LIMIT, and not EXISTS: that the planner may turn into a hash of all records of the app.
           WHEN (
                   SELECT true
                   FROM mana_sync.sync_changes AS c
                   WHERE c.app_id OPERATOR(pg_catalog.=) $2
                     AND c.record_id OPERATOR(pg_catalog.=) r.record_id
                     AND CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END OPERATOR(pg_catalog.=) ''
                     AND c.user_id COLLATE pg_catalog."POSIX" OPERATOR(pg_catalog.=) $1
                     AND c.table_name OPERATOR(pg_catalog.=) r.table_name
                   LIMIT 1)
               OR (
                   SELECT true
                   FROM mana_sync.sync_changes AS c
                   WHERE c.app_id OPERATOR(pg_catalog.=) $2
                     AND c.record_id OPERATOR(pg_catalog.=) r.record_id
                     AND CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END OPERATOR(pg_catalog.>) first.space_id
                     AND c.user_id COLLATE pg_catalog."POSIX" OPERATOR(pg_catalog.=) $1
                     AND c.table_name OPERATOR(pg_catalog.=) r.table_name
                   LIMIT 1)
           -- It was moved: the last change tells.
           THEN (
               SELECT c.space_id
               FROM mana_sync.sync_changes AS c
               WHERE c.app_id OPERATOR(pg_catalog.=) $2
                 AND c.record_id OPERATOR(pg_catalog.=) r.record_id
                 AND c.user_id COLLATE pg_catalog."POSIX" OPERATOR(pg_catalog.=) $1
                 AND c.table_name OPERATOR(pg_catalog.=) r.table_name
               ORDER BY c.epoch DESC, c.xact DESC, c.seq DESC
               LIMIT 1)
           ELSE first.space_id
       END AS space_id
FROM ROWS FROM (
         pg_catalog.unnest($3::pg_catalog._text), pg_catalog.unnest($4::pg_catalog._text)
     ) WITH ORDINALITY AS r (table_name, record_id, place)
CROSS JOIN LATERAL (
    SELECT c.space_id
    FROM mana_sync.sync_changes AS c
    WHERE c.app_id OPERATOR(pg_catalog.=) $2
      AND c.record_id OPERATOR(pg_catalog.=) r.record_id
      AND CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END OPERATOR(pg_catalog.>) ''
      AND c.user_id COLLATE pg_catalog."POSIX" OPERATOR(pg_catalog.=) $1
      AND c.table_name OPERATOR(pg_catalog.=) r.table_name
    ORDER BY CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END
    LIMIT 1
) AS first
