-- Privileges. Nothing here is granted to PUBLIC: a role gets access by grant_access alone.

-- CREATE TRIGGER needs EXECUTE on the function; firing the trigger does not. Only the trigger of the log may use this function.
REVOKE EXECUTE ON FUNCTION mana_sync.note_change() FROM PUBLIC;

CREATE FUNCTION mana_sync.grant_access(role regrole) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    PERFORM mana_sync.require_owner('grant_access', role);
    -- PUBLIC has EXECUTE on the functions (see functions.sql); USAGE on the schema makes them callable.
    EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA mana_sync TO %s', role);
    EXECUTE pg_catalog.format('GRANT SELECT ON mana_sync.sync_changes TO %s', role);
    -- epoch, xact, seq and created_at are left out: their defaults define the order of the log.
    EXECUTE pg_catalog.format('GRANT INSERT (id, app_id, table_name, record_id, user_id, op, data, field_timestamps,
            client_id, schema_version, actor, space_id, origin) ON mana_sync.sync_changes TO %s', role);
    EXECUTE pg_catalog.format('GRANT USAGE ON SEQUENCE mana_sync.sync_changes_seq TO %s', role);
    IF (SELECT r.rolsuper OR r.rolbypassrls FROM pg_catalog.pg_roles AS r
        WHERE r.oid OPERATOR(pg_catalog.=) role::pg_catalog.oid) THEN
        RAISE WARNING 'role % bypasses row-level security', role
            USING DETAIL = 'It is a superuser or has BYPASSRLS, and sees the rows of every user.',
                  HINT = 'Let the application connect as a plain role.';
    END IF;
END
$function$;
COMMENT ON FUNCTION mana_sync.grant_access(regrole) IS
    'Grants a role the right to call the functions for applications, and to read and append to the log under '
    'row-level security. Only the owner of the extension or a superuser may call it.';

CREATE FUNCTION mana_sync.revoke_access(role regrole) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    PERFORM mana_sync.require_owner('revoke_access', role);
    -- REVOKE on a table also revokes the privileges on its columns.
    EXECUTE pg_catalog.format('REVOKE ALL ON mana_sync.sync_changes FROM %s', role);
    PERFORM mana_sync.close_gate(role);
END
$function$;
COMMENT ON FUNCTION mana_sync.revoke_access(regrole) IS
    'Revokes what mana_sync.grant_access granted to a role. Only the owner of the extension or a superuser may call '
    'it.';

