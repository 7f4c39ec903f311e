-- Histories of the records $2 to $3 of user $1 in app 'app': an insert of six fields, then updates of one to three
-- fields, each with a time of its own; 1 to $4 changes a record. One record in 20 ends with a delete;
-- one in 20 is deleted in its middle, and half of those are inserted again. What a device wrote lies up to an hour
-- before its push; one clock in 50 is ahead, by more than the five minutes that are believed.
INSERT INTO mana_sync.sync_changes
    (user_id, app_id, table_name, record_id, client_id, op, created_at, data, field_timestamps)
SELECT $1, 'app', 'notes', md5($1 || made.r)::uuid::text, 'phone', made.op, made.pushed,
       CASE
           WHEN made.op = 'insert' THEN jsonb_build_object(
               'title', 'Record ' || made.r, 'text', made.text, 'done', false, 'rank', made.r % 100,
               'createdAt', made.written, 'updatedAt', made.written)
           WHEN made.op = 'delete' THEN jsonb_build_object('deletedAt', made.written)
           WHEN made.kind < 4 THEN jsonb_build_object('done', made.s % 2 = 0)
           WHEN made.kind < 7 THEN jsonb_build_object('rank', made.s, 'updatedAt', made.written)
           WHEN made.kind < 9 THEN jsonb_build_object('title', 'Title ' || made.s, 'updatedAt', made.written)
           ELSE jsonb_build_object('text', made.text, 'done', true, 'updatedAt', made.written)
       END,
       CASE
           WHEN made.op <> 'update' THEN '{}'
           WHEN made.kind < 4 THEN jsonb_build_object('done', made.written)
           WHEN made.kind < 7 THEN jsonb_build_object('rank', made.written, 'updatedAt', made.written)
           WHEN made.kind < 9 THEN jsonb_build_object('title', made.written, 'updatedAt', made.written)
           ELSE jsonb_build_object('text', made.written, 'done', made.written, 'updatedAt', made.written)
       END
FROM (
    SELECT step.*,
           repeat(step.r || ' ' || step.s || ' ', 100 / length(step.r || ' ' || step.s || ' ')) AS text,
           to_char((step.pushed + step.lead) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS written
    FROM (
        SELECT r.r, s.s, h.hash % 10 AS kind,
               timestamptz '2026-01-01 00:00:00Z' + r.r * interval '1 minute' + s.s * interval '20 minutes' AS pushed,
               CASE h.hash / 10 % 50
                   WHEN 0 THEN interval '1 hour'
                   ELSE -(h.hash / 500 % 3600) * interval '1 second'
               END AS lead,
               CASE
                   WHEN s.s = 0 THEN 'insert'
                   WHEN r.r % 20 = 0 AND s.s = last.s THEN 'delete'
                   WHEN r.r % 20 = 1 AND s.s = last.s / 2 THEN 'delete'
                   WHEN r.r % 40 = 1 AND s.s = last.s / 2 + 1 THEN 'insert'
                   ELSE 'update'
               END AS op
        FROM generate_series($2::int, $3::int) AS r (r)
        CROSS JOIN LATERAL (SELECT r.r * 7 % $4::int) AS last (s)
        CROSS JOIN LATERAL generate_series(0, last.s) AS s (s)
        CROSS JOIN LATERAL (SELECT hashint8(r.r::bigint * 100 + s.s) & 2147483647) AS h (hash)
    ) AS step
    ORDER BY step.pushed
) AS made
