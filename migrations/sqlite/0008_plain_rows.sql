-- No row holds a piece of a reply any more.

-- The nicks of a conversation stood in each participant's row as JSON. Now they are read from the users.
ALTER TABLE participants ADD COLUMN partner_number INTEGER NOT NULL DEFAULT 0;
UPDATE participants SET partner_number = coalesce((
    SELECT o.user_number FROM participants o
    WHERE o.conversation_number = participants.conversation_number
        AND o.user_number <> participants.user_number), 0);
ALTER TABLE participants DROP COLUMN people;

-- The type was a JSON string. NULL still stands for "Message", which most are.
UPDATE messages SET type = type ->> '$' WHERE json_valid(type);
