-- Inserts changes of user $2 and client $3 in app $1, as a column for each of the others. In the order of the changes: a function scan
-- returns its rows in order, and the defaults (seq) are drawn as they come. Returns the ids of the rows that were inserted.
INSERT INTO mana_sync.sync_changes (id, app_id, table_name, record_id, user_id, space_id, op, client_id,
                                    data, field_timestamps, schema_version, actor, origin)
SELECT c.id, $1, c.table_name, c.record_id, $2, c.space_id, c.op, $3, c.data, c.field_timestamps,
       c.schema_version, c.actor, c.origin
FROM ROWS FROM (
         pg_catalog.unnest($4::pg_catalog._uuid), pg_catalog.unnest($5::pg_catalog._text), pg_catalog.unnest($6::pg_catalog._text),
         pg_catalog.unnest($7::pg_catalog._text), pg_catalog.unnest($8::pg_catalog._text), pg_catalog.unnest($9::pg_catalog._jsonb),
         pg_catalog.unnest($10::pg_catalog._jsonb), pg_catalog.unnest($11::pg_catalog._int4), pg_catalog.unnest($12::pg_catalog._jsonb),
         pg_catalog.unnest($13::pg_catalog._text)
     ) AS c (id, table_name, record_id, space_id, op, data, field_timestamps, schema_version, actor, origin)
ON CONFLICT (id) DO NOTHING
RETURNING id
