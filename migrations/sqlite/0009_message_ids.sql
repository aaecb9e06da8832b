-- Each message is in message_ids at once. The newest up to 31 of a generation were only in this column. The server lists
-- them in the same transaction, because SQLite can't compute their hashes.
ALTER TABLE conversations DROP COLUMN young;
