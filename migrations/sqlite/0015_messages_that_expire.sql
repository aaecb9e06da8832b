-- Messages with an end of their validity that still have data. Most have none, so the index costs their insertion nothing.
CREATE INDEX messages_by_validity ON messages (valid_until, place) WHERE valid_until <> '' AND data <> '';
