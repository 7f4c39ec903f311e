-- What the other files share. They show a call's error as a row, SQLSTATE included:
--   SELECT * FROM outcome($$ statement $$);
CREATE FUNCTION outcome(statement text, OUT code text, OUT message text, OUT detail text, OUT hint text)
    LANGUAGE plpgsql AS $function$
BEGIN
    EXECUTE statement;
    code := '00000';
    message := 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
        detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
END
$function$;

-- A row of the log as it is given, recorded at noon of a day long ago unless told otherwise; for a superuser. Later calls have later positions.
CREATE PROCEDURE put(
    record text, op text, data jsonb DEFAULT NULL, times jsonb DEFAULT '{}', recorded timestamptz DEFAULT '2025-03-01T12:00:00Z',
    who text DEFAULT 'ada', space text DEFAULT NULL, tab text DEFAULT 'items', app text DEFAULT 'todo', client text DEFAULT 'phone')
    LANGUAGE plpgsql AS $procedure$
BEGIN
    INSERT INTO mana_sync.sync_changes (app_id, table_name, record_id, user_id, space_id, op, client_id, data, field_timestamps, created_at)
        VALUES (app, tab, record, who, space, op, client, data, times, recorded);
END
$procedure$;

-- The application's role: a plain one.
CREATE ROLE regress_app;

-- A change of an answer, with words in the place of what differs from run to run: when it was recorded, and its position.
CREATE FUNCTION steady(change jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT replace(replace(change::text, change ->> 'recordedAt', '(recorded)'),
                   '"' || (change ->> 'position') || '"', '"(position)"')::jsonb
$$;
