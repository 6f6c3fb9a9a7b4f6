-- An experiment may be paused, and is then live. An update may count in a later round than it was asked for in.

DROP INDEX experiments_running;
CREATE INDEX experiments_live ON experiments (seq) WHERE state IN ('running', 'paused');

-- The round that the update was asked for in, where it counts in a later one.
ALTER TABLE updates ADD COLUMN origin TEXT;
CREATE INDEX updates_late ON updates (origin, participant) WHERE origin IS NOT NULL;
