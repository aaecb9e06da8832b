SET LOCAL lock_timeout = '5s';

-- API keys are sealed: encrypted under a key of the key file (src/sealing.rs). The number of that key is `sealing_key`. It
-- is 0 where `api_key` holds the API key in clear; a sealed row has '' there. `api_key_digest` is the SHA-256 of a key in
-- clear, and of a sealed one an HMAC under another secret of the key file.
ALTER TABLE users ADD COLUMN sealing_key bigint NOT NULL DEFAULT 0;
-- Base64 of nonce, ciphertext and tag.
ALTER TABLE users ADD COLUMN sealed_api_key text COLLATE "C";

-- Which rows are still to be sealed, and whether a key of the file is used.
CREATE INDEX users_by_sealing_key ON users (sealing_key, id);

-- The keys of the key file that this database uses or has used.
CREATE TABLE sealing_keys (
    number bigint NOT NULL,
    -- Tells keys of the same number apart. It follows from the key and does not reveal it.
    fingerprint text COLLATE "C" NOT NULL,
    -- New API keys are sealed with the active key of the greatest number. While none is active, they are stored in clear,
    -- because nodes of the previous version may be running.
    is_active boolean NOT NULL DEFAULT false,
    CONSTRAINT sealing_keys_pk PRIMARY KEY (number)
);
