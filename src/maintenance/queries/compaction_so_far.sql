-- What the compaction $1 has done so far.
SELECT c.changes_read, c.changes_removed, c.changes_trimmed
FROM mana_sync.compactions AS c
WHERE c.id OPERATOR(pg_catalog.=) $1
