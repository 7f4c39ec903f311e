-- Adds a purge. $1 is its mark, $2 the latest created_at of the purged deletes, $3 the earliest created_at of the
-- purged changes, $4 the argument older_than, $5 the number of deletes, and $6 the number of changes.
INSERT INTO mana_sync.purges (number, mark, purged_until, purged_from, older_than, deletes, changes)
SELECT COALESCE(pg_catalog.max(p.number), 0) OPERATOR(pg_catalog.+) 1, $1::pg_catalog.int8,
       GREATEST(pg_catalog.max(p.purged_until), $2), LEAST(pg_catalog.min(p.purged_from), $3), $4::pg_catalog.interval,
       $5::pg_catalog.int8, $6::pg_catalog.int8
FROM mana_sync.purges AS p
