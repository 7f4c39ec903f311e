-- Row-level security of the log. Superusers and roles with BYPASSRLS bypass it, as everywhere in PostgreSQL. The owner of the
-- table does not, because of FORCE.
--
-- The scope consists of two settings, which mana_sync.with_scope sets for a transaction:
--   app.current_user_id         the user who is asking; after a transaction that set it, the value is '' and not NULL
--   app.current_user_space_ids  the spaces that this user is a member of, separated by commas
-- The conditions for reading put each setting into a sub-select without outer references, which PostgreSQL evaluates once a
-- statement and not once a row.

ALTER TABLE mana_sync.sync_changes ENABLE ROW LEVEL SECURITY;
ALTER TABLE mana_sync.sync_changes FORCE ROW LEVEL SECURITY;

CREATE POLICY sync_changes_user_isolation ON mana_sync.sync_changes
    USING (
        user_id OPERATOR(pg_catalog.=) (
            SELECT NULLIF(pg_catalog.current_setting('app.current_user_id', true), ''))
    )
    WITH CHECK (
        mana_sync.may_write(user_id, space_id)
        AND mana_sync.within_bounds(app_id, table_name, record_id, space_id, client_id, data, field_timestamps, actor, origin)
    );

COMMENT ON POLICY sync_changes_user_isolation ON mana_sync.sync_changes IS
    'Allows reading and writing the rows whose user_id is the user of the scope. mana_sync.may_write must allow the '
    'user and the space of a new row, and the row must be within the limits of mana_sync.within_bounds.';

-- FOR SELECT: the members of a space read its rows, and only the author of a row writes it.
CREATE POLICY sync_changes_space_member_read ON mana_sync.sync_changes
    FOR SELECT
    USING (
        space_id OPERATOR(pg_catalog.=) ANY (
            SELECT space.id
            FROM pg_catalog.unnest(pg_catalog.string_to_array(
                     pg_catalog.current_setting('app.current_user_space_ids', true), ',')) AS space (id)
            WHERE space.id OPERATOR(pg_catalog.<>) ''
              AND pg_catalog.current_setting('app.current_user_id', true) OPERATOR(pg_catalog.<>) '')
    );

COMMENT ON POLICY sync_changes_space_member_read ON mana_sync.sync_changes IS
    'Allows reading, but not writing, the rows whose space_id is one of the spaces of the scope. A scope without a '
    'user has no spaces.';
