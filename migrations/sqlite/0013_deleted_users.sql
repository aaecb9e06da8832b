-- A deleted user keeps a row without anything personal: messages and conversations refer to its number. It has a random id.
ALTER TABLE users ADD COLUMN is_deleted INTEGER NOT NULL DEFAULT 0
    CONSTRAINT users_is_deleted_boolean CHECK (is_deleted IN (0, 1));

-- A disabled user can't be written to any more.
UPDATE participants SET standing = 'not_friends'
WHERE standing = 'open' AND EXISTS (
    SELECT 1 FROM users u WHERE u.number IN (participants.user_number, participants.partner_number) AND u.is_disabled);
