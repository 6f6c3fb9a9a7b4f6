-- What the strategy that made a version keeps for the next round: momentum, moments. Most versions have none.
CREATE TABLE model_states (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    content_bytes INTEGER NOT NULL,
    -- The safetensors file itself if it is small, else its digest in the blob store.
    content BLOB,
    blob TEXT,
    PRIMARY KEY (name, version),
    FOREIGN KEY (name, version) REFERENCES model_versions (name, version),
    CHECK ((content IS NULL) <> (blob IS NULL))
) STRICT;
