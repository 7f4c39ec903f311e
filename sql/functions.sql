-- The functions that applications call. None is STRICT: a NULL argument is handled, never answered
-- with NULL. All run with the caller's rights, so that row security holds for the caller. EXECUTE
-- stays with PUBLIC, PostgreSQL's default: USAGE on the schema is the gate, and they can do nothing
-- that the caller could not do in plain SQL.

CREATE FUNCTION mana_sync.with_scope(user_id text, space_ids text[] DEFAULT '{}') RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_with_scope';
COMMENT ON FUNCTION mana_sync.with_scope(text, text[]) IS
    'Says who is asking, and for which spaces, for the rest of this transaction. Replaces an earlier scope.';

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
    space_ids        text[] DEFAULT NULL
) RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_record_change';
COMMENT ON FUNCTION mana_sync.record_change(text, text, text, text, text, text, text, jsonb, jsonb, int, jsonb, uuid, text[]) IS
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
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', 'mana_sync_changes_since';
COMMENT ON FUNCTION mana_sync.changes_since(text, text, text, text, text, int, text[]) IS
    'A page of the changes that the user may see and has not seen, in the order of the log. The last row''s cursor is the next call''s since.';

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
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', 'mana_sync_records';
COMMENT ON FUNCTION mana_sync.records(text, text, text, text, boolean, text[]) IS
    'What the records that the user sees look like now: the latest write of each field, as mana_sync.merge_changes makes it.';

CREATE FUNCTION mana_sync.record_history(
    app_id     text,
    table_name text,
    record_id  text,
    user_id    text   DEFAULT NULL,
    space_ids  text[] DEFAULT NULL
) RETURNS TABLE (
    changed_at timestamptz, op text, field text, old_value jsonb, new_value jsonb, user_id text, client_id text,
    actor jsonb, space_id text, recorded_at timestamptz, change_id uuid
)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'mana_sync_record_history';
COMMENT ON FUNCTION mana_sync.record_history(text, text, text, text, text[]) IS
    'Who changed which field of a record when, from what to what: a row for each field that was written and for each delete, in the order of their times.';

-- A row a call, so that they stream where the server calls the function in a list of results. (In FROM a function in C is
-- asked for all its rows before the first goes on.)
CREATE FUNCTION mana_sync.export_rows(
    user_id text,
    OUT id uuid, OUT app_id text, OUT table_name text, OUT record_id text, OUT user_id_of text, OUT op text, OUT data jsonb,
    OUT field_timestamps jsonb, OUT client_id text, OUT created_at timestamptz, OUT schema_version int, OUT space_id text,
    OUT actor jsonb
) RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL UNSAFE ROWS 100000 AS 'MODULE_PATHNAME', 'mana_sync_export_rows';
COMMENT ON FUNCTION mana_sync.export_rows(text) IS
    'Part of mana_sync.export_changes.';

-- The planner puts the body in the place of the call (it is STABLE, has no settings, and is not STRICT), and so streams.
CREATE FUNCTION mana_sync.export_changes(user_id text DEFAULT NULL) RETURNS TABLE (
    id uuid, app_id text, table_name text, record_id text, user_id text, op text, data jsonb, field_timestamps jsonb,
    client_id text, created_at timestamptz, schema_version int, space_id text, actor jsonb
)
    LANGUAGE sql STABLE PARALLEL UNSAFE ROWS 100000
AS $function$
    SELECT (e.change).*
    FROM (SELECT mana_sync.export_rows($1) AS change) AS e
$function$;
COMMENT ON FUNCTION mana_sync.export_changes(text) IS
    'Every change that the user wrote, in whatever app, in the order of the log. Streams: neither the server nor a cursor holds more than some rows.';

CREATE FUNCTION mana_sync.push(
    user_id   text,
    app_id    text,
    changeset jsonb,
    client_id text   DEFAULT NULL,
    space_ids text[] DEFAULT NULL
) RETURNS json
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_push';
COMMENT ON FUNCTION mana_sync.push(text, text, jsonb, text, text[]) IS
    'Records all changes of a changeset or none; what was recorded before is not recorded again. Returns {"inserted", "duplicates"}.';

CREATE FUNCTION mana_sync.pull(
    user_id    text,
    app_id     text,
    table_name text   DEFAULT NULL,
    since      text   DEFAULT NULL,
    client_id  text   DEFAULT NULL,
    page_size  int    DEFAULT 1000,
    space_ids  text[] DEFAULT NULL
) RETURNS json
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_pull';
COMMENT ON FUNCTION mana_sync.pull(text, text, text, text, text, int, text[]) IS
    'A page of changes that the user may see and has not seen, as {"serverChanges", "conflicts", "syncedUntil", "hasMore"}; syncedUntil is the next call''s since.';

CREATE FUNCTION mana_sync.sync(
    user_id   text,
    app_id    text,
    changeset jsonb,
    client_id text   DEFAULT NULL,
    space_ids text[] DEFAULT NULL
) RETURNS json
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_sync';
COMMENT ON FUNCTION mana_sync.sync(text, text, jsonb, text, text[]) IS
    'A push of the changeset and a pull from its since, in one call; answers as pull does.';

-- Channels of wake-ups. EXECUTE is PUBLIC's like that of the others: a role that may use the schema is
-- trusted to say who its user is, and learns the same by a pull. PARALLEL UNSAFE: they take a fresh
-- snapshot, which a parallel query refuses.

CREATE FUNCTION mana_sync.user_channel(user_id text) RETURNS text
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_user_channel';
COMMENT ON FUNCTION mana_sync.user_channel(text) IS
    'Channel to LISTEN to for changes that a user writes: mana_sync_ and 32 hexadecimal digits.';

CREATE FUNCTION mana_sync.space_channel(space_id text) RETURNS text
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_space_channel';
COMMENT ON FUNCTION mana_sync.space_channel(text) IS
    'Channel to LISTEN to for changes in a space.';

CREATE FUNCTION mana_sync.everyone_channel() RETURNS text
    LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_everyone_channel';
COMMENT ON FUNCTION mana_sync.everyone_channel() IS
    'Channel to LISTEN to besides: for when it is not known who was written to (the feed of the worker was full, or the worker has just started).';
