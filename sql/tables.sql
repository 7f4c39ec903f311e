-- The change log, and the objects that define the order of its rows. Column defaults call functions of defaults.sql.

-- An epoch is one continuous history of transaction ids: the log was written on one (system, database, timeline). The first
-- writer on a new history adds a row by mana_sync.open_epoch(). Concurrent first writers do not wait for each other: each adds an
-- equal row, so that there is no primary key. CREATE EXTENSION adds no row, because a restored dump brings the rows of its log.
CREATE TABLE mana_sync.epochs (
    number            int         NOT NULL CONSTRAINT epochs_number_check CHECK (number OPERATOR(pg_catalog.>) 0),
    fingerprint       bigint      NOT NULL,
    secret            bytea       NOT NULL,
    system_identifier bigint      NOT NULL,
    database          oid         NOT NULL,
    timeline          int         NOT NULL,
    switched_at       pg_lsn      NOT NULL,
    next_xact         xid8        NOT NULL,
    opened_at         timestamptz NOT NULL DEFAULT pg_catalog.now()
);

COMMENT ON TABLE mana_sync.epochs IS
    'Epochs of the log. An epoch is one continuous history of transaction ids; a new timeline, database or cluster '
    'begins another one. One epoch can have several equal rows, because writers that open it at the same time each '
    'add one.';
COMMENT ON COLUMN mana_sync.epochs.number IS
    'Number of the epoch. The first is 1, and a later epoch has a greater number. mana_sync.sync_changes.epoch refers '
    'to it.';
COMMENT ON COLUMN mana_sync.epochs.fingerprint IS
    'Tells apart epochs with the same number. Servers that diverged from one another can have such epochs. Cursors '
    'contain the fingerprint.';
COMMENT ON COLUMN mana_sync.epochs.secret IS
    'Secret 16-byte key of the hashes by which cursors name spaces and readers. Application roles cannot read it.';
COMMENT ON COLUMN mana_sync.epochs.system_identifier IS
    'System identifier of the cluster on which the epoch was opened (pg_control_system()).';
COMMENT ON COLUMN mana_sync.epochs.database IS 'OID of the database in which the epoch was opened.';
COMMENT ON COLUMN mana_sync.epochs.timeline IS 'Id of the timeline on which the epoch was opened.';
COMMENT ON COLUMN mana_sync.epochs.switched_at IS
    'LSN at which the timeline of the epoch branched off from its parent; 0/0 for timeline 1.';
COMMENT ON COLUMN mana_sync.epochs.next_xact IS
    'Next unassigned transaction id of the server when this row was added. Changes that were written in earlier '
    'epochs of the same cluster have a smaller xact.';
COMMENT ON COLUMN mana_sync.epochs.opened_at IS
    'Start time of the transaction that added this row. mana_sync.adopt adds a row for the first epoch with the '
    'created_at of the oldest row that it adopted. The log begins at the earliest opened_at: no change has an earlier '
    'created_at, unless a superuser inserted it.';
COMMENT ON CONSTRAINT epochs_number_check ON mana_sync.epochs IS
    'Epoch numbers begin at 1. In a cursor, epoch 0 stands for the beginning of the log.';

-- CACHE must stay 1: within a transaction, a later row must have a greater seq.
CREATE SEQUENCE mana_sync.sync_changes_seq AS bigint CACHE 1;

COMMENT ON SEQUENCE mana_sync.sync_changes_seq IS
    'Numbers the rows of mana_sync.sync_changes. Rows of one transaction are ordered by these numbers.';

