-- Invitations: one-time links with which people register. A used one stays for some minutes, for a person whose answer was
-- lost.
CREATE TABLE invitations (
    email text COLLATE "C" NOT NULL,
    -- SHA-256 of the token, which only the link holds.
    token_digest text COLLATE "C" NOT NULL,
    -- The nick that the operator proposes; may be empty.
    nick text COLLATE "C" NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    used_at bigint,
    CONSTRAINT invitations_pk PRIMARY KEY (email),
    CONSTRAINT invitations_token_unique UNIQUE (token_digest)
);
