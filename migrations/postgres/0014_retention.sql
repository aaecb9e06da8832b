-- See the file of this name for SQLite.
SET LOCAL lock_timeout = '5s';

ALTER TABLE conversations
    ADD COLUMN retention_days bigint,
    ADD COLUMN first_message bigint NOT NULL DEFAULT 0,
    ADD COLUMN first_report bigint NOT NULL DEFAULT 0;
ALTER TABLE reports ADD COLUMN message_id text COLLATE "C";

CREATE INDEX conversations_with_retention ON conversations (number) WHERE retention_days > 0;
