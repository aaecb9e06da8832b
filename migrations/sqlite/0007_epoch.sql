-- The epoch of the database: a random name that a restore from a backup changes. What clients remember of an earlier
-- epoch, such as sequence numbers, says nothing about this one. Requests that were signed up to `began_at` are refused:
-- some of them may have been carried out before the restore. It is 0 where nothing was ever restored.
CREATE TABLE epoch (
    one INTEGER NOT NULL,
    id TEXT NOT NULL,
    began_at INTEGER NOT NULL,
    CONSTRAINT epoch_pk PRIMARY KEY (one),
    CONSTRAINT epoch_one_row CHECK (one = 1)
) STRICT;

INSERT INTO epoch (one, id, began_at) VALUES (1, lower(hex(randomblob(8))), 0);
