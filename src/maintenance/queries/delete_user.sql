-- Removes the changes of user $1, except the deletes in shared spaces.
DELETE FROM mana_sync.sync_changes AS c
WHERE c.user_id OPERATOR(pg_catalog.=) $1
  AND (c.op OPERATOR(pg_catalog.=) 'delete' AND c.space_id OPERATOR(pg_catalog.<>) '') IS NOT TRUE
