-- Adds an epoch. The column opened_at has its default.
INSERT INTO mana_sync.epochs (number, fingerprint, secret, system_identifier, database, timeline, switched_at, next_xact)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