-- COLLATE "C": text is ordered by its bytes, whatever the locale of the database. If an upgrade of the operating system or of ICU
-- changed the order, indexes would hide rows, and readers would lose changes. Comparing bytes is also the fastest.
-- created_at is clock_timestamp() and not now(): merging compares the times of devices with it, and in a long transaction now()
-- would make a correct time look like one in the future.
-- Columns of fixed width come first, which saves padding.
-- seq must stay the last column: PostgreSQL then evaluates its default last, and no other expression of the same INSERT can read
-- the log between the call of nextval and the insertion of the row.
CREATE TABLE mana_sync.sync_changes (
    id               uuid        NOT NULL DEFAULT mana_sync.uuidv7(),
    created_at       timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    xact             xid8        NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    epoch            int         NOT NULL DEFAULT mana_sync.current_epoch(),
    schema_version   int         NOT NULL DEFAULT 1,
    user_id          text COLLATE pg_catalog."C" NOT NULL,
    app_id           text COLLATE pg_catalog."C" NOT NULL,
    table_name       text COLLATE pg_catalog."C" NOT NULL,
    record_id        text COLLATE pg_catalog."C" NOT NULL,
    op               text COLLATE pg_catalog."C" NOT NULL,
    client_id        text COLLATE pg_catalog."C" NOT NULL,
    space_id         text COLLATE pg_catalog."C",
    data             jsonb,
    field_timestamps jsonb       DEFAULT '{}',
    actor            jsonb,
    origin           text COLLATE pg_catalog."C",
    seq              bigint      NOT NULL DEFAULT pg_catalog.nextval('mana_sync.sync_changes_seq'),
    CONSTRAINT sync_changes_pkey PRIMARY KEY (id),
    CONSTRAINT sync_changes_op_and_user_id_check CHECK (mana_sync.is_change(op, user_id))
);

ALTER SEQUENCE mana_sync.sync_changes_seq OWNED BY mana_sync.sync_changes.seq;

COMMENT ON TABLE mana_sync.sync_changes IS
    'The change log. It is append-only and has one row for each change. (epoch, xact, seq) is the position of a row. '
    'Rows in log order are sorted by position.';
COMMENT ON COLUMN mana_sync.sync_changes.id IS
    'Id of the change, unique in the log. The default is a time-ordered UUID (version 7).';
COMMENT ON COLUMN mana_sync.sync_changes.created_at IS
    'Time at which the row was written, by the clock of the server. Cursors do not depend on it.';
COMMENT ON COLUMN mana_sync.sync_changes.xact IS
    '64-bit id of the transaction that wrote the row. It is the second part of the position (epoch, xact, seq).';
COMMENT ON COLUMN mana_sync.sync_changes.epoch IS
    'Number of the epoch that xact belongs to (mana_sync.epochs.number). It is the first part of the position (epoch, '
    'xact, seq).';
COMMENT ON COLUMN mana_sync.sync_changes.schema_version IS
    'Version of the schema that the client used when it wrote the change.';
COMMENT ON COLUMN mana_sync.sync_changes.user_id IS 'User who wrote the change.';
COMMENT ON COLUMN mana_sync.sync_changes.app_id IS 'Application that the record belongs to.';
COMMENT ON COLUMN mana_sync.sync_changes.table_name IS 'Table (collection) of the record on the device.';
COMMENT ON COLUMN mana_sync.sync_changes.record_id IS 'Id of the record on the device.';
COMMENT ON COLUMN mana_sync.sync_changes.op IS 'Operation: insert, update or delete.';
COMMENT ON COLUMN mana_sync.sync_changes.client_id IS
    'Id of the device that wrote the change; empty if it was not given.';
COMMENT ON COLUMN mana_sync.sync_changes.space_id IS 'Shared space of the record; NULL: the record is private.';
COMMENT ON COLUMN mana_sync.sync_changes.data IS
    'JSON object of field values: all fields of the record for an insert, the changed fields for an update. A delete '
    'can store its time under the key deletedAt. NULL: the change has no data.';
