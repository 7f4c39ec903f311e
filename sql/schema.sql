-- The schema belongs to the extension. CREATE SCHEMA has no IF NOT EXISTS on purpose: the owner of an existing schema of this
-- name could have created objects in it that the extension would then call.
CREATE SCHEMA mana_sync;

COMMENT ON SCHEMA mana_sync IS
    'Objects of the mana_sync extension, a change log for local-first apps. mana_sync.grant_access(role) grants '
    'USAGE.';
