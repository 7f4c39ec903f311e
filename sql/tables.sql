-- The log and what gives its rows their order. Column defaults call functions of defaults.sql.

-- One uninterrupted history of transaction ids: a (system, database, timeline) that the log was
-- written on. The first writer on a new one adds a row through mana_sync.open_epoch(). Writers that
-- are first at the same time do not wait for each other: each adds an equal row, hence no primary
-- key. CREATE EXTENSION adds no row: a restored dump brings the rows that belong to its log.
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
    'Histories of transaction ids that the log was written on, one number for each: a new timeline, database or cluster begins a new one.';
COMMENT ON COLUMN mana_sync.epochs.number IS 'Number of the epoch, from 1, greater for a later one; the rows of the log carry it.';
COMMENT ON COLUMN mana_sync.epochs.fingerprint IS 'Tells apart two histories that chose the same number. Cursors carry it.';
COMMENT ON COLUMN mana_sync.epochs.secret IS 'Key of the hashes that cursors carry for spaces and readers. Not readable by application roles.';
COMMENT ON COLUMN mana_sync.epochs.system_identifier IS 'System identifier of the cluster (pg_control_system()).';
COMMENT ON COLUMN mana_sync.epochs.database IS 'OID of the database.';
COMMENT ON COLUMN mana_sync.epochs.timeline IS 'Timeline of the write-ahead log.';
COMMENT ON COLUMN mana_sync.epochs.switched_at IS 'Where that timeline left its parent; 0/0 for timeline 1.';
COMMENT ON COLUMN mana_sync.epochs.next_xact IS 'A transaction id that had not been given out yet: the rows of earlier epochs of the system have smaller ones.';
COMMENT ON COLUMN mana_sync.epochs.opened_at IS 'When the transaction of a first writer began. No row that the log''s own functions wrote in the epoch has an earlier created_at.';
COMMENT ON CONSTRAINT epochs_number_check ON mana_sync.epochs IS 'Numbers begin at 1; cursors use 0 for the beginning of the log.';

-- CACHE 1 is relied upon: within a transaction a later row must have a greater seq.
CREATE SEQUENCE mana_sync.sync_changes_seq AS bigint CACHE 1;

COMMENT ON SEQUENCE mana_sync.sync_changes_seq IS 'Order of the rows of one transaction in mana_sync.sync_changes.';

-- COLLATE: text has the order of its bytes, whatever the locale of the database. An order that an upgrade of the operating
-- system (or of ICU) changes makes indexes hide rows, which would be lost for readers; and comparisons of bytes are the
-- fastest. created_at is the clock and not now(): a merge compares devices' times with it, and the start of a transaction that is
-- open for long would make an honest time look like one from the future. Columns of fixed width come first, which saves padding. seq stays the last column: its default is
-- then the last expression evaluated for a row, so that no expression of the same INSERT can read
-- the log between the number being drawn and the row being there.
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
    seq              bigint      NOT NULL DEFAULT pg_catalog.nextval('mana_sync.sync_changes_seq'),
    CONSTRAINT sync_changes_pkey PRIMARY KEY (id),
    CONSTRAINT sync_changes_op_and_user_id_check CHECK (mana_sync.is_change(op, user_id))
);

ALTER SEQUENCE mana_sync.sync_changes_seq OWNED BY mana_sync.sync_changes.seq;

COMMENT ON TABLE mana_sync.sync_changes IS
    'The change log: append-only, one row a change. Its order, the position of a row, is (epoch, xact, seq).';
COMMENT ON COLUMN mana_sync.sync_changes.id IS 'Id of the change; time-ordered (UUIDv7) unless the writer chose it.';
COMMENT ON COLUMN mana_sync.sync_changes.created_at IS 'When the row was written, by the server''s clock. No cursor depends on it.';
COMMENT ON COLUMN mana_sync.sync_changes.xact IS 'Transaction that wrote the row (its 64-bit id); second part of the position.';
COMMENT ON COLUMN mana_sync.sync_changes.epoch IS 'Number in mana_sync.epochs of the history that xact belongs to; first part of the position.';
COMMENT ON COLUMN mana_sync.sync_changes.schema_version IS 'Version of the client''s schema that the change was written under.';
COMMENT ON COLUMN mana_sync.sync_changes.user_id IS 'Author of the change.';
COMMENT ON COLUMN mana_sync.sync_changes.app_id IS 'Application that the record belongs to.';
COMMENT ON COLUMN mana_sync.sync_changes.table_name IS 'Table (collection) of the record on the device.';
COMMENT ON COLUMN mana_sync.sync_changes.record_id IS 'Id of the record on the device.';
COMMENT ON COLUMN mana_sync.sync_changes.op IS 'insert, update or delete.';
COMMENT ON COLUMN mana_sync.sync_changes.client_id IS 'Device that wrote the change.';
COMMENT ON COLUMN mana_sync.sync_changes.space_id IS 'Shared space of the record; NULL for a private one.';
COMMENT ON COLUMN mana_sync.sync_changes.data IS 'The record (insert), the fields that changed (update), or NULL.';
COMMENT ON COLUMN mana_sync.sync_changes.field_timestamps IS 'When the device wrote each field: {field: RFC 3339 timestamp}.';
COMMENT ON COLUMN mana_sync.sync_changes.actor IS 'Who acted for the user (a person, a program); opaque to the server.';
COMMENT ON COLUMN mana_sync.sync_changes.seq IS 'Order within the transaction; last part of the position.';
COMMENT ON CONSTRAINT sync_changes_op_and_user_id_check ON mana_sync.sync_changes IS
    'op is insert, update or delete, and user_id is not empty.';