COMMENT ON COLUMN mana_sync.sync_changes.field_timestamps IS
    'Time at which the device wrote each field: {field: RFC 3339 timestamp}. In an insert, the empty key '''' holds '
    'the time of the insert and of the fields that have no time of their own. NULL: no times are known.';
COMMENT ON COLUMN mana_sync.sync_changes.actor IS
    'Person or program that acted for the user. The server does not interpret it. NULL: not given.';
COMMENT ON COLUMN mana_sync.sync_changes.origin IS
    'What made the change, for example user, agent, system or migration. The server does not interpret it. NULL: not '
    'given.';
COMMENT ON COLUMN mana_sync.sync_changes.seq IS
    'Number from mana_sync.sync_changes_seq, which orders the rows of one transaction. It is the last part of the '
    'position (epoch, xact, seq).';
COMMENT ON CONSTRAINT sync_changes_op_and_user_id_check ON mana_sync.sync_changes IS
    'op must be insert, update or delete, and user_id must not be empty.';
COMMENT ON CONSTRAINT sync_changes_pkey ON mana_sync.sync_changes IS
    'The log stores each change id once. A change that is sent again is detected by its id.';

-- No index has table_name in front of the position: a pull of one table filters the rows of its app. A client that pulls its
-- tables separately then reads rows of the other tables in vain, but every write is spared one more index.
CREATE INDEX sync_changes_own_idx ON mana_sync.sync_changes (user_id, app_id, epoch, xact, seq);
COMMENT ON INDEX mana_sync.sync_changes_own_idx IS
    'Finds the rows of one user and app, in log order. It serves mana_sync.changes_since, mana_sync.records and other '
    'functions.';

-- space_id comes first, so that a member reads no rows of other spaces.
CREATE INDEX sync_changes_space_idx ON mana_sync.sync_changes (space_id, app_id, epoch, xact, seq)
    WHERE space_id IS NOT NULL;
COMMENT ON INDEX mana_sync.sync_changes_space_idx IS
    'Finds the rows of one space and app, in log order. It serves mana_sync.changes_since, mana_sync.records and '
    'other functions.';

-- The index serves one record, in plain SQL too: WHERE app_id = 'a' AND record_id = 'r' AND table_name = 't'. space_id follows
-- record_id, so that a member finds the shared rows of a record id that many other users use privately. compact reads the log
-- in the order of this index, in which the changes of one group (same record, space and user) are adjacent.
-- CASE maps NULL to '', because a row comparison with NULL yields NULL. COALESCE would not do: the planner does not treat it as
-- leakproof, and would evaluate it after row-level security, without this index.
-- COLLATE "POSIX" is another name of the order "C". A condition on user_id with this collation cannot use sync_changes_own_idx,
-- which the planner would otherwise prefer, because it estimates the number of rows of an average user.
CREATE INDEX sync_changes_record_idx
    ON mana_sync.sync_changes (app_id, record_id, (CASE WHEN space_id IS NULL THEN '' ELSE space_id END),
        user_id COLLATE pg_catalog."POSIX", table_name);
COMMENT ON INDEX mana_sync.sync_changes_record_idx IS
    'Finds the rows of one record, sorted by space and then by user. It serves mana_sync.records, '
    'mana_sync.record_history, mana_sync.compact and other functions.';

-- Not marked for pg_dump: a restored log gets a new key, and with it new channel names.
CREATE TABLE mana_sync.channel_key (
    key bytea NOT NULL
);

COMMENT ON TABLE mana_sync.channel_key IS
    'Holds, in one row, the secret key of the hashes that name the NOTIFY channels of wake-ups. Application roles '
    'cannot read it.';
COMMENT ON COLUMN mana_sync.channel_key.key IS
    'The 16-byte key. If it changes, all channel names change, and listeners must ask for the names again.';

INSERT INTO mana_sync.channel_key VALUES (pg_catalog.uuid_send(pg_catalog.gen_random_uuid()));

-- BEFORE and not AFTER: an AFTER trigger queues an event for every row.
CREATE TRIGGER sync_changes_note BEFORE INSERT ON mana_sync.sync_changes
    FOR EACH ROW EXECUTE FUNCTION mana_sync.note_change();
COMMENT ON TRIGGER sync_changes_note ON mana_sync.sync_changes IS
    'Collects the user, space, app, table and client of each inserted row for wake-ups. Does nothing if wake-ups are '
    'not configured.';

-- pg_dump saves the rows of an extension's table only if the table is marked. The sequence is marked too, because its value
-- orders the rows that are written after a restore.
SELECT pg_catalog.pg_extension_config_dump('mana_sync.epochs', '');
SELECT pg_catalog.pg_extension_config_dump('mana_sync.sync_changes', '');
SELECT pg_catalog.pg_extension_config_dump('mana_sync.sync_changes_seq', '');
