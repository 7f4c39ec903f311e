-- The aggregate merge_changes and its support functions. It has a combine function, so that it can be computed in parallel.

CREATE TYPE mana_sync.merged_record AS (
    space_id         text,
    data             jsonb,
    field_timestamps jsonb,
    deleted_at       timestamptz,
    updated_at       timestamptz
);
COMMENT ON TYPE mana_sync.merged_record IS
    'State of a record after all of its changes were merged. It is the result of mana_sync.merge_changes.';
COMMENT ON COLUMN mana_sync.merged_record.space_id IS
    'Space of the latest write to the record; NULL: the record is private.';
COMMENT ON COLUMN mana_sync.merged_record.data IS
    'Latest value of each field that was written after the latest delete: {field: value}.';
COMMENT ON COLUMN mana_sync.merged_record.field_timestamps IS
    'Time at which each field in data was written: {field: RFC 3339 timestamp}.';
COMMENT ON COLUMN mana_sync.merged_record.deleted_at IS
    'Time at which the record was deleted; NULL: the record is not deleted.';
COMMENT ON COLUMN mana_sync.merged_record.updated_at IS 'Time of the latest write to the record, deletes included.';

CREATE FUNCTION mana_sync.merge_change(
    state internal, op text, data jsonb, field_timestamps jsonb, created_at timestamptz, epoch int, xact xid8,
    seq bigint, space_id text
) RETURNS internal
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mana_sync_merge_change';
COMMENT ON FUNCTION mana_sync.merge_change(internal, text, jsonb, jsonb, timestamptz, int, xid8, bigint, text) IS
    'Transition function of the aggregate mana_sync.merge_changes. Merges one change into the state.';

CREATE FUNCTION mana_sync.merge_combine(state internal, other internal) RETURNS internal
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mana_sync_merge_combine';
COMMENT ON FUNCTION mana_sync.merge_combine(internal, internal) IS
    'Combine function of the aggregate mana_sync.merge_changes. Merges two states into one.';

CREATE FUNCTION mana_sync.merge_serialize(state internal) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mana_sync_merge_serialize';
COMMENT ON FUNCTION mana_sync.merge_serialize(internal) IS
    'Serialization function of the aggregate mana_sync.merge_changes. Encodes a state for another process.';

CREATE FUNCTION mana_sync.merge_deserialize(state bytea, context internal) RETURNS internal
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mana_sync_merge_deserialize';
COMMENT ON FUNCTION mana_sync.merge_deserialize(bytea, internal) IS
    'Deserialization function of the aggregate mana_sync.merge_changes. Decodes a state from another process.';

CREATE FUNCTION mana_sync.merge_result(state internal) RETURNS mana_sync.merged_record
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mana_sync_merge_result';
COMMENT ON FUNCTION mana_sync.merge_result(internal) IS
    'Final function of the aggregate mana_sync.merge_changes. Returns the record that a state describes.';

CREATE AGGREGATE mana_sync.merge_changes(
    op text, data jsonb, field_timestamps jsonb, created_at timestamptz, epoch int, xact xid8, seq bigint, space_id text
) (
    SFUNC = mana_sync.merge_change,
    STYPE = internal,
    -- The planner's estimate of the size of a state. The executor measures the real size.
    SSPACE = 1024,
    FINALFUNC = mana_sync.merge_result,
    COMBINEFUNC = mana_sync.merge_combine,
    SERIALFUNC = mana_sync.merge_serialize,
    DESERIALFUNC = mana_sync.merge_deserialize,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE mana_sync.merge_changes(text, jsonb, jsonb, timestamptz, int, xid8, bigint, text) IS
    'Merges the changes of one record, in any order. The latest write of each field wins, and a delete removes all '
    'earlier writes. Returns NULL if no change wrote anything.';
