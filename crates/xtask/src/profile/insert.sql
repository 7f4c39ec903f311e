-- The row that record_change writes.
INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, space_id, op, data, field_timestamps,
        client_id, schema_version, actor)
    VALUES ('app', 'notes', $1, 'ann', NULL, 'insert', $2, '{}', 'phone', 1, NULL)
