-- What is older than :before, and not among the newest :kept of its group. Each deletion is of a few at once,
-- so that nobody waits long for the database; it is asked again until nothing is left.

-- name: count_runs
-- Ended runs, never a task's latest; `saved_wall` of an ended run is its end.
SELECT count(*) AS total FROM runs INNER JOIN tasks ON tasks.id = runs.task_id
WHERE runs.live = 0 AND runs.saved_wall < :before
    AND runs.number < tasks.latest_run AND runs.number <= tasks.latest_run - :kept;

-- name: delete_runs
-- Results of their parts go with them.
DELETE FROM runs WHERE (task_id, number) IN (
    SELECT runs.task_id, runs.number FROM runs INNER JOIN tasks ON tasks.id = runs.task_id
    WHERE runs.live = 0 AND runs.saved_wall < :before
        AND runs.number < tasks.latest_run AND runs.number <= tasks.latest_run - :kept
    LIMIT 500
);

-- name: count_events
SELECT count(*) AS total FROM task_events AS old
WHERE old.at_s < :before AND old.number <= (
    SELECT max(number) FROM task_events AS line WHERE line.task_id = old.task_id
) - :kept;

-- name: delete_events
DELETE FROM task_events WHERE (task_id, number) IN (
    SELECT old.task_id, old.number FROM task_events AS old
    WHERE old.at_s < :before AND old.number <= (
        SELECT max(number) FROM task_events AS line WHERE line.task_id = old.task_id
    ) - :kept
    LIMIT 500
);

-- name: count_metrics
-- Old ones, and all of tasks and proplets that are gone: a last one may come after its task was deleted.
SELECT count(*) AS total FROM metrics AS old
WHERE (
    old.at_s < :before AND old.number <= (
        SELECT max(number) FROM metrics AS line WHERE line.kind = old.kind AND line.subject = old.subject
    ) - :kept
) OR (old.kind = 'task' AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.id = old.subject))
    OR (old.kind = 'proplet' AND NOT EXISTS (SELECT 1 FROM proplets WHERE proplets.id = old.subject));

-- name: delete_metrics
DELETE FROM metrics WHERE (kind, subject, number) IN (
    SELECT old.kind, old.subject, old.number FROM metrics AS old
    WHERE (
        old.at_s < :before AND old.number <= (
            SELECT max(number) FROM metrics AS line WHERE line.kind = old.kind AND line.subject = old.subject
        ) - :kept
    ) OR (old.kind = 'task' AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.id = old.subject))
        OR (old.kind = 'proplet' AND NOT EXISTS (SELECT 1 FROM proplets WHERE proplets.id = old.subject))
    LIMIT 500
);

-- name: list_definitions
-- Every definition that names a module: of tasks, and of live runs that began with another one.
SELECT body FROM tasks
UNION ALL
SELECT task AS body FROM runs WHERE task IS NOT NULL;

-- name: list_task_ids
-- Every task, parts of others too: whatever is kept of any other id may go.
SELECT id FROM tasks;
