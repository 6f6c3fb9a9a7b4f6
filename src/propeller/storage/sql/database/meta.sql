-- The table that says whose data a file holds. Values are text.

-- name: create_meta
-- Made in the same transaction as the first migration, so a file has both or neither.
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- name: count_tables
-- What a file holds before we touch it; a file of ours always has `meta`.
SELECT
    count(*) AS tables,
    count(*) FILTER (WHERE name = 'meta') AS metas
FROM sqlite_schema
WHERE type = 'table';

-- name: read_meta
SELECT name, value FROM meta;

-- name: put_meta
INSERT INTO meta (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;
