-- Days that the messages of a conversation are kept. NULL is the default of the settings, 0 is for ever.
ALTER TABLE conversations ADD COLUMN retention_days INTEGER;
-- Row keys of the oldest message and of the oldest report that are left. A key below those of the present generation stands
-- for its first entry, so a clear need not reset it.
ALTER TABLE conversations ADD COLUMN first_message INTEGER NOT NULL DEFAULT 0;
ALTER TABLE conversations ADD COLUMN first_report INTEGER NOT NULL DEFAULT 0;
-- The ID of the message that the report is about, where that message was removed before the report. Else NULL.
ALTER TABLE reports ADD COLUMN message_id TEXT;

CREATE INDEX conversations_with_retention ON conversations (number) WHERE retention_days > 0;
