-- Privileges. Nothing here is granted to PUBLIC: a role has access once grant_access names it.

-- To make a trigger of a function takes EXECUTE, to fire it does not. This one is for the log's own.
REVOKE EXECUTE ON FUNCTION mana_sync.note_change() FROM PUBLIC;

CREATE FUNCTION mana_sync.grant_access(role regrole) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    PERFORM mana_sync.require_owner('grant_access', role);
    -- A function's EXECUTE is everybody's (see functions.sql); USAGE on the schema opens the gate.
    EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA mana_sync TO %s', role);
    EXECUTE pg_catalog.format('GRANT SELECT ON mana_sync.sync_changes TO %s', role);
    -- Not epoch, xact, seq and created_at: their defaults are what orders the log.
    EXECUTE pg_catalog.format('GRANT INSERT (id, app_id, table_name, record_id, user_id, op, data, field_timestamps,
            client_id, schema_version, actor, space_id) ON mana_sync.sync_changes TO %s', role);
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
    'Lets a role call the functions, and read and append to the log under row-level security. For the owner of the extension.';

CREATE FUNCTION mana_sync.revoke_access(role regrole) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    PERFORM mana_sync.require_owner('revoke_access', role);
    -- A table-wide REVOKE takes back the column privileges too.
    EXECUTE pg_catalog.format('REVOKE ALL ON mana_sync.sync_changes FROM %s', role);
    EXECUTE pg_catalog.format('REVOKE ALL ON SEQUENCE mana_sync.sync_changes_seq FROM %s', role);
    PERFORM mana_sync.close_gate(role);
END
$function$;
COMMENT ON FUNCTION mana_sync.revoke_access(regrole) IS
    'Takes back what grant_access gave. For the owner of the extension.';

CREATE FUNCTION mana_sync.grant_maintenance(role regrole) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    part text;
BEGIN
    PERFORM mana_sync.require_owner('grant_maintenance', role);
    EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA mana_sync TO %s', role);
    EXECUTE pg_catalog.format('GRANT SELECT ON mana_sync.compaction_progress, mana_sync.purges TO %s', role);
    FOREACH part IN ARRAY mana_sync.maintenance_routines() LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO %s', part, role);
    END LOOP;
END
$function$;
COMMENT ON FUNCTION mana_sync.grant_maintenance(regrole) IS
    'Lets a role compact the log, purge deletes and forget users, without seeing a row of it. For the owner of the extension; never give it to the role of an application.';

CREATE FUNCTION mana_sync.revoke_maintenance(role regrole) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    part text;
BEGIN
    PERFORM mana_sync.require_owner('revoke_maintenance', role);
    EXECUTE pg_catalog.format('REVOKE ALL ON mana_sync.compaction_progress, mana_sync.purges FROM %s', role);
    FOREACH part IN ARRAY mana_sync.maintenance_routines() LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM %s', part, role);
    END LOOP;
    PERFORM mana_sync.close_gate(role);
END
$function$;
COMMENT ON FUNCTION mana_sync.revoke_maintenance(regrole) IS
    'Takes back what grant_maintenance gave. For the owner of the extension.';

CREATE FUNCTION mana_sync.maintenance_routines() RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT ARRAY[
        'mana_sync.begin_compaction(text, text, text, interval, boolean)',
        'mana_sync.compact_batch(uuid, int)',
        'mana_sync.compact(text, text, text, interval, int, interval, boolean, bigint, bigint, bigint)',
        'mana_sync.purge_deleted(interval)',
        'mana_sync.forget_user(text)',
        'mana_sync.begin_epoch()']
$function$;
COMMENT ON FUNCTION mana_sync.maintenance_routines() IS
    'What grant_maintenance grants.';

DO $do$
DECLARE
    part text;
BEGIN
    FOREACH part IN ARRAY mana_sync.maintenance_routines() LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', part);
    END LOOP;
END
$do$;

-- The same USAGE serves both grants.
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
        EXECUTE pg_catalog.format('REVOKE ALL ON SCHEMA mana_sync FROM %s', role);
    END IF;
END
$function$;
COMMENT ON FUNCTION mana_sync.close_gate(regrole) IS
    'Takes USAGE on the schema from a role that has neither access nor maintenance. Does nothing for who may not revoke it.';

-- GRANT by a role that may not grant is a warning or a half-done job; these two say no instead.
CREATE FUNCTION mana_sync.require_owner(function_name text, role regrole) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF NOT (SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') FROM pg_catalog.pg_class AS c
            WHERE c.oid OPERATOR(pg_catalog.=) 'mana_sync.sync_changes'::pg_catalog.regclass) THEN
        RAISE EXCEPTION 'permission denied for function %', function_name
            USING ERRCODE = '42501', DETAIL = 'Only the owner of the extension, or a superuser, may change who has access.';
    END IF;
    -- A number is a regrole too, whether or not there is such a role.
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.oid OPERATOR(pg_catalog.=) role::pg_catalog.oid) THEN
        RAISE EXCEPTION 'role must be the name of a role'
            USING ERRCODE = '22023', DETAIL = 'Argument: role.';
    END IF;
END
$function$;
COMMENT ON FUNCTION mana_sync.require_owner(text, regrole) IS
    'Raises 42501 unless the caller owns the extension, and 22023 for a role that is none.';
