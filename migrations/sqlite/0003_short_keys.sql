-- What is many is short and stands where it is looked for. Users, conversations and their generations have numbers
-- beside their ids, and what a generation holds has a place: the number of the generation in the upper bits, and in
-- the lower 32 its sequence number there. A table whose only key is one integer is a B+ tree: its inner pages hold
-- nothing but keys, where those of a table WITHOUT ROWID hold whole rows.

-- Existing users keep the order in which they were added.
ALTER TABLE users ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
UPDATE users SET number = rowid;
CREATE UNIQUE INDEX users_number_unique ON users (number);
CREATE INDEX users_numbers ON users (id, number);

ALTER TABLE conversations RENAME TO old_conversations;
ALTER TABLE participants RENAME TO old_participants;
ALTER TABLE messages RENAME TO old_messages;
ALTER TABLE purges RENAME TO old_purges;
ALTER TABLE reports RENAME TO old_reports;
ALTER TABLE replays RENAME TO old_replays;
ALTER TABLE change_numbers RENAME TO old_change_numbers;
ALTER TABLE changes RENAME TO old_changes;
DROP INDEX participants_by_user;
DROP INDEX replays_by_expiry;

-- Those that are over come first: the newest generation of all is always a present one.
CREATE TABLE generations (number INTEGER PRIMARY KEY, conversation_id TEXT NOT NULL, generation INTEGER NOT NULL);
INSERT INTO generations (conversation_id, generation)
    SELECT conversation_id, generation FROM old_purges ORDER BY conversation_id, generation;
INSERT INTO generations (conversation_id, generation)
    SELECT id, generation FROM old_conversations ORDER BY id;
CREATE UNIQUE INDEX generations_by_conversation ON generations (conversation_id, generation);

CREATE TABLE conversations (
    number INTEGER NOT NULL,
    id TEXT NOT NULL,
    -- Each clear begins a new one, whose number no other conversation has had. The instance is its name on the wire.
    generation INTEGER NOT NULL,
    instance TEXT NOT NULL,
    -- The sequence number that the next message of this generation takes. The first is 1.
    next_seq INTEGER NOT NULL,
    last_message_id TEXT NOT NULL,
    last_access INTEGER NOT NULL,
    -- The bytes of the longest data in this generation: whether a page can be too long is known without looking.
    longest_data INTEGER NOT NULL DEFAULT 0,
    -- The sequence number that the next report of this generation takes. The first is 1.
    next_report_seq INTEGER NOT NULL DEFAULT 1,
    -- Without its hyphens, as the wire has it.
    last_report_id TEXT NOT NULL DEFAULT '',
    CONSTRAINT conversations_pk PRIMARY KEY (number),
    CONSTRAINT conversations_id_unique UNIQUE (id),
    CONSTRAINT conversations_generation_unique UNIQUE (generation)
) STRICT;

INSERT INTO conversations (id, generation, instance, next_seq, last_message_id, last_access, longest_data,
                           next_report_seq, last_report_id)
SELECT c.id, g.number, c.instance, c.next_seq, c.last_message_id, c.last_access,
       coalesce((SELECT max(octet_length(m.data)) FROM old_messages m
                 WHERE m.conversation_id = c.id AND m.generation = c.generation), 0),
       c.next_report_seq, replace(c.last_report_id, '-', '')
FROM old_conversations c
JOIN generations g ON g.conversation_id = c.id AND g.generation = c.generation
ORDER BY c.id;

-- What is one participant's own of a conversation. What one user takes part in stands together.
CREATE TABLE participants (
    -- The user's number in the upper bits, in the lower 32 the conversation's.
    place INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    user_number INTEGER NOT NULL,
    conversation_id TEXT NOT NULL,
    conversation_number INTEGER NOT NULL,
    -- What the participant may do: 'open' is everything; 'blocked', where the participant has blocked the other one, and
    -- 'not_friends' allow to read. It follows from friends and blocks, and is written in the transactions that change these.
    standing TEXT NOT NULL,
    -- Who takes part, as the conversation object says it: the entries of participantids, the name of the next field
    -- and the entries of that, which have the nicks. It is written anew when a nick changes.
    people TEXT NOT NULL,
    secret TEXT NOT NULL,
    display_name TEXT NOT NULL,
    is_muted INTEGER NOT NULL DEFAULT 0,
    is_favorite INTEGER NOT NULL DEFAULT 0,
    is_hidden INTEGER NOT NULL DEFAULT 0,
    hide_id TEXT NOT NULL DEFAULT '',
    background_color TEXT NOT NULL DEFAULT '#ffffff',
    -- All messages of others up to this place are reported as delivered to this participant, so that a page below it
    -- need not look for their reports.
    delivered_to INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT participants_pk PRIMARY KEY (place),
    CONSTRAINT participants_user_fk FOREIGN KEY (user_id) REFERENCES users (id),
    CONSTRAINT participants_conversation_fk FOREIGN KEY (conversation_number) REFERENCES conversations (number),
    CONSTRAINT participants_standing_known CHECK (standing IN ('open', 'blocked', 'not_friends')),
    CONSTRAINT participants_is_muted_boolean CHECK (is_muted IN (0, 1)),
    CONSTRAINT participants_is_favorite_boolean CHECK (is_favorite IN (0, 1)),
    CONSTRAINT participants_is_hidden_boolean CHECK (is_hidden IN (0, 1))
) STRICT;

