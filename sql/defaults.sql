-- Functions that the column defaults, the CHECK constraint, the policies and the trigger of mana_sync.sync_changes call.

CREATE FUNCTION mana_sync.uuidv7() RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mana_sync_uuidv7';
COMMENT ON FUNCTION mana_sync.uuidv7() IS
    'Returns a new version 7 UUID (RFC 9562). The UUID begins with the current time, so that ids of rows written '
    'together are adjacent in an index.';

-- SECURITY DEFINER, because a writer has no privilege on mana_sync.epochs. The function can only add the row that describes
-- the server it runs on, and only while that row does not exist.
CREATE FUNCTION mana_sync.open_epoch() RETURNS int
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'mana_sync_open_epoch';
COMMENT ON FUNCTION mana_sync.open_epoch() IS
    'Returns the number of the epoch in which this server writes. Adds the row of that epoch to mana_sync.epochs if '
    'the row does not exist.';

CREATE FUNCTION mana_sync.current_epoch() RETURNS int
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_current_epoch';
COMMENT ON FUNCTION mana_sync.current_epoch() IS
    'Returns the number of the epoch in which the server now writes, and opens that epoch if necessary. It is the '
    'default of mana_sync.sync_changes.epoch.';

-- One CHECK calls one C function, because PostgreSQL reads and plans every CHECK of a table again for each INSERT. Two CHECKs
-- written with operators made an INSERT noticeably slower.
CREATE FUNCTION mana_sync.is_change(op text, user_id text) RETURNS boolean
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mana_sync_is_change';
COMMENT ON FUNCTION mana_sync.is_change(text, text) IS
    'Returns true if op is insert, update or delete and user_id is not empty. A NULL argument counts as valid. The '
    'CHECK constraint of mana_sync.sync_changes calls this function.';

-- A function and not a comparison with a sub-select, which the read policies use: a WITH CHECK is evaluated once a row either
-- way, and a function call costs less to set up. PARALLEL RESTRICTED, because parallel workers do not inherit what the backend
-- knows about mana_sync.strict_spaces.
CREATE FUNCTION mana_sync.may_write(user_id text, space_id text) RETURNS boolean
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mana_sync_may_write';
COMMENT ON FUNCTION mana_sync.may_write(text, text) IS
    'Returns true if the current scope allows a row with this user_id and space_id. user_id must be the user of the '
    'scope. space_id must be NULL or one of the spaces of the scope. A scope without spaces allows any space, unless '
    'mana_sync.strict_spaces is on.';

-- Raises an error and does not return false, because the error of a policy does not say what is wrong. PARALLEL RESTRICTED for
-- the same reason as mana_sync.may_write.
CREATE FUNCTION mana_sync.within_bounds(
    app_id text, table_name text, record_id text, space_id text, client_id text, data jsonb, field_timestamps jsonb,
    actor jsonb, origin text
) RETURNS boolean
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mana_sync_within_bounds';
COMMENT ON FUNCTION mana_sync.within_bounds(text, text, text, text, text, jsonb, jsonb, jsonb, text) IS
    'Returns true if a change is within the limits that keep it readable, and otherwise raises error 22023. The '
    'limits are: 512 bytes for an id or an origin, no comma in space_id, 1,000 characters for a number, 1,000 levels '
    'of nesting, and mana_sync.max_change_size bytes of JSON text in all.';

CREATE FUNCTION mana_sync.note_change() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_note_change';
COMMENT ON FUNCTION mana_sync.note_change() IS
    'Trigger function of mana_sync.sync_changes. Collects the user, space, app, table and client of each inserted '
    'row, for the wake-ups that are sent after the transaction commits.';
