-- The merge of user $1's records in app $2 in plain SQL, with the functions of jsonb: what a server without the
-- extension would run. The rules are those of mana_sync.merge_changes, made easier in two ways: a text is taken for a
-- timestamp, where it would be passed over there; and a record that lives without any field is left out. Returns less:
-- no space, no times.
--
-- The fastest of some ways to write it: the record id leads each sort, because the first column decides nearly every
-- comparison; OFFSET 0 keeps a timestamp from being parsed again for each mention.
WITH change AS MATERIALIZED (
    SELECT c.table_name, c.record_id, c.op, c.data, c.field_timestamps, c.created_at, c.epoch, c.xact, c.seq,
           -- More than five minutes ahead of the server is not believed.
           CASE WHEN own.time <= c.created_at + interval '5 minutes' THEN own.time ELSE c.created_at END AS time
    FROM mana_sync.sync_changes AS c
    CROSS JOIN LATERAL (
        SELECT CASE c.op
                   WHEN 'insert' THEN coalesce(c.data ->> 'updatedAt', c.data ->> 'createdAt')
                   WHEN 'delete' THEN c.data ->> 'deletedAt'
               END::timestamptz
    ) AS own (time)
    WHERE c.user_id = $1 AND c.app_id = $2
),
deleted AS (
    SELECT DISTINCT ON (record_id, table_name) record_id, table_name, time, epoch, xact, seq
    FROM change
    WHERE op = 'delete'
    ORDER BY record_id, table_name, time DESC, epoch DESC, xact DESC, seq DESC
),
-- Those that live again.
inserted AS (
    SELECT DISTINCT record_id, table_name
    FROM change
    JOIN deleted USING (record_id, table_name)
    WHERE change.op = 'insert'
      AND (change.time, change.epoch, change.xact, change.seq)
          > (deleted.time, deleted.epoch, deleted.xact, deleted.seq)
),
-- A field whose latest write is dead has no living one.
latest AS (
    SELECT DISTINCT ON (c.record_id, c.table_name, field.name)
           c.record_id, c.table_name, field.name, field.value, written.time, c.epoch, c.xact, c.seq
    FROM change AS c
    CROSS JOIN LATERAL jsonb_each(c.data) AS field (name, value)
    CROSS JOIN LATERAL (SELECT (c.field_timestamps ->> field.name)::timestamptz OFFSET 0) AS own (time)
    CROSS JOIN LATERAL (
        SELECT CASE
                   WHEN own.time IS NULL THEN c.time
                   WHEN own.time <= c.created_at + interval '5 minutes' THEN own.time
                   ELSE c.created_at
               END
    ) AS written (time)
    WHERE c.op <> 'delete'
    ORDER BY c.record_id, c.table_name, field.name, written.time DESC, c.epoch DESC, c.xact DESC, c.seq DESC
)
SELECT latest.table_name, latest.record_id, jsonb_object_agg(latest.name, latest.value) AS data
FROM latest
LEFT JOIN deleted USING (record_id, table_name)
LEFT JOIN inserted USING (record_id, table_name)
WHERE deleted.record_id IS NULL
   OR (inserted.record_id IS NOT NULL
       AND (latest.time, latest.epoch, latest.xact, latest.seq)
           > (deleted.time, deleted.epoch, deleted.xact, deleted.seq))
GROUP BY latest.record_id, latest.table_name
