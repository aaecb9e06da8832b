SET LOCAL lock_timeout = '5s';

-- Messages with an end of their validity that still have data. Most have none, so the index costs their insertion nothing.
-- Not CONCURRENTLY: that waits for the snapshots of nodes that wait for this migration. So `add` waits for the scan of the
-- messages, some seconds for ten million.
CREATE INDEX messages_by_validity ON messages (valid_until, place) WHERE valid_until <> '' AND data <> '';
