-- Versions in OCI registries, and versions whose content is gone. A deleted version keeps its row, so that its
-- number is never given again and lineage stays whole; its content is then empty.

ALTER TABLE model_versions ADD COLUMN deleted_at_s REAL;

CREATE TABLE model_artifacts (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    -- pushed from here, or pulled to become this version.
    kind TEXT NOT NULL,
    -- oci://HOST/REPOSITORY:TAG@DIGEST
    reference TEXT NOT NULL,
    digest TEXT NOT NULL,
    -- Where every version is to be pushed, if that is why it was; else empty.
    target TEXT NOT NULL,
    -- Unix seconds.
    at_s REAL NOT NULL,
    PRIMARY KEY (name, version, kind, reference),
    FOREIGN KEY (name, version) REFERENCES model_versions (name, version)
) STRICT;

CREATE INDEX model_artifacts_by_digest ON model_artifacts (name, digest);
