-- Versions of models: one row each, written once, but for how its last evaluation went. Of a deleted one only
-- the content goes.

-- name: insert_version
INSERT INTO model_versions (
    name, version, sha256, parent, round_id, strategy, participants, metrics, created_at_s, content_bytes,
    content, blob, objective
) VALUES (
    :name, :version, :sha256, :parent, :round_id, :strategy, :participants, :metrics, :created_at_s,
    :content_bytes, :content, :blob, :objective
);

-- name: select_version
-- Without the content, which may be large and is mostly not wanted.
SELECT
    name, version, sha256, parent, round_id, strategy, participants, metrics, created_at_s, content_bytes,
    deleted_at_s, objective, evaluation
FROM model_versions
WHERE name = :name AND version = :version;

-- name: select_of_round
SELECT
    name, version, sha256, parent, round_id, strategy, participants, metrics, created_at_s, content_bytes,
    deleted_at_s, objective, evaluation
FROM model_versions
WHERE name = :name AND round_id = :round_id;

-- name: select_content
SELECT content, blob FROM model_versions
WHERE name = :name AND version = :version AND deleted_at_s IS NULL;

-- name: select_latest
-- Null if the model has no version. Deleted ones count: their numbers are not given again.
SELECT max(version) AS latest FROM model_versions WHERE name = :name;

-- name: list_versions
SELECT version FROM model_versions WHERE name = :name AND deleted_at_s IS NULL ORDER BY version;

-- name: list_records
-- Every version of every model, the deleted ones too.
SELECT
    name, version, sha256, parent, round_id, strategy, participants, metrics, created_at_s, content_bytes,
    deleted_at_s, objective, evaluation
FROM model_versions
ORDER BY name, version;

-- name: list_names
SELECT DISTINCT name FROM model_versions WHERE deleted_at_s IS NULL ORDER BY name;

-- name: insert_state
INSERT INTO model_states (name, version, content_bytes, content, blob)
VALUES (:name, :version, :content_bytes, :content, :blob);

-- name: select_state
SELECT content, blob FROM model_states WHERE name = :name AND version = :version;

-- name: clear_version
-- Its content goes, and its number and lineage stay.
UPDATE model_versions SET content = :nothing, blob = NULL, deleted_at_s = :at_s
WHERE name = :name AND version = :version AND deleted_at_s IS NULL;

-- name: update_evaluation
UPDATE model_versions SET evaluation = :evaluation WHERE name = :name AND version = :version;

-- name: delete_state
DELETE FROM model_states WHERE name = :name AND version = :version;

-- name: count_blob
-- How many versions and states lie in that file.
SELECT
    (SELECT count(*) FROM model_versions WHERE blob = :blob)
    + (SELECT count(*) FROM model_states WHERE blob = :blob) AS uses;

-- name: insert_artifact
INSERT INTO model_artifacts (name, version, kind, reference, digest, target, at_s)
VALUES (:name, :version, :kind, :reference, :digest, :target, :at_s)
ON CONFLICT (name, version, kind, reference) DO UPDATE SET target = excluded.target, at_s = excluded.at_s;

-- name: list_artifacts
SELECT kind, reference, digest, target, at_s FROM model_artifacts
WHERE name = :name AND version = :version
ORDER BY at_s, kind, reference;

-- name: select_of_artifact
-- The version of that model that an artefact is, whichever way it went; the last if there are several.
SELECT
    model_versions.name, model_versions.version, sha256, parent, round_id, strategy, participants, metrics,
    created_at_s, content_bytes, deleted_at_s, objective, evaluation
FROM model_versions INNER JOIN model_artifacts
    ON model_artifacts.name = model_versions.name AND model_artifacts.version = model_versions.version
WHERE model_artifacts.name = :name AND digest = :digest AND deleted_at_s IS NULL
ORDER BY model_versions.version DESC LIMIT 1;

-- name: list_unpublished
-- Versions that are not yet where all are to be pushed, oldest first.
SELECT name, version FROM model_versions
WHERE deleted_at_s IS NULL AND NOT EXISTS (
    SELECT 1 FROM model_artifacts
    WHERE model_artifacts.name = model_versions.name AND model_artifacts.version = model_versions.version
        AND target = :target
)
ORDER BY created_at_s, name, version;
