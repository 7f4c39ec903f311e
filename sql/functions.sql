-- The functions that applications call. None is STRICT: each handles a NULL argument and does not return NULL for it. All are
-- SECURITY INVOKER, so that row-level security applies to the caller. PUBLIC keeps EXECUTE, which is PostgreSQL's default:
-- USAGE on the schema controls access, and the functions can do nothing that the caller could not do in plain SQL.

CREATE FUNCTION mana_sync.with_scope(user_id text, space_ids text[] DEFAULT '{}') RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_with_scope';
COMMENT ON FUNCTION mana_sync.with_scope(text, text[]) IS
    'Sets the scope of the current transaction: the user who is asking, and the spaces of that user. If user_id is '
    'NULL, the user of the current scope is kept. If space_ids is NULL, the spaces of the current scope are kept for '
    'the same user; for another user, the new scope has no spaces.';

CREATE FUNCTION mana_sync.record_change(
    app_id           text,
    table_name       text,
    record_id        text,
    user_id          text,
    space_id         text,
    op               text,
    client_id        text,
    data             jsonb  DEFAULT NULL,
    field_timestamps jsonb  DEFAULT '{}',
    schema_version   int    DEFAULT 1,
    actor            jsonb  DEFAULT NULL,
    id               uuid   DEFAULT NULL,
    space_ids        text[] DEFAULT NULL,
    origin           text   DEFAULT NULL
) RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_record_change';
COMMENT ON FUNCTION mana_sync.record_change(text, text, text, text, text, text, text, jsonb, jsonb, int, jsonb, uuid, text[], text) IS
    'Appends one change to the log and returns its id.';

CREATE FUNCTION mana_sync.changes_since(
    user_id           text   DEFAULT NULL,
    app_id            text   DEFAULT NULL,
    table_name        text   DEFAULT NULL,
    since             text   DEFAULT NULL,
    exclude_client_id text   DEFAULT NULL,
    page_size         int    DEFAULT 5000,
    space_ids         text[] DEFAULT NULL
) RETURNS TABLE (
    id uuid, app_id text, table_name text, record_id text, user_id text, op text, data jsonb,
    field_timestamps jsonb, client_id text, created_at timestamptz, schema_version int, space_id text,
    actor jsonb, cursor text
)
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', 'mana_sync_changes_since';
COMMENT ON FUNCTION mana_sync.changes_since(text, text, text, text, text, int, text[]) IS
    'Returns one page of the changes that the user may see and that the cursor since does not cover, in log order. '
    'Pass the cursor of the last row as since in the next call. A page without rows has no cursor.';

CREATE FUNCTION mana_sync.records_since(
    user_id           text   DEFAULT NULL,
    app_id            text   DEFAULT NULL,
    table_name        text   DEFAULT NULL,
    since             text   DEFAULT NULL,
    exclude_client_id text   DEFAULT NULL,
    page_size         int    DEFAULT 1000,
    space_ids         text[] DEFAULT NULL
) RETURNS TABLE (
    table_name text, record_id text, space_id text, data jsonb, field_timestamps jsonb, deleted_at timestamptz,
    updated_at timestamptz, cursor text
)
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', 'mana_sync_records_since';
COMMENT ON FUNCTION mana_sync.records_since(text, text, text, text, text, int, text[]) IS
    'Returns one page of records with their current state. It has the records with a change that the user may see and '
    'that the cursor since does not cover. Pass the cursor of the last row as since in the next call. A page without '
    'rows has no cursor.';

CREATE FUNCTION mana_sync.records(
    user_id         text    DEFAULT NULL,
    app_id          text    DEFAULT NULL,
    table_name      text    DEFAULT NULL,
    record_id       text    DEFAULT NULL,
    include_deleted boolean DEFAULT false,
    space_ids       text[]  DEFAULT NULL
) RETURNS TABLE (
    table_name text, record_id text, space_id text, data jsonb, field_timestamps jsonb, deleted_at timestamptz,
    updated_at timestamptz
)
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', 'mana_sync_records';
COMMENT ON FUNCTION mana_sync.records(text, text, text, text, boolean, text[]) IS
    'Returns the current state of the records that the user may see. The latest write of each field wins, as in '
    'mana_sync.merge_changes.';

CREATE FUNCTION mana_sync.record_history(
    app_id     text,
    table_name text,
    record_id  text,
    user_id    text   DEFAULT NULL,
    space_ids  text[] DEFAULT NULL
) RETURNS TABLE (
    changed_at timestamptz, op text, field text, old_value jsonb, new_value jsonb, user_id text, client_id text,
    actor jsonb, space_id text, recorded_at timestamptz, change_id uuid, origin text
)
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'mana_sync_record_history';
COMMENT ON FUNCTION mana_sync.record_history(text, text, text, text, text[]) IS
    'Returns the history of one record, in the order of the write times. There is one row for each write of a field, '
    'for each delete, and for each insert without fields. A row has the old value, the new value, the user and the '
    'device.';

