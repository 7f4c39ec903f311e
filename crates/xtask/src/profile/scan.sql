-- The rows of a page of changes_since.
SELECT count(client_id)
    FROM (
        SELECT id, app_id, table_name, record_id, user_id, op, data, field_timestamps, client_id, created_at,
            schema_version, space_id, actor
        FROM mana_sync.sync_changes
        WHERE user_id = 'own1' AND app_id = 'app' AND epoch = 1 AND (xact, seq) > ('0'::xid8, 0)
        ORDER BY xact, seq
        LIMIT 1000) AS page