COMMENT ON CONSTRAINT sync_changes_pkey ON mana_sync.sync_changes IS 'An id is stored once: a change that is sent again is noticed.';

-- For changes_since, own rows: one user's rows of an app in the order of the log (src/read.rs).
-- There is none with the table name: a pull of one table filters the rows of its app, and a client
-- pulls its tables one after the other, so that each row would be read once either way.
CREATE INDEX sync_changes_own_idx ON mana_sync.sync_changes (user_id, app_id, epoch, xact, seq);
COMMENT ON INDEX mana_sync.sync_changes_own_idx IS 'For changes_since: the rows of a user and app in the order of the log.';

-- For changes_since, rows of spaces: the space leads, so that a member reads no other space's rows.
CREATE INDEX sync_changes_space_idx ON mana_sync.sync_changes (space_id, app_id, epoch, xact, seq)
    WHERE space_id IS NOT NULL;
COMMENT ON INDEX mana_sync.sync_changes_space_idx IS 'For changes_since: the rows of a space and app in the order of the log.';

-- For records and record_history of one record, in plain SQL too: WHERE app_id = 'a' AND record_id = 'r' AND table_name = 't'.
-- Behind the record's id the space, with which a member finds the shared rows of an id that many others use privately; then
-- the user. For compact, which reads the log in this order: the changes that the same readers see of a record lie together.
-- CASE: an empty space is none, and a row comparison stops at NULL. (Not COALESCE, which the planner does not take for
-- leakproof: it would evaluate it after row security, without the index.) COLLATE: POSIX is another name of the order C; a
-- condition on the user that is written so cannot be meant for sync_changes_own_idx, which the planner would take for one of
-- the average user.
CREATE INDEX sync_changes_record_idx
    ON mana_sync.sync_changes (app_id, record_id, (CASE WHEN space_id IS NULL THEN '' ELSE space_id END),
        user_id COLLATE pg_catalog."POSIX", table_name);
COMMENT ON INDEX mana_sync.sync_changes_record_idx IS 'For records, record_history and compact: the rows of a record, by space and user.';

-- Not marked for pg_dump: the log that a dump is restored into has names of its own.
CREATE TABLE mana_sync.channel_key (
    key bytea NOT NULL
);

COMMENT ON TABLE mana_sync.channel_key IS
    'Key of the names of the channels for wake-ups. Not readable by application roles. One row.';
COMMENT ON COLUMN mana_sync.channel_key.key IS '16 bytes; a change of it changes the names: listeners have to ask again.';

INSERT INTO mana_sync.channel_key VALUES (pg_catalog.uuid_send(pg_catalog.gen_random_uuid()));

-- Before each row and not after it: an AFTER trigger is an event in a queue for every row.
CREATE TRIGGER sync_changes_note BEFORE INSERT ON mana_sync.sync_changes
    FOR EACH ROW EXECUTE FUNCTION mana_sync.note_change();
COMMENT ON TRIGGER sync_changes_note ON mana_sync.sync_changes IS
    'Notes whom a transaction touches, for wake-ups; does nothing where they are not configured.';

-- pg_dump takes the rows of an extension's table only if it is marked. (The sequence too: its value
-- orders the rows that are written after a restore.)
SELECT pg_catalog.pg_extension_config_dump('mana_sync.epochs', '');
SELECT pg_catalog.pg_extension_config_dump('mana_sync.sync_changes', '');
SELECT pg_catalog.pg_extension_config_dump('mana_sync.sync_changes_seq', '');
