-- The schema that SQLite has after its migration 0011: the same tables, columns, keys and indexes, in the same order.
-- Later migrations have the same names in both folders.
--
-- INTEGER is BIGINT here, and a flag is BOOLEAN. Ids and every other text that is sorted or compared have COLLATE "C", so
-- that both databases agree on the order and no index depends on the version of a locale.
--
-- fillfactor 70 leaves room for the next version of a row in its page (HOT), so that an update of columns without an
-- index writes no index. No column that changes with a message has an index.

-- Functions that SQLite has built in, so that one text of SQL serves both. The planner inlines them: they cost nothing.
-- to_json and the text of a timestamp are STABLE, so these are, too. datetime needs DateStyle ISO, which sqlx sets.
CREATE FUNCTION json_quote(text) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT to_json($1)::text $$;
CREATE FUNCTION datetime(bigint, text) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT CASE WHEN $1 >= -62135596800 THEN (to_timestamp($1) AT TIME ZONE 'UTC')::text
                      -- The year 0, which PostgreSQL calls 1 BC.
                      ELSE '0000' || substr((to_timestamp($1) AT TIME ZONE 'UTC')::text, 5, 15) END $$;
CREATE FUNCTION min(text, text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT least($1, $2) $$;
CREATE FUNCTION max(text, text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT greatest($1, $2) $$;
CREATE FUNCTION max(bigint, bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT greatest($1, $2) $$;
CREATE FUNCTION min(bigint, bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT least($1, $2) $$;

-- SQLite takes max + 1 under its single writer. Numbers may have gaps, and order nothing between users or conversations.
-- Of one conversation each generation is above its last one, because it is taken under the lock of that row.
-- A number is the lower or the upper half of a row key, so it must fit 32 bits.
CREATE SEQUENCE user_numbers AS bigint MAXVALUE 2147483647;
CREATE SEQUENCE conversation_numbers AS bigint MAXVALUE 2147483647;
CREATE SEQUENCE generations AS bigint MAXVALUE 2147483647;

CREATE TABLE users (
    id text COLLATE "C" NOT NULL,
    email text COLLATE "C" NOT NULL,
    nick text COLLATE "C" NOT NULL,
    full_name text COLLATE "C" NOT NULL,
    -- The server verifies an HMAC under this key, so it must hold the key itself.
    api_key text COLLATE "C" NOT NULL,
    -- SHA-256 of the key: login looks a key up by this, so that no index leaks its prefix by timing.
    api_key_digest text COLLATE "C" NOT NULL,
    is_disabled boolean NOT NULL DEFAULT false,
    -- The RSA private key in PEM, encrypted under a password that is stored nowhere.
    private_key text COLLATE "C" NOT NULL,
    public_key text COLLATE "C" NOT NULL,
    availability text COLLATE "C" NOT NULL DEFAULT 'offline',
    number bigint NOT NULL DEFAULT nextval('user_numbers'),
    CONSTRAINT users_pk PRIMARY KEY (id),
    CONSTRAINT users_api_key_digest_unique UNIQUE (api_key_digest),
    CONSTRAINT users_availability_known CHECK (availability IN ('available', 'away', 'busy', 'offline'))
) WITH (fillfactor = 70);

ALTER SEQUENCE user_numbers OWNED BY users.number;
CREATE UNIQUE INDEX users_number_unique ON users (number);
-- A row is 4 KB (two keys in PEM): the statement that looks up a number reads this index alone.
CREATE INDEX users_numbers ON users (id, number);

-- One row for each direction, so that a user's friends stand together.
CREATE TABLE friends (
    user_id text COLLATE "C" NOT NULL,
    friend_id text COLLATE "C" NOT NULL,
    CONSTRAINT friends_pk PRIMARY KEY (user_id, friend_id),
    CONSTRAINT friends_user_fk FOREIGN KEY (user_id) REFERENCES users (id),
    CONSTRAINT friends_friend_fk FOREIGN KEY (friend_id) REFERENCES users (id)
);

CREATE TABLE stations (
    user_id text COLLATE "C" NOT NULL,
    station_id text COLLATE "C" NOT NULL,
    bound_at bigint NOT NULL,
    used_at bigint NOT NULL,
    -- The change number up to which the station was told.
    position bigint,
    CONSTRAINT stations_pk PRIMARY KEY (user_id, station_id),
    CONSTRAINT stations_user_fk FOREIGN KEY (user_id) REFERENCES users (id)
) WITH (fillfactor = 70);

CREATE INDEX stations_by_id ON stations (station_id, user_id);

CREATE TABLE friend_requests (
    from_id text COLLATE "C" NOT NULL,
    to_id text COLLATE "C" NOT NULL,
    is_open boolean NOT NULL,
    is_silent boolean NOT NULL,
    CONSTRAINT friend_requests_pk PRIMARY KEY (from_id, to_id),
    CONSTRAINT friend_requests_from_fk FOREIGN KEY (from_id) REFERENCES users (id)
);

CREATE INDEX friend_requests_by_addressee ON friend_requests (to_id, from_id);

CREATE TABLE blocks (
    user_id text COLLATE "C" NOT NULL,
    blocked_id text COLLATE "C" NOT NULL,
    CONSTRAINT blocks_pk PRIMARY KEY (user_id, blocked_id),
    CONSTRAINT blocks_user_fk FOREIGN KEY (user_id) REFERENCES users (id)
);

CREATE TABLE workspaces (
    name text COLLATE "C" NOT NULL,
    owner_id text COLLATE "C" NOT NULL,
    registered_at bigint NOT NULL,
    CONSTRAINT workspaces_pk PRIMARY KEY (name),
    CONSTRAINT workspaces_owner_fk FOREIGN KEY (owner_id) REFERENCES users (id)
);

CREATE INDEX workspaces_by_owner ON workspaces (owner_id, name);

CREATE TABLE conversations (
    number bigint NOT NULL DEFAULT nextval('conversation_numbers'),
    id text COLLATE "C" NOT NULL,
    -- Each clear begins a new one, whose number no other conversation has had. The instance is its name on the wire.
    generation bigint NOT NULL DEFAULT nextval('generations'),
    instance text COLLATE "C" NOT NULL,
    -- The sequence number that the next message of this generation takes. The first is 1.
    next_seq bigint NOT NULL,
    last_message_id text COLLATE "C" NOT NULL,
    last_access bigint NOT NULL,
    -- The bytes of the longest data in this generation: whether a page can be too long is known without looking.
    longest_data bigint NOT NULL DEFAULT 0,
    -- The sequence number that the next report of this generation takes. The first is 1.
    next_report_seq bigint NOT NULL DEFAULT 1,
    -- Without its hyphens, as the wire has it.
    last_report_id text COLLATE "C" NOT NULL DEFAULT '',
    -- Bytes of all data of the present generation: a conversation has a quota.
    data_bytes bigint NOT NULL DEFAULT 0,
    -- The latest second of acceptance in this generation. last_access is the one of the newest message.
    max_accepted_at bigint NOT NULL DEFAULT 0,
    -- Number of messages in this generation from the participant with the lower user number. The other one sent the rest.
    sent_by_first bigint NOT NULL DEFAULT 0,
    -- Only in PostgreSQL: counts the changes of `participants.standing` in this conversation. A batch of messages is judged
    -- by a plain read and stored by a compare-and-set of this row; so what changes an access changes this row, too.
    access_version bigint NOT NULL DEFAULT 0,
    CONSTRAINT conversations_pk PRIMARY KEY (number),
    CONSTRAINT conversations_id_unique UNIQUE (id),
    CONSTRAINT conversations_generation_unique UNIQUE (generation)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

ALTER SEQUENCE conversation_numbers OWNED BY conversations.number;
ALTER SEQUENCE generations OWNED BY conversations.generation;

-- What is one participant's own of a conversation. What one user takes part in stands together.
CREATE TABLE participants (
    -- The user's number in the upper bits, in the lower 32 the conversation's.
    place bigint NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    user_number bigint NOT NULL,
    conversation_id text COLLATE "C" NOT NULL,
    conversation_number bigint NOT NULL,
    -- What the participant may do: 'open' is everything; 'blocked', where the participant has blocked the other one, and
    -- 'not_friends' allow to read. It follows from friends and blocks, and is written in the transactions that change
    -- these.
    standing text COLLATE "C" NOT NULL,
    secret text COLLATE "C" NOT NULL,
    display_name text COLLATE "C" NOT NULL,
    is_muted boolean NOT NULL DEFAULT false,
    is_favorite boolean NOT NULL DEFAULT false,
    is_hidden boolean NOT NULL DEFAULT false,
    hide_id text COLLATE "C" NOT NULL DEFAULT '',
    background_color text COLLATE "C" NOT NULL DEFAULT '#ffffff',
    -- All messages of others up to this place are reported as delivered to this participant.
    delivered_to bigint NOT NULL DEFAULT 0,
    partner_number bigint NOT NULL DEFAULT 0,
    -- The generation in the upper bits and, in the lower 32, the number of the other one's messages that the participant has
    -- viewed.
    read_to bigint NOT NULL DEFAULT 0,
    CONSTRAINT participants_pk PRIMARY KEY (place),
    CONSTRAINT participants_user_fk FOREIGN KEY (user_id) REFERENCES users (id),
    CONSTRAINT participants_conversation_fk FOREIGN KEY (conversation_number) REFERENCES conversations (number),
    CONSTRAINT participants_standing_known CHECK (standing IN ('open', 'blocked', 'not_friends'))
) WITH (fillfactor = 70);

-- Everything that decides about a message.
CREATE INDEX participants_standing
    ON participants (user_id, conversation_id, standing, user_number, conversation_number);
CREATE INDEX participants_by_conversation ON participants (conversation_number, user_id, user_number);

-- No foreign keys: the statement that inserts has just read the conversation and its participants, and a second look
-- for each message would be paid on the hottest path.
CREATE TABLE messages (
    place bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    sender_number bigint NOT NULL,
    -- NULL stands for "Message", which most are.
    type text COLLATE "C",
    -- Unix seconds by the sender's clock.
    created bigint NOT NULL,
    valid_until text COLLATE "C" NOT NULL,
    -- Unix seconds by the server's clock, never falling within a generation.
    accepted_at bigint NOT NULL,
    data text COLLATE "C" NOT NULL,
    -- The number of the message among its sender's in this generation. The first is 1.
    nth bigint NOT NULL DEFAULT 0,
    CONSTRAINT messages_pk PRIMARY KEY (place)
);

-- Data is ciphertext in base64: compressing it costs time and saves nothing.
ALTER TABLE messages ALTER COLUMN data SET STORAGE EXTERNAL;

-- Generations that a clear has ended and whose messages are still to be removed.
CREATE TABLE purges (
    generation bigint NOT NULL,
    CONSTRAINT purges_pk PRIMARY KEY (generation)
);

-- Receipts: one for each reader, message and type. An ID ends with the report's sequence number, so that it needs no
-- index of its own.
CREATE TABLE reports (
    place bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    -- The server's second as a date, never falling within a generation.
    created text COLLATE "C" NOT NULL,
    message_place bigint NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    -- The latest date of the reports up to this one in its generation, where that is later than its own.
    max_created text COLLATE "C",
    CONSTRAINT reports_pk PRIMARY KEY (place),
    CONSTRAINT reports_once UNIQUE (message_place, user_id, type),
    CONSTRAINT reports_type_known CHECK (type IN ('delivered', 'viewed'))
);

-- Signatures of changes that were carried out, until their timestamp is too old to be accepted again.
CREATE TABLE replays (
    expires_at bigint NOT NULL,
    signature text COLLATE "C" NOT NULL,
    CONSTRAINT replays_pk PRIMARY KEY (expires_at, signature)
);

-- The number of the newest change that concerns a user. It is taken under the lock of this row, which is held until the
-- commit, so numbers become visible in their order: whoever has read number n finds all changes up to n.
CREATE TABLE change_numbers (
    user_number bigint NOT NULL,
    newest bigint NOT NULL,
    CONSTRAINT change_numbers_pk PRIMARY KEY (user_number)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- What has changed for a user, each thing once: a conversation (kind 1, and its number as the subject), a friend
-- (kind 2, and the friend's number), or the lists of the user (kind 3). A row has two numbers: of the newest change, and
-- of the newest one that was not made at the station of the newest. Of a station this is 63 bits of a hash of its id; 0
-- stands for none. No foreign keys: these rows are written with every message.
CREATE TABLE changes (
    user_number bigint NOT NULL,
    kind bigint NOT NULL,
    subject bigint NOT NULL,
    number bigint NOT NULL,
    station bigint NOT NULL,
    other_number bigint NOT NULL,
    CONSTRAINT changes_pk PRIMARY KEY (user_number, kind, subject),
    CONSTRAINT changes_kind_known CHECK (kind IN (1, 2, 3))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

-- Where the messages are whose IDs are given.
CREATE TABLE message_ids (
    generation bigint NOT NULL,
    -- The first 64 bits of the SHA-256 of the ID. Two IDs may have the same.
    hash bigint NOT NULL,
    seq bigint NOT NULL,
    CONSTRAINT message_ids_pk PRIMARY KEY (generation, hash, seq)
);

-- The epoch of the database: a random name that a restore from a backup changes. Requests that were signed up to
-- `began_at` are refused. It is 0 where nothing was ever restored.
CREATE TABLE epoch (
    one bigint NOT NULL,
    id text COLLATE "C" NOT NULL,
    began_at bigint NOT NULL,
    CONSTRAINT epoch_pk PRIMARY KEY (one),
    CONSTRAINT epoch_one_row CHECK (one = 1)
);

INSERT INTO epoch (one, id, began_at) VALUES (1, left(md5(gen_random_uuid()::text), 16), 0);

-- Only PostgreSQL has what follows: it is between the nodes. Unlogged: it costs no write-ahead log, is empty after a
-- crash or on a promoted standby, and each node writes its own rows anew within a second.

-- The lease of each running node.
CREATE UNLOGGED TABLE nodes (
    number bigint NOT NULL,
    lease_until timestamptz NOT NULL,
    CONSTRAINT nodes_pk PRIMARY KEY (number)
) WITH (fillfactor = 50);

CREATE SEQUENCE node_numbers AS bigint CYCLE;

-- Which users are reachable at which node. A row counts while its node has its lease, and until `until`, which is set
-- for a user without a listener. A user who has gone keeps a row for a while, so that other nodes see the change.
CREATE UNLOGGED TABLE presence (
    user_number bigint NOT NULL,
    node bigint NOT NULL,
    listens boolean NOT NULL,
    reachable_until timestamptz NOT NULL,
    -- Counts the user's choices of an availability at this node, so that the others tell friends of a new one.
    choices bigint NOT NULL,
    -- When the row was written, by the database's clock: the other nodes read what is newer than their last look.
    written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT presence_pk PRIMARY KEY (user_number, node)
) WITH (fillfactor = 50);
