-- The row key up to which the participant has viewed the other one's messages. A key of a cleared generation is below
-- all keys of the next one, so a clear need not reset it. Existing positions come from the reports.
ALTER TABLE participants ADD COLUMN read_to INTEGER NOT NULL DEFAULT 0;
UPDATE participants SET read_to = coalesce((
    SELECT r.message_place FROM conversations c CROSS JOIN reports r
    WHERE c.number = participants.conversation_number
        AND r.message_place > c.generation << 32 AND r.message_place < (c.generation + 1) << 32
        AND r.user_id = participants.user_id AND r.type = 'viewed'
    ORDER BY r.message_place DESC LIMIT 1), 0);
