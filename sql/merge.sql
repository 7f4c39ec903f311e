-- Merged state: the aggregate and what it is made of. Parallel safe, and mergeable in parts.

CREATE TYPE mana_sync.merged_record AS (
    space_id         text,
    data             jsonb,
    field_timestamps jsonb,
    deleted_at       timestamptz,
    updated_at       timestamptz
);
COMMENT ON TYPE mana_sync.merged_record IS 'A record as its changes have left it; result of mana_sync.merge_changes.';
COMMENT ON COLUMN mana_sync.merged_record.space_id IS 'Space of its latest living write; NULL for a private one.';
COMMENT ON COLUMN mana_sync.merged_record.data IS 'The latest value of each field that was not deleted since: {field: value}.';
COMMENT ON COLUMN mana_sync.merged_record.field_timestamps IS 'When each of these was written: {field: RFC 3339 timestamp}.';
COMMENT ON COLUMN mana_sync.merged_record.deleted_at IS 'When it was deleted; NULL while it lives.';
COMMENT ON COLUMN mana_sync.merged_record.updated_at IS 'When it was last written, a delete included.';

CREATE FUNCTION mana_sync.merge_change(
    state internal, op text, data jsonb, field_timestamps jsonb, created_at timestamptz, epoch int, xact xid8,
    seq bigint, space_id text
) RETURNS internal
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mana_sync_merge_change';
COMMENT ON FUNCTION mana_sync.merge_change(internal, text, jsonb, jsonb, timestamptz, int, xid8, bigint, text) IS
    'Part of mana_sync.merge_changes: merges a change into the state.';

CREATE FUNCTION mana_sync.merge_combine(state internal, other internal) RETURNS internal
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mana_sync_merge_combine';
COMMENT ON FUNCTION mana_sync.merge_combine(internal, internal) IS
    'Part of mana_sync.merge_changes: merges two states.';

CREATE FUNCTION mana_sync.merge_serialize(state internal) RETURNS bytea
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mana_sync_merge_serialize';
COMMENT ON FUNCTION mana_sync.merge_serialize(internal) IS
    'Part of mana_sync.merge_changes: a state for another process.';

CREATE FUNCTION mana_sync.merge_deserialize(state bytea, context internal) RETURNS internal
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mana_sync_merge_deserialize';
COMMENT ON FUNCTION mana_sync.merge_deserialize(bytea, internal) IS
    'Part of mana_sync.merge_changes: a state from another process.';

CREATE FUNCTION mana_sync.merge_result(state internal) RETURNS mana_sync.merged_record
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mana_sync_merge_result';
COMMENT ON FUNCTION mana_sync.merge_result(internal) IS
    'Part of mana_sync.merge_changes: the record that a state is.';

CREATE AGGREGATE mana_sync.merge_changes(
    op text, data jsonb, field_timestamps jsonb, created_at timestamptz, epoch int, xact xid8, seq bigint, space_id text
) (
    SFUNC = mana_sync.merge_change,
    STYPE = internal,
    -- What the planner takes for the size of a state; the executor measures it.
    SSPACE = 1024,
    FINALFUNC = mana_sync.merge_result,
    COMBINEFUNC = mana_sync.merge_combine,
    SERIALFUNC = mana_sync.merge_serialize,
    DESERIALFUNC = mana_sync.merge_deserialize,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE mana_sync.merge_changes(text, jsonb, jsonb, timestamptz, int, xid8, bigint, text) IS
    'The record that changes make, whatever their order: the latest write of each field, of those later than the latest delete.';
