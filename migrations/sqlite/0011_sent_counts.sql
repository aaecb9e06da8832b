-- The number of the message among its sender's in this generation. The first is 1.
ALTER TABLE messages ADD COLUMN nth INTEGER NOT NULL DEFAULT 0;
-- Number of messages in this generation from the participant with the lower user number. The other one sent the rest.
ALTER TABLE conversations ADD COLUMN sent_by_first INTEGER NOT NULL DEFAULT 0;

UPDATE messages SET nth = counted.nth
FROM (
    SELECT place, CASE WHEN is_first THEN of_first ELSE seq - of_first END AS nth
    FROM (
        SELECT m.place, m.place - (c.generation << 32) AS seq, m.sender_number = first.user_number AS is_first,
               sum(m.sender_number = first.user_number) OVER (PARTITION BY c.number ORDER BY m.place) AS of_first
        FROM (SELECT conversation_number, min(user_number) AS user_number FROM participants
              GROUP BY conversation_number) AS first
        CROSS JOIN conversations c ON c.number = first.conversation_number
        CROSS JOIN messages m ON m.place > c.generation << 32 AND m.place < (c.generation + 1) << 32
    )
) AS counted
WHERE messages.place = counted.place;

UPDATE conversations SET sent_by_first = coalesce((
    SELECT max(m.nth)
    FROM (SELECT min(user_number) AS user_number FROM participants
          WHERE conversation_number = conversations.number) AS first
    CROSS JOIN messages m
        ON m.place > conversations.generation << 32 AND m.place < (conversations.generation + 1) << 32
            AND m.sender_number = first.user_number), 0);

-- A read position has the generation in the upper bits and, in the lower 32, the number of the other one's messages
-- that the participant has viewed. It was the row key of the last one of them.
UPDATE participants SET read_to = coalesce((
    SELECT (m.place >> 32 << 32) + m.nth FROM messages m WHERE m.place = participants.read_to), 0);
