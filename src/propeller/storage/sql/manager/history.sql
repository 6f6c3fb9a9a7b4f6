-- name: insert_events
-- A line for the history of each row's task; there is one row a task at most.
INSERT INTO task_events (task_id, number, body, at_s) VALUES
    /* each */ (
        :task_id,
        (SELECT coalesce(max(number), 0) + 1 FROM task_events WHERE task_id = :task_id),
        :body,
        :at_s
    ) /* row */;

-- name: prune_events
-- Keeps the latest :kept of each row's task.
DELETE FROM task_events
WHERE task_id IN (/* each */ :task_id /* row */)
    AND number <= (
        SELECT max(number) FROM task_events AS its WHERE its.task_id = task_events.task_id
    ) - :kept;

-- name: count_events
SELECT count(*) AS total FROM task_events WHERE task_id = :task_id;

-- name: list_events
-- Oldest first: a story.
SELECT body FROM task_events WHERE task_id = :task_id ORDER BY number LIMIT :limit OFFSET :offset;

-- name: upsert_part
INSERT INTO part_results (task_id, run, proplet_id, results) VALUES (:task_id, :run, :proplet_id, :results)
ON CONFLICT (task_id, run, proplet_id) DO UPDATE SET results = excluded.results;

-- name: list_parts
SELECT proplet_id, results FROM part_results WHERE task_id = :task_id AND run = :run ORDER BY proplet_id;

-- name: insert_metric
INSERT INTO metrics (kind, subject, number, body, at_s)
SELECT :kind, :subject, coalesce(max(number), 0) + 1, :body, :at_s FROM metrics
WHERE kind = :kind AND subject = :subject;

-- name: prune_metrics
-- Keeps the latest :kept of a proplet or task.
DELETE FROM metrics
WHERE kind = :kind AND subject = :subject
    AND number <= (SELECT max(number) FROM metrics WHERE kind = :kind AND subject = :subject) - :kept;

-- name: delete_metrics
DELETE FROM metrics WHERE kind = :kind AND subject = :subject;

-- name: count_metrics
SELECT count(*) AS total FROM metrics WHERE kind = :kind AND subject = :subject;

-- name: list_metrics
-- Newest first.
SELECT body FROM metrics WHERE kind = :kind AND subject = :subject
ORDER BY number DESC LIMIT :limit OFFSET :offset;
