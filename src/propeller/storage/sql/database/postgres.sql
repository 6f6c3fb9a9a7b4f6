-- The queries that PostgreSQL must be asked in another way.

-- name: count_tables
-- What the role's schema holds before we touch it.
SELECT
    count(*) AS tables,
    count(*) FILTER (WHERE table_name = 'meta') AS metas
FROM information_schema.tables
WHERE table_schema = current_schema();
