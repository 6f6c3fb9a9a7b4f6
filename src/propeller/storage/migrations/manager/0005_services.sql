-- Services: what is remembered of them beside their runs. Their replicas are hidden tasks, as members are.

CREATE TABLE services (
    task_id     TEXT PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    body        BLOB NOT NULL
) STRICT, WITHOUT ROWID;
