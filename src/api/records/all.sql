-- The records of app $2 that user $1 with the spaces $4 sees, of table $3 or of all: own rows by sync_changes_own_idx,
-- and those of others in each space by sync_changes_space_idx. $5 is true for deleted records too.
--
-- The orders themselves do not matter to the merge. They choose the indexes, whatever the statistics of the moment say: the
-- rows of a user or space lie on disk in this order, and a scan for each space reads no other space's rows.
SELECT record.table_name, record.record_id, (record.merged).space_id, (record.merged).data,
       (record.merged).field_timestamps, (record.merged).deleted_at, (record.merged).updated_at
FROM (
    SELECT c.table_name, c.record_id,
           mana_sync.merge_changes(c.op, c.data, c.field_timestamps, c.created_at, c.epoch, c.xact, c.seq, c.space_id)
               AS merged
    FROM (
        (
            SELECT c.*
            FROM mana_sync.sync_changes AS c
            WHERE c.user_id OPERATOR(pg_catalog.=) $1
              AND c.app_id OPERATOR(pg_catalog.=) $2
              AND ($3::pg_catalog.text IS NULL OR c.table_name OPERATOR(pg_catalog.=) $3)
            ORDER BY c.epoch, c.xact, c.seq
        )
        UNION ALL
        SELECT c.*
        FROM pg_catalog.unnest($4::pg_catalog._text) AS part (space_id)
        CROSS JOIN LATERAL (
            SELECT c.*
            FROM mana_sync.sync_changes AS c
            WHERE c.space_id OPERATOR(pg_catalog.=) part.space_id
              AND c.app_id OPERATOR(pg_catalog.=) $2
              AND c.user_id OPERATOR(pg_catalog.<>) $1
              AND ($3::pg_catalog.text IS NULL OR c.table_name OPERATOR(pg_catalog.=) $3)
            ORDER BY c.epoch, c.xact, c.seq
        ) AS c
    ) AS c
    GROUP BY c.table_name, c.record_id
) AS record
WHERE (record.merged).updated_at IS NOT NULL
  AND ($5::pg_catalog.bool OR (record.merged).deleted_at IS NULL)
