-- Versions of named models: immutable, numbered per model, linked to parent and round.
CREATE TABLE model_versions (
    name TEXT NOT NULL,
    version INTEGER NOT NULL CHECK (version >= 0),
    -- Content hash of the tensors, not of the file.
    sha256 TEXT NOT NULL,
    parent INTEGER,
    round_id TEXT,
    -- JSON: the strategy's name, version and options, as the coordinator wrote them.
    strategy TEXT,
    -- JSON: a list of ids.
    participants TEXT NOT NULL,
    -- JSON: an object of numbers.
    metrics TEXT NOT NULL,
    -- Unix seconds.
    created_at_s REAL NOT NULL,
    content_bytes INTEGER NOT NULL,
    -- The safetensors file itself if it is small, else its digest in the blob store.
    content BLOB,
    blob TEXT,
    PRIMARY KEY (name, version),
    CHECK ((content IS NULL) <> (blob IS NULL))
) STRICT;

-- A round gives one version of a model.
CREATE UNIQUE INDEX model_versions_of_round ON model_versions (name, round_id) WHERE round_id IS NOT NULL;
