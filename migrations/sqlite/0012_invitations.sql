-- Invitations: one-time links with which people register. A used one stays for some minutes, for a person whose answer was
-- lost.
CREATE TABLE invitations (
    email TEXT NOT NULL,
    -- SHA-256 of the token, which only the link holds.
    token_digest TEXT NOT NULL,
    -- The nick that the operator proposes; may be empty.
    nick TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at INTEGER,
    CONSTRAINT invitations_pk PRIMARY KEY (email),
    CONSTRAINT invitations_token_unique UNIQUE (token_digest)
) STRICT;
