-- Row-level security of the log. Superusers and roles with BYPASSRLS pass by it, as everywhere in
-- PostgreSQL; the owner does not, because of FORCE.
--
-- The scope is in two settings, which mana_sync.with_scope sets for a transaction:
--   app.current_user_id         who is asking; after a transaction that set it, it is '' and not NULL
--   app.current_user_space_ids  the spaces that the user is a member of, comma-separated
-- Where rows are read, each is in a sub-select without outer references, so that it is evaluated once a
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
        AND mana_sync.within_bounds(app_id, table_name, record_id, space_id, client_id, data, field_timestamps, actor)
    );

COMMENT ON POLICY sync_changes_user_isolation ON mana_sync.sync_changes IS
    'Own rows: read and write, and no row that its readers could not be given. Writing into a space takes membership where memberships are known, or mana_sync.strict_spaces.';

-- SELECT only: members read, the author writes.
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
    'Rows of the spaces of the scope: read only. A scope without a user has no spaces.';
