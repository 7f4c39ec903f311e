-- The rows of the parts behind it. The first four columns are what the caller merges by.
SELECT c.epoch, c.xact, c.seq, part.place,
       c.id, c.app_id, c.table_name, c.record_id, c.user_id, c.op, c.data, c.field_timestamps, c.client_id,
       c.created_at, c.schema_version, c.space_id, c.actor
FROM
