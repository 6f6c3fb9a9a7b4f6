-- Workflows and jobs, schedules, the history of tasks, results of broadcasts and measurements.

ALTER TABLE tasks ADD COLUMN flow_id TEXT;   -- its workflow or job
ALTER TABLE tasks ADD COLUMN next_run REAL;  -- when its schedule fires next, Unix seconds

CREATE INDEX tasks_by_flow ON tasks (flow_id) WHERE flow_id IS NOT NULL;
CREATE INDEX tasks_scheduled ON tasks (next_run) WHERE next_run IS NOT NULL;

-- `touched` counts what happened to a flow or to runs of its tasks, `settled` is how far that was looked at:
-- after a crash, flows whose counts differ are looked at again.
CREATE TABLE flows (
    id          TEXT PRIMARY KEY,
    job         INTEGER NOT NULL,           -- 1: a job, 0: a workflow
    created_at  REAL NOT NULL,
    touched     INTEGER NOT NULL DEFAULT 1,
    settled     INTEGER NOT NULL DEFAULT 0,
    body        BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX flows_by_age ON flows (job, created_at DESC, id);
CREATE INDEX flows_open ON flows (id) WHERE touched <> settled;

CREATE TABLE task_events (
    task_id     TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    number      INTEGER NOT NULL,           -- 1 for a task's first
    body        BLOB NOT NULL,
    PRIMARY KEY (task_id, number)
) STRICT, WITHOUT ROWID;

-- What each proplet answered to a broadcast.
CREATE TABLE part_results (
    task_id     TEXT NOT NULL,
    run         INTEGER NOT NULL,
    proplet_id  TEXT NOT NULL,
    results     BLOB NOT NULL,              -- JSON
    PRIMARY KEY (task_id, run, proplet_id),
    FOREIGN KEY (task_id, run) REFERENCES runs (task_id, number) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE metrics (
    kind        TEXT NOT NULL,              -- proplet or task
    subject     TEXT NOT NULL,              -- whose id
    number      INTEGER NOT NULL,           -- 1 for the first
    body        BLOB NOT NULL,              -- JSON as it is shown
    PRIMARY KEY (kind, subject, number)
) STRICT, WITHOUT ROWID;
