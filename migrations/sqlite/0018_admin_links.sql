-- Links to the admin page, each usable once and for ten minutes.
CREATE TABLE admin_links (
    -- SHA-256 of the token, which only the link holds.
    token_digest TEXT NOT NULL,
    -- Who made the link, by the operating system; may be empty.
    operator TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    CONSTRAINT admin_links_pk PRIMARY KEY (token_digest)
) STRICT;

-- Counts users without reading their rows, which are 4 KB each.
CREATE INDEX users_by_state ON users (is_deleted, is_disabled);
