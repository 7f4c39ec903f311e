-- Removes user $1 from the places that compactions have reached. A compaction of all users continues from the same
-- record.
UPDATE mana_sync.compactions AS c
SET after_record = CASE WHEN c.finished_at IS NULL THEN c.after_record ELSE '' END, after_user = ''
WHERE c.after_user OPERATOR(pg_catalog.=) $1
