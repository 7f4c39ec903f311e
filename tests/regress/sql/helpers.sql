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

-- The application's role: a plain one.
CREATE ROLE regress_app;
