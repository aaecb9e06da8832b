-- no-transaction
CREATE INDEX CONCURRENTLY messages_by_validity ON messages (valid_until, place) WHERE valid_until <> '' AND data <> '';
