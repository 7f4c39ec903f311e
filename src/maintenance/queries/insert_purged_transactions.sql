-- Adds the transactions whose deletes were purged. Each has its epoch in $1 and its id in $2.
INSERT INTO mana_sync.purged_transactions (epoch, xact)
SELECT t.epoch, t.xact
FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog._int4), pg_catalog.unnest($2::pg_catalog._xid8)) AS t (epoch, xact)
ON CONFLICT DO NOTHING
