-- One data set per proplet, replaced as a whole.
CREATE TABLE datasets (
    proplet_id TEXT PRIMARY KEY,
    -- The JSON document itself if it is small, else its digest in the blob store.
    document BLOB,
    blob TEXT,
    CHECK ((document IS NULL) <> (blob IS NULL))
) STRICT;

-- Which data sets still need a blob.
CREATE INDEX datasets_of_blob ON datasets (blob) WHERE blob IS NOT NULL;
