-- As all.sql, of record $6 alone: by sync_changes_record_idx, which tells the record's own and shared rows from the private
-- ones of others.
SELECT record.table_name, record.record_id, (record.merged).space_id, (record.merged).data,
       (record.merged).field_timestamps, (record.merged).deleted_at, (record.merged).updated_at
FROM (
    SELECT c.table_name, c.record_id,
           mana_sync.merge_changes(c.op, c.data, c.field_timestamps, c.created_at, c.epoch, c.xact, c.seq, c.space_id)
               AS merged
    FROM (
        SELECT c.*
        FROM mana_sync.sync_changes AS c
        WHERE c.app_id OPERATOR(pg_catalog.=) $2
          AND c.record_id OPERATOR(pg_catalog.=) $6
          AND ($3::pg_catalog.text IS NULL OR c.table_name OPERATOR(pg_catalog.=) $3)
          AND c.user_id COLLATE pg_catalog."POSIX" OPERATOR(pg_catalog.=) $1
        UNION ALL
        SELECT c.*
        FROM pg_catalog.unnest($4::pg_catalog._text) AS part (space_id)
        CROSS JOIN LATERAL (
            SELECT c.*
            FROM mana_sync.sync_changes AS c
            WHERE c.app_id OPERATOR(pg_catalog.=) $2
              AND c.record_id OPERATOR(pg_catalog.=) $6
              AND CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END OPERATOR(pg_catalog.=) part.space_id
              AND ($3::pg_catalog.text IS NULL OR c.table_name OPERATOR(pg_catalog.=) $3)
              AND c.user_id COLLATE pg_catalog."POSIX" OPERATOR(pg_catalog.<>) $1
            OFFSET 0 -- a scan of the index for each space, not a join with all
        ) AS c
    ) AS c
    GROUP BY c.table_name, c.record_id
) AS record
WHERE (record.merged).updated_at IS NOT NULL
  AND ($5::pg_catalog.bool OR (record.merged).deleted_at IS NULL)
