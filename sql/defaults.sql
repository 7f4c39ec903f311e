-- Functions that the table's defaults, checks and policies call.

CREATE FUNCTION mana_sync.uuidv7() RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mana_sync_uuidv7';
COMMENT ON FUNCTION mana_sync.uuidv7() IS
    'A new time-ordered UUID (version 7, RFC 9562): ids that are written together lie together in the index.';

-- Acts as the owner of the extension: a writer may not write to mana_sync.epochs itself. All it can
-- do is to add the one row that describes the server it runs on, and only while there is none.
CREATE FUNCTION mana_sync.open_epoch() RETURNS int
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'mana_sync_open_epoch';
COMMENT ON FUNCTION mana_sync.open_epoch() IS
    'Number of the epoch that this server writes in; opens it if this is the first write on its history.';

CREATE FUNCTION mana_sync.current_epoch() RETURNS int
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_current_epoch';
COMMENT ON FUNCTION mana_sync.current_epoch() IS
    'Number of the epoch that a row written now belongs to. Default of mana_sync.sync_changes.epoch.';

-- One function for what a row has to be by itself: PostgreSQL reads and plans each CHECK of a table again for every INSERT,
-- which took a fifth of the instructions of one when there were two, of operators.
CREATE FUNCTION mana_sync.is_change(op text, user_id text) RETURNS boolean
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mana_sync_is_change';
COMMENT ON FUNCTION mana_sync.is_change(text, text) IS
    'Whether op is insert, update or delete, the three operations of the wire format, and the user not empty. CHECK of mana_sync.sync_changes.';

-- One function, and not a comparison with a sub-select as where rows are read: it is asked once a row either way, and this
-- takes less to set up. PARALLEL RESTRICTED: what a backend knows of mana_sync.strict_spaces is not passed on to its workers.
CREATE FUNCTION mana_sync.may_write(user_id text, space_id text) RETURNS boolean
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mana_sync_may_write';
COMMENT ON FUNCTION mana_sync.may_write(text, text) IS
    'Whether the scope may write as a user, its own, and into a space: a member may; with no memberships in the scope anybody may, unless mana_sync.strict_spaces is on.';

-- An error and not false: the error of a policy does not say what is wrong. PARALLEL RESTRICTED as may_write is.
CREATE FUNCTION mana_sync.within_bounds(
    app_id text, table_name text, record_id text, space_id text, client_id text, data jsonb, field_timestamps jsonb,
    actor jsonb
) RETURNS boolean
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'mana_sync_within_bounds';
COMMENT ON FUNCTION mana_sync.within_bounds(text, text, text, text, text, jsonb, jsonb, jsonb) IS
    'True for a change that can be given to every reader; an error (22023) for one with an id of more than 512 bytes, a comma in its space, a number of more than 1,000 characters, values nested more than 1,000 deep, or more JSON text than mana_sync.max_change_size.';

CREATE FUNCTION mana_sync.note_change() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mana_sync_note_change';
COMMENT ON FUNCTION mana_sync.note_change() IS
    'Trigger function: notes whom a row touches, who are woken when the transaction commits.';
