-- Experiments, their rounds, the updates that count, and what must still be told. `seq` is order of creation.

CREATE TABLE experiments (
    seq INTEGER PRIMARY KEY,
    -- Id of the first round: names the experiment for certain, as experiment ids may be used again.
    series TEXT NOT NULL UNIQUE,
    experiment_id TEXT NOT NULL,
    -- running, completed, failed or stopped.
    state TEXT NOT NULL,
    -- JSON: the whole experiment; the columns above repeat what is searched for.
    record TEXT NOT NULL
) STRICT;

CREATE INDEX experiments_of_id ON experiments (experiment_id, seq);
CREATE INDEX experiments_running ON experiments (seq) WHERE state = 'running';

CREATE TABLE rounds (
    seq INTEGER PRIMARY KEY,
    round_id TEXT NOT NULL UNIQUE,
    experiment_id TEXT NOT NULL,
    -- registered, collecting, aggregating, completed or failed.
    state TEXT NOT NULL,
    -- Unix seconds.
    started_wall_s REAL NOT NULL,
    -- JSON: the whole round; the columns above repeat what is searched for.
    record TEXT NOT NULL
) STRICT;

CREATE INDEX rounds_of_experiment ON rounds (experiment_id, seq);
CREATE INDEX rounds_completed ON rounds (started_wall_s, seq) WHERE state = 'completed';
CREATE INDEX rounds_live ON rounds (seq) WHERE state NOT IN ('completed', 'failed');

-- The primary key is the promise that a participant counts once.
CREATE TABLE updates (
    round_id TEXT NOT NULL REFERENCES rounds (round_id),
    participant TEXT NOT NULL,
    -- JSON: samples, metrics, hash, size and times.
    record TEXT NOT NULL,
    -- The safetensors file itself if it is small, else its digest in the blob store.
    content BLOB,
    blob TEXT,
    PRIMARY KEY (round_id, participant),
    CHECK ((content IS NULL) <> (blob IS NULL))
) STRICT;

CREATE TABLE notices (
    round_id TEXT NOT NULL,
    -- start, complete or next.
    kind TEXT NOT NULL,
    -- The message as it is published.
    payload BLOB NOT NULL,
    -- Unix seconds.
    created_wall_s REAL NOT NULL,
    PRIMARY KEY (round_id, kind)
) STRICT;
