-- Logs as real ones are, after shared histories of 18 years: records are changed 7 times on average, 8 of 10 changes are
-- updates; a few users are heavy, spaces of very different sizes; a change has 200 bytes, and one in 500 has 20 kB. The same
-- rows go into both stores. What row i is depends on i alone.
CREATE SCHEMA bench;

-- From 0 to 1. (One expression, which is inlined.)
CREATE FUNCTION bench.chance(i bigint, salt bigint) RETURNS float8 LANGUAGE sql IMMUTABLE AS
    $$ SELECT (hashint8extended(i, salt) & 4294967295) / 4294967296.0::float8 $$;

-- Rows of one call of bench.fill.
CREATE UNLOGGED TABLE bench.made (
    i bigint PRIMARY KEY, user_id text, space_id text, record_id text, op text, data jsonb, field_timestamps jsonb
);

-- Rows `first` to `last` in transactions of `batch` rows. The sources are
--   others  a thousand users, of whom one wrote a tenth of all, and a thousand spaces; every second record is private, the
--           others are in a space and changed by anybody
--   walks   in turns: a row of user own in one of the spaces many0 to many99, and a row of space one; the names end with
--           `batch`
--   large   private rows of user large, all of 20 kB
CREATE PROCEDURE bench.fill(source text, first bigint, last bigint, batch bigint) LANGUAGE plpgsql AS $$
DECLARE
    begins bigint := first;
BEGIN
    TRUNCATE bench.made;
    INSERT INTO bench.made
    SELECT i,
           CASE
               WHEN source = 'others' THEN 'user' || floor(1000 * power(bench.chance(
                   CASE record.r % 2 WHEN 0 THEN record.r ELSE i END, 1), 3))
               WHEN source = 'large' THEN 'large'
               WHEN i % 2 = 0 THEN 'own' || batch
               ELSE 'writer'
           END,
           CASE
               WHEN source = 'others' THEN CASE record.r % 2
                   WHEN 1 THEN 'space' || floor(1000 * power(bench.chance(record.r, 2), 3)) END
               WHEN source = 'large' THEN NULL
               WHEN i % 2 = 0 THEN 'many' || record.r % 100 || '_' || batch
               ELSE 'one' || batch
           END,
           md5(record.r::text)::uuid::text,
           op.op,
           CASE
               WHEN kind.is_large THEN jsonb_build_object('text',
                   (SELECT string_agg(md5(i || ' ' || k), '') FROM generate_series(1, 625) AS k))
               WHEN op.op = 'insert' THEN jsonb_build_object('title', 'Item ' || i, 'done', i % 2 = 0,
                   'rank', i % 100, 'text', md5(i::text) || md5((i + 1)::text) || md5((i + 2)::text))
               WHEN op.op = 'update' THEN jsonb_build_object('rank', i % 1000, 'updatedAt', op.at,
                   'text', md5(i::text) || md5((i + 1)::text))
               ELSE jsonb_build_object('deletedAt', op.at)
           END,
           CASE
               WHEN op.op <> 'update' THEN '{}'::jsonb
               WHEN kind.is_large THEN jsonb_build_object('text', op.at)
               ELSE jsonb_build_object('rank', op.at, 'updatedAt', op.at, 'text', op.at)
           END
    FROM generate_series(first, last) AS i
    CROSS JOIN LATERAL (SELECT i % 500 = 499 OR source = 'large') AS kind (is_large)
    -- Any of the records so far, whose number grows with the log.
    CROSS JOIN LATERAL (SELECT floor(i / 7.4 * bench.chance(i, 3))::bigint) AS record (r)
    CROSS JOIN LATERAL (
        SELECT CASE WHEN i % 8 = 0 THEN 'insert' WHEN i % 11 = 0 THEN 'delete' ELSE 'update' END,
               to_char('2026-01-01'::timestamp + i * interval '1 second', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) AS op (op, at);
    COMMIT;
    ANALYZE bench.made;
    WHILE begins <= last LOOP
        INSERT INTO mana_sync.sync_changes
            (user_id, app_id, table_name, record_id, client_id, op, space_id, data, field_timestamps)
        SELECT user_id, 'app', 'notes', record_id, 'phone', op, space_id, data, field_timestamps
        FROM bench.made WHERE i >= begins AND i < begins + batch ORDER BY i;
        -- The time of its own, and not of the transaction, without which the original would deliver a fraction.
        INSERT INTO original.sync_changes
            (user_id, app_id, table_name, record_id, client_id, op, space_id, data, field_timestamps, created_at)
        SELECT user_id, 'app', 'notes', record_id, 'phone', op, space_id, data, field_timestamps, clock_timestamp()
        FROM bench.made WHERE i >= begins AND i < begins + batch ORDER BY i;
        COMMIT;
        begins := begins + batch;
    END LOOP;
    TRUNCATE bench.made;
END
$$;