CREATE FUNCTION mana_sync.grant_maintenance(role regrole) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    part text;
BEGIN
    PERFORM mana_sync.require_owner('grant_maintenance', role);
    EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA mana_sync TO %s', role);
    EXECUTE pg_catalog.format('GRANT SELECT ON mana_sync.compaction_progress, mana_sync.purges, mana_sync.adoption_progress,
            mana_sync.adoption_refusals, mana_sync.adopted_ids TO %s', role);
    EXECUTE pg_catalog.format('GRANT INSERT ON mana_sync.adopted_changes TO %s', role);
    EXECUTE pg_catalog.format('GRANT USAGE ON SEQUENCE mana_sync.sync_changes_seq TO %s', role);
    FOREACH part IN ARRAY mana_sync.maintenance_routines() LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO %s', part, role);
    END LOOP;
END
$function$;
COMMENT ON FUNCTION mana_sync.grant_maintenance(regrole) IS
    'Grants a role the right to compact the log, purge deletes, erase users, begin an epoch and adopt a log of the '
    'original store, but not to read the log. Only the owner of the extension or a superuser may call it. Do not '
    'grant these rights to the role of an '
    'application.';

CREATE FUNCTION mana_sync.revoke_maintenance(role regrole) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    part text;
BEGIN
    PERFORM mana_sync.require_owner('revoke_maintenance', role);
    EXECUTE pg_catalog.format('REVOKE ALL ON mana_sync.compaction_progress, mana_sync.purges, mana_sync.adoption_progress,
            mana_sync.adoption_refusals, mana_sync.adopted_ids, mana_sync.adopted_changes FROM %s', role);
    FOREACH part IN ARRAY mana_sync.maintenance_routines() LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM %s', part, role);
    END LOOP;
    PERFORM mana_sync.close_gate(role);
END
$function$;
COMMENT ON FUNCTION mana_sync.revoke_maintenance(regrole) IS
    'Revokes what mana_sync.grant_maintenance granted to a role. Only the owner of the extension or a superuser may '
    'call it.';

CREATE FUNCTION mana_sync.maintenance_routines() RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT ARRAY[
        'mana_sync.begin_compaction(text, text, text, interval, boolean)',
        'mana_sync.compact_batch(uuid, int)',
        'mana_sync.compact(text, text, text, interval, int, interval, boolean, bigint, bigint, bigint)',
        'mana_sync.purge_deleted(interval)',
        'mana_sync.forget_user(text)',
        'mana_sync.begin_epoch()',
        'mana_sync.adopt(regclass, text[], int, interval, boolean, bigint, bigint, bigint, bigint)',
        'mana_sync.adopt_batch(uuid, regclass, text[], uuid[], tid[], timestamptz, boolean)',
        'mana_sync.adopt_carefully(text, uuid[], boolean)',
        'mana_sync.adoption_source(regclass, text[])',
        'mana_sync.adoption_statements(text)',
        'mana_sync.begin_adoption(regclass, text, boolean)',
        'mana_sync.end_adoption_batch(uuid, bigint, uuid[], uuid[], uuid[], text[], timestamptz, boolean)',
        'mana_sync.ids_in_log(uuid[])',
        'mana_sync.is_in_log(mana_sync.adopted_changes)',
        'mana_sync.is_refusal(text, text)',
        'mana_sync.without_ids(uuid[], uuid[])',
        'mana_sync.fault_of_change(uuid, timestamptz, text, text, text, text, text, text, text, jsonb, jsonb, jsonb, text)',
        'mana_sync.times_of_fields(jsonb, text[])']
$function$;
COMMENT ON FUNCTION mana_sync.maintenance_routines() IS
    'Returns the signatures of the routines that mana_sync.grant_maintenance grants EXECUTE on.';

DO $do$
DECLARE
    part text;
BEGIN
    FOREACH part IN ARRAY mana_sync.maintenance_routines() LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', part);
    END LOOP;
END
$do$;

-- grant_access and grant_maintenance both grant USAGE on the schema. Both let a role write to the log, by push and by adopt, and so
-- grant USAGE on the sequence. What both grant is revoked when a role has neither any more.
CREATE FUNCTION mana_sync.close_gate(role regrole) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(c.relacl) AS a
        WHERE c.oid OPERATOR(pg_catalog.=) 'mana_sync.sync_changes'::pg_catalog.regclass
          AND a.grantee OPERATOR(pg_catalog.=) role::pg_catalog.oid
    ) AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_proc AS p, pg_catalog.aclexplode(p.proacl) AS a
        WHERE p.oid OPERATOR(pg_catalog.=) 'mana_sync.purge_deleted(interval)'::pg_catalog.regprocedure
          AND a.grantee OPERATOR(pg_catalog.=) role::pg_catalog.oid
    ) THEN
        EXECUTE pg_catalog.format('REVOKE ALL ON SEQUENCE mana_sync.sync_changes_seq FROM %s', role);
        EXECUTE pg_catalog.format('REVOKE ALL ON SCHEMA mana_sync FROM %s', role);
    END IF;
END
$function$;
COMMENT ON FUNCTION mana_sync.close_gate(regrole) IS
    'Revokes all privileges on the schema mana_sync and on the sequence of the log from a role, unless the role still '
    'has privileges from mana_sync.grant_access or mana_sync.grant_maintenance. Has no effect if the caller has no '
    'right to revoke them.';

-- A GRANT by a role without the right to grant raises only a warning, or grants a part. This function raises an error before
-- anything is granted or revoked.
CREATE FUNCTION mana_sync.require_owner(function_name text, role regrole) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF NOT (SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') FROM pg_catalog.pg_class AS c
            WHERE c.oid OPERATOR(pg_catalog.=) 'mana_sync.sync_changes'::pg_catalog.regclass) THEN
        RAISE EXCEPTION 'permission denied for function %', function_name
            USING ERRCODE = '42501', DETAIL = 'Only the owner of the extension, or a superuser, may change who has access.';
    END IF;
    -- A regrole can be the number of a role that does not exist.
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.oid OPERATOR(pg_catalog.=) role::pg_catalog.oid) THEN
        RAISE EXCEPTION 'role must be the name of a role'
            USING ERRCODE = '22023', DETAIL = 'Argument: role.';
    END IF;
END
$function$;
COMMENT ON FUNCTION mana_sync.require_owner(text, regrole) IS
    'Raises error 42501 unless the caller owns the extension or is a superuser, and error 22023 if the role does not '
    'exist.';
