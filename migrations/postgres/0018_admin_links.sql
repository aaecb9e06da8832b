-- See the file of this name for SQLite.
SET LOCAL lock_timeout = '5s';

CREATE TABLE admin_links (
    token_digest text COLLATE "C" NOT NULL,
    operator text COLLATE "C" NOT NULL,
    expires_at bigint NOT NULL,
    CONSTRAINT admin_links_pk PRIMARY KEY (token_digest)
);

CREATE INDEX users_by_state ON users (is_deleted, is_disabled);
