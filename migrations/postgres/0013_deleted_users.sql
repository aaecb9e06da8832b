SET LOCAL lock_timeout = '5s';

-- A deleted user keeps a row without anything personal: messages and conversations refer to its number. It has a random id.
ALTER TABLE users ADD COLUMN is_deleted boolean NOT NULL DEFAULT false;

-- A disabled user can't be written to any more.
UPDATE participants SET standing = 'not_friends'
WHERE standing = 'open' AND EXISTS (
    SELECT 1 FROM users u WHERE u.number IN (participants.user_number, participants.partner_number) AND u.is_disabled);