INSERT INTO participants
SELECT (u.number << 32) + c.number, p.user_id, u.number, c.id, c.number,
       CASE WHEN EXISTS (SELECT 1 FROM blocks b WHERE b.user_id = p.user_id AND b.blocked_id = o.user_id)
            THEN 'blocked'
            WHEN NOT EXISTS (SELECT 1 FROM friends f WHERE f.user_id = p.user_id AND f.friend_id = o.user_id)
                 OR EXISTS (SELECT 1 FROM blocks b WHERE b.user_id = o.user_id AND b.blocked_id = p.user_id)
            THEN 'not_friends'
            ELSE 'open' END,
       concat('"', least.id, '","', greatest.id,
              '"],"participants":[{"userid":"', least.id, '","username":', json_quote(least.nick),
              '},{"userid":"', greatest.id, '","username":', json_quote(greatest.nick), '}'),
       p.secret, p.display_name, p.is_muted, p.is_favorite, p.is_hidden, p.hide_id, p.background_color,
       CASE p.delivered_to WHEN 0 THEN 0 ELSE (c.generation << 32) + p.delivered_to END
FROM old_participants p
JOIN users u ON u.id = p.user_id
JOIN conversations c ON c.id = p.conversation_id
JOIN old_participants o ON o.conversation_id = p.conversation_id AND o.user_id <> p.user_id
JOIN users least ON least.id = min(p.user_id, o.user_id)
JOIN users greatest ON greatest.id = max(p.user_id, o.user_id)
ORDER BY u.number, c.number;

-- Everything that decides about a message.
CREATE INDEX participants_standing
    ON participants (user_id, conversation_id, standing, user_number, conversation_number);
CREATE INDEX participants_by_conversation ON participants (conversation_number, user_id, user_number);

-- No foreign keys: the statement that inserts has just read the conversation and its participants, and a second look
-- for each message would be paid on the hottest path.
CREATE TABLE messages (
    place INTEGER NOT NULL,
    id TEXT NOT NULL,
    sender_number INTEGER NOT NULL,
    -- A JSON string, as it stands on the wire; NULL stands for "Message", which most are.
    type TEXT,
    -- Unix seconds by the sender's clock.
    created INTEGER NOT NULL,
    valid_until TEXT NOT NULL,
    -- Unix seconds by the server's clock, never falling within a generation.
    accepted_at INTEGER NOT NULL,
    data TEXT NOT NULL,
    CONSTRAINT messages_pk PRIMARY KEY (place)
) STRICT;

INSERT INTO messages
SELECT (g.number << 32) + m.seq, m.id, u.number, nullif(json_quote(m.type), '"Message"'), unixepoch(m.created),
       m.valid_until, m.accepted_at, m.data
-- In this order they come sorted, and none has to be kept in memory.
FROM generations g
CROSS JOIN old_messages m ON m.conversation_id = g.conversation_id AND m.generation = g.generation
CROSS JOIN users u ON u.id = m.sender_id;

-- Where the messages are whose IDs are given. A page of this table is written for whole runs of 16 messages alone, not
-- for each: the youngest, up to 15 of a generation, are found by looking at them.
CREATE TABLE message_ids (
    generation INTEGER NOT NULL,
    -- The 16 bytes of a UUID in lower case; of anything else its text.
    id ANY NOT NULL,
    place INTEGER NOT NULL,
    CONSTRAINT message_ids_pk PRIMARY KEY (generation, id)
) STRICT, WITHOUT ROWID;

