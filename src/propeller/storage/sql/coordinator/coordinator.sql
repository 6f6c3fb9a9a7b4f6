-- The coordinator's queries.

-- name: count_blob
SELECT count(*) AS uses FROM updates WHERE blob = :blob;

-- name: put_experiment
INSERT INTO experiments (series, experiment_id, state, record)
VALUES (:series, :experiment_id, :state, :record)
ON CONFLICT (series) DO UPDATE SET state = excluded.state, record = excluded.record;

-- name: put_round
INSERT INTO rounds (round_id, experiment_id, state, started_wall_s, record)
VALUES (:round_id, :experiment_id, :state, :started_wall_s, :record)
ON CONFLICT (round_id) DO UPDATE SET state = excluded.state, record = excluded.record;

-- name: add_update
INSERT INTO updates (round_id, participant, record, content, blob, origin)
VALUES (:round_id, :participant, :record, :content, :blob, :origin);

-- name: put_notice
INSERT INTO notices (round_id, kind, payload, created_wall_s)
VALUES (:round_id, :kind, :payload, :created_wall_s)
ON CONFLICT (round_id, kind) DO UPDATE SET
    payload = excluded.payload,
    created_wall_s = excluded.created_wall_s;

-- name: drop_notice
DELETE FROM notices WHERE round_id = :round_id AND kind = :kind;

-- name: live_experiments
SELECT record FROM experiments WHERE state IN ('running', 'paused') ORDER BY seq;

-- name: live_rounds
SELECT record FROM rounds WHERE state NOT IN ('completed', 'failed') ORDER BY seq;

-- name: notices
SELECT round_id, kind, payload, created_wall_s FROM notices ORDER BY rowid;

-- name: experiment
SELECT record FROM experiments WHERE series = :series;

-- name: latest_experiment
SELECT record FROM experiments WHERE experiment_id = :experiment_id ORDER BY seq DESC LIMIT 1;

-- name: count_experiments
SELECT count(*) FROM experiments;

-- name: page_of_experiments
SELECT record FROM experiments ORDER BY seq DESC LIMIT :limit OFFSET :offset;

-- name: round
SELECT record FROM rounds WHERE round_id = :round_id;

-- name: count_rounds
SELECT count(*) FROM rounds;

-- name: page_of_rounds
SELECT record FROM rounds ORDER BY seq DESC LIMIT :limit OFFSET :offset;

-- name: count_rounds_of_experiment
SELECT count(*) FROM rounds WHERE experiment_id = :experiment_id;

-- name: page_of_rounds_of_experiment
SELECT record FROM rounds
WHERE experiment_id = :experiment_id
ORDER BY seq DESC LIMIT :limit OFFSET :offset;

-- name: taken
-- The first id of a JSON list, in its order, that names a round.
SELECT wanted.value AS round_id
FROM json_each(:round_ids) AS wanted
INNER JOIN rounds ON rounds.round_id = wanted.value
ORDER BY wanted.key LIMIT 1;

-- name: last_completed
-- Of those that made a model: evaluations complete too.
SELECT record FROM rounds
WHERE state = 'completed' AND json_extract(record, '$.version') IS NOT NULL
ORDER BY started_wall_s DESC, seq DESC LIMIT 1;

-- name: updates
-- In participant order, byte by byte, as the fold takes them.
SELECT record FROM updates WHERE round_id = :round_id ORDER BY participant;

-- name: late_update
SELECT record FROM updates WHERE origin = :origin AND participant = :participant;

-- name: updates_of_experiment
SELECT updates.record FROM updates
INNER JOIN rounds ON updates.round_id = rounds.round_id
WHERE rounds.experiment_id = :experiment_id
ORDER BY rounds.seq, updates.rowid;

-- name: with_contents
-- Ended rounds that have updates with tensors; what was dropped is a content of no bytes.
SELECT seq, started_wall_s FROM rounds
WHERE state IN ('completed', 'failed') AND EXISTS (
    SELECT 1 FROM updates
    WHERE updates.round_id = rounds.round_id AND (blob IS NOT NULL OR length(content) > 0)
)
ORDER BY seq;

-- name: contents_of_ended
SELECT participant, blob FROM updates
WHERE (blob IS NOT NULL OR length(content) > 0) AND round_id = (
    SELECT round_id FROM rounds WHERE seq = :seq AND state IN ('completed', 'failed')
);

-- name: drop_contents
UPDATE updates SET content = :nothing, blob = NULL
WHERE round_id = (SELECT round_id FROM rounds WHERE seq = :seq AND state IN ('completed', 'failed'));

-- name: contents
SELECT record, content, blob FROM updates WHERE round_id = :round_id ORDER BY participant;
