CREATE DATABASE demo;
\connect demo
CREATE SCHEMA demo;
GRANT USAGE ON SCHEMA demo TO PUBLIC;
CREATE FUNCTION demo.expect(got text, wanted text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF got IS DISTINCT FROM wanted THEN
        RAISE EXCEPTION 'the demo got %, and should have got %', got, wanted;
    END IF;
END
$$;
CREATE FUNCTION demo.expect(got bigint, wanted bigint) RETURNS void LANGUAGE sql AS 'SELECT demo.expect($1::text, $2::text)';
