-- name: insert_flow
-- A new workflow or job; fails when the id is taken.
INSERT INTO flows (id, job, created_at, body) VALUES (:id, :job, :created_at, :body);

-- name: update_flow
UPDATE flows SET body = :body, touched = touched + 1 WHERE id = :id;

-- name: touch_flow
-- Something happened to a run of one of its tasks.
UPDATE flows SET touched = touched + 1 WHERE id = :id;

-- name: settle_flow
-- All that had happened up to :touched was looked at.
UPDATE flows SET settled = :touched WHERE id = :id AND settled < :touched;

-- name: delete_flow
DELETE FROM flows WHERE id = :id;

-- name: select_flow
SELECT body, touched, settled FROM flows WHERE id = :id;

-- name: list_jobs
-- A page, newest first.
SELECT body, touched, settled FROM flows WHERE job = 1
ORDER BY created_at DESC, id LIMIT :limit OFFSET :offset;

-- name: count_jobs
SELECT count(*) AS total FROM flows WHERE job = 1;

-- name: list_open_flows
SELECT id FROM flows WHERE touched <> settled ORDER BY id;

-- name: list_members
-- The tasks of a flow, each with its latest run; results only where asked for.
SELECT tasks.body AS task, tasks.latest_run, runs.body AS run,
    CASE WHEN :results THEN runs.results END AS results
FROM tasks LEFT JOIN runs ON runs.task_id = tasks.id AND runs.number = tasks.latest_run
WHERE tasks.flow_id = :id;

-- name: list_scheduled
SELECT body FROM tasks WHERE next_run IS NOT NULL ORDER BY next_run, id;

-- name: select_results
SELECT state, results FROM runs WHERE task_id = :task_id AND number = :run;
