-- name: insert_task
-- A new definition; fails when the id is taken. Its runs go on counting where an earlier task of the id ended.
INSERT INTO tasks (id, created_at, metadata, flow_id, next_run, latest_run, body)
VALUES (
    :id, :created_at, :metadata, :flow_id, :next_run,
    coalesce((SELECT latest_run FROM retired WHERE id = :id), 0), :body
);

-- name: upsert_member
-- A hidden part of a task, new or again; changes nothing if the id is another task's.
INSERT INTO tasks (id, created_at, metadata, part_of, body) VALUES (:id, :created_at, '{}', :part_of, :body)
ON CONFLICT (id) DO UPDATE SET body = excluded.body WHERE tasks.part_of = excluded.part_of;

-- name: list_parts
-- The hidden parts of a task, each with its latest run.
SELECT tasks.body AS task, tasks.latest_run, runs.body AS run, NULL AS results
FROM tasks LEFT JOIN runs ON runs.task_id = tasks.id AND runs.number = tasks.latest_run
WHERE tasks.part_of = :id
ORDER BY tasks.created_at, tasks.id;

-- name: keep_definition
-- A live run goes on as it was started: before its task changes, the run keeps the definition it had.
UPDATE runs SET task = (SELECT body FROM tasks WHERE id = :id) WHERE task_id = :id AND live = 1 AND task IS NULL;

-- name: update_task
UPDATE tasks SET metadata = :metadata, flow_id = :flow_id, next_run = :next_run, body = :body WHERE id = :id;

-- name: retire_task
-- Remembers how far an id has counted, and those of its hidden parts, before the task is deleted. The next task
-- of that id goes on above all of them, as its parts may count from its own number.
INSERT INTO retired (id, latest_run)
SELECT id, CASE
    WHEN id = :id THEN (SELECT max(latest_run) FROM tasks WHERE id = :id OR part_of = :id)
    ELSE latest_run
END
FROM tasks WHERE (id = :id OR part_of = :id) AND latest_run > 0
ON CONFLICT (id) DO UPDATE SET latest_run = excluded.latest_run;

-- name: delete_task
-- Its runs go with it, and so do its members if it is a broadcast.
DELETE FROM tasks WHERE id = :id OR part_of = :id;

-- name: upsert_runs
-- Results that are already there stay unless new ones come: a later record of a run never erases them.
INSERT INTO runs (task_id, number, state, live, saved_mono, saved_wall, body, results) VALUES
    /* each */ (:task_id, :number, :state, :live, :saved_mono, :saved_wall, :body, :results) /* row */
ON CONFLICT (task_id, number) DO UPDATE SET
    state = excluded.state,
    live = excluded.live,
    saved_mono = excluded.saved_mono,
    saved_wall = excluded.saved_wall,
    body = excluded.body,
    task = CASE WHEN excluded.live = 1 THEN runs.task END,
    results = coalesce(excluded.results, runs.results);

-- name: mark_latest_runs
WITH latest (task_id, number) AS (VALUES /* each */ (:task_id, :number) /* row */)
UPDATE tasks SET latest_run = latest.number
FROM latest WHERE tasks.id = latest.task_id AND tasks.latest_run < latest.number;

-- name: select_task
-- One task with its latest run.
SELECT tasks.body AS task, tasks.latest_run, runs.body AS run, runs.results AS results
FROM tasks LEFT JOIN runs ON runs.task_id = tasks.id AND runs.number = tasks.latest_run
WHERE tasks.id = :id;

-- name: list_tasks
-- A page, newest first; the filter holds when every key of :metadata has the same value in the task's
-- (1 is 1.0, and not true; documents inside are written with sorted keys, so that equal ones are equal text).
SELECT tasks.body AS task, tasks.latest_run, runs.body AS run, runs.results AS results
FROM tasks LEFT JOIN runs ON runs.task_id = tasks.id AND runs.number = tasks.latest_run
WHERE part_of IS NULL AND NOT EXISTS (
    SELECT 1 FROM json_each(:metadata) AS wanted
    WHERE NOT EXISTS (
        SELECT 1 FROM json_each(tasks.metadata) AS has
        WHERE has.key = wanted.key AND has.value IS wanted.value AND (
            has.type = wanted.type OR has.type IN ('integer', 'real') AND wanted.type IN ('integer', 'real')
        )
    )
)
ORDER BY tasks.created_at DESC, tasks.id
LIMIT :limit OFFSET :offset;

-- name: count_tasks
SELECT count(*) AS total FROM tasks
WHERE part_of IS NULL AND NOT EXISTS (
    SELECT 1 FROM json_each(:metadata) AS wanted
    WHERE NOT EXISTS (
        SELECT 1 FROM json_each(tasks.metadata) AS has
        WHERE has.key = wanted.key AND has.value IS wanted.value AND (
            has.type = wanted.type OR has.type IN ('integer', 'real') AND wanted.type IN ('integer', 'real')
        )
    )
);

-- name: count_all_tasks
-- Without a filter. Both counts are read off indexes, however large the tasks are.
SELECT
    (SELECT count(*) FROM tasks) - (SELECT count(*) FROM tasks WHERE part_of IS NOT NULL) AS total;

-- name: list_live
-- Every run that has not ended, oldest first, with its task as it was when the run began.
SELECT coalesce(runs.task, tasks.body) AS task, runs.body AS run, runs.saved_mono, runs.saved_wall
FROM runs JOIN tasks ON tasks.id = runs.task_id
WHERE runs.live = 1
ORDER BY tasks.created_at, tasks.id;

-- name: upsert_proplet
INSERT INTO proplets (id, registered, body) VALUES (:id, :registered, :body)
ON CONFLICT (id) DO UPDATE SET body = excluded.body;

-- name: delete_proplet
DELETE FROM proplets WHERE id = :id;

-- name: list_proplets
-- In the order of their registration.
SELECT body FROM proplets ORDER BY registered, id;

-- name: insert_launch
-- A new launch; fails when the round id is taken.
INSERT INTO launches (round_id, state, body) VALUES (:round_id, :state, :body);

-- name: update_launch
UPDATE launches SET state = :state, body = :body WHERE round_id = :round_id;

-- name: delete_launch
DELETE FROM launches WHERE round_id = :round_id;

-- name: select_launch
SELECT body FROM launches WHERE round_id = :round_id;

-- name: list_open_launches
SELECT body FROM launches WHERE state <> 'closed' ORDER BY round_id;