INSERT INTO message_ids
SELECT m.place >> 32, CASE WHEN m.id GLOB uuid.pattern THEN unhex(m.id, '-') ELSE m.id END, m.place
FROM (SELECT replace('########-####-####-####-############', '#', '[0-9a-f]') AS pattern) AS uuid
CROSS JOIN conversations c
CROSS JOIN messages m ON m.place > c.generation << 32
    AND m.place <= (c.generation << 32) + (c.next_seq - 1) / 16 * 16;

-- Generations that a clear has ended and whose messages are still to be removed.
CREATE TABLE purges (
    generation INTEGER NOT NULL,
    CONSTRAINT purges_pk PRIMARY KEY (generation)
) STRICT;

INSERT INTO purges
SELECT g.number FROM old_purges p
JOIN generations g ON g.conversation_id = p.conversation_id AND g.generation = p.generation
ORDER BY g.number;

-- Receipts: one for each reader, message and type. An ID ends with the report's sequence number, so that it needs no
-- index of its own.
CREATE TABLE reports (
    place INTEGER NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    -- The server's second as a date, never falling within a generation.
    created TEXT NOT NULL,
    message_place INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    CONSTRAINT reports_pk PRIMARY KEY (place),
    CONSTRAINT reports_once UNIQUE (message_place, user_id, type),
    CONSTRAINT reports_type_known CHECK (type IN ('delivered', 'viewed'))
) STRICT;

INSERT INTO reports
SELECT (g.number << 32) + r.seq, r.id, r.type, r.created, (g.number << 32) + r.message_seq, r.user_id
FROM old_reports r
JOIN generations g ON g.conversation_id = r.conversation_id AND g.generation = r.generation
ORDER BY g.number, r.seq;

-- Signatures of changes that were carried out, until their timestamp is too old to be accepted again. No two users
-- have the same: each signs its own id with a key of its own. The same bytes
-- have the same timestamp, so new rows stand behind the old ones and the oldest are removed from the front.
CREATE TABLE replays (
    expires_at INTEGER NOT NULL,
    signature TEXT NOT NULL,
    CONSTRAINT replays_pk PRIMARY KEY (expires_at, signature)
) STRICT, WITHOUT ROWID;

INSERT INTO replays SELECT DISTINCT expires_at, signature FROM old_replays ORDER BY expires_at, signature;

-- The number of the newest change that concerns a user. Each user counts alone: a number must tell nothing
-- of what others do.
CREATE TABLE change_numbers (
    user_number INTEGER NOT NULL,
    newest INTEGER NOT NULL,
    CONSTRAINT change_numbers_pk PRIMARY KEY (user_number)
) STRICT;

INSERT INTO change_numbers
SELECT u.number, n.newest FROM old_change_numbers n JOIN users u ON u.id = n.user_id ORDER BY u.number;

-- What has changed for a user, each thing once: a conversation (kind 1, and its number as the subject), a friend
-- (kind 2, and the friend's number), or the lists of the user (kind 3). A station is not told of its own changes, so a
-- row has two numbers: of the newest change, and of the newest one that was not made at the station of the newest. Of
-- a station this is 63 bits of a hash of its id; 0 stands for none. No foreign keys: these rows are written
-- with every message.
CREATE TABLE changes (
    user_number INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    subject INTEGER NOT NULL,
    number INTEGER NOT NULL,
    station INTEGER NOT NULL,
    other_number INTEGER NOT NULL,
    CONSTRAINT changes_pk PRIMARY KEY (user_number, kind, subject),
    CONSTRAINT changes_kind_known CHECK (kind IN (1, 2, 3))
) STRICT, WITHOUT ROWID;

-- At which station the old ones were made is not kept: at worst it is told once of its own.
INSERT INTO changes
SELECT u.number, 1, c.number, o.number, 0, 0
FROM old_changes o JOIN users u ON u.id = o.user_id JOIN conversations c ON c.id = o.subject_id
WHERE o.kind = 'conversation'
UNION ALL
SELECT u.number, 2, f.number, o.number, 0, 0
FROM old_changes o JOIN users u ON u.id = o.user_id JOIN users f ON f.id = o.subject_id
WHERE o.kind = 'friend'
UNION ALL
SELECT u.number, 3, 0, o.number, 0, 0
FROM old_changes o JOIN users u ON u.id = o.user_id
WHERE o.kind = 'list';

DROP TABLE generations;
DROP TABLE old_changes;
DROP TABLE old_change_numbers;
DROP TABLE old_replays;
DROP TABLE old_reports;
DROP TABLE old_purges;
DROP TABLE old_messages;
DROP TABLE old_participants;
DROP TABLE old_conversations;
