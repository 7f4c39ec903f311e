-- The changes of a user, in the order of their groups, behind the group with app $1, record $2, space $3 ('' for none), user $4 and table $5.
-- $6 is the user.
SELECT c.*
FROM mana_sync.sync_changes AS c
WHERE ROW(c.app_id, c.record_id, CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END, c.user_id COLLATE pg_catalog."POSIX", c.table_name)
      OPERATOR(pg_catalog.>) ROW($1, $2, $3, $4, $5)
  AND c.user_id COLLATE pg_catalog."POSIX" OPERATOR(pg_catalog.=) $6
ORDER BY c.app_id, c.record_id, CASE WHEN c.space_id IS NULL THEN '' ELSE c.space_id END, c.user_id COLLATE pg_catalog."POSIX", c.table_name
