-- name: upsert_service
INSERT INTO services (task_id, body) VALUES (:task_id, :body)
ON CONFLICT (task_id) DO UPDATE SET body = excluded.body;

-- name: list_services
-- Every service that was ever started, with its definition as it now is.
SELECT services.task_id, tasks.body AS task, services.body AS service
FROM services JOIN tasks ON tasks.id = services.task_id ORDER BY services.task_id;

-- name: select_service
SELECT services.task_id, tasks.body AS task, services.body AS service
FROM services JOIN tasks ON tasks.id = services.task_id WHERE services.task_id = :task_id;

-- name: list_numbers
-- How far the runs of a service's replicas have counted.
SELECT id, latest_run FROM tasks WHERE part_of = :task_id;
