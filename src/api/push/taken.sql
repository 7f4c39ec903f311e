-- The changes whose ids are those of other changes. Returns the number of the change, from 1, and whether the row with its id is the same
-- change with other content; NULL if the user sees no row with its id. A change is user $1's in app $2; it was sent with data and times, where there are any, and with a space, where that is not NULL ('' is none).
--
-- A row may have lost overwritten fields to a compaction since. It has been updated then, so that its xmin is not the transaction
-- that inserted it. (So are rows that were inserted in a subtransaction, or by a restore.) What is left of it must be in what was sent.
SELECT c.place, s.is_same_change
FROM ROWS FROM (
         pg_catalog.unnest($3::pg_catalog._uuid), pg_catalog.unnest($4::pg_catalog._text), pg_catalog.unnest($5::pg_catalog._text),
         pg_catalog.unnest($6::pg_catalog._text), pg_catalog.unnest($7::pg_catalog._text), pg_catalog.unnest($8::pg_catalog._jsonb),
         pg_catalog.unnest($9::pg_catalog._jsonb)
     ) WITH ORDINALITY AS c (id, table_name, record_id, op, space_id, data, times, place)
LEFT JOIN LATERAL (
    SELECT stored.data, stored.field_timestamps,
           CASE WHEN stored.space_id IS NULL THEN '' ELSE stored.space_id END AS space_id,
           stored.xmin OPERATOR(pg_catalog.=) pg_catalog.xid(stored.xact) AS is_whole,
           stored.user_id OPERATOR(pg_catalog.=) $1 AND stored.app_id OPERATOR(pg_catalog.=) $2
               AND stored.table_name OPERATOR(pg_catalog.=) c.table_name
               AND stored.record_id OPERATOR(pg_catalog.=) c.record_id
               AND stored.op OPERATOR(pg_catalog.=) c.op AS is_same_change
    FROM mana_sync.sync_changes AS stored
    WHERE stored.id OPERATOR(pg_catalog.=) c.id
    LIMIT 1
) AS s ON true
WHERE (s.is_same_change
       AND (c.space_id IS NULL OR c.space_id OPERATOR(pg_catalog.=) s.space_id)
       AND CASE WHEN s.is_whole THEN
               (c.data IS NULL OR c.data OPERATOR(pg_catalog.=) s.data)
               AND (c.times IS NULL OR s.field_timestamps OPERATOR(pg_catalog.@>) c.times)
           ELSE
               (c.data IS NULL OR s.data IS NULL OR c.data OPERATOR(pg_catalog.@>) s.data)
               AND (c.times IS NULL OR NOT EXISTS (
                        SELECT
                        FROM pg_catalog.jsonb_each(c.times) AS sent (field, time)
                        WHERE s.field_timestamps OPERATOR(pg_catalog.->) sent.field OPERATOR(pg_catalog.<>) sent.time))
           END) IS NOT TRUE
ORDER BY c.place
