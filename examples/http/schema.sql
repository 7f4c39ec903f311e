-- What examples/http needs in its database. Run by the owner of the database or a superuser; may be run again.

CREATE EXTENSION IF NOT EXISTS mana_sync;

-- The role that the server connects as. It sees the rows of the user that it names, and so it must be trusted.
DO $$
BEGIN
    CREATE ROLE app LOGIN;
EXCEPTION
    WHEN duplicate_object THEN NULL;
END
$$;
SELECT mana_sync.grant_access('app');

-- Who is in which space. Whatever manages spaces writes it; the server only reads it, with each request. COLLATE "C", as in
-- the log: no upgrade of the operating system changes the order of the index, which would hide members from it.
CREATE TABLE IF NOT EXISTS public.memberships (
    user_id text COLLATE "C" NOT NULL CHECK (user_id <> ''),
    -- mana_sync keeps the spaces of a scope in a comma-separated setting.
    space_id text COLLATE "C" NOT NULL CHECK (space_id <> '' AND strpos(space_id, ',') = 0),
    PRIMARY KEY (user_id, space_id)
);
GRANT SELECT ON public.memberships TO app;
