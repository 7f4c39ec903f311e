-- Replaces the JSON of changes: each id in $1 gets the data in $2 and the field_timestamps in $3.
UPDATE mana_sync.sync_changes AS c
SET data = u.data, field_timestamps = u.field_timestamps
FROM ROWS FROM (
         pg_catalog.unnest($1::pg_catalog._uuid), pg_catalog.unnest($2::pg_catalog._jsonb), pg_catalog.unnest($3::pg_catalog._jsonb)
     ) AS u (id, data, field_timestamps)
WHERE c.id OPERATOR(pg_catalog.=) u.id
