-- The queries that PostgreSQL must be asked in another way: JSON has functions of its own there.

-- name: list_tasks
-- A page, newest first; numbers are compared as numbers, and true is no number.
SELECT tasks.body AS task, tasks.latest_run, runs.body AS run, runs.results AS results
FROM tasks LEFT JOIN runs ON runs.task_id = tasks.id AND runs.number = tasks.latest_run
WHERE part_of IS NULL AND NOT EXISTS (
    SELECT 1 FROM jsonb_each(CAST(:metadata AS jsonb)) AS wanted
    WHERE CAST(tasks.metadata AS jsonb) -> wanted.key IS DISTINCT FROM wanted.value
)
ORDER BY tasks.created_at DESC, tasks.id
LIMIT :limit OFFSET :offset;

-- name: count_tasks
SELECT count(*) AS total FROM tasks
WHERE part_of IS NULL AND NOT EXISTS (
    SELECT 1 FROM jsonb_each(CAST(:metadata AS jsonb)) AS wanted
    WHERE CAST(tasks.metadata AS jsonb) -> wanted.key IS DISTINCT FROM wanted.value
);

-- name: insert_metric
INSERT INTO metrics (kind, subject, number, body, at_s)
SELECT CAST(:kind AS text), CAST(:subject AS text), coalesce(max(number), 0) + 1, CAST(:body AS bytea),
    CAST(:at_s AS double precision)
FROM metrics WHERE kind = :kind AND subject = :subject;

-- name: list_members
-- The tasks of a flow, each with its latest run; results only where asked for.
SELECT tasks.body AS task, tasks.latest_run, runs.body AS run,
    CASE WHEN CAST(:results AS integer) = 1 THEN runs.results END AS results
FROM tasks LEFT JOIN runs ON runs.task_id = tasks.id AND runs.number = tasks.latest_run
WHERE tasks.flow_id = :id;
