-- Gives the deletes of user $1 in shared spaces to $2, who is nobody. The deletes stay in the log, because readers who
-- have not seen them yet still have what they delete. They keep only what was deleted, where and when.
UPDATE mana_sync.sync_changes AS c
SET user_id = $2, client_id = '', actor = NULL, origin = NULL, field_timestamps = '{}',
    data = CASE WHEN pg_catalog.jsonb_typeof(c.data OPERATOR(pg_catalog.->) 'deletedAt') OPERATOR(pg_catalog.=) 'string'
                THEN pg_catalog.jsonb_build_object('deletedAt', c.data OPERATOR(pg_catalog.->) 'deletedAt') END
WHERE c.user_id OPERATOR(pg_catalog.=) $1
  AND c.op OPERATOR(pg_catalog.=) 'delete'
  AND c.space_id OPERATOR(pg_catalog.<>) ''
