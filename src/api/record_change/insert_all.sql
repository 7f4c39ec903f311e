-- Records a change with every column that a writer can choose.
INSERT INTO mana_sync.sync_changes (id, app_id, table_name, record_id, user_id, op, client_id, data, space_id, field_timestamps,
                                    schema_version, actor, origin)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