-- Returns one row a call (value-per-call mode), so that rows are streamed when the function is called in a SELECT list. In FROM,
-- PostgreSQL collects all rows of a C function before it passes on the first one.
CREATE FUNCTION mana_sync.export_rows(
    user_id text,
    OUT id uuid, OUT app_id text, OUT table_name text, OUT record_id text, OUT user_id_of text, OUT op text, OUT data jsonb,
    OUT field_timestamps jsonb, OUT client_id text, OUT created_at timestamptz, OUT schema_version int, OUT space_id text,
    OUT actor jsonb, OUT origin text
) RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 100000 AS 'MODULE_PATHNAME', 'mana_sync_export_rows';
COMMENT ON FUNCTION mana_sync.export_rows(text) IS
    'Internal function of mana_sync.export_changes. Returns the exported rows one at a time.';

-- The planner inlines this function, because it is STABLE, has no SET clause and is not STRICT. Its rows are therefore streamed
-- even if it is called in FROM.
CREATE FUNCTION mana_sync.export_changes(user_id text DEFAULT NULL) RETURNS TABLE (
    id uuid, app_id text, table_name text, record_id text, user_id text, op text, data jsonb, field_timestamps jsonb,
    client_id text, created_at timestamptz, schema_version int, space_id text, actor jsonb,
    origin text
)
    LANGUAGE sql STABLE PARALLEL UNSAFE ROWS 100000
AS $function$
    SELECT (e.change).*
    FROM (SELECT mana_sync.export_rows($1) AS change) AS e
$function$;
COMMENT ON FUNCTION mana_sync.export_changes(text) IS
    'Returns every change that the user wrote, in all apps and in log order. The rows are streamed: the server never '
    'holds all of them in memory.';

CREATE FUNCTION mana_sync.push(
    user_id   text,
    app_id    text,
    changeset jsonb,
    client_id text   DEFAULT NULL,
    space_ids text[] DEFAULT NULL
) RETURNS json
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_push';
COMMENT ON FUNCTION mana_sync.push(text, text, jsonb, text, text[]) IS
    'Records the changes of a changeset: either all of them or none. With "atomic": false in the changeset, it '
    'records those that can be recorded. It skips a change that was recorded before. Returns {"inserted": n, '
    '"duplicates": n}. The result also has "skipped": n if triggers left changes out, and "rejected": [...] if the '
    'changeset is not atomic.';

-- VOLATILE, although it only reads: PostgreSQL evaluates a STABLE function of a sub-select once for each reference to its result. Each
-- evaluation takes a snapshot, and the cursor of one would not fit to the changes of the other.
CREATE FUNCTION mana_sync.pull(
    user_id    text,
    app_id     text,
    table_name text   DEFAULT NULL,
    since      text   DEFAULT NULL,
    client_id  text   DEFAULT NULL,
    page_size  int    DEFAULT 1000,
    space_ids  text[] DEFAULT NULL,
    as_records boolean DEFAULT false,
    echo       boolean DEFAULT false
) RETURNS json
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_pull';
COMMENT ON FUNCTION mana_sync.pull(text, text, text, text, text, int, text[], boolean, boolean) IS
    'Returns one page of the changes that the user may see and that the cursor since does not cover, as '
    '{"serverChanges", "conflicts", "syncedUntil", "hasMore"}. Pass syncedUntil as since in the next call. The '
    'user''s own changes from client_id are left out, unless echo is true or the pull starts at the beginning of the '
    'log or of a new space. If as_records is true, "serverChanges" is empty, and "records" has the current state of '
    'each record that changed, also where only client_id changed it.';

CREATE FUNCTION mana_sync.sync(
    user_id   text,
    app_id    text,
    changeset jsonb,
    client_id text   DEFAULT NULL,
    space_ids text[] DEFAULT NULL
) RETURNS json
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_sync';
COMMENT ON FUNCTION mana_sync.sync(text, text, jsonb, text, text[]) IS
    'Pushes a changeset and then pulls, in one call. The pull begins at the cursor under the key "since" of the '
    'changeset. Returns what mana_sync.pull returns.';

-- Names of the channels for wake-ups. PUBLIC keeps EXECUTE here too: a role with USAGE on the schema is trusted to name its
-- user, and a pull would tell it the same. PARALLEL UNSAFE, because these functions take a new snapshot, which a parallel query
-- does not allow.

CREATE FUNCTION mana_sync.user_channel(user_id text) RETURNS text
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_user_channel';
COMMENT ON FUNCTION mana_sync.user_channel(text) IS
    'Returns the name of the NOTIFY channel for changes that this user writes. The name is mana_sync_ followed by 32 '
    'hexadecimal digits.';

CREATE FUNCTION mana_sync.space_channel(space_id text) RETURNS text
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_space_channel';
COMMENT ON FUNCTION mana_sync.space_channel(text) IS
    'Returns the name of the NOTIFY channel for changes in this space. The name is mana_sync_ followed by 32 '
    'hexadecimal digits.';

CREATE FUNCTION mana_sync.everyone_channel() RETURNS text
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_everyone_channel';
COMMENT ON FUNCTION mana_sync.everyone_channel() IS
    'Returns the name of the NOTIFY channel that every listener needs in addition to the channels of its user and '
    'spaces. The wake-up worker notifies this channel when it starts, and when it does not know which users and '
    'spaces were written to.';
