-- Versions of models: one row each, written once.

-- name: insert_version
INSERT INTO model_versions (
    name, version, sha256, parent, round_id, strategy, participants, metrics, created_at_s, content_bytes,
    content, blob
) VALUES (
    :name, :version, :sha256, :parent, :round_id, :strategy, :participants, :metrics, :created_at_s,
    :content_bytes, :content, :blob
);

-- name: select_version
-- Without the content, which may be large and is mostly not wanted.
SELECT
    name, version, sha256, parent, round_id, strategy, participants, metrics, created_at_s, content_bytes
FROM model_versions
WHERE name = :name AND version = :version;

-- name: select_of_round
SELECT
    name, version, sha256, parent, round_id, strategy, participants, metrics, created_at_s, content_bytes
FROM model_versions
WHERE name = :name AND round_id = :round_id;

-- name: select_content
SELECT content, blob FROM model_versions WHERE name = :name AND version = :version;

-- name: select_latest
-- Null if the model has no version.
SELECT max(version) AS latest FROM model_versions WHERE name = :name;

-- name: list_versions
SELECT version FROM model_versions WHERE name = :name ORDER BY version;

-- name: list_names
SELECT DISTINCT name FROM model_versions ORDER BY name;

-- name: insert_state
INSERT INTO model_states (name, version, content_bytes, content, blob)
VALUES (:name, :version, :content_bytes, :content, :blob);

-- name: select_state
SELECT content, blob FROM model_states WHERE name = :name AND version = :version;
