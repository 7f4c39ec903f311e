-- 1,000 records of the user, each in one of three spaces, and a push that changes them by two updates and one insert in
-- turns. :named says whether each change names its space.
CREATE TABLE bench.body AS
    SELECT jsonb_build_object('changes', jsonb_agg(
            change
            || jsonb_build_object('table', 'notes', 'id', md5(i::text))
            || CASE WHEN :named THEN jsonb_build_object('spaceId', 'team' || i % 3) ELSE '{}' END)) AS body
    FROM generate_series(1, 1000) AS i
    CROSS JOIN LATERAL (
        SELECT CASE i % 3
                WHEN 0 THEN '{"op": "insert", "data": {"title": "Item", "done": false, "updatedAt": "2026-01-01T10:00:00Z"}}'::jsonb
                ELSE '{"op": "update", "fields": {"done": {"value": true, "at": "2026-01-01T10:00:00Z"},
                                                  "rank": {"value": 17, "at": "2026-01-01T10:00:00Z"}}}'
            END) AS one (change);
GRANT USAGE ON SCHEMA bench TO app;
GRANT SELECT ON bench.body TO app;
INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, space_id, op, data, client_id)
    SELECT 'app', 'notes', md5(i::text), 'ann', 'team' || i % 3, 'insert', '{}', 'phone' FROM generate_series(1, 1000) AS i;
VACUUM (ANALYZE) mana_sync.sync_changes;
