-- In the place of IDs there are hashes of them, which are shorter. SQLite has no such function: the server fills this table
-- and the new column in the same transaction.

DROP TABLE message_ids;

-- Where the messages are whose IDs are given. A page of this table is written for whole runs of 32 messages alone, not for
-- each.
CREATE TABLE message_ids (
    generation INTEGER NOT NULL,
    -- The first 64 bits of the SHA-256 of the ID. Two IDs may have the same.
    hash INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    CONSTRAINT message_ids_pk PRIMARY KEY (generation, hash, seq)
) STRICT, WITHOUT ROWID;

-- The hashes of the youngest messages of the generation, up to 31, which are not in message_ids: 8 bytes of each.
ALTER TABLE conversations ADD COLUMN young BLOB NOT NULL DEFAULT x'';
