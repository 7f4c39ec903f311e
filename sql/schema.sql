-- The schema is a member of the extension. CREATE SCHEMA without IF NOT EXISTS refuses to install
-- into a schema that is there already: whoever owns it could have planted objects in it.
CREATE SCHEMA mana_sync;

COMMENT ON SCHEMA mana_sync IS
    'Change log for local-first apps. USAGE is granted by mana_sync.grant_access(role).';
