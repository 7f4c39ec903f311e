-- Removes the changes with the ids $1.
DELETE FROM mana_sync.sync_changes AS c
WHERE c.id OPERATOR(pg_catalog.=) ANY ($1::pg_catalog._uuid)
