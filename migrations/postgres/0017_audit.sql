-- The audit log: changes of accounts, keys, friendships and retention, and their authors (src/audit.rs). Columns hold the numbers
-- of users: that of a deleted user leads to the id of the tombstone alone.
CREATE TABLE audit (
    number bigint NOT NULL,
    at bigint NOT NULL,
    action text COLLATE "C" NOT NULL,
    -- The way of the change: 'api', 'admin page', 'server', or 'command' and the name of one.
    via text COLLATE "C" NOT NULL,
    -- The operating system's name of the person who ran the command; else ''.
    operator text COLLATE "C" NOT NULL,
    -- The IP address of the client; else ''.
    address text COLLATE "C" NOT NULL,
    -- The user who made the change by the API.
    actor_number bigint,
    -- The user whom the change concerns, and the other one of a friendship.
    subject_number bigint,
    other_number bigint,
    conversation_number bigint,
    -- The address that was invited, until it has a user; else ''.
    email text COLLATE "C" NOT NULL,
    details text COLLATE "C" NOT NULL,
    CONSTRAINT audit_pk PRIMARY KEY (number)
);

CREATE INDEX audit_by_date ON audit (at);
CREATE INDEX audit_by_actor ON audit (actor_number, number) WHERE actor_number IS NOT NULL;
CREATE INDEX audit_by_subject ON audit (subject_number) WHERE subject_number IS NOT NULL;
CREATE INDEX audit_by_other ON audit (other_number) WHERE other_number IS NOT NULL;
CREATE INDEX audit_by_email ON audit (email) WHERE email <> '';
