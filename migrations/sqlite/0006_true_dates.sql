-- Dates are those of the server's clock, also where it has been set back. For cursors that are dates the latest date so
-- far is kept beside them: it never falls, so it can be searched by halving.

-- The latest second of acceptance in this generation. last_access is the one of the newest message and may be earlier.
ALTER TABLE conversations ADD COLUMN max_accepted_at INTEGER NOT NULL DEFAULT 0;
UPDATE conversations SET max_accepted_at = last_access;

-- The latest date of the reports up to this one in its generation, where that is later than its own.
ALTER TABLE reports ADD COLUMN max_created TEXT;
