-- Tasks, their runs, proplets and the launches of rounds. Bodies are MessagePack of the frozen records of
-- `core` and `fl.launch`; what is looked up or sorted by has a column of its own.

CREATE TABLE tasks (
    id          TEXT PRIMARY KEY,
    created_at  REAL NOT NULL,              -- Unix seconds
    metadata    TEXT NOT NULL DEFAULT '{}', -- JSON object, for the list's filter
    latest_run  INTEGER NOT NULL DEFAULT 0, -- 0: never started
    body        BLOB NOT NULL
) STRICT;

CREATE INDEX tasks_by_age ON tasks (created_at DESC, id);

-- Run numbers of an id are never given twice, also after its task was deleted: a proplet remembers them.
CREATE TABLE retired (
    id          TEXT PRIMARY KEY,
    latest_run  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
    task_id     TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    number      INTEGER NOT NULL,
    state       TEXT NOT NULL,
    live        INTEGER NOT NULL,           -- 1 until the run has ended
    saved_mono  REAL NOT NULL,              -- when the body's deadlines were written, on both clocks
    saved_wall  REAL NOT NULL,
    body        BLOB NOT NULL,
    results     BLOB,                       -- JSON
    PRIMARY KEY (task_id, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX runs_live ON runs (live) WHERE live = 1;

CREATE TABLE proplets (
    id          TEXT PRIMARY KEY,
    registered  REAL NOT NULL,              -- Unix seconds; the round-robin order
    body        BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE launches (
    round_id    TEXT PRIMARY KEY,
    state       TEXT NOT NULL,
    body        BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX launches_open ON launches (state) WHERE state <> 'closed';
