-- Identifiers are the text of the wire. Tables are clustered by their key (WITHOUT ROWID), so that what
-- is read together stands together, and every table that grows is keyed by user or conversation first.
-- Users alone are not: their rows are long, and read one at a time.

CREATE TABLE users (
    id TEXT NOT NULL,
    email TEXT NOT NULL,
    nick TEXT NOT NULL,
    full_name TEXT NOT NULL,
    -- The server verifies an HMAC under this key, so it must hold the key itself.
    api_key TEXT NOT NULL,
    -- SHA-256 of the key: login looks a key up by this, so that no index leaks its prefix by timing.
    api_key_digest TEXT NOT NULL,
    is_disabled INTEGER NOT NULL DEFAULT 0,
    -- The RSA private key in PEM, encrypted under a password that is stored nowhere.
    private_key TEXT NOT NULL,
    public_key TEXT NOT NULL,
    CONSTRAINT users_pk PRIMARY KEY (id),
    CONSTRAINT users_api_key_digest_unique UNIQUE (api_key_digest),
    CONSTRAINT users_is_disabled_boolean CHECK (is_disabled IN (0, 1))
) STRICT;

-- One row for each direction, so that a user's friends stand together.
CREATE TABLE friends (
    user_id TEXT NOT NULL,
    friend_id TEXT NOT NULL,
    CONSTRAINT friends_pk PRIMARY KEY (user_id, friend_id),
    CONSTRAINT friends_user_fk FOREIGN KEY (user_id) REFERENCES users (id),
    CONSTRAINT friends_friend_fk FOREIGN KEY (friend_id) REFERENCES users (id)
) STRICT, WITHOUT ROWID;

CREATE TABLE conversations (
    id TEXT NOT NULL,
    -- The generation counts the clears; the instance is its random name on the wire.
    generation INTEGER NOT NULL,
    instance TEXT NOT NULL,
    -- The place that the next message of this generation takes. The first is 1.
    next_seq INTEGER NOT NULL,
    last_message_id TEXT NOT NULL,
    last_access INTEGER NOT NULL,
    CONSTRAINT conversations_pk PRIMARY KEY (id)
) STRICT, WITHOUT ROWID;

-- What is one participant's own of a conversation.
CREATE TABLE participants (
    conversation_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    secret TEXT NOT NULL,
    display_name TEXT NOT NULL,
    is_muted INTEGER NOT NULL DEFAULT 0,
    is_favorite INTEGER NOT NULL DEFAULT 0,
    is_hidden INTEGER NOT NULL DEFAULT 0,
    hide_id TEXT NOT NULL DEFAULT '',
    background_color TEXT NOT NULL DEFAULT '#ffffff',
    CONSTRAINT participants_pk PRIMARY KEY (conversation_id, user_id),
    CONSTRAINT participants_conversation_fk FOREIGN KEY (conversation_id) REFERENCES conversations (id),
    CONSTRAINT participants_user_fk FOREIGN KEY (user_id) REFERENCES users (id),
    CONSTRAINT participants_is_muted_boolean CHECK (is_muted IN (0, 1)),
    CONSTRAINT participants_is_favorite_boolean CHECK (is_favorite IN (0, 1)),
    CONSTRAINT participants_is_hidden_boolean CHECK (is_hidden IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE INDEX participants_by_user ON participants (user_id, conversation_id);

-- No foreign keys: the statement that inserts has just read the conversation and its participants,
-- and a second look for each message would be paid on the hottest path.
CREATE TABLE messages (
    conversation_id TEXT NOT NULL,
    generation INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    id TEXT NOT NULL,
    sender_id TEXT NOT NULL,
    type TEXT NOT NULL,
    created TEXT NOT NULL,
    valid_until TEXT NOT NULL,
    -- Unix seconds by the server's clock, never falling within a generation.
    accepted_at INTEGER NOT NULL,
    data TEXT NOT NULL,
    CONSTRAINT messages_pk PRIMARY KEY (conversation_id, generation, seq),
    CONSTRAINT messages_id_unique UNIQUE (conversation_id, generation, id)
) STRICT, WITHOUT ROWID;

-- Generations that a clear has ended and whose messages are still to be removed.
CREATE TABLE purges (
    conversation_id TEXT NOT NULL,
    generation INTEGER NOT NULL,
    CONSTRAINT purges_pk PRIMARY KEY (conversation_id, generation)
) STRICT, WITHOUT ROWID;

-- Signatures of changes that were carried out, until their timestamp is too old to be accepted again.
CREATE TABLE replays (
    user_id TEXT NOT NULL,
    signature TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    CONSTRAINT replays_pk PRIMARY KEY (user_id, signature)
) STRICT, WITHOUT ROWID;

CREATE INDEX replays_by_expiry ON replays (expires_at);
