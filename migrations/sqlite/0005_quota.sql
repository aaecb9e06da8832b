-- Bytes of all data of the present generation: a conversation has a quota. Each message writes this row anyway.
ALTER TABLE conversations ADD COLUMN data_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE conversations SET data_bytes = (
    SELECT coalesce(sum(octet_length(m.data)), 0) FROM messages m
    WHERE m.place > conversations.generation << 32 AND m.place < (conversations.generation + 1) << 32);
