-- A disabled user can't be written to any more. It comes first, because the new column locks `users` until the end.
UPDATE participants SET standing = 'not_friends'
WHERE standing = 'open' AND user_number IN (SELECT number FROM users WHERE is_disabled);
UPDATE participants SET standing = 'not_friends'
WHERE standing = 'open' AND partner_number IN (SELECT number FROM users WHERE is_disabled);

-- A deleted user keeps a row without anything personal: messages and conversations refer to its number. It has a random id.
ALTER TABLE users ADD COLUMN is_deleted INTEGER NOT NULL DEFAULT 0
    CONSTRAINT users_is_deleted_boolean CHECK (is_deleted IN (0, 1));
