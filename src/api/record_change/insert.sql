-- Records a change whose other columns have their defaults. PostgreSQL checks the caller's privilege to write each column that is named,
-- at every run: most changes have few.
INSERT INTO mana_sync.sync_changes (id, app_id, table_name, record_id, user_id, op, client_id, data)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
