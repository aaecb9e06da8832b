-- What a user has chosen to be seen as; whether the user can be reached is known in memory alone.
ALTER TABLE users ADD COLUMN availability TEXT NOT NULL DEFAULT 'offline'
    CONSTRAINT users_availability_known CHECK (availability IN ('available', 'away', 'busy', 'offline'));

-- The place that the next report of this generation takes. The first is 1.
ALTER TABLE conversations ADD COLUMN next_report_seq INTEGER NOT NULL DEFAULT 1;
ALTER TABLE conversations ADD COLUMN last_report_id TEXT NOT NULL DEFAULT '';

-- All messages of others up to this place of the generation are reported as delivered to this participant, so
-- that a page below it need not look for their reports.
ALTER TABLE participants ADD COLUMN delivered_to INTEGER NOT NULL DEFAULT 0;

-- Receipts: one for each reader, message and type. An ID ends with the report's place, so that it needs no
-- index of its own.
CREATE TABLE reports (
    conversation_id TEXT NOT NULL,
    generation INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    -- The server's second as a date, never falling within a generation.
    created TEXT NOT NULL,
    message_seq INTEGER NOT NULL,
    user_id TEXT NOT NULL,
    CONSTRAINT reports_pk PRIMARY KEY (conversation_id, generation, seq),
    CONSTRAINT reports_once UNIQUE (conversation_id, generation, message_seq, user_id, type),
    CONSTRAINT reports_type_known CHECK (type IN ('delivered', 'viewed'))
) STRICT, WITHOUT ROWID;

-- The devices of users. A position is the number of the change up to which the station has been told; it is
-- NULL before the first time, when everything is new.
CREATE TABLE stations (
    user_id TEXT NOT NULL,
    station_id TEXT NOT NULL,
    bound_at INTEGER NOT NULL,
    used_at INTEGER NOT NULL,
    position INTEGER,
    CONSTRAINT stations_pk PRIMARY KEY (user_id, station_id),
    CONSTRAINT stations_user_fk FOREIGN KEY (user_id) REFERENCES users (id)
) STRICT, WITHOUT ROWID;

CREATE INDEX stations_by_id ON stations (station_id, user_id);

-- The number of the newest change that concerns a user. Each user counts alone: a number must tell nothing
-- of what others do.
CREATE TABLE change_numbers (
    user_id TEXT NOT NULL,
    newest INTEGER NOT NULL,
    CONSTRAINT change_numbers_pk PRIMARY KEY (user_id)
) STRICT, WITHOUT ROWID;

-- What has changed for a user, each thing once: a conversation, a friend, or the lists of the user. A station is
-- not told of its own changes, so a row has two numbers: of the newest change, and of the newest one that was
-- not made at the station of the newest. Both empty and 0 stand for nothing. No foreign keys: these rows are
-- written with every message.
CREATE TABLE changes (
    user_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    station_id TEXT NOT NULL,
    other_number INTEGER NOT NULL,
    CONSTRAINT changes_pk PRIMARY KEY (user_id, kind, subject_id),
    CONSTRAINT changes_kind_known CHECK (kind IN ('conversation', 'friend', 'list'))
) STRICT, WITHOUT ROWID;

-- Who has asked whom. The addressee need not exist. A silent request is never shown to the addressee; one that
-- its maker has taken back is kept where it was silent, so that asking again shows nothing either.
CREATE TABLE friend_requests (
    from_id TEXT NOT NULL,
    to_id TEXT NOT NULL,
    is_open INTEGER NOT NULL,
    is_silent INTEGER NOT NULL,
    CONSTRAINT friend_requests_pk PRIMARY KEY (from_id, to_id),
    CONSTRAINT friend_requests_from_fk FOREIGN KEY (from_id) REFERENCES users (id),
    CONSTRAINT friend_requests_is_open_boolean CHECK (is_open IN (0, 1)),
    CONSTRAINT friend_requests_is_silent_boolean CHECK (is_silent IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE INDEX friend_requests_by_addressee ON friend_requests (to_id, from_id);

CREATE TABLE blocks (
    user_id TEXT NOT NULL,
    blocked_id TEXT NOT NULL,
    CONSTRAINT blocks_pk PRIMARY KEY (user_id, blocked_id),
    CONSTRAINT blocks_user_fk FOREIGN KEY (user_id) REFERENCES users (id)
) STRICT, WITHOUT ROWID;

CREATE TABLE workspaces (
    name TEXT NOT NULL,
    owner_id TEXT NOT NULL,
    registered_at INTEGER NOT NULL,
    CONSTRAINT workspaces_pk PRIMARY KEY (name),
    CONSTRAINT workspaces_owner_fk FOREIGN KEY (owner_id) REFERENCES users (id)
) STRICT, WITHOUT ROWID;

CREATE INDEX workspaces_by_owner ON workspaces (owner_id, name);
